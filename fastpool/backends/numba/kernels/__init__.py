"""The kernels, one algorithm a module. Their words:

plane: one image of one channel, or of all channels where these come last; arrays are flat, plane after plane
slice, row: a plane has D slices of H rows of W * inner elements
cell: a position of the input; it has `inner` elements: channels that come last, or images inside columns
window: the KD * KH * KW taps of one output; it begins at its first tap, which may be padding
tap: a position in a window; it is real if it is a cell of the input, and padding otherwise
offset: the row-major index of a tap in its window, and so the value of an argmax
element: one value of an array; positions and steps are counted in elements where nothing else is said
pitch: the distance from one row to the next
width: the number of elements of a vector
work item: a part of the output that one thread computes; a kernel computes those from `start` up to `stop`
tile: the windows or cells of a work item
group, lane: a channel outside the taps of a window that is a row, or inside each of them
line: what the rows of neighbouring windows have of one group and one row of taps
phase: a position in a stride: a coordinate of the padded input modulo the stride
key: what is compared in place of an element: see `simd/keys.py`
maximum: that of keys; in a min pool, the minimum of elements
packed: copied to scratch, with padding or without the elements in between, so that vectors can read it
spill: to store past the end of a row, where a later store overwrites what was stored
"""

from fastpool.backends.numba.kernels import (  # noqa: F401  each enters its kernels where it is imported
    average,
    average_backward,
    by_tables,
    col2im,
    direct,
    elementwise,
    gather_backward,
    im2col,
    im2row,
    nonoverlapping_backward,
    row2im,
    scatter_backward,
    separable,
    unpool,
    validate_argmax,
    van_herk,
)
