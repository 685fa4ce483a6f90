"""Kernels on all CPU cores, built with the package or compiled by Numba on first use: the default backend."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from fastpool.backends._passes import run_passes
from fastpool.backends.numba import library, plan, tuning
from fastpool.backends.numba._launch import Call
from fastpool.backends.numba.encoding import encode, join_name
from fastpool.backends.numba.launching import runner
from fastpool.backends.numba.plan.call import KernelCall
from fastpool.threads import get_num_threads

__all__ = [
    "argmax_fits",
    "avg_pool",
    "avg_pool_backward",
    "cache_directory",
    "check",
    "col2im",
    "compile_by_name",
    "hard_swish",
    "hard_swish_backward",
    "im2col",
    "kernel_names",
    "max_pool",
    "max_pool_backward",
    "max_unpool",
    "min_pool",
    "prepare_avg_pool",
    "prepare_avg_pool_backward",
    "prepare_avg_pool_by_tables",
    "prepare_hard_swish",
    "prepare_hard_swish_backward",
    "prepare_max_pool",
    "prepare_max_pool_backward",
    "prepare_max_pool_by_tables",
    "prepare_min_pool",
    "prepare_swish",
    "prepare_swish_backward",
    "run_passes",
    "swish",
    "swish_backward",
]


def check():
    """Raise if there are no kernels that this processor can run, and no Numba to compile them."""
    try:
        built = library.level()
    except ValueError:
        return  # of FASTPOOL_KERNELS, which the first call raises
    if not built:
        library.compiler()


def kernel_name(planned: KernelCall) -> str:
    codes, _ = encode(planned.constants)
    return join_name(planned.kernel, planned.dtypes, codes)


def bound_call(planned: KernelCall) -> Call:
    """The call with the address of its kernel, which is compiled if the library has none."""
    codes, words = encode(planned.constants)
    address, keep = library.find(join_name(planned.kernel, planned.dtypes, codes))
    itemsizes = tuple(0 if dtype is None else dtype.itemsize for dtype in planned.dtypes)
    return Call(address, itemsizes, words, planned.items, planned.cost_bytes, planned.scratch_bytes, keep)


def _runners(planner):
    """Make a function that gives runners of the calls that a function of `plan` plans, and keeps the last of them."""
    return tuning.cached(lambda *arguments: runner(bound_call(getattr(plan, planner)(*arguments))))


_max_unpool = _runners("max_unpool")
_im2col = _runners("im2col")
_col2im = _runners("col2im")
_activation = _runners("activation")


# Each `prepare_...` returns a function of the op's arrays: see `Planned` in `backends/interface.py`.


def _prepare_pool(planner, window, outer, inner, dtype, with_argmax):
    argmax_dtype = window.argmax_dtype if with_argmax else None

    @lru_cache(maxsize=8)
    def runner_for(threads):
        return runner(bound_call(getattr(plan, planner)(window, outer, inner, dtype, argmax_dtype, threads)))

    if not plan.suits_van_herk(window, inner):  # only the tiles of `max_pool_van_herk` depend on the threads
        return runner_for(1)

    def run(*arrays):
        runner_for(get_num_threads())(*arrays)

    return run


prepare_max_pool = partial(_prepare_pool, "max_pool")
prepare_min_pool = partial(_prepare_pool, "min_pool")


def _prepare_argmax_fits(window, outer, inner, dtype):
    validate = runner(bound_call(plan.validate_argmax(window, outer, inner, dtype)))

    def fits(argmax):
        invalid = np.zeros(1, np.uint8)
        validate(argmax, invalid)
        return not invalid[0]

    return fits


def prepare_max_pool_backward(window, outer, inner, dtype):
    fits = _prepare_argmax_fits(window, outer, inner, window.argmax_dtype)
    add = runner(bound_call(plan.max_pool_backward(window, outer, inner, dtype)))

    def run(dy, argmax, dx):
        if not fits(argmax):
            return False
        add(dy, argmax, dx)
        return True

    return run


def prepare_avg_pool(window, divisors, outer, inner, dtype):
    return runner(bound_call(plan.avg_pool(window, divisors, outer, inner, dtype)))


def prepare_avg_pool_backward(window, divisors, outer, inner, dtype):
    return runner(bound_call(plan.avg_pool_backward(window, divisors, outer, inner, dtype)))


def prepare_max_pool_by_tables(outer, size, out, inner, of_planes, dtype, with_indices):
    arguments = outer, size, out, inner, of_planes, dtype
    pool = runner(bound_call(plan.max_pool_by_tables(*arguments)))
    if not with_indices:
        return lambda x, tables, y: pool(x, y, tables)
    locate = runner(bound_call(plan.locate_by_tables(*arguments)))

    def run(x, tables, y, indices):
        pool(x, y, tables)
        locate(x, y, indices, tables)

    return run


def prepare_avg_pool_by_tables(outer, size, out, inner, of_planes, dtype):
    pool = runner(bound_call(plan.avg_pool_by_tables(outer, size, out, inner, of_planes, dtype)))
    return lambda x, tables, y: pool(x, y, tables)


def max_unpool(y, indices, x):
    (outer, *windows, inner), cells = y.shape, x.shape[1:4]
    _max_unpool(outer, int(np.prod(windows)), int(np.prod(cells)), inner, x.dtype)(y, indices, x)


def _column_steps(cols):
    """The columns as a flat array in memory order, and the steps from image to image, channel, tap and position."""
    in_memory, steps = _axes_in_memory(cols.strides, cols.itemsize)
    return cols.transpose(in_memory).reshape(-1), steps


@lru_cache(maxsize=1024)
def _axes_in_memory(strides, itemsize):
    return sorted(range(len(strides)), key=lambda axis: -strides[axis]), tuple(s // itemsize for s in strides)


def im2col(x, window, fill_value, cols, *, fresh=True):
    bits = int(np.array([fill_value], cols.dtype).view(f"u{cols.itemsize}")[0])
    flat, steps = _column_steps(cols)
    nontemporal = cols.nbytes > tuning.LARGE_COLUMNS and not fresh
    _im2col(window, x.shape[4] > 1, steps, cols.itemsize, bits, nontemporal)(x, flat)


def col2im(cols, window, dx):
    flat, steps = _column_steps(cols)
    _col2im(window, dx.shape[4] > 1, steps, dx.dtype)(flat, dx)


def _prepare_activation(op, dtype, size):
    return runner(bound_call(plan.activation(op, dtype, size)))


def _prepare_activation_with_beta(op, dtype, size):
    def run(*arguments):
        *arrays, beta, result = arguments
        _activation(op, dtype, size, beta)(*arrays, result)

    return run


prepare_hard_swish = partial(_prepare_activation, "hard_swish")
prepare_hard_swish_backward = partial(_prepare_activation, "hard_swish_backward")
prepare_swish = partial(_prepare_activation_with_beta, "swish")
prepare_swish_backward = partial(_prepare_activation_with_beta, "swish_backward")


def max_pool(x, window, y, argmax):
    prepare_max_pool(window, x.shape[0], x.shape[4], x.dtype, argmax is not None)(x, y, argmax)


def min_pool(x, window, y, argmin):
    prepare_min_pool(window, x.shape[0], x.shape[4], x.dtype, argmin is not None)(x, y, argmin)


def max_pool_backward(dy, argmax, window, dx):
    prepare_max_pool_backward(window, dx.shape[0], dx.shape[4], dx.dtype)(dy, argmax, dx)


def avg_pool(x, window, divisors, y):
    prepare_avg_pool(window, divisors, x.shape[0], x.shape[4], x.dtype)(x, y)


def avg_pool_backward(dy, window, divisors, dx):
    prepare_avg_pool_backward(window, divisors, dx.shape[0], dx.shape[4], dx.dtype)(dy, dx)


def argmax_fits(argmax, window):
    return _prepare_argmax_fits(window, argmax.shape[0], argmax.shape[4], argmax.dtype)(argmax)


def hard_swish(x, y):
    prepare_hard_swish(x.dtype, x.size)(x, y)


def hard_swish_backward(dy, x, dx):
    prepare_hard_swish_backward(x.dtype, x.size)(dy, x, dx)


def swish(x, beta, y):
    prepare_swish(x.dtype, x.size)(x, beta, y)


def swish_backward(dy, x, beta, dx):
    prepare_swish_backward(x.dtype, x.size)(dy, x, beta, dx)


def cache_directory() -> str:
    """Where kernels that Numba compiles are kept; '' where they are not."""
    return library.compiler().cache_directory()


def kernel_names(everything=True):
    """All kernels that are built with the package, or those of float32 and uint8 with an argmax of bytes."""
    calls = plan.built_calls() if everything else plan.built_calls(plan.WARMUP_DTYPES, plan.WARMUP_ARGMAX_DTYPES)
    return list(dict.fromkeys(map(kernel_name, calls)))


def compile_by_name(name):
    """Have a kernel compiled and kept that was not built with the package; return its name."""
    library.find(name)
    return name
