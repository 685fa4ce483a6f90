"""Plans: a repeated call reuses the plan of an earlier one, with the same results and errors."""

import threading
from collections import namedtuple
from enum import IntEnum
from importlib import import_module

import ml_dtypes
import numpy as np
import pytest
from specimens import DTYPES, POOLS, values

import fastpool as fp
from fastpool import calls
from fastpool.forms import Result

X = values((2, 3, 6, 8), np.float32)


def pool(x, kernel_size=2, *arguments, **more):
    return fp.max_pool2d(x, kernel_size, *arguments, **more)


def every_other(a):
    """A non-contiguous array of this shape and dtype."""
    return np.empty((*a.shape, 2), a.dtype)[..., 0]


def into_strided_out(call, x, *arguments, **more):
    """The same call with a non-contiguous `out`, which no kernel can fill in place."""
    like = call(np.array(x), *arguments, **{**more, "backend": "naive"})
    out = tuple(map(every_other, like)) if isinstance(like, tuple) else every_other(like)
    return call(x, *arguments, **more, out=out)


def same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_array_equal(a.astype(float), b.astype(float))


@pytest.fixture
def planned(monkeypatch):
    """The list of plans made, starting with an empty cache."""
    made = []

    def spy(key, plan):
        made.append(plan)
        return keep(key, plan)

    keep = calls._keep
    monkeypatch.setattr(calls, "_plans", {})
    monkeypatch.setattr(calls, "_keep", spy)
    return made


SAME_SIGNATURE = {
    "contiguous": lambda: X.copy(),
    "strided": lambda: np.repeat(X, 2, -1)[..., ::2],
    "channels inside": lambda: np.ascontiguousarray(np.moveaxis(X, 1, -1)).transpose(0, 3, 1, 2),
    "byte-swapped": lambda: X.astype(">f4"),
    "bool": lambda: X > 0,
    "a list": lambda: X.tolist(),
}


@pytest.mark.parametrize("name", SAME_SIGNATURE)
def test_a_call_with_the_signature_of_an_earlier_one_is_not_planned_again(name, planned, backend):
    for call, size in ((pool, 2), (fp.maxout, 2), (fp.im2col, 2)):
        planned.clear()
        for _ in range(3):
            call(SAME_SIGNATURE[name](), size, backend=backend)
        assert len(planned) == 1
        call(SAME_SIGNATURE[name]()[:1], size, backend=backend)
        assert len(planned) == 2


def test_gradients_and_results_written_to_arrays_of_the_callers_are_not_planned_again(planned, backend):
    for call, backward in (
        (pool, lambda *a, **k: fp.max_pool2d_backward(*a, 2, **k)),
        (fp.maxout, maxout_backward),
    ):
        planned.clear()
        y, argmax = call(X, 2, return_argmax=True, backend=backend)
        dx = backward(y, argmax, X.shape, backend=backend)
        assert len(planned) == 2
        for strided in (False, True):
            outs = every_other(y) if strided else np.zeros_like(y), np.ones_like(argmax)
            got = call(X, 2, return_argmax=True, out=outs, backend=backend)
            assert all(a is b for a, b in zip(got, outs, strict=True))
            same(outs, (y, argmax))
            one = call(X, 2, return_argmax=True, out=(None, outs[1]), backend=backend)
            assert one[1] is outs[1]
            same(one, (y, argmax))
            out = every_other(X) if strided else np.full_like(X, 7)
            assert backward(y, argmax, X.shape, out=out, backend=backend) is out
            same([out], [dx])
        assert len(planned) == 2


def test_so_many_plans_are_kept_and_no_more(planned, monkeypatch):
    monkeypatch.setattr(calls, "_MOST_PLANS", 5)
    for n in range(2, 30):
        same([fp.max_pool1d(np.arange(n), 2)], [np.arange(n)[1::2]])
        assert len(calls._plans) <= 5
    assert len(planned) == 28


