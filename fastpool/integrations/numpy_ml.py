"""The im2col of numpy-ml, on fastpool.

numpy-ml (https://github.com/ddbourgin/numpy-ml) takes it, in its convolutions and its layers, with

    import numpy_ml.neural_nets.layers.layers as layers, numpy_ml.neural_nets.utils.utils as utils
    from fastpool.integrations.numpy_ml import col2im, im2col
    layers.im2col = utils.im2col = im2col
    layers.col2im = utils.col2im = col2im

Images have their channels last, and a dilation of 0 is none: it counts the cells between two taps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpool import arrays
from fastpool import columns as fast
from fastpool.arguments import check_shape, integer, positive, shown

__all__ = ["col2im", "im2col"]

Pad = int | tuple[int, int] | tuple[int, int, int, int] | str
Pads = tuple[int, int, int, int]


def im2col(
    X: Any, W_shape: tuple[int, int, int, int], pad: Pad, stride: int, dilation: int = 0
) -> tuple[np.ndarray, Pads]:
    """Every window of a batch of images as a column.

    Parameters
    ----------
    X : array of shape (n_ex, in_rows, in_cols, in_ch)
    W_shape : (kernel_rows, kernel_cols, in_ch, out_ch)
    pad : int, (rows, columns), (above, below, left, right) or "same"
        Zeros around the images; "same" for as many windows along each axis as cells, at any stride.
    stride : int
    dilation : int
        Cells between two taps.

    Returns
    -------
    X_col : array of shape (in_ch * kernel_rows * kernel_cols, out_rows * out_cols * n_ex), with the dtype of `X`
        The position first and the image inside it.
    pads : (above, below, left, right)

    Raises
    ------
    ValueError
        For shapes that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.numpy_ml import im2col
    >>> X = np.arange(8.0).reshape(2, 2, 2, 1)
    >>> X_col, pads = im2col(X, (1, 2, 1, 5), pad=0, stride=1)
    >>> X_col
    array([[0., 4., 2., 6.],
           [1., 5., 3., 7.]])
    >>> im2col(X, (3, 2, 1, 5), pad="same", stride=1)[1]
    (1, 1, 0, 1)
    """
    X = arrays.read("X", X)
    kernel, apart = _kernel(W_shape, X.shape), _cells_apart(dilation)
    pads = _pads(pad, X.shape[1:3], kernel, positive("stride", stride), apart)
    window = kernel, stride, (pads[:2], pads[2:]), apart
    return fast.im2col(X, *window, order="gemm", data_format="channels_last"), pads


def col2im(
    X_col: Any,
    X_shape: tuple[int, int, int, int],
    W_shape: tuple[int, int, int, int],
    pad: Pads,
    stride: int,
    dilation: int = 0,
) -> np.ndarray:
    """Add columns up to where `im2col` took them from: its adjoint.

    Parameters
    ----------
    X_col : array of the shape that `im2col` gives for `X_shape`
    X_shape : (n_ex, in_rows, in_cols, in_ch)
    W_shape : (kernel_rows, kernel_cols, in_ch, out_ch)
    pad : (above, below, left, right)
    stride, dilation : int

    Returns
    -------
    float64 array of shape (n_ex, in_ch, in_rows, in_cols)
        With the channels first, as numpy-ml's function returns it.

    Raises
    ------
    TypeError
        For a `pad` that is not four ints.
    ValueError
        For shapes that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.numpy_ml import col2im
    >>> col2im(np.ones((4, 4)), (1, 3, 3, 1), (2, 2, 1, 5), (0, 0, 0, 0), 1)[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    if not (isinstance(pad, tuple) and len(pad) == 4):
        raise TypeError(f"pad must be a tuple (above, below, left, right), got {shown(pad)}")
    X_shape = check_shape("X_shape", X_shape)  # type: ignore[assignment]
    kernel = _kernel(W_shape, X_shape)
    n, rows, columns, channels = X_shape
    window = kernel, stride, (pad[:2], pad[2:]), _cells_apart(dilation)
    X_col = arrays.read("X_col", X_col).astype(np.float64, copy=False)
    return fast.col2im(X_col, (n, channels, rows, columns), *window, order="gemm")


def _kernel(W_shape: Any, X_shape: tuple[int, ...]) -> tuple[int, int]:
    """The sizes of a window."""
    W_shape = check_shape("W_shape", W_shape)
    if len(X_shape) != 4:
        raise ValueError(f"X must have shape (n_ex, in_rows, in_cols, in_ch), got {X_shape}")
    if len(W_shape) != 4 or W_shape[2] != X_shape[3]:
        raise ValueError(f"W_shape must be (kernel_rows, kernel_cols, {X_shape[3]}, out_ch) for X, got {W_shape}")
    return W_shape[0], W_shape[1]


def _cells_apart(dilation: Any) -> int:
    """The dilation as others count it: from one tap to the next."""
    between = integer("dilation", dilation)
    if between < 0:
        raise ValueError(f"dilation must be 0 or more, got {between}")
    return between + 1


def _pads(pad: Any, size: tuple[int, int], kernel: tuple[int, int], stride: int, apart: int) -> Pads:
    """Above, below, left and right."""
    if isinstance(pad, str) and pad == "same":
        reaches = [(taps - 1) * apart for taps in kernel]
        rows, columns = ((stride - 1) * (cells - 1) + reach for cells, reach in zip(size, reaches, strict=True))
        return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
    if isinstance(pad, (tuple, list)) and len(pad) in (2, 4):
        pads = [integer("pad", each) for each in pad]
        return (pads[0], pads[0], pads[1], pads[1]) if len(pads) == 2 else tuple(pads)  # type: ignore[return-value]
    if isinstance(pad, (str, tuple, list)):
        raise ValueError(f"pad must be an int, a tuple of two or four ints, or 'same', got {pad!r}")
    return (integer("pad", pad),) * 4
