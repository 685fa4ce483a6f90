"""What an array library must be able to do: how its arrays are recognised, read, made and given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastpool.device_arrays import DeviceArray


class ArrayLibrary:
    """What depends on the array library; `module` is the imported library."""

    has_types = True  # all arrays of one type are of this library, or none

    def __init__(self, module: Any) -> None:
        self.module = module

    def holds(self, x: Any) -> bool:
        """Whether `x` is an array of this library."""
        raise NotImplementedError

    def read(self, name: str, x: Any) -> np.ndarray | DeviceArray:
        """`x`, without a copy."""
        raise NotImplementedError

    def from_numpy(self, a: np.ndarray, like: Any) -> Any:
        """A NumPy array as an array of this library in main memory, without a copy."""
        raise NotImplementedError

    def deferred(self, op: str) -> Callable[..., Any] | None:
        """A function that runs an op later, for a library whose arrays have no elements yet; None to run it now."""
        return None

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, like: DeviceArray) -> DeviceArray:
        """A new array on the GPU of `like`."""
        raise NotImplementedError

    def to_library(self, a: DeviceArray) -> Any:
        """An array of the library with the memory, shape and strides of `a`."""
        raise NotImplementedError

    def copy(self, source: DeviceArray, target: DeviceArray) -> None:
        """Copy elements between arrays of one shape and dtype, of any strides, without waiting for the GPU."""
        raise NotImplementedError

    def written(self, x: Any) -> None:
        """Note that an array of the caller's, in main memory or on a GPU, has been written to."""

    def stream(self, a: DeviceArray) -> int:
        """The library's current stream, for an array that names none."""
        raise NotImplementedError

    def signature(self, x: Any) -> tuple[Any, int] | None:
        """The signature of an array, which calls depend on, and its address; None if calls must not be replayed."""
        return None

    def address(self, x: Any) -> int:
        """The address of an array of the library on a GPU."""
        raise NotImplementedError

    def allocator(self, a: DeviceArray) -> Callable[[], Any]:
        """A function that makes an array of the library with the shape, strides, dtype and device of `a`."""
        raise NotImplementedError
