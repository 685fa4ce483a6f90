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
from fastpool.window import Padding, Window, along, check_shape, spatial_axes

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
    """An array of the shape of y as (N, C, OD, OH, OW): a view."""
    if window.channel_axis is not None:
        a = np.moveaxis(a, window.channel_axis, -1 - window.spatial_axes)
    return a.reshape(window.batch, window.channels, *window.out)


# Indices are converted in blocks, which are slices of (N, C, OD, OH, OW): int64 has eight times the bytes of an argmax.
BLOCK = 1 << 16


def _starts(window: Window, axis: int, block: tuple[slice, ...]) -> np.ndarray:
    windows = block[2 + axis]
    starts = np.arange(windows.start, windows.stop) * window.stride[axis] - window.before[axis]
    return along(starts, axis)


def _padding_alone(window: Window, block: tuple[slice, ...]) -> np.ndarray:
    """Which windows of a block cover no real cell, (OD, OH, OW)."""
    alone: Any = False
    for axis in range(3):
        first, end = window.real_taps(axis, block[2 + axis])
        alone = alone | along(first >= end, axis)
    return alone


def _positions_of_offsets(offsets: np.ndarray, window: Window, block: tuple[slice, ...]) -> np.ndarray:
    """Offsets inside the windows of a block as row-major positions inside planes; -1 for padding alone."""
    offsets = offsets.astype(np.int64)
    flat = np.zeros(offsets.shape, np.int64)
    for axis in range(3):
        tap = offsets // window.volume_behind(axis) % window.kernel[axis]
        flat = flat * window.size[axis] + _starts(window, axis, block) + tap * window.dilation[axis]
    return np.where(_padding_alone(window, block), -1, flat)


def _offsets_of_positions(positions: np.ndarray, window: Window, block: tuple[slice, ...]) -> np.ndarray:
    """The inverse of `_positions_of_offsets`; ValueError for a position that its window does not cover."""
    rest, offsets, fits = positions, np.zeros(positions.shape, np.int64), np.ones(positions.shape, bool)
    for axis in (2, 1, 0):
        rest, cell = np.divmod(rest, window.size[axis])
        tap, between = np.divmod(cell - _starts(window, axis, block), window.dilation[axis])
        fits &= (tap >= 0) & (tap < window.kernel[axis]) & (between == 0)
        offsets += tap * window.volume_behind(axis)
    alone = np.broadcast_to(_padding_alone(window, block), fits.shape)
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


def _limit(window: Window, convention: Any) -> int:
    """How far a convention counts."""
    plane = _countable(prod(window.size))
    planes = {"torch": 1, "tensorflow": window.channels, "onnx": window.batch * window.channels}
    if convention not in planes:
        raise ValueError(f"convention must be one of {', '.join(map(repr, CONVENTIONS))}, got {convention!r}")
    return _countable(plane * planes[convention])


def _numbering(window: Window, convention: str, block: tuple[slice, ...]) -> tuple[int, np.ndarray | int]:
    """How a convention counts in a block: (factor, base), index = position * factor + base of the channel."""
    images, channels = (np.arange(some.start, some.stop) for some in block[:2])
    if convention == "torch":
        return 1, 0
    if convention == "tensorflow":
        return window.channels, channels[:, None, None, None]
    planes = images[:, None] * window.channels + channels
    return 1, planes[:, :, None, None, None] * prod(window.size)


def check_indices(indices: Any, window: Window, convention: Any) -> None:
    """Refuse indices of another dtype or shape than those of a framework for this window."""
    if indices.dtype.kind not in "iu":
        raise TypeError(f"indices must be integers, got {indices.dtype}")
    if indices.shape != window.y_shape:
        raise ValueError(f"indices must have the shape {window.y_shape} of the pooled array, got {indices.shape}")
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(map(repr, CONVENTIONS))}, got {convention!r}")


def _not_of_its_plane(index: Any, limit: int, convention: str) -> ValueError:
    return ValueError(
        f"indices must name cells of their own plane, from 0 below {limit} as {convention} counts, got {index}"
    )


def positions_of_indices(indices: Any, window: Window, convention: Any) -> np.ndarray:
    """A framework's indices, in the shape of y, as positions inside planes; -1 for none. Checked."""
    check_indices(indices, window, convention)
    if indices.dtype.kind == "u" and indices.size and indices.max() >= 2**63:
        raise ValueError(f"indices must name cells of their own plane, got {indices.max()}, beyond an int64")
    positions = np.empty(window.y_shape, np.int64)
    given, found = _unfold_axes(indices, window), _unfold_axes(positions, window)
    limit = window.volume if convention == "chainer" else _limit(window, convention)
    if convention == "chainer" and indices.size:
        least, most = indices.min(), indices.max()
        if least < 0 or most >= limit:
            raise _not_of_its_plane(least if least < 0 else most, limit, convention)
        check_argmax(given.astype(window.argmax_dtype).reshape(-1, *window.out, 1), window)
    for block in arrays.boxes(given.shape, BLOCK):
        some = given[block].astype(np.int64)
        if convention == "chainer":
            found[block] = _positions_of_offsets(some, window, block)
            continue
        factor, base = _numbering(window, convention, block)
        cells, remainder = np.divmod(some - base, factor)
        none = some == -1
        wrong = ~none & ((remainder != 0) | (cells < 0) | (cells >= prod(window.size)))
        if wrong.any():
            raise _not_of_its_plane(some[wrong][0], limit, convention)
        found[block] = np.where(none, -1, cells)
    return positions


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
    offsets = _unfold_axes(argmax, window)
    check_argmax(offsets.reshape(-1, *window.out, 1), window)
    if convention == "chainer":
        return arrays.as_given(argmax.astype(np.int64), given)
    _limit(window, convention)
    indices = np.empty(window.y_shape, np.int64)
    found = _unfold_axes(indices, window)
    for block in arrays.boxes(offsets.shape, BLOCK):
        factor, base = _numbering(window, convention, block)
        positions = _positions_of_offsets(offsets[block], window, block)
        found[block] = np.where(positions < 0, -1, positions * factor + base)
    return arrays.as_given(indices, given)


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
    argmax = np.empty(window.y_shape, window.argmax_dtype)
    found = _unfold_axes(argmax, window)
    for block in arrays.boxes(positions.shape, BLOCK):
        found[block] = _offsets_of_positions(positions[block], window, block)
    return arrays.as_given(argmax, given)
