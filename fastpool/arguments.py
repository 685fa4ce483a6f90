"""Arguments as exactly ints, strings and tuples of these, or an error that names the argument and what came."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

import numpy as np

LARGEST_SIZE = 2**62  # of an axis, or of anything that is counted
LAYOUTS = ("channels_first", "channels_last")


def shown(value: Any) -> str:
    """`repr(value)` for a message, or its type where it has none: Python refuses to write integers of many digits."""
    try:
        return repr(value)
    except Exception:
        return f"an object of type {type(value).__name__}"


def integer(name: str, value: Any) -> int:
    """`value` as exactly an int of at most 64 bits, or an error that names it."""
    if type(value) is int:
        if value.bit_length() > 64:  # whose digits Python may refuse to write
            raise ValueError(f"{name} is too large: an integer of {value.bit_length()} bits")
        return value
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {shown(value)}") from None
    return integer(name, value)


def flag(name: str, value: Any) -> bool:
    """`value` as exactly a bool: a bool of Python's or NumPy's, or the integer 0 or 1."""
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (int, np.integer)) and operator.index(value) in (0, 1):
        return operator.index(value) == 1
    raise TypeError(f"{name} must be True or False, got {shown(value)}")


def positive(name: str, value: Any) -> int:
    """`value` as exactly an int above 0."""
    value = integer(name, value)
    if value < 1:
        raise ValueError(f"{name} must be positive, got {value}")
    return value


def finite(name: str, value: Any) -> float:
    """`value` as exactly a float that is neither infinite nor NaN."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = inf
    if not isfinite(number):
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    return number


MOST_NESTED = 3  # sequences within each other


def frozen(name: str, value: Any, nested: int = 0) -> Any:
    """What a plan may be looked up by: exactly int, str or None, or a tuple of these; else a TypeError that names it.

    Objects of other types may change, or have an `__eq__` of their own, and so cannot be keys of a cache.
    """
    if value is None or type(value) is int:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iu":
            raise TypeError(f"{name} must hold integers, got an array of {value.dtype}")
        value = value.tolist()
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"{name} must hold integers, got {type(value).__name__}")
    if isinstance(value, Sequence):
        if nested == MOST_NESTED:
            raise TypeError(f"{name} must hold integers, got sequences nested more than {MOST_NESTED} deep")
        each = tuple.__iter__(value) if isinstance(value, tuple) else value
        nests = (Sequence, np.ndarray)
        return tuple(frozen(name, v, nested + 1) if isinstance(v, nests) else integer(name, v) for v in each)
    return integer(name, value)


def one_of(name: str, value: Any, words: tuple[str, ...]) -> str:
    """`value` as exactly a str, which must be one of these words."""
    if isinstance(value, str):
        word = value if type(value) is str else str.__str__(value)
        if word in words:
            return word
    *others, last = map(repr, words)
    raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {shown(value)}")


def check_layout(data_format: Any) -> str:
    return one_of("data_format", data_format, LAYOUTS)


def check_shape(name: str, shape: Any) -> tuple[int, ...]:
    """A shape as a tuple of ints, none negative."""
    if isinstance(shape, tuple):
        # As it mostly is, PyTorch's torch.Size too: ten times as fast. A subclass may give other elements each time.
        shape = shape if type(shape) is tuple else (*tuple.__iter__(shape),)
        if {*map(type, shape)} == {int} and min(shape) >= 0 and max(shape) < 1 << 63:
            return shape
    elif not isinstance(shape, (Sequence, np.ndarray)):
        raise TypeError(f"{name} must be a tuple of integers, got {shown(shape)}")
    shape = frozen(name, shape)
    if not isinstance(shape, tuple):
        raise TypeError(f"{name} must be a tuple of integers, got {shown(shape)}")
    sizes = tuple(integer(name, n) for n in shape)
    if any(n < 0 for n in sizes):
        raise ValueError(f"{name} must not be negative in any axis, got {sizes}")
    return sizes


def frozen_window(
    kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any, data_format: Any
) -> tuple[Any, Any, Any, Any, bool, str]:
    """The arguments of a pool as `frozen` returns them, by which plans and windows are looked up."""
    if not (
        type(kernel_size) is type(padding) is type(dilation) is int
        and (stride is None or type(stride) is int)
        and type(data_format) is str
    ):  # one integer for all axes, the usual case, needs no call
        kernel_size, stride = frozen("kernel_size", kernel_size), frozen("stride", stride)
        padding, dilation = frozen("padding", padding), frozen("dilation", dilation)
        data_format = check_layout(data_format)
    if ceil_mode is not True and ceil_mode is not False:
        ceil_mode = flag("ceil_mode", ceil_mode)
    return kernel_size, stride, padding, dilation, ceil_mode, data_format


def frozen_output_size(output_size: Any) -> Any:
    """As `frozen` returns it; a sequence may hold None."""
    if isinstance(output_size, (tuple, list)):
        return tuple(None if size is None else integer("output_size", size) for size in output_size)
    return frozen("output_size", output_size)


def required_stride(stride: Any) -> Any:
    """The stride of columns and convolutions, whose default is 1. None would mean kernel_size, as in pools."""
    if stride is None:
        raise TypeError("stride must be one integer or one for each axis, got None")
    return stride


def for_each_axis(
    name: str, value: Any, axes: int, rule: str = "one integer or {}, one for each axis"
) -> tuple[Any, ...]:
    """One value for all axes, or a tuple of one for each; a ValueError states the `rule` with the number of axes."""
    each = value if isinstance(value, tuple) else (value,) * axes
    if len(each) != axes:
        raise ValueError(f"{name} must be {rule.format(axes)}, got {value!r}")
    return each


def per_axis(name: str, value: Any, axes: int, least: int) -> tuple[int, ...]:
    """One int for all axes or one for each, none below `least`."""
    sizes = tuple(integer(name, v) for v in for_each_axis(name, value, axes))
    if min(sizes) < least:
        rule = "positive" if least == 1 else "0 or more"
        raise ValueError(f"{name} must be {rule} in every axis, got {value!r}")
    if max(sizes) > LARGEST_SIZE:
        raise ValueError(f"{name} is too large for any array, got {value!r}")
    return sizes


def pad_pairs(padding: Any, axes: int) -> tuple[tuple[int, int], ...]:
    """Padding (before, after) for each axis, from everything but the strings."""
    if isinstance(padding, tuple) and any(isinstance(p, tuple) for p in padding):
        if len(padding) != axes or not all(isinstance(p, tuple) and len(p) == 2 for p in padding):
            raise ValueError(f"padding must hold a (before, after) pair for each of the {axes} axes, got {padding!r}")
        flat = per_axis("padding", sum(padding, ()), 2 * axes, 0)
        return tuple(zip(flat[::2], flat[1::2], strict=True))
    return tuple((p, p) for p in per_axis("padding", padding, axes, 0))


def check_padding_word(padding: str) -> None:
    if padding not in ("valid", "same", "same_lower"):
        raise ValueError(f"padding must be 'valid', 'same', 'same_lower' or integers, got {padding!r}")
