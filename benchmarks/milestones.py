"""The history of the milestones: python -m benchmarks.milestones.

Measures a few benchmarks of the suite, as it is today, on the commits below, and keeps the figures in
`benchmarks/history`. Each commit is checked out into a temporary folder, its compiled modules are built there, and asv
runs in the interpreter of this process, with that folder first on its path. So all commits meet the same versions of
Python, NumPy and Numba, and none needs an environment of its own. Kernels are compiled when first called, at every
commit, and what a commit cannot do is n/a.

Commits that have figures under the name of this machine are left out, unless they are named.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import dashboard

# In the order of the first parents of main; the reason after each.
MILESTONES = {
    "d32ec32": "the first kernels by Numba",
    "082abd6": "pools by blocks, in which every tap is a shifted row",
    "d3e11f7": "pools along the rows first, large windows by doubling",
    "6f1ff16": "own threads instead of Numba's",
    "ac75fce": "activations that vectorise",
    "0e78f89": "an exponential that vectorises",
    "557d4c5": "vectors of 64 bytes, helpers that poll, plans of small calls that are looked up",
    "89b41ff": "col2im in vectors",
    "03ae12c": "gradients of many taps along channels or planes",
    "b5163dc": "gradients of nonoverlapping windows in vectors",
    "7ee5646": "tiny calls go straight to the kernel",
    "8e05822": "tall windows read each row once",
    "b0a0935": "im2col and col2im in blocks",
    "3ff42f3": "a first call compiles less",
    "9c7b079": "gradients of overlapping windows are gathered in place",
    "bb3d6e0": "kernels take their scratch from the caller",
    "0e864bd": "plans of calls are looked up whole",
    "127f9e8": "kernels can be built with the package",
    "2c53e6d": "one way for every call",
    "96f8ad2": "kernels in named stages, planned once",
    "7a5a8bf": "gradients are scattered row by row",
    "11ac59f": "gradients of large windows in tiles of channels",
    "26117e9": "loops use all of a register of AVX-512",
    "df0c9e6": "larger tiles in long rows",
    "3d95e85": "one cache of plans",
}

# What is measured: regular expressions on asv's names with their parameters.
_OPS = (
    r"max_pool2d(_argmax|_backward)?\.time_call\('numba', '(2x2 s2|3x3 s2 p1) ",
    r"max_pool2d(_argmax|_backward)?\.time_call\('numba', '13x13 ",
    r"maxout(_backward)?\.time_call\('numba', 'strided",
    r"(im2col|col2im)\.time_call\('numba', '3x3 s1 p1 unfold",
    r"(hard_swish|swish)\.time_call\('numba'",
)
BENCHES = (
    *(rf"^suite\.{op}.*'channels_first', 'float32'\)$" for op in _OPS),
    r"^suite\.tiny\.time_call\('numba', '(max_pool2d 2x2 s2|hard_swish)'\)$",
    r"^suite\.importing\.timeraw_fastpool$",
    r"^suite\.first_call\.timeraw_warm\('numba'\)$",
)

# The build takes these; the Cython backend's kernels take a minute to compile, and no benchmark above calls them.
BUILD_NEEDS = ("cython>=3.1", "setuptools>=77")
NOT_BUILT = "fastpool/backends/_columns.pyx"


@contextmanager
def built(commit: str, tools: Path, folder: Path) -> Iterator[Path]:
    """A checkout of a commit in a folder, with its compiled modules, built by tools in a folder of their own.

    Raises
    ------
    subprocess.CalledProcessError
        If it does not build; what was printed is in its `stdout`.
    """
    tree = folder / "tree"
    _run("git", "worktree", "add", "--quiet", "--detach", tree, commit)
    try:
        if (tree / NOT_BUILT).exists():
            (tree / NOT_BUILT).write_text("", encoding="utf-8")
        if (tree / "setup.py").exists():
            if not tools.exists():
                _run(sys.executable, "-m", "pip", "install", "--quiet", "--target", tools, *BUILD_NEEDS)
            _run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=tree, env=environment(tools, folder))
        _run(sys.executable, "-c", "import fastpool", cwd=folder, env=environment(tree, folder))
        yield tree
    finally:
        _run("git", "worktree", "remove", "--force", tree)


def environment(first: Path, caches: Path) -> dict[str, str]:
    """The environment of a process that looks for modules in a folder first, and keeps its kernels to itself."""
    kept = {name: str(caches / "kernels") for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    path = dict.fromkeys(("PYTHONPATH", "ASV_PYTHONPATH"), str(first))  # asv ignores the one unless it has the other
    return {**os.environ, **kept, **path, "FASTPOOL_KERNELS": "jit"}


def _run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=cwd or dashboard.HERE, env=env, check=True, text=True, **both).stdout


def measure(commit: str, tree: Path, folder: Path, machine: str, benches: Sequence[str]) -> Path:
    """Run the benchmarks on a checkout; the folder of asv's results."""
    suite, results = folder / "benchmarks", folder / "results"
    suite.mkdir()
    (suite / "__init__.py").touch()
    # The suite alone: other modules of benchmarks import what old commits do not have.
    (suite / "suite.py").symlink_to(dashboard.HERE / "suite.py")
    chosen = [word for regex in benches for word in ("--bench", regex)]
    dashboard.asv(
        dashboard.HERE,
        *("run", "--python=same", "--show-stderr", "--set-commit-hash", commit, "--machine", machine, *chosen),
        env=environment(tree, folder),
        benchmark_dir=suite,
        results_dir=results,
    )
    return results


