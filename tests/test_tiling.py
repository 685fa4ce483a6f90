"""How the numba backend cuts calls into tiles, and where its vectors may be stored."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fastpool as fp

pytest.importorskip("fastpool.backends.numba._launch")

from fastpool.backends.numba import plan, tuning
from fastpool.backends.numba.geometry import (
    LOADED_STRIDES,
    VECTOR_BYTES,
    Geometry,
    inside_input,
    last_vector,
)
from fastpool.backends.numba.tiling import forward as tiling
from fastpool.backends.numba.tiling.backward import VECTOR_STORE_KW, reciprocal
from fastpool.backends.numba.tiling.forward import BY_STRIDE, BY_STRIDED_COPY, row_method

sizes = st.integers(1, 200)


@given(count=st.integers(0, 300), width=st.sampled_from([1, 8, 16, 32, 64]), spill=st.integers(0, 400))
def test_vectors_cover_a_row_and_store_nothing_past_the_limit(count, width, spill):
    """The rule of rows that may spill: see `last_vector`."""
    begin = 1000
    limit = begin + count + spill
    last = last_vector(count, width, begin + count + width, limit)
    starts = [begin + min(i, last) for i in range(0, count, width)] if last >= 0 else []
    stored = {at for start in starts for at in range(start, start + width)}
    assert all(begin <= at < limit for at in stored)
    if last >= 0:
        assert stored >= set(range(begin, begin + count))
    else:
        assert count < width  # and is stored element by element


@given(count=st.integers(1, 300), width=st.sampled_from([8, 16]), taps=st.integers(1, 8), spill=st.integers(0, 400))
def test_vectors_that_store_several_elements_for_one_keep_to_the_limit_too(count, width, taps, spill):
    end, past = count * taps, -count % width * taps
    last = last_vector(count, width, end + past, end + spill)
    starts = [min(i, last) * taps for i in range(0, count, width)] if last >= 0 else []
    stored = {at for start in starts for at in range(start, start + width * taps)}
    assert all(0 <= at < end + spill for at in stored)
    assert last < 0 or stored >= set(range(end))


def begins(tiles):
    """Where the parts of scratch begin, in the order in which they lie."""
    return [getattr(tiles, name) for name in tiles._fields if name.endswith("_begin")]


@st.composite
def windows(draw):
    axes = draw(st.integers(1, 3))
    size = draw(st.tuples(*[sizes] * axes))
    kernel, stride, dilation = (draw(st.tuples(*[st.integers(1, most)] * axes)) for most in (40, 12, 3))
    padding = draw(st.tuples(*[st.integers(0, 20)] * axes))
    try:
        return fp.window.Window.plan(axes, (2, 3, *size), kernel, stride, padding, dilation)
    except ValueError:
        assume(False)


@settings(max_examples=300)
@given(window=windows(), inner=st.sampled_from([1, 2, 3, 17, 64]), dtype=st.sampled_from(["u1", "f2", "f4", "f8"]))
def test_the_parts_of_scratch_follow_each_other_in_whole_cache_lines(window, inner, dtype):
    dtype = np.dtype(dtype)
    calls = [plan.max_pool(window, 2, inner, dtype, index, 2) for index in (None, window.argmax_dtype)]
    calls.append(plan.validate_argmax(window, 2, inner, window.argmax_dtype))
    calls.append(plan.im2col(window, inner > 1, (1, 1, 1, inner), dtype.itemsize, False))
    calls.append(plan.col2im(window, inner > 1, (1, 1, 1, inner), dtype))
    channels, taps = window.channels, window.volume
    for channel_step, tap_step in ((taps, 1), (1, channels)):  # rows of windows
        steps = channels * taps * window.positions, channel_step, tap_step, channels * taps
        calls.append(plan.im2col(window, inner > 1, steps, dtype.itemsize, False))
        calls.append(plan.col2im(window, inner > 1, steps, dtype))
    if dtype.kind == "f":
        calls.append(plan.max_pool_backward(window, 2, inner, dtype))
    for made in calls:
        assert made.items >= 1
        assert made.scratch_bytes <= tuning.MOST_SCRATCH
        assert made.scratch_bytes % VECTOR_BYTES == 0  # that of all threads is one array
        for tiles in made.constants:
            if hasattr(tiles, "scratch_bytes"):
                edges = [0, *begins(tiles), tiles.scratch_bytes]
                assert all(edge % VECTOR_BYTES == 0 for edge in edges)
                assert all(a <= b for a, b in pairwise(edges))


@settings(max_examples=300)
@given(window=windows(), inner=st.sampled_from([1, 2, 3, 17]), rows=sizes, columns=sizes)
def test_scratch_holds_the_cells_under_every_tile(window, inner, rows, columns):
    """As the kernel packs them, with what vectors read and store past the last row."""
    g = Geometry(*window.geometry, inner)
    rows, columns = min(rows, g.OH), min(columns, g.OW)
    tiles, width = tiling.separable(g, rows, columns, 4, 1), 16
    cell_rows = (rows - 1) * g.sh + (g.KH - 1) * g.dh + 1
    cell_columns = (columns - 1) * g.sw + (g.KW - 1) * g.dw + 1
    pitches = {-(-cell_columns // g.sw) * inner}
    if tiles.whole_rows:
        pitches.add(g.W // g.sw * inner)
    for pitch in pitches:
        step = cell_rows * pitch * g.sw + width
        assert min(g.KD, g.D) * step + tiles.read_past <= tiles.maxima
        if tiles.may_mask:
            assert cell_rows * g.OW * inner + width <= tiles.tap_bits


@pytest.mark.parametrize("stride", LOADED_STRIDES)
def test_every_stride_with_a_strided_load_has_its_code_path(stride):
    kernel, x = stride + 1, np.random.default_rng(0).integers(-9, 9, (1, 1, 200)).astype(np.float32)
    g = Geometry(*fp.window.Window.plan(1, (200,), kernel, stride).geometry, 1)
    assert row_method(g, 4, 0) == BY_STRIDE
    expected = fp.max_pool1d(x, kernel, stride, backend="numpy")
    np.testing.assert_array_equal(fp.max_pool1d(x, kernel, stride, backend="numba"), expected)


@pytest.mark.parametrize("kernel", VECTOR_STORE_KW)
def test_every_row_of_taps_that_is_interleaved_has_its_code_path(kernel):
    x = np.random.default_rng(0).integers(-9, 9, (1, 1, 200)).astype(np.float32)
    made = plan.max_pool_backward(fp.window.Window.plan(1, x.shape, kernel), 1, 1, x.dtype)
    assert made.kernel == "max_pool_backward_nonoverlapping"
    y, argmax = fp.max_pool1d(x, kernel, return_argmax=True, backend="numpy")
    expected = fp.max_pool1d_backward(y, argmax, x.shape, kernel, backend="numpy")
    np.testing.assert_array_equal(fp.max_pool1d_backward(y, argmax, x.shape, kernel, backend="numba"), expected)


@pytest.mark.parametrize("with_argmax", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (9, 1), (3, 2), (4, 4), (6, 5), (9, 5), (3, 7), (9, 4)])
def test_only_rows_copied_at_a_stride_take_scratch_for_it(kernel, stride, with_argmax):
    """Rows at stride 5 took it, too."""
    g = Geometry(*fp.window.Window.plan(2, (60, 600), (9, kernel), (1, stride)).geometry, 1)
    for tiles in (tiling.separable(g, 4, 8, 4, with_argmax), tiling.van_herk(g, 20, 40, 4, with_argmax)):
        assert (tiles.copies > 0) == (tiles.row_method == BY_STRIDED_COPY)


@given(start=st.integers(-30, 30), count=st.integers(1, 30), size=st.integers(1, 30))
def test_coordinates_inside_an_axis(start, count, size):
    begin, end = inside_input(start, count, size)
    assert 0 <= begin <= end <= count
    assert list(range(begin, end)) == [i for i in range(count) if 0 <= start + i < size]


def test_reciprocals_divide_every_offset_of_two_bytes():
    offsets = np.arange(1 << 16)
    for divisor in (*range(1, 300), *np.random.default_rng(0).integers(300, 1 << 16, 300).tolist(), 65535, 65536):
        quotients = (offsets * reciprocal(divisor)) >> 32
        np.testing.assert_array_equal(quotients, offsets // divisor)


def test_an_override_is_taken_back(tuned):
    window, before = fp.window.Window.plan(2, (64, 64), 3, 1, 1), tuning.TILE
    dtype = np.dtype("f4")
    made = plan.max_pool(window, 1, 1, dtype, None, 1)
    with tuning.override(TILE=64):
        assert plan.max_pool(window, 1, 1, dtype, None, 1).items > made.items
    assert before == tuning.TILE
    assert plan.max_pool(window, 1, 1, dtype, None, 1) == made
    with pytest.raises(KeyError), tuning.override(NO_SUCH_NUMBER=1):
        pass


def test_tall_windows_are_cut_for_no_more_threads_than_a_call_is_worth():
    small, large = (fp.window.Window.plan(2, (18, width), (9, 1), 1, (4, 0)) for width in (512, 1 << 19))
    arguments = 1, 1, np.dtype("f4"), None
    assert plan.max_pool(small, *arguments, 2) == plan.max_pool(small, *arguments, 1)
    assert plan.max_pool(large, *arguments, 2) != plan.max_pool(large, *arguments, 1)
