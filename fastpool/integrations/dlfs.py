"""The im2col, convolution and pooling of "Deep Learning from Scratch" and of DeZero, on fastpool.

A network of the book (https://github.com/oreilly-japan/deep-learning-from-scratch) takes the layers with one line after
its `from common.layers import *`:

    from fastpool.integrations.dlfs import Convolution, Pooling

and DeZero, the framework of the third book, the columns under all its convolutions and poolings with two:

    import dezero.functions_conv, fastpool.integrations.dlfs as fast
    dezero.functions_conv.im2col_array, dezero.functions_conv.col2im_array = fast.im2col_array, fast.col2im_array

Arguments, attributes, orders and dtypes are the originals': the functions of the book give float64, those of DeZero the
dtype they were given. Padding is zeros, also where windows are pooled: a zero of the padding can be their maximum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpool import arrays
from fastpool import columns as fast
from fastpool.arguments import integer, positive
from fastpool.pooling import max_pool2d, max_pool2d_backward
from fastpool.window import Window

__all__ = ["Convolution", "Pooling", "col2im", "col2im_array", "im2col", "im2col_array"]

Pair = int | tuple[int, int]


def im2col(input_data: Any, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> np.ndarray:
    """Every window of a batch of images as a row of a matrix.

    Parameters
    ----------
    input_data : array of shape (N, C, H, W)
    filter_h, filter_w, stride, pad : int

    Returns
    -------
    float64 array of shape (N * OH * OW, C * filter_h * filter_w)

    Raises
    ------
    ValueError
        If a window does not fit into the padded images.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.dlfs import im2col
    >>> im2col(np.arange(9).reshape(1, 1, 3, 3), 2, 2)
    array([[0., 1., 3., 4.],
           [1., 2., 4., 5.],
           [3., 4., 6., 7.],
           [4., 5., 7., 8.]])
    """
    x = arrays.read_images("input_data", input_data).astype(np.float64, copy=False)
    return fast.im2col(x, (filter_h, filter_w), stride, integer("pad", pad), order="rows")


def col2im(
    col: Any, input_shape: tuple[int, int, int, int], filter_h: int, filter_w: int, stride: int = 1, pad: int = 0
) -> np.ndarray:
    """Add the rows up to where `im2col` took them from: its adjoint.

    Parameters
    ----------
    col : array of the shape that `im2col` gives for `input_shape`
    input_shape : (N, C, H, W)
    filter_h, filter_w, stride, pad : int

    Returns
    -------
    float64 array of `input_shape`

    Raises
    ------
    ValueError
        For shapes that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.dlfs import col2im
    >>> col2im(np.ones((4, 4)), (1, 1, 3, 3), 2, 2)[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    col = arrays.read("col", col).astype(np.float64, copy=False)
    return fast.col2im(col, input_shape, (filter_h, filter_w), stride, integer("pad", pad), order="rows")


def im2col_array(img: Any, kernel_size: Pair, stride: Pair, pad: Pair, to_matrix: bool = True) -> np.ndarray:
    """DeZero's im2col of arrays.

    Parameters
    ----------
    img : array of shape (N, C, H, W)
    kernel_size, stride, pad : int, or one for each axis
    to_matrix : bool

    Returns
    -------
    array with the dtype of `img`: with `to_matrix` (N * OH * OW, C * KH * KW), else (N, C, KH, KW, OH, OW)

    Raises
    ------
    ValueError
        If a window does not fit into the padded images.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.dlfs import im2col_array
    >>> img = np.zeros((2, 3, 5, 6), np.float32)
    >>> im2col_array(img, 3, 1, 1).shape, im2col_array(img, (3, 2), 2, 0, to_matrix=False).shape
    ((60, 27), (2, 3, 3, 2, 2, 3))
    """
    order = "rows" if to_matrix else "windows"
    return fast.im2col(arrays.read_images("img", img), _pair(kernel_size), _pair(stride), _pair(pad), order=order)


def col2im_array(
    col: Any,
    img_shape: tuple[int, int, int, int],
    kernel_size: Pair,
    stride: Pair,
    pad: Pair,
    to_matrix: bool = True,
) -> np.ndarray:
    """Add up what `im2col_array` gives: its adjoint.

    Parameters
    ----------
    col : array of the shape that `im2col_array` gives for `img_shape`
    img_shape : (N, C, H, W)
    kernel_size, stride, pad, to_matrix
        As there.

    Returns
    -------
    array of `img_shape`, with the dtype of `col`

    Raises
    ------
    ValueError
        For shapes that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.dlfs import col2im_array
    >>> col2im_array(np.ones((4, 4)), (1, 1, 3, 3), 2, 1, 0)[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    order = "rows" if to_matrix else "windows"
    return fast.col2im(col, img_shape, _pair(kernel_size), _pair(stride), _pair(pad), order=order)


class Convolution:
    """The book's convolution layer: rows of windows times a matrix of filters.

    Parameters
    ----------
    W : array of shape (FN, C, FH, FW)
    b : array of shape (FN,)
    stride, pad : int

    Attributes
    ----------
    W, b : the arrays themselves; the book's solvers change them in place
    x, col, col_W : what the last forward pass was given, its rows, and the filters as a matrix (C * FH * FW, FN)
    dW, db : the gradients of the last backward pass

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.dlfs import Convolution
    >>> layer = Convolution(np.ones((4, 3, 3, 3)), np.zeros(4), stride=1, pad=1)
    >>> out = layer.forward(np.ones((2, 3, 5, 5)))
    >>> dx = layer.backward(np.ones_like(out))
    >>> out.shape, layer.col.shape, dx.shape, layer.dW.shape, layer.db
    ((2, 4, 5, 5), (50, 27), (2, 3, 5, 5), (4, 3, 3, 3), array([50., 50., 50., 50.]))
    """

    def __init__(self, W: np.ndarray, b: np.ndarray, stride: int = 1, pad: int = 0) -> None:
        self.W, self.b = W, b
        self.stride, self.pad = positive("stride", stride), integer("pad", pad)
        self.x: Any = None
        self.col: Any = None
        self.col_W: Any = None
        self.dW: Any = None
        self.db: Any = None
        self._out_shape: tuple[int, ...] = ()

    def forward(self, x: Any) -> np.ndarray:
        """The output (N, FN, OH, OW) for images (N, C, H, W)."""
        filters, channels, height, width = self.W.shape
        x = arrays.read_images("x", x)
        if x.shape[1] != channels:
            raise ValueError(f"x must have the {channels} channels of W, {self.W.shape}, got {x.shape}")
        col = im2col(x, height, width, self.stride, self.pad)
        col_W = self.W.reshape(filters, -1).T
        out = col @ col_W + self.b
        self.x, self.col, self.col_W = x, col, col_W
        _, rows, columns = Window.plan(2, x.shape, (height, width), self.stride, self.pad).out
        out = out.reshape(len(x), rows, columns, filters).transpose(0, 3, 1, 2)
        self._out_shape = out.shape
        return out

    def backward(self, dout: Any) -> np.ndarray:
        """The gradient of x, from that of the last output."""
        _after_forward(self)
        filters, channels, height, width = self.W.shape
        dout = arrays.read_images("dout", dout)
        arrays.expect_shape("dout", dout, self._out_shape, "the output")
        by_filter = dout.transpose(0, 2, 3, 1).reshape(-1, filters)
        self.db = by_filter.sum(axis=0)
        self.dW = (self.col.T @ by_filter).T.reshape(filters, channels, height, width)
        return col2im(by_filter @ self.col_W.T, self.x.shape, height, width, self.stride, self.pad)


class Pooling:
    """The book's max pooling layer. Of several maxima, the first gets the gradient.

    The book's own layer takes padding only where it adds no window; this one takes any, of zeros as there: they can be
    a maximum, and their gradient is lost.

    Parameters
    ----------
    pool_h, pool_w, stride, pad : int

    Attributes
    ----------
    x : what the last forward pass was given
    arg_max : int64 array of shape (N * OH * OW * C,)
        The offset of each maximum in its window, the channels inside the positions.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.integrations.dlfs import Pooling
    >>> layer = Pooling(2, 2)
    >>> layer.forward(np.array([[[[1.0, 2.0, 7.0, 5.0], [4.0, 3.0, 6.0, 8.0]]]]))
    array([[[[4., 8.]]]])
    >>> layer.arg_max
    array([2, 3])
    >>> layer.backward(np.array([[[[10.0, 20.0]]]]))
    array([[[[ 0.,  0.,  0.,  0.],
             [10.,  0.,  0., 20.]]]])
    """

    def __init__(self, pool_h: int, pool_w: int, stride: int = 2, pad: int = 0) -> None:
        self.pool_h, self.pool_w = positive("pool_h", pool_h), positive("pool_w", pool_w)
        self.stride, self.pad = positive("stride", stride), integer("pad", pad)
        if self.pad < 0:
            raise ValueError(f"pad must be 0 or more, got {pad}")
        self.x: Any = None
        self._argmax: Any = None

    @property
    def arg_max(self) -> np.ndarray | None:
        return None if self._argmax is None else self._argmax.transpose(0, 2, 3, 1).reshape(-1).astype(np.int64)

    def forward(self, x: Any) -> np.ndarray:
        """The output (N, C, OH, OW), in float64, for images (N, C, H, W)."""
        x = arrays.read_images("x", x)
        padded = self._padded(x.astype(np.float64, copy=False))
        out, self._argmax = max_pool2d(padded, (self.pool_h, self.pool_w), self.stride, return_argmax=True)
        self.x = x
        return out

    def backward(self, dout: Any) -> np.ndarray:
        """The gradient of x, in float64, from that of the last output."""
        _after_forward(self)
        dout = arrays.read_images("dout", dout).astype(np.float64, copy=False)
        n, channels, height, width = self.x.shape
        padded = n, channels, height + 2 * self.pad, width + 2 * self.pad
        dx = max_pool2d_backward(dout, self._argmax, padded, (self.pool_h, self.pool_w), self.stride)
        return dx[:, :, self.pad : self.pad + height, self.pad : self.pad + width]

    def _padded(self, x: np.ndarray) -> np.ndarray:
        around = (self.pad, self.pad)
        return np.pad(x, ((0, 0), (0, 0), around, around)) if self.pad else x


def _after_forward(layer: Convolution | Pooling) -> None:
    if layer.x is None:
        raise RuntimeError(f"{type(layer).__name__}.backward needs a forward pass before it")


def _pair(size: Pair) -> Any:
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)
