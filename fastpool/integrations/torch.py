"""Max pooling, maxout and hard-swish for PyTorch, on fastpool's kernels.

    from fastpool.integrations.torch import MaxPool2d, replace_max_pools

Each function is a custom operator of the library `fastpool`, with a fake kernel and gradients of any order, so that
`torch.compile` takes it whole. Tensors on the CPU are read where they lie, without a copy; those with their channels
last in memory give results with their channels last. Tensors on a GPU go to the backend "cuda".

The rules are fastpool's. They are PyTorch's but for these: padding may be any, not half a window at most; of several
NaN in a window the first wins, not the last; a window of padding alone gives the lowest value and takes no gradient;
bool and all integers pool too; and a gradient is the same bits on every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastpool as fp
from fastpool.arguments import flag, integer
from fastpool.window import Window, uncached_window

__all__ = [
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Maxout",
    "hard_swish",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "maxout",
    "replace_max_pools",
]

Size = int | Sequence[int]
Padding = Size | Sequence[Sequence[int]] | str

_POOLS = {1: fp.max_pool1d, 2: fp.max_pool2d, 3: fp.max_pool3d}
_POOLS_BACKWARD = {1: fp.max_pool1d_backward, 2: fp.max_pool2d_backward, 3: fp.max_pool3d_backward}


def _array(t: Tensor) -> Any:
    """A tensor on the CPU as a NumPy array over the same memory; another as it is, for its own backend to take."""
    t = t.detach()
    if t.numel() and not t.data_ptr():
        raise TypeError("a tensor must have memory of its own, got one whose data pointer is 0")
    if t.device.type != "cpu":
        return t
    if t.dtype != torch.bfloat16:
        return t.numpy(force=True)
    import ml_dtypes

    return t.view(torch.int16).numpy(force=True).view(ml_dtypes.bfloat16)


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


def _in_format_of(like: Tensor, t: Tensor, axes: int) -> Tensor:
    """`t` in memory as `_empty` has it: itself, or a copy."""
    strides = _strides(t.shape, axes, _channels_last(like, axes))
    return t if t.stride() == strides else _empty(like, t.shape, axes, t.dtype).copy_(t)


def _result(a: Any, like: Tensor, axes: int) -> Tensor:
    """What a function of fastpool gave, as a tensor in memory as `_empty` has it."""
    if isinstance(a, np.ndarray):
        bfloat16 = a.dtype.kind == "V"  # as ml_dtypes has it
        a = torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) if bfloat16 else torch.from_numpy(a)
    return _in_format_of(like, a, axes)


def _empty(like: Tensor, shape: Sequence[int], axes: int, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor with its channels last in memory where `like` has them there, else contiguous."""
    strides = _strides(shape, axes, _channels_last(like, axes))
    return torch.empty_strided(tuple(shape), strides, dtype=dtype or like.dtype, device=like.device)


def _backend(t: Tensor) -> str | None:
    return "cuda" if t.device.type == "cuda" else None


