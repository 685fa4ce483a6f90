"""Max and min pooling for JAX, on fastpool's kernels: with an argmax, any dilation, and gradients of any order.

    from fastpool.integrations.jax import max_pool2d

The functions are called from compiled code by `jax.pure_callback`, with arrays in main memory, and have derivatives of
their own in reverse mode: `jit`, `vmap`, `grad`, `jacrev` and compositions of these take them, `jvp` and `jacfwd` do
not.
XLA's own pools have no argmax, and no gradient where windows are dilated. The rules are those of `fastpool.max_pool2d`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import fastpool as fp
from fastpool.arguments import flag, frozen_window
from fastpool.arrays import check_dtype
from fastpool.type_hints import Padding, Size
from fastpool.window import Window, sliding_window

__all__ = ["max_pool1d", "max_pool2d", "max_pool3d", "min_pool1d", "min_pool2d", "min_pool3d"]


class _Pool(NamedTuple):
    """A pool of arrays of one shape, with batch and channels: what derivatives depend on besides arrays."""

    op: str  # "max" or "min"
    axes: int
    window: tuple[Any, ...]  # kernel_size to data_format, as `frozen_window` returns them
    x_shape: tuple[int, ...]

    @property
    def planned(self) -> Window:
        return sliding_window(self.axes, self.x_shape, *self.window)

    def forward(self, x: np.ndarray, return_argmax: bool) -> Any:
        """Of a batch of any size."""
        return self._function("")(x, *self._arguments, **self._layout, **{f"return_arg{self.op}": return_argmax})

    def backward(self, dy: np.ndarray, argmax: np.ndarray) -> np.ndarray:
        x_shape = (len(dy), *self.x_shape[1:])
        return self._function("_backward")(dy, argmax, x_shape, *self._arguments, **self._layout)

    def double_backward(self, ddx: np.ndarray, argmax: np.ndarray) -> np.ndarray:
        return self._function("_double_backward")(ddx, argmax, *self._arguments, **self._layout)

    def _function(self, suffix: str) -> Any:
        return getattr(fp, f"{self.op}_pool{self.axes}d{suffix}")

    @property
    def _arguments(self) -> tuple[Any, ...]:
        return self.window[:-1]

    @property
    def _layout(self) -> dict[str, str]:
        return {"data_format": self.window[-1]}


def _callback(function: Callable[..., Any], results: Any, *arrays: Any) -> Any:
    """Call a function of NumPy arrays that have a batch axis. `vmap` adds axes, which join that one."""

    def call(*arrays: Any) -> Any:
        batches = [np.asarray(a).shape[: 1 + a.ndim - ndim] for a, ndim in zip(arrays, ndims, strict=True)]
        flat = [np.asarray(a).reshape(-1, *a.shape[len(b) :]) for a, b in zip(arrays, batches, strict=True)]
        return jax.tree.map(lambda result: result.reshape(*batches[0], *result.shape[1:]), function(*flat))

    ndims = [a.ndim for a in arrays]
    return jax.pure_callback(call, results, *arrays, vmap_method="broadcast_all")


def _like(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _values(pool: _Pool, x: Any) -> Any:
    return _callback(partial(pool.forward, return_argmax=False), _like(pool.planned.y_shape, x.dtype), x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _values_and_argmax(pool: _Pool, x: Any) -> Any:
    window = pool.planned
    results = _like(window.y_shape, x.dtype), _like(window.y_shape, window.argmax_dtype)
    return _callback(partial(pool.forward, return_argmax=True), results, x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _backward(pool: _Pool, dy: Any, argmax: Any) -> Any:
    return _callback(pool.backward, _like(pool.x_shape, dy.dtype), dy, argmax)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _double_backward(pool: _Pool, ddx: Any, argmax: Any) -> Any:
    return _callback(pool.double_backward, _like(pool.planned.y_shape, ddx.dtype), ddx, argmax)


def _keep_argmax(function: Any) -> Any:
    return lambda pool, a, argmax: (function(pool, a, argmax), argmax)


# None stands for the gradient of an argmax, which has none.
_values.defvjp(
    _values_and_argmax,
    lambda pool, argmax, dy: (_backward(pool, dy, argmax),),
)
_values_and_argmax.defvjp(
    lambda pool, x: ((found := _values_and_argmax(pool, x)), found[1]),
    lambda pool, argmax, grads: (_backward(pool, grads[0], argmax),),
)
_backward.defvjp(
    _keep_argmax(_backward),
    lambda pool, argmax, ddx: (_double_backward(pool, ddx, argmax), None),
)
_double_backward.defvjp(
    _keep_argmax(_double_backward),
    lambda pool, argmax, dy: (_backward(pool, dy, argmax), None),
)


def _pool(op: str, axes: int, x: Any, *arguments: Any, return_argmax: bool) -> Any:
    return_argmax, window = flag(f"return_arg{op}", return_argmax), frozen_window(*arguments)
    try:
        x = jax.numpy.asarray(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"x must be an array, got {type(x).__module__}.{type(x).__qualname__} ({error})") from error
    check_dtype("x", np.dtype(x.dtype))
    planned = sliding_window(axes, x.shape, *window)  # which refuses what does not fit
    channels, space = (planned.channels,), planned.size[-axes:]
    last = window[-1] == "channels_last"
    shape = (planned.batch, *space, *channels) if last else (planned.batch, *channels, *space)
    pool = _Pool(op, axes, window, shape)
    found = (_values_and_argmax if return_argmax else _values)(pool, x.reshape(shape))
    return jax.tree.map(lambda result: result.reshape(planned.y_shape), found)


def max_pool1d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmax: bool = False,
) -> Any:
    """As `fastpool.max_pool1d`, of a JAX array. See `max_pool2d`."""
    arguments = kernel_size, stride, padding, dilation, ceil_mode, data_format
    return _pool("max", 1, x, *arguments, return_argmax=return_argmax)


def max_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmax: bool = False,
) -> Any:
    """As `fastpool.max_pool2d`, of a JAX array, with gradients of any order in reverse mode.

    Parameters
    ----------
    x : array of shape (N, C, H, W), (C, H, W) or (H, W); channels_last: (N, H, W, C), (H, W, C)
        It may be traced. One on a GPU is copied to main memory, and the result back.
    kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax
        As in `fastpool.max_pool2d`; they may not be traced.

    Returns
    -------
    y : array of shape (N, C, OH, OW) and so on, with the dtype of `x`
    argmax : array of the shape of `y`, with return_argmax

    Raises
    ------
    TypeError, ValueError
        As `fastpool.max_pool2d`.

    Examples
    --------
    >>> import jax
    >>> from fastpool.integrations.jax import max_pool2d
    >>> x = jax.numpy.arange(16.0).reshape(4, 4)
    >>> jax.jit(jax.grad(lambda x: max_pool2d(x, 2, stride=1, dilation=2).sum()))(x).sum().item()
    4.0
    """
    arguments = kernel_size, stride, padding, dilation, ceil_mode, data_format
    return _pool("max", 2, x, *arguments, return_argmax=return_argmax)


def max_pool3d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmax: bool = False,
) -> Any:
    """As `fastpool.max_pool3d`, of a JAX array. See `max_pool2d`."""
    arguments = kernel_size, stride, padding, dilation, ceil_mode, data_format
    return _pool("max", 3, x, *arguments, return_argmax=return_argmax)


def min_pool1d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmin: bool = False,
) -> Any:
    """As `fastpool.min_pool1d`, of a JAX array. See `max_pool2d`."""
    arguments = kernel_size, stride, padding, dilation, ceil_mode, data_format
    return _pool("min", 1, x, *arguments, return_argmax=return_argmin)


def min_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmin: bool = False,
) -> Any:
    """As `fastpool.min_pool2d`, of a JAX array. See `max_pool2d`."""
    arguments = kernel_size, stride, padding, dilation, ceil_mode, data_format
    return _pool("min", 2, x, *arguments, return_argmax=return_argmin)


def min_pool3d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmin: bool = False,
) -> Any:
    """As `fastpool.min_pool3d`, of a JAX array. See `max_pool2d`."""
    arguments = kernel_size, stride, padding, dilation, ceil_mode, data_format
    return _pool("min", 3, x, *arguments, return_argmax=return_argmin)
