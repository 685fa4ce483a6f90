"""Where the kernels come from: a library built with the package, or else Numba, which compiles them when first called.

A kernel for certain arguments has a name: `max_pool__f4_f4_u1__n_f4_t18_i_t2` takes arrays of float32, float32 and
uint8, and then the constants None, a float32, a tuple of 18 integers, an integer and a tuple of two. It is a C function
of those in words of eight bytes, the scratch, and the first and last work item.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import warnings
import zlib
from contextlib import suppress
from functools import cache
from importlib import import_module
from threading import RLock
from typing import Any, NamedTuple

import numpy as np

from fastpool.backends.numba._launch import X86_64_LEVEL
from fastpool.threads import fork_before_logging, hold_across_forks, in_a_thread_of_its_own

FOLDER = os.path.dirname(__file__)
BUILT_LEVELS = ("x86-64-v4", "x86-64-v3", "aarch64")  # from the best on
JUST_IN_TIME = "jit"

# Python's own locks of Numba's modules would stay locked in a child that is forked while they are imported.
_importing = RLock()
hold_across_forks(_importing)


@cache
def dtype_code(dtype: np.dtype) -> str:
    """Of an array's elements: kind and bytes. bool is seen as uint8, two-byte floats as int16."""
    if dtype.itemsize == 2 and dtype.kind not in "iu":
        return "i2"
    return "u1" if dtype.kind == "b" else f"{dtype.kind}{dtype.itemsize}"


class Empty(NamedTuple):
    """A constant that tells a kernel a dtype, and nothing else."""

    dtype: np.dtype


def encoded(constants: tuple[Any, ...]) -> tuple[str, bytes]:
    """The codes of a kernel's constants, and their words."""
    codes, words = [], b""
    for constant in constants:
        if constant is None:
            codes.append("n")
        elif isinstance(constant, Empty):
            codes.append(f"e{dtype_code(constant.dtype)}")
        elif isinstance(constant, tuple):
            codes.append(f"t{len(constant)}")
            words += struct.pack(f"={len(constant)}q", *constant)
        elif isinstance(constant, np.generic):
            codes.append(dtype_code(constant.dtype))
            words += constant.tobytes().ljust(8, b"\0")
        elif isinstance(constant, bool):
            codes.append("b")
            words += struct.pack("=q", constant)
        elif isinstance(constant, float):
            codes.append("d")
            words += struct.pack("=d", constant)
        else:
            codes.append("i")
            words += struct.pack("=q", constant)
    return "_".join(codes), words


def native_level() -> str:
    """The best level of kernels that this processor can run; '' where none is built for its kind or system."""
    if sys.platform != "linux":
        return ""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "aarch64"
    return f"x86-64-v{X86_64_LEVEL}" if X86_64_LEVEL >= 3 else ""


def levels_here() -> tuple[str, ...]:
    """The levels of kernels that this processor can run, the best first."""
    best = native_level()
    family = [level for level in BUILT_LEVELS if level.split("-")[0] == best.split("-")[0]]
    return tuple(family[family.index(best) :]) if best else ()


def library_path(level: str) -> str:
    return os.path.join(FOLDER, f"kernels.{level}.so")


def asked_for() -> str:
    """FASTPOOL_KERNELS: the level to take at most, or "jit" to have all kernels compiled by Numba; '' for the best."""
    text = os.environ.get("FASTPOOL_KERNELS", "")
    if text not in ("", JUST_IN_TIME, *BUILT_LEVELS):
        choices = ", ".join(map(repr, (*BUILT_LEVELS, JUST_IN_TIME)))
        raise ValueError(f"FASTPOOL_KERNELS must be one of {choices}, got {text!r}")
    return text


# What decides how kernels are called. Kernels of other versions may write beyond the scratch that these allow for.
CALLERS = ("library.py", "plan.py", "scratch.py")


def callers() -> int:
    """A checksum of how kernels are called, which a library must share; 0 where no sources are installed."""
    checksum = 0
    for name in CALLERS:
        try:
            with open(os.path.join(FOLDER, name), "rb") as source:
                checksum = zlib.crc32(source.read(), checksum)
        except OSError:
            return 0
    return checksum


class _Library(NamedTuple):
    level: str
    functions: ctypes.CDLL


def _opened(path: str) -> ctypes.CDLL:
    """A library. OSError where it does not load, or is called in another way."""
    functions = ctypes.CDLL(path)
    try:
        built_for = ctypes.c_uint.in_dll(functions, "fastpool_callers").value
    except ValueError:
        built_for = None
    if callers() not in (0, built_for):
        raise OSError(f"it was built for other versions of {', '.join(CALLERS)}: build it again")
    return functions


@cache
def _library() -> _Library | None:
    """The library for the best level that this processor can run and that has been built."""
    asked = asked_for()
    allowed = BUILT_LEVELS[BUILT_LEVELS.index(asked) :] if asked in BUILT_LEVELS else BUILT_LEVELS
    for level in () if asked == JUST_IN_TIME else levels_here():
        path = library_path(level)
        if level in allowed and os.path.exists(path):
            try:
                return _Library(level, _opened(path))
            except OSError as error:
                with suppress(RuntimeWarning):  # where warnings are errors, the call goes on all the same
                    warnings.warn(f"fastpool goes without {path}: {error}", RuntimeWarning, stacklevel=2)
    return None


def level() -> str:
    """The level of the kernels that were built with the package and are taken here; '' where there are none."""
    library = _library()
    return "" if library is None else library.level


def compiler() -> Any:
    """The module that compiles kernels, by Numba. ImportError where that is not installed."""
    fork_before_logging()
    with _importing:
        return import_module("fastpool.backends.numba.just_in_time")


def find(name: str) -> tuple[int, Any]:
    """The address of a kernel, and what must be kept for it to stay there."""
    library = _library()
    if library is not None:
        try:
            return ctypes.cast(library.functions[name], ctypes.c_void_p).value or 0, library
        except AttributeError:
            pass
    return in_a_thread_of_its_own(_compile, name, library)


def _compile(name: str, library: _Library | None) -> tuple[int, Any]:
    try:
        compile_now = compiler().compile_now
    except ImportError as error:
        built = "none was built for this processor" if library is None else f"it is not among those for {library.level}"
        remedy = 'remedy: pip install "fastpool[numba]"'
        raise RuntimeError(f"no kernel {name}: {built}, and Numba cannot compile it: {error}; {remedy}") from error
    return compile_now(name)
