"""Footprints: how they are read, reflected and taken apart into runs, and those of usual shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastpool.arguments import for_each_axis, frozen, integer, positive

FILTERED = "one value, or {}, one for each filtered axis"  # what an argument of filters must be

# Equal runs one above the other are compared one by one where they are fewer.
LEAST_STACK = 4


def read_footprint(footprint: Any) -> np.ndarray:
    """A footprint as an array of bools, some of them True."""
    try:
        elements = np.asanyarray(footprint)
    except ValueError as error:
        raise ValueError(f"footprint must be an array, or nested sequences of the same lengths: {error}") from error
    if isinstance(elements, np.ma.MaskedArray):
        raise TypeError("footprint must not be a masked array; fill it first: footprint.filled(False)")
    elements = np.asarray(elements)
    if elements.dtype.kind not in "biuf":
        raise TypeError(f"footprint must hold bools or numbers, got {elements.dtype}")
    elements = elements != 0
    if not elements.any():
        raise ValueError(f"footprint must hold a True, got none in its shape {elements.shape}")
    return elements


def middle(size: int, o: Any, origin: Any) -> int:
    """Which element of a side lies on the element of the array; `o` is the one of `origin` for this axis."""
    found = size // 2 + integer("origin", o)
    if not 0 <= found < size:
        raise ValueError(
            f"origin must be from {-(size // 2)} to {(size - 1) // 2} for a size of {size}, got {origin!r}"
        )
    return found


def reflected(footprint: Any, origin: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """A footprint read backwards along each axis, and the origins that keep its middle where it was."""
    elements = read_footprint(footprint)
    origin = frozen("origin", origin)
    each = zip(elements.shape, for_each_axis("origin", origin, elements.ndim, FILTERED), strict=True)
    return np.flip(elements), tuple(n - 1 - middle(n, o, origin) - n // 2 for n, o in each)


def _steps(radius: Any) -> np.ndarray:
    """How far the elements of a side of 2 radius + 1 are from its middle."""
    radius = integer("radius", radius)
    if radius < 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    return np.abs(np.arange(-radius, radius + 1))


def disk(radius: int) -> np.ndarray:
    """A disk: the elements of a square of side 2 radius + 1 that lie up to `radius` from its middle.

    Examples
    --------
    >>> from fastpool import morphology
    >>> morphology.disk(2).astype(int)
    array([[0, 0, 1, 0, 0],
           [0, 1, 1, 1, 0],
           [1, 1, 1, 1, 1],
           [0, 1, 1, 1, 0],
           [0, 0, 1, 0, 0]])
    """
    squares = _steps(radius) ** 2
    return np.add.outer(squares, squares) <= radius**2


def diamond(radius: int) -> np.ndarray:
    """A diamond: all elements up to `radius` steps from the middle, along rows and columns.

    Examples
    --------
    >>> from fastpool import morphology
    >>> morphology.diamond(1).astype(int)
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]])
    """
    steps = _steps(radius)
    return np.add.outer(steps, steps) <= radius


def box(*sizes: int) -> np.ndarray:
    """A box with these sides, one for each axis. Filters take as long for a box of any size.

    Examples
    --------
    >>> from fastpool import morphology
    >>> morphology.box(2, 3).shape
    (2, 3)
    """
    return np.ones(tuple(positive("sizes", n) for n in sizes), bool)


class Runs(NamedTuple):
    """The runs of one length along an axis: where they begin, and those that form stacks along the axis before."""

    length: int
    axis: int
    begins: list[tuple[int, ...]]
    stacks: list[Runs]


def runs_by_length(elements: np.ndarray, axis: int) -> dict[int, list[tuple[int, ...]]]:
    """Where the runs of True along an axis begin, by their length."""
    edge = np.zeros_like(elements, np.int8, shape=(*elements.shape[:axis], 1, *elements.shape[axis + 1 :]))
    steps = np.moveaxis(np.diff(elements.view(np.int8), axis=axis, prepend=edge, append=edge), axis, -1)
    # Along the last axis, beginnings and ends come in the same order.
    begins, ends = np.argwhere(steps == 1), np.argwhere(steps == -1)
    found: dict[int, list[tuple[int, ...]]] = {}
    for (*others, start), length in zip(begins.tolist(), (ends - begins)[:, -1].tolist(), strict=True):
        found.setdefault(length, []).append((*others[:axis], start, *others[axis:]))
    return found


def runs(elements: np.ndarray, axes: list[int]) -> list[Runs]:
    """A footprint as runs along the last of some axes, by their length, and stacks of them along the others."""
    *others, axis = axes
    found = []
    for length, begins in sorted(runs_by_length(elements, axis).items()):
        alone, stacks = np.zeros_like(elements), []
        for begin in begins:  # all at once they would be one array for each axis, of which NumPy takes fewer than 64
            alone[begin] = True
        if others:
            stacks = [stack for stack in runs(alone, others) if stack.length >= LEAST_STACK]
            for stack in stacks:
                for begin in stack.begins:
                    stacked: list[int | slice] = list(begin)
                    stacked[stack.axis] = slice(begin[stack.axis], begin[stack.axis] + stack.length)
                    alone[tuple(stacked)] = False
        found.append(Runs(length, axis, [tuple(begin) for begin in np.argwhere(alone).tolist()], stacks))
    return found
