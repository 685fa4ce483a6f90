"""The command line: `python -m fastpool info | bench | warmup`, also as the script `fastpool`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module, metadata, util
from multiprocessing import active_children, get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import fastpool

BASELINE = "numpy"
NEVER_TIMED = ("naive", "cuda", BASELINE)  # copies to a GPU and back say nothing of its speed: see benchmarks/gpu.py


def _needed(package: str) -> Any:
    """A package of the extra `bench`, or the end with a word on how to get it."""
    try:
        return import_module(package)
    except ImportError as error:
        sys.exit(f'{package} is needed here and cannot be imported ({error}): pip install "fastpool[bench]"')


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """What to call with a name after each of some steps: it moves a bar, or where rich is missing prints a line."""
    try:
        progress = import_module("rich.progress")
    except ImportError:
        done = iter(range(1, total + 1))
        yield lambda name: print(f"{next(done):4} of {total}  {name}", file=sys.stderr, flush=True)
        return
    columns = (
        progress.TextColumn("{task.description:36}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda name: bar.update(task, description=name, advance=1)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown CPU"


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cython_build() -> str:
    spec = util.find_spec("fastpool.backends._columns")
    return Path(spec.origin).name if spec is not None and spec.origin else "not built"


def _numba_backend() -> Any:
    """The backend's module, or None where it cannot run."""
    return import_module("fastpool.backends.numba") if fastpool.backends()["numba"].available else None


def disk_cache() -> Any:
    return import_module("fastpool.backends.disk_cache")


