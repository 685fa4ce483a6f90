"""A module imports only modules below it, also where it does so late: see the table in CONTRIBUTING.md."""

import ast
import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fastpool

FOLDER = Path(fastpool.__file__).parent


def modules():
    for path in FOLDER.rglob("*.py"):
        parts = path.relative_to(FOLDER.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), ast.parse(path.read_text())


def imports(tree):
    """All that a module names in an import, in a call of `import_module` too, but for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))
        yield from imports(node)


def graph():
    trees = dict(modules())
    named = {name: {m if m in trees else m.rpartition(".")[0] for m in imports(tree)} for name, tree in trees.items()}
    return {name: found & set(trees) - {name} for name, found in named.items()}


def test_imports_have_no_cycles():
    tuple(TopologicalSorter(graph()).static_order())  # which raises CycleError


def test_modules_import_those_of_their_row_and_of_rows_below_in_the_table():
    """Where there is a checkout."""
    page = FOLDER.parent / "CONTRIBUTING.md"
    if not page.exists():
        pytest.skip("no checkout")
    text = page.read_text()
    table = text[text.index("| `layers.py`") : text.index("\n\nThe backends")]
    rows = {}
    for row, line in enumerate(table.splitlines()):
        for path in re.findall(r"`([\w/]+)\.py`", line.split("|")[1]):
            rows["fastpool." + path.replace("/", ".").removesuffix(".__init__")] = row
    found = {name: names for name, names in graph().items() if name in rows}
    assert len(found) == len(rows) > 40
    wrong = {
        (name, below) for name, names in found.items() for below in names & rows.keys() if rows[below] < rows[name]
    }
    assert not wrong
    tools = {"__main__", "build", "cases", "timing"}
    assert {p.stem for p in FOLDER.glob("*.py")} - {n.removeprefix("fastpool.") for n in rows} == tools | {"__init__"}


def test_modules_on_demand_are_imported_with_their_first_name(python):
    code = """
import sys, fastpool
later = {f"fastpool.{module}" for module in fastpool._ON_DEMAND.values()}
print(later & set(sys.modules))
print(set(fastpool.__all__) - set(dir(fastpool)), [name for name in fastpool.__all__ if not hasattr(fastpool, name)])
print(later - set(sys.modules), hasattr(fastpool, "moving_nothing"))
"""
    assert python("-c", code).splitlines() == ["set()", "set() []", "set() False"]


def test_the_citation_names_this_version():
    """Where there is a checkout: the release workflow compares both with the tag."""
    citation = FOLDER.parent / "CITATION.cff"
    if not citation.exists():
        pytest.skip("no checkout")
    assert f"version: {fastpool.__version__}" in citation.read_text().splitlines()


def test_the_oldest_releases_that_are_tested_are_the_lower_bounds():
    """Where there is a checkout: CI installs them all."""
    pins, pyproject = FOLDER.parent / ".ci" / "oldest.txt", FOLDER.parent / "pyproject.toml"
    if not pins.exists():
        pytest.skip("no checkout")
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    bounds = {}
    for requirement in (*project["dependencies"], *extras["numba"], *extras["test"], *extras["dask"]):
        found = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement)
        if found:
            bounds[found[1]] = found[2]
    pinned = dict(line.split("==") for line in pins.read_text().splitlines() if not line.startswith("#"))
    assert pinned.keys() == bounds.keys()
    assert all(f"{pinned[name]}.".startswith(f"{bounds[name]}.") for name in bounds)
