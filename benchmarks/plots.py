"""Plots and Markdown tables from the JSON of benchmarks.peers.

    python -m benchmarks.plots peers.json --folder docs/performance --readme README.md --page docs/performance.md

A table replaces what stands between the lines `<!-- peers:begin -->` and `<!-- peers:end -->` of a file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import log2
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rows import BEST, COPY_SHARE, FASTPOOL, NOISE, OUT, OVER
from fastpool.timing import COPY

BEGIN, END = "<!-- peers:begin -->", "<!-- peers:end -->"
TORCH = "torch"

# Typical rows, for README and pytest-benchmark. The first one is the headline of README.
SELECTION = (
    "forward: 3x3 s2 p1 (8,64,112,112)",
    "forward: 2x2 s2 (8,64,224,224)",
    "forward: 13x13 s1 p6 (8,256,20,20)",
    "forward channels_last: 3x3 s2 p1 (8,64,112,112)",
    "argmax: 3x3 s2 p1 (8,64,112,112)",
    "argmax: 2x2 s2 (8,64,224,224)",
    "backward: 3x3 s2 p1 (8,64,112,112)",
    "backward: 2x2 s2 (8,64,224,224)",
    "volumes and signals: 2x2x2 s2 (8,16,32,40,40)",
    "maxout: 2 pieces strided (8,96,128,128)",
    "maxout argmax: 2 pieces strided (8,96,128,128)",
    "maxout backward: 2 pieces strided (8,96,128,128)",
    "maxout: 4 pieces contiguous (4096,2048)",
    "im2col: 3x3 s1 p1 (8,64,56,56)",
    "col2im: 3x3 s1 p1 (8,64,56,56)",
    "activations: hard_swish 10,000,000",
    "large windows: 65x65 s1 p32 (1,1,2048,2048)",
)

# Okabe and Ito's colours, which the colour-blind can tell apart, each with a mark of its own; then dashed once more.
STYLES = tuple(
    {"color": colour, "marker": mark, "linestyle": line, "markersize": 5}
    for line in ("-", "--")
    for colour, mark in (
        ("#0072B2", "o"),
        ("#D55E00", "s"),
        ("#009E73", "^"),
        ("#CC79A7", "D"),
        ("#E69F00", "v"),
        ("#56B4E9", "P"),
        ("#000000", "X"),
    )
)

Rows = Sequence[Mapping[str, Any]]


def key_of(row: Mapping[str, Any]) -> str:
    """The key of a row of the JSON, as `Row.key`."""
    return f"{row['group']}: {row['name']}"


def compared(report: Mapping[str, Any]) -> Rows:
    """The rows in which a peer was timed, but for those of curves and of noise."""
    others = "growth", "noise"
    return [row for row in report["rows"] if row.get("best") and not row["group"].startswith(others)]


def shown_in_readme(report: Mapping[str, Any]) -> list[str]:
    """The keys of the typical rows and, of each group in which a peer is faster, the row with the lowest ratio."""
    lowest: dict[str, tuple[float, str]] = {}
    for row in compared(report):
        ratio = row["figures"][f"{BEST}{OVER}{FASTPOOL}"]
        if ratio < 1:
            group = row["group"]
            lowest[group] = min(lowest.get(group, (1.0, "")), (ratio, key_of(row)))
    wanted = {*SELECTION, *(key for _, key in lowest.values())}
    return [key for row in report["rows"] if (key := key_of(row)) in wanted]


def headline(report: Mapping[str, Any]) -> str:
    """A sentence about the first typical row, and two about all rows."""
    row = next(row for row in report["rows"] if key_of(row) == SELECTION[0])
    best, rows = row["best"], compared(report)
    side, stride, padding = row["window"]
    ours, of_best, of_torch = (number(row["seconds"][name] * 1e3) for name in (FASTPOOL, best, f"{TORCH} NCHW"))
    faster = sum(row["figures"][f"{BEST}{OVER}{FASTPOOL}"] >= 1 for row in rows)
    return (
        f"**{ours} ms** for `{row['op']}` with {side}x{side} windows, stride {stride}, padding {padding}, "
        f"on a {row['dtype']} array of shape {tuple(row['shape'])}. "
        f"The fastest other library, {best}, takes {of_best} ms; PyTorch, on the same NCHW memory, {of_torch} ms. "
        f"fastpool is faster than every other library in {faster} of {len(rows)} rows. The table shows typical rows "
        "and, of each group with a row in which another library is faster, the one with the largest lead."
    )


def about(report: Mapping[str, Any]) -> str:
    """The machine and the date, in a line."""
    here, settings = report["machine"], report["settings"]
    return f"{here['cpu']}, {settings['threads']} threads, {here['system']}, {here['date']}"


def digest(report: Mapping[str, Any]) -> str:
    """A hash of the figures, stored in each plot to see whether it is up to date, whichever matplotlib drew it."""
    return hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()[:16]


def _axes(report: Mapping[str, Any], title: str, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.set_label(digest(report))
    axes = figure.subplots()
    axes.set_title(f"{title}\n{about(report)}", fontsize=10, loc="left")
    axes.set_axisbelow(True)
    axes.grid(color="0.5", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    import matplotlib

    # Same figures, same file; text stays text.
    with matplotlib.rc_context({"svg.hashsalt": "fastpool", "svg.fonttype": "none"}):
        kept = {"Date": None, "Source": f"figures {figure.get_label()}"} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=kept)


def torch_ratio(row: Mapping[str, Any]) -> float | None:
    """PyTorch's time over fastpool's, in its default layout where it has several."""
    found = row["figures"]
    return found.get(f"{TORCH} NCHW{OVER}{FASTPOOL}", found.get(f"{TORCH}{OVER}{FASTPOOL}"))


def speedups(report: Mapping[str, Any], path: Path, selection: Sequence[str] | None = None) -> None:
    """For each compared or each selected row, the time of the best peer and of PyTorch, NCHW, over fastpool's."""
    from matplotlib.ticker import LogLocator, NullLocator

    labels: list[str] = []
    points: dict[str, list[tuple[float, int]]] = {BEST: [], "PyTorch, NCHW": []}
    headings = []
    for row in compared(report):
        if selection is not None and key_of(row) not in selection:
            continue
        if row["group"] not in labels:
            headings.append(len(labels))
            labels.append(row["group"])
        ratios = (row["figures"][f"{BEST}{OVER}{FASTPOOL}"], torch_ratio(row))
        for of_peer, ratio in zip(points.values(), ratios, strict=True):
            if ratio:
                of_peer.append((ratio, len(labels)))
        labels.append(row["name"])
    figure, axes = _axes(report, "Time of a peer over that of fastpool", (8, 1.6 + 0.17 * len(labels)))
    _curves(axes, points, linestyle="none")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(1, color="0.3", linewidth=1)
    axes.set_xlabel("times as long as fastpool (logarithmic; left of the line the peer is faster)")
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    for at in headings:
        axes.get_yticklabels()[at].set_fontweight("bold")
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    _save(figure, path)


