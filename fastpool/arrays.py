"""What comes in and goes out: arrays of NumPy and of other libraries, and what they must be.

Arrays of other libraries are read by `fastpool.interop`: as NumPy arrays, or as device arrays on a GPU. What NumPy
alone can convert, such as images of Pillow and arrays of xarray, is read as NumPy reads it.
"""

from typing import Any

import numpy as np

from fastpool.device_arrays import DeviceArray
from fastpool.dtypes import is_float, native, supported
from fastpool.interop import converted, converts_to_numpy, library_of

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