def test_a_beta_needs_no_plan_of_its_own(planned):
    x = np.linspace(-3, 3, 7)
    for beta in (0.5, 1.0, -2.0):
        np.testing.assert_allclose(fp.swish(x, beta), x / (1 + np.exp(-beta * x)))
    assert len(planned) == 1


def test_options_are_checked_where_there_is_nothing_to_do(backend):
    with pytest.raises(ValueError, match="fill_value"):
        fp.im2col(np.zeros((0, 1, 4), np.float32), 2, fill_value=1j, backend=backend)
    if backend != "cython":  # which has no activations
        with pytest.raises(ValueError, match="beta"):
            fp.swish(np.zeros(0, np.float32), 1e300, backend=backend)


def test_a_plan_with_results_of_another_shape_keeps_its_operands_and_the_check_of_its_options():
    """It had one operand for each result instead of each input, and no check."""
    seen = []
    result = Result((2, 2), np.dtype(float))
    for operands in ((None, None), (None, np.negative)):
        plan = calls.Plan(operands, (result,), lambda a, b, y, *options: seen.append((b[0], *options)), int)
        y = plan.reshaped((4,))((np.ones(4), np.ones(4)), None, None, ("7",))
        assert y.shape == (4,)
    assert seen == [(1, 7), (-1, 7)]


