"""What the numba backend's kernels are written in: each primitive is compared with NumPy."""

import numpy as np
import pytest

numba = pytest.importorskip("numba")
pytest.importorskip("fastpool.backends.numba._launch")

from fastpool._rules import BFLOAT16_FORMAT, FLOAT16_FORMAT  # noqa: E402
from fastpool.backends.numba import geometry  # noqa: E402
from fastpool.backends.numba.kernel_dtypes import kernel_dtype_of  # noqa: E402
from fastpool.backends.numba.kernels import rows  # noqa: E402
from fastpool.backends.numba.simd import compare, half, keys, math, offsets, vectors, views  # noqa: E402
from fastpool.backends.numba.tiling.backward import VECTOR_STORE_KW  # noqa: E402

DTYPES = list(map(np.dtype, ("u1", "i1", "i2", "u4", "i8", "f4", "f8")))
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
FLOAT16, BFLOAT16 = np.int16(FLOAT16_FORMAT), np.int16(BFLOAT16_FORMAT)
HALVES = np.arange(1 << 16).astype(np.uint16).view(np.int16)


def width(dtype):
    return geometry.VECTOR_BYTES // dtype.itemsize


def some(dtype, count, seed=0):
    rng = np.random.default_rng(seed)
    if dtype.kind == "f":
        a = rng.integers(-3, 4, count).astype(dtype)
        a[rng.random(count) < 0.2] = np.nan
        return a
    info = np.iinfo(dtype)
    return rng.choice(np.array([info.min, info.max, 0, 1, 2, 3], dtype), count)


