"""`python -m fastpool`: what it prints and writes."""

import json
import os
import shlex
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

import fastpool as fp

AVAILABLE = [name for name, status in fp.backends().items() if status.available]


@pytest.fixture(scope="session")
def fastpool(python):
    return lambda *arguments, **more: python("-m", "fastpool", *arguments, COLUMNS=200, FASTPOOL_BACKEND=None, **more)


def test_info_prints_versions_threads_and_every_backend(fastpool):
    lines = fastpool("info", FASTPOOL_NUM_THREADS=3).splitlines()
    printed = dict(line.split(maxsplit=1) for line in reversed(lines) if len(line.split()) > 1)
    assert printed["fastpool"] == fp.__version__
    assert printed["numpy"] == np.__version__
    assert printed["threads"] == "3"
    for name in ("numpy", "naive"):
        assert any(line.split() == [name, "available"] for line in lines)
    for name, status in fp.backends().items():
        line = next(line for line in reversed(lines) if line.split()[:1] == [name])
        assert ("not available" in line) == (not status.available)


@pytest.mark.skipif("numba" not in AVAILABLE, reason="numba is not here")
def test_info_prints_where_kernels_are_cached(fastpool, tmp_path):
    assert str(tmp_path) in fastpool("info", NUMBA_CACHE_DIR=tmp_path, FASTPOOL_KERNELS="jit")


def test_info_prints_why_a_backend_cannot_run(fastpool, tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError('broken on purpose')")
    out = fastpool("info", PYTHONPATH=f"{tmp_path}:{fp.__path__[0]}/..", FASTPOOL_KERNELS="jit")
    assert "broken on purpose" in out
    assert 'pip install "fastpool[numba]"' in out


@pytest.fixture(scope="session")
def quick(fastpool, tmp_path_factory):
    """One quick run of only pools: its output, and the files that it wrote."""
    pytest.importorskip("rich")
    folder = tmp_path_factory.mktemp("bench")
    json_file = folder / "times.json"
    out = fastpool("bench", "--quick", "--only", "2x2", "--seconds", "0.01", "--json", json_file)
    return out, json.loads(json_file.read_text())


def test_bench_writes_consistent_times_for_every_available_backend(quick):
    _, report = quick
    assert report["environment"]["fastpool"] == fp.__version__
    timings = report["timings"]
    assert {t["op"] for t in timings} >= {"max_pool2d", "max_pool2d_backward"}
    assert {t["backend"] for t in timings} == set(AVAILABLE) - {"naive", "cuda"}
    baseline = {t["case"]: t["seconds"] for t in timings if t["backend"] == "numpy"}
    for t in timings:
        assert t["seconds"] > 0
        assert t["gigabytes_per_second"] == pytest.approx(t["bytes"] / t["seconds"] / 1e9)
        assert t["speedup_over_numpy"] == pytest.approx(baseline[t["case"]] / t["seconds"])


def test_bench_prints_a_row_for_every_case(quick):
    out, report = quick
    for case in {t["case"] for t in report["timings"]}:
        assert case in out
    assert "speed-up" in out
    assert "GB/s" in out


@pytest.mark.slow
def test_bench_draws_a_picture(fastpool, tmp_path):
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    picture = tmp_path / "speed.png"
    fastpool("bench", "--quick", "--only", "2x2", "--seconds", "0.01", "--plot", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 5000


def test_bench_refuses_an_unknown_case_and_lists_the_known_ones(fastpool):
    pytest.importorskip("rich")
    out = fastpool("bench", "--only", "no such case", fails=True)
    assert "no such case" in out
    assert "max_pool2d" in out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["info", "bench", "warmup"]),
        (["warmup"], ["compile", "keep"]),
        (["bench"], ["--quick", "--json", "--plot"]),
        (["info"], ["info"]),
    ],
    ids=["fastpool", "warmup", "bench", "info"],
)
def test_help_says_what_there_is(command, words, fastpool):
    out = fastpool(*command, "--help")
    for word in words:
        assert word in out


def test_an_unknown_command_is_refused(fastpool):
    assert "invalid choice: 'train'" in fastpool("train", fails=True)


