"""What argmax means in maxout: the Jacobian of a small case, a gradient check, and a network of maxout units.

    python examples/maxout_digits.py [--epochs 20]

Needs scikit-learn for the digits. Ends with 1 if a gradient is wrong, or fewer than 95 % of the held-out digits are
read after the usual number of epochs.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

import fastpool as fp
from fastpool.layers import Dense, MaxoutDense, SoftmaxCrossEntropy


def jacobian(z, num_units, axis=-1, grouping="strided"):
    """d maxout(z)[u] / d z[i] for one vector z: a 1 where piece i is the one that unit u took, 0 elsewhere.

    The argmax names the piece inside its unit; here it is turned into the position in z.
    """
    _, argmax = fp.maxout(z, num_units, axis, grouping=grouping, return_argmax=True)
    unit, piece, pieces = np.arange(num_units), argmax.astype(int), len(z) // num_units
    winner = piece * num_units + unit if grouping == "strided" else unit * pieces + piece
    found = np.zeros((num_units, len(z)))
    found[unit, winner] = 1
    return found


def show_jacobian() -> bool:
    """The full matrix beside the product that backpropagation needs, which never builds it."""
    z = np.array([1.0, 5.0, 3.0, 2.0, 4.0, 6.0])
    y, argmax = fp.maxout(z, 2, return_argmax=True)
    matrix = jacobian(z, 2)
    dy = np.array([10.0, 20.0])
    dz = fp.maxout_backward(dy, argmax, z.shape)
    print(f"z = {z}, two units of three pieces each: unit 0 has z[0], z[2], z[4], unit 1 has z[1], z[3], z[5]")
    print(f"maxout(z) = {y}, argmax = {argmax}: both took their last piece, z[4] and z[5]")
    print(f"Jacobian, a row for each unit:\n{matrix}")
    print(f"dy = {dy}; dy @ Jacobian = {dy @ matrix}; maxout_backward = {dz}\n")
    return np.array_equal(dz, dy @ matrix)


def network(rng, dtype=np.float32):
    return [
        MaxoutDense(64, 48, pieces=3, rng=rng, dtype=dtype),
        MaxoutDense(48, 24, pieces=3, rng=rng, dtype=dtype),
        Dense(24, 10, rng=rng, dtype=dtype),
    ]


def scores(layers, X):
    for layer in layers:
        X = layer.forward(X)
    return X


def gradients(layers, loss, X, labels):
    """The loss, and the gradients of all params in their order."""
    value, slope, found = loss.forward(scores(layers, X), labels), loss.backward(), []
    for layer in reversed(layers):
        slope, grads = layer.backward(slope)
        found = [*grads, *found]
    return value, found


def check_gradients(X, labels, step=1e-6) -> bool:
    """Backpropagation beside finite differences, in float64, for some weights of each array."""
    rng = np.random.default_rng(0)
    layers, loss = network(rng, np.float64), SoftmaxCrossEntropy()
    _, found = gradients(layers, loss, X, labels)
    worst = 0.0
    for param, grad in zip((p for layer in layers for p in layer.params), found, strict=True):
        for index in rng.choice(param.size, 8):
            at = np.unravel_index(index, param.shape)
            before = param[at]
            param[at] = before + step
            above = loss.forward(scores(layers, X), labels)
            param[at] = before - step
            below = loss.forward(scores(layers, X), labels)
            param[at] = before
            worst = max(worst, abs((above - below) / (2 * step) - grad[at]))
    print(f"gradient check: backpropagation and finite differences are at most {worst:.1e} apart\n")
    return worst < 1e-6


def train(layers, X, labels, epochs, batch=32, rate=0.02, momentum=0.9):
    """Stochastic gradient descent with momentum, its rate falling to 0; the loss of each epoch."""
    loss, rng, losses = SoftmaxCrossEntropy(), np.random.default_rng(0), []
    params = [param for layer in layers for param in layer.params]
    velocities = [np.zeros_like(param) for param in params]
    for epoch in range(epochs):
        order, total = rng.permutation(len(X)), []
        for first in range(0, len(X) - batch + 1, batch):
            chosen = order[first : first + batch]
            value, found = gradients(layers, loss, X[chosen], labels[chosen])
            total.append(value)
            for param, velocity, grad in zip(params, velocities, found, strict=True):
                velocity *= momentum
                velocity += rate * (1 - epoch / epochs) * grad
                param -= velocity
        losses.append(float(np.mean(total)))
    return losses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    X, labels = digits.data[order] / 8 - 1, digits.target[order]
    held_out = len(X) // 5

    fine = show_jacobian()
    fine &= check_gradients(X[:16], labels[:16])
    X = X.astype(np.float32)
    layers = network(np.random.default_rng(0))
    losses = train(layers, X[held_out:], labels[held_out:], args.epochs)
    right = float((scores(layers, X[:held_out]).argmax(axis=1) == labels[:held_out]).mean())
    print(f"maxout units: loss {losses[0]:.3f} -> {losses[-1]:.4f} in {args.epochs} epochs")
    print(f"{right:.1%} of {held_out} digits that it has not seen are read")
    return 0 if fine and (right >= 0.95 or args.epochs < 20) else 1


if __name__ == "__main__":
    sys.exit(main())
