"""Max and min pooling along any axes of an array, however many, by the pools of one to three axes.

A maximum over a box is a maximum of maxima along some of its axes. So axes are pooled by threes, the last ones first,
and the offset of a maximum is put together from its offsets in each group of axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool import arrays, min_pooling, pooling
from fastpool.arguments import check_padding_word, check_shape, flag, frozen, one_of, pad_pairs, per_axis
from fastpool.filter_plans import filtered_axes
from fastpool.indices import argmax_to_indices, picked
from fastpool.masked_pooling import masked_pool
from fastpool.out import delivered
from fastpool.pooling import NAN_POLICIES
from fastpool.type_hints import A, Padding, Size
from fastpool.window import Window, offset_dtype

MOST_AXES = 3  # of one pool
POOLS = {"max": pooling, "min": min_pooling}


class _Group(NamedTuple):
    """Axes that are pooled at once, and the window along them."""

    axes: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    ceil_mode: bool

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Those of a pool."""
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode

    def images(self, a: np.ndarray) -> np.ndarray:
        """`a` as (N, C, ...), with the axes of the group last."""
        moved = np.moveaxis(a, self.axes, range(-len(self.axes), 0))
        *batch, channels = moved.shape[: -len(self.axes)] or (1,)
        return moved.reshape(prod(batch), channels, *moved.shape[-len(self.axes) :])

    def restored(self, images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The inverse of `images`. `shape` is that of an array that differs in the axes of the group alone."""
        others = tuple(n for axis, n in enumerate(shape) if axis not in self.axes)
        back = images.reshape(*others, *images.shape[2:])
        return np.moveaxis(back, range(-len(self.axes), 0), self.axes)

    def geometry(self, shape: tuple[int, ...]) -> Window:
        """The windows of one plane of an array of this shape."""
        return Window.plan(len(self.axes), tuple(shape[axis] for axis in self.axes), *self.arguments)

    def y_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the pooled array."""
        sizes = dict(zip(self.axes, self.geometry(shape).y_shape, strict=True))
        return tuple(sizes.get(axis, n) for axis, n in enumerate(shape))

    def _for_planes(self, shape: tuple[int, ...], of_windows: Callable[..., np.ndarray]) -> np.ndarray:
        """What `of_windows` tells of the windows of a plane, as an array that broadcasts to all planes."""
        windows = self.geometry(shape)
        plane = of_windows(windows, *windows.all_windows).reshape(windows.y_shape)
        return self.restored(plane[None, None], (1,) * len(shape))

    def padding_alone(self, shape: tuple[int, ...]) -> np.ndarray:
        """Which windows hold no cell along some axis of the group."""
        return self._for_planes(shape, Window.padding_alone)

    def first_cells(self, shape: tuple[int, ...]) -> np.ndarray:
        """The offset of the first cell of each window."""
        return self._for_planes(shape, Window.first_cells)

    def function(self, op: str, suffix: str = "") -> Any:
        return getattr(POOLS[op], f"{op}_pool{len(self.axes)}d{suffix}")


def _groups(ndim, kernel_size, stride, padding, dilation, ceil_mode, axes) -> list[_Group]:
    """In the order of their pools: the last axes first."""
    kernel_size, padding, axes = frozen("kernel_size", kernel_size), frozen("padding", padding), frozen("axes", axes)
    if axes is None:
        if not isinstance(kernel_size, tuple):
            raise ValueError(f"kernel_size must hold an integer for each axis where axes is None, got {kernel_size!r}")
        axes = tuple(range(-len(kernel_size), 0))
        if len(axes) > ndim:
            raise ValueError(f"kernel_size must have at most {ndim} integers, as x has axes, got {kernel_size}")
    axes = filtered_axes("axes", axes, ndim)
    n = len(axes)
    if n == 0:
        raise ValueError("axes must name one axis at least, got none")
    kernel = per_axis("kernel_size", kernel_size, n, 1)
    strides = kernel if stride is None else per_axis("stride", frozen("stride", stride), n, 1)
    dilations, ceil_mode = per_axis("dilation", frozen("dilation", dilation), n, 1), flag("ceil_mode", ceil_mode)
    if isinstance(padding, str):
        check_padding_word(padding)
    else:
        padding = pad_pairs(padding, n)
    groups = []
    for start in reversed(range(0, n, MOST_AXES)):
        some = slice(start, start + MOST_AXES)
        pads = padding if isinstance(padding, str) else padding[some]
        groups.append(_Group(axes[some], kernel[some], strides[some], pads, dilations[some], ceil_mode))
    return groups


def _argmax_dtype(groups: Sequence[_Group]) -> np.dtype:
    """That of an argmax."""
    volume = prod(prod(group.kernel_size) for group in groups)
    dtype = offset_dtype(volume)
    if dtype is None:
        raise ValueError(f"kernel_size makes windows of {volume} cells, more than an argmax in uint32 can name")
    return dtype


def _pool(
    op, x, kernel_size, stride, padding, dilation, ceil_mode, axes, return_argmax, nan, where, out, backend
) -> Any:
    return_argmax, nan = flag(f"return_arg{op}", return_argmax), one_of("nan", nan, NAN_POLICIES)

    def pool(x: np.ndarray, return_argmax: bool) -> tuple[np.ndarray, ...]:
        groups = _groups(x.ndim, kernel_size, stride, padding, dilation, ceil_mode, axes)
        return _pooled(op, x, groups, return_argmax, backend)

    return masked_pool(op, pool, x, nan, where, return_argmax, out)


def _pooled(op, x, groups, return_argmax, backend) -> tuple[np.ndarray, ...]:
    shapes, volume = _shapes(groups, x.shape), 1
    argmax_dtype = _argmax_dtype(groups) if return_argmax else None
    offsets: Any = None
    for group in groups:
        images = group.images(x)
        pooled = group.function(op)(images, *group.arguments, backend=backend, **{f"return_arg{op}": return_argmax})
        y, *argmax = pooled if return_argmax else (pooled,)
        if argmax:
            found = argmax[0]
            if volume > 1:
                positions = argmax_to_indices(found, images.shape, *group.arguments)
                inner = picked(_planes(group.images(offsets)), _planes(positions), -1).reshape(positions.shape)
                found = found.astype(np.int64) * volume + inner
            offsets = group.restored(found, x.shape)
            volume *= prod(group.kernel_size)
        x = group.restored(y, x.shape)
    if not return_argmax:
        return (x,)
    if len(groups) > 1:
        offsets = np.where(_padding_alone(groups, shapes), 0, offsets).astype(argmax_dtype)
    return x, offsets


def _shapes(groups: Sequence[_Group], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes of the array before and after each of its pools."""
    return list(accumulate(groups, lambda shape, group: group.y_shape(shape), initial=shape))


def _padding_alone(groups: Sequence[_Group], shapes: Sequence[tuple[int, ...]]) -> Any:
    """Which windows hold no cell."""
    alone: Any = False
    for group, shape in zip(groups, shapes, strict=False):
        alone = alone | group.padding_alone(shape)
    return alone


def _backward(op, dy, argmax, x_shape, kernel_size, stride, padding, dilation, ceil_mode, axes, out, backend) -> Any:
    name, x_shape = f"arg{op}", check_shape("x_shape", x_shape)
    original, dy = dy, arrays.in_main_memory("dy", arrays.read("dy", dy, floats_only=True), "pooled along any axes")
    groups = _groups(len(x_shape), kernel_size, stride, padding, dilation, ceil_mode, axes)
    shapes, dtype = _shapes(groups, x_shape), _argmax_dtype(groups)
    arrays.expect_shape("dy", dy, shapes[-1], "the pooled array")
    argmax = arrays.expect(name, argmax, shapes[-1], dtype, "this window's forward pass", dy)
    inputs = dy, argmax
    volume = prod(prod(group.kernel_size) for group in groups)
    if argmax.size and int(argmax.max()) >= volume:
        raise ValueError(f"{name} must be below {volume}, the cells of a window, got {argmax.max()}")
    for count in range(len(groups), 0, -1):
        group, shape, rest = groups[count - 1], shapes[count - 1], groups[: count - 1]
        volume //= prod(group.kernel_size)
        offsets, inside = argmax, argmax
        if rest:
            offsets, inside = np.divmod(argmax.astype(np.int64), volume)
            # The offset in a window of padding alone is 0: not always that of a cell along the axes of this group.
            offsets = np.where(_padding_alone(groups[:count], shapes), group.first_cells(shape), offsets)
        images = group.images(dy)
        x_images = (*images.shape[:2], *[shape[axis] for axis in group.axes])
        offsets = group.images(offsets).astype(group.geometry(shape).argmax_dtype, copy=False)
        dx = group.function(op, "_backward")(images, offsets, x_images, *group.arguments, backend=backend)
        if rest:
            argmax = np.broadcast_to(_first_cells(rest, shapes), shape)
            positions = argmax_to_indices(offsets, x_images, *group.arguments)
            argmax = group.restored(_put(group.images(argmax), positions, group.images(inside)), shape)
        dy = group.restored(dx, shape)
    return delivered((dy,), out, inputs, original)


def _first_cells(groups: Sequence[_Group], shapes: Sequence[tuple[int, ...]]) -> Any:
    """The offset of the first cell of each window."""
    first: Any = 0
    volume = 1
    for group, shape in zip(groups, shapes, strict=False):
        first = first + group.first_cells(shape) * volume
        volume *= prod(group.kernel_size)
    return first


def _planes(images: np.ndarray) -> np.ndarray:
    """`images` with one axis for all spatial ones."""
    return images.reshape(*images.shape[:2], prod(images.shape[2:]))


def _put(images: np.ndarray, positions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`images` with values at these positions of their planes; none for -1."""
    planes = _planes(images)
    cells = planes.shape[-1]
    with_one_more = np.concatenate([planes, planes[..., :1]], -1)
    flat = _planes(np.where(positions < 0, cells, positions))
    np.put_along_axis(with_one_more, flat, values.reshape(flat.shape), -1)
    return with_one_more[..., :cells].reshape(images.shape)


def max_pool(
    x: A,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    axes: Size | None = None,
    return_argmax: bool = False,
    nan: str = "propagate",
    where: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Max pooling along any axes of an array, of any number.

    Windows, ties, NaN and the dtypes are as in `max_pool2d`. Up to three axes are pooled at once; of more, three after
    three, which takes an array of the size between for each.

    Parameters
    ----------
    x : array of any number of axes
        In main memory: of any dtype that `max_pool2d` takes, any strides and byte order.
    kernel_size, stride, padding, dilation, ceil_mode
        As in `max_pool2d`, for each of `axes`.
    axes : int or tuple of int
        The axes to pool. By default the last ones, as many as `kernel_size` has: of (..., H, W) with a kernel_size of
        two integers, H and W. For channels_last these are (-3, -2).
    return_argmax : bool
        Also return where in each window the maximum is.
    nan, where
        As in `max_pool2d`.
    out : array, or (y, argmax) with return_argmax
        Where to write the result, instead of to new memory. It is copied there.
    backend : "numba", "cython", "numpy" or "naive"

    Returns
    -------
    y : array of the shape of `x` but for the pooled axes, of its array library and dtype
    argmax : array of the shape of `y`, with return_argmax
        Row-major offsets inside the window, in the order of `axes`, in the smallest of uint8, uint16 and uint32 that
        holds them. 0 in a window of padding alone.

    Raises
    ------
    TypeError
        For a dtype or an array library that is not supported.
    ValueError
        For axes, windows or an `out` that do not fit.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.max_pool(np.arange(24).reshape(2, 3, 4), (2, 2))
    array([[[ 5,  7]],
    <BLANKLINE>
           [[17, 19]]])
    >>> fp.max_pool(np.arange(24).reshape(2, 3, 4), 3, axes=1)
    array([[[ 8,  9, 10, 11]],
    <BLANKLINE>
           [[20, 21, 22, 23]]])
    >>> fp.max_pool(np.arange(81).reshape(3, 3, 3, 3), (3, 2, 2, 3)).shape
    (1, 1, 1, 1)
    """
    window = kernel_size, stride, padding, dilation, ceil_mode
    return _pool("max", x, *window, axes, return_argmax, nan, where, out, backend)


def max_pool_backward(
    dy: A,
    argmax: Any,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    axes: Size | None = None,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `max_pool` with respect to its input: each dy goes to the maximum of its window.

    As `max_pool2d_backward`; of more than three axes, gradients are rounded to their dtype after each three.

    Parameters
    ----------
    dy : array of the shape of `y`; float16, bfloat16, float32 or float64
    argmax : array of the shape of `y`
        As `max_pool` returned it, from the same window. Of more than three axes, gradients for other offsets of one
        window may go to those of another.
    x_shape : tuple of int
        The shape of the input of the forward pass.
    kernel_size, stride, padding, dilation, ceil_mode, axes, backend
        As in the forward pass.
    out : array of `x_shape`
        Where to write the result, instead of to new memory. It is copied there.

    Returns
    -------
    array of `x_shape`, with the dtype of `dy`

    Raises
    ------
    TypeError
        For a dy that is not floating, or an argmax of another dtype.
    ValueError
        For shapes that do not fit, or an argmax that names a cell outside its window or in the padding.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.array([[1.0, 9.0], [3.0, 4.0]])
    >>> y, argmax = fp.max_pool(x, (2, 2), return_argmax=True)
    >>> fp.max_pool_backward(np.array([[5.0]]), argmax, x.shape, (2, 2))
    array([[0., 5.],
           [0., 0.]])
    """
    return _backward("max", dy, argmax, x_shape, kernel_size, stride, padding, dilation, ceil_mode, axes, out, backend)


def min_pool(
    x: A,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    axes: Size | None = None,
    return_argmin: bool = False,
    nan: str = "propagate",
    where: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Min pooling along any axes of an array, of any number: as `max_pool`, for the minimum.

    Parameters
    ----------
    x : array of any number of axes
        In main memory: of any dtype that `min_pool2d` takes, any strides and byte order.
    kernel_size, stride, padding, dilation, ceil_mode, axes, nan, where, backend
        As in `max_pool`.
    return_argmin : bool
        Also return where in each window the minimum is.
    out : array, or (y, argmin) with return_argmin

    Returns
    -------
    y : array of the shape of `x` but for the pooled axes, of its array library and dtype
    argmin : array of the shape of `y`, with return_argmin

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.min_pool(np.arange(24).reshape(2, 3, 4), (2, 2))
    array([[[ 0,  2]],
    <BLANKLINE>
           [[12, 14]]])
    """
    window = kernel_size, stride, padding, dilation, ceil_mode
    return _pool("min", x, *window, axes, return_argmin, nan, where, out, backend)


def min_pool_backward(
    dy: A,
    argmin: Any,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    axes: Size | None = None,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `min_pool` with respect to its input: each dy goes to the minimum of its window.

    As `min_pool2d_backward`; of more than three axes, gradients are rounded to their dtype after each three.

    Parameters
    ----------
    dy : array of the shape of `y`; float16, bfloat16, float32 or float64
    argmin : array of the shape of `y`
        As `min_pool` returned it, from the same window. Of more than three axes, gradients for other offsets of one
        window may go to those of another.
    x_shape : tuple of int
        The shape of the input of the forward pass.
    kernel_size, stride, padding, dilation, ceil_mode, axes, backend
        As in the forward pass.
    out : array of `x_shape`
        Where to write the result, instead of to new memory. It is copied there.

    Returns
    -------
    array of `x_shape`, with the dtype of `dy`

    Raises
    ------
    TypeError
        For a dy that is not floating, or an argmin of another dtype.
    ValueError
        For shapes that do not fit, or an argmin that names a cell outside its window or in the padding.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.array([[1.0, 9.0], [3.0, 4.0]])
    >>> y, argmin = fp.min_pool(x, (2, 2), return_argmin=True)
    >>> fp.min_pool_backward(np.array([[5.0]]), argmin, x.shape, (2, 2))
    array([[5., 0.],
           [0., 0.]])
    """
    return _backward("min", dy, argmin, x_shape, kernel_size, stride, padding, dilation, ceil_mode, axes, out, backend)
