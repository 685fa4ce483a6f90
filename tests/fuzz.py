"""Random calls of every op in guarded memory: python tests/fuzz.py --minutes 2 [--seed N] [--backend B] [--op O].

Arrays, results and the scratch of kernels are between inaccessible pages, filled with a pattern, and become
inaccessible after the call. Each case depends only on the seed and its number, so that `--seed N --case K` repeats it.
Cases run in a child process: one that ends it, or takes too long, is one failed case, and the next process continues
after it.

A result is compared with that of another backend, or of loops written here, on plain copies of the inputs.
"""

import argparse
import contextlib
import faulthandler
import os
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import pairwise, product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from guarded import PATTERNS, GuardedNumPy, Memory, arranged

import fastpool as fp
from fastpool import calls
from fastpool.column_plans import ORDERS
from fastpool.window import Window

try:
    from ml_dtypes import bfloat16

    BFLOAT16 = (np.dtype(bfloat16),)
except ImportError:
    BFLOAT16 = ()

BACKENDS = [name for name in ("numba", "cython", "numpy") if fp.backends()[name].available]
# The first cases take few dtypes, since each is compiled for on its own where no compiled kernels are kept.
DTYPES = (
    *map(np.dtype, ("f4", "u1", "f2", "f8")),
    *BFLOAT16,
    *map(np.dtype, ("i4", "?", "i8", "i1", "u2", "u4", "i2", "u8")),
)
FLOATS = tuple(d for d in DTYPES if d.kind == "f" or d in BFLOAT16)
CASES_PER_DTYPE = 60
MOST_CELLS = 1 << 17
MOST_PADDED = 1 << 20
TIMEOUT = 150

POOLS = {1: fp.max_pool1d, 2: fp.max_pool2d, 3: fp.max_pool3d}
POOLS_BACKWARD = {1: fp.max_pool1d_backward, 2: fp.max_pool2d_backward, 3: fp.max_pool3d_backward}
UNPOOLS = {1: fp.max_unpool1d, 2: fp.max_unpool2d, 3: fp.max_unpool3d}
AVERAGES = {1: fp.avg_pool1d, 2: fp.avg_pool2d, 3: fp.avg_pool3d}
AVERAGES_BACKWARD = {1: fp.avg_pool1d_backward, 2: fp.avg_pool2d_backward, 3: fp.avg_pool3d_backward}
CONVENTIONS = ("torch", "onnx", "tensorflow", "tensorflow_with_batch", "chainer")


class Call(NamedTuple):
    """One call: `run(*arrays, **options, backend=...)`, and what it should give."""

    run: Callable[..., Any]
    arrays: tuple[np.ndarray, ...]
    options: dict[str, Any]
    expected: Callable[..., Any]
    """Computes the expected results, a tuple, from plain copies of the arrays."""
    description: str
    eps: float = 0.0
    """The tolerance of results, in units of the dtype's eps."""
    takes_out: bool = True
    fixed: tuple[int, ...] = ()
    """The arrays whose values must stay: offsets and indices, which cannot be broadcast along an axis."""


# Content of arrays


def values(rng, shape, dtype):
    """Few different values, so that many tie, with the extremes of the dtype and, for floats, NaN of both signs."""
    if dtype.kind == "b":
        return rng.random(shape) < 0.3
    x = rng.integers(0, 7, shape).astype(dtype)
    if dtype.kind in "iu":
        extremes = (np.iinfo(dtype).min, np.iinfo(dtype).max)
    else:
        x -= dtype.type(3)
        largest = (-np.inf, np.inf, np.nan, -np.nan, -0.0, 6e4, 1e-7)
        extremes = largest if rng.random() < 0.7 else (-0.0, 0.0)
    if rng.random() < 0.8:
        for extreme in extremes:
            x[rng.random(shape) < 0.04] = extreme
    if rng.random() < 0.3:
        x[rng.random(shape) < rng.choice([0.2, 1.0])] = extremes[0]
    return x


def gradients(rng, shape, dtype):
    """Integers, whose sums are exact in any order, and a few that are not finite."""
    dy = rng.integers(-3, 4, shape).astype(dtype)
    if rng.random() < 0.3:
        for extreme in (np.nan, np.inf, -np.inf, -0.0):
            dy[rng.random(shape) < 0.02] = extreme
    return dy


