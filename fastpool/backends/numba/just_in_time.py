"""Kernels that Numba compiles when they are first called.

Their object code is kept on disk, one file for each, named by all that it depends on.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core.compiler_lock import global_compiler_lock

from fastpool.backends.numba import disk_cache
from fastpool.backends.numba.object_code import (
    DIGEST,
    Processor,
    make_object,
    object_name,
    target_machine,
    this_processor,
)
from fastpool.threads import need_memory

# What loading or compiling a kernel takes at most, with what Numba imports for the first one. Short of it LLVM ends the
# process, and OpenBLAS waits for ever.
NEEDED = 1 << 28


@cache  # a later change of the current folder changes nothing
def cache_directory() -> str:
    """Where compiled kernels are kept: below NUMBA_CACHE_DIR, else in the user's cache; '' where there is no home."""
    try:
        base = Path(numba.config.CACHE_DIR).expanduser() if numba.config.CACHE_DIR else disk_cache.user_cache()
        return "" if base is None else str(Path(base, "fastpool-kernels").absolute())
    except (OSError, RuntimeError):  # no current folder; `~` of a user whom nobody knows
        return ""


@cache
def _warn_not_kept(why: str) -> None:
    """Warn once that every process compiles for itself. Where warnings are errors, the call goes on all the same."""
    with suppress(RuntimeWarning):
        warnings.warn(
            f"the kernels that fastpool compiles are not kept for later processes: {why}; set NUMBA_CACHE_DIR to a "
            "folder that belongs to you and that others cannot write to",
            RuntimeWarning,
            stacklevel=2,
        )


def _checksum(name: str, payload: bytes) -> bytes:
    """A digest by which a file is known to be whole, and to be stored under its own name."""
    return DIGEST(name.encode() + payload).digest()


def _kept_code(kept_as: str) -> bytes | None:
    try:
        stored = disk_cache.read(cache_directory(), kept_as) if cache_directory() else None
    except Exception:
        return None
    return stored[32:] if stored is not None and _checksum(kept_as, stored[32:]) == stored[:32] else None


def _keep(kept_as: str, code: bytes) -> None:
    try:
        why = disk_cache.why_not_written(cache_directory())
        why = why or disk_cache.write(cache_directory(), kept_as, _checksum(kept_as, code) + code)
    except Exception:
        return
    if why:
        _warn_not_kept(why)


_loaded: dict[str, tuple[int, Any]] = {}


def compile_now(name: str) -> tuple[int, Any]:
    """The address of a kernel that is compiled now or was kept on disk, and what must be kept alive for it."""
    with global_compiler_lock:  # llvmlite has a lock of its own, which a fork does not wait for
        if name not in _loaded:
            need_memory(NEEDED, "a kernel is loaded or compiled")
            processor = this_processor()
            kept_as = object_name(name, processor)
            # With bounds checks, object code calls Numba functions that exist only in the process that compiled it, so
            # it is not cached.
            keeps = not numba.config.BOUNDSCHECK
            code = _kept_code(kept_as) if keeps else None
            if code is None:
                code = make_object(name, processor)
                if keeps:
                    _keep(kept_as, code)
            _loaded[name] = _load(name, code, processor)
        return _loaded[name]


def _load(name: str, code: bytes, processor: Processor) -> tuple[int, Any]:
    target = target_machine(processor, reloc="pic", codemodel="jitdefault", jit=True)
    empty = llvm.parse_assembly(f'target triple = "{processor.triple}"')
    engine = llvm.create_mcjit_compiler(empty, target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine.get_function_address(name), engine
