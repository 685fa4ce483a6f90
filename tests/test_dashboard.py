"""The dashboard in a browser: asv's pages of a small history, with nothing loaded from elsewhere."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks import dashboard

ROOT = Path(__file__).resolve().parent.parent
# asv takes a benchmark whose source changes for another one, so the time stands outside of it.
SUITE = """
SECONDS = {seconds}


class Sleep:
    params = ("numba", "numpy")
    param_names = ("backend",)
    rounds, repeat, number, warmup_time = 1, 2, 1, 0

    def setup(self, backend):
        if backend != "numba":
            raise NotImplementedError

    def time_sleep(self, backend):
        import time

        time.sleep(SECONDS)
"""


def test_every_script_that_the_pages_load_is_pinned():
    lock = (dashboard.PACKAGES / "package-lock.json").read_text(encoding="utf-8")
    for file in dashboard.LOCAL.values():
        assert f'"node_modules/{file.partition("/")[0]}"' in lock
    assert lock.count('"integrity"') == len({file.partition("/")[0] for file in dashboard.LOCAL.values()})
    assert "http" not in lock


def test_tags_are_pointed_to_the_copies(tmp_path):
    index = tmp_path / "index.html"
    text = (
        '<script src="https://cdn.example/jquery-3.3.1.min.js" integrity="x" onerror="f()"></script>\n'
        '<link rel="stylesheet" href="https://cdn.example/bootstrap.min.css" integrity="x">\n'
        '<script src="asv.js"></script><a href="https://example.org/page">elsewhere</a>\n'
    )
    index.write_text(text, encoding="utf-8")
    node_modules = tmp_path / "node_modules"
    for file in ("jquery/dist/jquery.min.js", "jquery/LICENSE.txt", "bootstrap/dist/css/bootstrap.min.css"):
        (node_modules / file).parent.mkdir(parents=True, exist_ok=True)
        (node_modules / file).write_text("of the package", encoding="utf-8")
    dashboard.make_local(tmp_path, node_modules)
    page = index.read_text(encoding="utf-8")
    assert '<script src="scripts/jquery/dist/jquery.min.js"' in page
    assert '<link rel="stylesheet" href="scripts/bootstrap/dist/css/bootstrap.min.css">' in page
    assert '<script src="asv.js"></script><a href="https://example.org/page">elsewhere</a>' in page
    assert "cdn.example" not in page
    assert (tmp_path / "scripts/jquery/LICENSE.txt").read_text(encoding="utf-8") == "of the package"
    assert (tmp_path / "scripts/bootstrap/dist/css/bootstrap.min.css").is_file()


def test_a_script_without_a_copy_is_reported(tmp_path):
    (tmp_path / "index.html").write_text('<script src="https://cdn.example/new.js"></script>', encoding="utf-8")
    with pytest.raises(ValueError, match=r"new\.js.*LOCAL"):
        dashboard.make_local(tmp_path, tmp_path / "node_modules")


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A repository of three commits, each measured by asv, the first kept: its folder of benchmarks, and the hashes."""
    pytest.importorskip("asv")
    if shutil.which("npm") is None or shutil.which("git") is None:
        pytest.skip("npm and git are needed")
    repository = tmp_path_factory.mktemp("history")
    folder = repository / "benchmarks"
    folder.mkdir()
    environment = {**os.environ, "HOME": str(repository), "USERPROFILE": str(repository)}  # where asv notes the machine
    shutil.copy(ROOT / "benchmarks" / "asv.conf.json", folder)
    (folder / "__init__.py").touch()
    (repository / ".gitignore").write_text(".asv\n.asv-machine.json\n", encoding="utf-8")

    def git(*arguments):
        who = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
        done = subprocess.run(["git", *who, *arguments], cwd=repository, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def asv(*arguments):
        command = [sys.executable, "-m", "asv", *arguments]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)

    git("init", "--quiet")
    asv("machine", "--yes")
    commits = []
    for seconds in (0.001, 0.002, 0.004):
        (folder / "suite.py").write_text(SUITE.format(seconds=seconds), encoding="utf-8")
        git("add", ".")
        git("commit", "--quiet", "--message", f"sleep {seconds} s <b>", "--date", "2026-01-01T00:00:00")
        commits.append(git("rev-parse", "HEAD"))
        asv("run", "--python=same", "--set-commit-hash", commits[-1])
        if len(commits) == 1:
            (folder / dashboard.SCRATCH).rename(folder / dashboard.HISTORY)
    return folder, commits


