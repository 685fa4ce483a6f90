"""Arrays on a GPU as this package handles them.

A `DeviceArray` has the part of NumPy's interface that needs no elements: shape, strides, views. Nothing here waits for
a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastpool.replay import recording

if TYPE_CHECKING:
    from fastpool.array_library import ArrayLibrary

# The driver's handle of the default stream. 0 means the same only where per-thread default streams are off.
LEGACY_STREAM = 1


class _Flags:
    __slots__ = ("aligned", "c_contiguous", "writeable")

    def __init__(self, c_contiguous: bool, aligned: bool, writeable: bool) -> None:
        self.c_contiguous, self.aligned, self.writeable = c_contiguous, aligned, writeable


def _packed_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    strides = []
    for n in reversed(shape):
        strides.append(itemsize)
        itemsize *= max(n, 1)
    return tuple(reversed(strides))


class DeviceArray:
    """An array on a GPU: its address, shape, strides in bytes, dtype, and `owner`, which keeps its memory alive.

    `named_stream` is the stream on which the array is written, where its library names one, else None.
    """

    def __init__(
        self,
        library: ArrayLibrary,
        owner: Any,
        device: int,
        pointer: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        dtype: np.dtype,
        writeable: bool = True,
        named_stream: int | None = None,
    ) -> None:
        self.library, self.owner, self.device, self.pointer, self.dtype = library, owner, device, pointer, dtype
        self.shape, self.ndim, self.size = shape, len(shape), prod(shape)
        self.strides = _packed_strides(shape, dtype.itemsize) if strides is None else strides
        self.itemsize, self.nbytes = dtype.itemsize, self.size * dtype.itemsize
        self._writeable, self.named_stream = writeable, named_stream

    @cached_property
    def flags(self) -> _Flags:
        packed = _packed_strides(self.shape, self.itemsize)
        contiguous = all(n < 2 or s == p for n, s, p in zip(self.shape, self.strides, packed, strict=True))
        aligned = all(offset % self.itemsize == 0 for offset in (self.pointer, *self.strides))
        return _Flags(contiguous or self.size == 0, aligned, self._writeable)

    def view(self, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> DeviceArray:
        """The same memory in another shape."""
        return self._like(shape, strides, self.named_stream)

    def on(self, stream: int) -> DeviceArray:
        """The same array, with its work on this stream."""
        return self._like(self.shape, self.strides, stream)

    def _like(self, shape: tuple[int, ...], strides: tuple[int, ...] | None, stream: int | None) -> DeviceArray:
        memory = (self.library, self.owner, self.device, self.pointer)
        return DeviceArray(*memory, shape, strides, self.dtype, self._writeable, stream)

    def transpose(self, *axes: Any) -> DeviceArray:
        """A view with its axes in another order, which is one sequence or several integers."""
        order = axes if isinstance(axes[0], int) else axes[0]
        return self.view(tuple(self.shape[a] for a in order), tuple(self.strides[a] for a in order))

    def reshape(self, *shape: Any) -> DeviceArray:
        """A view of another shape, which must differ in axes of size 1 alone where the array is not contiguous."""
        sizes = tuple(shape[0]) if isinstance(shape[0], Sequence) else shape
        if -1 in sizes:
            known = -prod(sizes)
            sizes = tuple(self.size // known if n == -1 else n for n in sizes)
        if self.flags.c_contiguous:
            return self.view(sizes, None)
        strides = iter([s for n, s in zip(self.shape, self.strides, strict=True) if n != 1])
        if [n for n in sizes if n != 1] != [n for n in self.shape if n != 1]:
            raise ValueError(f"an array of shape {self.shape} and strides {self.strides} has no view of shape {sizes}")
        return self.view(sizes, tuple(self.itemsize if n == 1 else next(strides) for n in sizes))

    def __getitem__(self, index: tuple[slice, ...]) -> DeviceArray:
        """A view of a part: a slice without a step for each of the first axes."""
        shape, offset = list(self.shape), 0
        for axis, part in enumerate(index):
            start, stop, _ = part.indices(self.shape[axis])
            shape[axis] = max(stop - start, 0)
            offset += start * self.strides[axis]
        view = self.view(tuple(shape), self.strides)
        view.pointer += offset
        return view

    def extent(self) -> tuple[int, int]:
        """The first address of its memory, and the one past the last."""
        if self.size == 0:
            return self.pointer, self.pointer
        reaches = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
        low = self.pointer + sum(r for r in reaches if r < 0)
        return low, self.pointer + sum(r for r in reaches if r > 0) + self.itemsize

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        """A new array of the same library on the same GPU."""
        fresh = self.library.empty(shape, dtype, self)
        recorder = recording.get()
        if recorder is not None:
            recorder.record_allocation(fresh)
        return fresh

    def compact(self) -> DeviceArray:
        """A contiguous copy."""
        copy = self.empty(self.shape, self.dtype)
        copy.assign(self)
        return copy

    def assign(self, source: DeviceArray) -> None:
        """Copy the elements of another array of the same library, shape and dtype."""
        recorder = recording.get()
        if recorder is not None:
            recorder.replayable = False
        if self.size:
            self.library.copy(source, self)

    def without_memory(self) -> DeviceArray:
        """An array without elements, of the same library on the same device and stream."""
        return DeviceArray(self.library, None, self.device, 0, (), (), self.dtype, named_stream=self.named_stream)

    def to_library(self) -> Any:
        """The array as an array of its library, to be returned to the caller."""
        recorder = recording.get()
        if recorder is not None:
            recorder.results.append(self)
        return self.library.to_library(self)

    def stream(self) -> int:
        """The driver's handle of the stream for work on this array; 0 where neither it nor its library names one."""
        return self.library.stream(self) if self.named_stream is None else self.named_stream
