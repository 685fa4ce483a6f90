"""Running a kernel on several cores without ever ending, or stalling, the process.

Numba's own threading layers do both. Two threads that enter workqueue at once end the process, and so does a forked
child that enters omp. And every launch waits for all of its threads, even for one that gets no core, because a BLAS
thread still spins there after the last matrix product: a training step took 2.5 times as long.

So the work of a call is cut into chunks, and whoever is free takes the next: the calling thread and some helpers.
Nobody waits for a thread that has not taken a chunk; a caller that gets no help finishes alone, and so does one that
finds the helpers busy with another's call. A chunk's result does not depend on who computes it, or on where the work
is cut.

To wake a sleeping thread, or to hand over the GIL, takes as long as to move a megabyte. So a call is published in
a mailbox, as addresses, and helpers watch that for a while after each call, in compiled code, before they sleep.

A signal handler may raise between any two steps of Python's. So no such step leaves anything half done: the mailbox is
taken and given back in compiled code, and each helper alone says whether it sleeps.

Kernels allocate nothing. Their scratch is one array, allocated before a call begins, with a part for each thread.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, RLock, Thread, local

import numpy as np
from llvmlite import ir
from numba import typeof, types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from fastpool.backends.numba.compilation import inlined, kernel
from fastpool.backends.numba.lanes import BYTES
from fastpool.backends.numba.scalars import slice_array
from fastpool.threads import get_num_threads, hold_across_forks

# Below this many bytes moved, sharing the work costs more than it saves.
PARALLEL_BYTES = 1 << 19
CHUNK_BYTES = 1 << 18
CHUNKS_PER_THREAD = 4

# How long a helper watches for more before it sleeps, in pauses of the processor of some ten nanoseconds.
WATCH = 5000

# Scratch of so many bytes is kept by each thread for its next call.
KEPT_SCRATCH = 1 << 20

# The mailbox, in words: the call's state, how many chunks are done, whether any failed, the kernel's address, that of
# the function that calls it and of its arguments, its work items, how many helpers are wanted, bytes of scratch for
# each thread, and whether a call has it. The state is one number, so that it changes at once: the call's own, its
# chunks, and how many are taken, from the front by the caller and from the back by helpers. So the same call made again
# finds in each core's cache what it left there.
STATE, DONE, FAILED, KERNEL, CALL, ARGUMENTS, UNITS, HELPERS, SCRATCH, TAKEN, WORDS = range(11)
BITS = 12
MOST_CHUNKS = (1 << BITS) - 1


def _word(context, builder, mailbox, word):
    data = context.make_array(types.Array(types.int64, 1, "C"))(context, builder, mailbox).data
    return builder.gep(data, [ir.Constant(ir.IntType(64), word)])


@intrinsic
def state_of(typing_context, mailbox):
    def generate(context, builder, signature, args):
        return builder.load_atomic(_word(context, builder, args[0], STATE), "acquire", 8)

    return types.int64(mailbox), generate


@intrinsic
def done_of(typing_context, mailbox):
    def generate(context, builder, signature, args):
        return builder.load_atomic(_word(context, builder, args[0], DONE), "acquire", 8)

    return types.int64(mailbox), generate


@intrinsic
def set_state(typing_context, mailbox, state):
    """What was written to the mailbox before is seen by whoever sees this."""

    def generate(context, builder, signature, args):
        builder.store_atomic(args[1], _word(context, builder, args[0], STATE), "release", 8)
        return context.get_dummy_value()

    return types.void(mailbox, types.int64), generate


@intrinsic
def replace_state(typing_context, mailbox, state, new):
    """Put a new state in the place of `state`, if that still is there; whether it was."""

    def generate(context, builder, signature, args):
        where = _word(context, builder, args[0], STATE)
        return builder.extract_value(builder.cmpxchg(where, args[1], args[2], "acq_rel", "acquire"), 1)

    return types.boolean(mailbox, types.int64, types.int64), generate


@intrinsic
def mark_done(typing_context, mailbox):
    def generate(context, builder, signature, args):
        where = _word(context, builder, args[0], DONE)
        builder.atomic_rmw("add", where, ir.Constant(ir.IntType(64), 1), "acq_rel")
        return context.get_dummy_value()

    return types.void(mailbox), generate


@intrinsic
def pause(typing_context):
    """Nothing, for some nanoseconds, in a way that leaves the core to others."""

    def generate(context, builder, signature, args):
        if platform.machine() in ("x86_64", "AMD64"):
            wait = ir.FunctionType(ir.VoidType(), ())
            builder.call(cgutils.get_or_insert_function(builder.module, wait, "llvm.x86.sse2.pause"), ())
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def take(typing_context, mailbox):
    """Take the mailbox for a call, if none has it; whether it was taken."""

    def generate(context, builder, signature, args):
        free, taken = ir.Constant(ir.IntType(64), 0), ir.Constant(ir.IntType(64), 1)
        where = _word(context, builder, args[0], TAKEN)
        return builder.extract_value(builder.cmpxchg(where, free, taken, "acq_rel", "acquire"), 1)

    return types.boolean(mailbox), generate


@intrinsic
def give_back(typing_context, mailbox):
    def generate(context, builder, signature, args):
        builder.store_atomic(ir.Constant(ir.IntType(64), 0), _word(context, builder, args[0], TAKEN), "release", 8)
        return context.get_dummy_value()

    return types.void(mailbox), generate


# What the mailbox calls: arguments, where the thread's scratch begins, its bytes, first item, last item, kernel; not 0
# if the kernel raised.
_CALL = ir.FunctionType(ir.IntType(32), (ir.IntType(64),) * 6)


@intrinsic
def publish(typing_context, mailbox, address, arguments):
    """Put the call of the kernel at an address, with these arguments, into the mailbox, for any thread to make.

    The last argument is the scratch, of which each thread gets its own part. The arguments lie in the caller's frame:
    it must not return before all chunks are done.
    """
    kinds = (*arguments.types, types.int64, types.int64)

    def generate(context, builder, signature, args):
        call = ir.Function(builder.module, _CALL, context.mangler("fastpool.call", kinds))
        call.linkage = "internal"
        where, scratch_begin, scratch_bytes, begin, end, kernel = call.args
        inside = ir.IRBuilder(call.append_basic_block())
        stored = inside.load(inside.inttoptr(where, args[2].type.as_pointer()))
        *values, scratch = cgutils.unpack_tuple(inside, stored, len(arguments.types))
        values += [slice_array(inside, context, arguments.types[-1], scratch, scratch_begin, scratch_bytes), begin, end]
        form = context.call_conv.get_function_type(types.none, kinds)
        callee = inside.inttoptr(kernel, form.as_pointer())
        status, _ = context.call_conv.call_function(inside, callee, types.none, kinds, values)
        inside.ret(inside.zext(status.is_error, ir.IntType(32)))

        word = ir.IntType(64)
        frame = cgutils.alloca_once_value(builder, args[2])
        for name, value in (
            (KERNEL, args[1]),
            (CALL, builder.ptrtoint(call, word)),
            (ARGUMENTS, builder.ptrtoint(frame, word)),
        ):
            builder.store(value, _word(context, builder, args[0], name))
        return context.get_dummy_value()

    return types.void(mailbox, types.int64, arguments), generate


@intrinsic
def make_call(typing_context, mailbox, thread, begin, end):
    """Make the call in the mailbox for some work items, as a thread of this number; whether it went wrong."""

    def generate(context, builder, signature, args):
        mailbox, thread, begin, end = args
        kernel, call, arguments, nbytes = (
            builder.load(_word(context, builder, mailbox, word)) for word in (KERNEL, CALL, ARGUMENTS, SCRATCH)
        )
        function = builder.inttoptr(call, _CALL.as_pointer())
        status = builder.call(function, [arguments, builder.mul(thread, nbytes), nbytes, begin, end, kernel])
        return builder.icmp_unsigned("!=", status, status.type(0))

    return types.boolean(mailbox, types.int64, types.int64, types.int64), generate


@inlined
def take_chunk(mailbox, thread):
    """Take a chunk and do it; False if none is left to take. Thread 0 is the caller.

    Only threads that the call has scratch for take part. Their number is that of the call whose state was seen: it
    changes after all chunks are taken, and then this state is seen no more.
    """
    state = state_of(mailbox)
    if thread > mailbox[HELPERS]:
        return False
    back, front, chunks = state & MOST_CHUNKS, state >> BITS & MOST_CHUNKS, state >> 2 * BITS & MOST_CHUNKS
    if front + back >= chunks:
        return False
    chunk, one = (chunks - 1 - back, 1) if thread > 0 else (front, 1 << BITS)
    if replace_state(mailbox, state, state + one):
        units = mailbox[UNITS]
        if make_call(mailbox, thread, units * chunk // chunks, units * (chunk + 1) // chunks):
            mailbox[FAILED] = 1
        mark_done(mailbox)
    return True


@kernel
def help_with(mailbox, helper, watch):
    """Take chunks of whatever is in the mailbox until it has been empty for a while."""
    idle = 0
    while idle < watch:
        idle += 1
        if take_chunk(mailbox, helper + 1):
            idle = 0
        pause()


ALL_DONE, WENT_WRONG, BUSY = range(3)


@kernel
def share(mailbox, address, arguments, scratch_bytes, units, chunks, helpers):
    """Do a call with what help there is, unless the mailbox is taken; how it went."""
    if not take(mailbox):
        return BUSY
    publish(mailbox, address, arguments)
    mailbox[DONE], mailbox[FAILED], mailbox[UNITS], mailbox[HELPERS] = 0, 0, units, helpers
    mailbox[SCRATCH] = scratch_bytes
    set_state(mailbox, ((state_of(mailbox) >> 3 * BITS) + 1 << BITS | chunks) << 2 * BITS)
    while take_chunk(mailbox, 0):
        pass
    while done_of(mailbox) < chunks:
        pause()
    how = WENT_WRONG if mailbox[FAILED] != 0 else ALL_DONE
    give_back(mailbox)
    return how


class _Helper:
    """What a helper and those who wake it know of it."""

    def __init__(self) -> None:
        self.asleep, self.call = False, Lock()
        self.call.acquire()

    def wake(self) -> None:
        """See to it that it watches the mailbox, or soon will: only the helper itself says that it is awake again."""
        if self.asleep:
            with suppress(RuntimeError):  # it has been called and is waking up
                self.call.release()

    def sleep(self) -> None:
        self.asleep = True
        self.call.acquire()
        self.asleep = False


class _Team:
    """The helpers, started when they are first wanted, and their mailbox."""

    def __init__(self) -> None:
        self.mailbox = np.zeros(WORDS, np.int64)
        self._helpers: dict[int, _Helper] = {}
        # A signal handler may make calls of its own while this thread starts helpers.
        self._starting, self._started = RLock(), 0

    def wake(self, count: int) -> None:
        """See to it that so many helpers watch the mailbox, or soon will."""
        if self._started < count:
            with self._starting:
                while self._started < count:
                    Thread(target=self._help, args=(self._started,), name="fastpool", daemon=True).start()
                    self._started += 1
        for helper in range(count):
            if helper in self._helpers:  # else it has just been started
                self._helpers[helper].wake()

    def _help(self, number: int) -> None:
        me = _Helper()
        # A signal in the middle of a start leaves it uncounted, so that the same helper is started once more.
        if self._helpers.setdefault(number, me) is not me:
            return
        while True:
            help_with(self.mailbox, number, WATCH)
            me.sleep()


_team = _Team()


class _Kept(local):
    """Each thread's scratch from its last call, and how many bytes it has."""

    nbytes, scratch = 0, np.empty(0, np.uint8)


