"""Sums of rows, and of the elements of a row: what average pooling and its gradient have in common.

The order in which elements are added up depends on the geometry of the call, `inner` included; not on threads or
addresses.
"""

from typing import NamedTuple

from numba import types
from numba.extending import overload

from fastpool.backends.numba.decorators import INLINED, inlined
from fastpool.backends.numba.kernels.rows import fill_vectors
from fastpool.backends.numba.kernels.windows import counted_cells, last_vector
from fastpool.backends.numba.simd.half import narrow, widen
from fastpool.backends.numba.simd.vectors import (
    load,
    mask_first,
    store,
    sum_elements,
    vector_like,
    where,
    width_of,
)
from fastpool.backends.numba.simd.views import tail_view, unliteral


class Steps(NamedTuple):
    """So many rows, and the elements from one to the next."""

    count: int
    step: int


@inlined
def one_step():
    return Steps(unliteral(1), unliteral(0))


@inlined
def sum_vector(source, at, slices, rows):
    """The sum of the vectors of `source` at `at` in all rows of all slices."""
    total = load(source, at)
    for one in range(slices.count):
        for row in range(1 if one == 0 else 0, rows.count):
            total = total + load(source, at + one * slices.step + row * rows.step)
    return total


@inlined
def sum_two_vectors(source, at, slices, rows):
    """The same for two neighbouring vectors."""
    width = width_of(source)
    low, high = load(source, at), load(source, at + width)
    for one in range(slices.count):
        for row in range(1 if one == 0 else 0, rows.count):
            further = at + one * slices.step + row * rows.step
            low, high = low + load(source, further), high + load(source, further + width)
    return low, high


@inlined
def sum_vectors(out, count, last, source, at, slices, rows):
    """`sum_vector` for `count` elements. No vector begins after `last`: the last one may overlap the one before.

    One, two or three rows of one slice, the most frequent windows, are added up without a loop over rows.
    """
    known = rows.count if slices.count == 1 else 0
    i, width = 0, width_of(out)
    if known == 1:
        while i < count:
            i = min(i, last)
            store(out, i, load(source, at + i))
            i += width
    elif known == 2:
        while i < count:
            i = min(i, last)
            store(out, i, load(source, at + i) + load(source, at + i + rows.step))
            i += width
    elif known == 3:
        while i < count:
            i = min(i, last)
            two = load(source, at + i) + load(source, at + i + rows.step)
            store(out, i, two + load(source, at + i + 2 * rows.step))
            i += width
    else:
        while i + width <= last:
            low, high = sum_two_vectors(source, at + i, slices, rows)
            store(out, i, low)
            store(out, i + width, high)
            i += 2 * width
        while i < count:
            i = min(i, last)
            store(out, i, sum_vector(source, at + i, slices, rows))
            i += width


def sum_rows(out, count, source, at, slices, rows, half_format):
    """Write the sums of `count` elements, from `at` on in all rows of all slices of `source`, to `out`.

    Vectors may spill past the end of `out`.
    """


@overload(sum_rows, jit_options=INLINED)
def _sum_rows(out, count, source, at, slices, rows, half_format):
    if isinstance(half_format, types.NoneType):

        def sum_rows(out, count, source, at, slices, rows, half_format):
            end = at + (slices.count - 1) * slices.step + (rows.count - 1) * rows.step + count + width_of(out)
            last = last_vector(count, width_of(out), end, len(source))
            if last >= 0:
                sum_vectors(out, count, last, source, at, slices, rows)
            else:
                sum_elementwise(out, count, source, at, slices, rows, None)

        return sum_rows

    def sum_rows(out, count, source, at, slices, rows, half_format):
        sum_elementwise(out, count, source, at, slices, rows, half_format)

    return sum_rows


@inlined
def sum_elementwise(out, count, source, at, slices, rows, half_format):
    """The same in loops over elements, which LLVM vectorises."""
    for one in range(slices.count):
        for row in range(rows.count):
            cells = tail_view(source, at + one * slices.step + row * rows.step)
            if one + row == 0:
                for i in range(count):
                    out[i] = widen(cells[i], half_format)
            else:
                for i in range(count):
                    out[i] += widen(cells[i], half_format)


@inlined
def sum_run(source, begin, count, rest):
    """The sum of `count` neighbouring elements. Those of a vector that would end past `source` are copied to `rest`."""
    width = width_of(source)
    zeros = vector_like(rest, source.dtype.type(0))
    total, i = zeros, 0
    while i + width <= count:
        total = total + load(source, begin + i)
        i += width
    if i < count:
        is_inside = mask_first(zeros, count - i)
        if begin + i + width <= len(source):
            total = total + where(is_inside, load(source, begin + i), zeros)
        else:
            for j in range(count - i):
                rest[j] = source[begin + i + j]
            total = total + where(is_inside, load(rest, 0), zeros)
    return sum_elements(total)


@inlined
def count_rows(d, h, g, counted):
    """How many rows of cells count in the windows that begin at the coordinates (d, h)."""
    if counted.override > 0:
        return 1
    slices = counted_cells(d, g.KD, counted.begin_d, counted.end_d)
    return slices * counted_cells(h, g.KH, counted.begin_h, counted.end_h)


