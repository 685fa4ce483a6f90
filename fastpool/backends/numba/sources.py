"""Which source files kernels are made of, and which decide how they are called: old kernels are known by them."""

from __future__ import annotations

import os
import re
import zlib
from functools import cache

from fastpool.backends.numba.encoding import split_name

FOLDER = os.path.dirname(os.path.abspath(__file__))
PACKAGE = "fastpool.backends.numba"

# What kernels are made of: modules, and packages whose modules all are.
KERNELS = (
    "../../_rules.py",
    "decorators.py",
    "encoding.py",
    "geometry.py",
    "object_code.py",
    "kernels",
    "simd",
    "tiling",
)
# Those of them that every kernel is compiled by.
COMPILING = tuple(f"{PACKAGE}.{name}" for name in ("decorators", "encoding", "object_code"))
# What decides how kernels are called. Kernels of other versions may write past the scratch that these allow for.
CALLS = ("encoding.py", "kernel_dtypes.py", "geometry.py", "tuning.py", "plan", "tiling")

IMPORT = re.compile(r"^from (fastpool[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)


def _paths(name: str) -> list[str]:
    path = os.path.join(FOLDER, name)
    if name.endswith(".py"):
        return [path]
    return sorted(os.path.join(path, file) for file in os.listdir(path) if file.endswith(".py"))


def _read(path: str) -> bytes:
    with open(path, "rb") as source:
        return source.read().replace(b"\r\n", b"\n")


def _module(path: str) -> str:
    """The name of the module in a file of the package."""
    below = os.path.relpath(path, os.path.join(FOLDER, "..", "..")).removesuffix(".py")
    return ".".join(("fastpool", *below.split(os.sep))).removesuffix(".__init__")


@cache
def of_kernels() -> dict[str, bytes]:
    """What all kernels are made of: the source by the name of the module. Empty where no sources are installed."""
    try:
        return {_module(path): _read(path) for name in KERNELS for path in _paths(name)}
    except OSError:
        return {}


def of_kernel(name: str) -> set[str]:
    """The modules that one kernel is made of: with a change of one of them it is a new kernel."""
    if not of_kernels():
        return set()
    kernel, _, constants = split_name(name)
    tuples = [code for code in constants if code[0].isupper()]
    roots = [_defined_in(f"@kernel\ndef {kernel}("), *(_defined_in(f"class {code}(") for code in tuples), *COMPILING]
    return set().union(*map(_imported, roots))


@cache
def _defined_in(definition: str) -> str:
    """The module with a line that begins with this text."""
    (module,) = (name for name, source in of_kernels().items() if f"\n{definition}".encode() in source)
    return module


@cache
def _imported(module: str) -> frozenset[str]:
    """A module, those of `of_kernels` that it imports, and those that these import."""
    found, pending = {module}, [module]
    while pending:
        for parent, names in IMPORT.findall(of_kernels()[pending.pop()].decode()):
            named = {parent, *(f"{parent}.{name}" for name in re.findall(r"\w+", names))}
            new = (named & of_kernels().keys()) - found
            found |= new
            pending += new
    return frozenset(found)


def calling_checksum() -> int:
    """A checksum of CALLS, which a library of kernels must share; 0 where no sources are installed."""
    checksum = 0
    try:
        for path in (path for name in CALLS for path in _paths(name)):
            checksum = zlib.crc32(_read(path), checksum)
    except OSError:
        return 0
    return checksum