_kept = _Kept()


def new_scratch(nbytes: int) -> np.ndarray:
    """Scratch of at least so many bytes that begins a line of the caches."""
    if nbytes <= _kept.nbytes:
        return _kept.scratch
    memory = np.empty(nbytes + BYTES, np.uint8)
    begin = -memory.ctypes.data % BYTES
    scratch = memory[begin : begin + nbytes]
    if nbytes <= KEPT_SCRATCH:
        _kept.scratch, _kept.nbytes = scratch, nbytes
    return scratch


def _in_child() -> None:
    """A forked child has none of its parent's threads: it starts its own."""
    global _team
    _team = _Team()


# A child forked while another thread compiles would wait for that thread, which it does not have, for ever.
hold_across_forks(global_compiler_lock)
typeof(np.empty(0))  # imports numpy.ma, now and not in the first call, in which no such lock is held
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

_addresses: dict[tuple, int] = {}


def _kind(argument: object) -> object:
    """What a kernel is compiled for, of one argument."""
    if isinstance(argument, np.ndarray):
        return argument.dtype, argument.ndim, argument.flags.num
    if isinstance(argument, tuple):
        return tuple(map(_kind, argument))
    return argument.dtype if isinstance(argument, np.generic) else type(argument)


def _address(kernel: Callable[..., None], arguments: tuple) -> int:
    """Where the kernel that is compiled for such arguments, scratch included, lies."""
    key = (kernel, *map(_kind, arguments))
    if key not in _addresses:
        with global_compiler_lock:  # llvmlite has a lock of its own, which a fork does not wait for
            kernel(*arguments, 0, 0)
            compiled = kernel.overloads[tuple(typeof(a) for a in (*arguments, 0, 0))]
            _addresses[key] = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    return _addresses[key]


