"""Max pooling over one, two or three spatial axes, its gradient, and its inverse by indices."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from fastpool import arrays
from fastpool.arguments import check_layout, check_shape, flag, frozen
from fastpool.backends import backend_for
from fastpool.calls import Op, Plan, call
from fastpool.device_arrays import DeviceArray
from fastpool.dtypes import native
from fastpool.indices import (
    check_argmax,
    check_convention,
    check_indices,
    check_positions,
    check_range,
    invalid_argmax,
    values_with_positions,
)
from fastpool.type_hints import A, Padding, Size, as_global_pool, as_pool
from fastpool.window import Window, frozen_window, sliding_window, unpooling_window


def _nothing(*arrays: Any) -> None:
    """The kernel of empty arrays."""


def kernel_of(
    backend: ModuleType, window: Window, outer: int, inner: int, dtype: np.dtype, with_argmax: bool
) -> tuple[Any, bool]:
    """What pools (x, y) or (x, y, argmax), and whether it takes contiguous arrays of any shape."""
    prepare = getattr(backend, "prepare_max_pool", None)
    if prepare is not None:
        return (prepare(window, outer, inner, dtype, with_argmax) if outer * inner else _nothing), True

    def run(x: Any, y: Any, argmax: Any = None) -> None:
        backend.max_pool(x, window, y, argmax)

    return run, False


def backward_kernel_of(
    backend: ModuleType, window: Window, outer: int, inner: int, dtype: np.dtype
) -> tuple[Any, bool]:
    """What checks an argmax and sends (dy, argmax) to dx, and whether it takes contiguous arrays of any shape."""
    prepare = getattr(backend, "prepare_max_pool_backward", None)
    if prepare is not None:
        if outer * inner == 0:
            return _nothing, True
        prepared = prepare(window, outer, inner, dtype)

        def run_if_valid(dy: np.ndarray, argmax: np.ndarray, dx: np.ndarray) -> None:
            if not prepared(dy, argmax, dx):
                raise invalid_argmax(argmax, window)

        return run_if_valid, True

    def run(dy: Any, argmax: Any, dx: Any) -> None:
        check_argmax(argmax, window, backend)
        backend.max_pool_backward(dy, argmax, window, dx)

    return run, False


def _outer_and_inner(window: Window, channels_last: bool) -> tuple[int, int]:
    return (window.batch, window.channels) if channels_last else (window.batch * window.channels, 1)


def _forward_plan(x: Any, window: Window, return_argmax: bool, backend: str | None) -> Plan:
    module = backend_for("max_pool", backend, x.device)
    channels_last, dtype = arrays.channels_last_in_memory(x, window), native(x.dtype)
    outer, inner = _outer_and_inner(window, channels_last)
    run, any_shape = kernel_of(module, window, outer, inner, dtype, return_argmax)
    dtypes = (dtype, window.argmax_dtype) if return_argmax else (dtype,)
    results = [arrays.result(window, channels_last, window.y_shape, window.out, each, x, any_shape) for each in dtypes]
    return Plan((arrays.source(x, window, channels_last, window.size, any_shape),), tuple(results), run)


def _backward_plan(
    dy: Any, argmax: Any, window: Window, backend: str | None, reshaped_to: tuple[int, ...] | None = None
) -> Plan:
    """With `reshaped_to`, dy and argmax have that shape once they are reshaped."""
    y_shape = window.y_shape if reshaped_to is None else dy.shape
    module = backend_for("max_pool_backward", backend, dy.device)
    if dy.shape != y_shape:
        raise ValueError(f"dy must have the shape {window.y_shape} of the pooled array, got {dy.shape}")
    argmax = arrays.expect("argmax", argmax, y_shape, window.argmax_dtype, "this window's forward pass", dy)
    like = dy if reshaped_to is None else dy.reshape(reshaped_to)
    channels_last, dtype = arrays.channels_last_in_memory(like, window), native(dy.dtype)
    run, any_shape = backward_kernel_of(module, window, *_outer_and_inner(window, channels_last), dtype)
    operands = [arrays.source(a, window, channels_last, window.out, any_shape, reshaped_to) for a in (dy, argmax)]
    dx = arrays.result(window, channels_last, window.x_shape, window.size, dtype, like, any_shape)
    return Plan(tuple(operands), (dx,), run)


def _plan_pool(
    inputs, axes, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, backend
) -> Plan:
    (x,) = inputs
    window = sliding_window(axes, x.shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    return _forward_plan(x, window, return_argmax, backend)


def _plan_pool_backward(
    inputs, axes, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, backend
) -> Plan:
    window = sliding_window(axes, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    dy, argmax = inputs
    return _backward_plan(dy, argmax, window, backend)


_MAX_POOL = Op("max_pool", ("x",), (), _plan_pool)
_MAX_POOL_BACKWARD = Op("max_pool_backward", ("dy", "argmax"), ("dy",), _plan_pool_backward)


def _pool(axes, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, out, backend) -> Any:
    window = frozen_window(kernel_size, stride, padding, dilation, ceil_mode, data_format)
    if return_argmax is not True and return_argmax is not False:
        return_argmax = flag("return_argmax", return_argmax)
    return call(_MAX_POOL, (x,), (axes, *window, return_argmax), out, backend)


def _pool_backward(
    axes, dy, argmax, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
) -> Any:
    window = frozen_window(kernel_size, stride, padding, dilation, ceil_mode, data_format)
    return call(_MAX_POOL_BACKWARD, (dy, argmax), (axes, check_shape("x_shape", x_shape), *window), out, backend)


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
    return _pool(1, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, out, backend)


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
        array, a PyTorch tensor, a CuPy array, or whatever has `__cuda_array_interface__` or DLPack.
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
        Also return which cell of each window won.
    out : array, or (y, argmax) with return_argmax
        Where to write the result, instead of to new memory.
    backend : "numba", "cython", "numpy", "naive" or "cuda"
        "cuda" alone copies a NumPy array to a GPU, and the result back; an array that lies on a GPU stays there.

    Returns
    -------
    y : array of shape (N, C, OH, OW) and so on, with the dtype of `x`, and of its kind
    argmax : array of the shape of `y`, with return_argmax
        The winner's offset inside its window, `kh * KW + kw`, in uint8 where it fits, else uint16 or uint32.

    Raises
    ------
    TypeError
        For a dtype or a kind of array that is not supported.
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
    return _pool(2, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, out, backend)


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
    return _pool(3, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, out, backend)


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
    """Gradient of `max_pool2d` with respect to its input: each dy goes to the cell that won.

    The same bits every run, whatever the number of threads: a cell that won several windows receives
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


