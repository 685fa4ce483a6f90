"""Average pooling over one, two or three spatial axes, and its gradient."""

from __future__ import annotations

from typing import Any, overload

from fastpool.arguments import LARGEST_SIZE, check_layout, check_shape, flag, frozen_window, positive
from fastpool.average_plans import AVG_POOL, AVG_POOL_BACKWARD, GLOBAL_AVG_POOL, GLOBAL_AVG_POOL_BACKWARD
from fastpool.calls import call
from fastpool.type_hints import A, Padding, Size, as_average_pool


def _frozen(
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format
) -> tuple[Any, ...]:
    """The arguments of a pool by which its plan is looked up."""
    window = frozen_window(kernel_size, stride, padding, 1, ceil_mode, data_format)
    if divisor_override is not None:
        divisor_override = positive("divisor_override", divisor_override)
        if divisor_override > LARGEST_SIZE:
            raise ValueError(f"divisor_override is too large for any window, got {divisor_override}")
    return window, flag("count_include_pad", count_include_pad), divisor_override


def _pool(axes, x, out, backend, *arguments) -> Any:
    return call(AVG_POOL, (x,), (axes, *_frozen(*arguments)), out, backend)


def _pool_backward(axes, dy, x_shape, out, backend, *arguments) -> Any:
    return call(AVG_POOL_BACKWARD, (dy,), (axes, check_shape("x_shape", x_shape), *_frozen(*arguments)), out, backend)


@as_average_pool
def avg_pool1d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str = "channels_first",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Average pooling over the length of signals.

    As `avg_pool2d` in every respect, with one spatial axis.

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
    >>> fp.avg_pool1d(np.array([1.0, 3.0, 2.0, 5.0, 4.0]), 2)
    array([2. , 3.5])
    """
    return _pool(
        1, x, out, backend,
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format,
    )  # fmt: skip


@as_average_pool
def avg_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str = "channels_first",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Average pooling over the height and width of images, as `torch.nn.functional.avg_pool2d`.

    The sum of each window, divided by how many of its cells count. The same bits every run, whatever the number of
    threads; float16 and bfloat16 are summed in float32 and rounded once. NaN and infinities are added as NumPy does.
    The order of the additions is not specified: where a part of a sum may overflow, so may the sum.

    Parameters
    ----------
    x : array of shape (N, C, H, W), (C, H, W) or (H, W); channels_last: (N, H, W, C), (H, W, C)
        float16, bfloat16 (ml_dtypes), float32 or float64; any strides and byte order. A NumPy array, or a PyTorch
        tensor in main memory.
    kernel_size, stride : int or one int for each axis
        `stride` defaults to `kernel_size`.
    padding : int, one for each axis, a (before, after) pair for each, "valid", "same" or "same_lower"
        As in `max_pool2d`: any amount, with zeros.
    ceil_mode : bool
        Keep a last window that hangs over the end, if it starts inside the input or its leading padding. Cells past
        the end of the padding never count.
    count_include_pad : bool
        Whether cells of the padding count, that of "same" and "same_lower" too. Keras, TensorFlow and ONNX leave it
        out: to have their averages, pass False. A window of padding alone has an average of 0 then, too.
    divisor_override : int
        A positive number that every sum is divided by, instead of counting.
    data_format : "channels_first" or "channels_last"
        Which axes of `x` mean what. Either order in memory is read where it lies, without a copy.
    out : array
        Where to write the result, instead of to new memory.
    backend : "numba", "numpy" or "naive"

    Returns
    -------
    array of shape (N, C, OH, OW) and so on, with the dtype of `x`, and of its kind

    Raises
    ------
    TypeError
        For a dtype that is not floating, or a kind of array that is not supported.
    ValueError
        For shapes, sizes or an `out` that do not fit.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(4, 4)
    >>> fp.avg_pool2d(x, 2)
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    >>> fp.avg_pool2d(x, 3, stride=2, padding="same", count_include_pad=False)
    array([[ 5. ,  6.5],
           [11. , 12.5]])
    """
    return _pool(
        2, x, out, backend,
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format,
    )  # fmt: skip


