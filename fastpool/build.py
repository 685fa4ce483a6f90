"""Build the library of kernels: python -m fastpool.build [LEVEL ...]

Numba compiles each kernel to object code, and the C compiler links them. That needs both; running the kernels needs
neither. Objects are kept, so that only kernels whose sources or compiler have changed are compiled again.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from fastpool.backends.numba import kernel_names, library, sources
from fastpool.backends.numba.encoding import split_name
from fastpool.threads import usable_cpus


class Target(NamedTuple):
    """What a level's kernels are compiled for, as LLVM names it."""

    triple: str
    cpu: str
    features: str = ""

    @property
    def machine(self) -> str:
        return self.triple.partition("-")[0]

    @property
    def is_native(self) -> bool:
        """Whether this machine has such a processor, and runs Linux."""
        return (sys.platform, platform.machine().lower()) == ("linux", self.machine)


TARGETS = {
    # LLVM would use half of a register of 512 bits where it vectorises a loop by itself.
    "x86-64-v4": Target("x86_64-unknown-linux-gnu", "x86-64-v4", "-prefer-256-bit"),
    "x86-64-v3": Target("x86_64-unknown-linux-gnu", "x86-64-v3"),
    "aarch64": Target("aarch64-unknown-linux-gnu", "generic"),
}
OBJECTS = Path("build/kernels")
FUNCTIONS_OF_C = "memcpy", "memmove", "memset"  # which LLVM may call


def _compile(names: list[str], level: str, folder: Path) -> list[Path]:
    """Write the object code of kernels to a folder, where it is not there yet; return the paths."""
    from fastpool.backends.numba import object_code  # Numba reads for which processor when it is imported

    target, paths = TARGETS[level], []
    processor = object_code.Processor(target.triple, target.cpu, target.features)
    for name in names:
        path = Path(folder, object_code.object_name(name, processor)).with_suffix(".o")
        if not path.exists():
            code = object_code.make_object(name, processor)
            part = path.with_suffix(f".{os.getpid()}")
            part.write_bytes(code)
            part.replace(path)
        paths.append(path)
    return paths


def _groups(names: Iterable[str], jobs: int) -> list[list[str]]:
    """The kernels of each code of a dtype, which call the same functions: a process compiles these once.

    The largest groups come first. Where there are more processes than groups, groups are divided.
    """
    of_code: dict[str | None, list[str]] = {}
    for name in sorted(names):
        of_code.setdefault(split_name(name)[1][0], []).append(name)
    pieces = -(-jobs // len(of_code))
    groups = [group[i::pieces] for group in of_code.values() for i in range(pieces)]
    return sorted(filter(None, groups), key=len, reverse=True)


def _objects(groups: list[list[str]], level: str, folder: Path, jobs: int) -> Iterator[list[Path]]:
    target = TARGETS[level]
    before = {setting: os.environ.get(setting) for setting in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")}
    # Numba, which makes the code that LLVM compiles, knows only processors of this machine's architecture.
    cpu, features = (target.cpu, target.features) if target.is_native else ("generic", "")
    os.environ.update(NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features)
    try:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            running = [pool.submit(_compile, group, level, folder) for group in groups]
            yield from (each.result() for each in as_completed(running))
    finally:
        for setting, value in before.items():
            if value is None:
                del os.environ[setting]
            else:
                os.environ[setting] = value


def digest_of_sources() -> str:
    """A digest of what the kernels are made of."""
    from fastpool.backends.numba import object_code  # Numba, which only a build needs

    return object_code.digest_of_sources()


def linker(level: str) -> list[str]:
    """The command of the C compiler that links a level's library: a cross gcc, for other machines than this."""
    if not TARGETS[level].is_native:
        return [f"{TARGETS[level].machine}-linux-gnu-gcc"]
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def build(level: str, folder: Path = OBJECTS, jobs: int | None = None) -> Path:
    """Build the library of a level, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs, wanted, objects = jobs or usable_cpus(), kernel_names(), list[str]()
    print(f"{level}: {len(wanted)} kernels, dtype by dtype", end="", file=sys.stderr, flush=True)
    for paths in _objects(_groups(wanted, jobs), level, folder, jobs):
        objects += map(str, paths)
        print(f"\r{level}: {len(objects)} of {len(wanted)} kernels".ljust(60), end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    to = Path(library.library_path(level))
    with tempfile.TemporaryDirectory(dir=to.parent) as beside:
        linked, origin = Path(beside, to.name), Path(beside, "origin.c")
        origin.write_text(
            f'const char *fastpool_sources = "{digest_of_sources()}";\n'
            f"const unsigned fastpool_calling_checksum = {sources.calling_checksum()}u;\n"
        )
        # No C library is linked, so that glibc and musl both load the library: the process has these functions. Any
        # other undefined symbol, of Python's or Numba's, is an error.
        flags = ["-shared", "-fPIC", "-s", "-nostdlib", "-Wl,-z,defs", "-Wl,-z,noexecstack"]
        flags += [f"-Wl,--ignore-unresolved-symbol={name}" for name in FUNCTIONS_OF_C]
        subprocess.run([*linker(level), *flags, "-o", str(linked), str(origin), *sorted(objects)], check=True)
        linked.replace(to)
    return to


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fastpool.build", description=__doc__)
    parser.add_argument("levels", nargs="*", metavar="LEVEL", help=f"of {', '.join(TARGETS)}; that of this machine")
    parser.add_argument("--jobs", type=int, help="processes; as many as CPUs")
    parser.add_argument("--objects", type=Path, default=OBJECTS, help="where object code is kept; %(default)s")
    options = parser.parse_args()
    unknown = set(options.levels) - set(TARGETS)
    if unknown:
        parser.error(f"LEVEL must be one of {', '.join(TARGETS)}, got {', '.join(sorted(unknown))}")
    levels = options.levels or list(filter(None, [library.native_level()]))
    for level in levels:
        if shutil.which(linker(level)[0]) is None:
            parser.error(f"{linker(level)[0]}, which links the library for {level}, is not installed")
    for level in levels:
        path = build(level, options.objects, options.jobs)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
