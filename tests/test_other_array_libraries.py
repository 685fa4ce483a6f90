"""Arrays of other libraries: inputs are not converted, results are arrays of the same library.

Without a GPU, tensors in main memory stand in for those on one: tests/interpreted.py runs the kernels on their memory.
"""

from contextlib import nullcontext
from functools import cache
from importlib import import_module
from itertools import product
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from specimens import CASES, INTERPRETED, LAYOUTS, of_each_op

import fastpool as fp
from fastpool import calls, interop
from fastpool.device_arrays import DeviceArray

torch = pytest.importorskip("torch")
F = torch.nn.functional
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def tensor(a):
    a = np.ascontiguousarray(a)
    return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) if a.dtype == BFLOAT16 else torch.from_numpy(a)


def array(t):
    return t.view(torch.int16).numpy().view(BFLOAT16) if t.dtype == torch.bfloat16 else t.numpy()


def each(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.fixture
def x():
    return torch.from_numpy(np.random.default_rng(0).integers(-9, 10, (2, 4, 9, 8)).astype(np.float32))


@pytest.fixture
def gpu_tensors(monkeypatch):
    """Treat every tensor as one on a GPU."""
    if not INTERPRETED:
        pytest.skip("needs FASTPOOL_TEST_CUDA=interpreted")

    def read(self, name, x):
        return self.device_array(x.detach(), self._dtype(name, x))

    def signature(self, x):
        return (x.shape, x.stride(), x.dtype, x.device, x.layout), x.data_ptr()

    monkeypatch.setattr(interop.Torch, "read", read)
    monkeypatch.setattr(interop.Torch, "signature", signature)
    monkeypatch.setattr(interop.Torch, "stream", lambda self, a: 0)
    monkeypatch.setattr(calls, "_plans", {})


# Tensors in main memory, seen as NumPy arrays


def test_a_tensor_stays_one(x):
    y, argmax = fp.max_pool2d(x, 3, 2, 1, return_argmax=True)
    assert type(y) is type(argmax) is torch.Tensor
    assert torch.equal(y, F.max_pool2d(x, 3, 2, 1))
    dx = fp.max_pool2d_backward(y, argmax, x.shape, 3, 2, 1)
    assert dx.dtype == x.dtype
    for result in (fp.maxout(x, 2, 1), fp.hard_swish(x), fp.swish(x), fp.im2col(x, 3), fp.global_max_pool(x)):
        assert type(result) is torch.Tensor
    indices = fp.argmax_to_indices(argmax, x.shape, 3, 2, 1)
    assert torch.equal(indices, F.max_pool2d(x, 3, 2, 1, return_indices=True)[1])
    assert torch.equal(fp.indices_to_argmax(indices, x.shape, 3, 2, 1), argmax)


def test_a_tensor_is_not_copied(x):
    seen = interop.library_of(x).read("x", x)
    assert seen.ctypes.data == x.data_ptr()


def test_out_is_a_tensor_where_the_input_is(x):
    out = torch.empty(2, 4, 4, 4)
    assert fp.max_pool2d(x, 2, out=out) is out
    assert torch.equal(out, F.max_pool2d(x, 2))
    flat = torch.empty(2, 4)
    assert fp.global_max_pool(x, out=flat) is flat
    assert torch.equal(flat, x.amax((2, 3)))
    with pytest.raises(TypeError, match=r"out must be of the library of the input, got numpy\.ndarray"):
        fp.max_pool2d(x, 2, out=out.numpy())
    with pytest.raises(TypeError, match="out must be a NumPy array, got Tensor"):
        fp.max_pool2d(x.numpy(), 2, out=out)
    with pytest.raises(ValueError, match="out must not share memory"):
        fp.max_pool2d(x, 1, out=x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.uint8, torch.bool])
def test_a_tensor_keeps_its_dtype(x, dtype):
    x = (x * 3).to(dtype)
    y = fp.max_pool2d(x, 2)
    assert y.dtype == dtype
    assert torch.equal(y.float(), F.max_pool2d(x.float(), 2))


