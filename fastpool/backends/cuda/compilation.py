"""numba-cuda, imported by this package alone, and how kernels are compiled with it."""

from __future__ import annotations

import numba_cuda  # without it `numba.cuda` is Numba's own, older one
from numba import config, cuda
from numba.cuda import types

__all__ = ["SIMULATED", "VERSION", "compiled", "cuda", "inlined", "types", "why_not"]

VERSION = numba_cuda.__version__
# Numba's simulator runs kernels as Python threads over NumPy arrays, where there is no card.
SIMULATED = bool(config.ENABLE_CUDASIM)


def why_not():
    """The reason why no kernel can run here, or None."""
    if SIMULATED or cuda.is_available():
        return None
    try:
        cuda.detect()
    except Exception as error:
        return " ".join(str(error).split()).rstrip(" :")
    return "no CUDA device was found"


def inlined(function):
    """Make a function one for kernels to call: it becomes a part of them."""
    return function if SIMULATED else cuda.jit(device=True, inline="always")(function)


def compiled(function, signature):
    """A kernel for one signature, for the device that is current. Its PTX is what tests read, so without LTO."""
    return cuda.jit(function) if SIMULATED else cuda.jit(types.void(*signature), lto=False)(function)
