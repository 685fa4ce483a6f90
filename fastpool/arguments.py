"""Arguments as exactly ints, strings and tuples of these, or an error that names the argument and what came."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

LAYOUTS = ("channels_first", "channels_last")


def integer(name: str, value: Any) -> int:
    """`value` as exactly an int, or a TypeError that names it."""
    if type(value) is int:
        return value
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def positive(name: str, value: Any) -> int:
    """`value` as exactly an int above 0."""
    value = integer(name, value)
    if value < 1:
        raise ValueError(f"{name} must be positive, got {value}")
    return value


def frozen(name: str, value: Any) -> Any:
    """What a plan may be looked up by: exactly int, str or None, or a tuple of these; else a TypeError that names it.

    Anything else that equals an integer may change, or equal another one, between two calls.
    """
    if value is None or type(value) is int:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Sequence):
        return tuple(frozen(name, v) if isinstance(v, (Sequence, np.ndarray)) else integer(name, v) for v in value)
    return integer(name, value)


def one_of(name: str, value: Any, words: tuple[str, ...]) -> str:
    """`value` as exactly a str, which must be one of these words."""
    if isinstance(value, str):
        word = value if type(value) is str else str.__str__(value)
        if word in words:
            return word
    *others, last = map(repr, words)
    raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


def check_layout(data_format: Any) -> str:
    return one_of("data_format", data_format, LAYOUTS)


def check_shape(name: str, shape: Any) -> tuple[int, ...]:
    """A shape as a tuple of ints, none negative."""
    # As it mostly is, PyTorch's torch.Size too: ten times as fast.
    if isinstance(shape, tuple) and {*map(type, shape)} == {int} and min(shape) >= 0:
        return shape if type(shape) is tuple else tuple(shape)
    shape = frozen(name, shape)
    if not isinstance(shape, tuple):
        raise TypeError(f"{name} must be a tuple of integers, got {shape!r}")
    sizes = tuple(integer(name, n) for n in shape)
    if any(n < 0 for n in sizes):
        raise ValueError(f"{name} must not be negative in any axis, got {sizes}")
    return sizes
