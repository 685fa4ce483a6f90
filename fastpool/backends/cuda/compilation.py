"""From Python to machine code: numba-cuda compiles to PTX, and nvJitLink assembles that."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import numpy as np

from fastpool.backends.kept_code import DIGEST, file_name, kept

__all__ = ["VERSION", "compiled", "compiling_for", "cuda", "inlined", "ptx_of", "types", "why_not"]


@contextmanager
def _with_removed_names() -> Iterator[None]:
    """Within the `with` block, let numba-cuda 0.30 be imported with NumPy 2.5, which it does not support.

    NumPy 2.5 has removed `row_stack`, another name of `vstack`, and deprecates more of what numba-cuda calls: where
    warnings are errors, a deprecation would look like a broken installation.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        removed = not hasattr(np, "row_stack")
        if removed:
            np.row_stack = np.vstack  # noqa: NPY201
        try:
            yield
        finally:
            if removed:
                del np.row_stack  # noqa: NPY201


with _with_removed_names():
    import numba_cuda  # without it `numba.cuda` is Numba's own, older one
    from cuda.bindings import nvjitlink
    from cuda.pathfinder import load_nvidia_dynamic_lib
    from numba import cuda
    from numba.cuda import types

    # Asks for `row_stack`; the first compilation would import it, outside this block.
    from numba.cuda.np import arrayobj  # noqa: F401

VERSION = numba_cuda.__version__
# The compute capability for which a kernel is being compiled: it limits the instructions that the kernel may use.
compiling_for: ContextVar[tuple[int, int]] = ContextVar("fastpool_compiling_for")


def why_not():
    """The reason why no kernel can run here, or None.

    The driver is not initialised where NVML can tell, because a child process that is forked later could not use it.
    """
    devices = _device_count()
    if devices is None:
        cuda.is_available()  # initialises the driver and stores its error, if any
    error = cuda.cuda_error()
    if error is not None:
        return " ".join(error.split()).rstrip(" :")
    if devices == 0:
        return "no CUDA device was found"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices is not None and visible is not None and not _names_a_device(visible, devices):
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides all of the {devices} CUDA devices"
    for library in ("nvvm", "nvJitLink"):
        try:
            load_nvidia_dynamic_lib(library)
        except RuntimeError as error:
            return f"the compiler's library {library} was not found: {' '.join(str(error).split())}"
    return None


def _device_count():
    """The number of NVIDIA devices by NVML, which does not initialise the driver; None without NVML."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    try:
        count = ctypes.c_uint()
        return None if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) else count.value
    finally:
        nvml.nvmlShutdown()


def _names_a_device(visible, devices):
    """Whether CUDA_VISIBLE_DEVICES shows a device: the driver reads the names up to the first invalid one."""
    first = visible.split(",")[0].strip()
    return first.startswith(("GPU-", "MIG-")) or (first.isdecimal() and int(first) < devices)


def inlined(function):
    """A device function that is inlined into the kernels that call it."""
    return cuda.jit(device=True, inline="always")(function)


def ptx_of(function, signature, capability):
    """The name and the PTX of a kernel for one signature, for devices of a compute capability."""
    token = compiling_for.set(capability)
    try:
        ptx, _ = cuda.compile(function, types.void(*signature), device=False, abi="numba", cc=capability)
    finally:
        compiling_for.reset(token)
    return re.search(r"\.entry ([\w$]+)", ptx)[1], ptx


def compiled(function, signature, capability, made_of):
    """The name and the machine code of a kernel, as the driver loads it; kept on disk for later processes.

    `made_of` tells the kernel from all others of the same sources, by its `repr`.
    """

    def name_and_code():
        name, ptx = ptx_of(function, signature, capability)
        return name.encode() + b"\n" + _assembled(ptx.encode(), "sm_{}{}".format(*capability))

    name, code = kept(file_name(repr(made_of), repr(capability), _environment()), name_and_code).split(b"\n", 1)
    return name.decode(), code


@cache
def _environment():
    """What the code of all kernels depends on: the compilers, Python's bytecode, and the sources."""
    digest = DIGEST(f"{VERSION}/{nvjitlink.version()}/{np.__version__}/{sys.version}".encode())
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), here.parents[1] / "_rules.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _assembled(ptx, architecture):
    """Machine code of PTX. The driver may be too old for the compiler's PTX; nvJitLink is as new as the compiler."""
    handle = nvjitlink.create(1, [f"-arch={architecture}"])
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, ptx, len(ptx), "kernel")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin)
