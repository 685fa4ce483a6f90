"""Sizes of the parts of scratch, each of which begins a cache line.

So does the scratch of each thread, since that of all threads is one array: `Call` refuses any that would end elsewhere.

A part ends with slack, a number of vectors: what loops in whole vectors may load or store past its last element. One
vector for a store, two where every second element is loaded, `sw` times as many where every sw-th is.
"""

from fastpool.backends.numba.geometry import VECTOR_BYTES, ceil_div


def in_cache_lines(count, itemsize):
    """The bytes of `count` elements, up to the end of their last cache line."""
    return ceil_div(count * itemsize, VECTOR_BYTES) * VECTOR_BYTES


def vector_width(itemsize):
    """How many elements a vector has."""
    return VECTOR_BYTES // itemsize
