"""Positions in planes, counted row by row, and the coordinates that they stand for. Of arrays of any library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def coordinates_of(positions: Any, size: Sequence[int]) -> list[Any]:
    """For each axis of planes of this size, in int64; beyond the last position they are those of further planes."""
    coordinates, rest = [], positions.astype(np.int64)
    for n in reversed(size):
        coordinates.append(rest % n)
        rest = rest // n
    return coordinates[::-1]


def at_coordinates(coordinates: Sequence[Any], size: Sequence[int]) -> Any:
    """The inverse: positions in planes of this size."""
    positions: Any = 0
    for c, n in zip(coordinates, size, strict=True):
        positions = positions * n + c
    return positions
