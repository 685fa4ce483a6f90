"""The comparison with peers: results are compared before they are timed, and figures are computed correctly."""

import doctest
import json
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import sleep

import numpy as np
import pytest

from fastpool import timing

pytest.importorskip("ml_dtypes")
pytest.importorskip("rich")

from benchmarks import peers, plots
from benchmarks import report as page
from benchmarks.rows import COPY_SHARE, NOISE, Problem, Row, Target, Task, copy_share, faster, rows, within

ROOT = Path(__file__).resolve().parent.parent
ROWS = {row.key: row for row in rows()}
POOL = Row("forward", "a small pool", Task("max_pool2d", (1, 2, 6, 6), (3, 1, 1)))


class Peer:
    """A library that returns fastpool's own results, after `change`."""

    name = "peer"

    def __init__(self, change=lambda *results: None):
        self.change = change

    def _candidates(self, p):
        def call():
            results = [a.copy() for a in p.comparable(p.call())]
            self.change(*results)
            return results

        yield "its variant", call, lambda results: results

    max_pool = max_pool_backward = _candidates


def test_the_names_of_rows_are_unique():
    assert max(Counter(row.key for row in rows()).values()) == 1


def test_the_rows_of_the_readme_exist():
    assert set(plots.SELECTION) <= set(ROWS)


def test_rows_are_chosen_by_a_text_or_a_pattern():
    def keys(*patterns):
        return [row.key for row in peers.chosen(rows(), patterns)]

    assert keys() == list(ROWS)
    assert {key.partition(":")[0] for key in keys("forward:*")} == {"forward"}
    assert {key.partition(":")[0] for key in keys("forward")} == {"forward", "forward channels_last"}
    assert keys("tiny", "cold") == [key for key in ROWS if "tiny" in key or "cold" in key]
    assert keys("no such row") == []


def test_no_two_elements_of_a_window_tie():
    x = Problem(Task("max_pool2d", (1, 1, 2048, 512), (255, 1, 127))).x
    assert np.unique(x[..., :1900, :]).size == 1900 * 512


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_peers_and_fastpool_get_the_same_array(layout):
    p = Problem(Task("max_pool2d", (2, 3, 8, 6), (2, 2, 0), argmax=True, layout=layout))
    assert p.x.shape == (2, 3, 8, 6)
    assert np.shares_memory(p.x, p.inputs[0])
    assert p.inputs[0].flags.c_contiguous
    y, at_argmax = p.comparable(p.call())
    np.testing.assert_array_equal(y, p.x.reshape(2, 3, 4, 2, 3, 2).max((3, 5)))
    np.testing.assert_array_equal(at_argmax, y)


SECONDS = {
    "fastpool": 2e-6,
    "fastpool out=": 1e-6,
    "15x15": 1e-6,
    "torch NCHW": 8e-6,
    "torch channels_last": 4e-6,
    "numpy": 3e-6,
    "copy, 1 thread": 9e-7,
    "copy, 2 threads": 8e-7,
}


@pytest.mark.parametrize(
    ("target", "value", "reached"),
    [
        (faster(1.5, "best peer"), 1.5, True),
        (faster(2, "torch"), 2, True),
        (faster(5, "torch NCHW"), 4, False),
        (faster(1, "thinc"), None, None),
        (within(2, "15x15"), 2, True),
        (within(1.3, "numpy"), 2 / 3, True),
        (within(0.1, "torch"), 0.5, False),
        (copy_share(0.85), 0.8, False),
        (Target("microseconds", "<=", 2.5), 2, True),
    ],
    ids=str,
)
def test_a_target_is_compared_with_its_figure(target, value, reached):
    found = peers.figures(SECONDS, ["torch NCHW", "torch channels_last", "numpy"], moved=8000)
    (judgement,) = peers.judged([target], found, moved=8000)
    assert judgement["value"] == (None if value is None else pytest.approx(value))
    assert judgement["reached"] is reached


def test_reference_calls_of_fastpool_are_no_peers():
    found = peers.figures(SECONDS | {"one thread": 1e-9}, ["numpy"], moved=8000)
    assert found["best peer ÷ fastpool"] == pytest.approx(1.5)


def test_calls_that_are_timed_as_two_show_the_noise():
    again = {"torch NCHW again": 8.8e-6, "numpy again": 2.4e-6}
    found = peers.figures(SECONDS | again, ["torch NCHW", "numpy"], moved=8000)
    assert found[NOISE] == pytest.approx(1.25)
    assert not [figure for figure in found if "again" in figure]


def test_a_row_of_noise_times_each_call_as_two():
    measurements = peers.timed(replace(POOL, twice=True), [Peer()], threads=1, seconds=0)
    calls = {"fastpool", "fastpool out=", "peer its variant"}
    assert set(measurements["seconds"]) == calls | {f"{name} again" for name in calls} | {"copy, 1 thread"}
    assert measurements["figures"][NOISE] >= 1
    for name in measurements["seconds"]:
        lower, middle, upper = measurements["quartiles"][name]
        assert measurements["seconds"][name] <= lower <= middle <= upper


