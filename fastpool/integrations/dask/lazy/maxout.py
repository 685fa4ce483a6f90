"""Maxout of Dask arrays, and its gradient: a chunk of units takes the pieces of each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import fastpool as fp
from fastpool.arguments import check_shape
from fastpool.integrations.dask.lazy.graphs import array, backend_name, expect, map_spans, meta_of, part_of, read
from fastpool.integrations.dask.lazy.spans import Cells, Span, as_they_are, bounds_of, takes
from fastpool.maxout import check_grouping, checked_axis, checked_units, units_of
from fastpool.window import Window


def maxout(x, num_units, axis, grouping, return_argmax, out, backend) -> Any:
    backend = backend_name(backend, out)
    x = read("x", x)
    axis = checked_axis(axis, "x", x.shape)
    check_grouping(grouping)
    num_units = checked_units(num_units, x.shape[axis])
    pieces = x.shape[axis] // num_units
    window = Window.maxout(x.shape, num_units, axis, grouping)
    spans = [as_they_are(chunks) for chunks in x.chunks]
    # A unit belongs to the chunk that has its first piece.
    contiguous = grouping == "contiguous"
    bounds = [-(-b // pieces) if contiguous else min(b, num_units) for b in bounds_of(x.chunks[axis])]
    spans[axis] = [
        Span(end - first, takes(x.chunks[axis], *_of_units(first, end, num_units, pieces, grouping)))
        for first, end in pairwise(bounds)
        if first < end
    ]

    def arguments(here: Sequence[Span]) -> tuple[Any, ...]:
        return here[axis].size, axis

    keywords = {"grouping": grouping, "return_argmax": return_argmax, "backend": backend}
    dtypes = (x.dtype, window.argmax_dtype) if return_argmax else (x.dtype,)
    return map_spans("maxout", fp.maxout, [x], spans, arguments, keywords, dtypes)


def _of_units(first: int, end: int, num_units: int, pieces: int, grouping: str) -> list[Cells]:
    """Where the pieces of some units are."""
    if grouping == "contiguous":
        return [(first * pieces, end * pieces)]
    return [(first + piece * num_units, end + piece * num_units) for piece in range(pieces)]


def maxout_backward(dy, argmax, x_shape, axis, grouping, out, backend) -> Any:
    backend = backend_name(backend, out)
    x_shape = check_shape("x_shape", x_shape)
    axis = checked_axis(axis, "x_shape", x_shape)
    check_grouping(grouping)
    dy = read("dy", dy, floats_only=True)
    units = units_of(dy.shape, x_shape, axis)
    pieces = x_shape[axis] // units
    window = Window.maxout(x_shape, units, axis, grouping)
    argmax = expect("argmax", argmax, dy.shape, window.argmax_dtype, "the forward pass", dy)
    spans = [as_they_are(chunks) for chunks in dy.chunks]
    spans[axis] = [span._replace(size=span.size * pieces, cells=span.size * pieces) for span in spans[axis]]

    def arguments(here: Sequence[Span]) -> tuple[Any, ...]:
        return tuple(span.cells for span in here), axis

    keywords = {"grouping": grouping, "backend": backend}
    dx = map_spans("maxout_backward", fp.maxout_backward, [dy, argmax], spans, arguments, keywords, (dy.dtype,))
    chunks = dy.chunks[axis]
    if grouping == "contiguous" or len(chunks) == 1:
        return dx
    # Each chunk has all pieces of its units, which belong apart.
    name = f"pieces-{dx.name}"
    layer = {}
    for at in product(*(range(len(each)) for each in dx.chunks)):
        for piece in range(pieces):
            part = [slice(None)] * dx.ndim
            part[axis] = slice(piece * chunks[at[axis]], (piece + 1) * chunks[at[axis]])
            where = (*at[:axis], at[axis] + piece * len(chunks), *at[axis + 1 :])
            layer[name, *where] = (part_of, (dx.name, *at), tuple(part))
    return array(name, layer, [dx], (*dx.chunks[:axis], chunks * pieces, *dx.chunks[axis + 1 :]), meta_of(dx))