def global_window(x_shape: tuple[int, ...], data_format: str) -> Window:
    """The one window that covers all spatial axes of a batch."""
    data_format = check_layout(data_format)
    if not 3 <= len(x_shape) <= 5:
        raise ValueError(
            f"x must have a batch, a channel and one to three spatial axes, as (N, C, H, W), got shape {x_shape}"
        )
    space = x_shape[2:] if data_format == "channels_first" else x_shape[1:-1]
    if min(space) < 1:
        raise ValueError(f"every spatial axis of x must hold at least one cell, got shape {x_shape}")
    return Window.plan(len(space), x_shape, space, None, 0, 1, False, data_format)


def _plan_global(inputs, data_format, keepdims, return_argmax, backend) -> Plan:
    (x,) = inputs
    window = global_window(x.shape, data_format)
    plan = _forward_plan(x, window, return_argmax, backend)
    return plan if keepdims else plan.reshaped((window.batch, window.channels))


def _plan_global_backward(inputs, x_shape, data_format, keepdims, backend) -> Plan:
    dy, argmax = inputs
    window = global_window(x_shape, data_format)
    without_space = (window.batch, window.channels)
    if keepdims:
        return _backward_plan(dy, argmax, window, backend)
    for name, a in (("dy", dy), ("argmax", argmax)):
        if a.shape != without_space:
            raise ValueError(f"{name} must have the shape {without_space} of the pooled array, got {a.shape}")
    return _backward_plan(dy, argmax, window, backend, window.y_shape)


_GLOBAL_MAX_POOL = Op("global_max_pool", ("x",), (), _plan_global)
_GLOBAL_MAX_POOL_BACKWARD = Op("global_max_pool_backward", ("dy", "argmax"), ("dy",), _plan_global_backward)


@as_global_pool
def global_max_pool(
    x: Any,
    *,
    data_format: str = "channels_first",
    keepdims: bool = False,
    return_argmax: bool = False,
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
    data_format, out, backend
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
    static = check_layout(data_format), flag("keepdims", keepdims), flag("return_argmax", return_argmax)
    return call(_GLOBAL_MAX_POOL, (x,), static, out, backend)


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
    return call(_GLOBAL_MAX_POOL_BACKWARD, (dy, argmax), static, out, backend)


def _plan_unpool(
    inputs, axes, kernel_size, stride, padding, output_shape, convention, data_format, fresh, backend
) -> Plan:
    """The result may be `fresh`: then nobody sees it where an index is found invalid."""
    y, indices = inputs
    module = backend_for("max_unpool", backend, y.device)
    window = unpooling_window(axes, y.shape, output_shape, kernel_size, stride, padding, data_format)
    check_indices(indices, window)
    indices = arrays.expect("indices", indices, window.y_shape, indices.dtype, "y", y)
    by_indices = getattr(module, "max_unpool_by_indices", None)
    channels_last, dtype = arrays.channels_last_in_memory(y, window), native(y.dtype)
    on_gpu = isinstance(y, DeviceArray)

    def check(indices: Any) -> None:
        check_range(indices, window, convention)
        if not fresh or by_indices is not None:
            check_positions(indices, window, convention, channels_last)

    def run(y: Any, indices: Any, x: Any) -> None:
        if not on_gpu:
            check(indices)
        if by_indices is not None:
            by_indices(y, arrays.canonical(indices, window, channels_last, window.out), window, convention, x)
            return
        x[...] = 0
        for planes, some, positions in values_with_positions(y, indices, window, convention, channels_last):
            module.max_unpool(some, positions, x[planes])

    operands = arrays.source(y, window, channels_last, window.out, any_shape=False), None
    x = arrays.result(window, channels_last, window.x_shape, window.size, dtype, y, any_shape=False)
    return Plan(operands, (x,), run)


_MAX_UNPOOL = Op("max_unpool", ("y", "indices"), (), _plan_unpool)


def _unpool(axes, y, indices, kernel_size, stride, padding, output_shape, convention, data_format, out, backend) -> Any:
    window = frozen("kernel_size", kernel_size), frozen("stride", stride), frozen("padding", padding)
    shape = None if output_shape is None else check_shape("output_shape", output_shape)
    static = axes, *window, shape, check_convention(convention), check_layout(data_format), out is None
    return call(_MAX_UNPOOL, (y, indices), static, out, backend)


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
    convention : "torch", "onnx", "tensorflow" or "chainer"
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
