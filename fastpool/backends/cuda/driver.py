"""All calls of NVIDIA's driver: devices, kernels, memory, and the order of streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import numpy as np
from cuda.bindings import driver

__all__ = ["Buffer", "Kernel", "capability", "current_device", "on_device", "wait"]


def _result(answer):
    """The results of a call of the driver. Raises RuntimeError with the name of its error."""
    error, *results = answer
    if error != driver.CUresult.CUDA_SUCCESS:
        _, name = driver.cuGetErrorName(error)
        raise RuntimeError(f"the CUDA driver answers {name.decode() if name else error}")
    return results[0] if results else None


@cache
def _device(ordinal: int):
    _result(driver.cuInit(0))
    return _result(driver.cuDeviceGet(ordinal))


@cache
def _context(device: int):
    """The primary context of a device, which all libraries share. It is never released."""
    return _result(driver.cuDevicePrimaryCtxRetain(_device(device)))


@contextmanager
def on_device(device: int) -> Iterator[None]:
    """Within the `with` block, make a device's primary context the current one of this thread."""
    context = _context(device)
    if int(_result(driver.cuCtxGetCurrent())) == int(context):
        yield
        return
    _result(driver.cuCtxPushCurrent(context))
    try:
        yield
    finally:
        driver.cuCtxPopCurrent()


def current_device() -> int:
    """The current device of this thread, 0 if it has none."""
    _result(driver.cuInit(0))
    return int(_result(driver.cuCtxGetDevice())) if int(_result(driver.cuCtxGetCurrent())) else 0


@cache
def capability(device: int) -> tuple[int, int]:
    """The compute capability of a device, as (major, minor)."""
    attribute = driver.CUdevice_attribute
    names = (
        attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    )
    major, minor = (int(_result(driver.cuDeviceGetAttribute(name, _device(device)))) for name in names)
    return major, minor


class Kernel:
    """A kernel on a device. It is never unloaded, because a captured graph launches it by its address."""

    def __init__(self, name: str, cubin: bytes, device: int) -> None:
        self._device, self._context = device, int(_context(device))
        with on_device(device):
            module = _result(driver.cuModuleLoadData(cubin))
            self._function = _result(driver.cuModuleGetFunction(module, name.encode()))

    def launch(self, grid: int, block: int, arguments: int, stream: int) -> None:
        """Run on a stream. `arguments` is the address of a list of the addresses of the arguments."""
        if int(driver.cuCtxGetCurrent()[1]) != self._context:
            with on_device(self._device):
                self.launch(grid, block, arguments, stream)
            return
        answer = driver.cuLaunchKernel(self._function, grid, 1, 1, block, 1, 1, 0, stream, arguments, 0)
        if answer[0]:  # not success, which is 0
            _result(answer)


class Buffer:
    """Memory of a device, freed with this object."""

    def __init__(self, nbytes: int, device: int) -> None:
        self._device, self.address = device, 0
        with on_device(device):
            self.address = int(_result(driver.cuMemAlloc(max(nbytes, 1))))

    def __del__(self) -> None:
        if self.address:
            with suppress(Exception), on_device(self._device):  # the driver may have been shut down
                driver.cuMemFree(self.address)

    def write(self, a: np.ndarray) -> None:
        """Copy a contiguous array to the device, and wait for the copy."""
        if a.nbytes:
            with on_device(self._device):
                _result(driver.cuMemcpyHtoD(self.address, a.ctypes.data, a.nbytes))

    def read(self, a: np.ndarray) -> None:
        """Copy the memory into a contiguous array, and wait for all work on the default stream."""
        if a.nbytes:
            with on_device(self._device):
                _result(driver.cuMemcpyDtoH(a.ctypes.data, self.address, a.nbytes))


def wait(waiting: int, stream: int, device: int) -> None:
    """Let the stream `waiting` wait for all work submitted to `stream` so far."""
    with on_device(device):
        event = _result(driver.cuEventCreate(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        try:
            _result(driver.cuEventRecord(event, stream))
            _result(driver.cuStreamWaitEvent(waiting, event, 0))
        finally:
            driver.cuEventDestroy(event)
