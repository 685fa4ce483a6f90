"""The articles that the project starts from, as a reader of theirs would run them."""

import numpy as np
import pytest

import fastpool as fp

# Seed 002: max pooling expressed by Conv2D alone, and what it printed

X = """
 -7   7   0  -8   8  -3  -1   7  -6   9   4 -10   8   7  -6  10
 -4  -5  -5   0 -10   7   1   8   1  -9  10  -3   5 -10   5  -9
 -7   9   6  -9   0  -7   3   0   4   9  -6  -1   9   1   0   0
  1  -3  -7  -5   7   3   6   7  -4  -2   6  -8   7  -6   0  -2
 -2  -6   9   4   4   3  10   3   9   9  -5   2   0   2   9  -3
  2   7   5  -3   9  -7  -1 -10   7  -5  -4  -6   0   7   8 -10
  1  -3  -3   9  -5  -6  -7  -7  -4   9  -7  -9  -6   2   1  -9
 -1  -5  -3   1  -2   9   0  10 -10   5  -9  -8  -2   8  -4   3
  1  -4  -2  -5  -2   3   5   4  -5   3  -6   9   0   2  -3   6
  6   1   4  -8  -6   7  -8   4 -10 -10  -5   7  -8  -7  -1   5
  8  -2   4   9   6   9 -10  -4  -3  -9   7   1  -7   4   7   0
 -6   5   6  -1  -8  -2   0   0   6   3  10  -3   3   9   1  -2
  2   3  -6   6  -1   1   9  -2  -3   2   4   5 -10  -7   5   4
 -5   5   0   9   4   2 -10  -8   7   4  -7   2  -8   7  -3   3
  5   0   3   2  -4   2  -3  10   1  -7  -7   2   7   5  -4   2
  0  -9   6   2   1  -2  -4   3  -4   7   9  -9   7  -5   4  -1
"""
Y = """
 7.  0.  8.  8.  9. 10.  8. 10.
 9.  6.  7.  7.  9.  6.  9.  0.
 7.  9.  9. 10.  9.  2.  7.  9.
 1.  9.  9. 10.  9. -7.  8.  3.
 6.  4.  7.  5.  3.  9.  2.  6.
 8.  9.  9.  0.  6. 10.  9.  7.
 5.  9.  4.  9.  7.  5.  7.  5.
 5.  6.  2. 10.  7.  9.  7.  4.
"""


def table(text, dtype):
    return np.array([line.split() for line in text.strip().splitlines()], float).astype(dtype)


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


def get_im2col_indices(x_shape, field_height, field_width, padding=1, stride=1):
    _, channels, height, width = x_shape
    out_height = (height + 2 * padding - field_height) // stride + 1
    out_width = (width + 2 * padding - field_width) // stride + 1
    i0 = np.tile(np.repeat(np.arange(field_height), field_width), channels)
    i1 = stride * np.repeat(np.arange(out_height), out_width)
    j0 = np.tile(np.arange(field_width), field_height * channels)
    j1 = stride * np.tile(np.arange(out_width), out_height)
    i, j = i0.reshape(-1, 1) + i1, j0.reshape(-1, 1) + j1
    k = np.repeat(np.arange(channels), field_height * field_width).reshape(-1, 1)
    return k, i, j


def im2col_indices(x, field_height, field_width, padding=1, stride=1):
    p = padding
    x_padded = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    k, i, j = get_im2col_indices(x.shape, field_height, field_width, padding, stride)
    cols = x_padded[:, k, i, j]
    return cols.transpose(1, 2, 0).reshape(field_height * field_width * x.shape[1], -1)


def col2im_indices(cols, x_shape, field_height=3, field_width=3, padding=1, stride=1):
    n, c, h, w = x_shape
    x_padded = np.zeros((n, c, h + 2 * padding, w + 2 * padding), dtype=cols.dtype)
    k, i, j = get_im2col_indices(x_shape, field_height, field_width, padding, stride)
    cols = cols.reshape(c * field_height * field_width, -1, n).transpose(2, 0, 1)
    np.add.at(x_padded, (slice(None), k, i, j), cols)
    return x_padded[:, :, padding : padding + h, padding : padding + w]


class Maxpool:
    """The article's layer, as printed."""

    def __init__(self, x_dim, size, stride):
        self.d_X, self.h_X, self.w_X = x_dim
        self.size, self.stride = size, stride
        self.h_out, self.w_out = int((self.h_X - size) / stride + 1), int((self.w_X - size) / stride + 1)

    def forward(self, x):
        self.n_X = x.shape[0]
        reshaped = x.reshape(x.shape[0] * x.shape[1], 1, x.shape[2], x.shape[3])
        self.X_col = im2col_indices(reshaped, self.size, self.size, padding=0, stride=self.stride)
        self.max_indexes = np.argmax(self.X_col, axis=0)
        out = self.X_col[self.max_indexes, range(self.max_indexes.size)]
        return out.reshape(self.h_out, self.w_out, self.n_X, self.d_X).transpose(2, 3, 0, 1)

    def backward(self, dout):
        dx_col = np.zeros_like(self.X_col)
        dx_col[self.max_indexes, range(self.max_indexes.size)] = dout.transpose(2, 3, 0, 1).ravel()
        shape = (self.n_X * self.d_X, 1, self.h_X, self.w_X)
        dx = col2im_indices(dx_col, shape, self.size, self.size, padding=0, stride=self.stride)
        return dx.reshape(self.n_X, self.d_X, self.h_X, self.w_X)


@pytest.mark.parametrize(("size", "padding", "stride"), [(3, 1, 1), (2, 0, 2), (3, 2, 2), (1, 0, 1)])
def test_order_gemm_is_deepnets_im2col_and_col2im(size, padding, stride, backend):
    rng = np.random.default_rng(1)
    x = rng.integers(-9, 10, (3, 2, 7, 9)).astype(np.float64)
    expected = im2col_indices(x, size, size, padding, stride)
    cols = fp.im2col(x, size, stride, padding, order="gemm", backend=backend)
    np.testing.assert_array_equal(cols, expected)
    cols = rng.integers(-9, 10, cols.shape).astype(np.float64)
    np.testing.assert_array_equal(
        fp.col2im(cols, x.shape, size, stride, padding, order="gemm", backend=backend),
        col2im_indices(cols, x.shape, size, size, padding, stride),
    )


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 1), (3, 3), (2, 1)])
def test_pooling_is_deepnets_max_pooling_layer_forward_and_backward(size, stride, backend):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 5, (4, 3, 12, 9)).astype(np.float64)
    if (12 - size) % stride or (9 - size) % stride:
        x = x[:, :, :, :8]
    layer = Maxpool(x.shape[1:], size, stride)
    y, argmax = fp.max_pool2d(x, size, stride, return_argmax=True, backend=backend)
    np.testing.assert_array_equal(y, layer.forward(x))
    dy = rng.integers(-9, 10, y.shape).astype(np.float64)
    dx = fp.max_pool2d_backward(dy, argmax, x.shape, size, stride, backend=backend)
    np.testing.assert_array_equal(dx, layer.backward(dy))
