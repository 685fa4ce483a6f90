"""fastpool on real input: two photographs pooled, dilated and maxed out, and a network that reads digits.

    python examples/demo.py [--picture demo.png]

Needs the extra `demo`: pip install "fastpool[demo]". Ends with 1 if a backend differs from the naive one,
or if the network reads fewer than 97 % of the digits it has not seen.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

import fastpool as fp
from fastpool.layers import Conv2D, Dense, Flatten, HardSwish, Maxout, MaxPool2D, SoftmaxCrossEntropy

try:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from sklearn.datasets import load_digits, load_sample_images
except ImportError as error:
    sys.exit(f'{error}: pip install "fastpool[demo]"')

WANTED_ACCURACY = 0.97
console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)


def available_backends() -> list[str]:
    """The backends that can run here, the default one first, without the naive one."""
    names = [name for name, status in fp.backends().items() if status.available and name != "naive"]
    chosen = os.environ.get("FASTPOOL_BACKEND")
    return sorted(names, key=lambda name: name != chosen) if chosen else names


def in_turn(calls: dict[str, Callable[[], Any]], runs: int, seconds: float) -> dict[str, list[float]]:
    """The times of each call, all of them in turn, `runs` times or until `seconds` have gone by."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    begin = perf_counter()
    for _ in range(runs):
        for name, call in calls.items():
            start = perf_counter()
            call()
            times[name].append(perf_counter() - start)
        if perf_counter() - begin > seconds:
            break
    return times


class PhotoOp(NamedTuple):
    """What is done to a photograph (H, W, 3), and how much of one the loops of the naive backend can take."""

    name: str
    run: Callable[..., Any]
    checked_on: tuple[int, int] | None


def pool_2x2(photo, backend=None):
    return fp.max_pool2d(photo, 2, data_format="channels_last", backend=backend)


def pool_3x3(photo, backend=None):
    return fp.max_pool2d(
        photo, 3, stride=2, padding=1, data_format="channels_last", return_argmax=True, backend=backend
    )


def dilate(photo, backend=None):
    return fp.max_pool2d(photo, 15, stride=1, padding=7, data_format="channels_last", backend=backend)


def brightest_colour(photo, backend=None):
    return fp.maxout(photo, 1, axis=-1, return_argmax=True, backend=backend)


def lighter_of_mirror_images(photo, backend=None):
    """Six channels, red green blue of the photograph and of its mirror image, maxed out in pairs."""
    return fp.maxout(np.concatenate([photo, photo[:, ::-1]], axis=-1), 3, axis=-1, backend=backend)


PHOTO_OPS = (
    PhotoOp("max-pool 2x2", pool_2x2, None),
    PhotoOp("max-pool 3x3 s2 p1, argmax", pool_3x3, (200, 300)),
    PhotoOp("dilation 15x15", dilate, (36, 48)),
    PhotoOp("maxout of 3 colours, argmax", brightest_colour, None),
    PhotoOp("maxout of channel pairs", lighter_of_mirror_images, None),
)


