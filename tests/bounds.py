"""Kernels on arrays next to inaccessible memory: python bounds.py [SEED] [PROBLEMS].

Each array, and in every second problem the scratch of each kernel, is adjacent to an inaccessible page, so that an
access outside it ends the process; the problem printed last caused it. In every second problem the work items of a call
are run in pieces, the last piece first, so that a write of one piece into the next is not overwritten and is detected.
"""

import ctypes
import faulthandler
import mmap
import sys
from itertools import pairwise

import numpy as np
from specimens import AVERAGES, AVERAGES_BACKWARD, POOLS_BACKWARD, values

import fastpool as fp
from fastpool import calls
from fastpool.backends.numba import binding, tuning
from fastpool.backends.numba.launching import runner
from fastpool.column_plans import ORDERS

PAGE = mmap.PAGESIZE
DTYPES = tuple(map(np.dtype, ("f4", "u1", "f2", "f8")))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def flush(shape, dtype, end, content=None):
    """An array between two inaccessible pages, adjacent to the later one or else to the earlier."""
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape)) * dtype.itemsize
    size = -(-nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (address, address + PAGE + size):
        if _libc.mprotect(page, PAGE, mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    begin = PAGE + (size - nbytes if end else 0)
    array = np.frombuffer(memory, np.uint8, nbytes, begin).view(dtype).reshape(shape)
    array.view(np.uint8)[...] = 0xA5
    if content is not None:
        array[...] = content
    return array


def last_piece_first(rng):
    def runner(call):
        def run(*arrays):
            cuts = sorted({0, call.items, *rng.integers(0, call.items + 1, 3).tolist()})
            for start, stop in reversed(list(pairwise(cuts))):
                call.run(flush(call.scratch_bytes, "u1", True), start, stop, *arrays)

        return run

    return runner


def small_integers(rng, shape, dtype):
    """Gradients whose sums are exact."""
    return rng.integers(-3, 4, shape).astype(dtype)


def equal(got, expected, **tolerance):
    if got.dtype.kind == "f":
        got, expected = got.astype(np.float64), expected.astype(np.float64)
    if tolerance:
        np.testing.assert_allclose(got, expected, **tolerance)
    else:
        np.testing.assert_array_equal(got, expected)


def a_window(rng, axes):
    """A shape and a window that fits it, of taps from one to more than what is taken tap by tap."""
    many = rng.random() < 0.15
    longest = {1: 300, 2: 70, 3: 20}[axes]
    while True:
        space = [int(n) for n in rng.integers(1, 12, axes)]
        space[-1] = int(rng.integers(1, longest + 1))
        usual = int(rng.integers(1, 6))
        kernel = [usual] * axes if rng.random() < 0.6 else [int(k) for k in rng.integers(1, 10, axes)]
        stride = int(rng.integers(1, 6)) if rng.random() < 0.5 else min(usual, 5)
        if many:
            kernel = [int(k) for k in rng.choice([7, 9, 13], axes)] if axes < 3 else [3, 5, 5]
            if rng.random() < 0.5:
                stride = 1
        padding = [int(p) for p in rng.integers(0, min(kernel) + 1, axes)]
        if rng.random() < 0.4:
            padding = [0] * axes
        dilation = int(rng.choice([1, 1, 1, 2, 3]))
        ceil_mode = bool(rng.random() < 0.2)
        if all(n + 2 * p >= (k - 1) * dilation + 1 for n, p, k in zip(space, padding, kernel, strict=True)):
            break
    window = {
        "kernel_size": tuple(kernel),
        "stride": stride,
        "padding": tuple(padding),
        "dilation": dilation,
        "ceil_mode": ceil_mode,
    }
    return tuple(space), window


def pool_problem(rng, end, dtype, fixed=None):
    axes = int(rng.choice([1, 2, 2, 2, 3]))
    space, window = fixed or a_window(rng, axes)
    axes = len(space)
    layout = str(rng.choice(["channels_first", "channels_last"]))
    n, c = int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 5, 16, 17, 33]) if layout == "channels_last" else 2)
    shape = (n, c, *space) if layout == "channels_first" else (n, *space, c)
    window = {**window, "data_format": layout}
    yield f"pool {shape} {window}"
    x = flush(shape, dtype, end, values(shape, dtype, int(rng.integers(1 << 30))))
    extreme = str(rng.choice(["max", "max", "min"]))
    pool, returning = getattr(fp, f"{extreme}_pool{axes}d"), {f"return_arg{extreme}": True}
    expected, expected_argmax = pool(x, **window, **returning, backend="numpy")
    y, argmax = flush(expected.shape, dtype, end), flush(expected_argmax.shape, expected_argmax.dtype, end)
    pool(x, **window, out=y, backend="numba")
    equal(y, expected)
    y[...] = 0
    pool(x, **window, **returning, out=(y, argmax), backend="numba")
    equal(y, expected)
    equal(argmax, expected_argmax)
    if dtype.kind == "f":
        dy = flush(y.shape, dtype, end, small_integers(rng, y.shape, dtype))
        dx = flush(shape, dtype, end)
        POOLS_BACKWARD[axes](dy, argmax, shape, **window, out=dx, backend="numba")
        equal(dx, POOLS_BACKWARD[axes](dy, argmax, shape, **window, backend="numpy"))