def test_the_cpu_time_of_a_call_shows_how_many_threads_work():
    times = timing.times_in_turn({"asleep": partial(sleep, 0.02), "busy": partial(sum, range(300_000))}, seconds=0)
    assert times["asleep"].cpu_share < 0.5 < times["busy"].cpu_share


def test_a_target_applies_only_to_its_sizes():
    targets = [copy_share(0.85, over=100), copy_share(0.5, up_to=100)]
    assert [judgement["limit"] for judgement in peers.judged(targets, {COPY_SHARE: 1.0}, moved=50)] == [0.5]
    assert [judgement["limit"] for judgement in peers.judged(targets, {COPY_SHARE: 1.0}, moved=150)] == [0.85]


def test_a_peer_that_agrees_is_timed():
    measurements = peers.timed(POOL, [Peer()], threads=1, seconds=0)
    assert measurements["peers"] == ["peer its variant"]
    assert measurements["wrong"] == []
    assert measurements["best"] == "peer its variant"
    assert set(measurements["seconds"]) == {"fastpool", "fastpool out=", "peer its variant", "copy, 1 thread"}


def _one_value_off(*results):
    results[0].flat[-1] = np.nextafter(results[0].flat[-1], np.float32(np.inf))


def _another_cell(y, at_argmax):
    at_argmax.flat[0] -= 1


def _scaled(dx):
    dx *= 1.001


@pytest.mark.parametrize(
    ("changes", "change"),
    [
        ({}, _one_value_off),
        ({"argmax": True}, _another_cell),
        ({"op": "max_pool2d_backward"}, _scaled),
        ({"layout": "channels_last"}, _one_value_off),
    ],
    ids=["one value off", "argmax at another cell", "gradient scaled", "one value off, channels last"],
)
def test_a_wrong_result_is_reported_and_not_timed(changes, change):
    task = Task(**{"op": "max_pool2d", "shape": (1, 2, 6, 6), "window": (3, 1, 1), **changes})
    measurements = peers.timed(Row("forward", "changed", task), [Peer(change), Peer()], threads=1, seconds=0)
    assert measurements["wrong"] == ["peer its variant"]
    assert measurements["peers"] == ["peer its variant"]  # the second one, which agrees


def test_all_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    least = timing.least_times(calls, seconds=0)
    assert set(least) == set("abc")
    assert all(time < float("inf") for time in least.values())
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert min(Counter(turns).values()) >= timing.FEWEST_ROUNDS


def test_copies_move_half_the_bytes_each_way():
    for threads in (1, 2, 3):
        every = timing.copies(1000, threads)
        assert len(every) == min(threads, 2)
        target, source = every[f"{timing.COPY}, 1 thread"].args
        assert target.nbytes == source.nbytes == 500
        for copy in every.values():
            target[...] = 0
            copy()
            np.testing.assert_array_equal(target, source)


@pytest.fixture(scope="module")
def report(python, tmp_path_factory):
    """One run over a row or two of most groups at a tiny size: its output and its JSON."""
    path = tmp_path_factory.mktemp("peers") / "peers.json"
    patterns = (
        "forward: 2x2 s2 (8",
        "forward channels_last: 3x3 s1",
        "argmax: 13x13",
        "backward: 3x3 s2 p1 (8",
        "volumes and signals: 3x3x3",
        "volumes and signals: 3 s3 (8,64,12544) backward",
        "dtypes: bfloat16 3x3",
        "maxout*: 3 pieces*",
        "im2col: 7x7",
        "col2im: 7x7",
        "activations: *100,000",
        "growth with size: 1 MiB",
        "growth with window: 5x5",
        "growth with threads: max_pool2d",
        "memory: max_pool2d argmax 2x2",
    )
    out = python(
        *("-m", "benchmarks.peers", "--small", "--seconds", "0", "--peers", "torch,numpy", "--json", path),
        *(word for pattern in patterns for word in ("--rows", pattern)),
    )
    return out, json.loads(path.read_text(encoding="utf-8"))


