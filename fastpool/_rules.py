"""Scalar rules that every backend shares: plain Python here, compiled by the backends that compile.

One function a decision. All of them take and return scalars, and none allocates or raises.
"""


def wins(value, best):
    """Whether a later cell takes the maximum from an earlier one: it is greater, or the first NaN.

    It wins unless `value <= best`, which is false if either is NaN: so a NaN wins. But nothing wins against a NaN, for
    which `best == best` is false, too. Works on scalars and on vectors.
    """
    return (value <= best) != (best == best)


def wins_minimum(value, best):
    """As `wins`, for the minimum: it is less, or the first NaN."""
    return (value >= best) != (best == best)


def precedes(value, offset, best, winner):
    """Whether a cell takes the maximum from another cell, visited in any order: of equals, the smaller offset wins."""
    tie = (value == best) | ((value != value) & (best != best))
    return offset < winner if tie else (value <= best) != (best == best)


# The bit patterns of +inf of the two-byte floats, which tell them apart.
FLOAT16_FORMAT, BFLOAT16_FORMAT = 0x7C00, 0x7F80


def half_key(bits, half_format):
    """The key of a two-byte float: an int16 that sorts like the float with these bits.

    Every NaN has the largest key. Both zeros have the key 0, since they are equal. `half_format` is FLOAT16_FORMAT or
    BFLOAT16_FORMAT.
    """
    sorted_bits = bits ^ ((bits >> 15) & 0x7FFF)
    return 0x7FFF if (bits & 0x7FFF) > half_format else sorted_bits + (sorted_bits == -1)


def half_bits(key):
    """The bits of the float that has this key: 0x7FFF for every NaN, +0 for both zeros."""
    return key ^ ((key >> 15) & 0x7FFF)


def first_window(cell, extent, stride, padding):
    """The first window along one axis that ends at a cell or later; windows are `extent` cells long, with dilation."""
    start = cell + padding - extent + 1
    return 0 if start <= 0 else (start + stride - 1) // stride


def after_last_window(cell, stride, padding, out):
    """One past the last window along one axis that begins at a cell or before it."""
    return min((cell + padding) // stride + 1, out)


def windows_with_tap(tap, begin, end, stride, out):
    """The windows along one axis, from the first up to the end, that have a tap in the cells from `begin` up to `end`.

    `tap` counts cells from the start of the window; `begin` and `end` count from the leading padding.
    """
    first = 0 if begin <= tap else (begin - tap + stride - 1) // stride
    after_last = 0 if end <= tap else (end - tap + stride - 1) // stride
    return first, max(min(after_last, out), first)


def first_tap(start, dilation):
    """The first tap of a window starting at `start` that is not in the leading padding."""
    return 0 if start >= 0 else (-start + dilation - 1) // dilation


def after_last_tap(start, kernel, dilation, size):
    """One past the last tap of a window starting at `start` that is inside an axis of `size` cells."""
    return 0 if start >= size else min((size - 1 - start) // dilation + 1, kernel)


def counted_cells(start, kernel, begin, end):
    """How many cells of a window starting at `start` lie from `begin` up to `end`; 1 where none does.

    A window of padding alone has a sum of 0, so that it has an average of 0.
    """
    return max(min(start + kernel, end) - max(start, begin), 1)
