"""How pools, their gradients and their inverses are planned: which kernel runs, on arrays of which form.

The ops of `fastpool.pooling` and `fastpool.min_pooling`, which `calls.call` plans by these functions. `kernel_of` and
`backward_kernel_of` serve other plans, too: maxout, which is pooling along the channels, and sliding filters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from fastpool import arrays, forms
from fastpool.backends import backend_for
from fastpool.calls import Op, Plan
from fastpool.device_arrays import DeviceArray
from fastpool.dtypes import native
from fastpool.indices import (
    ONNX_DEFAULT_SHAPE,
    check_argmax,
    check_indices,
    check_positions,
    check_range,
    invalid_argmax,
    values_with_positions,
)
from fastpool.window import Window, global_window, sliding_window, unpooling_window

# What arguments and messages call the offsets of a pool.
ARGMAX = {"max_pool": "argmax", "min_pool": "argmin"}


def no_kernel(*arrays: Any) -> None:
    """The kernel of empty arrays."""


def kernel_of(
    op: str, backend: ModuleType, window: Window, outer: int, inner: int, dtype: np.dtype, with_argmax: bool
) -> tuple[Any, bool]:
    """What pools (x, y) or (x, y, argmax), and whether it takes contiguous arrays of any shape.

    `op` is "max_pool" or "min_pool".
    """
    prepare = getattr(backend, f"prepare_{op}", None)
    if prepare is not None:
        return (prepare(window, outer, inner, dtype, with_argmax) if outer * inner else no_kernel), True

    def run(x: Any, y: Any, argmax: Any = None) -> None:
        getattr(backend, op)(x, window, y, argmax)

    return run, False


def backward_kernel_of(
    backend: ModuleType, window: Window, outer: int, inner: int, dtype: np.dtype, argmax_name: str = "argmax"
) -> tuple[Any, bool]:
    """What checks an argmax and sends (dy, argmax) to dx, and whether it takes contiguous arrays of any shape.

    `argmax_name` is what error messages call the argmax: "argmin" in the gradient of a minimum, which has the same
    kernel.
    """
    prepare = getattr(backend, "prepare_max_pool_backward", None)
    if prepare is not None:
        if outer * inner == 0:
            return no_kernel, True
        prepared = prepare(window, outer, inner, dtype)

        def run_if_valid(dy: np.ndarray, argmax: np.ndarray, dx: np.ndarray) -> None:
            if not prepared(dy, argmax, dx):
                raise invalid_argmax(argmax, window, argmax_name)

        return run_if_valid, True

    def run(dy: Any, argmax: Any, dx: Any) -> None:
        check_argmax(argmax, window, backend, argmax_name)
        backend.max_pool_backward(dy, argmax, window, dx)

    return run, False


def _forward_plan(op: str, x: Any, window: Window, return_argmax: bool, backend: str | None) -> Plan:
    module = backend_for(op, backend, x.device)
    channels_last, dtype = forms.channels_last_in_memory(x, window), native(x.dtype)
    outer, inner = forms.outer_and_inner(window, channels_last)
    run, any_shape = kernel_of(op, module, window, outer, inner, dtype, return_argmax)
    dtypes = (dtype, window.argmax_dtype) if return_argmax else (dtype,)
    results = [forms.result(window, channels_last, window.y_shape, window.out, each, x, any_shape) for each in dtypes]
    return Plan((forms.source(x, window, channels_last, window.size, any_shape),), tuple(results), run)


def _backward_plan(
    argmax_name: str,
    dy: Any,
    argmax: Any,
    window: Window,
    backend: str | None,
    reshaped_to: tuple[int, ...] | None = None,
) -> Plan:
    """With `reshaped_to`, dy and argmax have that shape once they are reshaped."""
    y_shape = window.y_shape if reshaped_to is None else dy.shape
    module = backend_for("max_pool_backward", backend, dy.device)
    arrays.expect_shape("dy", dy, y_shape, "the pooled array")
    argmax = arrays.expect(argmax_name, argmax, y_shape, window.argmax_dtype, "this window's forward pass", dy)
    like = dy if reshaped_to is None else dy.reshape(reshaped_to)
    channels_last, dtype = forms.channels_last_in_memory(like, window), native(dy.dtype)
    outer, inner = forms.outer_and_inner(window, channels_last)
    run, any_shape = backward_kernel_of(module, window, outer, inner, dtype, argmax_name)
    operands = [forms.source(a, window, channels_last, window.out, any_shape, reshaped_to) for a in (dy, argmax)]
    dx = forms.result(window, channels_last, window.x_shape, window.size, dtype, like, any_shape)
    return Plan(tuple(operands), (dx,), run)


def _plan_pool(
    op, inputs, axes, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, backend
) -> Plan:
    (x,) = inputs
    window = sliding_window(axes, x.shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    return _forward_plan(op, x, window, return_argmax, backend)


def _plan_pool_backward(
    argmax_name, inputs, axes, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, backend
) -> Plan:
    arguments = kernel_size, stride, padding, dilation, ceil_mode, data_format
    window = sliding_window(axes, x_shape, *arguments, "x_shape")
    dy, argmax = inputs
    return _backward_plan(argmax_name, dy, argmax, window, backend)


def _pool(op: str) -> Op:
    return Op(op, ("x",), (), partial(_plan_pool, op))


def _pool_backward(pool: str) -> Op:
    argmax_name = ARGMAX[pool]
    return Op(f"{pool}_backward", ("dy", argmax_name), ("dy",), partial(_plan_pool_backward, argmax_name))


MAX_POOL, MIN_POOL = _pool("max_pool"), _pool("min_pool")
MAX_POOL_BACKWARD, MIN_POOL_BACKWARD = _pool_backward("max_pool"), _pool_backward("min_pool")


def _plan_global(op, inputs, data_format, keepdims, return_argmax, backend) -> Plan:
    (x,) = inputs
    window = global_window(x.shape, data_format)
    plan = _forward_plan(op, x, window, return_argmax, backend)
    return plan if keepdims else plan.reshaped((window.batch, window.channels))


def _plan_global_backward(argmax_name, inputs, x_shape, data_format, keepdims, backend) -> Plan:
    dy, argmax = inputs
    window = global_window(x_shape, data_format, "x_shape")
    without_space = (window.batch, window.channels)
    if keepdims:
        return _backward_plan(argmax_name, dy, argmax, window, backend)
    for name, a in (("dy", dy), (argmax_name, argmax)):
        arrays.expect_shape(name, a, without_space, "the pooled array")
    return _backward_plan(argmax_name, dy, argmax, window, backend, window.y_shape)


def _global_pool(pool: str) -> Op:
    return Op(f"global_{pool}", ("x",), (), partial(_plan_global, pool))


def _global_pool_backward(pool: str) -> Op:
    argmax_name = ARGMAX[pool]
    return Op(f"global_{pool}_backward", ("dy", argmax_name), ("dy",), partial(_plan_global_backward, argmax_name))


GLOBAL_MAX_POOL, GLOBAL_MIN_POOL = _global_pool("max_pool"), _global_pool("min_pool")
GLOBAL_MAX_POOL_BACKWARD = _global_pool_backward("max_pool")
GLOBAL_MIN_POOL_BACKWARD = _global_pool_backward("min_pool")


def _plan_unpool(
    inputs, axes, kernel_size, stride, padding, output_shape, convention, data_format, fresh, backend
) -> Plan:
    """With `fresh`, the result is a new array, so it may be partly written before an invalid index raises."""
    y, indices = inputs
    module = backend_for("max_unpool", backend, y.device)
    window = unpooling_window(axes, y.shape, output_shape, kernel_size, stride, padding, data_format)
    if convention == ONNX_DEFAULT_SHAPE:
        return _plan_unpool_in_default_shape(module, y, indices, window, kernel_size, stride, padding, data_format)
    check_indices(indices, window)
    indices = arrays.expect("indices", indices, window.y_shape, indices.dtype, "y", y)
    channels_last = forms.channels_last_in_memory(y, window)
    run = _unpool(module, window, convention, channels_last, isinstance(y, DeviceArray), fresh)
    return _unpooling(run, y, window, channels_last)


def _plan_unpool_in_default_shape(module, y, indices, window, kernel_size, stride, padding, data_format) -> Plan:
    """Indices count in an array of the default shape, which is the first part of the result in each axis."""
    arrays.in_main_memory("y", y, "unpooled in another shape than that of the result")
    inside = unpooling_window(window.spatial_axes, y.shape, None, kernel_size, stride, padding, data_format)
    if any(n < least for n, least in zip(window.size, inside.size, strict=True)):
        raise ValueError(
            f"output_shape must be at least the default {inside.x_shape}, in which indices count, got {window.x_shape}"
        )
    check_indices(indices, inside)
    channels_last = forms.channels_last_in_memory(y, inside)
    unpool = _unpool(module, inside, "onnx", channels_last, False, True)
    shape, first = forms.canonical_shape(inside, channels_last, inside.size), tuple(map(slice, inside.size))

    def run(y: np.ndarray, indices: np.ndarray, x: np.ndarray) -> None:
        part = np.empty(shape, x.dtype)
        unpool(y, indices, part)
        x[...] = 0
        x[(slice(None), *first)] = part

    return _unpooling(run, y, window, channels_last)


def _unpool(
    module: ModuleType, window: Window, convention: str, channels_last: bool, on_gpu: bool, fresh: bool
) -> Callable[[Any, Any, Any], None]:
    """What fills x from y in canonical form, and from indices in the caller's."""
    by_indices = getattr(module, "max_unpool_by_indices", None)
    unpool = _unpool_kernel(module, prod(window.size))

    def check(indices: Any) -> None:
        check_range(indices, window, convention)
        if not fresh or by_indices is not None:
            check_positions(indices, window, convention, channels_last)

    def run(y: Any, indices: Any, x: Any) -> None:
        if not on_gpu:
            check(indices)
        if by_indices is not None:
            by_indices(y, forms.canonical(indices, window, channels_last, window.out), window, convention, x)
            return
        x[...] = 0
        for planes, some, positions in values_with_positions(y, indices, window, convention, channels_last):
            unpool(some, positions, x[planes])

    return run


def _unpool_kernel(module: ModuleType, cells: int) -> Callable[[Any, Any, Any], None]:
    """What puts parts of y into planes of so many cells. Parts of one call have few shapes."""
    if not hasattr(module, "prepare_max_unpool"):
        return module.max_unpool

    @cache
    def prepared(shape: tuple[int, ...], dtype: np.dtype) -> Callable[[Any, Any, Any], None]:
        outer, *windows, inner = shape
        return module.prepare_max_unpool(outer, prod(windows), cells, inner, dtype)

    return lambda y, positions, x: prepared(y.shape, y.dtype)(y, positions, x)


def _unpooling(run: Callable[[Any, Any, Any], None], y: Any, window: Window, channels_last: bool) -> Plan:
    operands = forms.source(y, window, channels_last, window.out, any_shape=False), None
    x = forms.result(window, channels_last, window.x_shape, window.size, native(y.dtype), y, any_shape=False)
    return Plan(operands, (x,), run)


MAX_UNPOOL = Op("max_unpool", ("y", "indices"), (), _plan_unpool)
