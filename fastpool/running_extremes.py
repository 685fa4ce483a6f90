"""Running maxima and minima over footprints of any shape, by rows of them.

Each row of a footprint consists of runs of True. The maxima of all runs of one length are computed once, from those of
a shorter length, and then compared at the offset of each run: a disk of radius r takes some 2.3 r passes over the
array, and has 3 r² elements. Equal runs one above the other form a stack, whose maxima are computed in the same way.
Arrays are cut into tiles that stay in the cache. In a tile all offsets are flat: each pass compares two contiguous
parts of scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from fastpool._rules import half_bits
from fastpool.borders import Copy, Extension, extend
from fastpool.dtypes import is_half
from fastpool.footprints import Runs, runs
from fastpool.threads import get_num_threads, run_in_threads

# Bytes of a tile and of what is computed in it: they stay in a core's second cache.
TILE_BYTES = 3 << 19
# A tile is cut along its first axis while it is so many times as long as the footprint: what tiles share is read twice.
LEAST_OVER_FOOTPRINT = 4
# Passes over so many bytes take as long as starting a thread, and some more.
BYTES_OF_THREAD = 1 << 23


@np.errstate(invalid="ignore")  # of a signalling NaN, which ml_dtypes converts
def comparable(x: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """`x` in a dtype that NumPy compares in vectors: bools as bytes, two-byte floats as keys.

    A NaN has the key that wins.
    """
    if x.dtype.kind == "b":
        return x.view(np.uint8)
    if not is_half(x.dtype):
        return x
    keys = half_bits(x.view(np.int16))
    winner = np.iinfo(np.int16).max if extreme is np.maximum else np.iinfo(np.int16).min
    np.copyto(keys, winner, where=np.isnan(x))
    return keys


class Pass(NamedTuple):
    """All runs of one length: their maxima come from two runs of the length before, `shift` apart in a flat tile."""

    shift: int  # 0 for the first length, which is 1
    offsets: list[int]  # where runs of this length begin
    stacks: list[Pass]


def passes_over(by_length: list[Runs], strides: list[int]) -> list[Pass]:
    """The passes over a flat tile with these strides, in elements."""
    made, passes = 1, []
    for length, axis, begins, stacks in by_length:
        while 2 * made < length:
            passes.append(Pass(made * strides[axis], [], []))
            made *= 2
        offsets = [sum(b * stride for b, stride in zip(begin, strides, strict=True)) for begin in begins]
        passes.append(Pass((length - made) * strides[axis], offsets, passes_over(stacks, strides)))
        made = length
    return passes


def operations_of(passes: list[Pass], elements: int, count: int) -> np.ndarray:
    """Passes over a flat tile of so many elements, as `run_passes` of a backend takes them.

    In scratch lie the tile, the result, two arrays of maxima of runs, and two of stacks, each as long as the tile. Of
    the result, `count` elements are computed.
    """
    rows: list[tuple[int, int, int, int]] = []
    total, of_runs, of_stacks = elements, 2 * elements, 4 * elements
    started = False

    def add(passes: list[Pass], maxima: int, length: int, longer: int) -> None:
        nonlocal started
        spare = longer + elements
        for shift, offsets, stacks in passes:
            if shift:
                length -= shift
                rows.append((maxima, maxima + shift, longer, length))
                maxima, longer, spare = longer, spare, longer
            parts = [maxima + offset for offset in offsets]
            if parts and not started:
                first, started = parts.pop(), True
                rows.append((first, parts.pop() if parts else first, total, count))
            rows.extend((total, part, total, count) for part in parts)
            add(stacks, maxima, length, of_stacks)

    add(passes, 0, elements, of_runs)
    return np.array(rows, np.int64)


class Tile(NamedTuple):
    """A part of the result, and what fills an array with the elements around it."""

    part: tuple[slice, ...]
    surrounded: tuple[int, ...]
    copies: list[Copy]


class RunningExtreme:
    """What computes the extreme of a footprint around each element of an array.

    `footprint` has as many axes as the array, whose shape is `shape`; `extension` says what lies beyond its borders.
    `extreme` is np.maximum or np.minimum, the dtype one that `comparable` returns, and `run_passes` that of a backend.
    """

    def __init__(
        self,
        footprint: np.ndarray,
        shape: tuple[int, ...],
        dtype: np.dtype,
        extreme: np.ufunc,
        extension: Extension,
        run_passes: Callable[..., None],
    ) -> None:
        self._sides, self._shape, self._dtype, self._extension = footprint.shape, shape, dtype, extension
        self._run_passes = partial(run_passes, extreme)
        long = [axis for axis, side in enumerate(footprint.shape) if side > 1] or [footprint.ndim - 1]
        self._runs = runs(footprint, long[-2:])
        self._arrays = 6 if any(each.stacks for each in self._runs) else 4
        self._tiles = lru_cache(maxsize=8)(self._plan_tiles)
        self._operations = lru_cache(maxsize=64)(self._plan_operations)
        tiles = self._tiles(1)
        compared = len(tiles) * int(self._operations(tiles[0].surrounded)[:, 3].sum()) * dtype.itemsize
        self._threads_worth = max(compared // BYTES_OF_THREAD, 1)

    def _plan_operations(self, surrounded: tuple[int, ...]) -> np.ndarray:
        strides = [prod(surrounded[axis + 1 :]) for axis in range(len(surrounded))]
        # Between the rows of a tile lie elements that belong to no window inside it: they are computed, but not read.
        last = sum((n - f) * stride for n, f, stride in zip(surrounded, self._sides, strides, strict=True))
        return operations_of(passes_over(self._runs, strides), prod(surrounded), last + 1)

    def _plan_tiles(self, threads: int) -> list[Tile]:
        """Tiles that are each computed within the cache, the first the largest, and at least one for each thread."""
        tile, most = list(self._shape), TILE_BYTES // (self._arrays * self._dtype.itemsize)
        while prod(self._surrounded(tile)) > most or prod(map(_ceil_div, self._shape, tile)) < threads:
            ratios = [n / f for n, f in zip(tile, self._sides, strict=True)]
            if max(ratios) <= 1 or max(tile) == 1:
                break
            long = [axis for axis, ratio in enumerate(ratios) if ratio >= LEAST_OVER_FOOTPRINT]
            axis = long[0] if long else ratios.index(max(ratios))
            tile[axis] = _ceil_div(tile[axis], 2)
        along = ([slice(i, min(i + t, n)) for i in range(0, n, t)] for n, t in zip(self._shape, tile, strict=True))
        return [self._tile(part) for part in product(*along)]

    def _tile(self, part: tuple[slice, ...]) -> Tile:
        region = [slice(n.start, n.stop + f - 1) for n, f in zip(part, self._sides, strict=True)]
        return Tile(part, self._surrounded([n.stop - n.start for n in part]), self._extension.copies(region))

    def _surrounded(self, tile: Iterable[int]) -> tuple[int, ...]:
        """The shape of a tile with its surroundings."""
        return tuple(n + f - 1 for n, f in zip(tile, self._sides, strict=True))

    def __call__(self, x: np.ndarray, constant: np.ndarray, y: np.ndarray) -> None:
        threads = min(get_num_threads(), self._threads_worth) if self._threads_worth > 1 else 1
        tiles = self._tiles(threads)
        most = prod(tiles[0].surrounded)
        spare: list[np.ndarray] = []  # scratch of tiles that are done

        def fill(tile: Tile) -> None:
            try:
                scratch = spare.pop()
            except IndexError:
                scratch = np.empty(self._arrays * most, self._dtype)
            elements = prod(tile.surrounded)
            around, result = (scratch[k * elements : (k + 1) * elements].reshape(tile.surrounded) for k in range(2))
            extend(x, tile.copies, constant, around)
            self._run_passes(scratch, self._operations(tile.surrounded))
            y[tile.part] = result[tuple([slice(0, n.stop - n.start) for n in tile.part])]
            spare.append(scratch)

        run_in_threads(fill, tiles, threads)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
