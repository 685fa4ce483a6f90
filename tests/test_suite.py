"""The suite that asv runs: each benchmark once, at a small size."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import fastpool as fp
from fastpool import cases

discovery = pytest.importorskip("asv_runner.discovery")
pytest.importorskip("ml_dtypes")
pytest.importorskip("rich")

from benchmarks import suite  # noqa: E402

ROOT = Path(suite.__file__).parent
ONCE = {"rounds": 1, "repeat": 1, "number": 1, "warmup_time": 0}
BENCHMARKS = {benchmark.name: benchmark for benchmark in discovery.disc_benchmarks(str(ROOT))}
IN_A_PROCESS = [name for name in BENCHMARKS if "timeraw" in name or ".kernels." in name]
ONE_CALL = "import numpy, fastpool; fastpool.max_pool1d(numpy.ones((1, 1, 8), 'float32'), 2, backend='numba')"


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    arguments = suite._arguments
    monkeypatch.setattr(suite, "_arguments", lambda case, layout, dtype, size: arguments(case, layout, dtype, "small"))
    monkeypatch.setattr(suite, "SECONDS", 0)
    monkeypatch.setattr(suite, "_COMPILE", ONE_CALL)
    yield
    suite._prepared.cache_clear()


def run_once(name):
    """The result of a benchmark for each combination of parameters, as asv --quick runs them; None for n/a."""
    count = math.prod(len(values) for values in BENCHMARKS[name].params)
    results = {}
    for i in range(count):
        number = f"{name}-{i}" if BENCHMARKS[name].params else name
        benchmark = discovery.get_benchmark_from_name(str(ROOT), number, ONCE)
        if benchmark.setup_cache_key is not None:
            benchmark.set_cache(benchmark.do_setup_cache())
        key = benchmark._current_params
        results[key] = None if benchmark.do_setup() else benchmark.do_run()
        benchmark.do_teardown()
    return results


def figure(result):
    return result["samples"][0] if isinstance(result, dict) else result


def test_every_op_of_the_table_is_timed():
    timed = {name.split(".")[1] for name in BENCHMARKS if name.endswith(".time_call")} - {"tiny"}
    assert {case.op for case in cases.CASES.values()} <= timed
    assert {name for name in timed if name.endswith("_argmax")} >= {"max_pool2d_argmax", "maxout_argmax"}
    called = [c.name for name in timed for c in getattr(suite, name).cases.values()]
    assert sorted(called) == sorted(cases.CASES)


def test_the_results_of_a_benchmark_outlast_a_change_of_its_source():
    assert {benchmark.version for benchmark in BENCHMARKS.values()} == {suite.version}


OLD_PACKAGE = """
def hard_swish(x, backend): return f"hard_swish of version 0 on {backend}"
def backends(): return {"numba": type("Status", (), {"available": True})}
"""
IN_AN_OLD_PACKAGE = """
import sys, runpy, fastpool
suite = runpy.run_path(sys.argv[1])
arguments, call = suite["_prepared"]("numba", "hard_swish", *suite["PLAIN"], suite["SMALL"])
gradient = suite["_arguments"](suite["CASES"]["max_pool2d_backward 2x2 s2"], *suite["PLAIN"], suite["SMALL"])
print(call(), arguments["x"].shape, gradient["argmax"].dtype, sys.modules["fastpool"] is fastpool)
"""


def test_an_old_package_is_measured_with_the_arguments_of_this_tree(python, tmp_path):
    """Today's table of cases imports modules that old versions do not have."""
    (tmp_path / "fastpool").mkdir()
    (tmp_path / "fastpool" / "__init__.py").write_text(OLD_PACKAGE, encoding="utf-8")
    out = python("-c", IN_AN_OLD_PACKAGE, str(ROOT / "suite.py"), cwd=tmp_path)
    assert out.strip() == "hard_swish of version 0 on numba (2, 3, 9, 8) uint8 True"


def test_a_call_is_named_by_its_shape(monkeypatch):
    monkeypatch.undo()
    for label, case in suite.max_pool2d.cases.items():
        x = suite._arguments(case, *suite.PLAIN, suite.MEDIUM)["x"]
        assert label.endswith(f"({','.join(map(str, x.shape))})")