def tables_problem(rng, end, dtype):
    """Adaptive and fractional pools, which read tables."""
    axes = int(rng.choice([1, 2, 3]))
    space = tuple(map(int, rng.integers(1, {1: 90, 2: 24, 3: 9}[axes], axes)))
    out = tuple(int(rng.integers(1, n + 3)) for n in space)
    layout = str(rng.choice(["channels_first", "channels_last"]))
    c = int(rng.choice([1, 2, 5, 17]))
    shape = (2, c, *space) if layout == "channels_first" else (2, *space, c)
    yield f"adaptive pool {shape} to {out} {layout}"
    x = flush(shape, dtype, end, values(shape, dtype, int(rng.integers(1 << 30))))
    for op in ("max", "avg") if dtype.kind == "f" else ("max",):
        pool, returning = getattr(fp, f"adaptive_{op}_pool{axes}d"), {"return_indices": True} if op == "max" else {}
        if op == "avg":
            x[...] = small_integers(rng, shape, dtype)
        expected = pool(x, out, data_format=layout, **returning, backend="naive")
        results = expected if op == "max" else (expected,)
        outs = tuple(flush(each.shape, each.dtype, end) for each in results)
        pool(x, out, data_format=layout, **returning, out=outs if op == "max" else outs[0], backend="numba")
        for got, each in zip(outs, results, strict=True):
            np.testing.assert_allclose(
                got.astype(float), each.astype(float), rtol=1e-2 if dtype.itemsize == 2 else 1e-5
            )
    if axes > 1 and min(space) > 2:
        kernel, few = (2,) * axes, tuple(max(n - 2, 1) for n in space)
        samples = flush((2, c, axes), "f4", end, rng.random((2, c, axes)))
        pool = getattr(fp, f"fractional_max_pool{axes}d")
        arguments = {"output_size": few, "random_samples": samples, "data_format": layout, "return_indices": True}
        expected = pool(x, kernel, **arguments, backend="naive")
        outs = tuple(flush(each.shape, each.dtype, end) for each in expected)
        pool(x, kernel, **arguments, out=outs, backend="numba")
        for got, each in zip(outs, expected, strict=True):
            equal(got, each)


def average_problem(rng, end, dtype, fixed=None):
    dtype = dtype if dtype.kind == "f" else np.dtype("f4")
    space, window = fixed or a_window(rng, int(rng.choice([1, 2, 2, 2, 3])))
    axes = len(space)
    window = {name: value for name, value in window.items() if name != "dilation"}
    if rng.random() < 0.2:
        window = {**window, "kernel_size": space}  # all of each row, or of the plane
    layout = str(rng.choice(["channels_first", "channels_last"]))
    n, c = int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 5, 16, 17, 33, 100]) if layout == "channels_last" else 2)
    shape = (n, c, *space) if layout == "channels_first" else (n, *space, c)
    window = {**window, "data_format": layout, "count_include_pad": bool(rng.random() < 0.5)}
    # Mostly in many blocks and chunks, which otherwise only large arrays have.
    tuning.TILE, tuning.MOST_SUMS_OF_A_ROW = int(rng.choice([1, 70, 500, 4096])), int(rng.choice([1, 300, 1 << 16]))
    yield f"average {shape} {window}"
    x = flush(shape, dtype, end, small_integers(rng, shape, dtype))
    eps = 8 * float(np.finfo(dtype).eps)
    expected = AVERAGES[axes](x, **window, backend="numpy")
    y = flush(expected.shape, dtype, end)
    AVERAGES[axes](x, **window, out=y, backend="numba")
    equal(y, expected, rtol=eps, atol=eps)
    dy, dx = flush(y.shape, dtype, end, small_integers(rng, y.shape, dtype)), flush(shape, dtype, end)
    AVERAGES_BACKWARD[axes](dy, shape, **window, out=dx, backend="numba")
    equal(dx, AVERAGES_BACKWARD[axes](dy, shape, **window, backend="numpy"), rtol=eps, atol=eps)
    tuning.TILE, tuning.MOST_SUMS_OF_A_ROW = 4096, 1 << 16


def maxout_problem(rng, end, dtype):
    units, pieces = (int(n) for n in rng.integers(1, 20, 2))
    shape = [int(n) for n in rng.integers(1, 12, rng.integers(1, 4))]
    axis = int(rng.integers(len(shape)))
    shape[axis] = units * pieces
    shape, plan = tuple(shape), {"axis": axis, "grouping": str(rng.choice(["strided", "contiguous"]))}
    yield f"maxout {shape} {units} {plan}"
    x = flush(shape, dtype, end, values(shape, dtype, int(rng.integers(1 << 30))))
    expected, expected_argmax = fp.maxout(x, units, **plan, return_argmax=True, backend="numpy")
    y, argmax = flush(expected.shape, dtype, end), flush(expected_argmax.shape, expected_argmax.dtype, end)
    fp.maxout(x, units, **plan, out=y, backend="numba")
    equal(y, expected)
    y[...] = 0
    fp.maxout(x, units, **plan, return_argmax=True, out=(y, argmax), backend="numba")
    equal(y, expected)
    equal(argmax, expected_argmax)
    if dtype.kind == "f":
        dy = flush(y.shape, dtype, end, small_integers(rng, y.shape, dtype))
        dx = flush(shape, dtype, end)
        fp.maxout_backward(dy, argmax, shape, **plan, out=dx, backend="numba")
        equal(dx, fp.maxout_backward(dy, argmax, shape, **plan, backend="numpy"))


