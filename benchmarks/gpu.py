"""fastpool, PyTorch, JAX and CuPy on a GPU, compared with each other and with the GPU's copy bandwidth.

    python -m benchmarks.gpu --json benchmarks/results/gpu.json

The calls of one round use several sets of inputs, which together are several times as large as the L2 cache. A round is
captured into a CUDA graph, so that its time is the GPU's work without the launches. The time of a call on the CPU is
measured separately, on a tiny array. Times are medians over rounds, between CUDA events. Results are compared before
they are timed. Where a library lacks an op, the table has a gap, and the reason is printed below it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from fnmatch import fnmatchcase
from functools import partial
from importlib import metadata
from math import prod
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import fastpool as fp
from benchmarks.rows import COPY_SHARE, Task

MEGABYTE = 10**6
SIZES = (64, 256, 2048)
L2_TIMES = 4  # size of all input sets together, over that of the L2 cache
DTYPES = ("float32", "float16", "bfloat16", "uint8")
LAYOUTS = ("channels_first", "channels_last")
FORWARD, ARGMAX, BACKWARD = MODES = "forward", "argmax", "backward"

LIBRARIES = ("fastpool", "torch")
RATIOS = (COPY_SHARE, "torch ÷ fastpool")

Calls = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Row:
    """One task at a size, in one of MODES."""

    task: Task
    mode: str
    megabytes: int

    @property
    def name(self) -> str:
        """The name in the table, which --rows matches."""
        return f"{self.task.op} {self.mode} {self.task.label} {self.task.dtype} {self.task.layout} {self.megabytes} MB"


def _sized(task: Task, megabytes: int) -> Task:
    """The task with the batch size that brings its input (or its columns) closest to a size."""
    itemsize = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1}[task.dtype]
    image_bytes = (
        prod(task.shape[1:]) * itemsize * (task.window[0] ** task.axes if task.op in ("im2col", "col2im") else 1)
    )
    return replace(task, shape=(max(round(megabytes * MEGABYTE / image_bytes), 1), *task.shape[1:]))


def rows(sizes: Sequence[int] = SIZES) -> Iterator[Row]:
    """All rows: every task at every size, dtype, layout and mode."""
    pools = (
        Task("max_pool2d", (1, 64, 112, 112), (2, 2, 0)),
        Task("max_pool2d", (1, 64, 112, 112), (3, 2, 1)),
        Task("max_pool2d", (1, 192, 28, 28), (3, 1, 1)),
        Task("max_pool2d", (1, 256, 20, 20), (13, 1, 6)),
        Task("max_pool3d", (1, 16, 32, 40, 40), (2, 2, 0)),
    )
    units = tuple(
        Task("maxout", shape, pieces=pieces, grouping=grouping)
        for shape, pieces in (((1, 96, 128, 128), 2), ((1, 2048), 4))
        for grouping in ("strided", "contiguous")
    )
    for megabytes in sizes:
        for dtype in DTYPES:
            modes = (FORWARD, ARGMAX) if dtype == "uint8" else MODES
            for layout in LAYOUTS:
                for task in pools:
                    for mode in modes:
                        yield Row(_sized(replace(task, dtype=dtype, layout=layout), megabytes), mode, megabytes)
            for task in units:
                for mode in modes:
                    yield Row(_sized(replace(task, dtype=dtype), megabytes), mode, megabytes)
            if dtype != "uint8":
                yield Row(_sized(Task("hard_swish", (1, 10**6), dtype=dtype), megabytes), FORWARD, megabytes)
                yield Row(_sized(Task("hard_swish", (1, 10**6), dtype=dtype), megabytes), BACKWARD, megabytes)
                for op in ("im2col", "col2im"):
                    yield Row(_sized(Task(op, (1, 64, 56, 56), (3, 1, 1), dtype=dtype), megabytes), FORWARD, megabytes)


@contextmanager
def gap(gaps: dict[str, str], library: str) -> Iterator[None]:
    """Record in `gaps` why a library failed, and go on."""
    try:
        yield
    except Exception as error:  # libraries refuse a dtype, a layout or a size with all sorts of exceptions
        gaps[library] = f"{type(error).__name__}: {error}".splitlines()[0][:200]


class Problem:
    """The inputs of a row on a device of PyTorch, and the call of each library on them."""

    def __init__(self, row: Row, torch: Any, seed: int, device: str = "cuda") -> None:
        self.row, self.task, self.torch, self.device = row, row.task, torch, device
        self.random = torch.Generator(device).manual_seed(seed)
        self.gaps: dict[str, str] = {}
        task = self.task
        self.x = self._in_layout(self._random(task.shape))
        if task.op == "col2im":
            self.cols = self._random((task.shape[0], prod(task.shape[1:2]) * 9, prod(task.out_space)))

    def _random(self, shape: Sequence[int]) -> Any:
        torch, dtype = self.torch, getattr(self.torch, self.task.dtype)
        if dtype == torch.uint8:
            return torch.randint(0, 256, shape, dtype=dtype, device=self.device, generator=self.random)
        return torch.empty(shape, dtype=dtype, device=self.device).normal_(generator=self.random)

    def _in_layout(self, x: Any) -> Any:
        if not self.task.channels_last:
            return x
        torch = self.torch
        return x.to(memory_format={2: torch.channels_last, 3: torch.channels_last_3d}[self.task.axes])

    def calls(self) -> tuple[Calls, int]:
        """The call of each library, fastpool's first, and the bytes that each must move: inputs and outputs once.

        A library whose call cannot be prepared is left out, and `gaps` has the reason.
        """
        return getattr(self, f"_{self.task.family}")()

    def _moved(self, *tensors: Any) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    def _max_pool(self) -> tuple[Calls, int]:
        torch, x, axes, window = self.torch, self.x, self.task.axes, self.task.window
        pool, backward = getattr(fp, f"max_pool{axes}d"), getattr(fp, f"max_pool{axes}d_backward")
        theirs = getattr(torch.nn.functional, f"max_pool{axes}d")
        y, argmax = pool(x, *window, return_argmax=True)
        if self.row.mode == BACKWARD:
            dy = self._in_layout(self._random(y.shape))
            calls: Calls = {"fastpool": lambda: backward(dy, argmax, x.shape, *window)}
            with gap(self.gaps, "torch"):
                _, indices = theirs(x, *window, return_indices=True)
                each = [[n] * axes for n in window]
                aten = getattr(torch.ops.aten, f"max_pool{axes}d_with_indices_backward")
                calls["torch"] = lambda: aten(dy, x, *each, [1] * axes, False, indices)
            return calls, self._moved(dy, argmax, x)
        if self.row.mode == ARGMAX:
            calls = {
                "fastpool": lambda: pool(x, *window, return_argmax=True),
                "torch": lambda: theirs(x, *window, return_indices=True),
            }
            return calls, self._moved(x, y, argmax)
        calls = {"fastpool": lambda: pool(x, *window), "torch": lambda: theirs(x, *window)}
        return calls, self._moved(x, y)

    def _maxout(self) -> tuple[Calls, int]:
        x, task = self.x, self.task
        units, strided = task.shape[1] // task.pieces, task.grouping == "strided"
        axis = 1 if strided else 2
        split = (x.shape[0], *((task.pieces, units) if strided else (units, task.pieces)), *x.shape[2:])
        mine = {"axis": 1, "grouping": task.grouping}
        y, argmax = fp.maxout(x, units, **mine, return_argmax=True)
        if self.row.mode == BACKWARD:
            dy, at = self._random(y.shape), argmax.long().unsqueeze(axis)
            calls = {
                "fastpool": lambda: fp.maxout_backward(dy, argmax, x.shape, **mine),
                "torch": lambda: x.new_zeros(split).scatter_(axis, at, dy.unsqueeze(axis)).view(x.shape),
            }
            return calls, self._moved(dy, argmax, x)
        if self.row.mode == ARGMAX:
            calls = {
                "fastpool": lambda: fp.maxout(x, units, **mine, return_argmax=True),
                "torch": lambda: tuple(x.view(split).max(axis)),
            }
            return calls, self._moved(x, y, argmax)
        calls = {"fastpool": lambda: fp.maxout(x, units, **mine), "torch": lambda: x.view(split).amax(axis)}
        return calls, self._moved(x, y)

    def _im2col(self) -> tuple[Calls, int]:
        x, unfold = self.x, self.torch.nn.functional.unfold
        calls = {"fastpool": lambda: fp.im2col(x, 3, padding=1), "torch": lambda: unfold(x, 3, padding=1)}
        return calls, self._moved(x, fp.im2col(x, 3, padding=1))

    def _col2im(self) -> tuple[Calls, int]:
        cols, shape, fold = self.cols, self.x.shape, self.torch.nn.functional.fold
        calls = {
            "fastpool": lambda: fp.col2im(cols, shape, 3, padding=1),
            "torch": lambda: fold(cols, shape[2:], 3, padding=1),
        }
        return calls, self._moved(cols, self.x)

    def _hard_swish(self) -> tuple[Calls, int]:
        torch, x = self.torch, self.x
        if self.row.mode == BACKWARD:
            dy = self._random(x.shape)
            calls = {
                "fastpool": lambda: fp.hard_swish_backward(dy, x),
                "torch": lambda: torch.ops.aten.hardswish_backward(dy, x),
            }
            return calls, self._moved(dy, x, x)
        calls = {"fastpool": lambda: fp.hard_swish(x), "torch": lambda: torch.nn.functional.hardswish(x)}
        return calls, self._moved(x, x)


def agrees(torch: Any, mine: Any, theirs: Any, exact: bool) -> bool:
    """Whether the first arrays of two results agree. The second are indices, whose conventions differ."""
    a, b = (r[0] if isinstance(r, tuple) else r for r in (mine, theirs))
    if exact:
        return torch.equal(a, b)
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}[a.dtype]
    return torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance)


def seconds_on_gpu(torch: Any, calls: Sequence[Callable[[], Any]], rounds: int) -> float:
    """Seconds of one call on the GPU: the median over rounds, each of which replays a graph of all calls."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(rounds):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / len(calls))
    return statistics.median(times)


