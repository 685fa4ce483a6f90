"""The adapter for JAX: values and gradients of any order, in compiled and in mapped functions."""

import numpy as np
import pytest
from specimens import LAYOUTS, to_layout

import fastpool as fp

jax = pytest.importorskip("jax")
check_grads = pytest.importorskip("jax.test_util").check_grads
fast = pytest.importorskip("fastpool.integrations.jax")

jnp = jax.numpy
SHAPES = {1: (2, 3, 11), 2: (2, 3, 8, 9), 3: (1, 2, 5, 6, 7)}
WINDOWS = [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True}]


@pytest.fixture(autouse=True)
def _on_the_cpu():
    with jax.default_device(jax.devices("cpu")[0]):
        yield


def random(shape, layout="channels_first", dtype=np.float32):
    return to_layout(np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape).astype(dtype), layout)


@pytest.mark.parametrize("op", ["max", "min"])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_values_argmax_and_gradient_are_those_of_the_core(op, axes, layout, window):
    x, name = random(SHAPES[axes], layout), f"{op}_pool{axes}d"
    pool = getattr(fast, name)
    options = {**window, "data_format": layout}
    expected, where = getattr(fp, name)(x, **options, **{f"return_arg{op}": True})
    y, found = pool(x, **options, **{f"return_arg{op}": True})
    assert isinstance(y, jax.Array)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(found, where)
    np.testing.assert_array_equal(jax.jit(lambda x: pool(x, **options))(x), expected)
    dy = random(expected.shape)
    dx = getattr(fp, f"{name}_backward")(dy, where, x.shape, **options)
    for with_argmax in (False, True):

        def loss(x, with_argmax=with_argmax):
            y = pool(x, **options, **{f"return_arg{op}": with_argmax})
            return (dy * (y[0] if with_argmax else y)).sum()

        np.testing.assert_array_equal(jax.jit(jax.grad(loss))(x), dx)
        np.testing.assert_array_equal(jax.grad(loss)(x), dx)


def test_gradients_of_any_order_are_numerically_right():
    x = jnp.asarray(random((1, 2, 6, 5)) / 7)
    check_grads(lambda x: jnp.sin(fast.max_pool2d(x, 3, 2, 1, 1)), (x,), order=3, modes=["rev"], rtol=0.05, atol=0.05)


def test_functions_are_mapped_over_new_axes():
    x = jnp.asarray(random((4, 3, 2, 6, 6)))

    def pool(x):
        return fast.max_pool2d(x, 2)

    np.testing.assert_array_equal(
        jax.vmap(pool)(x), fp.max_pool2d(np.asarray(x).reshape(12, 2, 6, 6), 2).reshape(4, 3, 2, 3, 3)
    )

    def loss(x):
        return (fast.max_pool2d(x, 3, 1, 1, 2) ** 2).sum()

    each = jnp.stack([jax.grad(loss)(one) for one in x])
    np.testing.assert_array_equal(jax.vmap(jax.grad(loss))(x), each)
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.vmap(jax.grad(loss))))(x), each)
    one = x[0, 0]
    jacobian = jax.jacrev(pool)(one)
    assert jacobian.shape == (2, 3, 3, 2, 6, 6)
    assert (jacobian.sum((3, 4, 5)) == 1).all()
    hessian = jax.jacrev(jax.grad(loss))(one)
    np.testing.assert_allclose(jnp.einsum("abcdef,def->abc", hessian, one), jax.grad(loss)(one), rtol=1e-5)


@pytest.mark.parametrize("shape", [(6, 7), (2, 6, 7), (1, 2, 6, 7)])
def test_batch_and_channels_may_be_missing(shape):
    x = random(shape)
    np.testing.assert_array_equal(fast.max_pool2d(x, 2), fp.max_pool2d(x, 2))
    assert jax.grad(lambda x: fast.max_pool2d(x, 2).sum())(x).shape == shape
    batch = jnp.stack([x, -x])
    expected = np.stack([fp.max_pool2d(x, 2), fp.max_pool2d(-x, 2)])
    np.testing.assert_array_equal(jax.vmap(lambda x: fast.max_pool2d(x, 2))(batch), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "uint8", "bool"])
def test_other_dtypes_are_pooled(dtype):
    x = jnp.asarray(random((1, 2, 4, 4)) % 5).astype(dtype)
    y = fast.max_pool2d(x, 2)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.astype(float), fp.max_pool2d(np.asarray(x), 2).astype(float))
    if dtype in ("bfloat16", "float16"):
        assert jax.grad(lambda x: fast.max_pool2d(x, 2).sum())(x).sum() == 8


def test_a_step_of_training_is_that_of_the_pool_of_xla():
    x, w = jnp.asarray(random((8, 1, 12, 12))) / 1000, jnp.asarray(random((4, 1, 3, 3))) / 20

    def loss(w, pool):
        y = jax.lax.conv_general_dilated(x, w, (1, 1), "VALID")
        return (pool(jax.nn.relu(y)) ** 2).mean()

    def by_xla(y):
        return jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    got, expected = (jax.jit(jax.grad(loss), static_argnums=1)(w, p) for p in (lambda y: fast.max_pool2d(y, 2), by_xla))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: fast.max_pool2d(x, 9), ValueError, "does not fit into an axis"),
        (lambda x: fast.max_pool2d(x, 2, return_argmax=2), TypeError, "return_argmax"),
        (lambda x: fast.max_pool2d(x[0, 0, 0], 2), ValueError, "x must have 2 to 4 axes"),
        (lambda x: fast.max_pool2d(None, 2), TypeError, "x must be an array, got builtins.NoneType"),
        (lambda x: fast.max_pool2d(x.astype(complex), 2), TypeError, "x must be bool, an integer"),
        (lambda x: fast.min_pool2d(x, 2.5), TypeError, "kernel_size"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_function_is_traced(call, error, message):
    x = jnp.ones((1, 1, 4, 4))
    for function in (call, jax.jit(call)):
        with pytest.raises(error, match=message):
            function(x)
