"""Arrays with ties, NaN and extremes, and every op as a case: its inputs, and how to call it."""

import os
import zlib
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import fastpool as fp
from fastpool.column_plans import ORDERS

# Where the CUDA backend's PTX is run on the CPU (tests/interpreted.py): the small problems alone.
INTERPRETED = os.environ.get("FASTPOOL_TEST_CUDA") == "interpreted"

LAYOUTS = ("channels_first", "channels_last")
FLOATS = tuple(np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))
INTEGERS = tuple(np.dtype(t) for t in ("bHQ" if INTERPRETED else "bBhHiIqQ"))
DTYPES = (np.dtype(bool), *INTEGERS, *FLOATS)
FEW = tuple(np.dtype(t) for t in (np.uint8, np.float16, np.float32))


def values(shape, dtype, seed=0):
    """Few different values, so that many tie, with the extremes of the dtype and, for floats, NaN and infinities."""
    rng = np.random.default_rng([seed, *shape])
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.3
    x = rng.integers(0, 7, shape).astype(dtype)
    if dtype.kind in "iu":
        extremes = (np.iinfo(dtype).min, np.iinfo(dtype).max)
    else:
        x -= dtype.type(3)
        extremes = (-np.inf, np.inf, np.nan)
    for extreme in extremes:
        x[rng.random(shape) < 0.04] = extreme
    x[rng.random(shape) < 0.2] = extremes[0]
    return x


def reverse_order(x):
    """-x of floats, ~x of integers and bools: what is lowest becomes highest, and NaN stays."""
    return -x if x.dtype in FLOATS else ~x


def grads(shape, dtype, seed=1):
    """Gradients without zeros, a few of them not finite."""
    rng = np.random.default_rng([seed, *shape])
    dy = rng.standard_normal(shape).astype(dtype)
    dy[rng.random(shape) < 0.02] = np.nan
    dy[rng.random(shape) < 0.02] = np.inf
    return dy


def to_layout(x, layout):
    """A contiguous copy of a channels-first array in a layout."""
    return x if layout == "channels_first" else np.ascontiguousarray(np.moveaxis(x, 1, -1))


def shaped(shape, layout):
    return shape if layout == "channels_first" else (shape[0], *shape[2:], shape[1])


def has(backend, kernel):
    return hasattr(import_module(f"fastpool.backends.{backend}"), kernel)


class Case(NamedTuple):
    """One op on one problem."""

    name: str
    kernel: str
    """The function that a backend must export for the case to run."""
    dtypes: tuple[np.dtype, ...]
    arrays: Callable[[np.dtype, str], tuple[np.ndarray, ...]]
    """The inputs for a dtype and a layout, contiguous."""
    call: Callable[..., Any]
    """Called with the inputs, the layout, and `backend=` and `out=`."""
    rtol: float = 0.0
    """Above 0 for ops whose backends may round differently, in units of the dtype's eps."""

    def run(self, dtype, layout, backend, **more):
        self.skip_unless(backend)
        return self.call(*self.arrays(dtype, layout), layout, backend=backend, **more)

    def skip_unless(self, backend):
        if not has(backend, self.kernel):
            pytest.skip(f"the backend {backend} has no {self.kernel}")

    @property
    def is_large(self):
        return any(word in self.name for word in LARGE)

    def expected(self, dtype, layout):
        """The result of the specification."""
        return _expected(self, dtype, layout)

    def check(self, got, expected, backend="naive"):
        """Compare exactly, or up to rounding for ops and backends that sum in another order."""
        got, expected = (v if isinstance(v, tuple) else (v,) for v in (got, expected))
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            adds_up = backend == "numpy" and self.kernel in ("max_pool_backward", "col2im") and b.dtype in FLOATS
            rtol = max(self.rtol, 32.0 * adds_up)
            if rtol:
                eps = float(ml_dtypes.finfo(b.dtype).eps)
                a, b = a.astype(np.float64), b.astype(np.float64)
                np.testing.assert_allclose(a, b, rtol=rtol * eps, atol=rtol * eps)
            elif b.dtype in FLOATS:
                np.testing.assert_array_equal(a.astype(np.float64), b.astype(np.float64))
            else:
                np.testing.assert_array_equal(a, b)


