"""The PTX that numba-cuda makes of the CUDA kernels, and what ptxas reports about it. No GPU is needed."""

import re
import subprocess
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fastpool.array_library import ArrayLibrary
from fastpool.device_arrays import DeviceArray
from fastpool.window import Window

pytest.importorskip("numba_cuda", reason="needs numba-cuda")
compilation = import_module("fastpool.backends.cuda.compilation")
backend = import_module("fastpool.backends.cuda")
launch = import_module("fastpool.backends.cuda.launch")
cuda, types = compilation.cuda, compilation.types

CAPABILITIES = [(7, 5), (8, 0), (9, 0)]
FLOATS = ("float32", "float16", "bfloat16", "float64")
DTYPES = (*FLOATS, "uint8", "bool", "int8", "int16", "uint32", "int64")
LAYOUTS = ("channels_first", "channels_last")
WINDOWS = {
    "2 s2": {"kernel_size": 2},
    "3 s2 p1": {"kernel_size": 3, "stride": 2, "padding": 1},
    "3 s1 p1": {"kernel_size": 3, "stride": 1, "padding": 1},
    "3 s3 d2 p2": {"kernel_size": 3, "stride": 3, "padding": 2, "dilation": 2},
    "13 s1 p6": {"kernel_size": 13, "stride": 1, "padding": 6},
    "the whole plane": {"kernel_size": 64},
}


def dtype_of(name):
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


class Nowhere(ArrayLibrary):
    """Arrays with an address, but without memory."""

    def empty(self, shape, dtype, like):
        return array(shape, dtype)

    def stream(self, a):
        return 0


def array(shape, dtype):
    return DeviceArray(Nowhere(None), None, 0, 1 << 40, shape, None, np.dtype(dtype))


@lru_cache(None)
def kernel_for(capability, make, constants, signature, index):
    """The name of a kernel's function and its PTX, compiled once for all tests."""
    function = make(*constants) if constants is not None else make
    numba_types = [launch._numba_type(description, index, capability) for description in signature]
    return function.__name__, compilation.ptx_of(function, numba_types, capability)[1]


class Code:
    """The PTX of every kernel that is launched, by the name of its function."""

    def __init__(self, capability):
        self.capability, self.kernels = capability, []

    def compile(self, make, constants, signature, index, device):
        return kernel_for(self.capability, make, constants, signature, index)

    def each(self, name):
        found = [ptx for function, ptx in self.kernels if function == name]
        assert found, f"no {name} among {[function for function, _ in self.kernels]}"
        return found


@pytest.fixture
def code(monkeypatch, request):
    """Compile kernels instead of running them, for the compute capability that the test names, or for sm_90."""
    code = Code(getattr(request, "param", (9, 0)))
    monkeypatch.setattr(launch, "_kernel", code.compile)
    monkeypatch.setattr(launch.Launch, "__call__", lambda self, *arguments: code.kernels.append(self._kernel))
    return code


def planes(window, layout, size):
    n, c = window.batch, window.channels
    return (n, *size, c) if layout == "channels_last" else (n * c, *size, 1)


def pool(dtype, layout, window, argmax=True):
    """Pool planes of 64x64 and send gradients back."""
    shape = (2, 32, 64, 64) if layout == "channels_first" else (2, 64, 64, 32)
    window = Window.plan(2, shape, **WINDOWS[window], data_format=layout)
    x, y = (array(planes(window, layout, size), dtype) for size in (window.size, window.out))
    argmax_out = array(y.shape, window.argmax_dtype) if argmax else None
    backend.max_pool.on_device(x, window, y, argmax_out)
    if argmax and dtype.name in FLOATS:
        backend.max_pool_backward.on_device(y, argmax_out, window, x)


def columns(dtype, layout):
    shape = (2, 4, 9, 8) if layout == "channels_first" else (2, 9, 8, 4)
    window = Window.plan(2, shape, 3, 1, 1, data_format=layout)
    x = array(planes(window, layout, window.size), dtype)
    cols = array((2, 4, 9, window.positions), dtype)
    backend.im2col.on_device(x, window, 0, cols)
    backend.im2col.on_device(x, window, 0, array((4, 9, window.positions, 2), dtype).transpose((3, 0, 1, 2)))
    if dtype.kind != "b":
        backend.col2im.on_device(cols, window, x)


