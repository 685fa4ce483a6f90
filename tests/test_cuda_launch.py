"""How CUDA kernels are launched, without a driver: what it is handed, and what a repeated call costs it."""

import ctypes
import threading
from importlib import import_module

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
        values = [kind.from_address(address).value for kind, address in zip(self.types, addresses, strict=True)]
        self.launched.append((grid, block, values, stream))


def memory(address):
    return launch.Memory("float32", 4, "float32", 16, address, 64)


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
