"""`out=`: arrays of the caller's to which results are written, and why some cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpool.arrays import device_name, to_library
from fastpool.device_arrays import DeviceArray
from fastpool.dtypes import native
from fastpool.interop import library_of


def check_out(
    out: Any,
    shape: tuple[int, ...],
    dtype: np.dtype,
    inputs: tuple[Any, ...],
    original: Any = None,
    earlier: tuple[Any, ...] = (),
) -> Any:
    """`out` as a plain array, or an error that says why a result of this shape and dtype cannot be written there.

    It must be of the library of `original`, the first input as the caller passed it. `earlier` are the arrays that
    other results of the call are written to.
    """
    library = None if type(original) is np.ndarray else library_of(original)
    if library is not None and library_of(out) is library:
        out = library.read("out", out)
        if out.device != inputs[0].device:
            raise ValueError(f"out must lie where x does, on {device_name(inputs[0])}, got one on {device_name(out)}")
    elif library is not None:
        raise TypeError(f"out must be of the library of the input, got {type(out).__module__}.{type(out).__qualname__}")
    elif not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    elif type(out) is not np.ndarray:  # a subclass may change its shape in each step, or report a wrong one
        out = np.ndarray.view(out, np.ndarray)
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if out.dtype != dtype and native(out.dtype) != dtype:
        raise ValueError(f"out must have dtype {dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    if not out.flags.c_contiguous and _overlaps_itself(out):
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
    reach = a.dtype.itemsize  # bytes from the start of the first element to the end of the last, along the axes so far
    for stride, size in axes:
        if stride < reach:
            break
        reach += stride * (size - 1)
    else:
        return False
    if axes[0][0] == 0:
        return True
    # The axes interleave, which is rare: only the addresses of all elements tell whether two of them overlap.
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
            raise ValueError("out must be arrays that share no memory with each other, got two that do")


def overlap(a: Any, b: Any) -> bool:
    """Whether two arrays share memory; True also where it would take too long to find out."""
    if isinstance(a, DeviceArray):
        (low, high), (start, end) = a.extent(), b.extent()
        return low < end and start < high
    try:  # the first and last addresses decide for most arrays, and are compared first
        return np.may_share_memory(a, b) and np.shares_memory(a, b, max_work=1000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def split_out(out: Any, results: int) -> tuple[Any, ...]:
    """`out`, one array for the first result or a tuple of one for each, as a tuple; None stands for a new array."""
    if not isinstance(out, tuple):
        return (out,) + (None,) * (results - 1)
    if results == 1 or len(out) != results:
        allowed = "one array" if results == 1 else f"one array, or a tuple of {results}"
        raise ValueError(f"out must be {allowed} for the results of this call, got a tuple of {len(out)}")
    return out


def delivered(results: tuple[np.ndarray, ...], out: Any, inputs: tuple[Any, ...], original: Any) -> Any:
    """Results as the caller gets them: in the arrays of `out`, where it gave some, or of the library of `original`."""
    outs: list[Any] = []
    for result, one in zip(results, split_out(out, len(results)), strict=True):
        checked = tuple(each for each in outs if each is not None)
        outs.append(None if one is None else check_out(one, result.shape, result.dtype, inputs, original, checked))
    for result, one in zip(results, outs, strict=True):
        if one is not None:
            one[...] = result
    return to_library(results if len(results) > 1 else results[0], original, out)
