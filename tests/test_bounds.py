"""No kernel touches memory beside its arrays: see bounds.py, which ends in a crash if one does."""

import ast
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


GUARDED = """
import bounds, numpy as np, fastpool as fp
bounds.numba_backend.launch = bounds.last_piece_first(np.random.default_rng(0))
bounds.numba_backend.new_scratch = lambda nbytes: bounds.flush(nbytes, "u1", True)
"""


@pytest.mark.parametrize(
    "call",
    [
        'fp.max_pool2d(np.zeros((1, 40, 263, 65), "f4"), (9, 256), 1, data_format="channels_last")',
        'fp.max_pool2d(np.zeros((40, 1600), "f4"), (9, 2), 1, (0, 25_000_000), (1, 50_000_000))',
        'fp.max_pool2d(np.zeros((1, 40, 600, 9), "f4"), (9, 3), 1, (4, 1), data_format="channels_last")',
    ],
    ids=["a long reach of many channels", "taps far apart", "short rows"],
)
def test_tall_windows_stay_inside_their_scratch(call, python):
    """Maxima along a row were taken past the last whole window, beyond the scratch of the row."""
    environment = {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}", "FASTPOOL_BACKEND": None}
    assert python("-c", f"{GUARDED}\nprint({call}.shape)", **environment).startswith("(")


KERNELS = ("pool", "columns", "elementwise", "scalars", "lanes")


@pytest.mark.parametrize("module", KERNELS)
def test_kernels_allocate_nothing(module):
    """Their scratch comes from the caller, so that nothing is lost, or half done, where there is no memory."""
    source = (ROOT / "fastpool" / "backends" / "numba" / f"{module}.py").read_text()
    called = {
        node.func.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and hasattr(node.func, "attr")
    }
    assert not called & {"empty", "empty_like", "zeros", "zeros_like", "ones", "full", "arange", "array", "copy"}
