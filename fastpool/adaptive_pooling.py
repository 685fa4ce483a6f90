"""Adaptive max pooling, whose windows follow from the size of the result, and its gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastpool.arguments import check_layout, check_shape, flag, frozen_output_size
from fastpool.calls import call
from fastpool.table_plans import ADAPTIVE_MAX_POOL, ADAPTIVE_MAX_POOL_BACKWARD
from fastpool.type_hints import A, OutputSize


def _max_pool(axes, x, output_size, data_format, return_indices, out, backend) -> Any:
    static = (axes, frozen_output_size(output_size), check_layout(data_format))
    return call(ADAPTIVE_MAX_POOL, (x,), (*static, flag("return_indices", return_indices)), out, backend)


def call_max_pool_backward(op, axes, dy, indices, x_shape, data_format, out, backend) -> Any:
    static = (axes, check_shape("x_shape", x_shape), check_layout(data_format))
    return call(op, (dy, indices), static, out, backend)


_max_pool_backward = partial(call_max_pool_backward, ADAPTIVE_MAX_POOL_BACKWARD)


def adaptive_max_pool1d(
    x: A,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    return_indices: bool = False,
    out: A | None = None,
    backend: str | None = None,
) -> Any:
    """Adaptive max pooling over the length of signals.

    As `adaptive_max_pool2d` in every respect, with one spatial axis.

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
    >>> fp.adaptive_max_pool1d(np.array([1, 3, 2, 5, 4]), 2)
    array([3, 5])
    """
    return _max_pool(1, x, output_size, data_format, return_indices, out, backend)


def adaptive_max_pool2d(
    x: A,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    return_indices: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Adaptive max pooling over the height and width of images, as `torch.nn.functional.adaptive_max_pool2d`.

    Along an axis of n cells, window i of `o` goes from floor(i n / o) up to ceil((i + 1) n / o). Ties, NaN and the
    dtypes are as in `max_pool2d`.

    Parameters
    ----------
    x : array of shape (N, C, H, W), (C, H, W) or (H, W); channels_last: (N, H, W, C), (H, W, C)
        In main memory: of any dtype that `max_pool2d` takes, any strides and byte order.
    output_size : int, one int or None for each axis, or None
        None keeps the size of the input. It may be larger than the input: windows then share cells.
    data_format : "channels_first" or "channels_last"
        Which axes of `x` mean what.
    return_indices : bool
        Also return where the maxima are, as positions in their planes. The windows differ in size, so that there is no
        offset inside them as of `max_pool2d`.
    out : array, or (y, indices) with return_indices
        Where to write the result, instead of to new memory.
    backend : "numba", "cython", "numpy" or "naive"

    Returns
    -------
    y : array of shape (N, C, OH, OW) and so on, of the array library and dtype of `x`
    indices : array of int64 and the shape of `y`, with return_indices
        Row-major positions in planes of H * W cells, as PyTorch's.

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
    >>> fp.adaptive_max_pool2d(np.arange(25.0).reshape(5, 5), 2)
    array([[12., 14.],
           [22., 24.]])
    >>> y, indices = fp.adaptive_max_pool2d(np.arange(25.0).reshape(5, 5), (2, None), return_indices=True)
    >>> indices
    array([[10, 11, 12, 13, 14],
           [20, 21, 22, 23, 24]])
    """
    return _max_pool(2, x, output_size, data_format, return_indices, out, backend)


def adaptive_max_pool3d(
    x: A,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    return_indices: bool = False,
    out: A | None = None,
    backend: str | None = None,
) -> Any:
    """Adaptive max pooling over the depth, height and width of volumes.

    As `adaptive_max_pool2d` in every respect, with three spatial axes.

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
    >>> fp.adaptive_max_pool3d(np.arange(27).reshape(3, 3, 3), 1)
    array([[[26]]])
    """
    return _max_pool(3, x, output_size, data_format, return_indices, out, backend)


def adaptive_max_pool1d_backward(
    dy: A,
    indices: Any,
    x_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `adaptive_max_pool1d`, as `adaptive_max_pool2d_backward`.

    Parameters
    ----------
    dy, indices : arrays of the shape that `adaptive_max_pool1d` returned

    Returns
    -------
    array of shape `x_shape`, with the dtype of `dy`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, indices = fp.adaptive_max_pool1d(np.array([1.0, 3.0, 2.0, 5.0, 4.0]), 2, return_indices=True)
    >>> fp.adaptive_max_pool1d_backward(np.array([1.0, 2.0]), indices, (5,))
    array([0., 1., 0., 2., 0.])
    """
    return _max_pool_backward(1, dy, indices, x_shape, data_format, out, backend)


def adaptive_max_pool2d_backward(
    dy: A,
    indices: Any,
    x_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `adaptive_max_pool2d`: each gradient is added to the cell that its index names.

    In the order of the windows, in the dtype of sums: the same bits every run.

    Parameters
    ----------
    dy : array of the shape of `y`
        float16, bfloat16 (ml_dtypes), float32 or float64.
    indices : array of integers and the shape of `dy`
        Of `adaptive_max_pool2d`, or of PyTorch.
    x_shape : tuple of int
        The shape of the input.
    data_format, out, backend
        As in `adaptive_max_pool2d`.

    Returns
    -------
    array of shape `x_shape`, with the dtype of `dy`

    Raises
    ------
    TypeError
        For a dtype or an array library that is not supported.
    ValueError
        For shapes that do not fit, or an index outside its plane.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(3, 3)
    >>> y, indices = fp.adaptive_max_pool2d(x, 2, return_indices=True)
    >>> fp.adaptive_max_pool2d_backward(np.ones_like(y), indices, x.shape)
    array([[0., 0., 0.],
           [0., 1., 1.],
           [0., 1., 1.]])
    """
    return _max_pool_backward(2, dy, indices, x_shape, data_format, out, backend)


def adaptive_max_pool3d_backward(
    dy: A,
    indices: Any,
    x_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `adaptive_max_pool3d`, as `adaptive_max_pool2d_backward`.

    Parameters
    ----------
    dy, indices : arrays of the shape that `adaptive_max_pool3d` returned

    Returns
    -------
    array of shape `x_shape`, with the dtype of `dy`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, indices = fp.adaptive_max_pool3d(np.arange(8.0).reshape(2, 2, 2), 1, return_indices=True)
    >>> fp.adaptive_max_pool3d_backward(np.ones_like(y), indices, (2, 2, 2))
    array([[[0., 0.],
            [0., 0.]],
    <BLANKLINE>
           [[0., 0.],
            [0., 1.]]])
    """
    return _max_pool_backward(3, dy, indices, x_shape, data_format, out, backend)
