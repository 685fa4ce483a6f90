"""Keys: what the kernels of a pool compare in place of elements, so that one kernel takes maxima and minima.

A minimum is a maximum of elements whose order is reversed, by flipping bits: the sign of a float, all bits of an
integer. A NaN stays a NaN, which beats every other value either way. Two-byte floats are then made integers that sort
like them (`half.py`). The key of an element is the element itself for a maximum of any other dtype.

Numba removes a branch on `is None` while it compiles only if it tests an argument of the function. So what tests fields
of `Keys` is in a function of its own, which is given the fields.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic

from fastpool.backends.numba.decorators import inlined
from fastpool.backends.numba.simd.half import half_bits, half_key
from fastpool.backends.numba.simd.vectors import Vector, _broadcast, half_keys


class Keys(NamedTuple):
    """How elements are made keys: constants of a kernel."""

    half_format: Any  # of two-byte floats, else None
    flip: Any  # the bits that are flipped, as an unsigned integer of the width of an element; 0 or None for a maximum
    lowest: Any  # the key of padding


@intrinsic
def flip_bits(typing_context, value, flip):
    """Flip some bits of an element, or of each element of a vector; none if `flip` is None."""

    def generate(context, builder, signature, args):
        bits, mask = args
        if isinstance(flip, types.NoneType):
            return bits
        if isinstance(value, Vector):
            mask = _broadcast(builder, mask, value.count)
        return builder.bitcast(builder.xor(builder.bitcast(bits, mask.type), mask), bits.type)

    return value(value, flip), generate


@inlined
def to_key(element, keys):
    """The key of an element; the element itself if `keys` is None."""
    if keys is None:
        return element
    return _to_key(element, keys.flip, keys.half_format)


@inlined
def _to_key(element, flip, half_format):
    if half_format is None:
        return flip_bits(element, flip)
    return np.int16(half_key(flip_bits(element, flip), half_format))


@inlined
def to_keys(elements, keys):
    """`to_key` of each element of a vector."""
    if keys is None:
        return elements
    return _to_keys(elements, keys.flip, keys.half_format)


@inlined
def _to_keys(elements, flip, half_format):
    if half_format is None:
        return flip_bits(elements, flip)
    return half_keys(flip_bits(elements, flip), half_format)


@inlined
def from_keys(row, keys):
    """Replace each key by its element."""
    _from_keys(row, keys.flip, keys.half_format)


@inlined
def _from_keys(row, flip, half_format):
    if half_format is not None:
        for i in range(len(row)):
            bits = np.int16(half_bits(row[i]))
            row[i] = bits if row[i] == 0 else flip_bits(bits, flip)  # the key of both zeros is 0, and gives +0
    elif flip is not None and flip != 0:
        for i in range(len(row)):
            row[i] = flip_bits(row[i], flip)


@inlined
def without_flip(keys):
    """The keys of a maximum without `flip`, so that a loop contains no xor."""
    return Keys(keys.half_format, None, keys.lowest)


@inlined
def are_elements(keys):
    """Whether each key is its element."""
    return _are_elements(keys.flip, keys.half_format)


@inlined
def _are_elements(flip, half_format):
    return half_format is None and (flip is None or flip == 0)
