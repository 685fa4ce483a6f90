"""Maxima over the taps of windows, row by row, each with the offset of its winner.

Each row of values has a parallel row of argmax offsets, or None if no argmax is computed. Taps are visited in
increasing offset, so a later tap must be strictly greater: the first of equal cells wins, and no offset is compared.
"""

from typing import Any, NamedTuple

from fastpool.backends.numba.decorators import inlined
from fastpool.backends.numba.simd.offsets import (
    add_offsets,
    larger,
    load_offsets,
    splat_offset,
    store_offsets,
)
from fastpool.backends.numba.simd.vectors import load, store, width_of
from fastpool.backends.numba.simd.views import slice_view, tail_view, unliteral


class Maxima(NamedTuple):
    """Values and the argmax offset of each, or None if no argmax is computed."""

    values: Any
    argmax: Any


class Taps(NamedTuple):
    """Taps along one axis, or slices of them."""

    count: int
    step: int  # elements from one to the next
    offset_step: int  # from the offset of one to that of the next


@inlined
def tail_of(maxima, begin):
    return Maxima(tail_view(maxima.values, begin), tail_view(maxima.argmax, begin))


@inlined
def slice_of(maxima, begin, count):
    return Maxima(slice_view(maxima.values, begin, count), slice_view(maxima.argmax, begin, count))


@inlined
def one_slice():
    return Taps(unliteral(1), unliteral(1), unliteral(0))


@inlined
def reduce_vector(out, source, i, slices, taps, first_offset):
    """Write the vector of `out` at `i`: the maximum of those of `source` over all taps of all slices.

    `first_offset` is the offset of the first tap of the first slice.
    """
    best, first = load(source.values, i), i
    offset = splat_offset(best, out.argmax, first_offset)
    next_tap = splat_offset(best, out.argmax, taps.offset_step)
    next_slice = splat_offset(best, out.argmax, slices.offset_step - taps.count * taps.offset_step)
    winner = add_offsets(load_offsets(best, out.argmax, source.argmax, i), offset)
    for one in range(slices.count):
        offset = add_offsets(offset, next_tap) if one == 0 else offset
        for tap in range(1 if one == 0 else 0, taps.count):
            at = first + tap * taps.step
            value = load(source.values, at)
            value_offset = add_offsets(load_offsets(best, out.argmax, source.argmax, at), offset)
            best, winner = larger(best, winner, value, value_offset)
            offset = add_offsets(offset, next_tap)
        first, offset = first + slices.step, add_offsets(offset, next_slice)
    store_offsets(out.argmax, i, winner)
    store(out.values, i, best)


@inlined
def reduce_row(out, count, last, source, slices, taps, first_offset):
    """`reduce_vector` for `count` elements. No vector begins after `last`: the last one may overlap the one before.

    Two or three taps of one slice, the most frequent windows, are compared without a loop over taps.
    """
    known = taps.count if slices.count == 1 else 0
    i, width = 0, width_of(out.values)
    if known == 2:
        two = Taps(unliteral(2), taps.step, taps.offset_step)
        while i < count:
            i = min(i, last)
            reduce_vector(out, source, i, one_slice(), two, first_offset)
            i += width
    elif known == 3:
        three = Taps(unliteral(3), taps.step, taps.offset_step)
        while i < count:
            i = min(i, last)
            reduce_vector(out, source, i, one_slice(), three, first_offset)
            i += width
    else:
        while i < count:
            i = min(i, last)
            reduce_vector(out, source, i, slices, taps, first_offset)
            i += width


@inlined
def double_windows(maxima, source, count, taps):
    """Maxima over windows of 2, 4, 8 ... taps, until two such windows cover one of `taps.count`; return how many taps
    they have.

    The values `source`, whose offsets `maxima.argmax` holds, are reduced to `maxima`, and these in place.
    """
    doubled = 1
    while 2 * doubled < taps.count:
        count -= doubled * taps.step
        two = Taps(unliteral(2), doubled * taps.step, doubled * taps.offset_step)
        reduce_row(maxima, count, count, Maxima(source, maxima.argmax), one_slice(), two, unliteral(0))
        source = tail_view(maxima.values, 0)
        doubled *= 2
    return doubled


@inlined
def two_overlapping(doubled, taps):
    """A window of `taps.count` taps as two windows of `doubled` taps each, which overlap."""
    shift = taps.count - doubled
    return Taps(2, shift * taps.step, shift * taps.offset_step)
