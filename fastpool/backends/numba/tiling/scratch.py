"""Sizes in scratch, each part of which begins a cache line."""

from fastpool.backends.numba.geometry import VECTOR_BYTES, ceil_div


def in_cache_lines(count, itemsize):
    """The bytes of `count` elements, up to the end of their last cache line."""
    return ceil_div(count * itemsize, VECTOR_BYTES) * VECTOR_BYTES


def vector_width(itemsize):
    """How many elements fill a vector."""
    return VECTOR_BYTES // itemsize
