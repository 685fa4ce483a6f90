"""What comes in and goes out: array libraries, dtypes, memory order, `out=`.

Every pool works on the canonical form `(outer, D, H, W, inner)`, C-contiguous and in native byte order.
An array whose channels lie before its spatial axes in memory is outer=N*C, inner=1; one whose channels lie
last is outer=N, inner=C. Nothing below this file knows which of the two the caller had in mind.

Arrays of other libraries come as `fastpool.interop` reads them: as NumPy arrays, or as device arrays on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool.device_arrays import DeviceArray
from fastpool.interop import library_of
from fastpool.window import Window

Array = np.ndarray | DeviceArray

_NATIVE = {np.dtype(t) for t in "?bBhHiIlLqQefd"}


def supported(dtype: np.dtype) -> bool:
    """bool, all integers, float16, bfloat16, float32 and float64, in either byte order."""
    # Not all dtypes can be asked for another byte order: those of numbers can.
    return dtype in _NATIVE or is_bfloat16(dtype) or (dtype.kind in "iuf" and dtype.newbyteorder("=") in _NATIVE)


def is_bfloat16(dtype: np.dtype) -> bool:
    """ml_dtypes' bfloat16, recognised by its name so that ml_dtypes need not be imported."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def is_float(dtype: np.dtype) -> bool:
    """One of the four floating dtypes: the ones with gradients."""
    return (dtype.kind == "f" and dtype.itemsize in (2, 4, 8)) or is_bfloat16(dtype)


def is_half(dtype: np.dtype) -> bool:
    """A two-byte float, whose sums are made in float32."""
    return is_float(dtype) and dtype.itemsize == 2


def sum_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype in which gradients of `dtype` are added up."""
    return np.dtype(np.float32) if is_half(dtype) else dtype


def lowest(dtype: np.dtype) -> Any:
    """The value below or equal to every other of a dtype: what a window of padding alone gives."""
    if is_float(dtype):
        return dtype.type(-np.inf)
    return np.False_ if dtype.kind == "b" else dtype.type(np.iinfo(dtype).min)


def read(name: str, x: Any, floats_only: bool = False) -> Any:
    """`x` as a plain NumPy array or a device array of a supported dtype, or a TypeError; sequences are made one."""
    if type(x) is not np.ndarray and not isinstance(x, DeviceArray):
        x = _as_numpy(name, x)
    if x.dtype.metadata is not None and isinstance(x, np.ndarray):
        x = x.view(_plain(x.dtype))
    dtype = x.dtype
    if floats_only:
        if not is_float(dtype):
            raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {dtype}")
    elif not supported(dtype):
        raise TypeError(
            f"{name} must be bool, an integer, float16, bfloat16 (ml_dtypes), float32 or float64, got {dtype}"
        )
    return x


def _zeros_and_ones(x: np.ndarray) -> np.ndarray:
    """A bool array whose bytes are 0 and 1: kernels compare bytes, and to NumPy any but 0 is True."""
    stored = x.view(np.uint8)
    return x if x.size == 0 or stored.max() <= 1 else stored != 0


def _as_numpy(name: str, x: Any) -> Array:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array; fill it first, for instance with {name}.filled(value)")
    if isinstance(x, (list, tuple)):
        return _array_of(name, x)
    if not isinstance(x, (np.ndarray, np.generic, list, tuple, int, float)):
        library = library_of(x)
        if library is not None:
            return library.read(name, x)
        kind = f"{type(x).__module__}.{type(x).__qualname__}"
        raise TypeError(f"{name} must be a NumPy array, got {kind}; convert it first, for instance with numpy.asarray")
    return np.asarray(x)


def _array_of(name: str, x: list[Any] | tuple[Any, ...]) -> np.ndarray:
    """A sequence, nested or not, as an array."""
    pending, seen = [x], set()
    while pending:
        items = pending.pop()
        kinds = {*map(type, items)}
        if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
            raise TypeError(f"{name} must not hold masked arrays, whose masks would be lost; fill them first")
        if id(items) not in seen and any(issubclass(kind, (list, tuple)) for kind in kinds):
            pending += [item for item in items if isinstance(item, (list, tuple))]
        seen.add(id(items))  # a list may hold itself
    try:
        return np.asarray(x)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be an array, or nested sequences of the same lengths: {error}") from error


def to_library(result: Any, original: Any, out: Any = None) -> Any:
    """A result, one array or several, as arrays of the library of `original`; those written to `out` as `out`."""
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
    """A new array where `like` is."""
    return np.empty(shape, dtype) if isinstance(like, np.ndarray) else like.empty(shape, dtype)


def like(name: str, x: Any, shape: tuple[int, ...], dtype: np.dtype, of: str, beside: Array | None = None) -> Any:
    """`x` as an array that must have this shape and dtype (in either byte order), as `of` prescribes.

    With `beside`, it must lie where that array does.
    """
    x = read(name, x)
    if beside is not None and x.device != beside.device:
        raise ValueError(f"{name} must lie where the other arrays do, on {place(beside)}, got one on {place(x)}")
    if x.shape != shape:
        raise ValueError(f"{name} must have the shape {shape} of {of}, got {x.shape}")
    if x.dtype != dtype and x.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{name} must have the dtype {dtype} of {of}, got {x.dtype}")
    return x


def place(a: Array) -> str:
    """Where an array lies, in words."""
    return "the CPU" if isinstance(a, np.ndarray) else f"CUDA device {a.device}"


def native(dtype: np.dtype) -> np.dtype:
    """NumPy's own dtype of this type: in native byte order, and without the metadata that somebody may have added."""
    return np.dtype(dtype.type)


