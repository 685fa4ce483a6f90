"""Properties that hold for every geometry, on random problems of hypothesis."""

from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from specimens import AVERAGES, AVERAGES_BACKWARD, LAYOUTS, POOLS, POOLS_BACKWARD, UNPOOLS, shaped, to_layout, values

import fastpool as fp
from fastpool.column_plans import ORDERS

CONVENTIONS = ("torch", "onnx", "tensorflow", "tensorflow_with_batch", "chainer")

bounded = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
axis = st.fixed_dictionaries(
    {
        "size": st.integers(1, 9),
        "kernel": st.integers(1, 5),
        "stride": st.integers(1, 4),
        "dilation": st.integers(1, 3),
        "before": st.integers(0, 6),
        "after": st.integers(0, 6),
    }
)


def windows_by_definition(a, ceil_mode):
    """Starts of the windows along one axis: all within the padded input; with ceil_mode one more may hang over."""
    starts, start, extent = [], -a["before"], (a["kernel"] - 1) * a["dilation"] + 1
    end = a["size"] + a["after"]
    while (start + extent - a["stride"] < end and start < a["size"]) if ceil_mode else start + extent <= end:
        starts.append(start)
        start += a["stride"]
    return starts


@st.composite
def problems(draw, most_axes=3, least_batch=0):
    axes = draw(st.lists(axis, min_size=1, max_size=most_axes))
    if len(axes) == 3:
        for a in axes:
            a["size"], a["kernel"] = min(a["size"], 5), min(a["kernel"], 3)
    ceil_mode = draw(st.booleans())
    for a in axes:
        if not windows_by_definition(a, ceil_mode):
            a["after"] += (a["kernel"] - 1) * a["dilation"]
    window = {
        "kernel_size": tuple(a["kernel"] for a in axes),
        "stride": tuple(a["stride"] for a in axes),
        "padding": tuple((a["before"], a["after"]) for a in axes),
        "dilation": tuple(a["dilation"] for a in axes),
        "ceil_mode": ceil_mode,
    }
    shape = (draw(st.integers(least_batch, 2)), draw(st.integers(1, 3)), *(a["size"] for a in axes))
    return axes, shape, window, draw(st.sampled_from(LAYOUTS))


@bounded
@given(problem=problems())
def test_windows_are_as_many_as_the_definition_counts(problem):
    axes, shape, window, layout = problem
    counts = tuple(len(windows_by_definition(a, window["ceil_mode"])) for a in axes)
    y = POOLS[len(axes)](to_layout(np.zeros(shape), layout), **window, data_format=layout, backend="numpy")
    assert y.shape == shaped((*shape[:2], *counts), layout)


@settings(bounded, max_examples=40)
@given(problem=problems())
def test_pooling_is_the_maximum_over_each_window_by_definition(backend, problem):
    axes, shape, window, layout = problem
    x = np.random.default_rng(0).permutation(prod(shape)).reshape(shape)
    y = POOLS[len(axes)](to_layout(x, layout), **window, data_format=layout, backend=backend)
    lists = [windows_by_definition(a, window["ceil_mode"]) for a in axes]
    expected = np.full((*shape[:2], *map(len, lists)), np.iinfo(x.dtype).min)
    for position in np.ndindex(expected.shape[2:]):
        window = x
        for i, (a, starts) in enumerate(zip(axes, lists, strict=True)):
            taps = starts[position[i]] + np.arange(a["kernel"]) * a["dilation"]
            window = window.take(taps[(taps >= 0) & (taps < a["size"])], axis=i + 2)
        expected[(..., *position)] = window.max(tuple(range(2, window.ndim)), initial=np.iinfo(x.dtype).min)
    np.testing.assert_array_equal(y, to_layout(expected, layout))


