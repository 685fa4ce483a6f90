"""Pyramids of labels, whose elements are names and must not be mixed: one label stands for each window."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np

Kernel = tuple[int, ...]


def nearest(x: np.ndarray, kernel: Kernel) -> np.ndarray:
    """The label in the middle of each window, element k // 2 along an axis, or the last one that a window has."""
    middles = [np.minimum(np.arange(0, n, k) + k // 2, n - 1) for n, k in zip(x.shape, kernel, strict=True)]
    return x[np.ix_(*middles)]


def mode(x: np.ndarray, kernel: Kernel) -> np.ndarray:
    """The most frequent label of each window, the smallest one of several."""
    y = np.empty([-(-n // k) for n, k in zip(x.shape, kernel, strict=True)], x.dtype)
    for parts in product(*map(_parts, x.shape, kernel)):
        taken, made, window = zip(*parts, strict=True)
        y[made] = _mode(x[taken], window)
    return y


METHODS: dict[str, Callable[[np.ndarray, Kernel], np.ndarray]] = {"nearest": nearest, "mode": mode}


# Labels of a window that are sorted by comparing each with the next, as often as there are labels; more by numpy.sort.
# 512 x 512 of 32 bits: in fours 0.9 ms compared and 3.0 sorted, in sixteens 2.1 and 2.8, in sixty-fours 6.1 and 2.7.
MOST_COMPARED = 16


def _parts(n: int, k: int) -> list[tuple[slice, slice, int]]:
    """The whole windows along an axis, and the one of fewer elements at the end: elements, results and size."""
    whole = n // k
    parts = [(slice(0, whole * k), slice(0, whole), k)] if whole else []
    return [*parts, (slice(whole * k, n), slice(whole, None), n % k)] if n % k else parts


def _mode(x: np.ndarray, window: Kernel) -> np.ndarray:
    """The same where all windows are whole: labels are sorted, and the longest run of equal ones is found."""
    starts = product(*map(range, window))
    labels = [x[tuple(slice(s, None, k) for s, k in zip(start, window, strict=True))] for start in starts]
    if len(labels) > MOST_COMPARED:
        labels = list(np.sort(np.stack(labels), 0))
    else:  # whole arrays, not the few labels of one window
        for turn in range(len(labels)):
            for i in range(turn % 2, len(labels) - 1, 2):
                labels[i], labels[i + 1] = np.minimum(*labels[i : i + 2]), np.maximum(*labels[i : i + 2])
    y = labels[0].copy()
    run = np.ones(y.shape, np.min_scalar_type(len(labels)))
    longest = run.copy()
    for before, label in pairwise(labels):
        run = run * (before == label) + 1
        longer = run > longest
        np.copyto(y, label, where=longer)
        np.copyto(longest, run, where=longer)
    return y


def pooled(source: Any, kernel: Kernel, method: str, ceil_mode: bool) -> Any:
    """A Dask array of labels, one for each window; whole windows must lie in one chunk, but the last of an axis."""
    if not ceil_mode:
        source = source[tuple(slice(0, n // k * k) for n, k in zip(source.shape, kernel, strict=True))]
    chunks = tuple(tuple(-(-n // k) for n in each) for each, k in zip(source.chunks, kernel, strict=True))
    return source.map_blocks(METHODS[method], kernel, chunks=chunks, dtype=source.dtype)
