"""How a call is cut into work items, and what its kernel is given: pure functions of the window, layout and dtypes."""

from fastpool.backends.numba.plan.backward import max_pool_backward, validate_argmax
from fastpool.backends.numba.plan.built import BUILT_DTYPES, WARMUP_DTYPES, WARMUP_INDICES, built_calls
from fastpool.backends.numba.plan.call import KernelCall
from fastpool.backends.numba.plan.columns import col2im, im2col
from fastpool.backends.numba.plan.elementwise import activation, max_unpool
from fastpool.backends.numba.plan.forward import depends_on_threads, max_pool, min_pool

__all__ = [
    "BUILT_DTYPES",
    "WARMUP_DTYPES",
    "WARMUP_INDICES",
    "KernelCall",
    "activation",
    "built_calls",
    "col2im",
    "depends_on_threads",
    "im2col",
    "max_pool",
    "max_pool_backward",
    "max_unpool",
    "min_pool",
    "validate_argmax",
]
