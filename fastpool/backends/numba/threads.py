"""Running a kernel on several threads without ever ending the process.

Two of Numba's threading layers end it: workqueue when two threads enter it at once, and omp when a forked child
enters it. So Numba's layer is entered by one thread at a time and in the process that was not forked, workqueue is
not entered at all (Python's own threads do its work: the kernels release the GIL), and whoever comes second
runs alone on the thread it already has.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from threading import Lock

import numba
from numba.core.compiler_lock import global_compiler_lock

from fastpool.threads import get_num_threads

# Below this many bytes moved, waking threads costs more than they save.
PARALLEL_BYTES = 1 << 17

_home = os.getpid()
_launching = Lock()

if hasattr(os, "register_at_fork"):
    # A child forked while another thread compiles would wait for that thread, which it does not have, for ever.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


@cache
def threading_layer() -> str:
    """Numba's threading layer, started if it was not yet."""
    numba.get_num_threads()
    return numba.threading_layer()


@cache
def _python_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=max(numba.config.NUMBA_NUM_THREADS, 2), thread_name_prefix="fastpool")


def launch(serial, parallel, units, nbytes, *args) -> None:
    """Run `serial(*args, 0, units)`, or where it pays the same in chunks: `parallel(*args, units, chunks)`."""
    threads = 1 if nbytes < PARALLEL_BYTES else min(get_num_threads(), units)
    if threads == 1 or os.getpid() != _home or not _launching.acquire(blocking=False):
        serial(*args, 0, units)
        return
    try:
        if threading_layer() == "workqueue":
            _share(serial, units, threads, args)
        else:
            parallel(*args, units, threads)
    finally:
        _launching.release()


def _share(serial, units, threads, args) -> None:
    """The chunks of one call on Python's threads, the last of them on this one."""
    bounds = [units * i // threads for i in range(threads + 1)]
    try:
        others = [_python_threads().submit(serial, *args, a, b) for a, b in pairwise(bounds[:-1])]
    except RuntimeError:  # the interpreter is shutting down and starts no more threads
        serial(*args, 0, units)
        return
    serial(*args, bounds[-2], bounds[-1])
    for other in others:
        other.result()
