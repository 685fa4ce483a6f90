"""Fractional max pooling (Graham, 2014), over windows at pseudo-random distances, and its gradient."""

from __future__ import annotations

from typing import Any

from fastpool.adaptive_pooling import call_max_pool_backward
from fastpool.arguments import check_layout, flag, frozen
from fastpool.calls import call
from fastpool.table_plans import FRACTIONAL_MAX_POOL, FRACTIONAL_MAX_POOL_BACKWARD
from fastpool.type_hints import A, Size


def _pool(axes, x, kernel_size, output_size, random_samples, data_format, return_indices, out, backend) -> Any:
    sizes = frozen("kernel_size", kernel_size), frozen("output_size", output_size)
    static = (axes, *sizes, check_layout(data_format), flag("return_indices", return_indices))
    return call(FRACTIONAL_MAX_POOL, (x, random_samples), static, out, backend)


def fractional_max_pool2d(
    x: A,
    kernel_size: Size,
    output_size: Size,
    random_samples: Any,
    *,
    data_format: str = "channels_first",
    return_indices: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Fractional max pooling over the height and width of images, as `torch.nn.functional.fractional_max_pool2d`.

    Windows of `kernel_size` cells begin at pseudo-random distances, in each plane others, which differ by one at most.
    The last window ends with the last cell. An image can so be reduced by a factor such as 1.4.

    Parameters
    ----------
    x : array of shape (N, C, H, W), (C, H, W) or (H, W); channels_last: (N, H, W, C), (H, W, C)
        In main memory, of any dtype that `max_pool2d` takes.
    kernel_size, output_size : int or one int for each axis
    random_samples : array of shape (N, C, 2)
        Numbers from 0 to 1, float32 or float64 (N or C is 1 where `x` has no such axis). As PyTorch's
        `_random_samples`: the first of each plane is for the width, the second for the height.
    data_format : "channels_first" or "channels_last"
        Which axes of `x` mean what.
    return_indices : bool
        Also return where the maxima are, as positions in their planes.
    out : array, or (y, indices) with return_indices
        Where to write the result, instead of to new memory.
    backend : "numba", "cython", "numpy" or "naive"

    Returns
    -------
    y : array of shape (N, C, OH, OW) and so on, of the array library and dtype of `x`
    indices : array of int64 and the shape of `y`, with return_indices
        Row-major positions in planes of H * W cells, as PyTorch's; `fractional_max_pool2d_backward` takes them.

    Raises
    ------
    TypeError
        For a dtype or an array library that is not supported.
    ValueError
        For shapes, sizes, samples or an `out` that do not fit.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.arange(25.0).reshape(5, 5)
    >>> fp.fractional_max_pool2d(x, 2, 3, np.array([[[0.3, 0.6]]]))
    array([[ 6.,  7.,  9.],
           [16., 17., 19.],
           [21., 22., 24.]])
    """
    return _pool(2, x, kernel_size, output_size, random_samples, data_format, return_indices, out, backend)


def fractional_max_pool3d(
    x: A,
    kernel_size: Size,
    output_size: Size,
    random_samples: Any,
    *,
    data_format: str = "channels_first",
    return_indices: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Fractional max pooling over the depth, height and width of volumes.

    As `fractional_max_pool2d` in every respect, with three spatial axes.

    Parameters
    ----------
    x : array of shape (N, C, D, H, W), (C, D, H, W) or (D, H, W); channels_last: (N, D, H, W, C), (D, H, W, C)
    random_samples : array of shape (N, C, 3)
        As PyTorch's: for depth, height and width.

    Returns
    -------
    array of shape (N, C, OD, OH, OW) and so on, with the dtype of `x`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.fractional_max_pool3d(np.arange(27).reshape(3, 3, 3), 2, 1, np.zeros((1, 1, 3)))
    array([[[26]]])
    """
    return _pool(3, x, kernel_size, output_size, random_samples, data_format, return_indices, out, backend)


def fractional_max_pool2d_backward(
    dy: A,
    indices: Any,
    x_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `fractional_max_pool2d`: as `adaptive_max_pool2d_backward`, from its indices.

    Parameters
    ----------
    dy, indices : arrays of the shape that `fractional_max_pool2d` returned

    Returns
    -------
    array of shape `x_shape`, with the dtype of `dy`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x, samples = np.arange(16.0).reshape(4, 4), np.array([[[0.3, 0.6]]])
    >>> y, indices = fp.fractional_max_pool2d(x, 2, 2, samples, return_indices=True)
    >>> fp.fractional_max_pool2d_backward(np.ones_like(y), indices, x.shape)
    array([[0., 0., 0., 0.],
           [0., 1., 0., 1.],
           [0., 0., 0., 0.],
           [0., 1., 0., 1.]])
    """
    return call_max_pool_backward(FRACTIONAL_MAX_POOL_BACKWARD, 2, dy, indices, x_shape, data_format, out, backend)


def fractional_max_pool3d_backward(
    dy: A,
    indices: Any,
    x_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `fractional_max_pool3d`: as `adaptive_max_pool3d_backward`, from its indices.

    Parameters
    ----------
    dy, indices : arrays of the shape that `fractional_max_pool3d` returned

    Returns
    -------
    array of shape `x_shape`, with the dtype of `dy`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x, samples = np.arange(8.0).reshape(2, 2, 2), np.zeros((1, 1, 3))
    >>> y, indices = fp.fractional_max_pool3d(x, 2, 1, samples, return_indices=True)
    >>> fp.fractional_max_pool3d_backward(np.ones_like(y), indices, x.shape)
    array([[[0., 0.],
            [0., 0.]],
    <BLANKLINE>
           [[0., 0.],
            [0., 1.]]])
    """
    return call_max_pool_backward(FRACTIONAL_MAX_POOL_BACKWARD, 3, dy, indices, x_shape, data_format, out, backend)
