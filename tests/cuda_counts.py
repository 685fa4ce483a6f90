"""Counts what a warp of each CUDA kernel executes and which memory it accesses, as tests/ptx.py runs the PTX.

`python tests/cuda_counts.py` writes the table with which tests/test_cuda_counts.py compares the kernels, and prints it.
"""

from __future__ import annotations

import ctypes
import json
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import ml_dtypes
import numpy as np
import ptx

from fastpool.array_library import ArrayLibrary
from fastpool.device_arrays import DeviceArray
from fastpool.window import Window

TABLE = Path(__file__).with_name("cuda_counts.json")
CAPABILITY = (9, 0)
# Planes that fill several blocks. The large window and the global one have planes of the size that networks have.
PLANES = {
    "2 s2": ((2, 8, 56, 56), (2, 2, 0)),
    "3 s2 p1": ((2, 8, 56, 56), (3, 2, 1)),
    "3 s1 p1": ((2, 8, 28, 28), (3, 1, 1)),
    "13 s1 p6": ((1, 2, 20, 20), (13, 1, 6)),
    "13 s1 p6, many planes": ((16, 32, 20, 20), (13, 1, 6)),
    "7, the whole plane": ((16, 32, 7, 7), (7, 7, 0)),
}
LAYOUTS = ("channels_first", "channels_last")
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "uint8": np.uint8}


class Row(NamedTuple):
    """A kernel on a problem."""

    op: str
    window: str
    dtype: str
    layout: str

    @property
    def name(self) -> str:
        return " | ".join(self)


def rows():
    """All rows of the table: every problem in float32, some in other dtypes, whose itemsize changes the vectors."""
    for window in PLANES:
        for layout in LAYOUTS:
            for op in ("forward", "argmax", "backward"):
                yield Row(op, window, "float32", layout)
    for dtype in ("bfloat16", "uint8"):
        for window in ("2 s2", "3 s1 p1"):
            for layout in LAYOUTS:
                yield Row("forward", window, dtype, layout)
    for dtype in DTYPES:
        if dtype != "uint8":
            yield Row("hard_swish", "none", dtype, "flat")
            yield Row("hard_swish_backward", "none", dtype, "flat")
    yield Row("im2col", "3 s1 p1", "float32", "channels_first")
    yield Row("col2im", "3 s1 p1", "float32", "channels_first")


class InMainMemory(ArrayLibrary):
    """NumPy arrays, on which interpreted kernels run."""

    def empty(self, shape, dtype, like):
        return device_array(np.ones(shape, dtype))

    def stream(self, a):
        return 0


def device_array(a):
    return DeviceArray(InMainMemory(None), a, 0, a.ctypes.data, a.shape, None, a.dtype)


def aligned(shape, dtype, seed=0):
    """Integers from 0 to 99, at an address that is a multiple of 256, as a GPU's allocations are."""
    dtype = np.dtype(dtype)
    memory = np.empty(int(np.prod(shape)) * dtype.itemsize + 256, np.uint8)
    start = -memory.ctypes.data % 256
    a = memory[start : start + int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)
    a[...] = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    return a


class Launches:
    """The launches of an op, run and counted one by one."""

    def __init__(self):
        self.found = []

    def kernel(self, make, constants, signature, index, device):
        compilation, launch = (import_module(f"fastpool.backends.cuda.{name}") for name in ("compilation", "launch"))
        function = make(*constants) if constants is not None else make
        numba_types = [launch._numba_type(description, index, CAPABILITY) for description in signature]
        return compilation.ptx_of(function, numba_types, CAPABILITY)[1]

    def launch(self, kernel, grid, arguments):
        """Replaces `launch.Launch`."""
        module = import_module("fastpool.backends.cuda.launch")
        memory = [a for a in arguments if isinstance(a, module.Memory) and a.address]
        words = [word for argument in arguments for word in module._words(argument)]

        def run(addresses, stream):
            arrays = [np.frombuffer((ctypes.c_ubyte * a.nbytes).from_address(a.address), np.uint8) for a in memory]
            regions = [ptx.Region(a.address, array) for a, array in zip(memory, arrays, strict=True)]
            counts = ptx.Counts()
            ptx.run(ptx.Program(kernel), grid, module.THREADS, words, regions, counts)
            self.found.append((kernel, counts))

        run.addresses = [a.address for a in memory]
        return run


def _call(row):
    """Run the op of a row on the backend."""
    backend = import_module("fastpool.backends.cuda")
    if row.window == "none":
        arguments = [device_array(aligned((1 << 16,), DTYPES[row.dtype])) for _ in range(2 + ("backward" in row.op))]
        getattr(backend, row.op).on_device(*arguments)
        return
    shape, (kernel, stride, padding) = PLANES[row.window]
    last = row.layout == "channels_last"
    window = Window.plan(
        2, (shape[0], *shape[2:], shape[1]) if last else shape, kernel, stride, padding, data_format=row.layout
    )
    planes = [
        (window.batch, *size, window.channels) if last else (window.batch * window.channels, *size, 1)
        for size in (window.size, window.out)
    ]
    x, y = (device_array(aligned(size, DTYPES[row.dtype])) for size in planes)
    if row.op in ("im2col", "col2im"):
        cols = device_array(aligned((window.batch, window.channels, window.volume, window.positions), x.dtype))
        if row.op == "im2col":
            backend.im2col.on_device(x, window, 0, cols)
        else:
            backend.col2im.on_device(cols, window, x)
        return
    argmax = None
    if row.op != "forward":
        argmax = aligned(planes[1], window.argmax_dtype)
        argmax[...] = argmax % window.volume
        argmax = device_array(argmax)
    if row.op == "backward":
        backend.max_pool_backward.on_device(y, argmax, window, x)
    else:
        backend.max_pool.on_device(x, window, y, argmax)


def measure(row):
    """The sums over all launches of a row: warps, instructions, divisions, memory requests and sectors."""
    module, launches = import_module("fastpool.backends.cuda.launch"), Launches()
    with patch.multiple(module, _kernel=launches.kernel, Launch=launches.launch):
        _call(row)
    warps = sum(counts.warps for _, counts in launches.found)
    executed = sum(counts.instructions.total() for _, counts in launches.found)
    divisions = sum(
        counts.instructions[key]
        for _, counts in launches.found
        for key in counts.instructions
        if key[0] in ("div", "rem")
    )
    requests = sum(counts.requests.total() for _, counts in launches.found)
    sectors = sum(counts.sectors.total() for _, counts in launches.found)
    return {
        "launches": len(launches.found),
        "warps": int(warps),
        "instructions": int(executed),
        "divisions": int(divisions),
        "requests": int(requests),
        "sectors": int(sectors),
    }


def main():
    table = {row.name: measure(row) for row in rows()}
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"| {' | '.join(('op', 'window', 'dtype', 'layout', *next(iter(table.values()))))} |")
    for name, counts in table.items():
        print(f"| {name} | {' | '.join(map(str, counts.values()))} |")


if __name__ == "__main__":
    main()
