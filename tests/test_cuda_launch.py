"""How CUDA kernels are launched, without a driver: the arguments that it gets, and how a launch is repeated."""

import ctypes
import shutil
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="needs numba-cuda")
launch = import_module("fastpool.backends.cuda.launch")


class FakeKernel:
    """Keeps the arguments of each launch, as a kernel with parameters of these types would read them."""

    def __init__(self, *types, wait=None):
        self.types, self.wait, self.launched = types, wait, []

    def launch(self, grid, block, arguments, stream):
        addresses = (ctypes.c_void_p * len(self.types)).from_address(arguments)
        if self.wait is not None:
            self.wait()
        values = [c_type.from_address(address).value for c_type, address in zip(self.types, addresses, strict=True)]
        self.launched.append((grid, block, values, stream))


def memory(address):
    return launch.Memory("float32", 4, "float32", 16, False, False, address, 64)


def test_each_parameter_is_read_in_its_own_width():
    kernel = FakeKernel(ctypes.c_void_p, ctypes.c_int32, ctypes.c_double, ctypes.c_uint8, *[ctypes.c_int64] * 2)
    arguments = memory(1 << 40), -3, -1.5, np.uint8(200), (-(2**40), 7)
    launch.Launch(kernel, 5, arguments)([1 << 41], 9)
    assert kernel.launched == [(5, launch.THREADS, [1 << 41, -3, -1.5, 200, -(2**40), 7], 9)]


def test_other_addresses_take_the_places_of_those_that_it_was_made_with():
    kernel = FakeKernel(ctypes.c_int32, *[ctypes.c_void_p] * 3, ctypes.c_int32)
    prepared = launch.Launch(kernel, 1, (8, memory(16), launch.NOTHING, memory(32), 9))
    assert prepared.addresses == [16, 32]
    for addresses in ([48, 64], prepared.addresses):
        prepared(addresses, 1)
    assert [values for _, _, values, _ in kernel.launched] == [[8, 48, None, 64, 9], [8, 16, None, 32, 9]]


def test_threads_that_launch_at_once_keep_their_own_addresses():
    """The driver reads the arguments while other threads run."""
    together = threading.Barrier(2)
    kernel = FakeKernel(ctypes.c_void_p, wait=together.wait)
    prepared = launch.Launch(kernel, 1, (memory(16),))
    threads = [threading.Thread(target=prepared, args=([address], address)) for address in (32, 48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((stream, values) for _, _, values, stream in kernel.launched) == [(32, [32]), (48, [48])]


def test_a_launch_that_fails_does_not_hinder_the_next():
    def refuse():
        raise RuntimeError("no")

    kernel = FakeKernel(ctypes.c_void_p, wait=refuse)
    prepared = launch.Launch(kernel, 1, (memory(16),))
    with pytest.raises(RuntimeError):
        prepared([32], 0)
    kernel.wait = None
    prepared([48], 0)
    assert kernel.launched[0][2] == [48]


ON_A_FAKE_DRIVER = """
import gc
import threading
from importlib import import_module

import numpy as np

import fastpool as fp

cuda, driver = import_module("fastpool.backends.cuda"), import_module("fastpool.backends.cuda.driver")
cuda.why_not = lambda: None
assert driver.capability(0) == (9, 0)
x = np.arange(42, 42 + 16, dtype=np.int32).reshape(1, 1, 4, 4)
fp.max_pool2d(x, 2, backend="cuda")
gc.collect()  # what Numba's compiler leaves behind refers to its callers, and so to their arrays
thread = threading.Thread(target=fp.max_pool2d, args=(x + 1, 2), kwargs={"backend": "cuda"})  # which has no context yet
thread.start()
thread.join()
driver.wait(5, 7, 0)
try:
    driver.Kernel("another name", b"\\x7fELF", 0)
except RuntimeError as error:
    print(error, flush=True)
"""


@pytest.mark.skipif(shutil.which("cc") is None or sys.platform != "linux", reason="needs a C compiler, on Linux")
def test_the_driver_is_called_in_order(python, tmp_path):
    """The real cuda.bindings make the calls; a fake library replaces NVIDIA's."""
    source = Path(__file__).with_name("fake_libcuda.c")
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", tmp_path / "libcuda.so.1", "-ldl"], check=True)
    output = python(
        "-c", ON_A_FAKE_DRIVER, LD_LIBRARY_PATH=tmp_path, NUMBA_CACHE_DIR=tmp_path, FASTPOOL_TEST_CUDA=None
    ).splitlines()
    launches = [f"launch 1 blocks of {launch.THREADS} on 0x1: {first} 1" for first in (42, 43)]
    assert [line for line in output if line.startswith("launch")] == launches
    assert output.count("free") == 4
    assert output[-3:] == ["record 0x7", "wait 0x5", "the CUDA driver answers CUDA_ERROR_NOT_FOUND"]
