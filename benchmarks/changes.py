"""Where the kept history became slower or faster: python -m benchmarks.changes.

A series is one benchmark with one combination of parameters, on one machine in one environment. asv fits a piecewise
constant function to its logarithms (`asv.step_detect.solve_potts`). The penalty for each step follows from the noise of
the series: the one that asv chooses by itself misses many slow-downs of 1.2 times in a history of a dozen commits. One
outlier is no step: a step has at least two commits on either side.

The exit status is 1 if a benchmark became slower at one of the newest commits.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import dashboard

# Tried on series with noise of 1 to 3 % into which slow-downs of 1.2 times were planted: see tests/test_changes.py.
FACTOR = 1.1  # of a step: half-way to 1.2
PENALTY = 3.0  # of a step, in standard deviations of the noise
LEAST_NOISE = 0.005  # of a logarithm: what a series without noise is taken to have
FEWEST = 2  # commits between two steps
NEWEST = 3  # measured commits: a step is found when the second commit after it has been measured


class Step(NamedTuple):
    """A change of a benchmark from one measured commit to the next."""

    benchmark: str
    machine: str
    commit: str
    subject: str
    between: int  # commits that were not measured, of which each may be the cause
    factor: float  # of the time after over that before
    age: int  # measured commits since then

    @property
    def slower(self) -> bool:
        return self.factor > 1


def steps(values: Sequence[float], factor: float = FACTOR) -> list[tuple[int, float]]:
    """The indices at which a series of positive values steps by a factor or more, up or down, with the factors.

    >>> steps([1.00, 1.01, 0.99, 1.00, 1.20, 1.21])
    [(4, 1.205)]
    """
    from asv.step_detect import solve_potts

    if len(values) < 2 * FEWEST:
        return []
    logarithms = [math.log(value) for value in values]
    differences = [abs(b - a) for a, b in itertools.pairwise(logarithms)]
    # The median of |x - y| is 0.954 standard deviations of normal noise; few differences have a step in them.
    noise = max(median(differences) / 0.954, LEAST_NOISE)
    ends, levels, _ = solve_potts(logarithms, [1] * len(values), PENALTY * noise, min_size=FEWEST)
    found = [
        (end, math.exp(after - before)) for end, (before, after) in zip(ends, itertools.pairwise(levels), strict=False)
    ]
    return [(at, round(by, 4)) for at, by in found if max(by, 1 / by) >= factor]


def history(results: Path, order: Mapping[str, int]) -> Iterator[tuple[str, str, list[tuple[str, float]]]]:
    """Each series of a folder of results: benchmark, machine, and the figures of the commits in an order."""
    from asv.results import iter_results

    benchmarks = json.loads((results / "benchmarks.json").read_text(encoding="utf-8"))
    series: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in iter_results(str(results)):
        if result.commit_hash not in order:
            continue
        where = tuple(sorted((key, value or "") for key, value in result.params.items()))
        for name in result.get_result_keys(benchmarks):
            params = benchmarks[name]["params"]
            for chosen, value in zip(itertools.product(*params), result.get_result_value(name, params), strict=True):
                if value is not None and value > 0:  # neither failed nor n/a
                    label = f"{name}({', '.join(chosen)})" if chosen else name
                    series[label, where][result.commit_hash].append(value)
    for (label, where), values in sorted(series.items()):
        commits = sorted(values, key=order.__getitem__)
        yield label, dict(where).get("machine", ""), [(commit, median(values[commit])) for commit in commits]


def found_steps(results: Path, repository: Path, factor: float = FACTOR) -> list[Step]:
    """The steps of all series, oldest first."""
    log = dashboard.git("log", "--first-parent", "--reverse", "--format=%H %s", "HEAD", repository=repository)
    subjects = dict(line.split(" ", 1) for line in log.splitlines())
    order = {commit: place for place, commit in enumerate(subjects)}
    all_steps = []
    for benchmark, machine, series in history(results, order):
        commits = [commit for commit, _ in series]
        for at, by in steps([value for _, value in series], factor):
            commit, between = commits[at], order[commits[at]] - order[commits[at - 1]] - 1
            all_steps.append(Step(benchmark, machine, commit, subjects[commit], between, by, len(series) - 1 - at))
    return sorted(all_steps, key=lambda step: (order[step.commit], -step.factor))


def table(found: Sequence[Step], markdown: bool) -> str:
    """Commit, subject, benchmark and factor of each step, as text or as a table of Markdown."""
    rows = [("commit", "subject", "benchmark", "machine", "time")]
    for step in found:
        commit = step.commit[:8] + (f" or one of {step.between} before" if step.between else "")
        subject, benchmark = (step.subject, step.benchmark)
        if markdown:
            subject, benchmark = subject.replace("|", "\\|"), f"`{benchmark}`"
        rows.append((commit, subject, benchmark, step.machine, f"{step.factor:.2f}x"))
    if markdown:
        rows.insert(1, ("---",) * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    subject = max(len(row[1][:60]) for row in rows)
    return "\n".join(f"{time:>7}  {commit:32}  {text[:60]:{subject}}  {name}" for commit, text, name, _, time in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the steps; 1 if one of the newest commits is slower."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.changes", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--factor", type=float, default=FACTOR, help=f"the least factor (default {FACTOR})")
    text = "how many measured commits of a series are new (default %(default)s); the exit status depends on them"
    add("--newest", type=int, default=NEWEST, metavar="N", help=text)
    add("--slower", action="store_true", help="print only what became slower at the newest commits")
    add("--markdown", action="store_true", help="print a table of Markdown, for a comment")
    add("--results", action="append", type=Path, default=[], metavar="FOLDER", help="read this folder of results, too")
    args = parser.parse_args(argv)
    results = dashboard.gather(dashboard.HERE, *(folder.absolute() for folder in args.results))
    found = found_steps(results, dashboard.HERE, args.factor)
    worse = [step for step in found if step.slower and step.age < args.newest]
    shown = worse if args.slower else found
    if shown:
        print(table(shown, args.markdown))
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
