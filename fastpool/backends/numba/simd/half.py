"""Two-byte floats, which Numba has no type for on the CPU: kernels see them as int16.

`half_format` tells which they are: FLOAT16_FORMAT or BFLOAT16_FORMAT of `_rules.py`. It is None for elements of any
other dtype. These functions test that argument, and Numba removes the other branch; kernels whose loops differ choose
by `@overload` between two functions.
"""

import numpy as np

from fastpool import _rules
from fastpool._rules import BFLOAT16_FORMAT
from fastpool.backends.numba.decorators import inlined
from fastpool.backends.numba.simd.math import float32_bits, float32_from_bits

half_key = inlined(_rules.half_key)
half_bits = inlined(_rules.half_bits)


@inlined
def widen(value, half_format):
    """A two-byte float as float32; any other value as it is."""
    if half_format is None:
        return value
    bits = np.uint32(np.uint16(value))
    if half_format == BFLOAT16_FORMAT:
        return float32_from_bits(bits << 16)
    magnitude = bits & 0x7FFF
    # The product corrects the exponent, of subnormal floats too; inf and NaN need the largest one.
    wide = float32_from_bits(magnitude << 13) * np.float32(2.0**112)
    if magnitude >= 0x7C00:
        wide = float32_from_bits((magnitude << 13) | 0x7F800000)
    return -wide if bits & 0x8000 else wide


@inlined
def narrow(value, half_format):
    """A float32 as a two-byte float, rounded to nearest, ties to even; any other value as it is."""
    if half_format is None:
        return value
    bits = np.int64(float32_bits(np.float32(value)))
    sign, magnitude = (bits >> 16) & 0x8000, bits & 0x7FFFFFFF
    if half_format == BFLOAT16_FORMAT:
        rounded = (magnitude + 0x7FFF + ((magnitude >> 16) & 1)) >> 16
        if magnitude > 0x7F800000:
            rounded = 0x7FC0
    elif magnitude >= 0x477FF000:  # values from 65520 on round to infinity
        rounded = 0x7E00 if magnitude > 0x7F800000 else 0x7C00
    elif magnitude < 0x38800000:  # below 2**-14, adding 0.5 makes the float32 adder round to the subnormal grid
        rounded = np.int64(float32_bits(float32_from_bits(magnitude) + np.float32(0.5))) - 0x3F000000
    else:
        rounded = (magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13
    return np.int16(np.uint16(rounded | sign))
