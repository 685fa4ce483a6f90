"""The examples in the docstrings run, and every public name has one."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import fastpool as fp


def _modules():
    for found in pkgutil.walk_packages(fp.__path__, "fastpool."):
        if not found.name.startswith(("fastpool.backends.", "fastpool.__main__", "fastpool.integrations.")):
            yield found.name


def _examples():
    """Every docstring with examples, by name, once."""
    tests = {}
    for name in ("fastpool", *_modules()):
        for test in doctest.DocTestFinder().find(import_module(name), name):
            if test.examples:
                tests.setdefault(test.name, test)
    return tests


EXAMPLES = _examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs_as_printed(name):
    report = []
    result = doctest.DocTestRunner().run(EXAMPLES[name], out=report.append)
    assert result.failed == 0, "".join(report)


@pytest.mark.parametrize("name", fp.__all__)
def test_the_public_name_is_documented_with_an_example(name):
    found = doctest.DocTestFinder().find(getattr(fp, name), name)
    assert any(test.examples for test in found)


def test_the_public_functions_are_those_of_the_design():
    names = """
        max_pool1d max_pool2d max_pool3d max_pool1d_backward max_pool2d_backward max_pool3d_backward
        global_max_pool global_max_pool_backward max_unpool1d max_unpool2d max_unpool3d
        maxout maxout_backward im2col col2im conv2d conv2d_backward
        hard_swish hard_swish_backward swish swish_backward argmax_to_indices indices_to_argmax
        backends use_backend set_num_threads get_num_threads
    """
    assert set(fp.__all__) == set(names.split())
