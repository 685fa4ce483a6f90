"""Every op on every backend against the specification, `naive`: the suite that a new backend has to pass."""

import mmap
import tempfile
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from conftest import BACKENDS, require_backend
from specimens import CASES, FLOATS, INTERPRETED, LAYOUTS, of_each_op, to_layout, values

import fastpool as fp
from fastpool import cases, timing
from fastpool.column_plans import ORDERS

F32 = np.dtype(np.float32)


@pytest.fixture(params=[name for name in BACKENDS if name != "naive"])
def backend(request):
    """Every backend except the specification itself."""
    require_backend(request.param)
    return request.param


def _names(parameter):
    return parameter.name if hasattr(parameter, "name") else str(parameter)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("case", "dtype"), [(c, d) for c in CASES for d in c.dtypes], ids=_names)
def test_agrees_with_the_specification(case, dtype, layout, backend):
    case.check(case.run(dtype, layout, backend), case.expected(dtype, layout), backend)


@pytest.mark.parametrize("dtype", [np.dtype(np.uint8), F32], ids=str)
@pytest.mark.parametrize("name", cases.CASES)
def test_typical_calls_agree_with_the_specification(name, dtype, backend):
    case = cases.CASES[name]
    if not case.takes_dtype(dtype):
        pytest.skip(f"{case.op} does not take {dtype}")
    for layout in LAYOUTS:
        arguments = case.arguments(np.random.default_rng(0), dtype, "small", layout)
        try:
            got = cases.results(case.run(arguments, backend))
        except NotImplementedError as missing:
            pytest.skip(str(missing))
        assert timing.agree(got, cases.results(case.run(arguments, "naive")), case.exact)


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_of_either_sign_are_equal(dtype, backend):
    x = np.array([[[-0.0, 0.0, 0.0, -0.0, -1, -0.0] * 20]], dtype)
    _, argmax = fp.max_pool1d(x, 2, return_argmax=True, backend=backend)
    np.testing.assert_array_equal(argmax, [[[0, 0, 1] * 20]])
    y, argmax = fp.max_pool2d(x.reshape(1, 1, 5, 24), 3, 1, 1, return_argmax=True, backend=backend)
    expected, expected_argmax = fp.max_pool2d(x.reshape(1, 1, 5, 24), 3, 1, 1, return_argmax=True, backend="naive")
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(argmax, expected_argmax)
    _, argmax = fp.maxout(x[:, 0], 60, axis=1, return_argmax=True, backend=backend)
    np.testing.assert_array_equal(argmax, fp.maxout(x[:, 0], 60, axis=1, return_argmax=True, backend="naive")[1])


# Kernels use vectors of 16 to 64 elements: rows of every length up to more than the longest vector.

WIDTHS = range(1, 20, 3) if INTERPRETED else range(1, 71)
OVER_WIDTHS = {
    "2 s2": {"kernel_size": 2},
    "2 s1": {"kernel_size": 2, "stride": 1},
    "3 s2 p1": {"kernel_size": 3, "stride": 2, "padding": 1},
    "3 s1 p1": {"kernel_size": 3, "stride": 1, "padding": 1},
    "3 s3 d2": {"kernel_size": 3, "stride": 3, "dilation": 2},
    "5 s1 p2": {"kernel_size": 5, "stride": 1, "padding": 2},
    "6 s2 p3": {"kernel_size": 6, "stride": 2, "padding": 3},
    "4 s4": {"kernel_size": 4},
    "8 s8": {"kernel_size": 8},
    "7 s5 p2 ceil": {"kernel_size": 7, "stride": 5, "padding": 2, "ceil_mode": True},
    "(1,3) s(1,2)": {"kernel_size": (1, 3), "stride": (1, 2)},
    "(3,1) s1": {"kernel_size": (3, 1), "stride": 1},
    "13 s1 p6": {"kernel_size": 13, "stride": 1, "padding": 6},
}


def _results(x, window, layout, backend):
    """y alone, y, argmax and, for floats, dx of gradients whose sums are exact."""
    window = {**window, "data_format": layout, "backend": backend}
    y, argmax = fp.max_pool2d(x, **window, return_argmax=True)
    yield from (fp.max_pool2d(x, **window), y, argmax)
    if x.dtype in FLOATS:
        dy = np.random.default_rng(0).integers(-3, 4, y.shape).astype(x.dtype)
        yield fp.max_pool2d_backward(dy, argmax, x.shape, **window)


