"""Where a maximum was: the argmax of fastpool, and the index styles of four frameworks.

An argmax is an offset inside its window, so it needs no more than a byte and does not depend on the layout.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastpool import arrays
from fastpool.backends import kernel
from fastpool.kinds import DeviceArray
from fastpool.window import Padding, Window, check_shape, spatial_axes

CONVENTIONS = ("torch", "onnx", "tensorflow", "chainer")


def check_argmax(argmax: Any, window: Window, backend: str | None = "numpy") -> None:
    """Refuse an argmax (in canonical form) that names a cell outside its window or a cell of padding.

    Not one on a card: to know, the caller would have to wait for it. Kernels there compare with it, and reach nowhere.
    """
    if isinstance(argmax, DeviceArray):
        return
    if argmax.size == 0 or kernel("argmax_fits", backend)(argmax, window):
        return
    if argmax.max() >= window.volume:
        raise ValueError(
            f"argmax must be below {window.volume}, the cells of a window of {window.kernel}, got {argmax.max()}; "
            "for another framework's indices see indices_to_argmax"
        )
    raise ValueError(
        "argmax names a cell of padding; it must come from the same kernel_size, stride, padding, "
        "dilation and ceil_mode as are given here"
    )


def _unfold_axes(a: np.ndarray, window: Window) -> np.ndarray:
    """An array of the shape of y as (N, C, OD, OH, OW)."""
    if window.channel_axis is not None:
        a = np.moveaxis(a, window.channel_axis, -1 - window.spatial_axes)
    return a.reshape(window.batch, window.channels, *window.out)


def _fold_axes(a: np.ndarray, window: Window) -> np.ndarray:
    """What `_unfold_axes` unfolded, in the shape of y again."""
    if window.channel_axis is None:
        return a.reshape(window.y_shape)
    leading = len(window.y_shape) - window.spatial_axes - 1
    channels_first = a.reshape((window.batch,) * leading + (window.channels,) + window.out[3 - window.spatial_axes :])
    return np.moveaxis(channels_first, leading, window.channel_axis)


def _along(values: Any, axis: int) -> np.ndarray:
    """One value for each window along an axis, shaped to meet (N, C, OD, OH, OW)."""
    return values.reshape([-1 if axis == i else 1 for i in range(3)])


def _padding_alone(window: Window) -> np.ndarray:
    """Which windows of a plane cover no real cell, (OD, OH, OW)."""
    alone = np.zeros(window.out, bool)
    for axis in range(3):
        taps = window.taps(axis)
        alone |= _along(((taps < 0) | (taps >= window.size[axis])).all(axis=1), axis)
    return alone


def _positions_of_offsets(offsets: np.ndarray, window: Window) -> np.ndarray:
    """Offsets (N, C, OD, OH, OW) inside windows as row-major positions inside planes; -1 for padding alone."""
    _countable(prod(window.size))
    flat = np.zeros(offsets.shape, np.int64)
    for axis in range(3):
        tap = offsets // window.volume_behind(axis) % window.kernel[axis]
        start = np.arange(window.out[axis]) * window.stride[axis] - window.before[axis]
        flat = flat * window.size[axis] + _along(start, axis) + tap * window.dilation[axis]
    return np.where(_padding_alone(window), -1, flat)


def _offsets_of_positions(positions: np.ndarray, window: Window) -> np.ndarray:
    """The inverse of `_positions_of_offsets`; ValueError for a position that its window does not cover."""
    rest, offsets, fits = positions, np.zeros(positions.shape, np.int64), np.ones(positions.shape, bool)
    for axis in (2, 1, 0):
        rest, cell = np.divmod(rest, window.size[axis])
        start = np.arange(window.out[axis]) * window.stride[axis] - window.before[axis]
        tap, between = np.divmod(cell - _along(start, axis), window.dilation[axis])
        fits &= (tap >= 0) & (tap < window.kernel[axis]) & (between == 0)
        offsets += tap * window.volume_behind(axis)
    alone = np.broadcast_to(_padding_alone(window), fits.shape)
    wrong = np.where(alone, positions != -1, ~fits)
    if wrong.any():
        raise ValueError(
            f"indices must lie in their own windows, but {positions[wrong][0]} does not; "
            "give the x_shape, kernel_size, stride, padding, dilation, ceil_mode and convention they were made with"
        )
    return np.where(alone, 0, offsets)


def _countable(cells: int) -> int:
    """A number of cells, which indices in int64 must be able to name."""
    if cells > 2**63:
        raise ValueError(f"x_shape must have no more cells than an index in int64 can name, 2**63, got {cells}")
    return cells


def _numbering(window: Window, convention: Any) -> tuple[int, int, np.ndarray | int]:
    """How a convention counts: (cells in its range, factor, base), index = position * factor + base of the channel."""
    plane, channel = _countable(prod(window.size)), np.arange(window.channels)[:, None, None, None]
    if convention == "torch":
        return plane, 1, 0
    if convention == "tensorflow":
        return _countable(plane * window.channels), window.channels, channel
    if convention == "onnx":
        image = np.arange(window.batch)[:, None, None, None, None]
        limit = _countable(plane * window.channels * window.batch)
        return limit, 1, (image * window.channels + channel) * plane
    raise ValueError(f"convention must be one of {', '.join(map(repr, CONVENTIONS))}, got {convention!r}")


def check_indices(indices: Any, window: Window, convention: Any) -> None:
    """Refuse indices of another dtype or shape than those of a framework for this window."""
    if indices.dtype.kind not in "iu":
        raise TypeError(f"indices must be integers, got {indices.dtype}")
    if indices.shape != window.y_shape:
        raise ValueError(f"indices must have the shape {window.y_shape} of the pooled array, got {indices.shape}")
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(map(repr, CONVENTIONS))}, got {convention!r}")


def positions_of_indices(indices: Any, window: Window, convention: Any) -> np.ndarray:
    """A framework's indices, in the shape of y, as positions inside planes; -1 for none. Checked."""
    check_indices(indices, window, convention)
    if indices.dtype.kind == "u" and indices.size and indices.max() >= 2**63:
        raise ValueError(f"indices must name cells of their own plane, got {indices.max()}, beyond an int64")
    unfolded = _unfold_axes(indices.astype(np.int64), window)
    if convention == "chainer":
        limit, wrong = window.volume, (unfolded < 0) | (unfolded >= window.volume)
        if not wrong.any():
            check_argmax(unfolded.astype(window.argmax_dtype).reshape(-1, *window.out, 1), window)
            positions = _positions_of_offsets(unfolded, window)
    else:
        limit, factor, base = _numbering(window, convention)
        positions, remainder = np.divmod(unfolded - base, factor)
        none = unfolded == -1
        wrong = ~none & ((remainder != 0) | (positions < 0) | (positions >= prod(window.size)))
        positions = np.where(none, -1, positions)
    if wrong.any():
        raise ValueError(
            f"indices must name cells of their own plane, from 0 below {limit} as {convention} counts, "
            f"got {unfolded[wrong][0]}"
        )
    return _fold_axes(positions, window)


