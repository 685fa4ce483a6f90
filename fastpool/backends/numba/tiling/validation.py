"""How `validate_argmax` compares the taps along each axis, and how a thread's scratch is divided."""

from typing import NamedTuple

from fastpool.backends.numba import tuning
from fastpool.backends.numba.geometry import Geometry, ceil_div, windows_at_edges
from fastpool.backends.numba.tiling.scratch import in_cache_lines


class Axis(NamedTuple):
    """One axis of the windows, and how `validate_argmax` compares the taps along it."""

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    out: int
    offset_step: int  # from the offset of one tap to that of the next
    argmax_step: int  # elements of an argmax from one window to the next
    factor: int  # of an offset, for its tap as a fraction of all taps along the axis: see `fraction`
    inside_begin: int  # windows before this one leave the input
    inside_end: int  # and windows from this one on
    one_by_one: bool  # only windows that leave the input are compared, else all of them with a pattern of bounds


class ValidationTiling(NamedTuple):
    """For `validate_argmax`, whose work items are planes of an argmax."""

    plane: int  # elements of an argmax
    taps: int
    period: int  # elements of the pattern of bounds: of whole planes, or of a row
    widths_begin: int  # where the second half of the bounds begins in scratch
    scratch_bytes: int


def axes_to_validate(g: Geometry, argmax_itemsize: int) -> tuple[Axis, Axis, Axis]:
    period, offset_steps = _period(g), (g.KH * g.KW, g.KW, 1)
    argmax_steps = (g.OH * g.OW * g.inner, g.OW * g.inner, g.inner)
    return tuple(_axis(offset_steps[i], argmax_steps[i], argmax_itemsize, period, *g[i:18:3]) for i in range(3))


def _axis(offset_step, argmax_step, argmax_itemsize, period, size, kernel, stride, padding, dilation, out):
    begin, end = windows_at_edges(-padding, out, kernel, stride, dilation, size)
    few_edges = tuning.PATTERN_EDGES * (begin + out - end) < out
    one_by_one = few_edges or argmax_step >= min(period, tuning.PATTERN_RUN) or period > tuning.MOST_PATTERN
    factor = ceil_div(1 << 16 * argmax_itemsize, kernel * offset_step)
    factor = (factor + (1 << 63)) % (1 << 64) - (1 << 63)  # as a signed word
    return Axis(size, kernel, stride, padding, dilation, out, offset_step, argmax_step, factor, begin, end, one_by_one)


def _period(g):
    plane = g.OD * g.OH * g.OW * g.inner
    return ceil_div(tuning.PATTERN, plane) * plane if plane <= tuning.TILE else g.OW * g.inner


def validate_argmax(g: Geometry, argmax_itemsize: int) -> ValidationTiling:
    period = _period(g)
    uses_pattern = not all(axis.one_by_one for axis in axes_to_validate(g, argmax_itemsize))
    widths_begin = in_cache_lines(period, 2 * argmax_itemsize) if uses_pattern else 0
    return ValidationTiling(
        plane=g.OD * g.OH * g.OW * g.inner,
        taps=g.KD * g.KH * g.KW,
        period=period,
        widths_begin=widths_begin,
        scratch_bytes=2 * widths_begin,
    )
