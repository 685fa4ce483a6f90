"""The names and arguments of kernels: what a plan writes, and the compiler reads.

A kernel's name tells its signature: `max_pool_direct__f4_f4_u1__n_u4_f4_Geometry_DirectTiling` takes arrays of float32,
float32 and uint8, and then the constants None, a uint32, a float32, and two named tuples of integers. It is a C
function of these arguments in words of eight bytes, the scratch, and the range of its work items.

An array is three words: its address, its elements, and the bytes of one; None is no word. The codes of constants are:

    n           None: no word
    e<dtype>    a dtype alone, which the kernel reads from an empty array: no word
    <Tuple>     a named tuple of integers, by its name: a word for each of its integers
    <dtype>     a NumPy scalar: its bytes, and then zeros
    i           an int: a word
"""

from __future__ import annotations

from functools import cache
from operator import index
from typing import Any, NamedTuple

import numpy as np

WORDS_OF_ARRAY = 3  # which `_launch.pyx` writes, and `object_code.py` reads


class DtypeOnly(NamedTuple):
    """A constant that tells a kernel a dtype, and nothing else."""

    dtype: np.dtype


@cache
def dtype_code(dtype: np.dtype) -> str:
    """The code of a dtype as kernels see it: bool as uint8, and two-byte floats as int16."""
    if dtype.itemsize == 2 and dtype.kind not in "iu":
        return "i2"
    return "u1" if dtype.kind == "b" else f"{dtype.kind}{dtype.itemsize}"


def _words_of(integers: Any) -> bytes:
    # PyTorch's Dynamo, which traces this code in a compiled function, recurses for ever in `struct.pack`.
    return np.array(integers, np.int64).tobytes()


def encode(constants: tuple[Any, ...]) -> tuple[list[str], bytes]:
    """The codes of a kernel's constants, and their words."""
    codes, words = [], b""
    for constant in constants:
        if constant is None:
            codes.append("n")
        elif isinstance(constant, DtypeOnly):
            codes.append(f"e{dtype_code(constant.dtype)}")
        elif isinstance(constant, tuple):
            codes.append(type(constant).__name__)
            words += _words_of(constant)
        elif isinstance(constant, np.generic):
            codes.append(dtype_code(constant.dtype))
            words += constant.tobytes().ljust(8, b"\0")
        else:
            codes.append("i")
            words += _words_of(index(constant))
    return codes, words


def join_name(kernel: str, dtypes: tuple[np.dtype | None, ...], constants: list[str]) -> str:
    """The name of a kernel for arrays of these dtypes (None for one that it is not given) and constants."""
    arrays = ("none" if dtype is None else dtype_code(dtype) for dtype in dtypes)
    return "__".join((kernel, "_".join(arrays), "_".join(constants)))


def split_name(name: str) -> tuple[str, list[str | None], list[str]]:
    """The kernel, the codes of its arrays (None for one that it is not given) and of its constants."""
    kernel, arrays, constants = name.split("__")
    return kernel, [None if code == "none" else code for code in arrays.split("_")], constants.split("_")
