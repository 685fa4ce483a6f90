"""Which cells each chunk of a result is made of, axis by axis.

Along each axis an output chunk is known by the cells that it is made of, the padding around them, and how much of what
the call gives is its own: a `Span`. So every window is computed once, in one chunk, from exactly the cells it covers;
chunks pass on what others need of them and no more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

import numpy as np

from fastpool.borders import Reach, repeated
from fastpool.window import Window
from fastpool.window_tables import Table

Cells = tuple[int, int]
Takes = tuple[tuple[int, slice | None], ...]


class Span(NamedTuple):
    """What one output chunk is along one axis."""

    size: int
    """How many cells of the result."""
    takes: Takes
    """Which chunks of the source its block is made of, and which part of each; None for all of it."""
    padding: Cells = (0, 0)
    """Before and after what it takes."""
    cells: int = 0
    """How many cells of the input of the forward pass belong to its block."""
    begin: int = 0
    """Where the result begins in what the call gives."""
    origin: int = 0
    """Which cell of the whole input is the first one of its block."""
    table: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """Where windows that follow no stride begin and end, in cells of the block."""


def bounds_of(chunks: Sequence[int]) -> list[int]:
    return [0, *accumulate(chunks)]


def merged(chunks: Sequence[int], least: int) -> list[int]:
    """Neighbouring chunks put together until each has that many cells."""
    sizes = [0]
    for size in chunks:
        if sizes[-1] >= least:
            sizes.append(0)
        sizes[-1] += size
    if len(sizes) > 1 and sizes[-1] < least:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes


def takes(chunks: Sequence[int], *ranges: Cells) -> Takes:
    """The chunks in which ranges of cells lie, one range after the other, and the part of each."""
    bounds = bounds_of(chunks)
    found: list[tuple[int, slice | None]] = []
    for lo, hi in ranges:
        chunk = bisect_right(bounds, lo) - 1
        while lo < hi:
            begin, end = bounds[chunk], bounds[chunk + 1]
            part = slice(lo - begin, min(hi, end) - begin)
            if part.start < part.stop:
                found.append((chunk, None if part == slice(0, end - begin) else part))
            lo, chunk = max(lo, min(hi, end)), chunk + 1
    return tuple(found)


def as_they_are(chunks: Sequence[int]) -> list[Span]:
    return [Span(size, ((i, None),), cells=size) for i, size in enumerate(chunks)]


# Windows at a stride


def along(window: Window, axis: int) -> tuple[int, int, int, int, int]:
    """Size, extent of a window, stride, padding before, and windows of one of the canonical axes."""
    n, out, before = window.size[axis], window.out[axis], window.before[axis]
    extent = window.dilation[axis] * (window.kernel[axis] - 1) + 1
    # The step of a single window is unknown here; none must fit in behind it.
    return n, extent, window.stride[axis] if out > 1 else n + before + extent, before, out


def pool_spans(window: Window, axis: int, chunks: Sequence[int]) -> list[Span]:
    """Window i belongs to the chunk that has cell i * stride, or the last: chunks of the result are as chunks of x."""
    n, extent, stride, before, out = along(window, axis)
    bounds = bounds_of(merged(chunks, max(extent, stride)))
    spans = []
    for first, end in pairwise([*(min(-(-b // stride), out) for b in bounds[:-1]), out]):
        if first == end:
            continue
        lo, hi = first * stride - before, (end - 1) * stride - before + extent
        begin, stop = max(lo, 0), min(hi, n)
        if begin >= stop:  # windows of padding alone, which may as well lie before some cell
            lo, hi, begin, stop = lo - hi, 1, 0, 1
        padding = begin - lo, hi - stop
        spans.append(Span(end - first, takes(chunks, (begin, stop)), padding, stop - begin, origin=begin))
    return spans


def pool_gradient_spans(window: Window, axis: int, chunks: Sequence[int]) -> list[Span]:
    """The same for the gradient, of chunks of windows: each takes all that touch it, and their other cells."""
    n, extent, stride, before, out = along(window, axis)
    bounds = bounds_of(merged(chunks, -(-extent // stride)))
    spans = []
    for begin, stop in pairwise([*(min(b * stride, n) for b in bounds[:-1]), n]):
        if begin == stop:
            continue
        # From the first window that reaches `begin`, or, between windows, from the one before.
        touching = -(-(begin + before - extent + 1) // stride)
        first = max(min(touching, (begin + before) // stride, out - 1), 0)
        last = max(min((stop - 1 + before) // stride, out - 1), first)
        lo, hi = first * stride - before, last * stride - before + extent
        low, high = max(lo, 0), min(max(hi, stop), n)
        padding = low - lo, max(hi - high, 0)
        block = takes(chunks, (first, last + 1))
        spans.append(Span(stop - begin, block, padding, high - low, begin - low, low))
    return spans


# Windows by tables


def _windows(table: Table, first: int, last: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Some windows of a table, counted from the first of their cells."""
    begin, end = (each[first:last] - table.begin[first] for each in table)
    return tuple(begin.tolist()), tuple(end.tolist())


