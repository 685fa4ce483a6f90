"""The public functions on Dask arrays: graphs of calls on their chunks.

Along each axis an output chunk is known by the cells that it is made of, the padding around them, and how much of what
the call gives is its own: a `Span`. So every window is computed once, in one chunk, from exactly the cells it covers;
chunks pass on what others need of them and no more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise, product
from math import isnan, prod
from operator import getitem
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.array.core import concatenate3, normalize_chunks
from dask.array.utils import meta_from_array
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

import fastpool as fp
from fastpool import arrays
from fastpool.activation import INPUTS
from fastpool.arguments import check_shape
from fastpool.backends import check_name, chosen
from fastpool.dtypes import native
from fastpool.maxout import check_grouping, checked_axis, checked_units, units_of
from fastpool.pool_plans import ARGMAX
from fastpool.threads import at_most
from fastpool.window import Window, global_window

if getattr(da, "array_expr_enabled", bool)():
    raise NotImplementedError(
        "fastpool makes graphs for Dask arrays, not expressions; set Dask's option array.query-planning to False"
    )

Cells = tuple[int, int]


class Span(NamedTuple):
    """What one output chunk is along one axis."""

    size: int
    """How many cells of the result."""
    takes: tuple[tuple[int, slice | None], ...]
    """Which chunks of the source it is made of, and which part of each; None for all of it."""
    padding: Cells = (0, 0)
    """Before and after what it takes."""
    cells: int = 0
    """How many cells of the input of the forward pass the block of a gradient has."""
    begin: int = 0
    """Where the result begins in what the call gives."""


def _read(name: str, x: Any, floats_only: bool = False) -> Any:
    """A Dask array that may be computed with, else an error."""
    if not isinstance(x, da.Array):
        kind = f"{type(x).__module__}.{type(x).__qualname__}"
        raise TypeError(f"{name} must be a Dask array as the other input is, got {kind}; see dask.array.from_array")
    arrays.read(name, x._meta, floats_only)
    if any(isnan(n) for n in x.shape):
        raise ValueError(f"{name} has chunks of unknown size, shape {x.shape}; call {name}.compute_chunk_sizes() first")
    return x


def _expect(name: str, x: Any, shape: tuple[int, ...], dtype: np.dtype, of: str, other: Any) -> Any:
    """A second array, of this shape and dtype, in the chunks of the other."""
    x = _read(name, x)
    arrays.expect_shape(name, x, shape, of)
    if native(x.dtype) != dtype:
        raise TypeError(f"{name} must have the dtype {dtype} of {of}, got {x.dtype}")
    return x.rechunk(other.chunks)


def _backend(backend: str | None, out: Any) -> str | None:
    """The backend that is chosen here and now: workers know nothing of it."""
    if out is not None:
        raise TypeError("out must be None for a Dask array, which is computed later; see dask.array.store")
    name = chosen(backend)
    return None if name is None else check_name(name, "backend")


# What runs in the workers


def _call(function, arguments, keywords, crop, *blocks) -> Any:
    """A function of fastpool's on blocks, which come as chunks or as nested lists of pieces; `crop` is what is wanted.

    On one thread: Dask has threads of its own.
    """
    with at_most(1):
        result = function(*(concatenate3(b) if isinstance(b, list) else b for b in blocks), *arguments, **keywords)
    return tuple(r[crop] for r in result) if isinstance(result, tuple) else result[crop]


def _part(chunk: Any, part: tuple[slice, ...]) -> Any:
    """A copy, so that the rest of the chunk need not stay in memory."""
    return chunk[part].copy()


# Spans


def _bounds(chunks: Sequence[int]) -> list[int]:
    return [0, *accumulate(chunks)]


def _merged(chunks: Sequence[int], least: int) -> list[int]:
    """Neighbouring chunks put together until each has that many cells."""
    merged = [0]
    for size in chunks:
        if merged[-1] >= least:
            merged.append(0)
        merged[-1] += size
    if len(merged) > 1 and merged[-1] < least:
        merged[-2:] = [merged[-2] + merged[-1]]
    return merged


def _takes(chunks: Sequence[int], *ranges: Cells) -> tuple[tuple[int, slice | None], ...]:
    """The chunks in which ranges of cells lie, one range after the other, and the part of each."""
    bounds = _bounds(chunks)
    takes: list[tuple[int, slice | None]] = []
    for lo, hi in ranges:
        chunk = bisect_right(bounds, lo) - 1
        while lo < hi:
            begin, end = bounds[chunk], bounds[chunk + 1]
            part = slice(lo - begin, min(hi, end) - begin)
            if part.start < part.stop:
                takes.append((chunk, None if part == slice(0, end - begin) else part))
            lo, chunk = max(lo, min(hi, end)), chunk + 1
    return tuple(takes)


def _as_they_are(chunks: Sequence[int]) -> list[Span]:
    return [Span(size, ((i, None),), cells=size) for i, size in enumerate(chunks)]


def _along(window: Window, axis: int) -> tuple[int, int, int, int, int]:
    """Size, extent of a window, stride, padding before, and windows of one of the canonical axes."""
    n, out, before = window.size[axis], window.out[axis], window.before[axis]
    extent = window.dilation[axis] * (window.kernel[axis] - 1) + 1
    # The step of a single window is unknown here; none must fit in behind it.
    return n, extent, window.stride[axis] if out > 1 else n + before + extent, before, out


def _pooled(window: Window, axis: int, chunks: Sequence[int]) -> list[Span]:
    """Window i belongs to the chunk that has cell i * stride, or the last: chunks of the result are as chunks of x."""
    n, extent, stride, before, out = _along(window, axis)
    bounds = _bounds(_merged(chunks, max(extent, stride)))
    spans = []
    for first, end in pairwise([*(min(-(-b // stride), out) for b in bounds[:-1]), out]):
        if first == end:
            continue
        lo, hi = first * stride - before, (end - 1) * stride - before + extent
        begin, stop = max(lo, 0), min(hi, n)
        if begin >= stop:  # windows of padding alone, which may as well lie before some cell
            lo, hi, begin, stop = lo - hi, 1, 0, 1
        spans.append(Span(end - first, _takes(chunks, (begin, stop)), (begin - lo, hi - stop)))
    return spans


def _spread(window: Window, axis: int, chunks: Sequence[int]) -> list[Span]:
    """The same for the gradient, of chunks of windows: each takes all that touch it, and their other cells."""
    n, extent, stride, before, out = _along(window, axis)
    bounds = _bounds(_merged(chunks, -(-extent // stride)))
    spans = []
    for begin, stop in pairwise([*(min(b * stride, n) for b in bounds[:-1]), n]):
        if begin == stop:
            continue
        # From the first window that reaches `begin`, or, between windows, from the one before.
        touching = -(-(begin + before - extent + 1) // stride)
        first = max(min(touching, (begin + before) // stride, out - 1), 0)
        last = max(min((stop - 1 + before) // stride, out - 1), first)
        lo, hi = first * stride - before, last * stride - before + extent
        low, high = max(lo, 0), min(max(hi, stop), n)
        takes = _takes(chunks, (first, last + 1))
        spans.append(Span(stop - begin, takes, (low - lo, max(hi - high, 0)), high - low, begin - low))
    return spans


# Graphs


def _array(name: str, layer: dict[Any, Any], sources: Sequence[Any], chunks: Any, meta: Any) -> Any:
    return da.Array(HighLevelGraph.from_collections(name, layer, sources), name, chunks, meta=meta)


def _meta(like: Any, dtype: np.dtype | None = None, ndim: int | None = None) -> Any:
    """An empty array of the kind of the chunks."""
    return meta_from_array(like._meta, like.ndim if ndim is None else ndim, native(dtype or like.dtype))


def _block(source: Any, name: str, spans: Sequence[Span], layer: dict[Any, Any]) -> Any:
    """Keys of the pieces that make up a block, in nested lists; tasks that cut them out of chunks go into `layer`."""

    def nested(chunk: tuple[int, ...], parts: tuple[slice | None, ...]) -> Any:
        if len(chunk) < len(spans):
            return [nested((*chunk, i), (*parts, part)) for i, part in spans[len(chunk)].takes]
        if not any(parts):
            return (source.name, *chunk)
        ends = (f"{part.start}:{part.stop}" if part else ":" for part in parts)
        key = (name, *chunk, ",".join(ends))
        layer[key] = (_part, (source.name, *chunk), tuple(part or slice(None) for part in parts))
        return key

    block = nested((), ())
    if all(len(span.takes) == 1 for span in spans):
        for _ in spans:
            (block,) = block
    return block


def _map_spans(
    function: Callable[..., Any],
    sources: Sequence[Any],
    spans: Sequence[Sequence[Span]],
    arguments: Callable[[Sequence[Span]], tuple[Any, ...]],
    keywords: dict[str, Any],
    dtypes: Sequence[np.dtype],
) -> Any:
    """An array whose chunks `function` makes of blocks; for two dtypes two of them, y and argmax."""
    op = function.__name__
    token = tokenize(op, [s.name for s in sources], spans, arguments([axis[0] for axis in spans]), keywords)
    name, parts = f"{op}-{token}", [f"{op}-part-{i}-{token}" for i in range(len(sources))]
    chunks = tuple(tuple(span.size for span in axis) for axis in spans)
    calls: dict[Any, Any] = {}
    layer: dict[Any, Any] = {}
    for at in product(*(range(len(axis)) for axis in spans)):
        here = [axis[i] for axis, i in zip(spans, at, strict=True)]
        key = arguments(here), tuple((span.begin, span.begin + span.size) for span in here)
        if key not in calls:
            crop = tuple(slice(*ends) for ends in key[1])
            calls[key] = partial(_call, function, key[0], keywords, crop)
        layer[name, *at] = (calls[key], *(_block(s, p, here, layer) for s, p in zip(sources, parts, strict=True)))
    made = _array(name, layer, sources, chunks, _meta(sources[0], dtypes[0]))
    return made if len(dtypes) == 1 else _split(made, chunks, dtypes)


def _split(together: Any, chunks: Any, dtypes: Sequence[np.dtype]) -> tuple[Any, ...]:
    """y and argmax, of an array whose chunks are both."""
    arrays_of_each = []
    for n, (which, dtype) in enumerate(zip(("y", "argmax"), dtypes, strict=True)):
        name = f"{which}-{together.name}"
        layer = {(name, *at): (getitem, (together.name, *at), n) for at in product(*map(range, together.numblocks))}
        arrays_of_each.append(_array(name, layer, [together], chunks, _meta(together, dtype)))
    return tuple(arrays_of_each)


# Pooling


def _over_space(along: Callable[..., list[Span]], window: Window, x: Any) -> list[list[Span]]:
    space = _spatial(window)
    return [
        along(window, space[axis], chunks) if axis in space else _as_they_are(chunks)
        for axis, chunks in enumerate(x.chunks)
    ]


def _spatial(window: Window) -> dict[int, int]:
    """Which of the three canonical axes each spatial axis of the caller's array is."""
    axes = [axis for axis in range(len(window.x_shape)) if axis != window.channel_axis][-window.spatial_axes :]
    return dict(zip(axes, range(3 - len(axes), 3), strict=True))


