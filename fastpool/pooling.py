"""Max pooling over one, two or three spatial axes, its gradient, and its inverse by indices."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastpool.arguments import check_layout, check_shape, flag, frozen, frozen_window, one_of
from fastpool.calls import call
from fastpool.indices import ONNX_DEFAULT_SHAPE, check_convention
from fastpool.interop import deferred
from fastpool.pool_plans import (
    ARGMAX,
    GLOBAL_MAX_POOL,
    GLOBAL_MAX_POOL_BACKWARD,
    MAX_POOL,
    MAX_POOL_BACKWARD,
    MAX_UNPOOL,
)
from fastpool.threads import importing
from fastpool.type_hints import A, Padding, Size, as_global_pool, as_pool

PROPAGATE = "propagate"
NAN_POLICIES = (PROPAGATE, "ignore")


def call_pool(
    op, axes, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, nan, where, out, backend
) -> Any:
    window = frozen_window(kernel_size, stride, padding, dilation, ceil_mode, data_format)
    if return_argmax is not True and return_argmax is not False:
        return_argmax = flag(f"return_{ARGMAX[op.name]}", return_argmax)
    if where is None and nan is PROPAGATE:  # the usual case
        return call(op, (x,), (axes, *window, return_argmax), out, backend)
    return pool_what_counts(op, x, (axes, *window), return_argmax, nan, where, out, backend)


def pool_what_counts(op, x, static, return_argmax, nan, where, out, backend) -> Any:
    """`static` is what the plan depends on, but for `return_argmax`."""
    nan = one_of("nan", nan, NAN_POLICIES)
    if where is None and nan == PROPAGATE:
        return call(op, (x,), (*static, return_argmax), out, backend)
    pool_later = deferred(f"masked_{op.name}", x)
    if pool_later is not None:
        return pool_later(x, *static, return_argmax, nan, where, out, backend)
    with importing:
        from fastpool.masked_pooling import masked_pool

    def pool(x: Any, return_argmax: bool) -> Any:
        return call(op, (x,), (*static, return_argmax), None, backend)

    extreme = op.name.removeprefix("global_").removesuffix("_pool")
    return masked_pool(extreme, pool, x, nan, where, return_argmax, out)


def call_pool_backward(
    op, axes, dy, argmax, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
) -> Any:
    window = frozen_window(kernel_size, stride, padding, dilation, ceil_mode, data_format)
    return call(op, (dy, argmax), (axes, check_shape("x_shape", x_shape), *window), out, backend)


_pool, _pool_backward = partial(call_pool, MAX_POOL), partial(call_pool_backward, MAX_POOL_BACKWARD)


@as_pool
def max_pool1d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmax: bool = False,
    nan: str = "propagate",
    where: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Max pooling over the length of signals.

    As `max_pool2d` in every respect, with one spatial axis.

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
    >>> fp.max_pool1d(np.array([1, 3, 2, 5, 4]), 3, stride=2)
    array([3, 5])
    """
    return _pool(
        1, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, nan, where, out, backend
    )