def test_a_tensor_that_names_a_size_is_read_at_every_call(x):
    size, units = torch.tensor(1), torch.tensor(2)
    for array in (x, x.numpy()):
        for number in (1, 2):
            size.fill_(number)
            units.fill_(2 * number)
            assert fp.max_pool2d(array, size).shape == fp.max_pool2d(array, number).shape
            assert fp.maxout(array, units, 1).shape == fp.maxout(array, 2 * number, 1).shape


IN_MEMORY = {
    "channels first": lambda *s: torch.randn(s),
    "channels last": lambda n, c, *s: torch.randn(n, *s, c).movedim(-1, 1),
    "a slice of channels last": lambda n, c, *s: torch.randn(n, *s, c + 2).movedim(-1, 1)[:, :c],
    "rows of a slice of channels first": lambda *s: torch.randn(*s[:-1], s[-1] + 2)[..., : s[-1]],
}


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("memory", IN_MEMORY)
def test_results_of_any_shape_have_the_strides_that_pytorch_gives_its_own(memory, axes):
    """An axis of one element may have any stride, and PyTorch tells memory formats from them."""
    pool, theirs = ((fp.max_pool2d, F.max_pool2d), (fp.max_pool3d, F.max_pool3d))[axes - 2]
    for shape in product((1, 2, 0), (1, 3), *((1, 4),) * axes):
        x = IN_MEMORY[memory](*shape)
        for window in ((1, 1, 0), (2, 1, 1), (shape[2:], 1, 0)):
            if axes == 3 and shape[0] == 0:
                continue  # PyTorch refuses it
            expected = theirs(x, *window)
            y, argmax = pool(x, *window, return_argmax=True)
            assert torch.equal(y, expected)
            assert y.stride() == argmax.stride() == expected.stride(), (shape, x.stride(), window)


def test_convolution_takes_tensors(x):
    w, b = torch.randn(6, 2, 3, 2), torch.randn(6)
    torch.testing.assert_close(fp.conv2d(x, w, b, padding=1, groups=2), F.conv2d(x, w, b, padding=1, groups=2))


def test_a_gradient_is_not_lost_silently(x):
    x.requires_grad_()
    with pytest.raises(TypeError, match=r"x requires grad, which fastpool does not record; give x\.detach\(\)"):
        fp.max_pool2d(x, 2)
    with torch.no_grad():
        assert not fp.max_pool2d(x, 2).requires_grad


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by PyTorch, at the first dual number
def test_a_tangent_is_not_lost_silently(x):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(TypeError, match=r"x has a tangent.*take fastpool\.integrations\.torch"):
            fp.max_pool2d(dual, 2)
    assert fp.max_pool2d(x, 2) is not None


def test_a_sparse_tensor_is_refused(x):
    with pytest.raises(TypeError, match="x must be a strided tensor"):
        fp.max_pool2d(x.to_sparse(), 2)
    with pytest.raises(TypeError, match="complex64"):
        fp.max_pool2d(x.to(torch.complex64), 2)


def test_arrays_with_dlpack_alone_are_read():
    class Bare:
        def __init__(self, a):
            self.a = a

        def __dlpack__(self, **more):
            return self.a.__dlpack__(**more)

        def __dlpack_device__(self):
            return self.a.__dlpack_device__()

    pytest.importorskip("numba_cuda")
    a = np.arange(16.0).reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(fp.max_pool2d(Bare(a), 2), [[[[5, 7], [13, 15]]]])


def test_what_lies_on_a_gpu_takes_no_other_backend(gpu_tensors, x):
    with pytest.raises(ValueError, match="backend 'numpy' takes arrays in main memory, got one on CUDA device 0"):
        fp.max_pool2d(x, 2, backend="numpy")
    with fp.use_backend("numpy"), pytest.raises(ValueError, match="got one on CUDA device 0"):
        fp.hard_swish(x)


# Arrays known by a protocol alone, which name the stream that they are written on


class Exporting:
    """An array with `__cuda_array_interface__`, over NumPy's memory, where interpreted kernels run."""

    read_only = False

    def __init__(self, a, stream=None):
        self.a, self.dtype, self.stream = a, a.dtype, stream

    @property
    def __cuda_array_interface__(self):
        a = self.a
        interface = {"shape": a.shape, "strides": a.strides, "typestr": a.dtype.str, "version": 3}
        return interface | {"data": (a.ctypes.data, self.read_only), "stream": self.stream}

    def view(self, dtype):
        return Exporting(self.a.view(dtype), self.stream)


