"""The arguments of pools: as the operators take them, and as fastpool's functions do.

Operators take `padding` as (before, after) of each axis; `auto_pad`, where not empty, stands in for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastpool.arguments import check_padding_word, flag, integer
from fastpool.window import Window, uncached_window

Size = int | Sequence[int]
Padding = Size | Sequence[Sequence[int]] | str

SCHEMA = "int[] kernel_size, int[] stride, int[] padding, str auto_pad, int[] dilation, bool ceil_mode"


def exact_integer(name: str, value: Any) -> int:
    return value if type(value) is int else integer(name, value)  # torch.compile takes its symbols for exactly ints


def for_each_axis(name: str, value: Any, axes: int) -> list[int]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    each = [exact_integer(name, v) for v in (value if isinstance(value, Sequence) else [value] * axes)]
    if len(each) == 1:  # as PyTorch has it
        each *= axes
    if len(each) != axes:
        raise ValueError(f"{name} must be one integer or {axes}, one for each axis, got {value!r}")
    return each


def as_operators_take_it(axes: int, kernel_size, stride, padding, dilation, ceil_mode) -> tuple[Any, ...]:
    """The arguments of a pool as those of an operator."""
    kernel = for_each_axis("kernel_size", kernel_size, axes)
    no_stride = stride is None or (isinstance(stride, (list, tuple)) and not stride)  # as PyTorch's operators have it
    steps = kernel if no_stride else for_each_axis("stride", stride, axes)
    auto_pad, pads = (padding, []) if isinstance(padding, str) else ("", padding)
    if isinstance(pads, np.ndarray):
        pads = pads.tolist()
    if auto_pad:
        check_padding_word(auto_pad)
    if not isinstance(pads, Sequence) or not all(isinstance(p, Sequence) for p in pads):
        pads = [(p, p) for p in for_each_axis("padding", pads, axes)]
    if not auto_pad and [len(p) for p in pads] != [2] * axes:
        raise ValueError(f"padding must hold a (before, after) pair for each of the {axes} axes, got {padding!r}")
    pads = [exact_integer("padding", p) for pair in pads for p in pair]
    return kernel, steps, pads, auto_pad, for_each_axis("dilation", dilation, axes), flag("ceil_mode", ceil_mode)


def arguments(kernel_size, stride, padding, auto_pad, dilation, ceil_mode) -> dict[str, Any]:
    """The arguments of an operator as those of a function of fastpool."""
    return {
        "kernel_size": _one_or_each(kernel_size),
        "stride": _one_or_each(stride),
        "padding": auto_pad or _one_or_each(padding, tuple(zip(padding[::2], padding[1::2], strict=True))),
        "dilation": _one_or_each(dilation),
        "ceil_mode": ceil_mode,
    }


def _one_or_each(values: Sequence[int], each: tuple[Any, ...] | None = None) -> Any:
    """One integer where all are the same, which fastpool looks up faster than a tuple."""
    first = values[0]
    return first if all(value == first for value in values) else each or tuple(values)


def geometry(x_shape: Sequence[int], window: tuple[Any, ...]) -> Window:
    return uncached_window(len(window[0]), tuple(x_shape), **arguments(*window), data_format="channels_first")
