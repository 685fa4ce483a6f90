"""What a call of a kernel is, but for its arrays, and how many threads it is worth."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool.backends.numba import tuning
from fastpool.window import Window


class KernelCall(NamedTuple):
    """A kernel, and all that it is given besides its arrays."""

    kernel: str
    dtypes: tuple[np.dtype | None, ...]  # of the arrays; None for one that the kernel is not given
    constants: tuple[Any, ...]  # what it is given after the arrays
    items: int  # work items: any of them may run on any thread
    cost_bytes: int  # bytes that the call moves, or its time in bytes moved: they decide how many threads it is worth
    scratch_bytes: int  # for each thread, in whole cache lines: see `in_cache_lines`


def most_threads(cost_bytes: int) -> int:
    """How many threads a call that moves so many bytes is worth."""
    return cost_bytes // tuning.CHUNK_BYTES if cost_bytes >= tuning.PARALLEL_BYTES else 1


def pooled_bytes(window: Window, outer: int, inner: int, dtype: np.dtype) -> int:
    """The bytes of the input and the output of a pool."""
    return dtype.itemsize * outer * inner * (prod(window.size) + window.positions)
