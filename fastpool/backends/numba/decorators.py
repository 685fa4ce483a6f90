"""What Numba compiles, and how: kernels, and the functions that are inlined into them."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any

LEAST_NUMBA = (0, 62)  # LLVM ends the process on vectors of maxima in older ones
NUMBA_VERSION = version("numba")
if tuple(map(int, re.findall(r"\d+", NUMBA_VERSION)[:2])) < LEAST_NUMBA:
    raise ImportError(f"needs numba {'.'.join(map(str, LEAST_NUMBA))} or later, found {NUMBA_VERSION}")

import numba  # noqa: E402

# Functions that a kernel calls are inlined into it. Nothing else calls them, and without wrappers for Python and C they
# compile in three quarters of the time.
INLINED = {
    "nogil": True,
    "error_model": "numpy",
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

KERNELS: dict[str, Any] = {}  # by their names, once `kernels` has been imported


def inlined(function):
    """Compile a function for kernels to call."""
    return numba.njit(**INLINED)(function)


def kernel(function):
    """Register a kernel by its name. It takes arrays, constants, scratch, and the range of its work items."""
    KERNELS[function.__name__] = inlined(function)
    return function
