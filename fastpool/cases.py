"""Typical calls of every op, for `fastpool bench`, asv, and tests that compare backends or look for races.

To add an op or a window, add an entry to CASES.

>>> import numpy as np
>>> case = CASES["max_pool2d 2x2 s2"]
>>> arguments = case.arguments(np.random.default_rng(0), np.float32, "small", "channels_last")
>>> arguments["x"].shape, case.run(arguments, backend="numpy").shape
((2, 9, 8, 3), (2, 4, 4, 3))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fastpool
from fastpool.arguments import LAYOUTS, check_layout
from fastpool.column_plans import columns_shape
from fastpool.dtypes import is_float
from fastpool.window import Window

SIZES = ("small", "medium", "full")

Shape = tuple[int, ...]
Arguments = dict[str, Any]
Make = Callable[[np.random.Generator, np.dtype, Shape, str], Arguments]


@dataclass(frozen=True)
class Case:
    """One call of one public function, whose inputs are created by `arguments`.

    Attributes
    ----------
    name : unique, as the tables show it
    op : the name of the function in fastpool
    make : (rng, dtype, shape, layout) -> arguments of the function by name
        `shape` is that of the input of the forward pass, channels first in either layout.
    small : that shape at size "small", small enough for loops in Python
    full : at size "full", too large for the caches; "medium" is the first eighth of it
    takes : the dtypes that the op takes: "all", "numeric" (all but bool) or "floats"
    exact : whether every backend must return the same bits; otherwise sums may be rounded differently
    quick : whether a quick run includes it
    """

    name: str
    op: str
    make: Make
    small: Shape
    full: Shape
    takes: str = "all"
    exact: bool = True
    quick: bool = False

    def takes_dtype(self, dtype: Any) -> bool:
        """Whether the op is defined for a dtype."""
        dtype = np.dtype(dtype)
        return self.takes == "all" or is_float(dtype) or (self.takes == "numeric" and dtype.kind != "b")

    def shape(self, size: str) -> Shape:
        """The shape of the forward pass's input at a size, channels first."""
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(map(repr, SIZES))}, got {size!r}")
        if size == "medium":
            return (max(self.full[0] // 8, 1), *self.full[1:])
        return self.small if size == "small" else self.full

    def arguments(
        self, rng: np.random.Generator, dtype: Any = np.float32, size: str = "full", layout: str = "channels_first"
    ) -> Arguments:
        """Random inputs of a dtype, size and layout, with the other arguments of the call."""
        check_layout(layout)
        return self.make(rng, np.dtype(dtype), self.shape(size), layout)

    def run(self, arguments: Mapping[str, Any], backend: str | None = None) -> Any:
        """Call the function; a result array, or a tuple of them."""
        return getattr(fastpool, self.op)(**arguments, backend=backend)


def results(result: Any) -> tuple[np.ndarray, ...]:
    """The result of a case as a tuple of arrays."""
    return result if isinstance(result, tuple) else (result,)


def bytes_moved(arguments: Mapping[str, Any], result: Any) -> int:
    """The bytes that must move at least: every input once and every output once."""
    inputs = [a for a in arguments.values() if isinstance(a, np.ndarray)]
    return sum(a.nbytes for a in (*inputs, *results(result)))


def random_array(rng: np.random.Generator, dtype: np.dtype, shape: Shape) -> np.ndarray:
    """Normal values; integers from -100 to 100, which have ties; random booleans."""
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(max(info.min, -100), min(info.max, 100), shape, endpoint=True).astype(dtype)
    return rng.standard_normal(shape, np.float32).astype(dtype, copy=False)


def in_layout(shape: Shape, layout: str) -> Shape:
    """A channels-first shape (N, C, *S) in a layout."""
    return shape if layout == "channels_first" else (shape[0], *shape[2:], shape[1])


def _pool(
    axes: int,
    label: str,
    small: Shape,
    full: Shape,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    quick: bool = False,
    extreme: str = "max",
) -> Iterator[Case]:
    """Max or min pooling forward, forward with argmax or argmin, and backward."""
    op, arg = f"{extreme}_pool{axes}d", f"arg{extreme}"
    window = {"kernel_size": kernel_size, "stride": stride, "padding": padding}

    def forward(rng, dtype, shape, layout):
        return {"x": random_array(rng, dtype, in_layout(shape, layout)), **window, "data_format": layout}

    def with_argmax(rng, dtype, shape, layout):
        return {**forward(rng, dtype, shape, layout), f"return_{arg}": True}

    def backward(rng, dtype, shape, layout):
        arguments = with_argmax(rng, dtype, shape, layout)
        y, argmax = getattr(fastpool, op)(**arguments, backend="numpy")
        dy, x_shape = random_array(rng, dtype, y.shape), arguments["x"].shape
        return {"dy": dy, arg: np.ascontiguousarray(argmax), "x_shape": x_shape, **window, "data_format": layout}

    yield Case(f"{op} {label}", op, forward, small, full, quick=quick)
    yield Case(f"{op} {label} {arg}", op, with_argmax, small, full, quick=quick)
    yield Case(f"{op}_backward {label}", f"{op}_backward", backward, small, full, "floats", exact=False, quick=quick)


def _global_pool(extreme: str, small: Shape, full: Shape) -> Iterator[Case]:
    op, arg = f"global_{extreme}_pool", f"arg{extreme}"

    def forward(rng, dtype, shape, layout):
        return {"x": random_array(rng, dtype, in_layout(shape, layout)), "data_format": layout}

    def with_argmax(rng, dtype, shape, layout):
        return {**forward(rng, dtype, shape, layout), f"return_{arg}": True}

    def backward(rng, dtype, shape, layout):
        elements = int(np.prod(shape[2:]))
        argmax_dtype = Window.plan(len(shape) - 2, shape, shape[2:]).argmax_dtype
        argmax = rng.integers(0, elements, shape[:2]).astype(argmax_dtype)
        dy = random_array(rng, dtype, shape[:2])
        return {"dy": dy, arg: argmax, "x_shape": in_layout(shape, layout), "data_format": layout}

    yield Case(op, op, forward, small, full)
    yield Case(f"{op} {arg}", op, with_argmax, small, full)
    yield Case(f"{op}_backward", f"{op}_backward", backward, small, full, "floats")


def _average_pool(
    axes: int,
    label: str,
    small: Shape,
    full: Shape,
    kernel_size: int,
    stride: int,
    padding: int = 0,
    quick: bool = False,
) -> Iterator[Case]:
    """Average pooling forward and backward."""
    op = f"avg_pool{axes}d"
    window = {"kernel_size": kernel_size, "stride": stride, "padding": padding}

    def forward(rng, dtype, shape, layout):
        return {"x": random_array(rng, dtype, in_layout(shape, layout)), **window, "data_format": layout}

    def backward(rng, dtype, shape, layout):
        x_shape = in_layout(shape, layout)
        y_shape = Window.plan(axes, x_shape, kernel_size, stride, padding, data_format=layout).y_shape
        dy = random_array(rng, dtype, y_shape)
        return {"dy": dy, "x_shape": x_shape, **window, "data_format": layout}

    yield Case(f"{op} {label}", op, forward, small, full, "floats", exact=False, quick=quick)
    yield Case(f"{op}_backward {label}", f"{op}_backward", backward, small, full, "floats", exact=False, quick=quick)


def _global_average_pool(small: Shape, full: Shape) -> Iterator[Case]:
    def forward(rng, dtype, shape, layout):
        return {"x": random_array(rng, dtype, in_layout(shape, layout)), "data_format": layout}

    def backward(rng, dtype, shape, layout):
        dy = random_array(rng, dtype, shape[:2])
        return {"dy": dy, "x_shape": in_layout(shape, layout), "data_format": layout}

    yield Case("global_avg_pool", "global_avg_pool", forward, small, full, "floats", exact=False)
    yield Case("global_avg_pool_backward", "global_avg_pool_backward", backward, small, full, "floats", exact=False)


def _unpool(small: Shape, full: Shape) -> Iterator[Case]:
    """The inverse of 2x2 pooling, with a random element of each window, by the indices of PyTorch."""

    def make(rng, dtype, shape, layout):
        pooled = in_layout((*shape[:2], shape[2] // 2, shape[3] // 2), layout)
        argmax = rng.integers(0, 4, pooled).astype(np.uint8)
        x_shape = in_layout(shape, layout)
        indices = fastpool.argmax_to_indices(argmax, x_shape, 2, data_format=layout)
        y = random_array(rng, dtype, pooled)
        return {"y": y, "indices": indices, "kernel_size": 2, "output_shape": x_shape, "data_format": layout}

    yield Case("max_unpool2d 2x2 s2", "max_unpool2d", make, small, full)


def _maxout(label: str, grouping: str, pieces: int, small: Shape, full: Shape, quick: bool = False) -> Iterator[Case]:
    """Maxout along the channels, forward, forward with argmax, and backward."""

    def forward(rng, dtype, shape, layout):
        axis = 1 if layout == "channels_first" else -1
        x = random_array(rng, dtype, in_layout(shape, layout))
        return {"x": x, "num_units": shape[1] // pieces, "axis": axis, "grouping": grouping}

    def with_argmax(rng, dtype, shape, layout):
        return {**forward(rng, dtype, shape, layout), "return_argmax": True}

    def backward(rng, dtype, shape, layout):
        axis = 1 if layout == "channels_first" else -1
        y_shape = in_layout((shape[0], shape[1] // pieces, *shape[2:]), layout)
        dy, argmax = random_array(rng, dtype, y_shape), rng.integers(0, pieces, y_shape).astype(np.uint8)
        return {"dy": dy, "argmax": argmax, "x_shape": in_layout(shape, layout), "axis": axis, "grouping": grouping}

    yield Case(f"maxout {label}", "maxout", forward, small, full, quick=quick)
    yield Case(f"maxout {label} argmax", "maxout", with_argmax, small, full, quick=quick)
    yield Case(f"maxout_backward {label}", "maxout_backward", backward, small, full, "floats", quick=quick)


def _columns(order: str, small: Shape, full: Shape, quick: bool = False) -> Iterator[Case]:
    """im2col of 3x3 windows with a padding of 1, and its adjoint."""
    window = {"kernel_size": 3, "stride": 1, "padding": 1, "order": order}

    def im2col(rng, dtype, shape, layout):
        return {"x": random_array(rng, dtype, in_layout(shape, layout)), **window, "data_format": layout}

    def col2im(rng, dtype, shape, layout):
        cols = random_array(rng, dtype, columns_shape(Window.plan(2, shape, 3, 1, 1), order))
        return {"cols": cols, "x_shape": in_layout(shape, layout), **window, "data_format": layout}

    label = f"3x3 s1 p1 {order}"
    yield Case(f"im2col {label}", "im2col", im2col, small, full, quick=quick)
    yield Case(f"col2im {label}", "col2im", col2im, small, full, "numeric", exact=False, quick=quick)


def _convolution(small: Shape, full: Shape) -> Iterator[Case]:
    """As many filters as channels, 3x3."""

    def forward(rng, dtype, shape, layout):
        return {
            "x": random_array(rng, dtype, in_layout(shape, layout)),
            "w": random_array(rng, dtype, (shape[1], shape[1], 3, 3)),
            "b": random_array(rng, dtype, (shape[1],)),
            "padding": 1,
            "data_format": layout,
        }

    def backward(rng, dtype, shape, layout):
        rest = forward(rng, dtype, shape, layout)
        del rest["b"]
        return {"dy": random_array(rng, dtype, in_layout(shape, layout)), **rest}

    yield Case("conv2d 3x3 s1 p1", "conv2d", forward, small, full, "floats", exact=False)
    yield Case("conv2d_backward 3x3 s1 p1", "conv2d_backward", backward, small, full, "floats", exact=False)


def _filter(extreme: str, radius: int, small: Shape, full: Shape) -> Iterator[Case]:
    """A filter of images by a disk, and by the box around it."""
    disk = fastpool.morphology.disk(radius)
    windows = {f"disk of radius {radius}": {"footprint": disk}, f"box of {len(disk)}": {"size": len(disk)}}

    def make(rng, dtype, shape, layout, window):
        axes = (2, 3) if layout == "channels_first" else (1, 2)
        return {"input": random_array(rng, dtype, in_layout(shape, layout)), **window, "axes": axes}

    op = f"{extreme}imum_filter"
    for label, window in windows.items():
        yield Case(f"{op} {label}", op, partial(make, window=window), small, full)


def _elementwise(op: str, small: Shape, full: Shape, quick: bool = False) -> Iterator[Case]:
    def forward(rng, dtype, shape, layout):
        return {"x": _activations(rng, dtype, in_layout(shape, layout))}

    def backward(rng, dtype, shape, layout):
        return {"dy": random_array(rng, dtype, in_layout(shape, layout)), **forward(rng, dtype, shape, layout)}

    yield Case(op, op, forward, small, full, "floats", exact=False, quick=quick)
    yield Case(f"{op}_backward", f"{op}_backward", backward, small, full, "floats", exact=False, quick=quick)


def _activations(rng: np.random.Generator, dtype: np.dtype, shape: Shape) -> np.ndarray:
    """Random values wide enough to reach the flat ends of the activations."""
    return random_array(rng, dtype, shape) * dtype.type(3)


_LINE, _IMAGE, _VOLUME = (2, 3, 13), (2, 3, 9, 8), (2, 2, 5, 6, 5)
_LONG_LINE, _LARGE_IMAGE, _LARGE_VOLUME = (8, 64, 12544), (8, 64, 112, 112), (8, 16, 32, 40, 40)

CASES: dict[str, Case] = {
    case.name: case
    for cases in (
        _pool(1, "3 s2", _LINE, _LONG_LINE, 3, 2),
        _pool(2, "2x2 s2", _IMAGE, _LARGE_IMAGE, 2, quick=True),
        _pool(2, "3x3 s2 p1", _IMAGE, _LARGE_IMAGE, 3, 2, 1, quick=True),
        _pool(2, "3x3 s1 p1", _IMAGE, (8, 192, 28, 28), 3, 1, 1),
        _pool(2, "13x13 s1 p6", (1, 2, 9, 8), (8, 64, 20, 20), 13, 1, 6),
        _pool(3, "2x2x2 s2", _VOLUME, _LARGE_VOLUME, 2),
        _pool(1, "3 s2", _LINE, _LONG_LINE, 3, 2, extreme="min"),
        _pool(2, "2x2 s2", _IMAGE, _LARGE_IMAGE, 2, extreme="min"),
        _pool(2, "3x3 s2 p1", _IMAGE, _LARGE_IMAGE, 3, 2, 1, extreme="min"),
        _pool(3, "2x2x2 s2", _VOLUME, _LARGE_VOLUME, 2, extreme="min"),
        _global_pool("max", _IMAGE, _LARGE_IMAGE),
        _global_pool("min", _IMAGE, _LARGE_IMAGE),
        _average_pool(1, "3 s2", _LINE, _LONG_LINE, 3, 2),
        _average_pool(2, "2x2 s2", _IMAGE, _LARGE_IMAGE, 2, 2, quick=True),
        _average_pool(2, "3x3 s2 p1", _IMAGE, _LARGE_IMAGE, 3, 2, 1),
        _average_pool(2, "3x3 s1 p1", _IMAGE, (8, 192, 28, 28), 3, 1, 1),
        _average_pool(3, "2x2x2 s2", _VOLUME, _LARGE_VOLUME, 2, 2),
        _global_average_pool(_IMAGE, (64, 512, 7, 7)),
        _unpool((2, 3, 8, 6), _LARGE_IMAGE),
        _maxout("strided, 2 pieces", "strided", 2, (2, 6, 5, 4), (8, 96, 112, 112), quick=True),
        _maxout("contiguous, 2 pieces", "contiguous", 2, (2, 6, 5, 4), (8, 96, 112, 112)),
        _maxout("dense contiguous, 4 pieces", "contiguous", 4, (5, 12), (4096, 2048)),
        _columns("unfold", _IMAGE, (8, 64, 56, 56), quick=True),
        _columns("gemm", _IMAGE, (8, 64, 56, 56)),
        _columns("columns", _IMAGE, (8, 64, 56, 56)),
        _columns("rows", _IMAGE, (8, 64, 56, 56)),
        _columns("rows_channels_last", _IMAGE, (8, 64, 56, 56)),
        _convolution((2, 3, 5, 6), (8, 64, 56, 56)),
        _filter("max", 3, _IMAGE, (8, 1, 512, 512)),
        _filter("min", 15, _IMAGE, (8, 1, 512, 512)),
        _elementwise("hard_swish", _IMAGE, _LARGE_IMAGE, quick=True),
        _elementwise("swish", _IMAGE, _LARGE_IMAGE),
    )
    for case in cases
}

__all__ = ["CASES", "LAYOUTS", "SIZES", "Case", "bytes_moved", "in_layout", "random_array", "results"]
