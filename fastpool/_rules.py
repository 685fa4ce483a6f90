"""Scalar rules that every backend shares: plain Python here, compiled by the backends that compile.

One function a decision. All of them take and return scalars, and none allocates or raises.
"""


def wins(value, best):
    """Whether a later cell takes the maximum from an earlier one: it is greater, or the first NaN.

    It does unless `value <= best`. For a NaN that is never true, so that it wins, but not from another NaN, which is
    not equal to itself. Works on numbers and on whole vectors of them.
    """
    return (value <= best) != (best == best)


def precedes(value, offset, best, winner):
    """Whether a cell takes the maximum from another, before it or behind: of equals the first does."""
    tie = (value == best) | ((value != value) & (best != best))
    return offset < winner if tie else (value <= best) != (best == best)


def half_key(bits, half_format):
    """The bits of a two-byte float (as int16) as an int16 that sorts like the float, every NaN on top.

    The zeros are equal, and so both become the positive one. `half_format` is the format's +inf in bits: 0x7C00 for
    float16, 0x7F80 for bfloat16.
    """
    sorted_bits = bits ^ ((bits >> 15) & 0x7FFF)
    return 0x7FFF if (bits & 0x7FFF) > half_format else sorted_bits + (sorted_bits == -1)


def half_bits(key):
    """The bits that `half_key` came from, the NaNs as one, and the zeros."""
    return key ^ ((key >> 15) & 0x7FFF)


def first_window(cell, extent, stride, before):
    """The first window along one axis that can cover a cell; `extent` is the window's reach, dilation included."""
    reach = cell + before - extent + 1
    return 0 if reach <= 0 else (reach + stride - 1) // stride


def after_last_window(cell, stride, before, out):
    """One past the last window along one axis that can cover a cell."""
    return min((cell + before) // stride + 1, out)


def first_tap(start, dilation):
    """The first tap of a window starting at `start` that is not in the leading padding."""
    return 0 if start >= 0 else (-start + dilation - 1) // dilation


def after_last_tap(start, kernel, dilation, size):
    """One past the last tap of a window starting at `start` that is inside an axis of `size` cells."""
    return 0 if start >= size else min((size - 1 - start) // dilation + 1, kernel)
