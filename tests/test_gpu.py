"""The CUDA backend on a GPU, with the arrays of other libraries. `make gpu` runs this; without a GPU it is skipped."""

import threading
from importlib import import_module
from importlib.util import find_spec

import ml_dtypes
import numpy as np
import pytest
from conftest import require_backend
from specimens import CASES, INTERPRETED, LAYOUTS, POOLS, POOLS_BACKWARD, of_each_op, values

import fastpool as fp

if INTERPRETED:
    pytest.skip("needs a GPU: here PTX is interpreted", allow_module_level=True)
require_backend("cuda", allow_module_level=True)

pytestmark = pytest.mark.gpu
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)


class Torch:
    def __init__(self):
        self.torch = pytest.importorskip("torch")
        if not self.torch.cuda.is_available():
            pytest.skip("this PyTorch has no CUDA")

    def to(self, a):
        a = np.ascontiguousarray(a) if a.ndim else a
        if a.dtype == BFLOAT16:
            return self.torch.from_numpy(a.view(np.int16).copy()).view(self.torch.bfloat16).cuda()
        return self.torch.from_numpy(a.astype(a.dtype.name)).cuda()  # PyTorch takes NumPy's uint64, not its ulonglong

    def back(self, x):
        assert x.is_cuda
        if x.dtype == self.torch.bfloat16:
            return x.view(self.torch.int16).cpu().numpy().view(BFLOAT16)
        return x.cpu().numpy()

    def holds(self, x):
        return type(x) is self.torch.Tensor


class Cupy:
    def __init__(self):
        self.cupy = pytest.importorskip("cupy")

    def to(self, a):
        if a.dtype == BFLOAT16:
            pytest.skip("not every CuPy has bfloat16")
        return self.cupy.asarray(a)

    def back(self, x):
        return x.get()

    def holds(self, x):
        return type(x) is self.cupy.ndarray


class Numba:
    def __init__(self):
        from numba import cuda

        self.cuda = cuda

    def to(self, a):
        if a.dtype == BFLOAT16:
            pytest.skip("Numba has no arrays of bfloat16")
        return self.cuda.to_device(np.ascontiguousarray(a))

    def back(self, x):
        return x.copy_to_host()

    def holds(self, x):
        return isinstance(x, self.cuda.devicearray.DeviceNDArray)


LIBRARIES = {"torch": Torch, "cupy": Cupy, "numba": Numba}


@pytest.fixture(params=LIBRARIES)
def library(request):
    return LIBRARIES[request.param]()


@pytest.fixture
def torch():
    return Torch().torch


def each(result):
    return result if isinstance(result, tuple) else (result,)


def _names(parameter):
    return parameter.name if hasattr(parameter, "name") else str(parameter)


def _can_multiply(library, case):
    if case.name.startswith("conv2d") and isinstance(library, Numba):
        pytest.skip("Numba's arrays cannot be multiplied")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("case", "dtype"), [(c, d) for c in CASES for d in c.dtypes], ids=_names)
def test_arrays_on_the_gpu_agree_with_the_specification(case, dtype, layout, library):
    _can_multiply(library, case)
    expected = case.expected(dtype, layout)
    got = case.call(*map(library.to, case.arrays(dtype, layout)), layout, backend=None)
    assert all(library.holds(g) for g in each(got))
    got = tuple(map(library.back, each(got)))
    got = got if isinstance(expected, tuple) else got[0]
    if case.name.startswith("conv2d"):  # the products are the library's
        for a, b in zip(each(got), each(expected), strict=True):
            eps = float(ml_dtypes.finfo(dtype).eps)
            np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=64 * eps, atol=64 * eps)
    else:
        case.check(got, expected, "cuda")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [c for c in of_each_op() if c.name != "conv2d_backward"], ids=_names)
