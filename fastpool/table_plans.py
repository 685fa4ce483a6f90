"""How max pools are planned whose windows are given by tables: adaptive and fractional ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from fastpool import arrays, forms
from fastpool.arguments import for_each_axis, per_axis
from fastpool.backends import backend_for
from fastpool.calls import Op, Plan
from fastpool.dtypes import is_float, native, sum_dtype
from fastpool.indices import check_indices, positions_of_offsets
from fastpool.pool_plans import kernel_of
from fastpool.window import Window, along, sliding_window
from fastpool.window_tables import Table, adaptive, flattened, fractional


def planes_of_shape(axes: int, shape: tuple[int, ...], data_format: str, name: str = "x") -> Window:
    """The planes of an array, as windows of one cell."""
    return sliding_window(axes, shape, 1, None, 0, 1, False, data_format, name)


def planes_of_shapes(
    axes: int, x_shape: tuple[int, ...], dy_shape: tuple[int, ...], data_format: str
) -> tuple[Window, Window]:
    """The planes of x and those of dy."""
    window, out = (planes_of_shape(axes, s, data_format, n) for n, s in (("x_shape", x_shape), ("dy", dy_shape)))
    if (out.batch, out.channels, out.channel_axis) != (window.batch, window.channels, window.channel_axis):
        raise ValueError(f"dy must have the batch and the channels of x_shape {x_shape}, got shape {dy_shape}")
    return window, out


def planes_of(axes: int, x: Any, data_format: str) -> tuple[Window, bool]:
    """The planes of an array in main memory, and whether channels come last there."""
    arrays.in_main_memory("x", x, "pooled by windows that differ")
    window = planes_of_shape(axes, x.shape, data_format)
    return window, forms.channels_last_in_memory(x, window)


def _along(values: np.ndarray, axis: int) -> np.ndarray:
    """One value for each place along an axis of canonical arrays."""
    return along(values, axis - 1)[..., None]


def _taken(a: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    return np.take(a, places, axis) if places.ndim == 1 else np.take_along_axis(a, places, axis)


@np.errstate(invalid="ignore")  # comparisons with NaN
def _later_wins(first: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Where a maximum is not the first one: a tie and a NaN go to the first."""
    wins = later > first
    return wins | (np.isnan(later) & ~np.isnan(first)) if is_float(first.dtype) else wins


class _Axis:
    """Maxima of the windows of a table along one axis of canonical arrays, and their positions along it.

    No window is longer than two of the shortest: its maximum is the larger one of two windows of that length, one from
    its begin on and one up to its end. Windows at one distance are pooled by a stride, all others at every cell.
    """

    def __init__(
        self,
        module: ModuleType,
        shape: tuple[int, ...],
        axis: int,
        kernel: int,
        stride: int | None,
        dtype: np.dtype,
        with_positions: bool,
    ) -> None:
        self.axis, self._kernel, self._stride = axis, kernel, stride
        outer, inner = prod(shape[:axis]), prod(shape[axis + 1 :])
        window = Window.plan(1, (outer, shape[axis], inner), kernel, stride or 1, data_format="channels_last")
        self._pool, _ = kernel_of("max_pool", module, window, outer, inner, dtype, with_positions)
        self._x_shape, self._y_shape = (forms.canonical_shape(window, True, size) for size in (window.size, window.out))
        self._pooled = (*shape[:axis], window.out[2], *shape[axis + 1 :])
        self._dtypes = (dtype, window.argmax_dtype) if with_positions else (dtype,)

    def __call__(self, x: np.ndarray, table: Table) -> tuple[np.ndarray, np.ndarray | None]:
        results = [np.empty(self._y_shape, dtype) for dtype in self._dtypes]
        self._pool(x.reshape(self._x_shape), *results)
        y, *offsets = (result.reshape(self._pooled) for result in results)
        begin = table.begin
        positions = begin if begin.ndim > 1 else _along(begin, self.axis)
        if self._stride is not None:
            return y, positions + offsets[0] if offsets else None
        last = table.end - self._kernel
        first = _taken(y, begin, self.axis)
        if np.array_equal(begin, last):
            return first, positions + _taken(offsets[0], begin, self.axis) if offsets else None
        later = _taken(y, last, self.axis)
        wins = _later_wins(first, later)
        y = np.where(wins, later, first)
        if not offsets:
            return y, None
        place = _taken(offsets[0].astype(np.int64), begin, self.axis)
        later_place = _taken(offsets[0], last, self.axis) + np.reshape(last - begin, positions.shape)
        return y, positions + np.where(wins, later_place, place)


