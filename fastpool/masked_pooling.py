"""Pooling of the cells that count: those that a mask names, or that are not NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastpool import arrays
from fastpool.dtypes import highest, is_float, lowest, native
from fastpool.out import delivered


def masked_pool(
    op: str, pool: Callable[[np.ndarray, bool], Any], x: Any, nan: str, where: Any, return_argmax: bool, out: Any
) -> Any:
    """The pool "max" or "min" of `x`, by `pool`, which takes an array and whether to return the argmax.

    Cells that do not count are replaced by the value that no other loses to. Where that value is the result, the first
    cell that counts has it, too: it is where the maximum of the mask is.
    """
    original, x = x, arrays.in_main_memory("x", arrays.read("x", x), "pooled with a mask or along any axes")
    counts = _counts(x, nan, where)
    if counts is None:
        return delivered(_tuple(pool(x, return_argmax)), out, (x,), original)
    dtype = native(x.dtype)
    worst = lowest(dtype) if op == "max" else highest(dtype)
    y, *argmax = _tuple(pool(np.where(counts, x, np.asarray(worst, dtype)), return_argmax))
    any_counts, *first = _tuple(pool(counts, return_argmax) if op == "max" else _any(pool, counts, return_argmax))
    if argmax:
        np.copyto(argmax[0], first[0], where=y == worst)
    if is_float(dtype):
        y[~any_counts] = np.nan
    return delivered((y, *argmax), out, (x,) if where is None else (x, counts), original)


def _any(pool: Callable[[np.ndarray, bool], Any], counts: np.ndarray, return_argmax: bool) -> Any:
    """As a pool of maxima of `counts`, by one of minima."""
    none, *first = _tuple(pool(~counts, return_argmax))
    return (~none, *first)


def _tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def _counts(x: np.ndarray, nan: str, where: Any) -> np.ndarray | None:
    """Which cells count, of the shape of `x`; None if all do."""
    counts = None
    if nan == "ignore" and is_float(x.dtype):
        counts = ~np.isnan(x)
    if where is None:
        return counts
    mask = arrays.in_main_memory("where", arrays.read("where", where), "a mask")
    check_mask(mask, x.shape)
    mask = np.broadcast_to(mask, x.shape)
    return mask if counts is None else counts & mask


def check_mask(mask: Any, shape: tuple[int, ...]) -> None:
    """Refuse a mask of another dtype than bool, or one that does not broadcast to the shape of x."""
    if mask.dtype != np.bool_:
        raise TypeError(f"where must hold bool, got {mask.dtype}")
    pairs = zip(mask.shape[::-1], shape[::-1], strict=False)
    if mask.ndim > len(shape) or not all(n in (1, whole) for n, whole in pairs):
        raise ValueError(f"where must have a shape that broadcasts to that of x, {shape}, got {mask.shape}")
