"""How Numba compiles a kernel: to object code with a C interface, free of Python.

The package's build links the objects of all usual kernels to one library. Any other kernel is compiled when it is first
called, and its object code is kept on disk, one file for each, named by all that it depends on.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import sys
import warnings
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fastpool.backends.numba import disk_cache

LEAST_NUMBA = (0, 62)  # LLVM ends the process on vectors of maxima in older ones
_numba_version = version("numba")
if tuple(map(int, re.findall(r"\d+", _numba_version)[:2])) < LEAST_NUMBA:
    raise ImportError(f"needs numba {'.'.join(map(str, LEAST_NUMBA))} or later, found {_numba_version}")

import llvmlite.binding as llvm  # noqa: E402
import numba  # noqa: E402
from llvmlite import ir  # noqa: E402
from numba import types  # noqa: E402
from numba.core import cgutils  # noqa: E402
from numba.core.compiler_lock import global_compiler_lock  # noqa: E402
from numba.extending import intrinsic  # noqa: E402
from numba.np.arrayobj import populate_array  # noqa: E402

from fastpool.threads import hold_across_forks  # noqa: E402

DIGEST = hashlib.sha256

# Functions that a kernel calls become a part of it.
INLINED = {"nogil": True, "error_model": "numpy", "forceinline": True}

# The settings of Numba that change the code it makes.
SETTINGS = (
    "OPT",
    "BOUNDSCHECK",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "DEBUGINFO_DEFAULT",
    "LLVM_REFPRUNE_PASS",
    "LLVM_REFPRUNE_FLAGS",
    "USING_SVML",
)

# What kernels are made of.
SOURCES = (
    "../../_rules.py",
    "columns.py",
    "compilation.py",
    "elementwise.py",
    "lanes.py",
    "pool.py",
    "scalars.py",
    "scratch.py",
)

# A child forked while another thread compiles would wait for that thread, which it does not have, for ever.
hold_across_forks(global_compiler_lock)

_kernels: dict[str, Any] = {}


def inlined(function):
    """Compile a function for kernels to call."""
    return numba.njit(**INLINED)(function)


def kernel(function):
    """Let a kernel be compiled by its name. It takes arrays, constants, its scratch, and its first and last item."""
    _kernels[function.__name__] = inlined(function)
    return function


class Processor(NamedTuple):
    """What machine code is made for, as LLVM names it."""

    triple: str
    cpu: str
    features: str


def this_processor() -> Processor:
    features = numba.config.CPU_FEATURES
    if features is None:
        features = llvm.get_host_cpu_features().flatten() if numba.config.CPU_NAME is None else ""
    return Processor(llvm.get_process_triple(), numba.config.CPU_NAME or llvm.get_host_cpu_name(), features)


def _dtype(code):
    return getattr(types, {"i": "int", "u": "uint", "f": "float"}[code[0]] + str(8 * int(code[1:])))


def _type(code):
    """The type of a constant. See `fastpool.backends.numba.library.encoded`."""
    if code == "n":
        return types.none
    if code[0] == "e":
        return types.Array(_dtype(code[1:]), 1, "C")
    if code[0] == "t":
        return types.UniTuple(types.int64, int(code[1:]))
    return {"i": types.int64, "d": types.float64, "b": types.boolean}.get(code) or _dtype(code)


class _Words:
    """Reads one argument of a kernel after the other from the words that it gets."""

    def __init__(self, context, builder, words):
        self.context, self.builder, self.words, self.at = context, builder, words, 0

    def _next(self, kind=None):
        """The next word, as an integer or as what LLVM is told."""
        pointer = self.builder.gep(self.words, [ir.Constant(ir.IntType(64), self.at)])
        self.at += 1
        return self.builder.load(pointer if kind is None else self.builder.bitcast(pointer, kind.as_pointer()))

    def array(self, kind):
        pointer = self.builder.inttoptr(self._next(), self.context.get_data_type(kind.dtype).as_pointer())
        return self._array(kind, pointer, self._next(), self._next())

    def _array(self, kind, pointer, size, itemsize):
        array = self.context.make_array(kind)(self.context, self.builder)
        shape, strides = (cgutils.pack_array(self.builder, [value]) for value in (size, itemsize))
        populate_array(array, data=pointer, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
        return array._getvalue()

    def constant(self, kind):
        if isinstance(kind, types.NoneType):
            return self.context.get_dummy_value()
        if isinstance(kind, types.Array):  # for its dtype alone
            data = self.context.get_data_type(kind.dtype)
            itemsize = self.context.get_constant(types.intp, self.context.get_abi_sizeof(data))
            return self._array(kind, ir.Constant(data.as_pointer(), None), itemsize.type(0), itemsize)
        if isinstance(kind, types.BaseTuple):
            return self.context.make_tuple(self.builder, kind, [self._next() for _ in kind.types])
        if isinstance(kind, types.Boolean):
            word = self._next()
            return self.builder.icmp_signed("!=", word, word.type(0))
        return self._next(self.context.get_data_type(kind))


def _reader(arrays, constants):
    """A function, for kernels' entries, of words and scratch that gives all arguments but the work items."""
    scratch_kind = types.Array(types.uint8, 1, "C")
    kinds = types.Tuple([*arrays, *constants, scratch_kind])

    @intrinsic
    def arguments(typing_context, words, scratch):
        def generate(context, builder, signature, args):
            reader = _Words(context, builder, args[0])
            values = [reader.array(kind) if isinstance(kind, types.Array) else reader.constant(kind) for kind in arrays]
            values += [reader.constant(kind) for kind in constants]
            one = ir.Constant(ir.IntType(64), 1)
            values.append(reader._array(scratch_kind, args[1], one.type(0), one))
            return context.make_tuple(builder, kinds, values)

        return kinds(words, scratch), generate

    return arguments


