"""The layers for Keras on the backend that KERAS_BACKEND names; tests/test_integrations_keras.py runs this for each."""

import keras
import numpy as np
import pytest
from doctests import check, of_module, of_page
from keras import layers, ops
from tables import X, Y, table

import fastpool as fp
from fastpool.integrations.keras import HardSwish, Maxout, hard_swish, max_pool_by_conv, use_in_numpy_backend

BACKEND = keras.backend.backend()
infers_only = pytest.mark.skipif(BACKEND == "numpy", reason="Keras' NumPy backend does not train")
on_numpy = pytest.mark.skipif(BACKEND != "numpy", reason="about Keras' NumPy backend")


def draws(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("axis", [-1, 1, -2])
@pytest.mark.parametrize("num_units", [1, 4, 12])
@pytest.mark.parametrize("grouping", ["strided", "contiguous"])
def test_maxout_is_fastpools(axis, num_units, grouping):
    x = draws((5, 12, 12, 12))
    layer = Maxout(num_units, axis, grouping)
    y = numpy(layer(ops.convert_to_tensor(x)))
    np.testing.assert_array_equal(y, fp.maxout(x, num_units, axis, grouping=grouping))
    assert layer.compute_output_shape(x.shape) == y.shape


@pytest.mark.parametrize(
    "call",
    [
        lambda: Maxout(4)(np.zeros((2, 10), "float32")),
        lambda: Maxout(4)(keras.Input((10,))),
        lambda: Maxout(4).compute_output_shape((None, 10)),
        lambda: Maxout(4, axis=1)(keras.Input((10, 3, 3))),
    ],
)
def test_maxout_refuses_a_number_of_features_that_does_not_fit_with_both_numbers(call):
    with pytest.raises(ValueError, match=r"number of features \(10\) is not a multiple of num_units \(4\)"):
        call()


def test_maxout_refuses_bad_arguments():
    with pytest.raises(ValueError, match="num_units must be positive, got 0"):
        Maxout(0)
    with pytest.raises(TypeError, match="num_units must be an integer"):
        Maxout(2.5)
    with pytest.raises(ValueError, match="grouping must be"):
        Maxout(2, grouping="halves")
    with pytest.raises(ValueError, match="axis must be from"):
        Maxout(2, axis=7).compute_output_shape((None, 10))


def test_maxout_takes_batches_and_images_of_any_size():
    inputs = keras.Input((None, None, 8))
    model = keras.Model(inputs, Maxout(2)(layers.Conv2D(8, 3, padding="same")(inputs)))
    assert model.output_shape == (None, None, None, 2)
    for shape in ((1, 5, 7, 8), (3, 6, 4, 8)):
        assert model.predict(draws(shape), verbose=0).shape == (*shape[:3], 2)


def test_layers_are_configured_from_what_they_tell():
    layer = Maxout.from_config(Maxout(3, axis=1, grouping="contiguous", name="pieces").get_config())
    assert (layer.num_units, layer.axis, layer.grouping, layer.name) == (3, 1, "contiguous", "pieces")
    assert HardSwish.from_config(HardSwish(name="h").get_config()).name == "h"


def steps_of_a_sentence(*more):
    """A model whose last layer averages the steps that are not masked, and what comes out of the one before."""
    tokens = keras.Input((5,), dtype="int32")
    steps = layers.Embedding(9, 8, mask_zero=True)(tokens)
    for layer in more:
        steps = layer(steps)
    return keras.Model(tokens, [steps, layers.GlobalAveragePooling1D()(steps)])


@pytest.mark.parametrize("grouping", ["strided", "contiguous"])
def test_a_mask_goes_through_maxout_and_hard_swish(grouping):
    model = steps_of_a_sentence(
        layers.Dense(8), Maxout(4, grouping=grouping), HardSwish(), layers.Activation(hard_swish)
    )
    tokens = np.array([[3, 1, 2, 0, 0], [5, 0, 0, 0, 0]], "int32")
    steps, averages = model.predict(tokens, verbose=0)
    for sentence, average, length in zip(steps, averages, (3, 1), strict=True):
        np.testing.assert_allclose(average, sentence[:length].mean(0), rtol=1e-5, atol=1e-6)


def test_maxout_over_the_steps_says_that_it_drops_their_mask():
    x = layers.Embedding(9, 3, mask_zero=True)(ops.convert_to_tensor(np.array([[3, 1, 2, 0]], "int32")))
    with pytest.warns(UserWarning, match=r"Maxout over axis 1 drops the mask of shape \(1, 4\), which has that axis"):
        Maxout(2, axis=1)(x)


def small_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, activation=hard_swish),
            Maxout(4),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(12),
            HardSwish(),
            Maxout(6),
            layers.Dense(3, activation="softmax"),
        ]
    )


def test_a_saved_model_is_loaded_without_being_told_of_the_layers(tmp_path):
    model, x = small_model(), draws((5, 8, 8, 1))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    assert loaded.layers[0].activation is hard_swish


