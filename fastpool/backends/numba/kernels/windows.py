"""The geometry of windows, compiled, and which of a window's taps are real: cells of the input, not padding."""

from typing import NamedTuple

from fastpool import _rules
from fastpool.backends.numba import geometry
from fastpool.backends.numba.decorators import inlined

first_window = inlined(_rules.first_window)
after_last_window = inlined(_rules.after_last_window)
windows_with_tap = inlined(_rules.windows_with_tap)
first_tap = inlined(_rules.first_tap)
after_last_tap = inlined(_rules.after_last_tap)
counted_cells = inlined(_rules.counted_cells)
ceil_div = inlined(geometry.ceil_div)
windows_at_edges = inlined(geometry.windows_at_edges)
inside_input = inlined(geometry.inside_input)
leaves_input = inlined(geometry.leaves_input)
last_vector = inlined(geometry.last_vector)


class RealTaps(NamedTuple):
    """The real taps of a window along each axis: from the first up to the end."""

    first_kd: int
    end_kd: int
    first_kh: int
    end_kh: int
    first_kw: int
    end_kw: int


@inlined
def real_taps(d, h, w, g):
    """The real taps of the window that begins at the coordinates (d, h, w)."""
    return RealTaps(
        first_tap(d, g.dd),
        after_last_tap(d, g.KD, g.dd, g.D),
        first_tap(h, g.dh),
        after_last_tap(h, g.KH, g.dh, g.H),
        first_tap(w, g.dw),
        after_last_tap(w, g.KW, g.dw, g.W),
    )


@inlined
def move_along_row(taps, w, g):
    """The real taps of another window of the same row, which begins at column w."""
    first_kw, end_kw = first_tap(w, g.dw), after_last_tap(w, g.KW, g.dw, g.W)
    return RealTaps(taps.first_kd, taps.end_kd, taps.first_kh, taps.end_kh, first_kw, end_kw)


@inlined
def has_cell(start, kernel, dilation, size):
    """Whether a window has a real tap along an axis."""
    return first_tap(start, dilation) < after_last_tap(start, kernel, dilation, size)


@inlined
def first_real_offset(taps, g):
    """The offset of a window's first real tap; 0 if the window is all padding."""
    if taps.first_kd >= taps.end_kd or taps.first_kh >= taps.end_kh or taps.first_kw >= taps.end_kw:
        return 0
    return (taps.first_kd * g.KH + taps.first_kh) * g.KW + taps.first_kw
