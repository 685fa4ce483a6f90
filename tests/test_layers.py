"""The layers: gradients against finite differences, deepnet's own layer as a reference, and a network that learns."""

import numpy as np
import pytest

from fastpool.layers import (
    Conv2D,
    Dense,
    Flatten,
    GlobalAvgPool2D,
    HardSwish,
    Maxout,
    MaxoutDense,
    MaxPool2D,
    SoftmaxCrossEntropy,
    Swish,
)

IMAGE = (4, 7, 6)
IMAGE_LAYERS = {
    "Conv2D": lambda **kw: Conv2D(IMAGE, 6, 3, rng=1, **kw),
    "Conv2D strided, padded": lambda **kw: Conv2D(IMAGE, 2, (3, 2), stride=2, padding=((1, 0), (0, 2)), rng=1, **kw),
    "Conv2D dilated, grouped": lambda **kw: Conv2D(IMAGE, 4, 2, padding="same", dilation=2, groups=2, rng=1, **kw),
    "Conv2D with elements left over": lambda **kw: Conv2D(IMAGE, 3, (6, 5), stride=(3, 2), rng=1, **kw),
    "MaxPool2D": lambda dtype=None: MaxPool2D(IMAGE, 2),
    "MaxPool2D overlapping": lambda dtype=None: MaxPool2D(IMAGE, 3, stride=2, padding=1, ceil_mode=True),
    "GlobalAvgPool2D": lambda dtype=None: GlobalAvgPool2D(IMAGE),
    "Maxout": lambda dtype=None: Maxout(IMAGE, 2),
    "Maxout contiguous": lambda dtype=None: Maxout(IMAGE, 2, grouping="contiguous"),
    "Flatten": lambda dtype=None: Flatten(IMAGE),
    "HardSwish": lambda dtype=None: HardSwish(IMAGE),
    "Swish": lambda dtype=None: Swish(IMAGE, beta=1.5),
}
DENSE_LAYERS = {
    "Dense": lambda **kw: Dense(5, 3, rng=1, **kw),
    "MaxoutDense": lambda **kw: MaxoutDense(5, 3, 4, rng=1, **kw),
    "Maxout of features": lambda dtype=None: Maxout(6, 3),
}
LAYERS = {**IMAGE_LAYERS, **DENSE_LAYERS}


@pytest.fixture
def rng():
    return np.random.default_rng(2013)


def batch(rng, layer, n, dtype=np.float64):
    return (2 * rng.standard_normal((n, *layer.X_dim))).astype(dtype)


