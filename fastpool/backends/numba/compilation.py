"""How kernels are compiled, and where the compiled ones are kept.

Numba's own disk cache cannot be used by a library: it stops with an error on a damaged file, does not see a
change in a function that a kernel calls, and its index lets processes that start cold at once mix up each
other's kernels. Here every compiled kernel is one file, named by all that it depends on, written in one step,
and checked when it is read; whatever cannot be read or written is compiled anew.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import tempfile
from functools import cache
from pathlib import Path

import llvmlite
import numba
from numba import types
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

DIGEST = hashlib.sha256


@cache
def cache_directory() -> str:
    """Where compiled kernels are kept: NUMBA_CACHE_DIR if set, else the user's cache; '' if neither can be written."""
    chosen = numba.config.CACHE_DIR or AppDirs(appname="fastpool", appauthor=False).user_cache_dir
    folder = Path(chosen, "fastpool-kernels")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError:
        return ""


@cache
def _sources() -> str:
    """A digest of all that kernels are made of, so that a changed source is a new kernel."""
    here = Path(__file__).parent
    digest = DIGEST("/".join((numba.__version__, llvmlite.__version__, sys.version)).encode())
    for path in [*sorted(here.glob("*.py")), here.parent.parent / "_rules.py"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


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

    def _file(self, signature, codegen) -> Path:
        key = "/".join((self._name, str(signature), repr(codegen.magic_tuple()), _sources()))
        return Path(cache_directory(), f"{DIGEST(key.encode()).hexdigest()[:40]}.kernel")

    def load_overload(self, sig, target_context):
        if not cache_directory():
            return None
        target_context.refresh()
        try:
            file = self._file(sig, target_context.codegen())
            stored = file.read_bytes()
            check, payload = stored[:32], stored[32:]
            if _seal(file.name, payload) != check:
                return None
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception:
            return None

    def save_overload(self, sig, data):
        if not cache_directory() or data.lifted or data.library.has_dynamic_globals:
            return
        temporary = None
        try:
            payload = dumps(data._reduce())
            target = self._file(sig, data.codegen)
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
                temporary = file.name
                file.write(_seal(target.name, payload) + payload)
            os.replace(temporary, target)
        except Exception:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

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
