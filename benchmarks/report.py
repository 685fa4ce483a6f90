"""One page about speed, which opens without a network: python -m benchmarks.report, or make report.

Made from the JSON of benchmarks.peers and, if there is one, that of pytest-benchmark.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks.plots import (
    about,
    compared,
    key_of,
    number,
    over_size,
    over_threads,
    over_window,
    roofline,
    torch_ratio,
)
from benchmarks.rows import BEST, COPY_SHARE, FASTPOOL, OUT, OVER

TEMPLATE = Path(__file__).with_name("report.html")
PLOTS = {
    "Roofline": (roofline, "Each mark is a row of the table; the line is a copy of as many bytes at the same moment."),
    "Growth with the window": (over_window, "Of each library its fastest way; lower is faster."),
    "Growth with the size": (over_size, "A flat line is time in proportion to the size."),
    "Growth with the threads": (over_threads, ""),
}


@dataclass(frozen=True)
class Bar:
    """A bar on a logarithmic axis, from 1x to a ratio; `left` and `width` in percent of the axis."""

    peer: str
    ratio: float
    left: float
    width: float


def bars_of(rows: Sequence[Mapping[str, Any]]) -> tuple[float, dict[str, list[Bar]]]:
    """The position of 1x on the axis, in percent; and for each row a bar for each peer, of its fastest variant.

    >>> figures = {"torch NCHW ÷ fastpool": 8.0, "torch channels_last ÷ fastpool": 2.0, "numpy ÷ fastpool": 0.5}
    >>> row = {"group": "g", "name": "n", "peers": ["torch NCHW", "torch channels_last", "numpy"], "figures": figures}
    >>> one, bars = bars_of([row])
    >>> one, [(bar.peer, bar.ratio, bar.left, bar.width) for bar in bars["g: n"]]
    (50.0, [('torch', 2.0, 50.0, 50.0), ('numpy', 0.5, 0.0, 50.0)])
    """
    ratios: dict[str, dict[str, float]] = {}
    for row in rows:
        own = ratios.setdefault(key_of(row), {})
        for variant in row["peers"]:
            ratio, peer = row["figures"][f"{variant}{OVER}{FASTPOOL}"], variant.partition(" ")[0]
            own[peer] = min(ratio, own.get(peer, ratio))
    every = [ratio for own in ratios.values() for ratio in own.values()]
    least, most = min(1.0, *every), max(1.0, *every)

    def at(ratio: float) -> float:
        return 100 * log(ratio / least) / log(most / least)

    def bar(peer: str, ratio: float) -> Bar:
        left, right = sorted((at(1), at(ratio)))
        return Bar(peer, ratio, round(left, 2), round(right - left, 2))

    return round(at(1), 2), {
        key: [bar(*pair) for pair in sorted(own.items(), key=lambda pair: -pair[1])] for key, own in ratios.items()
    }


def _median_ms(row: Mapping[str, Any], name: str | None) -> float | None:
    quartiles = row.get("quartiles", {}).get(name)
    return None if quartiles is None else quartiles[1] * 1e3


def _table(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The timed rows, each by heading. Numeric columns stay numeric, so that they sort."""
    for row in report["rows"]:
        if "seconds" in row:
            seconds, found, best = row["seconds"], row["figures"], row["best"]
            yield {
                "group": row["group"],
                "row": row["name"],
                "MB moved": row["bytes"] / 1e6,
                "fastpool ms": seconds[FASTPOOL] * 1e3,
                "with out= ms": seconds[OUT] * 1e3,
                "GB/s": found["GB/s"],
                COPY_SHARE: found[COPY_SHARE],
                "best peer": best or "",
                "best peer ms": seconds[best] * 1e3 if best else None,
                "best peer ÷ fastpool": found.get(f"{BEST}{OVER}{FASTPOOL}"),
                "PyTorch (NCHW) ÷ fastpool": torch_ratio(row),
                "fastpool median ms": _median_ms(row, FASTPOOL),
                "best peer median ms": _median_ms(row, best),
                "best peer CPU ÷ elapsed": row.get("cpu_share", {}).get(best),
            }


def _over_comparisons(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The ratio of the best peer in each comparison that was kept, oldest first, and in this one."""
    kept = report.get("earlier", [])
    for row in compared(report) if kept else []:
        key = key_of(row)
        shown = {"row": key}
        for at, one in enumerate(kept, 1):
            shown[f"{at}: {one['machine']['date']}"] = one["best"].get(key, (None, None))[1]
        yield shown | {f"{len(kept) + 1}: {report['machine']['date']}": row["figures"][f"{BEST}{OVER}{FASTPOOL}"]}


def _comparisons(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """When each comparison was, on which processor, with which versions."""
    machines = [one["machine"] for one in (*report.get("earlier", []), report)]
    names = dict.fromkeys(name for machine in machines for name in machine["versions"])
    for at, machine in enumerate(machines, 1):
        about_it = {"comparison": str(at), "date": machine["date"], "processor": machine["cpu"]}
        about_it["commit"] = machine.get("commit") or ""
        yield about_it | {name: machine["versions"].get(name, "") for name in names}


def _processes(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in report["rows"]:
        if "seconds" not in row:
            for name, value in row["figures"].items():
                yield {"group": row["group"], "row": row["name"], "figure": name, "measured": value}


def _speed(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The cases of pytest-benchmark."""
    for case in report["benchmarks"]:
        stats = case["stats"]
        yield {
            "row": case["group"],
            "call": case["extra_info"]["call"],
            "least ms": stats["min"] * 1e3,
            "median ms": stats["median"] * 1e3,
            "middle half ms": stats["iqr"] * 1e3,
            "rounds": stats["rounds"],
        }


def _svg(draw: Callable[[Mapping[str, Any], Path], None], report: Mapping[str, Any]) -> str:
    """A plot as an <svg> element: the drawing of the documentation without XML header, metadata and fixed size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plot.svg")
        draw(report, path)
        text = path.read_text(encoding="utf-8")
    element = text[text.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element))


def page(report: Mapping[str, Any], speed: Mapping[str, Any] | None = None) -> str:
    """The report as HTML."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    rows = compared(report)
    one, bars = bars_of(rows)
    ratios = [row["figures"][f"{BEST}{OVER}{FASTPOOL}"] for row in rows]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append({"name": row["name"], "bars": bars[key_of(row)]})
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        about=about(report),
        report=report,
        peers=sorted({bar.peer for some in bars.values() for bar in some}),
        groups=groups,
        one=one,
        faster=sum(ratio >= 1 for ratio in ratios),
        compared=len(ratios),
        mean=geometric_mean(ratios),
        plots={title: (Markup(_svg(draw, report)), note) for title, (draw, note) in PLOTS.items()},
        tables={
            "Every row": list(_table(report)),
            "The process": list(_processes(report)),
            "Best peer ÷ fastpool over the comparisons": list(_over_comparisons(report)),
            "The comparisons": list(_comparisons(report)),
            "Backends and peers, by pytest-benchmark": [] if speed is None else list(_speed(speed)),
        },
        speed=speed,
        number=number,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.partition("\n")[0])
    parser.add_argument("report", type=Path, help="what python -m benchmarks.peers --json wrote")
    parser.add_argument("--speed", type=Path, metavar="FILE", help="what pytest-benchmark stored, for one more table")
    parser.add_argument("--output", type=Path, metavar="FILE.html", default=Path("report.html"))
    args = parser.parse_args(argv)
    report, speed = (path and json.loads(path.read_text(encoding="utf-8")) for path in (args.report, args.speed))
    args.output.write_text(page(report, speed), encoding="utf-8")
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