def _plain(dtype: np.dtype) -> np.dtype:
    """A dtype without metadata."""
    return native(dtype) if dtype.isnative else native(dtype).newbyteorder("S")


def channels_inside(x: Any, window: Window) -> bool:
    """Whether the channels lie behind the spatial axes in memory, whatever the data_format says."""
    axis = window.channel_axis
    if axis is None or window.channels == 1:
        return False
    space = [a for a in range(x.ndim) if a != axis][-window.spatial_axes :]
    # An axis of one cell may have any stride, so the last that has more decides.
    last = next((a for a in reversed(space) if x.shape[a] > 1), None)
    if last is None:
        return _strides_of_channels_last(x, window)
    if x.flags.c_contiguous:
        return axis == x.ndim - 1
    return abs(x.strides[axis]) < abs(x.strides[last])


def _strides_of_channels_last(x: Any, window: Window) -> bool:
    """Whether the strides alone, those of axes of one cell too, say that the channels lie behind the spatial axes.

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


def planes(window: Window, inside: bool, size: tuple[int, int, int]) -> tuple[int, ...]:
    """The canonical shape of an array with these spatial sizes, whose channels lie inside the spatial axes or not."""
    if inside:
        return (window.batch, *size, window.channels)
    return (window.batch * window.channels, *size, 1)


def _order(window: Window, ndim: int, inside: bool) -> tuple[int, ...]:
    """The axes of the caller's array in canonical order."""
    axes, channels = list(range(ndim)), window.channel_axis
    if channels is not None and inside != (channels == ndim - 1):
        axes.remove(channels)
        axes.insert(ndim - 1 if inside else ndim - 1 - window.spatial_axes, channels)
    return tuple(axes)


class Operand(NamedTuple):
    """How an input becomes C-contiguous, aligned and native, in the shape that a kernel takes."""

    seen_as: tuple[int, ...] | None  # another shape, before all else
    axes: tuple[int, ...] | None  # from the slowest to the fastest in memory
    copied_as: np.dtype | None  # where it is not yet contiguous, aligned and native
    canonical: tuple[int, ...] | None
    is_bool: bool

    def __call__(self, x: Any) -> Any:
        if self.is_bool:
            x = _zeros_and_ones(x)
        if self.seen_as is not None:
            x = x.reshape(self.seen_as)
        if self.axes is not None:
            x = x.transpose(self.axes)
        if self.copied_as is not None:
            x = x.compact() if isinstance(x, DeviceArray) else np.array(x, self.copied_as, order="C", copy=True)
        return x if self.canonical is None else x.reshape(self.canonical)


