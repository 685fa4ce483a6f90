"""Max and min pooling as operators, with gradients of any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastpool as fp
from fastpool.integrations.torch import standard
from fastpool.integrations.torch.operators import differentiable, operator, register_grad, run_in_joined_batches
from fastpool.integrations.torch.tensors import array, backend, empty, in_format_of, result
from fastpool.integrations.torch.windows import SCHEMA, arguments, geometry

MAX_POOLS = {1: fp.max_pool1d, 2: fp.max_pool2d, 3: fp.max_pool3d}
MIN_POOLS = {1: fp.min_pool1d, 2: fp.min_pool2d, 3: fp.min_pool3d}
_POOLS_BACKWARD = {1: fp.max_pool1d_backward, 2: fp.max_pool2d_backward, 3: fp.max_pool3d_backward}


def _vmap(run: Callable[..., Any], batch_size: int, tensors: list[Tensor], constants: Sequence[Any]) -> Any:
    x_shape, window = constants[:-6], constants[-6:]
    return run_in_joined_batches(run, len(window[0]), tensors, x_shape, window)


# Gradients


def _fake_backward(dy: Tensor, argmax: Tensor, x_shape: Sequence[int], *window: Any) -> Tensor:
    return empty(argmax, x_shape, len(window[0]), dy.dtype)


@operator(
    "max_pool_backward",
    f"(Tensor dy, Tensor argmax, SymInt[] x_shape, {SCHEMA}) -> Tensor",
    _fake_backward,
    _vmap,
)
def _backward(dy: Tensor, argmax: Tensor, x_shape: Sequence[int], *window: Any) -> Tensor:
    """The gradient of a pool of maxima or of minima, which is the same."""
    axes = len(window[0])
    inputs = array(in_format_of(argmax, dy, axes)), array(argmax), tuple(x_shape)
    dx = _POOLS_BACKWARD[axes](*inputs, **arguments(*window), backend=backend(dy))
    return result(dx, argmax, axes, dy.dtype)


def _fake_indices(argmax: Tensor, x_shape: Sequence[int], *window: Any) -> Tensor:
    return empty(argmax, argmax.shape, len(window[0]), torch.int64)


@operator("max_pool_indices", f"(Tensor argmax, SymInt[] x_shape, {SCHEMA}) -> Tensor", _fake_indices, _vmap)
def indices_of(argmax: Tensor, x_shape: Sequence[int], *window: Any) -> Tensor:
    # In main memory, wherever the tensor is: for few calls, those with indices and second derivatives.
    by_name = {**arguments(*window), "kernel_size": tuple(window[0])}  # which tells the number of axes
    indices = fp.argmax_to_indices(array(argmax.cpu()), tuple(x_shape), **by_name)
    return result(indices, argmax, len(window[0])).to(argmax.device)


def picked(x: Tensor, indices: Tensor, axes: int) -> Tensor:
    """The cells of `x` at PyTorch's indices, and 0 where an index is negative, as for windows of padding alone."""
    cells = x.flatten(-axes).gather(-1, indices.flatten(-axes).clamp(min=0)).reshape(indices.shape)
    return torch.where(indices >= 0, cells, 0)


def _kept_argmax(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    x, *ctx.window = inputs
    ctx.x_shape = x.shape
    return (output[1],)


def _grad_by_argmax(ctx: Any, dy: Tensor, _: Any) -> tuple[Any, ...]:
    (argmax,) = ctx.saved_tensors
    return _pool_grad(dy, argmax, ctx.x_shape, *ctx.window), *[None] * len(ctx.window)


def _kept_argmax_of_input(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
    _, argmax, ctx.x_shape, *ctx.window = inputs
    return (argmax,)


def _picked_by_argmax(ctx: Any, x: Tensor) -> Tensor:
    (argmax,) = ctx.saved_tensors
    return picked(x, indices_of(argmax, ctx.x_shape, *ctx.window), len(ctx.window[0]))


def _grad_of_dy(ctx: Any, ddx: Tensor) -> tuple[Any, ...]:
    return _picked_by_argmax(ctx, ddx), None, None, *[None] * len(ctx.window)


def _tangent_by_argmax(ctx: Any, dx: Tensor, *_: Any) -> tuple[Any, None]:
    return _picked_by_argmax(ctx, dx), None


def _tangent_of_grad(ctx: Any, ddy: Tensor, *_: Any) -> Tensor:
    (argmax,) = ctx.saved_tensors
    return _pool_grad(ddy, argmax, ctx.x_shape, *ctx.window)


_pool_grad = differentiable(_backward, _kept_argmax_of_input, _grad_of_dy, _tangent_of_grad)


# Pools


def _fake_pool(x: Tensor, *window: Any) -> Tensor:
    return empty(x, geometry(x.shape, window).y_shape, len(window[0]))


def _fake_pool_with_argmax(x: Tensor, *window: Any) -> tuple[Tensor, Tensor]:
    windows, axes = geometry(x.shape, window), len(window[0])
    argmax_dtype = getattr(torch, windows.argmax_dtype.name)
    return empty(x, windows.y_shape, axes), empty(x, windows.y_shape, axes, argmax_dtype)


class Pool(NamedTuple):
    """Max or min pooling: functions of a tensor and a window as operators take it."""

    plain: Callable[..., Tensor]
    with_argmax: Callable[..., tuple[Tensor, Tensor]]  # which gradients are made of
    standard: Callable[..., Any]


def _pool_of(name: str, argmax_name: str, functions: dict[int, Any], by_pytorch: Callable[..., Any]) -> Pool:
    """The operators of a pool and their gradients."""

    def run(x: Tensor, window: tuple[Any, ...], **more: bool) -> Any:
        return functions[len(window[0])](array(x), **arguments(*window), **more, backend=backend(x))

    @operator(name, f"(Tensor x, {SCHEMA}) -> Tensor", _fake_pool, _vmap)
    def pool(x: Tensor, *window: Any) -> Tensor:
        return result(run(x, window), x, len(window[0]), x.dtype)

    @operator(
        f"{name}_with_{argmax_name}",
        f"(Tensor x, {SCHEMA}) -> (Tensor, Tensor)",
        _fake_pool_with_argmax,
        _vmap,
    )
    def pool_with_argmax(x: Tensor, *window: Any) -> tuple[Tensor, Tensor]:
        y, argmax = run(x, window, **{f"return_{argmax_name}": True})
        return result(y, x, len(window[0]), x.dtype), result(argmax, x, len(window[0]))

    def kept(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        x, *ctx.window = inputs
        return (x,)

    def grad(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        _, argmax = pool_with_argmax(x, *ctx.window)
        return _backward(dy, argmax, x.shape, *ctx.window), *[None] * len(ctx.window)

    register_grad(pool, kept, grad)
    with_argmax = differentiable(pool_with_argmax, _kept_argmax, _grad_by_argmax, _tangent_by_argmax)
    return Pool(pool, with_argmax, by_pytorch)


MAX = _pool_of("max_pool", "argmax", MAX_POOLS, standard.max_pool)
MIN = _pool_of("min_pool", "argmin", MIN_POOLS, standard.min_pool)
