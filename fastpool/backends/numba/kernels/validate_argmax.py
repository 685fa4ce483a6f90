"""Whether every offset of an argmax names a real tap of its window. Gradients are computed only if so.

Every offset is compared with the number of taps; in windows inside the input, that is enough. Axis by axis, taps are
then compared with the bounds of those that are real: only at positions from which windows leave the input, one by one,
or in all windows with a pattern of bounds, in vectors. The argmax is read once, and once more for each such axis.
"""

import numpy as np
from numba.extending import overload

from fastpool.backends.numba.decorators import INLINED, inlined, kernel
from fastpool.backends.numba.kernels.rows import fill
from fastpool.backends.numba.kernels.windows import after_last_tap, first_tap
from fastpool.backends.numba.simd.compare import maximum
from fastpool.backends.numba.simd.views import assume_positive, scratch_view, slice_view, tail_view


@kernel
def validate_argmax(argmax, invalid, t, depth, height, width, scratch, start, stop):
    """Set invalid[0] if an offset is invalid. Work items are planes.

    A window of padding alone has the offset 0, which is outside the bounds. So where any offset is outside of them,
    `all_real` tests every window by itself.
    """
    offsets = slice_view(argmax, start * t.plane, (stop - start) * t.plane)
    if largest(offsets) >= t.taps:
        invalid[0] = 1
        return
    lows = bounds_view(argmax, scratch, 0, t.period)
    widths = bounds_view(argmax, scratch, t.widths_begin, t.period)
    suspect = False
    for axis in (depth, height, width):
        if axis.one_by_one:
            suspect |= leaves_one_by_one(offsets, axis, lows.dtype.type)
        elif axis.inside_end - axis.inside_begin < axis.out:
            suspect |= leaves_by_pattern(offsets, axis, lows, widths)
    if suspect and not all_real(offsets, depth, height, width):
        invalid[0] = 1


def bounds_view(argmax, scratch, begin, count):
    """`count` elements of scratch, of an integer with twice the bits of an offset: see `fraction`."""


@overload(bounds_view, jit_options=INLINED)
def _bounds_view(argmax, scratch, begin, count):
    dtype = {8: np.uint16, 16: np.uint32, 32: np.uint64}[argmax.dtype.bitwidth]
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
    found, inside = False, axis.inside_end - axis.inside_begin
    for edge in range(axis.out - inside):
        position = edge if edge < axis.inside_begin else edge + inside
        low, width = bounds_at(position, axis, dtype)
        if axis.argmax_step == 1:
            found |= any_outside(tail_view(offsets, position), axis.out, low, width, dtype, axis)
        else:
            for at in range(position * axis.argmax_step, len(offsets), assume_positive(axis.out * axis.argmax_step)):
                found |= any_outside(slice_view(offsets, at, axis.argmax_step), 1, low, width, dtype, axis)
    return found


@inlined
def leaves_by_pattern(offsets, axis, lows, widths):
    """The same, comparing all offsets with a pattern of the bounds of every position."""
    period, found = len(lows), False
    for position in range(axis.out):
        low, width = bounds_at(position, axis, lows.dtype.type)
        for at in range(position * axis.argmax_step, period, assume_positive(axis.out * axis.argmax_step)):
            fill(slice_view(lows, at, axis.argmax_step), low)
            fill(slice_view(widths, at, axis.argmax_step), width)
    for at in range(0, len(offsets), assume_positive(period)):
        found |= any_outside_pattern(slice_view(offsets, at, min(period, len(offsets) - at)), lows, widths, axis)
    return found


@inlined
def fraction(offset, axis, dtype):
    """offset / (axis.offset_step * axis.kernel) without its integer part, fixed-point: it grows with the tap.

    It is one product that wraps around. As the factor is rounded up, a fraction is too large, but by less than one
    offset makes.
    """
    return dtype(dtype(offset) * dtype(axis.factor))


@inlined
def real_taps_along(position, axis):
    """The real taps along an axis of the window at a position: from the first up to the end."""
    start = position * axis.stride - axis.padding
    return first_tap(start, axis.dilation), after_last_tap(start, axis.kernel, axis.dilation, axis.size)


@inlined
def bounds_at(position, axis, dtype):
    """The fractions of the real taps along an axis, of the window at a position: the least, and how many follow."""
    first, end = real_taps_along(position, axis)
    if first >= end:
        return dtype(0), dtype(0)
    low = fraction(first * axis.offset_step, axis, dtype)
    high = fraction(end * axis.offset_step, axis, dtype) if end < axis.kernel else dtype(-1)  # above every fraction
    return low, dtype(high - low)


@inlined
def any_outside(offsets, step, low, width, dtype, axis):
    """Whether the tap of any step-th offset is outside of the bounds."""
    outside = False
    for i in range(0, len(offsets), assume_positive(step)):
        outside |= dtype(fraction(offsets[np.uint64(i)], axis, dtype) - low) >= width
    return outside


@inlined
def any_outside_pattern(offsets, lows, widths, axis):
    """Whether the tap of any offset is outside of the bounds in the pattern."""
    outside, dtype = False, lows.dtype.type
    for i in range(len(offsets)):
        outside |= dtype(fraction(offsets[i], axis, dtype) - lows[i]) >= widths[i]
    return outside


@inlined
def all_real(offsets, depth, height, width):
    """Whether each offset of several planes names a real tap of its window, or is 0 if that has none."""
    for i in range(len(offsets)):
        rest, ow = divmod(i // width.argmax_step, width.out)
        rest, oh = divmod(rest, height.out)
        od, offset = rest % depth.out, np.int64(offsets[i])
        if has_tap(od, depth) and has_tap(oh, height) and has_tap(ow, width):
            if not (is_real(offset, od, depth) and is_real(offset, oh, height) and is_real(offset, ow, width)):
                return False
        elif offset != 0:
            return False
    return True


@inlined
def has_tap(position, axis):
    first, end = real_taps_along(position, axis)
    return first < end


@inlined
def is_real(offset, position, axis):
    first, end = real_taps_along(position, axis)
    return first <= offset // axis.offset_step % axis.kernel < end