def seconds_for_caller(torch: Any, call: Callable[[], Any], seconds: float) -> float:
    """Seconds of a call on the CPU: the caller waits for the GPU only once in a hundred calls."""
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 5:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(100):
            call()
        times.append((time.perf_counter() - start) / 100)
    return statistics.median(times)


def copy_bandwidth(torch: Any, megabytes: int, rounds: int) -> float:
    """Bytes read and written per second by a copy within the memory of the GPU."""
    sets = max(2, -(-256 // megabytes))
    a = [torch.randn(megabytes * MEGABYTE // 4, device="cuda") for _ in range(sets)]
    b = [torch.empty_like(t) for t in a]
    calls = [partial(target.copy_, source) for source, target in zip(a, b, strict=True)]
    return 2 * megabytes * MEGABYTE / seconds_on_gpu(torch, calls, rounds)


def is_exact(row: Row) -> bool:
    """Whether all libraries must give the same bits, because nothing is summed or rounded."""
    return row.mode != BACKWARD and "swish" not in row.task.op and row.task.op != "col2im"


def input_sets(torch: Any, megabytes: int) -> int:
    """The number of input sets of a size that keeps a round from finding its inputs in the L2 cache."""
    return max(2, -(-L2_TIMES * torch.cuda.get_device_properties(0).L2_cache_size // (megabytes * MEGABYTE)))


def measured(
    row: Row,
    torch: Any,
    bandwidth: float,
    rounds: int,
    sets: int,
    device: str = "cuda",
    timed: Callable[[Any, Sequence[Callable[[], Any]], int], float] = seconds_on_gpu,
) -> dict[str, Any]:
    """The measurements of a row: the seconds of each library and their ratios; in `gaps`, why one is missing."""
    measurements: dict[str, Any] = {"name": row.name, "mode": row.mode, "megabytes": row.megabytes}
    measurements |= {"op": row.task.op, "dtype": row.task.dtype, "layout": row.task.layout, "shape": row.task.shape}
    seconds: dict[str, float] = {}
    gaps: dict[str, str] = {}
    with gap(gaps, "fastpool"):
        problems = [Problem(row, torch, seed, device) for seed in range(sets)]
        calls, moved = zip(*[problem.calls() for problem in problems], strict=True)
        measurements["bytes"] = moved[0]
        mine = None
        for library in LIBRARIES:
            missing = [problem.gaps[library] for problem in problems if library in problem.gaps]
            if missing:
                gaps[library] = missing[0]
                continue
            with gap(gaps, library):
                result = calls[0][library]()
                if library == "fastpool":
                    mine = result
                elif mine is not None and not agrees(torch, mine, result, is_exact(row)):
                    measurements.setdefault("wrong", []).append(library)
                    continue
                del result
                seconds[library] = timed(torch, [each[library] for each in calls], rounds)
    measurements |= {"seconds": seconds, "gaps": gaps}
    mine_takes, theirs_takes = seconds.get("fastpool"), seconds.get("torch")
    measurements[COPY_SHARE] = mine_takes and measurements["bytes"] / mine_takes / bandwidth
    measurements["torch ÷ fastpool"] = mine_takes and theirs_takes and theirs_takes / mine_takes
    return measurements


def tiny_calls(torch: Any, seconds: float) -> dict[str, dict[str, float]]:
    """The seconds on the CPU of calls on a tiny array."""
    x = torch.randn((1, 1, 4, 4), device="cuda")
    y, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    _, indices = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
    backward = torch.ops.aten.max_pool2d_with_indices_backward
    calls: dict[str, Calls] = {
        "max_pool2d": {
            "fastpool": lambda: fp.max_pool2d(x, 2),
            "torch": lambda: torch.nn.functional.max_pool2d(x, 2),
        },
        "max_pool2d_backward": {
            "fastpool": lambda: fp.max_pool2d_backward(y, argmax, x.shape, 2),
            "torch": lambda: backward(y, x, [2, 2], [2, 2], [0, 0], [1, 1], False, indices),
        },
    }
    return {
        op: {library: seconds_for_caller(torch, call, seconds) for library, call in libraries.items()}
        for op, libraries in calls.items()
    }


def jax_pooling(rounds: int) -> dict[str, float]:
    """The seconds of JAX for 2x2 pooling of 256 MB, by the wall clock."""
    import jax

    if jax.default_backend() != "gpu":
        raise RuntimeError(f"this JAX works on {jax.default_backend()}")
    x = jax.numpy.asarray(jax.random.normal(jax.random.key(0), (80, 64, 112, 112)))
    size, init = (1, 1, 2, 2), -jax.numpy.inf
    pool = jax.jit(lambda a: jax.lax.reduce_window(a, init, jax.lax.max, size, size, "VALID"))
    pool(x).block_until_ready()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        pool(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return {"jax max_pool2d 2x2 s2 (80,64,112,112) float32, wall clock": statistics.median(times)}


def cupy_maxout(rounds: int) -> dict[str, float]:
    """The seconds of CuPy for maxout of 256 MB, between events."""
    import cupy

    a = cupy.random.standard_normal((40, 2, 48, 128, 128), dtype=cupy.float32)
    a.max(1)
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    times = []
    for _ in range(rounds):
        begin.record()
        a.max(1)
        end.record()
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(begin, end) / 1e3)
    return {"cupy maxout 2 pieces strided (40,96,128,128) float32": statistics.median(times)}


def jax_and_cupy(rounds: int) -> dict[str, Any]:
    """The seconds of JAX and CuPy, if they are installed with a GPU; in `gaps`, why one is missing."""
    seconds: dict[str, Any] = {}
    gaps: dict[str, str] = {}
    for library, measure in (("jax", jax_pooling), ("cupy", cupy_maxout)):
        with gap(gaps, library):
            seconds |= measure(rounds)
    return seconds | {"gaps": gaps}


def machine(torch: Any) -> dict[str, Any]:
    """The GPU, the date, and the versions of all libraries."""
    properties = torch.cuda.get_device_properties(0)
    names = ("fastpool", "numba-cuda", "numba", "torch", "cupy-cuda13x", "jax", "numpy")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "GPU": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "L2": properties.L2_cache_size,
        "date": str(date.today()),
        "python": sys.version.split()[0],
        "versions": versions | {"fastpool": fp.__version__, "CUDA of torch": torch.version.cuda},
    }


def _line(row: Mapping[str, Any]) -> list[str]:
    """The entries of a row in the table, "-" for those that are missing."""
    seconds = row["seconds"]
    shown = [f"{seconds[name] * 1e6:.1f}" if name in seconds else "-" for name in LIBRARIES]
    return [row["name"], *shown, *("-" if row[key] is None else f"{row[key]:.2f}" for key in RATIOS)]


def show(report: Mapping[str, Any]) -> None:
    """Print the GPU and a table of all rows."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    about = report["machine"]
    copies = ", ".join(f"{rate / 1e12:.2f} TB/s at {size} MB" for size, rate in report["copy"].items())
    console.print(f"{about['GPU']}, {about['date']}; copy: {copies}", highlight=False)
    table = Table("row", *(f"{name} µs" for name in LIBRARIES), *RATIOS)
    for row in report["rows"]:
        table.add_row(*_line(row))
    console.print(table)
    for op, seconds in report["tiny"].items():
        console.print(f"a tiny {op}: " + ", ".join(f"{name} {s * 1e6:.1f} µs" for name, s in seconds.items()))
    for row in report["rows"]:
        if "wrong" in row:
            console.print(f"[red]another result than torch's: {row['name']}[/red]", highlight=False)
        for library, why in row["gaps"].items():
            console.print(f"{library} has no {row['name']}: {why}", highlight=False, markup=False)


def failed(row: Mapping[str, Any]) -> bool:
    """Whether fastpool gave a wrong result, or none."""
    return "wrong" in row or "fastpool" in row["gaps"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--rows",
        action="append",
        default=[],
        metavar="TEXT",
        help="rows whose name contains TEXT, or matches it with * ?",
    )
    add("--sizes", default=",".join(map(str, SIZES)), metavar="MB,MB", help="sizes of the inputs")
    add("--rounds", type=int, default=30, help="rounds of each (default 30)")
    add("--seconds", type=float, default=float("inf"), help="begin no row after so many seconds")
    add("--json", type=Path, metavar="FILE", help="write everything to FILE, after each row")
    add("--list", action="store_true", help="print the rows")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status is 1 if a result was wrong or fastpool failed on a row."""
    args = _parser().parse_args(argv)
    until = time.monotonic() + args.seconds
    sizes = [int(size) for size in args.sizes.split(",")]
    patterns = [p if set(p) & set("*?") else f"*{p}*" for p in args.rows or ["*"]]
    selected = [row for row in rows(sizes) if any(fnmatchcase(row.name, p) for p in patterns)]
    if args.list or not selected:
        print("\n".join(row.name for row in selected) or f"no row matches {args.rows}")
        return 0 if selected else 2
    status = fp.backends()["cuda"]
    if not status.available:
        print(f"no GPU to measure: {status.reason}", file=sys.stderr)
        return 2
    # JAX would take three quarters of the memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import torch

    report: dict[str, Any] = {
        "machine": machine(torch),
        "settings": {"rounds": args.rounds, "rows": args.rows},
        "copy": {size: copy_bandwidth(torch, size, args.rounds) for size in sizes},
        "tiny": tiny_calls(torch, 1.0),
        "others": jax_and_cupy(args.rounds),
        "rows": [],
    }
    for row in selected:
        if time.monotonic() > until:
            print(f"no time left for {len(selected) - len(report['rows'])} of {len(selected)} rows", flush=True)
            break
        sets = input_sets(torch, row.megabytes)
        report["rows"].append(measured(row, torch, report["copy"][row.megabytes], args.rounds, sets))
        print(*_line(report["rows"][-1]), sep=" | ", flush=True)
        torch.cuda.empty_cache()
        if args.json:
            args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    show(report)
    return int(any(map(failed, report["rows"])))


if __name__ == "__main__":
    sys.exit(main())