@cache
def _over_widths(name, dtype, layout):
    """For each width, an array with rows or channels of that length, and NumPy's result."""
    window, problems = OVER_WIDTHS[name], []
    for width in WIDTHS:
        x = to_layout(values((2, 2, 9, width) if layout == "channels_first" else (1, width, 9, 8), dtype), layout)
        with suppress(ValueError):  # a window that does not fit
            problems.append((x, list(_results(x, window, layout, "numpy"))))
    assert 2 * len(problems) > len(WIDTHS)
    return problems


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "i8"])
@pytest.mark.parametrize("window", OVER_WIDTHS)
def test_agrees_with_numpy_over_all_widths(window, dtype, layout, backend):
    if backend == "numpy":
        pytest.skip("NumPy is the reference")
    for x, expected in _over_widths(window, dtype, layout):
        got = list(_results(x, OVER_WIDTHS[window], layout, backend))
        for a, b in zip(got, expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, err_msg=f"of shape {x.shape}")


def _inside(x, step):
    """`x` as every second element of a larger array, along every axis, in either direction."""
    holder = np.zeros([2 * n for n in x.shape], x.dtype)
    view = holder[(slice(None, None, 2),) * x.ndim] if step > 0 else holder[(slice(None, None, -2),) * x.ndim]
    view[...] = x
    return view


def _unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def _memory_mapped(x):
    with tempfile.TemporaryFile() as file:
        file.write(x.tobytes())
        file.flush()
        view = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), x.dtype)
    return view.reshape(x.shape)


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def _swapped(x):
    return x.astype(x.dtype.newbyteorder("S"))


def _other_layout(x):
    """The same array with its first axis last in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, min(1, x.ndim - 1), -1)), -1, min(1, x.ndim - 1))


def _other_layout_reversed(x):
    """The same array, its last axis behind the first in memory: NHWC over NCHW."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, min(1, x.ndim - 1))), min(1, x.ndim - 1), -1)


MEMORY = {
    "every second cell": lambda x: _inside(x, 1),
    "backwards": lambda x: _inside(x, -1),
    "rows upside down": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "fortran": np.asfortranarray,
    "channels last in memory": _other_layout,
    "channels first in memory": _other_layout_reversed,
    "unaligned": _unaligned,
    "read-only": _read_only,
    "memory-mapped": _memory_mapped,
    "byte-swapped": _swapped,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("case", of_each_op(), ids=_names)
def test_reads_any_memory(case, memory, layout, backend):
    case.skip_unless(backend)
    inputs = case.arrays(F32, layout)
    originals = [a.copy() for a in inputs]
    arranged = [MEMORY[memory](a) for a in inputs]
    case.check(case.call(*arranged, layout, backend=backend), case.expected(F32, layout), backend)
    for a, original in zip(arranged, originals, strict=True):
        np.testing.assert_array_equal(a, original, err_msg="the input was changed")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.float16, np.float64], ids=lambda t: t.__name__)
@pytest.mark.parametrize("memory", ["every second cell", "byte-swapped", "unaligned"])
def test_reads_any_memory_of_any_dtype(memory, dtype, backend):
    x = values((2, 3, 9, 10), dtype)
    got = fp.max_pool2d(MEMORY[memory](x), 3, 2, 1, return_argmax=True, backend=backend)
    expected = fp.max_pool2d(x, 3, 2, 1, return_argmax=True, backend="naive")
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_reads_a_broadcast_array(backend):
    x = np.broadcast_to(np.arange(7.0)[::-1], (2, 3, 5, 7))
    y, argmax = fp.max_pool2d(x, 3, 2, return_argmax=True, backend=backend)
    np.testing.assert_array_equal(y, np.broadcast_to([6.0, 4.0, 2.0], (2, 3, 2, 3)))
    assert not argmax.any()


