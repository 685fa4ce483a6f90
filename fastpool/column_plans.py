"""How im2col and col2im are planned: the order of the columns in memory, and which kernel runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from fastpool import forms
from fastpool.backends import backend_for
from fastpool.calls import Op, Plan
from fastpool.dtypes import native, number_held
from fastpool.pool_plans import no_kernel
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
    """What fills (x, cols, fill_value), and whether it takes contiguous arrays of any shape."""
    if hasattr(module, "prepare_im2col"):
        if window.batch * window.channels == 0:
            return no_kernel, True
        return module.prepare_im2col(window, channels_last, _steps(window, order), dtype, fresh), True
    indexed = _indexed_by(window, order)
    return lambda x, cols, fill_value: module.im2col(x, window, fill_value, indexed(cols), fresh=fresh), False


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
    run, any_shape = _im2col_kernel(module, window, channels_last, order, dtype, fresh)
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
        made = np.empty(forms.canonical_shape(window, False, window.size), x.dtype)
        add(cols, made)
        x[...] = np.moveaxis(made.reshape(window.batch, window.channels, *window.size), 1, 4)

    return run


IM2COL = Op("im2col", ("x",), (), _plan_im2col)
COL2IM = Op("col2im", ("cols",), (), _plan_col2im)