def test_results_are_written_into_out_on_the_gpu(case, layout, library):
    _can_multiply(library, case)
    expected = case.expected(F32, layout)
    outs = tuple(library.to(np.ones_like(e)) for e in each(expected))
    inputs = map(library.to, case.arrays(F32, layout))
    got = case.call(*inputs, layout, backend=None, out=outs if isinstance(expected, tuple) else outs[0])
    assert all(g is out for g, out in zip(each(got), outs, strict=True))
    for out, e in zip(outs, each(expected), strict=True):
        np.testing.assert_allclose(library.back(out).astype(float), e.astype(float), rtol=1e-5, atol=1e-5)


def _library_of(torch, x):
    return {1: torch.nn.functional.max_pool1d, 2: torch.nn.functional.max_pool2d, 3: torch.nn.functional.max_pool3d}[
        x.dim() - 2
    ]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((8, 64, 112, 112), (3, 2, 1)),
        ((8, 64, 112, 112), (2, 2, 0)),
        ((8, 64, 113, 111), (3, 2, 1)),
        ((8, 96, 28, 28), (3, 1, 1)),
        ((4, 67, 57, 59), (5, 3, 2)),
        ((8, 64, 20, 20), (13, 1, 6)),
        ((1, 3, 512, 512), (65, 1, 32)),
        ((2, 16, 32, 40, 40), (2, 2, 0)),
        ((2, 16, 17, 20, 23), (3, 2, 1)),
        ((16, 64, 4099), (3, 2, 1)),
    ],
    ids=str,
)
def test_large_arrays_agree_with_torch(shape, window, dtype, channels_last, torch):
    x = torch.randn(shape, device="cuda").to(getattr(torch, dtype)).requires_grad_()
    expected = _library_of(torch, x)(x, *window)
    dy = torch.randint(-3, 4, expected.shape, device="cuda").to(x.dtype)
    expected.backward(dy)
    axes = len(shape) - 2
    mine = x.detach()
    if channels_last and axes > 1:
        mine = mine.to(memory_format={2: torch.channels_last, 3: torch.channels_last_3d}[axes])
    y, argmax = POOLS[axes](mine, *window, return_argmax=True)
    assert torch.equal(y, expected)
    assert torch.equal(POOLS[axes](mine, *window), expected)
    dx = POOLS_BACKWARD[axes](dy, argmax, shape, *window)
    assert torch.equal(dx, x.grad)
    assert torch.equal(dx, POOLS_BACKWARD[axes](dy, argmax, shape, *window))