def environment() -> dict[str, Any]:
    """What a timing depends on: versions, the processor, threads."""
    return {
        "fastpool": fastpool.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": _version("numba"),
        "numba-cuda": _version("numba-cuda"),
        "cython build": _cython_build(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpus": _cpu_count(),
        "threads": fastpool.get_num_threads(),
    }


def info(_: argparse.Namespace) -> int:
    """Print versions, the machine and the backends."""
    for name, value in environment().items():
        print(f"{name:16} {value}")
    numba = _numba_backend()
    if numba and numba.library.level():
        print(f"{'kernels':16} built with the package, for {numba.library.level()}")
    elif numba:
        folder = numba.cache_directory()
        print(f"{'kernels':16} compiled by Numba when first called; kept in {folder or 'no folder'}")
        for use, why in (
            ("read", disk_cache().why_not_read(folder)),
            ("written", disk_cache().why_not_written(folder)),
        ):
            print(f"{'':16} {f'not {use}: {why}' if why else use}")
    print("\nbackends, in the order in which the default is chosen (naive is for tests, cuda for arrays on a GPU)")
    for name, status in fastpool.backends().items():
        print(f"  {name:14} {'available' if status.available else f'not available: {status.reason}'}")
    return 0


def _compiled(names: Sequence[str], processes: int) -> Iterator[str]:
    """The names of kernels, each when it is compiled, in processes at once."""
    # What children run is looked up in a module that they can import, which this one is not.
    compile_by_name = import_module("fastpool.backends.numba").compile_by_name
    if processes == 1:
        yield from map(compile_by_name, names)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        try:
            # Ctrl-C is the parent's to answer: children started while it is ignored ignore it.
            answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                started = [pool.submit(compile_by_name, name) for name in names]
            finally:
                signal.signal(signal.SIGINT, answer)
            for done in as_completed(started):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():
                child.terminate()
            raise


def warmup(args: argparse.Namespace) -> int:
    """Compile the kernels of the numba backend into its cache."""
    numba = _numba_backend()
    if numba is None:
        print(f"nothing to compile: {fastpool.backends()['numba'].reason}", file=sys.stderr)
        return 1
    if numba.library.level():
        print(f"nothing to compile: the package holds kernels for {numba.library.level()}")
        return 0
    folder = numba.cache_directory()
    why = disk_cache().why_not_read(folder) or disk_cache().why_not_written(folder)
    if why:
        print(f"kernels cannot be kept: {why}; set NUMBA_CACHE_DIR to a folder of your own", file=sys.stderr)
        return 1
    names = numba.kernel_names(args.all)
    start = perf_counter()
    with _progress(len(names)) as advance:
        for name in _compiled(names, min(fastpool.get_num_threads(), len(names))):
            advance(name)
    print(f"{len(names)} kernels ready after {perf_counter() - start:.1f} s; cached in {folder}")
    return 0


@dataclass
class Timing:
    """One case on one backend; `seconds` is the least of several runs, None where the result was wrong."""

    case: str
    op: str
    backend: str
    bytes: int
    seconds: float | None
    gigabytes_per_second: float | None
    speedup_over_numpy: float | None


def _time_case(case: Any, backends: Sequence[str], args: argparse.Namespace) -> list[Timing]:
    from fastpool.cases import bytes_moved, results
    from fastpool.timing import HALF_ROUNDING, agree, least_times

    size = "medium" if args.quick else "full"
    arguments = case.arguments(np.random.default_rng(0), args.dtype, size, args.layout)
    expected = case.run(arguments, BASELINE)
    moved = bytes_moved(arguments, expected)
    calls, wrong = {BASELINE: partial(case.run, arguments, BASELINE)}, []
    for name in backends:
        try:
            right = agree(results(case.run(arguments, name)), results(expected), case.exact, HALF_ROUNDING)
        except NotImplementedError:
            continue
        if right:
            calls[name] = partial(case.run, arguments, name)
        else:
            wrong.append(name)
    del expected
    least = least_times(calls, args.seconds / len(calls))
    baseline = least[BASELINE]
    return [
        *(Timing(case.name, case.op, n, moved, t, moved / t / 1e9, baseline / t) for n, t in least.items()),
        *(Timing(case.name, case.op, name, moved, None, None, None) for name in wrong),
    ]


def _copy_bandwidth() -> float:
    """Bytes a second that one thread reads and writes when it copies 64 MB: the roof to hold the figures against."""
    from fastpool.timing import copies, least_times

    moved = 1 << 27
    return moved / min(least_times(copies(moved, 1), 0.2).values())


def _why_not_writable(path: str) -> str:
    """Why a file cannot be written, before hours go by; '' where it can."""
    folder = Path(path).parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if Path(path).is_dir():
        return "this is a folder; name a file in it"
    return "" if os.access(path if Path(path).exists() else folder, os.W_OK) else "it cannot be written by this user"


def bench(args: argparse.Namespace) -> int:
    """Time every case on every backend beside the NumPy baseline, and show, save and plot what came out."""
    for option, path in (("--json", args.json), ("--plot", args.plot)):
        why = _why_not_writable(path) if path else ""
        if why:
            print(f"{option} {path}: {why}", file=sys.stderr)
            return 2
    if args.plot:
        formats = _needed("matplotlib.figure").Figure().canvas.get_supported_filetypes()
        if Path(args.plot).suffix[1:].lower() not in formats:
            print(f"--plot {args.plot}: the name must end in one of {', '.join(formats)}", file=sys.stderr)
            return 2
    from fastpool.cases import CASES

    chosen = [
        case
        for case in CASES.values()
        if case.takes_dtype(args.dtype) and (case.quick or not args.quick) and args.only in case.name
    ]
    if not chosen:
        print(f"no case has {args.only!r} in its name; the names are: {', '.join(CASES)}", file=sys.stderr)
        return 2
    backends = [n for n, status in fastpool.backends().items() if status.available and n not in NEVER_TIMED]
    report: dict[str, Any] = {
        "environment": environment(),
        "settings": {
            "size": "medium" if args.quick else "full",
            "dtype": args.dtype,
            "layout": args.layout,
            "seconds per case": args.seconds,
        },
        "copy_gigabytes_per_second": _copy_bandwidth() / 1e9,
    }
    timings: list[Timing] = []
    with _progress(len(chosen)) as advance:
        for case in chosen:
            timings += _time_case(case, backends, args)
            advance(case.name)
    report["timings"] = [asdict(t) for t in timings]

    _print_table(report, timings, backends)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {args.json}")
    if args.plot:
        _plot(args.plot, report, timings, backends)
        print(f"wrote {args.plot}")
    wrong = [f"{t.case} on {t.backend}" for t in timings if t.seconds is None]
    if wrong:
        print(f"results that differ from the {BASELINE} backend: {'; '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def _by_case(timings: Sequence[Timing]) -> dict[str, dict[str, Timing]]:
    table: dict[str, dict[str, Timing]] = {}
    for t in timings:
        table.setdefault(t.case, {})[t.backend] = t
    return table


def _title(report: dict[str, Any]) -> tuple[str, str]:
    """What was timed, and on what."""
    env, settings = report["environment"], report["settings"]
    what = f"{settings['dtype']}, {settings['layout'].replace('_', ' ')}, {settings['size']} size"
    threads = f"{env['threads']} thread{'s' if env['threads'] > 1 else ''}"
    return what, f"{env['cpu']}, {threads}; fastpool {env['fastpool']}, NumPy {env['numpy']}, Numba {env['numba']}"


def _speedup(t: Timing) -> str:
    speedup = t.speedup_over_numpy or 0.0
    return f"{speedup:.1f}x" if speedup < 10 else f"{speedup:.0f}x"


def _print_table(report: dict[str, Any], timings: Sequence[Timing], backends: Sequence[str]) -> None:
    what, machine = _title(report)
    copy = report["copy_gigabytes_per_second"]
    title = f"fastpool bench: {what}\n{machine}"
    caption = (
        "least of several runs, the backends in turn; GB/s counts every input and output once\n"
        f"one thread copies {copy:.1f} GB/s here; 1x is the {BASELINE} backend"
    )
    head = [("", "case"), ("", "MB"), (BASELINE, "ms")]
    for name in backends:
        head += [(name, "ms"), ("", "GB/s"), ("", "speed-up")]
    rows = []
    for case, row in _by_case(timings).items():
        cells = [case, f"{row[BASELINE].bytes / 1e6:.1f}", f"{row[BASELINE].seconds * 1e3:.2f}"]  # type: ignore[operator]
        for name in backends:
            t = row.get(name)
            if t is None:
                cells += ["-", "-", "-"]
            elif t.seconds is None:
                cells += ["wrong", "-", "-"]
            else:
                cells += [f"{t.seconds * 1e3:.2f}", f"{t.gigabytes_per_second:.1f}", _speedup(t)]
        rows.append(cells)
    try:
        table_module, console_module = import_module("rich.table"), import_module("rich.console")
    except ImportError:
        lines = [*map(list, zip(*head, strict=True)), *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        print(title)
        for first, *rest in lines:
            aligned = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
            print("  ".join((first.ljust(widths[0]), *aligned)))
        print(caption)
        return
    table = table_module.Table(title=title, caption=caption)
    for i, (backend, unit) in enumerate(head):
        table.add_column(f"{backend}\n{unit}", justify="right" if i else "left", no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    console_module.Console(width=None if sys.stdout.isatty() else 120).print(table)


def _plot(path: str, report: dict[str, Any], timings: Sequence[Timing], backends: Sequence[str]) -> None:
    """Bars of the speed-ups over the baseline, on a logarithmic axis."""
    figure_module = _needed("matplotlib.figure")
    rows = _by_case(timings)
    shown = [name for name in backends if any(name in row for row in rows.values())]
    what, machine = _title(report)
    thick = 0.8 / max(len(shown), 1)
    figure = figure_module.Figure(figsize=(9.5, 1.6 + len(rows) * (0.12 + 0.16 * len(shown))), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(shown):
        timed = [(at, row[name]) for at, row in enumerate(rows.values()) if name in row and row[name].seconds]
        at = [y + (i - (len(shown) - 1) / 2) * thick for y, _ in timed]
        beyond_one = [(t.speedup_over_numpy or 1.0) - 1 for _, t in timed]
        colour = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")[i % 4]
        bars = axes.barh(at, beyond_one, 0.92 * thick, left=1, label=name, color=colour)
        axes.bar_label(bars, [_speedup(t) for _, t in timed], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=9)
    axes.invert_yaxis()
    axes.axvline(1, color="0.3", linewidth=1)
    axes.set_xlabel(f"speed-up over the {BASELINE} backend (times, logarithmic; longer is faster)")
    axes.xaxis.set_major_locator(_needed("matplotlib.ticker").LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.xaxis.set_minor_locator(_needed("matplotlib.ticker").NullLocator())
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"fastpool beside NumPy: {what}\n{machine}", fontsize=10, loc="left")
    if shown:
        figure.legend(loc="outside lower right", ncols=len(shown), frameon=False)
    figure.savefig(path, dpi=150)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastpool",
        description="Max, min and average pooling, maxout and im2col/col2im for arrays: what is here, and how fast.",
    )
    parser.add_argument("--version", action="version", version=f"fastpool {fastpool.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="info | bench | warmup")

    one = commands.add_parser(
        "info", help="versions, processor, threads, backends", description="Print what fastpool found here."
    )
    one.set_defaults(run=info)

    one = commands.add_parser(
        "bench",
        help="time every op on every backend beside NumPy",
        description="Time every op, forward and backward, on every backend that is available, beside the numpy "
        "backend. Results are compared with that backend's before they are timed; the exit status is 1 if one differs.",
    )
    one.add_argument("--quick", action="store_true", help="an eighth of the size, and the typical cases only")
    one.add_argument("--only", default="", metavar="TEXT", help="only cases with this text in their name, as maxout")
    one.add_argument("--dtype", default="float32", choices=("float16", "float32", "float64"), help="default float32")
    one.add_argument("--layout", default="channels_first", choices=("channels_first", "channels_last"))
    one.add_argument("--seconds", type=float, help="time for each case (default 1, with --quick 0.3)")
    one.add_argument("--json", metavar="FILE", help="also write times, machine and settings to FILE")
    one.add_argument("--plot", metavar="FILE.png", help="also draw the speed-ups to FILE.png (png, svg or pdf)")
    one.set_defaults(run=bench)

    one = commands.add_parser(
        "warmup",
        help="compile and keep the kernels, where none were built",
        description="Where no kernels were built with the package: have Numba compile them now and keep them on disk, "
        "so that no later call waits. Those of float32 and uint8 take about three minutes of one core, all of them "
        "about 20; all cores take part (FASTPOOL_NUM_THREADS limits them).",
    )
    one.add_argument("--all", action="store_true", help="all dtypes, and an argmax of large windows too")
    one.set_defaults(run=warmup)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    args = _parser().parse_args(argv)
    if args.run is bench and args.seconds is None:
        args.seconds = 0.3 if args.quick else 1.0
    try:
        fastpool.get_num_threads()
        if numba := _numba_backend():
            numba.library.requested_level()
    except ValueError as error:  # of FASTPOOL_NUM_THREADS or FASTPOOL_KERNELS
        print(error, file=sys.stderr)
        return 2
    try:
        status = args.run(args)
        print(end="", flush=True)  # which does nothing where there is no stdout
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has ended. The interpreter flushes at its end, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