def launch(kernel: Callable[..., None], units: int, nbytes: int, scratch_bytes: int, *arguments) -> None:
    """Run `kernel(*arguments, scratch, 0, units)`, on several threads if that many bytes are worth it.

    Each thread gets `scratch_bytes` of its own.
    """
    threads = 1 if nbytes < PARALLEL_BYTES else min(get_num_threads(), units, nbytes // CHUNK_BYTES)
    if threads > 1 and _run_shared(kernel, units, nbytes, scratch_bytes, arguments, threads):
        return
    kernel(*arguments, new_scratch(scratch_bytes), 0, units)  # and raise, in this thread, what went wrong in another


def _run_shared(kernel, units, nbytes, scratch_bytes, arguments, threads) -> bool:
    """Whether a call was done with the helpers: they may be busy with another's, or there is no scratch for all."""
    try:
        arguments = (*arguments, new_scratch(threads * scratch_bytes))
    except MemoryError:
        return False
    address, team = _address(kernel, arguments), _team
    with suppress(RuntimeError):  # an interpreter that is shutting down starts no more threads
        team.wake(threads - 1)
    chunks = min(max(threads, min(CHUNKS_PER_THREAD * threads, nbytes // CHUNK_BYTES)), units, MOST_CHUNKS)
    return share(team.mailbox, address, arguments, scratch_bytes, units, chunks, threads - 1) == ALL_DONE
