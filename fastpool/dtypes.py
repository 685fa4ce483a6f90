"""Which dtypes are supported, and what depends on them: extreme values, the dtype of sums, which numbers one holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpool._rules import BFLOAT16_FORMAT, FLOAT16_FORMAT
from fastpool.arguments import shown

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


def number_held(name: str, dtype: np.dtype, value: Any) -> Any:
    """A number as one of this dtype, or a ValueError that names the argument.

    A Python float is rounded to a floating dtype, as in NumPy's arithmetic; all else must keep its value.
    """
    if type(value) is int and value == 0:
        return dtype.type(0)
    try:
        array = np.asarray(value)
    except ValueError:  # nested sequences of several lengths
        array = np.empty(0)
    held = _held(array, dtype, value) if array.ndim == 0 and supported(array.dtype) else None
    if held is None:
        advice = f"; float({name}) would be rounded" if is_float(dtype) and type(value) is not float else ""
        raise ValueError(f"{name} must be a number that {dtype} holds, got {shown(value)}{advice}")
    return held


def _held(given: np.ndarray, dtype: np.dtype, value: Any) -> Any:
    """A number as one of this dtype; None if it would overflow, or be rounded without being a Python float."""
    number = float(given) if is_float(given.dtype) else int(given)
    if not is_float(dtype):
        least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        return dtype.type(int(number)) if least <= number <= most and int(number) == number else None
    with np.errstate(all="ignore"):
        rounded = given.astype(dtype)[()]
    if isinstance(value, float) and not isinstance(value, np.generic):
        return rounded if np.isfinite(rounded) or not np.isfinite(number) else None
    return rounded if float(rounded) == number or number != number else None
