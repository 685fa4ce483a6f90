"""Maxout (Goodfellow et al. 2013): of k linear pieces the largest. It is pooling along the channel axis."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fastpool import arrays
from fastpool.backends import chosen, kernel
from fastpool.indices import check_argmax
from fastpool.kinds import again, lazy
from fastpool.pooling import Prepared, PreparedBackward
from fastpool.window import Window, check_shape, integer, one_of

GROUPINGS = ("strided", "contiguous")


def checked_axis(axis: Any, ndim: int) -> int:
    axis = integer("axis", axis)
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis must be from {-ndim} to {ndim - 1} for an array of {ndim} axes, got {axis}")
    return axis % ndim


def check_grouping(grouping: Any) -> str:
    return one_of("grouping", grouping, GROUPINGS)


def _resized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _target(out: Any, order: tuple[int, ...], window_shape, planes, dtype, source: arrays.Array) -> arrays.Target:
    """Room where `source` is for a result whose axes lie in memory in `order`."""
    if out is not None:
        return arrays.within(out, out.transpose(order), planes)
    fresh = arrays.empty(planes, dtype, source)
    return arrays.Target(fresh.reshape(window_shape).transpose(np.argsort(order)), fresh, None)


def _planes(window: Window, size: tuple[int, int, int]) -> tuple[int, ...]:
    return (window.batch, *size, window.channels)


@lru_cache(maxsize=4096, typed=True)
def _prepared(shape, dtype, backend, num_units, axis, grouping) -> Prepared | None:
    axis = checked_axis(axis, len(shape))
    num_units = checked_units(num_units, shape[axis])
    window = Window.maxout(shape, num_units, axis, grouping)
    return Prepared.plan(window, window.batch, window.channels, dtype, backend)


@lru_cache(maxsize=4096, typed=True)
def _prepared_backward(x_shape, dtype, backend, dy_shape, axis, grouping) -> PreparedBackward | None:
    axis = checked_axis(axis, len(x_shape))
    window = Window.maxout(x_shape, units_of(dy_shape, x_shape, axis), axis, grouping)
    return PreparedBackward.plan(window, window.batch, window.channels, dtype, backend)


def units_of(dy_shape: tuple[int, ...], x_shape: tuple[int, ...], axis: int) -> int:
    """How many units a gradient of this shape has."""
    units = dy_shape[axis] if len(dy_shape) == len(x_shape) else 0
    if units < 1 or dy_shape != _resized(x_shape, axis, units) or x_shape[axis] % units:
        raise ValueError(f"dy must have the shape of maxout over axis {axis} of {x_shape}, got {dy_shape}")
    return units


def checked_units(num_units: Any, features: int) -> int:
    num_units = integer("num_units", num_units)
    if num_units < 1:
        raise ValueError(f"num_units must be positive, got {num_units}")
    if features % num_units or features == 0:
        raise ValueError(f"number of features ({features}) is not a multiple of num_units ({num_units})")
    return num_units


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
    if not (type(num_units) is type(axis) is int and type(grouping) is str and grouping in GROUPINGS):
        num_units, axis, grouping = integer("num_units", num_units), integer("axis", axis), check_grouping(grouping)
    backend, return_argmax = chosen(backend), bool(return_argmax)
    if type(x) is np.ndarray and x.flags.carray:
        prepared = _prepared(x.shape, x.dtype, backend, num_units, axis, grouping)
        result = prepared and prepared(x, return_argmax, out)
        if result is not None:
            return result
    if (graphs := lazy(x)) is not None:
        return graphs.maxout(x, num_units, axis, grouping, return_argmax, out, backend)
    return again(_maxout, (x,), (num_units, axis, grouping, return_argmax, backend), out)


def _maxout(given, num_units, axis, grouping, return_argmax, backend, out) -> Any:
    x = arrays.read("x", given)
    max_pool = kernel("max_pool", backend, x.device)
    axis = checked_axis(axis, x.ndim)
    num_units = checked_units(num_units, x.shape[axis])

    order = arrays.memory_axes(x)
    source = arrays.dense(x, order)
    window = Window.maxout(source.shape, num_units, order.index(axis), grouping)
    dtype = source.dtype
    y_shape = _resized(x.shape, axis, num_units)
    y_out, argmax_out = arrays.split_out(out, return_argmax)
    if y_out is not None:
        y_out = arrays.check_out(y_out, y_shape, dtype, (x,), given)
    if argmax_out is not None:
        argmax_out = arrays.check_out(argmax_out, y_shape, window.argmax_dtype, (x, y_out), given)

    planes = _planes(window, window.out)
    y = _target(y_out, order, window.y_shape, planes, dtype, x)
    source = source.reshape(_planes(window, window.size))
    if not return_argmax:
        if source.size:
            max_pool(source, window, y.canonical, None)
        return arrays.as_given(y.done(), given, out)
    argmax = _target(argmax_out, order, window.y_shape, planes, window.argmax_dtype, x)
    if source.size:
        max_pool(source, window, y.canonical, argmax.canonical)
    return arrays.as_given((y.done(), argmax.done()), given, out)


def maxout_backward(
    dy: Any,
    argmax: Any,
    x_shape: tuple[int, ...],
    axis: int = -1,
    *,
    grouping: str = "strided",
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> np.ndarray:
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
    x_shape, axis, grouping = check_shape("x_shape", x_shape), integer("axis", axis), check_grouping(grouping)
    backend = chosen(backend)
    if type(dy) is type(argmax) is np.ndarray and dy.flags.carray and argmax.flags.carray:
        prepared = _prepared_backward(x_shape, dy.dtype, backend, dy.shape, axis, grouping)
        dx = prepared and prepared(dy, argmax, out)
        if dx is not None:
            return dx
    if (graphs := lazy(dy)) is not None:
        return graphs.maxout_backward(dy, argmax, x_shape, axis, grouping, out, backend)
    return again(_maxout_backward, (dy, argmax), (x_shape, axis, grouping, backend), out)


def _maxout_backward(given, argmax, x_shape, axis, grouping, backend, out) -> Any:
    axis = checked_axis(axis, len(x_shape))
    dy = arrays.read("dy", given, floats_only=True)
    max_pool_backward = kernel("max_pool_backward", backend, dy.device)
    num_units = units_of(dy.shape, x_shape, axis)

    order = arrays.memory_axes(dy)
    window = Window.maxout(tuple(x_shape[i] for i in order), num_units, order.index(axis), grouping)
    argmax = arrays.like("argmax", argmax, dy.shape, window.argmax_dtype, "the forward pass", dy)
    dtype = arrays.native(dy.dtype)
    room = None if out is None else arrays.check_out(out, x_shape, dtype, (dy, argmax), given)

    planes = _planes(window, window.out)
    winners = arrays.dense(argmax, order).reshape(planes)
    check_argmax(winners, window, backend)
    dx = _target(room, order, window.x_shape, _planes(window, window.size), dtype, dy)
    if winners.size:
        max_pool_backward(arrays.dense(dy, order).reshape(planes), winners, window, dx.canonical)
    return arrays.as_given(dx.done(), given, out)
