"""Second derivatives of max and min pooling: gradients of the gradients, which are also derivatives in a direction."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastpool.arguments import frozen_window
from fastpool.calls import Op, call
from fastpool.gather_plans import MAX_POOL_DOUBLE_BACKWARD, MIN_POOL_DOUBLE_BACKWARD
from fastpool.type_hints import A, Padding, Size


def _double_backward(
    op: Op, axes, ddx, argmax, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
) -> Any:
    window = frozen_window(kernel_size, stride, padding, dilation, ceil_mode, data_format)
    return call(op, (ddx, argmax), (axes, *window), out, backend)


_max, _min = (partial(_double_backward, op) for op in (MAX_POOL_DOUBLE_BACKWARD, MIN_POOL_DOUBLE_BACKWARD))


def max_pool1d_double_backward(
    ddx: A,
    argmax: Any,
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
    """The gradient of `max_pool1d_backward` with respect to `dy`.

    As `max_pool2d_double_backward` in every respect, with one spatial axis.

    Parameters
    ----------
    ddx : array of shape (N, C, L), (C, L) or (L,); channels_last: (N, L, C), (L, C)

    Returns
    -------
    ddy : array of the shape of `argmax`, with the dtype of `ddx`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmax = fp.max_pool1d(np.array([4, 3, 1, 2]), 2, return_argmax=True)
    >>> fp.max_pool1d_double_backward(np.array([0.1, 0.2, 0.3, 0.4]), argmax, 2)
    array([0.1, 0.4])
    """
    return _max(1, ddx, argmax, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend)


def max_pool2d_double_backward(
    ddx: A,
    argmax: Any,
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
    """The gradient of `max_pool2d_backward` with respect to `dy`: what `ddx` has where the maxima were.

    It is the second derivative of `max_pool2d`, as a framework asks for it, and also the derivative of `max_pool2d`
    in the direction `ddx` (its Jacobian times `ddx`). For `global_max_pool` let the kernel be the whole plane.

    Parameters
    ----------
    ddx : array of shape (N, C, H, W), (C, H, W) or (H, W), or with the channels last
        The gradient of the result of `max_pool2d_backward`, of that shape: float16, bfloat16, float32 or float64, in
        main memory.
    argmax : array of shape (N, C, OH, OW) and so on
        As `max_pool2d` returned it.
    kernel_size, stride, padding, dilation, ceil_mode, data_format
        As in the forward pass.
    out : array
        Where to write the result, instead of to new memory.
    backend : "numba", "cython", "numpy" or "naive"
        What checks `argmax`.

    Returns
    -------
    ddy : array of the shape of `argmax`, with the dtype of `ddx`
        0 for windows of padding alone.

    Raises
    ------
    TypeError
        For a `ddx` that is not floating, or an `argmax` of another dtype than the forward pass gives.
    ValueError
        For shapes that do not fit, and for an `argmax` that names a cell outside its window or one of padding.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.array([[1.0, 2.0], [4.0, 3.0]])
    >>> y, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    >>> fp.max_pool2d_double_backward(np.array([[0.1, 0.2], [0.3, 0.4]]), argmax, 2)
    array([[0.3]])
    """
    return _max(2, ddx, argmax, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend)


def max_pool3d_double_backward(
    ddx: A,
    argmax: Any,
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
    """The gradient of `max_pool3d_backward` with respect to `dy`.

    As `max_pool2d_double_backward` in every respect, with three spatial axes.

    Parameters
    ----------
    ddx : array of shape (N, C, D, H, W), (C, D, H, W) or (D, H, W), or with the channels last

    Returns
    -------
    ddy : array of the shape of `argmax`, with the dtype of `ddx`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmax = fp.max_pool3d(np.array([[[4, 3], [1, 2]], [[5, 6], [8, 7]]]), 2, return_argmax=True)
    >>> fp.max_pool3d_double_backward(np.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]), argmax, 2)
    array([[[7.]]])
    """
    return _max(3, ddx, argmax, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend)


def min_pool1d_double_backward(
    ddx: A,
    argmin: Any,
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
    """The gradient of `min_pool1d_backward` with respect to `dy`.

    As `min_pool2d_double_backward` in every respect, with one spatial axis.

    Parameters
    ----------
    ddx : array of shape (N, C, L), (C, L) or (L,); channels_last: (N, L, C), (L, C)

    Returns
    -------
    ddy : array of the shape of `argmin`, with the dtype of `ddx`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmin = fp.min_pool1d(np.array([4, 3, 1, 2]), 2, return_argmin=True)
    >>> fp.min_pool1d_double_backward(np.array([0.1, 0.2, 0.3, 0.4]), argmin, 2)
    array([0.2, 0.3])
    """
    return _min(1, ddx, argmin, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend)


def min_pool2d_double_backward(
    ddx: A,
    argmin: Any,
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
    """The gradient of `min_pool2d_backward` with respect to `dy`: as `max_pool2d_double_backward`, for the minimum.

    Parameters
    ----------
    ddx : array of shape (N, C, H, W), (C, H, W) or (H, W), or with the channels last
        The gradient of the result of `min_pool2d_backward`, of that shape.
    argmin : array of shape (N, C, OH, OW) and so on
        As `min_pool2d` returned it.

    Returns
    -------
    ddy : array of the shape of `argmin`, with the dtype of `ddx`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.array([[1.0, 2.0], [4.0, 3.0]])
    >>> y, argmin = fp.min_pool2d(x, 2, return_argmin=True)
    >>> fp.min_pool2d_double_backward(np.array([[0.1, 0.2], [0.3, 0.4]]), argmin, 2)
    array([[0.1]])
    """
    return _min(2, ddx, argmin, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend)


def min_pool3d_double_backward(
    ddx: A,
    argmin: Any,
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
    """The gradient of `min_pool3d_backward` with respect to `dy`.

    As `min_pool2d_double_backward` in every respect, with three spatial axes.

    Parameters
    ----------
    ddx : array of shape (N, C, D, H, W), (C, D, H, W) or (D, H, W), or with the channels last

    Returns
    -------
    ddy : array of the shape of `argmin`, with the dtype of `ddx`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmin = fp.min_pool3d(np.array([[[4, 3], [1, 2]], [[5, 6], [8, 7]]]), 2, return_argmin=True)
    >>> fp.min_pool3d_double_backward(np.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]), argmin, 2)
    array([[[3.]]])
    """
    return _min(3, ddx, argmin, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend)
