"""The gradient of a max pool of nonoverlapping windows: each winner has the gradient of its window, all other cells 0.

The plan chooses this kernel where windows neither overlap nor leave cells between them nor leave the input, and where
channels come last or KW is one of `INTERLEAVED_KW`. dy and the argmax are read in vectors, once for each row of cells
under a row of windows; each element of dx is written once.
"""

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
    """A row of cells under a row of windows."""

    to: int  # the element of dx at its first cell
    source: int  # the element of dy, and of the argmax, at its first window
    tap: int  # the offset of the first tap of the row
    last: int  # where the last vector of gradients may begin: see `last_vector`


@kernel
def max_pool_backward_nonoverlapping(dy, argmax, dx, g, t, scratch, start, stop):
    """Work items are rows of windows. Rows of cells are written from the top down: one may spill into the next."""
    row_size = g.W * g.inner
    for item in range(start, stop):
        rest, oh = divmod(item, g.OH)
        plane, od = divmod(rest, g.OD)
        first_slice, source = plane * g.D + od * g.KD, item * g.OW * g.inner
        own_rows = min(stop - rest * g.OH, g.OH) * g.KH  # the rows of each slice that this call writes
        readable = source + g.OW * g.inner + t.read_past <= len(dy)
        for tap in range(g.KD * g.KH):
            kd, kh = divmod(tap, g.KH)
            to = ((first_slice + kd) * g.H + oh * g.KH + kh) * row_size
            limit = ((first_slice + kd) * g.H + own_rows) * row_size if readable else 0
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
    """Write `count` gradients of the windows from `source` on where `tap` is the winner, else 0."""
    i, width = 0, width_of(dy)
    while i < count:
        i = min(i, last)
        grads = load(dy, source + i)
        is_winner = load_like(grads, argmax, source + i) == splat(grads, argmax.dtype.type(tap))
        store(dx, i, where(is_winner, grads, splat(grads, dy.dtype.type(0))))
        i += width


@inlined
def write_interleaved(dx, dy, argmax, row, g, t):
    """For `INTERLEAVED_KW`: write each gradient to one of `KW` neighbouring cells, and 0 to the others."""
    if g.KW == 2:
        interleave_row(scatter_to_2, dx, dy, argmax, row, 2, t)
    elif g.KW == 3:
        interleave_row(scatter_to_3, dx, dy, argmax, row, 3, t)
    elif g.KW == 4:
        interleave_row(scatter_to_4, dx, dy, argmax, row, 4, t)
    elif g.KW == 5:
        interleave_row(scatter_to_5, dx, dy, argmax, row, 5, t)
    elif g.KW == 8:
        interleave_row(scatter_to_8, dx, dy, argmax, row, 8, t)


@inlined
def interleave_row(scatter_to_taps, dx, dy, argmax, row, taps, t):
    i, width, first_tap = 0, width_of(dy), argmax.dtype.type(row.tap)
    while i < t.run:
        i = min(i, row.last)
        grads = load(dy, row.source + i)
        scatter_to_taps(dx, i * taps, grads, load_like(grads, argmax, row.source + i), first_tap)
        i += width


@inlined
def zero_uncovered(dx, first_slice, od, g):
    """After the last row of windows of a slice: write 0 to the rows below, and to slices after the last windows."""
    row_size = g.W * g.inner
    for one in range(g.KD if od < g.OD - 1 else g.D - od * g.KD):
        covered = g.OH * g.KH if one < g.KD else 0
        fill(slice_view(dx, ((first_slice + one) * g.H + covered) * row_size, (g.H - covered) * row_size), 0)
