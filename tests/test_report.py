"""The report: one self-contained page with every figure, also as a browser shows it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

for module in ("jinja2", "matplotlib", "ml_dtypes"):
    pytest.importorskip(module)

from benchmarks import report  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "benchmarks" / "results" / "peers.json"
CASE = {
    "group": "forward: <a row>",
    "extra_info": {"call": "fastpool numba"},
    "stats": {"min": 0.001, "median": 0.002, "iqr": 0.0005, "rounds": 7},
}
SPEED = {
    "machine_info": {"cpu": "a CPU", "threads": 2},
    "commit_info": {"id": "0123456789abcdef"},
    "datetime": "2026-01-01T00:00:00",
    "benchmarks": [CASE],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "speed.json").write_text(json.dumps(SPEED), encoding="utf-8")
    assert report.main([str(FIGURES), "--speed", str(folder / "speed.json"), "--output", str(folder / "r.html")]) == 0
    return folder / "r.html"


class Loads(HTMLParser):
    """Collects what a page loads, and checks that its elements are closed."""

    def __init__(self):
        super().__init__()
        self.loaded, self.open = [], []

    def handle_starttag(self, tag, attributes):
        by_name = dict(attributes)
        self.loaded += [by_name[name] for name in ("src", "href") if not by_name.get(name, "#").startswith("#")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing(written):
    page = Loads()
    page.feed(written.read_text(encoding="utf-8"))
    assert page.loaded == []
    assert page.open == []


def test_every_row_and_peer_is_in_the_page(written):
    text, figures = written.read_text(encoding="utf-8"), json.loads(FIGURES.read_text(encoding="utf-8"))
    assert figures["machine"]["cpu"] in text
    for row in figures["rows"]:
        assert f"<td>{row['name']}</td>" in text
    for version in figures["machine"]["versions"].values():
        assert version in text
    assert text.count("<svg") == len(report.PLOTS)
    assert "forward: &lt;a row&gt;" in text


@pytest.mark.slow
def test_the_table_of_pytest_benchmark_is_shown_only_with_its_figures():
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert "by pytest-benchmark" not in report.page(figures)
    assert "by pytest-benchmark" in report.page(figures, SPEED)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_it(written, browser, scheme, width):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems = []
    page.on("request", lambda request: request.url.startswith("file:") or problems.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(written.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour))) > 380) == (scheme == "light")

    heading = page.locator("th", has_text="fastpool ms").first
    for order in (1, -1):
        heading.locator("button").click()
        column = heading.evaluate("th => th.cellIndex")
        rows = "[...document.querySelector('table').tBodies[0].rows]"
        times = page.evaluate(f"column => {rows}.map(row => +row.cells[column].dataset.value)", column)
        assert times == sorted(times)[::order]
    assert problems == []
