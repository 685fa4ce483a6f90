"""Columns compiled ahead of time, and pooling over columns: no JIT, and nothing to install but NumPy.

Pooling gathers the columns of a block of windows at a time, so that they stay in the cache, and lets tap after
tap take over the maximum.
"""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np

from fastpool._rules import after_last_tap, after_last_window, first_tap, first_window, windows_with_tap
from fastpool.backends import _columns
from fastpool.backends._passes import run_passes as run_passes
from fastpool.backends.numpy import argmax_fits as argmax_fits
from fastpool.dtypes import half_format, highest, is_half, lowest
from fastpool.forms import boxes

BLOCK_BYTES = 512 * 1024
SHORTEST_RUN = 4096  # cells of a block: with fewer, windows of many taps would be copied in crumbs

# Sums of two-byte floats that are made at once, in float32, and gradients that are added to them at once.
MOST_SUMS = 1 << 18

# Windows whose first cells, several int64 each, are calculated at once.
MOST_FIRST_CELLS = 1 << 16

# Taps that a table holds; where those of a larger window are is calculated.
MOST_TABULATED = 1 << 16


def _bits(a):
    """An array seen as unsigned integers of its width, for kernels that only move or wrap around."""
    return a.view(f"u{a.itemsize}")


def _planes(a):
    """(outer, D, H, W, inner) as (outer, cells, inner)."""
    return a.reshape(a.shape[0], prod(a.shape[1:4]), a.shape[4])


def _geometry(window):
    """`Window.geometry` as the kernels take it."""
    return np.array(window.geometry, np.int64)


def _geometry_of(window, positions):
    """The geometry of a box of windows: those of a whole axis start earlier by what lies before the box."""
    geometry = _geometry(window)
    _, _, stride, before, _, out = geometry.reshape(6, 3)
    start = np.array([p.start for p in positions])
    before -= start * stride
    out[:] = [p.stop for p in positions] - start
    return geometry


def max_pool(x, window, y, argmax):
    _pool(x, window, y, argmax, lowest(x.dtype), minimum=False)


def min_pool(x, window, y, argmin):
    _pool(x, window, y, argmin, highest(x.dtype), minimum=True)