@pytest.fixture(scope="module")
def site(history):
    """The address at which the pages of the history are served."""
    with dashboard.serve(dashboard.publish(history[0]), port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(browser, site):
    """A page that notes what it asks for elsewhere, and what goes wrong in it."""
    opened = browser.new_page(viewport={"width": 1200, "height": 800})
    opened.problems = []
    opened.on("request", lambda r: r.url.startswith((site, "data:")) or opened.problems.append(r.url))
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    return opened


def test_commits_that_were_measured_are_known(history):
    folder, commits = history
    (machine,) = (path.name for path in (folder / dashboard.HISTORY).iterdir() if path.is_dir())
    results = [folder / dashboard.HISTORY, *[folder / dashboard.SCRATCH] * 2]
    assert all(dashboard.measured(*each) for each in zip(results, [machine] * 3, commits, strict=True))
    assert not dashboard.measured(results[0], machine, commits[1])
    assert not dashboard.measured(results[0], "another", commits[0])


def figures(folder, rows):
    """Results of one commit, with figures by name of a benchmark with three parameters."""
    columns = {"result_columns": ["result", "params", "version", "duration", "stats_q_25"]}
    (folder / "vm").mkdir(parents=True, exist_ok=True)
    params = [["1", "2", "3"]]
    stored = {name: [row, params, "1", 0.5, [v and v / 2 for v in row]] for name, row in rows.items()}
    text = json.dumps({**columns, "results": stored, "commit_hash": "a" * 40})
    (folder / "vm" / "aaaaaaaa-env.json").write_text(text, encoding="utf-8")


def test_merged_results_have_the_figures_of_all_folders(tmp_path):
    kept, new, target = tmp_path / "kept", tmp_path / "new", tmp_path / "target"
    figures(kept, {"a": [1.0, 2.0, None], "b": [3.0, 3.0, 3.0]})
    figures(new, {"a": [None, 4.0, 5.0], "c": [6.0, 6.0, 6.0]})
    before = (kept / "vm" / "aaaaaaaa-env.json").read_bytes()
    dashboard.merge([kept, new], target)
    stored = json.loads((target / "vm" / "aaaaaaaa-env.json").read_text(encoding="utf-8"))["results"]
    assert {name: row[0] for name, row in stored.items()} == {"a": [1, 4, 5], "b": [3, 3, 3], "c": [6, 6, 6]}
    assert stored["a"][1:] == [[["1", "2", "3"]], "1", 0.5, [0.5, 2.0, 2.5]]
    assert (kept / "vm" / "aaaaaaaa-env.json").read_bytes() == before


def test_results_without_figures_replace_none(tmp_path):
    figures(tmp_path / "kept", {"a": [1.0, 2.0, 3.0]})
    figures(tmp_path / "new", {"a": []})
    dashboard.merge([tmp_path / "kept", tmp_path / "new"], tmp_path / "target")
    stored = json.loads((tmp_path / "target" / "vm" / "aaaaaaaa-env.json").read_text(encoding="utf-8"))["results"]
    assert stored["a"][0] == [1, 2, 3]


def test_the_newest_description_of_a_benchmark_is_published(tmp_path):
    for at, (name, text) in enumerate((("new", {"a": 2}), ("old", {"a": 1, "b": 1}))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "benchmarks.json").write_text(json.dumps(text), encoding="utf-8")
        os.utime(tmp_path / name / "benchmarks.json", (1000 - at, 1000 - at))
    dashboard.merge([tmp_path / "new", tmp_path / "old"], tmp_path / "target")
    assert json.loads((tmp_path / "target" / "benchmarks.json").read_text(encoding="utf-8")) == {"a": 2, "b": 1}


def test_nothing_is_measured_unless_it_is_asked_for(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(dashboard, "HERE", tmp_path)
    monkeypatch.setattr(dashboard, "register_machine", lambda name: name or "vm")
    monkeypatch.setattr(dashboard, "run", lambda _, *arguments: done.append(arguments) or ["0" * 40])
    monkeypatch.setattr(dashboard, "publish", lambda _, *more: done.append(more))
    dashboard.main(["--no-serve"])
    assert done == [()]
    dashboard.main(["--no-serve", "--commits", "3", "--bench", "tiny"])
    assert done[1:] == [(tmp_path / dashboard.SCRATCH, "vm", 3, ["--bench", "tiny"]), ()]
    kept = tmp_path / "branch"
    dashboard.main(["--no-serve", "--commits", "2", "--keep", str(kept), "--machine", "ci"])
    assert done[3:] == [(kept, "ci", 2, []), (kept,)]


def test_a_machine_is_the_same_after_an_update_of_its_system(tmp_path, monkeypatch):
    machine = pytest.importorskip("asv.machine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert dashboard.register_machine("ci") == "ci"
    stored = machine.MachineCollection.load("ci")
    assert stored["os"] == platform.system()
    assert re.fullmatch(r"[1-9][0-9]{0,3} GB", stored["ram"])
    assert stored["cpu"] == machine.Machine.get_defaults()["cpu"]


def test_the_grid_shows_the_benchmarks(page, site):
    page.goto(site)
    page.wait_for_selector(".benchmark-container")
    assert "suite.Sleep.time_sleep" in page.content()
    assert page.problems == []


def test_a_graph_draws_a_point_for_each_commit_that_leads_to_it(page, site, history):
    _, commits = history
    page.goto(f"{site}/#suite.Sleep.time_sleep")
    page.wait_for_selector("#main-graph canvas.flot-overlay")
    plot = "$('#main-graph').data('plot')"
    page.wait_for_function(f"{plot} && {plot}.getData().length > 0")
    curves = page.evaluate(f"{plot}.getData().map(curve => curve.data)")
    points = [(at, seconds) for curve in curves for at, seconds in curve if seconds is not None]
    assert len(points) == len(commits)
    assert [round(seconds, 3) for _, seconds in points] == sorted(round(seconds, 3) for _, seconds in points)

    for commit, (at, seconds) in zip(commits, points, strict=True):
        spot = page.evaluate(
            f"([x, y]) => {{ const o = {plot}.pointOffset({{x, y}}), b = {plot}.getPlaceholder().offset();"
            " return [o.left + b.left, o.top + b.top] }",
            [at, seconds],
        )
        with page.expect_popup() as popup:
            page.mouse.click(*spot)
        opened = popup.value
        opened.wait_for_load_state()
        assert re.search(rf"/commit/{commit[:8]}/?$", opened.url)
        assert commit in opened.content()
        assert opened.title().endswith("s <b>")
        assert "SECONDS = 0.00" in opened.inner_text("body")
        opened.close()
    assert page.problems == []


def test_the_list_sorts(page, site):
    page.goto(f"{site}/#/summarylist")
    page.wait_for_selector("#summarylist-body table tbody tr")
    page.click("#summarylist-body th >> nth=0")
    assert "suite.Sleep.time_sleep" in page.inner_text("#summarylist-body")
    assert page.problems == []
