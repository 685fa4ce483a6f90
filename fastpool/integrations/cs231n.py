"""The fast layers and the im2col of Stanford's course CS231n, on fastpool.

An assignment takes them in place of its own `cs231n/fast_layers.py` with

    from fastpool.integrations.cs231n import conv_forward_fast, conv_backward_fast
    from fastpool.integrations.cs231n import max_pool_forward_fast, max_pool_backward_fast

and `im2col_indices`, `col2im_indices`, `im2col_cython`, `col2im_cython` and `col2im_6d_cython` in place of
`cs231n/im2col.py` and `cs231n/im2col_cython.pyx`, which Cython 3 no longer compiles: nothing is compiled here.

Arguments, column orders, results and dtypes are the course's; dtypes besides float32 and float64 are taken, too. Where
an assertion of the course fails, a ValueError shows the sizes.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastpool import arrays
from fastpool.arguments import check_shape, integer, positive
from fastpool.columns import col2im, im2col
from fastpool.dtypes import is_float, sum_dtype
from fastpool.integrations.deepnet import check_tiling, col2im_indices, im2col_indices
from fastpool.pooling import max_pool2d, max_pool2d_backward
from fastpool.window import Window

__all__ = [
    "col2im_6d_cython",
    "col2im_cython",
    "col2im_indices",
    "conv_backward_fast",
    "conv_forward_fast",
    "get_im2col_indices",
    "im2col_cython",
    "im2col_indices",
    "max_pool_backward_fast",
    "max_pool_forward_fast",
]

# Windows whose gradients are divided at once, so that they stay in the caches.
BLOCK = 1 << 15


def get_im2col_indices(
    x_shape: tuple[int, int, int, int], field_height: int, field_width: int, padding: int = 1, stride: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the cells of all windows are in the padded images, as indices of NumPy.

    Parameters
    ----------
    x_shape : (N, C, H, W)
    field_height, field_width, padding, stride : int

    Returns
    -------
    k, i, j : int64 arrays
        Channel, of shape (C * field_height * field_width, 1), row and column, of shape (C * field_height * field_width,
        OH * OW): `padded[:, k, i, j]` are the columns of each image.

    Raises
    ------
    ValueError
        If the windows do not reach the last cell of both axes.

    Examples
    --------
    >>> from fastpool.integrations.cs231n import get_im2col_indices
    >>> k, i, j = get_im2col_indices((1, 1, 2, 3), 1, 2, padding=0)
    >>> i
    array([[0, 0, 1, 1],
           [0, 0, 1, 1]])
    >>> j
    array([[0, 1, 0, 1],
           [1, 2, 1, 2]])
    """
    rows, columns = check_tiling(x_shape, field_height, field_width, padding, stride)
    taps = (index.reshape(-1, 1) for index in np.indices((x_shape[1], field_height, field_width)))
    top, left = (stride * index.reshape(1, -1) for index in np.indices((rows, columns)))
    k, i, j = taps
    return k, i + top, j + left


def im2col_cython(x: Any, field_height: int, field_width: int, padding: int, stride: int) -> np.ndarray:
    """As `im2col_indices`, for windows that need not reach the last cell.

    Parameters
    ----------
    x : array of shape (N, C, H, W)
    field_height, field_width, padding, stride : int

    Returns
    -------
    array of shape (C * field_height * field_width, OH * OW * N), the position first and the image inside it

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.cs231n import im2col_cython
    >>> im2col_cython(np.arange(8.0).reshape(2, 1, 2, 2), 1, 2, 0, 1)
    array([[0., 4., 2., 6.],
           [1., 5., 3., 7.]])
    """
    x = arrays.read_images("x", x)
    return im2col(x, (field_height, field_width), stride, integer("padding", padding), order="gemm")


