"""Typical and tiny rows as cases of pytest-benchmark: each backend and each installed peer.

    pytest benchmarks --benchmark-enable --benchmark-autosave
    pytest benchmarks --benchmark-enable --benchmark-compare --benchmark-compare-fail=median:25%
    pytest benchmarks --benchmark-enable -k "backward and (numba or torch)"

Without --benchmark-enable each case runs once at a small size, to see that it works.
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib import util
from typing import Any

import pytest

import fastpool
from benchmarks.libraries import LIBRARIES
from benchmarks.plots import SELECTION
from benchmarks.rows import MOST_VISITS, Problem, Task, rows
from fastpool.timing import agree, least_times

ROWS = [row for row in rows() if row.key in SELECTION or row.group == "tiny"]
PEERS = {library.name: library for library in LIBRARIES}
BACKENDS = [name for name in fastpool.backends() if name != "naive"]
COLUMN_BACKENDS = ("cython", "numpy")  # their column matrix holds every element of every window
CHOICE_SECONDS = 0.05  # for each variant of a peer, to choose the fastest as the case


@lru_cache(maxsize=1)
def _posed(task: Task) -> tuple[Problem, Any]:
    problem = Problem(task)
    return problem, problem.comparable(problem.call())


@cache
def _library(name: str, threads: int) -> Any:
    return PEERS[name](threads)


@pytest.fixture(params=ROWS, ids=lambda row: row.key)
def row(request, benchmark):
    benchmark.group = request.param.key
    return request.param.small() if benchmark.disabled else request.param


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend(row, backend, benchmark):
    status = fastpool.backends()[backend]
    if not status.available:
        pytest.skip(status.reason)
    if backend in COLUMN_BACKENDS and row.task.visits > MOST_VISITS:
        pytest.skip("the columns would not fit into memory")
    problem, expected = _posed(row.task)
    try:
        result = problem.call(backend=backend)
    except NotImplementedError as missing:
        pytest.skip(str(missing))
    assert agree(problem.comparable(result), expected, row.task.exact)
    benchmark.extra_info["call"] = f"fastpool {backend}"
    benchmark(problem.call, backend=backend)


@pytest.mark.parametrize("peer", PEERS)
def test_peer(row, peer, benchmark):
    if not util.find_spec(PEERS[peer].package):
        pytest.skip("not installed")
    problem, expected = _posed(row.task)
    library = _library(peer, fastpool.get_num_threads())
    candidates = getattr(library, row.task.family, lambda _: ())(problem)
    calls = {}
    for variant, call, read in candidates:
        assert agree(read(call()), expected, row.task.exact), variant
        calls[f"{peer} {variant}".strip()] = call
    if not calls:
        pytest.skip("has no such op")
    times = least_times(calls, CHOICE_SECONDS) if len(calls) > 1 else dict.fromkeys(calls, 0)
    fastest = min(times, key=times.__getitem__)
    benchmark.extra_info["call"] = fastest
    benchmark(calls[fastest])
