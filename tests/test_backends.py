"""The modules of backends implement `fastpool.backends.interface`."""

import inspect
import pickle
from importlib import import_module
from types import ModuleType

import pytest

import fastpool as fp
from fastpool import backends
from fastpool.backends import chosen, interface

OPS = (interface.Pooling, interface.Columns, interface.Activations)
OPTIONAL = (interface.Passes, interface.UnpoolsByIndices, interface.Planned, interface.Compiled, interface.Conditional)
EXPECTED = {
    "numba": (*OPS, interface.Passes, interface.Planned, interface.Compiled, interface.Conditional),
    "cython": (*OPS[:2], interface.Passes),
    "numpy": (*OPS, interface.Passes),
    "naive": (*OPS, interface.Passes),
    "cuda": (*OPS, interface.UnpoolsByIndices, interface.Conditional),
}


def functions_of(protocol):
    return {name: f for name, f in vars(protocol).items() if inspect.isfunction(f) and not name.startswith("_")}


def parameters_of(function):
    """Names, kinds and defaults, without `self`."""
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in found if p.name != "self"]


def module_of(name):
    if name not in ("naive", "numpy") and not fp.backends()[name].available and name != "cuda":
        pytest.skip(fp.backends()[name].reason)
    try:
        return import_module(f"fastpool.backends.{name}")
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("protocol", OPS + OPTIONAL, ids=lambda protocol: protocol.__name__)
def test_a_backend_has_all_functions_of_a_part_of_the_interface_or_none(name, protocol):
    module, functions = module_of(name), functions_of(protocol)
    assert functions
    if protocol not in EXPECTED[name]:
        assert not [function for function in functions if hasattr(module, function)]
        return
    for function, declared in functions.items():
        assert parameters_of(getattr(module, function)) == parameters_of(declared), function


def test_every_backend_is_expected():
    assert set(EXPECTED) == set(fp.backends())


def test_blocks_of_generators_may_end_in_any_order():
    def block(name):
        with fp.use_backend(name):
            yield

    default = chosen(None)
    first, second = block("numpy"), block("naive")
    next(first)
    next(second)
    first.close()
    assert chosen(None) == "naive"
    second.close()
    assert chosen(None) == default


def coroutine():
    async def function():
        pass

    return function


def generator():
    def function():
        yield

    return function


@pytest.mark.parametrize("make", [coroutine, generator])
def test_use_backend_decorates_no_function_that_pauses(make):
    """Its body would run after the block has ended."""
    with pytest.raises(TypeError, match="use_backend decorates no coroutine or generator"):
        fp.use_backend("numpy")(make())


def test_backends_can_be_pickled():
    assert pickle.loads(pickle.dumps(fp.backends)) is fp.backends


def test_the_warning_of_numpy_names_what_each_compiled_backend_lacks(monkeypatch):
    unavailable, cython = "it cannot run here", ModuleType("cython")
    modules = {"numba": unavailable, "cython": cython, "numpy": backends._load("numpy")}
    monkeypatch.setattr(backends, "_load", modules.get)
    backends._default.cache_clear()
    backends._warn_of_numpy.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="numba: it cannot run here; cython: it has no hard_swish"):
            assert backends._default("hard_swish") is modules["numpy"]
    finally:
        backends._default.cache_clear()
        backends._warn_of_numpy.cache_clear()