@cache
def _expected(case, dtype, layout):
    return case.call(*case.arrays(dtype, layout), layout, backend="naive")


def _dtypes(name):
    return DTYPES if name in IN_EVERY_DTYPE else FEW


POOLS = {1: fp.max_pool1d, 2: fp.max_pool2d, 3: fp.max_pool3d}
POOLS_BACKWARD = {1: fp.max_pool1d_backward, 2: fp.max_pool2d_backward, 3: fp.max_pool3d_backward}
AVERAGES = {1: fp.avg_pool1d, 2: fp.avg_pool2d, 3: fp.avg_pool3d}
AVERAGES_BACKWARD = {1: fp.avg_pool1d_backward, 2: fp.avg_pool2d_backward, 3: fp.avg_pool3d_backward}
UNPOOLS = {1: fp.max_unpool1d, 2: fp.max_unpool2d, 3: fp.max_unpool3d}

WINDOWS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    # name: the shape (N, C, *S), and the arguments of the pool
    "2 s2": ((2, 3, 6, 8), {"kernel_size": 2}),
    "2 s2 odd": ((1, 2, 7, 9), {"kernel_size": 2}),
    "2 s2 ceil": ((1, 2, 7, 9), {"kernel_size": 2, "ceil_mode": True}),
    "3 s2 p1": ((2, 3, 9, 11), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "3 s1 p1": ((1, 5, 6, 7), {"kernel_size": 3, "stride": 1, "padding": 1}),
    "3 s3 p1 ceil": ((1, 2, 10, 11), {"kernel_size": 3, "padding": 1, "ceil_mode": True}),
    "3 s1 d2": ((1, 3, 9, 8), {"kernel_size": 3, "stride": 1, "dilation": 2}),
    "3 s2 p3 d(2,3)": ((1, 2, 8, 9), {"kernel_size": 3, "stride": 2, "padding": 3, "dilation": (2, 3)}),
    "(1,5) s(2,1)": ((1, 2, 5, 12), {"kernel_size": (1, 5), "stride": (2, 1)}),
    "(5,1) s(1,3)": ((1, 2, 12, 7), {"kernel_size": (5, 1), "stride": (1, 3)}),
    "1 s2": ((1, 2, 5, 6), {"kernel_size": 1, "stride": 2}),
    "1 s1": ((1, 2, 3, 4), {"kernel_size": 1}),
    "padding (0,2) (3,0)": ((1, 2, 6, 7), {"kernel_size": 3, "stride": 2, "padding": ((0, 2), (3, 0))}),
    "windows of padding alone": ((1, 2, 3, 4), {"kernel_size": 2, "stride": 1, "padding": ((3, 4), (5, 2))}),
    "dilation over padding": ((1, 2, 3, 2), {"kernel_size": 3, "stride": 1, "padding": 4, "dilation": 4}),
    "a window between the elements": ((1, 1, 1, 1), {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 2}),
    "stride beyond the kernel": ((1, 2, 11, 12), {"kernel_size": 2, "stride": 5, "padding": 1}),
    "same": ((1, 2, 8, 9), {"kernel_size": 3, "stride": 2, "padding": "same"}),
    "same even kernel": ((1, 2, 7, 6), {"kernel_size": (2, 4), "stride": 1, "padding": "same"}),
    "same_lower": ((1, 2, 8, 6), {"kernel_size": 4, "stride": (2, 3), "padding": "same_lower"}),
    "valid": ((1, 2, 8, 9), {"kernel_size": 3, "stride": 2, "padding": "valid"}),
    "5 s2 p2": ((1, 2, 11, 14), {"kernel_size": 5, "stride": 2, "padding": 2}),
    "(6,9) s(2,1)": ((1, 2, 15, 13), {"kernel_size": (6, 9), "stride": (2, 1), "padding": ((0, 4), (5, 3))}),
    "(9,7) s(1,3)": ((1, 2, 12, 24), {"kernel_size": (9, 7), "stride": (1, 3), "padding": (4, 0)}),
    "13 s1 p6": ((1, 2, 9, 16), {"kernel_size": 13, "stride": 1, "padding": 6}),
    "9 s4 p4": ((1, 2, 21, 37), {"kernel_size": 9, "stride": 4, "padding": 4}),
    "11 s6 d2": ((1, 3, 7, 40), {"kernel_size": (2, 11), "stride": (1, 6), "padding": (0, 5), "dilation": (1, 2)}),
    "large window": ((1, 1, 40, 50), {"kernel_size": (21, 33), "stride": (10, 9)}),
    "the whole plane": ((2, 2, 7, 5), {"kernel_size": (7, 5)}),
    "one cell": ((1, 1, 1, 1), {"kernel_size": 1}),
    "batch 0": ((0, 3, 5, 5), {"kernel_size": 3}),
    "channels 0": ((2, 0, 5, 5), {"kernel_size": 3}),
    "channels 1": ((3, 1, 6, 5), {"kernel_size": 2}),
    "channels 67": ((1, 67, 4, 5), {"kernel_size": 3, "stride": 1, "padding": 1}),
    "1-D": ((2, 3, 17), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "1-D 5 d3": ((1, 2, 23), {"kernel_size": 5, "stride": 1, "padding": 6, "dilation": 3}),
    "1-D ceil": ((1, 2, 10), {"kernel_size": 4, "stride": 3, "ceil_mode": True}),
    "3-D": ((1, 2, 5, 6, 7), {"kernel_size": 2}),
    "3-D 3 s2 p1": ((1, 2, 5, 6, 5), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "3-D (1,2,3) s(2,1,1)": (
        (2, 1, 4, 5, 6),
        {"kernel_size": (1, 2, 3), "stride": (2, 1, 1), "padding": ((0, 1), (1, 0), (2, 3)), "dilation": (1, 2, 1)},
    ),
    "3-D along the depth": ((1, 2, 4, 3, 5), {"kernel_size": (2, 1, 1), "stride": 1}),
    "3-D along the depth, one row": ((1, 2, 4, 2, 5), {"kernel_size": (2, 1, 1), "stride": (2, 3, 1)}),
    "3-D along the depth, more rows": (
        (1, 2, 4, 3, 5),
        {"kernel_size": (3, 1, 1), "stride": (1, 1, 1), "padding": ((2, 1), (0, 1), (0, 0))},
    ),
    "3-D ceil": ((1, 1, 5, 4, 5), {"kernel_size": 2, "ceil_mode": True}),
}
IN_EVERY_DTYPE = {
    "2 s2", "3 s2 p1", "3 s1 p1", "3 s2 p3 d(2,3)", "windows of padding alone", "13 s1 p6", "batch 0", "1-D",
    "3-D 3 s2 p1",
    "3 p1", "(2,3) s(2,1) d(1,2) p(0,1) (3,0)", "dense", "images",
}  # fmt: skip
# Of these minima, too: a window for each way in which a backend pools.
MINIMA = (
    "2 s2", "3 s2 p1", "3 s1 p1", "3 s3 p1 ceil", "(5,1) s(1,3)", "windows of padding alone", "13 s1 p6", "9 s4 p4",
    "large window", "the whole plane", "batch 0", "channels 67", "1-D", "3-D 3 s2 p1",
)  # fmt: skip
# Words in the names of arrays that are large enough to cross the borders of any tile.
LARGE = ("wide", "tall", "long signal", "many")
LONG_WINDOWS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    # in few dtypes
    "a wide row": ((1, 1, 3, 5003), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "a wide row 2 s2": ((1, 1, 2, 9001), {"kernel_size": 2}),
    "a wide row s1": ((1, 1, 2, 4100), {"kernel_size": 2, "stride": 1}),
    "a wide window": ((1, 1, 2, 1500), {"kernel_size": (1, 70), "stride": 7, "padding": (0, 35)}),
    "a tall image": ((1, 1, 3001, 2), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "a long signal": ((1, 1, 10007), {"kernel_size": 3, "stride": 3}),
    "tall windows in wide rows": ((1, 1, 20, 520), {"kernel_size": (9, 3), "stride": 1, "padding": (4, 1)}),
    "many channels": ((1, 2100, 3, 2), {"kernel_size": 2, "stride": 1}),
    "many planes": ((7, 301, 2, 2), {"kernel_size": 2}),
}


def pool_cases(axes, name, shape, window, dtypes, extreme="max"):
    pool, pool_backward = (getattr(fp, f"{extreme}_pool{axes}d{backward}") for backward in ("", "_backward"))
    returning = {f"return_arg{extreme}": True}

    def arrays(dtype, layout):
        x = to_layout(values(shape, dtype, zlib.crc32(name.encode())), layout)
        return (x if extreme == "max" else reverse_order(x),)

    def backward_arrays(dtype, layout):
        y, argmax = forward(*arrays(dtype, layout), layout, backend="naive")
        return grads(y.shape, dtype), argmax

    def forward(x, layout, **more):
        return pool(x, **window, data_format=layout, **returning, **more)

    def alone(x, layout, **more):
        return pool(x, **window, data_format=layout, **more)

    def backward(dy, argmax, layout, **more):
        return pool_backward(dy, argmax, shaped(shape, layout), **window, data_format=layout, **more)

    floats, op = tuple(d for d in dtypes if d in FLOATS), f"{extreme}_pool{axes}d"
    return [
        Case(f"{op} {name}", f"{extreme}_pool", dtypes, arrays, forward),
        Case(f"{op} {name}, no arg{extreme}", f"{extreme}_pool", FEW[::2], arrays, alone),
        Case(f"{op}_backward {name}", "max_pool_backward", floats, backward_arrays, backward),
    ]


def average_cases(axes, name, shape, window, dtypes):
    floats = tuple(d for d in dtypes if d in FLOATS)

    def cases_of(label, dtypes, **more):
        op = f"avg_pool{axes}d"
        plan = window | more

        def arrays(dtype, layout):
            x = grads(shape, dtype, zlib.crc32(name.encode()))
            return (to_layout(x, layout),)

        def forward(x, layout, **more):
            return AVERAGES[axes](x, **plan, data_format=layout, **more)

        def backward_arrays(dtype, layout):
            return (grads(forward(*arrays(dtype, layout), layout, backend="naive").shape, dtype),)

        def backward(dy, layout, **more):
            return AVERAGES_BACKWARD[axes](dy, shaped(shape, layout), **plan, data_format=layout, **more)

        return [
            Case(f"{op} {name}{label}", "avg_pool", dtypes, arrays, forward, rtol=16),
            Case(
                f"avg_pool{axes}d_backward {name}{label}",
                "avg_pool_backward",
                dtypes,
                backward_arrays,
                backward,
                rtol=16,
            ),
        ]

    return [
        *cases_of("", floats),
        *cases_of(", without padding", FEW[2:], count_include_pad=False),
        *cases_of(", divided by 7", FEW[2:], divisor_override=7),
    ]


def global_average_cases():
    shape = (2, 19, 6, 7)

    def arrays(dtype, layout):
        return (to_layout(grads(shape, dtype), layout),)

    def backward_arrays(dtype, layout):
        return (grads(shape[:2], dtype),)

    def forward(x, layout, **more):
        return fp.global_avg_pool(x, data_format=layout, **more)

    def backward(dy, layout, **more):
        return fp.global_avg_pool_backward(dy, shaped(shape, layout), data_format=layout, **more)

    return [
        Case("global_avg_pool", "avg_pool", FLOATS, arrays, forward, rtol=16),
        Case("global_avg_pool_backward", "avg_pool_backward", FLOATS, backward_arrays, backward, rtol=16),
    ]


def maxout_cases(name, shape, num_units, axis, grouping, dtypes):
    """`axis` is that of the array in memory; None stands for the channels of the layout."""

    def axis_in(layout):
        return (1 if layout == "channels_first" else len(shape) - 1) if axis is None else axis

    def arrays(dtype, layout):
        x = values(shape, dtype, zlib.crc32(name.encode()))
        return (to_layout(x, layout) if axis is None else x,)

    def forward(x, layout, **more):
        return fp.maxout(x, num_units, axis_in(layout), grouping=grouping, return_argmax=True, **more)

    def backward_arrays(dtype, layout):
        y, argmax = forward(*arrays(dtype, layout), layout, backend="naive")
        return grads(y.shape, dtype), argmax

    def backward(dy, argmax, layout, **more):
        x_shape = shaped(shape, layout) if axis is None else shape
        return fp.maxout_backward(dy, argmax, x_shape, axis_in(layout), grouping=grouping, **more)

    floats = tuple(d for d in dtypes if d in FLOATS)
    name = f"{name} {grouping}"
    return [
        Case(f"maxout {name}", "max_pool", dtypes, arrays, forward),
        Case(f"maxout_backward {name}", "max_pool_backward", floats, backward_arrays, backward),
    ]


COLUMNS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "3 p1": ((2, 3, 5, 6), {"kernel_size": 3, "padding": 1}),
    "2 s2": ((2, 2, 6, 4), {"kernel_size": 2, "stride": 2}),
    "(2,3) s(2,1) d(1,2) p(0,1) (3,0)": (
        (2, 2, 7, 8),
        {"kernel_size": (2, 3), "stride": (2, 1), "dilation": (1, 2), "padding": ((0, 1), (3, 0))},
    ),
    "same": ((1, 2, 5, 6), {"kernel_size": 4, "stride": 2, "padding": "same"}),
    "windows of padding alone": ((1, 2, 2, 3), {"kernel_size": 2, "padding": 4}),
    "1 s1": ((2, 3, 3, 4), {"kernel_size": 1}),
    "batch 0": ((0, 2, 4, 5), {"kernel_size": 2}),
    "1-D": ((2, 3, 9), {"kernel_size": 3, "stride": 2, "padding": 2}),
    "3-D": ((2, 2, 3, 4, 5), {"kernel_size": (1, 2, 3), "padding": 1, "stride": (2, 1, 1)}),
}


# Windows are columns in one kernel, and rows in another. The other orders are views of these.
ORDERS_OF_KERNELS = "unfold", "rows"


def column_cases(name, shape, window, order, dtypes):
    def arrays(dtype, layout):
        return (to_layout(values(shape, dtype), layout),)

    def im2col(x, layout, **more):
        return fp.im2col(x, **window, order=order, fill_value=1, data_format=layout, **more)

    def cols(dtype, layout):
        like = im2col(*arrays(dtype, layout), layout, backend="naive")
        make = grads if dtype in FLOATS else values
        return (make(like.shape, dtype),)

    def col2im(cols, layout, **more):
        return fp.col2im(cols, shaped(shape, layout), **window, order=order, data_format=layout, **more)

    sums = tuple(d for d in dtypes if d.kind != "b")
    return [
        Case(f"im2col {name} {order}", "im2col", dtypes, arrays, im2col),
        Case(f"col2im {name} {order}", "col2im", sums, cols, col2im),
    ]


def unpool_cases(axes, name, shape, window, dtypes):
    def arrays(dtype, layout):
        x = to_layout(values(shape, dtype), layout)
        y, argmax = POOLS[axes](x, **window, data_format=layout, return_argmax=True, backend="naive")
        return y, fp.argmax_to_indices(argmax, x.shape, **window, data_format=layout)

    def unpool(y, indices, layout, **more):
        return UNPOOLS[axes](
            y, indices, window["kernel_size"], output_shape=shaped(shape, layout), data_format=layout, **more
        )

    return [Case(f"max_unpool{axes}d {name}", "max_unpool", dtypes, arrays, unpool)]


def activation_cases():
    """Small and large values, the knees of hard-swish, infinities and NaN, along several axes."""

    def arrays(dtype, layout):
        x = np.linspace(-8, 8, 210).astype(dtype)
        x[[0, 1, 2, 3, 4, 5]] = [np.inf, -np.inf, np.nan, 3, -3, 1e-3]
        return (to_layout(x.reshape(2, 3, 5, 7), layout),)

    def two_arrays(dtype, layout):
        (x,) = arrays(dtype, layout)
        return np.linspace(-2, 3, x.size).astype(dtype).reshape(x.shape), x

    def over(op, *extra):
        return lambda *a, **more: op(*a[:-1], *extra, **more)

    return [
        Case("hard_swish", "hard_swish", FLOATS, arrays, over(fp.hard_swish)),
        Case("hard_swish_backward", "hard_swish_backward", FLOATS, two_arrays, over(fp.hard_swish_backward)),
        Case("swish", "swish", FLOATS, arrays, over(fp.swish), rtol=8),
        Case("swish beta 1.7", "swish", FLOATS, arrays, over(fp.swish, 1.7), rtol=8),
        Case("swish beta -0.5", "swish", FLOATS, arrays, over(fp.swish, -0.5), rtol=8),
        Case("swish_backward", "swish_backward", FLOATS, two_arrays, over(fp.swish_backward), rtol=16),
        Case("swish_backward beta 0.4", "swish_backward", FLOATS, two_arrays, over(fp.swish_backward, 0.4), rtol=16),
    ]


def conv_cases():
    shape = (2, 4, 7, 8)

    def x_of(dtype, layout):
        return to_layout(np.random.default_rng(0).integers(-4, 5, shape).astype(dtype), layout)

    def w_of(dtype):
        return np.random.default_rng(1).integers(-4, 5, (6, 2, 3, 2)).astype(dtype)

    window = {"stride": (2, 1), "padding": ((1, 2), (0, 3)), "dilation": (1, 2), "groups": 2}

    def arrays(dtype, layout):
        return x_of(dtype, layout), w_of(dtype), np.arange(6).astype(dtype)

    def backward_arrays(dtype, layout):
        x, w = x_of(dtype, layout), w_of(dtype)
        y = fp.conv2d(x, w, **window, data_format=layout, backend="naive")
        return np.random.default_rng(2).integers(-4, 5, y.shape).astype(dtype), x, w

    def forward(x, w, b, layout, **more):
        return fp.conv2d(x, w, b, **window, data_format=layout, **more)

    def backward(dy, x, w, layout, **more):
        return fp.conv2d_backward(dy, x, w, **window, data_format=layout, **more)

    return [
        Case("conv2d", "im2col", FLOATS, arrays, forward),
        Case("conv2d_backward", "col2im", FLOATS, backward_arrays, backward),
    ]


def _all_cases():
    for name, (shape, window) in WINDOWS.items():
        yield from pool_cases(len(shape) - 2, name, shape, window, _dtypes(name))
        if "dilation" not in window:
            yield from average_cases(len(shape) - 2, name, shape, window, _dtypes(name))
    for name in MINIMA:
        shape, window = WINDOWS[name]
        yield from pool_cases(len(shape) - 2, name, shape, window, _dtypes(name), "min")
    yield from global_average_cases()
    for name, (shape, window) in () if INTERPRETED else LONG_WINDOWS.items():
        yield from pool_cases(len(shape) - 2, name, shape, window, FEW)
        yield from average_cases(len(shape) - 2, name, shape, window, FEW)
    for grouping in ("strided", "contiguous"):
        for name, shape, units, axis in [
            ("dense", (6, 12), 4, None),
            ("images", (2, 12, 3, 5), 3, None),
            ("halves", (2, 8, 5, 5), 4, None),
            ("volumes", (1, 6, 2, 3, 4), 2, None),
            ("one unit", (3, 7), 1, None),
            ("one piece", (3, 7), 7, None),
            ("one axis", (12,), 3, 0),
            ("the first of three axes", (12, 2, 5), 3, 0),
            ("the middle of five", (2, 3, 8, 2, 20), 4, 2),
            ("batch 0", (0, 6), 3, None),
            ("no elements after the axis", (2, 6, 0), 3, 1),
        ]:
            yield from maxout_cases(name, shape, units, axis, grouping, _dtypes(name))
        for name, shape, units, axis in (
            ()
            if INTERPRETED
            else [
                ("wide", (2, 6, 4099), 2, 1),
                ("many channels", (3, 4098), 1366, None),
                ("300 pieces", (2, 600), 2, None),
            ]
        ):
            yield from maxout_cases(name, shape, units, axis, grouping, FEW)
    for order in ORDERS:
        for name, (shape, window) in COLUMNS.items():
            dtypes = _dtypes(name) if order in ORDERS_OF_KERNELS else FEW
            yield from column_cases(name, shape, window, order, dtypes)
        if not INTERPRETED:
            yield from column_cases("wide", (1, 2, 3, 2100), {"kernel_size": 2, "padding": 1}, order, FEW)
    for name in ("2 s2", "3 s2 p1", "windows of padding alone", "batch 0", "1-D", "3-D 3 s2 p1"):
        shape, window = WINDOWS[name]
        yield from unpool_cases(len(shape) - 2, name, shape, window, _dtypes(name))
    yield from activation_cases()
    yield from conv_cases()


CASES = list(_all_cases())


def of_each_op():
    """One case of each op, for tests of behaviour that all ops share."""
    seen = {}
    for case in CASES:
        seen.setdefault(case.name.split()[0], case)
    return list(seen.values())
