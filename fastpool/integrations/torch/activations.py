"""hard-swish and swish as operators and functions, with gradients of any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import fastpool as fp
from fastpool.arguments import finite
from fastpool.integrations.torch import standard
from fastpool.integrations.torch.operators import differentiable, operator
from fastpool.integrations.torch.tensors import array, backend, empty, result


def _fake(*inputs: Any) -> Tensor:
    x = next(value for value in reversed(inputs) if isinstance(value, Tensor))
    return empty(x, x.shape, x.ndim - 2)


def _vmap(run: Callable[..., Any], batch_size: int, tensors: list[Tensor], constants: Sequence[Any]) -> Any:
    return run(*tensors, *constants)


def _activation(
    name: str, constants: str, forward: Callable[..., Any], backward: Callable[..., Any], second: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """The operator of an activation f, of a tensor and `constants` as a schema has them, with gradients.

    `second(dx, x, *constants)` is dx * f"(x) in operations of PyTorch, which has all further derivatives.
    """

    @operator(name, f"(Tensor x{constants}) -> Tensor", _fake, _vmap)
    def activation(x: Tensor, *options: float) -> Tensor:
        return result(forward(array(x), *options, backend=backend(x)), x, x.ndim - 2, x.dtype)

    @operator(f"{name}_backward", f"(Tensor dy, Tensor x{constants}) -> Tensor", _fake, _vmap)
    def activation_backward(dy: Tensor, x: Tensor, *options: float) -> Tensor:
        dx = backward(array(dy), array(x), *options, backend=backend(x))
        return result(dx, x, x.ndim - 2, x.dtype)

    def kept_x(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        x, *ctx.options = inputs
        return (x,)

    def grad(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        return gradient(dy, x, *ctx.options), *[None] * len(ctx.options)

    def tangent(ctx: Any, dx: Tensor, *_: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient(dx, x, *ctx.options)

    def kept_both(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        dy, x, *ctx.options = inputs
        return dy, x

    def grads_of_grad(ctx: Any, ddx: Tensor) -> tuple[Any, ...]:
        dy, x = ctx.saved_tensors
        by_x = second(ddx * dy, x, *ctx.options)
        return gradient(ddx, x, *ctx.options), by_x, *[None] * len(ctx.options)

    def tangent_of_grad(ctx: Any, ddy: Tensor | None, dx: Tensor | None, *_: Any) -> Tensor:
        dy, x = ctx.saved_tensors
        by_dy = 0 if ddy is None else gradient(ddy, x, *ctx.options)
        by_x = 0 if dx is None else second(dx * dy, x, *ctx.options)
        return by_dy + by_x

    gradient = differentiable(activation_backward, kept_both, grads_of_grad, tangent_of_grad)
    return differentiable(activation, kept_x, grad, tangent)


def _second_of_hard_swish(dx: Tensor, x: Tensor) -> Tensor:
    return torch.where((x > -3) & (x < 3), dx / 3, 0)


def _second_of_swish(dx: Tensor, x: Tensor, beta: float) -> Tensor:
    """dx * beta s (1 - s) (2 + beta x (1 - 2 s)), s = sigmoid(beta x)."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    z = (beta * x.to(wide)).clamp(-1000, 1000)  # s (1 - s) is 0 long before, and 0 times infinity would be NaN
    s, other = torch.sigmoid(z), torch.sigmoid(-z)
    return (dx * (beta * s * other * (2 + z * (other - s)))).to(dx.dtype)


_hard_swish = _activation("hard_swish", "", fp.hard_swish, fp.hard_swish_backward, _second_of_hard_swish)
_swish = _activation("swish", ", float beta", fp.swish, fp.swish_backward, _second_of_swish)


def hard_swish(input: Tensor) -> Tensor:
    """x * relu6(x + 3) / 6, elementwise, as `torch.nn.functional.hardswish`; floats only.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import hard_swish
    >>> hard_swish(torch.tensor([-4.0, 0.0, 1.5, 4.0]))
    tensor([0.0000, 0.0000, 1.1250, 4.0000])
    """
    return standard.hard_swish(input) if standard.takes_over(input) else _hard_swish(input)


def swish(input: Tensor, beta: float = 1.0) -> Tensor:
    """x * sigmoid(beta * x), elementwise (Ramachandran et al. 2017); floats only.

    With beta = 1 it is `torch.nn.functional.silu`, but for -inf.

    Parameters
    ----------
    input : tensor of any shape; float16, bfloat16, float32 or float64
    beta : float
        A constant, which takes no gradient.

    Returns
    -------
    tensor of the shape and dtype of `input`
        0 at -inf (the limit, for beta > 0).

    Raises
    ------
    TypeError, ValueError
        As `fastpool.swish`.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import swish
    >>> swish(torch.tensor([0.0, 100.0]))
    tensor([  0., 100.])
    """
    beta = finite("beta", beta)
    return standard.swish(input, beta) if standard.takes_over(input) else _swish(input, beta)
