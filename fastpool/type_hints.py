"""The public functions as type checkers see them: arrays come back as what they came as, tensors as tensors.

What is no array, such as a list, is taken too, and gives a NumPy array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast, overload

import numpy as np

A = TypeVar("A", bound="HasShape")

Size = int | Sequence[int]
OutputSize = int | Sequence[int | None] | None
Modes = str | Sequence[str]
Padding = int | str | Sequence[int] | Sequence[tuple[int, int]]
Argmax = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]

if TYPE_CHECKING:  # classes take time to make, in every process that imports the package

    class HasShape(Protocol):
        """An array of any library."""

        @property
        def shape(self) -> Any: ...

        @property
        def dtype(self) -> Any: ...

    class Pool(Protocol):
        """`max_pool1d`, `max_pool2d` and `max_pool3d`."""

        @overload
        def __call__(
            self,
            x: A,
            kernel_size: Size,
            stride: Size | None = ...,
            padding: Padding = ...,
            dilation: Size = ...,
            ceil_mode: bool = ...,
            *,
            data_format: str = ...,
            return_argmax: Literal[False] = ...,
            nan: str = ...,
            where: Any = ...,
            out: A | None = ...,
            backend: str | None = ...,
        ) -> A: ...

        @overload
        def __call__(
            self,
            x: np.ndarray[Any, Any],
            kernel_size: Size,
            stride: Size | None = ...,
            padding: Padding = ...,
            dilation: Size = ...,
            ceil_mode: bool = ...,
            *,
            data_format: str = ...,
            return_argmax: Literal[True],
            nan: str = ...,
            where: Any = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> tuple[np.ndarray[Any, Any], Argmax]: ...

        @overload
        def __call__(
            self,
            x: A,
            kernel_size: Size,
            stride: Size | None = ...,
            padding: Padding = ...,
            dilation: Size = ...,
            ceil_mode: bool = ...,
            *,
            data_format: str = ...,
            return_argmax: Literal[True],
            nan: str = ...,
            where: Any = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> tuple[A, A]: ...

        @overload
        def __call__(
            self,
            x: Any,
            kernel_size: Size,
            stride: Size | None = ...,
            padding: Padding = ...,
            dilation: Size = ...,
            ceil_mode: bool = ...,
            *,
            data_format: str = ...,
            return_argmax: bool = ...,
            nan: str = ...,
            where: Any = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> Any: ...

    class AveragePool(Protocol):
        """`avg_pool1d`, `avg_pool2d` and `avg_pool3d`."""

        @overload
        def __call__(
            self,
            x: A,
            kernel_size: Size,
            stride: Size | None = ...,
            padding: Padding = ...,
            ceil_mode: bool = ...,
            count_include_pad: bool = ...,
            divisor_override: int | None = ...,
            *,
            data_format: str = ...,
            out: A | None = ...,
            backend: str | None = ...,
        ) -> A: ...

        @overload
        def __call__(
            self,
            x: Any,
            kernel_size: Size,
            stride: Size | None = ...,
            padding: Padding = ...,
            ceil_mode: bool = ...,
            count_include_pad: bool = ...,
            divisor_override: int | None = ...,
            *,
            data_format: str = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> Any: ...

    class GlobalPool(Protocol):
        """`global_max_pool`."""

        @overload
        def __call__(
            self,
            x: A,
            *,
            data_format: str = ...,
            keepdims: bool = ...,
            return_argmax: Literal[False] = ...,
            nan: str = ...,
            where: Any = ...,
            out: A | None = ...,
            backend: str | None = ...,
        ) -> A: ...

        @overload
        def __call__(
            self,
            x: np.ndarray[Any, Any],
            *,
            data_format: str = ...,
            keepdims: bool = ...,
            return_argmax: Literal[True],
            nan: str = ...,
            where: Any = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> tuple[np.ndarray[Any, Any], Argmax]: ...

        @overload
        def __call__(
            self,
            x: A,
            *,
            data_format: str = ...,
            keepdims: bool = ...,
            return_argmax: Literal[True],
            nan: str = ...,
            where: Any = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> tuple[A, A]: ...

        @overload
        def __call__(
            self,
            x: Any,
            *,
            data_format: str = ...,
            keepdims: bool = ...,
            return_argmax: bool = ...,
            nan: str = ...,
            where: Any = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> Any: ...

    class MinPool(Protocol):
        """`min_pool1d`, `min_pool2d` and `min_pool3d`."""

        @overload
        def __call__(
            self,
            x: A,
            kernel_size: Size,
            stride: Size | None = ...,
            padding: Padding = ...,
            dilation: Size = ...,
            ceil_mode: bool = ...,
            *,
            data_format: str = ...,
            return_argmin: Literal[False] = ...,
            nan: str = ...,
            where: Any = ...,
            out: A | None = ...,
            backend: str | None = ...,
        ) -> A: ...

        @overload
        def __call__(
            self,
            x: np.ndarray[Any, Any],
            kernel_size: Size,
            stride: Size | None = ...,
            padding: Padding = ...,
            dilation: Size = ...,
            ceil_mode: bool = ...,
            *,
            data_format: str = ...,
            return_argmin: Literal[True],
            nan: str = ...,
            where: Any = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> tuple[np.ndarray[Any, Any], Argmax]: ...

        @overload
        def __call__(
            self,
            x: A,
            kernel_size: Size,
            stride: Size | None = ...,
            padding: Padding = ...,
            dilation: Size = ...,
            ceil_mode: bool = ...,
            *,
            data_format: str = ...,
            return_argmin: Literal[True],
            nan: str = ...,
            where: Any = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> tuple[A, A]: ...

        @overload
        def __call__(
            self,
            x: Any,
            kernel_size: Size,
            stride: Size | None = ...,
            padding: Padding = ...,
            dilation: Size = ...,
            ceil_mode: bool = ...,
            *,
            data_format: str = ...,
            return_argmin: bool = ...,
            nan: str = ...,
            where: Any = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> Any: ...

    class GlobalMinPool(Protocol):
        """`global_min_pool`."""

        @overload
        def __call__(
            self,
            x: A,
            *,
            data_format: str = ...,
            keepdims: bool = ...,
            return_argmin: Literal[False] = ...,
            nan: str = ...,
            where: Any = ...,
            out: A | None = ...,
            backend: str | None = ...,
        ) -> A: ...

        @overload
        def __call__(
            self,
            x: np.ndarray[Any, Any],
            *,
            data_format: str = ...,
            keepdims: bool = ...,
            return_argmin: Literal[True],
            nan: str = ...,
            where: Any = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> tuple[np.ndarray[Any, Any], Argmax]: ...

        @overload
        def __call__(
            self,
            x: A,
            *,
            data_format: str = ...,
            keepdims: bool = ...,
            return_argmin: Literal[True],
            nan: str = ...,
            where: Any = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> tuple[A, A]: ...

        @overload
        def __call__(
            self,
            x: Any,
            *,
            data_format: str = ...,
            keepdims: bool = ...,
            return_argmin: bool = ...,
            nan: str = ...,
            where: Any = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> Any: ...

    class Maxout(Protocol):
        """`maxout`."""

        @overload
        def __call__(
            self,
            x: A,
            num_units: int,
            axis: int = ...,
            *,
            grouping: str = ...,
            return_argmax: Literal[False] = ...,
            out: A | None = ...,
            backend: str | None = ...,
        ) -> A: ...

        @overload
        def __call__(
            self,
            x: np.ndarray[Any, Any],
            num_units: int,
            axis: int = ...,
            *,
            grouping: str = ...,
            return_argmax: Literal[True],
            out: Any = ...,
            backend: str | None = ...,
        ) -> tuple[np.ndarray[Any, Any], Argmax]: ...

        @overload
        def __call__(
            self,
            x: A,
            num_units: int,
            axis: int = ...,
            *,
            grouping: str = ...,
            return_argmax: Literal[True],
            out: Any = ...,
            backend: str | None = ...,
        ) -> tuple[A, A]: ...

        @overload
        def __call__(
            self,
            x: Any,
            num_units: int,
            axis: int = ...,
            *,
            grouping: str = ...,
            return_argmax: bool = ...,
            out: Any = ...,
            backend: str | None = ...,
        ) -> Any: ...


def as_pool(function: Any) -> Pool:
    return cast("Pool", function)


def as_average_pool(function: Any) -> AveragePool:
    return cast("AveragePool", function)


def as_global_pool(function: Any) -> GlobalPool:
    return cast("GlobalPool", function)


def as_min_pool(function: Any) -> MinPool:
    return cast("MinPool", function)


def as_global_min_pool(function: Any) -> GlobalMinPool:
    return cast("GlobalMinPool", function)


def as_maxout(function: Any) -> Maxout:
    return cast("Maxout", function)
