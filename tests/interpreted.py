"""The CUDA backend without a GPU: main memory serves as the GPU's, and tests/ptx.py interprets the kernels' PTX."""

import ctypes
from importlib import import_module

import numpy as np
import ptx

CAPABILITY = (9, 0)
# A grid of few threads, so that a thread takes several work items.
THREADS, BLOCKS = 64, 2


class Buffer:
    """Replaces `driver.Buffer`, with main memory."""

    def __init__(self, nbytes, device):
        self._bytes = np.full(nbytes + 256, 0xA5, np.uint8)  # a GPU's allocations are aligned to 256 bytes
        self.address = -(-self._bytes.ctypes.data // 256) * 256
        self._used = self._bytes[self.address - self._bytes.ctypes.data :][:nbytes]

    def write(self, a):
        self._used[:] = a.view(np.uint8)

    def read(self, a):
        a.view(np.uint8)[:] = self._used


class Launch:
    """Replaces `launch.Launch`: interprets a kernel's PTX."""

    def __init__(self, program, grid, arguments):
        launch = import_module("fastpool.backends.cuda.launch")
        self._program, self._grid, self._block = program, grid, launch.THREADS
        self._sizes = [a.nbytes for a in arguments if isinstance(a, launch.Memory) and a.address]
        self._words = [word for argument in arguments for word in launch._words(argument)]
        self._positions, self.addresses, at = [], [], 0
        for argument in arguments:
            if isinstance(argument, launch.Memory) and argument.address:
                self._positions.append(at)
                self.addresses.append(argument.address)
            at += len(launch._words(argument))

    def __call__(self, addresses, stream):
        words = self._words.copy()
        for position, address in zip(self._positions, addresses, strict=True):
            words[position] = address
        regions = [ptx.Region(a, _memory(a, size)) for a, size in zip(addresses, self._sizes, strict=True)]
        ptx.run(self._program, self._grid, self._block, words, regions)


def _memory(address, nbytes):
    return np.frombuffer((ctypes.c_ubyte * nbytes).from_address(address), np.uint8) if nbytes else np.zeros(0, np.uint8)


def install():
    """Replace the driver by the classes of this module, until the process ends."""
    compilation, launch, driver, backend = (
        import_module(f"fastpool.backends.cuda{name}") for name in (".compilation", ".launch", ".driver", "")
    )
    backend.why_not = lambda: None
    driver.capability = lambda device: CAPABILITY
    driver.current_device = lambda: 0
    driver.wait = lambda waiting, stream, device: None
    driver.Buffer = Buffer
    driver.Kernel = lambda name, code, device: ptx.Program(code)
    launch.compiled = lambda function, signature, capability, made_of: compilation.ptx_of(
        function, signature, capability
    )
    launch.Launch = Launch
    launch.THREADS, launch.BLOCKS = THREADS, BLOCKS
    backend.MANY_PLANES = 8  # the specimens have few
