"""The canonical form of arrays: how inputs are brought into it, and where results in it go.

Kernels take arrays in canonical form: of shape `(outer, D, H, W, inner)`, C-contiguous, in native byte order. An array
whose channels lie before its spatial axes in memory has outer = N * C and inner = 1; one whose channels lie last has
outer = N and inner = C. Lower modules do not know the caller's data_format.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool.arrays import Array, empty
from fastpool.device_arrays import DeviceArray
from fastpool.dtypes import native
from fastpool.window import Window


def channels_last_in_memory(x: Any, window: Window) -> bool:
    """Whether the channels lie after the spatial axes in memory, whatever the data_format says."""
    axis = window.channel_axis
    if axis is None or window.channels == 1:
        return False
    space = [a for a in range(x.ndim) if a != axis][-window.spatial_axes :]
    # The stride of an axis of size 1 means nothing: the last spatial axis with more cells decides.
    last = next((a for a in reversed(space) if x.shape[a] > 1), None)
    if last is None:
        return _strides_of_channels_last(x, window)
    if x.flags.c_contiguous:
        return axis == x.ndim - 1
    return abs(x.strides[axis]) < abs(x.strides[last])


def _strides_of_channels_last(x: Any, window: Window) -> bool:
    """Whether the strides, those of axes of size 1 included, are those of an array with its channels last.

    It is the rule by which PyTorch chooses the memory format of results (ATen's `suggest_memory_format`).
    """
    axis: int = window.channel_axis  # type: ignore[assignment]
    others = [a for a in range(x.ndim) if a != axis]
    batch = others[: -window.spatial_axes]
    least = 0
    for a in (axis, *reversed(others)):
        # One channel of images of one cell, where all strides are the same, may be either: it counts as channels first.
        if x.strides[a] < least or (a in batch and least == x.strides[axis]):
            return False
        least = x.strides[a] * x.shape[a]
    return x.strides[axis] > 0


def outer_and_inner(window: Window, channels_last: bool) -> tuple[int, int]:
    """The first and the last size of the canonical shape."""
    return (window.batch, window.channels) if channels_last else (window.batch * window.channels, 1)


def canonical_shape(window: Window, channels_last: bool, size: tuple[int, int, int]) -> tuple[int, ...]:
    """The canonical shape of an array with these spatial sizes."""
    outer, inner = outer_and_inner(window, channels_last)
    return (outer, *size, inner)


def _order(window: Window, ndim: int, channels_last: bool) -> tuple[int, ...]:
    """The axes of the caller's array in canonical order."""
    axes, channels = list(range(ndim)), window.channel_axis
    if channels is not None and channels_last != (channels == ndim - 1):
        axes.remove(channels)
        axes.insert(ndim - 1 if channels_last else ndim - 1 - window.spatial_axes, channels)
    return tuple(axes)


def _zeros_and_ones(x: np.ndarray) -> np.ndarray:
    """A bool array whose bytes are 0 and 1: kernels compare bytes, and to NumPy any but 0 is True."""
    stored = x.view(np.uint8)
    return x if x.size == 0 or stored.max() <= 1 else stored != 0


class Operand:
    """How an input becomes C-contiguous, aligned and native, in the shape that a kernel takes."""

    __slots__ = ("axes", "canonical_shape", "copied_as", "is_bool", "reshaped_to")

    def __init__(
        self,
        reshaped_to: tuple[int, ...] | None,  # another shape, before all else
        axes: tuple[int, ...] | None,  # from the slowest to the fastest in memory
        copied_as: np.dtype | None,  # where it is not yet contiguous, aligned and native
        canonical_shape: tuple[int, ...] | None,
        is_bool: bool,
    ) -> None:
        self.reshaped_to, self.axes, self.copied_as = reshaped_to, axes, copied_as
        self.canonical_shape, self.is_bool = canonical_shape, is_bool

    def __call__(self, x: Any) -> Any:
        if self.is_bool:
            x = _zeros_and_ones(x)
        if self.reshaped_to is not None:
            x = x.reshape(self.reshaped_to)
        if self.axes is not None:
            x = x.transpose(self.axes)
        if self.copied_as is not None:
            x = x.compact() if isinstance(x, DeviceArray) else np.array(x, self.copied_as, order="C", copy=True)
        return x if self.canonical_shape is None else x.reshape(self.canonical_shape)


def operand(
    x: Array,
    axes: tuple[int, ...] | None = None,
    canonical_shape: tuple[int, ...] | None = None,
    reshaped_to: tuple[int, ...] | None = None,
) -> Operand | None:
    """How arrays of the shape, strides and dtype of `x` become canonical: as views where possible, else by one copy.

    None where kernels take them as they are.
    """
    view = x if reshaped_to is None else x.reshape(reshaped_to)
    if axes is not None and axes == tuple(range(view.ndim)):
        axes = None
    view = view if axes is None else view.transpose(axes)
    ready = view.flags.c_contiguous and view.flags.aligned and view.dtype.isnative
    is_bool = x.dtype.kind == "b" and isinstance(x, np.ndarray)
    if ready and not is_bool and reshaped_to is axes is canonical_shape is None:
        return None
    return Operand(reshaped_to, axes, None if ready else native(x.dtype), canonical_shape, is_bool)


def canonical(x: Any, window: Window, channels_last: bool, size: tuple[int, int, int]) -> Any:
    """`x` in the form (outer, D, H, W, inner): a view if its memory allows, else its one copy."""
    made = operand(x, _order(window, x.ndim, channels_last), canonical_shape(window, channels_last, size))
    return x if made is None else made(x)


class Target:
    """Where a result goes: `user` is the array to return, `canonical` the array that a kernel fills.

    The canonical array is copied to `write_back` where a kernel cannot write there.
    """

    __slots__ = ("canonical", "user", "write_back")

    def __init__(self, user: Any, canonical: Any, write_back: Any = None) -> None:
        self.user, self.canonical, self.write_back = user, canonical, write_back

    def done(self) -> Any:
        if self.write_back is not None:
            result = self.canonical.reshape(self.write_back.shape)
            if isinstance(self.write_back, DeviceArray):
                self.write_back.assign(result)
            else:
                self.write_back[...] = result
        return self.user


class Result(NamedTuple):
    """How a result is allocated, or written to the caller's `out`."""

    shape: tuple[int, ...]
    dtype: np.dtype
    axes: tuple[int, ...] | None = None  # of a new array, from the slowest to the fastest in memory
    out_axes: tuple[int, ...] | None = None  # of `out`, in the order of the canonical axes
    canonical_shape: tuple[int, ...] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether kernels fill a new array as the caller gets it."""
        return self.axes is None and self.canonical_shape is None

    def new(self, like: Array) -> Target:
        """A new array on the device of `like`."""
        if self.axes is None:
            user = fresh = empty(self.shape, self.dtype, like)
        else:
            fresh = empty(tuple([self.shape[axis] for axis in self.axes]), self.dtype, like)
            user = fresh.transpose(tuple([self.axes.index(axis) for axis in range(len(self.axes))]))
        return Target(user, fresh if self.canonical_shape is None else fresh.reshape(self.canonical_shape))

    def within(self, out: Array, user: Any) -> Target:
        """The caller's array `user`, of which `fastpool.out` has checked the view `out`."""
        view = out if self.out_axes is None else out.transpose(self.out_axes)
        ready = view.flags.c_contiguous and view.flags.aligned and view.dtype.isnative
        shape = view.shape if self.canonical_shape is None else self.canonical_shape
        if ready:
            return Target(user, view.reshape(shape))
        return Target(user, empty(shape, self.dtype, out), view)


def source(
    x: Array,
    window: Window,
    channels_last: bool,
    size: tuple[int, int, int],
    any_shape: bool,
    reshaped_to: tuple[int, ...] | None = None,
) -> Operand | None:
    """The operand of an array of windows or of what they slide over, whose canonical spatial sizes are `size`.

    With `any_shape`, the kernel takes contiguous arrays of any shape.
    """
    axes = _order(window, x.ndim if reshaped_to is None else len(reshaped_to), channels_last)
    return operand(x, axes, None if any_shape else canonical_shape(window, channels_last, size), reshaped_to)


def result(
    window: Window,
    channels_last: bool,
    shape: tuple[int, ...],
    size: tuple[int, int, int],
    dtype: np.dtype,
    like: Array,
    any_shape: bool,
) -> Result:
    """A result of the caller's `shape`, in the memory order of the input `like`."""
    out_axes = _order(window, len(shape), channels_last)
    if window.channels == 1:  # in memory there is no difference, but PyTorch gives its results such strides
        channels_last = window.channel_axis == len(shape) - 1 or (
            window.spatial_axes > 1
            and like.ndim == len(shape) == window.spatial_axes + 2
            and _strides_of_channels_last(like, window)
        )
    axes, identity = _order(window, len(shape), channels_last), tuple(range(len(shape)))
    return Result(
        shape,
        dtype,
        None if axes == identity else axes,
        None if out_axes == identity else out_axes,
        None if any_shape else canonical_shape(window, channels_last, size),
    )


def memory_axes(x: Any) -> tuple[int, ...]:
    """The axes of `x` from the slowest to the fastest in memory; in their order where `x` is C-contiguous."""
    if x.flags.c_contiguous:
        return tuple(range(x.ndim))
    return tuple(sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis])))


def boxes(shape: tuple[int, ...], most: int) -> Iterator[tuple[slice, ...]]:
    """Slices that cut a C-contiguous array into contiguous parts of at most `most` elements, in their order."""
    axis = next(i for i in range(len(shape)) if prod(shape[i + 1 :]) <= most)
    step = max(most // max(prod(shape[axis + 1 :]), 1), 1)
    whole = tuple(slice(0, n) for n in shape[axis + 1 :])
    for index in np.ndindex(*shape[:axis]):
        before = tuple(slice(i, i + 1) for i in index)
        for start in range(0, shape[axis], step):
            yield (*before, slice(start, min(start + step, shape[axis])), *whole)
