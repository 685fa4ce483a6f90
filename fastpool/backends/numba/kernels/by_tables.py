"""Pools whose windows are given by tables: adaptive and fractional ones.

Each row of windows takes the maxima, or the sums, of the rows of cells under it, column by column, in vectors; and then
those of the columns of each window. Neighbouring rows of windows share a row of cells or two, which is read twice.
"""

from typing import NamedTuple

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.kernels.rows import fill
from fastpool.backends.numba.simd.compare import maximum
from fastpool.backends.numba.simd.half import narrow, widen
from fastpool.backends.numba.simd.keys import Keys, from_keys, to_key
from fastpool.backends.numba.simd.views import scratch_view, slice_view, tail_view


class Rows(NamedTuple):
    """The rows of cells under a row of windows, and where the tables of its columns are."""

    x: int  # the first element of its plane of cells
    begin_d: int
    end_d: int
    begin_h: int
    end_h: int
    columns: int  # where the table begins that tells where windows along a row begin


@inlined
def rows_at(item, tables, t):
    rest, oh = divmod(item, t.OH)
    plane, od = divmod(rest, t.OD)
    depth = plane * t.tables_step
    height = depth + 2 * t.OD
    return Rows(
        plane * t.D * t.H * t.row,
        tables[depth + od],
        tables[depth + t.OD + od],
        tables[height + oh],
        tables[height + t.OH + oh],
        height + 2 * t.OH,
    )


@inlined
def row_of_cells(x, rows, d, h, t):
    return slice_view(x, rows.x + (d * t.H + h) * t.row, t.row)


@kernel
def max_pool_by_tables(x, y, tables, half_format, lowest, t, scratch, start, stop):
    """Work items are rows of windows."""
    maxima, keys = scratch_view(scratch, 0, t.row, x), Keys(half_format, None, lowest)
    for item in range(start, stop):
        rows = rows_at(item, tables, t)
        pool_columns(maxima, x, rows, t, keys)
        pool_row(slice_view(y, item * t.OW * t.inner, t.OW * t.inner), maxima, tables, rows, t)
        from_keys(slice_view(y, item * t.OW * t.inner, t.OW * t.inner), keys)


@inlined
def pool_columns(maxima, x, rows, t, keys):
    """The maxima of the rows of cells under a row of windows, column by column."""
    fill(maxima, keys.lowest)
    for d in range(rows.begin_d, rows.end_d):
        for h in range(rows.begin_h, rows.end_h):
            take_maxima(maxima, row_of_cells(x, rows, d, h, t), keys)


@inlined
def pool_row(out, maxima, tables, rows, t):
    """The maxima of the windows of a row, of those of its columns of cells."""
    for ow in range(t.OW):
        begin, end = tables[rows.columns + ow], tables[rows.columns + t.OW + ow]
        if t.inner == 1:
            best = maxima[begin]
            for w in range(begin + 1, end):
                best = maximum(best, maxima[w])
            out[ow] = best
        else:
            copy(slice_view(out, ow * t.inner, t.inner), tail_view(maxima, begin * t.inner))
            for w in range(begin + 1, end):
                take_maxima(slice_view(out, ow * t.inner, t.inner), tail_view(maxima, w * t.inner), None)


@inlined
def take_maxima(maxima, elements, keys):
    for i in range(len(maxima)):
        maxima[i] = maximum(maxima[i], to_key(elements[i], keys))


@inlined
def copy(to, source):
    for i in range(len(to)):
        to[i] = source[i]


@kernel
def locate_by_tables(x, y, indices, tables, half_format, lowest, t, scratch, start, stop):
    """Find the first cell of each window that has its maximum y. Work items are rows of windows."""
    keys = Keys(half_format, None, lowest)
    for item in range(start, stop):
        rows = rows_at(item, tables, t)
        for ow in range(t.OW):
            begin, end = tables[rows.columns + ow], tables[rows.columns + t.OW + ow]
            for c in range(t.inner):
                at = (item * t.OW + ow) * t.inner + c
                indices[at] = first_equal(x, to_key(y[at], keys), rows, begin, end, c, t, keys)


@inlined
def first_equal(x, key, rows, begin, end, c, t, keys):
    """The position in its plane of the first cell of a window with this key; any NaN matches any NaN."""
    for d in range(rows.begin_d, rows.end_d):
        for h in range(rows.begin_h, rows.end_h):
            row = row_of_cells(x, rows, d, h, t)
            for w in range(begin, end):
                found = to_key(row[w * t.inner + c], keys)
                if found == key or (found != found and key != key):
                    return (d * t.H + h) * t.W + w
    return (rows.begin_d * t.H + rows.begin_h) * t.W + begin


@kernel
def avg_pool_by_tables(x, y, tables, half_format, sums, t, scratch, start, stop):
    """Work items are rows of windows."""
    totals = scratch_view(scratch, 0, t.row, sums)
    for item in range(start, stop):
        rows = rows_at(item, tables, t)
        add_columns(totals, x, rows, t, half_format)
        average_row(y, item * t.OW * t.inner, totals, tables, rows, t, half_format)


@inlined
def add_columns(totals, x, rows, t, half_format):
    """The sums of the rows of cells under a row of windows, column by column."""
    fill(totals, totals.dtype.type(0))
    for d in range(rows.begin_d, rows.end_d):
        for h in range(rows.begin_h, rows.end_h):
            add_elements(totals, row_of_cells(x, rows, d, h, t), half_format)


@inlined
def average_row(y, to, totals, tables, rows, t, half_format):
    """The averages of the windows of a row, of the sums of its columns of cells."""
    cells = (rows.end_d - rows.begin_d) * (rows.end_h - rows.begin_h)
    for ow in range(t.OW):
        begin, end = tables[rows.columns + ow], tables[rows.columns + t.OW + ow]
        count = totals.dtype.type(cells * (end - begin))
        for c in range(t.inner):
            total = totals[begin * t.inner + c]
            for w in range(begin + 1, end):
                total += totals[w * t.inner + c]
            y[to + ow * t.inner + c] = narrow(total / count, half_format)


@inlined
def add_elements(totals, elements, half_format):
    for i in range(len(elements)):
        totals[i] += widen(elements[i], half_format)
