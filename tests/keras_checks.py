"""The layers for Keras on the backend that KERAS_BACKEND names; tests/test_integrations_keras.py runs this for each."""

import json

import keras
import numpy as np
import pytest
from doctests import check, of_module, of_page
from keras import layers, ops
from tables import X, Y, table

import fastpool as fp
from fastpool.integrations import keras as layers_of_fastpool
from fastpool.integrations.keras import (
    HardSwish,
    Maxout,
    MinPooling2D,
    Swish,
    hard_swish,
    max_pool_by_conv,
    swish,
    use_in_numpy_backend,
)

BACKEND = keras.backend.backend()
infers_only = pytest.mark.skipif(BACKEND == "numpy", reason="Keras' NumPy backend does not train")


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


def steps_of_a_sentence(*more):
    """A model whose last layer averages the steps that are not masked, and what comes out of the one before."""
    tokens = keras.Input((5,), dtype="int32")
    steps = layers.Embedding(9, 8, mask_zero=True)(tokens)
    for layer in more:
        steps = layer(steps)
    return keras.Model(tokens, [steps, layers.GlobalAveragePooling1D()(steps)])


@pytest.mark.parametrize("grouping", ["strided", "contiguous"])
def test_a_mask_goes_through_maxout_and_activations(grouping):
    model = steps_of_a_sentence(
        layers.Dense(8), Maxout(4, grouping=grouping), HardSwish(), layers.Activation(hard_swish), Swish()
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
            MinPooling2D(2, 1),
            layers_of_fastpool.AdaptiveMaxPooling2D(4),
            layers_of_fastpool.AdaptiveAveragePooling2D(3),
            layers.Flatten(),
            layers.Dense(12, activation=swish),
            HardSwish(),
            Maxout(6),
            Swish(1.5),
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
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    losses = model.fit(x, labels, epochs=8, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]


def test_hard_swish_is_fastpools():
    x = np.linspace(-6, 6, 49, dtype=np.float32)
    expected = fp.hard_swish(x)
    for call in (hard_swish, HardSwish(), layers.Activation(hard_swish)):
        np.testing.assert_allclose(numpy(call(ops.convert_to_tensor(x))), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("beta", [1.0, 1.702, -0.5, 2])
def test_swish_is_fastpools(beta):
    x = np.linspace(-6, 6, 49, dtype=np.float32)
    for y in (swish(ops.convert_to_tensor(x), beta), Swish(beta)(ops.convert_to_tensor(x))):
        np.testing.assert_allclose(numpy(y), fp.swish(x, beta), rtol=2e-6, atol=1e-6)
        assert keras.backend.standardize_dtype(y.dtype) == "float32"


@pytest.mark.parametrize("function", [hard_swish, swish, lambda x: swish(x, 1.5)])
def test_functions_take_symbolic_inputs(function):
    inputs = keras.Input((None, 4))
    outputs = function(inputs)
    assert (outputs.shape, outputs.dtype) == (inputs.shape, inputs.dtype)
    x = draws((2, 3, 4))
    y = keras.Model(inputs, outputs).predict(x, verbose=0)
    np.testing.assert_allclose(y, numpy(function(ops.convert_to_tensor(x))), rtol=1e-6, atol=1e-6)


def test_swish_refuses_a_beta_that_is_no_finite_number():
    for call in (Swish, lambda beta: swish(ops.convert_to_tensor([1.0]), beta)):
        with pytest.raises(ValueError, match="beta must be finite, got inf"):
            call(float("inf"))
        with pytest.raises(TypeError, match="beta must be a number, got '1'"):
            call("1")


def shape_of(axes, data_format, sizes=(9, 7, 8)):
    return (2, *sizes[:axes], 3) if data_format == "channels_last" else (2, 3, *sizes[:axes])


@pytest.mark.parametrize(
    ("axes", "dtype", "window", "data_format"),
    [
        (1, "float32", {}, "channels_last"),
        (1, "float32", {"pool_size": 3, "strides": 2, "padding": "SAME"}, "channels_first"),
        (2, "float32", {}, "channels_first"),
        (2, "int32", {"pool_size": (3, 2), "strides": [1, 2], "padding": "same"}, "channels_last"),
        (2, "uint8", {"strides": 1}, "channels_last"),
        (3, "float32", {"pool_size": (3, 2, 2), "padding": "same"}, "channels_last"),
    ],
    ids=str,
)
def test_min_pooling_is_fastpools(axes, dtype, window, data_format):
    x = np.random.default_rng(0).integers(0, 9, shape_of(axes, data_format)).astype(dtype)
    if dtype == "int32":
        x[0, 1] = np.iinfo(dtype).min
    layer = getattr(layers_of_fastpool, f"MinPooling{axes}D")(**window, data_format=data_format)
    y = numpy(layer(ops.convert_to_tensor(x)))
    pool = getattr(fp, f"min_pool{axes}d")
    expected = pool(x, layer.pool_size, layer.strides, layer.padding, data_format=data_format)
    np.testing.assert_array_equal(y, expected)
    assert y.dtype == dtype
    assert layer.compute_output_shape(x.shape) == y.shape


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_min_pooling_takes_integers_where_max_pooling_does(axes):
    x = ops.convert_to_tensor(np.arange(2 * 4**axes * 3, dtype="int32").reshape(2, *(4,) * axes, 3))
    layer = getattr(layers_of_fastpool, f"MinPooling{axes}D")()
    try:
        ops.max_pool(x, 2, 2)
    except Exception:
        with pytest.raises(TypeError, match=f"MinPooling{axes}D takes floats alone on {BACKEND}, got int32"):
            layer(x)
    else:
        assert numpy(layer(x)).dtype == "int32"


@pytest.mark.parametrize("kind", ["Max", "Average"])
@pytest.mark.parametrize(
    ("axes", "output_size", "data_format"),
    [
        (1, 1, "channels_last"),
        (1, 4, "channels_first"),
        (1, 12, "channels_last"),
        (2, (3, 7), "channels_last"),
        (2, (4, None), "channels_first"),
        (2, [9, 1], "channels_last"),
        (3, (2, 7, 3), "channels_last"),
    ],
    ids=str,
)
def test_adaptive_pooling_is_fastpools(axes, output_size, data_format, kind):
    x = draws(shape_of(axes, data_format))
    layer = getattr(layers_of_fastpool, f"Adaptive{kind}Pooling{axes}D")(output_size, data_format=data_format)
    y = numpy(layer(ops.convert_to_tensor(x)))
    pool = getattr(fp, f"adaptive_{'max' if kind == 'Max' else 'avg'}_pool{axes}d")
    np.testing.assert_allclose(
        y, pool(x, output_size, data_format=data_format), rtol=0, atol=0 if kind == "Max" else 5e-7
    )
    assert layer.compute_output_shape(x.shape) == y.shape


@pytest.mark.parametrize("kind", ["Max", "Average"])
def test_adaptive_pooling_takes_images_of_any_size_where_the_windows_need_not_be_known(kind):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, getattr(layers_of_fastpool, f"Adaptive{kind}Pooling2D")((1, None))(inputs))
    assert model.output_shape == (None, 1, None, 3)
    for shape in ((2, 5, 7, 3), (1, 8, 4, 3)):
        assert model.predict(draws(shape), verbose=0).shape == (shape[0], 1, *shape[2:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MinPooling2D(0), "pool_size must be positive in every axis, got 0"),
        (lambda: MinPooling2D((2, 2, 2)), "pool_size must be one integer or 2, one for each axis, got"),
        (lambda: MinPooling2D(2.5), "pool_size must"),
        (lambda: MinPooling2D(2, -1), "strides must be positive in every axis, got -1"),
        (lambda: MinPooling2D(padding="causal"), "padding must be 'valid' or 'same', got 'causal'"),
        (lambda: MinPooling2D(data_format="NHWC"), "data_format must be .* got 'NHWC'"),
        (lambda: MinPooling2D()(np.zeros((2, 9, 3), "float32")), "expected ndim=4, found ndim=3"),
        (lambda: layers_of_fastpool.AdaptiveMaxPooling2D((3, 0)), "output_size must be positive, got 0"),
        (lambda: layers_of_fastpool.AdaptiveAveragePooling1D((3, 3)), "output_size must be one integer or 1, one"),
    ],
)  # fmt: skip
def test_pooling_refuses_bad_arguments(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@infers_only
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: MinPooling2D(2), (3, 6, 8, 2)),
        (lambda: layers_of_fastpool.AdaptiveMaxPooling2D((3, 5)), (3, 6, 8, 2)),
        (lambda: layers_of_fastpool.AdaptiveAveragePooling2D((4, 1)), (3, 6, 8, 2)),
        (lambda: Swish(1.5), (3, 4)),
    ],
)
def test_layers_have_gradients(layer, shape):
    """A dense layer before them learns to make all results larger."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape[1:]), layers.Dense(shape[-1]), layer(), layers.Flatten()])
    model.compile(keras.optimizers.SGD(0.1), loss=lambda _, y: -ops.mean(y))
    x = draws(shape)
    losses = model.fit(x, np.zeros(len(x)), epochs=3, batch_size=len(x), verbose=0).history["loss"]
    assert losses[2] < losses[1] < losses[0]


FIRST = {"data_format": "channels_first"}
# A layer of Keras with no weights, and ours that should be like it in all but what it computes.
COUNTERPARTS = [
    (layers.MaxPooling1D, layers_of_fastpool.MinPooling1D, {"pool_size": 3, "padding": "same"}, (9, 4)),
    (layers.MaxPooling2D, MinPooling2D, {}, (9, 8, 4)),
    (layers.MaxPooling2D, MinPooling2D, {"pool_size": (3, 2), "strides": 2, **FIRST}, (4, 9, 8)),
    (layers.MaxPooling3D, layers_of_fastpool.MinPooling3D, {"pool_size": 2, "padding": "same"}, (9, 8, 7, 4)),
    (layers.Activation, HardSwish, {}, (7, 5)),
    (layers.Activation, Swish, {}, (7, 5)),
]  # fmt: skip
if hasattr(layers, "AdaptiveMaxPooling2D"):
    COUNTERPARTS += [
        (getattr(layers, name), getattr(layers_of_fastpool, name), {"output_size": 3}, (*(9, 8, 7)[:axes], 4))
        for axes in (1, 2, 3)
        for name in (f"AdaptiveMaxPooling{axes}D", f"AdaptiveAveragePooling{axes}D")
    ]


@pytest.mark.parametrize(("theirs", "ours", "arguments", "shape"), COUNTERPARTS)
def test_layers_are_like_those_of_keras_without_weights(theirs, ours, arguments, shape):
    theirs = theirs(**arguments, **({"activation": "silu"} if theirs is layers.Activation else {}))
    ours = ours(**arguments)
    built = theirs.built or "Adaptive" in type(ours).__name__  # which Keras 3.15 builds at their first call
    assert ours.built is built is True
    for name in ("pool_size", "strides", "padding", "output_size", "data_format"):
        assert getattr(ours, name, None) == getattr(theirs, name, None)
    for name in (
        "trainable", "supports_masking", "autocast", "dtype", "compute_dtype", "variable_dtype", "dtype_policy",
        "weights", "losses", "metrics", "stateful",
    ):  # fmt: skip
        assert getattr(ours, name, None) == getattr(theirs, name, None), name
    inputs = keras.Input(shape, dtype="float32")
    assert ours.compute_output_shape(inputs.shape) == tuple(theirs.compute_output_shape(inputs.shape))
    expected, spec = theirs.compute_output_spec(inputs), ours.compute_output_spec(inputs)
    assert (spec.shape, spec.dtype) == (expected.shape, expected.dtype)
    assert ours(inputs).shape == expected.shape
    assert not ours.weights
    mine = {"beta", "activation", "name"}
    assert {k: v for k, v in ours.get_config().items() if k not in mine} == {
        k: v for k, v in theirs.get_config().items() if k not in mine
    }


LAYERS = [
    lambda **more: Maxout(3, axis=1, grouping="contiguous", **more),
    lambda **more: HardSwish(**more),
    lambda **more: Swish(beta=1.5, **more),
    lambda **more: layers_of_fastpool.MinPooling1D(2, 1, "same", **more),
    lambda **more: layers_of_fastpool.AdaptiveMaxPooling1D((4,), "channels_first", **more),
    lambda **more: layers_of_fastpool.AdaptiveAveragePooling1D((None,), **more),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_is_made_anew_from_its_configuration_as_json(layer):
    layer = layer(name="mine", dtype="mixed_float16", trainable=False)
    anew = keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(layer))))
    assert type(anew) is type(layer)
    assert anew.get_config() == layer.get_config()
    assert (anew.name, anew.dtype_policy.name, anew.trainable) == ("mine", "mixed_float16", False)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "bfloat16"])
def test_layers_compute_in_the_dtype_of_their_policy(layer, policy):
    layer = layer(dtype=policy)
    y = layer(ops.convert_to_tensor(draws((2, 6, 4))))
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    assert layer(keras.Input((6, 4))).dtype == layer.compute_dtype


def test_a_subclass_may_build():
    class Scaled(HardSwish):
        def build(self, input_shape):
            self.scale = self.add_weight(shape=input_shape[-1:], initializer="ones", name="scale")

    layer = Scaled()
    assert not layer.built
    layer(ops.convert_to_tensor(draws((2, 5))))
    assert layer.scale.shape == (5,)


def test_the_cifar_model_of_the_article_has_its_number_of_parameters():
    keras.utils.clear_session()  # which counts the names of layers from the start
    zeros = {"kernel_initializer": "zeros"}  # for random numbers JAX would compile a function of each shape
    x = inputs = keras.Input((32, 32, 3))
    for filters in (64, 128, 256):
        for _ in range(2):
            x = HardSwish()(layers.Conv2D(filters, (3, 3), padding="same", **zeros)(x))
        x = layers.MaxPooling2D()(x) if filters < 256 else layers.GlobalAveragePooling2D()(x)
    x = HardSwish()(layers.Dense(1024, **zeros)(x))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax", **zeros)(x))
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


@pytest.mark.skipif(BACKEND == "numpy", reason="about the other backends")
def test_another_backend_cannot_use_it():
    with pytest.raises(RuntimeError, match=f"Keras runs on its backend '{BACKEND}'"):
        use_in_numpy_backend()


MODULES = ("convolutions", "layers", "numpy_backend", "pooling")
EXAMPLES = {
    **{name: code for module in MODULES for name, code in of_module(f"fastpool.integrations.keras.{module}").items()},
    "guide": of_page("docs/guides/keras.md"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs_as_printed(name):
    check(EXAMPLES[name])
