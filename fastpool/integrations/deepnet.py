"""deepnet's convolution and pooling, and cs231n's im2col, on fastpool.

The framework deepnet (https://github.com/parasdahal/deepnet) takes them with one line in place of its own:

    from fastpool.integrations.deepnet import Conv, Maxpool

and whoever uses `im2col_indices` and `col2im_indices` of Stanford's course CS231n with

    from fastpool.integrations.deepnet import col2im_indices, im2col_indices

Arguments, attributes, column order and the draws from NumPy's global generator are the original's, and results are
equal to rounding: a network trained with either has the same losses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpool.arguments import check_shape, integer, positive
from fastpool.columns import col2im, im2col
from fastpool.convolution import conv2d, conv2d_backward
from fastpool.layers import Gradients, Layer, MaxPool2D, checked_dims

__all__ = ["Conv", "Maxpool", "col2im_indices", "im2col_indices"]


def _steps(size: int, field: int, padding: int, stride: int) -> int:
    """How many windows lie along an axis, which they must cover to the last cell."""
    if padding < 0:
        raise ValueError(f"padding must be 0 or more, got {padding}")
    slack = size + 2 * padding - field
    if slack < 0 or slack % stride:
        raise ValueError(
            f"Invalid dimensions! Windows of {field} cells every {stride} "
            f"do not tile an axis of {size} padded by {padding}"
        )
    return slack // stride + 1


def check_tiling(x_shape: Any, field_height: Any, field_width: Any, padding: Any, stride: Any) -> tuple[int, int]:
    """How many windows lie along both axes of images, which they must cover to the last cell."""
    x_shape = check_shape("x_shape", x_shape)
    if len(x_shape) != 4:
        raise ValueError(f"x must have shape (N, C, H, W), got {x_shape}")
    stride, padding = positive("stride", stride), integer("padding", padding)
    return (
        _steps(x_shape[2], positive("field_height", field_height), padding, stride),
        _steps(x_shape[3], positive("field_width", field_width), padding, stride),
    )


def im2col_indices(
    x: Any, field_height: int = 3, field_width: int = 3, padding: int = 1, stride: int = 1
) -> np.ndarray:
    """Every window of a batch of images as a column, the position first and the image inside it.

    Parameters
    ----------
    x : array of shape (N, C, H, W)
    field_height, field_width, padding, stride : int
        In cells; the padding is zeros, at both ends of both axes.

    Returns
    -------
    array of shape (C * field_height * field_width, OH * OW * N), with the dtype of `x`

    Raises
    ------
    ValueError
        If the windows do not reach the last cell of both axes, as the original's assertion.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.deepnet import im2col_indices
    >>> im2col_indices(np.arange(8).reshape(2, 1, 2, 2), 1, 2, padding=0)
    array([[0, 4, 2, 6],
           [1, 5, 3, 7]])
    """
    check_tiling(np.shape(x), field_height, field_width, padding, stride)
    return im2col(x, (field_height, field_width), stride, padding, order="gemm")


def col2im_indices(
    cols: Any,
    x_shape: tuple[int, int, int, int],
    field_height: int = 3,
    field_width: int = 3,
    padding: int = 1,
    stride: int = 1,
) -> np.ndarray:
    """Add columns up to where `im2col_indices` took them from: its adjoint.

    Parameters
    ----------
    cols : array of the shape that `im2col_indices` gives for `x_shape`
    x_shape : (N, C, H, W)
    field_height, field_width, padding, stride : int

    Returns
    -------
    array of `x_shape`, with the dtype of `cols`

    Raises
    ------
    ValueError
        As `im2col_indices`, and for columns that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.deepnet import col2im_indices
    >>> col2im_indices(np.ones((9, 4)), (1, 1, 2, 2))[0, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    check_tiling(x_shape, field_height, field_width, padding, stride)
    return col2im(cols, x_shape, (field_height, field_width), stride, padding, order="gemm")


class Conv(Layer):
    """deepnet's convolution layer.

    Parameters
    ----------
    X_dim : (channels, height, width)
    n_filter, h_filter, w_filter, stride, padding : int

    Attributes
    ----------
    W : float64 array of shape (n_filter, channels, h_filter, w_filter)
        Drawn from NumPy's global generator, normal, divided by sqrt(n_filter / 2).
    b : float64 array of shape (n_filter, 1), zeros
    params : [W, b]
        The arrays themselves; deepnet's solvers change them in place.
    out_dim : (n_filter, h_out, w_out)

    Raises
    ------
    ValueError
        "Invalid dimensions!" if the windows do not tile the padded image.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.deepnet import Conv
    >>> layer = Conv((1, 28, 28), n_filter=32, h_filter=3, w_filter=3, stride=1, padding=1)
    >>> layer.out_dim, layer.b.shape
    ((32, 28, 28), (32, 1))
    >>> out = layer.forward(np.ones((2, 1, 28, 28)))
    >>> dX, (dW, db) = layer.backward(out)
    >>> dX.shape, dW.shape, db.shape
    ((2, 1, 28, 28), (32, 1, 3, 3), (32, 1))
    """

    def __init__(
        self, X_dim: tuple[int, int, int], n_filter: int, h_filter: int, w_filter: int, stride: int, padding: int
    ) -> None:
        self.d_X, self.h_X, self.w_X = checked_dims(X_dim, "channels", "height", "width")
        self.n_filter, self.stride = positive("n_filter", n_filter), positive("stride", stride)
        self.h_filter, self.w_filter = positive("h_filter", h_filter), positive("w_filter", w_filter)
        self.padding = integer("padding", padding)
        self.h_out = _steps(self.h_X, self.h_filter, self.padding, self.stride)
        self.w_out = _steps(self.w_X, self.w_filter, self.padding, self.stride)
        super().__init__((self.d_X, self.h_X, self.w_X), (self.n_filter, self.h_out, self.w_out))

        draws = np.random.randn(self.n_filter, self.d_X, self.h_filter, self.w_filter)  # noqa: NPY002  as deepnet
        self.W = draws / np.sqrt(self.n_filter / 2)
        self.b = np.zeros((self.n_filter, 1))
        self.params = [self.W, self.b]

    def forward(self, X: Any) -> np.ndarray:
        """The output for X of shape (N, *X_dim), in float64 as the weights: X of another dtype is converted."""
        X = self._batch(X)
        self._saved = X = X.astype(self.W.dtype, copy=False)
        return conv2d(X, self.W, self.b[:, 0], self.stride, self.padding)

    def backward(self, dout: Any) -> Gradients:
        X = self._last_forward()
        dX, dW, db = conv2d_backward(dout, X, self.W, self.stride, self.padding)
        return dX, [dW, db.reshape(self.b.shape)]


class Maxpool(MaxPool2D):
    """deepnet's max pooling layer: windows of size by size cells.

    Parameters
    ----------
    X_dim : (channels, height, width)
    size, stride : int

    Attributes
    ----------
    params : []
    out_dim : (channels, h_out, w_out)
    n_X : int
        How many images the last forward pass had.
    X_col : array of shape (size * size, h_out * w_out * n_X * channels)
        The columns of these images. They and `max_indexes` are computed when they are asked for.
    max_indexes : array of int64
        Where the maximum of each column is.

    Raises
    ------
    ValueError
        "Invalid dimensions!" if the windows do not tile the image; `fastpool.layers.MaxPool2D` takes such sizes too.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.deepnet import Maxpool
    >>> layer = Maxpool((1, 2, 4), size=2, stride=2)
    >>> layer.forward(np.array([[[[1.0, 2.0, 7.0, 5.0], [4.0, 3.0, 6.0, 8.0]]]]))
    array([[[[4., 8.]]]])
    >>> layer.backward(np.array([[[[10.0, 20.0]]]]))
    (array([[[[ 0.,  0.,  0.,  0.],
             [10.,  0.,  0., 20.]]]]), [])
    >>> Maxpool((1, 5, 4), size=2, stride=2)
    Traceback (most recent call last):
        ...
    ValueError: Invalid dimensions! Windows of 2 cells every 2 do not tile an axis of 5 padded by 0
    """

    def __init__(self, X_dim: tuple[int, int, int], size: int, stride: int) -> None:
        self.d_X, self.h_X, self.w_X = checked_dims(X_dim, "channels", "height", "width")
        self.size, self.stride = positive("size", size), positive("stride", stride)
        self.h_out = _steps(self.h_X, self.size, 0, self.stride)
        self.w_out = _steps(self.w_X, self.size, 0, self.stride)
        super().__init__((self.d_X, self.h_X, self.w_X), self.size, self.stride)

    def forward(self, X: Any) -> Any:
        self._X = X
        return super().forward(X)

    @property
    def n_X(self) -> int:
        return int(self._X.shape[0])

    @property
    def X_col(self) -> Any:
        planes = self._X.reshape(self.n_X * self.d_X, 1, self.h_X, self.w_X)
        return im2col_indices(planes, self.size, self.size, padding=0, stride=self.stride)

    @property
    def max_indexes(self) -> Any:
        return self.X_col.argmax(0)
