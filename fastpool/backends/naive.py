"""The specification: loops that read like the definitions. For tests; slow beyond use on large arrays."""

from __future__ import annotations

from itertools import product
from math import exp

import numpy as np

from fastpool._rules import wins, wins_minimum
from fastpool.dtypes import highest, lowest, sum_dtype


def _cells(window, position):
    """Offset and input coordinates of every cell of one window that is not padding, in row-major order."""
    for offset, tap in enumerate(np.ndindex(window.kernel)):
        cell = tuple(
            o * s - b + k * d
            for o, s, b, k, d in zip(position, window.stride, window.before, tap, window.dilation, strict=True)
        )
        if all(0 <= c < n for c, n in zip(cell, window.size, strict=True)):
            yield offset, cell


def max_pool(x, window, y, argmax):
    _pool(x, window, y, argmax, wins, lowest(x.dtype))


def min_pool(x, window, y, argmin):
    _pool(x, window, y, argmin, wins_minimum, highest(x.dtype))


def _pool(x, window, y, offsets, wins, padding):
    for position in np.ndindex(window.out):
        cells = list(_cells(window, position))
        for outer, inner in product(range(x.shape[0]), range(x.shape[4])):
            best, winner = padding, 0
            for i, (offset, cell) in enumerate(cells):
                value = x[outer, *cell, inner]
                if i == 0 or wins(value, best):
                    best, winner = value, offset
            y[outer, *position, inner] = best
            if offsets is not None:
                offsets[outer, *position, inner] = winner


def _cells_by_tables(tables, outer, position, inner):
    """The cells of one window, in row-major order, whose begin and end along each axis are in tables."""
    bounds = []
    for axis, (table, o) in enumerate(zip(tables, position, strict=True)):
        at = [outer, 0, 0, 0, inner]
        at[1 + axis] = o
        bounds.append(range(*(int(a[o] if a.ndim == 1 else a[tuple(at)]) for a in table)))
    return list(product(*bounds))


def max_pool_by_tables(x, tables, y, indices=None):
    for outer, *position, inner in np.ndindex(y.shape):
        best = None
        for cell in _cells_by_tables(tables, outer, position, inner):
            if best is None or wins(x[outer, *cell, inner], x[outer, *best, inner]):
                best = cell
        y[outer, *position, inner] = x[outer, *best, inner]
        if indices is not None:
            indices[outer, *position, inner] = np.ravel_multi_index(best, x.shape[1:4])


@np.errstate(all="ignore")
def max_pool_backward_by_indices(dy, indices, dx):
    total = np.zeros(dx.shape, sum_dtype(dx.dtype))
    for outer, *position, inner in np.ndindex(dy.shape):
        cell = np.unravel_index(indices[outer, *position, inner], dx.shape[1:4])
        total[outer, *cell, inner] += dy[outer, *position, inner].astype(total.dtype)
    dx[...] = total


@np.errstate(all="ignore")
def max_pool_backward(dy, argmax, window, dx):
    total = np.zeros(dx.shape, sum_dtype(dx.dtype))
    for position in np.ndindex(window.out):
        cells = dict(_cells(window, position))
        if not cells:
            continue
        for outer, inner in product(range(dy.shape[0]), range(dy.shape[4])):
            winner = cells[int(argmax[outer, *position, inner])]
            total[outer, *winner, inner] += dy[outer, *position, inner].astype(total.dtype)
    dx[...] = total


def argmax_fits(argmax, window):
    for position in np.ndindex(window.out):
        real = [offset for offset, _ in _cells(window, position)] or [0]
        if not np.isin(argmax[:, *position], real).all():
            return False
    return True


def max_unpool(y, indices, x):
    for outer, *position, inner in np.ndindex(y.shape):
        index = indices[outer, *position, inner]
        if index >= 0:
            cell = np.unravel_index(index, x.shape[1:4])
            x[outer, *cell, inner] = y[outer, *position, inner]


@np.errstate(all="ignore")
def avg_pool_by_tables(x, tables, y):
    for outer, *position, inner in np.ndindex(y.shape):
        cells, total = _cells_by_tables(tables, outer, position, inner), sum_dtype(x.dtype).type(0)
        for cell in cells:
            total += x[outer, *cell, inner].astype(total.dtype)
        y[outer, *position, inner] = total / total.dtype.type(len(cells))