def _operator(name: str, schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Register a function as the operator `fastpool::name`; `fake` gives empty tensors in place of its results."""

    def register(function: Callable[..., Any]) -> Any:
        operator = torch.library.custom_op(f"fastpool::{name}", function, mutates_args=(), schema=schema)
        operator.register_fake(fake)
        return operator

    return register


# Gradients


def _is_transformed(t: Tensor) -> bool:
    """Whether `t` has a tangent, or is one of `torch.func`'s, which may have one further inside."""
    if not torch.compiler.is_compiling() and torch.func.debug_unwrap(t, recurse=False) is not t:
        return True
    return torch.autograd.forward_ad.unpack_dual(t).tangent is not None


class _Constants:
    """All arguments of an operator that are not tensors, as one argument: `vmap` counts each item of a list."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values


def _register_grad(operator: Any, kept: Callable[..., tuple[Tensor, ...]], grad: Callable[..., Any]) -> None:
    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*kept(ctx, inputs, output))

    operator.register_autograd(grad, setup_context=save)


def _differentiable(
    operator: Any,
    kept: Callable[..., tuple[Tensor, ...]],
    grad: Callable[..., Any],
    tangent: Callable[..., Any],
) -> Callable[..., Any]:
    """Register the gradient of an operator, and make a function that calls it with gradients of either mode.

    `kept(ctx, inputs, output)` gives the tensors that `grad(ctx, *grads)` and `tangent(ctx, *tangents)` need.

    An operator has no tangent in PyTorch: forward-mode gradients, and `torch.func` as a whole, need a
    `torch.autograd.Function`. All else calls the operator, which `torch.compile` keeps whole.
    """
    _register_grad(operator, kept, grad)

    class Transformed(torch.autograd.Function):
        generate_vmap_rule = True
        jvp = staticmethod(tangent)

        @staticmethod
        def forward(*inputs: Any) -> Any:
            *tensors, constants = inputs
            return operator(*tensors, *constants.values)

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
        tensors = [value for value in inputs if isinstance(value, Tensor)]  # they come first
        if any(map(_is_transformed, tensors)):
            if torch.compiler.is_compiling():  # which leaves what raises uncompiled
                raise NotImplementedError("torch.compile(fullgraph=True) takes no forward-mode gradients of fastpool's")
            return Transformed.apply(*tensors, _Constants(inputs[len(tensors) :]))
        return operator(*inputs)

    return call


# Pooling. Operators take `padding` as (before, after) of each axis; `auto_pad`, where not empty, stands in for it.

_WINDOW = "int[] kernel_size, int[] stride, int[] padding, str auto_pad, int[] dilation, bool ceil_mode"


def _arguments(kernel_size, stride, padding, auto_pad, dilation, ceil_mode) -> dict[str, Any]:
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


def _window_of(x_shape: Sequence[int], window: tuple[Any, ...]) -> Window:
    return uncached_window(len(window[0]), tuple(x_shape), **_arguments(*window), data_format="channels_first")


def _fake_max_pool(x: Tensor, *window: Any) -> Tensor:
    return _empty(x, _window_of(x.shape, window).y_shape, len(window[0]))


@_operator("max_pool", f"(Tensor x, {_WINDOW}) -> Tensor", _fake_max_pool)
def _max_pool(x: Tensor, *window: Any) -> Tensor:
    axes = len(window[0])
    return _result(_POOLS[axes](_array(x), **_arguments(*window), backend=_backend(x)), x, axes)


def _fake_max_pool_with_argmax(x: Tensor, *window: Any) -> tuple[Tensor, Tensor]:
    windows = _window_of(x.shape, window)
    argmax_dtype = getattr(torch, windows.argmax_dtype.name)
    return _empty(x, windows.y_shape, len(window[0])), _empty(x, windows.y_shape, len(window[0]), argmax_dtype)


@_operator("max_pool_with_argmax", f"(Tensor x, {_WINDOW}) -> (Tensor, Tensor)", _fake_max_pool_with_argmax)
def _max_pool_with_argmax(x: Tensor, *window: Any) -> tuple[Tensor, Tensor]:
    axes = len(window[0])
    y, argmax = _POOLS[axes](_array(x), **_arguments(*window), return_argmax=True, backend=_backend(x))
    return _result(y, x, axes), _result(argmax, x, axes)


def _fake_max_pool_backward(dy: Tensor, argmax: Tensor, x_shape: Sequence[int], *window: Any) -> Tensor:
    return _empty(argmax, x_shape, len(window[0]), dy.dtype)


@_operator(
    "max_pool_backward", f"(Tensor dy, Tensor argmax, SymInt[] x_shape, {_WINDOW}) -> Tensor", _fake_max_pool_backward
)
def _max_pool_backward(dy: Tensor, argmax: Tensor, x_shape: Sequence[int], *window: Any) -> Tensor:
    axes = len(window[0])
    inputs = _array(_in_format_of(argmax, dy, axes)), _array(argmax), tuple(x_shape)
    return _result(_POOLS_BACKWARD[axes](*inputs, **_arguments(*window), backend=_backend(dy)), argmax, axes)


def _fake_max_pool_indices(argmax: Tensor, x_shape: Sequence[int], *window: Any) -> Tensor:
    return _empty(argmax, argmax.shape, len(window[0]), torch.int64)


@_operator("max_pool_indices", f"(Tensor argmax, SymInt[] x_shape, {_WINDOW}) -> Tensor", _fake_max_pool_indices)
def _max_pool_indices(argmax: Tensor, x_shape: Sequence[int], *window: Any) -> Tensor:
    # In main memory, wherever the tensor is: for few calls, those with indices and second derivatives.
    arguments = {**_arguments(*window), "kernel_size": tuple(window[0])}  # which tells the number of axes
    indices = fp.argmax_to_indices(_array(argmax.cpu()), tuple(x_shape), **arguments)
    return _result(indices, argmax, len(window[0])).to(argmax.device)


def _picked(x: Tensor, indices: Tensor, axes: int) -> Tensor:
    """The cells of `x` that won, and 0 for windows of padding alone."""
    cells = x.flatten(-axes).gather(-1, indices.flatten(-axes).clamp(min=0)).reshape(indices.shape)
    return torch.where(indices >= 0, cells, 0)


def _kept_x(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
    x, *ctx.window = inputs
    return (x,)


def _grad_of_x(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    (x,) = ctx.saved_tensors
    _, argmax = _max_pool_with_argmax(x, *ctx.window)
    return _max_pool_backward(dy, argmax, x.shape, *ctx.window), *[None] * len(ctx.window)


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


def _grad_of_dy(ctx: Any, ddx: Tensor) -> tuple[Any, ...]:
    (argmax,) = ctx.saved_tensors
    indices = _max_pool_indices(argmax, ctx.x_shape, *ctx.window)
    return _picked(ddx, indices, len(ctx.window[0])), None, None, *[None] * len(ctx.window)


def _tangent_by_argmax(ctx: Any, dx: Tensor, *_: Any) -> tuple[Any, None]:
    (argmax,) = ctx.saved_tensors
    return _picked(dx, _max_pool_indices(argmax, ctx.x_shape, *ctx.window), len(ctx.window[0])), None


def _tangent_of_grad(ctx: Any, ddy: Tensor, *_: Any) -> Tensor:
    (argmax,) = ctx.saved_tensors
    return _pool_grad(ddy, argmax, ctx.x_shape, *ctx.window)


_register_grad(_max_pool, _kept_x, _grad_of_x)
_pool_with_argmax = _differentiable(_max_pool_with_argmax, _kept_argmax, _grad_by_argmax, _tangent_by_argmax)
_pool_grad = _differentiable(_max_pool_backward, _kept_argmax_of_input, _grad_of_dy, _tangent_of_grad)


def _integer(name: str, value: Any) -> int:
    return value if type(value) is int else integer(name, value)  # torch.compile takes its symbols for exactly ints


def _each(name: str, value: Any, axes: int) -> list[int]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    each = [_integer(name, v) for v in (value if isinstance(value, Sequence) else [value] * axes)]
    if len(each) == 1:  # as PyTorch has it
        each *= axes
    if len(each) != axes:
        raise ValueError(f"{name} must be one integer or {axes}, one for each axis, got {value!r}")
    return each


def _pool(axes, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices) -> Any:
    ceil_mode, return_indices = flag("ceil_mode", ceil_mode), flag("return_indices", return_indices)
    kernel = _each("kernel_size", kernel_size, axes)
    no_stride = stride is None or (isinstance(stride, list) and not stride)
    steps = kernel if no_stride else _each("stride", stride, axes)
    auto_pad, pads = (padding, []) if isinstance(padding, str) else ("", padding)
    if not isinstance(pads, Sequence) or not all(isinstance(p, Sequence) for p in pads):
        pads = [(p, p) for p in _each("padding", pads, axes)]
    if not auto_pad and [len(p) for p in pads] != [2] * axes:
        raise ValueError(f"padding must hold a (before, after) pair for each of the {axes} axes, got {padding!r}")
    pads = [_integer("padding", p) for pair in pads for p in pair]
    window = (kernel, steps, pads, auto_pad, _each("dilation", dilation, axes), ceil_mode)
    if not (return_indices or (torch.is_grad_enabled() and x.requires_grad) or _is_transformed(x)):
        return _max_pool(x, *window)
    y, argmax = _pool_with_argmax(x, *window)
    return (y, _max_pool_indices(argmax, x.shape, *window)) if return_indices else y


def max_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Max pooling over the length of signals (N, C, L) or (C, L), as `torch.nn.functional.max_pool1d`.

    As `max_pool2d` in every respect, with one spatial axis.
    """
    return _pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Max pooling over images, as `torch.nn.functional.max_pool2d`.

    Parameters
    ----------
    input : tensor of shape (N, C, H, W), (C, H, W) or (H, W), with its channels first or last in memory
    kernel_size, stride, dilation, ceil_mode
        As in `fastpool.max_pool2d`, which are PyTorch's.
    padding : int, one for each axis, or as `fastpool.max_pool2d` takes it besides
        A (before, after) pair for each axis, "valid", "same" or "same_lower".
    return_indices : bool
        Also return where each maximum was, as PyTorch counts: its position in the plane, in int64; -1 for a window
        of padding alone.

    Returns
    -------
    tensor of shape (N, C, OH, OW) and so on, with the dtype of `input`, or a pair of them with the indices

    Raises
    ------
    TypeError, ValueError
        As `fastpool.max_pool2d`.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import max_pool2d
    >>> x = torch.tensor([[1.0, 9.0], [3.0, 4.0]], requires_grad=True)
    >>> y = max_pool2d(x, 2)
    >>> y.backward(torch.tensor([[5.0]]))
    >>> x.grad
    tensor([[0., 5.],
            [0., 0.]])
    """
    return _pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Max pooling over volumes (N, C, D, H, W), (C, D, H, W), as `torch.nn.functional.max_pool3d`.

    As `max_pool2d` in every respect, with three spatial axes.
    """
    return _pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


class MaxPool1d(nn.MaxPool1d):
    """`torch.nn.MaxPool1d` on fastpool: the same arguments, state and repr."""

    def forward(self, input: Tensor) -> Any:
        return max_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class MaxPool2d(nn.MaxPool2d):
    """`torch.nn.MaxPool2d` on fastpool: the same arguments, state and repr.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import MaxPool2d
    >>> MaxPool2d(3, stride=2, padding=1)
    MaxPool2d(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=False)
    >>> MaxPool2d(2)(torch.arange(16.0).reshape(1, 4, 4))
    tensor([[[ 5.,  7.],
             [13., 15.]]])
    """

    def forward(self, input: Tensor) -> Any:
        return max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class MaxPool3d(nn.MaxPool3d):
    """`torch.nn.MaxPool3d` on fastpool: the same arguments, state and repr."""

    def forward(self, input: Tensor) -> Any:
        return max_pool3d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


_REPLACEMENTS: dict[type, Any] = {nn.MaxPool1d: MaxPool1d, nn.MaxPool2d: MaxPool2d, nn.MaxPool3d: MaxPool3d}


def replace_max_pools(module: nn.Module) -> nn.Module:
    """Put a pooling layer of fastpool in the place of each `nn.MaxPool1d`, `2d` and `3d` of a model.

    A layer that is used in several places is replaced by one layer in all of them. Hooks, attributes and the mode of
    training are kept.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place; subclasses of PyTorch's pooling layers are left alone, since they may do more.

    Returns
    -------
    torch.nn.Module
        `module`, or its replacement if it is a pooling layer itself.

    Examples
    --------
    >>> from torch import nn
    >>> from fastpool.integrations.torch import MaxPool2d, replace_max_pools
    >>> model = replace_max_pools(nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)))
    >>> type(model[1]) is MaxPool2d
    True
    """
    new = {pool: _replacement(pool) for pool in module.modules() if type(pool) in _REPLACEMENTS}
    for path, child in list(module.named_modules(remove_duplicate=False)):
        if path and child in new:
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, new[child])
    return new.get(module, module)


