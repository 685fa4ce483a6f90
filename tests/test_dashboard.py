"""The dashboard in a browser: asv's pages of a small history, with nothing loaded from elsewhere."""

import os
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
    """A repository of three commits, each measured by asv: its folder of benchmarks, and the hashes."""
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
    assert all(dashboard.measured(folder, commit) for commit in commits)
    assert not dashboard.measured(folder, "0" * 40)


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
