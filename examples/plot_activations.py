"""swish and hard-swish, and their derivatives, drawn.

    python examples/plot_activations.py [--picture activations.png]

Needs matplotlib.
"""

from __future__ import annotations

import argparse

import numpy as np
from matplotlib.figure import Figure

import fastpool as fp


def draw() -> Figure:
    x = np.arange(-10, 10.2, 0.2)
    fine = np.linspace(-8, 8, 1601)
    ones = np.ones_like(fine)
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(x, fp.swish(x), label="swish: x · sigmoid(x)")
    left.plot(x, fp.hard_swish(x), "--", label="hard-swish: x · relu6(x + 3) / 6")
    left.set_title("swish and hard-swish")
    left.set_xticks(range(-10, 11, 2))
    left.set_yticks(range(11))
    right.plot(fine, fp.swish_backward(ones, fine), label="of swish")
    right.plot(fine, fp.hard_swish_backward(ones, fine), "--", label="of hard-swish, with steps at -3 and 3")
    right.set_title("their derivatives")
    for axis in (left, right):
        axis.grid(alpha=0.4)
        axis.set_xlabel("x")
        axis.legend(loc="upper left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", default="activations.png", metavar="FILE", help="default activations.png")
    args = parser.parse_args()
    draw().savefig(args.picture, dpi=100)
    print(f"drawn: {args.picture}")


if __name__ == "__main__":
    main()
