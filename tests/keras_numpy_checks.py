"""Keras' own layers on fastpool in Keras' NumPy backend; tests/test_integrations_keras.py runs this there."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops

import fastpool as fp
from fastpool.integrations.keras import numpy_backend, use_in_numpy_backend
from fastpool.integrations.keras.numpy_backend import REPLACEMENTS

nn, numpy_ops = keras.src.backend.nn, keras.src.backend.numpy
MODULES = {"nn": nn, "numpy": numpy_ops}


def draws(shape, dtype="float32"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


IMAGES, VOLUMES, SIGNALS = (2, 9, 8, 5), (2, 5, 6, 7, 3), (2, 9, 5)
FIRST = {"data_format": "channels_first"}
# What runs on fastpool: its function, a layer or operator of Keras, and the shape of the input.
CALLS = [
    ("max_pool1d", layers.MaxPooling1D(), SIGNALS),
    ("max_pool1d", layers.MaxPooling1D(3, 1, "same"), SIGNALS),
    ("max_pool2d", layers.MaxPooling2D(), IMAGES),
    ("max_pool2d", layers.MaxPooling2D((3, 2), (2, 3), "same"), IMAGES),
    ("max_pool2d", layers.MaxPooling2D(padding="same", **FIRST), IMAGES),
    ("max_pool3d", layers.MaxPooling3D(strides=1, padding="same"), VOLUMES),
    ("avg_pool1d", layers.AveragePooling1D(3, 1, "same"), SIGNALS),
    ("avg_pool2d", layers.AveragePooling2D((3, 2), (2, 3), "same"), IMAGES),
    ("avg_pool2d", layers.AveragePooling2D(3, 2, **FIRST), IMAGES),
    ("avg_pool3d", layers.AveragePooling3D(2), VOLUMES),
    ("adaptive_max_pool1d", layers.AdaptiveMaxPooling1D(4), SIGNALS),
    ("adaptive_max_pool2d", layers.AdaptiveMaxPooling2D((4, 3), **FIRST), IMAGES),
    ("adaptive_max_pool3d", layers.AdaptiveMaxPooling3D(2), VOLUMES),
    ("adaptive_avg_pool1d", layers.AdaptiveAveragePooling1D(4, **FIRST), SIGNALS),
    ("adaptive_avg_pool2d", layers.AdaptiveAveragePooling2D((4, 3)), IMAGES),
    ("adaptive_avg_pool3d", layers.AdaptiveAveragePooling3D(2), VOLUMES),
    ("global_max_pool", layers.GlobalMaxPooling1D(), SIGNALS),
    ("global_max_pool", layers.GlobalMaxPooling2D(keepdims=True), IMAGES),
    ("global_max_pool", layers.GlobalMaxPooling3D(**FIRST), VOLUMES),
    ("global_avg_pool", layers.GlobalAveragePooling1D(**FIRST), SIGNALS),
    ("global_avg_pool", layers.GlobalAveragePooling2D(keepdims=True, **FIRST), IMAGES),
    ("global_avg_pool", layers.GlobalAveragePooling3D(), VOLUMES),
    ("conv2d", layers.Conv2D(7, 3, padding="same"), IMAGES),
    ("conv2d", layers.Conv2D(7, (3, 2), (2, 1)), IMAGES),
    ("conv2d", layers.Conv2D(7, 2, dilation_rate=2, use_bias=False), IMAGES),
    ("conv2d", layers.Conv2D(7, 1, activation="relu"), IMAGES),
    ("conv2d", layers.DepthwiseConv2D(3, padding="same"), IMAGES),
    ("conv2d", layers.DepthwiseConv2D((2, 3), 2), IMAGES),
    ("conv2d", layers.SeparableConv2D(4, 3), IMAGES),
    ("im2col", lambda x: ops.unfold(x, 3, 1, 1, 2), IMAGES),
    ("im2col", lambda x: ops.unfold(x, (2, 3), dilation=(1, 2)), IMAGES),
    ("col2im", lambda x: ops.fold(x, (9, 8), 3, 1, 1, 2), (2, 45, 20)),
    ("col2im", lambda x: ops.fold(x, 6, (2, 3), dilation=(2, 1)), (2, 24, 16)),
    ("swish", layers.Activation("silu"), IMAGES),
    ("swish", ops.silu, SIGNALS),
    ("hard_swish", layers.Activation("hard_swish"), IMAGES),
    ("hard_swish", ops.hard_silu, SIGNALS),
]


@pytest.fixture
def called(monkeypatch):
    """The names of the functions of fastpool that are called, in order."""
    names = []
    for name in {name for name, _, _ in CALLS}:
        real = getattr(fp, name)
        monkeypatch.setattr(fp, name, lambda *a, name=name, real=real, **k: names.append(name) or real(*a, **k))
    return names


@pytest.mark.parametrize(("function", "call", "shape"), CALLS)
def test_layers_and_operators_of_keras_run_on_fastpool_until_undone(function, call, shape, called):
    x = draws(shape)
    expected = np.asarray(call(x))
    assert not called
    with use_in_numpy_backend():
        y = call(x)
        assert function in called
        if isinstance(call, keras.Layer):
            model = keras.Sequential([keras.Input(shape[1:]), call])
            np.testing.assert_array_equal(model.predict(x, verbose=0), y)
            assert model.output_shape[1:] == y.shape[1:]
    assert isinstance(y, np.ndarray)
    assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-6)
    del called[:]
    call(x)
    assert not called


@pytest.mark.parametrize(
    ("call", "x"),
    [
        (lambda x: ops.average_pool(x, 2), np.arange(32, dtype="int32").reshape(2, 4, 4, 1)),
        (ops.silu, np.arange(5, dtype="int32")),
        (ops.hard_silu, np.arange(5, dtype="float64") + 0j),
        (lambda x: ops.max(x, axis=-1), draws(IMAGES)),
        (lambda x: ops.max(x, axis=(1, 2), initial=9.0), draws(IMAGES)),
        (lambda x: ops.mean(x, axis=(0, 1)), draws(IMAGES)),
        (lambda x: ops.mean(x), draws(IMAGES)),
        (lambda x: ops.mean(x, axis=(5, 6)), draws(IMAGES)),
        (lambda x: ops.max(x, axis=(1, -3)), draws(IMAGES)),
        (lambda x: ops.mean(x, axis=1), np.arange(24).reshape(2, 3, 4)),
        (layers.Conv1D(4, 3), draws(SIGNALS)),
        (layers.Conv2D(4, 3), draws((1, 40, 40, 16))),
        (layers.Conv2D(10, 3, groups=5, **FIRST), draws((2, 5, 9, 8))),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), draws(IMAGES)),
        (layers.DepthwiseConv1D(3), draws(SIGNALS)),
    ],
)
def test_what_fastpool_does_not_do_or_not_faster_is_done_by_keras(call, x, called):
    outcomes = []
    for undo in (None, use_in_numpy_backend()):
        try:
            outcomes.append(np.asarray(call(x)))
        except (TypeError, ValueError) as error:
            outcomes.append(type(error))
        finally:
            if undo:
                undo.close()
    assert not called
    if isinstance(outcomes[0], type):
        assert outcomes[0] is outcomes[1]
    else:
        np.testing.assert_array_equal(*outcomes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize(
    "call", [lambda x: ops.average_pool(x, 3, 2, "same"), lambda x: ops.mean(x, axis=(1, 2)), ops.silu, ops.hard_silu]
)
def test_results_have_the_dtype_of_the_input(call, dtype):
    """Keras rounds float64 to float32 here."""
    x = ops.cast(draws(IMAGES), dtype)
    expected = call(x)
    with use_in_numpy_backend():
        y = call(x)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    rtol = {"float16": 4e-3, "bfloat16": 4e-2, "float64": 1e-6}[dtype]
    np.testing.assert_allclose(y.astype("float64"), expected.astype("float64"), rtol=rtol, atol=rtol)


def of_unit_gain(w, rng):
    """Random weights that keep activations as large as they are: those of Keras let them vanish in a deep network."""
    if w.ndim < 4:
        return w
    depthwise = w.shape[-1] == 1
    return rng.standard_normal(w.shape) * (4 / np.prod(w.shape[:2] if depthwise else w.shape[:3])) ** 0.5


def test_mobilenet_infers_the_same_with_fewer_calls_of_jax(called):
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(64, 64, 3), classes=10)
    rng = np.random.default_rng(0)
    model.set_weights([of_unit_gain(w, rng) for w in model.get_weights()])
    x = rng.random((2, 64, 64, 3), np.float32) * 255
    expected = model.predict(x, verbose=0)
    assert expected.std() > 0.01
    with use_in_numpy_backend():
        y = model.predict(x, verbose=0)
    np.testing.assert_allclose(y, expected, rtol=2e-4, atol=2e-5)
    assert {"conv2d", "hard_swish", "global_avg_pool"} <= set(called)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_leaves_last_undoes_it(order):
    def functions():
        return {(place, name): getattr(MODULES[place], name) for place, name in REPLACEMENTS}

    own, uses = functions(), [use_in_numpy_backend()]
    used = functions()
    assert not any(used[key] is own[key] for key in own)
    uses.append(use_in_numpy_backend())
    uses[order[0]].close()
    uses[order[0]].close()  # which does nothing more
    assert functions() == used
    uses[order[1]].close()
    assert functions() == own


@pytest.mark.parametrize(("place", "name"), REPLACEMENTS)
def test_each_replaced_function_is_where_keras_has_it_and_is_what_its_operators_call(place, name, monkeypatch):
    """Fails where a new version of Keras has moved one: it would be left out in silence."""
    own = getattr(MODULES[place], name)
    ours = list(inspect.signature(REPLACEMENTS[place, name]).parameters)[1:]
    assert list(inspect.signature(own).parameters) == ours

    class CalledError(Exception):
        pass

    def call(*arguments, **more):
        raise CalledError

    monkeypatch.setattr(MODULES[place], name, call)
    x = draws((1, 4, 4, 4))
    arguments = {
        "max_pool": (x, 2), "average_pool": (x, 2),
        "adaptive_max_pool": (x, (2, 2)), "adaptive_average_pool": (x, (2, 2)),
        "max": (x,), "mean": (x,), "conv": (x, x), "depthwise_conv": (x, x), "unfold": (x, 2), "fold": (x[0], 2, 2),
        "silu": (x,), "hard_silu": (x,),
    }[name]  # fmt: skip
    with pytest.raises(CalledError):
        getattr(ops, name)(*arguments)


def test_a_function_of_another_signature_is_refused_and_nothing_is_replaced(monkeypatch):
    def fold(x, size, window):
        raise AssertionError

    monkeypatch.setattr(nn, "fold", fold)
    before = {(place, name): getattr(MODULES[place], name) for place, name in REPLACEMENTS}
    with pytest.raises(RuntimeError, match=r"has keras\.src\.backend\.nn\.fold\(x, size, window\), which this release"):
        use_in_numpy_backend()
    assert before == {(place, name): getattr(MODULES[place], name) for place, name in REPLACEMENTS}


def test_functions_that_a_version_of_keras_lacks_are_left_out(monkeypatch):
    monkeypatch.delattr(nn, "fold")
    with use_in_numpy_backend():
        assert not hasattr(nn, "fold")
        assert nn.max_pool.func is numpy_backend._max_pool


def test_a_keras_without_any_of_them_is_refused(monkeypatch):
    for place, name in REPLACEMENTS:
        monkeypatch.delattr(MODULES[place], name)
    with pytest.raises(RuntimeError, match=r"has no functions in keras\.src\.backend that fastpool knows"):
        use_in_numpy_backend()


def test_pooling_refuses_a_shape_without_spatial_axes():
    with (
        use_in_numpy_backend(),
        pytest.raises(ValueError, match=r"inputs must have a batch, a channel and one to three"),
    ):
        nn.max_pool(draws((2, 3)), 2)
