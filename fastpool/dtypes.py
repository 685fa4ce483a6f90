"""Which dtypes are supported, and what depends on the dtype: the lowest value, the dtype of sums, the format."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpool._rules import BFLOAT16_FORMAT, FLOAT16_FORMAT

_NATIVE = {np.dtype(t) for t in "?bBhHiIlLqQefd"}


def supported(dtype: np.dtype) -> bool:
    """bool, all integers, float16, bfloat16, float32 and float64, in either byte order."""
    # newbyteorder raises for NumPy's newer dtypes, such as strings.
    return dtype in _NATIVE or is_bfloat16(dtype) or (dtype.kind in "iuf" and dtype.newbyteorder("=") in _NATIVE)


def is_bfloat16(dtype: np.dtype) -> bool:
    """ml_dtypes' bfloat16, recognised by its name so that ml_dtypes need not be imported."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def is_float(dtype: np.dtype) -> bool:
    """One of the four floating dtypes: the ones with gradients."""
    return (dtype.kind == "f" and dtype.itemsize in (2, 4, 8)) or is_bfloat16(dtype)


def is_half(dtype: np.dtype) -> bool:
    """A two-byte float, whose sums are made in float32."""
    return is_float(dtype) and dtype.itemsize == 2


def half_format(dtype: np.dtype) -> int | None:
    """The bits of +inf of a two-byte float, which tell kernels the format; None for all else. See `_rules.py`."""
    if not is_half(dtype):
        return None
    return BFLOAT16_FORMAT if is_bfloat16(dtype) else FLOAT16_FORMAT


def sum_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype in which values of `dtype` are added up."""
    return np.dtype(np.float32) if is_half(dtype) else dtype


def lowest(dtype: np.dtype) -> Any:
    """The lowest value of a dtype, which is the maximum of a window of padding alone."""
    if is_float(dtype):
        return dtype.type(-np.inf)
    return np.False_ if dtype.kind == "b" else dtype.type(np.iinfo(dtype).min)


def highest(dtype: np.dtype) -> Any:
    """The highest value of a dtype, which is the minimum of a window of padding alone."""
    if is_float(dtype):
        return dtype.type(np.inf)
    return np.True_ if dtype.kind == "b" else dtype.type(np.iinfo(dtype).max)


def native(dtype: np.dtype) -> np.dtype:
    """NumPy's own dtype of this type: in native byte order, and without the metadata that somebody may have added."""
    return np.dtype(dtype.type)