def a_dtype(rng, case, among=DTYPES):
    known = among[: 2 + case // CASES_PER_DTYPE]
    return known[int(min(rng.integers(len(known)), rng.integers(2 * len(known))))]


# Geometry


def a_size(rng, longest):
    return int(rng.choice([1, 2, 3, int(rng.integers(1, 12)), int(rng.integers(1, longest + 1))]))


def a_geometry(rng, axes, small):
    """Spatial sizes and the arguments of a window."""
    longest = {1: 900, 2: 70, 3: 14}[axes] if not small else {1: 40, 2: 9, 3: 5}[axes]
    way = rng.choice(
        ["usual"] * 10 + ["large", "far apart", "leaping", "padded", "string"] * 2 + ["tall", "tall", "huge"]
    )
    space = [a_size(rng, longest) for _ in range(axes)]
    kernel = [int(rng.integers(1, 6))] * axes if rng.random() < 0.6 else [int(k) for k in rng.integers(1, 10, axes)]
    stride: Any = [int(s) for s in rng.integers(1, 6, axes)] if rng.random() < 0.5 else list(kernel)
    if rng.random() < 0.4:
        stride = [1] * axes
    padding: Any = [(int(a), int(b)) for a, b in rng.integers(0, max(kernel) + 1, (axes, 2))]
    padding = [(0, 0)] * axes if rng.random() < 0.3 else [(a, a) for a, _ in padding] if rng.random() < 0.5 else padding
    dilation = [int(rng.choice([1, 1, 1, 2, 3])) for _ in range(axes)]
    if way == "large" and not small:
        kernel = [int(k) for k in rng.choice([7, 9, 13, 17], axes)] if axes < 3 else [3, 9, 11]
        padding = [(int(k), int(k)) for k in rng.integers(0, 9, axes)]
    elif way == "huge" and not small:  # more elements than one or two bytes can index
        kernel = {1: [int(rng.choice([300, 70_000]))], 2: [int(rng.choice([3, 300])), 260], 3: [3, 10, 20]}[axes]
        space = [min(n, 20) for n in space]
        dilation = [1] * axes
        padding = [(k - 1, int(rng.integers(0, 3))) for k in kernel]
        stride = [int(rng.integers(1, 30)) for _ in range(axes)]
    elif way == "far apart":
        axis = int(rng.integers(axes))
        dilation[axis] = int(rng.choice([1000, 50_000_000]))
        kernel[axis] = int(rng.integers(1, 4))
        span = dilation[axis] * (kernel[axis] - 1) + 1
        before = int(rng.choice([0, dilation[axis], span // 2, span])) if kernel[axis] > 1 else 0
        padding[axis] = (before, max(span - before - space[axis], 0) + int(rng.integers(0, 4)))
    elif way == "leaping":
        stride = [int(s) for s in rng.choice([7, 50, 1000, 1 << 40], axes)]
    elif way == "padded":
        padding = [(int(a), int(b)) for a, b in rng.integers(0, 12, (axes, 2))]
        space = [min(n, 12) for n in space]
    elif way == "tall" and axes > 1 and not small:
        space[-2:] = [int(rng.integers(9, 24)), int(rng.integers(200, 1100))]
        kernel[-2:] = [int(rng.integers(9, 14)), int(rng.choice([1, 2, 3, 5, 60, 256]))]
        padding[-2:] = [(int(rng.integers(0, 5)),) * 2, (int(rng.integers(0, 5)), int(rng.integers(0, 5)))]
        stride[-2:] = [int(rng.integers(1, 3)), int(rng.choice([1, 1, 2]))]
        space[:-2] = [1] * (axes - 2)
    padding = str(rng.choice(["valid", "same", "same_lower"])) if way == "string" else tuple(padding)
    window: dict[str, Any] = {
        "kernel_size": tuple(kernel), "stride": tuple(stride), "padding": padding, "dilation": tuple(dilation)
    }  # fmt: skip
    return space, window


def a_window(rng, axes, backend, *, small, most_taps, ceil=True):
    """A shape in a layout and a window that fits, with its plan and the backend to compare with."""
    usual_taps = most_taps
    while True:
        most_taps = usual_taps
        space, options = a_geometry(rng, axes, small)
        if ceil:
            options["ceil_mode"] = bool(rng.random() < 0.3)
        layout = str(rng.choice(["channels_first", "channels_last"]))
        n = int(rng.choice([1, 1, 2, 3, 0 if rng.random() < 0.2 else 1]))
        c = int(rng.choice([1, 2, 3] if small else [1, 1, 2, 3, 5, 8, 17, 33, 65, 0 if rng.random() < 0.1 else 1]))
        form = rng.choice(["batch"] * 6 + ["unbatched", "bare"])
        shape = {"batch": (n, c), "unbatched": (c,), "bare": ()}[form]
        shape = (*shape, *space) if layout == "channels_first" or not shape else (*shape[:-1], *space, c)
        if prod(shape) > MOST_CELLS:
            continue
        try:
            window = Window.plan(axes, shape, **options, data_format=layout)
        except ValueError:
            continue
        planes = window.batch * window.channels
        if planes * window.positions > MOST_CELLS or window.positions * window.volume > 1 << 19:
            continue
        # NumPy's makes the padding, and one reaches far where taps lie far apart.
        far = prod(
            (o - 1) * s + (k - 1) * d + 1
            for o, s, k, d in zip(window.out, window.stride, window.kernel, window.dilation, strict=True)
        )
        if far > MOST_PADDED:
            if backend == "numpy":
                continue
            most_taps = min(most_taps, taps_for(True))
        if planes * window.positions * window.volume <= most_taps or not planes:
            other = reference(backend, small or far > MOST_PADDED)
            return shape, {**simplified(rng, options), "data_format": layout}, window, other


def simplified(rng, options):
    """One number for all axes where they are equal, now and then, and what the default is left out."""
    short = {}
    for name, value in options.items():
        if name != "kernel_size" and isinstance(value, tuple) and len({*value}) == 1 and rng.random() < 0.5:
            value = value[0]
            if isinstance(value, tuple):
                value = value[0] if value[0] == value[1] else options[name]
        short[name] = (
            list(value) if isinstance(value, tuple) and name == "kernel_size" and rng.random() < 0.1 else value
        )
    return short


# Ops. Each draws a call; `small` ones can be compared with the specification's loops.


def reference(backend, small):
    """The backend to compare with: never the one under test."""
    return "naive" if small or backend == "numpy" else "numpy"


def taps_for(small):
    return 20_000 if small else 1 << 22


def a_pool(rng, case, backend, small):
    axes = int(rng.choice([1, 2, 2, 2, 3]))
    dtype = a_dtype(rng, case)
    shape, options, _, other = a_window(rng, axes, backend, small=small, most_taps=taps_for(small))
    return axes, shape, options, values(rng, shape, dtype), other


def pool(rng, case, backend, small, extreme="max"):
    axes, _, options, x, other = a_pool(rng, case, backend, small)
    wants, op, returns = bool(rng.random() < 0.6), f"{extreme}_pool{axes}d", f"return_arg{extreme}"
    function = getattr(fp, op)

    def expected(x):
        found = function(x, **options, **{returns: True}, backend=other)
        return found if wants else found[:1]

    return Call(function, (x,), options | {returns: wants}, expected, op)


def pool_backward(rng, case, backend, small):
    axes, shape, options, x, other = a_pool(rng, case, backend, small)
    y, argmax = POOLS[axes](x, **options, return_argmax=True, backend=other)
    dy = gradients(rng, y.shape, a_dtype(rng, case, FLOATS))

    def expected(dy, argmax):
        return (POOLS_BACKWARD[axes](dy, argmax, shape, **options, backend=other),)

    def run(dy, argmax, **more):
        return POOLS_BACKWARD[axes](dy, argmax, shape, **more)

    return Call(run, (dy, argmax), options, expected, f"max_pool{axes}d_backward of {shape}", fixed=(1,))


def an_average(rng, backend, small):
    axes = int(rng.choice([1, 2, 2, 2, 3]))
    while True:
        shape, options, window, other = a_window(rng, axes, backend, small=small, most_taps=taps_for(small))
        if max(window.dilation) == 1:
            break
    options.pop("dilation")
    options["count_include_pad"] = bool(rng.random() < 0.5)
    if rng.random() < 0.2:
        options["divisor_override"] = int(rng.choice([1, 3, 1000]))
    return axes, shape, options, other


def average(rng, case, backend, small):
    axes, shape, options, other = an_average(rng, backend, small)

    def expected(x):
        return (AVERAGES[axes](x, **options, backend=other),)

    x = gradients(rng, shape, a_dtype(rng, case, FLOATS))
    return Call(AVERAGES[axes], (x,), options, expected, f"avg_pool{axes}d", eps=16)


def average_backward(rng, case, backend, small):
    axes, shape, options, other = an_average(rng, backend, small)

    def run(dy, **more):
        return AVERAGES_BACKWARD[axes](dy, shape, **more)

    def expected(dy):
        return (run(dy, **options, backend=other),)

    y_shape = Window.plan(axes, shape, **{k: v for k, v in options.items() if k not in NOT_OF_WINDOWS}).y_shape
    dy = gradients(rng, y_shape, a_dtype(rng, case, FLOATS))
    return Call(run, (dy,), options, expected, f"avg_pool{axes}d_backward of {shape}", eps=64)


NOT_OF_WINDOWS = "count_include_pad", "divisor_override"


def a_plane(rng, case, small):
    space = [a_size(rng, 9 if small else 30) for _ in range(int(rng.integers(1, 4)))]
    n, c = int(rng.integers(1, 4)), int(rng.choice([1, 2, 3] if small else [1, 2, 5, 33]))
    layout = str(rng.choice(["channels_first", "channels_last"]))
    shape = (n, c, *space) if layout == "channels_first" else (n, *space, c)
    return shape, values(rng, shape, a_dtype(rng, case)), {"data_format": layout, "keepdims": bool(rng.random() < 0.5)}


def global_pool(rng, case, backend, small, extreme="max"):
    _, x, options = a_plane(rng, case, small)
    other, wants = reference(backend, small), bool(rng.random() < 0.6)
    op, returns = f"global_{extreme}_pool", f"return_arg{extreme}"
    function = getattr(fp, op)

    def expected(x):
        found = function(x, **options, **{returns: True}, backend=other)
        return found if wants else found[:1]

    return Call(function, (x,), options | {returns: wants}, expected, op)


def global_pool_backward(rng, case, backend, small):
    shape, x, options = a_plane(rng, case, small)
    other = reference(backend, small)
    y, argmax = fp.global_max_pool(x, **options, return_argmax=True, backend=other)

    def run(dy, argmax, **more):
        return fp.global_max_pool_backward(dy, argmax, shape, **more)

    def expected(dy, argmax):
        return (run(dy, argmax, **options, backend=other),)

    dy = gradients(rng, y.shape, a_dtype(rng, case, FLOATS))
    return Call(run, (dy, argmax), options, expected, f"global_max_pool_backward of {shape}", fixed=(1,))


def global_average(rng, case, backend, small):
    shape, _, options = a_plane(rng, case, small)
    other, dtype = reference(backend, small), a_dtype(rng, case, FLOATS)

    def expected(x):
        return (fp.global_avg_pool(x, **options, backend=other),)

    return Call(fp.global_avg_pool, (gradients(rng, shape, dtype),), options, expected, "global_avg_pool", eps=16)


def global_average_backward(rng, case, backend, small):
    shape, _, options = a_plane(rng, case, small)
    other = reference(backend, small)
    y_shape = fp.global_max_pool(np.zeros(shape, "u1"), **options, backend="numpy").shape

    def run(dy, **more):
        return fp.global_avg_pool_backward(dy, shape, **more)

    def expected(dy):
        return (run(dy, **options, backend=other),)

    dy = gradients(rng, y_shape, a_dtype(rng, case, FLOATS))
    return Call(run, (dy,), options, expected, f"global_avg_pool_backward of {shape}", eps=16)


def a_maxout(rng, case, small):
    units, pieces = (int(n) for n in rng.integers(1, 6 if small else 40, 2))
    if not small and rng.random() < 0.1:
        pieces = int(rng.choice([256, 257, 600]))
    shape = [int(n) for n in rng.integers(1, 6 if small else 40, rng.integers(1, 4))]
    axis = int(rng.integers(len(shape)))
    shape[axis] = units * pieces
    if rng.random() < 0.05 and len(shape) > 1:
        shape[(axis + 1) % len(shape)] = 0
    options = {"axis": axis - len(shape) * int(rng.integers(2)), "grouping": str(rng.choice(["strided", "contiguous"]))}
    if prod(shape) > (3000 if small else MOST_CELLS):
        return a_maxout(rng, case, small)
    return units, tuple(shape), values(rng, tuple(shape), a_dtype(rng, case)), options


def maxout(rng, case, backend, small):
    units, _, x, options = a_maxout(rng, case, small)
    other, wants = reference(backend, small), bool(rng.random() < 0.6)

    def expected(x):
        found = fp.maxout(x, **options, num_units=units, return_argmax=True, backend=other)
        return found if wants else found[:1]

    return Call(fp.maxout, (x,), options | {"num_units": units, "return_argmax": wants}, expected, "maxout")


def maxout_backward(rng, case, backend, small):
    units, shape, x, options = a_maxout(rng, case, small)
    other = reference(backend, small)
    y, argmax = fp.maxout(x, units, **options, return_argmax=True, backend=other)

    def run(dy, argmax, **more):
        return fp.maxout_backward(dy, argmax, shape, **more)

    def expected(dy, argmax):
        return (run(dy, argmax, **options, backend=other),)

    dy = gradients(rng, y.shape, a_dtype(rng, case, FLOATS))
    return Call(run, (dy, argmax), options, expected, f"maxout_backward of {shape}", fixed=(1,))


def a_column_window(rng, backend, small):
    axes = int(rng.choice([1, 2, 2, 3]))
    most = 4_000 if small else 1 << 18
    while True:
        shape, options, window, other = a_window(rng, axes, backend, small=small, most_taps=most, ceil=False)
        if window.channel_axis is not None and len(shape) == axes + 2:
            return shape, options | {"order": str(rng.choice(ORDERS))}, other


def im2col(rng, case, backend, small):
    shape, options, other = a_column_window(rng, backend, small)
    dtype = a_dtype(rng, case)
    if rng.random() < 0.5:
        options["fill_value"] = (
            bool(rng.random() < 0.5) if dtype.kind == "b"
            else int(rng.choice([0, 1, 7])) if dtype.kind in "iu" else float(rng.choice([-np.inf, np.nan, 1.5]))
        )  # fmt: skip

    def expected(x):
        return (fp.im2col(x, **options, backend=other),)

    return Call(fp.im2col, (values(rng, shape, dtype),), options, expected, "im2col")


def col2im(rng, case, backend, small):
    shape, options, other = a_column_window(rng, backend, small)
    dtype = a_dtype(rng, case, tuple(d for d in DTYPES if d.kind != "b"))
    like = fp.im2col(np.zeros(shape, "u1"), **options, backend=other)
    cols = values(rng, like.shape, dtype) if dtype.kind in "iu" else gradients(rng, like.shape, dtype)

    def run(cols, **more):
        return fp.col2im(cols, shape, **more)

    def expected(cols):
        return (run(cols, **options, backend=other),)

    return Call(run, (cols,), options, expected, f"col2im to {shape}")


def an_argmax(rng, case, backend, small):
    """A small or large pool with what it chose, in a shape with batch and channels, by a backend not under test."""
    while True:
        axes = int(rng.choice([1, 2, 2, 3]))
        shape, options, window, other = a_window(rng, axes, backend, small=small, most_taps=taps_for(small))
        if len(shape) == axes + 2 and window.positions * window.volume <= 1 << 16:
            break
    x = values(rng, shape, a_dtype(rng, case))
    y, argmax = POOLS[axes](x, **options, return_argmax=True, backend=other)
    return axes, shape, options, window, y, argmax


def positions(argmax, window):
    """The index of each maximum in its plane, (N, C, windows); -1 for windows of only padding."""
    if window.channel_axis == argmax.ndim - 1:
        argmax = np.moveaxis(argmax, -1, 1)
    planes = argmax.reshape(window.batch, window.channels, window.positions).astype(object)
    found = np.full(planes.shape, -1, object)
    for at, position in enumerate(np.ndindex(window.out)):
        begin = [p * s - b for p, s, b in zip(position, window.stride, window.before, strict=True)]
        for n, c in product(range(window.batch), range(window.channels)):
            tap = np.unravel_index(int(planes[n, c, at]), window.kernel)
            cell = [b + int(t) * d for b, t, d in zip(begin, tap, window.dilation, strict=True)]
            if all(0 <= i < size for i, size in zip(cell, window.size, strict=True)):
                found[n, c, at] = (cell[0] * window.size[1] + cell[1]) * window.size[2] + cell[2]
    return found


def indices(rng, case, backend, small):
    _, shape, options, window, _, argmax = an_argmax(rng, case, backend, True)
    convention = str(rng.choice(CONVENTIONS))

    def run(argmax, *, backend, **more):
        made = fp.argmax_to_indices(argmax, shape, **more)
        return made, fp.indices_to_argmax(made, shape, **more)

    def expected(argmax):
        if convention == "chainer":
            return argmax.astype(np.int64), argmax
        found, plane = positions(argmax, window), prod(window.size)
        n, c = (np.arange(k, dtype=object) for k in found.shape[:2])
        if convention == "onnx":
            made = found + ((n[:, None] * window.channels + c) * plane)[..., None]
        elif convention == "tensorflow":
            made = found * window.channels + c[:, None]
        elif convention == "tensorflow_with_batch":
            made = (n[:, None, None] * plane + found) * window.channels + c[:, None]
        else:
            made = found
        made = np.where(found == -1, -1, made).astype(np.int64)
        if options["data_format"] == "channels_last":
            made = np.moveaxis(made, 1, -1)
        return made.reshape(argmax.shape), argmax

    return Call(
        run, (argmax,), options | {"convention": convention}, expected, f"indices of {shape}",
        takes_out=False, fixed=(0,),
    )  # fmt: skip


def unpool(rng, case, backend, small):
    axes, shape, options, window, y, argmax = an_argmax(rng, case, backend, True)
    convention = str(rng.choice(CONVENTIONS))
    if convention == "chainer" and (max(window.dilation) > 1 or isinstance(options["padding"], str)):
        convention = "torch"
    made = fp.argmax_to_indices(argmax, shape, **options, convention=convention)
    if convention != "chainer" and rng.random() < 0.2:
        made[rng.random(made.shape) < 0.2] = -1
    if rng.random() < 0.3 and prod(window.size) * max(window.batch * window.channels, 1) < 30_000:
        made = made.astype("i4")
    last = options["data_format"] == "channels_last"
    where = positions(argmax, window)
    y = values(rng, y.shape, a_dtype(rng, case))
    more = {k: v for k, v in options.items() if k in ("kernel_size", "stride", "padding", "data_format")}

    def expected(y, made):
        first, unpooled = (np.moveaxis(a, -1, 1) if last else a for a in (y, made))
        flat = first.reshape(*where.shape)
        unpooled = unpooled.reshape(*where.shape)
        x = np.zeros((*where.shape[:2], prod(window.size)), y.dtype)
        for at in np.ndindex(where.shape):
            if unpooled[at] != -1 and where[at] != -1:
                x[(*at[:2], where[at])] = flat[at]
        space = window.size[3 - window.spatial_axes :]
        x = x.reshape(*where.shape[:2], *space)
        return (np.moveaxis(x, 1, -1) if last else x,)

    arguments = more | {"output_shape": shape, "convention": convention}
    return Call(UNPOOLS[axes], (y, made), arguments, expected, f"max_unpool{axes}d", fixed=(1,))


def activation(rng, case, backend, small):
    dtype = a_dtype(rng, case, FLOATS)
    shape = tuple(int(n) for n in rng.integers(1, 200 if rng.random() < 0.5 else 20, rng.integers(0, 3)))
    if rng.random() < 0.05:
        shape = (0, *shape)
    x = values(rng, shape, dtype) if rng.random() < 0.3 else np.asarray(rng.normal(0, 4, shape)).astype(dtype)
    dy = gradients(rng, shape, dtype)
    name = str(rng.choice(["hard_swish", "hard_swish_backward", "swish", "swish_backward"]))
    op, other = getattr(fp, name), reference(backend, small)
    options = {"beta": float(rng.choice([1.0, 1.7, -0.5, 0.0]))} if "hard" not in name and rng.random() < 0.5 else {}

    def expected(*arrays):
        return (op(*arrays, **options, backend=other),)

    return Call(op, (dy, x) if name.endswith("backward") else (x,), options, expected, name, eps=16)


# The modes of filters, and what numpy.pad calls them.
MODES = {"reflect": "symmetric", "constant": "constant", "nearest": "edge", "mirror": "reflect", "wrap": "wrap"}


def extremes_by_taps(extreme, x, elements, axes, modes, origin, cval):
    """The extremes over a footprint, one element of it after the other, of an array that numpy.pad has extended."""
    wide = x.astype("f4") if x.dtype in BFLOAT16 else x
    for axis, side, mode, o in zip(axes, elements.shape, modes, origin, strict=True):
        pad = [(0, 0)] * x.ndim
        pad[axis] = side // 2 + o, side - 1 - side // 2 - o
        more = {"constant_values": cval} if mode == "constant" else {}
        wide = np.pad(wide, pad, MODES[mode], **more)
    y = None
    for tap in np.argwhere(elements).tolist():
        part = [slice(None)] * x.ndim
        for axis, t in zip(axes, tap, strict=True):
            part[axis] = slice(t, t + x.shape[axis])
        y = wide[tuple(part)].copy() if y is None else extreme(y, wide[tuple(part)])
    return y.astype(x.dtype)


def sliding_filter(rng, case, backend, small):
    ndim, dtype = int(rng.integers(1, 5)), a_dtype(rng, case)
    longest = {1: 3000, 2: 90, 3: 20, 4: 9}[ndim]
    shape = tuple(a_size(rng, longest) for _ in range(ndim))
    axes = tuple(rng.permutation(ndim)[: rng.integers(1, ndim + 1)].tolist())
    sides = tuple(min(a_size(rng, 24 if len(axes) < 3 else 6), 2 * shape[axis]) for axis in axes)
    elements = rng.random(sides) < rng.choice([0.1, 0.5, 0.9, 1.0])
    elements.flat[rng.integers(elements.size)] = True
    modes = tuple(str(mode) for mode in rng.choice(list(MODES), len(axes)))
    origin = tuple(int(rng.integers(-(side // 2), (side - 1) // 2 + 1)) for side in sides)
    cval = bool(rng.random() < 0.5) if dtype.kind == "b" else int(rng.integers(0, 8))
    is_box = bool(elements.all())
    options = {"size": sides} if is_box and rng.random() < 0.5 else {"footprint": elements}
    options |= {"mode": modes, "origin": origin, "axes": axes, "cval": cval}
    name = str(rng.choice(["maximum", "minimum"]))

    def expected(x):
        return (extremes_by_taps(getattr(np, name), x, elements, axes, modes, origin, cval),)

    return Call(getattr(fp, f"{name}_filter"), (values(rng, shape, dtype),), options, expected, f"{name}_filter")


def a_convolution(rng, case, backend):
    while True:
        shape, options, window, _ = a_window(rng, 2, backend, small=False, most_taps=1 << 16, ceil=False)
        if len(shape) == 4 and window.channels and window.volume < 2000 and window.channels * window.volume < 5000:
            break
    groups = int(rng.choice([g for g in (1, 2, 3, 5) if window.channels % g == 0]))
    dtype = a_dtype(rng, case, FLOATS)
    filters = groups * int(rng.integers(1, 4))
    w = rng.integers(-2, 3, (filters, window.channels // groups, *options.pop("kernel_size"))).astype(dtype)
    return rng.integers(-2, 3, shape).astype(dtype), w, options | {"groups": groups}, window


def convolved(x, w, window, groups, dy=None):
    """y, or of dy the gradients of x and w: by loops over taps, exact as all are small integers."""
    filters, per_group = w.shape[0] // groups, w.shape[1]
    _, oh, ow = window.out
    xg = x.reshape(window.batch, groups, per_group, *x.shape[2:])
    wg = w.reshape(groups, filters, *w.shape[1:])
    y = np.zeros((window.batch, groups, filters, oh, ow))
    dx, dw = np.zeros(xg.shape), np.zeros(wg.shape)
    dyg = None if dy is None else dy.reshape(y.shape)
    for i, j in np.ndindex(w.shape[2:]):
        rows = [r * window.stride[1] - window.before[1] + i * window.dilation[1] for r in range(oh)]
        cols = [c * window.stride[2] - window.before[2] + j * window.dilation[2] for c in range(ow)]
        r_in = [k for k, r in enumerate(rows) if 0 <= r < x.shape[2]]
        c_in = [k for k, c in enumerate(cols) if 0 <= c < x.shape[3]]
        if not r_in or not c_in:
            continue
        from_x = np.ix_(
            range(window.batch), range(groups), range(per_group), [rows[k] for k in r_in], [cols[k] for k in c_in]
        )
        to_y = np.ix_(range(window.batch), range(groups), range(filters), r_in, c_in)
        if dy is None:
            y[to_y] += np.einsum("ngchw,gfc->ngfhw", xg[from_x], wg[..., i, j])
        else:
            dx[from_x] += np.einsum("ngfhw,gfc->ngchw", dyg[to_y], wg[..., i, j])
            dw[..., i, j] += np.einsum("ngfhw,ngchw->gfc", dyg[to_y], xg[from_x])
    return y.reshape(window.batch, w.shape[0], oh, ow) if dy is None else (dx.reshape(x.shape), dw.reshape(w.shape))


def conv2d(rng, case, backend, small):
    x, w, options, window = a_convolution(rng, case, backend)
    arrays = (x, w, rng.integers(-2, 3, w.shape[0]).astype(x.dtype)) if rng.random() < 0.5 else (x, w)
    last = options["data_format"] == "channels_last"

    def expected(x, w, b=None):
        f8 = [None if a is None else a.astype("f8") for a in (np.moveaxis(x, -1, 1) if last else x, w, b)]
        y = convolved(f8[0], f8[1], window, options["groups"])
        if b is not None:
            y += f8[2][:, None, None]
        return ((np.moveaxis(y, 1, -1) if last else y).astype(x.dtype),)

    return Call(fp.conv2d, arrays, options, expected, "conv2d")


def conv2d_backward(rng, case, backend, small):
    x, w, options, window = a_convolution(rng, case, backend)
    last = options["data_format"] == "channels_last"
    y_shape = (window.batch, w.shape[0], *window.out[1:])
    dy = rng.integers(-2, 3, (y_shape[0], *y_shape[2:], y_shape[1]) if last else y_shape).astype(x.dtype)

    def expected(dy, x, w):
        f8 = [a.astype("f8") for a in ((np.moveaxis(a, -1, 1) if last else a) for a in (dy, x))]
        dx, dw = convolved(f8[1], w.astype("f8"), window, options["groups"], f8[0])
        dx = np.moveaxis(dx, 1, -1) if last else dx
        return tuple(a.astype(x.dtype) for a in (dx, dw, f8[0].sum(axis=(0, 2, 3))))

    return Call(fp.conv2d_backward, (dy, x, w), options, expected, "conv2d_backward", takes_out=False)


OPS = {
    # name: how to draw it, what a backend must export, how often
    "pool": (pool, "max_pool", 12),
    "pool_backward": (pool_backward, "max_pool_backward", 8),
    "min_pool": (partial(pool, extreme="min"), "min_pool", 6),
    "global": (global_pool, "max_pool", 2),
    "global_min": (partial(global_pool, extreme="min"), "min_pool", 1),
    "global_backward": (global_pool_backward, "max_pool_backward", 2),
    "average": (average, "avg_pool", 8),
    "average_backward": (average_backward, "avg_pool_backward", 6),
    "global_average": (global_average, "avg_pool", 2),
    "global_average_backward": (global_average_backward, "avg_pool_backward", 2),
    "maxout": (maxout, "max_pool", 4),
    "maxout_backward": (maxout_backward, "max_pool_backward", 3),
    "im2col": (im2col, "im2col", 4),
    "col2im": (col2im, "col2im", 4),
    "unpool": (unpool, "max_unpool", 3),
    "indices": (indices, "max_pool", 2),
    "filter": (sliding_filter, "run_passes", 4),
    "activation": (activation, "hard_swish", 2),
    "conv2d": (conv2d, "im2col", 2),
    "conv2d_backward": (conv2d_backward, "im2col", 2),
}

# Calls that must raise: values in place of an argument, wrong for every op.
WRONG = {
    "kernel_size": (0, -1, 2**70, 1.5, "3", (), (1,) * 5, (2, 0), True, None, np.nan, [[1]], {}),
    "stride": (0, -3, 2**70, 2.0, "1", (1,) * 7, (0, 1), False, np.inf),
    "padding": (-1, 2**70, 0.5, "full", ((1, 2, 3),) * 2, ((-1, 0), (0, 0)), (1,) * 6, None, b"same"),
    "dilation": (0, -1, 2**70, 1.0, "2", (1,) * 6, None, True),
    "ceil_mode": (2, None, "yes"),
    "return_argmax": (2, None, "yes"),
    "count_include_pad": (2, None, "yes"),
    "divisor_override": (0, -1, 1.5, "2", True),
    "keepdims": (2, None, "yes"),
    "data_format": ("NCHW", None, 0, "channels_middle"),
    "order": ("lines", None, 3),
    "grouping": ("even", None),
    "axis": (99, -99, 0.0, None, "0", True),
    "num_units": (0, -2, 10**6 + 3, 2.0, None, True),
    "convention": ("keras", None, 1),
    "groups": (0, -1, 10_007, 1.0, None),
    "beta": (np.nan, np.inf, "1", None, True),
    "fill_value": ("0", None, [1, 2], 2**70j),
    "size": (0, -1, 2**70, 1.5, "3", (1,) * 9, None, {}),
    "footprint": ([], [0], np.zeros((2, 2)), "ones", np.ones((1,) * 9), [[1], [1, 1]], None),
    "mode": ("symmetric", None, 0, ("wrap",) * 9, b"wrap"),
    "origin": (99, -99, 0.5, "0", (0,) * 9, None),
    "axes": (99, -99, (0, 0), 0.5, "0"),
    "backend": ("gpu", 3, ""),
    "output_shape": ((-1, 2), (1,) * 9, "3", 2.5, (2**70, 2**70)),
}  # fmt: skip
REFUSALS = TypeError, ValueError, NotImplementedError


# Running a case


class Machine:
    """The package with its arrays and scratch in guarded memory, and its launches cut in pieces or shared."""

    PUBLIC = (
        *("arrays", "calls", "column_plans", "forms", "convolution", "filter_plans", "indices", "running_extremes"),
        "backends.cython",
    )

    def __init__(self, memory):
        for name in self.PUBLIC:
            with contextlib.suppress(ImportError):
                module = import_module(f"fastpool.{name}")
                module.np = GuardedNumPy(memory)
        self.memory, self.launching = memory, None
        if "numba" in BACKENDS:
            self.launching = import_module("fastpool.backends.numba.launching")
            self.tuning = import_module("fastpool.backends.numba.tuning")
            self.runner = self.launching.runner
            if os.environ.get("NUMBA_BOUNDSCHECK"):  # a kernel cannot raise: Numba reports what it would
                sys.unraisablehook = _end
            self.parallel = {name: getattr(self.tuning, name) for name in ("PARALLEL_BYTES", "CHUNK_BYTES")}
            _replace(self.launching, "thread_scratch", memory.scratch)
            _replace(self.tuning, "SMALL_SCRATCH", -1)  # all scratch is from `thread_scratch`
            binding = import_module("fastpool.backends.numba.binding")
            _replace(binding, "runner", lambda call: lambda *arrays: self.run(call, *arrays))

    def set_way(self, rng, way):
        if self.launching is None:
            return
        self.run = self._pieces(rng) if way == "pieces" else lambda call, *arrays: self.runner(call)(*arrays)
        shared = {"PARALLEL_BYTES": 0, "CHUNK_BYTES": 64}
        for name, value in (shared if way == "shared" else self.parallel).items():
            _replace(self.tuning, name, value)
        # Columns mostly in many blocks and with stores that bypass the caches, which otherwise only large arrays use.
        _replace(self.tuning, "MOST_COLUMNS_PACKED", int(rng.choice([1, 60, 500, 1 << 15])))
        _replace(self.tuning, "LARGE_COLUMNS", int(rng.choice([0, 1 << 25])))
        # Averages in chunks, which otherwise only very long windows have.
        _replace(self.tuning, "MOST_SUMS_OF_A_ROW", int(rng.choice([1, 300, 1 << 16])))
        calls.forget_plans()
        fp.set_num_threads(int(rng.integers(1, 5)) if way != "shared" else 3)

    def _pieces(self, rng):
        """The last piece first, so that what a piece writes beyond its own end stays and is seen."""

        def run(call, *arrays):
            cuts = sorted({0, call.items, *rng.integers(0, call.items + 1, 3).tolist()})
            for start, stop in reversed(list(pairwise(cuts))):
                call.run(self.memory.scratch(call.scratch_bytes), start, stop, *arrays)

        return run


def _end(unraisable):
    print(f"{type(unraisable.exc_value).__name__} in a kernel: {unraisable.exc_value}", flush=True)
    os._exit(3)


def _has_two_results(options):
    return options.get("return_argmax") or options.get("return_argmin")


def _replace(module, name, value):
    getattr(module, name)  # an AttributeError where it is gone: then this file must change, too
    setattr(module, name, value)


def tupled(result):
    return result if isinstance(result, tuple) else (result,)


def check_equal(got, expected, eps):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape, f"shape {a.shape} for {b.shape}"
        native = a.dtype.newbyteorder("=") if a.dtype.kind in "fiu" else a.dtype
        assert native == b.dtype, f"dtype {a.dtype} for {b.dtype}"
        if b.dtype in FLOATS:
            tolerance = eps * float(np.finfo(b.dtype).eps if b.dtype.kind == "f" else 2.0**-7)
            a, b = a.astype("f8"), b.astype("f8")
            if tolerance:
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
                continue
        np.testing.assert_array_equal(a, b)


def check_memory(memory):
    where = memory.changed()
    assert where is None, f"what is not a result was written: byte {where} from where an array begins"


def shown(a):
    order = "" if a.dtype.isnative else "swapped "
    more = ("" if a.flags.writeable else " read-only") + ("" if a.flags.aligned else " unaligned")
    return f"{order}{a.dtype.name}{a.shape} strides {a.strides}{more}"


def run_case(machine, seed, case, backend=None, op=None, say=print):
    rng = np.random.default_rng([seed, case])
    name = str(rng.choice(list(OPS), p=(w := np.array([o[2] for o in OPS.values()])) / w.sum()))
    name = op or name
    draw, needs, _ = OPS[name]
    able = [b for b in BACKENDS if hasattr(import_module(f"fastpool.backends.{b}"), needs)]
    chance = rng.random()
    backend = backend or (able[0] if chance < 0.7 else able[int(rng.integers(len(able)))])
    if backend not in able:
        backend = able[0]
    small = backend == "numpy" or bool(rng.random() < 0.3)
    with np.errstate(all="ignore"):
        call = draw(rng, case, backend, small)
        way = str(rng.choice(["alone", "pieces", "pieces", "shared"]))
        if way == "shared" and rng.random() < 0.7 and call.arrays[0].dtype not in DTYPES[:2]:
            way = "pieces"
        memory = machine.memory
        memory.rng, memory.pattern = rng, int(rng.choice(PATTERNS))
        try:
            plain = rng.random() < 0.3
            arrays = [
                arranged(rng, memory, a, plain=plain, repeats=i not in call.fixed) for i, a in enumerate(call.arrays)
            ]
            options = call.options | {"backend": backend}
            say(f"{call.description} {', '.join(map(shown, arrays))} {options} {way}")
            machine.set_way(rng, "alone")
            copies = [np.array(a) for a in call.arrays]
            if rng.random() < 0.15:
                refuse(rng, call, arrays, options)
                check_memory(memory)
                return
            expected = tupled(call.expected(*copies))
            outs = call.takes_out and rng.random() < 0.5
            repeats = [memory.pattern] + [int(p) for p in PATTERNS if rng.random() < 0.2]
            # In the same blocks each time: in others, the sums of two NaN may have the sign of either.
            blocks, first = int(rng.integers(1 << 32)), None
            for memory.pattern in repeats:
                more = {}
                if outs:
                    out = [arranged(rng, memory, e, result=True, plain=plain) for e in expected]
                    more["out"] = tuple(out) if _has_two_results(options) else out[0]
                    say(f"    out: {', '.join(map(shown, out))}")
                machine.set_way(np.random.default_rng(blocks), way)
                got = tupled(call.run(*arrays, **options, **more))
                check_equal(got, expected, call.eps)
                check_memory(memory)
                if outs:
                    assert all(a is b for a, b in zip(got, out, strict=True)), "out is not what was returned"
                bits = [np.array(a, native_dtype(a.dtype), order="C").tobytes() for a in got]
                assert first in (None, bits), "the result depends on what its memory, or the scratch, held before"
                first = bits
        finally:
            got = expected = arrays = out = None  # views of what is closed now
            memory.close()


def native_dtype(dtype):
    return dtype.newbyteorder("=") if dtype.kind in "fiu" else dtype


def refuse(rng, call, arrays, options):
    """Make a call with one wrong argument: it must raise and write nothing."""
    converts = call.description.startswith("indices")  # which takes neither a backend nor out
    names = [n for n in WRONG if n in options and not (converts and n == "backend")]
    ways = ["option"] * 6 + ["dtype", "shape"] + (["out"] * 4 if call.takes_out else [])
    way, arrays, options = str(rng.choice(ways)), list(arrays), dict(options)
    which = int(rng.integers(len(arrays)))
    if way == "option":
        name = str(rng.choice(names))
        options[name] = WRONG[name][int(rng.integers(len(WRONG[name])))]
        if name == "stride" and options.get("stride") is None:
            return
        what = f"{name}={options[name]!r}"
    elif way == "dtype":
        wrong = [np.zeros(arrays[which].shape, t) for t in ("c8", "O", "U3", "M8[s]", "g", "S2")]
        arrays[which] = wrong[int(rng.integers(len(wrong)))]
        what = f"array {which} of {arrays[which].dtype}"
    elif way == "shape":
        arrays[which] = np.zeros((2, 2, 3, 1, 5, 2, 2), arrays[which].dtype)
        if call.description.startswith(("maxout", "hard", "swish", "maximum", "minimum")) and len(arrays) == 1:
            return
        what = f"array {which} of shape {arrays[which].shape}"
    else:
        expected = tupled(call.expected(*[np.array(a, native_dtype(a.dtype)) for a in arrays]))
        outs = [np.zeros(e.shape, e.dtype) for e in expected]
        i = int(rng.integers(len(outs)))
        e = expected[i]
        wrong = [
            np.zeros((*e.shape, 1), e.dtype), np.zeros(e.shape, "c16"), np.broadcast_to(e, e.shape), e.tolist(), 3,
            np.ma.masked_array(e), np.zeros((7, *e.shape), e.dtype),
        ]  # fmt: skip
        outs[i] = wrong[int(rng.integers(len(wrong)))]
        if isinstance(outs[i], np.ndarray) and outs[i].size == 0 and outs[i].shape == e.shape:
            return
        options["out"] = tuple(outs) if _has_two_results(options) else outs[0]
        what = f"out {i}: {type(outs[i]).__name__} {getattr(outs[i], 'dtype', '')} {getattr(outs[i], 'shape', '')}"
        if isinstance(outs[i], np.ndarray) and not isinstance(outs[i], np.ma.MaskedArray):
            outs[i].flags.writeable = outs[i].shape != e.shape or outs[i].dtype != e.dtype
    if way != "out" and call.takes_out and rng.random() < 0.5:
        with contextlib.suppress(Exception):
            expected = tupled(call.expected(*[np.array(a, native_dtype(a.dtype)) for a in call.arrays]))
            outs = [np.full(e.shape, 1, e.dtype) for e in expected]
            options["out"] = tuple(outs) if _has_two_results(options) else outs[0]
    before = [np.array(r) for r in tupled(options.get("out", ())) if isinstance(r, np.ndarray)]
    try:
        call.run(*arrays, **options)
    except REFUSALS:
        pass
    else:
        raise AssertionError(f"accepted: {what}")
    after = [r for r in tupled(options.get("out", ())) if isinstance(r, np.ndarray)]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True)), (
        f"refused, but out was written: {what}"
    )


# The child, which announces and runs cases, and the parent


def child(options):
    faulthandler.enable()
    machine = Machine(Memory(np.random.default_rng(0)))
    case = options.first
    while options.last is None or case < options.last:
        print("begin", case, flush=True)
        lines = []

        def say(line, lines=lines):
            lines.append(line)
            print("about", line.replace("\n", " "), flush=True)

        try:
            run_case(machine, options.seed, case, options.backend, options.op, say)
        except Exception:
            print("failed", case, repr(traceback.format_exc(limit=-6)), flush=True)
        else:
            print("passed", case, flush=True)
        case += 1


def command(options, case):
    more = "".join(f" --{name} {value}" for name in ("backend", "op") if (value := getattr(options, name)))
    return f"python tests/fuzz.py --seed {options.seed} --case {case}{more}"


def parent(options):
    """Run children until the cases or the minutes are up; the number of cases that passed and that failed."""
    passed, failed, case, began = 0, 0, options.first, time.monotonic()
    last = None if options.minutes else options.first + options.cases
    until = began + 60 * options.minutes if options.minutes else None

    def report(what, about, detail=""):
        nonlocal failed
        failed += 1
        print(f"FAILED case {case}: {what}\n  " + "\n  ".join(about), flush=True)
        if detail:
            print("  " + detail.strip().replace("\n", "\n  "), flush=True)
        print(f"  {command(options, case)}", flush=True)

    def is_over():
        return (last is not None and case >= last) or (until is not None and time.monotonic() > until)

    while not is_over():
        with tempfile.TemporaryFile("w+") as errors:
            arguments = [sys.executable, __file__, "--child", "--seed", str(options.seed), "--first", str(case)]
            for name, value in (("--last", last), ("--backend", options.backend), ("--op", options.op)):
                arguments += [name, str(value)] if value is not None else []
            process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors, text=True)
            about, busy = [], False
            lines = _lines(process.stdout)
            for line in lines:
                word, _, rest = line.partition(" ")
                if word == "about":
                    about.append(rest)
                elif word == "begin":
                    case, about, busy = int(rest), [], True
                elif word == "passed":
                    passed, busy, case = passed + 1, False, case + 1
                elif word == "failed":
                    report("wrong", about, eval(rest.partition(" ")[2]))
                    busy, case = False, case + 1
                if not busy and is_over():
                    break
            hangs = lines.hangs
            if hangs or is_over():
                process.kill()
            process.stdout.close()
            code = process.wait()
            if busy:
                errors.seek(0)
                what = f"no answer in {TIMEOUT} s" if hangs else f"the process ended with {code}"
                report(what, about, "\n".join(errors.read().splitlines()[-25:]))
                case += 1
            elif code and not is_over():
                errors.seek(0)
                print(errors.read(), file=sys.stderr)
                return passed, failed + 1, began
    return passed, failed, began


class _lines:
    """Lines of a pipe, until its end or until none comes for so long."""

    def __init__(self, pipe):
        self.pipe, self.hangs, self.rest = pipe, False, ""
        self.selector = selectors.DefaultSelector()
        self.selector.register(pipe, selectors.EVENT_READ)

    def __iter__(self):
        while True:
            if not self.selector.select(TIMEOUT):
                self.hangs = True
                return
            got = os.read(self.pipe.fileno(), 1 << 16).decode()
            if not got:
                return
            *lines, self.rest = (self.rest + got).split("\n")
            yield from lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--case", type=int, help="this one alone, in this process")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--op", choices=OPS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--last", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    if options.case is not None:
        faulthandler.enable()
        run_case(Machine(Memory(np.random.default_rng(0))), options.seed, options.case, options.backend, options.op)
        print("1 passed")
        return None
    passed, failed, began = parent(options)
    print(f"seed {options.seed}: {passed} passed, {failed} failed in {time.monotonic() - began:.0f} s")
    return int(failed > 0 or not passed)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.exit(main())