def test_a_run_writes_everything_to_json(report):
    _, written = report
    assert {"cpu", "cpus", "threads", "date", "versions"} <= set(written["machine"])
    assert written["machine"]["versions"]["numpy"] == np.__version__
    for row in written["rows"]:
        assert row["wrong"] == []
        if "seconds" in row:
            assert all(time > 0 for time in row["seconds"].values())
            assert {"fastpool", "fastpool out="} <= set(row["seconds"])
            assert set(row["peers"]) <= set(row["seconds"])
            assert row["bytes"] > 0
        for target in row["targets"]:
            assert target["reached"] is None or isinstance(target["reached"], bool)
    forward = next(row for row in written["rows"] if row["group"] == "forward")
    assert "numpy" in forward["peers"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux reports the peak")
def test_a_run_measures_memory(report):
    (memory,) = (row for row in report[1]["rows"] if row["group"] == "memory")
    assert memory["figures"]["MB beyond the outputs"] < 1000
    assert memory["targets"][0]["value"] is not None


def test_a_run_prints_a_row_for_each(report):
    out, written = report
    for row in written["rows"]:
        assert row["name"] in out
        assert row["group"] in out
    assert "reached:" in out


def test_plots_are_drawn_from_the_json(report, tmp_path):
    pytest.importorskip("matplotlib")
    for name, draw in plots.PLOTS.items():
        draw(report[1], tmp_path / f"{name}.svg")
        assert "</svg>" in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")


def test_tables_replace_what_stands_between_the_markers(report, tmp_path):
    source, page = tmp_path / "peers.json", tmp_path / "page.md"
    source.write_text(json.dumps(report[1]), encoding="utf-8")
    page.write_text("before\n<!-- peers:begin -->\nold\n<!-- peers:end -->\nafter\n", encoding="utf-8")
    command = [str(source), "--page", str(page)]
    assert plots.main([*command, "--check"]) == 1
    assert plots.main(command) == 0
    assert plots.main([*command, "--check"]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- peers:begin -->\n")
    assert text.endswith("\n<!-- peers:end -->\nafter\n")
    assert "old" not in text
    for row in report[1]["rows"]:
        assert f"| {row['name']} |" in text
    with pytest.raises(ValueError, match="peers:begin"):
        plots.between_markers("no markers", "")


def comparison(date, ratios, **versions):
    rows = [
        {"group": "g", "name": name, "best": "torch", "figures": {"best peer ÷ fastpool": ratio}}
        for name, ratio in ratios.items()
    ]
    return {"machine": {"date": date, "cpu": "a CPU", "versions": versions}, "rows": rows}


def test_a_comparison_keeps_the_earlier_ones_and_tells_what_moved(tmp_path):
    path = tmp_path / "peers.json"
    assert peers.earlier(path) == []
    first = comparison("2026-01-01", {"a": 2.0, "b": 1.0, "gone": 3.0}, torch="1", jax="7")
    path.write_text(json.dumps(first), encoding="utf-8")
    second = comparison("2026-02-01", {"a": 1.5, "b": 1.1, "new": 4.0}, torch="2", onnx="5")
    second["earlier"] = peers.earlier(path)
    text = plots.since_the_last(second)
    assert "of 2026-01-01, on the same kind of processor" in text
    assert "torch 1 → 2, jax 7 → not measured, onnx not measured → 5" in text
    assert "Of 2 rows in both, 1 have moved" in text
    assert text.endswith("| g: a | torch | 2 | torch | 1.5 |")
    path.write_text(json.dumps(second), encoding="utf-8")
    third = comparison("2026-03-01", {"a": 1.5}, torch="2", onnx="5")
    third["earlier"] = peers.earlier(path)
    assert [one["machine"]["date"] for one in third["earlier"]] == ["2026-01-01", "2026-02-01"]
    assert "Versions: the same. Of 1 rows in both, 0 have moved" in plots.since_the_last(third)
    (line,) = page._over_comparisons(third)
    assert line == {"row": "g: a", "1: 2026-01-01": 2.0, "2: 2026-02-01": 1.5, "3: 2026-03-01": 1.5}
    assert [line["torch"] for line in page._comparisons(third)] == ["1", "2", "2"]
    assert plots.since_the_last(first) == ""


def test_the_readme_shows_where_peers_are_faster():
    report = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text(encoding="utf-8"))
    shown = plots.shown_in_readme(report)
    slower = [row for row in plots.compared(report) if row["figures"]["best peer ÷ fastpool"] < 1]
    assert {row["group"] for row in slower} == {
        row["group"] for row in slower if f"{row['group']}: {row['name']}" in shown
    }
    assert set(plots.SELECTION) <= set(shown)


def test_the_committed_pages_show_the_committed_figures():
    figures = str(ROOT / "benchmarks" / "results" / "peers.json")
    pages = ["--readme", str(ROOT / "README.md"), "--page", str(ROOT / "docs" / "performance.md")]
    assert plots.main([figures, "--folder", str(ROOT / "docs" / "performance"), *pages, "--check"]) == 0


def test_a_plot_of_other_figures_is_reported(report, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    source, folder = tmp_path / "peers.json", tmp_path / "plots"
    command = [str(source), "--folder", str(folder)]
    source.write_text(json.dumps(report[1]), encoding="utf-8")
    assert plots.main([*command, "--check"]) == 1
    assert plots.main(command) == 0
    assert plots.main([*command, "--check"]) == 0
    report[1]["rows"][0]["seconds"]["fastpool"] *= 1.5
    source.write_text(json.dumps(report[1]), encoding="utf-8")
    assert plots.main([*command, "--check"]) == 1
    assert "readme.svg does not show" in capsys.readouterr().err


@pytest.mark.parametrize("module", [peers, page], ids=lambda module: module.__name__)
def test_the_examples_run(module):
    assert doctest.testmod(module).failed == 0


def test_a_row_or_peer_that_does_not_exist_is_refused(python):
    assert "no row matches" in python("-m", "benchmarks.peers", "--rows", "no such row", fails=True)
    assert "no such peer: nobody" in python("-m", "benchmarks.peers", "--peers", "nobody", fails=True)
