"""PyTorch's own operators in the place of fastpool's: in models that are exported or traced, and on quantised tensors.

The exported model runs where fastpool is not installed. PyTorch's operators take less padding than fastpool's: other
padding is an error. `torch.jit.script` compiles those of these functions whose arguments have types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy

F = torch.nn.functional

_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MAX_UNPOOLS = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}


def takes_over(input: Any) -> bool:
    """Whether PyTorch's own operator is to be called on this tensor.

    In `torch.onnx.export`, `torch.jit.trace` and `torch.fx.symbolic_trace`, and for quantised tensors.
    `torch.compile` and `torch.export` keep fastpool's operators.
    """
    if isinstance(input, Proxy):
        return True
    if not isinstance(input, Tensor):
        raise TypeError(f"input must be a torch.Tensor, got {type(input).__module__}.{type(input).__qualname__}")
    return (
        input.is_quantized
        or torch.jit.is_tracing()
        or (torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export())
    )


def padding_of(
    kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int], auto_pad: str, dilation: Sequence[int]
) -> tuple[int, ...]:
    """The padding of a window as PyTorch's max pooling takes it, or a ValueError. Arguments as operators have them."""
    extent = tuple(d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True))
    if auto_pad == "valid":
        return (0,) * len(extent)
    if auto_pad:
        if all(s == 1 and e % 2 for s, e in zip(stride, extent, strict=True)):
            return tuple(e // 2 for e in extent)
        raise _unlike_pytorchs(
            f"{auto_pad!r}, which depends on the size of the input unless windows are odd and strides 1"
        )
    before, after = tuple(padding[::2]), tuple(padding[1::2])
    if before != after:
        raise _unlike_pytorchs(f"{tuple(zip(before, after, strict=True))}, which differs before and after")
    if any(p > e // 2 for p, e in zip(before, extent, strict=True)):
        raise _unlike_pytorchs(f"{before}, more than half of a window of {extent}")
    return before


def _unlike_pytorchs(padding: str) -> ValueError:
    return ValueError(
        "padding must be one that PyTorch's own max pooling has, where a model is exported, traced, quantised or "
        f"restored: got {padding}; pad the input with torch.nn.functional.pad instead"
    )


def max_pool(axes: int, input: Any, window: tuple[Any, ...], return_indices: bool) -> Any:
    kernel_size, stride, _, _, dilation, ceil_mode = window
    arguments = kernel_size, stride, padding_of(*window[:5]), dilation, ceil_mode
    return _MAX_POOLS[axes](input, *arguments, return_indices=return_indices)


def min_pool(axes: int, input: Any, window: tuple[Any, ...], return_indices: bool) -> Any:
    if isinstance(input, Proxy):
        torch._assert(input.is_floating_point(), "input must be floating")  # in the traced graph
    else:
        check_floating(input)
    pooled = max_pool(axes, -input, window, return_indices)
    return (-pooled[0], pooled[1]) if return_indices else -pooled


def check_floating(input: Tensor) -> None:
    """Minima are the negated maxima of negated values, but unsigned integers have no negative ones."""
    if not input.is_floating_point():
        raise TypeError(f"input must be floating where min pooling is exported, got {input.dtype}")


def max_unpool(axes: int, input: Any, indices: Any, window: tuple[Any, ...], output_size: Any) -> Any:
    kernel_size, stride, *_ = window
    return _MAX_UNPOOLS[axes](input, indices, kernel_size, stride, padding_of(*window[:5]), output_size)


def maxout(input: Tensor, num_units: int, axis: int, grouping: str) -> Tensor:
    first = axis if axis >= 0 else axis - 1
    if grouping == "strided":
        return torch.max(input.unflatten(axis, [-1, num_units]), first)[0]
    return torch.max(input.unflatten(axis, [num_units, -1]), first + 1)[0]


def hard_swish(input: Tensor) -> Tensor:
    return F.hardswish(input)


def swish(input: Tensor, beta: float) -> Tensor:
    return F.silu(input) if beta == 1.0 else input * torch.sigmoid(beta * input)