@settings(bounded, max_examples=30)
@given(problem=problems())
def test_the_gradient_of_a_pool_is_the_adjoint_of_its_derivative(backend, problem):
    """<dy, J v> = <J' dy, v>: where no two elements tie, J v picks from v what the pool picks from x."""
    axes, shape, window, layout = problem
    n, rng = len(axes), np.random.default_rng(1)
    x = to_layout(rng.permutation(prod(shape)).astype(np.float64).reshape(shape), layout)
    v = rng.integers(-9, 10, x.shape).astype(np.float64)
    plan = {**window, "data_format": layout, "backend": backend}
    y, argmax = POOLS[n](x, **plan, return_argmax=True)
    dy = rng.integers(-9, 10, y.shape).astype(np.float64)
    lookup = dict(zip(x.ravel(), v.ravel(), strict=True))
    jv = np.array([lookup.get(value, 0.0) for value in y.ravel()])  # padding alone gives -inf, and no gradient
    assert dy.ravel() @ jv == np.vdot(POOLS_BACKWARD[n](dy, argmax, x.shape, **plan), v)


@settings(bounded, max_examples=40)
@given(problem=problems(), include=st.booleans(), override=st.sampled_from([None, 5]))
def test_the_gradient_of_an_average_pool_is_its_adjoint(backend, problem, include, override):
    """<dy, A x> = <A' dy, x>, for A is linear."""
    axes, shape, window, layout = problem
    n, rng = len(axes), np.random.default_rng(3)
    plan = {name: value for name, value in window.items() if name != "dilation"}
    plan |= {"count_include_pad": include, "divisor_override": override, "data_format": layout, "backend": backend}
    x = to_layout(rng.integers(-9, 10, shape).astype(np.float64), layout)
    try:
        y = AVERAGES[n](x, **plan)
        dy = rng.integers(-9, 10, y.shape).astype(np.float64)
        dx = AVERAGES_BACKWARD[n](dy, x.shape, **plan)
    except NotImplementedError as missing:
        pytest.skip(str(missing))
    np.testing.assert_allclose(np.vdot(dy, y), np.vdot(dx, x), rtol=1e-12, atol=1e-10)


@settings(bounded, max_examples=40)
@given(problem=problems(), include=st.booleans())
def test_the_average_is_the_sum_over_the_count_by_definition(backend, problem, include):
    axes, shape, window, layout = problem
    for a in axes:
        a["dilation"] = 1
    x = np.random.default_rng(0).integers(-9, 10, shape).astype(np.float64)
    plan = {name: value for name, value in window.items() if name != "dilation"}
    plan |= {"count_include_pad": include, "data_format": layout, "backend": backend}
    try:
        y = AVERAGES[len(axes)](to_layout(x, layout), **plan)
    except NotImplementedError as missing:
        pytest.skip(str(missing))
    lists = [windows_by_definition(a, window["ceil_mode"]) for a in axes]
    expected = np.zeros((*shape[:2], *map(len, lists)))
    for position in np.ndindex(expected.shape[2:]):
        cells, count = x, 1
        for i, (a, starts) in enumerate(zip(axes, lists, strict=True)):
            taps = starts[position[i]] + np.arange(a["kernel"])
            real = (taps >= 0) & (taps < a["size"])
            cells = cells.take(taps[real], axis=i + 2)
            count *= (taps < a["size"] + a["after"]).sum() if include else real.sum()
        expected[(..., *position)] = cells.sum(tuple(range(2, x.ndim))) / max(count, 1)
    np.testing.assert_allclose(y, to_layout(expected, layout), rtol=1e-14, atol=1e-14)


@settings(bounded, max_examples=30)
@given(
    outer=st.integers(0, 3),
    units=st.integers(1, 5),
    pieces=st.integers(1, 5),
    inner=st.integers(0, 20),
    grouping=st.sampled_from(["strided", "contiguous"]),
)
def test_the_gradient_of_maxout_is_the_adjoint_of_its_derivative(backend, outer, units, pieces, inner, grouping):
    rng = np.random.default_rng(2)
    x = rng.permutation(outer * units * pieces * inner).astype(np.float64).reshape(outer, units * pieces, inner)
    v = rng.integers(-9, 10, x.shape).astype(np.float64)
    plan = {"axis": 1, "grouping": grouping, "backend": backend}
    y, argmax = fp.maxout(x, units, **plan, return_argmax=True)
    dy = rng.integers(-9, 10, y.shape).astype(np.float64)
    jv = v.ravel()[np.argsort(x.ravel())[y.ravel().astype(int)]] if y.size else np.zeros(0)
    assert dy.ravel() @ jv == np.vdot(fp.maxout_backward(dy, argmax, x.shape, **plan), v)