OUTS = {
    "fresh": lambda like: np.empty_like(like),
    "every second cell": lambda like: _inside(np.ones_like(like), 1),
    "backwards": lambda like: _inside(np.ones_like(like), -1),
    "fortran": lambda like: np.asfortranarray(np.ones_like(like)),
    "channels last in memory": lambda like: _other_layout(np.ones_like(like)),
    "channels first in memory": lambda like: _other_layout_reversed(np.ones_like(like)),
    "unaligned": lambda like: _unaligned(np.ones_like(like)),
    "byte-swapped": lambda like: _swapped(np.ones_like(like)),
}
WITH_OUT = [case for case in of_each_op() if case.name != "conv2d_backward"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("out", OUTS)
@pytest.mark.parametrize("case", WITH_OUT, ids=_names)
def test_writes_into_any_out_and_returns_it(case, out, layout, backend):
    expected = case.expected(F32, layout)
    several = isinstance(expected, tuple)
    outs = tuple(OUTS[out](e) for e in (expected if several else (expected,)))
    got = case.run(F32, layout, backend, out=outs if several else outs[0])
    for returned, passed in zip(got if several else (got,), outs, strict=True):
        assert returned is passed
    in_native_order = tuple(r.astype(r.dtype.newbyteorder("=")) for r in outs)
    case.check(in_native_order if several else in_native_order[0], expected, backend)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_out_held_before_does_not_matter(dtype, backend):
    dy, argmax = np.ones((1, 1, 2, 2), dtype), np.zeros((1, 1, 2, 2), np.uint8)
    dx = np.full((1, 1, 5, 5), np.nan, dtype)
    fp.max_pool2d_backward(dy, argmax, dx.shape, 2, out=dx, backend=backend)
    expected = np.zeros((1, 1, 5, 5))
    expected[0, 0, [[0], [2]], [0, 2]] = 1
    np.testing.assert_array_equal(dx.astype(float), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_missing_batch_and_channels_change_nothing_but_the_shape(axes, layout, backend):
    pool = (fp.max_pool1d, fp.max_pool2d, fp.max_pool3d)[axes - 1]
    backward = (fp.max_pool1d_backward, fp.max_pool2d_backward, fp.max_pool3d_backward)[axes - 1]
    x = values((1, 1, 9, 6, 7)[: axes + 2], np.float32)
    whole, where = pool(x, 3, 2, 1, return_argmax=True, backend="naive")
    for lead in ((), (1,)):
        bare = x.reshape(lead + x.shape[2:] if layout == "channels_first" else x.shape[2:] + lead)
        y, argmax = pool(bare, 3, 2, 1, data_format=layout, return_argmax=True, backend=backend)
        assert y.ndim == argmax.ndim == bare.ndim
        np.testing.assert_array_equal(y.ravel(), whole.ravel())
        np.testing.assert_array_equal(argmax.ravel(), where.ravel())
        dx = backward(np.ones_like(y), argmax, bare.shape, 3, 2, 1, data_format=layout, backend=backend)
        assert dx.shape == bare.shape
        full = backward(np.ones_like(whole), where, x.shape, 3, 2, 1, backend="naive")
        np.testing.assert_array_equal(dx.ravel(), full.ravel())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unbatched_channels_pool_each_on_its_own(layout, backend):
    x = values((1, 5, 6, 7), np.float32)
    expected = fp.max_pool2d(x, 3, 2, 1, backend="naive")[0]
    x = x[0] if layout == "channels_first" else np.ascontiguousarray(np.moveaxis(x[0], 0, -1))
    y = fp.max_pool2d(x, 3, 2, 1, data_format=layout, backend=backend)
    np.testing.assert_array_equal(y if layout == "channels_first" else np.moveaxis(y, -1, 0), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32], ids=lambda t: t.__name__)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("kernel_size", "argmax_dtype"),
    [
        ((16, 16), np.uint8),
        ((1, 257), np.uint16),
        ((257, 1), np.uint16),
        ((256, 256), np.uint16),
        ((257, 256), np.uint32),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_argmax_is_right_at_the_borders_of_its_dtypes(kernel_size, argmax_dtype, layout, dtype, backend):
    if INTERPRETED and dtype != np.float32 and min(kernel_size) > 100:
        pytest.skip("large planes take the interpreter long: one dtype is enough")
    lowest = -np.inf if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).min
    height, width = kernel_size
    x = np.full((1, 2, height, width + 1), lowest, dtype)
    x[0, 1, -1, -1] = 1
    if layout == "channels_last":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    y, argmax = fp.max_pool2d(x, kernel_size, stride=1, return_argmax=True, data_format=layout, backend=backend)
    if layout == "channels_last":
        y, argmax = np.moveaxis(y, -1, 1), np.moveaxis(argmax, -1, 1)
    assert argmax.dtype == argmax_dtype
    np.testing.assert_array_equal(argmax, [[[[0, 0]], [[0, height * width - 1]]]])
    np.testing.assert_array_equal(y, np.array([[[[lowest] * 2], [[lowest, 1]]]], dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding", [0, 20], ids=["no padding", "padding"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64], ids=lambda t: t.__name__)
def test_large_windows_find_each_single_peak(dtype, padding, layout, backend):
    """One peak among lowest values is the argmax of every window that covers it, however large windows are split."""
    x = np.full((1, 1, 45, 50), -np.inf if np.issubdtype(dtype, np.floating) else 0, dtype)
    x[0, 0, 22, 24] = 5
    shape = x.shape if layout == "channels_first" else (1, 45, 50, 1)
    size = (31, 41)
    y, argmax = fp.max_pool2d(
        x.reshape(shape), size, 1, padding, return_argmax=True, data_format=layout, backend=backend
    )
    row, column = np.ogrid[: 45 + 2 * padding - 30, : 50 + 2 * padding - 40]
    dr, dc = 22 + padding - row, 24 + padding - column
    covered = (dr >= 0) & (dr < 31) & (dc >= 0) & (dc < 41)
    first_real = np.maximum(padding - row, 0) * 41 + np.maximum(padding - column, 0)
    np.testing.assert_array_equal(y.reshape(covered.shape) == 5, covered)
    np.testing.assert_array_equal(argmax.reshape(covered.shape), np.where(covered, dr * 41 + dc, first_real))


def test_far_padding_and_dilation_do_not_overflow(backend):
    if backend == "numpy":
        pytest.skip("the baseline holds the whole padded plane")
    x = np.array([[1.0, 5.0, 3.0]])
    far = 2**40
    y, argmax = fp.max_pool1d(x, 2, far, (far,), far, return_argmax=True, backend=backend)
    np.testing.assert_array_equal(y, [[1.0, 1.0]])
    np.testing.assert_array_equal(argmax, [[1, 0]])
    dx = fp.max_pool1d_backward(np.array([[1.0, 2.0]]), argmax, x.shape, 2, far, (far,), far, backend=backend)
    np.testing.assert_array_equal(dx, [[3.0, 0.0, 0.0]])


# Small arrays with the blocks and the stores of large ones.


of_numba = pytest.mark.skipif(
    "numba" not in BACKENDS or not fp.backends()["numba"].available, reason="is about Numba's kernels"
)


@of_numba
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "most_packed", [pytest.param(1, marks=pytest.mark.slow), 200, pytest.param(1 << 15, marks=pytest.mark.slow)]
)
def test_columns_in_blocks_are_the_columns(most_packed, order, layout, tuned):
    tuned(MOST_COLUMNS_PACKED=most_packed, LARGE_COLUMNS=0)
    rng = np.random.default_rng(3)
    for width in WIDTHS:
        for kernel, stride, padding, dilation in (
            (1, 1, 0, 1),
            (3, 1, 1, 1),
            ((2, 3), 2, 2, 1),
            (3, (3, 1), (1, 4), 2),
            ((2, 1), (1, 9), 3, 1),
            ((2, 3), (2, 3), 7, (7, 3)),
        ):
            window = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
            call = {**window, "order": order, "data_format": layout}
            dtype = np.dtype([np.float32, np.uint8, np.float16, np.float64][width % 4])
            x = to_layout(rng.integers(-9, 10, (2, 3, 11, width)).astype(dtype), layout)
            try:
                expected = fp.im2col(x, **call, fill_value=7, backend="numpy")
            except ValueError:
                continue  # the window does not fit
            out = np.full_like(expected, 99)
            np.testing.assert_array_equal(fp.im2col(x, **call, fill_value=7, out=out, backend="numba"), expected)
            back = fp.col2im(out, x.shape, **call, backend="numba")
            np.testing.assert_array_equal(back, fp.col2im(out, x.shape, **call, backend="numpy"))


@of_numba
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float16, np.float64])
def test_columns_of_so_many_images_that_scratch_holds_some_of_them(dtype, order, layout, tuned):
    tuned(MOST_COLUMNS_PACKED=1, MOST_SCRATCH=500)
    rng = np.random.default_rng(3)
    for images in (2, 149, 150):
        for kernel, stride, padding, dilation in (
            (1, 1, 0, 1),
            (3, 1, 1, 1),
            ((2, 3), 2, 2, 1),
            ((4, 5), (1, 9), 0, 1),
        ):
            window = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
            call = {**window, "order": order, "data_format": layout}
            x = to_layout(rng.integers(-9, 10, (images, 2, 4, 5)).astype(dtype), layout)
            expected = fp.im2col(x, **call, fill_value=7, backend="numpy")
            out = np.full_like(expected, 99)
            np.testing.assert_array_equal(fp.im2col(x, **call, fill_value=7, out=out, backend="numba"), expected)
            back = fp.col2im(out, x.shape, **call, backend="numba")
            np.testing.assert_array_equal(back, fp.col2im(out, x.shape, **call, backend="numpy"))


