"""Kernels on all CPU cores, built with the package or compiled by Numba on first use: the default backend."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from fastpool.backends.numba import library, plan
from fastpool.backends.numba._launch import Call
from fastpool.backends.numba.plan import Plan
from fastpool.backends.numba.threads import launch, runner
from fastpool.threads import get_num_threads

__all__ = [
    "argmax_fits",
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
    "prepare_hard_swish",
    "prepare_hard_swish_backward",
    "prepare_max_pool",
    "prepare_max_pool_backward",
    "prepare_swish",
    "prepare_swish_backward",
    "swish",
    "swish_backward",
]


def check():
    """Raise where there are neither kernels that this processor can run nor Numba, to compile them."""
    try:
        built = library.level()
    except ValueError:
        return  # of FASTPOOL_KERNELS, which the first call raises
    if not built:
        library.compiler()


def kernel_name(made: Plan) -> str:
    codes = "_".join("none" if dtype is None else library.dtype_code(dtype) for dtype in made.dtypes)
    return f"{made.kernel}__{codes}__{library.encoded(made.constants)[0]}"


def call_of(made: Plan) -> Call:
    """A plan with its kernel, which is compiled if need be."""
    address, keep = library.find(kernel_name(made))
    itemsizes = tuple(0 if dtype is None else dtype.itemsize for dtype in made.dtypes)
    _, words = library.encoded(made.constants)
    return Call(address, itemsizes, words, made.units, made.nbytes, made.scratch_bytes, keep)


def _called(make_plan):
    """The calls that these plans make, the last of them kept."""
    return lru_cache(maxsize=1024)(lambda *arguments: call_of(make_plan(*arguments)))


_max_unpool = _called(plan.max_unpool)
_im2col = _called(plan.im2col)
_col2im = _called(plan.col2im)
_activation = _called(plan.activation)


def prepare_max_pool(window, outer, inner, dtype, with_argmax):
    index = window.argmax_dtype if with_argmax else None

    @lru_cache(maxsize=8)
    def call_for(threads):
        return call_of(plan.max_pool(window, outer, inner, dtype, index, threads))

    if not plan.depends_on_threads(window, inner):
        return runner(call_for(1))

    def run(*arrays):
        launch(call_for(get_num_threads()), *arrays)

    return run


def prepare_argmax_fits(window, outer, inner, dtype):
    look = runner(call_of(plan.misplaced(window, outer, inner, dtype)))

    def fits(argmax):
        found = np.zeros(1, np.uint8)
        look(argmax, found)
        return not found[0]

    return fits


def prepare_max_pool_backward(window, outer, inner, dtype):
    fits = prepare_argmax_fits(window, outer, inner, window.argmax_dtype)
    send = runner(call_of(plan.max_pool_backward(window, outer, inner, dtype)))

    def run(dy, argmax, dx):
        if not fits(argmax):
            return False
        send(dy, argmax, dx)
        return True

    return run


def max_unpool(y, indices, x):
    (outer, *windows, inner), cells = y.shape, x.shape[1:4]
    launch(_max_unpool(outer, int(np.prod(windows)), int(np.prod(cells)), inner, x.dtype), y, indices, x)


def _column_steps(cols):
    """The columns flat as they lie in memory, and how far apart images, channels, taps and positions are there."""
    in_memory, steps = _axes_in_memory(cols.strides, cols.itemsize)
    return cols.transpose(in_memory).reshape(-1), steps


@lru_cache(maxsize=1024)
def _axes_in_memory(strides, itemsize):
    return sorted(range(len(strides)), key=lambda axis: -strides[axis]), tuple(s // itemsize for s in strides)


# Columns of more bytes do not stay in the last cache: they are written past it, unless their pages have just been made
# and so lie in it.
LARGE = 1 << 25


def im2col(x, window, fill_value, cols, *, fresh=True):
    bits = int(np.array([fill_value], cols.dtype).view(f"u{cols.itemsize}")[0])
    flat, steps = _column_steps(cols)
    launch(_im2col(window, x.shape[4] > 1, steps, cols.itemsize, bits, cols.nbytes > LARGE and not fresh), x, flat)


def col2im(cols, window, dx):
    flat, steps = _column_steps(cols)
    launch(_col2im(window, dx.shape[4] > 1, steps, dx.dtype), flat, dx)


def _prepare_activation(op, dtype, size):
    return runner(call_of(plan.activation(op, dtype, size)))


def _prepare_activation_with_beta(op, dtype, size):
    def run(*arguments):
        *arrays, beta, result = arguments
        launch(_activation(op, dtype, size, beta), *arrays, result)

    return run


prepare_hard_swish = partial(_prepare_activation, "hard_swish")
prepare_hard_swish_backward = partial(_prepare_activation, "hard_swish_backward")
prepare_swish = partial(_prepare_activation_with_beta, "swish")
prepare_swish_backward = partial(_prepare_activation_with_beta, "swish_backward")


def max_pool(x, window, y, argmax):
    prepare_max_pool(window, x.shape[0], x.shape[4], x.dtype, argmax is not None)(x, y, argmax)


def max_pool_backward(dy, argmax, window, dx):
    prepare_max_pool_backward(window, dx.shape[0], dx.shape[4], dx.dtype)(dy, argmax, dx)


def argmax_fits(argmax, window):
    return prepare_argmax_fits(window, argmax.shape[0], argmax.shape[4], argmax.dtype)(argmax)


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
    """All usual kernels, or those of float32 and uint8 with an argmax of bytes."""
    calls = plan.usual_calls() if everything else plan.usual_calls(plan.FIRST, ("u1",))
    return list(dict.fromkeys(map(kernel_name, calls)))


def compile_by_name(name):
    """Have a kernel compiled and kept that was not built with the package; its name."""
    library.find(name)
    return name
