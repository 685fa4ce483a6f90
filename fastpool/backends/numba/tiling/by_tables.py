"""How a thread's scratch is divided where tables tell the windows."""

from typing import NamedTuple

from fastpool.backends.numba.geometry import VECTOR_BYTES
from fastpool.backends.numba.tiling.scratch import in_cache_lines


class TableTiling(NamedTuple):
    """For kernels whose windows are given by tables. Work items are rows of windows.

    A table of an axis holds where its windows begin, and then where they end. Tables of depth, height and width follow
    one another.
    """

    D: int
    H: int
    W: int
    OD: int
    OH: int
    OW: int
    inner: int
    row: int  # elements of a row of cells
    tables_step: int  # elements from the tables of one plane to those of the next; 0 if all planes have the same
    scratch_bytes: int


def by_tables(
    size: tuple[int, int, int], out: tuple[int, int, int], inner: int, of_planes: bool, itemsize: int
) -> TableTiling:
    """Each plane has tables of its own if they are `of_planes`.

    `itemsize` is that of what is computed of a row of cells; 0 if nothing is.
    """
    row = size[2] * inner
    scratch_bytes = in_cache_lines(row, itemsize) + VECTOR_BYTES if itemsize else 0
    return TableTiling(*size, *out, inner, row, 2 * sum(out) if of_planes else 0, scratch_bytes)