def _kernel(
    module: ModuleType,
    shape: tuple[int, ...],
    kernels: Sequence[tuple[int, int, int | None]],
    of_planes: bool,
    dtype: np.dtype,
    with_indices: bool,
) -> tuple[Any, Any]:
    """What pools x, of a canonical shape, by tables to (y) or (y, indices), and what makes them of three tables.

    `kernels` has of each axis the number of windows, the size of the shortest, and the stride if there is one. Each
    plane has tables of its own if they are `of_planes`.
    """
    by_tables, prepare = (getattr(module, f"{name}max_pool_by_tables", None) for name in ("", "prepare_"))
    if by_tables is not None:
        return by_tables, tuple
    outer, size, inner = shape[0], shape[1:4], shape[4]
    if prepare is not None and outer * inner and (inner == 1 or not of_planes):
        counts = tuple(each[0] for each in kernels)
        prepared = prepare(outer, size, counts, inner, of_planes, dtype, with_indices)
        return prepared, partial(flattened, planes=outer)
    steps, between = [], list(shape)
    for axis in (3, 2, 1):  # the first maximum in row-major order: of each row, then of the rows, then of the slices
        out, kernel, stride = kernels[axis - 1]
        if (out, kernel, stride) != (shape[axis], 1, 1):  # else each window is a cell
            steps.append(_Axis(module, tuple(between), axis, kernel, stride, dtype, with_indices))
        between[axis] = out

    def run(
        x: np.ndarray, tables: tuple[Table, Table, Table], y: np.ndarray, indices: np.ndarray | None = None
    ) -> None:
        positions: dict[int, np.ndarray] = {}
        for step in steps:
            x, found = step(x, tables[step.axis - 1])
            if found is not None:
                positions = {axis: np.take_along_axis(p, found, step.axis) for axis, p in positions.items()}
                positions[step.axis] = found
        y[...] = x
        if indices is not None:
            index: Any = 0
            for axis in (1, 2, 3):
                index = index * shape[axis] + positions.get(axis, _along(np.arange(shape[axis]), axis))
            indices[...] = index

    return run, tuple


def results_of(window: Window, channels_last: bool, out: tuple[int, ...], x: Any, with_indices: bool) -> Any:
    dtypes = (native(x.dtype), np.dtype(np.int64)) if with_indices else (native(x.dtype),)
    size: Any = (1,) * (3 - len(out)) + out
    y_shape = window.shape_of(out)
    return tuple(forms.result(window, channels_last, y_shape, size, dtype, x, any_shape=False) for dtype in dtypes)


def output_sizes(window: Window, output_size: Any) -> tuple[int, ...]:
    """The spatial sizes of a result; None in an `output_size` keeps that of the input."""
    axes = window.spatial_axes
    each = zip(for_each_axis("output_size", output_size, axes), window.size[-axes:], strict=True)
    out = per_axis("output_size", tuple(n if o is None else o for o, n in each), axes, 1)
    if max(window.batch * window.channels, 1) * prod(out) >= 1 << 60:  # of int64, whose bytes NumPy counts in 63 bits
        raise ValueError(f"output_size {output_size!r} is too large for the result of an x of shape {window.x_shape}")
    return out


def adaptive_tables(size: tuple[int, ...], out: tuple[int, ...]) -> tuple[Table, Table, Table]:
    ones = (1,) * (3 - len(out))
    return tuple(adaptive(n, o) for n, o in zip(size, ones + out, strict=True))  # type: ignore[return-value]


def tables_of(tables: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Table, Table, Table]:
    """Those of all three axes."""
    ones = (adaptive(1, 1),) * (3 - len(tables))
    return *ones, *(Table(np.array(begin), np.array(end)) for begin, end in tables)  # type: ignore[return-value]


