"""Running a kernel on several cores without ever ending, or stalling, the process.

Numba's own threading layers do both. Two threads that enter workqueue at once end the process, and so does a forked
child that enters omp. And every launch waits for all of its threads, even for one that gets no core, because a BLAS
thread still spins there after the last matrix product: a training step took 2.5 times as long.

So the work of a call is cut into chunks, and whoever is free takes the next: the calling thread and some waiting
ones. Kernels release the GIL. Nobody waits for a thread that has not taken a chunk; a caller that gets no help
finishes alone. A chunk's result does not depend on who computes it, or on where the work is cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread

from numba.core.compiler_lock import global_compiler_lock

from fastpool.threads import get_num_threads

# Below this many bytes moved, waking a thread costs more than it saves.
PARALLEL_BYTES = 1 << 22
CHUNK_BYTES = 1 << 19
CHUNKS_PER_THREAD = 4


class _Job:
    """The chunks of one call."""

    def __init__(self, kernel: Callable[..., None], arguments: tuple, units: int, chunks: int) -> None:
        self._kernel, self._arguments = kernel, arguments
        self._units, self._chunks = units, chunks
        self._taken, self._left = 0, chunks
        self._lock, self._finished = Lock(), Lock()
        self._finished.acquire()
        self._error: BaseException | None = None

    def help(self) -> None:
        """Take chunks until none is left to take."""
        while True:
            with self._lock:
                chunk = self._taken
                if chunk == self._chunks:
                    return
                self._taken += 1
            begin, end = (self._units * i // self._chunks for i in (chunk, chunk + 1))
            try:
                self._kernel(*self._arguments, begin, end)
            except BaseException as error:  # for the caller, who waits for every chunk
                self._error = error
            with self._lock:
                self._left -= 1
                if self._left == 0:
                    self._finished.release()

    def finish(self) -> None:
        self.help()
        self._finished.acquire()
        if self._error is not None:
            raise self._error


class _Helpers:
    """Threads that wait for jobs, started when they are first wanted."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._started, self._starting = 0, Lock()

    def call(self, job: _Job, count: int) -> None:
        if self._started < count:
            with self._starting:
                while self._started < count:
                    Thread(target=self._wait_for_jobs, name="fastpool", daemon=True).start()
                    self._started += 1
        for _ in range(count):
            self._jobs.put(job)

    def _wait_for_jobs(self) -> None:
        while True:
            self._jobs.get().help()


_helpers = _Helpers()


def _in_child() -> None:
    """A forked child has none of its parent's threads: it starts its own."""
    global _helpers
    _helpers = _Helpers()
    global_compiler_lock.release()


if hasattr(os, "register_at_fork"):
    # A child forked while another thread compiles would wait for that thread, which it does not have, for ever.
    os.register_at_fork(
        before=global_compiler_lock.acquire, after_in_parent=global_compiler_lock.release, after_in_child=_in_child
    )


def launch(kernel: Callable[..., None], units: int, nbytes: int, *arguments) -> None:
    """Run `kernel(*arguments, 0, units)`, on several threads if that many bytes are worth it."""
    threads = 1 if nbytes < PARALLEL_BYTES else min(get_num_threads(), units)
    if threads == 1:
        kernel(*arguments, 0, units)
        return
    chunks = max(threads, min(CHUNKS_PER_THREAD * threads, nbytes // CHUNK_BYTES))
    job = _Job(kernel, arguments, units, min(chunks, units))
    with suppress(RuntimeError):  # an interpreter that is shutting down starts no more threads
        _helpers.call(job, threads - 1)
    job.finish()