def test_a_plan_that_could_not_be_made_is_not_kept(planned):
    for _ in range(2):
        with pytest.raises(ValueError, match="does not fit"):
            fp.max_pool1d(X[0, 0, 0], 100)
    assert not planned


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_pools_give_the_same_as_into_a_strided_out(layout, axes, dtype, backend):
    x = values((2, 3, 4, 6, 5)[: axes + 2], dtype)
    for window in ((2,), (3, 2, 1), (2, 1, 0, 2), (2, None, 0, 1, True), (1,), (3, 1, "same")):
        more = {"data_format": layout, "backend": backend, "return_argmax": True}
        if layout == "channels_last":
            x = values((*(2, 4, 6, 5)[: axes + 1], 3), dtype)
        expected = into_strided_out(POOLS[axes], x, *window, **more)
        for _ in range(2):
            same(POOLS[axes](x, *window, **more), expected)
        more["return_argmax"] = False
        same([POOLS[axes](x, *window, **more)], expected[:1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("grouping", ["strided", "contiguous"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_maxout_gives_the_same_as_into_a_strided_out(axis, grouping, dtype, backend):
    x = values((4, 6, 8), dtype)
    more = {"axis": axis, "grouping": grouping, "backend": backend, "return_argmax": True}
    expected = into_strided_out(fp.maxout, x, 2, **more)
    for _ in range(2):
        same(fp.maxout(x, 2, **more), expected)
    more["return_argmax"] = False
    same([fp.maxout(x, 2, **more)], expected[:1])


READ_ONLY = X.copy()
READ_ONLY.flags.writeable = False
UNALIGNED = np.zeros(X.nbytes + 1, np.uint8)[1:].view(X.dtype).reshape(X.shape)
UNALIGNED[...] = X
ARRAYS = {
    "byte-swapped": X.astype(">f4"),
    "read-only": READ_ONLY,
    "not contiguous": np.repeat(X, 2, -1)[..., ::2],
    "fortran": np.asfortranarray(X),
    "unaligned": UNALIGNED,
    "a list": X.tolist(),
    "bfloat16": X.astype(ml_dtypes.bfloat16),
    "bool": X > 0,
    "long": values(X.shape, "l"),
    "long long": values(X.shape, "q"),
    "a dtype of its own": X.astype(np.dtype(">f4").newbyteorder("=")),
    "no batch": X[:0],
    "one channel": X[:, :1].copy(),
}


@pytest.mark.parametrize("array", ARRAYS)
def test_every_memory_order_gives_the_right_result(array, backend):
    x = ARRAYS[array]
    for call, size in ((pool, 2), (fp.maxout, 2)):
        expected = call(np.array(x), size, return_argmax=True, backend="naive")
        for _ in range(2):
            got = call(x, size, return_argmax=True, backend=backend)
            same(got, expected)
            same([call(x, size, backend=backend)], expected[:1])
            assert all(a.flags.writeable and not np.may_share_memory(a, X) for a in got)


# A wrong argument is still refused after a call with an equal valid one was cached.

REFUSED = {
    "kernel_size True": (lambda x: pool(x, 1), lambda x, **out: pool(x, True, **out)),
    "kernel_size 2.0": (lambda x: pool(x, 2), lambda x, **out: pool(x, 2.0, **out)),
    "kernel_size (True, 2)": (lambda x: pool(x, (1, 2)), lambda x, **out: pool(x, (True, 2), **out)),
    "kernel_size [2.0, 2]": (lambda x: pool(x, [2, 2]), lambda x, **out: pool(x, [2.0, 2], **out)),
    "kernel_size 0": (pool, lambda x, **out: pool(x, 0, **out)),
    "kernel_size too large": (pool, lambda x, **out: pool(x, 99, **out)),
    "kernel_size a word": (pool, lambda x, **out: pool(x, "2", **out)),
    "stride 1.0": (lambda x: pool(x, 2, 1), lambda x, **out: pool(x, 2, 1.0, **out)),
    "stride (1, 1.0)": (lambda x: pool(x, 2, (1, 1)), lambda x, **out: pool(x, 2, (1, 1.0), **out)),
    "stride a tuple of three": (pool, lambda x, **out: pool(x, 2, (1, 1, 1), **out)),
    "padding False": (lambda x: pool(x, 2, 1, 0), lambda x, **out: pool(x, 2, 1, False, **out)),
    "padding a word": (lambda x: pool(x, 2, 1, "same"), lambda x, **out: pool(x, 2, 1, "some", **out)),
    "dilation 1.0": (lambda x: pool(x, 2, 1, 0, 1), lambda x, **out: pool(x, 2, 1, 0, 1.0, **out)),
    "ceil_mode 1.0": (lambda x: pool(x, 2, ceil_mode=True), lambda x, **out: pool(x, 2, ceil_mode=1.0, **out)),
    "data_format": (pool, lambda x, **out: pool(x, 2, data_format="NHWC", **out)),
    "backend": (pool, lambda x, **out: pool(x, 2, backend="torch", **out)),
    "backend a list": (pool, lambda x, **out: pool(x, 2, backend=["numpy"], **out)),
    "complex": (pool, lambda x, **out: pool(x.astype(complex), 2, **out)),
    "object": (pool, lambda x, **out: pool(x.astype(object), 2, **out)),
    "longdouble": (pool, lambda x, **out: pool(x.astype(np.longdouble), 2, **out)),
    "dates": (pool, lambda x, **out: pool(np.zeros(x.shape, "M8[s]"), 2, **out)),
    "masked": (pool, lambda x, **out: pool(np.ma.masked_array(x), 2, **out)),
    "no elements": (pool, lambda x, **out: pool(x[..., :0].copy(), 2, **out)),
    "one axis": (pool, lambda x, **out: pool(x[0, 0, 0].copy(), 2, **out)),
    "maxout num_units True": (lambda x: fp.maxout(x, 1), lambda x, **out: fp.maxout(x, True, **out)),
    "maxout num_units 2.0": (lambda x: fp.maxout(x, 2), lambda x, **out: fp.maxout(x, 2.0, **out)),
    "maxout num_units [2]": (lambda x: fp.maxout(x, 2), lambda x, **out: fp.maxout(x, [2], **out)),
    "maxout num_units 3": (lambda x: fp.maxout(x, 2), lambda x, **out: fp.maxout(x, 3, **out)),
    "maxout num_units 0": (lambda x: fp.maxout(x, 2), lambda x, **out: fp.maxout(x, 0, **out)),
    "maxout axis True": (lambda x: fp.maxout(x, 3, 1), lambda x, **out: fp.maxout(x, 3, True, **out)),
    "maxout axis 1.0": (lambda x: fp.maxout(x, 3, 1), lambda x, **out: fp.maxout(x, 3, 1.0, **out)),
    "maxout axis 4": (lambda x: fp.maxout(x, 2), lambda x, **out: fp.maxout(x, 2, 4, **out)),
    "maxout grouping": (lambda x: fp.maxout(x, 2), lambda x, **out: fp.maxout(x, 2, grouping="loose", **out)),
    "maxout grouping a list": (
        lambda x: fp.maxout(x, 2),
        lambda x, **out: fp.maxout(x, 2, grouping=["strided"], **out),
    ),
    "maxout backend": (lambda x: fp.maxout(x, 2), lambda x, **out: fp.maxout(x, 2, backend="torch", **out)),
    "maxout complex": (lambda x: fp.maxout(x, 2), lambda x, **out: fp.maxout(x.astype(complex), 2, **out)),
    "maxout of no axes": (lambda x: fp.maxout(x, 2), lambda x, **out: fp.maxout(np.array(1.0), 1, **out)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_the_same_at_every_call_and_in_strided_memory(name):
    accepted, refused = REFUSED[name]
    with pytest.raises((TypeError, ValueError)) as usual:
        refused(np.repeat(X, 2, -1)[..., ::2], out=np.empty(0))
    for _ in range(2):
        accepted(X)
        with pytest.raises((TypeError, ValueError)) as looked_up:
            refused(X)
        assert type(looked_up.value) is type(usual.value)
        assert str(looked_up.value) == str(usual.value)
        assert not str(looked_up.value).startswith("out must")


# A plan is looked up by the current values of the arguments, not by equality or earlier values.


class Changing:
    """An index whose value changes with each use."""

    def __init__(self, *values):
        self.values = iter(values)

    def __index__(self):
        return next(self.values)

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0


class Word(str):
    """A string that equals any other."""

    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


class Two(IntEnum):
    TWO = 2


Pair = namedtuple("Pair", "height, width")


@pytest.mark.parametrize("where", ["kernel_size", "stride", "padding", "dilation"])
def test_an_index_that_changes_is_read_at_every_call(where, backend):
    arguments = {"kernel_size": 3, "stride": 1, "padding": 2, "dilation": 1}
    index = Changing(1, 2)
    for value in (1, 2):
        expected = pool(X, **{**arguments, where: value}, backend=backend)
        same([pool(X, **{**arguments, where: index}, backend=backend)], [expected])


def test_maxout_reads_an_index_that_changes_at_every_call(backend):
    units, axis = Changing(1, 2), Changing(3, 2)
    for number, along in ((1, 3), (2, 2)):
        same([fp.maxout(X, units, axis, backend=backend)], [fp.maxout(X, number, along, backend=backend)])


def test_an_array_or_a_list_that_changes_is_read_at_every_call(backend):
    for size in (np.array([1, 1]), [1, 1]):
        for number in (1, 2):
            size[0] = number
            same([pool(X, size, backend=backend)], [pool(X, (number, 1), backend=backend)])


def test_what_equals_an_integer_in_a_tuple_of_any_kind_is_refused_after_the_integer_too(backend):
    for pair in (tuple, Pair._make):
        same([pool(X, pair((2, 2)), backend=backend)], [pool(X, 2, backend=backend)])
        for wrong in ((2.0, 2), (2, np.float32(2)), (True, 2)):
            with pytest.raises(TypeError, match="kernel_size must be an integer, got"):
                pool(X, pair(wrong), backend=backend)


def test_integers_of_any_kind_are_integers(backend):
    expected = pool(X, 2, backend=backend), fp.maxout(X, 2, 1 + 2, backend=backend)
    for two in (Two.TWO, np.int8(2), np.uint64(2), np.array(2)):
        same((pool(X, two, backend=backend), fp.maxout(X, two, backend=backend)), expected)
        same([pool(X, (two, 2), backend=backend)], expected[:1])


def test_a_word_that_equals_another_is_what_it_spells(backend):
    first, last = (pool(X, 2, data_format=layout, backend=backend) for layout in ("channels_first", "channels_last"))
    same([pool(X, 2, data_format=Word("channels_last"), backend=Word(backend))], [last])
    same([pool(X, 2, data_format=Word("channels_first"), backend=backend)], [first])
    contiguous = fp.maxout(X, 2, grouping="contiguous", backend=backend)
    same([fp.maxout(X, 2, grouping=Word("contiguous"), backend=backend)], [contiguous])
    for wrong in ({"data_format": Word("NHWC")}, {"padding": Word("some")}, {"backend": Word("torch")}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            pool(X, 2, **{"backend": backend, **wrong})


def test_the_metadata_of_a_dtype_does_not_reach_a_result(backend):
    """Equal dtypes share one plan."""
    marked = np.dtype(np.float32, metadata={"unit": "of somebody else"})
    shape = (1, 2, 5, 7)  # unique among the tests, so that the marked dtype is seen first
    for dtype in (marked, np.float32, marked.newbyteorder("S")):
        x = values(shape, np.float32).astype(dtype)
        y, argmax = pool(x, return_argmax=True, backend=backend)
        z, piece = fp.maxout(x, 1, return_argmax=True, backend=backend)
        dy = np.ones(y.shape, np.float32).astype(dtype)
        results = [y, z, fp.max_pool2d_backward(dy, argmax, shape, 2, backend=backend)]
        results.append(fp.maxout_backward(z.astype(dtype), piece, shape, backend=backend))
        results += [fp.im2col(x, 2, backend=backend), fp.global_max_pool(x, backend=backend)]
        results.append(fp.max_unpool2d(y, np.zeros(y.shape, int), 2, output_shape=shape, backend="numpy"))
        results += [fp.hard_swish(x, backend="numpy"), fp.swish_backward(np.ones_like(x), x, backend="numpy")]
        assert all(r.dtype == np.float32 and r.dtype.metadata is None for r in results)


@pytest.mark.parametrize("call", [pool, lambda x, **more: fp.maxout(x, 2, **more)], ids=["pool", "maxout"])
def test_every_call_gives_an_array_of_its_own(call, backend):
    x = values((2, 3, 6, 8), np.float32, seed=5)
    y, argmax = call(x, return_argmax=True, backend=backend)
    kept = y.copy(), argmax.copy()
    again = call(x, return_argmax=True, backend=backend)
    for a, b in zip((y, argmax), again, strict=True):
        assert not np.shares_memory(a, b)
        assert not np.shares_memory(a, x)
        b[...] = 1
    call(x + 1, return_argmax=True, backend=backend)
    same((y, argmax), kept)


def test_threads_looking_up_the_same_plan_do_not_meet(backend):
    xs = [values((1, 2, 6, 8), np.float32, seed) for seed in range(4)]
    expected = [fp.max_pool2d(x, 2, backend="numpy") for x in xs]
    wrong = []

    def loop(x, y):
        for _ in range(50):
            if not np.array_equal(fp.max_pool2d(x, 2, backend=backend), y, equal_nan=True):
                wrong.append(x)

    threads = [threading.Thread(target=loop, args=pair) for pair in zip(xs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("call", [pool, lambda x, **more: fp.maxout(x, 2, **more)], ids=["pool", "maxout"])
def test_the_backend_is_the_one_that_is_asked_for(call, monkeypatch):
    """Also after the default was cached, and in a thread without a cached default."""
    taken = []

    def spy(name):
        usual = import_module(f"fastpool.backends.{name}").max_pool
        monkeypatch.setattr(f"fastpool.backends.{name}.max_pool", lambda *a: taken.append(name) or usual(*a))

    monkeypatch.setattr(calls, "_plans", {})
    spy("numpy"), spy("naive")
    for _ in range(2):
        with fp.use_backend("numpy"):
            call(X)
            with fp.use_backend("naive"):
                call(X)
            call(X, backend="naive")
            call(X)
        with fp.use_backend("naive"):
            thread = threading.Thread(target=lambda: call(X, backend="numpy"))
            thread.start()
            thread.join()
            call(X)
        assert taken == ["numpy", "naive", "naive", "numpy", "numpy", "naive"]
        taken.clear()


CALLS = """
import sys
import numpy as np, fastpool as fp
x = np.arange(24.0).reshape(1, 1, 4, 6)
{}
print(fp.max_pool2d(x, 2, {backend}).tolist(), fp.maxout(x, 2, {backend})[0, 0, 0].tolist())
print("fastpool.backends.numba" in sys.modules)
"""
RIGHT = "[[[[7.0, 9.0, 11.0], [19.0, 21.0, 23.0]]]] [4.0, 5.0]\n"


@pytest.mark.parametrize(
    ("before", "argument", "environment"),
    [
        ("", "backend='numpy'", None),
        ("", "", "numpy"),
        ("context = fp.use_backend('numpy'); context.__enter__()", "", None),
        ("context = fp.use_backend('numpy'); context.__enter__()", "", "numba"),
    ],
    ids=["argument", "environment", "context", "context before environment"],
)
def test_with_another_backend_small_arrays_do_not_import_that_of_numba(before, argument, environment, python):
    code = CALLS.replace("{}", before).replace("{backend}", argument)
    assert python("-c", code, FASTPOOL_BACKEND=environment) == RIGHT + "False\n"


@pytest.mark.skipif(not fp.backends()["numba"].available, reason=fp.backends()["numba"].reason or "-")
def test_the_argument_beats_the_environment(python):
    code = CALLS.replace("{}", "").replace("{backend}", "backend='numba'")
    assert python("-c", code, FASTPOOL_BACKEND="numpy") == RIGHT + "True\n"


def test_plans_are_kept_apart_by_all_that_they_depend_on(backend, monkeypatch):
    """Arrays of one shape in any order of dtypes, layouts and axes, compared with calls that find no earlier plan."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        shape = [(4, 6, 8), (2, 4, 6, 8), (8, 6, 4)][rng.integers(3)]
        x = values(shape, DTYPES[rng.integers(len(DTYPES))])
        axes = int(rng.integers(2, 4) if len(shape) == 4 else rng.integers(1, 4))
        more = {"data_format": ("channels_first", "channels_last")[rng.integers(2)], "return_argmax": True}
        window = [(2,), (2, 1), (2, 2, 1), (3, 1, 1), (2, None, 0, 1, True)][rng.integers(5)]
        with monkeypatch.context() as without_plans:
            without_plans.setattr(calls, "_plans", {})
            expected = POOLS[axes](x, *window, **more, backend="numpy")
        same(POOLS[axes](x, *window, **more, backend=backend), expected)


# The gradient


def gradients(call, backward, x, out=None, **more):
    """dy, argmax and dx of a call, the latter written to `out` if there is one."""
    y, argmax = call(x, return_argmax=True, **more)
    dy = values(y.shape, x.dtype, seed=3)
    return dy, argmax, backward(dy, argmax, x.shape, out=out, **more)


def pool_backward(dy, argmax, x_shape, **more):
    return fp.max_pool2d_backward(dy, argmax, x_shape, 3, 2, 1, **more)


def maxout_backward(dy, argmax, x_shape, **more):
    return fp.maxout_backward(dy, argmax, x_shape, **more)


GRADIENTS = {
    "pool": (lambda x, **more: fp.max_pool2d(x, 3, 2, 1, **more), pool_backward),
    "maxout": (lambda x, **more: fp.maxout(x, 2, **more), maxout_backward),
}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64], ids=str)
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_the_same_as_into_a_strided_out(name, dtype, backend):
    x = values((2, 3, 6, 8), dtype)
    _, _, expected = gradients(*GRADIENTS[name], x, out=every_other(x), backend=backend)
    for _ in range(2):
        same([gradients(*GRADIENTS[name], x, backend=backend)[2]], [expected])


@pytest.mark.parametrize("name", GRADIENTS)
def test_invalid_gradients_are_refused_as_into_a_strided_out(name, backend):
    call, backward = GRADIENTS[name]
    dy, argmax, _ = gradients(call, backward, X, backend=backend)
    wrong = {
        "an offset too large": (dy, argmax + np.uint8(200), X.shape),
        "an argmax of another dtype": (dy, argmax.astype(np.uint16), X.shape),
        "an argmax of another shape": (dy, argmax[:1], X.shape),
        "a dy of another shape": (dy[:1], argmax, X.shape),
        "another x_shape": (dy, argmax, (2, 4, 6, 8)),
        "an x_shape of floats": (dy, argmax, tuple(map(float, X.shape))),
        "an x_shape below 0": (dy, argmax, (-2, 3, 6, 8)),
        "an x_shape with True": (dy[:1], argmax[:1], (True, 3, 6, 8)),
        "a dy of integers": (np.ones(dy.shape, int), argmax, X.shape),
    }
    for arguments in wrong.values():
        with pytest.raises((TypeError, ValueError)) as usual:
            backward(*arguments, out=every_other(X), backend=backend)
        for _ in range(2):
            with pytest.raises((TypeError, ValueError)) as looked_up:
                backward(*arguments, backend=backend)
            assert (type(looked_up.value), str(looked_up.value)) == (type(usual.value), str(usual.value))


@pytest.mark.skipif(not fp.backends()["numba"].available, reason=fp.backends()["numba"].reason or "-")
def test_an_argmax_of_padding_is_refused():
    """In every corner, because checks cover whole planes, rows or channels at once."""
    for shape, window in (((1, 2, 6, 8), (3, 1, 1)), ((1, 1, 70, 80), (5, 1, 2)), ((1, 2, 9, 9), (7, 2, 3))):
        x = values(shape, np.float32)
        y, argmax = fp.max_pool2d(x, *window, return_argmax=True)
        fp.max_pool2d_backward(y, argmax, shape, *window, backend="numba")
        for at, offset in (((0, 0), 0), ((0, -1), window[0] - 1), ((-1, 0), 0), ((-1, -1), window[0] ** 2 - 1)):
            wrong = argmax.copy()
            wrong[(..., *at)] = offset
            with pytest.raises(ValueError, match="padding"):
                fp.max_pool2d_backward(y, wrong, shape, *window, backend="numba")
            last = np.moveaxis(wrong, 1, -1).copy()
            with pytest.raises(ValueError, match="padding"):
                fp.max_pool2d_backward(
                    np.moveaxis(y, 1, -1).copy(),
                    last,
                    (shape[0], *shape[2:], shape[1]),
                    *window,
                    data_format="channels_last",
                    backend="numba",
                )


def test_the_memory_order_of_a_result_follows_from_the_call_alone(monkeypatch):
    """Contiguous arrays whose axes of size 1 have other strides share a plan, whichever of them came first."""
    rows, channels = np.zeros((2, 3, 1, 1)), np.zeros((2, 1, 1, 3)).transpose(0, 3, 1, 2)
    assert rows.flags.carray
    assert channels.flags.carray
    assert rows.strides != channels.strides
    for first, second in ((rows, channels), (channels, rows)):
        monkeypatch.setattr(calls, "_plans", {})
        for x in (first, second):
            assert fp.max_pool2d(x, 2, 1, 1).strides == np.empty((2, 3, 2, 2)).strides
