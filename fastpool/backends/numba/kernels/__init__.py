"""The kernels, one algorithm a module. Arrays come flat: a plane has rows of W * inner elements, in every layout."""

from fastpool.backends.numba.kernels import (  # noqa: F401  each enters its kernels where it is imported
    col2im,
    direct,
    elementwise,
    gather_backward,
    im2col,
    nonoverlapping_backward,
    scatter_backward,
    separable,
    unpool,
    validate_argmax,
    van_herk,
)