def _curves(axes: Any, curves: Mapping[str, Sequence[tuple[float, float]]], **style: Any) -> None:
    """Plot each curve that has points, in its own style, with a legend next to the axes."""
    for (name, points), own in zip(curves.items(), STYLES, strict=False):
        if points:
            axes.plot(*zip(*points, strict=True), label=name, **(own | style))
    if any(curves.values()):
        axes.figure.legend(loc="outside right upper", frameon=False, fontsize=8)


def over_window(report: Mapping[str, Any], path: Path) -> None:
    """Time against the side of the window, stride 1; of each peer its fastest variant."""
    curves: dict[str, dict[float, float]] = {}
    for row in report["rows"]:
        if row["group"] != "growth with window":
            continue
        side, _, _ = row["window"]
        for name in (FASTPOOL, *([] if row["argmax"] else row["peers"])):
            curve = curves.setdefault(f"{name.partition(' ')[0]}{' with argmax' * row['argmax']}", {})
            curve[side] = min(curve.get(side, float("inf")), row["seconds"][name] * 1e3)
    figure, axes = _axes(report, "A stride of 1 over an image of 2048x2048, float32", (8, 4.5))
    ours_first = sorted(curves, key=lambda name: not name.startswith(FASTPOOL))
    _curves(axes, {name: sorted(curves[name].items()) for name in ours_first})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("side of the window (elements, logarithmic)")
    axes.set_ylabel("time of a call (ms, logarithmic)")
    _save(figure, path)


def over_size(report: Mapping[str, Any], path: Path) -> None:
    """Time for each element against the size of the input."""
    group = [row for row in report["rows"] if row["group"] == "growth with size"]
    figure, axes = _axes(report, "3x3, stride 2, planes of 512x512, float32", (8, 4))
    picked: dict[str, Callable[[Any], float]] = {
        FASTPOOL: lambda row: row["seconds"][FASTPOOL],
        OUT: lambda row: row["seconds"][OUT],
        "copy of as many bytes": _copy_seconds,
    }
    curves = {
        name: [(4 * row["elements"] / 2**20, time(row) / row["elements"] * 1e9) for row in group]
        for name, time in picked.items()
    }
    _curves(axes, curves)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("size of the input (MiB, logarithmic)")
    axes.set_ylabel("time for each element of the input (ns)")
    _save(figure, path)


