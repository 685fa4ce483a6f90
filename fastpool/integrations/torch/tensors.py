"""Tensors as the arrays that fastpool takes, and results as tensors in the memory format that PyTorch would choose."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastpool import interop


@cache
def _numpy_bfloat16() -> np.dtype | None:
    """The dtype that ml_dtypes gives NumPy, or None without ml_dtypes."""
    try:
        return interop.bfloat16()
    except TypeError:
        return None


def array(t: Tensor) -> Any:
    """A tensor on the CPU as a NumPy array over the same memory; another as it is, for its own backend to take.

    Without ml_dtypes a tensor of bfloat16 is copied to float32, which holds all its values, and in which fastpool
    computes those of bfloat16.
    """
    t = t.detach()
    if t.numel() and not t.data_ptr():
        raise TypeError("a tensor must have memory of its own, got one whose data pointer is 0")
    if t.dtype == torch.bfloat16:
        dtype = _numpy_bfloat16()
        if dtype is None:
            return array(t.float())
        if t.device.type == "cpu":
            return t.view(torch.int16).numpy(force=True).view(dtype)
    return t.numpy(force=True) if t.device.type == "cpu" else t


def result(a: Any, like: Tensor, axes: int, dtype: torch.dtype | None = None) -> Tensor:
    """What a function of fastpool returned, as a tensor in memory as `empty` has it; `dtype` where it may be wider."""
    if isinstance(a, np.ndarray):
        bfloat16 = a.dtype.kind == "V"  # as ml_dtypes has it
        a = torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) if bfloat16 else torch.from_numpy(a)
    if dtype is not None and a.dtype != dtype:
        a = a.to(dtype)
    return in_format_of(like, a, axes)


def backend(t: Tensor) -> str | None:
    return "cuda" if t.device.type == "cuda" else None


def empty(like: Tensor, shape: Sequence[int], axes: int, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor with its channels last in memory where `like` has them there, else contiguous."""
    strides = _strides(shape, axes, _channels_last(like, axes))
    return torch.empty_strided(tuple(shape), strides, dtype=dtype or like.dtype, device=like.device)


def in_format_of(like: Tensor, t: Tensor, axes: int) -> Tensor:
    """`t` in memory as `empty` has it: itself, or a copy."""
    strides = _strides(t.shape, axes, _channels_last(like, axes))
    return t if t.stride() == strides else empty(like, t.shape, axes, t.dtype).copy_(t)


def _channels_last(t: Tensor, axes: int) -> bool:
    """Whether PyTorch's operators take `t`, of `axes` spatial axes, for a tensor with its channels last in memory.

    They decide by the strides, so that a slice of such a tensor is one too: `suggest_memory_format` of ATen. Unbatched
    volumes count, unbatched images do not.
    """
    channel = t.ndim - axes - 1
    if (axes, channel) not in {(2, 1), (3, 1), (3, 0)} or 0 in t.shape or t.stride(channel) == 0:
        return False
    least = 0
    for axis in (channel, *reversed(range(channel + 1, t.ndim)), *range(channel)):
        # Of (N, 1, 1, 1) with one stride for all, nobody can tell: it is contiguous.
        if t.stride(axis) < least or (axis < channel and least == t.stride(channel)):
            return False
        least = t.stride(axis) * t.shape[axis]
    return True


def _strides(shape: Sequence[int], axes: int, channels_last: bool) -> tuple[int, ...]:
    order = list(range(len(shape)))
    if channels_last:
        order.append(order.pop(-axes - 1))
    strides, step = list(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)