@settings(bounded, max_examples=30)
@given(problem=problems(), order=st.sampled_from(ORDERS))
def test_col2im_is_the_adjoint_of_im2col(backend, problem, order):
    _, shape, window, layout = problem
    plan = {k: v for k, v in window.items() if k != "ceil_mode"} | {"data_format": layout, "order": order}
    try:
        fp.im2col(to_layout(np.zeros(shape), layout), **plan, backend="numpy")
    except ValueError:  # a window that only fits with ceil_mode
        plan["padding"] = tuple((b, a + 9) for b, a in plan["padding"])
    rng = np.random.default_rng(3)
    x = to_layout(rng.integers(-9, 10, shape).astype(np.float64), layout)
    cols = fp.im2col(x, **plan, backend=backend)
    c = rng.integers(-9, 10, cols.shape).astype(np.float64)
    assert np.vdot(c, cols) == np.vdot(fp.col2im(c, x.shape, **plan, backend=backend), x)


@pytest.mark.parametrize("convention", CONVENTIONS)
@bounded
@given(problem=problems())
def test_indices_of_every_convention_lead_back_to_the_argmax(convention, problem):
    axes, shape, window, layout = problem
    x = to_layout(values(shape, np.int32), layout)
    argmax = POOLS[len(axes)](x, **window, data_format=layout, return_argmax=True, backend="numpy")[1]
    plan = {**window, "data_format": layout, "convention": convention}
    indices = fp.argmax_to_indices(argmax, x.shape, **plan)
    assert indices.dtype == np.int64
    back = fp.indices_to_argmax(indices, x.shape, **plan)
    assert back.dtype == argmax.dtype
    np.testing.assert_array_equal(back, argmax)


@bounded
@given(problem=problems(least_batch=1))
def test_indices_of_every_convention_point_to_the_maximum(problem):
    axes, shape, window, layout = problem
    x = np.random.default_rng(4).permutation(prod(shape)).reshape(shape)
    y, argmax = POOLS[len(axes)](
        to_layout(x, layout), **window, data_format=layout, return_argmax=True, backend="numpy"
    )
    first = (lambda a: a) if layout == "channels_first" else (lambda a: np.moveaxis(a, -1, 1))
    y = first(y)
    n, c = np.ogrid[: shape[0], : shape[1]]
    n, c = (i.reshape(i.shape + (1,) * len(axes)) for i in (n, c))
    planes, images = x.reshape(*shape[:2], -1), np.moveaxis(x, 1, -1).reshape(shape[0], -1)
    found = {
        "torch": lambda i: planes[n, c, i],
        "onnx": lambda i: x.reshape(-1)[i],
        "tensorflow": lambda i: images[n, i],
        "tensorflow_with_batch": lambda i: images.reshape(-1)[i],
    }
    for convention, look_up in found.items():
        indices = fp.argmax_to_indices(
            argmax, shaped(shape, layout), **window, data_format=layout, convention=convention
        )
        indices = first(indices)
        alone = y == np.iinfo(y.dtype).min
        np.testing.assert_array_equal(indices == -1, alone)
        np.testing.assert_array_equal(np.where(alone, y, look_up(indices)), y)


