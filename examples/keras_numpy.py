"""Networks of Keras in its NumPy backend before and after `use_in_numpy_backend`: inferences, timed in turn.

    python examples/keras_numpy.py [--models MobileNetV3Large VGG16 --batch 1 --size 224 --runs 5]

Networks of `keras.applications` with random weights and images. Times are those of the processor, all threads together;
`OPENBLAS_NUM_THREADS=1 taskset -c 0 python ...` shows one thread on Linux. Ends with 1 if the outputs differ.
"""

from __future__ import annotations

import argparse
import os
import sys
from time import process_time

os.environ["KERAS_BACKEND"] = "numpy"

import keras
import numpy as np

from fastpool.integrations.keras import use_in_numpy_backend


def of_unit_gain(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random weights that keep activations as large as they are: those of Keras let them vanish in a deep network."""
    if w.ndim < 4:
        return w
    cells = w.shape[:2] if w.shape[-1] == 1 else w.shape[:3]  # a depthwise filter sees one channel
    return rng.standard_normal(w.shape, np.float32) * np.float32(2 / np.prod(cells)) ** 0.5


def network(name: str, size: int, rng: np.random.Generator) -> keras.Model:
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    model.set_weights([of_unit_gain(w, rng) for w in model.get_weights()])
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["MobileNetV3Large", "VGG16"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.random((args.batch, args.size, args.size, 3), np.float32) * 255
    labels = np.arange(args.batch) % 10
    print(f"{args.batch} images of {args.size}x{args.size}; least of {args.runs} runs")
    print(f"{'network':20}{'Keras':>12}{'fastpool':>12}{'times as fast':>15}{'loss':>14}{'loss':>14}")
    same = True
    for name in args.models:
        model = network(name, args.size, rng)
        times, logits = ([], []), [None, None]
        for _ in range(args.runs + 1):
            for after in (0, 1):
                undo = use_in_numpy_backend() if after else None
                start = process_time()
                logits[after] = model(images, training=False)
                times[after].append(process_time() - start)
                if undo:
                    undo.close()
        before, now = (min(each[1:]) for each in times)  # the first run compiles
        scale = np.abs(logits[0]).max()
        losses = [
            float(keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, y / scale)) for y in logits
        ]
        same &= bool(np.abs(logits[1] - logits[0]).max() <= 1e-4 * scale)
        print(
            f"{name:20}{before * 1e3:9.1f} ms{now * 1e3:9.1f} ms{before / now:14.2f}x{losses[0]:14.7f}{losses[1]:14.7f}"
        )
    print("outputs are the same up to rounding" if same else "OUTPUTS DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
