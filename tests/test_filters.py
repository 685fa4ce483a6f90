"""Sliding filters: the values of SciPy's and Bottleneck's, and of loops that read like the definition."""

import re
from itertools import product
from math import prod

import ml_dtypes
import numpy as np
import pytest
from specimens import DTYPES, FLOATS, has, values

import fastpool as fp
from fastpool import running_extremes
from fastpool.backends import kernel
from fastpool.borders import MODES
from fastpool.footprints import runs

FILTERS = {"maximum": fp.maximum_filter, "minimum": fp.minimum_filter}
EXTREMES = {"maximum": max, "minimum": min}
MOVING = {"max": fp.moving_max, "min": fp.moving_min}
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
RNG = np.random.default_rng(0)


def element(mode, i, n):
    """The element of an axis of n that stands at index i, which is None for the constant."""
    while not 0 <= i < n:
        if "constant" in mode:
            return None
        if mode == "nearest":
            i = 0 if i < 0 else n - 1
        elif "wrap" in mode:
            i += n if i < 0 else -n
        elif mode == "mirror" and n > 1:
            i = -i if i < 0 else 2 * (n - 1) - i
        else:
            i = -i - 1 if i < 0 else 2 * n - 1 - i
    return i


def by_loops(extreme, x, footprint, modes, cval, origins):
    """The definition; NaN wins."""
    y = np.empty_like(x)
    for place in np.ndindex(x.shape):
        found = []
        for tap in np.argwhere(footprint):
            middle = [k // 2 + o for k, o in zip(footprint.shape, origins, strict=True)]
            cell = [
                element(mode, int(p + t - m), n)
                for mode, p, t, m, n in zip(modes, place, tap, middle, x.shape, strict=True)
            ]
            found.append(cval if None in cell else x[tuple(cell)])
        y[place] = next((v for v in found if v != v), extreme(found))
    return y


def random_call(rng, largest=7):
    """An array of one to four axes, with the arguments of a filter of its axes or of some."""
    ndim = int(rng.integers(1, 5))
    shape = rng.integers(1, 9, ndim)
    x = rng.integers(-50, 50, shape).astype(rng.choice(["i1", "u2", "i4", "f4", "f8", "?"]))
    if rng.random() < 0.3:
        x = x.transpose(rng.permutation(ndim))
    if rng.random() < 0.2:
        x = np.repeat(x, 2, -1)[..., ::-2]
    axes = list(range(ndim))
    if rng.random() < 0.4:
        axes = sorted(rng.choice(ndim, rng.integers(1, ndim + 1), replace=False).tolist())
    sides = [int(rng.integers(1, min(largest, 2 * x.shape[axis]) + 1)) for axis in axes]
    call = {
        "cval": float(rng.integers(0, 2)),
        "origin": [int(rng.integers(-(k // 2), k - k // 2)) if rng.random() < 0.5 else 0 for k in sides],
        "axes": None if len(axes) == ndim else axes,
    }
    if rng.random() < 0.5:
        call["size"] = sides
        call["mode"] = [str(rng.choice(list(MODES))) for _ in axes]
    else:
        call["footprint"] = rng.random(sides) < 0.5
        call["footprint"].flat[rng.integers(call["footprint"].size)] = True
        call["mode"] = str(rng.choice(list(MODES)))
    return x, call


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("seed", range(8))
def test_the_values_are_scipys(seed, name):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(seed)
    for _ in range(60):
        x, call = random_call(rng)
        expected = getattr(ndimage, f"{name}_filter")(x, **call)
        y = FILTERS[name](x, **call)
        assert y.dtype == expected.dtype
        np.testing.assert_array_equal(y, expected, str((x.shape, x.strides, call)))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("mode", MODES)
def test_windows_may_be_many_times_as_long_as_the_axes(mode, name):
    for n, k in product((1, 2, 3), (1, 2, 4, 5, 6, 7, 12, 19)):
        x = RNG.integers(0, 100, (n, 2))
        for origin in range(-(k // 2), k - k // 2):
            footprint = RNG.random((k, 3)) < 0.6
            footprint[k // 2, 1] = True
            for taps in (footprint, np.ones((k, 3), bool)):
                y = FILTERS[name](x, footprint=taps, mode=mode, cval=7, origin=(origin, 0))
                expected = by_loops(EXTREMES[name], x, taps, (mode, mode), 7, (origin, 0))
                np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_every_dtype_with_extremes_and_nan(mode, dtype, name):
    x = values((5, 7), dtype)
    for footprint in (np.ones((3, 2), bool), CROSS, np.array([[1, 0, 0, 1]], bool)):
        y = FILTERS[name](x, footprint=footprint, mode=mode, cval=1)
        assert y.dtype == dtype
        expected = by_loops(EXTREMES[name], x, footprint, (mode, mode), dtype.type(1), (0, 0))
        np.testing.assert_array_equal(y.astype(float), expected.astype(float))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_nan_propagates_of_either_sign_and_as_cval(dtype, name):
    x = np.zeros((9, 9), dtype)
    x[2, 2], x[6, 6] = np.nan, -np.array(np.nan, dtype)
    holds_nan = np.zeros(x.shape, bool)
    holds_nan[2, 2] = holds_nan[6, 6] = True
    for footprint in (CROSS, np.ones((3, 3), bool)):
        y = FILTERS[name](x, footprint=footprint)
        np.testing.assert_array_equal(np.isnan(y), fp.maximum_filter(holds_nan, footprint=footprint))
        y = FILTERS[name](np.zeros((3, 3), dtype), footprint=footprint, mode="constant", cval=float("nan"))
        np.testing.assert_array_equal(np.isnan(y), [[True] * 3, [True, False, True], [True] * 3])


def signalling(dtype):
    """Zeros with two signalling NaNs, one of either sign."""
    bits = {"float16": 0x7C01, "bfloat16": 0x7F81, "float32": 0x7F800001, "float64": 0x7FF0000000000001}[dtype.name]
    x = np.zeros(9, f"u{dtype.itemsize}")
    x[2], x[6] = bits, bits | 1 << (8 * dtype.itemsize - 1)
    return x.view(dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_signalling_nans_warn_of_nothing(dtype, backend):
    if not has(backend, "run_passes"):
        pytest.skip(f"the backend {backend} has no run_passes")
    x, near = signalling(dtype), [0, 1, 1, 1, 0, 1, 1, 1, 0]
    results = [
        (fp.maximum_filter(x, footprint=[1, 1, 1], backend=backend), near),
        (fp.maximum_filter(x, footprint=[1, 0, 1], backend=backend), [0, 1, 0, 1, 0, 1, 0, 1, 0]),
        (fp.moving_max(x, 1, backend=backend), [0, 0, 1, 0, 0, 0, 1, 0, 0]),
        (fp.adaptive_max_pool1d(x, 5, backend=backend), [0, 1, 0, 1, 0]),
    ]
    with np.errstate(invalid="ignore"):
        for y, expected in results:
            np.testing.assert_array_equal(np.isnan(y), np.array(expected, bool))


def test_integers_of_64_bits_are_compared_exactly():
    x = np.array([2**63 - 2, 2**63 - 1, 2**63 - 3])
    np.testing.assert_array_equal(fp.minimum_filter(x, 3), [2**63 - 2, 2**63 - 3, 2**63 - 3])
    np.testing.assert_array_equal(fp.minimum_filter(x, footprint=[1, 0, 1]), [2**63 - 2, 2**63 - 3, 2**63 - 3])


@pytest.mark.parametrize("footprint", [CROSS, np.ones((3, 3), bool)], ids=["cross", "box"])
def test_memory_orders_and_byte_orders(footprint):
    x = RNG.standard_normal((6, 8)).astype("f4")
    expected = fp.maximum_filter(x, footprint=footprint)
    read_only = x.copy()
    read_only.flags.writeable = False
    same = (
        np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, 0)[::2], x[::-1].copy()[::-1],
        x[:, ::-1].copy()[:, ::-1], read_only, x.tolist(),
    )  # fmt: skip
    for each in same:
        np.testing.assert_array_equal(fp.maximum_filter(each, footprint=footprint), expected.astype(np.float64))
    assert fp.maximum_filter(same[0], footprint=footprint).flags.f_contiguous
    bools = np.array([0, 2, 0, 0, 0, 0], np.uint8).view(bool)
    wide = fp.maximum_filter(bools, footprint=footprint[1])
    assert wide.view(np.uint8).tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("more", [{"size": 3}, {"footprint": CROSS}], ids=["box", "cross"])
def test_out_is_filled_and_returned(more):
    x = RNG.integers(0, 99, (7, 5)).astype(np.int16)
    expected = fp.maximum_filter(x, **more)
    for out in (np.empty_like(x), np.empty((7, 10), np.int16)[:, ::2], np.empty((5, 7), np.int16).T, x.astype(">i2")):
        assert fp.maximum_filter(x, **more, out=out) is out
        np.testing.assert_array_equal(out, expected)
    with pytest.raises(ValueError, match="out must not share memory"):
        fp.maximum_filter(x, **more, out=x)
    with pytest.raises(ValueError, match="out must have dtype int16, got int32"):
        fp.maximum_filter(x, **more, out=x.astype(np.int32))


def test_arrays_without_elements_and_without_axes():
    for shape in ((0,), (0, 3), (3, 0, 2)):
        assert fp.maximum_filter(np.zeros(shape), 3).shape == shape
    assert fp.maximum_filter(np.zeros((0, 4)), footprint=CROSS).shape == (0, 4)
    np.testing.assert_array_equal(fp.maximum_filter(np.array(3.0), 3), 3.0)
    np.testing.assert_array_equal(fp.maximum_filter(np.array([3.0, 4.0]), 3, axes=()), [3.0, 4.0])


def test_arrays_of_as_many_axes_as_numpy_allows():
    x = RNG.integers(0, 99, (3,) + (1,) * 61 + (4, 5))
    for footprint in (CROSS, np.ones((3, 3), bool)):
        y = fp.maximum_filter(x, footprint=footprint, axes=(0, -1))
        expected = fp.maximum_filter(x.reshape(3, 4, 5), footprint=footprint, axes=(0, 2))
        np.testing.assert_array_equal(y.reshape(3, 4, 5), expected)


@pytest.mark.parametrize("name", FILTERS)
def test_footprints_with_equal_runs_one_above_the_other(name):
    ndimage, rng = pytest.importorskip("scipy.ndimage"), np.random.default_rng(4)
    frame, bars = np.ones((9, 7), bool), np.zeros((6, 11), bool)
    frame[2:7, 2:5] = False
    bars[:, ::3] = bars[0, :] = bars[5, 4:8] = True
    cylinder = np.repeat(fp.morphology.disk(2)[None], 5, 0)
    ladder = np.stack([frame, CROSS.repeat(3, 0)[:, [0, 0, 1, 1, 1, 2, 2]], frame])
    for footprint in (frame, bars, bars.T, fp.morphology.disk(6), cylinder, cylinder.T, ladder):
        x = rng.integers(0, 99, [9, 21, 24][-footprint.ndim :])
        expected = getattr(ndimage, f"{name}_filter")(x, footprint=footprint)
        np.testing.assert_array_equal(FILTERS[name](x, footprint=footprint), expected)


def test_equal_runs_one_above_the_other_are_not_compared_one_by_one():
    plus = np.zeros((255, 255), bool)
    plus[127] = plus[:, 127] = True
    passes = running_extremes.passes_over(runs(plus, [0, 1]), [255, 1])
    assert len(running_extremes.operations_of(passes, 255**2, 1)) < 20


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "int64"])
def test_passes_are_the_same_on_every_backend(dtype, backend):
    if not has(backend, "run_passes"):
        pytest.skip(f"the backend {backend} has no run_passes")
    rows = [(0, 5, 40_000, 20_000), (3, 7, 61_000, 19_000), (61_000, 11, 61_000, 19_000), (2, 2, 99_999, 1), (0,) * 4]
    scratch = np.random.default_rng(6).integers(0, 99, 100_000).astype(dtype)
    expected = scratch.copy()
    for first, second, target, count in rows:
        expected[target : target + count] = np.minimum(expected[first:][:count], expected[second:][:count])
    kernel("run_passes", backend)(np.minimum, scratch, np.array(rows, np.int64))
    np.testing.assert_array_equal(scratch, expected)


LEAVING = [(0, 0, 5, 6), (5, 0, 0, 6), (0, 6, 0, 5), (0, 0, 0, -1), (-1, 0, 0, 1), (0, 0, 2**62, 9)]


@pytest.mark.parametrize("row", LEAVING)
def test_compiled_passes_that_leave_the_array_are_refused(row):
    passes = pytest.importorskip("fastpool.backends._passes")
    with pytest.raises(ValueError, match="operation 1 leaves the array of 10 elements"):
        passes.run_passes(np.maximum, np.zeros(10), np.array([(0, 0, 0, 10), row], np.int64))


def test_compiled_passes_refuse_other_arrays_and_functions():
    passes, rows = pytest.importorskip("fastpool.backends._passes"), np.zeros((1, 4), np.int64)
    for extreme, scratch in (
        (np.maximum, np.zeros(4, ">f4" if np.little_endian else "<f4")),
        (np.maximum, np.zeros(8)[::2]),
        (np.negative, np.zeros(4)),
    ):
        with pytest.raises(ValueError, match="a binary function, and a contiguous native array"):
            passes.run_passes(extreme, scratch, rows)
    with pytest.raises(ValueError, match=re.escape("operations must have shape (n, 4), got (4, 1)")):
        passes.run_passes(np.maximum, np.zeros(4), rows.reshape(4, 1))
    with pytest.raises(TypeError, match="bitwise_and has no loop for float64"):
        passes.run_passes(np.bitwise_and, np.zeros(4), rows)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_tiles_of_any_size_on_any_number_of_threads(threads, monkeypatch):
    x = RNG.integers(0, 255, (3, 41, 57, 2)).astype(np.uint8)
    footprint = fp.morphology.disk(4)
    expected = [
        np.stack([fp.maximum_filter(x[i, ..., c], footprint=footprint) for c in range(2)], -1) for i in range(3)
    ]
    monkeypatch.setattr(running_extremes, "BYTES_OF_THREAD", 1)
    fp.set_num_threads(threads)
    try:
        for most in (1, 1 << 10, 1 << 13, 1 << 16, 1 << 20):
            monkeypatch.setattr(running_extremes, "TILE_BYTES", most)
            np.testing.assert_array_equal(fp.maximum_filter(x, footprint=footprint, axes=(1, 2)), expected)
    finally:
        fp.set_num_threads(None)


def test_what_a_thread_raises_is_raised_by_the_call(monkeypatch):
    monkeypatch.setattr(running_extremes, "BYTES_OF_THREAD", 1)
    monkeypatch.setattr(running_extremes, "TILE_BYTES", 64)

    def refuse(*_):
        raise MemoryError("no scratch")

    monkeypatch.setattr(running_extremes, "extend", refuse)
    with pytest.raises(MemoryError, match="no scratch"):
        fp.maximum_filter(np.zeros((40, 40)), footprint=CROSS)


def test_every_backend_gives_the_same(backend):
    x = values((4, 5, 6), np.float32)
    for size, more in (
        ((3, 2, 4), {}),
        ((3, 2), {"axes": (0, 2)}),
        ((3, 2, 4), {"mode": "wrap"}),
        ((3, 2, 4), {"mode": ("constant", "mirror", "nearest"), "origin": (1, 0, -1)}),
    ):
        footprint = np.arange(prod(size)).reshape(size) % 3 > 0
        for window in ({"size": size}, {"footprint": footprint}):
            if backend != "cuda" or "size" in window:
                y = fp.minimum_filter(x, **window, **more, backend=backend)
                np.testing.assert_array_equal(y, fp.minimum_filter(x, **window, **more, backend="numpy"))


def test_a_filter_of_a_tensor_is_a_tensor():
    torch = pytest.importorskip("torch")
    x = torch.arange(12.0).reshape(3, 4)
    for more in ({"size": 3}, {"footprint": CROSS}):
        y = fp.maximum_filter(x, **more)
        assert isinstance(y, torch.Tensor)
        np.testing.assert_array_equal(y.numpy(), fp.maximum_filter(x.numpy(), **more))
    y = fp.moving_max(x.to(torch.bfloat16), 2)
    assert y.dtype == torch.bfloat16
    np.testing.assert_array_equal(y.float().numpy(), fp.moving_max(x.numpy(), 2))


X = np.zeros((4, 5), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either size or footprint must be given, got neither"),
        ({"size": 3, "footprint": CROSS}, "either size or footprint must be given, got both"),
        ({"size": 0}, "size must be positive in every axis, got 0"),
        ({"size": (3, 3, 3)}, "size must be one integer or 2, one for each axis, got (3, 3, 3)"),
        ({"size": 2.5}, "size must be an integer, got 2.5"),
        ({"size": 3, "mode": "symmetric"}, "mode must be 'reflect', .* got 'symmetric'"),
        ({"size": 3, "mode": ("wrap",)}, "mode must be one value, or 2, one for each filtered axis, got ('wrap',)"),
        ({"size": 3, "mode": None}, "mode must be 'reflect', .* got None"),
        ({"size": 3, "origin": 2}, "origin must be from -1 to 1 for a size of 3, got 2"),
        ({"size": (3, 4), "origin": (0, 2)}, "origin must be from -2 to 1 for a size of 4, got (0, 2)"),
        ({"size": 3, "origin": (0, 0, 0)}, "origin must be one value, or 2, .* got (0, 0, 0)"),
        ({"size": 3, "origin": None}, "origin must be an integer, got None"),
        ({"size": 3, "axes": 2}, "axes must be axes of an array of 2, from -2 to 1, got 2"),
        ({"size": 3, "axes": (0, -2)}, "axes must be different from each other, got (0, -2)"),
        ({"size": 3, "mode": "constant", "cval": 256}, "cval must be a number that uint8 holds, got 256"),
        ({"size": 3, "mode": "constant", "cval": 0.5}, "cval must be a number that uint8 holds, got 0.5"),
        ({"footprint": np.zeros((2, 3))}, "footprint must hold a True, got none in its shape (2, 3)"),
        ({"footprint": [1, 0, 1]}, "footprint must have 2 axes, as many as are filtered, got one of shape (3,)"),
        ({"footprint": np.ones((3, 3, 3))}, "footprint must have 2 axes, .* got one of shape (3, 3, 3)"),
        ({"footprint": ["a"]}, "footprint must hold bools or numbers, got <U1"),
        ({"footprint": [[1], [1, 2]]}, "footprint must be an array, or nested sequences of the same lengths"),
        ({"footprint": np.ma.ones((3, 3))}, "footprint must not be a masked array"),
        ({"size": 3, "backend": "fast"}, "backend must be one of .* got 'fast'"),
    ],
)
def test_an_error_names_the_argument_and_shows_the_value(arguments, message):
    pattern = ".*".join(map(re.escape, message.split(".*")))
    with pytest.raises((ValueError, TypeError), match=pattern):
        fp.maximum_filter(X, **arguments)


def test_a_backend_is_looked_up_for_arrays_without_elements_too():
    with pytest.raises(ValueError, match=r"backend must be one of .* got 'fast'"):
        fp.maximum_filter(X[:0], 3, backend="fast")


@pytest.mark.parametrize("x", [np.zeros(3, complex), np.array(["a"]), np.ma.zeros(3)])
def test_inputs_that_are_not_supported(x):
    with pytest.raises(TypeError, match="input must"):
        fp.maximum_filter(x, 3)


# Moving windows


def moved_by_loops(extreme, x, windows, least):
    """Windows along all axes, without NaN."""
    y = np.full_like(x, np.nan)
    for place in np.ndindex(x.shape):
        box = x[tuple(slice(max(i - w + 1, 0), i + 1) for i, w in zip(place, windows, strict=True))]
        present = box[box == box]
        if present.size >= least:
            y[place] = extreme(present.tolist())
    return y


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u1", "?"])
def test_the_values_are_bottlenecks(dtype, name):
    bottleneck = pytest.importorskip("bottleneck")
    move, rng = getattr(bottleneck, f"move_{name}"), np.random.default_rng(3)
    for _ in range(60):
        x = values(tuple(rng.integers(1, 12, rng.integers(1, 4))), dtype, int(rng.integers(99)))
        axis = int(rng.integers(-x.ndim, x.ndim))
        window = int(rng.integers(1, x.shape[axis] + 1))
        for least in (None, 1, int(rng.integers(1, window + 1))):
            expected = move(x, window, least, axis)
            y = MOVING[name](x, window, least, axis)
            assert y.dtype == expected.dtype
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_moving_windows_along_several_axes(dtype, name):
    extreme = {"max": max, "min": min}[name]
    for x in (values((5, 6), dtype), np.arange(30).reshape(5, 6).astype(dtype)):
        for windows, least in (((2, 3), None), ((3, 1), 2), ((5, 6), 1)):
            y = MOVING[name](x, windows, least, axis=(0, 1))
            assert y.dtype == dtype
            expected = moved_by_loops(extreme, x.astype(float), windows, least or windows[0] * windows[1])
            np.testing.assert_array_equal(y.astype(float), expected)


def test_a_nan_may_propagate_through_moving_windows():
    x = np.array([1, np.nan, 3, 2, 5])
    np.testing.assert_array_equal(fp.moving_max(x, 2, nan="propagate"), [np.nan, np.nan, np.nan, 3, 5])
    np.testing.assert_array_equal(fp.moving_min(x, 2, 1, nan="propagate"), [1, np.nan, np.nan, 2, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 5}, "window must not be longer than its axis, got 5 for axes of (4,)"),
        ({"window": 0}, "window must be positive in every axis, got 0"),
        ({"window": 2, "min_count": 3}, "min_count must be from 1 to the 2 elements of a window, got 3"),
        ({"window": 2, "min_count": 0}, "min_count must be from 1 to the 2 elements of a window, got 0"),
        ({"window": 2, "axis": 1}, "axis must be axes of an array of 1, from -1 to 0, got 1"),
        ({"window": 2, "axis": None}, "axis must name at least one axis of an array of shape (4,), got None"),
        ({"window": 2, "nan": "skip"}, "nan must be 'ignore' or 'propagate', got 'skip'"),
    ],
)
def test_an_error_of_a_moving_window_names_the_argument(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fp.moving_max(np.zeros(4), **arguments)


def test_bfloat16_without_nan_is_not_rounded():
    x = np.array([1, 3, 2], ml_dtypes.bfloat16)
    np.testing.assert_array_equal(fp.moving_max(x, 2, 1).astype(float), [1, 3, 3])
