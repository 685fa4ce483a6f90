"""Sizes of the regions of scratch, each of which begins a cache line.

So does the scratch of each thread, since that of all threads is one array: `Call` refuses any that would end elsewhere.

A region has slack at its end, a number of vectors, for what loops in whole vectors load or store past its last element:
one vector for a store, and for a load as many as the stride is long. Each sum of a tiling adds what its loops need.
"""

from fastpool.backends.numba.geometry import VECTOR_BYTES, ceil_div


def in_cache_lines(count, itemsize):
    """The bytes of `count` elements, up to the end of their last cache line."""
    return ceil_div(count * itemsize, VECTOR_BYTES) * VECTOR_BYTES


def vector_width(itemsize):
    """How many elements a vector has."""
    return VECTOR_BYTES // itemsize
