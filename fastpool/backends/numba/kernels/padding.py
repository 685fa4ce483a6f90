"""Winners in padding: a window's maximum is the lowest value of its dtype, and padding may have come first."""

from fastpool.backends.numba.decorators import inlined
from fastpool.backends.numba.kernels.windows import first_real_offset, leaves_input, real_taps


@inlined
def fix_padding_winners(values, argmax, d, h, w, edges, g, lowest):
    """In a row of windows, the first at (d, h, w), let the first real cell win wherever the maximum is `lowest`.

    Windows between the two `edges` are looked at only if they leave the input along another axis.
    """
    begin, end = edges
    inside = not (leaves_input(d, g.KD, g.dd, g.D) or leaves_input(h, g.KH, g.dh, g.H))
    skipped = (end - begin) * g.inner if inside else 0
    for edge in range(len(values) - skipped):
        i = edge if edge < begin * g.inner else edge + skipped
        if values[i] == lowest:
            argmax[i] = first_real_offset(real_taps(d, h, w + i // g.inner * g.sw, g), g)
