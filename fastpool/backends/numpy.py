"""What a NumPy user writes today: the whole column matrix, argmax over it, a scatter back. The baseline.

It holds every window at once, so it takes as many times the memory of its input as windows overlap.
"""

from __future__ import annotations

import numpy as np

from fastpool.dtypes import highest, lowest, sum_dtype
from fastpool.forms import boxes
from fastpool.window import along

# Elements of an argmax that are checked at once.
BLOCK = 1 << 16


def _cells(window, width):
    """Index of each tap of each window into a padded plane (taps, positions), as cs231n's get_im2col_indices."""
    axes = [(window.taps(axis) + window.before[axis]).T for axis in range(3)]
    d, h, w = axes
    flat = (d[:, None, None, :, None, None] * width[1] + h[:, None, None, :, None]) * width[2] + w[:, None, None, :]
    return flat.reshape(window.volume, window.positions)


def _padded_size(window):
    """Sizes of a plane with all the padding that a window reaches."""
    return tuple(max(int(window.taps(axis)[-1, -1]) + 1, window.size[axis]) + window.before[axis] for axis in range(3))


def _real_cells(window):
    return (slice(None), *(slice(b, b + n) for b, n in zip(window.before, window.size, strict=True)))


def _by_plane(a):
    """(outer, D, H, W, inner) as (outer * inner, D, H, W)."""
    return np.moveaxis(a, 4, 1).reshape(a.shape[0] * a.shape[4], *a.shape[1:4])


def _from_planes(planes, like):
    return np.moveaxis(planes.reshape(like.shape[0], like.shape[4], *like.shape[1:4]), 1, 4)


def _take(planes, window, fill_value):
    """Columns (planes, taps, positions) of planes (P, D, H, W)."""
    size = _padded_size(window)
    padded = np.full((planes.shape[0], *size), fill_value, planes.dtype)
    padded[_real_cells(window)] = planes
    return padded.reshape(planes.shape[0], size[0] * size[1] * size[2])[:, _cells(window, size)]


def _add(cols, window):
    """The adjoint of `_take`."""
    size = _padded_size(window)
    padded = np.zeros((cols.shape[0], size[0] * size[1] * size[2]), cols.dtype)
    np.add.at(padded, (slice(None), _cells(window, size)), cols)
    return padded.reshape(cols.shape[0], *size)[_real_cells(window)]


def max_pool(x, window, y, argmax):
    _pool(x, window, y, argmax, np.argmax, lowest(x.dtype))


def min_pool(x, window, y, argmin):
    _pool(x, window, y, argmin, np.argmin, highest(x.dtype))


def _pool(x, window, y, offsets, choose, padding):
    cols = _take(_by_plane(x), window, padding)
    winner = choose(cols, axis=1)
    if any(window.any_leaves_input):
        real = _take(np.ones((1, *window.size), bool), window, False)[0]
        won_by_padding = ~np.take_along_axis(real, winner, axis=0)
        winner = np.where(won_by_padding, window.first_cells(*window.all_windows).reshape(-1), winner)
    best = np.take_along_axis(cols, winner[:, None], axis=1)
    y[...] = _from_planes(best, y)
    if offsets is not None:
        offsets[...] = _from_planes(winner, offsets)


@np.errstate(all="ignore")
def max_pool_backward(dy, argmax, window, dx):
    total = sum_dtype(dy.dtype)
    grads = _by_plane(dy).reshape(-1, 1, window.positions).astype(total, copy=False)
    winner = _by_plane(argmax).reshape(-1, 1, window.positions).astype(np.int64)
    cols = np.zeros((grads.shape[0], window.volume, window.positions), total)
    np.put_along_axis(cols, winner, grads, axis=1)
    dx[...] = _from_planes(_add(cols, window), dx)


def argmax_fits(argmax, window):
    if window.volume <= np.iinfo(argmax.dtype).max and argmax.max() >= window.volume:
        return False
    return all(
        _avoids_padding(argmax, window, axis, windows)
        for axis in range(3)
        for windows in window.padded_windows(axis)
        if windows.start < windows.stop  # a box of none would be as long as the other axes
    )


def _avoids_padding(argmax, window, axis, windows):
    """Whether some windows along an axis, and all along the others, name no tap in the padding of that axis."""
    shape, at = list(argmax.shape), 1 + axis
    shape[at] = windows.stop - windows.start
    for box in map(list, boxes(tuple(shape), BLOCK)):
        box[at] = slice(windows.start + box[at].start, windows.start + box[at].stop)
        offsets = argmax[tuple(box)]
        if window.volume > np.iinfo(offsets.dtype).max:  # 256 does not fit into a uint8
            offsets = offsets.astype(np.int64)
        first, end = (along(taps, axis)[..., None] for taps in window.real_taps(axis, box[at]))
        taps = offsets // window.argmax_stride(axis) % window.kernel[axis]
        if (((taps < first) | (taps >= end)) & (offsets != window.first_cells(*box[1:4])[..., None])).any():
            return False
    return True


