"""How adaptive averages and their gradients are planned."""

from __future__ import annotations

from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from fastpool import forms
from fastpool.average_plans import average_backward_plan, average_kernel, average_plan
from fastpool.backends import backend_for
from fastpool.calls import Op, Plan
from fastpool.dtypes import native, sum_dtype
from fastpool.table_plans import (
    adaptive_tables,
    output_sizes,
    planes_of,
    planes_of_gradient,
    results_of,
    sliding,
    tables_of,
)
from fastpool.window import Window
from fastpool.window_tables import Table, flattened


class _AxisSums:
    """Sums of the windows of a table along one axis of canonical arrays, or the adjoint of that.

    A sum is that of a window of the shortest length, which a pool computes at every cell, and of the cell after it in
    windows that are longer by one. `op` is "avg_pool", or "avg_pool_backward" for the adjoint.
    """

    def __init__(
        self, op: str, module: ModuleType, shape: tuple[int, ...], axis: int, table: Table, dtype: np.dtype
    ) -> None:
        before: Any = (slice(None),) * axis
        self._before, self._table = before, table
        outer, inner, kernel = prod(shape[:axis]), prod(shape[axis + 1 :]), table.shortest
        window = Window.plan(1, (outer, shape[axis], inner), kernel, 1, data_format="channels_last")
        self._run, _ = average_kernel(op, module, window, window.divisors(False, 1), True, dtype)
        self._x_shape, self._y_shape = (forms.canonical_shape(window, True, size) for size in (window.size, window.out))
        self._shape, self._sums = shape, (*shape[:axis], window.out[2], *shape[axis + 1 :])
        self._longer = np.flatnonzero(table.end - table.begin > kernel)
        self._dtype = dtype

    def sums(self, x: np.ndarray) -> np.ndarray:
        sums = np.empty(self._y_shape, self._dtype)
        self._run(np.ascontiguousarray(x).reshape(self._x_shape), sums)
        total = sums.reshape(self._sums)[*self._before, self._table.begin]
        total[*self._before, self._longer] += x[*self._before, self._table.end[self._longer] - 1]
        return total

    def adjoint(self, dy: np.ndarray) -> np.ndarray:
        grads = np.zeros(self._sums, self._dtype)
        np.add.at(grads, (*self._before, self._table.begin), dy)
        dx = np.empty(self._x_shape, self._dtype)
        self._run(grads.reshape(self._y_shape), dx)
        dx = dx.reshape(self._shape)
        np.add.at(dx, (*self._before, self._table.end[self._longer] - 1), dy[*self._before, self._longer])
        return dx


def _kernel(
    op: str, module: ModuleType, shape: tuple[int, ...], tables: tuple[Table, Table, Table], x_dtype: np.dtype
) -> Any:
    """What fills y from x, or dx from dy for the op "avg_pool_backward"; `shape` is the canonical shape of x and dx."""
    by_tables = getattr(module, f"{op}_by_tables", None)
    if by_tables is not None:
        return lambda source, result: by_tables(source, tables, result)
    prepare = getattr(module, f"prepare_{op}_by_tables", None)
    outer, size, inner = shape[0], shape[1:4], shape[4]
    if prepare is not None and outer * inner:
        flat, out = flattened(tables, outer), tuple(len(table.begin) for table in tables)
        prepared = prepare(outer, size, out, inner, False, x_dtype)
        return lambda x, y: prepared(x, flat, y)
    dtype = sum_dtype(x_dtype)
    between, steps = list(shape), []
    for axis in (3, 2, 1):
        table = tables[axis - 1]
        if (len(table.begin), table.shortest, table.stride) != (between[axis], 1, 1):  # else each window is a cell
            steps.append(_AxisSums(op, module, tuple(between), axis, table, dtype))
        between[axis] = len(table.begin)
    d, h, w = (table.end - table.begin for table in tables)
    counts = (d[:, None, None, None] * h[:, None, None] * w[:, None]).astype(dtype)

    @np.errstate(all="ignore")
    def pool(x: np.ndarray, y: np.ndarray) -> None:
        total = x.astype(dtype, copy=False)
        for step in steps:
            total = step.sums(total)
        y[...] = total / counts

    @np.errstate(all="ignore")
    def pool_backward(dy: np.ndarray, dx: np.ndarray) -> None:
        total = dy.astype(dtype) / counts
        for step in reversed(steps):
            total = step.adjoint(total)
        dx[...] = total

    return pool if op == "avg_pool" else pool_backward