class ExportingWithDlpack(Exporting):
    """Like JAX's arrays: `__dlpack__` makes the elements ready on the stream that the caller names."""

    asked = None

    def __dlpack_device__(self):
        return 2, 0  # kDLCUDA

    def __dlpack__(self, *, stream):
        self.asked = stream
        return self.a.__dlpack__()


class NumbaLike:
    """The part of `numba.cuda` that the package uses."""

    gpus = (nullcontext(),)

    def device_array(self, shape, dtype):
        return Exporting(np.ones(shape, dtype))

    def from_cuda_array_interface(self, interface, owner, sync):
        assert not sync
        raw = owner.a.reshape(-1).view(np.uint8)[interface["data"][0] - owner.a.ctypes.data :]
        shape, dtype, strides = (interface[key] for key in ("shape", "typestr", "strides"))
        return Exporting(np.ndarray(shape, dtype, raw, strides=strides), interface["stream"])


@pytest.fixture
def streams(monkeypatch):
    """The streams that are launched on, and (waiting, awaited) streams, in order."""
    if not INTERPRETED:
        pytest.skip("needs FASTPOOL_TEST_CUDA=interpreted")
    launch = import_module("fastpool.backends.cuda.launch")
    seen, start = [], launch.Launch.__call__

    def started(self, addresses, stream):
        seen.append(stream)
        start(self, addresses, stream)

    monkeypatch.setattr(launch.Launch, "__call__", started)
    monkeypatch.setattr(launch.driver, "wait", lambda waiting, stream, device: seen.append((waiting, stream)))
    monkeypatch.setattr(interop, "_protocol", cache(lambda protocol: protocol(NumbaLike())))
    return seen


def test_work_goes_to_the_stream_that_an_array_names_and_results_name_it(x, streams):
    """A gradient was launched where its result lay, on stream 0, while its inputs were still being written."""
    x = x.numpy()
    y, argmax = fp.max_pool2d(Exporting(x, 7), 2, return_argmax=True)
    assert y.stream == argmax.stream == 7
    dx = fp.max_pool2d_backward(y, argmax, x.shape, 2)
    assert dx.stream == 7
    cols = fp.im2col(Exporting(x, 7), 3)
    assert cols.stream == fp.col2im(cols, x.shape, 3).stream == fp.hard_swish(dx).stream == 7
    assert fp.max_pool2d(Exporting(np.ones((1, 1, 40, 40), np.float32), 7), 13, 1, 6).stream == 7
    assert set(streams) == {7}
    np.testing.assert_array_equal(y.a, fp.max_pool2d(x, 2, backend="naive"))
    np.testing.assert_array_equal(dx.a, fp.max_pool2d_backward(y.a, argmax.a, x.shape, 2, backend="naive"))


def test_without_a_named_stream_work_goes_to_the_default_one(x, streams):
    assert fp.max_pool2d(Exporting(x.numpy()), 2).stream is None
    assert streams == [0]


def test_calls_on_arrays_of_a_protocol_are_replayed(x, streams, monkeypatch):
    x = x.numpy()
    exporters = [lambda a: Exporting(a, 7), Exporting, ExportingWithDlpack]
    expected = fp.max_pool2d(x, 2, return_argmax=True, backend="naive")
    for first in (True, False):
        for exporting in exporters:
            y, argmax = fp.max_pool2d(exporting(x), 2, return_argmax=True)
            np.testing.assert_array_equal(y.a, expected[0])
            np.testing.assert_array_equal(argmax.a, expected[1])
            out = exporting(np.zeros_like(expected[0]))
            assert fp.max_pool2d(exporting(x), 2, out=out) is out
            np.testing.assert_array_equal(out.a, expected[0])
        assert streams == [7, 7, 0, 0, 1, 1]
        streams.clear()
        if first:
            monkeypatch.setattr(import_module("fastpool.backends.cuda.launch"), "_kernel", None)
    out = Exporting(np.zeros_like(expected[0]))
    out.read_only = True
    with pytest.raises(ValueError, match="read-only"):
        fp.max_pool2d(Exporting(x), 2, out=out)


