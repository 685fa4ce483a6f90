"""Maxout (Goodfellow et al. 2013): of k linear pieces the largest. It is pooling along the channel axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpool import arrays, forms
from fastpool.arguments import check_shape, flag, integer, one_of, positive
from fastpool.backends import backend_for
from fastpool.calls import Op, Plan, call
from fastpool.dtypes import native
from fastpool.forms import Result
from fastpool.pool_plans import backward_kernel_of, kernel_of
from fastpool.type_hints import A, as_maxout
from fastpool.window import Window

GROUPINGS = ("strided", "contiguous")


def checked_axis(axis: Any, name: str, shape: tuple[int, ...]) -> int:
    """`axis` counted from the first of an array of this name and shape."""
    axis, ndim = integer("axis", axis), len(shape)
    if ndim == 0:
        raise ValueError(f"{name} must have at least one axis, got the shape ()")
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis must be from {-ndim} to {ndim - 1} for an array of {ndim} axes, got {axis}")
    return axis % ndim


def check_grouping(grouping: Any) -> str:
    return one_of("grouping", grouping, GROUPINGS)


def _resized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def units_of(dy_shape: tuple[int, ...], x_shape: tuple[int, ...], axis: int) -> int:
    """How many units a gradient of this shape has."""
    units = dy_shape[axis] if len(dy_shape) == len(x_shape) else 0
    if units < 1 or dy_shape != _resized(x_shape, axis, units) or x_shape[axis] % units:
        raise ValueError(f"dy must have the shape of maxout over axis {axis} of {x_shape}, got {dy_shape}")
    return units


def checked_units(num_units: Any, features: int) -> int:
    num_units = positive("num_units", num_units)
    if features % num_units or features == 0:
        raise ValueError(f"number of features ({features}) is not a multiple of num_units ({num_units})")
    return num_units


def _canonical_shape(window: Window, size: tuple[int, int, int]) -> tuple[int, ...]:
    return (window.batch, *size, window.channels)


def _result(shape: tuple[int, ...], dtype: np.dtype, order: tuple[int, ...], canonical_shape: Any) -> Result:
    """A result whose axes lie in memory in `order`."""
    axes = None if order == tuple(range(len(order))) else order
    return Result(shape, dtype, axes, axes, canonical_shape)


def _plan_maxout(inputs, num_units, axis, grouping, return_argmax, backend) -> Plan:
    (x,) = inputs
    axis = checked_axis(axis, "x", x.shape)
    num_units, grouping = checked_units(num_units, x.shape[axis]), check_grouping(grouping)
    order, dtype = forms.memory_axes(x), native(x.dtype)
    window = Window.maxout(tuple(x.shape[i] for i in order), num_units, order.index(axis), grouping)
    module = backend_for("max_pool", backend, x.device)
    run, any_shape = kernel_of("max_pool", module, window, window.batch, window.channels, dtype, return_argmax)
    planes = None if any_shape else _canonical_shape(window, window.out)
    dtypes = (dtype, window.argmax_dtype) if return_argmax else (dtype,)
    results = [_result(_resized(x.shape, axis, num_units), each, order, planes) for each in dtypes]
    return Plan(
        (forms.operand(x, order, None if any_shape else _canonical_shape(window, window.size)),),
        tuple(results),
        run,
    )


def _plan_maxout_backward(inputs, x_shape, axis, grouping, backend) -> Plan:
    dy, argmax = inputs
    axis = checked_axis(axis, "x_shape", x_shape)
    num_units = units_of(dy.shape, x_shape, axis)
    order, dtype = forms.memory_axes(dy), native(dy.dtype)
    window = Window.maxout(tuple(x_shape[i] for i in order), num_units, order.index(axis), grouping)
    module = backend_for("max_pool_backward", backend, dy.device)
    run, any_shape = backward_kernel_of(module, window, window.batch, window.channels, dtype)
    argmax = arrays.expect("argmax", argmax, dy.shape, window.argmax_dtype, "the forward pass", dy)
    planes = None if any_shape else _canonical_shape(window, window.out)
    return Plan(
        (forms.operand(dy, order, planes), forms.operand(argmax, order, planes)),
        (_result(x_shape, dtype, order, None if any_shape else _canonical_shape(window, window.size)),),
        run,
    )


_MAXOUT = Op("maxout", ("x",), (), _plan_maxout)
_MAXOUT_BACKWARD = Op("maxout_backward", ("dy", "argmax"), ("dy",), _plan_maxout_backward)


@as_maxout
def maxout(
    x: Any,
    num_units: int,
    axis: int = -1,
    *,
    grouping: str = "strided",
    return_argmax: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """The largest of each unit's pieces along one axis.

    Parameters
    ----------
    x : array of any shape and of any dtype that `max_pool2d` takes
    num_units : int
        What the axis shrinks to; its size must be a multiple, `num_units * k` for k pieces.
    axis : int
        The axis of the pieces: -1 for dense layers and channels last, 1 for channels first.
    grouping : "strided" or "contiguous"
        "strided": unit u takes the channels u, u + num_units, ..., as Keras' and TensorFlow Addons' Maxout layers and
        the halves of LightCNN's MFM. "contiguous": unit u takes u * k to u * k + k - 1, as Chainer, Paddle and Thinc.
    return_argmax : bool
        Also return which piece won, from 0 to k - 1.
    out : array, or (y, argmax) with return_argmax
    backend : str
        As in `max_pool2d`.

    Returns
    -------
    y : array of the shape of `x` with `axis` shrunk to num_units
    argmax : array of the same shape in uint8, uint16 or uint32, with return_argmax

    Raises
    ------
    ValueError
        If the axis is not a multiple of num_units.
    TypeError, ValueError
        As `max_pool2d`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.maxout(np.array([1, 5, 3, 2, 4, 6]), 2)
    array([4, 6])
    >>> fp.maxout(np.array([1, 5, 3, 2, 4, 6]), 2, grouping="contiguous", return_argmax=True)
    (array([5, 6]), array([1, 2], dtype=uint8))
    """
    if not (type(num_units) is type(axis) is int and type(grouping) is str and type(return_argmax) is bool):
        num_units, axis = integer("num_units", num_units), integer("axis", axis)
        grouping, return_argmax = check_grouping(grouping), flag("return_argmax", return_argmax)
    return call(_MAXOUT, (x,), (num_units, axis, grouping, return_argmax), out, backend)


def maxout_backward(
    dy: A,
    argmax: Any,
    x_shape: tuple[int, ...],
    axis: int = -1,
    *,
    grouping: str = "strided",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `maxout` with respect to its input: each dy goes to the piece that won.

    Parameters
    ----------
    dy : array of the shape of `y`; float16, bfloat16, float32 or float64
    argmax : array of the shape of `y`, as `maxout` returned it
    x_shape : tuple of int
        The shape of the input of the forward pass.
    axis, grouping, backend
        As in the forward pass.
    out : array of `x_shape`

    Returns
    -------
    array of `x_shape`, with the dtype of `dy`

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmax = fp.maxout(np.array([1.0, 5.0, 3.0, 2.0]), 2, return_argmax=True)
    >>> fp.maxout_backward(np.array([10.0, 20.0]), argmax, (4,))
    array([ 0., 20., 10.,  0.])
    """
    static = check_shape("x_shape", x_shape), integer("axis", axis), check_grouping(grouping)
    return call(_MAXOUT_BACKWARD, (dy, argmax), static, out, backend)