def copies(dtype):
    """Copy columns, and a transposed view whose addresses are odd."""
    a = array((2, 3, 4, 5, 6), dtype)
    backend.copy(a.transpose((4, 0, 3, 1, 2)), array((6, 2, 5, 3, 4), dtype))
    at_odd = DeviceArray(a.library, None, 0, a.pointer + 1, (5, 4), (dtype.itemsize, 5 * dtype.itemsize), dtype)
    backend.copy(at_odd, array((5, 4), dtype))


def unpool(dtype, layout):
    shape = (2, 4, 8, 8) if layout == "channels_first" else (2, 8, 8, 4)
    window = Window.plan(2, shape, 2, data_format=layout)
    x, y = (array(planes(window, layout, size), dtype) for size in (window.size, window.out))
    backend.max_unpool.on_device(y, array(y.shape, "int64"), x)
    for convention in ("torch", "onnx", "tensorflow", "tensorflow_with_batch", "chainer"):
        backend.max_unpool_by_indices(y, array(y.shape, "int32"), window, convention, x)


def activations(dtype):
    x = array((4096,), dtype)
    backend.hard_swish.on_device(x, x)
    backend.hard_swish_backward.on_device(x, x, x)
    backend.swish.on_device(x, 1.5, x)
    backend.swish_backward.on_device(x, x, 1.5, x)


def ptxas():
    """The assembler of the package nvidia-cuda-nvcc, of the same version as the compiler; None without it."""
    spec = find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else []
    return next((path for folder in folders for path in Path(folder).glob("cu*/bin/ptxas*")), None)


