"""No kernel accesses memory outside its arrays: bounds.py would crash."""

import ast
import os
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import ROOT

import fastpool as fp

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="closes pages as Linux does"),
    pytest.mark.skipif(not fp.backends()["numba"].available, reason=fp.backends()["numba"].reason or "-"),
]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_kernels_stay_inside_their_arrays(seed, python):
    problems = os.environ.get("FASTPOOL_BOUNDS_PROBLEMS", "150")
    timeout = 240 + int(problems)
    assert "all right" in python("tests/bounds.py", str(seed), problems, timeout=timeout, FASTPOOL_BACKEND=None)


@pytest.mark.parametrize(("end", "step"), [(True, 1), (False, -1)], ids=["end", "start"])
def test_an_access_outside_an_array_is_detected(end, step, python):
    code = f"import ctypes, bounds; a = bounds.flush(1, 'u1', {end}); print(ctypes.string_at(a.ctypes.data + {{}}, 1))"
    environment = {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}", "FASTPOOL_BACKEND": None}
    assert "xa5" in python("-c", code.format(0), **environment)
    assert "Segmentation" in python("-X", "faulthandler", "-c", code.format(step), fails=True, **environment)


GUARDED = """
import bounds, numpy as np, fastpool as fp
bounds.run_by(bounds.last_piece_first(np.random.default_rng(0)))
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


with_cython = pytest.mark.skipif(not fp.backends()["cython"].available, reason=fp.backends()["cython"].reason or "-")
COMPILED = """
import numpy as np
from guarded import Memory
from fastpool.backends import cython
from fastpool.window import Window

rng = np.random.default_rng(0)
memory = Memory(rng)

def guarded(content):
    region = memory.region(content.nbytes)
    a = region.bytes.view(content.dtype).reshape(content.shape)
    a[...] = content
    region.watch()
    return a

def result(shape, dtype):
    a = memory.empty(shape, dtype)
    a[...] = 7
    return a

def untouched():
    assert memory.changed() is None
    memory.close()
"""


@with_cython
@pytest.mark.parametrize(
    ("dtype", "kernel"), [("u1", (3, 4)), ("u2", (20, 20)), ("u4", (260, 260))], ids=["uint8", "uint16", "uint32"]
)
def test_compiled_gradients_stay_inside_their_array_whatever_the_offsets(dtype, kernel, python):
    """An argmax is checked before the kernel runs, and another thread may change it before the kernel reads it."""
    code = f"""
    for size, padding, inner in (((300, 270), 0, 1), ((300, 270), (150, 130), 3), ((2, 3), 259, 1)):
        window = Window.plan(2, (2, 1, *size), {kernel}, 40, padding)
        shape = (2, *window.out, inner)
        for dx_dtype in (np.float32, np.float64):
            for low in (0, window.volume, 1 << 8 * np.dtype("{dtype}").itemsize - 1):
                argmax = rng.integers(low, np.iinfo("{dtype}").max, shape, "{dtype}", endpoint=True)
                argmax.reshape(-1)[::3] = rng.integers(0, window.volume, argmax.size)[::3]
                dx = result((2, *window.size, inner), dx_dtype)
                cython.max_pool_backward(guarded(np.ones(shape, dx_dtype)), guarded(argmax), window, dx)
                untouched()
    print("all right")
    """
    environment = {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}", "FASTPOOL_BACKEND": None}
    assert "all right" in python("-X", "faulthandler", "-c", COMPILED + dedent(code), **environment)


@pytest.mark.parametrize("backend", ["numba", pytest.param("cython", marks=with_cython)])
def test_compiled_unpooling_stays_inside_its_array_whatever_the_indices(backend, python):
    code = f"""
    from fastpool.backends import {backend} as backend
    for inner in (1, 3):
        for low, high in ((-12, 24), (-(1 << 20), 1 << 20), (-(1 << 63), (1 << 63) - 1)):
            indices = rng.integers(low, high, (2, 1, 2, 3, inner), np.int64, endpoint=True)
            x = result((2, 1, 3, 4, inner), np.float32)
            backend.max_unpool(guarded(np.ones(indices.shape, np.float32)), guarded(indices), x)
            untouched()
    print("all right")
    """
    environment = {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}", "FASTPOOL_BACKEND": None}
    assert "all right" in python("-X", "faulthandler", "-c", COMPILED + dedent(code), **environment)


CHANGED = """
import sys, threading
from contextlib import suppress
import numpy as np
import fastpool as fp

sys.setswitchinterval(1e-5)
shape, kernel = (8, 400, 400), (300, 300)  # enough elements for uint32 offsets
argmax, indices, over = np.zeros((8, 101, 101), np.uint32), np.zeros((8, 101, 101), int), False

def change():
    while not over:
        argmax[-1], indices[-1] = 2**32 - 1, 2**40
        argmax[-1], indices[-1] = 0, 0

thread = threading.Thread(target=change)
thread.start()
try:
    for _ in range(200):
        y = np.ones(argmax.shape, "f4")
        with suppress(ValueError):
            fp.max_pool2d_backward(y, argmax, shape, kernel, 1, backend="{0}")
        with suppress(ValueError):
            fp.max_unpool2d(y, indices, kernel, 1, output_shape=shape, backend="{0}")
finally:
    over = True
    thread.join()
print("all right")
"""


@pytest.mark.parametrize("backend", ["numba", pytest.param("cython", marks=with_cython)])
def test_an_argmax_and_indices_that_another_thread_changes_end_no_process(backend, python):
    """It was changed after the check, and gradients were written to arbitrary addresses."""
    assert "all right" in python("-X", "faulthandler", "-c", CHANGED.format(backend))


NUMBA = Path(fp.__file__).with_name("backends") / "numba"
KERNELS = sorted(path for folder in ("kernels", "simd") for path in (NUMBA / folder).glob("*.py"))


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernels_allocate_nothing(path):
    """Their scratch comes from the caller, so that a failed allocation leaves no partial result."""
    called = {
        node.func.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and hasattr(node.func, "attr")
    }
    assert not called & {"empty", "empty_like", "zeros", "zeros_like", "ones", "full", "arange", "array", "copy"}
