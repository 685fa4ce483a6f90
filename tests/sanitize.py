"""The compiled columns under gcc's sanitizers of addresses and of undefined behaviour: python sanitize.py [SEED].

A copy of the package is built with them in a temporary folder, where the tests of the cython backend and its part of
the fuzzer run. The first report ends its process, and fails the run. Before them, two calls that must be reported are.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = "-fsanitize=address,undefined -fno-omit-frame-pointer -g1"
BEYOND_AN_ARRAY = "c.take_maximum(np.zeros((1, 4096), 'f4'), np.zeros(8, 'f4'))"
OVERFLOW = "c.gather(np.zeros((1,) * 5, 'u1'), np.full(18, -(2**63)), 0, np.zeros((1,) * 6, 'u1'))"
BOUNDS = "compiled or (changes and cython)"
CONFORMANCE = "cython and float32 and channels_last and not tall"


def library(name):
    """The path of a library of gcc's."""
    return subprocess.run(
        ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()


def build(folder):
    """A copy of the working tree with the instrumented module in it."""
    tree, built = folder / "tree", folder / "built"
    ignored = shutil.ignore_patterns("_columns.c", "*.so", "__pycache__")
    for name in ("fastpool", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    # Installed by pip for the sake of what the build requires; into a folder, to leave the environment alone.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", built, tree]
    subprocess.run(command, check=True, env=os.environ | {"CC": "gcc", "CFLAGS": FLAGS, "LDFLAGS": FLAGS})
    # Without a compiler the package installs nevertheless.
    (module,) = (built / "fastpool" / "backends").glob("_columns.*.so")
    shutil.copy(module, tree / "fastpool" / "backends")
    return tree


def main(seed="0"):
    with tempfile.TemporaryDirectory() as temporary:
        tree = build(Path(temporary))
        # Not leaks: the interpreter frees little at its end. C++ libraries need libstdc++ next to libasan.
        options = "detect_leaks=0:halt_on_error=1:print_stacktrace=1"
        environment = os.environ | {
            "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so.6')}",
            "ASAN_OPTIONS": options,
            "UBSAN_OPTIONS": options,
            "PYTHONPATH": str(tree),
        }

        def run(*arguments, **options):
            return subprocess.run([sys.executable, *arguments], cwd=tree, env=environment, **options)

        for call, expected in ((BEYOND_AN_ARRAY, "heap-buffer-overflow"), (OVERFLOW, "runtime error")):
            code = f"import numpy as np; import fastpool.backends._columns as c; {call}"
            done = run("-c", code, stderr=subprocess.PIPE, text=True)
            if done.returncode == 0 or expected not in done.stderr:
                sys.exit(f"the sanitizers did not report {call}")
        print("what must be reported is reported", flush=True)

        # Nothing is captured: a report would be lost with the process that it ends.
        pytest = "-m", "pytest", "-q", "-s", "-n", "0", "-p", "no:cacheprovider"
        for arguments in (
            (*pytest, "tests/test_rules.py", "-k", "cython"),
            (*pytest, "tests/test_bounds.py", "-k", BOUNDS),
            (*pytest, "tests/test_conformance.py", "-k", CONFORMANCE),
            ("tests/fuzz.py", "--backend", "cython", "--seed", seed, "--cases", "300"),
        ):
            if code := run(*arguments).returncode:
                sys.exit(f"{' '.join(arguments)}: exit code {code}")


if __name__ == "__main__":
    main(*sys.argv[1:])
