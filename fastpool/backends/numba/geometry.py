"""The geometry of one call, and where windows leave the input: for the plan in Python and for the kernels.

Every function is plain Python on integers. `kernels/windows.py` compiles those that kernels call.
"""

from typing import NamedTuple

VECTOR_BYTES = 64  # of a vector, and of a cache line


class Geometry(NamedTuple):
    """Size, kernel, stride, leading padding, dilation and output size, each for depth, height and width.

    `inner` elements lie side by side at each position: the channels where these come last, else one.
    """

    D: int
    H: int
    W: int
    KD: int
    KH: int
    KW: int
    sd: int
    sh: int
    sw: int
    pd: int
    ph: int
    pw: int
    dd: int
    dh: int
    dw: int
    OD: int
    OH: int
    OW: int
    inner: int


def ceil_div(a, b):
    return (a + b - 1) // b


def windows_at_edges(start, out, kernel, stride, dilation, size):
    """Which windows along an axis leave the input: those before `begin`, and those from `end` on.

    The first of the `out` windows begins at `start`.
    """
    begin = min((max(-start, 0) + stride - 1) // stride, out)
    return begin, max(min((size - (kernel - 1) * dilation - start + stride - 1) // stride, out), begin)


def leaves_input(start, kernel, dilation, size):
    """Whether a window that begins at `start` has a tap outside an axis of `size` cells."""
    return start < 0 or start + (kernel - 1) * dilation >= size


def last_vector(count, width, spill_end, limit):
    """Where the last vector of a row of `count` elements may begin, so that it stores nothing at `limit` or beyond.

    This is the rule for memory safety of every vector store. The caller owns the memory up to `limit`. Vectors may
    begin anywhere in the row if they never store past `limit` then, and `spill_end` is the farthest that they may get:
    what they spill past the end of the row is overwritten with the next row. Otherwise the last vector must end with
    the row, and overlap the one before. The result is negative where the row is then shorter than a vector: such a row
    is stored element by element.
    """
    return count if spill_end <= limit else count - width
