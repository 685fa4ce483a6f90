"""How Numba makes object code of a kernel: with a C interface, and free of Python.

The build of the package links the objects of many kernels to one library. Any other is compiled when it is first called
(`just_in_time.py`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pkgutil import iter_modules
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

import fastpool
from fastpool.backends.kept_code import DIGEST, file_name
from fastpool.backends.numba import geometry, sources, tiling
from fastpool.backends.numba.decorators import KERNELS, NUMBA_VERSION
from fastpool.backends.numba.encoding import split_name
from fastpool.threads import hold_across_forks

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

# A child forked while another thread compiles would wait for that thread, which it does not have, for ever.
hold_across_forks(global_compiler_lock)


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


@cache
def _named_tuples():
    """Those that a kernel may be given, by name."""
    modules = [geometry, *(import_module(f"{tiling.__name__}.{each.name}") for each in iter_modules(tiling.__path__))]
    classes = (each for module in modules for each in vars(module).values() if isinstance(each, type))
    return {each.__name__: each for each in classes if issubclass(each, tuple)}


def _type(code):
    """The type of a constant by its code."""
    if code == "n":
        return types.none
    if code[0] == "e":
        return types.Array(_dtype(code[1:]), 1, "C")
    if code in _named_tuples():
        named_tuple = _named_tuples()[code]
        return types.NamedUniTuple(types.int64, len(named_tuple._fields), named_tuple)
    return types.int64 if code == "i" else _dtype(code)


class _Words:
    """Read one argument of a kernel after the other from the words that it is called with."""

    def __init__(self, context, builder, words):
        self.context, self.builder, self.words, self.at = context, builder, words, 0

    def _next(self, llvm_type=None):
        """The next word, as an integer or as a value of another type."""
        pointer = self.builder.gep(self.words, [ir.Constant(ir.IntType(64), self.at)])
        self.at += 1
        if llvm_type is not None:
            pointer = self.builder.bitcast(pointer, llvm_type.as_pointer())
        return self.builder.load(pointer)

    def array(self, array_type):  # WORDS_OF_ARRAY of them
        pointer = self.builder.inttoptr(self._next(), self.context.get_data_type(array_type.dtype).as_pointer())
        return self._array(array_type, pointer, self._next(), self._next())

    def _array(self, array_type, pointer, size, itemsize):
        array = self.context.make_array(array_type)(self.context, self.builder)
        shape, strides = (cgutils.pack_array(self.builder, [value]) for value in (size, itemsize))
        populate_array(array, data=pointer, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
        return array._getvalue()

    def constant(self, constant_type):
        if isinstance(constant_type, types.NoneType):
            return self.context.get_dummy_value()
        if isinstance(constant_type, types.Array):  # for its dtype alone
            data = self.context.get_data_type(constant_type.dtype)
            itemsize = self.context.get_constant(types.intp, self.context.get_abi_sizeof(data))
            return self._array(constant_type, ir.Constant(data.as_pointer(), None), itemsize.type(0), itemsize)
        if isinstance(constant_type, types.BaseTuple):
            return self.context.make_tuple(self.builder, constant_type, [self._next() for _ in constant_type.types])
        return self._next(self.context.get_data_type(constant_type))


_ENTRY = types.void(types.CPointer(types.int64), types.CPointer(types.uint8), types.int64, types.int64)
_SCRATCH = types.Array(types.uint8, 1, "C")


def _compiled(name: str) -> tuple[str, str, str]:
    """LLVM's code of a kernel, and of a C function that reads its arguments from words and calls it; the latter's name.

    They are two modules, since Numba makes machine code of each module, which nothing uses: of one that held both, it
    would compile the kernel twice.
    """
    # Imported here, since kernels whose object code was kept need none of these modules.
    from fastpool.backends.numba import kernels  # noqa: F401

    kernel, array_codes, constant_codes = split_name(name)
    run = KERNELS[kernel]
    arrays = [types.none if code is None else types.Array(_dtype(code), 1, "C") for code in array_codes]
    constants = [_type(code) for code in constant_codes]
    signature = types.void(*arrays, *constants, _SCRATCH, types.int64, types.int64)
    described = run.get_compile_result(signature).fndesc

    @intrinsic
    def call(typing_context, words, scratch, start, stop):
        def generate(context, builder, of_call, args):
            reader = _Words(context, builder, args[0])
            values = [reader.array(each) if isinstance(each, types.Array) else reader.constant(each) for each in arrays]
            values += [reader.constant(each) for each in constants]
            one = ir.Constant(ir.IntType(64), 1)
            values.append(reader._array(_SCRATCH, args[1], one.type(0), one))
            context.call_internal(builder, described, signature, [*values, *args[2:]])
            return context.get_dummy_value()

        return types.void(words, scratch, start, stop), generate

    @numba.cfunc(_ENTRY)
    def entry(words, scratch, start, stop):
        call(words, scratch, start, stop)

    return run.inspect_llvm(signature.args), entry.inspect_llvm(), entry.native_name


def make_object(name: str, processor: Processor) -> bytes:
    """The object code of a kernel, with one symbol of its name."""
    kernel, entry, native_name = _compiled(name)
    module = llvm.parse_assembly(kernel)
    module.link_in(llvm.parse_assembly(entry))
    module.name = name
    for function in module.functions:
        if not function.is_declaration:
            function.linkage = "internal"
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    symbol = module.get_function(native_name)
    symbol.name, symbol.linkage = name, "external"
    machine = target_machine(processor, reloc="pic", codemodel="default")
    if processor.triple != module.triple:  # kernels ask for nothing of one processor: LLVM makes code for another
        module.triple, module.data_layout = processor.triple, str(machine.target_data)
    _optimise(module, machine)
    called = re.search(r"@(Py|NRT_|numba_)\w+", str(module))
    if called and not numba.config.BOUNDSCHECK:
        raise RuntimeError(f"the kernel {name} counts references or raises: it needs {called[0]}, which no library has")
    return machine.emit_object(module)


def _optimise(module: Any, machine: Any) -> None:
    """Optimise a kernel as a whole: the arrays that it is given have no owner, so that no references are counted."""
    # First the kernel becomes a part of its entry, and its loops get the form that O3 works best on.
    _run_passes(module, machine, 0, "loop_rotate", "instruction_combine", "jump_threading")
    _run_passes(module, machine, 3)


def _run_passes(module: Any, machine: Any, level: int, *more: str) -> None:
    """Run LLVM's passes of an optimisation level, and more of them after these."""
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization, options.slp_vectorization = level > 0, False
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getModulePassManager()
    for name in more:
        getattr(passes, f"add_{name}_pass")()
    passes.run(module, builder)


def target_machine(processor: Processor, **options: Any) -> Any:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(processor.triple)
    return target.create_target_machine(cpu=processor.cpu, features=processor.features, opt=3, **options)


def _digest_of(modules: Collection[str]) -> str:
    # Numba compiles bytecode, and each version of Python has its own.
    digest = DIGEST("/".join((NUMBA_VERSION, version("llvmlite"), sys.version)).encode())
    if not modules:  # no sources are installed
        digest.update(fastpool.__version__.encode())
    for module in sorted(modules):
        digest.update(module.encode() + sources.of_kernels()[module])
    return digest.hexdigest()


@cache
def digest_of_sources() -> str:
    """A digest of all that kernels are made of."""
    return _digest_of(sources.of_kernels())


def object_name(name: str, processor: Processor) -> str:
    """What a kernel's object code is kept as."""
    settings = [(setting, getattr(numba.config, setting, None)) for setting in SETTINGS]
    return file_name(name, repr(processor), repr(settings), _digest_of(sources.of_kernel(name)))