def _plan_adaptive_average(inputs, axes, output_size, data_format, backend) -> Plan:
    (x,) = inputs
    window, channels_last = planes_of(axes, x, data_format)
    out = output_sizes(window, output_size)
    tables = adaptive_tables(window.size, out)
    strided = sliding(window, tables, data_format)
    if strided is not None:
        return average_plan(x, strided, strided.divisors(False, None), backend)
    return _plan_of_tables(x, window, channels_last, tables, out, backend)


def _plan_block(inputs, axes, tables, data_format, backend) -> Plan:
    """Of a part of an array, with the `tables` of a part of the windows of the whole: see `table_plans`.

    By tables even where the windows of the part slide by a stride: sums are added up as those of the whole.
    """
    (x,) = inputs
    window, channels_last = planes_of(axes, x, data_format)
    out = tuple(len(begin) for begin, _ in tables)
    return _plan_of_tables(x, window, channels_last, tables_of(tables), out, backend)


def _plan_of_tables(x, window, channels_last, tables, out, backend) -> Plan:
    shape = forms.canonical_shape(window, channels_last, window.size)
    run = _kernel("avg_pool", backend_for("avg_pool", backend), shape, tables, native(x.dtype))
    operand = forms.source(x, window, channels_last, window.size, any_shape=False)
    return Plan((operand,), results_of(window, channels_last, out, x, False), run)


def _plan_adaptive_average_backward(inputs, axes, x_shape, data_format, backend) -> Plan:
    (dy,) = inputs
    window, out, channels_last = planes_of_gradient(axes, x_shape, dy, data_format)
    tables = adaptive_tables(window.size, out.size[-axes:])
    strided = sliding(window, tables, data_format)
    if strided is not None:
        return average_backward_plan(dy, strided, strided.divisors(False, None), backend)
    return _backward_plan_of_tables(dy, window, out, channels_last, tables, backend)


def _plan_block_backward(inputs, axes, x_shape, tables, data_format, backend) -> Plan:
    (dy,) = inputs
    window, out, channels_last = planes_of_gradient(axes, x_shape, dy, data_format)
    return _backward_plan_of_tables(dy, window, out, channels_last, tables_of(tables), backend)


def _backward_plan_of_tables(dy, window, out, channels_last, tables, backend) -> Plan:
    shape = forms.canonical_shape(window, channels_last, window.size)
    run = _kernel("avg_pool_backward", backend_for("avg_pool_backward", backend), shape, tables, native(dy.dtype))
    operand = forms.source(dy, out, channels_last, out.size, any_shape=False)
    dx = forms.result(window, channels_last, window.x_shape, window.size, native(dy.dtype), dy, any_shape=False)
    return Plan((operand,), (dx,), run)


ADAPTIVE_AVG_POOL = Op("adaptive_avg_pool", ("x",), ("x",), _plan_adaptive_average)
ADAPTIVE_AVG_POOL_BACKWARD = Op("adaptive_avg_pool_backward", ("dy",), ("dy",), _plan_adaptive_average_backward)
ADAPTIVE_AVG_POOL_BLOCK = Op("adaptive_avg_pool_block", ("x",), ("x",), _plan_block)
ADAPTIVE_AVG_POOL_BLOCK_BACKWARD = Op("adaptive_avg_pool_block_backward", ("dy",), ("dy",), _plan_block_backward)
