"""The gradient of max unpooling, which is in `pooling.py`, and nearest unpooling."""

from __future__ import annotations

from typing import Any

from fastpool.arguments import check_layout, check_shape, frozen
from fastpool.calls import call
from fastpool.gather_plans import MAX_UNPOOL_BACKWARD, NEAREST_UNPOOL
from fastpool.indices import check_convention
from fastpool.type_hints import A, Padding, Size


def _backward(axes, dx, indices, kernel_size, stride, padding, convention, data_format, out) -> Any:
    window = frozen("kernel_size", kernel_size), frozen("stride", stride), frozen("padding", padding)
    static = axes, *window, check_convention(convention), check_layout(data_format)
    return call(MAX_UNPOOL_BACKWARD, (dx, indices), static, out, None)


def _nearest(axes, y, kernel_size, stride, padding, output_shape, data_format, out) -> Any:
    window = frozen("kernel_size", kernel_size), frozen("stride", stride), frozen("padding", padding)
    shape = None if output_shape is None else check_shape("output_shape", output_shape)
    return call(NEAREST_UNPOOL, (y,), (axes, *window, shape, check_layout(data_format)), out, None)


def max_unpool1d_backward(
    dx: A,
    indices: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    convention: str = "torch",
    data_format: str = "channels_first",
    out: A | None = None,
) -> A:
    """The gradient of `max_unpool1d`.

    As `max_unpool2d_backward` in every respect, with one spatial axis.

    Parameters
    ----------
    dx : array of shape (N, C, L), (C, L) or (L,); channels_last: (N, L, C), (L, C)

    Returns
    -------
    array of shape (N, C, OL) and so on, with the dtype of `dx`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.max_unpool1d_backward(np.array([0.1, 0.2, 0.3, 0.4]), np.array([1, 2]), 2)
    array([0.2, 0.3])
    """
    return _backward(1, dx, indices, kernel_size, stride, padding, convention, data_format, out)


def max_unpool2d_backward(
    dx: A,
    indices: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    convention: str = "torch",
    data_format: str = "channels_first",
    out: A | None = None,
) -> A:
    """The gradient of `max_unpool2d`: each value takes the gradient of the cell that it was put to.

    Where several values were put to one cell, each takes its gradient, as in PyTorch.

    Parameters
    ----------
    dx : array of shape (N, C, H, W), (C, H, W) or (H, W), or with the channels last
        The gradient of what `max_unpool2d` returned: float16, bfloat16, float32 or float64, in main memory.
    indices : integer array of shape (N, C, OH, OW) and so on
        As they were given to `max_unpool2d`. For -1 the gradient is 0.
    kernel_size, stride, padding, convention, data_format
        As they were given to `max_unpool2d`.
    out : array
        Where to write the result, instead of to new memory.

    Returns
    -------
    dy : array of the shape of `indices`, with the dtype of `dx`

    Raises
    ------
    TypeError
        For a `dx` that is not floating, and for indices that are not integers.
    ValueError
        For shapes that do not fit, and for an index outside its plane; nothing is written then.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.max_unpool2d_backward(np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([[2]]), 2)
    array([[0.3]])
    """
    return _backward(2, dx, indices, kernel_size, stride, padding, convention, data_format, out)


def max_unpool3d_backward(
    dx: A,
    indices: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    convention: str = "torch",
    data_format: str = "channels_first",
    out: A | None = None,
) -> A:
    """The gradient of `max_unpool3d`.

    As `max_unpool2d_backward` in every respect, with three spatial axes.

    Parameters
    ----------
    dx : array of shape (N, C, D, H, W), (C, D, H, W) or (D, H, W); channels_last: (N, D, H, W, C), (D, H, W, C)

    Returns
    -------
    array of shape (N, C, OD, OH, OW) and so on, with the dtype of `dx`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.max_unpool3d_backward(np.arange(8.0).reshape(2, 2, 2), np.array([[[5]]]), 2)
    array([[[5.]]])
    """
    return _backward(3, dx, indices, kernel_size, stride, padding, convention, data_format, out)


def nearest_unpool1d(
    y: A,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    output_shape: tuple[int, ...] | None = None,
    data_format: str = "channels_first",
    out: A | None = None,
) -> A:
    """Repeat each value over its window along the length of signals.

    As `nearest_unpool2d` in every respect, with one spatial axis.

    Parameters
    ----------
    y : array of shape (N, C, OL), (C, OL) or (OL,); channels_last: (N, OL, C), (OL, C)

    Returns
    -------
    array of shape (N, C, L) and so on, with the dtype of `y`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.nearest_unpool1d(np.array([7, 8]), 2)
    array([7, 7, 8, 8])
    """
    return _nearest(1, y, kernel_size, stride, padding, output_shape, data_format, out)


def nearest_unpool2d(
    y: A,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    output_shape: tuple[int, ...] | None = None,
    data_format: str = "channels_first",
    out: A | None = None,
) -> A:
    """Repeat each value over its window: upsampling by the nearest value, the inverse of a pool of constant windows.

    Windows may not overlap. Of floating dtypes, the gradient is `avg_pool2d` with `divisor_override=1`; to add up
    the values of windows that overlap, as Chainer's `unpooling_2d`, call `avg_pool2d_backward` with it.

    Parameters
    ----------
    y : array of shape (N, C, OH, OW), (C, OH, OW) or (OH, OW), or with the channels last
        Any dtype that `max_pool2d` takes, in main memory.
    kernel_size, stride, padding : as in the pooling
        `stride` must be `kernel_size` or more.
    output_shape : tuple of int
        The shape of the pooled input, all axes or the spatial ones; by default `(OH - 1) * stride + kernel_size`
        less the padding. Cells that no window covers are 0.
    data_format : "channels_first" or "channels_last"
        Which axes of `y` mean what.
    out : array
        Where to write the result, instead of to new memory.

    Returns
    -------
    array of `output_shape`, with the dtype of `y`

    Raises
    ------
    ValueError
        For shapes that do not fit, and for windows that overlap.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.nearest_unpool2d(np.array([[7, 8]]), 2)
    array([[7, 7, 8, 8],
           [7, 7, 8, 8]])
    """
    return _nearest(2, y, kernel_size, stride, padding, output_shape, data_format, out)


def nearest_unpool3d(
    y: A,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    output_shape: tuple[int, ...] | None = None,
    data_format: str = "channels_first",
    out: A | None = None,
) -> A:
    """Repeat each value over its window in volumes.

    As `nearest_unpool2d` in every respect, with three spatial axes.

    Parameters
    ----------
    y : array of shape (N, C, OD, OH, OW), (C, OD, OH, OW) or (OD, OH, OW), or with the channels last

    Returns
    -------
    array of shape (N, C, D, H, W) and so on, with the dtype of `y`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.nearest_unpool3d(np.array([[[7]]]), 2).shape
    (2, 2, 2)
    """
    return _nearest(3, y, kernel_size, stride, padding, output_shape, data_format, out)
