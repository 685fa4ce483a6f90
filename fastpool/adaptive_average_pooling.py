"""Adaptive average pooling, whose windows follow from the size of the result, and its gradient."""

from __future__ import annotations

from typing import Any

from fastpool.adaptive_average_plans import ADAPTIVE_AVG_POOL, ADAPTIVE_AVG_POOL_BACKWARD
from fastpool.arguments import check_layout, check_shape, frozen_output_size
from fastpool.calls import call
from fastpool.type_hints import A, OutputSize


def _avg_pool(axes, x, output_size, data_format, out, backend) -> Any:
    static = (axes, frozen_output_size(output_size), check_layout(data_format))
    return call(ADAPTIVE_AVG_POOL, (x,), static, out, backend)


def _avg_pool_backward(axes, dy, x_shape, data_format, out, backend) -> Any:
    static = (axes, check_shape("x_shape", x_shape), check_layout(data_format))
    return call(ADAPTIVE_AVG_POOL_BACKWARD, (dy,), static, out, backend)


def adaptive_avg_pool1d(
    x: A,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Adaptive average pooling over the length of signals.

    As `adaptive_avg_pool2d` in every respect, with one spatial axis.

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
    >>> fp.adaptive_avg_pool1d(np.array([1.0, 3.0, 2.0, 5.0, 4.0]), 2)
    array([2.        , 3.66666667])
    """
    return _avg_pool(1, x, output_size, data_format, out, backend)


def adaptive_avg_pool2d(
    x: A,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Adaptive average pooling over the height and width of images, as `torch.nn.functional.adaptive_avg_pool2d`.

    The windows are those of `adaptive_max_pool2d`, the sums as those of `avg_pool2d`.

    Parameters
    ----------
    x : array of shape (N, C, H, W), (C, H, W) or (H, W); channels_last: (N, H, W, C), (H, W, C)
        In main memory: float16, bfloat16 (ml_dtypes), float32 or float64; any strides and byte order.
    output_size, data_format, out
        As in `adaptive_max_pool2d`.
    backend : "numba", "numpy" or "naive"

    Returns
    -------
    array of shape (N, C, OH, OW) and so on, of the array library and dtype of `x`

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
    >>> fp.adaptive_avg_pool2d(np.arange(25.0).reshape(5, 5), 2)
    array([[ 6.,  8.],
           [16., 18.]])
    """
    return _avg_pool(2, x, output_size, data_format, out, backend)


def adaptive_avg_pool3d(
    x: A,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Adaptive average pooling over the depth, height and width of volumes.

    As `adaptive_avg_pool2d` in every respect, with three spatial axes.

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
    >>> fp.adaptive_avg_pool3d(np.arange(27.0).reshape(3, 3, 3), 1)
    array([[[13.]]])
    """
    return _avg_pool(3, x, output_size, data_format, out, backend)


def adaptive_avg_pool1d_backward(
    dy: A,
    x_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `adaptive_avg_pool1d`, as `adaptive_avg_pool2d_backward`.

    Parameters
    ----------
    dy : array of the shape that `adaptive_avg_pool1d` returned

    Returns
    -------
    array of shape `x_shape`, with the dtype of `dy`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.adaptive_avg_pool1d_backward(np.array([2.0, 6.0]), (3,))
    array([1., 4., 3.])
    """
    return _avg_pool_backward(1, dy, x_shape, data_format, out, backend)


def adaptive_avg_pool2d_backward(
    dy: A,
    x_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `adaptive_avg_pool2d`: each is divided by the cells of its window, and added to each of them.

    Parameters
    ----------
    dy : array of the shape of `y`
        float16, bfloat16 (ml_dtypes), float32 or float64.
    x_shape : tuple of int
        The shape of the input.
    data_format, out, backend
        As in `adaptive_avg_pool2d`.

    Returns
    -------
    array of shape `x_shape`, with the dtype of `dy`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.adaptive_avg_pool2d_backward(np.array([[4.0, 8.0]]), (1, 3))
    array([[2., 6., 4.]])
    """
    return _avg_pool_backward(2, dy, x_shape, data_format, out, backend)


def adaptive_avg_pool3d_backward(
    dy: A,
    x_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `adaptive_avg_pool3d`, as `adaptive_avg_pool2d_backward`.

    Parameters
    ----------
    dy : array of the shape that `adaptive_avg_pool3d` returned

    Returns
    -------
    array of shape `x_shape`, with the dtype of `dy`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.adaptive_avg_pool3d_backward(np.array([[[8.0]]]), (1, 2, 2))
    array([[[2., 2.],
            [2., 2.]]])
    """
    return _avg_pool_backward(3, dy, x_shape, data_format, out, backend)