def _in_main_memory(name: str, a: Any) -> None:
    if isinstance(a, DeviceArray):
        raise TypeError(f"{name} must lie in main memory to be converted, got one on {arrays.place(a)}; bring it there")


def _window_of(x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format) -> Window:
    x_shape = check_shape("x_shape", x_shape)
    axes = spatial_axes(x_shape, kernel_size)
    return Window.plan(axes, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)


def argmax_to_indices(
    argmax: Any,
    x_shape: tuple[int, ...],
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: Padding = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
    *,
    convention: str = "torch",
    data_format: str = "channels_first",
) -> np.ndarray:
    """fastpool's argmax as the indices that another framework would give.

    Parameters
    ----------
    argmax : array of the shape of `y`, as `max_pool2d` and its siblings returned it
    x_shape : tuple of int
        The shape of the pooled input, with batch and channels. Where `kernel_size` is a tuple, which tells the
        number of spatial axes, they may be missing.
    kernel_size, stride, padding, dilation, ceil_mode, data_format
        As in the forward pass.
    convention : str
        - "torch": `(d * H + h) * W + w`, the position in the plane, as `torch.nn.functional.max_pool2d`
        - "onnx": the position in the whole array of shape (N, C, D, H, W), as the operator MaxPool
        - "tensorflow": `((d * H + h) * W + w) * C + c`, the position in the image with the channels last, as
          `tf.nn.max_pool_with_argmax`
        - "chainer": the offset in the window, as fastpool's own, but in int64

    Returns
    -------
    int64 array of the shape of `argmax`
        -1 for windows of padding alone (0 for "chainer").

    Raises
    ------
    ValueError
        For an argmax that does not come from this window, and where a cell's index would be 2**63 or more.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.array([[[[1, 2, 3], [4, 5, 6], [9, 8, 7]]]])
    >>> y, argmax = fp.max_pool2d(x, 2, stride=1, return_argmax=True)
    >>> fp.argmax_to_indices(argmax, x.shape, 2, stride=1, convention="torch")
    array([[[[4, 5],
             [6, 7]]]])
    """
    window = _window_of(x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    given = argmax
    argmax = arrays.like("argmax", argmax, window.y_shape, window.argmax_dtype, "this window's forward pass")
    _in_main_memory("argmax", argmax)
    offsets = _unfold_axes(argmax, window).astype(np.int64)
    check_argmax(_unfold_axes(argmax, window).reshape(-1, *window.out, 1), window)
    if convention == "chainer":
        return arrays.as_given(_fold_axes(offsets, window), given)
    _, factor, base = _numbering(window, convention)
    positions = _positions_of_offsets(offsets, window)
    return arrays.as_given(_fold_axes(np.where(positions < 0, -1, positions * factor + base), window), given)


def indices_to_argmax(
    indices: Any,
    x_shape: tuple[int, ...],
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: Padding = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
    *,
    convention: str = "torch",
    data_format: str = "channels_first",
) -> np.ndarray:
    """Another framework's indices as fastpool's argmax: the inverse of `argmax_to_indices`.

    Parameters
    ----------
    indices : integer array of the shape of `y`
    x_shape, kernel_size, stride, padding, dilation, ceil_mode, convention, data_format
        As in `argmax_to_indices`.

    Returns
    -------
    array of the shape of `indices` in uint8, uint16 or uint32

    Raises
    ------
    TypeError
        For indices that are not integers.
    ValueError
        For an index that does not lie in its own window.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.indices_to_argmax(np.array([[[[4, 5], [6, 7]]]]), (1, 1, 3, 3), 2, stride=1)
    array([[[[3, 3],
             [2, 2]]]], dtype=uint8)
    """
    window = _window_of(x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    given, indices = indices, arrays.read("indices", indices)
    _in_main_memory("indices", indices)
    positions = _unfold_axes(positions_of_indices(indices, window, convention), window)
    offsets = _offsets_of_positions(positions, window).astype(window.argmax_dtype)
    return arrays.as_given(_fold_axes(offsets, window), given)
