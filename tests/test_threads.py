"""How the numba backend shares the work of a call: with kernels of the tests' own, in C, which tell who did what."""

import ctypes
import math
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import NamedTuple

import numpy as np
import pytest

import fastpool as fp
import fastpool.threads

pytest.importorskip("fastpool.backends.numba._launch")

from fastpool.backends.numba._launch import Call

from fastpool.backends.numba import _launch, encoding, launching, tuning
from fastpool.backends.numba.launching import runner

COMPILER = shlex.split(sysconfig.get_config_var("CC") or "cc")
pytestmark = pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason="there is no C compiler")

MUCH = 100 * tuning.PARALLEL_BYTES

# A kernel that waits for another chunk gives up after some seconds.
PATIENCE = 100_000_000

# Words are (address, elements, bytes of one) for each array, then the constants. A flag is an array of two numbers: the
# first is set and seen across threads, the second is counted up.
SOURCE = r"""
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#define KERNEL(name) void name(const int64_t *words, char *scratch, int64_t start, int64_t stop)
#define INTS(i) ((int64_t *)words[3 * (i)])
#define DOUBLES(i) ((double *)words[3 * (i)])
#define SET(where, value) __atomic_store_n(where, value, __ATOMIC_RELEASE)
#define SEEN(where) __atomic_load_n(where, __ATOMIC_ACQUIRE)
#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() ((void)0)
#endif
#define COUNT(where) __atomic_fetch_add(where, 1, __ATOMIC_ACQ_REL)

/* How often each item is done, and where the chunks are: chunks[first] = last. */
KERNEL(note) {
    for (int64_t item = start; item < stop; item++)
        INTS(0)[item]++;
    if (stop > start)
        INTS(1)[start] = stop;
}

/* The chunk of the first item waits until another chunk has begun. */
KERNEL(meet) {
    if (start > 0)
        SET(&INTS(0)[0], 1);
    else if (stop > 0)
        for (int64_t i = 0; i < words[6]; i++)
            if (SEEN(&INTS(0)[0])) {
                INTS(1)[0] = 1;
                break;
            } else
                PAUSE();
}

/* Every chunk notes its thread, and stays until so many have begun. */
KERNEL(gather_threads) {
    if (stop > start) {
        INTS(1)[start] = (int64_t)pthread_self();
        COUNT(&INTS(0)[1]);
        for (int64_t i = 0; i < words[7] && SEEN(&INTS(0)[1]) < words[6]; i++)
            PAUSE();
    }
}

KERNEL(note_threads) {
    for (int64_t item = start; item < stop; item++) {
        INTS(0)[item]++;
        INTS(1)[item] = (int64_t)pthread_self();
    }
}

/* Each chunk fills its thread's scratch, waits for another to do so, and notes its thread if its own is still there. */
KERNEL(write_to_scratch) {
    if (stop > start) {
        memset(scratch, (int)(start % 251), words[6]);
        COUNT(&INTS(0)[1]);
        for (int64_t i = 0; i < words[7] && SEEN(&INTS(0)[1]) < 2; i++)
            PAUSE();
        int64_t kept = 0;
        while (kept < words[6] && scratch[kept] == (char)(start % 251))
            kept++;
        INTS(1)[start] = kept == words[6] ? (int64_t)pthread_self() : -1;
    }
}

/* Says that it has begun, and waits to be let go. */
KERNEL(block) {
    if (stop > start) {
        COUNT(&INTS(0)[1]);
        for (int64_t i = 0; i < words[3] && !SEEN(&INTS(0)[0]); i++)
            PAUSE();
    }
}

KERNEL(multiply) {
    for (int64_t item = start; item < stop; item++)
        DOUBLES(1)[item] += DOUBLES(0)[item] * words[6];
}

/* Halves of numbers, which may be subnormal. Chunks wait until so many have begun. */
KERNEL(halve) {
    if (stop > start) {
        COUNT(&INTS(2)[1]);
        for (int64_t i = 0; i < words[10] && SEEN(&INTS(2)[1]) < words[9]; i++)
            PAUSE();
        for (int64_t item = start; item < stop; item++)
            DOUBLES(1)[item] = DOUBLES(0)[item] * 0.5;
    }
}

/* Its constants as they came, as many words as its array has. */
KERNEL(copy_words) {
    memcpy(INTS(0), &words[3], 8 * words[1]);
}

/* Where its array lies, and of what. */
KERNEL(copy_array) {
    memcpy(INTS(1), words, 24);
}
"""


