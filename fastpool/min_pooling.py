"""Min pooling over one, two or three spatial axes, and its gradient: as `fastpool.pooling`, for the minimum."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastpool.arguments import check_layout, check_shape, flag
from fastpool.calls import call
from fastpool.pool_plans import GLOBAL_MIN_POOL, GLOBAL_MIN_POOL_BACKWARD, MIN_POOL, MIN_POOL_BACKWARD
from fastpool.pooling import call_pool, call_pool_backward, pool_what_counts
from fastpool.type_hints import A, Padding, Size, as_global_min_pool, as_min_pool

_pool, _pool_backward = partial(call_pool, MIN_POOL), partial(call_pool_backward, MIN_POOL_BACKWARD)


@as_min_pool
def min_pool1d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmin: bool = False,
    nan: str = "propagate",
    where: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Min pooling over the length of signals.

    As `min_pool2d` in every respect, with one spatial axis.

    Parameters
    ----------
    x : array of shape (N, C, L), (C, L) or (L,); channels_last: (N, L, C), (L, C)

    Returns
    -------
    array of shape (N, C, OL) and so on, with the dtype of `x`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.min_pool1d(np.array([4, 3, 2, 5, 1]), 3, stride=2)
    array([2, 1])
    """
    return _pool(
        1, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmin, nan, where, out, backend
    )


@as_min_pool
def min_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmin: bool = False,
    nan: str = "propagate",
    where: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Min pooling over the height and width of images: as `max_pool2d`, for the minimum.

    With a stride of 1 and padding="same" it is grey erosion by a rectangle. No negated copy of `x` is made.

    Padding never wins: a window of padding alone gives the highest value of the dtype (inf, the largest integer, True).
    Of equal values the first in row-major order wins; a NaN beats every number, the first NaN wins.

    Parameters
    ----------
    x : array of shape (N, C, H, W), (C, H, W) or (H, W); channels_last: (N, H, W, C), (H, W, C)
        Of any dtype and array library that `max_pool2d` takes.
    kernel_size, stride, padding, dilation, ceil_mode, data_format, backend
        As in `max_pool2d`.
    return_argmin : bool
        Also return where in each window the minimum is.
    nan, where
        As in `max_pool2d`; of integers, a window where no cell counts gives the highest value.
    out : array, or (y, argmin) with return_argmin
        Where to write the result, instead of to new memory.

    Returns
    -------
    y : array of shape (N, C, OH, OW) and so on, of the array library and dtype of `x`
    argmin : array of the shape of `y`, with return_argmin
        The winner's offset inside its window, as the argmax of `max_pool2d`: `argmax_to_indices` takes it, too.

    Raises
    ------
    TypeError
        For a dtype or an array library that is not supported.
    ValueError
        For shapes, sizes or an `out` that do not fit.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(4, 4)
    >>> fp.min_pool2d(x, 2)
    array([[ 0.,  2.],
           [ 8., 10.]])
    >>> y, argmin = fp.min_pool2d(x, 3, stride=2, padding=1, return_argmin=True)
    >>> argmin
    array([[4, 3],
           [1, 0]], dtype=uint8)
    """
    return _pool(
        2, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmin, nan, where, out, backend
    )


@as_min_pool
def min_pool3d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmin: bool = False,
    nan: str = "propagate",
    where: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Min pooling over the depth, height and width of volumes.

    As `min_pool2d` in every respect, with three spatial axes.

    Parameters
    ----------
    x : array of shape (N, C, D, H, W), (C, D, H, W) or (D, H, W); channels_last: (N, D, H, W, C), (D, H, W, C)

    Returns
    -------
    array of shape (N, C, OD, OH, OW) and so on, with the dtype of `x`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.min_pool3d(np.arange(64).reshape(4, 4, 4), 2)[1, 1]
    array([40, 42])
    """
    return _pool(
        3, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmin, nan, where, out, backend
    )


