"""Networks of from-scratch frameworks read handwritten digits: on their own columns in NumPy, then on fastpool.

    python examples/from_scratch.py [cs231n] [dlfs] [dezero] [--steps 60]

cs231n is the course's convolution and pooling, dlfs that of "Deep Learning from Scratch", dezero the framework DeZero
itself (`pip install dezero`). Each network is trained twice from the same weights on the same batches: the losses are
the same, the time is not. Needs scikit-learn for the digits. Ends with 1 if losses differ.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter
from types import SimpleNamespace

import numpy as np

from fastpool.integrations import cs231n, dlfs

RATE = 0.1


class Cs231nInNumPy:
    """The course's layers in NumPy: columns by fancy indexing, and back by np.add.at."""

    @staticmethod
    def _columns(x, height, width, pad, stride):
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        k, i, j = cs231n.get_im2col_indices(x.shape, height, width, pad, stride)
        return padded, (slice(None), k, i, j)

    @staticmethod
    def conv_forward_fast(x, w, b, conv_param):
        padded, cells = Cs231nInNumPy._columns(x, *w.shape[2:], conv_param["pad"], conv_param["stride"])
        x_cols = padded[cells].transpose(1, 0, 2).reshape(w[0].size, -1)
        out = (w.reshape(len(w), -1) @ x_cols + b[:, None]).reshape(len(w), len(x), -1).swapaxes(0, 1)
        rows = (padded.shape[2] - w.shape[2]) // conv_param["stride"] + 1
        return out.reshape(len(x), len(w), rows, -1), (x, w, b, conv_param, x_cols)

    @staticmethod
    def conv_backward_fast(dout, cache):
        x, w, _, conv_param, x_cols = cache
        pad = conv_param["pad"]
        by_filter = dout.swapaxes(0, 1).reshape(len(w), -1)
        padded, cells = Cs231nInNumPy._columns(np.zeros_like(x), *w.shape[2:], pad, conv_param["stride"])
        dx_cols = w.reshape(len(w), -1).T @ by_filter
        np.add.at(padded, cells, dx_cols.reshape(len(dx_cols), len(x), -1).swapaxes(0, 1))
        dx = padded[:, :, pad : padded.shape[2] - pad, pad : padded.shape[3] - pad]
        return dx, (by_filter @ x_cols.T).reshape(w.shape), dout.sum(axis=(0, 2, 3))

    @staticmethod
    def max_pool_forward_fast(x, pool_param):
        n, channels, rows, columns = x.shape
        size = pool_param["stride"]
        windows = x.reshape(n, channels, rows // size, size, columns // size, size)
        out = windows.max(axis=(3, 5))
        return out, (windows, out)

    @staticmethod
    def max_pool_backward_fast(dout, cache):
        windows, out = cache
        is_maximum = windows == out[:, :, :, None, :, None]
        dx = is_maximum * dout[:, :, :, None, :, None] / is_maximum.sum(axis=(3, 5), keepdims=True)
        n, channels, rows, size, columns, _ = windows.shape
        return dx.reshape(n, channels, rows * size, columns * size)


class DlfsInNumPy:
    """The book's layers in NumPy: rows of windows by one slice for each tap, transposed, and back."""

    @staticmethod
    def _taps(height, width, rows, columns, stride):
        for i, j in np.ndindex(height, width):
            cells = slice(i, i + stride * rows, stride), slice(j, j + stride * columns, stride)
            yield (..., i, j, slice(None), slice(None)), (..., *cells)

    @staticmethod
    def im2col(x, height, width, stride=1, pad=0):
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        rows, columns = ((n - k) // stride + 1 for n, k in zip(padded.shape[2:], (height, width), strict=True))
        col = np.zeros((*x.shape[:2], height, width, rows, columns))
        for tap, cells in DlfsInNumPy._taps(height, width, rows, columns, stride):
            col[tap] = padded[cells]
        return col.transpose(0, 4, 5, 1, 2, 3).reshape(len(x) * rows * columns, -1)

    @staticmethod
    def col2im(col, shape, height, width, stride=1, pad=0):
        n, channels, *size = shape
        rows, columns = ((m + 2 * pad - k) // stride + 1 for m, k in zip(size, (height, width), strict=True))
        col = col.reshape(n, rows, columns, channels, height, width).transpose(0, 3, 4, 5, 1, 2)
        padded = np.zeros((n, channels, size[0] + 2 * pad + stride - 1, size[1] + 2 * pad + stride - 1))
        for tap, cells in DlfsInNumPy._taps(height, width, rows, columns, stride):
            padded[cells] += col[tap]
        return padded[:, :, pad : pad + size[0], pad : pad + size[1]]

    class Convolution:
        def __init__(self, W, b, stride=1, pad=0):
            self.W, self.b, self.stride, self.pad = W, b, stride, pad

        def forward(self, x):
            self.x, self.col = x, DlfsInNumPy.im2col(x, *self.W.shape[2:], self.stride, self.pad)
            out = self.col @ self.W.reshape(len(self.W), -1).T + self.b
            rows = (x.shape[2] + 2 * self.pad - self.W.shape[2]) // self.stride + 1
            return out.reshape(len(x), rows, -1, len(self.W)).transpose(0, 3, 1, 2)

        def backward(self, dout):
            dout = dout.transpose(0, 2, 3, 1).reshape(-1, len(self.W))
            self.db, self.dW = dout.sum(axis=0), (self.col.T @ dout).T.reshape(self.W.shape)
            dcol = dout @ self.W.reshape(len(self.W), -1)
            return DlfsInNumPy.col2im(dcol, self.x.shape, *self.W.shape[2:], self.stride, self.pad)

    class Pooling:
        def __init__(self, pool_h, pool_w, stride=2, pad=0):
            self.field = pool_h, pool_w, stride, pad

        def forward(self, x):
            self.x, col = x, DlfsInNumPy.im2col(x, *self.field).reshape(-1, self.field[0] * self.field[1])
            self.arg_max, rows = col.argmax(axis=1), (x.shape[2] - self.field[0]) // self.field[2] + 1
            return col.max(axis=1).reshape(len(x), rows, -1, x.shape[1]).transpose(0, 3, 1, 2)

        def backward(self, dout):
            n, _, rows, columns = dout.shape
            dmax = np.zeros((dout.size, self.field[0] * self.field[1]))
            dmax[np.arange(dout.size), self.arg_max] = dout.transpose(0, 2, 3, 1).ravel()
            return DlfsInNumPy.col2im(dmax.reshape(n * rows * columns, -1), self.x.shape, *self.field)


def weights(filters):
    """Of a convolution of 3x3 and a dense layer behind 2x2 pooling, for images of 16x16."""
    rng = np.random.default_rng(0)
    w, dense = rng.standard_normal((filters, 1, 3, 3)) / 3, rng.standard_normal((filters * 64, 10)) / 50
    return w, np.zeros(filters), dense


def loss_and_slope(scores, labels):
    """Softmax and cross-entropy."""
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return loss, p / len(labels)


def step_of_cs231n(layers, filters):
    w, b, dense = weights(filters)

    def step(x, labels):
        out, conv = layers.conv_forward_fast(x, w, b, {"stride": 1, "pad": 1})
        y, pool = layers.max_pool_forward_fast(np.maximum(out, 0), {"pool_height": 2, "pool_width": 2, "stride": 2})
        flat = y.reshape(len(y), -1)
        loss, slope = loss_and_slope(flat @ dense, labels)
        dy = layers.max_pool_backward_fast((slope @ dense.T).reshape(y.shape), pool)
        _, dw, db = layers.conv_backward_fast(dy * (out > 0), conv)
        for param, grad in ((dense, flat.T @ slope), (w, dw), (b, db)):
            param -= RATE * grad
        return loss

    return step


def step_of_dlfs(layers, filters):
    w, b, dense = weights(filters)
    conv, pool = layers.Convolution(w, b, stride=1, pad=1), layers.Pooling(2, 2, stride=2)

    def step(x, labels):
        out = conv.forward(x)
        y = pool.forward(np.maximum(out, 0))
        flat = y.reshape(len(y), -1)
        loss, slope = loss_and_slope(flat @ dense, labels)
        conv.backward(pool.backward((slope @ dense.T).reshape(y.shape)) * (out > 0))
        for param, grad in ((dense, flat.T @ slope), (w, conv.dW), (b, conv.db)):
            param -= RATE * grad
        return loss

    return step


def step_of_dezero(columns, filters):
    if not hasattr(np, "int"):
        setattr(np, "int", int)  # noqa: B010  which DeZero names, and NumPy no longer has
    import dezero
    import dezero.functions as F
    import dezero.functions_conv

    dezero.functions_conv.im2col_array = columns.im2col_array or dezero.functions_conv.im2col_array
    dezero.functions_conv.col2im_array = columns.col2im_array or dezero.functions_conv.col2im_array
    params = w, b, dense = [dezero.Parameter(array) for array in weights(filters)]

    def step(x, labels):
        y = F.pooling(F.relu(F.conv2d(x, w, b, stride=1, pad=1)), 2, 2)
        loss = F.softmax_cross_entropy(F.matmul(F.reshape(y, (len(x), -1)), dense), labels)
        for param in params:
            param.cleargrad()
        loss.backward()
        for param in params:
            param.data -= RATE * param.grad.data
        return float(loss.data)

    return step


FRAMEWORKS = {
    "cs231n": (step_of_cs231n, Cs231nInNumPy, cs231n),
    "dlfs": (step_of_dlfs, DlfsInNumPy, dlfs),
    "dezero": (step_of_dezero, SimpleNamespace(im2col_array=None, col2im_array=None), dlfs),
}


def train(step, images, labels, steps, batch=64):
    """The loss of each step, and the seconds of all but the first, in which kernels are loaded."""
    rng, losses, start = np.random.default_rng(1), [], 0.0
    for i in range(steps + 1):
        if i == 1:
            start = perf_counter()
        chosen = rng.integers(0, len(images), batch)
        losses.append(step(images[chosen], labels[chosen]))
    return np.array(losses), perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frameworks", nargs="*", help=f"of {', '.join(FRAMEWORKS)}; the first two where none is named")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--filters", type=int, default=32)
    args = parser.parse_args()
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, all_same = digits.images[:, None].repeat(2, axis=2).repeat(2, axis=3) / 8 - 1, True
    for name in args.frameworks or ("cs231n", "dlfs"):
        make, original, fast = FRAMEWORKS[name]
        losses, seconds = zip(
            *(train(make(layers, args.filters), images, digits.target, args.steps) for layers in (original, fast)),
            strict=True,
        )
        same = np.allclose(*losses, rtol=1e-6, atol=1e-9)
        (first, last), ratio = losses[1][[0, -1]], seconds[0] / seconds[1]
        print(
            f"{name:7} loss {first:.4f} -> {last:.4f}, {'the same' if same else 'another'} on fastpool;",
            f"{args.steps} steps in {seconds[0]:.2f} and {seconds[1]:.2f} s, {ratio:.1f} times as fast",
        )
        all_same &= same
    print("the losses are the same" if all_same else "the losses differ")
    return 0 if all_same else 1


if __name__ == "__main__":
    sys.exit(main())
