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


def test_rooms_are_kept_until_they_are_used_no_more(python):
    """Every freed room of a page or more is unmapped at once, so that a kernel that still uses it ends the process."""
    code = """
import numpy as np, fastpool as fp
x = np.random.default_rng(0).standard_normal((2, 3, 80, 700), np.float32)
for kernel, stride in ((3, 1), (3, 2), (13, 1), (2, 2), (5, 3), (7, 4)):
    y, argmax = fp.max_pool2d(x, kernel, stride, kernel // 2, return_argmax=True)
    fp.max_pool2d(x, kernel, stride, kernel // 2)
    fp.max_pool2d_backward(y, argmax, x.shape, kernel, stride, kernel // 2)
    columns = fp.im2col(x[:1, :1], kernel, stride, kernel // 2)
    fp.col2im(columns, (1, 1, 80, 700), kernel, stride, kernel // 2)
print("all right")
"""
    assert "all right" in python("-c", code, MALLOC_MMAP_THRESHOLD_="4096", FASTPOOL_BACKEND=None)