@as_pool
def max_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmax: bool = False,
    nan: str = "propagate",
    where: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Max pooling over the height and width of images, as `torch.nn.functional.max_pool2d`.

    Padding never wins: a window of padding alone gives the lowest value of the dtype. Of equal
    values the first in row-major order wins; a NaN beats every number, the first NaN wins.

    Parameters
    ----------
    x : array of shape (N, C, H, W), (C, H, W) or (H, W); channels_last: (N, H, W, C), (H, W, C)
        bool, any integer, float16, bfloat16 (ml_dtypes), float32 or float64; any strides and byte order. A NumPy
        array, a PyTorch tensor, a CuPy array, or whatever has `__cuda_array_interface__` or DLPack. What NumPy alone
        converts, such as images of Pillow and arrays of xarray, pandas and Zarr, gives NumPy arrays.
    kernel_size, stride, dilation : int or one int for each axis
        `stride` defaults to `kernel_size`.
    padding : int, one for each axis, a (before, after) pair for each, "valid", "same" or "same_lower"
        "same" gives ceil(size / stride) windows, with the odd cell of padding at the end
        (TensorFlow's SAME, ONNX's SAME_UPPER), "same_lower" at the start.
    ceil_mode : bool
        Keep a last window that hangs over the end, if it starts inside the input or its leading padding.
    data_format : "channels_first" or "channels_last"
        Which axes of `x` mean what. Either order in memory is read where it lies, without a copy.
    return_argmax : bool
        Also return where in each window the maximum is.
    nan : "propagate" or "ignore"
        With "ignore", cells that are NaN do not count: a window where no cell counts gives NaN, of integers the lowest
        value, and the offset of its first cell.
    where : array of bool, of a shape that broadcasts to that of `x`
        Which cells count. With it, or with "ignore", `x` must lie in main memory, and is copied.
    out : array, or (y, argmax) with return_argmax
        Where to write the result, instead of to new memory.
    backend : "numba", "cython", "numpy", "naive" or "cuda"
        "cuda" alone copies a NumPy array to a GPU, and the result back; an array that lies on a GPU stays there.

    Returns
    -------
    y : array of shape (N, C, OH, OW) and so on, of the array library and dtype of `x`
    argmax : array of the shape of `y`, with return_argmax
        The winner's offset inside its window, `kh * KW + kw`, in uint8 where it fits, else uint16 or uint32.

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
    >>> fp.max_pool2d(x, 2)
    array([[ 5.,  7.],
           [13., 15.]])
    >>> y, argmax = fp.max_pool2d(x, 3, stride=2, padding=1, return_argmax=True)
    >>> argmax
    array([[8, 8],
           [8, 8]], dtype=uint8)
    """
    return _pool(
        2, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, nan, where, out, backend
    )


@as_pool
def max_pool3d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmax: bool = False,
    nan: str = "propagate",
    where: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Max pooling over the depth, height and width of volumes.

    As `max_pool2d` in every respect, with three spatial axes.

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
    >>> fp.max_pool3d(np.arange(64).reshape(4, 4, 4), 2)[1, 1]
    array([61, 63])
    """
    return _pool(
        3, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, nan, where, out, backend
    )