@cache
def kernels():
    with TemporaryDirectory() as folder:
        source, built = Path(folder, "kernels.c"), Path(folder, "kernels.so")
        source.write_text(SOURCE)
        subprocess.run([*COMPILER, "-O1", "-shared", "-fPIC", "-pthread", source, "-o", built], check=True)
        return ctypes.CDLL(str(built))


def call(name, items, nbytes, arrays, constants=(), scratch_bytes=0):
    """A call of one of these kernels; arrays of eight bytes an element."""
    address = ctypes.cast(getattr(kernels(), name), ctypes.c_void_p).value
    words = struct.pack(f"={len(constants)}q", *constants)
    return Call(address, (8,) * arrays, words, items, nbytes, scratch_bytes, None)


@pytest.fixture(autouse=True)
def _four_threads():
    fp.set_num_threads(4)
    yield
    fp.set_num_threads(None)


def launch(call, *arrays):
    runner(call)(*arrays)


def new_flag():
    return np.zeros(2, np.int64)


def noted(items, nbytes):
    counts, chunks = np.zeros(items, np.int64), np.zeros(items, np.int64)
    launch(call("note", items, nbytes, 2), counts, chunks)
    return counts, {int(start): int(chunks[start]) for start in np.flatnonzero(chunks)}


@contextmanager
def helpers_that_watch_for_long(times=100):
    """On a busy machine a helper may give up before its caller, whose core it got, has told what to do."""
    before = _launch.watch_for(1)
    _launch.watch_for(times * before)
    try:
        yield
    finally:
        _launch.watch_for(before)