def test_a_repeated_call_waits_for_an_array_of_the_same_type_that_names_a_stream(x, streams):
    """The type alone told that the array was of the library of the first one."""
    x = x.numpy()
    for _ in range(3):
        fp.hard_swish_backward(ExportingWithDlpack(x), ExportingWithDlpack(x.copy(), 7))
        assert streams == [(1, 7), 1]
        streams.clear()
    fp.hard_swish(ExportingWithDlpack(x), out=ExportingWithDlpack(x.copy()))
    with pytest.raises(TypeError, match="out must be of the library of the input"):
        fp.hard_swish(ExportingWithDlpack(x), out=ExportingWithDlpack(x.copy(), 7))


@pytest.mark.parametrize("device", ["cpu", None, OSError])
def test_a_protocol_that_lies_is_named(device, x):
    class Lying:
        def __dlpack__(self, **more):
            raise AssertionError

        def __dlpack_device__(self):
            if device is OSError:
                raise OSError("no device")
            return device

    pytest.importorskip("numba_cuda")
    with pytest.raises(TypeError, match="x must be an array that can be read by its __dlpack__"):
        fp.max_pool2d(Lying(), 2)


def test_streams_of_one_call_wait_for_each_other(x, streams):
    x = x.numpy()
    y, argmax = fp.max_pool2d(x, 2, return_argmax=True, backend="naive")
    dx = Exporting(np.ones_like(x), 9)
    fp.max_pool2d_backward(Exporting(y, 5), Exporting(argmax, 6), x.shape, 2, out=dx)
    assert set(streams[:2]) == {(5, 6), (5, 9)}
    assert streams[2:] == [5, (9, 5)]
    streams.clear()
    fp.max_pool2d_backward(Exporting(y, 5), Exporting(argmax), x.shape, 2)
    assert streams == [5]


def test_strided_arrays_are_copied_on_their_stream(x, streams):
    x = x.numpy()
    view = x[::-1, :, 1:, ::2]
    y = fp.max_pool2d(Exporting(view, 7), 2)
    np.testing.assert_array_equal(y.a, fp.max_pool2d(view, 2, backend="naive"))
    assert streams == [7, 7]
    out = np.zeros((2, 8, 4, 8), np.float32)[:, ::-2, :, ::2]
    fp.max_pool2d(Exporting(x, 7), 2, out=Exporting(out, 7))
    np.testing.assert_array_equal(out, fp.max_pool2d(x, 2, backend="naive"))


def test_dlpack_is_taken_where_the_interface_names_no_stream(x, streams):
    """JAX's arrays have both; by their interface they could be read before they were written."""
    x = x.numpy()
    exporter = ExportingWithDlpack(x)
    y = fp.max_pool2d(exporter, 2)
    assert exporter.asked == 1
    assert streams == [1]
    assert y.stream == 1
    exporter = ExportingWithDlpack(x, 7)
    assert fp.max_pool2d(exporter, 2).stream == 7
    assert exporter.asked is None


def test_bfloat16_stays_bfloat16(x, streams):
    x = x.numpy().astype(BFLOAT16)
    y = fp.max_pool2d(Exporting(x, 7), 2)
    assert y.dtype == BFLOAT16
    np.testing.assert_array_equal(fp.max_pool2d(y, 2).a, fp.max_pool2d(y.a, 2, backend="naive"))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1,), (5,), (3, 4), (2, 3, 2, 2, 3, 2)], ids=str)
def test_a_copy_takes_any_strides(shape, dtype, streams):
    backend, library = import_module("fastpool.backends.cuda"), interop._protocol(interop.CudaArrayInterface)
    a = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    larger = np.zeros([2 * n + 1 for n in shape], dtype)
    unaligned = np.zeros(a.nbytes + 1, np.uint8)[1:].view(dtype).reshape(shape)
    for target in (larger[(slice(1, None, 2),) * a.ndim], larger[(slice(None, 0, -2),) * a.ndim], unaligned):
        for source in (a, np.asfortranarray(a), a[(slice(None, None, -1),) * a.ndim]):
            target[...] = 101
            backend.copy(library.read("source", Exporting(source)), library.read("target", Exporting(target)))
            np.testing.assert_array_equal(target, source)


