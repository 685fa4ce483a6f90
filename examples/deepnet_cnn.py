"""A network of the from-scratch framework deepnet reads handwritten digits: its layers in NumPy, then on fastpool.

    python examples/deepnet_cnn.py [--epochs 4]

Both start from the same seed of NumPy's global generator and see the same batches, so their losses are the same; the
time is not. Needs scikit-learn for the digits. Ends with 1 if the losses differ.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

import numpy as np

from fastpool.integrations import deepnet
from fastpool.layers import Dense, Flatten, SoftmaxCrossEntropy


class InNumPy:
    """The layers as deepnet has them: windows as columns by fancy indexing, and back by np.add.at."""

    @staticmethod
    def _cells(x_shape, field_height, field_width, padding, stride):
        """Channel, row and column in the padded image of every cell of every window: (cell of window, window)."""
        _, channels, height, width = x_shape
        rows = (height + 2 * padding - field_height) // stride + 1
        columns = (width + 2 * padding - field_width) // stride + 1
        c, i, j = (a.reshape(-1, 1) for a in np.indices((channels, field_height, field_width)))
        top, left = (stride * a.reshape(1, -1) for a in np.indices((rows, columns)))
        return c, i + top, j + left

    @staticmethod
    def im2col_indices(x, field_height=3, field_width=3, padding=1, stride=1):
        padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        c, i, j = InNumPy._cells(x.shape, field_height, field_width, padding, stride)
        return padded[:, c, i, j].transpose(1, 2, 0).reshape(c.size, -1)

    @staticmethod
    def col2im_indices(cols, x_shape, field_height=3, field_width=3, padding=1, stride=1):
        n, channels, height, width = x_shape
        padded = np.zeros((n, channels, height + 2 * padding, width + 2 * padding), cols.dtype)
        c, i, j = InNumPy._cells(x_shape, field_height, field_width, padding, stride)
        np.add.at(padded, (slice(None), c, i, j), cols.reshape(c.size, -1, n).transpose(2, 0, 1))
        return padded[:, :, padding : padding + height, padding : padding + width]

    class Conv:
        def __init__(self, X_dim, n_filter, h_filter, w_filter, stride, padding):
            channels, height, width = X_dim
            self.field = h_filter, w_filter, padding, stride
            self.W = np.random.randn(n_filter, channels, h_filter, w_filter) / np.sqrt(n_filter / 2)
            self.b = np.zeros((n_filter, 1))
            self.params = [self.W, self.b]
            h_out, w_out = (height - h_filter + 2 * padding) / stride + 1, (width - w_filter + 2 * padding) / stride + 1
            if not (h_out.is_integer() and w_out.is_integer()):
                raise ValueError("Invalid dimensions!")
            self.out_dim = n_filter, int(h_out), int(w_out)

        def forward(self, X):
            self.X_shape, self.X_col = X.shape, InNumPy.im2col_indices(X, *self.field)
            out = self.W.reshape(len(self.W), -1) @ self.X_col + self.b
            return out.reshape(*self.out_dim, len(X)).transpose(3, 0, 1, 2)

        def backward(self, dout):
            dout_col = dout.transpose(1, 2, 3, 0).reshape(len(self.W), -1)
            dW = (dout_col @ self.X_col.T).reshape(self.W.shape)
            dX = InNumPy.col2im_indices(self.W.reshape(len(self.W), -1).T @ dout_col, self.X_shape, *self.field)
            return dX, [dW, dout.sum(axis=(0, 2, 3)).reshape(-1, 1)]

    class Maxpool:
        def __init__(self, X_dim, size, stride):
            self.params = []
            self.field = size, size, 0, stride
            channels, height, width = X_dim
            h_out, w_out = (height - size) / stride + 1, (width - size) / stride + 1
            if not (h_out.is_integer() and w_out.is_integer()):
                raise ValueError("Invalid dimensions!")
            self.out_dim = channels, int(h_out), int(w_out)

        def forward(self, X):
            self.X_shape = X.shape
            planes = X.reshape(-1, 1, *X.shape[2:])  # channels as images, so that each window is a column
            self.X_col = InNumPy.im2col_indices(planes, *self.field)
            self.winner = self.X_col.argmax(axis=0), np.arange(self.X_col.shape[1])
            return self.X_col[self.winner].reshape(*self.out_dim[1:], *X.shape[:2]).transpose(2, 3, 0, 1)

        def backward(self, dout):
            dX_col = np.zeros_like(self.X_col)
            dX_col[self.winner] = dout.transpose(2, 3, 0, 1).ravel()
            n, channels, height, width = self.X_shape
            dX = InNumPy.col2im_indices(dX_col, (n * channels, 1, height, width), *self.field)
            return dX.reshape(self.X_shape), []


class ReLU:
    params = ()

    def forward(self, X):
        self.positive = X > 0
        return X * self.positive

    def backward(self, dout):
        return dout * self.positive, []


def network(framework, filters, seed):
    """Two convolutions with relu and pooling, then a dense layer: 8x8 pixels in, ten digits out."""
    np.random.seed(seed)
    conv = framework.Conv((1, 8, 8), n_filter=filters, h_filter=3, w_filter=3, stride=1, padding=1)
    pool = framework.Maxpool(conv.out_dim, size=2, stride=2)
    conv2 = framework.Conv(pool.out_dim, n_filter=filters, h_filter=3, w_filter=3, stride=1, padding=1)
    pool2 = framework.Maxpool(conv2.out_dim, size=2, stride=1)
    flat = Flatten(pool2.out_dim)
    dense = Dense(flat.out_dim, 10, dtype=np.float64, rng=seed)
    return [conv, ReLU(), pool, conv2, ReLU(), pool2, flat, dense]


def scores(layers, X):
    for layer in layers:
        X = layer.forward(X)
    return X


def train(layers, X, labels, epochs, batch=64, rate=0.05, momentum=0.9):
    """Stochastic gradient descent with momentum; the loss of each step."""
    softmax, rng, losses = SoftmaxCrossEntropy(), np.random.default_rng(0), []
    velocities = [[np.zeros_like(param) for param in layer.params] for layer in layers]
    for _ in range(epochs):
        order = rng.permutation(len(X))
        for first in range(0, len(X) - batch + 1, batch):
            chosen = order[first : first + batch]
            losses.append(softmax.forward(scores(layers, X[chosen]), labels[chosen]))
            slope = softmax.backward()
            for layer, velocity in zip(reversed(layers), reversed(velocities), strict=True):
                slope, grads = layer.backward(slope)
                for param, v, grad in zip(layer.params, velocity, grads, strict=True):
                    v *= momentum
                    v += rate * grad
                    param -= v
    return np.array(losses)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--filters", type=int, default=32)
    args = parser.parse_args()
    from sklearn.datasets import load_digits

    digits = load_digits()
    X, labels = digits.images[:, None] / 8 - 1, digits.target
    held_out = len(X) // 5
    losses, seconds = {}, {}
    for name, framework in (("NumPy", InNumPy), ("fastpool", deepnet)):
        # One step beforehand, so that kernels are compiled and loaded when the clock starts.
        train(network(framework, args.filters, seed=0), X[:64], labels[:64], epochs=1)
        layers = network(framework, args.filters, seed=0)
        start = perf_counter()
        losses[name] = train(layers, X[held_out:], labels[held_out:], args.epochs)
        seconds[name] = perf_counter() - start
        right = (scores(layers, X[:held_out]).argmax(axis=1) == labels[:held_out]).mean()
        print(
            f"{name:8} {len(losses[name])} steps in {seconds[name]:6.2f} s, loss {losses[name][0]:.6f} -> "
            f"{losses[name][-1]:.6f}, {right:.1%} of {held_out} digits it has not seen are read"
        )
    print(f"fastpool trains {seconds['NumPy'] / seconds['fastpool']:.1f} times as fast")
    same = np.allclose(losses["NumPy"], losses["fastpool"], rtol=1e-6, atol=1e-9)
    print("the losses are the same" if same else "the losses differ")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
