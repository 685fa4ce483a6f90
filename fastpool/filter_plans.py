"""How sliding filters are planned: boxes as pools with stride 1, other footprints by their rows."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool import arrays, forms
from fastpool._rules import half_bits
from fastpool.arguments import for_each_axis, integer, per_axis
from fastpool.backends import backend_for, kernel
from fastpool.borders import Copy, Extension, Reach, extend
from fastpool.calls import Op, Plan
from fastpool.dtypes import is_half, native, number_held
from fastpool.footprints import FILTERED, middle
from fastpool.pool_plans import kernel_of, no_kernel
from fastpool.running_extremes import RunningExtreme, comparable
from fastpool.window import Window

POOLS = {"maximum_filter": "max_pool", "minimum_filter": "min_pool"}
EXTREMES = {"maximum_filter": np.maximum, "minimum_filter": np.minimum}


def filtered_axes(name: str, axes: Any, ndim: int) -> tuple[int, ...]:
    """The axes to be filtered, none twice, counted from the first; `axes` is as `frozen` returns it."""
    if axes is None:
        return tuple(range(ndim))
    each = axes if isinstance(axes, tuple) else (axes,)
    if not all(-ndim <= integer(name, axis) < ndim for axis in each):
        raise ValueError(f"{name} must be axes of an array of {ndim}, from {-ndim} to {ndim - 1}, got {axes!r}")
    found = tuple(axis % ndim for axis in each)
    if len(set(found)) < len(found):
        raise ValueError(f"{name} must be different from each other, got {axes!r}")
    return found


def elements_of(footprint: bytes, size: tuple[int, ...]) -> np.ndarray:
    """A footprint of this shape, of its bits."""
    return np.unpackbits(np.frombuffer(footprint, np.uint8), count=prod(size)).astype(bool).reshape(size)


def spread(footprint: np.ndarray, axes: tuple[int, ...], ndim: int) -> np.ndarray:
    """A footprint of some axes as one of `ndim` axes, the others of size 1."""
    if footprint.ndim != len(axes):
        raise ValueError(
            f"footprint must have {len(axes)} axes, as many as are filtered, got one of shape {footprint.shape}"
        )
    return np.moveaxis(footprint.reshape(footprint.shape + (1,) * (ndim - len(axes))), range(len(axes)), axes)


def reaches_of(shape: tuple[int, ...], axes: tuple[int, ...], size: Any, mode: Any, origin: Any) -> dict[int, Reach]:
    """How far windows reach along each filtered axis."""
    if not axes:
        return {}
    sizes = per_axis("size", size, len(axes), 1)
    reaches = {}
    modes, origins = (
        for_each_axis(name, value, len(axes), FILTERED) for name, value in (("mode", mode), ("origin", origin))
    )
    for axis, k, word, o in zip(axes, sizes, modes, origins, strict=True):
        before = middle(k, o, origin)
        reaches[axis] = Reach(shape[axis], before, k - 1 - before, word)
    return reaches


class _Step(NamedTuple):
    """A pool along neighbouring axes."""

    extended_shape: tuple[int, ...]
    copies: list[Copy] | None  # where a pool's padding does not do
    pool: Any
    x_shape: tuple[int, ...]  # in canonical form
    y_shape: tuple[int, ...]

    def __call__(self, x: np.ndarray, y: np.ndarray, constant: Any) -> None:
        if self.copies is not None:
            extended = np.empty(self.extended_shape, x.dtype)
            extend(x, self.copies, constant, extended)
            x = extended
        self.pool(x.reshape(self.x_shape), y.reshape(self.y_shape))


def _groups(axes: list[int]) -> list[list[int]]:
    """Neighbouring axes in pairs: a third in the same pool would cost time in proportion to its window."""
    groups: list[list[int]] = []
    for axis in axes:
        if groups and groups[-1][-1] == axis - 1 and len(groups[-1]) < 2:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def _box_step(op: str, backend: Any, shape: tuple[int, ...], group: list[int], reaches: Any, dtype: np.dtype) -> _Step:
    pads, size, kernel = [], [], []
    extended: list[Reach | None] = [None] * len(shape)
    for axis in group:
        reach = reaches[axis]
        if reach.needs_no_border:
            inside = reach.inside
            pads.append((inside.before, inside.after))
            size.append(reach.size)
            kernel.append(inside.window)
        else:
            extended[axis] = reach
            pads.append((0, 0))
            size.append(reach.size + reach.before + reach.after)
            kernel.append(reach.window)
    outer, inner = prod(shape[: group[0]]), prod(shape[group[-1] + 1 :])
    window = Window.plan(len(group), (outer, *size, inner), tuple(kernel), 1, tuple(pads), data_format="channels_last")
    run, _ = kernel_of(POOLS[op], backend, window, outer, inner, dtype, False)
    planes = partial(forms.canonical_shape, window, True)
    extension = Extension(shape, extended)
    copies = extension.copies([slice(0, n) for n in extension.shape]) if any(extended) else None
    return _Step(extension.shape, copies, run, planes(window.size), planes(window.out))


def _compared_with_constant(reaches: dict[int, Reach], ndim: int) -> list[tuple[slice, ...]]:
    """The elements of a result whose windows hold the constant."""
    borders = []
    for axis, reach in reaches.items():
        if reach.mode == "constant":
            before, after = min(reach.before, reach.size), max(reach.size - reach.after, 0)
            for border in (slice(0, before), slice(after, reach.size)):
                borders.append((slice(None),) * axis + (border,) + (slice(None),) * (ndim - axis - 1))
    return borders


def _box(op: str, x_shape: tuple[int, ...], reaches: dict[int, Reach], dtype: np.dtype, backend: str | None) -> Any:
    """What fills y from x and the constant by pools, one after the other."""
    module, extreme = backend_for(POOLS[op], backend), EXTREMES[op]
    axes = sorted(axis for axis, reach in reaches.items() if reach.window > 1)
    steps = [_box_step(op, module, x_shape, group, reaches, dtype) for group in _groups(axes)]
    borders = _compared_with_constant(reaches, len(x_shape))

    @np.errstate(invalid="ignore")  # comparisons with NaN
    def run(x: np.ndarray, y: np.ndarray, constant: Any) -> None:
        for step in steps[:-1]:
            between = np.empty(x_shape, dtype)
            step(x, between, constant)
            x = between
        if steps:
            steps[-1](x, y, constant)
        else:
            y[...] = x
        for border in borders:
            extreme(y[border], constant, out=y[border])

    return run


def _footprint(
    op: str,
    x_shape: tuple[int, ...],
    reaches: dict[int, Reach],
    dtype: np.dtype,
    footprint: np.ndarray,
    backend: str | None,
) -> Any:
    """What fills y from x and the constant by rows of a footprint, which has an axis for each of x."""
    extension = Extension(x_shape, [reaches.get(axis) for axis in range(len(x_shape))])
    extreme = EXTREMES[op]
    compared, run_passes = comparable(np.empty(0, dtype), extreme).dtype, kernel("run_passes", backend)
    extremes = RunningExtreme(footprint, x_shape, compared, extreme, extension, run_passes)

    def run(x: np.ndarray, y: np.ndarray, constant: Any) -> None:
        x, constant = (comparable(a, extreme) for a in (x, np.array([constant])))
        result = y.view(x.dtype)
        extremes(x, constant, result)
        if is_half(y.dtype):
            result[...] = half_bits(result)

    return run


def _plan(op: str, inputs: Any, size: Any, footprint: Any, mode: Any, origin: Any, axes: Any, backend: Any) -> Plan:
    """`footprint` holds the elements of a footprint of the shape `size` as bits; it is None for a box."""
    x = arrays.in_main_memory("input", inputs[0], "filtered")
    in_memory, dtype = forms.memory_axes(x), native(x.dtype)
    axes = filtered_axes("axes", axes, x.ndim)
    places = tuple(in_memory.index(axis) for axis in axes)
    elements = None
    if footprint is not None:
        elements = spread(elements_of(footprint, size), places, x.ndim)
    x_shape = tuple(x.shape[axis] for axis in in_memory)
    reaches = reaches_of(x_shape, places, size, mode, origin)
    if x.size == 0:
        backend_for(POOLS[op], backend)  # an unknown name is an error here, too
        run: Any = no_kernel
    elif elements is None or elements.all():
        run = _box(op, x_shape, reaches, dtype, backend)
    else:
        run = _footprint(op, x_shape, reaches, dtype, elements, backend)
    moved = None if in_memory == tuple(range(x.ndim)) else in_memory
    has_constant = any(reach.mode == "constant" for reach in reaches.values())
    check = partial(number_held, "cval", dtype) if has_constant else lambda cval: dtype.type(0)
    return Plan((forms.operand(x, moved),), (forms.Result(x.shape, dtype, moved, moved),), run, check)


MAXIMUM_FILTER, MINIMUM_FILTER = (Op(op, ("input",), (), partial(_plan, op)) for op in POOLS)
