"""Kernels that Numba compiles when they are first called."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core.compiler_lock import global_compiler_lock

from fastpool.backends.kept_code import cache_directory, kept
from fastpool.backends.numba.object_code import Processor, make_object, object_name, target_machine, this_processor
from fastpool.threads import need_memory

__all__ = ["cache_directory", "compile_now"]

# What loading or compiling a kernel takes at most, with what Numba imports for the first one. Short of it LLVM ends the
# process, and OpenBLAS waits for ever.
NEEDED_BYTES = 1 << 28

_loaded: dict[str, tuple[int, Any]] = {}


def compile_now(name: str) -> tuple[int, Any]:
    """The address of a kernel that is compiled now or was kept on disk, and what must be kept alive for it."""
    with global_compiler_lock:  # llvmlite has a lock of its own, which a fork does not wait for
        if name not in _loaded:
            need_memory(NEEDED_BYTES, "a kernel is loaded or compiled")
            processor = this_processor()
            if numba.config.BOUNDSCHECK:  # the code calls Numba's functions, which exist in this process only
                code = make_object(name, processor)
            else:
                code = kept(object_name(name, processor), lambda: make_object(name, processor))
            _loaded[name] = _load(name, code, processor)
        return _loaded[name]


def _load(name: str, code: bytes, processor: Processor) -> tuple[int, Any]:
    target = target_machine(processor, reloc="pic", codemodel="jitdefault", jit=True)
    empty = llvm.parse_assembly(f'target triple = "{processor.triple}"')
    engine = llvm.create_mcjit_compiler(empty, target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine.get_function_address(name), engine
