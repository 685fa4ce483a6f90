"""Max, min and average pools of Dask arrays whose windows slide at a stride, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import dask.array as da

import fastpool as fp
from fastpool import arrays
from fastpool.arguments import check_shape
from fastpool.average_plans import AVG_POOL_BLOCK, AVG_POOL_BLOCK_BACKWARD
from fastpool.calls import call
from fastpool.dtypes import native
from fastpool.integrations.dask.lazy.graphs import backend_name, expect, map_spans, read
from fastpool.integrations.dask.lazy.spans import Cells, Span, along, as_they_are, pool_gradient_spans, pool_spans
from fastpool.masked_pooling import check_mask
from fastpool.pool_plans import ARGMAX
from fastpool.window import Divisors, Window, sliding_window


def over_space(along_axis: Callable[..., list[Span]], window: Window, x: Any) -> list[list[Span]]:
    space = spatial(window)
    return [
        along_axis(window, space[axis], chunks) if axis in space else as_they_are(chunks)
        for axis, chunks in enumerate(x.chunks)
    ]


def spatial(window: Window) -> dict[int, int]:
    """Which of the three canonical axes each spatial axis of the caller's array is."""
    axes = [axis for axis in range(len(window.x_shape)) if axis != window.channel_axis][-window.spatial_axes :]
    return dict(zip(axes, range(3 - len(axes), 3), strict=True))


def _of_block(window: Window, spans: Sequence[Span]) -> tuple[Any, ...]:
    """The arguments of a pool from kernel_size to dilation, for a block."""
    space = spatial(window)
    kernel, dilation = (tuple(each[i] for i in space.values()) for each in (window.kernel, window.dilation))
    strides = tuple(along(window, i)[2] for i in space.values())
    return kernel, strides, tuple(spans[axis].padding for axis in space), dilation


# Maxima and minima


def _pool(
    pool, x, axes, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, out, backend
) -> Any:
    window = kernel_size, stride, padding, dilation, ceil_mode, data_format
    return _masked_pool(pool, x, axes, *window, return_argmax, "propagate", None, out, backend)


def _masked_pool(
    pool,
    x,
    axes,
    kernel_size,
    stride,
    padding,
    dilation,
    ceil_mode,
    data_format,
    return_argmax,
    nan,
    where,
    out,
    backend,
) -> Any:
    """Of the cells that count: `where` is None, or an array whose shape broadcasts to that of x."""
    keywords = {"data_format": data_format, f"return_{ARGMAX[pool]}": return_argmax, "nan": nan}
    keywords["backend"] = backend_name(backend, out)
    x = read("x", x)
    window = Window.plan(axes, x.shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    sources = [x]
    if where is not None:
        where = read("where", where)
        check_mask(where, x.shape)
        sources.append(da.broadcast_to(where, x.shape).rechunk(x.chunks))
    spans = over_space(pool_spans, window, x)
    dtypes = (x.dtype, window.argmax_dtype) if return_argmax else (x.dtype,)
    op = f"{pool}{axes}d"
    function = getattr(fp, op) if where is None else partial(_call_with_mask, op)
    return map_spans(op, function, sources, spans, partial(_of_block, window), keywords, dtypes)


def _call_with_mask(op: str, x: Any, where: Any, *arguments: Any, **keywords: Any) -> Any:
    return getattr(fp, op)(x, *arguments, where=where, **keywords)


def _pool_backward(
    pool, dy, argmax, axes, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
) -> Any:
    keywords = {"data_format": data_format, "backend": backend_name(backend, out)}
    x_shape = check_shape("x_shape", x_shape)
    window = Window.plan(axes, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    dy = read("dy", dy, floats_only=True)
    arrays.expect_shape("dy", dy, window.y_shape, "the pooled array")
    argmax = expect(ARGMAX[pool], argmax, dy.shape, window.argmax_dtype, "this window's forward pass", dy)

    if not window.nonoverlapping:
        # The windows of a block may be where those of the whole are not: there -0.0 would stay, and not be added to 0.
        dy = dy + native(dy.dtype).type(0)

    def arguments(spans: Sequence[Span]) -> tuple[Any, ...]:
        return tuple(span.cells for span in spans), *_of_block(window, spans)

    spans = over_space(pool_gradient_spans, window, dy)
    op = f"{pool}{axes}d_backward"
    return map_spans(op, getattr(fp, op), [dy, argmax], spans, arguments, keywords, (dy.dtype,))


max_pool = partial(_pool, "max_pool")
min_pool = partial(_pool, "min_pool")
masked_max_pool = partial(_masked_pool, "max_pool")
masked_min_pool = partial(_masked_pool, "min_pool")
max_pool_backward = partial(_pool_backward, "max_pool")
min_pool_backward = partial(_pool_backward, "min_pool")


# Averages


def _block_of_averages(window: Window, divisors: Divisors, data_format: str, spans: Sequence[Span]) -> tuple[Any, ...]:
    """The windows of a block, and which of its cells count, in its padding too."""
    kernel, strides, padding, _ = _of_block(window, spans)

    def counted(axis: int, i: int) -> Cells:
        # No further than the padding, so that blocks in the middle are all the same.
        span = spans[axis]
        before, after = span.padding
        return max(divisors.begin[i] - span.origin, -before), min(divisors.end[i] - span.origin, span.cells + after)

    return (kernel, strides, padding, 1, False, data_format), tuple(counted(*each) for each in spatial(window).items())


def _average_block(x: Any, window: Any, counted: Any, *, axes: int, override: int, backend: str | None) -> Any:
    return call(AVG_POOL_BLOCK, (x,), (axes, window, counted, override), None, backend)


def _average_block_backward(
    dy: Any, x_shape: Any, window: Any, counted: Any, *, axes: int, override: int, backend: str | None
) -> Any:
    return call(AVG_POOL_BLOCK_BACKWARD, (dy,), (axes, x_shape, window, counted, override), None, backend)


def avg_pool(x, axes, window, count_include_pad, divisor_override, out, backend) -> Any:
    backend = backend_name(backend, out)
    x = read("x", x, floats_only=True)
    windows = sliding_window(axes, x.shape, *window)
    divisors = windows.divisors(count_include_pad, divisor_override)
    arguments = partial(_block_of_averages, windows, divisors, window[-1])
    keywords = {"axes": axes, "override": divisors.override, "backend": backend}
    spans = over_space(pool_spans, windows, x)
    return map_spans(f"avg_pool{axes}d", _average_block, [x], spans, arguments, keywords, (x.dtype,))


def avg_pool_backward(dy, axes, x_shape, window, count_include_pad, divisor_override, out, backend) -> Any:
    backend = backend_name(backend, out)
    windows = sliding_window(axes, x_shape, *window, "x_shape")
    dy = read("dy", dy, floats_only=True)
    arrays.expect_shape("dy", dy, windows.y_shape, "the pooled array")
    divisors = windows.divisors(count_include_pad, divisor_override)

    def arguments(spans: Sequence[Span]) -> tuple[Any, ...]:
        cells = tuple(span.cells for span in spans)
        return cells, *_block_of_averages(windows, divisors, window[-1], spans)

    keywords = {"axes": axes, "override": divisors.override, "backend": backend}
    spans = over_space(pool_gradient_spans, windows, dy)
    return map_spans(
        f"avg_pool{axes}d_backward", _average_block_backward, [dy], spans, arguments, keywords, (dy.dtype,)
    )
