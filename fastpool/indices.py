"""Where a maximum was: the argmax of fastpool, and the indices of four frameworks.

An argmax is an offset inside its window, so it needs no more than a byte and does not depend on the layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from fastpool import arrays, forms
from fastpool.arguments import check_shape, one_of
from fastpool.device_arrays import DeviceArray
from fastpool.type_hints import Padding, Size
from fastpool.window import Window, along, spatial_axes

CONVENTIONS = ("torch", "onnx", "tensorflow", "tensorflow_with_batch", "chainer")
# Of max_unpool alone: as ONNX's own operator MaxUnpool counts, in the default of `output_shape` whatever that is.
ONNX_DEFAULT_SHAPE = "onnx_default_shape"


def check_argmax(argmax: Any, window: Window, backend: ModuleType, name: str) -> None:
    """Refuse an argmax (in canonical form) that names a cell outside its window or a cell of padding.

    Not one on a GPU: the caller would have to wait for it. Kernels there drop what an invalid offset would send.
    """
    if not isinstance(argmax, DeviceArray) and argmax.size and not backend.argmax_fits(argmax, window):
        raise invalid_argmax(argmax, window, name)


def invalid_argmax(argmax: np.ndarray, window: Window, name: str) -> ValueError:
    if argmax.max() >= window.volume:
        return ValueError(
            f"{name} must be below {window.volume}, the cells of a window of {window.kernel}, got {argmax.max()}; "
            "for another framework's indices see indices_to_argmax"
        )
    return ValueError(
        f"{name} names a cell of padding; it must come from the same kernel_size, stride, padding, "
        "dilation and ceil_mode as are given here"
    )


# So many indices are converted at once: it takes some arrays of as many int64, and these eight times the bytes of most
# argmax. A block is six slices, of an array as `_ordered` gives it.
BLOCK = 1 << 15

Block = tuple[slice, ...]


def _ordered(a: np.ndarray, window: Window, channels_last: bool) -> np.ndarray:
    """An array of the shape of y as (N, C, OD, OH, OW, 1), or with `channels_last` as (N, 1, OD, OH, OW, C): a view."""
    if window.channel_axis is not None:
        a = np.moveaxis(a, window.channel_axis, -1 if channels_last else -1 - window.spatial_axes)
    channels = (1, *window.out, window.channels) if channels_last else (window.channels, *window.out, 1)
    return a.reshape(window.batch, *channels)


def _blocks(window: Window, channels_last: bool) -> Iterator[Block]:
    """Of windows in their order, and each with all the channels that lie inside."""
    outer, inner = (1, window.channels) if channels_last else (window.channels, 1)
    for block in forms.boxes((window.batch, outer, *window.out), max(BLOCK // max(inner, 1), 1)):
        yield (*block, slice(0, inner))


def _starts(window: Window, axis: int, block: Block) -> np.ndarray:
    windows = block[2 + axis]
    starts = np.arange(windows.start, windows.stop) * window.stride[axis] - window.before[axis]
    return along(starts, axis)[..., None]


def _real_taps(window: Window, axis: int, block: Block) -> tuple[np.ndarray, np.ndarray]:
    first, end = window.real_taps(axis, block[2 + axis])
    return along(first, axis)[..., None], along(end, axis)[..., None]


def _padding_alone(window: Window, block: Block) -> np.ndarray:
    """Which windows of a block cover no real cell, (OD, OH, OW, 1)."""
    return window.padding_alone(*block[2:5])[..., None]


def _divmod(a: np.ndarray, divisor: int) -> tuple[np.ndarray, np.ndarray]:
    """As np.divmod, which divides each element by itself: NumPy's // by one divisor is vectorised."""
    quotient = a // divisor
    return quotient, a - quotient * divisor