def _taps_and_windows(window, axis):
    """For each tap along an axis that is a cell in some window: slices of these windows, and of their cells."""
    n, k, s, before, out = (
        each[axis] for each in (window.size, window.kernel, window.stride, window.before, window.out)
    )
    for tap in range(max(before - (out - 1) * s, 0), min(n + before, k)):
        first, end = max(-((tap - before) // s), 0), min((n - 1 + before - tap) // s + 1, out)
        if first < end:
            cell = first * s - before + tap
            some = [slice(None)] * 5, [slice(None)] * 5
            some[0][1 + axis], some[1][1 + axis] = slice(first, end), slice(cell, cell + (end - first - 1) * s + 1, s)
            yield tuple(some[0]), tuple(some[1])


def _divisor(window, divisors, dtype):
    """What the sum of each window is divided by, for arrays in canonical form."""
    if divisors.override:
        return dtype.type(divisors.override)
    d, h, w = (along(divisors.along(axis, window).astype(dtype), axis) for axis in range(3))
    return (d * h * w)[..., None]


def _sums_by_axis(total, sizes, additions):
    """Add `total` up along one axis after the other, to arrays with these sizes.

    `additions` gives, for an axis, pairs of slices: where elements are added, and which.
    """
    for axis in range(3):
        shape = list(total.shape)
        shape[1 + axis] = sizes[axis]
        sums = np.zeros(shape, total.dtype)
        for to, source in additions(axis):
            sums[to] += total[source]
        total = sums
    return total


@np.errstate(all="ignore")
def avg_pool(x, window, divisors, y):
    total = x.astype(sum_dtype(x.dtype), copy=False)
    total = _sums_by_axis(total, window.out, lambda axis: _taps_and_windows(window, axis))
    y[...] = total / _divisor(window, divisors, total.dtype)


@np.errstate(all="ignore")
def avg_pool_backward(dy, window, divisors, dx):
    total = dy.astype(sum_dtype(dy.dtype), copy=False)
    total = total / _divisor(window, divisors, total.dtype)
    dx[...] = _sums_by_axis(total, window.size, lambda axis: (pair[::-1] for pair in _taps_and_windows(window, axis)))


def max_unpool(y, indices, x):
    for box in boxes(y.shape, BLOCK):
        outer, *_, inner = box
        values, cells, planes = (
            a.reshape(len(a), -1, a.shape[4]) for a in (y[box], indices[box], x[outer, ..., inner])
        )
        plane, _, channel = some = np.nonzero(cells >= 0)
        planes[plane, cells[some], channel] = values[some]


def im2col(x, window, fill_value, cols, *, fresh=True):
    cols[...] = _take(_by_plane(x), window, fill_value).reshape(cols.shape)


@np.errstate(all="ignore")
def col2im(cols, window, dx):
    planes = cols.reshape(-1, window.volume, window.positions).astype(sum_dtype(dx.dtype), copy=False)
    dx[...] = _from_planes(_add(planes, window), dx)


@np.errstate(all="ignore")
def hard_swish(x, y):
    value = x.astype(sum_dtype(x.dtype), copy=False)
    y[...] = np.where(value <= -3, 0, np.where(value >= 3, value, value * (value + 3) / 6))


@np.errstate(all="ignore")
def hard_swish_backward(dy, x, dx):
    value = x.astype(sum_dtype(x.dtype), copy=False)
    slope = np.where(value <= -3, 0, np.where(value >= 3, 1, (2 * value + 3) / 6))
    dx[...] = dy.astype(slope.dtype, copy=False) * slope


def _sigmoid(beta, value):
    """beta * value, and its sigmoid."""
    z = value.dtype.type(beta) * value
    small = np.exp(-np.abs(z))  # of -z it may be infinite where the sigmoid is still above 0
    return z, np.where(z < 0, small, 1) / (1 + small)


@np.errstate(all="ignore")
def swish(x, beta, y):
    value = x.astype(sum_dtype(x.dtype), copy=False)
    _, s = _sigmoid(beta, value)
    y[...] = np.where(s == 0, 0, value * s)


@np.errstate(all="ignore")
def swish_backward(dy, x, beta, dx):
    value = x.astype(sum_dtype(x.dtype), copy=False)
    z, s = _sigmoid(beta, value)
    slope = np.where((s == 0) | (s == 1), s, s * (1 + z * (1 - s)))
    dx[...] = dy.astype(slope.dtype, copy=False) * slope


@np.errstate(invalid="ignore")  # comparisons with NaN
def run_passes(extreme, scratch, operations):
    for first, second, target, count in operations.tolist():
        parts = (scratch[begin : begin + count] for begin in (first, second, target))
        extreme(next(parts), next(parts), out=next(parts))