def col2im_cython(
    cols: Any, N: int, C: int, H: int, W: int, field_height: int, field_width: int, padding: int, stride: int
) -> np.ndarray:
    """As `col2im_indices`, for windows that need not reach the last cell.

    Parameters
    ----------
    cols : array of the shape that `im2col_cython` gives for (N, C, H, W)
    N, C, H, W, field_height, field_width, padding, stride : int

    Returns
    -------
    array of shape (N, C, H, W), with the dtype of `cols`

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.cs231n import col2im_cython
    >>> col2im_cython(np.ones((4, 4)), 1, 1, 3, 3, 2, 2, 0, 1)[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    shape = N, C, H, W
    return col2im(cols, shape, (field_height, field_width), stride, integer("padding", padding), order="gemm")


def col2im_6d_cython(cols: Any, N: int, C: int, H: int, W: int, HH: int, WW: int, pad: int, stride: int) -> np.ndarray:
    """Add up columns that have an axis each for channel, tap, image and position.

    Parameters
    ----------
    cols : array of shape (C, HH, WW, N, OH, OW)
    N, C, H, W, HH, WW, pad, stride : int

    Returns
    -------
    array of shape (N, C, H, W), with the dtype of `cols`

    Raises
    ------
    ValueError
        For columns that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.cs231n import col2im_6d_cython
    >>> col2im_6d_cython(np.ones((1, 2, 2, 1, 2, 2)), 1, 1, 3, 3, 2, 2, 0, 1)[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    cols, shape = arrays.read("cols", cols), check_shape("(N, C, H, W)", (N, C, H, W))
    window = (HH, WW), positive("stride", stride), integer("pad", pad)
    out = Window.plan(2, shape, *window).out[1:]
    if cols.shape != (C, HH, WW, N, *out):
        raise ValueError(f"cols must have shape (C, HH, WW, N, OH, OW), here {(C, HH, WW, N, *out)}, got {cols.shape}")
    return col2im(cols.reshape(C * HH * WW, N * prod(out)), shape, *window, order="columns")


def conv_forward_fast(x: Any, w: Any, b: Any, conv_param: dict[str, int]) -> tuple[np.ndarray, tuple]:
    """The forward pass of a convolution: columns with the image first, and one product.

    Parameters
    ----------
    x : array of shape (N, C, H, W)
    w : array of shape (F, C, HH, WW)
    b : array of shape (F,)
    conv_param : dict with "stride" and "pad"

    Returns
    -------
    out : array of shape (N, F, OH, OW)
    cache : (x, w, b, conv_param, x_cols)
        As the course's; `x_cols` has shape (C * HH * WW, N * OH * OW).

    Raises
    ------
    ValueError
        If the windows do not reach the last cell of both axes, or shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.cs231n import conv_backward_fast, conv_forward_fast
    >>> x, w, b = np.ones((2, 3, 5, 5)), np.ones((4, 3, 3, 3)), np.zeros(4)
    >>> out, cache = conv_forward_fast(x, w, b, {"stride": 2, "pad": 1})
    >>> out[0, 0]
    array([[12., 18., 12.],
           [18., 27., 18.],
           [12., 18., 12.]])
    >>> dx, dw, db = conv_backward_fast(np.ones_like(out), cache)
    >>> dx.shape, dw.shape, db
    ((2, 3, 5, 5), (4, 3, 3, 3), array([18., 18., 18., 18.]))
    """
    x, w, b = arrays.read_images("x", x), arrays.read("w", w), arrays.read("b", b)
    if w.ndim != 4 or w.shape[1] != x.shape[1]:
        raise ValueError(f"w must have shape (F, {x.shape[1]}, HH, WW) for the channels of x, got {w.shape}")
    if b.shape != w.shape[:1]:
        raise ValueError(f"b must have shape {w.shape[:1]} for the filters of w, got {b.shape}")
    stride, pad = _param(conv_param, "conv_param", "stride"), _param(conv_param, "conv_param", "pad", 0)
    filters, _, height, width = w.shape
    rows, columns = check_tiling(x.shape, height, width, pad, stride)
    x_cols = im2col(x, (height, width), stride, pad, order="columns")
    out = w.reshape(filters, -1) @ x_cols + b.reshape(-1, 1)
    out = np.ascontiguousarray(out.reshape(filters, len(x), rows, columns).swapaxes(0, 1))
    return out, (x, w, b, conv_param, x_cols)


def conv_backward_fast(dout: Any, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of a convolution.

    Parameters
    ----------
    dout : array of the shape of `out`
    cache : what `conv_forward_fast` returned

    Returns
    -------
    dx, dw, db : the gradients of x, w and b

    Raises
    ------
    ValueError
        For a `dout` of another shape.

    Examples
    --------
    See `conv_forward_fast`.
    """
    x, w, _, conv_param, x_cols = cache
    dout = arrays.read("dout", dout)
    filters, _, height, width = w.shape
    stride, pad = conv_param["stride"], conv_param["pad"]
    rows, columns = check_tiling(x.shape, height, width, pad, stride)
    arrays.expect_shape("dout", dout, (len(x), filters, rows, columns), "out")
    by_filter = dout.swapaxes(0, 1).reshape(filters, -1)
    dw = (by_filter @ x_cols.T).reshape(w.shape)
    dx_cols = w.reshape(filters, -1).T @ by_filter
    dx = col2im(dx_cols, x.shape, (height, width), stride, pad, order="columns")
    return dx, dw, dout.sum(axis=(0, 2, 3))


def max_pool_forward_fast(x: Any, pool_param: dict[str, int]) -> tuple[np.ndarray, tuple]:
    """The forward pass of max pooling.

    Parameters
    ----------
    x : array of shape (N, C, H, W)
    pool_param : dict with "pool_height", "pool_width" and "stride"

    Returns
    -------
    out : array of shape (N, C, OH, OW)
    cache : ("reshape", (x, x_reshaped, out)) or ("im2col", (x, None, argmax, pool_param))
        The course's method and cache, "reshape" for square windows that tile the images and "im2col" otherwise, but
        without columns: here neither method makes any. `argmax` is that of `fastpool.max_pool2d`.

    Raises
    ------
    ValueError
        If the windows do not reach the last cell of both axes.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.cs231n import max_pool_backward_fast, max_pool_forward_fast
    >>> x = np.array([[[[3.0, 1.0, 5.0, 5.0], [2.0, 0.0, 4.0, 1.0]]]])
    >>> out, cache = max_pool_forward_fast(x, {"pool_height": 2, "pool_width": 2, "stride": 2})
    >>> out, cache[0]
    (array([[[[3., 5.]]]]), 'reshape')
    >>> max_pool_backward_fast(np.ones_like(out), cache)  # two maxima share a gradient
    array([[[[1. , 0. , 0.5, 0.5],
             [0. , 0. , 0. , 0. ]]]])
    """
    x = arrays.read_images("x", x)
    height, width, stride = (_param(pool_param, "pool_param", key) for key in ("pool_height", "pool_width", "stride"))
    check_tiling(x.shape, height, width, 0, stride)
    n, channels, rows, columns = x.shape
    if height == width == stride:
        out = max_pool2d(x, stride)
        x_reshaped = x.reshape(n, channels, rows // stride, stride, columns // stride, stride)
        return out, ("reshape", (x, x_reshaped, out))
    out, argmax = max_pool2d(x, (height, width), stride, return_argmax=True)
    return out, ("im2col", (x, None, argmax, pool_param))


def max_pool_backward_fast(dout: Any, cache: tuple) -> np.ndarray:
    """The gradient of max pooling.

    As in the course, of several maxima the method "im2col" gives the gradient to the first, and "reshape" divides it
    among all of them. Where the maximum is NaN, "reshape" gives NaN to the whole window.

    Parameters
    ----------
    dout : array of the shape of `out`
    cache : what `max_pool_forward_fast` returned

    Returns
    -------
    array of the shape and dtype of `x`

    Raises
    ------
    TypeError
        For an `x` that is not floating.
    ValueError
        For a `dout` of another shape, and for a method that is neither.

    Examples
    --------
    See `max_pool_forward_fast`.
    """
    method, saved = cache
    if method not in ("reshape", "im2col"):
        raise ValueError(f"the method of cache must be 'reshape' or 'im2col', got {method!r}")
    x, dout = saved[0], arrays.read("dout", dout)
    if not is_float(x.dtype):
        raise TypeError(f"x of the forward pass must be floating for a gradient, got {x.dtype}")
    arrays.expect_shape("dout", dout, saved[2].shape, "out")
    dout = dout.astype(x.dtype, copy=False)
    if method == "reshape":
        return _divided(dout, *saved)
    param = saved[3]
    field = param["pool_height"], param["pool_width"]
    return max_pool2d_backward(dout, saved[2], x.shape, field, param["stride"])


@np.errstate(all="ignore")
def _divided(dout: np.ndarray, x: np.ndarray, x_reshaped: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Divide each gradient among the cells that are equal to the maximum, tap by tap of some images at once."""
    dx, stride = np.empty(x.shape, x.dtype), x_reshaped.shape[3]
    taps = [(..., slice(None), i, slice(None), j) for i, j in np.ndindex(stride, stride)]
    images = max(BLOCK // max(out[:1].size, 1), 1)
    for first in range(0, len(x), images):
        block = slice(first, first + images)
        cells, target = x_reshaped[block], dx.reshape(x_reshaped.shape)[block]
        are_maxima = [cells[tap] == out[block] for tap in taps]
        count = sum(are_maxima, np.zeros(out[block].shape, sum_dtype(x.dtype)))
        share = dout[block] / count
        others = 0 / count  # NaN where the maximum is, to which no cell is equal
        for tap, is_maximum in zip(taps, are_maxima, strict=True):
            target[tap] = np.where(is_maximum, share, others)
    return dx


def _param(param: dict[str, int], name: str, key: str, least: int = 1) -> int:
    if not isinstance(param, dict) or key not in param:
        raise ValueError(f"{name} must be a dict with {key!r}, got {param!r}")
    value = f"{name}[{key!r}]"
    return positive(value, param[key]) if least else integer(value, param[key])