def _replacement(pool: nn.Module) -> nn.Module:
    new = copy(pool)  # with its hooks, which can still be removed by their handles
    new.__class__ = _REPLACEMENTS[type(pool)]
    return new


# Maxout

_UNITS = "int num_units, int axis, str grouping"


def _units_shape(x_shape: Sequence[int], num_units: int, axis: int) -> tuple[int, ...]:
    return (*x_shape[:axis], num_units, *x_shape[axis + 1 :])


def _fake_maxout(x: Tensor, num_units: int, axis: int, grouping: str) -> Tensor:
    return _empty(x, _units_shape(x.shape, num_units, axis), x.ndim - 2)


@_operator("maxout", f"(Tensor x, {_UNITS}) -> Tensor", _fake_maxout)
def _maxout(x: Tensor, num_units: int, axis: int, grouping: str) -> Tensor:
    y = fp.maxout(_array(x), num_units, axis, grouping=grouping, backend=_backend(x))
    return _result(y, x, x.ndim - 2)


def _fake_maxout_with_argmax(x: Tensor, num_units: int, axis: int, grouping: str) -> tuple[Tensor, Tensor]:
    shape = _units_shape(x.shape, num_units, axis)
    dtype = Window.maxout((int(x.shape[axis]),), num_units, 0, grouping).argmax_dtype
    return _empty(x, shape, x.ndim - 2), _empty(x, shape, x.ndim - 2, getattr(torch, dtype.name))


