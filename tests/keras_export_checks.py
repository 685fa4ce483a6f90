"""Models with the layers, exported from Keras on TensorFlow; tests/test_integrations_keras.py runs this there."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from fastpool.integrations.keras import (
    AdaptiveAveragePooling2D,
    AdaptiveMaxPooling2D,
    HardSwish,
    Maxout,
    MinPooling2D,
    Swish,
    hard_swish,
    max_pool_by_conv,
    swish,
)

X = np.random.default_rng(0).standard_normal((3, 12, 10, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    """Each layer and function once."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((12, 10, 3)),
            layers.Conv2D(8, 3, padding="same", activation=hard_swish),
            HardSwish(),
            Maxout(4),
            Maxout(2, grouping="contiguous"),
            layers.Conv2D(4, 1, activation=swish),
            Swish(1.5),
            max_pool_by_conv((12, 10, 4), (1, 1)),
            MinPooling2D(2, 1, "same"),
            AdaptiveMaxPooling2D((7, 5)),
            AdaptiveAveragePooling2D((3, 1)),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    model.export(folder, verbose=False)
    return folder


def test_an_exported_model_runs_where_neither_fastpool_nor_keras_is_installed(model, exported, tmp_path):
    np.save(tmp_path / "x.npy", X)
    code = f"""
import sys
sys.modules["fastpool"] = sys.modules["keras"] = None
import numpy as np, tensorflow as tf
model = tf.saved_model.load({str(exported)!r})
np.save({str(tmp_path / "y.npy")!r}, model.serve(np.load({str(tmp_path / "x.npy")!r})).numpy())
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


def test_an_exported_model_takes_batches_of_any_size_and_calls_no_python(model, exported):
    loaded = tf.saved_model.load(str(exported))
    for batch in (X[:1], X):
        np.testing.assert_allclose(loaded.serve(batch), model.predict(batch, verbose=0), rtol=1e-5, atol=1e-6)
    operators = {op.type for op in loaded.signatures["serve"].graph.get_operations()}
    assert not {name for name in operators if "PyFunc" in name}


def test_a_model_is_converted_to_tflite_with_its_built_in_operators_alone(model):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    given, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.allocate_tensors()
    for x, y in zip(X, model.predict(X, verbose=0), strict=True):
        interpreter.set_tensor(given, x[None])
        interpreter.invoke()
        np.testing.assert_allclose(interpreter.get_tensor(result)[0], y, rtol=1e-5, atol=1e-5)


def test_an_export_says_which_size_an_adaptive_layer_must_know(tmp_path):
    inputs = keras.Input((None, 8, 3))
    model = keras.Model(inputs, AdaptiveMaxPooling2D((4, 2))(inputs))
    with pytest.raises(ValueError, match=r"AdaptiveMaxPooling2D must know the size of axis 1, of which it makes 4"):
        model.export(tmp_path / "model", verbose=False)