@np.errstate(all="ignore")
def avg_pool_backward_by_tables(dy, tables, dx):
    total = np.zeros(dx.shape, sum_dtype(dx.dtype))
    for outer, *position, inner in np.ndindex(dy.shape):
        cells = _cells_by_tables(tables, outer, position, inner)
        for cell in cells:
            total[outer, *cell, inner] += dy[outer, *position, inner].astype(total.dtype) / total.dtype.type(len(cells))
    dx[...] = total


def _averaged(window, divisors):
    """The cells of each window that are not padding, and what their sum is divided by."""
    counts = [divisors.along(axis, window) for axis in range(3)]
    for position in np.ndindex(window.out):
        counted = int(counts[0][position[0]]) * int(counts[1][position[1]]) * int(counts[2][position[2]])
        yield position, [cell for _, cell in _cells(window, position)], divisors.override or counted


@np.errstate(all="ignore")
def avg_pool(x, window, divisors, y):
    sums = sum_dtype(x.dtype).type
    for position, cells, divisor in _averaged(window, divisors):
        for outer, inner in product(range(x.shape[0]), range(x.shape[4])):
            total = sums(0)
            for cell in cells:
                total += sums(x[outer, *cell, inner])
            y[outer, *position, inner] = total / sums(divisor)


@np.errstate(all="ignore")
def avg_pool_backward(dy, window, divisors, dx):
    total = np.zeros(dx.shape, sum_dtype(dx.dtype))
    sums = total.dtype.type
    for position, cells, divisor in _averaged(window, divisors):
        for outer, inner in product(range(dy.shape[0]), range(dy.shape[4])):
            for cell in cells:
                total[outer, *cell, inner] += sums(dy[outer, *position, inner]) / sums(divisor)
    dx[...] = total


def _planes(x, window):
    """Where image n and channel c lie in the canonical form."""
    for n, c in product(range(window.batch), range(window.channels)):
        if x.shape[4] == 1:
            yield n, c, x[n * window.channels + c, ..., 0]
        else:
            yield n, c, x[n, ..., c]


def im2col(x, window, fill_value, cols, *, fresh=True):
    for n, c, plane in _planes(x, window):
        cols[n, c] = fill_value
        for at, position in enumerate(np.ndindex(window.out)):
            for offset, cell in _cells(window, position):
                cols[n, c, offset, at] = plane[cell]


@np.errstate(all="ignore")  # integers wrap around, inf - inf is NaN
def col2im(cols, window, dx):
    cells = [list(_cells(window, position)) for position in np.ndindex(window.out)]
    for n, c, plane in _planes(dx, window):
        total = np.zeros(plane.shape, sum_dtype(dx.dtype))
        for offset in range(window.volume):
            for at, covered in enumerate(cells):
                for o, cell in covered:
                    if o == offset:
                        total[cell] += cols[n, c, offset, at].astype(total.dtype)
        plane[...] = total


@np.errstate(all="ignore")
def hard_swish(x, y):
    for i, value in enumerate(x.astype(sum_dtype(x.dtype))):
        y[i] = 0 if value <= -3 else value if value >= 3 else value * (value + 3) / 6


@np.errstate(all="ignore")
def hard_swish_backward(dy, x, dx):
    for i, value in enumerate(x.astype(sum_dtype(x.dtype))):
        slope = 0 if value <= -3 else 1 if value >= 3 else (2 * value + 3) / 6
        dx[i] = dy[i].astype(value.dtype) * slope


def _sigmoid(z):
    return 1 / (1 + exp(-z)) if z >= 0 else exp(z) / (1 + exp(z))


@np.errstate(all="ignore")
def swish(x, beta, y):
    for i, value in enumerate(x.astype(np.float64).tolist()):  # Python's floats overflow without a warning
        s = _sigmoid(beta * value)
        y[i] = value * s if s else 0


@np.errstate(all="ignore")
def swish_backward(dy, x, beta, dx):
    for i, value in enumerate(x.astype(np.float64).tolist()):
        z = beta * value
        s = _sigmoid(z)
        slope = s * (1 + z * (1 - s)) if 0 < s < 1 else s
        dx[i] = dy[i].astype(np.float64) * slope


@np.errstate(invalid="ignore")  # comparisons with NaN
def run_passes(extreme, scratch, operations):
    for first, second, target, count in operations.tolist():
        for i in range(count):
            scratch[target + i] = extreme(scratch[first + i], scratch[second + i])
