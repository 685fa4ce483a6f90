"""How many threads a call may use, what runs in a thread of its own, and which locks a fork waits for."""

from __future__ import annotations

import atexit
import math
import os
import sys
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from itertools import product
from threading import RLock, local
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fastpool.arguments import positive

Result = TypeVar("Result")

_set: int | None = None
_limit: ContextVar[int | None] = ContextVar("fastpool_threads", default=None)

# The quota is read from files, which takes as long as a small call that is shared between threads.
QUOTA_SECONDS = 1.0
_quota: tuple[float, float | None] = (-math.inf, None)  # when it was read, and what it was


@cache
def _from_environment() -> int | None:
    text = os.environ.get("FASTPOOL_NUM_THREADS", "")
    if not text:
        return None
    try:
        return positive("FASTPOOL_NUM_THREADS", int(text))
    except ValueError:
        raise ValueError(f"FASTPOOL_NUM_THREADS must be a positive integer, got {text!r}") from None


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def cpu_quota(root: str = "/") -> float | None:
    """How many CPUs' time the control groups of this process grant it, None where they set no limit.

    A container with `--cpus 1.5` sees all CPUs of its machine, but is stopped for the rest of each period of 100 ms
    once it has used 150 ms. Every group on the path to the top may set a limit. In a container that path may be the one
    outside of it, of which only the top is there. `root` is the top of the file system.
    """
    limits = []
    mounts: tuple[str, ...]
    files: tuple[str, ...]
    for line in _text(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":  # version 2
            mounts, files = ("sys/fs/cgroup", "sys/fs/cgroup/unified"), ("cpu.max",)
        elif "cpu" in controllers.split(","):
            mounts = (f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu")
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        else:
            continue
        steps = [step for step in group.split("/") if step not in ("", "..")]
        for mount, depth in product(mounts, range(len(steps) + 1)):
            folder = os.path.join(root, mount, *steps[:depth])
            fields = " ".join(_text(os.path.join(folder, file)) for file in files).split()
            # Without a limit: "max 100000" in version 2, -1 and 100000 in version 1.
            if len(fields) == 2 and fields[0] != "max" and int(fields[0]) > 0:
                limits.append(int(fields[0]) / int(fields[1]))
    return min(limits, default=None)


def _affinity() -> int:
    """How many CPUs the calling thread may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# From Python 3.13 on, where a number may be set: python -X cpu_count=4
_affinity = getattr(os, "process_cpu_count", _affinity)


def usable_cpus() -> int:
    """How many CPUs the calling thread may use at this moment, by its affinity and its container's quota."""
    global _quota
    cpus, now = _affinity() or 1, monotonic()
    if now - _quota[0] >= QUOTA_SECONDS and not sys.is_finalizing():  # at the very end there is no `open`
        _quota = now, cpu_quota()
    quota = _quota[1]
    return cpus if quota is None else min(cpus, math.ceil(quota))


def get_num_threads() -> int:
    """How many threads a call may use.

    The number given to `set_num_threads`, else the environment's FASTPOOL_NUM_THREADS, else the CPUs that the calling
    thread may run on now, or its container's CPU quota, rounded up, if that is less. Small arrays take one.

    Examples
    --------
    >>> import fastpool as fp
    >>> fp.get_num_threads() >= 1
    True
    """
    threads, limit = _set or _from_environment() or usable_cpus(), _limit.get()
    return threads if limit is None else min(threads, limit)


def set_num_threads(n: int | None) -> None:
    """Let calls use up to `n` threads, in this whole process; None returns to the default.

    No result depends on it. Numba's own setting is left alone.

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    Examples
    --------
    >>> import fastpool as fp
    >>> fp.set_num_threads(1)
    >>> fp.get_num_threads()
    1
    >>> fp.set_num_threads(None)
    """
    global _set
    _set = None if n is None else positive("n", n)


@contextmanager
def at_most(n: int) -> Iterator[None]:
    """Within the `with` block, calls in this thread (or task) use up to `n` threads each."""
    token = _limit.set(n)
    try:
        yield
    finally:
        _limit.reset(token)


if TYPE_CHECKING:

    class _Lock(Protocol):
        def acquire(self) -> Any: ...

        def release(self) -> Any: ...


_across_forks: list[_Lock] = []
_taken = local()
_before_logging = False


def hold_across_forks(lock: _Lock) -> None:
    """Let forks wait until no other thread has the lock: a child does not have that thread, and would wait for ever.

    The lock must be reentrant. A thread that forks takes all such locks in the order of these calls, and whoever takes
    several of them must do so in that order too.
    """
    _across_forks.append(lock)


# Held while a part of the package is imported on first use: in a child that is forked meanwhile, Python's own locks of
# the modules would stay locked.
importing = RLock()
hold_across_forks(importing)


def fork_before_logging() -> None:
    """Let a fork take the locks of `hold_across_forks` before the lock of `logging`, which is held across forks too.

    To be called before one of them is taken for the import of a package that logs: a fork that had the lock of
    `logging` would wait for the import, and the import for that lock. Hooks run in reverse order of registration.
    """
    global _before_logging
    if not _before_logging:
        import_module("logging")
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before_fork)
        _before_logging = True


def _before_fork() -> None:
    """Take the locks that this thread has not yet taken for this fork: it may be registered more than once."""
    taken = _taken.__dict__.setdefault("locks", [])
    for lock in _across_forks:  # it may grow during the wait for an import
        if lock not in taken:
            taken.append(lock)
            lock.acquire()


def _after_fork() -> None:
    locks = getattr(_taken, "locks", [])
    while locks:
        with suppress(RuntimeError):  # a signal's handler raised before it was acquired
            locks[-1].release()
        locks.pop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
    # Twice, since the handler of a signal that came during the fork runs inside the first, and may raise.
    for _ in range(2):
        os.register_at_fork(after_in_parent=_after_fork, after_in_child=_after_fork)


# What the start of a thread takes, with its stack: short of it, a start may fail half way.
THREAD_BYTES = 1 << 26


def need_memory(nbytes: int, what: str) -> None:
    """Raise MemoryError where so much is not to be had, for the sake of those who cannot cope without."""
    try:
        bytes(nbytes)  # the system gives them, and takes them back, without touching a page
    except MemoryError:
        raise MemoryError(f"{what} only where {nbytes >> 20} MB of memory are free") from None


_running: set[Any] = set()  # a lock for each thread that was started here, released at its end

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)  # a child does not have these threads, and would wait for ever


