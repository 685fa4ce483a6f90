"""fastpool compared with other libraries, its peers: python -m benchmarks.peers.

All installed peers get the same arrays in one process, with the same number of threads. Results are compared before
anything is timed. The calls of a row run in turn, warm, in a new random order each round; the minimum time of each call
is reported, and its quartiles are in the JSON, with the CPU time over the elapsed time: how many threads worked. In the
rows of "noise" each call is timed as two.

A call must move at least its inputs once and its outputs once. Copies of that many bytes run in turn with the calls, on
one thread and on all. The "share of copy bandwidth" is the time of the faster copy over that of fastpool with `out=`.

Rows with a `probe` have no peers; they measure the process (`benchmarks.processes`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from fnmatch import fnmatchcase
from functools import partial
from importlib import metadata, util
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import numpy as np

import fastpool
from benchmarks.libraries import LIBRARIES
from benchmarks.plots import key_of
from benchmarks.processes import PROBES
from benchmarks.rows import AGAIN, BEST, COPY_SHARE, FASTPOOL, NOISE, OUT, OVER, Problem, Row, Target, rows
from fastpool.__main__ import environment
from fastpool.cases import results
from fastpool.timing import COPY, agree, copies, times_in_turn

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ImportError as error:
    sys.exit(f'benchmarks.peers needs rich ({error}): pip install "fastpool[bench]"')

BUSY = 0.5  # mean number of running processes


def _with_threads(threads: int, call: Callable[[], Any]) -> Any:
    before = fastpool.get_num_threads()
    fastpool.set_num_threads(threads)
    try:
        return call()
    finally:
        fastpool.set_num_threads(before)


def figures(seconds: Mapping[str, float], peers: Iterable[str], moved: int) -> dict[str, float]:
    """The figures of a timed row by name, which its targets limit.

    `x ÷ fastpool` for each peer, for each of its variants, and for the best of all; `fastpool ÷ x` for them and for
    every other call; the share of copy bandwidth; the time of a call in microseconds; GB/s; where calls are timed as
    two, the largest ratio of one to the other.

    >>> seconds = {"fastpool": 2e-6, "fastpool out=": 1e-6, "torch NCHW": 4e-6, "copy, 1 thread": 9e-7}
    >>> found = figures(seconds, ["torch NCHW"], 10)
    >>> found["torch ÷ fastpool"], found["best peer ÷ fastpool"], found["microseconds"]
    (2.0, 2.0, 2.0)
    >>> found["share of copy bandwidth"]
    0.9
    """
    ours = seconds[FASTPOOL]
    twice = {name: t for name, t in seconds.items() if name.endswith(AGAIN)}
    others = {name: t for name, t in seconds.items() if not name.startswith((FASTPOOL, COPY)) and name not in twice}
    for variant in peers:
        for name in (variant.partition(" ")[0], BEST):
            others[name] = min(others.get(name, float("inf")), seconds[variant])
    copy = min(t for name, t in seconds.items() if name.startswith(COPY))
    found = {f"{name}{OVER}{FASTPOOL}": t / ours for name, t in others.items()}
    found |= {f"{FASTPOOL}{OVER}{name}": ours / t for name, t in others.items()}
    if twice:
        ratios = [t / seconds[name.removesuffix(AGAIN)] for name, t in twice.items()]
        found[NOISE] = max(max(ratio, 1 / ratio) for ratio in ratios)
    return {
        **found,
        COPY_SHARE: copy / seconds[OUT],
        "microseconds": ours * 1e6,
        "GB/s": moved / seconds[OUT] / 1e9,
    }


def judged(targets: Iterable[Target], found: Mapping[str, float], moved: int) -> list[dict[str, Any]]:
    """Each target that applies, with its value and whether it is reached; None where the peer is not installed."""
    judgements = []
    for target in targets:
        if target.applies(moved):
            value = found.get(target.figure)
            judgements.append(
                {
                    "target": str(target),
                    "limit": target.limit,
                    "value": value,
                    "reached": None if value is None else target.reached(value),
                }
            )
    return judgements


def timed(row: Row, libraries: Iterable[Any], threads: int, seconds: float) -> dict[str, Any]:
    """Compare and time fastpool and the peers on one row."""
    p = Problem(row.task)
    result = p.call()
    expected = p.comparable(result)
    arrays = [*p.inputs, *results(result)]
    moved = sum(a.nbytes for a in arrays)
    out = tuple(np.empty_like(a) for a in results(result))
    calls = {FASTPOOL: p.call, OUT: partial(p.call, out=out if row.task.argmax else out[0])}
    wrong = [] if agree(p.comparable(calls[OUT]()), expected, exact=True) else [OUT]
    del result, arrays

    for name, task in row.references.items():
        other = Problem(task)
        calls[name] = partial(_with_threads, task.threads, other.call) if task.threads else other.call
    peers = []
    for library in libraries:
        candidates = getattr(library, row.task.family, None)
        if candidates is None or (row.peers is not None and library.name not in row.peers):
            continue
        for variant, call, read in candidates(p):
            name = f"{library.name} {variant}".strip()
            if agree(read(call()), expected, row.task.exact):
                calls[name] = call
                peers.append(name)
            else:
                wrong.append(name)
    if row.twice:
        calls |= {f"{name}{AGAIN}": call for name, call in calls.items()}
    calls |= copies(moved, threads)

    times = times_in_turn(calls, seconds)
    least = {name: own.least for name, own in times.items()}
    found = figures(least, peers, moved)
    return {
        "elements": p.x.size,
        "bytes": moved,
        "seconds": least,
        "quartiles": {name: own.quartiles for name, own in times.items()},
        "cpu_share": {name: round(own.cpu_share, 2) for name, own in times.items()},
        "peers": peers,
        "best": min(peers, key=least.__getitem__, default=None),
        "wrong": wrong,
        "figures": found,
        "targets": judged(row.targets, found, moved),
    }


def measured(row: Row, libraries: Iterable[Any], threads: int, seconds: float) -> dict[str, Any]:
    """The description and the measurements of one row, ready for JSON."""
    task = row.task
    description = {
        "group": row.group,
        "name": row.name,
        "op": task.op,
        "shape": task.shape,
        "window": task.window,
        "argmax": task.argmax,
        "dtype": task.dtype,
        "layout": task.layout,
    }
    if row.probe is None:
        return description | timed(row, libraries, threads, seconds)
    try:
        found, wrong = PROBES[row.probe](row), []
    except CalledProcessError as error:
        found, wrong = {}, [f"exit status {error.returncode}"]
    return description | {"wrong": wrong, "figures": found, "targets": judged(row.targets, found, 0)}


def commit() -> str | None:
    """The short hash of what is checked out here; None where git cannot tell."""
    arguments = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(arguments, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, CalledProcessError):
        return None
    return done.stdout.strip()


def machine(libraries: Iterable[Any]) -> dict[str, Any]:
    """The machine, the date, and the versions of fastpool, its peers and Python."""
    here = environment()
    distributions = metadata.packages_distributions()
    versions = {
        library.name: metadata.version(distributions[library.package][0])
        for library in libraries
        if library.package in distributions
    }
    versions |= {name: here[name] for name in ("fastpool", "python", "numpy", "numba")}
    return {
        **{name: here[name] for name in ("cpu", "cpus", "threads", "system")},
        "date": str(date.today()),
        "commit": commit(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """What later comparisons keep of one: the machine, the versions, and of each row the best peer and its ratio."""
    figure = f"{BEST}{OVER}{FASTPOOL}"
    return {
        "machine": report["machine"],
        "best": {
            key_of(row): [row["best"], round(row["figures"][figure], 3)] for row in report["rows"] if row.get("best")
        },
    }


def earlier(path: Path) -> list[dict[str, Any]]:
    """The comparisons before this one, oldest first: what the file keeps of others, and that which it holds."""
    if not path.exists():
        return []
    held = json.loads(path.read_text(encoding="utf-8"))
    return [*held.get("earlier", []), summary(held)]


def chosen(all_rows: Iterable[Row], patterns: Sequence[str]) -> list[Row]:
    """The rows whose `group: name` contains one of the texts, or matches one of the patterns with * or ?."""
    globs = [f"{p}*" if set(p) & set("*?") else f"*{p}*" for p in patterns or ["*"]]
    return [row for row in all_rows if any(fnmatchcase(row.key, glob) for glob in globs)]


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1e3:.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.3g}"


def _judgement(target: Mapping[str, Any]) -> str:
    if target["reached"] is None:
        return f"[dim]· {target['target']}[/dim]"
    colour, mark = ("green", "✓") if target["reached"] else ("red", "✗")
    return f"[{colour}]{mark}[/{colour}] {target['target']}: {target['value']:.3g}"


def table(group: str, rows_of_group: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of one group, with a column for each call that any of them timed."""
    shown = Table(title=group, title_justify="left", title_style="bold")
    shown.add_column("row", no_wrap=True)
    timed_rows = [row for row in rows_of_group if "seconds" in row]
    names = list(dict.fromkeys(n for row in timed_rows for n in row["seconds"] if not n.endswith(AGAIN)))
    names.sort(key=lambda name: (not name.startswith(FASTPOOL), name.startswith(COPY)))
    if timed_rows:
        shown.add_column("MB\nmoved", justify="right")
        for name in names:
            shown.add_column("\n".join([*name.split(" ", 1), "ms"]), justify="right", no_wrap=True)
        shown.add_column(f"{BEST}\n{OVER.strip()} {FASTPOOL}", justify="right", no_wrap=True)
        shown.add_column("share of copy\nbandwidth", justify="right")
    shown.add_column("targets", no_wrap=True)
    for row in rows_of_group:
        line = [row["name"]]
        if timed_rows:
            seconds, found = row["seconds"], row["figures"]
            times = {name: _milliseconds(seconds.get(name)) for name in names}
            best = row["best"]
            if best:
                times[best] = f"[bold]{times[best]}[/bold]"
            ratio = f"{found[f'{BEST}{OVER}{FASTPOOL}']:.2f}" if best else ""
            line += [f"{row['bytes'] / 1e6:.3g}", *times.values(), ratio, f"{found[COPY_SHARE]:.2f}"]
        judgements = [_judgement(target) for target in row["targets"]]
        if NOISE in row["figures"]:
            judgements.append(f"{NOISE}: {row['figures'][NOISE]:.2f}")
        line.append("\n".join([*judgements, *(f"[red]✗ wrong: {name}[/red]" for name in row["wrong"])]))
        shown.add_row(*line)
    return shown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add(
        "--rows",
        action="append",
        default=[],
        metavar="PATTERN",
        help="rows with this text in 'group: name', or a glob such as 'forward:*'; may be repeated",
    )
    add("--peers", metavar="A,B", help=f"only these of {', '.join(library.name for library in LIBRARIES)}")
    add("--threads", type=int, help="threads of each (default 2, or the CPUs of the process if fewer)")
    add("--seconds", type=float, default=1.0, help="time for each candidate of each row (default 1)")
    add("--up-to-gib", type=float, default=0.25, help="the largest array of 'growth with size' (default 0.25)")
    add("--small", action="store_true", help="tiny shapes, to see that everything works")
    add("--json", type=Path, metavar="FILE", help="write everything to FILE, after each row")
    add("--plot", type=Path, metavar="FILE.svg", help="draw the speed-ups (svg or png)")
    add("--list", action="store_true", help="print the rows and their targets")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status is 1 if a result was wrong."""
    args = _parser().parse_args(argv)
    threads = args.threads or min(2, environment()["cpus"])
    selected = chosen(rows(threads, args.up_to_gib), args.rows)
    if not selected:
        print(f"no row matches {args.rows}; --list shows them all", file=sys.stderr)
        return 2
    if args.list:
        for row in selected:
            print(f"{row.key:64} {', '.join(map(str, row.targets))}".rstrip())
        return 0
    wanted = args.peers.split(",") if args.peers else [library.name for library in LIBRARIES]
    unknown = set(wanted) - {library.name for library in LIBRARIES}
    if unknown:
        print(f"no such peer: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2

    if args.plot and not util.find_spec("matplotlib"):
        sys.exit('--plot needs matplotlib: pip install "fastpool[bench]"')

    fastpool.set_num_threads(threads)
    here = [library for library in LIBRARIES if library.name in wanted and util.find_spec(library.package)]
    report: dict[str, Any] = {
        "machine": machine(here),
        "settings": {"threads": threads, "seconds": args.seconds, "small": args.small},
        "rows": [],
    }
    load = report["machine"]["load"]
    if args.json and not args.rows and not args.small:
        report["earlier"] = earlier(args.json)
    if load is not None and load > BUSY:
        print(f"the load is {load:.1f}: other processes distort every time, PyTorch's most", file=sys.stderr)
    columns = (TextColumn("{task.description:56}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        libraries = [library(threads) for library in here]
        all_rows = progress.add_task("", total=len(selected))
        for row in selected:
            progress.update(all_rows, description=row.key)
            report["rows"].append(measured(row.small() if args.small else row, libraries, threads, args.seconds))
            progress.advance(all_rows)
            if args.json:
                args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    show(report)
    if args.plot:
        from benchmarks.plots import speedups

        speedups(report, args.plot)
    return int(any(row["wrong"] for row in report["rows"]))


def show(report: Mapping[str, Any]) -> None:
    """Print the machine, a table for each group, and how many targets are reached."""
    console = Console(width=None if sys.stdout.isatty() else 240)
    about = report["machine"]
    console.print(f"{about['cpu']}, {about['threads']} of {about['cpus']} CPUs, {about['system']}, {about['date']}")
    console.print(", ".join(f"{name} {version}" for name, version in about["versions"].items()), highlight=False)
    for group in dict.fromkeys(row["group"] for row in report["rows"]):
        console.print(table(group, [row for row in report["rows"] if row["group"] == group]))
    reached = [target["reached"] for row in report["rows"] for target in row["targets"]]
    console.print(
        f"reached: {reached.count(True)}, missed: {reached.count(False)}, not measured: {reached.count(None)}"
    )


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a console without ✓ shows a question mark
    sys.exit(main())