def table_spans(table: Table, chunks: Sequence[int]) -> list[Span]:
    """A window belongs to the chunk that has its first cell. Windows begin and end in ascending order."""
    longest = int((table.end - table.begin).max())
    bounds = bounds_of(merged(chunks, longest))[:-1]
    spans = []
    for first, last in pairwise([*np.searchsorted(table.begin, bounds).tolist(), len(table.begin)]):
        if first < last:
            lo, hi = int(table.begin[first]), int(table.end[last - 1])
            windows = _windows(table, first, last)
            spans.append(Span(last - first, takes(chunks, (lo, hi)), cells=hi - lo, origin=lo, table=windows))
    return spans


def table_gradient_spans(table: Table, chunks: Sequence[int]) -> list[Span]:
    """The same for the gradient, of chunks of windows that cover all cells."""
    out, n = len(table.begin), int(table.end[-1])
    bounds = bounds_of(merged(chunks, -(-out // n)))[:-1]
    spans = []
    for begin, stop in pairwise([*table.begin[bounds].tolist(), n]):
        if begin < stop:
            first, last = np.searchsorted(table.end, begin, "right"), np.searchsorted(table.begin, stop)
            lo, hi = int(table.begin[first]), int(table.end[last - 1])
            block, windows = takes(chunks, (int(first), int(last))), _windows(table, first, last)
            spans.append(Span(stop - begin, block, (0, 0), hi - lo, begin - lo, lo, windows))
    return spans


# Windows around each cell


def _backwards(found: Takes) -> Takes:
    """The same cells in descending order."""

    def reversed_part(part: slice | None) -> slice:
        return (
            slice(None, None, -1) if part is None else slice(part.stop - 1, part.start - 1 if part.start else None, -1)
        )

    return tuple((chunk, reversed_part(part)) for chunk, part in reversed(found))


def reach_spans(reach: Reach, chunks: Sequence[int]) -> list[Span]:
    """Each chunk is extended by what its windows reach: cells of other chunks, and those repeated beyond the borders.

    With the modes "constant" and "nearest", blocks end where the array ends: what lies beyond is left to the call.
    """
    if reach.size == 0:
        return as_they_are(chunks)
    spans = []
    for first, end in pairwise(bounds_of(merged(chunks, reach.window))):
        if first == end:
            continue
        lo, hi = first - reach.before, end + reach.after
        if reach.mode in ("constant", "nearest"):
            lo, hi = max(lo, 0), min(hi, reach.size)
            block = takes(chunks, (lo, hi))
        else:
            block = tuple(chain.from_iterable(_repeated(reach, lo, hi, chunks)))
        spans.append(Span(end - first, block, begin=first - lo))
    return spans


def _repeated(reach: Reach, lo: int, hi: int, chunks: Sequence[int]) -> Iterator[Takes]:
    """What lies from `lo` up to `hi`, which may be beyond the borders."""
    for target, part in repeated(reach, slice(lo + reach.before, hi + reach.before)):
        assert part is not None  # the constant, which is no cell
        if part.step == -1:
            last = -1 if part.stop is None else part.stop
            yield _backwards(takes(chunks, (last + 1, part.start + 1)))
        else:  # cells, or one that fills the target
            times = (target.stop - target.start) // (part.stop - part.start)
            yield takes(chunks, (part.start, part.stop)) * times