def columns_problem(rng, end, dtype):
    axes = int(rng.choice([1, 2, 2, 3]))
    space, window = a_window(rng, axes)
    del window["ceil_mode"]
    # Mostly in many blocks and with stores that bypass the caches, which otherwise only large arrays use.
    tuning.MOST_COLUMNS_PACKED = int(rng.choice([1, 60, 500, 1 << 15]))
    tuning.LARGE_COLUMNS = int(rng.choice([0, 1 << 25]))
    calls.forget_plans()
    layout = str(rng.choice(["channels_first", "channels_last"]))
    shape = (2, 3, *space) if layout == "channels_first" else (2, *space, 3)
    window |= {"data_format": layout, "order": str(rng.choice(ORDERS))}
    yield f"columns {shape} {window}"
    x = flush(shape, dtype, end, small_integers(rng, shape, dtype))
    expected = fp.im2col(x, **window, backend="numpy")
    cols = flush(expected.shape, dtype, end)
    fp.im2col(x, **window, out=cols, backend="numba")
    equal(cols, expected)
    dx = flush(shape, dtype, end)
    fp.col2im(cols, shape, **window, out=dx, backend="numba")
    equal(dx, fp.col2im(cols, shape, **window, backend="numpy"))


def activation_problem(rng, end, dtype):
    dtype = dtype if dtype.kind == "f" else np.dtype("f4")
    shape = (int(rng.integers(1, 200)),)
    yield f"activation {shape} {dtype}"
    x = flush(shape, dtype, end, rng.normal(0, 4, shape))
    dy = flush(shape, dtype, end, rng.normal(0, 1, shape))
    y, eps = flush(shape, dtype, end), 16 * float(np.finfo(dtype).eps)
    for op, inputs in (
        (fp.hard_swish, (x,)),
        (fp.hard_swish_backward, (dy, x)),
        (fp.swish, (x,)),
        (fp.swish_backward, (dy, x)),
    ):
        op(*inputs, out=y, backend="numba")
        equal(y, op(*inputs, backend="numpy"), rtol=eps, atol=eps)


# Windows that random draws may miss: many taps, wider than the vectors of a row, far into the padding.
CERTAIN = [
    ((33, 33), {"kernel_size": 13, "stride": 1, "padding": 6}),
    ((33, 33), {"kernel_size": 13, "stride": 1}),
    ((13, 33), {"kernel_size": 13, "stride": 4, "padding": 6}),
    ((33,), {"kernel_size": 33, "stride": 1, "padding": 16}),
    ((5, 5003), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((3, 4100), {"kernel_size": (2, 5), "stride": 1}),
    ((2, 3, 33), {"kernel_size": (2, 3, 13), "stride": 1, "padding": (1, 1, 6)}),
    ((8, 64), {"kernel_size": 8}),
    ((8, 67), {"kernel_size": 4, "stride": 4}),
    ((1, 1), {"kernel_size": 3, "stride": 1, "padding": 4}),
    ((300, 2), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((20, 530), {"kernel_size": 9, "stride": 1, "padding": 4}),
    ((21, 1030), {"kernel_size": (9, 5), "stride": (1, 2)}),
    ((1, 2, 13), {"kernel_size": 1, "stride": 1, "padding": 1}),
]


def run_by(runner):
    """Let calls be run by what this makes of them, and forget those that are planned already."""
    binding.runner = runner
    calls.forget_plans()


def problems(rng, count):
    makers = [pool_problem] * 6 + [average_problem] * 3 + [maxout_problem] * 2
    makers += [tables_problem, columns_problem, activation_problem]
    for end in (True, False):
        for fixed in CERTAIN:
            for dtype in DTYPES:
                yield end, dtype, pool_problem(rng, end, dtype, fixed)
                if dtype.kind == "f":
                    yield end, dtype, average_problem(rng, end, dtype, fixed)
    for _ in range(count):
        end, dtype = bool(rng.random() < 0.7), DTYPES[rng.integers(len(DTYPES))]
        yield end, dtype, makers[rng.integers(len(makers))](rng, end, dtype)


def main(seed=0, count=400):
    faulthandler.enable()
    rng, done = np.random.default_rng(seed), 0
    for end, dtype, problem in problems(rng, count):
        run_by(last_piece_first(rng) if done % 2 else runner)
        where = "end" if end else "start"
        print(done, next(problem), dtype, f"at the {where}", "in pieces" if done % 2 else "", flush=True)
        for _ in problem:
            pass
        done += 1
    print("all right:", done)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
