"""A mask of the real taps along a row, and correction of argmax offsets that would name padding.

Padding is compared as the lowest value of the dtype, so that it wins a tie with real cells of this value if it comes
first.
"""

import numpy as np

from fastpool.backends.numba.decorators import inlined
from fastpool.backends.numba.kernels.rows import fill_vectors, repeat
from fastpool.backends.numba.kernels.windows import (
    after_last_tap,
    first_real_offset,
    first_tap,
    leaves_input,
    real_taps,
)
from fastpool.backends.numba.simd.vectors import vector_like, width_of


@inlined
def mark_real_taps(tap_bits, g):
    """Set a bit for each real tap along a row of each window, and repeat this for all rows."""
    for ow in range(g.OW if len(tap_bits) > 0 else 0):
        w = ow * g.sw - g.pw
        first = first_tap(w, g.dw)
        end = max(after_last_tap(w, g.KW, g.dw, g.W), first)
        bits = vector_like(tap_bits, np.uint8((1 << end) - (1 << first)))
        fill_vectors(tap_bits, ow * g.inner, (ow + 1) * g.inner, bits)
    repeat(tap_bits, g.OW * g.inner, len(tap_bits) - width_of(tap_bits))


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