@pytest.mark.parametrize("size", [(16, 224), (64, 7), (1, 1000)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_global_pooling_agrees_with_torch(size, channels_last, torch):
    channels, side = size
    x = torch.randn((4, channels, side, side), device="cuda")
    mine = x.to(memory_format=torch.channels_last) if channels_last else x
    y, argmax = fp.global_max_pool(mine, return_argmax=True)
    expected, at = x.flatten(2).max(2)
    assert torch.equal(y, expected)
    assert torch.equal(argmax.to(torch.int64), at)


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("channels", [1, 8])
def test_arrays_of_more_than_two_to_the_31_elements(dtype, channels, torch):
    side = 1 << 15
    shape = (1, 2 * (side // channels) + 2, side, channels)
    assert np.prod(shape) > 2**31
    x = torch.randint(0, 250, shape, dtype=torch.uint8, device="cuda").to(getattr(torch, dtype))
    y, argmax = fp.max_pool2d(x, 2, data_format="channels_last", return_argmax=True)
    windows = x.view(shape[1] // 2, 2, side // 2, 2, channels)
    assert torch.equal(y[0], windows.amax((1, 3)))
    last = windows[-1, :, -1].reshape(4, channels)
    assert torch.equal(last.gather(0, argmax[0, -1, -1].long()[None])[0], y[0, -1, -1])
    if dtype == "float16":
        dx = fp.max_pool2d_backward(y, argmax, shape, 2, data_format="channels_last")
        assert torch.equal(dx.view_as(windows).sum((1, 3)), y[0])
        assert torch.equal(dx != 0, (dx == x) & (dx != 0))


def test_nothing_waits_for_the_gpu(torch):
    x = torch.randn((8, 64, 56, 56), device="cuda")
    y, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    fp.max_pool2d_backward(y, argmax, x.shape, 2)  # both are compiled before the GPU is kept busy
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    y, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    dx = fp.max_pool2d_backward(y, argmax, x.shape, 2)
    after = torch.cuda.Event()
    after.record()
    assert not after.query()
    torch.cuda.synchronize()
    assert torch.equal(dx.amax((2, 3)), x.amax((2, 3)).clamp(min=0))


def test_work_goes_to_the_current_stream(torch):
    x = torch.zeros((8, 64, 56, 56), device="cuda")
    fp.max_pool2d(x, 2)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(500_000_000)
        x.fill_(7)
        y = fp.max_pool2d(x, 2)
    stream.synchronize()
    assert (y == 7).all()


def test_cupy_work_goes_to_the_current_stream():
    cupy = Cupy().cupy
    x = cupy.zeros((8, 64, 56, 56), np.float32)
    fp.max_pool2d(x, 2)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for _ in range(200):
            x += 1
        y = fp.max_pool2d(x, 2)
        stream.synchronize()
    assert (y == 200).all()


def test_calls_are_captured_into_a_graph(torch):
    x = torch.randn((4, 8, 40, 40), device="cuda")

    def step():
        y, argmax = fp.max_pool2d(x, 3, 2, 1, return_argmax=True)
        large = fp.max_pool2d(x, 13, 1, 6)
        dx = fp.max_pool2d_backward(y, argmax, x.shape, 3, 2, 1)
        return large, fp.hard_swish(dx), fp.im2col(x, 3), fp.global_max_pool(x)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    for got, expected in zip(results, step(), strict=True):
        assert torch.equal(got, expected)


def test_many_threads_call_at_once(torch):
    x = torch.randn((4, 16, 50, 50), device="cuda")
    expected = torch.nn.functional.max_pool2d(x, 3, 2, 1)
    wrong = []

    def call():
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(50):
                if not torch.equal(fp.max_pool2d(x, 3, 2, 1), expected):
                    wrong.append(threading.get_ident())

    torch.cuda.synchronize()
    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_gpu_of_the_array_does_the_work(torch):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = torch.randn((4, 16, 50, 50), device="cuda:1")
    y, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    assert y.device == argmax.device == x.device
    assert torch.equal(y, torch.nn.functional.max_pool2d(x, 2))
    with pytest.raises(ValueError, match="must lie where the other arrays do"):
        fp.max_pool2d_backward(y, argmax.to("cuda:0"), x.shape, 2)


def test_a_numpy_array_stays_in_main_memory_unless_it_is_sent(monkeypatch):
    launch = import_module("fastpool.backends.cuda.launch")  # the package has a function of this name
    launched = []
    monkeypatch.setattr(launch.Launch, "__call__", lambda *a: launched.append(a))
    x = values((2, 3, 8, 8), np.float32)
    fp.max_pool2d(x, 2)
    assert not launched
    fp.max_pool2d(x, 2, backend="cuda")
    assert launched


def test_bytes_of_a_bool_other_than_1_are_true(torch):
    x = torch.tensor([[0, 1, 2, 255], [0, 0, 128, 1]], dtype=torch.uint8, device="cuda").view(torch.bool)
    y, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    assert y.view(torch.uint8).tolist() == [[1, 1]]
    assert argmax.tolist() == [[1, 0]]


def test_an_argmax_that_does_not_fit_reaches_nothing(library):
    y, argmax = np.ones((1, 1, 2, 2), np.float32), np.full((1, 1, 2, 2), 200, np.uint8)
    dx = fp.max_pool2d_backward(library.to(y), library.to(argmax), (1, 1, 4, 4), 2)
    assert not library.back(dx).any()


IN_A_FORK = """
import os
import numpy as np
import fastpool as fp

assert fp.backends()["cuda"].available
child = os.fork()
if not child:
    try:
        y = fp.max_pool1d(np.array([[1.0, 3, 2, 5]]), 2, backend="cuda")
        os._exit(0 if y.tolist() == [[3, 5]] else 1)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(2)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_child_forked_after_asking_for_backends_can_use_the_gpu(python):
    python("-c", IN_A_FORK)


def test_numba_arrays_that_name_a_stream_are_pooled_on_it():
    cuda = Numba().cuda
    stream = cuda.stream()
    x = values((2, 3, 64, 64), np.float32)
    there = cuda.to_device(np.zeros_like(x), stream=stream)
    fp.max_pool2d(there, 2, return_argmax=True)
    there.copy_to_device(np.ascontiguousarray(x), stream=stream)
    y, argmax = fp.max_pool2d(there, 2, return_argmax=True)
    dx = fp.max_pool2d_backward(y, argmax, x.shape, 2)
    handle = int(stream)
    assert all(a.__cuda_array_interface__["stream"] == handle for a in (y, argmax, dx))
    got = [a.copy_to_host(stream=stream) for a in (y, argmax, dx)]
    stream.synchronize()
    expected = fp.max_pool2d(x, 2, return_argmax=True, backend="naive")
    expected = (*expected, fp.max_pool2d_backward(*expected, x.shape, 2, backend="naive"))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_streams_of_one_call_wait_for_each_other():
    cuda = Numba().cuda
    one, other = cuda.stream(), cuda.stream()
    y, argmax = fp.max_pool2d(values((2, 3, 64, 64), np.float32), 2, return_argmax=True, backend="naive")
    dy, argmax_there = cuda.to_device(y, stream=one), cuda.to_device(argmax, stream=other)
    out = cuda.to_device(np.ones((2, 3, 64, 64), np.float32), stream=other)
    assert fp.max_pool2d_backward(dy, argmax_there, out.shape, 2, out=out) is out
    got = out.copy_to_host(stream=other)
    other.synchronize()
    np.testing.assert_array_equal(got, fp.max_pool2d_backward(y, argmax, out.shape, 2, backend="naive"))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float64"])
def test_strided_arrays_are_read_and_written(dtype, library):
    a = values((2, 6, 20, 22), dtype)
    view = np.ascontiguousarray(a)[:, ::2, 1:, ::3]
    x = library.to(a)[:, ::2, 1:, ::3]
    np.testing.assert_array_equal(library.back(fp.max_pool2d(x, 2)), fp.max_pool2d(view, 2, backend="naive"))
    out = library.to(np.ones((2, 3, 9, 8), dtype))
    fp.max_pool2d(x, 2, out=out[:, :, :, ::2])
    written = library.back(out)
    np.testing.assert_array_equal(written[..., ::2], fp.max_pool2d(view, 2, backend="naive"))
    assert (written[..., 1::2] == 1).all()


def test_an_array_known_by_its_interface_alone(torch):
    class Bare:
        def __init__(self, x):
            self._x, self.__cuda_array_interface__ = x, x.__cuda_array_interface__

    x = torch.randn((2, 3, 8, 8), device="cuda")
    torch.cuda.synchronize()
    y = fp.max_pool2d(Bare(x), 2)
    assert torch.equal(torch.as_tensor(y, device="cuda"), torch.nn.functional.max_pool2d(x, 2))


@pytest.mark.skipif(not find_spec("jax"), reason="needs JAX")
def test_jax_arrays_are_read_by_dlpack(torch):
    import jax

    if jax.default_backend() != "gpu":
        pytest.skip("this JAX has no GPU")
    x = jax.numpy.arange(64.0).reshape(1, 1, 8, 8) + 1  # which may still be at work
    y = fp.max_pool2d(x, 2)
    assert torch.as_tensor(y, device="cuda").flatten()[-1] == 64
    y = fp.max_pool2d(x.astype(jax.numpy.bfloat16), 2)
    assert y.dtype == BFLOAT16
    np.testing.assert_array_equal(y.copy_to_host().astype(float).ravel()[[0, -1]], [10, 64])
