"""What a call of a kernel is, but for its arrays."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool.backends.numba import tuning
from fastpool.backends.numba.geometry import Geometry
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


def geometry_of(window: Window, inner: int) -> Geometry:
    return Geometry(*window.geometry, inner)


def stacked(g: Geometry, outer: int) -> tuple[Geometry, int]:
    """The geometry of a call with `outer` planes as one tall plane, if that is possible; and how many planes it has.

    It is where no window leaves its plane above or below and windows go up to its end.
    """
    fits = g.ph == 0 and g.OH * g.sh == g.H and (g.KH - 1) * g.dh < g.sh
    if g.D == g.KD == g.OD == 1 and g.pd == 0 and fits:
        return g._replace(H=outer * g.H, OH=outer * g.OH, sd=1), 1
    return g, outer
