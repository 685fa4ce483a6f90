"""Max unpooling: each value of y is written to the cell that its index names. The caller has filled x."""

import numpy as np

from fastpool.backends.numba.decorators import kernel
from fastpool.backends.numba.simd.views import slice_view


@kernel
def max_unpool(y, indices, x, windows, cells, inner, scratch, start, stop):
    """Work items are planes of `windows` values and `cells` cells.

    Indices belong to the caller. Another thread may change them after their validation, so each is compared here, too.
    """
    for plane in range(start, stop):
        target = slice_view(x, plane * cells * inner, cells * inner)
        for i in range(windows):
            source = (plane * windows + i) * inner
            for c in range(inner):
                cell = np.uint64(indices[source + c])
                if cell < np.uint64(cells):
                    target[cell * np.uint64(inner) + np.uint64(c)] = y[source + c]
