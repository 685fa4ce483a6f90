"""What a filter finds beyond the borders of its input: the modes of SciPy's filters, and arrays extended by them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from fastpool.arguments import one_of

# Each word that SciPy takes, and the mode that it names.
MODES = {
    "reflect": "reflect",
    "grid-mirror": "reflect",
    "constant": "constant",
    "grid-constant": "constant",
    "nearest": "nearest",
    "mirror": "mirror",
    "wrap": "wrap",
    "grid-wrap": "wrap",
}


def read_mode(mode: Any) -> Any:
    """The mode that a word names, or those of several words, one for each axis."""
    if isinstance(mode, Sequence) and not isinstance(mode, str):
        return tuple(MODES[one_of("mode", each, tuple(MODES))] for each in mode)
    return MODES[one_of("mode", mode, tuple(MODES))]


class Reach(NamedTuple):
    """How far the windows along one axis reach: the window of element i is i - before … i + after."""

    size: int  # of the axis
    before: int
    after: int
    mode: str

    @property
    def window(self) -> int:
        return self.before + 1 + self.after

    @property
    def inside(self) -> Reach:
        """Windows without what lies beyond the borders, in whose place padding may stand that never wins."""
        last = self.size - 1
        if self.window >= 2 * self.size and self.mode not in ("constant", "nearest"):
            return self._replace(before=last, after=last)  # a whole period: each window holds every element
        return self._replace(before=min(self.before, last), after=min(self.after, last))

    @property
    def needs_no_border(self) -> bool:
        """Whether windows hold, inside the input, every element of it that lies beyond a border.

        A window that crosses the first element holds element 0, and what is reflected at one end of it is as near to
        that border as its other end, or nearer. A constant is no element: it is compared with results at the borders.
        """
        if self.mode in ("constant", "nearest") or self.window >= 2 * self.size:
            return True
        if self.mode == "reflect":
            return abs(self.before - self.after) <= 1
        return self.mode == "mirror" and self.before == self.after


def source_indices(mode: str, n: int, indices: np.ndarray) -> np.ndarray:
    """The elements of an axis of `n` that stand at indices beyond its borders; not for the mode constant."""
    if mode == "nearest" or n == 1:
        return np.clip(indices, 0, n - 1)
    if mode == "wrap":
        return indices % n
    period = 2 * n if mode == "reflect" else 2 * n - 2
    within = indices % period
    return np.where(within < n, within, period - within - (mode == "reflect"))


class Copy(NamedTuple):
    """Elements of an extended array, and those of the array that they repeat; None for the constant."""

    target: tuple[slice, ...]
    source: tuple[slice, ...] | None


class Extension:
    """How an array of a shape is extended: `reaches` by axis, None for an axis that stays as it is."""

    def __init__(self, shape: tuple[int, ...], reaches: Sequence[Reach | None]) -> None:
        self._reaches = [
            Reach(n, 0, 0, "nearest") if reach is None else reach for n, reach in zip(shape, reaches, strict=True)
        ]
        self.shape = tuple(n + reach.window - 1 for n, reach in zip(shape, self._reaches, strict=True))

    def copies(self, region: Sequence[slice]) -> list[Copy]:
        """What fills an array with a region of the extended array."""
        copies = []
        for runs in product(*(repeated(reach, some) for reach, some in zip(self._reaches, region, strict=True))):
            sources = [source for _, source in runs if source is not None]
            source = tuple(sources) if len(sources) == len(runs) else None
            copies.append(Copy(tuple([target for target, _ in runs]), source))
        return copies


def extend(x: np.ndarray, copies: Iterable[Copy], constant: Any, extended: np.ndarray) -> None:
    for target, source in copies:
        extended[target] = constant if source is None else x[source]


def repeated(reach: Reach, region: slice) -> Iterator[tuple[slice, slice | None]]:
    """Slices of a region of an extended axis, and for each the slice of the axis that it repeats."""
    inside = range(reach.before, reach.before + reach.size)
    for part in (range(inside.start), inside, range(inside.stop, inside.stop + reach.after)):
        places = range(max(part.start, region.start), min(part.stop, region.stop))
        if places:
            target = slice(places.start - region.start, places.stop - region.start)
            if part is inside:
                yield target, slice(places.start - reach.before, places.stop - reach.before)
            elif reach.mode == "constant":
                yield target, None
            else:
                indices = source_indices(reach.mode, reach.size, np.array(places) - reach.before)
                yield from _stretches(target.start, indices.tolist())


def _stretches(target: int, sources: list[int]) -> Iterator[tuple[slice, slice]]:
    """Indices as slices with a step of 1 or -1, or of one element that is repeated."""
    start = 0
    while start < len(sources):
        step = sources[start + 1] - sources[start] if start + 1 < len(sources) else 1
        step = step if abs(step) <= 1 else 1  # from the end of a period to the start of the next
        stop = start + 1
        while stop < len(sources) and sources[stop] - sources[stop - 1] == step:
            stop += 1
        low, high = sorted((sources[start], sources[stop - 1]))
        backwards = slice(high, low - 1 if low else None, -1)
        yield slice(target + start, target + stop), backwards if step < 0 else slice(low, high + 1)
        start = stop
