"""The compiled modules under gcc's sanitizers: python sanitize.py [SEED].

A copy of the package is built in a temporary folder with the address and undefined-behaviour sanitizers; the tests of
the cython backend, its part of the fuzzer and the tests of threads run there. Another copy is built with the thread
sanitizer; threads call its cython backend, and team_races.c runs the threads of team.h. A report ends its process and
fails the run. Before each run, deliberate errors check that the sanitizer reports them.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = "-fsanitize={} -fno-omit-frame-pointer -g1"
# The sanitizer of data races keeps its shadow of memory where random addresses may lead.
AT_FIXED_ADDRESSES = "setarch", "--addr-no-randomize"
ONE_RACE = {"TSAN_OPTIONS": "halt_on_error=1"}
BEYOND_AN_ARRAY = "c.take_best(np.zeros((1, 4096), 'f4'), np.zeros(8, 'f4'), False)"
OVERFLOW = "c.gather(np.zeros((1,) * 5, 'u1'), np.full(18, -(2**63)), 0, np.zeros((1,) * 6, 'u1'))"
BOUNDS = "compiled or (changes and cython)"
CONFORMANCE = "cython and float32 and channels_last and not tall"


def library(name):
    """The path of a library of gcc's."""
    return subprocess.run(
        ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()


def copy_tree(tree, ignored):
    """Copy the sources and tests of the package, without generated C and without files that match a pattern."""
    ignore = shutil.ignore_patterns("_columns.c", "_passes.c", "_launch.c", "__pycache__", ignored)
    for name in ("fastpool", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    return tree


def build(folder, sanitizers):
    """A copy of the working tree with the instrumented modules in it."""
    built, flags = folder / "built", FLAGS.format(sanitizers)
    tree = copy_tree(folder / "tree", ignored="*.so")
    # Installed by pip for the sake of what the build requires; into a folder, to leave the environment alone.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", built, tree]
    subprocess.run(command, check=True, env=os.environ | {"CC": "gcc", "CFLAGS": flags, "LDFLAGS": flags})
    # Without a compiler the package installs nevertheless.
    for module in ("_columns", "_passes", "numba/_launch"):
        (library,) = built.glob(f"fastpool/backends/{module}.*.so")
        shutil.copy(library, tree / library.relative_to(built))
    return tree


def runner(tree, runtime, *command, **environment):
    """A function that runs Python in the copy, with the library that a sanitizer needs."""
    # C++ libraries need libstdc++ next to it.
    preloaded = {"LD_PRELOAD": f"{library(runtime)} {library('libstdc++.so.6')}", "PYTHONPATH": str(tree)}

    def run(*arguments, **options):
        return subprocess.run(
            [*command, sys.executable, *arguments], cwd=tree, env=os.environ | preloaded | environment, **options
        )

    return run


def must_report(run, expected, *arguments):
    done = run(*arguments, stderr=subprocess.PIPE, text=True)
    if done.returncode == 0 or expected not in done.stderr:
        sys.exit(f"the sanitizers did not report {arguments}:\n{done.stderr}")


def must_pass(run, *arguments):
    if code := run(*arguments).returncode:
        sys.exit(f"{arguments}: exit code {code}")


def addresses(folder, seed):
    # Not leaks: the interpreter frees little at its end.
    options = "detect_leaks=0:halt_on_error=1:print_stacktrace=1"
    run = runner(build(folder, "address,undefined"), "libasan.so", ASAN_OPTIONS=options, UBSAN_OPTIONS=options)
    for call, expected in ((BEYOND_AN_ARRAY, "heap-buffer-overflow"), (OVERFLOW, "runtime error")):
        must_report(run, expected, "-c", f"import numpy as np; import fastpool.backends._columns as c; {call}")
    print("what must be reported is reported", flush=True)
    # Nothing is captured: a report would be lost with the process that it ends.
    pytest = "-m", "pytest", "-q", "-s", "-n", "0", "-p", "no:cacheprovider"
    must_pass(run, *pytest, "tests/test_rules.py", "-k", "cython")
    must_pass(run, *pytest, "tests/test_bounds.py", "-k", BOUNDS)
    must_pass(run, *pytest, "tests/test_conformance.py", "-k", CONFORMANCE)
    must_pass(run, *pytest, "tests/test_filters.py")
    must_pass(run, *pytest, "tests/test_threads.py")
    must_pass(run, "tests/fuzz.py", "--backend", "cython", "--seed", seed, "--cases", "300")


def races(folder):
    run = runner(build(folder, "thread"), "libtsan.so", *AT_FIXED_ADDRESSES, **ONE_RACE)
    must_report(run, "data race", "tests/races.py", "shared")
    must_pass(run, "tests/races.py")
    print("no data race", flush=True)


def team(folder):
    """Calls that are shared between threads, each of which is a function of C, with and without a race."""
    program, source = folder / "team_races", ROOT / "tests" / "team_races.c"
    headers = sysconfig.get_path("include"), ROOT / "fastpool" / "backends" / "numba"
    build = ["gcc", "-std=gnu11", "-O1", *FLAGS.format("thread").split(), *(f"-I{header}" for header in headers)]
    run = partial(subprocess.run, env=os.environ | ONE_RACE)
    for check, flags in ((partial(must_report, run, "data race"), ["-DRACE"]), (partial(must_pass, run), [])):
        subprocess.run([*build, *flags, source, "-o", program, "-lpthread"], check=True)
        check([*AT_FIXED_ADDRESSES, str(program)])


def main(seed="0"):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        team(Path(one))
        addresses(Path(one), seed)
        races(Path(other))


if __name__ == "__main__":
    main(*sys.argv[1:])