def max_pool1d_backward(
    dy: A,
    argmax: Any,
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
    """Gradient of `max_pool1d` with respect to its input; see `max_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmax = fp.max_pool1d(np.array([1.0, 3.0, 2.0, 5.0]), 2, return_argmax=True)
    >>> fp.max_pool1d_backward(np.array([10.0, 20.0]), argmax, (4,), 2)
    array([ 0., 10.,  0., 20.])
    """
    return _pool_backward(
        1, dy, argmax, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
    )


def max_pool2d_backward(
    dy: A,
    argmax: Any,
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
    """Gradient of `max_pool2d` with respect to its input: each dy goes to the maximum of its window.

    The same bits every run, whatever the number of threads: a cell that is the maximum of several windows receives
    their gradients in row-major order. float16 and bfloat16 are summed in float32 and rounded once.

    Parameters
    ----------
    dy : array of the shape of `y`; float16, bfloat16, float32 or float64
    argmax : array of the shape of `y`
        As `max_pool2d` returned it, from the same window.
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
    TypeError
        For a dy that is not floating, or an argmax of another dtype.
    ValueError
        For shapes that do not fit, or an argmax that names a cell outside its window or in the padding. An argmax on a
        GPU is not checked, since the call would have to wait for it: a gradient whose offset is invalid is dropped.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.array([[1.0, 9.0], [3.0, 4.0]])
    >>> y, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    >>> fp.max_pool2d_backward(np.array([[5.0]]), argmax, x.shape, 2)
    array([[0., 5.],
           [0., 0.]])
    """
    return _pool_backward(
        2, dy, argmax, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
    )


def max_pool3d_backward(
    dy: A,
    argmax: Any,
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
    """Gradient of `max_pool3d` with respect to its input; see `max_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmax = fp.max_pool3d(np.arange(8.0).reshape(2, 2, 2), 2, return_argmax=True)
    >>> fp.max_pool3d_backward(np.array([[[1.0]]]), argmax, (2, 2, 2), 2)[1, 1]
    array([0., 1.])
    """
    return _pool_backward(
        3, dy, argmax, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
    )


@as_global_pool
def global_max_pool(
    x: Any,
    *,
    data_format: str = "channels_first",
    keepdims: bool = False,
    return_argmax: bool = False,
    nan: str = "propagate",
    where: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """The maximum over all spatial axes, as Keras' GlobalMaxPooling and ONNX' GlobalMaxPool.

    Parameters
    ----------
    x : array of shape (N, C, *S) or, channels_last, (N, *S, C), with one to three spatial axes
    keepdims : bool
        Keep the spatial axes with size 1, as ONNX does.
    return_argmax : bool
        Also return where the maximum was: its row-major offset in the plane.
    data_format, nan, where, out, backend
        As in `max_pool2d`.

    Returns
    -------
    y : array of shape (N, C), with the dtype of `x`
    argmax : array of the same shape in uint8, uint16 or uint32, with return_argmax

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.global_max_pool(np.arange(24).reshape(1, 2, 3, 4))
    array([[11, 23]])
    """
    static = check_layout(data_format), flag("keepdims", keepdims)
    return_argmax = flag("return_argmax", return_argmax)
    return pool_what_counts(GLOBAL_MAX_POOL, x, static, return_argmax, nan, where, out, backend)


def global_max_pool_backward(
    dy: A,
    argmax: Any,
    x_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    keepdims: bool = False,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `global_max_pool` with respect to its input.

    Parameters
    ----------
    dy, argmax : arrays of the shape of `y`
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
    >>> y, argmax = fp.global_max_pool(np.array([[[1.0, 3.0, 2.0]]]), return_argmax=True)
    >>> fp.global_max_pool_backward(np.array([[5.0]]), argmax, (1, 1, 3))
    array([[[0., 5., 0.]]])
    """
    static = check_shape("x_shape", x_shape), check_layout(data_format), flag("keepdims", keepdims)
    return call(GLOBAL_MAX_POOL_BACKWARD, (dy, argmax), static, out, backend)


def _unpool(axes, y, indices, kernel_size, stride, padding, output_shape, convention, data_format, out, backend) -> Any:
    window = frozen("kernel_size", kernel_size), frozen("stride", stride), frozen("padding", padding)
    shape = None if output_shape is None else check_shape("output_shape", output_shape)
    convention = check_convention(convention, ONNX_DEFAULT_SHAPE)
    static = axes, *window, shape, convention, check_layout(data_format), out is None
    return call(MAX_UNPOOL, (y, indices), static, out, backend)


def max_unpool1d(
    y: A,
    indices: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    output_shape: tuple[int, ...] | None = None,
    convention: str = "torch",
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Put values back to where they came from along signals; see `max_unpool2d`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.max_unpool1d(np.array([3, 5]), np.array([1, 3]), 2)
    array([0, 3, 0, 5])
    """
    return _unpool(1, y, indices, kernel_size, stride, padding, output_shape, convention, data_format, out, backend)


def max_unpool2d(
    y: A,
    indices: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    output_shape: tuple[int, ...] | None = None,
    convention: str = "torch",
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Put the values of a max pooling back to the cells they came from, zeros elsewhere.

    Parameters
    ----------
    y : array of shape (N, C, OH, OW), (C, OH, OW) or (OH, OW), or with the channels last
        Any dtype that `max_pool2d` takes.
    indices : integer array of the shape of `y`
        Where each value goes, counted as `convention` counts (see `argmax_to_indices`). -1 stands for a window
        of padding alone and is passed over. Where several values go to one cell, the last in row-major order of
        the windows stays (in overlapping windows they are the same value).
    kernel_size, stride, padding : as in the pooling
        They give the default of `output_shape`, and with convention="chainer" the place of each window.
    output_shape : tuple of int
        The shape of the pooled input, all axes or the spatial ones; by default `(OH - 1) * stride + kernel_size`
        less the padding.
    convention : "torch", "onnx", "tensorflow", "tensorflow_with_batch", "chainer" or "onnx_default_shape"
        The last is that of ONNX's operator MaxUnpool: indices count in the default of `output_shape`, and what that
        has more is 0.
    data_format, out, backend
        As in `max_pool2d`.

    Returns
    -------
    array of `output_shape`, with the dtype of `y`

    Raises
    ------
    TypeError
        For indices that are not integers.
    ValueError
        For an index outside the output; nothing is written then. Indices on a GPU are not checked, since the call
        would have to wait for them: a value whose index is outside is dropped.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.max_unpool2d(np.array([[7]]), np.array([[2]]), 2)
    array([[0, 0],
           [7, 0]])
    """
    return _unpool(2, y, indices, kernel_size, stride, padding, output_shape, convention, data_format, out, backend)


def max_unpool3d(
    y: A,
    indices: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    output_shape: tuple[int, ...] | None = None,
    convention: str = "torch",
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Put values back to where they came from in volumes; see `max_unpool2d`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.max_unpool3d(np.array([[[7]]]), np.array([[[5]]]), 2).ravel()
    array([0, 0, 0, 0, 0, 7, 0, 0])
    """
    return _unpool(3, y, indices, kernel_size, stride, padding, output_shape, convention, data_format, out, backend)
