"""The inverse of max pooling as an operator and functions, with gradients of any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

import fastpool as fp
from fastpool.integrations.torch import standard
from fastpool.integrations.torch.operators import differentiable, operator, run_in_joined_batches
from fastpool.integrations.torch.pool_operators import picked
from fastpool.integrations.torch.tensors import array, backend, empty, result
from fastpool.integrations.torch.windows import Padding, Size, as_operators_take_it, exact_integer

_UNPOOLS = {1: fp.max_unpool1d, 2: fp.max_unpool2d, 3: fp.max_unpool3d}


def _fake(y: Tensor, indices: Tensor, output_size: Sequence[int]) -> Tensor:
    axes = len(output_size)
    return empty(y, (*y.shape[:-axes], *output_size), axes)


def _vmap(run: Callable[..., Any], batch_size: int, tensors: list[Tensor], constants: Sequence[Any]) -> Any:
    return run_in_joined_batches(run, len(constants[0]), tensors, (), constants)


@operator("max_unpool", "(Tensor y, Tensor indices, SymInt[] output_size) -> Tensor", _fake, _vmap)
def _operator(y: Tensor, indices: Tensor, output_size: Sequence[int]) -> Tensor:
    axes = len(output_size)
    # Where values go depends on the indices and the size alone, whatever window they came from.
    x = _UNPOOLS[axes](array(y), array(indices), 1, output_shape=tuple(output_size), backend=backend(y))
    return result(x, y, axes, y.dtype)


def _kept_indices(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
    _, indices, ctx.output_size = inputs
    return (indices,)


def _grad(ctx: Any, dx: Tensor) -> tuple[Any, ...]:
    (indices,) = ctx.saved_tensors
    return picked(dx, indices, len(ctx.output_size)), None, None


def _tangent(ctx: Any, dy: Tensor, *_: Any) -> Tensor:
    (indices,) = ctx.saved_tensors
    return _unpooled(dy, indices, ctx.output_size)


_unpooled = differentiable(_operator, _kept_indices, _grad, _tangent)


def _spatial_size(axes: int, shape: Sequence[int], window: tuple[Any, ...], output_size: Any) -> list[int]:
    """The spatial axes of the result, or a ValueError for sizes that the window does not pool to this shape."""
    kernel, stride, pads, auto_pad, *_ = window
    for name, values, least in (("kernel_size", kernel, 1), ("stride", stride, 1), ("padding", pads, 0)):
        if any(value < least for value in values):
            raise ValueError(f"{name} must be {least} or more in every axis, got {tuple(values)}")
    windows = list(zip(shape[-axes:], kernel, stride, strict=True))
    if auto_pad in ("same", "same_lower"):
        if output_size is None:
            raise ValueError(f"output_size must be given with padding {auto_pad!r}, which fits several sizes")
        largest = [o * s for o, _, s in windows]
    else:
        margins = [b + a for b, a in zip(pads[::2], pads[1::2], strict=True)] or [0] * axes
        default = [(o - 1) * s + k - margin for (o, k, s), margin in zip(windows, margins, strict=True)]
        if output_size is None:
            return default
        largest = [n + s - 1 for n, s in zip(default, stride, strict=True)]
    if not isinstance(output_size, (Sequence, np.ndarray)):
        raise TypeError(f"output_size must be a sequence of integers, got {type(output_size).__name__}")
    size = [exact_integer("output_size", n) for n in output_size]
    if len(size) not in (axes, axes + 2, len(shape)):
        raise ValueError(f"output_size must have {axes} spatial axes, or all {len(shape)} of input, got {size}")
    if len(size) == len(shape) and size[:-axes] != list(shape[:-axes]):
        raise ValueError(f"output_size must keep the batch and the channels of input {tuple(shape)}, got {size}")
    size = size[-axes:]
    for axis, (n, most, (o, k, s)) in enumerate(zip(size, largest, windows, strict=True)):
        least = most - s + 1 if auto_pad in ("same", "same_lower") else most - 2 * s + 2  # there may be ceil_mode
        if not least <= n <= most:
            raise ValueError(
                f"output_size must be from {least} to {most} along spatial axis {axis}, which {o} windows of {k} with "
                f"stride {s} cover, got {n}"
            )
    return size


def _unpool(axes: int, y: Tensor, indices: Tensor, kernel_size, stride, padding, output_size) -> Tensor:
    window = as_operators_take_it(axes, kernel_size, stride, padding, 1, False)
    if standard.takes_over(y):
        return standard.max_unpool(axes, y, indices, window, output_size)
    if not isinstance(indices, Tensor):
        raise TypeError(f"indices must be a torch.Tensor, got {type(indices).__module__}.{type(indices).__qualname__}")
    if y.ndim < axes:
        raise ValueError(f"input must have {axes} to {axes + 2} axes, got shape {tuple(y.shape)}")
    return _unpooled(y, indices, _spatial_size(axes, y.shape, window, output_size))


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of `max_pool1d`, as `torch.nn.functional.max_unpool1d`; see `max_unpool2d`."""
    return _unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Put maxima back to where they were, zeros elsewhere, as `torch.nn.functional.max_unpool2d`.

    Parameters
    ----------
    input : tensor of shape (N, C, OH, OW), (C, OH, OW) or (OH, OW)
        Of any dtype that `max_pool2d` takes.
    indices : integer tensor of the shape of `input`
        As `max_pool2d` with return_indices gave them: positions in the plane. What has the index -1, a window of
        padding alone, is left out. Where several values go to one cell, the last of them stays.
    kernel_size, stride, padding
        Of the pooling. They give the default of `output_size`, and the sizes that it may have.
    output_size : sequence of int
        The size of the pooled tensor: its spatial axes or all. By default `(OH - 1) * stride + kernel_size` less the
        padding.

    Returns
    -------
    tensor of shape (N, C, H, W) and so on, with the dtype of `input`
        Its gradient goes to each value from its own cell, as in PyTorch.

    Raises
    ------
    TypeError
        For indices that are not integers.
    ValueError
        For an index outside the result, or an output_size that these windows do not pool to the shape of `input`.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import max_pool2d, max_unpool2d
    >>> x = torch.tensor([[[1.0, 2.0, 0.0], [5.0, 4.0, 0.0]]])
    >>> y, indices = max_pool2d(x, 2, return_indices=True)
    >>> max_unpool2d(y, indices, 2, output_size=x.shape)
    tensor([[[0., 0., 0.],
             [5., 0., 0.]]])
    """
    return _unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of `max_pool3d`, as `torch.nn.functional.max_unpool3d`; see `max_unpool2d`."""
    return _unpool(3, input, indices, kernel_size, stride, padding, output_size)
