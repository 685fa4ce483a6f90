"""deepnet's layers and cs231n's columns on fastpool give what theirs give."""

import numpy as np
import pytest

from examples.deepnet_cnn import InNumPy, network, scores, train
from fastpool.integrations import deepnet

FIELDS = [  # height and width of the images; those of the windows, padding, stride
    ((9, 11), (3, 3, 1, 1)),
    ((8, 10), (2, 2, 0, 2)),
    ((9, 11), (3, 5, 2, 2)),
    ((9, 11), (1, 1, 0, 1)),
    ((9, 11), (1, 3, 0, 2)),
]


def draws(shape, dtype=np.float64):
    return np.random.default_rng(1).integers(-9, 10, shape).astype(dtype)


@pytest.mark.parametrize(("size", "field"), FIELDS, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64], ids=lambda t: t.__name__)
def test_columns_there_and_back_are_the_originals(size, field, dtype):
    x = draws((3, 2, *size), dtype)
    cols = deepnet.im2col_indices(x, *field)
    expected = InNumPy.im2col_indices(x, *field)
    assert cols.dtype == expected.dtype
    np.testing.assert_array_equal(cols, expected)
    if dtype is not np.uint8:
        np.testing.assert_array_equal(
            deepnet.col2im_indices(cols, x.shape, *field), InNumPy.col2im_indices(cols, x.shape, *field)
        )


def test_the_defaults_are_the_originals():
    x = draws((2, 3, 5, 6))
    cols = deepnet.im2col_indices(x)
    np.testing.assert_array_equal(cols, InNumPy.im2col_indices(x))
    np.testing.assert_array_equal(
        deepnet.col2im_indices(cols, x.shape), InNumPy.col2im_indices(cols, x.shape, 3, 3, padding=1, stride=1)
    )


def test_a_convolution_of_cs231n_is_its_sum_over_the_windows():
    """conv_forward_im2col of its second assignment: columns, one product, and the images to the front."""
    x, w, b = draws((2, 3, 7, 7)), draws((4, 3, 3, 3)), draws((4,))
    cols = deepnet.im2col_indices(x, w.shape[2], w.shape[3], padding=1, stride=2)
    out = (w.reshape(4, -1) @ cols + b.reshape(-1, 1)).reshape(4, 4, 4, 2).transpose(3, 0, 1, 2)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for n, f, i, j in np.ndindex(out.shape):
        window = padded[n, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        assert out[n, f, i, j] == (window * w[f]).sum() + b[f]


@pytest.mark.parametrize(
    "call",
    [
        lambda: deepnet.im2col_indices(np.zeros((1, 1, 5, 5)), 2, 2, padding=0, stride=2),
        lambda: deepnet.col2im_indices(np.zeros((4, 4)), (1, 1, 4, 5), 2, 2, padding=0, stride=2),
        lambda: deepnet.Conv((1, 5, 6), 4, 3, 3, stride=2, padding=0),
        lambda: deepnet.Conv((1, 6, 5), 4, 3, 3, stride=2, padding=0),
        lambda: deepnet.Conv((1, 2, 2), 4, 3, 3, stride=1, padding=0),
        lambda: deepnet.Maxpool((3, 5, 4), 2, 2),
        lambda: deepnet.Maxpool((3, 4, 5), 2, 2),
        lambda: deepnet.Maxpool((3, 2, 2), 3, 1),
    ],
)
def test_windows_that_do_not_tile_are_refused(call):
    with pytest.raises(ValueError, match="Invalid dimensions!"):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: deepnet.im2col_indices(np.zeros((5, 5))), r"x must have shape \(N, C, H, W\), got \(5, 5\)"),
        (lambda: deepnet.im2col_indices(np.zeros((1, 1, 5, 5)), padding=-1), "padding must be 0 or more, got -1"),
        (lambda: deepnet.Conv((5, 5), 4, 3, 3, 1, 1), r"X_dim must be \(channels, height, width\)"),
        (lambda: deepnet.Maxpool((1, 4, 4), 2, 2).forward(np.zeros((3, 1, 4, 5))), r"X must have shape \(N, 1, 4, 4\)"),
    ],
)
def test_a_refusal_names_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "dims", [((2, 8, 9), 5, 3, 3, 1, 1), ((3, 9, 7), 4, 3, 1, 2, 0), ((1, 6, 6), 2, 2, 2, 2, 0)], ids=str
)
def test_the_convolution_layer_is_the_originals_weights_included(dims):
    np.random.seed(7)
    mine = deepnet.Conv(*dims)
    np.random.seed(7)
    original = InNumPy.Conv(*dims)
    assert mine.out_dim == original.out_dim
    assert (mine.W.dtype, mine.b.shape) == (np.float64, (dims[1], 1))
    assert mine.params[0] is mine.W
    assert mine.params[1] is mine.b
    np.testing.assert_array_equal(mine.W, original.W)
    for layer in (mine, original):
        layer.params[1] += 0.5  # in place, as its solvers do

    X = np.random.default_rng(0).standard_normal((6, *dims[0]))
    out = mine.forward(X)
    np.testing.assert_allclose(out, original.forward(X), rtol=1e-12, atol=1e-12)
    dout = np.random.default_rng(1).standard_normal(out.shape)
    (dX, (dW, db)), (dX_original, (dW_original, db_original)) = mine.backward(dout), original.backward(dout)
    assert db.shape == mine.b.shape
    for got, expected in ((dX, dX_original), (dW, dW_original), (db, db_original)):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_the_convolution_layer_promotes_its_input_as_numpy_does():
    layer = deepnet.Conv((1, 4, 4), 2, 3, 3, 1, 1)
    X = draws((2, 1, 4, 4), np.uint8)
    out = layer.forward(X)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, layer.forward(X.astype(np.float64)))


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 1), (3, 3), (2, 1)])
def test_the_pooling_layer_is_the_originals(size, stride):
    X = np.random.default_rng(2).integers(0, 5, (4, 3, 12, 9 if (9 - size) % stride == 0 else 8)).astype(np.float64)
    mine, original = deepnet.Maxpool(X.shape[1:], size, stride), InNumPy.Maxpool(X.shape[1:], size, stride)
    assert (mine.params, mine.out_dim) == (original.params, original.out_dim)
    out = mine.forward(X)
    np.testing.assert_array_equal(out, original.forward(X))
    dout = draws(out.shape)
    dX, grads = mine.backward(dout)
    np.testing.assert_array_equal(dX, original.backward(dout)[0])
    assert grads == []


def test_a_network_trained_with_either_has_the_same_losses():
    rng = np.random.default_rng(0)
    X, labels = rng.standard_normal((96, 1, 8, 8)), rng.integers(0, 10, 96)
    losses, seen = [], []
    for framework in (deepnet, InNumPy):
        layers = network(framework, filters=4, seed=3)
        losses.append(train(layers, X, labels, epochs=3, batch=16))
        seen.append(scores(layers, X))
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)
    np.testing.assert_allclose(seen[0], seen[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 1)])
def test_the_pooling_layer_has_the_attributes_of_its_article(size, stride):
    X = draws((3, 2, 6, 8))
    layer, columns = deepnet.Maxpool((2, 6, 8), size, stride), InNumPy.im2col_indices
    layer.forward(X)
    expected = columns(X.reshape(6, 1, 6, 8), size, size, 0, stride)
    assert layer.n_X == 3
    np.testing.assert_array_equal(layer.X_col, expected)
    np.testing.assert_array_equal(layer.max_indexes, np.argmax(expected, axis=0))
