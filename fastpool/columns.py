"""im2col and its adjoint col2im, in one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from fastpool import forms
from fastpool.arguments import check_shape, frozen_window, one_of, required_stride
from fastpool.backends import backend_for
from fastpool.calls import Op, Plan, call
from fastpool.dtypes import native, number_held
from fastpool.pool_plans import no_kernel
from fastpool.type_hints import A, Padding, Size
from fastpool.window import Window, sliding_window, spatial_axes

# The axes of the columns in each order: n images, c channels, k taps and l positions, from the slowest in memory to the
# fastest. Those of a group are one axis of the result; K and L stand for an axis of each spatial axis.
_AXES = {
    "unfold": ("n", "ck", "l"),
    "gemm": ("ck", "ln"),
    "columns": ("ck", "nl"),
    "rows": ("nl", "ck"),
    "rows_channels_last": ("nl", "kc"),
    "windows": ("n", "c", "K", "L"),
}
ORDERS = tuple(_AXES)


def _sizes(window: Window) -> dict[str, int]:
    return {"n": window.batch, "c": window.channels, "k": window.volume, "l": window.positions}


def columns_shape(window: Window, order: str) -> tuple[int, ...]:
    """The shape of the columns as the caller sees them."""
    sizes, unused = _sizes(window), 3 - window.spatial_axes
    batched = len(window.x_shape) == window.spatial_axes + 2
    apart = {"n": (window.batch,) if batched else (), "K": window.kernel[unused:], "L": window.out[unused:]}
    shape: tuple[int, ...] = ()
    for group in _AXES[order]:
        shape += apart[group] if group in apart else (prod(sizes[axis] for axis in group),)
    return shape


def _axes_in_memory(order: str) -> str:
    return "".join(_AXES[order]).lower()


def _steps(window: Window, order: str) -> tuple[int, ...]:
    """Elements of the columns from one image, channel, tap and position to the next."""
    sizes, in_memory = _sizes(window), _axes_in_memory(order)
    return tuple([prod(sizes[inside] for inside in in_memory[in_memory.index(axis) + 1 :]) for axis in "nckl"])


def _indexed_by(window: Window, order: str) -> Callable[[Any], Any]:
    """Make a function that gives the columns as [image, channel, tap, position]: a view."""
    sizes, in_memory = _sizes(window), _axes_in_memory(order)
    shape, axes = tuple([sizes[axis] for axis in in_memory]), tuple(map(in_memory.index, "nckl"))

    def indexed(cols: Any) -> Any:
        # An axis of size 1 may have any stride, and keeps it in an array of the same shape: so all become one first.
        cols = cols.reshape(cols.size).reshape(shape)
        return cols if axes == (0, 1, 2, 3) else cols.transpose(axes)

    return indexed


def _im2col_kernel(
    module: ModuleType, window: Window, channels_last: bool, order: str, dtype: np.dtype, fresh: bool
) -> tuple[Callable[[Any, Any, Any], None], bool]:
    """What fills (x, fill_value, cols), and whether it takes contiguous arrays of any shape."""
    if hasattr(module, "prepare_im2col"):
        if window.batch * window.channels == 0:
            return no_kernel, True
        return module.prepare_im2col(window, channels_last, _steps(window, order), dtype, fresh), True
    indexed = _indexed_by(window, order)
    return lambda x, fill_value, cols: module.im2col(x, window, fill_value, indexed(cols), fresh=fresh), False


def _col2im_kernel(
    module: ModuleType, window: Window, channels_last: bool, order: str, dtype: np.dtype
) -> tuple[Callable[[Any, Any], None], bool]:
    """What adds (cols, x), and whether it takes contiguous arrays of any shape."""
    if hasattr(module, "prepare_col2im"):
        if window.batch * window.channels == 0:
            return no_kernel, True
        return module.prepare_col2im(window, channels_last, _steps(window, order), dtype), True
    indexed = _indexed_by(window, order)
    return lambda cols, x: module.col2im(indexed(cols), window, x), False


def _plan_im2col(inputs, arguments, order, fresh, backend) -> Plan:
    (x,) = inputs
    module = backend_for("im2col", backend, x.device)
    window = sliding_window(spatial_axes(x.shape, arguments[0]), x.shape, *arguments)
    channels_last, dtype = forms.channels_last_in_memory(x, window), native(x.dtype)
    copy, any_shape = _im2col_kernel(module, window, channels_last, order, dtype, fresh)

    def run(x: Any, cols: Any, fill_value: Any) -> None:
        copy(x, fill_value, cols)

    operand = forms.source(x, window, channels_last, window.size, any_shape)
    cols = forms.Result(columns_shape(window, order), dtype)
    return Plan((operand,), (cols,), run, partial(number_held, "fill_value", dtype))


def _plan_col2im(inputs, x_shape, arguments, order, backend) -> Plan:
    (cols,) = inputs
    module = backend_for("col2im", backend, cols.device)
    if cols.dtype.kind == "b":
        raise TypeError("cols must be of an integer or floating dtype, which can be added up, got bool")
    window = sliding_window(spatial_axes(x_shape, arguments[0]), x_shape, *arguments, "x_shape")
    if cols.shape != columns_shape(window, order):
        raise ValueError(f"cols must have shape {columns_shape(window, order)} for x_shape {x_shape}, got {cols.shape}")
    channels_last, dtype = window.channels > 1 and window.channel_axis == len(x_shape) - 1, native(cols.dtype)
    # Where the positions of a channel are contiguous, and few for each cell, a kernel that writes channels into cells
    # one by one takes longer than one that writes planes, and NumPy's copy of these.
    by_planes = _axes_in_memory(order)[-1] == "l" and window.volume * window.positions <= 2 * prod(window.size)
    if by_planes and channels_last and isinstance(cols, np.ndarray):
        run, any_shape = _by_planes(_col2im_kernel(module, window, False, order, dtype)[0], window), False
    else:
        run, any_shape = _col2im_kernel(module, window, channels_last, order, dtype)
    x = forms.result(window, channels_last, x_shape, window.size, dtype, cols, any_shape)
    return Plan((forms.operand(cols),), (x,), run)


def _by_planes(add: Callable[[Any, Any], None], window: Window) -> Callable[[Any, Any], None]:
    """Let a kernel add up planes, and copy these to an array with its channels last."""

    def run(cols: np.ndarray, x: np.ndarray) -> None:
        made = np.empty(forms.planes(window, False, window.size), x.dtype)
        add(cols, made)
        x[...] = np.moveaxis(made.reshape(window.batch, window.channels, *window.size), 1, 4)

    return run


_IM2COL = Op("im2col", ("x",), (), _plan_im2col)
_COL2IM = Op("col2im", ("cols",), (), _plan_col2im)


def im2col(
    x: A,
    kernel_size: Size,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    *,
    order: str = "unfold",
    fill_value: Any = 0,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Every window of an array as a column.

    Parameters
    ----------
    x : array of shape (N, C, *S), or channels_last (N, *S, C), with one to three spatial axes S
        Any dtype that `max_pool2d` takes. Where kernel_size is a tuple, the batch and the channels may be missing.
    kernel_size, stride, padding, dilation, data_format, backend
        As in `max_pool2d`, but stride defaults to 1.
    order : "unfold", "gemm", "columns", "rows", "rows_channels_last" or "windows"
        - "unfold": (N, C*KH*KW, L), as `torch.nn.functional.unfold`; L = OH*OW counts the windows
        - "gemm": (C*KH*KW, L*N), the position first and the image inside it, as deepnet and cs231n's `im2col_indices`
        - "columns": (C*KH*KW, N*L), the image first, as the columns of cs231n's `conv_forward_strided`
        - "rows": (N*L, C*KH*KW), as "Deep Learning from Scratch" and DeZero
        - "rows_channels_last": (N*L, KH*KW*C), as TensorFlow's `extract_patches` and tinynn
        - "windows": (N, C, KH, KW, OH, OW), as Chainer
    fill_value : number
        What stands in the padding. A Python float is rounded to the dtype of a floating `x`, as in NumPy's arithmetic;
        all else must be a value that the dtype of `x` holds: integers, NumPy's scalars, any number for integers.
    out : array of the shape and dtype of the result

    Returns
    -------
    array with the dtype of `x`, the same whatever the data_format

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d`; also for an unknown order and a fill_value that the dtype cannot hold.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.im2col(np.arange(9).reshape(1, 1, 3, 3), 2)[0]
    array([[0, 1, 3, 4],
           [1, 2, 4, 5],
           [3, 4, 6, 7],
           [4, 5, 7, 8]])
    """
    window = frozen_window(kernel_size, required_stride(stride), padding, dilation, False, data_format)
    static = window, one_of("order", order, ORDERS), out is None
    return call(_IM2COL, (x,), static, out, backend, (fill_value,))


def col2im(
    cols: A,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    *,
    order: str = "unfold",
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Add columns up to where `im2col` took them from: its exact adjoint, as `torch.nn.functional.fold`.

    Parameters
    ----------
    cols : array of the shape that `im2col` gives for `x_shape`; any integer or floating dtype
    x_shape : tuple of int
        The shape of the array to make.
    kernel_size, stride, padding, dilation, order, data_format, backend
        As in `im2col`.
    out : array of `x_shape`

    Returns
    -------
    array of `x_shape`, with the dtype of `cols`
        float16 and bfloat16 are summed in float32 and rounded once; integers wrap around as NumPy's do.

    Raises
    ------
    TypeError, ValueError
        For bool, and for shapes and arguments that do not fit.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.col2im(np.ones((1, 4, 4)), (1, 1, 3, 3), 2)[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    window = frozen_window(kernel_size, required_stride(stride), padding, dilation, False, data_format)
    static = check_shape("x_shape", x_shape), window, one_of("order", order, ORDERS)
    return call(_COL2IM, (cols,), static, out, backend)