def middle(photo: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None:
        return photo
    top, left = (photo.shape[0] - size[0]) // 2, (photo.shape[1] - size[1]) // 2
    return photo[top : top + size[0], left : left + size[1]]


def same(a: Any, b: Any) -> bool:
    pairs = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


def photographs(path: str) -> bool:
    """Run every op on both photographs, compare, time, and draw; whether all backends agree."""
    photos = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    backends = available_backends()
    console.print(f"[bold]Two photographs[/bold] of {photos['china'].shape}, uint8; backends: {', '.join(backends)}")

    table = Table(title="One photograph, least of several runs, in ms", caption=f"speed-up: {backends[0]} over numpy")
    table.add_column("op")
    table.add_column("checked against naive on")
    for name in backends:
        table.add_column(name, justify="right")
    table.add_column("speed-up", justify="right")
    agree = True
    with Progress(TextColumn("{task.description}"), BarColumn(), console=console, transient=True) as bar:
        for op in bar.track(PHOTO_OPS, description="pooling, dilating, maxing out"):
            differ = []
            for photo in photos.values():
                part = middle(photo, op.checked_on)
                expected = op.run(part, backend="naive")
                differ += [name for name in backends if not same(op.run(part, backend=name), expected)]
            whole = {name: op.run(photos["china"], backend=name) for name in backends if name != "numpy"}
            differ += [name for name, result in whole.items() if not same(result, next(iter(whole.values())))]
            agree = agree and not differ
            size = "whole photographs" if op.checked_on is None else f"{op.checked_on[0]}x{op.checked_on[1]} of each"
            verdict = f"[red]{', '.join(sorted(set(differ)))} differ[/red]" if differ else f"{size}: same"
            calls = {name: partial(op.run, photos["china"], backend=name) for name in backends}
            least = {name: min(times) for name, times in in_turn(calls, 20, 0.5).items()}
            cells = [f"{least[name] * 1e3:.2f}" for name in backends]
            table.add_row(op.name, verdict, *cells, f"{least['numpy'] / least[backends[0]]:.1f}x")
    console.print(table)
    draw(photos, path)
    console.print(f"before and after: {path}\n")
    return agree


def draw(photos: dict[str, np.ndarray], path: str) -> None:
    """Two rows for each photograph: a detail of it, pooled, and the whole, dilated and maxed out."""
    figure = Figure(figsize=(15, 11.2), layout="constrained")
    axes = figure.subplots(2 * len(photos), 4)
    corners = {"china": (60, 210), "flower": (100, 200)}
    for (name, photo), rows in zip(photos.items(), np.split(axes, len(photos)), strict=True):
        top, left = corners[name]
        detail = photo[top : top + 96, left : left + 144]
        brightest, winner = brightest_colour(photo)
        colour = np.eye(3, dtype=np.uint8)[winner[..., 0]] * photo.max(axis=-1, keepdims=True)
        panels = (
            (photo, f"{name}: {photo.shape[0]}x{photo.shape[1]}"),
            (detail, f"detail, {detail.shape[0]}x{detail.shape[1]}"),
            (pool_2x2(detail), "max_pool2d(2): 48x72"),
            (pool_3x3(detail)[0], "max_pool2d(3, stride=2, padding=1): 48x72"),
            (dilate(photo), "dilated: max_pool2d(15, stride=1, padding=7)"),
            (brightest[..., 0], "maxout(num_units=1): the strongest colour"),
            (colour, "its argmax: which colour that was"),
            (lighter_of_mirror_images(photo), "maxout(num_units=3) with the mirror image"),
        )
        for axis, (picture, title) in zip(rows.ravel(), panels, strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set_title(title, fontsize=11)
            axis.set_axis_off()
        rows[0, 0].add_patch(Rectangle((left, top), 144, 96, fill=False, edgecolor="white", linewidth=1.5))
    figure.savefig(path, dpi=100)


class Network:
    """Convolutions, maxout, max-pooling and hard-swish, then a dense layer: 8x8 pixels in, ten digits out."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        conv = Conv2D((1, 8, 8), 64, 3, padding=1, rng=rng)
        maxout = Maxout(conv.out_dim, 32)
        pool = MaxPool2D(maxout.out_dim, 2)
        conv2 = Conv2D(pool.out_dim, 64, 3, padding=1, rng=rng)
        swish = HardSwish(conv2.out_dim)
        pool2 = MaxPool2D(swish.out_dim, 3, stride=2, padding=1)
        flat = Flatten(pool2.out_dim)
        dense = Dense(flat.out_dim, 10, rng=rng)
        self.layers = [conv, maxout, pool, conv2, swish, pool2, flat, dense]
        self.loss = SoftmaxCrossEntropy()

    @property
    def params(self) -> list[np.ndarray]:
        return [param for layer in self.layers for param in layer.params]

    def scores(self, x: np.ndarray) -> np.ndarray:
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def gradients(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """The loss of a batch, and its gradients in the order of params."""
        loss = self.loss.forward(self.scores(x), labels)
        slope, found = self.loss.backward(), []
        for layer in reversed(self.layers):
            slope, grads = layer.backward(slope)
            found = [*grads, *found]
        return loss, found


class Adam:
    """Kingma and Ba 2014, without weight decay."""

    def __init__(self, params: list[np.ndarray], beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.params, self.beta1, self.beta2, self.steps = params, beta1, beta2, 0
        self.means = [np.zeros_like(p) for p in params]
        self.squares = [np.zeros_like(p) for p in params]

    def step(self, grads: list[np.ndarray], rate: float) -> None:
        self.steps += 1
        rate *= (1 - self.beta2**self.steps) ** 0.5 / (1 - self.beta1**self.steps)
        for param, grad, mean, square in zip(self.params, grads, self.means, self.squares, strict=True):
            mean += (1 - self.beta1) * (grad - mean)
            square += (1 - self.beta2) * (grad * grad - square)
            param -= rate * mean / (np.sqrt(square) + 1e-8)


def digits(epochs: int = 12, batch: int = 32) -> bool:
    """Train on four fifths of the digits; whether enough of the last fifth is read."""
    data = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data.target))
    x, labels = (data.images[order, None] / 8 - 1).astype(np.float32), data.target[order]
    held_out = len(x) // 5
    x_test, labels_test, x, labels = x[:held_out], labels[:held_out], x[held_out:], labels[held_out:]
    console.print(f"[bold]Handwritten digits[/bold]: {len(x)} of 8x8 pixels to learn from, {held_out} held out")

    network = Network(seed=0)
    adam = Adam(network.params)
    steps, step = epochs * (len(x) // batch), 0
    start = perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=epochs)
        for _ in range(epochs):
            shuffled, total = rng.permutation(len(x)), 0.0
            for first in range(0, len(x) - batch + 1, batch):
                chosen = shuffled[first : first + batch]
                loss, grads = network.gradients(x[chosen], labels[chosen])
                adam.step(grads, 3e-3 * (1 - step / steps))
                total, step = total + loss, step + 1
            bar.update(task, advance=1, description=f"training, loss {total * batch / len(x):.4f}")
    seconds = perf_counter() - start
    right = int((network.scores(x_test).argmax(axis=1) == labels_test).sum())
    accuracy = right / held_out
    console.print(
        f"{steps} steps in {seconds:.1f} s; [bold]{accuracy:.1%}[/bold] of the held-out digits read ({right})"
    )

    time_a_step(x[:256], labels[:256])
    return accuracy >= WANTED_ACCURACY


def time_a_step(x: np.ndarray, labels: np.ndarray) -> None:
    """Forward, backward and update, with the default backend and with the NumPy baseline in turn."""

    def step(name: str, network: Network, adam: Adam) -> None:
        with fp.use_backend(name) if name == "numpy" else nullcontext():
            adam.step(network.gradients(x, labels)[1], 1e-3)

    default = available_backends()[0]
    networks = {name: Network(seed=0) for name in dict.fromkeys((default, "numpy"))}
    calls = {name: partial(step, name, network, Adam(network.params)) for name, network in networks.items()}
    in_turn(calls, 1, 0)
    times = {name: median(found) for name, found in in_turn(calls, 30, 4).items()}
    for name, seconds in times.items():
        console.print(f"  a training step of {len(x)} digits with {name:7} {seconds * 1e3:7.2f} ms")
    console.print(f"  {times['numpy'] / times[default]:.1f} times as fast (medians of runs in turn)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", default="demo.png", metavar="FILE", help="where to draw (default demo.png)")
    args = parser.parse_args()
    agree = photographs(args.picture)
    learned = digits()
    if not agree:
        console.print("[red]a backend differs from the naive one[/red]")
    if not learned:
        console.print(f"[red]fewer than {WANTED_ACCURACY:.0%} of the held-out digits were read[/red]")
    return 0 if agree and learned else 1


if __name__ == "__main__":
    sys.exit(main())