def operand(
    x: Array,
    axes: tuple[int, ...] | None = None,
    canonical: tuple[int, ...] | None = None,
    seen_as: tuple[int, ...] | None = None,
) -> Operand | None:
    """How arrays that look like `x` become canonical: views where their memory allows, else one copy.

    None where they are already what a kernel takes.
    """
    view = x if seen_as is None else x.reshape(seen_as)
    if axes is not None and axes == tuple(range(view.ndim)):
        axes = None
    view = view if axes is None else view.transpose(axes)
    ready = view.flags.c_contiguous and view.flags.aligned and view.dtype.isnative
    is_bool = x.dtype.kind == "b" and isinstance(x, np.ndarray)
    if ready and not is_bool and seen_as is axes is canonical is None:
        return None
    return Operand(seen_as, axes, None if ready else native(x.dtype), canonical, is_bool)


def canonical(x: Any, window: Window, inside: bool, size: tuple[int, int, int]) -> Any:
    """`x` in the form (outer, D, H, W, inner): a view if its memory allows, else its one copy."""
    made = operand(x, _order(window, x.ndim, inside), planes(window, inside, size))
    return x if made is None else made(x)


class Target(NamedTuple):
    """Where a result goes: `user` is the array to return, `canonical` the array that a kernel fills."""

    user: Any
    canonical: Any
    write_back: Any = None  # what the canonical array is copied to, if a kernel cannot write there

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
    canonical: tuple[int, ...] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether kernels fill a new array as the caller gets it."""
        return self.axes is None and self.canonical is None

    def new(self, like: Array) -> Target:
        """A new array where `like` lies."""
        if self.axes is None:
            user = fresh = empty(self.shape, self.dtype, like)
        else:
            fresh = empty(tuple([self.shape[axis] for axis in self.axes]), self.dtype, like)
            user = fresh.transpose(tuple([self.axes.index(axis) for axis in range(len(self.axes))]))
        return Target(user, fresh if self.canonical is None else fresh.reshape(self.canonical))

    def within(self, out: Array) -> Target:
        """An array of the caller's, which `check_out` has passed."""
        view = out if self.out_axes is None else out.transpose(self.out_axes)
        ready = view.flags.c_contiguous and view.flags.aligned and view.dtype.isnative
        shape = view.shape if self.canonical is None else self.canonical
        if ready:
            return Target(out, view.reshape(shape))
        return Target(out, empty(shape, self.dtype, out), view)


def source(x: Array, window: Window, inside: bool, size: tuple[int, int, int], flat: bool, **more: Any) -> Any:
    """The operand of an array that windows slide over, or whose elements belong to windows.

    With `flat`, the kernel takes contiguous arrays of any shape.
    """
    ndim = len(more["seen_as"]) if more.get("seen_as") else x.ndim
    return operand(x, _order(window, ndim, inside), None if flat else planes(window, inside, size), **more)


def result(
    window: Window,
    inside: bool,
    shape: tuple[int, ...],
    size: tuple[int, int, int],
    dtype: np.dtype,
    like: Array,
    flat: bool,
) -> Result:
    """A result of the caller's `shape`, in the memory order of the input `like`."""
    out_axes = _order(window, len(shape), inside)
    if window.channels == 1:  # in memory there is no difference, but PyTorch gives its results such strides
        inside = window.channel_axis == len(shape) - 1 or (
            window.spatial_axes > 1
            and like.ndim == len(shape) == window.spatial_axes + 2
            and _strides_of_channels_last(like, window)
        )
    axes, identity = _order(window, len(shape), inside), tuple(range(len(shape)))
    return Result(
        shape,
        dtype,
        None if axes == identity else axes,
        None if out_axes == identity else out_axes,
        None if flat else planes(window, inside, size),
    )


