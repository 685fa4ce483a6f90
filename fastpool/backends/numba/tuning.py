"""Every tuned number of the backend, with its unit, its reason, and the figure behind it where one was measured.

Figures are of float32 on one thread, without the number and with it. A plan reads the numbers when it is made, as
`tuning.NAME`. Tests change them with `override`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

# Tiles of a forward pass

# Elements of a tile's packed cells: 16 KB of float32, half of a first cache of 32 KB.
TILE = 4096

# Tiles are so many times as large where windows overlap from row to row: 128 KB of float32, in the second cache, so
# that little of a tile is the halo that it shares with the next.
OVERLAPPING_TILES = 8

# Elements that a thread packs at once, at most: windows that reach further are read in place, cell by cell. From the
# second number on, tiles are made smaller; from the third on, windows that share few cells are read in place.
MOST_PACKED, LESS_PACKED, MUCH_PACKED = 1 << 22, 1 << 20, 1 << 17

# How often cells are read in place, at most, before packing them pays. A two-byte float becomes a key at each read.
# Global pooling of (8, 64, 112, 112): 38 ms packed, 1.7 ms in place.
MOST_READS, MOST_READS_OF_HALF = 4, 1

# Cells that a work item reads in place.
CELLS_READ = 1 << 15

# Bytes of scratch for each thread, at most. A call that would take more gets smaller tiles, or another kernel.
MOST_SCRATCH = 1 << 23

# Taps along an axis that are compared one after the other. More go by doubling: windows of 2, 4, 8 ... taps.
MOST_TAPS_COMPARED = 4

# Taps along a row that are compared in place, each with a bit that tells whether it is real: 8 at most.
# 3x3 at stride 2 of (64, 112, 112): 1.39 ns an output packed, 1.11 in place; at stride 1 of 28x28 planes 0.89 and 0.66.
MOST_TAPS_MASKED = 5

# Where windows are neither 1, 2, 3 nor 5 cells apart, gathering a cell of each takes as long, for each tap, as one step
# of doubling takes for so many bytes; with an argmax, whose offsets are doubled too, for fewer.
# 7 at stride 4 of (8, 16, 8000): 1.02 ms gathered, 0.44 doubled; with an argmax 1.57 and 0.78.
GATHERED_BYTES, GATHERED_BYTES_WITH_ARGMAX = 20, 10

# Vectors that two pieces of a row take where strides are neither 1, 2, 3 nor 5: 4 KB, in the first cache.
GATHERED_VECTORS = 64

# Tall windows

# Windows of so many rows, in rows of so many elements, are taken row by row instead of tile by tile.
# 15x15 of (2048, 2048): 5.5 ms by tiles, 4.7 by rows; 65x65 7.8 and 5.2; 255x255 10.5 and 6.1.
LEAST_TALL, LEAST_WIDE = 9, 512

# Elements of row maxima that a thread keeps at once: 2 MB of float32.
MOST_KEPT = 1 << 19

# How many rows before they are needed cells are prefetched.
ROWS_PREFETCHED = 4

# Gradients

# Taps side by side in a row whose gradients one store writes: those that `simd/vectors.py` has a shuffle for.
TAPS_SIDE_BY_SIDE = 1, 2, 3, 4, 5, 8

# Windows of more taps add their gradients to dx one by one. With fewer, each cell gathers its own, in vectors, tap
# after tap. Adding is fast where neighbouring windows, which often add to one cell, do not wait for each other: where
# there are other planes or channels in between. Two-byte floats are slow to gather: their sums are kept in float32.
MOST_GATHERED = 32

# Elements of scratch up to which cells gather: beyond that, strides are far longer than windows, or rows very long.
MOST_GATHER_SCRATCH = 1 << 18

# Sums that a thread adds up at once, where windows let it: 512 KB of float32, in the second cache. And at most, where
# they are not made in dx itself.
MOST_SUMS, MOST_SUMS_IN_SCRATCH = 1 << 17, 1 << 20

# Planes that are added up together, so that additions to one plane do not wait for each other.
# 13x13 of 20x20 planes: 4.5 ms plane by plane, 1.6 ms together.
PLANES_TOGETHER = 8

# An argmax is compared with a pattern of the bounds at each position if at least one window in so many along an axis
# leaves the input, if fewer elements in a row than so many share their bounds, and if the pattern has so many elements
# at most. Otherwise each position from which windows leave the input is compared with its own bounds.
PATTERN_EDGES, PATTERN_RUN, MOST_PATTERN = 8, 32, 1 << 15

# Columns

# Elements of columns that are packed at once, or of the sums that they are added to: 128 KB of float32, in the second
# cache.
MOST_COLUMNS_PACKED = 1 << 15

# Strides of up to so many cells keep the sums of each phase side by side.
MOST_PHASES = 8

# Columns of more bytes do not fit into the last cache. They are written past it, unless their pages are new: the
# system has just zeroed those, so that they lie in the cache.
LARGE_COLUMNS = 1 << 25

# Threads

# Below so many bytes moved, sharing a call costs more than it saves: a helper that watches begins within 5 us, and one
# that sleeps within 50.
PARALLEL_BYTES = 1 << 19

# Bytes moved that a piece of a shared call has at least; and pieces for each thread, so that a late one delays little.
CHUNK_BYTES = 1 << 18
CHUNKS_PER_THREAD = 4

# Bytes of scratch that malloc gives without asking the system for memory.
SMALL_SCRATCH = 1 << 16

# Bytes of scratch that each thread keeps for its next call, at most.
KEPT_SCRATCH = 1 << 20


_caches: list[Any] = []


def cached(function: Callable[..., Any]) -> Any:
    """Keep the last results of a function that plans. `override` forgets them."""
    kept = lru_cache(maxsize=1024)(function)
    _caches.append(kept)
    return kept


def forget_plans() -> None:
    for kept in _caches:
        kept.cache_clear()


@contextmanager
def override(**values: Any) -> Iterator[None]:
    """For tests: plan with other numbers, named as above."""
    before = {name: globals()[name] for name in values}
    globals().update(values)
    forget_plans()
    try:
        yield
    finally:
        globals().update(before)
        forget_plans()
