"""The CUDA backend without a GPU: main memory is a GPU's, and the PTX of its kernels is run by tests/ptx.py."""

import ctypes
from importlib import import_module

import numpy as np
import ptx

CAPABILITY = (9, 0)
# A few threads show what many would do: each takes several work items where there are more.
THREADS, BLOCKS = 64, 2


class Buffer:
    """What `driver.Buffer` is, in main memory."""

    def __init__(self, nbytes, device):
        self._bytes = np.full(nbytes + 256, 0xA5, np.uint8)  # a GPU's allocations are aligned to 256 bytes
        self.address = -(-self._bytes.ctypes.data // 256) * 256
        self._used = self._bytes[self.address - self._bytes.ctypes.data :][:nbytes]

    def write(self, a):
        self._used[:] = a.view(np.uint8)

    def read(self, a):
        a.view(np.uint8)[:] = self._used


class Launch:
    """What `launch.Launch` is: runs a program of PTX."""

    def __init__(self, program, grid, arguments):
        launch = import_module("fastpool.backends.cuda.launch")
        self._program, self._grid, self._block = program, grid, launch.THREADS
        self._sizes = [a.nbytes for a in arguments if isinstance(a, launch.Memory) and a.address]
        self._words = [word for argument in arguments for word in launch._words(argument)]
        self._places, self.addresses, at = [], [], 0
        for argument in arguments:
            if isinstance(argument, launch.Memory) and argument.address:
                self._places.append(at)
                self.addresses.append(argument.address)
            at += len(launch._words(argument))

    def __call__(self, addresses, stream):
        words = self._words.copy()
        for place, address in zip(self._places, addresses, strict=True):
            words[place] = address
        regions = [ptx.Region(a, _memory(a, size)) for a, size in zip(addresses, self._sizes, strict=True)]
        ptx.run(self._program, self._grid, self._block, words, regions)


def _memory(address, nbytes):
    return np.frombuffer((ctypes.c_ubyte * nbytes).from_address(address), np.uint8) if nbytes else np.zeros(0, np.uint8)


def install():
    """Put all this in the place of the driver, for good."""
    compilation, launch, driver, backend = (
        import_module(f"fastpool.backends.cuda{name}") for name in (".compilation", ".launch", ".driver", "")
    )
    backend.why_not = lambda: None
    driver.capability = lambda device: CAPABILITY
    driver.current_device = lambda: 0
    driver.wait = lambda waiting, stream, device: None
    driver.Buffer = Buffer
    driver.Kernel = lambda name, code, device: ptx.Program(code)
    launch.compiled, launch.Launch = compilation.ptx_of, Launch
    launch.THREADS, launch.BLOCKS = THREADS, BLOCKS