def test_the_backend_is_the_first_parameter():
    for name, benchmark in BENCHMARKS.items():
        if benchmark.params:
            assert benchmark.param_names[0] == "backend", name
            assert benchmark.params[0] == [repr(backend) for backend in suite.BACKENDS], name
    assert set(fp.backends()) - {"naive", suite.BASELINE} <= set(suite.BACKENDS)


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in IN_A_PROCESS])
def test_a_benchmark_runs(name):
    results = run_once(name)
    for key, result in results.items():
        if result is None and name.endswith("peakmem_nothing"):
            continue
        if key and not fp.backends().get(key[0], (False,))[0]:
            assert result is None
        elif result is not None:
            assert figure(result) > 0, key
    if BENCHMARKS[name].params:
        assert any(result is not None for result in results.values())


@pytest.mark.parametrize("name", IN_A_PROCESS)
@pytest.mark.slow
def test_a_benchmark_of_a_process_runs(name):
    assert any(result is not None and figure(result) > 0 for result in run_once(name).values())


def test_a_sample_is_the_least_of_many_calls(monkeypatch):
    monkeypatch.setattr(suite, "least_times", lambda calls, seconds: dict.fromkeys(calls, 0.25))
    results = run_once("suite.hard_swish.time_call")
    samples = [result["samples"] for result in results.values() if result is not None]
    assert samples
    assert all(sample == pytest.approx([0.25]) for sample in samples)  # the runner divides it, and rounds


def test_calls_that_are_not_quick_are_timed_in_one_layout_and_dtype():
    results = run_once("suite.max_pool1d.time_call")
    watched = {key[2:] for key, result in results.items() if result is not None}
    assert watched == {("channels_first", "float32")}
    results = run_once("suite.max_pool2d.time_call")
    watched = {key[2:] for key, result in results.items() if result is not None}
    assert len(watched) == len(suite.LAYOUTS) * len(suite.DTYPES)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux resets the peak")
def test_memory_is_that_of_the_call(monkeypatch):
    """Memory that `setup` allocates and frees is not counted."""
    size = 2**28

    def make(*_):
        np.ones(size, np.uint8)
        return {}

    monkeypatch.setattr(suite, "_arguments", make)
    monkeypatch.setattr(suite, "_call", lambda *_: lambda: None)
    benchmark = suite.memory()
    suite._forget_peak()
    before = peak()
    benchmark.setup("numpy", suite.QUICK[0])
    assert peak() - before < size / 2


def peak():
    from asv_runner.benchmarks._maxrss import get_maxrss

    return get_maxrss()


class FakeGPU:
    """A GPU whose launches stay pending until it is synchronised."""

    def __init__(self):
        self.waiting = 0

    def launch(self, *args, **kwargs):
        assert kwargs["backend"] == "cuda"
        assert isinstance(kwargs["x"], tuple)
        self.waiting += 1
        return "result"

    def synchronise(self, backend):
        assert backend == "cuda"
        self.waiting = 0


def test_a_call_on_a_gpu_is_over_when_it_is_timed(monkeypatch):
    gpu = FakeGPU()
    monkeypatch.setattr(suite, "_available", lambda backend: None)
    monkeypatch.setattr(suite, "_synchronise", gpu.synchronise)
    monkeypatch.setattr(suite, "_in_place", lambda backend, arguments: {**arguments, "x": ("on the GPU",)})
    monkeypatch.setattr(fp, "hard_swish", gpu.launch)
    _, call = suite._prepared("cuda", "hard_swish", "channels_first", "float32", "small")
    assert call() == "result"
    assert gpu.waiting == 0


@pytest.mark.slow
def test_the_cases_of_pytest_benchmark_run(python):
    """Once each, at a small size, with the one peer that is always installed."""
    chosen = ("-k", "test_backend or numpy")
    out = python("-m", "pytest", "benchmarks", "-q", "--benchmark-disable", "-p", "no:cacheprovider", *chosen)
    assert re.search(r"\d+ passed", out)
