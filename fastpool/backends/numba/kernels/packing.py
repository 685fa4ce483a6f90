"""The cells under a tile of windows, packed: copied to scratch together with their padding."""

from typing import NamedTuple

from fastpool.backends.numba.decorators import inlined
from fastpool.backends.numba.kernels.rows import fill_vectors, pack_row
from fastpool.backends.numba.kernels.windows import inside_input
from fastpool.backends.numba.simd.vectors import mask_first, vector_like, width_of
from fastpool.backends.numba.simd.views import tail_view


class Rectangle(NamedTuple):
    """What is packed: rows and columns from the coordinates (h, w) on. A packed row has `packed_columns` columns."""

    h: int
    w: int
    rows: int
    columns: int
    packed_columns: int


@inlined
def pack_cells(packed, x, cells, g, keys, prefetch_distance):
    """Pack the keys of a rectangle of cells. `x` begins at the first of them; padding has the key `keys.lowest`.

    The elements of x that lie `prefetch_distance` further are prefetched, for the next tile.
    """
    padding = vector_like(packed, keys.lowest)
    first_column, end_column = inside_input(cells.w, cells.columns, g.W)
    begin, end = first_column * g.inner, end_column * g.inner
    last_mask = mask_first(padding, (end - begin) % width_of(x))
    for row in range(cells.rows):
        to, written = tail_view(packed, row * cells.packed_columns * g.inner), 0
        if 0 <= cells.h + row < g.H:
            fill_vectors(to, 0, begin, padding)
            x_row = tail_view(x, row * g.W * g.inner)
            written = pack_row(to, x_row, begin, end, last_mask, padding, keys, prefetch_distance)
        fill_vectors(to, written, cells.columns * g.inner, padding)


@inlined
def pack_contiguous(packed, x, count, keys, prefetch_distance):
    """Pack the keys of the first `count` elements of x, several rows without padding. It may read past them."""
    padding = vector_like(packed, keys.lowest)
    pack_row(packed, x, 0, count, mask_first(padding, count % width_of(x)), padding, keys, prefetch_distance)
