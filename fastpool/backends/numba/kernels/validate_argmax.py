"""Whether every offset of an argmax names a real tap of its window. Gradients are computed only if so.

Every offset is compared with the number of taps; in windows inside the input, that is enough. Axis by axis, taps are
then compared with the bounds of those that are real: only at positions from which windows leave the input, one by one,
or in all windows with a pattern of bounds, in vectors. The argmax is read once, and once more for each such axis.
"""

import numpy as np
from numba.extending import overload

from fastpool.backends.numba.decorators import INLINED, inlined, kernel
from fastpool.backends.numba.kernels.rows import fill
from fastpool.backends.numba.kernels.windows import after_last_tap, first_tap, has_cell
from fastpool.backends.numba.simd.compare import maximum
from fastpool.backends.numba.simd.views import positive, scratch_view, slice_view, tail_view


@kernel
def validate_argmax(argmax, invalid, g, t, depth, height, width, scratch, start, stop):
    """Set invalid[0] if an offset is invalid. Work items are planes.

    A window of padding alone has the offset 0, which is outside the bounds. So where any offset is outside of them,
    `all_real` tests every window by itself.
    """
    offsets = slice_view(argmax, start * t.plane, (stop - start) * t.plane)
    if largest(offsets) >= t.taps:
        invalid[0] = 1
        return
    low, high = bounds_view(argmax, scratch, 0, t.period), bounds_view(argmax, scratch, t.high_begin, t.period)
    suspect = False
    for axis in (depth, height, width):
        if axis.one_by_one:
            suspect |= leaves_one_by_one(offsets, axis, low.dtype.type)
        elif axis.edge_begin + axis.out > axis.edge_end:
            suspect |= leaves_by_pattern(offsets, axis, low, high)
    if suspect and not all_real(offsets, g):
        invalid[0] = 1


def bounds_view(argmax, scratch, begin, count):
    """`count` elements of scratch, of a float that holds each offset exactly: only floats are divided in vectors."""


@overload(bounds_view, jit_options=INLINED)
def _bounds_view(argmax, scratch, begin, count):
    dtype = np.float32 if argmax.dtype.bitwidth <= 16 else np.float64
    return lambda argmax, scratch, begin, count: scratch_view(scratch, begin, count, dtype)


@inlined
def largest(offsets):
    most = offsets.dtype.type(0)
    for i in range(len(offsets)):
        most = maximum(most, offsets[i])
    return most


@inlined
def leaves_one_by_one(offsets, axis, dtype):
    """Whether a tap is not real along an axis, comparing each position from which windows leave the input."""
    found, inside = False, axis.edge_end - axis.edge_begin
    for edge in range(axis.out - inside):
        position = edge if edge < axis.edge_begin else edge + inside
        low, high = bounds_at(position, axis, dtype)
        if axis.argmax_step == 1:
            found |= any_outside(tail_view(offsets, position), axis.out, low, high, dtype, axis)
        else:
            for at in range(position * axis.argmax_step, len(offsets), positive(axis.out * axis.argmax_step)):
                found |= any_outside(slice_view(offsets, at, axis.argmax_step), 1, low, high, dtype, axis)
    return found


@inlined
def leaves_by_pattern(offsets, axis, low, high):
    """The same, comparing all offsets with a pattern of the bounds of every position."""
    dtype, period, found = low.dtype.type, len(low), False
    for position in range(axis.out):
        low_bound, high_bound = bounds_at(position, axis, dtype)
        for at in range(position * axis.argmax_step, period, positive(axis.out * axis.argmax_step)):
            fill(slice_view(low, at, axis.argmax_step), low_bound)
            fill(slice_view(high, at, axis.argmax_step), high_bound)
    for at in range(0, len(offsets), positive(period)):
        found |= any_outside_pattern(slice_view(offsets, at, period), low, high, axis)
    return found


@inlined
def bounds_at(position, axis, dtype):
    """The first real tap along an axis of the window at a position, and one past the last."""
    start = position * axis.stride - axis.padding
    return (
        dtype(first_tap(start, axis.dilation)),
        dtype(after_last_tap(start, axis.kernel, axis.dilation, axis.size)),
    )


@inlined
def tap_along(offset, dtype, axis):
    """The tap of an offset along an axis."""
    offset = dtype(offset) + dtype(0.5)  # half a tap makes up for the rounding of the quotients
    taps = np.floor(offset * (dtype(1) / dtype(axis.offset_step)))
    return taps - np.floor(offset * (dtype(1) / dtype(axis.offset_step * axis.kernel))) * dtype(axis.kernel)


@inlined
def any_outside(offsets, step, low, high, dtype, axis):
    """Whether the tap of any step-th offset is below `low`, or not below `high`."""
    outside = False
    for i in range(0, len(offsets), positive(step)):
        tap = tap_along(offsets[np.uint64(i)], dtype, axis)
        outside |= (tap < low) | (tap >= high)
    return outside


@inlined
def any_outside_pattern(offsets, low, high, axis):
    """Whether the tap of any offset is outside of the bounds in the pattern."""
    outside = False
    for i in range(len(offsets)):
        tap = tap_along(offsets[i], low.dtype.type, axis)
        outside |= (tap < low[i]) | (tap >= high[i])
    return outside


@inlined
def all_real(offsets, g):
    """Whether each offset of several planes names a real tap of its window."""
    for i in range(len(offsets)):
        rest, ow = divmod(i // g.inner, g.OW)
        rest, oh = divmod(rest, g.OH)
        if not is_real(offsets[i], rest % g.OD * g.sd - g.pd, oh * g.sh - g.ph, ow * g.sw - g.pw, g):
            return False
    return True


@inlined
def is_real(offset, d, h, w, g):
    """Whether an offset names a real tap of the window that begins at (d, h, w), or is 0 if that has none."""
    if not (has_cell(d, g.KD, g.dd, g.D) and has_cell(h, g.KH, g.dh, g.H) and has_cell(w, g.KW, g.dw, g.W)):
        return offset == 0
    rest, kw = divmod(np.int64(offset), g.KW)
    kd, kh = divmod(rest, g.KH)
    return 0 <= d + kd * g.dd < g.D and 0 <= h + kh * g.dh < g.H and 0 <= w + kw * g.dw < g.W
