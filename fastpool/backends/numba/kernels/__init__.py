"""The kernels, one algorithm a module. Their words:

plane: one image of one channel, or of all channels where these come last; arrays are flat, plane after plane
slice, row: a plane has D slices of H rows of W * inner elements
cell: a position of the input; it has `inner` elements: channels that come last, or images inside columns
window: the KD * KH * KW taps of one output; it begins at its first tap, which may be padding
tap: a position in a window; it is real if it is a cell of the input, and padding otherwise
offset: the row-major index of a tap in its window, and so the value of an argmax
element: one value of an array; positions and steps are counted in elements where nothing else is said
g: the `Geometry` of the call; t: the named tuple of `tiling/` that the kernel is given, or the first of several
od, oh, ow: the index of a window along the depth, height and width; d, h, w: the coordinates of a cell or a first tap
reach: the distance from the first of some taps to the last; halo: the cells of a tile that the next one reads too
run: consecutive elements that are read, written or added up together
source, to: where elements are read and written: an array that begins there, or an index of elements
origin: the element, or the window, that positions are counted from; it may be outside the array, in the padding
pitch: elements from one row to the next; step: those from one slice, tap or cell to the next
width: the number of elements of a vector
work item: a region of the output that one thread computes; a kernel computes those from `start` up to `stop`
tile: the windows or cells of a work item
begin, end; first, last: a range from `begin` up to `end`, which is outside it; from `first` to `last`, both inside
limit: where the rows of a call end in the output: nothing is stored at or after it (see `last_vector`, whose `last` is
    where the last vector of a row may begin)
listed: which tile or taps the tables in scratch were last computed for
outer channel, inner channel: where windows are rows of the columns, a channel outside the taps, or inside each of them
line: what the rows of neighbouring windows have of one outer channel and one row of taps
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
