"""The examples run: those in docstrings and on the pages of docs/, and the programs in examples/."""

import doctest
import pkgutil
from importlib import import_module
from importlib.util import find_spec

import pytest
from doctests import ROOT, check, of_module, of_page

import fastpool as fp

# What is left out here needs a framework, and is run by the tests of its integration.
ELSEWHERE = (
    "fastpool.backends.",
    "fastpool.__main__",
    "fastpool.integrations.dask",
    "fastpool.integrations.keras",
    "fastpool.integrations.torch",
)
GUIDES_ELSEWHERE = ("docs/guides/keras.md", "docs/guides/pytorch.md", "docs/scale.md")


def _modules(paths, package):
    """All modules but those elsewhere, of which no package is imported either."""
    for module in pkgutil.iter_modules(paths, f"{package}."):
        if not module.name.startswith(ELSEWHERE):
            yield module.name
            if module.ispkg:
                yield from _modules(import_module(module.name).__path__, module.name)


def _docstrings():
    """Every docstring with examples, by name, once."""
    tests = {}
    for name in ("fastpool", *_modules(fp.__path__, "fastpool")):
        tests = {**of_module(name), **tests}
    return tests


def _pages():
    pages = (path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))
    return {page: of_page(page) for page in pages if page not in GUIDES_ELSEWHERE and "_build" not in page}


EXAMPLES = {name: test for name, test in {**_docstrings(), **_pages()}.items() if test.examples}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs_as_printed(name):
    check(EXAMPLES[name])


PROGRAMS = {
    "cifar_hard_swish.py": (("--steps", "2", "--batch", "8"), "1,418,826 parameters", "sklearn"),
    "deepnet_cnn.py": (("--epochs", "1", "--filters", "4"), "the losses are the same", "sklearn"),
    "from_scratch.py": (("--steps", "3", "--filters", "4"), "the losses are the same", "sklearn"),
    "keras_numpy.py": (
        ("--models", "MobileNetV3Small", "--size", "32", "--runs", "1"),
        "outputs are the same up to rounding",
        "keras",
    ),
    "maxout_digits.py": (("--epochs", "2"), "digits that it has not seen are read", "sklearn"),
    "pyramid.py": (("--size", "1300"), "all levels are right", "zarr"),
    "torch_pools.py": (("--batch", "2", "--size", "32", "--runs", "1"), "outputs and gradients are the same", "torch"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_runs(name, python):
    arguments, said, needs = PROGRAMS[name]
    if find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    assert said in python(f"examples/{name}", *arguments)


@pytest.mark.parametrize(
    ("name", "needs", "width"), [("plot_activations.py", "matplotlib", 1300), ("coins.py", "skimage", 900)]
)
def test_the_picture_is_drawn(name, needs, width, python, tmp_path):
    if find_spec("matplotlib") is None or find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    python(f"examples/{name}", "--picture", tmp_path / "drawn.png")
    picture = (tmp_path / "drawn.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert int.from_bytes(picture[16:20], "big") == width  # pixels across


@pytest.mark.parametrize("name", fp.__all__)
def test_the_public_name_is_documented_with_an_example(name):
    found = doctest.DocTestFinder().find(getattr(fp, name), name)
    assert any(test.examples for test in found)


def test_the_public_functions_are_those_of_the_design():
    names = """
        max_pool1d max_pool2d max_pool3d max_pool1d_backward max_pool2d_backward max_pool3d_backward
        min_pool1d min_pool2d min_pool3d min_pool1d_backward min_pool2d_backward min_pool3d_backward
        global_min_pool global_min_pool_backward
        avg_pool1d avg_pool2d avg_pool3d avg_pool1d_backward avg_pool2d_backward avg_pool3d_backward
        global_avg_pool global_avg_pool_backward
        global_max_pool global_max_pool_backward max_unpool1d max_unpool2d max_unpool3d
        maxout maxout_backward im2col col2im conv2d conv2d_backward
        hard_swish hard_swish_backward swish swish_backward argmax_to_indices indices_to_argmax
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        adaptive_max_pool1d_backward adaptive_max_pool2d_backward adaptive_max_pool3d_backward
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        adaptive_avg_pool1d_backward adaptive_avg_pool2d_backward adaptive_avg_pool3d_backward
        fractional_max_pool2d fractional_max_pool2d_backward fractional_max_pool3d fractional_max_pool3d_backward
        max_pool1d_double_backward max_pool2d_double_backward max_pool3d_double_backward
        min_pool1d_double_backward min_pool2d_double_backward min_pool3d_double_backward
        max_unpool1d_backward max_unpool2d_backward max_unpool3d_backward
        nearest_unpool1d nearest_unpool2d nearest_unpool3d max_pool max_pool_backward min_pool min_pool_backward
        maximum_filter minimum_filter moving_max moving_min morphology
        backends use_backend set_num_threads get_num_threads
    """
    assert set(fp.__all__) == set(names.split())
