"""The memory that a call takes besides its arrays: the bounds in docs/backends.md."""

import gc
import tracemalloc

import numpy as np
import pytest
from specimens import POOLS, POOLS_BACKWARD

import fastpool as fp
from fastpool.column_plans import ORDERS
from fastpool.dtypes import sum_dtype
from fastpool.window import Window

MB = 2**20
PLANE, IMAGE = (1, 1, 2048, 2048), (1, 3, 1024, 1024)
COMPILED = [name for name in ("numba", "cython") if fp.backends()[name].available]
of_numba = pytest.mark.skipif("numba" not in COMPILED, reason="is about Numba's kernels")
if "numba" in COMPILED:
    from fastpool.backends.numba import plan, tuning
    from fastpool.backends.numba.plan.columns import col2im_tiles, im2col_tiles, im2row_tiles, row2im_tiles


@pytest.fixture(params=COMPILED)
def backend(request):
    fp.set_num_threads(2)
    yield request.param
    fp.set_num_threads(None)


def extra_memory(call):
    """The peak bytes of a call, less those of its results. NumPy reports its allocations to tracemalloc."""
    call()  # creates plans, and memory that a thread keeps
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        results = call()
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    return most - sum(r.nbytes for r in (results if isinstance(results, tuple) else (results,)))


def random(shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype)


