"""Sliding filters of Dask arrays: each chunk is extended by what its windows reach, filtered, and cut out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

import fastpool as fp
from fastpool.borders import Reach
from fastpool.dtypes import native, number_held
from fastpool.filter_plans import elements_of, filtered_axes, reaches_of, spread
from fastpool.filters import moving_dtype, moving_windows
from fastpool.integrations.dask.lazy.graphs import backend_name, map_spans, meta_of, read
from fastpool.integrations.dask.lazy.spans import Span, as_they_are, reach_spans


def _spans(x: Any, reaches: dict[int, Reach]) -> list[list[Span]]:
    return [
        reach_spans(reaches[axis], chunks) if axis in reaches else as_they_are(chunks)
        for axis, chunks in enumerate(x.chunks)
    ]


def _no_arguments(spans: Sequence[Span]) -> tuple[Any, ...]:
    return ()


def _filter(op: str, x, size, footprint, mode, origin, axes, cval, out, backend) -> Any:
    """`footprint` holds the elements of a footprint of the shape `size` as bits; it is None for a box."""
    backend = backend_name(backend, out)
    x = read("input", x)
    axes = filtered_axes("axes", axes, x.ndim)
    elements = None if footprint is None else elements_of(footprint, size)
    if elements is not None:
        spread(elements, axes, x.ndim)  # raises for another number of axes
    reaches = reaches_of(x.shape, axes, size, mode, origin)
    if any(reach.mode == "constant" for reach in reaches.values()):
        number_held("cval", native(x.dtype), cval)
    if elements is None or elements.all():
        elements, reaches = None, {axis: _without_border(reach) for axis, reach in reaches.items()}
    sizes = tuple(reach.window for reach in reaches.values())
    keywords = {
        "size": sizes if elements is None else None,
        "footprint": elements,
        # What lies beyond other borders is in the blocks. Windows that leave them are cut off.
        "mode": tuple("constant" if reach.mode == "constant" else "nearest" for reach in reaches.values()),
        "cval": cval,
        "origin": tuple(reach.before - reach.window // 2 for reach in reaches.values()),
        "axes": axes,
        "backend": backend,
    }
    return map_spans(op, getattr(fp, op), [x], _spans(x, reaches), _no_arguments, keywords, (x.dtype,))


def _without_border(reach: Reach) -> Reach:
    """The windows of a box that have the same extremes without what lies beyond the borders, where there are any."""
    if reach.size == 0 or reach.mode == "constant" or not reach.needs_no_border:
        return reach
    return reach.inside._replace(mode="nearest")


maximum_filter = partial(_filter, "maximum_filter")
minimum_filter = partial(_filter, "minimum_filter")


def _moving(op: str, x, window, min_count, axis, nan, backend) -> Any:
    x = read("x", x)
    axes, windows, least, nan = moving_windows(x.shape, window, min_count, axis, nan)
    reaches = {a: Reach(x.shape[a], w - 1, 0, "nearest") for a, w in zip(axes, windows, strict=True)}
    keywords = {"window": windows, "min_count": least, "axis": axes, "nan": nan, "backend": backend_name(backend, None)}
    return map_spans(op, getattr(fp, op), [x], _spans(x, reaches), _no_arguments, keywords, (moving_dtype(x.dtype),))


moving_max = partial(_moving, "moving_max")
moving_min = partial(_moving, "moving_min")


@np.errstate(all="ignore")  # inf - inf, and overflow
def _difference(a: Any, b: Any) -> Any:
    return np.bitwise_xor(a, b) if a.dtype.kind == "b" else np.subtract(a, b)


def difference(a, b, like) -> Any:
    """Of two arrays, in the chunks of one of them; of bools, where they differ."""
    a, b = a.rechunk(like.chunks), b.rechunk(like.chunks)
    axes = tuple(range(like.ndim))
    name = f"difference-{tokenize(a.name, b.name)}"
    return da.blockwise(_difference, axes, a, axes, b, axes, name=name, meta=meta_of(like), align_arrays=False)
