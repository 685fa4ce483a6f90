"""How kernels see dtypes: bool as uint8, and the two-byte floats as int16 with a tag that tells them apart."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from fastpool._rules import half_key
from fastpool.backends.numba.encoding import DtypeOnly
from fastpool.dtypes import half_format, lowest, sum_dtype


class KernelDtype(NamedTuple):
    half_format: np.int16 | None  # of a two-byte float
    lowest: np.generic  # the lowest value, as kernels compare it
    sums: DtypeOnly  # of the dtype that gradients are added up in


@cache
def seen_by_kernels(dtype: np.dtype) -> KernelDtype:
    value, sums = np.array([lowest(dtype)], dtype), DtypeOnly(np.dtype(sum_dtype(dtype)))
    if dtype.kind == "b":
        return KernelDtype(None, np.uint8(0), sums)
    bits = half_format(dtype)
    if bits is None:
        return KernelDtype(None, value[0], sums)
    return KernelDtype(np.int16(bits), np.int16(half_key(value.view(np.int16)[0], np.int16(bits))), sums)
