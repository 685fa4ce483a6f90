"""Checks of an installed wheel with only NumPy: python wheel.py [--kernels]."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np

import fastpool as fp

assert Path(fp.__file__).resolve().is_relative_to(Path(sys.prefix).resolve()), fp.__file__
for module in ("fastpool.backends._columns", "fastpool.backends._passes", "fastpool.backends.numba._launch"):
    import_module(module)  # without a compiler the package is built nevertheless
status = fp.backends()
for name, (available, reason) in status.items():
    print(f"{name:8}", "available" if available else reason)
assert status["cython"].available, status["cython"].reason
x = np.arange(16.0).reshape(1, 1, 4, 4)
np.testing.assert_array_equal(fp.max_pool2d(x, 2), [[[[5, 7], [13, 15]]]])
np.testing.assert_array_equal(fp.max_pool2d(x, 2, backend="cython"), fp.max_pool2d(x, 2, backend="naive"))
cross = {"footprint": fp.morphology.disk(1), "axes": (2, 3)}
np.testing.assert_array_equal(fp.maximum_filter(x, **cross), fp.maximum_filter(x, **cross, backend="naive"))
library = import_module("fastpool.backends.numba.library")
if sys.argv[1:] == ["--kernels"]:
    assert library.level(), f"no kernels for {library.native_level()} are there"
    np.testing.assert_array_equal(fp.hard_swish(x, backend="numba"), fp.hard_swish(x, backend="naive"))
    assert "numba" not in sys.modules
print("fastpool", fp.__version__, "works from", fp.__file__, "with kernels for", library.level() or "no level")
