"""The CIFAR-10 network of MobileNetV3's hard-swish, in NumPy: six convolutions, two max pools, 1,418,826 parameters.

    python examples/cifar_hard_swish.py [--steps 20] [--batch 16] [--cifar cifar-10-batches-bin]

It learns a few images by heart, as a new network is checked. With --cifar they are those of CIFAR-10's binary version,
which is not downloaded here; else scikit-learn's digits, enlarged to 32x32 and coloured. Ends with 1 if the number of
parameters is another, a gradient is wrong, or the loss does not fall.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from fastpool.layers import Conv2D, Dense, GlobalAvgPool2D, HardSwish, Layer, MaxPool2D, SoftmaxCrossEntropy

PARAMETERS = 1_418_826
CLASSES = 10


def network(rng: np.random.Generator, dtype: type = np.float32) -> list[Layer]:
    """Pairs of 3x3 convolutions with hard-swish, a 2x2 pool behind the first two pairs; then a dense layer of 1024."""
    layers: list[Layer] = []
    dims = (3, 32, 32)
    for filters in (64, 128, 256):
        for _ in range(2):
            convolution = Conv2D(dims, filters, 3, padding="same", dtype=dtype, rng=rng)
            layers += [convolution, HardSwish(convolution.out_dim)]
            dims = convolution.out_dim
        layers.append(MaxPool2D(dims, 2) if filters < 256 else GlobalAvgPool2D(dims))
        dims = layers[-1].out_dim
    hidden = Dense(dims, 1024, dtype=dtype, rng=rng)
    return [*layers, hidden, HardSwish(hidden.out_dim), Dense(hidden.out_dim, CLASSES, dtype=dtype, rng=rng)]


def parameters(layers: list[Layer]) -> int:
    return sum(param.size for layer in layers for param in layer.params)


def show(layers: list[Layer]) -> None:
    """The layers as Keras' summary lists them, channels first."""
    print(f"{'layer':18}{'output':>16}{'parameters':>12}")
    for layer in layers:
        print(f"{type(layer).__name__:18}{layer.out_dim!s:>16}{parameters([layer]):12,}")
    print(f"{parameters(layers):,} parameters\n")


def cifar(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images from -1 to 1 and labels of the first batch: of each image a byte for the label and 3x32x32 of colours."""
    records = np.fromfile(folder / "data_batch_1.bin", np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 127.5 - 1, records[:, 0]


def coloured_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits in the shape of CIFAR's images, each in a colour of its own."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    grey = np.kron(digits.images[order] / 16, np.ones((4, 4)))[:, None]
    colours = np.random.default_rng(1).uniform(0.3, 1, (len(grey), 3, 1, 1))
    return (2 * grey * colours - 1).astype(np.float32), digits.target[order]


class Adam:
    """Kingma and Ba (2015), on arrays that are changed in place."""

    def __init__(self, params: list[np.ndarray], rate: float = 3e-4) -> None:
        self.params, self.rate, self.steps = params, rate, 0
        self.means = [np.zeros_like(param) for param in params]
        self.squares = [np.zeros_like(param) for param in params]

    def step(self, grads: list[np.ndarray]) -> None:
        self.steps += 1
        for param, mean, square, grad in zip(self.params, self.means, self.squares, grads, strict=True):
            mean += 0.1 * (grad - mean)
            square += 0.001 * (grad**2 - square)
            unbiased = np.sqrt(square / (1 - 0.999**self.steps)) + 1e-8
            param -= self.rate / (1 - 0.9**self.steps) * mean / unbiased


def scores(layers: list[Layer], X: np.ndarray) -> np.ndarray:
    for layer in layers:
        X = layer.forward(X)
    return X


def loss_and_gradients(layers: list[Layer], X: np.ndarray, labels: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """The loss, and the gradients of all params in their order."""
    loss = SoftmaxCrossEntropy()
    value = loss.forward(scores(layers, X), labels)
    dout, found = loss.backward(), []
    for layer in reversed(layers):
        dout, grads = layer.backward(dout)
        found = [*grads, *found]
    return value, found


def largest_error(X: np.ndarray, labels: np.ndarray, step: float = 1e-6) -> float:
    """Of the gradient of one weight of each layer, compared with finite differences, in float64."""
    layers = network(np.random.default_rng(0), np.float64)
    X = X.astype(np.float64)
    _, found = loss_and_gradients(layers, X, labels)
    params = [param for layer in layers for param in layer.params]
    errors = []
    for param, grad in zip(params[::2], found[::2], strict=True):
        at = np.unravel_index(np.abs(grad).argmax(), grad.shape)
        kept, around = param[at], []
        for param[at] in (kept - step, kept + step):
            around.append(SoftmaxCrossEntropy().forward(scores(layers, X), labels))
        param[at] = kept
        errors.append(abs((around[1] - around[0]) / (2 * step) - grad[at]))
    return max(errors)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cifar", type=Path, help="the folder of CIFAR-10's binary version")
    args = parser.parse_args()

    X, labels = coloured_digits() if args.cifar is None else cifar(args.cifar)
    X, labels = X[: args.batch], labels[: args.batch]
    layers = network(np.random.default_rng(0))
    show(layers)
    error = largest_error(X[:2], labels[:2])
    print(f"gradients and finite differences are at most {error:.1e} apart")

    optimiser, losses = Adam([param for layer in layers for param in layer.params]), []
    start = perf_counter()
    for _ in range(args.steps):
        value, found = loss_and_gradients(layers, X, labels)
        losses.append(value)
        optimiser.step(found)
    seconds = (perf_counter() - start) / args.steps
    losses.append(SoftmaxCrossEntropy().forward(scores(layers, X), labels))
    print(f"{args.steps} steps on {len(X)} images, {seconds:.2f} s each: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    right = parameters(layers) == PARAMETERS and error < 1e-6 and losses[-1] < losses[0]
    print("the loss falls" if right else "a gradient, the loss or the number of parameters is wrong")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
