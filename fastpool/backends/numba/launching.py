"""On which threads a call of a kernel runs, and where its scratch comes from, unless it is small: see `run_alone`.

The threads are those of `team.h`. Numba's own threading layers may end, or stall, the process: two threads that enter
workqueue at once end it, so does a forked child that enters omp, and every launch of Numba's waits for all of its
threads, even for one that gets no core.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import local
from typing import TYPE_CHECKING

import numpy as np

from fastpool.backends.numba import tuning
from fastpool.backends.numba._launch import MOST_CHUNKS, MOST_HELPERS
from fastpool.backends.numba.geometry import VECTOR_BYTES
from fastpool.backends.numba.plan.call import most_threads
from fastpool.threads import get_num_threads

if TYPE_CHECKING:
    from fastpool.backends.numba._launch import Call


class _Kept(local):
    """Each thread's scratch from an earlier call."""

    scratch = np.empty(0, np.uint8)


_kept = _Kept()


def thread_scratch(nbytes: int) -> np.ndarray:
    """Scratch of at least so many bytes, which begins a cache line: this thread's kept array, or a new one."""
    scratch = _kept.scratch
    if nbytes <= scratch.nbytes:
        return scratch
    memory = np.empty(nbytes + VECTOR_BYTES, np.uint8)
    begin = -memory.__array_interface__["data"][0] % VECTOR_BYTES
    scratch = memory[begin : begin + nbytes]
    if nbytes <= tuning.KEPT_SCRATCH:
        _kept.scratch = scratch
    return scratch


def runner(call: Call) -> Callable[..., None]:
    """A function that runs a call on arrays, on as many threads as it is worth."""
    threads = min(call.items, most_threads(call.cost_bytes), MOST_HELPERS + 1)
    if threads <= 1 and call.scratch_bytes <= tuning.SMALL_SCRATCH:
        return call.run_alone
    return partial(_run, call, threads)


def _run(call: Call, most: int, *arrays: np.ndarray | None) -> None:
    threads = min(get_num_threads(), most)
    if threads <= 1 or not _run_parallel(call, threads, arrays):
        call.run(thread_scratch(call.scratch_bytes), 0, call.items, *arrays)


def _run_parallel(call: Call, threads: int, arrays: tuple) -> bool:
    """Run a call with the helpers; False if they are busy with another call, or if there is no scratch for all."""
    try:
        scratch = thread_scratch(threads * call.scratch_bytes)
    except MemoryError:
        return False
    chunks = max(threads, min(tuning.CHUNKS_PER_THREAD * threads, call.cost_bytes // tuning.CHUNK_BYTES))
    return call.run_parallel(scratch, threads - 1, min(chunks, call.items, MOST_CHUNKS), *arrays)