def over_threads(report: Mapping[str, Any], path: Path) -> None:
    """Speed-up over one thread against the number of threads."""
    most = report["settings"]["threads"]
    curves = {}
    for row in report["rows"]:
        if row["group"] == "growth with threads":
            times = {1: row["seconds"].get("one thread", row["seconds"][FASTPOOL]), most: row["seconds"][FASTPOOL]}
            times |= {n: row["seconds"][f"{n} threads"] for n in range(2, most)}
            curves[row["name"]] = [(n, times[1] / times[n]) for n in sorted(times)]
    figure, axes = _axes(report, "Speed-up by threads", (8, 4))
    axes.plot([1, most], [1, most], color="0.6", linestyle=":", label="as many times as threads")
    _curves(axes, curves)
    axes.set_xticks(range(1, most + 1))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("threads")
    axes.set_ylabel("times as fast as one thread")
    _save(figure, path)


def roofline(report: Mapping[str, Any], path: Path) -> None:
    """The bandwidth of each call, compared with that of a copy of as many bytes."""
    figure, axes = _axes(report, "Bandwidth reached with out=, compared with a copy of as many bytes", (8, 5))
    timed = [row for row in report["rows"] if "seconds" in row and row["bytes"] >= 2**16]
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in timed:
        curves.setdefault(_op_group(row), []).append((row["bytes"] / 2**20, row["bytes"] / row["seconds"][OUT] / 1e9))
    copied = sorted((row["bytes"] / 2**20, row["bytes"] / _copy_seconds(row) / 1e9) for row in timed)
    axes.plot(*zip(*_medians(copied), strict=True), color="0.5", label=f"{COPY}, the roof")
    _curves(axes, curves, linestyle="none", alpha=0.85)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("bytes that must move (MiB, logarithmic)")
    axes.set_ylabel("GB/s (logarithmic)")
    _save(figure, path)


def _copy_seconds(row: Mapping[str, Any]) -> float:
    return min(t for name, t in row["seconds"].items() if name.startswith(COPY))


def _op_group(row: Mapping[str, Any]) -> str:
    """The group of ops that shares one marker in the roofline plot."""
    if "pool" in row["op"]:
        return f"pooling{' backward' if 'backward' in row['op'] else ' with argmax' if row['argmax'] else ''}"
    return "maxout" if "maxout" in row["op"] else "activations" if "swish" in row["op"] else "im2col, col2im"


