"""The gradient of a max pool whose windows lie side by side: each cell has the gradient of its one window, or 0."""

from typing import NamedTuple

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.kernels.rows import fill
from fastpool.backends.numba.kernels.windows import last_vector
from fastpool.backends.numba.simd.vectors import (
    load,
    load_like,
    scatter_to_2,
    scatter_to_3,
    scatter_to_4,
    scatter_to_5,
    scatter_to_8,
    splat,
    store,
    where,
    width_of,
)
from fastpool.backends.numba.simd.views import slice_view, tail_view


class Row(NamedTuple):
    """A row of cells under a row of windows.

    It begins at element `to` of dx, the gradients of its windows at element `source` of dy, and its first tap has the
    offset `tap`. No vector may begin after the `last` of its gradients: negative if there are too few for one.
    """

    to: int
    source: int
    tap: int
    last: int


@kernel
def max_pool_backward_nonoverlapping(dy, argmax, dx, g, t, scratch, start, stop):
    """Work items are rows of windows. Rows of cells are written from the top down, and so may spill into the next."""
    row_size = g.W * g.inner
    for item in range(start, stop):
        rest, oh = divmod(item, g.OH)
        plane, od = divmod(rest, g.OD)
        first_slice, source = plane * g.D + od * g.KD, item * g.OW * g.inner
        rows_owned = min(stop - rest * g.OH, g.OH) * g.KH  # of each slice, by this call
        readable = source + g.OW * g.inner + t.read_past <= len(dy)
        for tap in range(g.KD * g.KH):
            kd, kh = divmod(tap, g.KH)
            to = ((first_slice + kd) * g.H + oh * g.KH + kh) * row_size
            limit = ((first_slice + kd) * g.H + rows_owned) * row_size if readable else 0
            last = last_vector(t.run, width_of(dy), to + t.covered + t.stored_past, limit)
            write_row(dx, dy, argmax, Row(to, source, tap * g.KW, last), g, t)
            fill(slice_view(dx, to + t.covered, row_size - t.covered), 0)
        if oh == g.OH - 1:
            zero_uncovered(dx, first_slice, od, g)


@inlined
def write_row(dx, dy, argmax, row, g, t):
    """Write the gradients of a row of cells."""
    if row.last < 0:
        write_elements(dx, dy, argmax, row, g)
    elif g.KW == 1:
        write_tap(tail_view(dx, row.to), dy, argmax, row.source, row.tap, t.run, row.last)
    elif g.inner == 1:
        write_interleaved(tail_view(dx, row.to), dy, argmax, row, g, t)
    else:
        for cell in range(g.OW * g.KW):
            ow, kw = divmod(cell, g.KW)
            to, source = tail_view(dx, row.to + cell * g.inner), row.source + ow * g.inner
            write_tap(to, dy, argmax, source, row.tap + kw, t.run, row.last)


@inlined
def write_elements(dx, dy, argmax, row, g):
    for cell in range(g.OW * g.KW * g.inner):
        ow, kw = divmod(cell // g.inner, g.KW)
        at = row.source + ow * g.inner + cell % g.inner
        dx[row.to + cell] = dy[at] if argmax[at] == row.tap + kw else dy.dtype.type(0)


@inlined
def write_tap(dx, dy, argmax, source, tap, count, last):
    """Write `count` gradients of the windows from `source` on where their winner is one certain tap, else 0."""
    i, width = 0, width_of(dy)
    while i < count:
        i = min(i, last)
        grads = load(dy, source + i)
        is_winner = load_like(grads, argmax, source + i) == splat(grads, argmax.dtype.type(tap))
        store(dx, i, where(is_winner, grads, splat(grads, dy.dtype.type(0))))
        i += width


@inlined
def write_interleaved(dx, dy, argmax, row, g, t):
    """Write the gradients of neighbouring windows, each to one of `KW` neighbouring cells, and 0 to the others."""
    i, width, first_tap = 0, width_of(dy), argmax.dtype.type(row.tap)
    while i < t.run:
        i = min(i, row.last)
        grads, at = load(dy, row.source + i), i * g.KW
        offsets = load_like(grads, argmax, row.source + i)
        if g.KW == 2:
            scatter_to_2(dx, at, grads, offsets, first_tap)
        elif g.KW == 3:
            scatter_to_3(dx, at, grads, offsets, first_tap)
        elif g.KW == 4:
            scatter_to_4(dx, at, grads, offsets, first_tap)
        elif g.KW == 5:
            scatter_to_5(dx, at, grads, offsets, first_tap)
        else:
            scatter_to_8(dx, at, grads, offsets, first_tap)
        i += width


@inlined
def zero_uncovered(dx, first_slice, od, g):
    """After the last row of windows of a slice: write 0 to the rows below, and to slices behind the last windows."""
    row_size = g.W * g.inner
    for one in range(g.KD if od < g.OD - 1 else g.D - od * g.KD):
        covered = g.OH * g.KH if one < g.KD else 0
        fill(slice_view(dx, ((first_slice + one) * g.H + covered) * row_size, (g.H - covered) * row_size), 0)