def _pool(x, window, y, offsets, padding, minimum):
    bits_of_infinity, nan_key = half_format(x.dtype), -0x8000 if minimum else 0x7FFF
    half = bits_of_infinity is not None
    padding_bits = int(_bits(np.asarray(padding)))
    key_dtype = np.int16 if half else np.uint8 if x.dtype.kind == "b" else x.dtype

    source = np.moveaxis(_bits(x), 4, 1)
    padded = offsets is not None and any(window.any_leaves_input)
    cells = min(max(BLOCK_BYTES // (window.volume * x.itemsize), SHORTEST_RUN), y.size)
    cells = min(cells, MOST_FIRST_CELLS) if padded else cells
    taps = min(max(BLOCK_BYTES // max(cells * x.itemsize, 1), 1), window.volume)
    scratch = np.empty(taps * cells, key_dtype)
    for box in boxes(y.shape, cells):
        outer, *positions, inner = box
        geometry = _geometry_of(window, positions)
        best = y[box]
        shape, best = best.shape, best.view(key_dtype).reshape(-1)
        y[box] = padding
        if half:
            _columns.half_keys(best, bits_of_infinity, nan_key)
        if offsets is not None:
            offsets[box] = window.first_cells(*positions)[..., None] if padded else 0
            winner = offsets[box].reshape(-1)

        for tap in range(0, window.volume, taps):
            count = min(taps, window.volume - tap)
            flat = scratch[: count * best.size]
            cols = flat.reshape(count, *shape)
            _columns.gather(source[outer, inner], geometry, padding_bits, _bits(cols).transpose(1, 5, 0, 2, 3, 4), tap)
            if half:
                _columns.half_keys(flat, bits_of_infinity, nan_key)
            cols = flat.reshape(count, -1)
            if offsets is None:
                _columns.take_best(cols, best, minimum)
            else:
                _columns.take_best_and_offset(cols, tap, best, winner, minimum)
        if half:
            _columns.half_bits(best)


def max_pool_backward(dy, argmax, window, dx):
    table = _cells_from_first(window)
    if not is_half(dx.dtype):
        dx[...] = 0
        _columns.scatter(dy, argmax, _geometry(window), table, _planes(dx))
        return
    _, height, width = window.size
    for box in boxes(dx.shape, MOST_SUMS):
        outer, *cells, inner = box
        total = np.zeros(dx[box].shape, np.float32)
        first_cell = (cells[0].start * height + cells[1].start) * width + cells[2].start
        for windows in _windows_on(cells, window, MOST_SUMS // (total.shape[0] * total.shape[4])):
            some = (outer, *windows, inner)
            _columns.scatter(
                dy[some].astype(np.float32, order="C"),
                np.ascontiguousarray(argmax[some]),
                _geometry_of(window, windows),
                table,
                _planes(total),
                first_cell,
            )
        with np.errstate(all="ignore"):
            dx[box] = total


def _cells_from_first(window):
    """How many cells of a plane each tap of a window is after its first; nothing for windows of many taps."""
    if window.volume > MOST_TABULATED:
        return np.empty(0, np.int64)
    kd, kh, kw = (np.arange(k) * d for k, d in zip(window.kernel, window.dilation, strict=True))
    _, height, width = window.size
    return ((kd[:, None, None] * height + kh[:, None]) * width + kw).reshape(-1)


def _windows_on(cells, window, most):
    """All windows that can cover some of these cells, in their order: boxes of at most `most`."""
    covering = _covering(cells, window)
    for box in boxes(tuple(len(windows) for windows in covering), max(most, 1)):
        yield [slice(at.start + w.start, at.stop + w.start) for at, w in zip(box, covering, strict=True)]


def _covering(cells, window):
    """The windows along each axis that can cover some of these cells."""
    axes = zip(cells, window.kernel, window.stride, window.before, window.dilation, window.out, strict=True)
    return [
        range(first_window(at.start, (k - 1) * d + 1, s, before), after_last_window(at.stop - 1, s, before, out))
        for at, k, s, before, d, out in axes
    ]


def max_unpool(y, indices, x):
    _columns.put(_planes(_bits(y)), _planes(indices), _planes(_bits(x)))


def _by_channels(x, window):
    """x as [image, channel, d, h, w]: a view."""
    return np.moveaxis(x, 4, 1) if x.shape[4] > 1 else x.reshape(window.batch, window.channels, *window.size)


def _grouped(x, cols, window):
    """x as [group, lane, d, h, w] beside columns as [group, lane, tap, d, h, w]: views, in one part or one an image.

    What lies inside the rows becomes the lanes: images for columns in order "gemm", else the channels where they
    are last in `x`.
    """
    n, c = window.batch, window.channels
    images_last = cols.strides[0] < cols.strides[3]
    channels_last = x.shape[4] > 1
    merging = cols.strides[0] == c * cols.strides[1]
    cols = cols.reshape(n, c, window.volume, *window.out)
    x = _by_channels(x, window)
    if images_last:
        yield x.swapaxes(0, 1), cols.swapaxes(0, 1)
    elif channels_last:
        yield x, cols
    elif merging:
        yield x.reshape(n * c, 1, *window.size), cols.reshape(n * c, 1, window.volume, *window.out)
    else:
        yield from zip(x[:, :, None], cols[:, :, None], strict=True)


def _contiguous_last(x, cols, window):
    """As `_grouped`, with the geometry, and with taps and positions of columns in the places of each other for rows.

    A geometry that has them so describes the same cells: taps are then what is contiguous, or are with their channels.
    The last window comes first, so that a cell is still the sum of its taps in their order.
    """
    geometry, (_, channel_step, tap_step, position_step) = _geometry(window), cols.strides
    if min(channel_step, tap_step) >= position_step:
        for part, its_cols in _grouped(x, cols, window):
            yield part, its_cols, geometry
        return
    size, kernel, stride, before, dilation, out = geometry.reshape(6, 3)
    cols = cols.swapaxes(2, 3)[:, :, ::-1].reshape(window.batch, window.channels, window.positions, *window.kernel)
    yield (
        _by_channels(x, window),
        cols,
        np.concatenate([size, out, dilation, before - (out - 1) * stride, -stride, kernel]),
    )


def im2col(x, window, fill_value, cols, *, fresh=True):
    fill_bits = int(_bits(np.asarray(fill_value, x.dtype)))
    for part, its_cols, geometry in _contiguous_last(_bits(x), _bits(cols), window):
        _columns.gather(part, geometry, fill_bits, its_cols)


def col2im(cols, window, dx):
    if is_half(dx.dtype):
        for x, its_cols in _grouped(dx, cols, window):
            _add_up_halves(its_cols, window, x)
        return
    if dx.dtype.kind in "iu":
        cols, dx = _bits(cols), _bits(dx)
    for x, its_cols, geometry in _contiguous_last(dx, cols, window):
        _columns.add_up(its_cols, geometry, x)


@np.errstate(all="ignore")
def _add_up_halves(cols, window, x):
    """As `_columns.add_up`, in tiles whose sums are made in float32: tap by tap, or window by window if they are fewer.

    The sums are the same: of the windows on a cell, those with earlier taps there are the later ones.
    """
    cols = cols.reshape(*cols.shape[:2], *window.kernel, *window.out)
    for box in boxes(x.shape, MOST_SUMS):
        group, lane, *cells = box
        total = np.zeros(x[box].shape, np.float32)
        covering = _covering(cells, window)
        if window.volume <= prod(map(len, covering)):
            for tap in np.ndindex(window.kernel):
                windows, covered = _windows_with_tap(tap, cells, window)
                total[(..., *covered)] += cols[(group, lane, *tap, *windows)]
        else:
            for position in product(*map(reversed, covering)):
                taps, covered = _taps_of_window(position, cells, window)
                total[(..., *covered)] += cols[(group, lane, *taps, *position)]
        x[box] = total


def _taps_of_window(position, cells, window):
    """The taps of a window that are on some of these cells, and which cells these are: slices along each axis."""
    taps, covered = [], []
    axes = zip(position, cells, window.kernel, window.stride, window.before, window.dilation, strict=True)
    for o, at, k, s, before, d in axes:
        start = o * s - before - at.start
        first, end = first_tap(start, d), after_last_tap(start, k, d, at.stop - at.start)
        taps.append(slice(first, max(first, end)))
        cell = start + first * d
        covered.append(slice(cell, cell + (end - first - 1) * d + 1, d) if end > first else slice(0, 0))
    return taps, covered


def _windows_with_tap(offsets, cells, window):
    """The windows that have a tap on some of these cells, and which cells these taps are on: slices along each axis."""
    windows, covered = [], []
    axes = zip(offsets, cells, window.stride, window.before, window.dilation, window.out, strict=True)
    for tap, at, s, before, d, out in axes:
        first, end = windows_with_tap(tap * d, at.start + before, at.stop + before, s, out)
        start = first * s - before + tap * d - at.start
        windows.append(slice(first, end))
        covered.append(slice(start, start + (end - first - 1) * s + 1, s) if end > first else slice(0, 0))
    return windows, covered
