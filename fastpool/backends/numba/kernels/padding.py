"""Offsets that name padding. Padding is compared as the lowest value of the dtype, so that it wins a tie with real
cells of this value if it comes first."""

from fastpool.backends.numba.decorators import inlined
from fastpool.backends.numba.kernels.windows import first_real_offset, leaves_input, real_taps


@inlined
def fix_padding_offsets(values, argmax, d, h, w, edges, g, lowest):
    """Wherever the maximum is `lowest`, set the offset of the window's first real tap.

    The first window of the row begins at the coordinates (d, h, w). Windows between the two `edges` are skipped, unless
    they leave the input along another axis.
    """
    if argmax is not None:
        begin, end = edges
        inside = not (leaves_input(d, g.KD, g.dd, g.D) or leaves_input(h, g.KH, g.dh, g.H))
        skipped = (end - begin) * g.inner if inside else 0
        for edge in range(len(values) - skipped):
            i = edge if edge < begin * g.inner else edge + skipped
            if values[i] == lowest:
                argmax[i] = first_real_offset(real_taps(d, h, w + i // g.inner * g.sw, g), g)
