"""A few hundred random calls in guarded memory, and deliberate faults that fuzz.py must report."""

import os
import sys

import pytest
from conftest import ROOT

import fastpool as fp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="closes pages as Linux does")
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}", "FASTPOOL_BACKEND": None}


@pytest.mark.parametrize("backend", ["numba", "cython", "numpy"])
def test_random_calls_are_right_and_stay_inside_their_arrays(backend, python):
    if not fp.backends()[backend].available:
        pytest.skip(fp.backends()[backend].reason)
    cases = os.environ.get("FASTPOOL_FUZZ_CASES", "150")
    arguments = "--seed", "0", "--cases", cases, "--backend", backend
    assert f"{cases} passed, 0 failed" in python("tests/fuzz.py", *arguments, timeout=900, **ENVIRONMENT)


# What a faulty kernel does, and what is then said of its case.
FAULTS = {
    "a crash": ("ctypes.string_at(0)", "the process ended with -11"),
    "a wrong value": ("y[...] = 3", "Mismatched elements"),
    "a byte outside the result": (
        "ctypes.memset(y.ctypes.data - 1 if y.ctypes.data % 4096 else y.ctypes.data + y.nbytes, 7, 1)",
        "what is not a result was written|ended with -11",
    ),
    "a hang": ("time.sleep(100)", "no answer in 8 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow
def test_a_fault_is_one_failed_case_with_the_command_that_repeats_it(fault, python, tmp_path):
    statement, message = FAULTS[fault]
    script = tmp_path / "faulty.py"
    script.write_text(
        f"""
import ctypes, sys, time
import numpy as np
import fuzz
from fastpool.backends import numpy as backend
fuzz.TIMEOUT = 8 if {fault == "a hang"} else 150
fuzz.__file__ = __file__
pool = backend.max_pool
def faulty(x, window, y, argmax):
    pool(x, window, y, argmax)
    if x.dtype == np.float32 and y.size > 4:
        {statement}
backend.max_pool = faulty
sys.exit(fuzz.main())
"""
    )
    arguments = "--seed", "1", "--cases", "12", "--backend", "numpy", "--op", "pool"
    said = python(str(script), *arguments, fails=True, **ENVIRONMENT)
    assert any(m in said for m in message.split("|")), said
    assert "python tests/fuzz.py --seed 1 --case" in said
    passed, failed = (int(said.split(f" {word}")[0].split()[-1]) for word in ("passed,", "failed in"))
    assert failed >= 1
    assert passed + failed == 12