def check_out(
    out: Any,
    shape: tuple[int, ...],
    dtype: np.dtype,
    inputs: tuple[Any, ...],
    original: Any = None,
    earlier: tuple[Any, ...] = (),
) -> Any:
    """`out` as a plain array if a result of this shape and dtype can be written there, else an error that says why not.

    It must be of the library of `original`, the first input as the caller has it. `earlier` are the arrays that other
    results of the call are written to.
    """
    library = None if type(original) is np.ndarray else library_of(original)
    if library is not None and library_of(out) is library:
        out = library.read("out", out)
        if out.device != inputs[0].device:
            raise ValueError(f"out must lie where x does, on {place(inputs[0])}, got one on {place(out)}")
    elif library is not None:
        raise TypeError(f"out must be of the library of the input, got {type(out).__module__}.{type(out).__qualname__}")
    elif not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    elif type(out) is not np.ndarray:  # a subclass may have another shape after each step, or say what is not so
        out = np.ndarray.view(out, np.ndarray)
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if out.dtype != dtype and native(out.dtype) != dtype:
        raise ValueError(f"out must have dtype {dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    if not (out.flags.c_contiguous or out.flags.f_contiguous) and _overlaps_itself(out):
        raise ValueError(
            f"out must not have elements that share memory, got strides {out.strides} for shape {out.shape}"
        )
    check_apart(out, inputs, earlier)
    return out


def _overlaps_itself(a: Any) -> bool:
    """Whether two elements of an array share memory."""
    if not a.size:
        return False
    axes = sorted((abs(stride), size) for stride, size in zip(a.strides, a.shape, strict=True) if size > 1)
    reach = a.dtype.itemsize  # the bytes from the first to the last of the elements along the axes so far
    for stride, size in axes:
        if stride < reach:
            break
        reach += stride * (size - 1)
    else:
        return False
    if axes[0][0] == 0:
        return True
    # The axes reach into each other. Whether elements meet, only their addresses tell: such arrays are rare.
    addresses = np.zeros(1, np.int64)
    for stride, size in axes:
        addresses = np.add.outer(addresses, np.arange(size) * stride).ravel()
    addresses.sort()
    return bool((np.diff(addresses) < a.dtype.itemsize).any())


def check_apart(out: Any, inputs: tuple[Any, ...], earlier: tuple[Any, ...]) -> None:
    """Raise ValueError where `out` shares memory with an input, or with what another result is written to."""
    for x in inputs:
        if overlap(out, x):
            raise ValueError("out must not share memory with an input; give an array of its own")
    for other in earlier:
        if overlap(out, other):
            raise ValueError("out must be arrays that share no memory with each other, got y and argmax that do")


def overlap(a: Any, b: Any) -> bool:
    """Whether two arrays share memory; those too entangled to tell in reasonable time are taken to."""
    if isinstance(a, DeviceArray):
        (low, high), (start, end) = a.extent(), b.extent()
        return low < end and start < high
    try:  # of most arrays the first and last addresses tell
        return np.may_share_memory(a, b) and np.shares_memory(a, b, max_work=1000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def split_out(out: Any, results: int) -> tuple[Any, ...]:
    """The array for each result, of what was given as `out`: one array, for the first, or a tuple."""
    if not isinstance(out, tuple):
        return (out,) + (None,) * (results - 1)
    if results == 1 or len(out) != results:
        raise ValueError("out must be one array, or (y, argmax) with return_argmax=True, got a tuple")
    return out


def memory_axes(x: Any) -> tuple[int, ...]:
    """The axes of `x` from the slowest to the fastest in memory; as they are where `x` is C-contiguous."""
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
