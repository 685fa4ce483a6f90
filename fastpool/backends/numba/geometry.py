"""The geometry of one call, and where windows leave the input.

Every function is plain Python on integers, for plans. Those that kernels call too are compiled by `kernels/windows.py`.
"""

from typing import NamedTuple

VECTOR_BYTES = 64  # of a vector, which is a cache line
WIDEST_VECTOR = VECTOR_BYTES  # elements of a vector of bytes, and so of any vector at most
LOADED_STRIDES = 2, 3, 5  # strides at which `simd/vectors.py` loads a vector


class Geometry(NamedTuple):
    """Size, kernel, stride, leading padding, dilation and output size, each for depth, height and width.

    Each position has `inner` contiguous elements: the channels where these come last, the images of a batch where these
    come last in columns, else one.
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

    def axis(self, index):
        """(size, kernel, stride, padding, dilation, output size) of the depth (0), height (1) or width (2)."""
        return self[index:18:3]


def ceil_div(a, b):
    return (a + b - 1) // b


def windows_at_edges(start, out, kernel, stride, dilation, size):
    """(begin, end): which of `out` windows along an axis leave it. Those before `begin` do, and those from `end` on.

    The first window begins at the coordinate `start`.
    """
    begin = min((max(-start, 0) + stride - 1) // stride, out)
    return begin, max(min((size - (kernel - 1) * dilation - start + stride - 1) // stride, out), begin)


def inside_input(start, count, size):
    """(begin, end): which of `count` neighbouring coordinates from `start` on lie inside an axis of `size` cells."""
    return min(max(-start, 0), count), max(min(size - start, count), 0)


def leaves_input(start, kernel, dilation, size):
    """Whether a window that begins at `start` has a tap outside an axis of `size` cells."""
    return start < 0 or start + (kernel - 1) * dilation >= size


def all_have_a_cell(size, kernel, stride, padding, dilation, out):
    """Whether each window along an axis has a tap inside it; a window of padding alone has none.

    It is conservative: False also where there is padding and the dilation is larger than the axis.
    """
    before = padding == 0 or (padding <= (kernel - 1) * dilation and dilation <= size)
    return before and (out - 1) * stride - padding < size


def last_vector(count, width, spill_end, limit):
    """Where the last vector of a row of `count` elements may begin, counted from the start of the row.

    So nothing is stored at or after `limit`, where the memory of the caller or the rows of the call end. A vector that
    begins in the row and spills past its end stores nothing at or after `spill_end`. If that is within the limit,
    vectors may begin anywhere in the row: the next row overwrites what they spill. Otherwise the last vector ends with
    the row and overlaps the one before. The result is negative where the row is then shorter than a vector: such a row
    is stored element by element.

    Loops over vectors that write results ask it, but for three that never spill or bound their spill themselves:
    `average_rows`, `pool_in_fours`, and the loops of `im2row`. `sum_rows` asks it for what it reads.
    """
    return count if spill_end <= limit else count - width
