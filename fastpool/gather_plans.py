"""How results are planned whose elements are each picked from one place: from where a maximum was, or from a window.

The first are the gradient of max_unpool and the second derivative of a pool, the adjoints of max_unpool and of a pool's
gradient; the other is nearest unpooling.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from fastpool import arrays, forms
from fastpool.backends import backend_for
from fastpool.calls import Op, Plan
from fastpool.dtypes import native
from fastpool.indices import check_argmax, check_indices, check_positions, check_range, picked, values_with_positions
from fastpool.pool_plans import ARGMAX
from fastpool.window import Window, sliding_window, unpooling_window


def _plan(a: Any, indices: Any, window: Window, convention: str, check: Any) -> Plan:
    """Of `a`, which has a value for each cell. `check` raises for indices of no cell; it is given the memory order."""
    channels_last = forms.channels_last_in_memory(a, window)

    def run(a: np.ndarray, indices: np.ndarray, y: np.ndarray) -> None:
        check(indices, channels_last)
        cells = a.reshape(len(a), -1, a.shape[-1])
        for planes, some, positions in values_with_positions(y, indices, window, convention, channels_last):
            flat = positions.reshape(len(some), -1, a.shape[-1])
            some[...] = picked(cells[planes], flat, 1).reshape(some.shape)

    operands = forms.source(a, window, channels_last, window.size, any_shape=False), None
    y = forms.result(window, channels_last, window.y_shape, window.out, native(a.dtype), a, any_shape=False)
    return Plan(operands, (y,), run)


def _plan_unpool_backward(inputs, axes, kernel_size, stride, padding, convention, data_format, backend) -> Plan:
    dx, indices = inputs
    arrays.in_main_memory("dx", dx, "gathered from")
    arrays.in_main_memory("indices", indices, "gathered by")
    if dx.ndim != indices.ndim:
        raise ValueError(f"dx must have as many axes as indices of shape {indices.shape}, got shape {dx.shape}")
    window = unpooling_window(axes, indices.shape, dx.shape, kernel_size, stride, padding, data_format, "indices", "dx")
    check_indices(indices, window)

    def check(indices: np.ndarray, channels_last: bool) -> None:
        check_range(indices, window, convention)
        check_positions(indices, window, convention, channels_last)

    return _plan(dx, indices, window, convention, check)


def _plan_double_backward(argmax_name, inputs, axes, *arguments_and_backend) -> Plan:
    *arguments, backend = arguments_and_backend
    ddx, argmax = inputs
    arrays.in_main_memory("ddx", ddx, "gathered from")
    window = sliding_window(axes, ddx.shape, *arguments, "ddx")
    argmax = arrays.expect(argmax_name, argmax, window.y_shape, window.argmax_dtype, "this window's forward pass", ddx)
    module = backend_for("max_pool_backward", backend)

    def check(argmax: np.ndarray, channels_last: bool) -> None:
        check_argmax(forms.canonical(argmax, window, channels_last, window.out), window, module, argmax_name)

    return _plan(ddx, argmax, window, "chainer", check)  # whose indices are offsets, as an argmax


def _plan_nearest(inputs, axes, kernel_size, stride, padding, output_shape, data_format, backend) -> Plan:
    (y,) = inputs
    arrays.in_main_memory("y", y, "repeated")
    window = unpooling_window(axes, y.shape, output_shape, kernel_size, stride, padding, data_format)
    if any(s < k and o > 1 for s, k, o in zip(window.stride, window.kernel, window.out, strict=True)):
        raise ValueError(f"stride must be at least kernel_size {window.kernel[-axes:]}, got {stride}")
    channels_last = forms.channels_last_in_memory(y, window)
    windows, uncovered = zip(*(_nearest(window, axis) for axis in range(3)), strict=True)

    def run(y: np.ndarray, x: np.ndarray) -> None:
        for axis in (1, 2):
            y = np.take(y, windows[axis - 1], axis)
        np.take(y, windows[2], 3, out=x, mode="clip")
        for axis, cells in enumerate(uncovered, 1):
            x[(slice(None),) * axis + (cells,)] = 0

    operands = (forms.source(y, window, channels_last, window.out, any_shape=False),)
    x = forms.result(window, channels_last, window.x_shape, window.size, native(y.dtype), y, any_shape=False)
    return Plan(operands, (x,), run)


def _nearest(window: Window, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The window of each cell along an axis, or any where there is none, and the cells of which there is none."""
    distance = max(window.stride[axis], window.kernel[axis])  # the stride, but where there is one window alone
    of_cell, tap = np.divmod(np.arange(window.size[axis]) + window.before[axis], distance)
    last = window.out[axis] - 1
    return np.minimum(of_cell, last), np.flatnonzero((tap >= window.kernel[axis]) | (of_cell > last))


NEAREST_UNPOOL = Op("nearest_unpool", ("y",), (), _plan_nearest)
MAX_UNPOOL_BACKWARD = Op("max_unpool_backward", ("dx", "indices"), ("dx",), _plan_unpool_backward)


def _double_backward(pool: str) -> Op:
    argmax_name = ARGMAX[pool]
    inputs = "ddx", argmax_name
    return Op(f"{pool}_double_backward", inputs, ("ddx",), partial(_plan_double_backward, argmax_name))


MAX_POOL_DOUBLE_BACKWARD, MIN_POOL_DOUBLE_BACKWARD = _double_backward("max_pool"), _double_backward("min_pool")