@_operator("maxout_with_argmax", f"(Tensor x, {_UNITS}) -> (Tensor, Tensor)", _fake_maxout_with_argmax)
def _maxout_with_argmax(x: Tensor, num_units: int, axis: int, grouping: str) -> tuple[Tensor, Tensor]:
    y, argmax = fp.maxout(_array(x), num_units, axis, grouping=grouping, return_argmax=True, backend=_backend(x))
    return _result(y, x, x.ndim - 2), _result(argmax, x, x.ndim - 2)


def _fake_maxout_backward(dy: Tensor, argmax: Tensor, x_shape: Sequence[int], axis: int, grouping: str) -> Tensor:
    return _empty(argmax, x_shape, dy.ndim - 2, dy.dtype)


@_operator(
    "maxout_backward",
    "(Tensor dy, Tensor argmax, SymInt[] x_shape, int axis, str grouping) -> Tensor",
    _fake_maxout_backward,
)
def _maxout_backward(dy: Tensor, argmax: Tensor, x_shape: Sequence[int], axis: int, grouping: str) -> Tensor:
    inputs = _array(_in_format_of(argmax, dy, dy.ndim - 2)), _array(argmax), tuple(x_shape)
    dx = fp.maxout_backward(*inputs, axis, grouping=grouping, backend=_backend(dy))
    return _result(dx, argmax, dy.ndim - 2)


