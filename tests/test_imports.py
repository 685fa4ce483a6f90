"""A module imports only modules below it, also where it does so late: see the table in CONTRIBUTING.md."""

import ast
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


def test_imports_have_no_cycles():
    trees = dict(modules())
    graph = {}
    for name, tree in trees.items():
        named = {module if module in trees else module.rpartition(".")[0] for module in imports(tree)}
        graph[name] = named & set(trees) - {name}
    order = list(TopologicalSorter(graph).static_order())  # which raises CycleError
    for plans, functions in (
        ("pool_plans", "pooling"),
        ("pool_plans", "min_pooling"),
        ("average_plans", "average_pooling"),
    ):
        walk = ["arguments", "window", "arrays", "forms", "calls", plans, functions]
        places = [order.index(f"fastpool.{module}") for module in walk]
        assert places == sorted(places)


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