def name_environment(results: Path) -> None:
    """Name the environment in results by its versions, instead of the path of the interpreter.

    asv draws a curve for each Python and each combination of requirements. They become those of environments that asv
    makes from asv.conf.json, so that figures from there continue the same curve.
    """
    from asv.config import Config

    matrix = Config.load(dashboard.HERE / "asv.conf.json").matrix["req"]
    requirements = {name: versions[0] for name, versions in matrix.items()}
    python, named = (
        ".".join(platform.python_version_tuple()[:2]),
        [f"{name}{version(name)}" for name in ("numba", "numpy")],
    )
    env = "-".join(("existing", f"py{platform.python_version()}", *named))
    for path in dashboard.result_files(results):
        found = json.loads(path.read_text(encoding="utf-8"))
        found |= {"env_name": env, "python": python, "requirements": requirements}
        found["params"] |= {"python": python, **requirements}
        path.unlink()
        path.with_name(f"{found['commit_hash'][:8]}-{env}.json").write_text(json.dumps(found), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the milestones that have no figures yet, or the named commits; 1 if any cannot be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.milestones", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("commits", nargs="*", metavar="COMMIT", help="measure these instead of the milestones without figures")
    add("--bench", action="append", metavar="REGEX", help="these benchmarks instead of the usual ones; may be repeated")
    add("--again", action="store_true", help="measure also what has figures")
    add("--check", action="store_true", help="only see which commits build")
    add("--machine", metavar="NAME", help="keep the figures under this name instead of the host's")
    args = parser.parse_args(argv)
    history, machine = dashboard.HERE / dashboard.HISTORY, dashboard.register_machine(args.machine)
    failed = []
    with TemporaryDirectory(prefix="fastpool-milestones-") as name:
        tools = Path(name) / "tools"
        for each in args.commits or MILESTONES:
            commit = _run("git", "rev-parse", "--verify", f"{each}^{{commit}}").strip()
            if not (args.commits or args.again or args.check) and dashboard.measured(history, machine, commit):
                continue
            begin, folder = time.monotonic(), Path(name) / commit
            folder.mkdir()
            try:
                with built(commit, tools, folder) as tree:
                    if not args.check:
                        results = measure(commit, tree, folder, machine, args.bench or BENCHES)
                        name_environment(results)
                        dashboard.merge([results], history)
            except subprocess.CalledProcessError as error:
                print(f"{each} does not build or import:\n{error.stdout}", file=sys.stderr)
                failed.append(each)
                continue
            if not args.check and not dashboard.measured(results, machine, commit):
                failed.append(each)
            print(f"{each} {MILESTONES.get(each, '')}: {time.monotonic() - begin:.0f} s", flush=True)
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
