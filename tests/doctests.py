"""The examples in docstrings and on Markdown pages, as doctests."""

import doctest
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def of_module(name):
    """Every docstring of a module with examples, by name."""
    found = doctest.DocTestFinder().find(import_module(name), name)
    return {test.name: test for test in found if test.examples}


def of_page(path):
    """All examples of a page, one after the other; the fences around them are no output."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    text = "\n".join("" if line.startswith("```") else line for line in lines)
    return doctest.DocTestParser().get_doctest(text, {}, str(path), str(path), 0)


def check(test):
    report = []
    result = doctest.DocTestRunner().run(test, out=report.append, clear_globs=False)
    assert result.failed == 0, "".join(report)
    assert result.attempted
