"""Pools of whole planes of Dask arrays, and their gradients: of each chunk, and then of what the chunks gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from math import prod
from typing import Any

import numpy as np
from dask.array.core import normalize_chunks
from dask.base import tokenize

import fastpool as fp
from fastpool import arrays
from fastpool.arguments import check_shape
from fastpool.dtypes import native, sum_dtype
from fastpool.integrations.dask.lazy.graphs import array, backend_name, expect, meta_of, read, split
from fastpool.integrations.dask.lazy.places import at_coordinates, coordinates_of
from fastpool.integrations.dask.lazy.spans import bounds_of
from fastpool.pool_plans import ARGMAX
from fastpool.threads import at_most
from fastpool.window import global_window

FAN_IN = 16


def _space(of_axes: Sequence[Any], data_format: str) -> Sequence[Any]:
    return of_axes[2:] if data_format == "channels_first" else of_axes[1:-1]


def _with_space(of_axes: Sequence[Any], space: Sequence[Any], data_format: str) -> tuple[Any, ...]:
    """The batch and the channels of `of_axes` (its first and second, or last) with other spatial axes."""
    batch, channels = of_axes[0], of_axes[1] if data_format == "channels_first" else of_axes[-1]
    return (batch, channels, *space) if data_format == "channels_first" else (batch, *space, channels)


# Graphs


def _reduced(
    op: str,
    x: Any,
    data_format: str,
    keepdims: bool,
    of_part: Callable[..., Any],
    merged: Callable[[list[Any]], Any],
    finished: Callable[..., Any],
    options: tuple[Any, ...],
) -> Any:
    """An array whose chunks are made of all parts of their planes, of which `FAN_IN` are merged at a time.

    `of_part` takes a chunk and where it begins in its planes, `merged` a list of what that gave, and `finished` such a
    list and the shape of the chunk to make. `op` and the `options` tell what is computed.
    """
    name = f"{op}-{tokenize(x.name, data_format, keepdims, options)}"
    layer: dict[Any, Any] = {}
    space = _space(x.chunks, data_format)
    starts = [bounds_of(chunks) for chunks in space]
    filled = list(product(*([i for i, n in enumerate(chunks) if n] for chunks in space)))
    n_chunks, c_chunks = _with_space(x.chunks, (), data_format)
    chunks = _with_space((n_chunks, c_chunks), ((1,),) * len(space), data_format) if keepdims else (n_chunks, c_chunks)
    for i, j in product(range(len(n_chunks)), range(len(c_chunks))):
        keys = []
        for at in filled:
            keys.append((f"{name}-part", i, j, *at))
            begin = tuple(each[k] for each, k in zip(starts, at, strict=True))
            layer[keys[-1]] = (of_part, (x.name, *_with_space((i, j), at, data_format)), begin)
        step = 0
        while len(keys) > FAN_IN:
            groups = [keys[k : k + FAN_IN] for k in range(0, len(keys), FAN_IN)]
            keys = [(f"{name}-merged", i, j, step, k) for k in range(len(groups))]
            layer.update((key, (merged, group)) for key, group in zip(keys, groups, strict=True))
            step += 1
        shape = (n_chunks[i], c_chunks[j])
        at = (i, j)
        if keepdims:
            shape = _with_space(shape, (1,) * len(space), data_format)
            at = _with_space(at, (0,) * len(space), data_format)
        layer[name, *at] = (finished, keys, shape)
    return array(name, layer, [x], chunks, meta_of(x, ndim=len(chunks)))


def _spread(
    op: str,
    sources: Sequence[Any],
    x_shape: tuple[int, ...],
    data_format: str,
    keepdims: bool,
    to_part: Callable[..., Any],
    options: tuple[Any, ...],
) -> Any:
    """An array of `x_shape`, each chunk of which is made of those of `sources` that have a cell for each plane of it.

    `to_part` takes these, the shape of the chunk, and where it begins in its planes.
    """
    dy = sources[0]
    n_chunks, c_chunks = _with_space(dy.chunks, (), data_format) if keepdims else dy.chunks
    size = _space(x_shape, data_format)
    planes = max(n_chunks) or 1, max(c_chunks) or 1  # of a chunk; an empty one tells nothing of its size
    auto = normalize_chunks((*planes, *("auto",) * len(size)), (*planes, *size), dtype=native(dy.dtype))[2:]
    chunks = _with_space((n_chunks, c_chunks), auto, data_format)
    name = f"{op}-{tokenize([s.name for s in sources], x_shape, data_format, options)}"
    layer = {}
    starts = [bounds_of(each) for each in _space(chunks, data_format)]
    for at in product(*(range(len(each)) for each in chunks)):
        shape = tuple(each[i] for each, i in zip(chunks, at, strict=True))
        space = _space(at, data_format)
        begin = tuple(each[i] for each, i in zip(starts, space, strict=True))
        source = _with_space(at, (0,) * len(space) if keepdims else (), data_format)
        layer[name, *at] = (to_part, *((s.name, *source) for s in sources), shape, begin)
    return array(name, layer, sources, chunks, meta_of(dy, ndim=len(chunks)))


# Maxima and minima


def _maxima_of_part(pool, size, data_format, return_argmax, backend, chunk, begin) -> tuple[Any, ...]:
    """The maxima of a chunk's planes, and their places in the whole planes, which are of `size`."""
    keywords = {"data_format": data_format, f"return_{ARGMAX[pool]}": return_argmax, "backend": backend}
    with at_most(1):
        found = getattr(fp, f"global_{pool}")(chunk, keepdims=True, **keywords)
    if not return_argmax:
        return (found,)
    y, argmax = found
    coordinates = coordinates_of(argmax, _space(chunk.shape, data_format))
    return y, at_coordinates([c + first for c, first in zip(coordinates, begin, strict=True)], size)


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


