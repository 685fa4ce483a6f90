"""docs/semantics.md says how libraries differ: each word of its table is compared with what the library does."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from decisions import DECISIONS, Missing, answers
from doctests import ROOT
from library_decisions import LIBRARIES, Fastpool, installed

# Of Keras: how the table names each backend, and what it needs.
KERAS_BACKENDS = {
    "tensorflow": ("TensorFlow", "tensorflow"),
    "torch": ("PyTorch", "torch"),
    "jax": ("JAX", "jax"),
    "numpy": ("NumPy", "jax"),
    "openvino": ("OpenVINO", "openvino"),
}


def _table():
    """The words of each library, by its column and the decision of each row."""
    text = (ROOT / "docs/semantics.md").read_text(encoding="utf-8")
    lines = text.partition("## How other libraries differ")[2].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| | fastpool |"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    (_, *libraries), _, *decisions = rows
    return {
        library: {decision: words[column] for decision, *words in decisions} for column, library in enumerate(libraries)
    }


TABLE = _table()


def on_backend(cell, backend):
    """The word for one backend of a cell such as `NaN; TensorFlow, OpenVINO: ignored`."""
    default, *others = cell.split("; ")
    for other in others:
        names, _, word = other.partition(": ")
        if backend in names.split(", "):
            return word
    return default


def asked(python, library, **environment):
    lines = python("tests/library_decisions.py", library, TF_CPP_MIN_LOG_LEVEL=3, **environment).splitlines()
    return json.loads(lines[-1])[library]


def test_the_table_has_every_decision_and_every_library():
    assert list(TABLE) == list(LIBRARIES)
    assert all(list(column) == list(DECISIONS) for column in TABLE.values())


def test_the_column_of_fastpool_is_what_it_does_on_every_backend(backend):
    if backend == "cuda":
        pytest.skip("the table is about arrays in main memory")
    library = Fastpool()
    expected = dict(TABLE["fastpool"])
    if backend == "cython":
        lacking = {"average: padding is", "average: past the padding in `ceil_mode`", "adaptive windows"}
        expected = {name: word for name, word in expected.items() if name not in lacking}
    with library.fp.use_backend(backend):
        assert {name: DECISIONS[name](library) for name in expected} == expected


@pytest.mark.parametrize("library", [name for name in LIBRARIES if name not in ("fastpool", "Keras")])
@pytest.mark.slow
def test_the_column_is_what_the_library_does(library, python):
    if not installed(library):
        pytest.skip(f"{library} is not installed")
    assert asked(python, library) == TABLE[library]


@pytest.mark.parametrize("keras_backend", KERAS_BACKENDS)
@pytest.mark.slow
def test_the_column_of_keras_is_what_each_of_its_backends_does(keras_backend, python):
    name, package = KERAS_BACKENDS[keras_backend]
    for needed in ("keras", package):
        if find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    expected = {decision: on_backend(cell, name) for decision, cell in TABLE["Keras"].items()}
    assert asked(python, "Keras", KERAS_BACKEND=keras_backend) == expected


class Other(Fastpool):
    """Zeros as padding, up to half a window; NaN and -inf are lost; averages over what is inside."""

    def max_pool(self, x, kernel, stride, padding, dilation=1, ceil_mode=False):
        if dilation > 1 or ceil_mode:
            raise Missing
        if padding > kernel // 2:
            raise ValueError(padding)
        padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        return super().max_pool(np.nan_to_num(padded, nan=-np.inf), kernel, stride, 0)

    def average(self, x, kernel, stride, padding, ceil_mode=False):
        return self.fp.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad=False)


def test_a_library_that_decides_otherwise_gets_other_words():
    found = answers(Other())
    assert {name: word for name, word in found.items() if word != TABLE["fastpool"][name]} == {
        "padding at most": "half a window",
        "padding of a maximum": "zeros",
        "window of padding alone": "—",
        "window of -inf": "lowest finite",
        "NaN in a window": "ignored",
        "dilated windows": "no",
        "`ceil_mode`: a last window in the padding": "—",
        "average: padding is": "left out",
    }