@inlined
def list_counts(counts, first, windows, pitch, g, counted):
    """For each of `windows` windows from `first` on, how many cells along its row count, repeated `pitch` times."""
    for ow in range(windows):
        count = counted.override
        if count == 0:
            count = counted_cells((first + ow) * g.sw - g.pw, g.KW, counted.begin_w, counted.end_w)
        fill_vectors(counts, ow * pitch, (ow + 1) * pitch, vector_like(counts, counts.dtype.type(count)))


def divide_row(y, to, limit, totals, counts, counted_rows, count, half_format):
    """Write `count` sums, divided by `counted_rows` and by the `counts`, to y[to : to + count].

    Vectors may spill past the row, up to `limit`.
    """


@overload(divide_row, jit_options=INLINED)
def _divide_row(y, to, limit, totals, counts, counted_rows, count, half_format):
    if isinstance(half_format, types.NoneType):

        def divide_row(y, to, limit, totals, counts, counted_rows, count, half_format):
            i, width, factor = 0, width_of(y), vector_like(totals, counted_rows)
            last = last_vector(count, width, to + count + width, limit)
            while last >= 0 and i < count:
                i = min(i, last)
                store(y, to + i, load(totals, i) / (load(counts, i) * factor))
                i += width
            while i < count:
                y[to + i] = totals[i] / (counts[i] * counted_rows)
                i += 1

        return divide_row

    def divide_row(y, to, limit, totals, counts, counted_rows, count, half_format):
        result = tail_view(y, to)
        for i in range(count):
            result[i] = narrow(totals[i] / (counts[i] * counted_rows), half_format)

    return divide_row


def average_rows(y, to, source, at, slices, rows, counts, counted_rows, count, totals, half_format):
    """Write `count` sums as `sum_rows`, divided as `divide_row`, to y[to : to + count], and nothing past that.

    The counts are all the same.
    """


@overload(average_rows, jit_options=INLINED)
def _average_rows(y, to, source, at, slices, rows, counts, counted_rows, count, totals, half_format):
    if isinstance(half_format, types.NoneType):

        def average_rows(y, to, source, at, slices, rows, counts, counted_rows, count, totals, half_format):
            i, width = 0, width_of(y)
            if count >= width:  # the last vector overlaps the one before
                divisor = load(counts, 0) * vector_like(counts, counted_rows)
                while i + 2 * width <= count:
                    low, high = sum_two_vectors(source, at + i, slices, rows)
                    store(y, to + i, low / divisor)
                    store(y, to + i + width, high / divisor)
                    i += 2 * width
                while i < count:
                    i = min(i, count - width)
                    store(y, to + i, sum_vector(source, at + i, slices, rows) / divisor)
                    i += width
            else:
                sum_elementwise(totals, count, source, at, slices, rows, None)
                divide_row(y, to, to + count, totals, counts, counted_rows, count, None)

        return average_rows

    def average_rows(y, to, source, at, slices, rows, counts, counted_rows, count, totals, half_format):
        sum_elementwise(totals, count, source, at, slices, rows, half_format)
        divide_row(y, to, to + count, totals, counts, counted_rows, count, half_format)

    return average_rows


def add_divided(sums, dy, at, counts, counted_rows, count, half_format):
    """Add `count` gradients, from `at` on in `dy`, divided by `counted_rows` and by the `counts`, to `sums`."""


@overload(add_divided, jit_options=INLINED)
def _add_divided(sums, dy, at, counts, counted_rows, count, half_format):
    if isinstance(half_format, types.NoneType):

        def add_divided(sums, dy, at, counts, counted_rows, count, half_format):
            i, width = 0, width_of(sums)
            factor, zeros = vector_like(sums, counted_rows), vector_like(sums, sums.dtype.type(0))
            while i + width <= count:
                store(sums, i, load(sums, i) + load(dy, at + i) / (load(counts, i) * factor))
                i += width
            if i < count and at + i + width <= len(dy):
                divided = load(dy, at + i) / (load(counts, i) * factor)
                store(sums, i, load(sums, i) + where(mask_first(zeros, count - i), divided, zeros))
                i += width
            while i < count:
                sums[i] += dy[at + i] / (counts[i] * counted_rows)
                i += 1

        return add_divided

    def add_divided(sums, dy, at, counts, counted_rows, count, half_format):
        grads = tail_view(dy, at)
        for i in range(count):
            sums[i] += widen(grads[i], half_format) / (counts[i] * counted_rows)

    return add_divided


def fill_row(dx, to, limit, value, count, half_format):
    """Write one value to dx[to : to + count]. Vectors may spill past the row, up to `limit`."""


@overload(fill_row, jit_options=INLINED)
def _fill_row(dx, to, limit, value, count, half_format):
    if isinstance(half_format, types.NoneType):

        def fill_row(dx, to, limit, value, count, half_format):
            i, width = 0, width_of(dx)
            last = last_vector(count, width, to + count + width, limit)
            if last >= 0:
                vector = vector_like(dx, value)
                while i < count:
                    i = min(i, last)
                    store(dx, to + i, vector)
                    i += width
            while i < count:
                dx[to + i] = value
                i += 1

        return fill_row

    def fill_row(dx, to, limit, value, count, half_format):
        row, narrowed = tail_view(dx, to), narrow(value, half_format)
        for i in range(count):
            row[i] = narrowed

    return fill_row