_ENTRY = types.void(types.CPointer(types.int64), types.CPointer(types.uint8), types.int64, types.int64)


def _compiled(name: str) -> Any:
    """Numba's C function of a kernel."""
    # The modules of kernels enter them where they are imported.
    from fastpool.backends.numba import columns, elementwise, pool  # noqa: F401

    function, arrays, constants = name.split("__")
    run = _kernels[function]
    arguments = _reader(
        [types.none if code == "none" else types.Array(_dtype(code), 1, "C") for code in arrays.split("_")],
        [_type(code) for code in constants.split("_")],
    )

    @numba.cfunc(_ENTRY, error_model="numpy")
    def entry(words, scratch, start, stop):
        run(*arguments(words, scratch), start, stop)

    return entry


def object_code(name: str, processor: Processor) -> bytes:
    """The object code of a kernel, with one symbol of its name."""
    entry = _compiled(name)
    module = llvm.parse_assembly(entry.inspect_llvm())
    module.name = name
    for function in module.functions:
        if not function.is_declaration:
            function.linkage = "internal"
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    symbol = module.get_function(entry.native_name)
    symbol.name, symbol.linkage = name, "external"
    machine = _machine(processor, reloc="pic", codemodel="default")
    if processor.triple != module.triple:  # kernels ask for nothing of one processor: LLVM makes code for another
        module.triple, module.data_layout = processor.triple, str(machine.target_data)
    return machine.emit_object(module)


def _machine(processor: Processor, **options: Any) -> Any:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(processor.triple)
    return target.create_target_machine(cpu=processor.cpu, features=processor.features, opt=3, **options)


# What loading or compiling a kernel takes at most, with what Numba imports for the first one.
NEEDED = 1 << 28


def _need_memory() -> None:
    """LLVM ends the process where it finds no memory, and OpenBLAS waits for some for ever: so this raises first."""
    try:
        mmap.mmap(-1, NEEDED).close()
    except OSError:
        raise MemoryError(f"a kernel is loaded or compiled only where {NEEDED >> 20} MB of memory are free") from None


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
def sources() -> str:
    """A digest of all that kernels are made of, so that a changed source is a new kernel."""
    here = Path(__file__).parent
    digest = DIGEST("/".join((_numba_version, version("llvmlite"), sys.version)).encode())
    for name in SOURCES:
        digest.update(Path(here, name).read_bytes())
    return digest.hexdigest()


def object_name(name: str, processor: Processor) -> str:
    """What a kernel's object code is kept as."""
    settings = [(setting, getattr(numba.config, setting, None)) for setting in SETTINGS]
    key = "/".join((name, repr(processor), repr(settings), sources()))
    return f"{DIGEST(key.encode()).hexdigest()[:40]}.kernel"


def _seal(name: str, payload: bytes) -> bytes:
    """What shows that a file is whole and bears its own name."""
    return DIGEST(name.encode() + payload).digest()


def _kept_code(kept_as: str) -> bytes | None:
    try:
        stored = disk_cache.read(cache_directory(), kept_as) if cache_directory() else None
    except Exception:
        return None
    return stored[32:] if stored is not None and _seal(kept_as, stored[32:]) == stored[:32] else None


def _keep(kept_as: str, code: bytes) -> None:
    try:
        why = disk_cache.why_not_written(cache_directory())
        why = why or disk_cache.write(cache_directory(), kept_as, _seal(kept_as, code) + code)
    except Exception:
        return
    if why:
        _warn_not_kept(why)


_loaded: dict[str, tuple[int, Any]] = {}


def compile_now(name: str) -> tuple[int, Any]:
    """The address of a kernel that is compiled now, or has been kept on disk; and what must be kept meanwhile."""
    with global_compiler_lock:  # llvmlite has a lock of its own, which a fork does not wait for
        if name not in _loaded:
            _need_memory()
            processor = this_processor()
            kept_as = object_name(name, processor)
            # Checks of bounds raise by functions of Numba's that only a process has which compiles.
            keeps = not numba.config.BOUNDSCHECK
            code = _kept_code(kept_as) if keeps else None
            if code is None:
                code = object_code(name, processor)
                if keeps:
                    _keep(kept_as, code)
            _loaded[name] = _load(name, code, processor)
        return _loaded[name]


def _load(name: str, code: bytes, processor: Processor) -> tuple[int, Any]:
    target = _machine(processor, reloc="pic", codemodel="jitdefault", jit=True)
    empty = llvm.parse_assembly(f'target triple = "{processor.triple}"')
    engine = llvm.create_mcjit_compiler(empty, target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine.get_function_address(name), engine