def finite_differences(f, a, step=1e-6):
    """The gradient of a scalar function of the array `a`, by central differences, `a` changed in place and restored."""
    gradient = np.empty(a.shape)
    for i in np.ndindex(a.shape):
        kept = a[i]
        a[i] = kept + step
        above = f()
        a[i] = kept - step
        gradient[i] = (above - f()) / (2 * step)
        a[i] = kept
    return gradient


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_finite_differences(name, rng):
    layer = LAYERS[name](dtype=np.float64)
    X = batch(rng, layer, 3)
    for param in layer.params:
        param += rng.standard_normal(param.shape)
    dout = rng.standard_normal((3, *layer.out_dim))

    def value():
        return np.vdot(dout, layer.forward(X))

    layer.forward(X)
    dX, grads = layer.backward(dout)
    np.testing.assert_allclose(dX, finite_differences(value, X), rtol=1e-6, atol=1e-7)
    assert len(grads) == len(layer.params)
    for param, grad in zip(layer.params, grads, strict=True):
        np.testing.assert_allclose(grad, finite_differences(value, param), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_shapes_and_dtypes_are_kept_for_a_batch_of_any_size(name, n, dtype, rng):
    layer = LAYERS[name](dtype=dtype)
    X = batch(rng, layer, n, dtype)
    out = layer.forward(X)
    assert out.shape == (n, *layer.out_dim)
    assert out.dtype == dtype
    dX, grads = layer.backward(np.ones_like(out))
    assert dX.shape == X.shape
    assert dX.dtype == dtype
    assert [(g.shape, g.dtype) for g in grads] == [(p.shape, p.dtype) for p in layer.params]


def test_softmax_cross_entropy_has_the_gradient_of_finite_differences(rng):
    loss = SoftmaxCrossEntropy()
    logits, labels = rng.standard_normal((4, 6)), np.array([0, 5, 2, 2], np.uint8)
    loss.forward(logits, labels)
    dlogits = loss.backward()
    np.testing.assert_allclose(dlogits, finite_differences(lambda: loss.forward(logits, labels), logits), atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_cross_entropy_is_stable_for_huge_logits(dtype):
    loss = SoftmaxCrossEntropy()
    logits = np.array([[1e30, 0, -1e30], [-1e30, -1e30, -1e30]], dtype)
    assert loss.forward(logits, [0, 1]) == pytest.approx(np.log(3) / 2)
    dlogits = loss.backward()
    assert dlogits.dtype == dtype
    np.testing.assert_allclose(dlogits, np.array([[0, 0, 0], [1 / 6, -1 / 3, 1 / 6]]), rtol=1e-6)


def im2col_indices(shape, size, stride):
    """Row, column and channel indices of every window, after cs231n and deepnet."""
    _, channels, height, width = shape
    out_h, out_w = (height - size) // stride + 1, (width - size) // stride + 1
    i0 = np.tile(np.repeat(np.arange(size), size), channels)
    j0 = np.tile(np.arange(size), size * channels)
    i = i0[:, None] + stride * np.repeat(np.arange(out_h), out_w)
    j = j0[:, None] + stride * np.tile(np.arange(out_w), out_h)
    return np.repeat(np.arange(channels), size * size)[:, None], i, j


class DeepnetMaxpool:
    """deepnet's layer as in its article, with one size and stride and without padding."""

    def __init__(self, X_dim, size, stride):
        self.d_X, self.h_X, self.w_X = X_dim
        self.size, self.stride = size, stride
        self.h_out, self.w_out = (self.h_X - size) // stride + 1, (self.w_X - size) // stride + 1

    def forward(self, X):
        self.n_X = X.shape[0]
        X_reshaped = X.reshape(X.shape[0] * X.shape[1], 1, X.shape[2], X.shape[3])
        self.cells = im2col_indices(X_reshaped.shape, self.size, self.stride)
        cols = X_reshaped[:, *self.cells]
        self.X_col = cols.transpose(1, 2, 0).reshape(self.size**2, -1)
        self.max_indexes = np.argmax(self.X_col, axis=0)
        out = self.X_col[self.max_indexes, range(self.max_indexes.size)]
        return out.reshape(self.h_out, self.w_out, self.n_X, self.d_X).transpose(2, 3, 0, 1)

    def backward(self, dout):
        dX_col = np.zeros_like(self.X_col)
        dX_col[self.max_indexes, range(self.max_indexes.size)] = dout.transpose(2, 3, 0, 1).ravel()
        dX = np.zeros((self.n_X * self.d_X, 1, self.h_X, self.w_X), dX_col.dtype)
        cols = dX_col.reshape(self.size**2, -1, self.n_X * self.d_X).transpose(2, 0, 1)
        np.add.at(dX, (slice(None), *self.cells), cols)
        return dX.reshape(self.n_X, self.d_X, self.h_X, self.w_X), []


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 1), (3, 3), (4, 2)])
def test_max_pool_does_as_deepnet_does(size, stride, rng):
    X_dim = (3, 3 * stride + size, 5 * stride + size)
    ours, theirs = MaxPool2D(X_dim, size, stride), DeepnetMaxpool(X_dim, size, stride)
    X = rng.integers(0, 5, (4, *X_dim)).astype(np.float64)
    out = ours.forward(X)
    np.testing.assert_array_equal(out, theirs.forward(X))
    dout = rng.standard_normal(out.shape)
    (dX, grads), (dX_theirs, grads_theirs) = ours.backward(dout), theirs.backward(dout)
    np.testing.assert_allclose(dX, dX_theirs, rtol=1e-12)
    assert grads == grads_theirs == []


def test_maxout_dense_is_the_maximum_over_its_linear_pieces(rng):
    layer = MaxoutDense(5, 3, 4, dtype=np.float64, rng=rng)
    X = rng.standard_normal((6, 5))
    z = np.einsum("nd,dmk->nmk", X, layer.W) + layer.b
    np.testing.assert_allclose(layer.forward(X), z.max(axis=2))


def test_two_layers_from_one_seed_are_equal_and_global_state_is_untouched():
    before = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(Conv2D(IMAGE, 2, 3, rng=7).W, Conv2D(IMAGE, 2, 3, rng=np.random.default_rng(7)).W)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_weights_start_with_the_variance_of_he(rng):
    assert Dense(400, 500, rng=rng).W.std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    assert Conv2D((16, 8, 8), 64, 3, rng=rng).W.std() == pytest.approx(np.sqrt(2 / (16 * 9)), rel=0.05)


def test_a_layer_takes_the_params_that_an_optimiser_put_into_its_list():
    layer = Dense(2, 1, dtype=np.float64)
    layer.params[0] = np.array([[2.0], [3.0]])
    layer.params[1] = np.array([1.0])
    np.testing.assert_array_equal(layer.forward(np.array([[1.0, 1.0]])), [[6.0]])