def positions_of_offsets(offsets: np.ndarray, window: Window, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Offsets inside the windows of a block as row-major positions inside planes, -1 for padding alone.

    And which of them are those of a real cell, or 0 in a window of padding alone.
    """
    offsets = offsets.astype(np.int64)
    row, kw = _divmod(offsets, window.kernel[2])
    kd, kh = _divmod(row, window.kernel[1])
    positions, real = np.zeros(offsets.shape, np.int64), np.ones(offsets.shape, bool)
    for axis, tap in enumerate((kd, kh, kw)):
        first, end = _real_taps(window, axis, block)
        real &= (first <= tap) & (tap < end)
        positions = positions * window.size[axis] + _starts(window, axis, block) + tap * window.dilation[axis]
    alone = _padding_alone(window, block)
    return np.where(alone, -1, positions), np.where(alone, offsets == 0, real)


def _offsets_of_positions(positions: np.ndarray, window: Window, block: Block) -> np.ndarray:
    """The inverse of `positions_of_offsets`; ValueError for a position that its window does not cover."""
    rest, offsets, fits = positions, np.zeros(positions.shape, np.int64), np.ones(positions.shape, bool)
    for axis in (2, 1, 0):
        rest, cell = _divmod(rest, window.size[axis])
        tap, between = _divmod(cell - _starts(window, axis, block), window.dilation[axis])
        fits &= (tap >= 0) & (tap < window.kernel[axis]) & (between == 0)
        offsets += tap * window.argmax_stride(axis)
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


def _limit(window: Window, convention: str) -> int:
    """How far a convention counts."""
    plane = _countable(prod(window.size))
    all_planes = window.batch * window.channels
    planes = {"torch": 1, "tensorflow": window.channels, "tensorflow_with_batch": all_planes, "onnx": all_planes}
    return _countable(plane * planes[convention])


def _numbering(window: Window, convention: str, block: Block) -> tuple[int, np.ndarray | int]:
    """How a convention counts in a block: (factor, base), index = position * factor + base of the channel."""
    if convention == "torch":
        return 1, 0
    images, outer, *_, inner = (np.arange(some.start, some.stop) for some in block)
    images, channels = images[:, None, None, None, None, None], outer[:, None, None, None, None] + inner
    if convention == "tensorflow":
        return window.channels, channels
    if convention == "tensorflow_with_batch":
        return window.channels, images * prod(window.size) * window.channels + channels
    return 1, (images * window.channels + channels) * prod(window.size)


def check_convention(convention: Any, *others: str) -> str:
    return one_of("convention", convention, (*CONVENTIONS, *others))


def check_indices(indices: Any, window: Window) -> None:
    """Refuse indices of another dtype or shape than those of a framework for this window."""
    if indices.dtype.kind not in "iu":
        raise TypeError(f"indices must be integers, got {indices.dtype}")
    arrays.expect_shape("indices", indices, window.y_shape, "the pooled array")


def _not_of_its_plane(index: Any, limit: int, convention: str, place: str = "") -> ValueError:
    return ValueError(
        f"indices must name cells of their own plane, from 0 below {limit} as {convention} counts, got {index}{place}"
    )


def check_range(indices: np.ndarray, window: Window, convention: str) -> None:
    """Refuse indices beyond those that a convention has: for "torch" all that are invalid."""
    lowest, limit = (0, window.volume) if convention == "chainer" else (-1, _limit(window, convention))
    if indices.size:
        least, most = int(indices.min()), int(indices.max())
        if least < lowest or most >= limit:
            raise _not_of_its_plane(most if most >= limit else least, limit, convention)


def _positions(indices: np.ndarray, window: Window, convention: str, block: Block) -> np.ndarray:
    """A block of a framework's indices as positions inside planes; -1 for none. Checked."""
    indices = indices.astype(np.int64, order="C")
    if convention == "chainer":
        limit = window.volume
        positions, fits = positions_of_offsets(indices, window, block)
    else:
        limit = _limit(window, convention)
        factor, base = _numbering(window, convention, block)
        cells, remainder = _divmod(indices - base, factor)
        none = indices == -1
        fits = none | ((remainder == 0) & (cells >= 0) & (cells < prod(window.size)))
        positions = np.where(none, -1, cells)
    if not fits.all():
        place = ", a cell of padding" if convention == "chainer" else ", a cell of another plane"
        raise _not_of_its_plane(indices[~fits][0], limit, convention, place)
    return positions


def check_positions(indices: np.ndarray, window: Window, convention: str, channels_last: bool) -> None:
    """Refuse indices that `check_range` lets pass, of cells in another plane or in the padding."""
    if convention != "torch":
        ordered = _ordered(indices, window, channels_last)
        for block in _blocks(window, channels_last):
            _positions(ordered[block], window, convention, block)


def picked(cells: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    """What `cells` hold at these positions along an axis; 0 for -1."""
    found = np.take_along_axis(cells, np.maximum(positions, 0), axis)
    return np.where(positions < 0, 0, found)


def values_with_positions(
    y: np.ndarray, indices: np.ndarray, window: Window, convention: str, channels_last: bool
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Parts of canonical values with the positions that indices give them inside planes, and which planes these are."""
    ordered = _ordered(indices, window, channels_last)
    flags = ordered.flags
    if convention == "torch" and ordered.dtype == np.int64 and flags.c_contiguous and flags.aligned:
        yield slice(None), y, ordered.reshape(y.shape)
        return
    values = y.reshape(ordered.shape)
    for block in _blocks(window, channels_last):
        images, outer, *_ = block
        positions = _positions(ordered[block], window, convention, block)
        first = images.start * ordered.shape[1] + outer.start
        count = (images.stop - images.start) * (outer.stop - outer.start)
        shape = (count, *ordered[block].shape[2:])
        yield slice(first, first + count), values[block].reshape(shape), positions.reshape(shape)


def _window_of(x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format) -> Window:
    x_shape = check_shape("x_shape", x_shape)
    axes = spatial_axes(x_shape, kernel_size)
    return Window.plan(axes, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)


def argmax_to_indices(
    argmax: Any,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    convention: str = "torch",
    data_format: str = "channels_first",
) -> Any:
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
        - "tensorflow_with_batch": the position in the whole array with the channels last, as the same function with
          `include_batch_in_index=True`
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
    original = argmax
    argmax = arrays.expect("argmax", argmax, window.y_shape, window.argmax_dtype, "this window's forward pass")
    arrays.in_main_memory("argmax", argmax, "converted")
    if check_convention(convention) != "chainer":
        _limit(window, convention)
    channels_last = forms.channels_last_in_memory(argmax, window)
    indices = np.empty(window.y_shape, np.int64)
    offsets, found = _ordered(argmax, window, channels_last), _ordered(indices, window, channels_last)
    for block in _blocks(window, channels_last):
        positions, fits = positions_of_offsets(offsets[block], window, block)
        if not fits.all():
            raise invalid_argmax(argmax, window, "argmax")
        if convention == "chainer":
            found[block] = offsets[block]
            continue
        factor, base = _numbering(window, convention, block)
        found[block] = np.where(positions < 0, -1, positions * factor + base)
    return arrays.to_library(indices, original)


def indices_to_argmax(
    indices: Any,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    convention: str = "torch",
    data_format: str = "channels_first",
) -> Any:
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
    original, indices = indices, arrays.read("indices", indices)
    arrays.in_main_memory("indices", indices, "converted")
    check_indices(indices, window)
    convention = check_convention(convention)
    check_range(indices, window, convention)
    channels_last = forms.channels_last_in_memory(indices, window)
    argmax = np.empty(window.y_shape, window.argmax_dtype)
    ordered, found = _ordered(indices, window, channels_last), _ordered(argmax, window, channels_last)
    for block in _blocks(window, channels_last):
        positions = _positions(ordered[block], window, convention, block)
        found[block] = _offsets_of_positions(positions, window, block)
    return arrays.to_library(argmax, original)
