"""Adaptive pools of Dask arrays and their gradients: an output chunk takes the cells of its windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastpool as fp
from fastpool import arrays
from fastpool.adaptive_average_plans import ADAPTIVE_AVG_POOL_BLOCK, ADAPTIVE_AVG_POOL_BLOCK_BACKWARD
from fastpool.calls import call
from fastpool.integrations.dask.lazy import pools
from fastpool.integrations.dask.lazy.graphs import backend_name, map_spans, read
from fastpool.integrations.dask.lazy.places import at_coordinates, coordinates_of
from fastpool.integrations.dask.lazy.spans import Span, table_gradient_spans, table_spans
from fastpool.table_plans import (
    ADAPTIVE_MAX_POOL_BLOCK,
    adaptive_tables,
    output_sizes,
    planes_of_shape,
    planes_of_shapes,
    sliding,
)
from fastpool.window import Window
from fastpool.window_tables import Table

Tables = tuple[Table, Table, Table]


def _spans(of_tables: Callable[..., list[Span]], planes: Window, tables: Tables, x: Any) -> list[list[Span]]:
    return pools.over_space(lambda _, axis, chunks: of_tables(tables[axis], chunks), planes, x)


def _of_space(planes: Window, spans: Sequence[Span]) -> list[Span]:
    return [spans[axis] for axis in pools.spatial(planes)]


def _tables_of_block(planes: Window, spans: Sequence[Span]) -> Any:
    return tuple(span.table for span in _of_space(planes, spans))


def _window_at_stride(planes: Window, tables: Tables, data_format: str) -> Any:
    """The arguments of the pool by a stride that averages are made by, if the windows of the whole slide by one."""
    if sliding(planes, tables, data_format) is None:
        return None
    axes = tables[-planes.spatial_axes :]
    return tuple(t.shortest for t in axes), tuple(t.stride for t in axes), 0, 1, False, data_format


# Maxima


def _max_block(x, tables, origin, *, axes, size, data_format, return_indices, backend) -> Any:
    """A block of the windows of the tables, whose first cell is at `origin` in planes of `size`."""
    found = call(ADAPTIVE_MAX_POOL_BLOCK, (x,), (axes, tables, data_format, return_indices), None, backend)
    if not return_indices:
        return found
    y, indices = found
    space = planes_of_shape(axes, x.shape, data_format).size[-axes:]
    coordinates = zip(coordinates_of(indices, space), origin, strict=True)
    return y, at_coordinates([c + first for c, first in coordinates], size)


def adaptive_max_pool(x, axes, output_size, data_format, return_indices, out, backend) -> Any:
    backend = backend_name(backend, out)
    x = read("x", x)
    planes = planes_of_shape(axes, x.shape, data_format)
    tables = adaptive_tables(planes.size, output_sizes(planes, output_size))

    def arguments(spans: Sequence[Span]) -> tuple[Any, ...]:
        # Without indices, blocks in the middle are all the same.
        origin = tuple(span.origin for span in _of_space(planes, spans)) if return_indices else None
        return _tables_of_block(planes, spans), origin

    keywords = {"axes": axes, "size": planes.size[-axes:], "data_format": data_format}
    keywords |= {"return_indices": return_indices, "backend": backend}
    dtypes = (x.dtype, np.dtype(np.int64)) if return_indices else (x.dtype,)
    spans, op = _spans(table_spans, planes, tables, x), f"adaptive_max_pool{axes}d"
    return map_spans(op, _max_block, [x], spans, arguments, keywords, dtypes, ("y", "indices"))


def _max_block_backward(dy, indices, x_shape, tables, origin, *, axes, size, data_format, backend) -> Any:
    """The gradient of a block of cells, from all windows that hold one of them."""
    planes, out = planes_of_shapes(axes, x_shape, dy.shape, data_format)
    coordinates = [c - first for c, first in zip(coordinates_of(indices, size), origin, strict=True)]
    inside: Any = (indices >= 0) & (indices < np.prod(size, dtype=np.int64))
    for axis, c, (begin, end) in zip(pools.spatial(out), coordinates, tables, strict=True):
        shape = [-1 if a == axis else 1 for a in range(dy.ndim)]
        inside &= (c >= np.reshape(begin, shape)) & (c < np.reshape(end, shape))
    if not inside.all():
        got = indices[~inside][0]
        raise ValueError(f"indices must be positions in their windows, in planes of {size}, got {got} in another place")
    indices = at_coordinates(coordinates, planes.size[-axes:])
    backward = getattr(fp, f"adaptive_max_pool{axes}d_backward")
    return backward(dy, indices, x_shape, data_format=data_format, backend=backend)


def adaptive_max_pool_backward(dy, indices, axes, x_shape, data_format, out, backend) -> Any:
    backend = backend_name(backend, out)
    dy, indices = read("dy", dy, floats_only=True), read("indices", indices)
    planes, out_planes = planes_of_shapes(axes, x_shape, dy.shape, data_format)
    tables = adaptive_tables(planes.size, out_planes.size[-axes:])
    if indices.dtype.kind not in "iu":
        raise TypeError(f"indices must be integers, got {indices.dtype}")
    arrays.expect_shape("indices", indices, dy.shape, "the pooled array")

    def arguments(spans: Sequence[Span]) -> tuple[Any, ...]:
        cells, origin = tuple(span.cells for span in spans), tuple(span.origin for span in _of_space(planes, spans))
        return cells, _tables_of_block(planes, spans), origin

    keywords = {"axes": axes, "size": planes.size[-axes:], "data_format": data_format, "backend": backend}
    sources, spans = [dy, indices.rechunk(dy.chunks)], _spans(table_gradient_spans, planes, tables, dy)
    op = f"adaptive_max_pool{axes}d_backward"
    return map_spans(op, _max_block_backward, sources, spans, arguments, keywords, (dy.dtype,))


# Averages


def _avg_block(x, tables, *, axes, data_format, backend) -> Any:
    return call(ADAPTIVE_AVG_POOL_BLOCK, (x,), (axes, tables, data_format), None, backend)


def adaptive_avg_pool(x, axes, output_size, data_format, out, backend) -> Any:
    x = read("x", x, floats_only=True)
    planes = planes_of_shape(axes, x.shape, data_format)
    tables = adaptive_tables(planes.size, output_sizes(planes, output_size))
    window = _window_at_stride(planes, tables, data_format)
    if window is not None:
        return pools.avg_pool(x, axes, window, False, None, out, backend)
    keywords = {"axes": axes, "data_format": data_format, "backend": backend_name(backend, out)}

    def arguments(spans: Sequence[Span]) -> tuple[Any, ...]:
        return (_tables_of_block(planes, spans),)

    spans, op = _spans(table_spans, planes, tables, x), f"adaptive_avg_pool{axes}d"
    return map_spans(op, _avg_block, [x], spans, arguments, keywords, (x.dtype,))


def _avg_block_backward(dy, x_shape, tables, *, axes, data_format, backend) -> Any:
    return call(ADAPTIVE_AVG_POOL_BLOCK_BACKWARD, (dy,), (axes, x_shape, tables, data_format), None, backend)


def adaptive_avg_pool_backward(dy, axes, x_shape, data_format, out, backend) -> Any:
    dy = read("dy", dy, floats_only=True)
    planes, out_planes = planes_of_shapes(axes, x_shape, dy.shape, data_format)
    tables = adaptive_tables(planes.size, out_planes.size[-axes:])
    window = _window_at_stride(planes, tables, data_format)
    if window is not None:
        return pools.avg_pool_backward(dy, axes, x_shape, window, False, None, out, backend)
    keywords = {"axes": axes, "data_format": data_format, "backend": backend_name(backend, out)}

    def arguments(spans: Sequence[Span]) -> tuple[Any, ...]:
        return tuple(span.cells for span in spans), _tables_of_block(planes, spans)

    spans, op = _spans(table_gradient_spans, planes, tables, dy), f"adaptive_avg_pool{axes}d_backward"
    return map_spans(op, _avg_block_backward, [dy], spans, arguments, keywords, (dy.dtype,))