@as_average_pool
def avg_pool3d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str = "channels_first",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Average pooling over the depth, height and width of volumes.

    As `avg_pool2d` in every respect, with three spatial axes.

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
    >>> fp.avg_pool3d(np.arange(64.0).reshape(4, 4, 4), 2)[1, 1]
    array([50.5, 52.5])
    """
    return _pool(
        3, x, out, backend,
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format,
    )  # fmt: skip


def avg_pool1d_backward(
    dy: A,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `avg_pool1d` with respect to its input; see `avg_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.avg_pool1d_backward(np.array([10.0, 20.0]), (5,), 2)
    array([ 5.,  5., 10., 10.,  0.])
    """
    return _pool_backward(
        1, dy, x_shape, out, backend,
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format,
    )  # fmt: skip


def avg_pool2d_backward(
    dy: A,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `avg_pool2d` with respect to its input: each cell adds up dy / divisor of the windows that cover it.

    The same bits every run, whatever the number of threads. float16 and bfloat16 are summed in float32 and rounded
    once.

    Parameters
    ----------
    dy : array of the shape of `y`; float16, bfloat16, float32 or float64
    x_shape : tuple of int
        The shape of the input of the forward pass.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format, backend
        As in the forward pass.
    out : array of `x_shape`
        Where to write the result; what it held is lost.

    Returns
    -------
    array of `x_shape`, with the dtype of `dy`

    Raises
    ------
    TypeError
        For a dy that is not floating.
    ValueError
        For shapes that do not fit.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.avg_pool2d_backward(np.array([[4.0]]), (2, 2), 2)
    array([[1., 1.],
           [1., 1.]])
    """
    return _pool_backward(
        2, dy, x_shape, out, backend,
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format,
    )  # fmt: skip


def avg_pool3d_backward(
    dy: A,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `avg_pool3d` with respect to its input; see `avg_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.avg_pool3d_backward(np.array([[[8.0]]]), (2, 2, 2), 2)[1, 1]
    array([1., 1.])
    """
    return _pool_backward(
        3, dy, x_shape, out, backend,
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format,
    )  # fmt: skip


@overload
def global_avg_pool(
    x: A, *, data_format: str = ..., keepdims: bool = ..., out: A | None = ..., backend: str | None = ...
) -> A: ...
@overload
def global_avg_pool(
    x: Any, *, data_format: str = ..., keepdims: bool = ..., out: Any = ..., backend: str | None = ...
) -> Any: ...
def global_avg_pool(
    x: Any,
    *,
    data_format: str = "channels_first",
    keepdims: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """The average over all spatial axes, as Keras' GlobalAveragePooling and ONNX' GlobalAveragePool.

    Parameters
    ----------
    x : array of shape (N, C, *S) or, channels_last, (N, *S, C), with one to three spatial axes
        float16, bfloat16, float32 or float64.
    keepdims : bool
        Keep the spatial axes with size 1, as ONNX does.
    data_format, out, backend
        As in `avg_pool2d`.

    Returns
    -------
    array of shape (N, C), with the dtype of `x`

    Raises
    ------
    TypeError, ValueError
        As `avg_pool2d`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.global_avg_pool(np.arange(24.0).reshape(1, 2, 3, 4))
    array([[ 5.5, 17.5]])
    """
    return call(GLOBAL_AVG_POOL, (x,), (check_layout(data_format), flag("keepdims", keepdims)), out, backend)


def global_avg_pool_backward(
    dy: A,
    x_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    keepdims: bool = False,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `global_avg_pool` with respect to its input.

    Parameters
    ----------
    dy : array of the shape of `y`
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
        As `avg_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.global_avg_pool_backward(np.array([[6.0]]), (1, 1, 3))
    array([[[2., 2., 2.]]])
    """
    static = check_shape("x_shape", x_shape), check_layout(data_format), flag("keepdims", keepdims)
    return call(GLOBAL_AVG_POOL_BACKWARD, (dy,), static, out, backend)
