"""How average pools and their gradients are planned: the ops of `fastpool.average_pooling`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpool import arrays, forms
from fastpool.backends import backend_for
from fastpool.calls import Op, Plan
from fastpool.dtypes import native
from fastpool.pool_plans import no_kernel
from fastpool.window import Divisors, Window, global_window, sliding_window


def average_kernel(
    op: str, module: Any, window: Window, divisors: Divisors, channels_last: bool, dtype: np.dtype
) -> tuple[Any, bool]:
    """What fills its second array from its first, and whether it takes contiguous arrays of any shape."""
    prepare = getattr(module, f"prepare_{op}", None)
    outer, inner = forms.outer_and_inner(window, channels_last)
    if prepare is not None:
        return (prepare(window, divisors, outer, inner, dtype) if outer * inner else no_kernel), True

    def run(source: Any, result: Any) -> None:
        getattr(module, op)(source, window, divisors, result)

    return run, False


def average_plan(x: Any, window: Window, divisors: Divisors, backend: str | None) -> Plan:
    module = backend_for("avg_pool", backend, x.device)
    channels_last, dtype = forms.channels_last_in_memory(x, window), native(x.dtype)
    run, any_shape = average_kernel("avg_pool", module, window, divisors, channels_last, dtype)
    y = forms.result(window, channels_last, window.y_shape, window.out, dtype, x, any_shape)
    return Plan((forms.source(x, window, channels_last, window.size, any_shape),), (y,), run)


def average_backward_plan(
    dy: Any, window: Window, divisors: Divisors, backend: str | None, reshaped_to: tuple[int, ...] | None = None
) -> Plan:
    """With `reshaped_to`, dy has that shape once it is reshaped."""
    module = backend_for("avg_pool_backward", backend, dy.device)
    like = dy if reshaped_to is None else dy.reshape(reshaped_to)
    channels_last, dtype = forms.channels_last_in_memory(like, window), native(dy.dtype)
    run, any_shape = average_kernel("avg_pool_backward", module, window, divisors, channels_last, dtype)
    dx = forms.result(window, channels_last, window.x_shape, window.size, dtype, like, any_shape)
    return Plan((forms.source(dy, window, channels_last, window.out, any_shape, reshaped_to),), (dx,), run)


def _plan_pool(inputs, axes, window, count_include_pad, divisor_override, backend) -> Plan:
    (x,) = inputs
    windows = sliding_window(axes, x.shape, *window)
    return average_plan(x, windows, windows.divisors(count_include_pad, divisor_override), backend)


def _plan_pool_backward(inputs, axes, x_shape, window, count_include_pad, divisor_override, backend) -> Plan:
    (dy,) = inputs
    windows = sliding_window(axes, x_shape, *window, "x_shape")
    arrays.expect_shape("dy", dy, windows.y_shape, "the pooled array")
    return average_backward_plan(dy, windows, windows.divisors(count_include_pad, divisor_override), backend)


def _plan_global(inputs, data_format, keepdims, backend) -> Plan:
    (x,) = inputs
    window = global_window(x.shape, data_format)
    plan = average_plan(x, window, window.divisors(False, None), backend)
    return plan if keepdims else plan.reshaped((window.batch, window.channels))


def _plan_global_backward(inputs, x_shape, data_format, keepdims, backend) -> Plan:
    (dy,) = inputs
    window = global_window(x_shape, data_format, "x_shape")
    y_shape = window.y_shape if keepdims else (window.batch, window.channels)
    arrays.expect_shape("dy", dy, y_shape, "the pooled array")
    return average_backward_plan(
        dy, window, window.divisors(False, None), backend, None if keepdims else window.y_shape
    )


def _plan_block(inputs, axes, window, counted, override, backend) -> Plan:
    """Of a part of an array. `counted` are the cells along each axis that count for a divisor of the whole."""
    (x,) = inputs
    return average_plan(x, sliding_window(axes, x.shape, *window), _divisors(axes, counted, override), backend)


def _plan_block_backward(inputs, axes, x_shape, window, counted, override, backend) -> Plan:
    (dy,) = inputs
    windows = sliding_window(axes, x_shape, *window, "x_shape")
    arrays.expect_shape("dy", dy, windows.y_shape, "the pooled array")
    return average_backward_plan(dy, windows, _divisors(axes, counted, override), backend)


def _divisors(axes: int, counted: tuple[tuple[int, int], ...], override: int) -> Divisors:
    begin, end = zip(*((0, 1),) * (3 - axes), *counted, strict=True)
    return Divisors(begin, end, override)


AVG_POOL = Op("avg_pool", ("x",), ("x",), _plan_pool)
AVG_POOL_BACKWARD = Op("avg_pool_backward", ("dy",), ("dy",), _plan_pool_backward)
AVG_POOL_BLOCK = Op("avg_pool_block", ("x",), ("x",), _plan_block)
AVG_POOL_BLOCK_BACKWARD = Op("avg_pool_block_backward", ("dy",), ("dy",), _plan_block_backward)
GLOBAL_AVG_POOL = Op("global_avg_pool", ("x",), ("x",), _plan_global)
GLOBAL_AVG_POOL_BACKWARD = Op("global_avg_pool_backward", ("dy",), ("dy",), _plan_global_backward)
