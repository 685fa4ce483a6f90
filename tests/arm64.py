"""The package on 64-bit ARM without such a machine: python arm64.py [ARGUMENT OF PYTEST ...].

Kernels and compiled modules are cross-compiled, and tests run under qemu-user in Debian's Python for arm64: those that
the arguments choose, or else TESTS. This needs Debian with gcc-aarch64-linux-gnu and qemu-user. Python and the packages
that it needs are extracted into build/arm64; nothing is installed.

On x86-64 qemu does not reorder memory accesses, so that this tests no weak memory ordering.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

from sanitize import copy_tree

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "arm64"
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
PROCESSOR = "cortex-a53"  # ARMv8.0 and no extension: the least that the kernels are compiled for

DEBIAN_PACKAGES = ["python3-minimal", "libpython3-dev", "libstdc++6"]
PYTHON_PACKAGES = ["hypothesis", "ml_dtypes", "pytest", "pytest-benchmark", "pytest-xdist"]
PLATFORMS = ["manylinux2014_aarch64", "manylinux_2_28_aarch64"]
MODULES = "fastpool.backends._columns, fastpool.backends._passes, fastpool.backends.numba._launch"

# Every op on every dtype. What takes the specification minutes is on float32 alone (tall and wide arrays), or left to
# test_library.py, which compares with NumPy: typical calls, and every pooling kernel.
KERNELS = (
    "(numba or columns_in or columns_of) and not any_memory and not any_out and not typical"
    " and (channels_first or float32 or float16 or uint8) and (float32 or not (tall or wide))"
)
TESTS = (
    ("tests/test_library.py",),
    ("tests/test_conformance.py", "-n", "2", "-k", KERNELS),
    ("tests/test_conformance.py", "-n", "2", "-k", "cython and agrees and float32 and channels_first and not tall"),
    ("tests/test_rules.py", "-n", "2", "-k", "numba"),
    ("tests/test_bounds.py", "-k", "inside and not cython"),
    # qemu ignores limits of memory, and ends a process that is forked from one with threads and starts its own.
    ("tests/test_threads.py", "-k", "not fewer_threads_start and not forked"),
)

# The script's own path becomes sys.executable, so that tests can start further interpreters, also with another PATH.
PYTHON = """#!/bin/sh
root=${{0%/usr/bin/python}}
exec {emulator} -cpu {processor} -L "$root" -0 "$0" "$root/usr/bin/python3" "$@"
"""

run = partial(subprocess.run, check=True)


def apt_get(folder, *arguments):
    """Run apt-get for arm64 with the system's sources, but a list of installed packages that is empty."""
    for part in ("lists", "archives"):
        (folder / part / "partial").mkdir(parents=True, exist_ok=True)
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State": folder,
        "Dir::State::status": "/dev/null",
        "Dir::Cache": folder,
    }
    run(["apt-get", "--quiet", *(f"--option={name}={value}" for name, value in options.items()), *arguments])


def extract_python(root):
    """Extract Debian's Python for arm64 with all that it depends on."""
    apt_get(root / "apt", "update")
    apt_get(root / "apt", "install", "--yes", "--no-install-recommends", "--download-only", *DEBIAN_PACKAGES)
    for package in (root / "apt" / "archives").glob("*.deb"):
        run(["dpkg-deb", "--extract", package, root])
    shutil.rmtree(root / "apt")
    if not (root / "lib").exists():  # Debian 13 and later have everything in usr
        (root / "lib").symlink_to("usr/lib")


def install_packages(root, python):
    """Have pip put wheels for arm64 where Debian's Python looks for packages."""
    ask = "import sys; print(*sys.version_info[:2], sep='.')"
    version = run([python, "-c", ask], stdout=subprocess.PIPE, text=True).stdout.strip()
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    chosen = ["--only-binary", ":all:", "--python-version", version]
    for platform in PLATFORMS:
        chosen += ["--platform", platform]
    to = root / "usr" / "lib" / "python3" / "dist-packages"
    run([sys.executable, "-m", "pip", "install", "--quiet", "--target", to, *chosen, *needed, *PYTHON_PACKAGES])


def make_python(root):
    """Python for arm64 in a folder, made there if need be; the script that runs it."""
    if not root.exists():
        part = root.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        extract_python(part)
        python = part / "usr" / "bin" / "python"
        python.write_text(PYTHON.format(emulator=shutil.which(EMULATOR), processor=PROCESSOR))
        python.chmod(0o755)
        install_packages(part, python)
        part.rename(root)
    return root / "usr" / "bin" / "python"


def build(tree, python, root):
    """Build the kernels with this interpreter's Numba, and the compiled modules with setup.py on arm64."""
    shutil.rmtree(tree, ignore_errors=True)
    copy_tree(tree, ignored="kernels.*.so")  # fastpool.build imports this interpreter's modules
    objects = ["--objects", ROOT / "build" / "kernels"]
    run([sys.executable, "-m", "fastpool.build", "aarch64", *objects], cwd=tree)
    headers = root / "usr" / "include"
    (versioned,) = headers.glob("python3.*")
    flags = {"CFLAGS": f"-I{versioned} -I{headers}"}  # the compiler is the one that Debian's Python was built with
    run([python, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=tree, env=os.environ | flags)
    run([python, "-c", f"import {MODULES}"], cwd=tree)  # without a compiler the package is built nevertheless


def main(*arguments):
    for program in (COMPILER, EMULATOR, "apt-get"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not here: on Debian, apt-get install gcc-aarch64-linux-gnu qemu-user")
    root, tree = FOLDER / "root", FOLDER / "tree"
    python = make_python(root)
    build(tree, python, root)
    codes = [
        subprocess.run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen], cwd=tree).returncode
        for chosen in ([arguments] if arguments else TESTS)
    ]
    sys.exit(any(codes))


if __name__ == "__main__":
    main(*sys.argv[1:])
