"""Of each op a function of its arrays, for a plan to keep and run; see `Planned` in `backends/interface.py`.

It looks up nothing, but for the number of threads where the tiles depend on it.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from fastpool.backends.numba import plan
from fastpool.backends.numba.binding import bound
from fastpool.threads import get_num_threads


def _pool(planner, window, outer, inner, dtype, with_argmax):
    argmax_dtype = window.argmax_dtype if with_argmax else None

    @lru_cache(maxsize=8)
    def run_on(threads):
        return bound(getattr(plan, planner)(window, outer, inner, dtype, argmax_dtype, threads))

    if not plan.suits_van_herk(window, inner):  # only the tiles of `max_pool_van_herk` depend on the threads
        return run_on(1)

    def run(*arrays):
        run_on(get_num_threads())(*arrays)

    return run


prepare_max_pool = partial(_pool, "max_pool")
prepare_min_pool = partial(_pool, "min_pool")


def prepare_argmax_fits(window, outer, inner, dtype):
    validate = bound(plan.validate_argmax(window, outer, inner, dtype))

    def fits(argmax):
        invalid = np.zeros(1, np.uint8)
        validate(argmax, invalid)
        return not invalid[0]

    return fits


def prepare_max_pool_backward(window, outer, inner, dtype):
    fits = prepare_argmax_fits(window, outer, inner, window.argmax_dtype)
    add = bound(plan.max_pool_backward(window, outer, inner, dtype))

    def run(dy, argmax, dx):
        if not fits(argmax):
            return False
        add(dy, argmax, dx)
        return True

    return run


def prepare_max_unpool(outer, windows, cells, inner, dtype):
    return bound(plan.max_unpool(outer, windows, cells, inner, dtype))


def prepare_avg_pool(window, divisors, outer, inner, dtype):
    return bound(plan.avg_pool(window, divisors, outer, inner, dtype))


def prepare_avg_pool_backward(window, divisors, outer, inner, dtype):
    return bound(plan.avg_pool_backward(window, divisors, outer, inner, dtype))


def prepare_max_pool_by_tables(outer, size, out, inner, of_planes, dtype, with_indices):
    arguments = outer, size, out, inner, of_planes, dtype
    pool = bound(plan.max_pool_by_tables(*arguments))
    if not with_indices:
        return lambda x, tables, y: pool(x, y, tables)
    locate = bound(plan.locate_by_tables(*arguments))

    def run(x, tables, y, indices):
        pool(x, y, tables)
        locate(x, y, indices, tables)

    return run


def prepare_avg_pool_by_tables(outer, size, out, inner, of_planes, dtype):
    pool = bound(plan.avg_pool_by_tables(outer, size, out, inner, of_planes, dtype))
    return lambda x, tables, y: pool(x, y, tables)


def prepare_im2col(window, channels_last, cols_steps, dtype, fresh):
    copy = bound(plan.im2col(window, channels_last, cols_steps, dtype.itemsize, fresh))
    return lambda x, cols, fill_value: copy(x, cols, np.array([fill_value], dtype))


def prepare_col2im(window, channels_last, cols_steps, dtype):
    return bound(plan.col2im(window, channels_last, cols_steps, dtype))


def _activation(op, dtype, size):
    return bound(plan.activation(op, dtype, size))


def _activation_with_beta(op, dtype, size):
    activate = _activation(op, dtype, size)

    def run(*arguments):
        *arrays, beta = arguments
        activate(*arrays, np.array([beta], np.float64))

    return run


prepare_hard_swish = partial(_activation, "hard_swish")
prepare_hard_swish_backward = partial(_activation, "hard_swish_backward")
prepare_swish = partial(_activation_with_beta, "swish")
prepare_swish_backward = partial(_activation_with_beta, "swish_backward")