@of_numba
@pytest.mark.parametrize("order", ORDERS)
def test_columns_of_windows_far_apart_need_no_room(order):
    x, far = np.arange(1.0, 13).reshape(2, 1, 2, 3), 2**40
    window = {"kernel_size": 2, "stride": far, "padding": far, "dilation": far, "order": order}
    cols = fp.im2col(x, **window, fill_value=-1, backend="numba")
    np.testing.assert_array_equal(cols, fp.im2col(x, **window, fill_value=-1, backend="naive"))
    np.testing.assert_array_equal(
        fp.col2im(cols, x.shape, **window, backend="numba"), fp.col2im(cols, x.shape, **window, backend="naive")
    )


@pytest.mark.parametrize("block_bytes", [1, 700, 5000], ids="blocks of {} bytes".format)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "window",
    [
        {"padding": 1},
        {"stride": 2, "padding": ((0, 3), (2, 1)), "dilation": 2},
        {"stride": 3, "padding": 7},
        {"padding": ((9, 0), (0, 9)), "dilation": (1, 3)},
        {"padding": "same", "stride": 2},
    ],
    ids=str,
)
def test_convolution_in_blocks_is_the_convolution(window, layout, block_bytes, backend, monkeypatch):
    rng = np.random.default_rng(0)
    x, w, b = (rng.integers(-5, 6, s).astype(np.float64) for s in ((3, 4, 9, 8), (6, 2, 3, 2), (6,)))
    plan = {"groups": 2, "data_format": layout, **window}
    x = x if layout == "channels_first" else np.moveaxis(x, 1, -1)
    y = fp.conv2d(x, w, b, **plan, backend="naive")
    dy = rng.integers(-5, 6, y.shape).astype(np.float64)
    gradients = fp.conv2d_backward(dy, x, w, **plan, backend="naive")
    monkeypatch.setattr("fastpool.convolution.BLOCK_BYTES", block_bytes)
    np.testing.assert_array_equal(fp.conv2d(x, w, b, **plan, backend=backend), y)
    for got, expected in zip(fp.conv2d_backward(dy, x, w, **plan, backend=backend), gradients, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("block_bytes", [1, 700, 2**20], ids="blocks of {} bytes".format)
@pytest.mark.parametrize("groups", [1, 4], ids=["all channels", "depthwise"])
@pytest.mark.parametrize(
    ("kernel", "window"),
    [
        ((3, 2), {"padding": 1}),
        ((3, 2), {"stride": 2, "padding": ((0, 3), (2, 1)), "dilation": 2}),
        ((3, 2), {"stride": 3, "padding": 7}),
        ((3, 2), {"padding": ((9, 0), (0, 9)), "dilation": (1, 3)}),
        ((5, 3), {"padding": "same", "stride": (1, 2)}),
        ((1, 1), {}),
        ((1, 1), {"stride": (2, 3)}),
        ((1, 1), {"padding": 1}),
    ],
    ids=str,
)
def test_convolution_with_the_channels_last_in_memory_is_that_with_them_first(
    kernel, window, groups, block_bytes, dtype, monkeypatch
):
    rng = np.random.default_rng(0)
    sizes = (3, 9, 8, 4), (4, 4 // groups, *kernel), (4,)
    x, w, b = (rng.integers(-3, 4, size).astype(dtype) for size in sizes)
    expected = np.moveaxis(fp.conv2d(np.moveaxis(x, -1, 1).copy(), w, b, groups=groups, **window), 1, -1)
    for name in ("ROWS_BLOCK_BYTES", "BLOCK_BYTES", "DEPTHWISE_BLOCK_BYTES"):
        monkeypatch.setattr(f"fastpool.convolution.{name}", block_bytes)
    y = fp.conv2d(x, w, b, groups=groups, data_format="channels_last", **window)
    np.testing.assert_array_equal(y, expected)
    assert y.flags.c_contiguous
    y = fp.conv2d(np.moveaxis(x, -1, 1), w, b, groups=groups, **window)
    np.testing.assert_array_equal(np.moveaxis(y, 1, -1), expected)
    out = np.full_like(np.pad(expected, ((0, 0), (0, 0), (0, 1), (0, 0))), 77)
    fp.conv2d(x, w, None, groups=groups, data_format="channels_last", out=out[:, :, :-1], **window)
    np.testing.assert_array_equal(out[:, :, :-1], expected - b)
    assert (out[:, :, -1] == 77).all()
