"""The code of the articles that the project starts from, and its printed results."""

import numpy as np
import pytest
from tables import X, Y, table

import fastpool as fp
from examples.deepnet_cnn import InNumPy
from fastpool.identities import avg_pool2d_by_conv, max_pool2d_by_conv

# Seed 002: max pooling expressed by Conv2D alone, and what it printed


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float16, np.float32], ids=lambda t: t.__name__)
def test_the_printed_table_of_max_pooling_comes_out(dtype, backend):
    np.testing.assert_array_equal(fp.max_pool2d(table(X, dtype), 2, backend=backend), table(Y, dtype))


def test_the_model_of_convolutions_gives_the_same_table(backend):
    """max(a, b, c, d) = relu(relu(a - b) - relu(c - d) + b - d) + relu(c - d) + d, as four filters and two more."""

    def relu(z):
        return np.maximum(z, 0)

    x = table(X, np.float32)[None, None]
    filters = np.zeros((4, 1, 2, 2), np.float32)
    filters[0, 0, 0], filters[1, 0, 1] = (1, -1), (1, -1)
    filters[2, 0, 0, 1], filters[3, 0, 1, 1] = 1, 1
    pieces = fp.conv2d(x, filters, stride=2, padding="same", backend=backend)
    pieces[:, :2] = relu(pieces[:, :2])
    x6 = relu(fp.conv2d(pieces, np.array([1, -1, 1, -1], np.float32).reshape(1, 4, 1, 1), backend=backend))
    x7 = fp.conv2d(pieces, np.array([0, 1, 0, 1], np.float32).reshape(1, 4, 1, 1), backend=backend)
    np.testing.assert_array_equal((x6 + x7)[0, 0], table(Y, np.float32))


def test_the_tree_of_convolutions_gives_the_same_table(backend):
    for dtype in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(max_pool2d_by_conv(table(X, dtype), 2, backend=backend), table(Y, dtype))


def test_the_average_of_the_table_is_a_convolution_with_four_quarters(backend):
    """The article begins with it: ((0.25, 0.25), (0.25, 0.25)), at a stride of 2."""
    x = table(X, np.float32)
    quarters = np.full((1, 1, 2, 2), 0.25, np.float32)
    expected = x.reshape(8, 2, 8, 2).mean((1, 3))
    np.testing.assert_array_equal(fp.conv2d(x[None, None], quarters, stride=2, backend=backend)[0, 0], expected)
    for dtype in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(avg_pool2d_by_conv(table(X, dtype), 2, backend=backend), expected.astype(dtype))


# Seed 000: Keras' Maxout layer


def keras_maxout(inputs, num_units, axis=-1):
    """The layer's `call`, line by line, with NumPy for TensorFlow."""
    shape = list(inputs.shape)
    num_channels = shape[axis]
    axis = axis + len(shape) if axis < 0 else axis
    expand_shape = shape[:]
    expand_shape[axis] = num_units
    k = num_channels // num_units
    expand_shape.insert(axis, k)
    return np.max(np.reshape(inputs, expand_shape), axis)


@pytest.mark.parametrize("axis", [-1, 1, 0, 2])
@pytest.mark.parametrize("num_units", [1, 2, 3, 6, 12])
def test_maxout_groups_as_the_keras_layer(num_units, axis, backend):
    x = np.random.default_rng(0).standard_normal((12, 12, 12, 12), np.float32)[:, :, :, :]
    np.testing.assert_array_equal(fp.maxout(x, num_units, axis, backend=backend), keras_maxout(x, num_units, axis))


def test_maxout_refuses_what_the_keras_layer_refuses_with_both_numbers(backend):
    with pytest.raises(ValueError, match=r"number of features \(10\) is not a multiple of num_units \(4\)"):
        fp.maxout(np.zeros((2, 10)), 4, backend=backend)


# Seed 004: deepnet's im2col, and its max pooling layer


@pytest.mark.parametrize(("size", "padding", "stride"), [(3, 1, 1), (2, 0, 2), (3, 2, 2), (1, 0, 1)])
def test_order_gemm_is_deepnets_im2col_and_col2im(size, padding, stride, backend):
    rng = np.random.default_rng(1)
    x = rng.integers(-9, 10, (3, 2, 7, 9)).astype(np.float64)
    expected = InNumPy.im2col_indices(x, size, size, padding, stride)
    cols = fp.im2col(x, size, stride, padding, order="gemm", backend=backend)
    np.testing.assert_array_equal(cols, expected)
    cols = rng.integers(-9, 10, cols.shape).astype(np.float64)
    np.testing.assert_array_equal(
        fp.col2im(cols, x.shape, size, stride, padding, order="gemm", backend=backend),
        InNumPy.col2im_indices(cols, x.shape, size, size, padding, stride),
    )


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 1), (3, 3), (2, 1)])
def test_pooling_is_deepnets_max_pooling_layer_forward_and_backward(size, stride, backend):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 5, (4, 3, 12, 9)).astype(np.float64)
    if (12 - size) % stride or (9 - size) % stride:
        x = x[:, :, :, :8]
    layer = InNumPy.Maxpool(x.shape[1:], size, stride)
    y, argmax = fp.max_pool2d(x, size, stride, return_argmax=True, backend=backend)
    np.testing.assert_array_equal(y, layer.forward(x))
    dy = rng.integers(-9, 10, y.shape).astype(np.float64)
    dx = fp.max_pool2d_backward(dy, argmax, x.shape, size, stride, backend=backend)
    np.testing.assert_array_equal(dx, layer.backward(dy)[0])
