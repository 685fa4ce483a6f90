"""How many instructions a call executes: python -m benchmarks.instructions.

A count is the same on a busy machine as on an idle one, so it shows a change of a few per cent where times do not. It
does not show what memory, caches and threads do: a change that is to be claimed needs times, too.

The processor counts (`perf stat`), or where it cannot, as on most virtual machines, valgrind. The count of a call is
that of a process that makes 2 N calls, less that of one that makes N, divided by N: the import is not in it.
One thread runs. valgrind knows no AVX-512: under it, kernels for x86-64-v3 are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from fastpool.cases import CASES

CALLS = {"small": 2000, "medium": 50}  # N, by size
ANY_LEVEL, VALGRIND_LEVEL = {}, {"FASTPOOL_KERNELS": "x86-64-v3", "NUMBA_CPU_NAME": "x86-64-v3"}

# What would differ between two processes: threads that poll, those of OpenBLAS too, and the order of sets of strings.
REPEATABLE = {
    **dict.fromkeys(("FASTPOOL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
    "PYTHONHASHSEED": "0",
}

# Makes the calls of a case, or without a count prints the least seconds of one.
_CALL = """
import gc, sys
import numpy as np
from fastpool.cases import CASES
from fastpool.timing import least_times

name, size, backend, count = sys.argv[1:]
case = CASES[name]
arguments = case.arguments(np.random.default_rng(0), np.float32, size)
case.run(arguments, backend)
gc.disable()
if not int(count):
    print(least_times({"call": lambda: case.run(arguments, backend)}, 0.1)["call"])
for _ in range(int(count)):
    case.run(arguments, backend)
"""


class Counter(NamedTuple):
    """A program that counts the instructions of a command."""

    name: str
    command: Callable[[Path], list[str]]  # what stands before the command, for the file into which the count is written
    pattern: re.Pattern[str]  # of the count in that file
    environment: Mapping[str, str]

    def count(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
        """The instructions that a command executes in user space.

        Raises
        ------
        RuntimeError
            If the command fails, or nothing is counted.
        """
        with TemporaryDirectory() as folder:
            file = Path(folder, "count")
            done = subprocess.run([*self.command(file), *command], env=env, capture_output=True, text=True)
            text = file.read_text(encoding="utf-8") if file.exists() else ""
        found = self.pattern.search(text)
        if done.returncode or not found:
            raise RuntimeError(f"{self.name} counted nothing: {(done.stderr + text).strip()[-500:]}")
        return int(found[1].replace(",", ""))


PERF = Counter(
    "perf",
    lambda file: ["perf", "stat", "--field-separator=;", "--event=instructions:u", f"--output={file}", "--"],
    re.compile(r"^(\d+);", re.MULTILINE),
    ANY_LEVEL,
)
VALGRIND = Counter(
    "valgrind",
    lambda file: [
        *("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", f"--log-file={file}"),
    ],
    re.compile(r"I\s+refs:\s+([\d,]+)"),
    VALGRIND_LEVEL if platform.machine() in ("x86_64", "AMD64") else ANY_LEVEL,
)


def counter() -> Counter:
    """The first program that counts here.

    Raises
    ------
    RuntimeError
        If none does, with what each of them said.
    """
    reasons = []
    for each in (PERF, VALGRIND):
        if shutil.which(each.name) is None:
            reasons.append(f"{each.name} is not installed")
            continue
        try:
            each.count([sys.executable, "-S", "-c", ""])
        except RuntimeError as error:
            reasons.append(str(error))
        else:
            return each
    raise RuntimeError(f"no program counts instructions here: {'; '.join(reasons)}")


def per_call(by: Counter, name: str, size: str, backend: str) -> tuple[float, float]:
    """The instructions of one call of a case, and its least seconds, on one thread."""
    env = {**os.environ, **REPEATABLE, **by.environment}

    def command(count: int) -> list[str]:
        return [sys.executable, "-c", _CALL, name, size, backend, str(count)]

    # Untraced first: kernels that are not built are compiled here and kept, and only loaded when it counts.
    timed = subprocess.run(command(0), env=env, check=True, stdout=subprocess.PIPE, text=True)
    calls = CALLS[size]
    once, twice = (by.count(command(n * calls), env) for n in (1, 2))
    return (twice - once) / calls, float(timed.stdout)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the counts of the chosen cases."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add(
        "rows",
        nargs="?",
        metavar="REGEX",
        help="cases of fastpool/cases.py with this in their name (default: quick ones)",
    )
    add("--size", choices=sorted(CALLS), default="medium", help="size of the arrays (default medium)")
    add("--backend", default="numba", help="backend (default numba)")
    add("--json", type=Path, metavar="FILE", help="write the counts to a file, too")
    args = parser.parse_args(argv)
    chosen = [name for name, case in CASES.items() if (re.search(args.rows, name) if args.rows else case.quick)]
    if not chosen:
        parser.error(f"no case has {args.rows!r} in its name; there are {', '.join(CASES)}")
    try:
        by = counter()
        print(f"counted by {by.name}, {args.size} arrays, backend {args.backend}, one thread")
        counts = {}
        for name in chosen:
            counts[name], seconds = per_call(by, name, args.size, args.backend)
            print(f"{name:40} {counts[name]:>14,.0f} instructions {seconds * 1e6:>10.1f} us", flush=True)
    except RuntimeError as error:
        sys.exit(str(error))
    if args.json:
        kept = {"counter": by.name, "size": args.size, "backend": args.backend, "instructions": counts}
        args.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