@infers_only
def test_a_model_with_the_layers_learns():
    keras.utils.set_random_seed(0)
    x = draws((96, 8, 8, 1))
    labels = (x[:, :4].mean((1, 2, 3)) > 0).astype(int) + (x[:, 4:].mean((1, 2, 3)) > 0)
    model = small_model()
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    losses = model.fit(x, labels, epochs=4, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]


def test_hard_swish_is_fastpools():
    x = np.linspace(-6, 6, 49, dtype=np.float32)
    expected = fp.hard_swish(x)
    for call in (hard_swish, HardSwish(), layers.Activation(hard_swish)):
        np.testing.assert_allclose(numpy(call(ops.convert_to_tensor(x))), expected, rtol=1e-6, atol=1e-6)


def test_the_cifar_model_of_the_article_has_its_number_of_parameters():
    x = inputs = keras.Input((32, 32, 3))
    for filters in (64, 128, 256):
        for _ in range(2):
            x = HardSwish()(layers.Conv2D(filters, (3, 3), padding="same")(x))
        x = layers.MaxPooling2D()(x) if filters < 256 else layers.GlobalAveragePooling2D()(x)
    x = HardSwish()(layers.Dense(1024)(x))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    assert model.count_params() == 1_418_826
    shown = []
    model.summary(print_fn=shown.append)
    assert "hard_swish_6 (HardSwish)" in "\n".join(shown)


def test_convolutions_alone_give_the_table_of_the_article():
    model = max_pool_by_conv((16, 16, 1), 2)
    x, y = table(X, np.float32), table(Y, np.float32)
    np.testing.assert_array_equal(model.predict(x[None, :, :, None], verbose=0)[0, :, :, 0], y)


@pytest.mark.parametrize(("shape", "pool"), [((9, 7, 3), 3), ((6, 9, 2), (2, 4)), ((5, 4, 1), (1, 1))])
def test_a_model_of_convolutions_pools_over_any_window(shape, pool):
    model = max_pool_by_conv(shape, pool)
    assert {type(layer) for layer in model.layers[1:]} <= {layers.Conv2D, layers.Concatenate, layers.Add}
    x = np.random.default_rng(0).integers(-10, 11, (2, *shape)).astype(np.float32)
    expected = fp.max_pool2d(x, pool, data_format="channels_last")
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    assert model.output_shape == (None, *expected.shape[1:])


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow convolves with the channels first on a GPU alone")
def test_a_model_of_convolutions_takes_channels_first():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        x = np.random.default_rng(0).integers(-10, 11, (2, 3, 6, 8)).astype(np.float32)
        np.testing.assert_array_equal(max_pool_by_conv((3, 6, 8), 2).predict(x, verbose=0), fp.max_pool2d(x, 2))
    finally:
        keras.config.set_image_data_format(before)


POOLINGS = [
    (layers.MaxPooling1D, (2, 9, 5), {}),
    (layers.MaxPooling1D, (2, 9, 5), {"pool_size": 3, "strides": 1, "padding": "same"}),
    (layers.MaxPooling2D, (2, 9, 8, 5), {}),
    (layers.MaxPooling2D, (2, 9, 8, 5), {"pool_size": (3, 2), "strides": (2, 3), "padding": "same"}),
    (layers.MaxPooling2D, (2, 5, 9, 8), {"data_format": "channels_first", "padding": "same"}),
    (layers.MaxPooling3D, (2, 5, 6, 7, 3), {"padding": "same", "strides": 1}),
]


@on_numpy
@pytest.mark.parametrize(("pooling", "shape", "arguments"), POOLINGS)
def test_pooling_layers_of_keras_run_on_fastpool_until_undone(pooling, shape, arguments, monkeypatch):
    calls = []
    for name in ("max_pool1d", "max_pool2d", "max_pool3d"):
        real = getattr(fp, name)
        monkeypatch.setattr(fp, name, lambda *a, real=real, **k: calls.append(1) or real(*a, **k))
    x = draws(shape)
    expected = np.asarray(pooling(**arguments)(x))
    assert not calls
    with use_in_numpy_backend():
        np.testing.assert_array_equal(pooling(**arguments)(x), expected)
        assert len(calls) == 1
        model = keras.Sequential([keras.Input(shape[1:]), pooling(**arguments)])
        np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    del calls[:]
    pooling(**arguments)(x)
    assert not calls


@on_numpy
def test_using_fastpool_twice_is_undone_once():
    from keras.src.backend import nn

    own = nn.max_pool
    first = use_in_numpy_backend()
    used = nn.max_pool
    use_in_numpy_backend().close()
    assert nn.max_pool is used is not own
    first.close()
    assert nn.max_pool is own


@pytest.mark.skipif(BACKEND == "numpy", reason="about the other backends")
def test_another_backend_cannot_use_it():
    with pytest.raises(RuntimeError, match=f"Keras runs on its backend '{BACKEND}'"):
        use_in_numpy_backend()


EXAMPLES = {**of_module("fastpool.integrations.keras"), "guide": of_page("docs/guides/keras-maxout.md")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs_as_printed(name):
    check(EXAMPLES[name])