@atexit.register
def _wait_for_threads() -> None:
    """At the end of the process, wait for threads: what they use is destroyed afterwards."""
    for done in tuple(_running):
        done.acquire()
        done.release()


def _start_thread(run: Callable[[], None]) -> bool:
    """Run a function in a new thread. False where there are no more threads, at a limit of the system's."""
    try:
        start_new_thread(run, ())
    except RuntimeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # the handler of a signal has raised it
        return False
    return True


def in_a_thread_of_its_own(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call what must not be left half done, as the import of a package, or a compiler's run.

    In a new thread the caller's depth of recursion does not count, and no handler of a signal runs, such as that of
    Ctrl-C: packages that are interrupted on their import do not work afterwards, and llvmlite leaves its lock taken.
    What a handler raises here, while the thread runs, goes to the caller. `threading.Thread` would not do: a handler
    that raises while one starts can leave its locks taken.
    """
    need_memory(THREAD_BYTES, "a package is imported, or a kernel compiled,")
    if sys.is_finalizing():  # a new thread would wait for ever for the interpreter
        return function(*arguments)
    results: list[Result] = []
    raised: list[BaseException] = []
    done = allocate_lock()
    done.acquire()

    def run() -> None:
        _running.add(done)
        try:
            results.append(function(*arguments))
        except BaseException as error:
            raised.append(error)
        finally:
            _running.discard(done)
            done.release()

    if not _start_thread(run):
        run()
    done.acquire()
    if raised:
        raise raised[0]
    return results[0]


def run_in_threads(function: Callable[[Any], None], items: list[Any], threads: int) -> None:
    """Call a function that releases the GIL with each of several items, in this thread and in new ones.

    What is raised first, by the function or by the handler of a signal, is raised here once no thread works any more.
    """
    if threads == 1:
        for item in items:
            function(item)
        return
    pending = items[::-1]
    raised: list[BaseException] = []
    working: list[Any] = []  # a lock for each new thread, entered before it takes its first item

    def work() -> None:
        try:
            while pending:
                try:
                    item = pending.pop()
                except IndexError:  # another thread has taken it
                    break
                function(item)
        except BaseException as error:
            raised.append(error)
            pending.clear()

    def help() -> None:
        done = allocate_lock()
        with done:
            working.append(done)
            _running.add(done)
            try:
                work()
            finally:
                _running.discard(done)

    try:
        for _ in range(min(threads, len(items)) - 1):
            if not _start_thread(help):
                break
        work()
    except BaseException as error:
        raised.append(error)
        pending.clear()
    # A thread that starts later finds no item.
    waiting = True
    while waiting:
        try:
            for done in working:
                with done:  # a handler cannot raise between its calls
                    pass
            waiting = False
        except BaseException as error:  # of the handler of a signal
            raised.append(error)
    if raised:
        raise raised[0]