def sliding(window: Window, tables: tuple[Table, ...], data_format: str) -> Window | None:
    """The windows of tables as those of one pool, if they slide by a stride along each axis."""
    axes = window.spatial_axes
    kernel, stride = (tuple(each) for each in zip(*((t.shortest, t.stride) for t in tables[-axes:]), strict=True))
    return None if None in stride else sliding_window(axes, window.x_shape, kernel, stride, 0, 1, False, data_format)


def _kernel_by_stride(
    module: ModuleType, window: Window, channels_last: bool, dtype: np.dtype, with_indices: bool
) -> Any:
    outer, inner = forms.outer_and_inner(window, channels_last)
    pool, _ = kernel_of("max_pool", module, window, outer, inner, dtype, with_indices)
    if not with_indices:
        return pool

    def run(x: np.ndarray, y: np.ndarray, indices: np.ndarray) -> None:
        argmax = np.empty(y.shape, window.argmax_dtype)
        pool(x, y, argmax)
        indices[...], _ = positions_of_offsets(
            argmax, window, (slice(None), slice(None), *window.all_windows, slice(None))
        )

    return run


def _plan_adaptive(inputs, axes, output_size, data_format, return_indices, backend) -> Plan:
    (x,) = inputs
    window, channels_last = planes_of(axes, x, data_format)
    out = output_sizes(window, output_size)
    tables = adaptive_tables(window.size, out)
    return _plan_of_tables(x, window, channels_last, tables, out, data_format, return_indices, backend)


def _plan_block(inputs, axes, tables, data_format, return_indices, backend) -> Plan:
    """Of a part of an array. `tables` has, for each spatial axis, a tuple of where windows begin, and one of ends."""
    (x,) = inputs
    window, channels_last = planes_of(axes, x, data_format)
    out = tuple(len(begin) for begin, _ in tables)
    return _plan_of_tables(x, window, channels_last, tables_of(tables), out, data_format, return_indices, backend)


def _plan_of_tables(x, window, channels_last, tables, out, data_format, return_indices, backend) -> Plan:
    module = backend_for("max_pool", backend)
    strided = sliding(window, tables, data_format)
    if strided is not None:
        run: Any = _kernel_by_stride(module, strided, channels_last, native(x.dtype), return_indices)
    else:
        kernels = [(len(table.begin), table.shortest, table.stride) for table in tables]
        shape = forms.canonical_shape(window, channels_last, window.size)
        pool, as_taken = _kernel(module, shape, kernels, False, native(x.dtype), return_indices)
        taken = as_taken(tables)

        def run(x: np.ndarray, *results: np.ndarray) -> None:
            pool(x, taken, *results)

    operand = forms.source(x, window, channels_last, window.size, any_shape=False)
    return Plan((operand,), results_of(window, channels_last, out, x, return_indices), run)


def _plan_fractional(inputs, axes, kernel_size, output_size, data_format, return_indices, backend) -> Plan:
    x, samples = inputs
    window, channels_last = planes_of(axes, x, data_format)
    module, kernel = backend_for("max_pool", backend), per_axis("kernel_size", kernel_size, axes, 1)
    out, size = per_axis("output_size", output_size, axes, 1), window.size[-axes:]
    for n, k, o in zip(size, kernel, out, strict=True):
        if k + o - 1 > n:
            raise ValueError(
                f"{o} windows of {k} cells that begin at different cells need {k + o - 1}, got an axis of {n}: "
                f"choose a smaller kernel_size {kernel_size!r} or output_size {output_size!r}"
            )
    arrays.expect_shape("random_samples", samples, (window.batch, window.channels, axes), "x and its spatial axes")
    ones = (1,) * (3 - axes)
    shape = forms.canonical_shape(window, channels_last, window.size)
    # As many windows as cells are one cell each.
    sizes = zip(window.size, ones + out, ones + kernel, strict=True)
    kernels = [(o, k, 1 if o == n else None) for n, o, k in sizes]
    pool, as_taken = _kernel(module, shape, kernels, True, native(x.dtype), return_indices)

    def run(x: np.ndarray, samples: np.ndarray, *results: np.ndarray) -> None:
        # A copy, which nobody changes once it has been checked.
        samples = samples.astype(np.float32 if samples.dtype.itemsize == 2 else native(samples.dtype))
        if not ((samples >= 0) & (samples <= 1)).all():
            raise ValueError(f"random_samples must be from 0 to 1, got {samples.min()} to {samples.max()}")
        tables = [adaptive(1, 1)] * (3 - axes)
        for axis in range(axes):
            # PyTorch's order, which in two dimensions is that of width and height.
            of_axis = samples[..., axis if axes == 3 else axes - 1 - axis]
            table = fractional(size[axis], out[axis], kernel[axis], of_axis)
            tables.append(Table(*(_canonical_table(a, 4 - axes + axis, channels_last) for a in table)))
        pool(x, as_taken(tables), *results)

    operand = forms.source(x, window, channels_last, window.size, any_shape=False)
    return Plan((operand, None), results_of(window, channels_last, out, x, return_indices), run)