def _medians(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The medians of the points in each doubling of x."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for x, y in points:
        bins.setdefault(round(log2(x)), []).append((x, y))
    return [(median(x for x, _ in some), median(y for _, y in some)) for _, some in sorted(bins.items())]


PLOTS = {"speedups": speedups, "roofline": roofline, "window": over_window, "size": over_size, "threads": over_threads}
README_PLOT = "readme"


def number(value: float | None) -> str:
    """A value with three significant digits."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _timed_table(rows: Rows, with_targets: bool, with_group: bool) -> list[str]:
    head = [
        "row",
        "fastpool ms",
        COPY_SHARE,
        "best peer",
        "ms",
        "best peer ÷ fastpool",
        "PyTorch (NCHW) ÷ fastpool",
    ]
    lines = ["| " + " | ".join([*head, *["targets"] * with_targets]) + " |"]
    lines.append("|---|--:|--:|---|--:|--:|--:|" + "---|" * with_targets)
    for row in rows:
        seconds, found, best = row["seconds"], row["figures"], row["best"]
        line = [
            key_of(row) if with_group else row["name"],
            number(seconds[FASTPOOL] * 1e3),
            f"{found[COPY_SHARE]:.2f}",
            best or "",
            number(seconds[best] * 1e3) if best else "",
            number(found.get(f"{BEST}{OVER}{FASTPOOL}")),
            number(torch_ratio(row)),
        ]
        lines.append("| " + " | ".join([*line, *[_judgements(row)] * with_targets]) + " |")
    return lines


def _judgements(row: Mapping[str, Any]) -> str:
    marks = {True: "✓", False: "✗", None: "·"}
    judgements = [
        f"{marks[target['reached']]} {target['target']}"
        + ("" if target["value"] is None else f": {number(target['value'])}")
        for target in row["targets"]
    ]
    if NOISE in row["figures"]:
        judgements.append(f"{NOISE}: {number(row['figures'][NOISE])}")
    return "; ".join(judgements)


def markdown(report: Mapping[str, Any], selection: Sequence[str] | None = None) -> str:
    """The machine, and a table for each group, or one table of the selected rows."""
    versions = ", ".join(f"{name} {version}" for name, version in report["machine"]["versions"].items())
    source = f"{about(report)}; {versions}."
    if selection is not None:
        picked = [row for row in report["rows"] if key_of(row) in selection]
        return "\n".join([*_timed_table(picked, with_targets=False, with_group=True), "", source])
    lines = [source]
    for group in dict.fromkeys(row["group"] for row in report["rows"]):
        rows_of_group = [row for row in report["rows"] if row["group"] == group]
        lines += ["", f"### {group}", ""]
        if "seconds" in rows_of_group[0]:
            lines += _timed_table(rows_of_group, with_targets=True, with_group=False)
        else:
            lines += ["| row | measured |", "|---|---|"]
            lines += [f"| {row['name']} | {_judgements(row)} |" for row in rows_of_group]
    return "\n".join(lines)


MOVED = 1.25  # the least factor by which a row has moved that is shown


def moves(report: Mapping[str, Any]) -> list[tuple[str, list[Any], list[Any]]]:
    """The rows that were in the last comparison, too: name, and best peer with its ratio, then and now."""
    then = report["earlier"][-1]["best"]
    return [
        (key_of(row), then[key_of(row)], [row["best"], row["figures"][f"{BEST}{OVER}{FASTPOOL}"]])
        for row in compared(report)
        if key_of(row) in then
    ]


def since_the_last(report: Mapping[str, Any]) -> str:
    """What changed since the last comparison: versions, and the rows that have moved most."""
    if not report.get("earlier"):
        return ""
    before, now = report["earlier"][-1]["machine"], report["machine"]
    versions = {**dict.fromkeys(before["versions"]), **dict.fromkeys(now["versions"])}
    changed = [
        f"{name} {before['versions'].get(name, 'not measured')} → {now['versions'].get(name, 'not measured')}"
        for name in versions
        if before["versions"].get(name) != now["versions"].get(name)
    ]
    machine = "the same kind of processor" if before["cpu"] == now["cpu"] else f"another machine, {before['cpu']}"
    found = moves(report)
    moved = [(key, then, here) for key, then, here in found if max(here[1] / then[1], then[1] / here[1]) >= MOVED]
    lines = [
        "### Since the last comparison",
        "",
        f"That was of {before['date']}, on {machine}. Versions: {', '.join(changed) or 'the same'}. "
        f"Of {len(found)} rows in both, {len(moved)} have moved by a factor of {MOVED} or more.",
    ]
    if moved:
        head = "row", "best peer then", "best peer ÷ fastpool then", "best peer now", "best peer ÷ fastpool now"
        lines += ["", f"| {' | '.join(head)} |", "|---|---|--:|---|--:|"]
        moved.sort(key=lambda row: row[2][1] / row[1][1])
        lines += [f"| {key} | {a} | {number(x)} | {b} | {number(y)} |" for key, (a, x), (b, y) in moved]
    return "\n".join(lines)


def between_markers(text: str, table: str) -> str:
    """A text in which the table replaces what the markers enclose."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the file must hold the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Draw and write; with --check the exit status is 1 if a file is out of date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__.partition("\n")[0])
    parser.add_argument("report", type=Path, help="what python -m benchmarks.peers --json wrote")
    parser.add_argument("--folder", type=Path, help=f"draw {', '.join((*PLOTS, README_PLOT))} as SVG into it")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="put headline, plot and a table of selected rows into FILE"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the tables of all rows into FILE")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if something would change")
    args = parser.parse_args(argv)
    report = json.loads(args.report.read_text(encoding="utf-8"))
    stale = [] if args.folder is None else _drawn(report, args.folder, args.check)
    for path, selection in ((args.readme, shown_in_readme(report)), (args.page, None)):
        if path is None:
            continue
        old = path.read_text(encoding="utf-8")
        table = markdown(report, selection)
        if selection is None and (since := since_the_last(report)):
            table = f"{table}\n\n{since}"
        if selection is not None:
            above = [headline(report)]
            if args.folder:
                plot = Path(os.path.relpath(args.folder, path.parent), f"{README_PLOT}.svg")
                above.append(f"![Time of other libraries over that of fastpool]({plot.as_posix()})")
            table = "\n\n".join([*above, table])
        new = between_markers(old, table)
        if new != old:
            stale.append(path)
            if not args.check:
                path.write_text(new, encoding="utf-8")
    if args.check:
        for path in stale:
            print(f"{path} does not show what {args.report} holds: make report", file=sys.stderr)
    return int(args.check and bool(stale))


def _drawn(report: Mapping[str, Any], folder: Path, check: bool) -> list[Path]:
    """Draw every plot into a folder; with `check`, return those that are missing or drawn from other figures."""
    plots = {folder / f"{name}.svg": draw for name, draw in PLOTS.items()}
    plots[folder / f"{README_PLOT}.svg"] = partial(speedups, selection=shown_in_readme(report))
    if check:
        return [path for path in plots if not path.is_file() or digest(report) not in path.read_text(encoding="utf-8")]
    folder.mkdir(parents=True, exist_ok=True)
    for path, draw in plots.items():
        draw(report, path)
    return []


if __name__ == "__main__":
    sys.exit(main())
