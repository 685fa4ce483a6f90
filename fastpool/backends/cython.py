"""Columns compiled ahead of time, and pooling over columns: no JIT, and nothing to install but NumPy.

Pooling gathers the columns of a block of windows at a time, so that they stay in the cache, and lets tap after
tap take over the maximum.
"""

from __future__ import annotations

from math import prod

import numpy as np

from fastpool.arrays import boxes, is_bfloat16, is_half, lowest, sum_dtype
from fastpool.backends import _columns
from fastpool.backends.numpy import argmax_fits as argmax_fits

BLOCK_BYTES = 512 * 1024
SHORTEST_RUN = 4096  # cells of a block: with fewer, windows of many taps would be copied in crumbs


def _bits(a):
    """An array seen as unsigned integers of its width, for kernels that only move or wrap around."""
    return a.view(f"u{a.itemsize}")


def _planes(a):
    """(outer, D, H, W, inner) as (outer, cells, inner)."""
    return a.reshape(a.shape[0], prod(a.shape[1:4]), a.shape[4])


def _geometry(window):
    """The window's numbers as the kernels take them."""
    return np.array(window.numbers, np.int64)


def _geometry_of(window, positions):
    """The geometry of a box of windows: those of a whole axis start earlier by what lies before the box."""
    geometry = _geometry(window)
    _, _, stride, before, _, out = geometry.reshape(6, 3)
    start = np.array([p.start for p in positions])
    before -= start * stride
    out[:] = [p.stop for p in positions] - start
    return geometry


def max_pool(x, window, y, argmax):
    low, half = lowest(x.dtype), is_half(x.dtype)
    infinity = 0x7F80 if is_bfloat16(x.dtype) else 0x7C00
    low_bits = int(_bits(np.asarray(low)))
    numbers = np.int16 if half else np.uint8 if x.dtype.kind == "b" else x.dtype

    source = np.moveaxis(_bits(x), 4, 1)
    inner = x.shape[4]
    cells = min(max(BLOCK_BYTES // (window.volume * x.itemsize), SHORTEST_RUN, inner), y.size)
    taps = min(max(BLOCK_BYTES // max(cells * x.itemsize, 1), 1), window.volume)
    room = np.empty(taps * cells, numbers)
    for box in boxes(y.shape[:4], cells // max(inner, 1)):
        outer, *positions = box
        geometry = _geometry_of(window, positions)
        best = y[box]
        shape, best = best.shape, best.view(numbers).reshape(-1)
        y[box] = low
        if half:
            _columns.half_keys(best, infinity)
        if argmax is not None:
            argmax[box] = window.first_cells(*positions)[..., None] if any(window.leaves_input) else 0
            winner = argmax[box].reshape(-1)

        for tap in range(0, window.volume, taps):
            count = min(taps, window.volume - tap)
            flat = room[: count * best.size]
            cols = flat.reshape(count, *shape)
            _columns.gather(source[outer], geometry, low_bits, _bits(cols).transpose(1, 5, 0, 2, 3, 4), tap)
            if half:
                _columns.half_keys(flat, infinity)
            cols = flat.reshape(count, -1)
            if argmax is None:
                _columns.take_maximum(cols, best)
            else:
                _columns.take_maximum_and_offset(cols, tap, best, winner)
        if half:
            _columns.half_bits(best)


def max_pool_backward(dy, argmax, window, dx):
    kd, kh, kw = (np.arange(k) * d for k, d in zip(window.kernel, window.dilation, strict=True))
    _, height, width = window.size
    reach = ((kd[:, None, None] * height + kh[:, None]) * width + kw).reshape(-1)
    planes = _planes(dx)
    if not is_half(dx.dtype):
        _columns.scatter(dy, argmax, _geometry(window), reach, planes)
        return
    plane = max(prod(dx.shape[1:]) * 4, 1)
    for (some,) in boxes(dx.shape[:1], max(BLOCK_BYTES // plane, 1)):
        total = np.empty(planes[some].shape, np.float32)
        _columns.scatter(dy[some].astype(np.float32), argmax[some], _geometry(window), reach, total)
        planes[some] = total


def max_unpool(y, indices, x, *, clear=True):
    if clear:
        x[...] = 0
    _columns.put(_planes(_bits(y)), _planes(indices), _planes(_bits(x)))


def _grouped(x, cols, window):
    """x as [group, lane, d, h, w] beside columns as [group, lane, tap, d, h, w]: views, in one part or one an image.

    What lies inside the rows becomes the lanes: images for columns in order "gemm", else the channels where they
    are last in `x`.
    """
    n, c = window.batch, window.channels
    images_inside = cols.strides[0] < cols.strides[3]
    channels_inside = x.shape[4] > 1
    merging = cols.strides[0] == c * cols.strides[1]
    cols = cols.reshape(n, c, window.volume, *window.out)
    x = np.moveaxis(x, 4, 1) if channels_inside else x.reshape(n, c, *window.size)
    if images_inside:
        yield x.swapaxes(0, 1), cols.swapaxes(0, 1)
    elif channels_inside:
        yield x, cols
    elif merging:
        yield x.reshape(n * c, 1, *window.size), cols.reshape(n * c, 1, window.volume, *window.out)
    else:
        yield from zip(x[:, :, None], cols[:, :, None], strict=True)


def im2col(x, window, fill_value, cols, *, fresh=True):
    fill_bits = int(_bits(np.asarray(fill_value, x.dtype)))
    for part, its_cols in _grouped(_bits(x), _bits(cols), window):
        _columns.gather(part, _geometry(window), fill_bits, its_cols)


def col2im(cols, window, dx):
    half = is_half(dx.dtype)
    if dx.dtype.kind in "iu":
        cols, dx = _bits(cols), _bits(dx)
    for x, its_cols in _grouped(dx, cols, window):
        if not half:
            _columns.add_up(its_cols, _geometry(window), x)
            continue
        for box in boxes(x.shape[:2], max(BLOCK_BYTES // (window.volume * window.positions * 4), 1)):
            total = np.empty(x[box].shape, sum_dtype(dx.dtype))
            _columns.add_up(its_cols[box].astype(total.dtype), _geometry(window), total)
            x[box] = total
