"""Measurements that need a process of their own: start-up times, and the memory of one call.

Each probe takes a row and returns figures by name.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.rows import BEYOND_OUTPUTS, OVER, Problem, Row, Task
from fastpool.cases import results

ROOT = Path(__file__).resolve().parent.parent
IMPORTS, FIRST_CALLS = 15, 3

_TIMED = "from time import perf_counter; start = perf_counter(); {}; print(perf_counter() - start)"
_FIRST = "import numpy as np, fastpool as fp; x = np.ones((1, 1, 64, 64), np.float32); " + _TIMED.format(
    "fp.max_pool2d(x, 2)"
)
_IS_BUILT = "from fastpool.backends.numba import library; print(bool(library.level()) + 0)"
_BY_NUMBA = {"FASTPOOL_KERNELS": "jit"}
_PEAK = "from benchmarks.processes import memory_of; from benchmarks.rows import Task; print(*memory_of({!r}))"


def printed(code: str, **environment: str) -> list[float]:
    """The values that a fresh interpreter prints. It may cache bytecode, as it would for an installed package."""
    command = [sys.executable, "-c", code]
    variables = {**os.environ, **environment}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, env=variables, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def import_time(row: Row) -> dict[str, float]:
    """The time to import fastpool and to import only NumPy: the minimum of several, in turn."""
    codes = [_TIMED.format(f"import {name}") for name in ("fastpool", "numpy")]
    runs = [[printed(code)[0] for code in codes] for _ in range(IMPORTS)]
    fastpool, numpy = (min(times) for times in zip(*runs, strict=True))
    return {"seconds": fastpool, f"import fastpool{OVER}import numpy": fastpool / numpy}


def first_call_built(row: Row) -> dict[str, float]:
    """The first pool of a process, with the kernels that were built with the package; empty without such kernels."""
    if not printed(_IS_BUILT)[0]:
        return {}
    return {"seconds": min(printed(_FIRST)[0] for _ in range(FIRST_CALLS))}


def first_call_warm(row: Row) -> dict[str, float]:
    """The first pool of a process, with a kernel that Numba compiled for an earlier one."""
    printed(_FIRST, **_BY_NUMBA)
    return {"seconds": min(printed(_FIRST, **_BY_NUMBA)[0] for _ in range(FIRST_CALLS))}


def first_call_cold(row: Row) -> dict[str, float]:
    """The first pool with an empty cache: Numba compiles the kernel."""
    times = []
    for _ in range(FIRST_CALLS):
        with tempfile.TemporaryDirectory() as folder:
            times += printed(_FIRST, **_BY_NUMBA, NUMBA_CACHE_DIR=folder)
    return {"seconds": min(times)}


def kilobytes(name: str) -> int:
    """VmRSS or VmHWM of this process."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def memory_of(task: Task) -> tuple[float, float]:
    """Bytes in memory at the peak of a call less those before it, and the bytes of its outputs."""
    n, channels, *space = task.shape
    half = (n, channels, *(s // 2 for s in space)) if space else (n // 2, channels)
    Problem(replace(task, shape=half)).call()  # a first call loads kernels and modules
    problem = Problem(task)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak from here on
    before = kilobytes("VmRSS")
    result = problem.call()
    return 1024 * (kilobytes("VmHWM") - before), sum(a.nbytes for a in results(result))


def peak_memory(row: Row) -> dict[str, float]:
    """Peak memory of a call beyond its outputs. Only Linux reports it."""
    if not sys.platform.startswith("linux"):
        return {}
    # With a fixed threshold malloc returns every large array to the system, so that no call reuses one unnoticed.
    taken, outputs = printed(_PEAK.format(row.task), MALLOC_MMAP_THRESHOLD_="65536")
    beyond, allowed = taken - outputs, 8e6 + 0.02 * outputs
    return {"MB beyond the outputs": beyond / 1e6, BEYOND_OUTPUTS: beyond / allowed}


_PROBES = import_time, first_call_built, first_call_warm, first_call_cold, peak_memory
PROBES = {probe.__name__: probe for probe in _PROBES}
