"""What a backend is: the functions that its module exports, for type checkers and for who writes one.

Arrays are checked, and results share no memory with others. They are in canonical form (see `fastpool.forms`) where
nothing else is said, and results come last. A backend need not have every op, but all functions of an op.
`UnpoolsByIndices`, `Planned`, `Compiled` and `Conditional` are optional.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from fastpool.arrays import Array
from fastpool.window import Divisors, Window


class Pooling(Protocol):
    """Pooling of (outer, D, H, W, inner), the gradient of either pool, and the inverse."""

    def max_pool(self, x: Array, window: Window, y: Array, argmax: Array | None) -> None:
        """`argmax` is None where it is not asked for."""

    def min_pool(self, x: Array, window: Window, y: Array, argmin: Array | None) -> None: ...

    def max_pool_backward(self, dy: Array, argmax: Array, window: Window, dx: Array) -> None:
        """Of an argmin, too. Each offset fits: `argmax_fits` has been asked."""

    def argmax_fits(self, argmax: Array, window: Window) -> bool:
        """Whether every offset is that of a cell of the input, or 0 in a window of padding alone."""

    def max_unpool(self, y: Array, indices: Array, x: Array) -> None:
        """Set cells of x, which holds zeros and the values of earlier calls, and leave the others as they are.

        Indices are int64 inside each plane, -1 for none; the last of several wins. They may be the caller's own, which
        another thread can change during the call: an index outside its plane is skipped, or raises.
        """


class Averaging(Protocol):
    """Average pooling of (outer, D, H, W, inner), floats only, and its gradient."""

    def avg_pool(self, x: Array, window: Window, divisors: Divisors, y: Array) -> None: ...

    def avg_pool_backward(self, dy: Array, window: Window, divisors: Divisors, dx: Array) -> None: ...


class Columns(Protocol):
    """The columns of images, indexed [n, c, tap, position]: the axes may lie in any order in memory."""

    def im2col(self, x: Array, window: Window, fill_value: Any, cols: Array, *, fresh: bool = True) -> None:
        """`cols` is `fresh` unless it is the caller's `out`. The system zeroes fresh memory at the first store."""

    def col2im(self, cols: Array, window: Window, dx: Array) -> None: ...


class Activations(Protocol):
    """Of one-dimensional arrays."""

    def hard_swish(self, x: Array, y: Array) -> None: ...

    def hard_swish_backward(self, dy: Array, x: Array, dx: Array) -> None: ...

    def swish(self, x: Array, beta: float, y: Array) -> None: ...

    def swish_backward(self, dy: Array, x: Array, beta: float, dx: Array) -> None: ...


class Passes(Protocol):
    """What running extremes over footprints are made of."""

    def run_passes(self, extreme: np.ufunc, scratch: np.ndarray, operations: np.ndarray) -> None:
        """Compare parts of a flat array with each other, one operation after the other.

        `extreme` is np.maximum or np.minimum. A row of `operations`, in int64, holds where two parts begin, where their
        extremes go, which is apart from both or one of them, and how many elements they have.
        """


class UnpoolsByIndices(Protocol):
    """An inverse of pooling that takes the place of `max_unpool`."""

    def max_unpool_by_indices(self, y: Array, indices: Array, window: Window, convention: str, x: Array) -> None:
        """Set all cells of x. Indices are those of any convention, in any integer dtype."""


class Planned(Protocol):
    """A backend that plans calls on NumPy arrays.

    Each `prepare_...` returns a function of the inputs, the results and what may change with each call, in this order.
    The arrays are C-contiguous, and hold the elements of the canonical form in any shape.
    """

    def prepare_max_pool(
        self, window: Window, outer: int, inner: int, dtype: np.dtype, with_argmax: bool
    ) -> Callable[..., None]:
        """Of (x, y) or (x, y, argmax)."""

    def prepare_min_pool(
        self, window: Window, outer: int, inner: int, dtype: np.dtype, with_argmax: bool
    ) -> Callable[..., None]: ...

    def prepare_max_pool_backward(
        self, window: Window, outer: int, inner: int, dtype: np.dtype
    ) -> Callable[[np.ndarray, np.ndarray, np.ndarray], bool]:
        """Of (dy, argmax, dx): False, with nothing written, where the argmax does not fit."""

    def prepare_max_unpool(
        self, outer: int, windows: int, cells: int, inner: int, dtype: np.dtype
    ) -> Callable[..., None]:
        """Of (y, indices, x), of planes with so many windows and cells."""

    def prepare_avg_pool(
        self, window: Window, divisors: Divisors, outer: int, inner: int, dtype: np.dtype
    ) -> Callable[..., None]:
        """Of (x, y)."""

    def prepare_avg_pool_backward(
        self, window: Window, divisors: Divisors, outer: int, inner: int, dtype: np.dtype
    ) -> Callable[..., None]:
        """Of (dy, dx)."""

    def prepare_max_pool_by_tables(
        self,
        outer: int,
        size: tuple[int, int, int],
        out: tuple[int, int, int],
        inner: int,
        of_planes: bool,
        dtype: np.dtype,
        with_indices: bool,
    ) -> Callable[..., None]:
        """Of (x, tables, y) or (x, tables, y, indices).

        `tables` are of int64: of depth, height and width where the windows begin, and then where they end; if they are
        `of_planes`, one row of them for each.
        """

    def prepare_avg_pool_by_tables(
        self,
        outer: int,
        size: tuple[int, int, int],
        out: tuple[int, int, int],
        inner: int,
        of_planes: bool,
        dtype: np.dtype,
    ) -> Callable[..., None]:
        """Of (x, tables, y)."""

    def prepare_im2col(
        self, window: Window, channels_last: bool, cols_steps: tuple[int, ...], dtype: np.dtype, fresh: bool
    ) -> Callable[..., None]:
        """Of (x, cols, fill_value).

        `cols_steps` are elements from one image, channel, tap and position of the columns to the next.
        """

    def prepare_col2im(
        self, window: Window, channels_last: bool, cols_steps: tuple[int, ...], dtype: np.dtype
    ) -> Callable[..., None]:
        """Of (cols, dx)."""

    def prepare_hard_swish(self, dtype: np.dtype, size: int) -> Callable[..., None]: ...

    def prepare_hard_swish_backward(self, dtype: np.dtype, size: int) -> Callable[..., None]: ...

    def prepare_swish(self, dtype: np.dtype, size: int) -> Callable[..., None]:
        """Of (x, y, beta)."""

    def prepare_swish_backward(self, dtype: np.dtype, size: int) -> Callable[..., None]:
        """Of (dy, x, dx, beta)."""


class Compiled(Protocol):
    """A backend whose kernels may be compiled when they are first called."""

    def cache_directory(self) -> str:
        """Where compiled kernels are kept; '' where they are not."""

    def kernel_names(self, everything: bool = True) -> list[str]:
        """All kernels that are built with the package, or those of float32 and uint8 with an argmax of bytes."""

    def compile_by_name(self, name: str) -> str:
        """Have a kernel compiled and kept; its name."""


class Conditional(Protocol):
    """A backend that may be installed where it cannot run."""

    def check(self) -> None:
        """Raise an error that says why it cannot run here."""
