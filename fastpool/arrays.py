"""What comes in and goes out: array libraries, memory order.

Kernels take arrays in canonical form: of shape `(outer, D, H, W, inner)`, C-contiguous, in native byte order. An array
whose channels lie before its spatial axes in memory has outer = N * C and inner = 1; one whose channels lie last has
outer = N and inner = C. Lower modules do not know the caller's data_format.

Arrays of other libraries are read by `fastpool.interop`: as NumPy arrays, or as device arrays on a GPU. What NumPy
alone can convert, such as images of Pillow and arrays of xarray, is read as NumPy reads it.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool.device_arrays import DeviceArray
from fastpool.dtypes import is_float, native, supported
from fastpool.interop import converted, converts_to_numpy, library_of
from fastpool.window import Window

Array = np.ndarray | DeviceArray


def read(name: str, x: Any, floats_only: bool = False) -> Any:
    """`x`, an array or what NumPy makes one, as a plain NumPy or device array; a TypeError for another dtype."""
    if type(x) is not np.ndarray and not isinstance(x, DeviceArray):
        x = _as_numpy(name, x)
    if x.dtype.metadata is not None and isinstance(x, np.ndarray):
        x = x.view(_plain(x.dtype))
    check_dtype(name, x.dtype, floats_only)
    return x


def check_dtype(name: str, dtype: np.dtype, floats_only: bool = False) -> None:
    """Raise TypeError for a dtype that is not supported."""
    if floats_only:
        if not is_float(dtype):
            raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {dtype}")
    elif not supported(dtype):
        raise TypeError(
            f"{name} must be bool, an integer, float16, bfloat16 (ml_dtypes), float32 or float64, got {dtype}"
        )


def read_images(name: str, x: Any) -> Any:
    """`x` as an array that must have four axes."""
    x = read(name, x)
    if x.ndim != 4:
        raise ValueError(f"{name} must have shape (N, C, H, W), got {x.shape}")
    return x


def _zeros_and_ones(x: np.ndarray) -> np.ndarray:
    """A bool array whose bytes are 0 and 1: kernels compare bytes, and to NumPy any but 0 is True."""
    stored = x.view(np.uint8)
    return x if x.size == 0 or stored.max() <= 1 else stored != 0


def _as_numpy(name: str, x: Any) -> Array:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array; fill it first, for instance with {name}.filled(value)")
    if isinstance(x, (np.ndarray, np.generic, int, float)):
        return np.asarray(x)
    if isinstance(x, (list, tuple)):
        return _array_of(name, x)
    library = library_of(x)
    if library is not None:
        return library.read(name, x)
    if converts_to_numpy(x):
        return _as_numpy(name, converted(name, x))
    came = f"{type(x).__module__}.{type(x).__qualname__}"
    raise TypeError(f"{name} must be an array, got {came}; convert it first, for instance with numpy.asarray")


def _array_of(name: str, x: list[Any] | tuple[Any, ...]) -> np.ndarray:
    """A sequence, nested or not, as an array."""
    pending, seen = [x], set()
    while pending:
        items = pending.pop()
        types = {*map(type, items)}
        if any(issubclass(each, np.ma.MaskedArray) for each in types):
            raise TypeError(f"{name} must not hold masked arrays, whose masks would be lost; fill them first")
        if id(items) not in seen and any(issubclass(each, (list, tuple)) for each in types):
            pending += [item for item in items if isinstance(item, (list, tuple))]
        seen.add(id(items))  # a list may hold itself
    try:
        return np.asarray(x)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be an array, or nested sequences of the same lengths: {error}") from error


def to_library(result: Any, original: Any, out: Any = None) -> Any:
    """A result, or a tuple of them, as arrays of the library of `original`; what was written to `out` is `out`."""
    if isinstance(result, tuple):
        outs = out if isinstance(out, tuple) else (out,) + (None,) * (len(result) - 1)
        return tuple(to_library(r, original, one) for r, one in zip(result, outs, strict=True))
    if out is not None:
        if not isinstance(out, np.ndarray) and (library := library_of(out)) is not None:
            library.written(out)
        return out
    library = None if isinstance(original, (np.ndarray, np.generic)) else library_of(original)
    if library is None:
        return result
    return result.to_library() if isinstance(result, DeviceArray) else library.from_numpy(result, original)


def empty(shape: tuple[int, ...], dtype: np.dtype, like: Array) -> Any:
    """A new array on the device of `like`."""
    return np.empty(shape, dtype) if isinstance(like, np.ndarray) else like.empty(shape, dtype)


def expect(
    name: str, x: Any, shape: tuple[int, ...], dtype: np.dtype, of: str, same_device_as: Array | None = None
) -> Any:
    """`x` as an array that must have this shape and dtype (in either byte order), as `of` prescribes.

    It must lie on the device of `same_device_as`, where that is given.
    """
    x = read(name, x)
    if same_device_as is not None and x.device != same_device_as.device:
        raise ValueError(
            f"{name} must lie where the other arrays do, on {device_name(same_device_as)}, got one on {device_name(x)}"
        )
    expect_shape(name, x, shape, of)
    if x.dtype != dtype and x.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{name} must have the dtype {dtype} of {of}, got {x.dtype}")
    return x


def expect_shape(name: str, x: Any, shape: tuple[int, ...], of: str) -> None:
    """Raise ValueError unless `x` has this shape, as `of` prescribes."""
    if x.shape != shape:
        raise ValueError(f"{name} must have the shape {shape} of {of}, got {x.shape}")


def device_name(a: Array) -> str:
    """The device of an array, for messages."""
    return "the CPU" if isinstance(a, np.ndarray) else f"CUDA device {a.device}"


def in_main_memory(name: str, x: Any, purpose: str) -> np.ndarray:
    """`x`, or a TypeError that says what it must lie in main memory for."""
    if isinstance(x, DeviceArray):
        raise TypeError(f"{name} must lie in main memory to be {purpose}, got one on {device_name(x)}; bring it there")
    return x


def _plain(dtype: np.dtype) -> np.dtype:
    """A dtype without metadata."""
    return native(dtype) if dtype.isnative else native(dtype).newbyteorder("S")


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


def planes(window: Window, channels_last: bool, size: tuple[int, int, int]) -> tuple[int, ...]:
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
    made = operand(x, _order(window, x.ndim, channels_last), planes(window, channels_last, size))
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
    return operand(x, axes, None if any_shape else planes(window, channels_last, size), reshaped_to)


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
        None if any_shape else planes(window, channels_last, size),
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
