"""How kernels are compiled, and by which names the compiled ones are kept on disk.

Numba's own disk cache cannot be used by a library: it stops with an error on a damaged file, does not see a
change in a function that a kernel calls, and its index lets processes that start cold at once mix up each
other's kernels. Here every compiled kernel is one file, named by all that it depends on, written in one step,
and checked when it is read; whatever cannot be read or written is compiled anew.
"""

from __future__ import annotations

import hashlib
import mmap
import pickle
import re
import sys
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import llvmlite
import numba

LEAST_NUMBA = (0, 62)  # LLVM ends the process on vectors of maxima in older ones
if tuple(map(int, re.findall(r"\d+", numba.__version__)[:2])) < LEAST_NUMBA:
    raise ImportError(f"needs numba {'.'.join(map(str, LEAST_NUMBA))} or later, found {numba.__version__}")

from numba import types  # noqa: E402
from numba.core.caching import _Cache  # noqa: E402
from numba.core.compiler import CompileResult  # noqa: E402
from numba.core.serialize import dumps  # noqa: E402

from fastpool.backends.numba import disk_cache  # noqa: E402

DIGEST = hashlib.sha256

# The settings of Numba that change the code it makes. The CPU and its features are in `magic_tuple`.
SETTINGS = (
    "OPT",
    "BOUNDSCHECK",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "DEBUGINFO_DEFAULT",
    "ENABLE_PROFILING",
    "EXTEND_VARIABLE_LIFETIMES",
    "LLVM_REFPRUNE_PASS",
    "LLVM_REFPRUNE_FLAGS",
    "USING_SVML",
)


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
    """Tell once that every process compiles for itself. Where warnings are errors, the call goes on all the same."""
    with suppress(RuntimeWarning):
        warnings.warn(
            f"the kernels that fastpool compiles are not kept for later processes: {why}; set NUMBA_CACHE_DIR to a "
            "folder that belongs to you and that others cannot write to",
            RuntimeWarning,
            stacklevel=2,
        )


@cache
def _sources() -> str:
    """A digest of all that kernels are made of, so that a changed source is a new kernel."""
    here = Path(__file__).parent
    digest = DIGEST("/".join((numba.__version__, llvmlite.__version__, sys.version)).encode())
    for path in [*sorted(here.glob("*.py")), here.parent.parent / "_rules.py"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


# What loading or compiling a kernel takes at most, with what Numba imports for the first one.
NEEDED = 1 << 28


def _need_memory() -> None:
    """LLVM ends the process where it finds no memory, and OpenBLAS waits for some for ever: so this raises first."""
    try:
        mmap.mmap(-1, NEEDED).close()
    except OSError:
        raise MemoryError(f"a kernel is loaded or compiled only where {NEEDED >> 20} MB of memory are free") from None


def _seal(name: str, payload: bytes) -> bytes:
    """What shows that a file is whole and bears its own name."""
    return DIGEST(name.encode() + payload).digest()


class KernelCache(_Cache):
    """One kernel's compiled versions on disk. Takes the place of Numba's own cache in a dispatcher."""

    def __init__(self, function):
        self._name = f"{function.__module__}.{function.__qualname__}"

    @property
    def cache_path(self):
        return cache_directory()

    def _file_name(self, signature, codegen) -> str:
        settings = [(name, getattr(numba.config, name, None)) for name in SETTINGS]
        key = "/".join((self._name, str(signature), repr(codegen.magic_tuple()), repr(settings), _sources()))
        return f"{DIGEST(key.encode()).hexdigest()[:40]}.kernel"

    def load_overload(self, sig, target_context):
        _need_memory()
        if not cache_directory():
            return None
        target_context.refresh()
        try:
            name = self._file_name(sig, target_context.codegen())
            stored = disk_cache.read(cache_directory(), name)
            if stored is None:
                return None
            check, payload = stored[:32], stored[32:]
            if _seal(name, payload) != check:
                return None
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception:
            return None

    def save_overload(self, sig, data):
        if data.lifted or data.library.has_dynamic_globals:
            return
        try:
            why = disk_cache.why_not_written(cache_directory())
            if not why:
                payload = dumps(data._reduce())
                name = self._file_name(sig, data.codegen)
                why = disk_cache.write(cache_directory(), name, _seal(name, payload) + payload)
            if why:
                _warn_not_kept(why)
        except Exception:
            return

    def enable(self):
        pass

    def disable(self):
        pass

    def flush(self):
        pass


def kernel(function):
    """Compile a kernel on its first call, without the GIL, and keep it on disk."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = KernelCache(function)
    return dispatcher


# What is called inside a kernel becomes a part of it.
INLINED = {"nogil": True, "error_model": "numpy", "forceinline": True}


def inlined(function):
    """Compile a function for kernels to call, and only for them: no code of its own is made of it."""
    dispatcher = numba.njit(**INLINED)(function)
    _only_inside(dispatcher)
    _once_for_all_constants(dispatcher)
    return dispatcher


def _only_inside(dispatcher):
    """Spare Numba the machine code of a function that becomes a part of others: it is a third of their compilation."""
    compiler = dispatcher._compiler
    compile_whole = compiler._compile_core

    def customize_flags(flags):
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        return flags

    def compile_core(args, return_type):
        result = compile_whole(args, return_type)
        name = object()  # that callers find it by, in place of an address
        result = result._replace(entry_point=name)
        result.target_context.insert_user_function(name, result.fndesc, [result.library])
        return result

    def add_overload(result):
        dispatcher.overloads[tuple(result.signature.args)] = result

    compiler._customize_flags, compiler._compile_core = customize_flags, compile_core
    dispatcher.add_overload = add_overload


def _once_for_all_constants(dispatcher):
    """Spare Numba a function's types for each constant that it is called with."""
    resolve = dispatcher.get_call_template

    def get_call_template(args, kws):
        return resolve(map(_any_of_its_kind, args), {name: _any_of_its_kind(kind) for name, kind in kws.items()})

    dispatcher.get_call_template = get_call_template


def _any_of_its_kind(kind):
    """The type of all integers in place of that of one constant: LLVM sees the constant where the call is inlined."""
    if isinstance(kind, types.BaseTuple):
        return types.Tuple([_any_of_its_kind(one) for one in kind])
    return types.unliteral(kind)
