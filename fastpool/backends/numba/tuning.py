"""The tuned constants of plans and launches, with unit and reason, and for some what was measured.

Times are of float32 on one thread. A plan reads the constants when it is made, as `tuning.NAME`, and a launch those
that decide how a call is shared. Tests change them with `override`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Tiles

# Elements that a tile works on: 16 KB of float32, half of an L1 cache of 32 KB.
TILE = 4096

# A tile of a forward pass has so many bytes where windows overlap in long rows at stride 1, if that is more than TILE
# elements.
# 5x5 of a colour image of 1080x1920 bytes: 0.82 of the time with TILE elements, of float32 0.86.
TILE_BYTES = 1 << 15

# Tiles that need only the L2 cache are so many times as large: 128 KB of float32. Where windows of neighbouring rows
# overlap, a smaller part of each tile is then the halo that it shares with the next.
TILES_IN_L2 = 8

# Tiles of a forward pass

# The length of a tile, in halos, down the columns and along the rows: at least so many, or one where more than
# MOST_PACKED_BY_HALOS elements would be packed.
HALOS_DOWN, HALOS_ALONG = 3, 2

# Elements that are packed for a tile, at most: if it would be more than MOST_PACKED, windows are read in place; if more
# than MOST_PACKED_BY_HALOS, its length is one halo. Up to MOST_PACKED_IN_CACHE they stay in the caches. Windows that
# share few cells are read in place where more would be packed, and in any case where channels come last or a row has
# one window.
MOST_PACKED, MOST_PACKED_BY_HALOS, MOST_PACKED_IN_CACHE = 1 << 22, 1 << 20, 1 << 17

# Windows share few cells if a cell lies in at most so many windows, on average: so often it is read in place. A
# two-byte float is made a key at each read.
# Global pooling of (8, 64, 112, 112): 38 ms packed, 1.7 ms in place.
MOST_READS, MOST_READS_OF_HALF = 4, 1

# Elements that a work item of `max_pool_direct` reads.
CELLS_READ = 1 << 15

# For a maximum, `max_pool_direct` computes four vectors of channels at once, unless the overlap of the last four would
# make that more than so many times the channels.
# Global pooling of (8, 256, 14, 14): 68 us one by one, 39 in fours; 2x2 of (2, 64, 224, 224): 1.66 and 1.56 ms.
MOST_COMPUTED = 1.4

# Bytes of scratch for each thread, at most. A call that needs more gets smaller tiles, or another kernel; except where
# tables tell the windows: a row of cells is in scratch, however long.
MOST_SCRATCH = 1 << 23

# Taps along an axis that are compared one after the other, at most. For more, maxima over 2, 4, 8 ... taps are taken.
# One more is compared in rows of so many elements or more.
# 5x5 s1: on images of 1920x3 bytes 0.78 of the time that doubling takes, on planes of 20x20 and 28x28 1.12 to 1.18.
MOST_TAPS_COMPARED, LONG_ROW = 4, 512

# Taps along a row that are compared in place under a mask, at most. The mask has a bit for each tap: 8 in all.
# 3x3 at stride 2 of (64, 112, 112): 1.39 ns an output packed, 1.11 in place; at stride 1 of 28x28 planes 0.89 and 0.66.
MOST_TAPS_MASKED = 5

# At strides without a strided load, the elements of each tap are copied one by one. To copy those of one tap costs one
# doubling at a stride of so many bytes; of fewer with an argmax, whose offsets are doubled, too.
# 7 at stride 4 of (8, 16, 8000): 1.02 ms copied, 0.44 doubled; with an argmax 1.57 and 0.78.
STRIDED_COPY_BYTES, STRIDED_COPY_BYTES_WITH_ARGMAX = 20, 10

# Vectors of the two pieces of a row that are copied at once: 4 KB, in the L1 cache.
STRIDED_COPY_VECTORS = 64

# Tall windows

# Windows of so many rows or more, where a row of output has so many elements or more, are taken by `max_pool_van_herk`:
# if there is one slice, if stride and dilation are one row, if the output has twice the rows of a window, and if its
# rows fit into scratch.
# 15x15 of (2048, 2048): 5.5 ms by `max_pool_separable`, 4.7 so; 65x65 7.8 and 5.2; 255x255 10.5 and 6.1.
LEAST_TALL, LEAST_WIDE = 9, 512

# Elements of row maxima that a thread of `max_pool_van_herk` keeps: 2 MB of float32. They are more where tiles would be
# shorter than HALOS_ALONG or LEAST_WIDE asks.
KEPT_MAXIMA = 1 << 19

# The height of its tiles, in heights of a window: the first rows of a tile, as many as a window has, yield no maxima
# yet. Tiles are lower, down to one window, where there would not be one for each thread.
WINDOWS_DOWN = 8

# How many rows below the current one the row is that is prefetched with it.
PREFETCHED_ROW_DISTANCE = 4

# Averages

# Elements of the sums of a row, at most; for more, its windows are added up one by one, in chunks: 256 KB of float32.
MOST_SUMS_OF_A_ROW = 1 << 16

# Rows of windows are padded with zeros, unless windows are longer than this and than two rows of cells.
LEAST_LONG = 64

# Gradients

# Gradients of windows of more taps are scattered: added to dx one by one. With fewer taps they are gathered: each cell
# adds up its own, in vectors, tap by tap. Two-byte floats are slow to gather, since their sums are float32.
# One thread without AVX-512, gathered and scattered: 3x3 s1 0.6 and 1.0 ms, 4x4 s1 1.4 and 1.4, 5x5 s1 1.5 and 1.3,
# 5x5 s2 2.1 and 1.4, 3x3x3 s2 2.4 and 0.9; with channels last 4x4 1.4 and 0.8, 5x5 1.8 and 0.8.
MOST_GATHERED = 12

# Gradients of two-byte floats are scattered in any case if there are more channels than this, or more planes that are
# taken together: additions to one channel or plane do not wait for those to another.
MOST_CHANNELS_GATHERED = 3

# Elements of scratch of a tile that is gathered, at most. More are needed only where strides are far longer than
# windows, or rows very long.
MOST_GATHER_SCRATCH = 1 << 18

# Sums of a tile into which gradients are scattered: 512 KB of float32, in the L2 cache. They are more where windows
# reach further, but at most MOST_SUMS_IN_SCRATCH where the sums are in scratch instead of dx.
MOST_SUMS, MOST_SUMS_IN_SCRATCH = 1 << 17, 1 << 20

# Such a tile is at least so many times as tall as its halo: few windows then reach into two tiles.
HALOS_SCATTERED = 4

# To validate a byte of an argmax costs the time to move so many bytes.
VALIDATION_COST = 2

# Channels of a tile into which gradients are scattered, at least, where there are so many.
LEAST_CHANNELS = 128

# Along an axis, all of an argmax is compared with a pattern of bounds if one window in PATTERN_EDGES or more leaves the
# input, if fewer than PATTERN_RUN neighbouring elements share their bounds, and if the pattern has at most MOST_PATTERN
# elements. Otherwise only positions from which windows leave the input are compared, one by one.
PATTERN_EDGES, PATTERN_RUN, MOST_PATTERN = 8, 32, 1 << 15

# A pattern has at least so many elements: it repeats the bounds of one plane.
PATTERN = 1 << 9

# Columns

# Elements of a tile of columns that are packed, or of the sums to which they are added: 128 KB of float32, in the L2
# cache.
MOST_COLUMNS_PACKED = 1 << 15

# A tile is at least so many times as long as its halo, down and along.
HALOS_OF_COLUMNS = 2

# With its halo a tile may be so many times MOST_COLUMNS_PACKED. Where it would be more, taps are packed row by row;
# where a single row of windows would be more, tap by tap.
MOST_GROWTH = 4

# Strides up to which `col2im` keeps the sums of each phase of the stride in a row of their own.
MOST_PHASES = 8

# Columns of more bytes do not fit into the last-level cache. im2col writes them by nontemporal stores, but not where
# windows are rows, nor where pages are new: the system has just zeroed those, so that they are in the cache.
LARGE_COLUMNS = 1 << 25

# Activations

# An element of swish, with its exponential, costs the time to move so many elements.
SWISH_COST = 8

# Threads

# Calls that move fewer bytes run on one thread: a thread that spins begins within 5 us, one that sleeps within 50.
PARALLEL_BYTES = 1 << 19

# Bytes that a chunk of a call on several threads moves, at least; and chunks for each thread, so that a late thread
# delays little.
CHUNK_BYTES = 1 << 18
CHUNKS_PER_THREAD = 4

# Bytes of scratch that malloc usually returns without a system call.
SMALL_SCRATCH = 1 << 16

# Bytes of scratch that each thread keeps for its next call, at most.
KEPT_SCRATCH = 1 << 20


@contextmanager
def override(**values: Any) -> Iterator[None]:
    """For tests: work with other values of the constants above. What a plan took from them stays as it is."""
    before = {name: globals()[name] for name in values}
    globals().update(values)
    try:
        yield
    finally:
        globals().update(before)
