"""Fixtures: backends, tuning parameters, fresh interpreters, a browser."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from specimens import INTERPRETED

import fastpool as fp
from fastpool import calls

if INTERPRETED:
    import interpreted

    interpreted.install()

ROOT = Path(__file__).resolve().parent.parent
# Only `cuda` where a GPU is required or its kernels are interpreted; elsewhere every backend but `cuda`.
GPU_DEMANDED = os.environ.get("FASTPOOL_TEST_CUDA") == "1"
ON_CUDA = INTERPRETED or GPU_DEMANDED
BACKENDS = ["cuda"] if ON_CUDA else [name for name in fp.backends() if name != "cuda"]


def require_backend(name, **more):
    """Skip if a backend cannot run; fail if FASTPOOL_TEST_CUDA=1 requires it."""
    status = fp.backends()[name]
    if status.available:
        return
    if name == "cuda" and GPU_DEMANDED:
        pytest.fail(f"FASTPOOL_TEST_CUDA=1, but the backend cuda is not available: {status.reason}", pytrace=False)
    pytest.skip(f"{name}: {status.reason}", **more)


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(items):
    """Mark as slow the large arrays of the conformance suite, but on the default backend in one dtype and layout.

    The specification takes seconds for them. The other backends do not cut arrays into tiles.
    """
    usual = {"backend": "numba", "dtype": np.dtype("f4"), "layout": "channels_first"}
    for item in items:
        if item.name.startswith("test_agrees_with_the_specification["):
            problem = item.callspec.params
            if problem["case"].is_large and not usual.items() <= problem.items():
                item.add_marker("slow")


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Every backend by name."""
    require_backend(request.param)
    return request.param


@pytest.fixture
def tuned():
    """Override tuning parameters of the numba backend, as in tuned(MOST_SCRATCH=700): see its module `tuning`."""
    tuning = pytest.importorskip("fastpool.backends.numba.tuning")
    with contextlib.ExitStack() as overrides:
        overrides.callback(calls.forget_plans)

        def tune(**values):
            overrides.enter_context(tuning.override(**values))
            calls.forget_plans()

        yield tune


@pytest.fixture(scope="session")
def python():
    """Run a fresh interpreter with changed environment variables (None removes one); return its output."""

    def run(*arguments, fails=False, timeout=900, cwd=ROOT, **environment):
        variables = {**os.environ, "PYTHONPATH": str(cwd), **environment}
        done = subprocess.run(
            [sys.executable, *arguments],
            env={k: str(v) for k, v in variables.items() if v is not None},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert (done.returncode != 0) == fails, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr if fails else done.stdout

    return run


@pytest.fixture
def browser():
    """Headless Chromium or Chrome, if installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()
