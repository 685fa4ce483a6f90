"""How kernels see dtypes: bool as uint8, and the two-byte floats as int16 with a tag that tells them apart."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from fastpool._rules import half_key
from fastpool.backends.numba.encoding import Empty
from fastpool.dtypes import is_bfloat16, is_half, lowest, sum_dtype

# The bits of +inf. See `simd/half.py`.
FLOAT16_FORMAT, BFLOAT16_FORMAT = np.int16(0x7C00), np.int16(0x7F80)


class KernelDtype(NamedTuple):
    half_format: np.int16 | None  # of a two-byte float
    lowest: np.generic  # the lowest value, as kernels compare it
    sums: Empty  # of the dtype that gradients are added up in


@cache
def seen_by_kernels(dtype: np.dtype) -> KernelDtype:
    value, sums = np.array([lowest(dtype)], dtype), Empty(np.dtype(sum_dtype(dtype)))
    if dtype.kind == "b":
        return KernelDtype(None, np.uint8(0), sums)
    if not is_half(dtype):
        return KernelDtype(None, value[0], sums)
    half_format = BFLOAT16_FORMAT if is_bfloat16(dtype) else FLOAT16_FORMAT
    return KernelDtype(half_format, np.int16(half_key(value.view(np.int16)[0], half_format)), sums)