def _finished_maxima(pool, argmax_dtype, parts, shape) -> Any:
    y, *places = _best(pool, parts)
    if not places:
        return y.reshape(shape)
    return y.reshape(shape), places[0].astype(argmax_dtype).reshape(shape)


def _global_pool(pool, x, data_format, keepdims, return_argmax, out, backend) -> Any:
    backend = backend_name(backend, out)
    x = read("x", x)
    window = global_window(x.shape, data_format)
    of_part = partial(_maxima_of_part, pool, _space(x.shape, data_format), data_format, return_argmax, backend)
    finished = partial(_finished_maxima, pool, window.argmax_dtype)
    options = return_argmax, backend
    made = _reduced(f"global_{pool}", x, data_format, keepdims, of_part, partial(_best, pool), finished, options)
    if not return_argmax:
        return made
    return split(made, made.chunks, (x.dtype, window.argmax_dtype), ("y", "argmax"))


def _maxima_to_part(pool, size, data_format, backend, dy, argmax, shape, begin) -> Any:
    """The gradient of one part of the planes, which has this shape."""
    if isinstance(argmax, np.ndarray) and argmax.size and argmax.max() >= prod(size):
        raise ValueError(
            f"{ARGMAX[pool]} must be below {prod(size)}, the cells of a plane of {size}, got {argmax.max()}"
        )
    part = _space(shape, data_format)
    coordinates = [c - first for c, first in zip(coordinates_of(argmax, size), begin, strict=True)]
    inside: Any = True
    for c, n in zip(coordinates, part, strict=True):
        inside = inside & (c >= 0) & (c < n)
    window = global_window(shape, data_format)
    place = np.where(inside, at_coordinates(coordinates, part), 0)
    dy = np.where(inside, dy, dy.dtype.type(0)).reshape(window.y_shape)
    place = place.astype(window.argmax_dtype).reshape(window.y_shape)
    with at_most(1):
        backward = getattr(fp, f"global_{pool}_backward")
        return backward(dy, place, shape, data_format=data_format, keepdims=True, backend=backend)


def _global_pool_backward(pool, dy, argmax, x_shape, data_format, keepdims, out, backend) -> Any:
    backend = backend_name(backend, out)
    x_shape = check_shape("x_shape", x_shape)
    window = global_window(x_shape, data_format)
    dy = read("dy", dy, floats_only=True)
    y_shape = window.y_shape if keepdims else (window.batch, window.channels)
    arrays.expect_shape("dy", dy, y_shape, "the pooled array")
    argmax = expect(ARGMAX[pool], argmax, dy.shape, window.argmax_dtype, "this window's forward pass", dy)
    to_part = partial(_maxima_to_part, pool, _space(x_shape, data_format), data_format, backend)
    return _spread(f"global_{pool}_backward", [dy, argmax], x_shape, data_format, keepdims, to_part, (backend,))


global_max_pool = partial(_global_pool, "max_pool")
global_min_pool = partial(_global_pool, "min_pool")
global_max_pool_backward = partial(_global_pool_backward, "max_pool")
global_min_pool_backward = partial(_global_pool_backward, "min_pool")


# Averages


@np.errstate(all="ignore")
def _sums_of_part(data_format, backend, chunk, begin) -> Any:
    """The sums of a chunk's planes, in the dtype of sums."""
    space = _space(chunk.shape, data_format)
    chunk = chunk.astype(sum_dtype(native(chunk.dtype)), copy=False)
    pool = getattr(fp, f"avg_pool{len(space)}d")
    with at_most(1):
        return pool(chunk, space, divisor_override=1, data_format=data_format, backend=backend)


@np.errstate(all="ignore")
def _total(parts: list[Any]) -> Any:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


@np.errstate(all="ignore")
def _finished_averages(count, dtype, parts, shape) -> Any:
    total = _total(parts)
    return (total / total.dtype.type(count)).astype(dtype, copy=False).reshape(shape)


def global_avg_pool(x, data_format, keepdims, out, backend) -> Any:
    backend = backend_name(backend, out)
    x = read("x", x, floats_only=True)
    count = global_window(x.shape, data_format).volume
    of_part = partial(_sums_of_part, data_format, backend)
    finished = partial(_finished_averages, count, native(x.dtype))
    return _reduced("global_avg_pool", x, data_format, keepdims, of_part, _total, finished, (backend,))


def _averages_to_part(count, data_format, backend, dy, shape, begin) -> Any:
    """The gradient of one part of the planes: the same in all cells of a plane."""
    space = _space(shape, data_format)
    dy = dy.reshape(global_window(shape, data_format).y_shape)
    backward = getattr(fp, f"avg_pool{len(space)}d_backward")
    with at_most(1):
        return backward(dy, shape, space, divisor_override=count, data_format=data_format, backend=backend)


def global_avg_pool_backward(dy, x_shape, data_format, keepdims, out, backend) -> Any:
    backend = backend_name(backend, out)
    window = global_window(x_shape, data_format, "x_shape")
    dy = read("dy", dy, floats_only=True)
    y_shape = window.y_shape if keepdims else (window.batch, window.channels)
    arrays.expect_shape("dy", dy, y_shape, "the pooled array")
    to_part = partial(_averages_to_part, window.volume, data_format, backend)
    return _spread("global_avg_pool_backward", [dy], x_shape, data_format, keepdims, to_part, (backend,))