def min_pool1d_backward(
    dy: A,
    argmin: Any,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `min_pool1d` with respect to its input; see `min_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmin = fp.min_pool1d(np.array([1.0, 3.0, 5.0, 2.0]), 2, return_argmin=True)
    >>> fp.min_pool1d_backward(np.array([10.0, 20.0]), argmin, (4,), 2)
    array([10.,  0.,  0., 20.])
    """
    return _pool_backward(
        1, dy, argmin, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
    )


def min_pool2d_backward(
    dy: A,
    argmin: Any,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `min_pool2d` with respect to its input: each dy goes to the minimum of its window.

    The computation is that of `max_pool2d_backward`, and so are its guarantees.

    Parameters
    ----------
    dy : array of the shape of `y`; float16, bfloat16, float32 or float64
    argmin : array of the shape of `y`
        As `min_pool2d` returned it, from the same window.
    x_shape : tuple of int
        The shape of the input of the forward pass.
    kernel_size, stride, padding, dilation, ceil_mode, data_format, backend
        As in the forward pass.
    out : array of `x_shape`
        Where to write the result; what it held is lost.

    Returns
    -------
    array of `x_shape`, with the dtype of `dy`

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.array([[9.0, 1.0], [3.0, 4.0]])
    >>> y, argmin = fp.min_pool2d(x, 2, return_argmin=True)
    >>> fp.min_pool2d_backward(np.array([[5.0]]), argmin, x.shape, 2)
    array([[0., 5.],
           [0., 0.]])
    """
    return _pool_backward(
        2, dy, argmin, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
    )


def min_pool3d_backward(
    dy: A,
    argmin: Any,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `min_pool3d` with respect to its input; see `min_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmin = fp.min_pool3d(np.arange(8.0).reshape(2, 2, 2), 2, return_argmin=True)
    >>> fp.min_pool3d_backward(np.array([[[1.0]]]), argmin, (2, 2, 2), 2)[0, 0]
    array([1., 0.])
    """
    return _pool_backward(
        3, dy, argmin, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
    )


@as_global_min_pool
def global_min_pool(
    x: Any,
    *,
    data_format: str = "channels_first",
    keepdims: bool = False,
    return_argmin: bool = False,
    nan: str = "propagate",
    where: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """The minimum over all spatial axes: as `global_max_pool`, for the minimum.

    Parameters
    ----------
    x : array of shape (N, C, *S) or, channels_last, (N, *S, C), with one to three spatial axes
    keepdims : bool
        Keep the spatial axes with size 1.
    return_argmin : bool
        Also return where the minimum was: its row-major offset in the plane.
    data_format, nan, where, out, backend
        As in `min_pool2d`.

    Returns
    -------
    y : array of shape (N, C), with the dtype of `x`
    argmin : array of the same shape in uint8, uint16 or uint32, with return_argmin

    Raises
    ------
    TypeError, ValueError
        As `min_pool2d`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.global_min_pool(np.arange(24).reshape(1, 2, 3, 4))
    array([[ 0, 12]])
    """
    static = check_layout(data_format), flag("keepdims", keepdims)
    return_argmin = flag("return_argmin", return_argmin)
    return pool_what_counts(GLOBAL_MIN_POOL, x, static, return_argmin, nan, where, out, backend)


def global_min_pool_backward(
    dy: A,
    argmin: Any,
    x_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    keepdims: bool = False,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `global_min_pool` with respect to its input.

    Parameters
    ----------
    dy, argmin : arrays of the shape of `y`
    x_shape : tuple of int
        The shape of the input of the forward pass.
    data_format, keepdims, out, backend
        As in the forward pass.

    Returns
    -------
    array of `x_shape`, with the dtype of `dy`

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmin = fp.global_min_pool(np.array([[[2.0, 1.0, 3.0]]]), return_argmin=True)
    >>> fp.global_min_pool_backward(np.array([[5.0]]), argmin, (1, 1, 3))
    array([[[0., 5., 0.]]])
    """
    static = check_shape("x_shape", x_shape), check_layout(data_format), flag("keepdims", keepdims)
    return call(GLOBAL_MIN_POOL_BACKWARD, (dy, argmin), static, out, backend)