def _canonical_table(a: np.ndarray, axis: int, channels_last: bool) -> np.ndarray:
    """A table (N, C, O) in canonical form, with the windows at an axis."""
    n, c, out = a.shape
    a = a.transpose(0, 2, 1) if channels_last else a.reshape(n * c, out, 1)
    return np.expand_dims(a, tuple(i for i in (1, 2, 3) if i != axis))


def planes_of_gradient(axes: int, x_shape: tuple[int, ...], dy: Any, data_format: str) -> tuple[Window, Window, bool]:
    """The planes of x and those of dy, and whether channels of dy come last in memory."""
    arrays.in_main_memory("dy", dy, "pooled by windows that differ")
    window, out = planes_of_shapes(axes, x_shape, dy.shape, data_format)
    return window, out, forms.channels_last_in_memory(dy, out)


def _plan_backward(inputs, axes, x_shape, data_format, backend) -> Plan:
    dy, indices = inputs
    arrays.in_main_memory("indices", indices, "pooled by windows that differ")
    module = backend_for("max_pool_backward", backend)
    window, out, channels_last = planes_of_gradient(axes, x_shape, dy, data_format)
    check_indices(indices, out)
    dtype = native(dy.dtype)
    by_indices, cells = getattr(module, "max_pool_backward_by_indices", _add_at), prod(window.size)

    def run(dy: np.ndarray, indices: np.ndarray, dx: np.ndarray) -> None:
        least, most = int(indices.min()), int(indices.max())
        if least < 0 or most >= cells:
            got = least if least < 0 else most
            raise ValueError(f"indices must be positions in a plane, from 0 below {cells}, got {got}")
        by_indices(dy, indices, dx)

    operands = tuple(forms.source(a, out, channels_last, out.size, any_shape=False) for a in (dy, indices))
    dx = forms.result(window, channels_last, window.x_shape, window.size, dtype, dy, any_shape=False)
    return Plan(operands, (dx,), run)


@np.errstate(all="ignore")
def _add_at(dy: np.ndarray, indices: np.ndarray, dx: np.ndarray) -> None:
    """Add each gradient to the position that its index names, in the order of the windows."""
    total = np.zeros((dx.shape[0], prod(dx.shape[1:4]), dx.shape[4]), sum_dtype(dx.dtype))
    planes, channels = np.arange(total.shape[0]).reshape(-1, 1, 1, 1, 1), np.arange(total.shape[2])
    flat = (planes * total.shape[1] + indices.astype(np.int64)) * total.shape[2] + channels
    np.add.at(total.reshape(-1), flat.reshape(-1), dy.astype(total.dtype).reshape(-1))
    dx[...] = total.reshape(dx.shape)


ADAPTIVE_MAX_POOL = Op("adaptive_max_pool", ("x",), (), _plan_adaptive)
ADAPTIVE_MAX_POOL_BLOCK = Op("adaptive_max_pool_block", ("x",), (), _plan_block)
FRACTIONAL_MAX_POOL = Op("fractional_max_pool", ("x", "random_samples"), ("random_samples",), _plan_fractional)
ADAPTIVE_MAX_POOL_BACKWARD = Op("adaptive_max_pool_backward", ("dy", "indices"), ("dy",), _plan_backward)
FRACTIONAL_MAX_POOL_BACKWARD = Op("fractional_max_pool_backward", ("dy", "indices"), ("dy",), _plan_backward)