def _of_block(window: Window, spans: Sequence[Span]) -> tuple[Any, ...]:
    """The arguments of a pool from kernel_size to dilation, for a block."""
    space = _spatial(window)
    kernel, dilation = (tuple(each[i] for i in space.values()) for each in (window.kernel, window.dilation))
    strides = tuple(_along(window, i)[2] for i in space.values())
    return kernel, strides, tuple(spans[axis].padding for axis in space), dilation


def _pool(
    pool, x, axes, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, out, backend
) -> Any:
    keywords = {"data_format": data_format, f"return_{ARGMAX[pool]}": return_argmax, "backend": _backend(backend, out)}
    x = _read("x", x)
    window = Window.plan(axes, x.shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    spans = _over_space(_pooled, window, x)
    dtypes = (x.dtype, window.argmax_dtype) if return_argmax else (x.dtype,)
    return _map_spans(getattr(fp, f"{pool}{axes}d"), [x], spans, partial(_of_block, window), keywords, dtypes)


def _pool_backward(
    pool, dy, argmax, axes, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
) -> Any:
    keywords = {"data_format": data_format, "backend": _backend(backend, out)}
    x_shape = check_shape("x_shape", x_shape)
    window = Window.plan(axes, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    dy = _read("dy", dy, floats_only=True)
    arrays.expect_shape("dy", dy, window.y_shape, "the pooled array")
    argmax = _expect(ARGMAX[pool], argmax, dy.shape, window.argmax_dtype, "this window's forward pass", dy)

    if not window.nonoverlapping:
        # The windows of a block may be where those of the whole are not: there -0.0 would stay, and not be added to 0.
        dy = dy + native(dy.dtype).type(0)

    def arguments(spans: Sequence[Span]) -> tuple[Any, ...]:
        return tuple(span.cells for span in spans), *_of_block(window, spans)

    spans = _over_space(_spread, window, dy)
    function = getattr(fp, f"{pool}{axes}d_backward")
    return _map_spans(function, [dy, argmax], spans, arguments, keywords, (dy.dtype,))


max_pool = partial(_pool, "max_pool")
min_pool = partial(_pool, "min_pool")
max_pool_backward = partial(_pool_backward, "max_pool")
min_pool_backward = partial(_pool_backward, "min_pool")


# Pooling of whole planes


def _space(of_axes: Sequence[Any], data_format: str) -> Sequence[Any]:
    return of_axes[2:] if data_format == "channels_first" else of_axes[1:-1]


def _with_space(of_axes: Sequence[Any], space: Sequence[Any], data_format: str) -> tuple[Any, ...]:
    """The batch and the channels of `of_axes` (its first and second, or last) with other spatial axes."""
    batch, channels = of_axes[0], of_axes[1] if data_format == "channels_first" else of_axes[-1]
    return (batch, channels, *space) if data_format == "channels_first" else (batch, *space, channels)


def _of_part(pool, chunk, begin, size, data_format, return_argmax, backend) -> tuple[Any, ...]:
    """The maxima of a chunk's planes, and their places in the whole planes, which are of `size`."""
    keywords = {"data_format": data_format, f"return_{ARGMAX[pool]}": return_argmax, "backend": backend}
    with at_most(1):
        found = getattr(fp, f"global_{pool}")(chunk, keepdims=True, **keywords)
    if not return_argmax:
        return (found,)
    y, argmax = found
    place: Any = 0
    left, weight = argmax.astype(np.int64), 1
    for n, first, whole_size in zip(_space(chunk.shape, data_format)[::-1], begin[::-1], size[::-1], strict=True):
        place, left, weight = place + (left % n + first) * weight, left // n, weight * whole_size
    return y, place


def _best(pool, parts: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Of the maxima of parts the largest, NaN above all; of equal ones the one whose place comes first."""
    beats = np.greater if pool == "max_pool" else np.less
    best, *places = parts[0]
    for y, *others in parts[1:]:
        nan, had_nan = y != y, best != best
        with np.errstate(invalid="ignore"):  # ml_dtypes warns where a NaN is compared
            better = (beats(y, best) | nan) & ~had_nan
        if places:
            better |= ((y == best) | (nan & had_nan)) & (others[0] < places[0])
            places = [np.where(better, others[0], places[0])]
        best = np.where(better, y, best)
    return best, *places


def _finished(pool, parts, shape, argmax_dtype) -> Any:
    y, *places = _best(pool, parts)
    if not places:
        return y.reshape(shape)
    return y.reshape(shape), places[0].astype(argmax_dtype).reshape(shape)


FAN_IN = 16


def _global_pool(pool, x, data_format, keepdims, return_argmax, out, backend) -> Any:
    backend = _backend(backend, out)
    x = _read("x", x)
    window = global_window(x.shape, data_format)
    token = tokenize(x.name, data_format, keepdims, return_argmax, backend)
    name = f"global_{pool}-{token}"
    layer: dict[Any, Any] = {}
    space = _space(x.chunks, data_format)
    starts = [_bounds(chunks) for chunks in space]
    filled = list(product(*([i for i, n in enumerate(chunks) if n] for chunks in space)))
    n_chunks, c_chunks = _with_space(x.chunks, (), data_format)
    chunks = _with_space((n_chunks, c_chunks), ((1,),) * len(space), data_format) if keepdims else (n_chunks, c_chunks)
    for i, j in product(range(len(n_chunks)), range(len(c_chunks))):
        keys = []
        for at in filled:
            keys.append((f"{name}-part", i, j, *at))
            begin = tuple(each[k] for each, k in zip(starts, at, strict=True))
            size = _space(x.shape, data_format)
            source = (x.name, *_with_space((i, j), at, data_format))
            layer[keys[-1]] = (partial(_of_part, pool), source, begin, size, data_format, return_argmax, backend)
        step = 0
        while len(keys) > FAN_IN:
            groups = [keys[k : k + FAN_IN] for k in range(0, len(keys), FAN_IN)]
            keys = [(f"{name}-best", i, j, step, k) for k in range(len(groups))]
            layer.update((key, (partial(_best, pool), group)) for key, group in zip(keys, groups, strict=True))
            step += 1
        shape = (n_chunks[i], c_chunks[j])
        at = (i, j)
        if keepdims:
            shape = _with_space(shape, (1,) * len(space), data_format)
            at = _with_space(at, (0,) * len(space), data_format)
        layer[name, *at] = (partial(_finished, pool), keys, shape, window.argmax_dtype)
    made = _array(name, layer, [x], chunks, _meta(x, ndim=len(chunks)))
    return _split(made, chunks, (x.dtype, window.argmax_dtype)) if return_argmax else made


def _to_part(pool, dy, argmax, shape, begin, size, data_format, backend) -> Any:
    """The gradient of one part of the planes, which has this shape."""
    if isinstance(argmax, np.ndarray) and argmax.size and argmax.max() >= prod(size):
        raise ValueError(
            f"{ARGMAX[pool]} must be below {prod(size)}, the cells of a plane of {size}, got {argmax.max()}"
        )
    part = _space(shape, data_format)
    place: Any = 0
    inside: Any = True
    left, weight = argmax.astype(np.int64), 1
    for n, first, whole_size in zip(part[::-1], begin[::-1], size[::-1], strict=True):
        at = left % whole_size - first
        inside, place = inside & (at >= 0) & (at < n), place + at * weight
        left, weight = left // whole_size, weight * n
    window = global_window(shape, data_format)
    dy = np.where(inside, dy, dy.dtype.type(0)).reshape(window.y_shape)
    place = np.where(inside, place, 0).astype(window.argmax_dtype).reshape(window.y_shape)
    with at_most(1):
        backward = getattr(fp, f"global_{pool}_backward")
        return backward(dy, place, shape, data_format=data_format, keepdims=True, backend=backend)


def _global_pool_backward(pool, dy, argmax, x_shape, data_format, keepdims, out, backend) -> Any:
    backend = _backend(backend, out)
    x_shape = check_shape("x_shape", x_shape)
    window = global_window(x_shape, data_format)
    dy = _read("dy", dy, floats_only=True)
    y_shape = window.y_shape if keepdims else (window.batch, window.channels)
    arrays.expect_shape("dy", dy, y_shape, "the pooled array")
    argmax = _expect(ARGMAX[pool], argmax, dy.shape, window.argmax_dtype, "this window's forward pass", dy)
    n_chunks, c_chunks = _with_space(dy.chunks, (), data_format) if keepdims else dy.chunks
    size = _space(x_shape, data_format)
    dtype = native(dy.dtype)
    planes = max(n_chunks) or 1, max(c_chunks) or 1  # of a chunk; an empty one tells nothing of its size
    auto = normalize_chunks((*planes, *("auto",) * len(size)), (*planes, *size), dtype=dtype)[2:]
    chunks = _with_space((n_chunks, c_chunks), auto, data_format)
    name = f"global_{pool}_backward-{tokenize(dy.name, argmax.name, x_shape, data_format, backend)}"
    layer = {}
    starts = [_bounds(each) for each in _space(chunks, data_format)]
    for at in product(*(range(len(each)) for each in chunks)):
        shape = tuple(each[i] for each, i in zip(chunks, at, strict=True))
        space = _space(at, data_format)
        begin = tuple(each[i] for each, i in zip(starts, space, strict=True))
        source = _with_space(at, (0,) * len(space) if keepdims else (), data_format)
        of_source = (dy.name, *source), (argmax.name, *source)
        layer[name, *at] = (partial(_to_part, pool), *of_source, shape, begin, size, data_format, backend)
    return _array(name, layer, [dy, argmax], chunks, _meta(dy, ndim=len(chunks)))


global_max_pool = partial(_global_pool, "max_pool")
global_min_pool = partial(_global_pool, "min_pool")
global_max_pool_backward = partial(_global_pool_backward, "max_pool")
global_min_pool_backward = partial(_global_pool_backward, "min_pool")


# Maxout


def maxout(x, num_units, axis, grouping, return_argmax, out, backend) -> Any:
    backend = _backend(backend, out)
    x = _read("x", x)
    axis = checked_axis(axis, "x", x.shape)
    check_grouping(grouping)
    num_units = checked_units(num_units, x.shape[axis])
    pieces = x.shape[axis] // num_units
    window = Window.maxout(x.shape, num_units, axis, grouping)
    spans = [_as_they_are(chunks) for chunks in x.chunks]
    # A unit belongs to the chunk that has its first piece.
    contiguous = grouping == "contiguous"
    bounds = [-(-b // pieces) if contiguous else min(b, num_units) for b in _bounds(x.chunks[axis])]
    spans[axis] = [
        Span(end - first, _takes(x.chunks[axis], *_of_units(first, end, num_units, pieces, grouping)))
        for first, end in pairwise(bounds)
        if first < end
    ]

    def arguments(here: Sequence[Span]) -> tuple[Any, ...]:
        return here[axis].size, axis

    keywords = {"grouping": grouping, "return_argmax": return_argmax, "backend": backend}
    dtypes = (x.dtype, window.argmax_dtype) if return_argmax else (x.dtype,)
    return _map_spans(fp.maxout, [x], spans, arguments, keywords, dtypes)


def _of_units(first: int, end: int, num_units: int, pieces: int, grouping: str) -> list[Cells]:
    """Where the pieces of some units are."""
    if grouping == "contiguous":
        return [(first * pieces, end * pieces)]
    return [(first + piece * num_units, end + piece * num_units) for piece in range(pieces)]


def maxout_backward(dy, argmax, x_shape, axis, grouping, out, backend) -> Any:
    backend = _backend(backend, out)
    x_shape = check_shape("x_shape", x_shape)
    axis = checked_axis(axis, "x_shape", x_shape)
    check_grouping(grouping)
    dy = _read("dy", dy, floats_only=True)
    units = units_of(dy.shape, x_shape, axis)
    pieces = x_shape[axis] // units
    window = Window.maxout(x_shape, units, axis, grouping)
    argmax = _expect("argmax", argmax, dy.shape, window.argmax_dtype, "the forward pass", dy)
    spans = [_as_they_are(chunks) for chunks in dy.chunks]
    spans[axis] = [span._replace(size=span.size * pieces, cells=span.size * pieces) for span in spans[axis]]

    def arguments(here: Sequence[Span]) -> tuple[Any, ...]:
        return tuple(span.cells for span in here), axis

    keywords = {"grouping": grouping, "backend": backend}
    dx = _map_spans(fp.maxout_backward, [dy, argmax], spans, arguments, keywords, (dy.dtype,))
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
            layer[name, *where] = (_part, (dx.name, *at), tuple(part))
    return _array(name, layer, [dx], (*dx.chunks[:axis], chunks * pieces, *dx.chunks[axis + 1 :]), _meta(dx))


# Activations


def _elementwise_call(*blocks, op, extra, backend) -> Any:
    with at_most(1):
        return getattr(fp, op)(*blocks, *extra, backend=backend)


def _elementwise(op: str, *arguments: Any) -> Any:
    """Of (*inputs, *options, out, backend)."""
    names = INPUTS[op]
    given, (*options, out, backend) = arguments[: len(names)], arguments[len(names) :]
    backend = _backend(backend, out)
    x = _read(names[-1], given[-1], floats_only=True)
    others = [
        _expect(name, a, x.shape, native(x.dtype), names[-1], x) for name, a in zip(names[:-1], given[:-1], strict=True)
    ]
    axes = tuple(range(x.ndim))
    operands = [part for each in (*others, x) for part in (each, axes)]
    keywords = {"op": op, "extra": tuple(options), "backend": backend}
    name = f"{op}-{tokenize(keywords, [a.name for a in (*others, x)])}"
    return da.blockwise(_elementwise_call, axes, *operands, name=name, meta=_meta(x), align_arrays=False, **keywords)


hard_swish, hard_swish_backward, swish, swish_backward = (partial(_elementwise, op) for op in INPUTS)