def another_thread_helps():
    """Whether the chunks of a call meet, sooner or later: a helper may just be falling asleep."""
    met = np.zeros(1, np.int64)
    with helpers_that_watch_for_long():
        for _ in range(20):
            launch(call("meet", 2, MUCH, 2, [PATIENCE // 20]), new_flag(), met)
            if met[0]:
                return True
    return False


def threads_of_a_call(wanted, patience):
    """The threads that take chunks of one call, whose chunks wait for as many as are wanted."""
    ids = np.zeros(64, np.int64)
    launch(call("gather_threads", 64, MUCH, 2, [wanted, patience]), new_flag(), ids)
    return {int(i) for i in ids[ids != 0]}


def threads_that_count():
    """Of a call of many items, how often each was done, and by which threads."""
    counts, ids = np.zeros(1000, np.int64), np.zeros(1000, np.int64)
    launch(call("note_threads", 1000, MUCH, 2), counts, ids)
    return counts, set(ids)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("items", [1, 2, 3, 7, 100, 1001, 10_007])
@pytest.mark.parametrize("nbytes", [0, tuning.PARALLEL_BYTES, MUCH, 10**12])
def test_every_item_is_done_once(items, nbytes, n):
    fp.set_num_threads(n)
    counts, chunks = noted(items, nbytes)
    assert (counts == 1).all()
    ends = sorted(chunks.items())
    assert [start for start, _ in ends] == [0] + [stop for _, stop in ends[:-1]]
    assert ends[-1][1] == items


def test_much_work_is_cut_into_chunks():
    assert len(noted(1000, MUCH)[1]) >= 4


def test_no_more_chunks_than_the_state_of_the_team_can_count(tuned):
    fp.set_num_threads(9)
    tuned(CHUNKS_PER_THREAD=1000)
    counts, chunks = noted(100_000, 10**12)
    assert (counts == 1).all()
    assert len(chunks) == _launch.MOST_CHUNKS


def test_more_threads_than_the_team_has_places_for_are_as_many_as_it_has():
    fp.set_num_threads(10_000)
    counts, _ = noted(100_000, 10**12)
    assert (counts == 1).all()
    assert _launch.helpers_started() == _launch.MOST_HELPERS


def test_little_work_stays_in_one_piece():
    assert noted(100, tuning.PARALLEL_BYTES - 1)[1] == {0: 100}


def test_one_thread_is_one_piece():
    fp.set_num_threads(1)
    assert noted(100, MUCH)[1] == {0: 100}


def test_no_items_are_no_work():
    launch(call("note", 0, MUCH, 2), np.zeros(0, np.int64), np.zeros(0, np.int64))


def test_another_thread_helps():
    assert another_thread_helps()


def test_without_a_helper_chunks_do_not_meet():
    """What the test above would see."""
    fp.set_num_threads(1)
    met = np.zeros(1, np.int64)
    launch(call("meet", 2, MUCH, 2, [1000]), new_flag(), met)
    assert not met[0]


# What a call hands over


class Pair(NamedTuple):
    a: int
    b: int


def test_constants_of_all_kinds_reach_the_kernel():
    dtype = encoding.DtypeOnly(np.dtype("f4"))  # which, as None does, takes no word
    constants = -(2**40), np.float32(0.1), np.int16(-7), None, dtype, Pair(3, -4), np.uint8(200)
    codes, words = encoding.encode(constants)
    assert "_".join(codes) == "i_f4_i2_n_ef4_Pair_u1"
    seen = np.zeros(len(words) // 8, np.int64)
    address = ctypes.cast(kernels().copy_words, ctypes.c_void_p).value
    launch(Call(address, (8,), words, 1, 0, 0, None), seen)
    assert seen[0] == -(2**40)
    assert seen.view(np.float32)[2] == np.float32(0.1)
    assert seen.view(np.int16)[8] == -7
    assert seen[3:5].tolist() == [3, -4]
    assert seen[5] == 200
    with pytest.raises(TypeError, match="float"):
        encoding.encode((2.5,))


def test_scratch_that_would_begin_inside_a_cache_line_for_the_next_thread_is_refused():
    with pytest.raises(ValueError, match="must end with a cache line, got 100 bytes"):
        call("note", 4, MUCH, 2, scratch_bytes=100)


@pytest.mark.parametrize("dtype", ["u1", "i2", "f2", "f4", "f8"])
def test_an_array_is_its_address_length_and_width(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for a in (np.zeros((3, 5), dtype), np.zeros((2, 2), ml_dtypes.bfloat16), np.zeros(0, dtype), np.zeros(4, bool)):
        a.flags.writeable = False
        seen = np.zeros(3, np.int64)
        address = ctypes.cast(kernels().copy_array, ctypes.c_void_p).value
        launch(Call(address, (a.itemsize, 8), b"", 1, 0, 0, None), a, seen)
        assert seen.tolist() == [a.ctypes.data, a.size, a.itemsize]


def test_a_call_refuses_what_does_not_fit():
    a, scratch = np.zeros(4, np.int64), np.zeros(64, np.uint8)
    one = call("note", 4, 0, 2, scratch_bytes=64)
    with pytest.raises(TypeError, match="takes 2 to 2 arrays, got 1"):
        one.run(scratch, 0, 4, a)
    with pytest.raises(TypeError, match="elements of array 1 have 8 bytes, got 4"):
        one.run(scratch, 0, 4, a, a.astype(np.int32))
    with pytest.raises(ValueError, match="array 1 must be C-contiguous"):
        one.run(scratch, 0, 4, a, np.zeros(8, np.int64)[::2])
    with pytest.raises(TypeError, match="NoneType"):
        one.run(scratch, 0, 4, a, None)
    with pytest.raises(ValueError, match="scratch needs 64 bytes, got 63"):
        one.run(scratch[:63], 0, 4, a, a)
    with pytest.raises(ValueError, match="scratch needs 192 bytes, got 64"):
        one.run_parallel(scratch, 2, 2, a, a)
    for begin, end in ((-1, 2), (2, 1), (0, 5)):
        with pytest.raises(ValueError, match="work items from 0 up to 4"):
            one.run(scratch, begin, end, a, a)
    for chunks in (0, 5):
        with pytest.raises(ValueError, match="chunks from 1 up to 4"):
            one.run_parallel(scratch, 0, chunks, a, a)
    with pytest.raises(ValueError, match="helpers from 0 up to"):
        one.run_parallel(scratch, -1, 2, a, a)
    with pytest.raises(ValueError, match="helpers from 0 up to"):
        one.run_parallel(scratch, _launch.MOST_HELPERS + 1, 2, a, a)
    with pytest.raises(ValueError, match="at most 4 arrays"):
        call("note", 4, 0, 5)
    with pytest.raises(ValueError, match="7 bytes"):
        Call(1, (8,), bytes(7), 1, 0, 0, None)
    with pytest.raises(ValueError, match="at most 96 words"):
        call("note", 4, 0, 2, range(91))
    assert not a.any()
    without = Call(1, (0, 8), b"", 1, 0, 0, None)
    with pytest.raises(TypeError, match="takes None for array 0, got ndarray"):
        without.run(scratch, 0, 0, a, a)


# Scratch


@pytest.mark.parametrize("nbytes", [1, 64, 4096, 1 << 20])
def test_each_thread_has_scratch_of_its_own(nbytes):
    nbytes = -(-nbytes // 64) * 64
    ids = set()
    with helpers_that_watch_for_long():
        for _ in range(20):
            seen = np.zeros(64, np.int64)
            launch(call("write_to_scratch", 64, MUCH, 2, [nbytes, PATIENCE // 20], nbytes), new_flag(), seen)
            ids = set(seen[seen != 0])
            assert -1 not in ids
            if len(ids) > 1:
                break
    assert len(ids) > 1


def test_scratch_begins_a_line_of_the_caches_and_is_kept_while_it_is_small():
    for nbytes in (1, 1000, tuning.KEPT_SCRATCH, tuning.KEPT_SCRATCH + 1, 10_000_000):
        scratch = launching.thread_scratch(nbytes)
        assert scratch.ctypes.data % 64 == 0
        assert scratch.nbytes >= nbytes
        assert (launching.thread_scratch(nbytes) is scratch) == (nbytes <= tuning.KEPT_SCRATCH)


def test_a_call_that_finds_no_memory_for_all_threads_runs_in_one(monkeypatch):
    allocate = launching.thread_scratch

    def refuse(nbytes):
        if nbytes > 4096:
            raise MemoryError
        return allocate(nbytes)

    monkeypatch.setattr(launching, "thread_scratch", refuse)
    counts, ids = np.zeros(1000, np.int64), np.zeros(1000, np.int64)
    launch(call("note_threads", 1000, MUCH, 2, scratch_bytes=4096), counts, ids)
    assert (counts == 1).all()
    assert len(set(ids)) == 1


def test_a_call_that_finds_no_memory_raises_before_anything_is_written(monkeypatch):
    def refuse(nbytes):
        raise MemoryError("refused")

    monkeypatch.setattr(launching, "thread_scratch", refuse)
    counts, ids = np.zeros(1000, np.int64), np.zeros(1000, np.int64)
    with pytest.raises(MemoryError, match="refused"):
        launch(call("note_threads", 1000, MUCH, 2, scratch_bytes=4096), counts, ids)
    assert not counts.any()


AT_THE_END = """
from fastpool.backends.numba.launching import thread_scratch
from fastpool.threads import in_a_thread_of_its_own, usable_cpus

class Last:
    def __del__(self):
        print(thread_scratch(1000).nbytes >= 1000, usable_cpus() >= 1, in_a_thread_of_its_own(lambda: "ran"))

last = Last()
last.itself = last  # it is collected when nothing can be imported any more
"""


def test_an_object_that_the_interpreter_destroys_last_can_still_call(python):
    """Scratch needed NumPy's ctypes, which it imports late; a new thread was waited for in vain."""
    assert python("-c", AT_THE_END) == "True True ran\n"


# Helpers that are busy, do not come, or are too many


def test_a_call_that_finds_the_helpers_busy_with_another_finishes_alone():
    flag = new_flag()
    caller = Thread(target=launch, args=(call("block", 4, MUCH, 1, [100 * PATIENCE]), flag))
    caller.start()
    try:
        end = time.monotonic() + 60
        while flag[1] == 0 and time.monotonic() < end:
            time.sleep(0.001)
        counts, ids = threads_that_count()
        untouched = np.zeros(4, np.int64)
        assert not call("note", 4, MUCH, 2).run_parallel(np.empty(0, np.uint8), 3, 4, untouched, untouched)
        assert caller.is_alive()
    finally:
        flag[0] = 1
        caller.join()
    assert (counts == 1).all()
    assert len(ids) == 1
    assert not untouched.any()


FEWER_THREADS = """
import ctypes, re, resource, sys
sys.path.insert(0, "tests")
import test_threads
from test_threads import another_thread_helps, fp, noted, threads_that_count, MUCH, _launch
test_threads.kernels()
fp.set_num_threads(1)
noted(1001, MUCH)
fp.set_num_threads(4)
pthread, attributes = ctypes.CDLL(None), ctypes.create_string_buffer(256)
assert pthread.pthread_attr_init(attributes) == 0
assert pthread.pthread_attr_setstacksize(attributes, ctypes.c_size_t(64 << 20)) == 0
assert pthread.pthread_setattr_default_np(attributes) == 0
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
memory = used + int(sys.argv[1]) * (64 << 20) + (32 << 20)
resource.setrlimit(resource.RLIMIT_AS, (memory, resource.RLIM_INFINITY))
counts, ids = threads_that_count()
print((counts == 1).all(), len(ids) <= 1 + int(sys.argv[1]), (noted(1001, MUCH)[0] == 1).all())
print(_launch.helpers_started(), another_thread_helps())
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
noted(1001, MUCH)
print(_launch.helpers_started(), another_thread_helps())
"""


@pytest.mark.parametrize("some", [0, 1, 2])
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory, and sets the size of stacks, as Linux does")
def test_where_fewer_threads_start_a_call_finishes_with_those_and_a_later_one_starts_the_others(some, python):
    assert python("-c", FEWER_THREADS, str(some), MALLOC_ARENA_MAX=1) == f"True True True\n{some} {some > 0}\n3 True\n"


def test_many_threads_may_launch_thousands_of_calls_at_once():
    wrong, done = [], []

    def loop(seed):
        rng = np.random.default_rng(seed)
        for factor in range(500):
            items = int(rng.integers(1, 200))
            a, out = rng.random(items), np.zeros(items)
            launch(call("multiply", items, int(rng.integers(1, 6)) * tuning.PARALLEL_BYTES, 2, [factor]), a, out)
            if not np.array_equal(out, a * factor):
                wrong.append((seed, factor))
        done.append(seed)

    callers = [Thread(target=loop, args=(seed,)) for seed in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(done) == list(range(8))
    assert wrong == []


def test_one_thread_may_launch_thousands_of_calls_of_several_kernels():
    out, total, counts, chunks = np.zeros(64), np.zeros(64), np.zeros(64, np.int64), np.zeros(64, np.int64)
    note = call("note", 64, MUCH, 2)
    for factor in range(3000):
        launch(call("multiply", 64, MUCH, 2, [factor]), np.full(64, 2.0), out)
        launch(note, counts, chunks)
        total += 2.0 * factor
    np.testing.assert_array_equal(out, total)
    assert (counts == 3000).all()


def test_as_many_threads_take_part_as_are_set():
    """Fewer than before, too: helpers that were started for more stay out of it."""
    with helpers_that_watch_for_long(1000):
        assert any(len(threads_of_a_call(4, PATIENCE // 50)) == 4 for _ in range(20))
        fp.set_num_threads(2)
        noted(64, MUCH)
        time.sleep(0.01)  # the others, still awake, have seen by now that they are not wanted
        used = [len(threads_of_a_call(3, 10_000)) for _ in range(20)]
    assert max(used) == 2


def _cpu_time_of_half_a_second():
    before = time.process_time()
    time.sleep(0.5)
    return time.process_time() - before


def test_helpers_sleep_after_a_while_and_wake_again():
    assert another_thread_helps()
    assert any(_cpu_time_of_half_a_second() < 0.1 for _ in range(6))
    assert another_thread_helps()


SIGNALS_OF_HELPERS = """
import os, re, signal, sys
sys.path.insert(0, "tests")
from test_threads import MUCH, fp, noted
def tasks():
    return set(os.listdir("/proc/self/task"))
def takes(task):
    blocked = int(re.search(r"SigBlk:\\s+(\\w+)", open(f"/proc/self/task/{task}/status").read())[1], 16)
    usual = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    return {number for number in usual if number < 32 and not blocked >> number - 1 & 1}
fp.set_num_threads(1)
noted(1001, MUCH)
before = tasks()
fp.set_num_threads(4)
noted(1001, MUCH)
helpers, errors = tasks() - before, {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
print(len(helpers), [takes(task) - errors for task in helpers], takes(os.getpid()) > errors)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_signals_come_to_the_threads_of_the_program_but_for_errors_in_a_helper(python):
    assert python("-c", SIGNALS_OF_HELPERS) == "3 [set(), set(), set()] True\n"


IN_A_CHILD = """
import os, sys, time
sys.path.insert(0, "tests")
import test_threads
from test_threads import another_thread_helps, fp, noted, MUCH
fp.set_num_threads(4)
def works():
    return another_thread_helps() and (noted(1001, MUCH)[0] == 1).all()
print(works(), flush=True)
pid = os.fork()
if pid == 0:
    code = 3
    try:
        code = 0 if works() else 1
    finally:
        os._exit(code)
end = time.monotonic() + 60
while time.monotonic() < end:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        print(os.waitstatus_to_exitcode(status))
        break
    time.sleep(0.01)
else:
    os.kill(pid, 9)
    print("the child hangs")
print(works())
"""


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="this system does not fork")
def test_a_forked_child_has_helpers_of_its_own(python):
    assert python("-W", "ignore", "-c", IN_A_CHILD) == "True\n0\nTrue\n"


IN_A_CHILD_OF_A_CALL = """
import os, sys, time
sys.path.insert(0, "tests")
import test_threads
from test_threads import another_thread_helps, call, fp, launch, new_flag, noted, MUCH, PATIENCE, Thread
fp.set_num_threads(4)
noted(1001, MUCH)
flag = new_flag()
caller = Thread(target=launch, args=(call("block", 4, MUCH, 1, [100 * PATIENCE]), flag))
caller.start()
while flag[1] == 0:
    time.sleep(0.001)
pid = os.fork()
if pid == 0:
    os._exit(0 if another_thread_helps() and (noted(1001, MUCH)[0] == 1).all() else 1)
flag[0] = 1
caller.join()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), another_thread_helps())
"""


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="this system does not fork")
def test_a_child_forked_in_the_middle_of_another_threads_call_has_a_team_of_its_own(python):
    assert python("-W", "ignore", "-c", IN_A_CHILD_OF_A_CALL) == "0 True\n"


# How many threads

GROUPS = {
    "no limit": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
    "no control groups": ({}, None),
    "version 2": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
    "version 2, the least of all groups above": (
        {
            "proc/self/cgroup": "0::/user.slice/batch/job\n",
            "sys/fs/cgroup/user.slice/cpu.max": "800000 100000",
            "sys/fs/cgroup/user.slice/batch/cpu.max": "25000 50000",
            "sys/fs/cgroup/user.slice/batch/job/cpu.max": "max 100000",
            "sys/fs/cgroup/elsewhere/cpu.max": "1000 100000",
        },
        0.5,
    ),
    "version 2, a path that only the machine knows": (
        {"proc/self/cgroup": "0::/docker/1234", "sys/fs/cgroup/cpu.max": "300000 100000"},
        3,
    ),
    "version 2, a group beside the container's": (
        {"proc/self/cgroup": "0::/../other", "sys/fs/cgroup/cpu.max": "300000 100000"},
        3,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:memory:/docker/1234\n4:cpu,cpuacct:/docker/1234\n0::/docker/1234\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    "version 1, a group of its own": (
        {
            "proc/self/cgroup": "4:cpu:/jobs/a",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu/jobs/a/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/jobs/a/cpu.cfs_period_us": "100000",
        },
        0.5,
    ),
    "version 1 without a limit": (
        {
            "proc/self/cgroup": "4:cpuacct,cpu:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        None,
    ),
}


@pytest.mark.parametrize(("files", "quota"), GROUPS.values(), ids=GROUPS)
def test_the_quota_is_that_of_the_control_groups(files, quota, tmp_path):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert fastpool.threads.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (0.5, 1), (1.0, 1), (1.5, 2), (3.0, 3), (64.0, 8)])
def test_as_many_threads_as_cpus_that_a_quota_allows(quota, expected, monkeypatch):
    monkeypatch.setattr(fastpool.threads, "_affinity", lambda: 8)
    monkeypatch.setattr(fastpool.threads, "_quota", (-math.inf, None))
    monkeypatch.setattr(fastpool.threads, "cpu_quota", lambda: quota)
    fp.set_num_threads(None)
    monkeypatch.setattr(fastpool.threads, "_from_environment", lambda: None)
    assert fp.get_num_threads() == expected
    fp.set_num_threads(5)
    assert fp.get_num_threads() == 5


def test_a_quota_that_changes_is_seen(monkeypatch):
    monkeypatch.setattr(fastpool.threads, "_affinity", lambda: 8)
    monkeypatch.setattr(fastpool.threads, "_quota", (-math.inf, None))
    monkeypatch.setattr(fastpool.threads, "QUOTA_SECONDS", 0)
    quotas = iter([4.0, 2.0, None])
    monkeypatch.setattr(fastpool.threads, "cpu_quota", lambda: next(quotas))
    assert [fastpool.threads.usable_cpus() for _ in range(3)] == [4, 2, 8]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no threads")
def test_a_thread_that_is_pinned_later_counts_its_own_cpus(python):
    code = """
import os, threading, fastpool as fp
cpus = os.sched_getaffinity(0)
before = fp.get_num_threads()
def pinned():
    os.sched_setaffinity(0, {min(cpus)})
    counts.append(fp.get_num_threads())
counts = []
thread = threading.Thread(target=pinned)
thread.start()
thread.join()
counts.append(fp.get_num_threads())
pinned()
print(counts == [1, before, 1])
"""
    assert python("-c", code, FASTPOOL_NUM_THREADS=None) == "True\n"


# Signals

INTERRUPTED = """
import random, signal, sys, time
sys.path.insert(0, "tests")
from test_threads import MUCH, another_thread_helps, fp, noted
fp.set_num_threads(4)
class Interrupt(Exception):
    pass
def interrupt(*_):
    raise Interrupt
noted(1001, MUCH)
started = time.monotonic()
for _ in range(20):
    noted(1001, MUCH)
longest = (time.monotonic() - started) / 10
signal.signal(signal.SIGALRM, interrupt)
random.seed(0)
raised = 0
for _ in range(int(sys.argv[1])):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, longest))
            while True:
                noted(1001, MUCH)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        raised += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(raised)
print(another_thread_helps(), (noted(1001, MUCH)[0] == 1).all())
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timer")
def test_calls_are_shared_after_thousands_of_interrupts_by_a_handler_that_raises(python):
    assert python("-c", INTERRUPTED, "3000") == "3000\nTrue True\n"


def test_helpers_flush_subnormals_as_their_caller_does():
    """Whether they started before or after torch.set_flush_denormal."""
    torch = pytest.importorskip("torch")
    tiny = np.finfo(np.float64).tiny
    x = np.full(64, tiny)
    assert another_thread_helps()
    try:
        for flushes in (False, True, False):
            if not torch.set_flush_denormal(flushes):
                pytest.skip("this processor flushes none")
            y = np.full(64, -1.0)
            with helpers_that_watch_for_long():
                launch(call("halve", 64, MUCH, 3, [2, PATIENCE]), x, y, new_flag())
            assert set(y.view(np.int64)) == {0 if flushes else int(np.float64(tiny).view(np.int64)) >> 1}
    finally:
        torch.set_flush_denormal(False)