def _kept_pieces_x(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
    x, *ctx.units = inputs
    return (x,)


def _pieces_grad_of_x(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    (x,) = ctx.saved_tensors
    _, argmax = _maxout_with_argmax(x, *ctx.units)
    return _maxout_backward(dy, argmax, x.shape, *ctx.units[1:]), None, None, None


def _kept_pieces(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    x, _, ctx.axis, ctx.grouping = inputs
    ctx.x_shape = x.shape
    return (output[1],)


def _pieces_grad(ctx: Any, dy: Tensor, _: Any) -> tuple[Any, ...]:
    (argmax,) = ctx.saved_tensors
    return _maxout_grad(dy, argmax, ctx.x_shape, ctx.axis, ctx.grouping), None, None, None


def _kept_pieces_of_input(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
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


def _pieces_grad_of_dy(ctx: Any, ddx: Tensor) -> tuple[Any, ...]:
    return _picked_pieces(ctx, ddx), None, None, None, None


def _pieces_tangent(ctx: Any, dx: Tensor, *_: Any) -> tuple[Any, None]:
    return _picked_pieces(ctx, dx), None


def _pieces_tangent_of_grad(ctx: Any, ddy: Tensor, *_: Any) -> Tensor:
    (argmax,) = ctx.saved_tensors
    return _maxout_grad(ddy, argmax, ctx.x_shape, ctx.axis, ctx.grouping)


_register_grad(_maxout, _kept_pieces_x, _pieces_grad_of_x)
_maxout_with_pieces = _differentiable(_maxout_with_argmax, _kept_pieces, _pieces_grad, _pieces_tangent)
_maxout_grad = _differentiable(_maxout_backward, _kept_pieces_of_input, _pieces_grad_of_dy, _pieces_tangent_of_grad)


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
    num_units, axis = _integer("num_units", num_units), _integer("axis", axis)
    if input.ndim == 0:
        raise ValueError("input must have at least one axis, got the shape ()")
    if not -input.ndim <= axis < input.ndim:
        raise ValueError(f"axis must be from {-input.ndim} to {input.ndim - 1} for this tensor, got {axis}")
    axis %= input.ndim
    if (torch.is_grad_enabled() and input.requires_grad) or _is_transformed(input):
        return _maxout_with_pieces(input, num_units, axis, grouping)[0]
    return _maxout(input, num_units, axis, grouping)


class Maxout(nn.Module):
    """Maxout as a layer (Goodfellow et al. 2013), along the channels of images (N, C, H, W) by default.

    Parameters
    ----------
    num_units : int
        The channels that come out; those that come in must be a multiple.
    axis : int
    grouping : "strided" or "contiguous"
        As in `fastpool.maxout`.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import Maxout
    >>> layer = Maxout(32)
    >>> layer
    Maxout(num_units=32, axis=1, grouping='strided')
    >>> layer(torch.zeros(8, 64, 28, 28)).shape
    torch.Size([8, 32, 28, 28])
    """

    def __init__(self, num_units: int, axis: int = 1, grouping: str = "strided") -> None:
        super().__init__()
        self.num_units, self.axis, self.grouping = num_units, axis, grouping

    def forward(self, input: Tensor) -> Tensor:
        return maxout(input, self.num_units, self.axis, self.grouping)

    def extra_repr(self) -> str:
        return f"num_units={self.num_units}, axis={self.axis}, grouping={self.grouping!r}"


# hard-swish


def _fake_elementwise(*inputs: Tensor) -> Tensor:
    x = inputs[-1]
    return _empty(x, x.shape, x.ndim - 2)


@_operator("hard_swish", "(Tensor x) -> Tensor", _fake_elementwise)
def _hard_swish(x: Tensor) -> Tensor:
    return _result(fp.hard_swish(_array(x), backend=_backend(x)), x, x.ndim - 2)


@_operator("hard_swish_backward", "(Tensor dy, Tensor x) -> Tensor", _fake_elementwise)
def _hard_swish_backward(dy: Tensor, x: Tensor) -> Tensor:
    return _result(fp.hard_swish_backward(_array(dy), _array(x), backend=_backend(x)), x, x.ndim - 2)


def _all_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, ...]:
    return inputs


def _swish_grad_of_x(ctx: Any, dy: Tensor, *_: Any) -> Tensor:
    return _swish_grad(dy, *ctx.saved_tensors)


def _swish_grads_of_grad(ctx: Any, ddx: Tensor) -> tuple[Tensor, Tensor]:
    dy, x = ctx.saved_tensors
    return _swish_grad(ddx, x), _curvature(ddx * dy, x)


def _curvature(dx: Tensor, x: Tensor) -> Tensor:
    return torch.where((x > -3) & (x < 3), dx / 3, 0)


def _swish_tangent_of_grad(ctx: Any, ddy: Tensor | None, dx: Tensor | None, *_: Any) -> Tensor:
    dy, x = ctx.saved_tensors
    by_dy = 0 if ddy is None else _swish_grad(ddy, x)
    by_x = 0 if dx is None else _curvature(dx * dy, x)
    return by_dy + by_x


_swish = _differentiable(_hard_swish, _all_inputs, _swish_grad_of_x, _swish_grad_of_x)
_swish_grad = _differentiable(_hard_swish_backward, _all_inputs, _swish_grads_of_grad, _swish_tangent_of_grad)


def hard_swish(input: Tensor) -> Tensor:
    """x * relu6(x + 3) / 6, elementwise, as `torch.nn.functional.hardswish`; floats only.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import hard_swish
    >>> hard_swish(torch.tensor([-4.0, 0.0, 1.5, 4.0]))
    tensor([0.0000, 0.0000, 1.1250, 4.0000])
    """
    return _swish(input)
