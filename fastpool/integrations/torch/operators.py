"""How functions of fastpool become operators of PyTorch: with a fake kernel, a rule for `vmap`, and gradients.

An operator takes its tensors first. All else that it takes is called its constants here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Kept = Callable[..., tuple[Tensor, ...]]


def operator(name: str, schema: str, fake: Callable[..., Any], vmap: Callable[..., Any]) -> Any:
    """Register a function as the operator `fastpool::name`.

    `fake` gives empty tensors in place of its results. `vmap(run, batch_size, tensors, constants)` runs it on tensors
    with one more axis, their first, by calls of `run(*tensors, *constants)`; its results have that axis, too.
    """

    def register(function: Callable[..., Any]) -> Any:
        registered = torch.library.custom_op(f"fastpool::{name}", function, mutates_args=(), schema=schema)

        def fake_unless_in_onnx_export(*inputs: Any) -> Any:
            # What is exported as a module calls PyTorch's operators: see standard.py.
            if torch.onnx.is_in_onnx_export():
                raise NotImplementedError(
                    f"fastpool::{name} has no counterpart in ONNX; give torch.onnx.export the module, not a program "
                    "that torch.export made of it, or call restore_max_pools first"
                )
            return fake(*inputs)

        registered.register_fake(fake_unless_in_onnx_export)

        def rule(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
            count = tensor_count(inputs)
            mapped = [
                t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
                for t, dim in zip(inputs[:count], in_dims[:count], strict=True)
            ]
            results = vmap(registered, info.batch_size, mapped, inputs[count:])
            return results, (0,) * len(results) if isinstance(results, tuple) else 0

        registered.register_vmap(rule)
        return registered

    return register


def tensor_count(inputs: Sequence[Any]) -> int:
    return sum(isinstance(value, Tensor) for value in inputs)


def is_transformed(t: Tensor) -> bool:
    """Whether `t` has a tangent, or is one of `torch.func`'s, which may have one further inside."""
    if not torch.compiler.is_compiling() and torch.func.debug_unwrap(t, recurse=False) is not t:
        return True
    return torch.autograd.forward_ad.unpack_dual(t).tangent is not None


def needs_gradient(t: Tensor) -> bool:
    """Whether what is computed of `t` may be differentiated, in either mode."""
    return (torch.is_grad_enabled() and t.requires_grad) or is_transformed(t)


def run_in_joined_batches(
    run: Callable[..., Any],
    axes: int,
    tensors: list[Tensor],
    shapes: Sequence[Sequence[int]],
    constants: Sequence[Any],
) -> Any:
    """The rule for `vmap` of an operator over `axes` spatial axes: the mapped axis and the batch become one batch.

    `shapes` are constants, too: those of whole tensors.
    """
    has_batch = tensors[0].ndim == axes + 3
    batch = tensors[0].shape[: 1 + has_batch]
    if has_batch:
        tensors = [t.flatten(0, 1) for t in tensors]
    results = run(*tensors, *((batch.numel(), *shape[has_batch:]) for shape in shapes), *constants)
    if not has_batch:
        return results
    return results.unflatten(0, batch) if isinstance(results, Tensor) else tuple(t.unflatten(0, batch) for t in results)


class _Constants:
    """The constants of an operator as one argument: `vmap` counts each item of a list."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values


def register_grad(registered: Any, kept: Kept, grad: Callable[..., Any]) -> None:
    """Register the gradient of an operator: `kept` and `grad` as in `differentiable`."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*kept(ctx, inputs, output))

    registered.register_autograd(grad, setup_context=save)


def differentiable(
    registered: Any, kept: Kept, grad: Callable[..., Any], tangent: Callable[..., Any]
) -> Callable[..., Any]:
    """Register the gradient of an operator, and make a function that calls it with gradients of either mode.

    `kept(ctx, inputs, output)` gives the tensors that `grad(ctx, *grads)` and `tangent(ctx, *tangents)` need.

    An operator has no tangent in PyTorch: forward-mode gradients, and `torch.func` as a whole, need a
    `torch.autograd.Function`. All else calls the operator, which `torch.compile` keeps whole.
    """
    register_grad(registered, kept, grad)

    class Transformed(torch.autograd.Function):
        generate_vmap_rule = True
        jvp = staticmethod(tangent)

        @staticmethod
        def forward(*inputs: Any) -> Any:
            *tensors, constants = inputs
            return registered(*tensors, *constants.values)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            *tensors, constants = inputs
            saved = kept(ctx, (*tensors, *constants.values), output)
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)

        @staticmethod
        def backward(ctx: Any, *dy: Any) -> Any:
            grads = grad(ctx, *dy)
            grads = grads if isinstance(grads, tuple) else (grads,)
            return *grads[: len(ctx.needs_input_grad) - 1], None

    def call(*inputs: Any) -> Any:
        count = tensor_count(inputs)
        if any(map(is_transformed, inputs[:count])):
            if torch.compiler.is_compiling():  # which leaves what raises uncompiled
                raise NotImplementedError("torch.compile(fullgraph=True) takes no forward-mode gradients of fastpool's")
            return Transformed.apply(*inputs[:count], _Constants(inputs[count:]))
        return registered(*inputs)

    return call
