"""The cells under a tile of windows, packed with their padding."""

from typing import NamedTuple

from fastpool.backends.numba.decorators import inlined
from fastpool.backends.numba.kernels.rows import fill_vectors, pack_row
from fastpool.backends.numba.simd.vectors import load, mask_first, splat, width_of
from fastpool.backends.numba.simd.views import tail_view


class Cells(NamedTuple):
    """The cells that are packed: rows and columns from (h, w) on, and how many columns one packed row takes."""

    h: int
    w: int
    rows: int
    columns: int
    pitch: int


@inlined
def pack_cells(packed, x, cells, g, lowest, half_format, prefetch_distance):
    """Copy cells from `x`, which begins at their first one, and write `lowest` where they are padding.

    What lies `prefetch_distance` elements further is prefetched: the cells of the next tile.
    """
    padding = splat(load(packed, 0), lowest)
    begin = min(max(-cells.w, 0), cells.columns) * g.inner
    end = max(min(g.W - cells.w, cells.columns) * g.inner, begin)
    last_mask = mask_first(padding, (end - begin) % width_of(x))
    for row in range(cells.rows):
        to, written = tail_view(packed, row * cells.pitch * g.inner), 0
        if 0 <= cells.h + row < g.H:
            fill_vectors(to, 0, begin, padding)
            x_row = tail_view(x, row * g.W * g.inner)
            written = pack_row(to, x_row, begin, end, last_mask, padding, half_format, prefetch_distance)
        fill_vectors(to, written, cells.columns * g.inner, padding)