def assemble(ptx, folder):
    """Registers, bytes of stack and bytes of spills of a kernel, as ptxas reports them."""
    source = folder / "kernel.ptx"
    source.write_text(ptx, encoding="utf-8")
    architecture = re.search(r"\.target (sm_\d+)", ptx)[1]
    command = [ptxas(), "-v", f"-arch={architecture}", source, "-o", folder / "kernel.cubin"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    stack = int(re.search(r"(\d+) bytes stack frame", report)[1])
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill", report)))
    return int(re.search(r"Used (\d+) registers", report)[1]), stack, spilled


def check(code, tmp_path):
    """No local memory, and at most 128 registers, so that a multiprocessor can hold 512 threads."""
    assert code.kernels
    for name, ptx in code.kernels:
        assert ".local" not in ptx, name
        if ptxas():
            registers, stack, spilled = assemble(ptx, tmp_path)
            assert (stack, spilled) == (0, 0), name
            assert registers <= 128, name


ATOMIC = re.compile(r"\b(atom|red)\.")


@pytest.mark.parametrize("code", CAPABILITIES, indirect=True, ids=["sm_75", "sm_80", "sm_90"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.slow
def test_pooling_keeps_to_registers(window, layout, code, tmp_path):
    for dtype in ("float32", "uint8"):
        pool(dtype_of(dtype), layout, window)
    check(code, tmp_path)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.slow
def test_pooling_keeps_to_registers_in_every_dtype(dtype, code, tmp_path):
    for layout in LAYOUTS:
        pool(dtype_of(dtype), layout, "3 s2 p1")
        pool(dtype_of(dtype), layout, "3 s2 p1", argmax=False)
    check(code, tmp_path)


@pytest.mark.parametrize("code", CAPABILITIES, indirect=True, ids=["sm_75", "sm_80", "sm_90"])
@pytest.mark.slow
def test_all_other_kernels_keep_to_registers(code, tmp_path):
    for dtype in map(dtype_of, ("float32", "bfloat16", "int8")):
        for layout in LAYOUTS:
            columns(dtype, layout)
            unpool(dtype, layout)
        copies(dtype)
    for dtype in map(dtype_of, FLOATS):
        activations(dtype)
    argmax, window = array((2, 4, 4, 1, 1), "uint8"), Window.plan(2, (2, 4, 4), 2)
    arguments = (launch.memory(argmax, compute_dtype="index"), launch.memory(argmax), *backend._geometry(window), 1, 32)
    launch.launch(argmax, backend.pool.validate_argmax, None, *arguments, wide=False)
    launch.launch(argmax, backend.pool.clear, None, launch.memory(argmax), 32, wide=False)
    check(code, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", WINDOWS)
def test_gradients_are_gathered_without_atomics(window, layout, code):
    pool(dtype_of("float32"), layout, window)
    columns(dtype_of("float32"), layout)
    names = {"max_pool_backward", "col2im"} & {name for name, _ in code.kernels}
    assert names == {"max_pool_backward", "col2im"}
    for name in names:
        assert not any(ATOMIC.search(ptx) for ptx in code.each(name))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "bool"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.slow
def test_elements_are_loaded_and_stored_sixteen_bytes_at_once(layout, dtype, code):
    pool(dtype_of(dtype), layout, "2 s2")
    wide = r"\.global\.v(?:4\.[a-z]32|2\.[a-z]64)"
    for name, ptx in code.kernels:
        assert re.search("st" + wide, ptx), name
        if (name, layout) != ("max_pool_backward", "channels_first"):  # 16 bytes of dx take half as many of dy
            assert re.search("ld" + wide, ptx), name


def test_activations_load_and_store_sixteen_bytes_at_once(code):
    activations(dtype_of("float16"))
    for _, ptx in code.kernels:
        assert re.search(r"ld\.global\.v4\.u32", ptx)
        assert re.search(r"st\.global\.v4\.u32", ptx)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.slow
def test_no_maximum_drops_a_nan(window, dtype, code):
    for argmax in (True, False):
        pool(dtype_of(dtype), "channels_first", window, argmax)
    for ptx in code.each("max_pool"):
        assert not re.search(r"\bmax\.(?!NaN)(?:\w+\.)*f(?:16|32|64)", ptx)
        assert re.search(r"setp\.\w+(?:\.\w+)*\.f(?:16|32|64)|max\.NaN\.(?:f32|b?f16)", ptx)


@pytest.mark.parametrize(("size", "index"), [(1 << 15, "u32"), (1 << 17, "u64")])
def test_indices_take_64_bits_only_where_they_have_to(size, index, code):
    window = Window.plan(2, (size, size), 2)
    x, y = array((1, 1, size, size, 1), "float32"), array((1, 1, size // 2, size // 2, 1), "float32")
    backend.max_pool.on_device(x, window, y, None)
    (ptx,) = code.each("max_pool")
    sizes = re.findall(r"\.param \.(u\d+)", ptx)
    assert sizes[:2] == ["u64"] * 2  # the addresses
    assert set(sizes[2:]) == {index}


def test_no_kernel_is_ever_unloaded():
    """A captured graph launches it by its address."""
    assert launch._kernel.cache_parameters()["maxsize"] is None


KEPT = """
import sys
from importlib import import_module
compilation, pool = (import_module(f"fastpool.backends.cuda.{name}") for name in ("compilation", "pool"))
vectors, types = import_module("fastpool.backends.cuda.vectors"), compilation.types
if sys.argv[1] == "later":
    compilation.ptx_of = None  # which would fail
signature = vectors.Pointer("uint8", 1, types.uint8, 1, False, False), types.int32
name, code = compilation.compiled(pool.clear, signature, (9, 0), ("clear", "int32"))
print(name, code[:4], len(code))
"""


def test_machine_code_is_kept_for_later_processes(python, tmp_path):
    first, later = (python("-c", KEPT, process, NUMBA_CACHE_DIR=tmp_path) for process in ("first", "later"))
    assert first == later
    assert "clear" in first
    assert r"b'\x7fELF'" in first
    assert len(list(tmp_path.rglob("*.kernel"))) == 1


def test_a_kernel_is_compiled_once_for_arrays_of_any_size(code):
    before = kernel_for.cache_info().currsize
    for side in (16, 32, 64):
        window = Window.plan(2, (side, side), 2, 3)
        x, y = (array((1, *size, 1), "int8") for size in (window.size, window.out))
        backend.max_pool.on_device(x, window, y, None)
    assert kernel_for.cache_info().currsize == before + 1


WITHOUT_ROW_STACK = """
import contextlib
import sys
import warnings

with contextlib.suppress(ImportError):
    import scipy.linalg  # takes all names of NumPy's that NumPy says it has

import numpy as np

if hasattr(np, "row_stack"):
    del np.row_stack  # as NumPy 2.5 has it
warnings.simplefilter("error")
import fastpool as fp

reason = fp.backends()["cuda"].reason
assert "Warning" not in reason, reason
from fastpool.backends.cuda.compilation import cuda, types
from fastpool.backends.cuda.elementwise import hard_swish
from fastpool.backends.cuda.vectors import Pointer

assert not hasattr(np, "row_stack")
pointer = Pointer("float32", 4, types.float32, 16)
ptx, _ = cuda.compile(hard_swish(4), types.void(pointer, pointer, types.int32), device=False, abi="numba", cc=(9, 0))
assert ".visible .entry" in ptx
"""


def test_kernels_are_compiled_with_a_numpy_that_has_no_row_stack(python):
    """numba-cuda 0.30 asks NumPy for it, and calls what NumPy 2.5 deprecates, which here is an error."""
    python("-c", WITHOUT_ROW_STACK)


class FakeNvml:
    """NVML, as far as it counts devices."""

    def __init__(self, devices):
        self.devices, self.open = devices, False

    def __call__(self, name):
        return self

    def nvmlInit_v2(self):
        self.open = True
        return 0

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = self.devices
        return 0

    def nvmlShutdown(self):
        self.open = False


@pytest.mark.parametrize(
    ("devices", "visible", "reason"),
    [
        (1, None, None),
        (2, "1", None),
        (1, "GPU-8932f937,0", None),
        (0, None, "no CUDA device was found"),
        (1, "", "CUDA_VISIBLE_DEVICES='' hides all of the 1 CUDA devices"),
        (1, "-1", "CUDA_VISIBLE_DEVICES='-1' hides"),
        (2, "2,0", "CUDA_VISIBLE_DEVICES='2,0' hides"),
    ],
)
def test_devices_are_counted_without_initialising_the_driver(devices, visible, reason, monkeypatch):
    def never():
        raise AssertionError("the driver was initialised, which a forked process could not use")

    nvml = FakeNvml(devices)
    monkeypatch.setattr(compilation.ctypes, "CDLL", nvml)
    monkeypatch.setattr(cuda, "is_available", never)
    monkeypatch.setattr(cuda, "cuda_error", lambda: None)  # the driver's library is there
    monkeypatch.setattr(compilation, "load_nvidia_dynamic_lib", lambda name: None)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    reported = compilation.why_not()
    assert (reported is None) if reason is None else reported.startswith(reason)
    assert not nvml.open


@pytest.mark.parametrize("library", ["nvvm", "nvJitLink"])
def test_a_missing_compiler_is_reported(library, monkeypatch):
    def missing(name):
        if name == library:
            raise RuntimeError(f"no {name}\nanywhere")

    monkeypatch.setattr(compilation.ctypes, "CDLL", FakeNvml(1))
    monkeypatch.setattr(cuda, "cuda_error", lambda: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(compilation, "load_nvidia_dynamic_lib", missing)
    assert compilation.why_not() == f"the compiler's library {library} was not found: no {library} anywhere"


@pytest.mark.parametrize("tests", ["tests/test_gpu.py", "tests/test_rules.py", "tests/test_conformance.py"])
@pytest.mark.slow
def test_where_a_gpu_is_demanded_a_missing_one_is_a_failure(tests, python):
    pytest_here = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", "addopts=", "-k", "zero", tests)
    output = python(*pytest_here, fails=True, FASTPOOL_TEST_CUDA="1", NUMBA_DISABLE_CUDA="1")
    assert "FASTPOOL_TEST_CUDA=1, but the backend cuda is not available" in output
    assert "CUDA is disabled" in output
