"""Where the kernels come from: a library built with the package, or else Numba, which compiles them on first call."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import warnings
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from fastpool.backends.numba import sources
from fastpool.backends.numba._launch import X86_64_LEVEL
from fastpool.backends.numba.sources import FOLDER
from fastpool.threads import fork_before_logging, importing, in_a_thread_of_its_own

BUILT_LEVELS = ("x86-64-v4", "x86-64-v3", "aarch64")  # the best first
JUST_IN_TIME = "jit"


def native_level() -> str:
    """The best level of kernels that this processor can run; '' where none is built for it or for its system."""
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


def requested_level() -> str:
    """FASTPOOL_KERNELS: the level to take at most, or "jit" to have all kernels compiled by Numba; '' for the best."""
    text = os.environ.get("FASTPOOL_KERNELS", "")
    if text not in ("", JUST_IN_TIME, *BUILT_LEVELS):
        choices = ", ".join(map(repr, (*BUILT_LEVELS, JUST_IN_TIME)))
        raise ValueError(f"FASTPOOL_KERNELS must be one of {choices}, got {text!r}")
    return text


class _Library(NamedTuple):
    level: str
    functions: ctypes.CDLL


def _opened(path: str) -> ctypes.CDLL:
    """Load a library. OSError where it does not load, or was built for other plans."""
    functions = ctypes.CDLL(path)
    try:
        built_for = ctypes.c_uint.in_dll(functions, "fastpool_calling_checksum").value
    except ValueError:
        built_for = None
    if sources.calling_checksum() not in (0, built_for):
        raise OSError("it was built for other versions of the plans that call its kernels: build it again")
    return functions


@cache
def _library() -> _Library | None:
    """The library for the best level that this processor can run and that has been built."""
    requested = requested_level()
    allowed = BUILT_LEVELS[BUILT_LEVELS.index(requested) :] if requested in BUILT_LEVELS else BUILT_LEVELS
    for level in () if requested == JUST_IN_TIME else levels_here():
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
    """The module that compiles kernels with Numba. ImportError where Numba is not installed."""
    fork_before_logging()
    with importing:
        return import_module("fastpool.backends.numba.just_in_time")


def find(name: str) -> tuple[int, Any]:
    """The address of a kernel, and the object that must be kept alive for it to stay valid."""
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
