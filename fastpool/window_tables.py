"""Windows that follow no stride: tables of where each begins and ends along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Table(NamedTuple):
    """Where windows begin, and one past where they end, along one axis.

    Both are arrays of int64: of shape (O,), or of a canonical shape with O at the axis, if planes differ.
    """

    begin: np.ndarray
    end: np.ndarray

    @property
    def shortest(self) -> int:
        """The size of the smallest window."""
        return int((self.end - self.begin).min())

    @property
    def stride(self) -> int | None:
        """The distance between windows, where all are of one size and at one distance from the first cell on."""
        if self.begin.ndim > 1:
            return None
        stride = int(self.begin[1]) if len(self.begin) > 1 else self.shortest
        begin = np.arange(len(self.begin)) * stride
        slides = stride > 0 and np.array_equal(self.begin, begin) and np.array_equal(self.end, begin + self.shortest)
        return stride if slides else None


def flattened(tables: Sequence[Table], planes: int) -> np.ndarray:
    """Three tables as one array, each with its begins and then its ends: for all planes, or a row for each plane."""
    ends = [each for table in tables for each in table]
    if all(each.ndim == 1 for each in ends):
        return np.concatenate(ends)
    rows = [each.reshape(planes, -1) if each.ndim > 1 else np.broadcast_to(each, (planes, len(each))) for each in ends]
    return np.concatenate(rows, 1)


def adaptive(n: int, out: int) -> Table:
    """`out` windows that cover an axis of n cells, as those of PyTorch's adaptive pools.

    Their sizes differ by one at most. Neighbours share a cell where `out` does not divide n.
    """
    i = np.arange(out)
    return Table(i * n // out, -(-(i + 1) * n // out))


def fractional(n: int, out: int, kernel: int, samples: np.ndarray) -> Table:
    """`out` windows of `kernel` cells along an axis of n, whose distances are pseudo-random (Graham, 2014).

    `samples` are numbers from 0 to 1, one for each plane; windows are along a last axis of the table. The rule is
    PyTorch's, computed in the dtype of the samples.
    """
    steps = np.arange(out - 1, dtype=samples.dtype)
    alpha = samples.dtype.type(n - kernel) / samples.dtype.type(max(out - 1, 1))
    begin = ((steps + samples[..., None]) * alpha).astype(np.int64) - (samples[..., None] * alpha).astype(np.int64)
    begin = np.minimum(begin, n - kernel)  # float32 rounds numbers above 2**24
    begin = np.concatenate([begin, np.full_like(begin, n - kernel, shape=(*samples.shape, 1))], -1)
    return Table(begin, begin + kernel)