WINDOWS = {
    "small windows": (IMAGE, {"kernel_size": 3, "stride": 2, "padding": 1}),
    "large windows": ((1, 1, 700, 700), {"kernel_size": 65, "stride": 1, "padding": 32}),
    "large windows far apart": ((1, 1, 700, 700), {"kernel_size": 127, "stride": 16, "padding": 63}),
    "strides far above the window": (IMAGE, {"kernel_size": 3, "stride": 1000, "padding": 1}),
    "a long signal": ((1, 1, 1, 2_000_000), {"kernel_size": (1, 5), "stride": 1, "padding": (0, 2)}),
    "a long signal along another axis": ((1, 1, 2_000_000, 1), {"kernel_size": (5, 1), "stride": 1, "padding": (2, 0)}),
    "taps far apart": ((1, 1, 40, 1600), {"kernel_size": (9, 2), "stride": 1, "dilation": (1, 1000)}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.slow
def test_pools_and_their_gradients_take_some_megabytes(name, dtype, backend):
    shape, window = WINDOWS[name]
    x = random(shape, dtype)
    y, argmax = fp.max_pool2d(x, **window, return_argmax=True, backend=backend)
    assert extra_memory(lambda: fp.max_pool2d(x, **window, return_argmax=True, backend=backend)) < 16 * MB
    assert extra_memory(lambda: fp.max_pool2d_backward(y, argmax, shape, **window, backend=backend)) < 10 * MB


@pytest.mark.skipif("cython" not in COMPILED, reason="is about the cython backend")
@pytest.mark.parametrize(
    ("shape", "window", "dtype"),
    [
        ((1, 1, 1500, 1500), {"kernel_size": 1, "stride": 1, "padding": 1}, np.uint8),
        ((1, 1, 3_000_000), {"kernel_size": 2, "stride": 1, "padding": 1}, np.float16),
        ((1, 4, 400, 2000), {"kernel_size": 2, "stride": 1, "data_format": "channels_last"}, np.float16),
        ((1, 1, 1_200_000), {"kernel_size": 70_000, "stride": 65_536}, np.float16),
    ],
    ids=["many first elements", "a long signal", "parts of rows", "large windows"],
)
@pytest.mark.slow
def test_pools_of_cython_and_their_gradients_take_4_megabytes(shape, window, dtype):
    axes, window = len(shape) - 2, {**window, "backend": "cython"}
    x = np.ones(shape, dtype)
    y, argmax = POOLS[axes](x, **window, return_argmax=True)
    assert extra_memory(lambda: POOLS[axes](x, **window, return_argmax=True)) < 4 * MB
    dy = y.astype(np.float16)
    assert extra_memory(lambda: POOLS_BACKWARD[axes](dy, argmax, shape, **window)) < 4 * MB


EXTREME = {
    "windows of a million elements": ((1, 1, 2**24), {"kernel_size": 2**20, "padding": 2**19}, np.float16),
    "strides far above the window": ((1, 1, 2**24), {"kernel_size": 17, "stride": 260_000}, np.float64),
    "windows of padding": (
        (1, 1, 2),
        {"kernel_size": 1_707_761, "stride": 1_003_866, "padding": 1_707_761},
        np.float32,
    ),
    "tall windows": ((1, 1, 2200, 800), {"kernel_size": 1025, "stride": 1, "padding": 512}, np.float64),
    "large windows far apart": ((1, 1, 700, 700), {"kernel_size": 257, "stride": 16, "padding": 128}, np.float64),
    "large volumes": ((1, 1, 33, 256, 256), {"kernel_size": 33, "stride": 1, "padding": (0, 16, 16)}, np.float64),
    "very many channels": (
        (1, 3, 3_000_000),
        {"kernel_size": 2, "stride": 1, "data_format": "channels_last"},
        np.float16,
    ),
}


@of_numba
@pytest.mark.parametrize("name", EXTREME)
@pytest.mark.slow
def test_extreme_windows_take_8_megabytes_a_thread(name):
    shape, window, dtype = EXTREME[name]
    axes, window = len(shape) - 2, {**window, "backend": "numba"}
    x = np.zeros(shape, dtype)
    x.reshape(-1)[::7] = 1
    y, argmax = POOLS[axes](x, **window, return_argmax=True)
    fp.set_num_threads(1)
    try:
        assert extra_memory(lambda: POOLS[axes](x, **window, return_argmax=True)) < 9 * MB
        assert extra_memory(lambda: POOLS_BACKWARD[axes](y, argmax, shape, **window)) < 9 * MB
    finally:
        fp.set_num_threads(None)


@of_numba
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("shape", "kernel_size", "dilation"),
    [((1, 1, 120_000), 100, 400), ((1_500_000, 1, 2), 1, 1)],
    ids=["taps", "images"],
)
@pytest.mark.slow
def test_columns_of_many_taps_or_images_take_8_megabytes_a_thread(shape, kernel_size, dilation, order):
    x = random(shape)
    window = {"kernel_size": kernel_size, "stride": 1, "dilation": dilation, "order": order, "backend": "numba"}
    columns = fp.im2col(x, **window)
    fp.set_num_threads(1)
    try:
        assert extra_memory(lambda: fp.im2col(x, **window)) < 9 * MB
        assert extra_memory(lambda: fp.col2im(columns, shape, **window)) < 9 * MB
    finally:
        fp.set_num_threads(None)


def an_extreme_window(rng):
    """Windows of random geometry over an array that is never created, or None if they do not fit."""

    def at_most(bits):
        return int(2 ** rng.uniform(0, bits))

    axes = int(rng.integers(1, 4))
    sizes = [at_most(26 if rng.random() < 0.2 else (26, 13, 9)[axes - 1]) for _ in range(axes)]
    kernel = [rng.choice([1, 2, at_most(5), min(at_most(22), 2 * size), size]) for size in sizes]
    dilation = [rng.choice([1, 1, 2, at_most(10), at_most(22)]) for _ in sizes]
    window = {
        "kernel_size": tuple(map(int, kernel)),
        "stride": tuple(int(rng.choice([1, 1, 2, k, max(k // 2, 1), at_most(22)])) for k in kernel),
        "padding": tuple(
            int(rng.choice([0, 0, k // 2, k, (k - 1) * d // 2, at_most(22)]))
            for k, d in zip(kernel, dilation, strict=True)
        ),
        "dilation": tuple(map(int, dilation)),
    }
    batch, channels = (int(rng.choice([1, 3, at_most(9), at_most(24)])) for _ in range(2))
    window["data_format"] = str(rng.choice(["channels_first", "channels_last"]))
    shape = (batch, channels, *sizes) if window["data_format"] == "channels_first" else (batch, *sizes, channels)
    try:
        return Window.plan(axes, shape, **window)
    except ValueError:
        return None


@of_numba
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_no_plan_takes_more_scratch_than_8_megabytes_a_thread(dtype):
    """Only plans: nothing of these sizes is pooled."""
    rng, dtype, most = np.random.default_rng(7), np.dtype(dtype), tuning.MOST_SCRATCH
    assert most == 8 * MB
    for window in filter(None, (an_extreme_window(rng) for _ in range(1000))):
        outer, inner = window.batch, window.channels
        if window.channel_axis == 1:
            outer, inner = outer * inner, 1
        index = window.argmax_dtype if window.volume <= 1 << 32 else None
        for threads in (1, 16):
            assert plan.max_pool(window, outer, inner, dtype, None, threads).scratch_bytes <= most, window
            assert plan.max_pool(window, outer, inner, dtype, index, threads).scratch_bytes <= most, window
        if index is not None:
            assert plan.validate_argmax(window, outer, inner, index).scratch_bytes <= most, window
        if index is not None and dtype.kind == "f":
            assert plan.max_pool_backward(window, outer, inner, dtype).scratch_bytes <= most, window
        if dtype.kind == "f":
            for average in (plan.avg_pool, plan.avg_pool_backward):
                planned = average(window, window.divisors(True, None), outer, inner, dtype)
                assert planned.scratch_bytes <= most, window
        for images in (1, window.batch):
            sums = sum_dtype(dtype).itemsize
            steps = 1, 1, 1, images
            assert im2col_tiles(window, inner > 1, steps, dtype.itemsize)[1].scratch_bytes <= most, window
            assert col2im_tiles(window, inner > 1, steps, sums)[1].scratch_bytes <= most, window
        channels, taps = window.channels, window.volume
        for steps in ((1, taps, 1, channels * taps), (1, 1, channels, channels * taps)):
            assert im2row_tiles(window, inner > 1, steps, dtype.itemsize)[1].scratch_bytes <= most, window
            assert row2im_tiles(window, inner > 1, steps, sums)[1].scratch_bytes <= most, window


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.slow
def test_global_pooling_packs_no_plane(dtype, backend):
    x = random(PLANE, dtype)
    y, argmax = fp.global_max_pool(x, return_argmax=True, backend=backend)
    assert extra_memory(lambda: fp.global_max_pool(x, return_argmax=True, backend=backend)) < 4 * MB
    assert extra_memory(lambda: fp.global_max_pool_backward(y, argmax, x.shape, backend=backend)) < 10 * MB


@pytest.mark.parametrize("convention", ["torch", "onnx", "tensorflow", "chainer"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.slow
def test_indices_are_converted_in_blocks(convention, layout):
    shape = IMAGE if layout == "channels_first" else (1, 1024, 1024, 3)
    window = {"kernel_size": 3, "stride": 2, "padding": 1, "data_format": layout}
    _, argmax = fp.max_pool2d(random(shape), **window, return_argmax=True)
    window["convention"] = convention
    indices = fp.argmax_to_indices(argmax, shape, **window)
    assert extra_memory(lambda: fp.argmax_to_indices(argmax, shape, **window)) < 6 * MB
    assert extra_memory(lambda: fp.indices_to_argmax(indices, shape, **window)) < 6 * MB


@pytest.mark.parametrize("convention", ["torch", "chainer"])
@pytest.mark.slow
def test_indices_of_long_signals_are_converted_in_blocks(convention):
    """Data about the windows along one axis are as long as a block there."""
    shape, window = (1, 2, 1_500_000), {"kernel_size": 3, "stride": 1, "padding": 1, "convention": convention}
    argmax = np.ones(shape, np.uint8)
    indices = fp.argmax_to_indices(argmax, shape, **window)
    assert extra_memory(lambda: fp.argmax_to_indices(argmax, shape, **window)) < 6 * MB
    assert extra_memory(lambda: fp.indices_to_argmax(indices, shape, **window)) < 6 * MB
    y = np.ones(shape, np.float32)
    assert extra_memory(lambda: fp.max_unpool1d(y, indices, **window, output_shape=shape)) < 6 * MB


@pytest.mark.parametrize("convention", ["torch", "onnx", "tensorflow", "chainer"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.slow
def test_unpooling_takes_blocks(convention, layout, backend):
    shape = (1, 3, 1536, 1536) if layout == "channels_first" else (1, 1536, 1536, 3)
    y, argmax = fp.max_pool2d(random(shape), 2, data_format=layout, return_argmax=True)
    window = {"kernel_size": 2, "convention": convention, "data_format": layout}
    indices = fp.argmax_to_indices(argmax, shape, **window)
    assert extra_memory(lambda: fp.max_unpool2d(y, indices, **window, backend=backend)) < 7 * MB


def test_no_plan_keeps_an_array_of_the_size_of_a_plane():
    """Plans kept 8 bytes for each window: hundreds of megabytes for a dozen sizes of images."""
    backend = COMPILED[-1]
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for more in range(8):
            x = np.zeros((512, 512 + more), np.uint8)
            _, argmax = fp.max_pool2d(x, 3, 1, 1, return_argmax=True, backend=backend)
            fp.argmax_to_indices(argmax, x.shape, (3, 3), 1, 1)
        del x, argmax
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.slow
def test_columns_take_blocks(order, dtype, backend):
    x = random(IMAGE, dtype)
    columns = fp.im2col(x, 3, 1, 1, order=order, backend=backend)
    assert extra_memory(lambda: fp.im2col(x, 3, 1, 1, order=order, backend=backend)) < 6 * MB
    assert extra_memory(lambda: fp.col2im(columns, x.shape, 3, 1, 1, order=order, backend=backend)) < 6 * MB


@pytest.mark.slow
def test_maxout_and_convolution_take_blocks(backend):
    x = random((1024, 3072))
    assert extra_memory(lambda: fp.maxout(x, 1024, return_argmax=True, backend=backend)) < 6 * MB
    y, argmax = fp.maxout(x, 1024, return_argmax=True, backend=backend)
    assert extra_memory(lambda: fp.maxout_backward(y, argmax, x.shape, backend=backend)) < 6 * MB
    image, filters = random(IMAGE), random((4, 3, 3, 3))
    assert extra_memory(lambda: fp.conv2d(image, filters, None, 1, 1, backend=backend)) < 48 * MB