def in_float32(halves, half_format):
    """Two-byte floats, given as int16, by NumPy: bfloat16 is the upper half of a float32."""
    if half_format == FLOAT16:
        return halves.view(np.float16).astype(np.float32)
    return (halves.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def of_vectors(operation, *inputs, out):
    """Store what an operation of vectors gives, vector after vector."""

    @numba.njit
    def run1(a, out):
        for i in range(0, len(out), vectors.width_of(a)):
            vectors.store(out, i, operation(vectors.load(a, i)))

    @numba.njit
    def run2(a, b, out):
        for i in range(0, len(out), vectors.width_of(a)):
            vectors.store(out, i, operation(vectors.load(a, i), vectors.load(b, i)))

    (run1 if len(inputs) == 1 else run2)(*inputs, out)
    return out


@each_dtype
def test_a_vector_is_64_bytes_and_lies_anywhere(dtype):
    @numba.njit
    def move(a, at, out, to):
        vectors.store(out, to, vectors.load(a, at))
        return vectors.width_of(a)

    n = width(dtype)
    a, out = some(dtype, 3 * n), np.zeros(3 * n, dtype)
    assert move(a, 3, out, n - 1) == n
    np.testing.assert_array_equal(out[n - 1 : 2 * n - 1], a[3 : n + 3])
    assert not out[: n - 1].any()
    assert not out[2 * n - 1 :].any()


@each_dtype
@pytest.mark.parametrize("step", geometry.LOADED_STRIDES)
def test_every_step_th_element_is_loaded(step, dtype):
    load = getattr(vectors, f"load_stride_{step}")

    @numba.njit
    def move(a, out):
        vectors.store(out, 0, load(a, 1))

    n = width(dtype)
    a, out = some(dtype, step * n + 1), np.zeros(n, dtype)
    move(a, out)
    np.testing.assert_array_equal(out, a[1::step][:n])


@pytest.mark.parametrize("count", [-3, 0, 1, 5, 16, 20])
def test_a_mask_chooses_between_a_vector_and_a_constant(count):
    @numba.njit
    def choose(a, count, out):
        vector = vectors.load(a, 0)
        other = vectors.splat(vector, np.float32(7))
        vectors.store(out, 0, vectors.where(vectors.mask_first(vector, count), vector, other))

    a, out = some(np.dtype("f4"), 16), np.zeros(16, np.float32)
    choose(a, count, out)
    np.testing.assert_array_equal(out, np.where(np.arange(16) < count, a, 7))


def test_as_many_elements_of_another_dtype_are_loaded():
    @numba.njit
    def move(a, other, out):
        vectors.store(out, 0, vectors.load_like(vectors.load(a, 0), other, 2))

    a, other, out = np.zeros(16, np.float32), np.arange(18, dtype=np.uint8), np.zeros(20, np.uint8)
    move(a, other, out)
    np.testing.assert_array_equal(out[:16], other[2:])
    assert not out[16:].any()


@each_dtype
@pytest.mark.parametrize("value", [np.uint8(7), np.float32(-0.5)], ids=str)
def test_a_vector_like_those_of_an_array_repeats_a_value_of_any_dtype(value, dtype):
    @numba.njit
    def fill(a, value, out):
        vectors.store(out, 1, vectors.vector_like(a, value))

    n = width(dtype)
    out = np.zeros(n + 2, value.dtype)
    fill(np.empty(0, dtype), value, out)
    np.testing.assert_array_equal(out, np.pad(np.full(n, value), 1))


@pytest.mark.parametrize("begin", range(0, 16, 3))
def test_stores_past_the_caches_begin_a_cache_line(begin):
    @numba.njit
    def fill(a, value):
        at = vectors.elements_to_cache_line(a, 0)
        vectors.prefetch(a, 1_000_000)
        vectors.prefetch_to_write(a, -1_000_000)
        vectors.store_nontemporal(a, at, vectors.vector_like(a, value))
        vectors.fence()
        return at

    memory = np.zeros(64, np.float32)
    a = memory[begin:]
    at = fill(a, np.float32(3))
    assert 0 <= at < 16
    assert (a.ctypes.data + 4 * at) % geometry.VECTOR_BYTES == 0
    np.testing.assert_array_equal(np.flatnonzero(a == 3), np.arange(at, at + 16))


@each_dtype
def test_interleaving_undoes_deinterleaving(dtype):
    n = width(dtype)
    a, b, both = some(dtype, n, 1), some(dtype, n, 2), np.empty(2 * n, dtype)
    both[0::2], both[1::2] = a, b
    low, high = both[:n].copy(), both[n:].copy()
    out = np.empty(n, dtype)
    for operation, first, second, expected in (
        (vectors.interleave_low, a, b, low),
        (vectors.interleave_high, a, b, high),
        (vectors.deinterleave_even, low, high, a),
        (vectors.deinterleave_odd, low, high, b),
    ):
        np.testing.assert_array_equal(of_vectors(operation, first, second, out=out), expected)


@pytest.mark.parametrize("taps", sorted({*VECTOR_STORE_KW} - {1}))
@pytest.mark.parametrize("index", ["u1", "u2", "u4"])
@pytest.mark.parametrize("dtype", ["i2", "f4", "f8"])
def test_each_gradient_is_scattered_to_its_tap(dtype, index, taps):
    scatter = getattr(vectors, f"scatter_to_{taps}")

    @numba.njit
    def run(out, grads, argmax, first_tap):
        vector = vectors.load(grads, 0)
        scatter(out, 0, vector, vectors.load_like(vector, argmax, 0), first_tap)

    n, first_tap = width(np.dtype(dtype)), 6
    grads = np.arange(1, n + 1).astype(dtype)
    argmax = np.random.default_rng(0).integers(first_tap - 2, first_tap + taps + 2, n).astype(index)
    out = np.full(n * taps, 99, dtype)
    run(out, grads, argmax, np.dtype(index).type(first_tap))
    wins = argmax[:, None].astype(int) == first_tap + np.arange(taps)
    np.testing.assert_array_equal(out.reshape(n, taps), np.where(wins, grads[:, None], 0))


@each_dtype
def test_vectors_are_compared_and_added_element_by_element(dtype):
    @numba.njit
    def run(a, b, out):
        x, y = vectors.load(a, 0), vectors.load(b, 0)
        no, yes = vectors.splat(x, a.dtype.type(0)), vectors.splat(x, a.dtype.type(1))
        n = vectors.width_of(a)
        vectors.store(out, 0, vectors.where(x <= y, yes, no))
        vectors.store(out, n, vectors.where(x == y, yes, no))
        vectors.store(out, 2 * n, vectors.where(x != y, yes, no))
        vectors.store(out, 3 * n, x + y)

    n = width(dtype)
    a, b, out = some(dtype, n, 1), some(dtype, n, 2), np.zeros(4 * n, dtype)
    run(a, b, out)
    np.testing.assert_array_equal(out, np.concatenate([a <= b, a == b, a != b, a + b]).astype(dtype))


def test_masks_of_bits():
    @numba.njit
    def run(a, bit, out):
        bits, one = vectors.load(a, 0), vectors.splat(vectors.load(a, 0), bit)
        vectors.store(out, 0, bits & one)

    a, out = np.arange(64, dtype=np.uint8), np.zeros(64, np.uint8)
    run(a, np.uint8(4), out)
    np.testing.assert_array_equal(out, a & 4)


@each_dtype
def test_the_maximum_is_that_of_numpy_which_keeps_nan(dtype):
    n = 4 * width(dtype)
    a, b = some(dtype, n, 1), some(dtype, n, 2)
    np.testing.assert_array_equal(of_vectors(compare.maximum, a, b, out=np.empty(n, dtype)), np.maximum(a, b))

    @numba.njit
    def of_scalars(a, b, out):
        for i in range(len(a)):
            out[i] = compare.maximum(a[i], b[i])
        return out

    np.testing.assert_array_equal(of_scalars(a, b, np.empty(n, dtype)), np.maximum(a, b))


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize("index", [None, np.uint8, np.uint32])
def test_the_first_of_equal_values_keeps_its_offset(index, dtype):
    @numba.njit
    def run(values, argmax, out):
        best = vectors.load(values, 0)
        winner, offset = offsets.splat_offset(best, argmax, 0), offsets.splat_offset(best, argmax, 0)
        for tap in range(1, len(values) // vectors.width_of(values)):
            offset = offsets.add_offsets(offset, offsets.splat_offset(best, argmax, 1))
            value = vectors.load(values, tap * vectors.width_of(values))
            best, winner = offsets.larger(best, winner, value, offset)
        vectors.store(out, 0, best)
        offsets.store_offsets(argmax, 0, winner)

    n = width(np.dtype(dtype))
    values, out = some(np.dtype(dtype), 9 * n), np.zeros(n, dtype)
    argmax = None if index is None else np.zeros(n, index)
    run(values, argmax, out)
    winners = values.reshape(9, n).argmax(0)
    np.testing.assert_array_equal(out, values.reshape(9, n)[winners, np.arange(n)])
    if index is not None:
        np.testing.assert_array_equal(argmax, winners)


def test_offsets_count_from_zero_and_are_read_from_a_row():
    @numba.njit
    def run(like, argmax, source, out):
        vector = vectors.load(like, 0)
        counted = offsets.arange_offsets(vector, argmax)
        read = offsets.load_offsets(vector, argmax, source, 1)
        offsets.store_offsets(out, 0, offsets.add_offsets(counted, read))

    like, source, out = np.zeros(16, np.float32), np.arange(20, dtype=np.uint8), np.zeros(16, np.uint8)
    run(like, out, source, out)
    np.testing.assert_array_equal(out, 2 * np.arange(16) + 1)
    run(like, out, None, out)
    np.testing.assert_array_equal(out, np.arange(16))
    assert run(like, None, None, None) is None


def test_without_an_argmax_offsets_are_none():
    @numba.njit
    def run(argmax):
        offsets.fill_offsets(argmax, 3)
        offsets.set_offset(argmax, 1, 7)
        offsets.copy_offsets(argmax, 2, argmax, 1, 2)

    run(None)
    argmax = np.zeros(4, np.uint16)
    run(argmax)
    np.testing.assert_array_equal(argmax, [3, 7, 3, 7])


def test_every_nth_offset_is_copied_also_within_one_array():
    @numba.njit
    def run(argmax):
        offsets.copy_offsets(argmax, 0, argmax, 3, 4)

    argmax = np.arange(10, dtype=np.uint8)
    run(argmax)
    np.testing.assert_array_equal(argmax, [0, 3, 6, 9, 4, 5, 6, 7, 8, 9])


def keys_and_back(elements, kind):
    """The keys of elements, computed one by one and in vectors, and the elements of these keys."""

    @numba.njit
    def of_scalars(elements, made):
        for i in range(len(elements)):
            made[i] = keys.to_key(elements[i], kind)

    @numba.njit
    def of_vectors(elements, made):
        for i in range(0, len(elements), vectors.width_of(elements)):
            vectors.store(made, i, keys.to_keys(vectors.load(elements, i), kind))

    @numba.njit
    def back(made):
        keys.from_keys(made, kind)

    made, in_vectors = np.empty_like(elements), np.empty_like(elements)
    of_scalars(elements, made)
    of_vectors(elements, in_vectors)
    np.testing.assert_array_equal(in_vectors, made)
    back(in_vectors)
    return made, in_vectors


@pytest.mark.parametrize("reverses", [False, True])
@pytest.mark.parametrize("half_format", [FLOAT16, BFLOAT16], ids=["float16", "bfloat16"])
def test_keys_of_all_two_byte_floats_sort_like_them(half_format, reverses):
    made, back = keys_and_back(HALVES, keys.Keys(half_format, np.uint16(0x8000 * reverses), np.int16(0)))
    values = in_float32(HALVES, half_format)
    np.testing.assert_array_equal(in_float32(back, half_format), values)  # 0 of -0, which is equal
    nan = np.isnan(values)
    assert (made[nan] == 0x7FFF).all()
    assert (made[~nan] < 0x7FFF).all()
    values = -values if reverses else values
    order = np.argsort(values[~nan], kind="stable")
    ordered, ordered_keys = values[~nan][order], made[~nan][order].astype(int)
    np.testing.assert_array_equal(np.sign(np.diff(ordered_keys)), ordered[1:] > ordered[:-1])


@each_dtype
def test_keys_reverse_the_order_of_other_dtypes(dtype):
    elements, flip = some(dtype, 8 * width(dtype)), kernel_dtype_of(dtype).flip
    made, back = keys_and_back(elements, keys.Keys(None, flip, dtype.type(0)))
    np.testing.assert_array_equal(made, -elements if dtype.kind == "f" else ~elements)
    np.testing.assert_array_equal(back, elements)


@pytest.mark.parametrize("half_format", [FLOAT16, BFLOAT16], ids=["float16", "bfloat16"])
def test_all_two_byte_floats_are_widened_and_narrowed_again(half_format):
    @numba.njit
    def run(bits, half_format, wide, back):
        for i in range(len(bits)):
            wide[i] = half.widen(bits[i], half_format)
            back[i] = half.narrow(wide[i], half_format)

    wide, back = np.empty(len(HALVES), np.float32), np.empty_like(HALVES)
    run(HALVES, half_format, wide, back)
    values = in_float32(HALVES, half_format)
    np.testing.assert_array_equal(wide, values)
    np.testing.assert_array_equal(back[~np.isnan(values)], HALVES[~np.isnan(values)])
    assert np.isnan(in_float32(back[np.isnan(values)], half_format)).all()


@pytest.mark.parametrize("half_format", [FLOAT16, BFLOAT16], ids=["float16", "bfloat16"])
def test_floats_are_rounded_to_the_nearest_two_byte_float(half_format):
    @numba.njit
    def run(wide, half_format, out):
        for i in range(len(wide)):
            out[i] = half.narrow(wide[i], half_format)

    ordered = np.unique(in_float32(HALVES, half_format))
    ordered = ordered[np.isfinite(ordered)].astype(np.float64)
    between = (ordered[:-1] + ordered[1:]) / 2  # exact in float32
    wide = np.concatenate([between, np.nextafter(between, -np.inf), np.nextafter(between, np.inf)])
    wide = np.concatenate([wide.astype(np.float32), [np.inf, -np.inf, np.nan, 65519, 65520, 1e30, -1e-40]])
    wide = wide.astype(np.float32)
    out = np.empty(len(wide), np.int16)
    run(wide, half_format, out)
    if half_format == FLOAT16:
        with np.errstate(over="ignore"):
            expected = wide.astype(np.float16).astype(np.float32)
    else:
        bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
        expected = wide.astype(bfloat16).astype(np.float32)
    np.testing.assert_array_equal(in_float32(out, half_format), expected)


def test_values_of_other_dtypes_stay_as_they_are():
    @numba.njit
    def run(a):
        maximum = keys.Keys(None, np.uint32(0), a)
        return keys.to_key(a, maximum), keys.to_key(a, None), half.widen(a, None), half.narrow(a, None)

    assert run(np.float32(1.5)) == (1.5,) * 4


@pytest.mark.parametrize(("dtype", "lowest"), [(np.float32, -110), (np.float64, -760)])
def test_the_exponential_is_within_one_unit_in_the_last_place(dtype, lowest):
    @numba.njit
    def run(z, out):
        for i in range(len(z)):
            out[i] = math.exponential(z[i])

    z = np.concatenate([np.linspace(lowest, 0, 100_001), -np.logspace(-8, 2, 10_001), [0, -np.inf, np.nan]])
    z = z.astype(dtype)
    out = np.empty_like(z)
    run(z, out)
    expected = np.exp(z.astype(np.longdouble)).astype(dtype)
    unit = np.spacing(np.maximum(expected, np.finfo(dtype).smallest_subnormal))
    assert np.nanmax(np.abs(out - expected) / unit) <= 1
    np.testing.assert_array_equal(np.isnan(out), np.isnan(z))
    assert out[-3] == 1
    assert out[-2] == 0


def test_views_share_the_memory_of_their_array():
    @numba.njit
    def run(a, scratch):
        middle, tail = views.slice_view(a, 2, 3), views.tail_view(a, 7)
        floats = views.scratch_view(scratch, 64, 4, a)
        words = views.scratch_view(scratch, 0, 2, np.int64)
        middle[0], tail[0], floats[3], words[1] = 1, 2, 3, 4
        return len(middle), len(tail), len(floats), len(words), len(views.tail_view(tail, -7))

    a, scratch = np.zeros(10, np.float32), np.zeros(128, np.uint8)
    assert run(a, scratch) == (3, 3, 4, 2, 10)
    np.testing.assert_array_equal(a, [0, 0, 1, 0, 0, 0, 0, 2, 0, 0])
    assert scratch.view(np.float32)[19] == 3
    assert scratch.view(np.int64)[1] == 4


def test_a_view_of_none_is_none():
    @numba.njit
    def run(scratch):
        none = views.slice_view(None, 0, 1), views.tail_view(None, 0), views.scratch_view(scratch, 0, 1, None)
        return none, views.unliteral(3), views.assume_positive(4)

    assert run(np.zeros(64, np.uint8)) == ((None, None, None), 3, 4)


@pytest.mark.parametrize("made_keys", [None, keys.Keys(FLOAT16, np.uint16(0), np.int16(0))], ids=["values", "keys"])
@pytest.mark.parametrize("available", [0, 64])
@pytest.mark.parametrize(("begin", "end"), [(0, 5), (3, 40), (0, 32), (7, 7)])
def test_a_row_is_packed_between_padding(begin, end, available, made_keys):
    @numba.njit
    def run(packed, x, begin, end, padding, made_keys):
        vector = vectors.splat(vectors.load(packed, 0), padding)
        mask = vectors.mask_first(vector, (end - begin) % vectors.width_of(x))
        return rows.pack_row(packed, x, begin, end, mask, vector, made_keys, 10_000)

    x = np.random.default_rng(0).integers(0, 0x7C00, end + available, np.int16)
    packed, padding = np.full(128, -1, np.int16), np.int16(-9)
    written = run(packed, x, begin, end, padding, made_keys)
    np.testing.assert_array_equal(packed[begin:end], x[begin:end])
    assert end <= written < end + 32
    assert (packed[end:written] == padding).all()
    assert (packed[written:] == -1).all()


@pytest.mark.parametrize("spill", [0, 1, 15, 16, 40])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 31, 32, 33])
def test_rows_of_sums_are_written_up_to_their_limit(count, spill):
    @numba.njit
    def run(dx, limit, sums, others, count):
        rows.write_sums(dx, 2, limit, sums, count, None)
        rows.write_interleaved_sums(dx, 102, 100 + limit, sums, others, count, None)

    sums, others = np.arange(100, dtype=np.float32), np.arange(100, 200, dtype=np.float32)
    dx, limit = np.full(200, -1, np.float32), 2 + count + spill
    run(dx, limit, sums, others, count)
    np.testing.assert_array_equal(dx[2 : 2 + count], sums[:count])
    np.testing.assert_array_equal(dx[102 : 102 + count], np.stack([sums, others], 1).reshape(-1)[:count])
    assert (dx[[0, 1]] == -1).all()
    assert (dx[limit:102] == -1).all()
    assert (dx[100 + limit :] == -1).all()