def test_bench_refuses_a_file_that_cannot_be_written_before_it_times(fastpool, tmp_path):
    for option in ("--json", "--plot"):
        assert "there is no folder" in fastpool("bench", option, tmp_path / "no" / "x.json", fails=True)
    assert "the name must end in one of" in fastpool("bench", "--plot", tmp_path / "x.nope", fails=True)


@pytest.mark.slow
def test_bench_prints_plainly_without_rich(fastpool, tmp_path):
    (tmp_path / "rich.py").write_text("raise ImportError")
    path = f"{tmp_path}:{fp.__path__[0]}/.."
    out = fastpool("bench", "--quick", "--only", "2x2", "--seconds", "0.01", PYTHONPATH=path)
    assert "speed-up" in out
    assert "GB/s" in out


def test_ctrl_c_ends_a_command_with_one_line(monkeypatch, capsys):
    from fastpool import __main__

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "info", interrupted)
    assert __main__.main(["info"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("command", ["info", "bench", "warmup"])
def test_an_invalid_number_of_threads_is_reported_in_one_line(command, fastpool):
    printed = fastpool(command, fails=True, FASTPOOL_NUM_THREADS="many")
    assert printed == "FASTPOOL_NUM_THREADS must be a positive integer, got 'many'\n"


@pytest.mark.skipif("numba" not in AVAILABLE, reason="numba is not here")
@pytest.mark.parametrize("command", ["info", "bench", "warmup"])
def test_unknown_kernels_are_reported_in_one_line(command, fastpool):
    printed = fastpool(command, fails=True, FASTPOOL_KERNELS="fast")
    assert printed == "FASTPOOL_KERNELS must be one of 'x86-64-v4', 'x86-64-v3', 'aarch64', 'jit', got 'fast'\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_a_command_without_output(unbuffered):
    """As with `| head`: a traceback was printed, by the command or by the flush at exit."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "fastpool", "info"]
    environment = os.environ | {"PYTHONPATH": f"{fp.__path__[0]}/..", "PYTHONUNBUFFERED": unbuffered}
    with open(write, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, env=environment)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
def test_a_command_without_stdout_exits_normally():
    command = f"{shlex.quote(sys.executable)} -m fastpool info >&-"
    environment = os.environ | {"PYTHONPATH": f"{fp.__path__[0]}/.."}
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif("numba" not in AVAILABLE, reason="numba is not here")
def test_the_warm_up_says_at_once_where_nothing_can_be_kept(fastpool, tmp_path):
    (tmp_path / "file").touch()
    said = fastpool("warmup", fails=True, NUMBA_CACHE_DIR=tmp_path / "file", FASTPOOL_KERNELS="jit")
    assert "is not a folder" in said


@pytest.mark.slow
@pytest.mark.skipif("numba" not in AVAILABLE, reason="numba is not here")
def test_where_kernels_were_built_there_is_nothing_to_warm_up(fastpool):
    level = import_module("fastpool.backends.numba").library.level()
    if not level:
        pytest.skip("no kernels were built")
    assert fastpool("warmup") == f"nothing to compile: the package holds kernels for {level}\n"
    assert f"built with the package, for {level}" in fastpool("info")
    assert "compiled by Numba when first called" in fastpool("info", FASTPOOL_KERNELS="jit")


@pytest.mark.slow
@pytest.mark.skipif("numba" not in AVAILABLE, reason="numba is not here")
def test_the_warm_up_compiles_in_processes_and_prints_each_kernel_without_rich(fastpool, tmp_path):
    (tmp_path / "rich.py").write_text("raise ImportError")
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib\n"
        "module = importlib.import_module('fastpool.backends.numba')\n"
        "names = 'hard_swish__f4_f4__n', 'hard_swish_backward__f4_f4_f4__n'\n"
        "module.kernel_names = lambda everything: names\n"
    )
    path = f"{tmp_path}:{fp.__path__[0]}/.."
    out = fastpool("warmup", PYTHONPATH=path, NUMBA_CACHE_DIR=tmp_path, FASTPOOL_NUM_THREADS=2, FASTPOOL_KERNELS="jit")
    assert out.startswith("2 kernels ready")
    assert len(list(tmp_path.rglob("*.kernel"))) == 2
