"""Coins in uneven light: found by a threshold only after a white top hat has removed the background.

    python examples/coins.py [--picture coins.png]

Needs matplotlib, and scikit-image for the photograph.
"""

from __future__ import annotations

import argparse

import numpy as np
from matplotlib.figure import Figure
from skimage import data, filters

from fastpool import morphology

RADIUS = 34  # more than that of the largest coin
ROW = 123


def found_by_threshold(image: np.ndarray) -> np.ndarray:
    """Where the image is brighter than Otsu's threshold; small holes and spots are removed."""
    bright = image > filters.threshold_otsu(image)
    return morphology.opening(morphology.closing(bright, morphology.disk(2)), morphology.disk(2))


def draw() -> Figure:
    image, footprint = data.coins(), morphology.disk(RADIUS)
    background = morphology.opening(image, footprint)
    coins = morphology.white_tophat(image, footprint)
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    (above, below) = figure.subplots(2, 3)
    for axis, title, picture in (
        (above[0], "the photograph", image),
        (above[1], f"opening by a disk of {RADIUS}: the background", background),
        (above[2], "white top hat: the difference", coins),
        (below[0], "Otsu's threshold, of the photograph", found_by_threshold(image)),
        (below[1], "Otsu's threshold, of the white top hat", found_by_threshold(coins)),
    ):
        axis.imshow(picture, cmap="gray")
        axis.set_title(title)
    below[2].plot(image[ROW], label="the photograph")
    below[2].plot(background[ROW], label="the background")
    below[2].plot(coins[ROW], label="the white top hat")
    below[2].set_title(f"row {ROW}, through coins")
    below[2].set_ylim(0, 330)
    below[2].legend(loc="upper right")
    for axis in (*above, *below[:2]):
        axis.set_axis_off()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", default="coins.png", metavar="FILE", help="default coins.png")
    args = parser.parse_args()
    draw().savefig(args.picture, dpi=75)
    print(f"drawn: {args.picture}")


if __name__ == "__main__":
    main()