@pytest.mark.parametrize("name", ["torch", "cupy"])
def test_the_default_stream_is_named_as_the_driver_names_it(name):
    """0 is another stream where per-thread default streams are on."""
    stream = SimpleNamespace(cuda_stream=0, ptr=0)
    module = SimpleNamespace(
        cuda=SimpleNamespace(current_stream=lambda device: stream, get_current_stream=lambda device: stream)
    )
    library = {"torch": interop.Torch, "cupy": interop.Cupy}[name](module)
    place = DeviceArray(library, None, 0, 0, (), (), np.dtype(np.float32))
    assert place.stream() == 1
    stream.cuda_stream = stream.ptr = 77
    assert place.stream() == 77


# Tensors on a GPU


F32 = np.dtype(np.float32)


def _on_gpu(cases):
    """Those of ops that the CUDA backend has: all but averages."""
    return [case for case in cases if not case.kernel.startswith("avg_pool")]


def _cases():
    """Every op with every option in one dtype, and a call of each op in others."""
    for case in _on_gpu(CASES):
        if case.dtypes:
            yield case, F32 if F32 in case.dtypes else case.dtypes[0]
    for case in _on_gpu(of_each_op()):
        yield from ((case, d) for d in case.dtypes if str(d) in ("bfloat16", "uint8"))


def agree(case, got, expected, dtype):
    """Tensors with what the specification gives; the products of a convolution are PyTorch's."""
    assert all(type(g) is torch.Tensor for g in each(got))
    arrays = tuple(map(array, each(got)))
    if case.name.startswith("conv2d"):
        eps = float(ml_dtypes.finfo(dtype).eps)
        for a, b in zip(arrays, each(expected), strict=True):
            np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=64 * eps, atol=64 * eps)
    else:
        case.check(arrays if isinstance(expected, tuple) else arrays[0], expected, "cuda")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("case", "dtype"), list(_cases()), ids=lambda p: getattr(p, "name", str(p)))
def test_arrays_on_a_gpu_agree_with_the_specification(case, dtype, layout, gpu_tensors):
    expected = case.expected(dtype, layout)
    inputs = [tensor(a) for a in case.arrays(dtype, layout)]
    for _ in range(2):  # planned, and then repeated
        agree(case, case.call(*inputs, layout, backend=None), expected, dtype)


def every_second(t):
    """A tensor in every second element, along every axis, of a larger one."""
    larger = torch.ones([2 * n for n in t.shape], dtype=t.dtype)[(slice(None, None, 2),) * t.dim()]
    return larger.copy_(t)


def last_axis_first(t):
    """A tensor whose last axis is its outermost in memory."""
    return t.movedim(-1, 0).contiguous().movedim(0, -1)


