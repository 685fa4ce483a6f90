"""How much memory a call takes beside its arrays: what docs/backends.md says of it."""

import gc
import tracemalloc

import numpy as np
import pytest

import fastpool as fp

MB = 2**20
PLANE, IMAGE = (1, 1, 2048, 2048), (1, 3, 1024, 1024)
COMPILED = [name for name in ("numba", "cython") if fp.backends()[name].available]


@pytest.fixture(params=COMPILED)
def backend(request):
    fp.set_num_threads(2)
    yield request.param
    fp.set_num_threads(None)


def beside(call):
    """The most bytes that a call has at once, less those of its results; NumPy reports its own to tracemalloc."""
    call()  # plans, and what a thread keeps
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        results = call()
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    return most - sum(r.nbytes for r in (results if isinstance(results, tuple) else (results,)))


def numbers(shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype)


WINDOWS = {
    "small windows": (IMAGE, {"kernel_size": 3, "stride": 2, "padding": 1}),
    "large windows": ((1, 1, 700, 700), {"kernel_size": 65, "stride": 1, "padding": 32}),
    "large windows far apart": ((1, 1, 700, 700), {"kernel_size": 127, "stride": 16, "padding": 63}),
    "strides far above the window": (IMAGE, {"kernel_size": 3, "stride": 1000, "padding": 1}),
    "a long signal": ((1, 1, 1, 2_000_000), {"kernel_size": (1, 5), "stride": 1, "padding": (0, 2)}),
    "taps far apart": ((1, 1, 40, 1600), {"kernel_size": (9, 2), "stride": 1, "dilation": (1, 1000)}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", WINDOWS)
def test_pools_and_their_gradients_take_some_megabytes(name, dtype, backend):
    shape, window = WINDOWS[name]
    x = numbers(shape, dtype)
    y, argmax = fp.max_pool2d(x, **window, return_argmax=True, backend=backend)
    assert beside(lambda: fp.max_pool2d(x, **window, return_argmax=True, backend=backend)) < 16 * MB
    sums = 4 * x.size if backend == "cython" and dtype == np.float16 else 0
    gradient = beside(lambda: fp.max_pool2d_backward(y, argmax, shape, **window, backend=backend))
    assert gradient < 10 * MB + sums + argmax.nbytes


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_global_pooling_packs_no_plane(dtype, backend):
    x = numbers(PLANE, dtype)
    y, argmax = fp.global_max_pool(x, return_argmax=True, backend=backend)
    assert beside(lambda: fp.global_max_pool(x, return_argmax=True, backend=backend)) < 4 * MB
    taps = 8 * x.size if backend == "cython" else 0
    sums = 4 * x.size if backend == "cython" and dtype == np.float16 else 0
    assert beside(lambda: fp.global_max_pool_backward(y, argmax, x.shape, backend=backend)) < 10 * MB + taps + sums


@pytest.mark.parametrize("convention", ["torch", "onnx", "tensorflow", "chainer"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_indices_are_converted_in_blocks(convention, layout):
    shape = IMAGE if layout == "channels_first" else (1, 1024, 1024, 3)
    window = {"kernel_size": 3, "stride": 2, "padding": 1, "data_format": layout}
    _, argmax = fp.max_pool2d(numbers(shape), **window, return_argmax=True)
    window["convention"] = convention
    indices = fp.argmax_to_indices(argmax, shape, **window)
    assert beside(lambda: fp.argmax_to_indices(argmax, shape, **window)) < 6 * MB
    assert beside(lambda: fp.indices_to_argmax(indices, shape, **window)) < indices.nbytes + 6 * MB


def test_unpooling_takes_a_position_for_each_value(backend):
    y, indices = fp.max_pool2d(numbers(IMAGE), 2, return_argmax=True)
    indices = fp.argmax_to_indices(indices, IMAGE, 2)
    assert beside(lambda: fp.max_unpool2d(y, indices, 2, backend=backend)) < 8 * y.size + 5 * MB


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


@pytest.mark.parametrize("order", ["unfold", "gemm", "windows"])
def test_columns_take_blocks(order, backend):
    x = numbers(IMAGE)
    columns = fp.im2col(x, 3, 1, 1, order=order, backend=backend)
    assert beside(lambda: fp.im2col(x, 3, 1, 1, order=order, backend=backend)) < 6 * MB
    assert beside(lambda: fp.col2im(columns, x.shape, 3, 1, 1, order=order, backend=backend)) < 6 * MB


def test_maxout_and_convolution_take_blocks(backend):
    x = numbers((1024, 3072))
    assert beside(lambda: fp.maxout(x, 1024, return_argmax=True, backend=backend)) < 6 * MB
    y, argmax = fp.maxout(x, 1024, return_argmax=True, backend=backend)
    assert beside(lambda: fp.maxout_backward(y, argmax, x.shape, backend=backend)) < 6 * MB
    image, filters = numbers(IMAGE), numbers((4, 3, 3, 3))
    assert beside(lambda: fp.conv2d(image, filters, None, 1, 1, backend=backend)) < 48 * MB
