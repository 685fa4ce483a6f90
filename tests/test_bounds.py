"""No kernel touches memory beside its arrays: see bounds.py, which ends in a crash if one does."""

import os
import sys

import pytest
from conftest import ROOT

import fastpool as fp

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="closes pages as Linux does"),
    pytest.mark.skipif(not fp.backends()["numba"].available, reason=fp.backends()["numba"].reason or "-"),
]


@pytest.mark.parametrize("seed", [0, 1])
def test_kernels_stay_inside_their_arrays(seed, python):
    problems = os.environ.get("FASTPOOL_BOUNDS_PROBLEMS", "600")
    timeout = 240 + int(problems)
    assert "all right" in python("tests/bounds.py", str(seed), problems, timeout=timeout, FASTPOOL_BACKEND=None)


@pytest.mark.parametrize(("end", "step"), [(True, 1), (False, -1)], ids=["end", "start"])
def test_a_step_too_far_would_be_seen(end, step, python):
    code = f"import ctypes, bounds; a = bounds.flush(1, 'u1', {end}); print(ctypes.string_at(a.ctypes.data + {{}}, 1))"
    environment = {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}", "FASTPOOL_BACKEND": None}
    assert "xa5" in python("-c", code.format(0), **environment)
    assert "Segmentation" in python("-X", "faulthandler", "-c", code.format(step), fails=True, **environment)