@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(bounded, max_examples=15)
@given(
    kernel=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    counts=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    batch=st.integers(0, 2),
    layout=st.sampled_from(LAYOUTS),
)
def test_pooling_what_was_unpooled_gives_it_back(backend, convention, kernel, counts, batch, layout):
    """On windows that do not overlap, and values above the zeros between them."""
    n, kernel = len(kernel), tuple(kernel)
    shape = shaped((batch, 2, *(k * m for k, m in zip(kernel, counts, strict=False))), layout)
    x = 1 + np.random.default_rng(5).permutation(prod(shape)).reshape(shape)
    y, argmax = POOLS[n](x, kernel, data_format=layout, return_argmax=True, backend=backend)
    plan = {"data_format": layout, "convention": convention}
    indices = fp.argmax_to_indices(argmax, x.shape, kernel, **plan)
    unpooled = UNPOOLS[n](y, indices, kernel, **plan, backend=backend)
    assert unpooled.shape == x.shape
    assert np.count_nonzero(unpooled) == y.size
    again, where = POOLS[n](unpooled, kernel, data_format=layout, return_argmax=True, backend=backend)
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(where, argmax)


THREADED = {
    "2 s2": {"kernel_size": 2},
    "3 s2 p1": {"kernel_size": 3, "stride": 2, "padding": 1},
    "5 s1 p2": {"kernel_size": 5, "stride": 1, "padding": 2},
    "(1,6) s(1,2) d2": {"kernel_size": (1, 6), "stride": (1, 2), "dilation": 2},
}


@pytest.fixture
def threads(request):
    if fp.backends()["numba"].available:
        request.getfixturevalue("tuned")(PARALLEL_BYTES=0)
    yield (2, 3, 7)
    fp.set_num_threads(None)


def same_bits(call, threads):
    fp.set_num_threads(1)
    serial = [a.tobytes() for a in call()]
    for n in threads:
        fp.set_num_threads(n)
        assert [a.tobytes() for a in call()] == serial, f"{n} threads give other bits than 1"
    return True


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 700, 900), (2, 67, 60, 60), (300, 20, 12, 12)], ids=str)
@pytest.mark.parametrize("window", THREADED)
def test_pools_give_the_same_bits_whatever_the_number_of_threads(window, shape, layout, threads):
    x = to_layout(np.random.default_rng(6).standard_normal(shape, np.float32), layout)
    plan = {**THREADED[window], "data_format": layout}

    def call():
        y, argmax = fp.max_pool2d(x, **plan, return_argmax=True)
        return y, argmax, fp.max_pool2d_backward(y, argmax, x.shape, **plan)

    assert same_bits(call, threads)


@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=lambda t: t.__name__)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 700, 900), (2, 67, 60, 60), (300, 20, 12, 12)], ids=str)
@pytest.mark.parametrize("window", THREADED)
def test_averages_are_the_same_bits_whatever_the_number_of_threads(window, shape, layout, dtype, threads):
    x = to_layout(np.random.default_rng(6).standard_normal(shape, np.float32).astype(dtype), layout)
    plan = {name: value for name, value in THREADED[window].items() if name != "dilation"} | {"data_format": layout}

    def call():
        y, mean = fp.avg_pool2d(x, **plan), fp.global_avg_pool(x, data_format=layout)
        return y, mean, fp.avg_pool2d_backward(y, x.shape, **plan)

    assert same_bits(call, threads)


@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=lambda t: t.__name__)
@pytest.mark.parametrize("grouping", ["strided", "contiguous"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 12, 100, 100), 1), ((4000, 120), -1), ((2, 600000), 1)], ids=str)
def test_maxout_gives_the_same_bits_whatever_the_number_of_threads(shape, axis, grouping, dtype, threads):
    x = np.random.default_rng(7).standard_normal(shape, np.float32).astype(dtype)

    def call():
        y, argmax = fp.maxout(x, 4, axis, grouping=grouping, return_argmax=True)
        return y, argmax, fp.maxout_backward(y, argmax, x.shape, axis, grouping=grouping)

    assert same_bits(call, threads)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_columns_and_activations_give_the_same_bits_whatever_the_number_of_threads(layout, order, threads):
    x = to_layout(np.random.default_rng(8).standard_normal((2, 16, 64, 64), np.float32), layout)

    def call():
        cols = fp.im2col(x, 3, padding=1, order=order, data_format=layout)
        back = fp.col2im(cols, x.shape, 3, padding=1, order=order, data_format=layout)
        return cols, back, fp.hard_swish(cols), fp.swish(cols), fp.swish_backward(cols, cols)

    assert same_bits(call, threads)
