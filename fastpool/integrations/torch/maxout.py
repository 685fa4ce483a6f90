"""Maxout as operators and a function, with gradients of any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import fastpool as fp
from fastpool.integrations.torch import standard
from fastpool.integrations.torch.operators import differentiable, needs_gradient, operator, register_grad
from fastpool.integrations.torch.tensors import array, backend, empty, in_format_of, result
from fastpool.integrations.torch.windows import exact_integer
from fastpool.maxout import check_grouping
from fastpool.window import Window

_UNITS = "int num_units, int axis, str grouping"


def _units_shape(x_shape: Sequence[int], num_units: int, axis: int) -> tuple[int, ...]:
    return (*x_shape[:axis], num_units, *x_shape[axis + 1 :])


def _fake_maxout(x: Tensor, num_units: int, axis: int, grouping: str) -> Tensor:
    return empty(x, _units_shape(x.shape, num_units, axis), x.ndim - 2)


def _vmap(run: Callable[..., Any], batch_size: int, tensors: list[Tensor], constants: Sequence[Any]) -> Any:
    *before, axis, grouping = constants  # num_units or x_shape
    return run(
        *tensors, *(value if isinstance(value, int) else (batch_size, *value) for value in before), axis + 1, grouping
    )


@operator("maxout", f"(Tensor x, {_UNITS}) -> Tensor", _fake_maxout, _vmap)
def _maxout(x: Tensor, num_units: int, axis: int, grouping: str) -> Tensor:
    y = fp.maxout(array(x), num_units, axis, grouping=grouping, backend=backend(x))
    return result(y, x, x.ndim - 2, x.dtype)


def _fake_maxout_with_argmax(x: Tensor, num_units: int, axis: int, grouping: str) -> tuple[Tensor, Tensor]:
    shape = _units_shape(x.shape, num_units, axis)
    dtype = Window.maxout((int(x.shape[axis]),), num_units, 0, grouping).argmax_dtype
    return empty(x, shape, x.ndim - 2), empty(x, shape, x.ndim - 2, getattr(torch, dtype.name))


@operator("maxout_with_argmax", f"(Tensor x, {_UNITS}) -> (Tensor, Tensor)", _fake_maxout_with_argmax, _vmap)
def _maxout_with_argmax(x: Tensor, num_units: int, axis: int, grouping: str) -> tuple[Tensor, Tensor]:
    y, argmax = fp.maxout(array(x), num_units, axis, grouping=grouping, return_argmax=True, backend=backend(x))
    return result(y, x, x.ndim - 2, x.dtype), result(argmax, x, x.ndim - 2)


def _fake_maxout_backward(dy: Tensor, argmax: Tensor, x_shape: Sequence[int], axis: int, grouping: str) -> Tensor:
    return empty(argmax, x_shape, dy.ndim - 2, dy.dtype)


@operator(
    "maxout_backward",
    "(Tensor dy, Tensor argmax, SymInt[] x_shape, int axis, str grouping) -> Tensor",
    _fake_maxout_backward,
    _vmap,
)
def _maxout_backward(dy: Tensor, argmax: Tensor, x_shape: Sequence[int], axis: int, grouping: str) -> Tensor:
    inputs = array(in_format_of(argmax, dy, dy.ndim - 2)), array(argmax), tuple(x_shape)
    dx = fp.maxout_backward(*inputs, axis, grouping=grouping, backend=backend(dy))
    return result(dx, argmax, dy.ndim - 2, dy.dtype)


def _kept_x(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
    x, *ctx.units = inputs
    return (x,)


def _grad_of_x(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    (x,) = ctx.saved_tensors
    _, argmax = _maxout_with_argmax(x, *ctx.units)
    return _maxout_backward(dy, argmax, x.shape, *ctx.units[1:]), None, None, None


def _kept_argmax(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    x, _, ctx.axis, ctx.grouping = inputs
    ctx.x_shape = x.shape
    return (output[1],)


def _grad(ctx: Any, dy: Tensor, _: Any) -> tuple[Any, ...]:
    (argmax,) = ctx.saved_tensors
    return _maxout_grad(dy, argmax, ctx.x_shape, ctx.axis, ctx.grouping), None, None, None


def _kept_argmax_of_input(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
    _, argmax, ctx.x_shape, ctx.axis, ctx.grouping = inputs
    return (argmax,)


def _picked_pieces(ctx: Any, x: Tensor) -> Tensor:
    """The pieces of `x` that the saved argmax names."""
    (argmax,) = ctx.saved_tensors
    units = argmax.shape[ctx.axis]
    strided = ctx.grouping == "strided"
    pieces = x.unflatten(ctx.axis, (-1, units) if strided else (units, -1))
    piece_axis = ctx.axis if strided else ctx.axis + 1
    return pieces.gather(piece_axis, argmax.to(torch.int64).unsqueeze(piece_axis)).squeeze(piece_axis)


def _grad_of_dy(ctx: Any, ddx: Tensor) -> tuple[Any, ...]:
    return _picked_pieces(ctx, ddx), None, None, None, None


def _tangent(ctx: Any, dx: Tensor, *_: Any) -> tuple[Any, None]:
    return _picked_pieces(ctx, dx), None


def _tangent_of_grad(ctx: Any, ddy: Tensor, *_: Any) -> Tensor:
    (argmax,) = ctx.saved_tensors
    return _maxout_grad(ddy, argmax, ctx.x_shape, ctx.axis, ctx.grouping)


register_grad(_maxout, _kept_x, _grad_of_x)
_maxout_with_gradient = differentiable(_maxout_with_argmax, _kept_argmax, _grad, _tangent)
_maxout_grad = differentiable(_maxout_backward, _kept_argmax_of_input, _grad_of_dy, _tangent_of_grad)


def maxout(input: Tensor, num_units: int, axis: int = -1, grouping: str = "strided") -> Tensor:
    """The largest of each unit's pieces along one axis, as `fastpool.maxout`.

    Parameters
    ----------
    input : tensor of any shape
    num_units : int
        What the axis shrinks to; its size must be a multiple.
    axis : int
        1 for the channels of images, -1 for dense layers.
    grouping : "strided" or "contiguous"

    Returns
    -------
    tensor of the shape of `input` with `axis` shrunk to num_units

    Raises
    ------
    ValueError
        If the axis is not a multiple of num_units.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import maxout
    >>> maxout(torch.tensor([1, 5, 3, 2, 4, 6]), 2)
    tensor([4, 6])
    """
    num_units, axis = exact_integer("num_units", num_units), exact_integer("axis", axis)
    if standard.takes_over(input):
        return standard.maxout(input, num_units, axis, check_grouping(grouping))
    if input.ndim == 0:
        raise ValueError("input must have at least one axis, got the shape ()")
    if not -input.ndim <= axis < input.ndim:
        raise ValueError(f"axis must be from {-input.ndim} to {input.ndim - 1} for this tensor, got {axis}")
    axis %= input.ndim
    if needs_gradient(input):
        return _maxout_with_gradient(input, num_units, axis, grouping)[0]
    return _maxout(input, num_units, axis, grouping)
