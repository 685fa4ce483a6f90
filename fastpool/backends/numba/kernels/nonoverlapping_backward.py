"""The gradient of a max pool of nonoverlapping windows: each winner has the gradient of its window, all other cells 0.

The plan chooses this kernel where windows neither overlap nor leave cells between them nor leave the input, and where
channels come last or KW is one of `VECTOR_STORE_KW`. dy and the argmax are read in vectors, once for each row of cells
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
    """Work items are rows of windows."""
    if g.KW == 1 or g.inner > 1:
        write_rows(write_taps, dy, argmax, dx, g, t, start, stop)
    elif g.KW == 2:
        write_rows(write_2_taps, dy, argmax, dx, g, t, start, stop)
    elif g.KW == 3:
        write_rows(write_3_taps, dy, argmax, dx, g, t, start, stop)
    elif g.KW == 4:
        write_rows(write_4_taps, dy, argmax, dx, g, t, start, stop)
    elif g.KW == 5:
        write_rows(write_5_taps, dy, argmax, dx, g, t, start, stop)
    elif g.KW == 8:
        write_rows(write_8_taps, dy, argmax, dx, g, t, start, stop)


@inlined
def write_rows(write_row, dy, argmax, dx, g, t, start, stop):
    """Write the cells under rows of windows in the order of their addresses: a row of cells may spill into the next."""
    item, row_size, end = start, g.W * g.inner, first_cell(stop, g)
    while item < stop:
        rest, oh = divmod(item, g.OH)
        plane, od = divmod(rest, g.OD)
        rows = min(stop - item, g.OH - oh)
        for kd in range(g.KD):
            slice_begin = (plane * g.D + od * g.KD + kd) * g.H * row_size
            # Work items in several slices, but not all of each: between them are cells that another call writes.
            limit = end if g.KD == 1 or rows == g.OH else slice_begin + (oh + rows) * g.KH * row_size
            to, source = slice_begin + oh * g.KH * row_size, item * g.OW * g.inner
            for _ in range(rows):
                row_limit = limit if source + g.OW * g.inner + t.read_past <= len(dy) else 0
                for kh in range(g.KH):
                    last = last_vector(t.run, width_of(dy), to + t.covered + t.stored_past, row_limit)
                    row = Row(to, source, (kd * g.KH + kh) * g.KW, last)
                    if last < 0:
                        write_elements(dx, dy, argmax, row, g)
                    else:
                        write_row(dx, dy, argmax, row, g, t)
                    if t.covered < row_size:
                        fill(slice_view(dx, to + t.covered, row_size - t.covered), 0)
                    to += row_size
                source += g.OW * g.inner
            if oh + rows == g.OH:
                fill(slice_view(dx, to, (g.H - g.OH * g.KH) * row_size), 0)
        item += rows
        if item % (g.OH * g.OD) == 0:
            covered = g.OD * g.KD
            fill(slice_view(dx, (plane * g.D + covered) * g.H * row_size, (g.D - covered) * g.H * row_size), 0)


@inlined
def first_cell(item, g):
    """The element of dx at the first cell under a row of windows."""
    rest, oh = divmod(item, g.OH)
    plane, od = divmod(rest, g.OD)
    return ((plane * g.D + od * g.KD) * g.H + oh * g.KH) * g.W * g.inner


@inlined
def write_taps(dx, dy, argmax, row, g, t):
    """Write the gradients of a row of cells, all channels of a cell or, where KW is 1, all cells at once."""
    if g.KW == 1:
        write_tap(tail_view(dx, row.to), dy, argmax, row.source, row.tap, t.run, row.last)
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
    """For `count` elements of windows from `source` on, write the gradient where `tap` is the winner, else 0."""
    i, width = 0, width_of(dy)
    while i < count:
        i = min(i, last)
        grads = load(dy, source + i)
        is_winner = load_like(grads, argmax, source + i) == splat(grads, argmax.dtype.type(tap))
        store(dx, i, where(is_winner, grads, splat(grads, dy.dtype.type(0))))
        i += width


def _row_writer(scatter_to_taps, taps):
    """Make a function that writes each gradient of a row to one of `taps` neighbouring cells, and 0 to the others."""

    @inlined
    def write_row(dx, dy, argmax, row, g, t):
        to = tail_view(dx, row.to)
        i, width, first_tap = 0, width_of(dy), argmax.dtype.type(row.tap)
        while i < t.run:
            i = min(i, row.last)
            grads = load(dy, row.source + i)
            scatter_to_taps(to, i * taps, grads, load_like(grads, argmax, row.source + i), first_tap)
            i += width

    return write_row


write_2_taps, write_3_taps, write_4_taps, write_5_taps, write_8_taps = map(
    _row_writer, (scatter_to_2, scatter_to_3, scatter_to_4, scatter_to_5, scatter_to_8), (2, 3, 4, 5, 8)
)