MEMORY = {"every second element": every_second, "last axis first": last_axis_first}
# A case of each op, but of the columns one in each order.
OPS = {case.name: case for case in _on_gpu(of_each_op())} | {
    case.name: case for case in CASES if case.kernel in ("im2col", "col2im") and " 3 p1 " in f" {case.name} "
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", OPS)
def test_arrays_of_any_strides_on_a_gpu_are_read(name, memory, layout, gpu_tensors):
    case = OPS[name]
    inputs = [MEMORY[memory](tensor(a)) for a in case.arrays(F32, layout)]
    for _ in range(2):
        agree(case, case.call(*inputs, layout, backend=None), case.expected(F32, layout), F32)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", [name for name, case in OPS.items() if case.name != "conv2d_backward"])
def test_every_op_writes_into_out_of_any_strides_on_a_gpu(name, memory, layout, gpu_tensors):
    case, expected = OPS[name], OPS[name].expected(F32, layout)
    outs = tuple(MEMORY[memory](torch.ones_like(tensor(e))) for e in each(expected))
    inputs = map(tensor, case.arrays(F32, layout))
    got = case.call(*inputs, layout, backend=None, out=outs if isinstance(expected, tuple) else outs[0])
    assert all(g is out for g, out in zip(each(got), outs, strict=True))
    agree(case, tuple(out.contiguous() for out in outs) if isinstance(expected, tuple) else outs[0], expected, F32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_global_pooling_on_a_gpu_agrees_with_the_specification(layout, gpu_tensors):
    x = np.random.default_rng(0).integers(-9, 10, (2, 3, 7, 6)).astype(np.float32)
    expected = fp.global_max_pool(x, data_format=layout, return_argmax=True, backend="naive")
    dx = fp.global_max_pool_backward(expected[0], expected[1], x.shape, data_format=layout, backend="naive")
    for _ in range(2):
        y, argmax = fp.global_max_pool(tensor(x), data_format=layout, return_argmax=True)
        np.testing.assert_array_equal(array(y), expected[0])
        np.testing.assert_array_equal(array(argmax), expected[1])
        np.testing.assert_array_equal(array(fp.global_max_pool(tensor(x), data_format=layout)), expected[0])
        got = fp.global_max_pool_backward(y, argmax, x.shape, data_format=layout)
        np.testing.assert_array_equal(array(got), dx)


def plan_nothing_more(monkeypatch):
    """Kernels are looked up when launches are planned, but not when these are repeated."""
    monkeypatch.setattr(import_module("fastpool.backends.cuda.launch"), "_kernel", None)


def test_calls_are_replayed_for_arrays_with_the_same_signature(gpu_tensors, x, monkeypatch):
    first = fp.max_pool2d(x, 3, 2, 1, return_argmax=True)
    dx = fp.max_pool2d_backward(*first, x.shape, 3, 2, 1)
    plan_nothing_more(monkeypatch)
    other = torch.randn_like(x)
    y, _ = fp.max_pool2d(other, 3, 2, 1, return_argmax=True)
    assert torch.equal(y, F.max_pool2d(other, 3, 2, 1))
    again = fp.max_pool2d_backward(*first, x.shape, 3, 2, 1)
    assert torch.equal(again, dx)
    assert again.data_ptr() != dx.data_ptr()


def test_calls_that_write_to_out_are_replayed(gpu_tensors, x, monkeypatch):
    def outs():
        y = torch.zeros(2, 4, 4, 4)
        return y, torch.zeros(y.shape, dtype=torch.uint8)

    fp.max_pool2d(x, 2, return_argmax=True, out=outs())
    fp.max_pool2d(x, 2, return_argmax=True, out=outs()[0])  # a new array for the argmax
    plan_nothing_more(monkeypatch)
    other = torch.randn_like(x)
    expected = [torch.from_numpy(a) for a in fp.max_pool2d(other.numpy(), 2, return_argmax=True)]
    for out in (outs(), outs()[0]):
        written, versions = each(out), [a._version for a in each(out)]
        y, argmax = fp.max_pool2d(other, 2, return_argmax=True, out=out)
        assert torch.equal(y, expected[0])
        assert torch.equal(argmax, expected[1])
        assert all(got is a for got, a in zip((y, argmax), written, strict=False))
        assert all(a._version > version for a, version in zip(written, versions, strict=True))


def test_a_repeated_call_refuses_out_that_shares_memory(gpu_tensors):
    memory = torch.arange(96.0)
    x, apart, begins_inside, ends_inside = (memory[at : at + n] for at, n in ((32, 32), (64, 32), (60, 32), (4, 32)))
    fp.hard_swish(x, out=apart)
    before = memory.clone()
    for out in (x, begins_inside, ends_inside):
        with pytest.raises(ValueError, match="out must not share memory with an input"):
            fp.hard_swish(x, out=out)
    assert torch.equal(memory, before)
    assert fp.hard_swish(x, out=memory[:32]).data_ptr() == memory.data_ptr()
    with pytest.raises(ValueError, match="share no memory with each other"):
        fp.max_pool1d(x, 8, return_argmax=True, out=(memory[:4], memory[:1].view(torch.uint8)))


def test_a_repeated_call_without_memory_is_no_replay(gpu_tensors, monkeypatch):
    """A kernel was launched on the address 0."""
    x, out = torch.ones(4, 4), torch.ones(4, 4)
    fp.hard_swish(x)
    fp.hard_swish(x, out=out)
    monkeypatch.setattr(calls, "_call_once", lambda op, *arguments: op.name)
    assert fp.hard_swish(out) is not None
    freed = torch.ones(4, 4)
    freed.untyped_storage().resize_(0)
    assert fp.hard_swish(freed) == fp.hard_swish(x, out=freed) == "hard_swish"


def test_a_repeated_call_keeps_the_sign_of_nan(gpu_tensors):
    x = torch.zeros(1, 1, 2, 2)
    for sign in (1.0, -1.0, 1.0):
        cols = fp.im2col(x, 1, padding=1, fill_value=float(np.copysign(np.nan, sign)))
        assert np.signbit(cols.numpy()[0, 0, 0]) == (sign < 0)


def test_calls_on_tensors_that_cannot_be_read_are_never_replayed():
    """A tensor with the negative bit looks like one without: its call would have been repeated."""
    library = interop.Torch(torch)
    tensor = {"requires_grad": False, "is_cuda": True, "is_neg": lambda: False, "layout": torch.strided}
    unreadable = {"requires_grad": True, "is_cuda": False, "is_neg": lambda: True, "layout": torch.sparse_coo}
    for name, value in unreadable.items():
        assert library.signature(SimpleNamespace(**tensor | {name: value})) is None

    def stride():
        raise RuntimeError("no strides")

    without_strides = SimpleNamespace(**tensor, shape=(2,), stride=stride)
    library.__dict__["_unpack_dual"] = lambda x: SimpleNamespace(tangent=None)
    assert library.signature(without_strides) is None


def test_a_repeated_call_still_refuses_what_is_only_equal_to_an_integer(gpu_tensors, x):
    assert torch.equal(fp.max_pool2d(x, 2, 1), fp.max_pool2d(x, 2, 1))
    for wrong in (2.0, (2, 2.0), True):
        with pytest.raises((TypeError, ValueError)):
            fp.max_pool2d(x, wrong, 1)


def test_a_repeated_call_tells_one_fill_value_from_its_equals(gpu_tensors, x):
    """0.0 and -0.0 are equal, but not the same padding."""
    for fill_value in (0.0, -0.0, 0.0, np.float32(-0.0), 1, 0, -0.0):
        cols = fp.im2col(x, 3, padding=1, fill_value=fill_value).numpy()
        assert cols[0, 0, 0] == fill_value
        assert np.signbit(cols[0, 0, 0]) == np.signbit(fill_value)


def test_bytes_of_a_bool_other_than_1_are_true(gpu_tensors):
    """The first byte that was not 0 lost to a larger one, and the larger one was the result."""
    x = torch.tensor([[0, 1, 2, 255], [0, 0, 128, 1]], dtype=torch.uint8).view(torch.bool)
    y, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    assert y.view(torch.uint8).tolist() == [[1, 1]]
    assert argmax.tolist() == [[1, 0]]


def test_indices_of_64_bits_give_the_same(gpu_tensors, x, monkeypatch):
    def results():
        first = fp.max_pool2d(x, 3, 2, 1, return_argmax=True)
        large = fp.max_pool2d(x, 7, 1, 3, return_argmax=True)
        back = [fp.max_pool2d_backward(*first, x.shape, 3, 2, 1), fp.max_pool2d_backward(*large, x.shape, 7, 1, 3)]
        return [*first, *large, *back, *fp.global_max_pool(x, return_argmax=True), fp.im2col(x, 3)]

    narrow = results()
    monkeypatch.setattr(import_module("fastpool.backends.cuda"), "is_wide", lambda *sizes: True)
    monkeypatch.setattr(calls, "_plans", {})
    assert all(torch.equal(a, b) for a, b in zip(results(), narrow, strict=True))


def test_results_lie_in_memory_as_the_input_does(gpu_tensors, x):
    last = x.to(memory_format=torch.channels_last)
    for _ in range(2):
        y = fp.max_pool2d(last, 2)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(y, F.max_pool2d(x, 2))


def test_strided_and_unaligned_arrays_are_read(gpu_tensors, x):
    for view in (
        x[:, ::2, 1:],
        x[..., 1:],
        x[:, :, ::3, ::2],
        x.transpose(2, 3),
        x.flatten()[1:-1].reshape(2, 1, 41, 7),
    ):
        for _ in range(2):
            assert torch.equal(fp.max_pool2d(view, 2), F.max_pool2d(view, 2))
            assert torch.equal(fp.hard_swish(view).float(), fp.hard_swish(view.contiguous()))


def test_large_windows_go_axis_by_axis_and_planes_in_blocks(gpu_tensors):
    x = torch.randn(2, 3, 40, 37)
    for _ in range(2):
        y, argmax = fp.max_pool2d(x, 15, 1, 7, return_argmax=True)
        expected, indices = F.max_pool2d(x, 15, 1, 7, return_indices=True)
        assert torch.equal(y, expected)
        assert torch.equal(fp.max_pool2d(x, 15, 1, 7), expected)
        at = fp.argmax_to_indices(argmax.numpy(), x.shape, 15, 1, 7)
        np.testing.assert_array_equal(at, indices.numpy())
        assert torch.equal(fp.global_max_pool(x), x.amax((2, 3)))


def test_results_go_into_out_of_any_strides_on_a_gpu(gpu_tensors, x):
    out = torch.zeros(2, 8, 4, 8)[:, ::2, :, ::2]
    assert fp.max_pool2d(x, 2, out=out) is out
    assert torch.equal(out, F.max_pool2d(x, 2))
    with pytest.raises(ValueError, match="out must not share memory"):
        fp.max_pool2d(x, 1, out=x)


def test_arrays_of_one_call_lie_in_one_place(gpu_tensors, x):
    y, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    with pytest.raises(
        ValueError, match="argmax must lie where the other arrays do, on CUDA device 0, got one on the CPU"
    ):
        fp.max_pool2d_backward(y, argmax.numpy(), x.shape, 2)
    with pytest.raises(TypeError, match="argmax must lie in main memory to be converted"):
        fp.argmax_to_indices(argmax, x.shape, 2)
    indices = tensor(np.zeros(y.shape, int))
    with pytest.raises(ValueError, match=r"indices must lie where .* do, on the CPU, got one on CUDA device 0"):
        fp.max_unpool2d(y.numpy(), indices, 2)
    with pytest.raises(ValueError, match=r"indices must lie where .* do, on CUDA device 0, got one on the CPU"):
        fp.max_unpool2d(y, indices.numpy(), 2)


def test_an_argmax_on_a_gpu_that_does_not_fit_sends_its_gradient_nowhere(gpu_tensors):
    argmax = torch.tensor([[[[200, 0], [1, 9]]]], dtype=torch.uint8)
    dx = fp.max_pool2d_backward(torch.ones(1, 1, 2, 2), argmax, (1, 1, 4, 4), 2)
    assert dx.nonzero().tolist() == [[0, 0, 0, 2], [0, 0, 2, 1]]


@pytest.mark.parametrize("convention", ["torch", "onnx", "tensorflow", "tensorflow_with_batch", "chainer"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_unpooling_on_a_gpu_counts_as_a_framework_does(convention, layout, gpu_tensors):
    shape = (2, 3, 8, 6) if layout == "channels_first" else (2, 8, 6, 3)
    x = np.random.default_rng(0).permutation(2 * 3 * 8 * 6).reshape(shape).astype(np.float32)
    y, argmax = fp.max_pool2d(x, 2, data_format=layout, return_argmax=True, backend="numpy")
    indices = fp.argmax_to_indices(argmax, shape, 2, data_format=layout, convention=convention)
    plan = {"data_format": layout, "convention": convention}
    expected = fp.max_unpool2d(y, indices, 2, **plan, backend="numpy")
    np.testing.assert_array_equal(fp.max_unpool2d(tensor(y), tensor(indices), 2, **plan).numpy(), expected)
    indices.flat[0] = -1
    indices.flat[-1] = 10**9
    got = fp.max_unpool2d(tensor(y), tensor(indices), 2, **plan).numpy()
    kept = np.isin(got, np.delete(y.ravel(), [0, y.size - 1])) | (got == 0)
    assert kept.all()
    assert (got != 0).sum() == (expected != 0).sum() - 2


def test_every_case_has_a_kernel_on_a_gpu():
    backend = pytest.importorskip("numba_cuda") and import_module("fastpool.backends.cuda")
    missing = {case.kernel for case in CASES if not hasattr(backend, case.kernel)}
    assert missing == {"avg_pool", "avg_pool_backward"}