def test_a_small_network_learns(rng):
    X = rng.standard_normal((60, 1, 8, 8)).astype(np.float32)
    labels = rng.integers(0, 3, 60)
    X += labels[:, None, None, None] * np.eye(8, dtype=np.float32)
    conv = Conv2D((1, 8, 8), 8, 3, padding=1, rng=rng)
    swish = HardSwish(conv.out_dim)
    maxout = Maxout(swish.out_dim, 4)
    pool = MaxPool2D(maxout.out_dim, 2)
    flat = Flatten(pool.out_dim)
    hidden = MaxoutDense(flat.out_dim, 16, 2, rng=rng)
    network = [conv, swish, maxout, pool, flat, hidden, Dense(hidden.out_dim, 3, rng=rng)]
    loss, losses = SoftmaxCrossEntropy(), []
    for _ in range(40):
        out = X
        for layer in network:
            out = layer.forward(out)
        losses.append(loss.forward(out, labels))
        slope = loss.backward()
        for layer in reversed(network):
            slope, grads = layer.backward(slope)
            for param, grad in zip(layer.params, grads, strict=True):
                param -= 0.05 * grad
    assert losses[-1] < 0.2 * losses[0]
    assert (out.argmax(axis=1) == labels).mean() > 0.95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxPool2D((3, 8), 2), r"X_dim must be \(channels, height, width\), all positive, got \(3, 8\)"),
        (lambda: MaxPool2D((3, 0, 8), 2), r"all positive, got \(3, 0, 8\)"),
        (lambda: MaxPool2D((3, 4, 4), 5), "a window of 5 cells does not fit into an axis of 4"),
        (lambda: Conv2D((3, 4, 4), 0, 3), "n_filter must be positive, got 0"),
        (lambda: Conv2D((3, 4, 4), 4, 3, groups=2), r"groups must divide the channels \(3\) and n_filter \(4\), got 2"),
        (lambda: Conv2D((3, 4, 4), 4, 3, stride=0), "stride must be positive"),
        (lambda: Maxout((6, 4, 4), 4), r"the channels of X_dim \(6\) must be a multiple of num_units \(4\)"),
        (lambda: Maxout((6, 4, 4), 2, grouping="halves"), "grouping must be 'strided' or 'contiguous', got 'halves'"),
        (lambda: Dense((3, 4), 2), r"X_dim must be the number of features, all positive, got \(3, 4\)"),
        (lambda: Dense(0, 2), "got 0"),
        (lambda: MaxoutDense(3, 2, 0), "pieces must be positive, got 0"),
        (lambda: Flatten(()), "X_dim must be the shape of one example, all positive"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Conv2D(IMAGE, 2, 3, dtype=np.int32),
        lambda: Dense(2.5, 3),
        lambda: Conv2D(IMAGE, 2, 3, stride=None),
        lambda: MaxPool2D("abc", 2),
    ],
)
def test_arguments_of_the_wrong_type_are_refused(make):
    with pytest.raises(TypeError):
        make()


@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_of_another_shape_is_refused(name):
    layer = LAYERS[name]()
    with pytest.raises(ValueError, match=rf"X must have shape \(N, .*\) for {type(layer).__name__}, got \(2, 99\)"):
        layer.forward(np.zeros((2, 99), np.float32))


@pytest.mark.parametrize("name", LAYERS)
def test_backward_needs_a_forward_pass(name):
    layer = LAYERS[name]()
    with pytest.raises(RuntimeError, match="backward needs a forward pass"):
        layer.backward(np.zeros((1, *layer.out_dim), np.float32))


@pytest.mark.parametrize("name", LAYERS)
def test_a_gradient_of_another_shape_is_refused(name, rng):
    layer = LAYERS[name]()
    layer.forward(batch(rng, layer, 2, np.float32))
    with pytest.raises(ValueError, match=r"dy|dout"):
        layer.backward(np.zeros((3, *layer.out_dim), np.float32))


def test_data_of_another_dtype_than_the_params_is_refused():
    with pytest.raises(TypeError, match="X must be float32 as the params of this Dense, got float64"):
        Dense(3, 2).forward(np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (np.zeros((2, 3)), [0, 3], ValueError, "labels must be from 0 below 3, the number of classes, got 3"),
        (np.zeros((2, 3)), [0, -1], ValueError, "got -1"),
        (np.zeros((2, 3)), [0], ValueError, r"labels must have shape \(2,\)"),
        (np.zeros((2, 3)), [0.0, 1.0], TypeError, "labels must be integers, got float64"),
        (np.zeros((0, 3)), np.zeros(0, int), ValueError, r"logits must have shape \(N, classes\)"),
        (np.zeros(3), [0], ValueError, r"logits must have shape \(N, classes\)"),
    ],
)
def test_logits_and_labels_that_do_not_fit_are_refused(logits, labels, error, message):
    with pytest.raises(error, match=message):
        SoftmaxCrossEntropy().forward(logits, labels)


def test_the_loss_needs_a_forward_pass():
    with pytest.raises(RuntimeError, match="needs a forward pass"):
        SoftmaxCrossEntropy().backward()
