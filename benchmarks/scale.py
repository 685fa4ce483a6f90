"""fastpool on Dask compared with coarsen, dask_image and map_blocks: times, chunk sizes, memory, threads.

    python -m benchmarks.scale --json benchmarks/results/scale.json

All ways get the same float32 image in chunks in memory, Dask's threads (one for each CPU) and an array for the result.
They run in turn, and the minimum time of each is reported. Results are compared first. A copy of as many bytes is timed
with them. Memory is measured in a separate process, in which chunks are created on demand and results are dropped, by
`store(..., return_stored=True)`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from importlib import metadata, util
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

import fastpool as fp
from benchmarks.processes import kilobytes, printed
from fastpool.__main__ import environment
from fastpool.timing import agree, copies, least_times

with suppress(ImportError):  # asv imports every module here to look for benchmarks
    import dask
    import dask.array as da
    import dask_image.ndfilters

SIZE = 16384
CHUNK = 2048
CHUNKS = (256, 512, 1024, 2048, 4096, 8192)
LEAST_SPEEDUP = 5  # over coarsen


def _halved(x: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(n // 2 for n in chunks) for chunks in x.chunks)


def _reshaped(block: np.ndarray) -> np.ndarray:
    height, width = block.shape
    return block.reshape(height // 2, 2, width // 2, 2).max((1, 3))


def _four_slices(block: np.ndarray) -> np.ndarray:
    rows = np.maximum(block[::2], block[1::2])
    return np.maximum(rows[:, ::2], rows[:, 1::2])


def _nine_slices(block: np.ndarray) -> np.ndarray:
    """3x3 with stride 2, of a block extended by one element on each side."""
    rows = np.maximum(np.maximum(block[:-2:2], block[1:-1:2]), block[2::2])
    return np.maximum(np.maximum(rows[:, :-2:2], rows[:, 1:-1:2]), rows[:, 2::2])


PROBLEMS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "2x2 s2": {
        "fastpool": lambda x: fp.max_pool2d(x, (2, 2)),
        "coarsen": lambda x: da.coarsen(np.max, x, {0: 2, 1: 2}),
        "dask_image maximum_filter": lambda x: dask_image.ndfilters.maximum_filter(x, 2)[1::2, 1::2],
        "map_blocks, reshape": lambda x: x.map_blocks(_reshaped, chunks=_halved(x), dtype=x.dtype),
        "map_blocks, slices": lambda x: x.map_blocks(_four_slices, chunks=_halved(x), dtype=x.dtype),
    },
    "3x3 s2 p1": {
        "fastpool": lambda x: fp.max_pool2d(x, (3, 3), 2, 1),
        "dask_image maximum_filter": lambda x: dask_image.ndfilters.maximum_filter(x, 3)[::2, ::2],
        "map_overlap, slices": lambda x: x.map_overlap(
            _nine_slices, depth=1, boundary=-np.inf, trim=False, chunks=_halved(x), dtype=x.dtype
        ),
    },
}


def image(block_info: Any = None) -> np.ndarray:
    """A chunk of an image of noise, seeded by its location."""
    rng = np.random.default_rng(block_info[None]["chunk-location"])
    (top, bottom), (left, right) = block_info[None]["array-location"]
    return rng.random((bottom - top, right - left), np.float32)


def lazy_image(size: int, chunk: int) -> Any:
    chunks = da.core.normalize_chunks(chunk, (size, size))
    return da.map_blocks(image, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))


def compared(name: str, size: int, chunk: int) -> dict[str, Any]:
    """The minimum times of one problem, for each library."""
    x = lazy_image(size, chunk).persist()
    results = {library: call(x) for library, call in PROBLEMS[name].items()}
    out = np.zeros(results["fastpool"].shape, np.float32)
    expected = x.compute()
    expected = fp.max_pool2d(expected, (2, 2)) if name == "2x2 s2" else fp.max_pool2d(expected, (3, 3), 2, 1)
    measurements: dict[str, Any] = {"name": name, "size": size, "chunk": chunk, "wrong": []}
    measurements["tasks"] = {
        library: len(y.__dask_optimize__(y.dask, y.__dask_keys__())) for library, y in results.items()
    }
    calls = {}
    for library, y in results.items():
        calls[library] = lambda y=y: y.store(out, lock=False)
        calls[library]()
        if not agree([out], [expected], exact=True):
            measurements["wrong"].append(library)
    measurements["seconds"] = least_times(calls | copies(x.nbytes + out.nbytes, os.cpu_count() or 1), 0)
    return measurements


def swept(size: int, chunks: Sequence[int]) -> list[dict[str, Any]]:
    """For each chunk size, the seconds to make the graph and to run it."""
    measurements = []
    for chunk in chunks:
        x = lazy_image(size, chunk).persist()
        out = np.zeros((size // 2, size // 2), np.float32)
        calls = {
            "graph": lambda x=x: fp.max_pool2d(x, (3, 3), 2, 1),
            "2x2 s2": lambda x=x, out=out: fp.max_pool2d(x, (2, 2)).store(out, lock=False),
            "3x3 s2 p1": lambda x=x, out=out: fp.max_pool2d(x, (3, 3), 2, 1).store(out, lock=False),
        }
        measurements.append(
            {"chunk": chunk, "megabytes": 4e-6 * chunk**2, "chunks": x.npartitions} | least_times(calls, 0)
        )
    return measurements


class Sink:
    """Drops the results that are stored into it."""

    def __setitem__(self, where: Any, block: Any) -> None:
        pass


def beyond(name: str, library: str, size: int, chunk: int) -> float:
    """Peak memory of a problem whose chunks are created on demand, less the memory before it, in bytes."""
    run = PROBLEMS[name][library]
    run(lazy_image(2 * chunk, chunk)).store(
        Sink(), lock=False, return_stored=True
    )  # a first call loads kernels and modules
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = kilobytes("VmRSS")
    run(lazy_image(size, chunk)).store(Sink(), lock=False, return_stored=True)
    return 1024 * (kilobytes("VmHWM") - before)


_BEYOND = "from benchmarks.scale import beyond; print(beyond({!r}, {!r}, {}, {}))"


def memory(size: int, chunk: int) -> dict[str, dict[str, list[float]]]:
    """`beyond` for each problem and library in its own process, in chunks, at two image sizes. Linux only."""
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    return {
        name: {
            library: [
                printed(_BEYOND.format(name, library, side, chunk), **environment)[0] / (4 * chunk**2)
                for side in (size // 2, size)
            ]
            for library in calls
        }
        for name, calls in PROBLEMS.items()
    }


def _at_once(run: Callable[[], Any]) -> int:
    """The maximum number of threads of this process during a call."""
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(1e-3):
            most = max(most, len(os.listdir("/proc/self/task")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return most - 1


def threads(size: int, chunk: int) -> list[dict[str, Any]]:
    """The time with one thread for each kernel in a task, and with as many as a kernel takes outside Dask."""
    measurements = []
    x = lazy_image(size, chunk).persist()
    out = np.zeros((size // 2, size // 2), np.float32)

    def run() -> None:
        fp.max_pool2d(x, (3, 3), 2, 1).store(out, lock=False)

    limit = "fastpool.integrations.dask.lazy.graphs.at_most"
    from fastpool.threads import at_most

    before = fp.get_num_threads()
    for kernel_threads in (1, before, 8):
        fp.set_num_threads(kernel_threads)
        try:
            with patch(limit, lambda _, n=kernel_threads: at_most(n)):
                run()
                counted = {"threads of a kernel": kernel_threads, "threads": _at_once(run)}
                measurements.append(counted | least_times({"seconds": run}, 0))
        finally:
            fp.set_num_threads(None)
    return measurements


def machine() -> dict[str, Any]:
    about = environment()
    names = ("dask", "dask-image", "distributed", "scipy", "numpy", "numba", "zarr")
    versions = {name: metadata.version(name) for name in names if _installed(name)}
    return {key: about[key] for key in ("cpu", "cpus", "system", "python", "fastpool")} | {
        "date": date.today().isoformat(),
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def show(report: Mapping[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    about = report["machine"]
    console.print(f"{about['cpu']}, {about['cpus']} CPUs, {about['date']}, {about['versions']}", highlight=False)
    for problem in report["problems"]:
        title = f"{problem['name']} max of {problem['size']}² float32 in chunks of {problem['chunk']}²"
        table = Table(
            "", "seconds", "times fastpool's", "tasks", "peak, in chunks, of a quarter and of all", title=title
        )
        least = problem["seconds"]["fastpool"]
        for library, seconds in problem["seconds"].items():
            peak = report.get("memory", {}).get(problem["name"], {}).get(library)
            line = f"{seconds:.3f}", f"{seconds / least:.1f}", str(problem["tasks"].get(library, "-"))
            table.add_row(library, *line, "-" if peak is None else " → ".join(f"{n:.1f}" for n in peak))
        console.print(table)
        if problem["wrong"]:
            console.print(f"[red]other results: {', '.join(problem['wrong'])}[/red]")
    table = Table("chunk", "MB", "chunks", "ms to make the graph", "2x2 s2, s", "3x3 s2 p1, s", title="chunk sizes")
    for row in report["sweep"]:
        line = str(row["chunk"]), f"{row['megabytes']:.1f}", str(row["chunks"]), f"{row['graph'] * 1e3:.1f}"
        table.add_row(*line, f"{row['2x2 s2']:.3f}", f"{row['3x3 s2 p1']:.3f}")
    console.print(table)
    table = Table("threads of a kernel", "of the process, at most", "seconds", title="threads, 3x3 s2 p1")
    for row in report["threads"]:
        table.add_row(str(row["threads of a kernel"]), str(row["threads"]), f"{row['seconds']:.3f}")
    console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=SIZE, help="side of the image")
    parser.add_argument("--chunk", type=int, default=CHUNK, help="side of a chunk in the comparison")
    parser.add_argument("--parts", default="problems,sweep,memory,threads", help="what to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the measurements to FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status is 1 after a wrong result, or a speed-up over coarsen below 5."""
    args = _parser().parse_args(argv)
    if not util.find_spec("dask_image"):
        sys.exit('dask_image is not installed: pip install "fastpool[bench]"')
    report: dict[str, Any] = {"problems": [], "sweep": [], "threads": []}
    if args.json and args.json.exists():
        report |= json.loads(args.json.read_text(encoding="utf-8"))
    report["machine"] = machine()
    with dask.config.set(scheduler="threads", num_workers=os.cpu_count()):
        for part in args.parts.split(","):
            if part == "problems":
                report[part] = [compared(name, args.size, args.chunk) for name in PROBLEMS]
            elif part == "sweep":
                report[part] = swept(args.size, [chunk for chunk in CHUNKS if chunk <= args.size])
            elif part == "memory":
                report[part] = memory(args.size, args.chunk)
            elif part == "threads":
                report[part] = threads(args.size, args.chunk)
            else:
                raise SystemExit(f"no part {part!r}; there are problems, sweep, memory, threads")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    show(report)
    pairs = [p["seconds"] for p in report["problems"] if "coarsen" in p["seconds"]]
    slow = any(seconds["coarsen"] < LEAST_SPEEDUP * seconds["fastpool"] for seconds in pairs)
    return int(slow or any(p["wrong"] for p in report["problems"]))


if __name__ == "__main__":
    sys.exit(main())
