"""Grey morphology: the values of SciPy's functions, and those of OpenCV and scikit-image by the rules of the docs."""

import numpy as np
import pytest
from specimens import DTYPES, FLOATS, values
from test_filters import element, signalling

import fastpool as fp
from fastpool import morphology
from fastpool._rules import wins, wins_minimum

SCIPYS = {
    "dilate": "grey_dilation",
    "erode": "grey_erosion",
    "opening": "grey_opening",
    "closing": "grey_closing",
    "morphological_gradient": "morphological_gradient",
    "white_tophat": "white_tophat",
    "black_tophat": "black_tophat",
}
DIFFERENCES = ("morphological_gradient", "white_tophat", "black_tophat")
SHAPES = ((3, 3), (2, 3), (4, 1), (5, 2), (1, 1), (4, 4))


def random_footprint(rng, shape):
    footprint = rng.random(shape) < 0.6
    footprint.flat[rng.integers(footprint.size)] = True
    return footprint


@pytest.mark.parametrize("name", SCIPYS)
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_the_values_are_scipys(dtype, name):
    ndimage, rng = pytest.importorskip("scipy.ndimage"), np.random.default_rng(0)
    for shape in SHAPES:
        for mode in ("reflect", "constant", "nearest", "mirror", "wrap"):
            x = rng.integers(0, 200, (6, 7)).astype(dtype)
            for footprint in (random_footprint(rng, shape), np.ones(shape, bool)):
                origin = [int(rng.integers(-((k - 1) // 2), (k - 1) // 2 + 1)) for k in shape]
                for o in (0, origin):
                    more = {"mode": mode, "cval": 100, "origin": o}
                    expected = getattr(ndimage, SCIPYS[name])(x, footprint=footprint, **more)
                    y = getattr(morphology, name)(x, footprint, **more)
                    assert y.dtype == expected.dtype
                    np.testing.assert_array_equal(y, expected, str((footprint, more)))


@pytest.mark.parametrize("name", SCIPYS)
def test_the_values_are_scipys_along_some_axes(name):
    ndimage, rng = pytest.importorskip("scipy.ndimage"), np.random.default_rng(1)
    x = rng.integers(0, 200, (3, 6, 2, 7)).astype(np.uint8)
    footprint = random_footprint(rng, (3, 4))
    expected = getattr(ndimage, SCIPYS[name])(x, footprint=footprint, axes=(1, 3))
    np.testing.assert_array_equal(getattr(morphology, name)(x, footprint, axes=(1, 3)), expected)


@pytest.mark.parametrize("name", ["white_tophat", "black_tophat"])
def test_the_top_hats_of_bools_are_scipys(name):
    ndimage, x = pytest.importorskip("scipy.ndimage"), np.random.default_rng(2).random((9, 8)) < 0.5
    expected = getattr(ndimage, name)(x, footprint=morphology.disk(1))
    np.testing.assert_array_equal(getattr(morphology, name)(x, morphology.disk(1)), expected)


def test_the_gradient_of_bools_is_where_dilation_and_erosion_differ():
    x = np.array([0, 0, 1, 1, 1, 0], bool)
    y = morphology.morphological_gradient(x, morphology.box(3))
    np.testing.assert_array_equal(y, [0, 1, 1, 0, 1, 1])


@pytest.mark.parametrize("shape", SHAPES)
def test_opencv_takes_the_footprint_as_it_is_and_no_border(shape):
    cv2, rng = pytest.importorskip("cv2"), np.random.default_rng(3)
    x = rng.integers(0, 255, (8, 9)).astype(np.uint8)
    for footprint in (random_footprint(rng, shape), np.ones(shape, bool)):
        kernel = footprint.astype(np.uint8)
        dilated = fp.maximum_filter(x, footprint=footprint, mode="constant", cval=0)
        np.testing.assert_array_equal(dilated, cv2.dilate(x, kernel))
        np.testing.assert_array_equal(morphology.erode(x, footprint, "constant", 255), cv2.erode(x, kernel))
        if all(side % 2 for side in shape):
            reflected = morphology.dilate(x, np.flip(footprint), "constant", 0)
            np.testing.assert_array_equal(reflected, cv2.dilate(x, kernel))


@pytest.mark.parametrize("shape", SHAPES)
def test_scikit_image_takes_the_footprint_as_it_is_and_another_middle(shape):
    skimage, rng = pytest.importorskip("skimage.morphology"), np.random.default_rng(4)
    x, origin = rng.integers(0, 255, (8, 9)).astype(np.uint8), [-(side % 2 == 0) for side in shape]
    for footprint in (random_footprint(rng, shape), np.ones(shape, bool)):
        dilated = fp.maximum_filter(x, footprint=footprint, origin=origin)
        np.testing.assert_array_equal(dilated, skimage.dilation(x, footprint))
        np.testing.assert_array_equal(morphology.erode(x, footprint, origin=origin), skimage.erosion(x, footprint))


def test_all_agree_on_a_symmetrical_footprint_with_odd_sides():
    cv2, skimage = pytest.importorskip("cv2"), pytest.importorskip("skimage.morphology")
    x = np.random.default_rng(5).integers(0, 255, (20, 30)).astype(np.uint8)
    for footprint in (morphology.disk(3), morphology.diamond(4), morphology.box(5, 7)):
        for name, code in (("dilate", "MORPH_DILATE"), ("opening", "MORPH_OPEN"), ("white_tophat", "MORPH_TOPHAT")):
            y = getattr(morphology, name)(x, footprint)
            kernel = footprint.astype(np.uint8)
            np.testing.assert_array_equal(y, cv2.morphologyEx(x, getattr(cv2, code), kernel))
            theirs = getattr(skimage, {"dilate": "dilation"}.get(name, name))(x, footprint)
            np.testing.assert_array_equal(y, theirs)


def test_disks_and_diamonds_are_those_of_scikit_image():
    skimage = pytest.importorskip("skimage.morphology")
    for radius in range(9):
        np.testing.assert_array_equal(morphology.disk(radius), skimage.disk(radius))
        np.testing.assert_array_equal(morphology.diamond(radius), skimage.diamond(radius))


@pytest.mark.parametrize("footprint", [morphology.disk(2), morphology.box(4, 3), np.tri(3, 4, dtype=bool)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_laws_of_morphology(dtype, footprint):
    """An opening lies below the input, a closing above it, and both keep what they give."""
    x = values((17, 19), dtype)
    if dtype in FLOATS:
        x[np.isnan(x)] = 1
    opened, closed = morphology.opening(x, footprint), morphology.closing(x, footprint)
    inside = slice(4, -4), slice(4, -4)  # where no window leaves the array
    assert (opened <= x)[inside].all()
    assert (x <= closed)[inside].all()
    assert (morphology.erode(x, footprint) <= morphology.dilate(x, footprint)).all()
    farther = slice(7, -7), slice(7, -7)
    for function, once in ((morphology.opening, opened), (morphology.closing, closed)):
        np.testing.assert_array_equal(function(once, footprint)[farther], once[farther])


@pytest.mark.parametrize("name", SCIPYS)
def test_out_is_filled_and_returned(name):
    x = np.random.default_rng(6).integers(0, 99, (6, 7)).astype(np.uint8)
    function, footprint = getattr(morphology, name), morphology.disk(1)
    expected = function(x, footprint)
    for out in (np.empty_like(x), np.empty((6, 14), np.uint8)[:, ::2]):
        assert function(x, footprint, out=out) is out
        np.testing.assert_array_equal(out, expected)
    before = x.copy()
    with pytest.raises(ValueError, match="out must not share memory with an input"):
        function(x, footprint, out=x)
    np.testing.assert_array_equal(x, before)


def test_lists_and_tensors():
    assert morphology.white_tophat([1, 1, 9, 1], [1, 1, 1]).tolist() == [0, 0, 8, 0]
    torch = pytest.importorskip("torch")
    x = torch.tensor([1.0, 1.0, 9.0, 1.0])
    for name in SCIPYS:
        y = getattr(morphology, name)(x, [1, 1, 1])
        assert isinstance(y, torch.Tensor)
        np.testing.assert_array_equal(y.numpy(), getattr(morphology, name)(x.numpy(), [1, 1, 1]))


@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize("x", [[np.inf, np.inf, 1, -np.inf], [3e38, -3e38, 3e38, 3e38]], ids=["inf", "overflow"])
def test_differences_of_infinities_and_overflows_warn_of_nothing(x, name):
    getattr(morphology, name)(np.array(x, np.float32), morphology.box(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: morphology.disk(-1), "radius must not be negative, got -1"),
        (lambda: morphology.diamond(1.5), "radius must be an integer, got 1.5"),
        (lambda: morphology.box(3, 0), "sizes must be positive, got 0"),
        (lambda: morphology.dilate(np.zeros(3), [1, 0, 1, 1], origin=2), "origin must be from -2 to 1 .*, got 2$"),
        (lambda: morphology.dilate(np.zeros(3), np.zeros(3)), "footprint must hold a True"),
        (lambda: morphology.dilate(np.zeros(3), [1, 1], origin=(0, 0)), "origin must be one value, or 1, .*got"),
        (lambda: morphology.erode(np.zeros(3), morphology.disk(1)), "footprint must have 1 axes"),
        (lambda: morphology.opening(np.zeros(3), [1, 1], out=np.zeros(4)), r"out must have shape \(3,\), got \(4,\)"),
    ],
)
def test_an_error_names_the_argument(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


# Gradients


def sent_by_loops(dy, x, footprint, mode, cval, origin, axes, wins):
    """The definition: each dy goes to the first winner of its window, in row-major order."""
    dx = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        best = winner = None
        for tap in np.argwhere(footprint):
            cell = list(place)
            for axis, t, side, o in zip(axes, tap, footprint.shape, origin, strict=True):
                cell[axis] = element(mode, int(cell[axis] + t - side // 2 - o), x.shape[axis])
            value = cval if None in cell else x[tuple(cell)]
            if best is None or wins(value, best):
                best, winner = value, cell
        if None not in winner:
            dx[tuple(winner)] += dy[place]
    return dx


@pytest.mark.parametrize("mode", ["reflect", "constant", "nearest", "mirror", "wrap"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_each_gradient_goes_to_the_first_winner_of_its_window(dtype, mode):
    rng = np.random.default_rng(8)
    for axes, shape in (((0, 1), (3, 3)), ((0, 1), (2, 4)), ((1,), (3,)), ((1, 0), (4, 1))):
        x, dy = values((5, 6), dtype), rng.integers(-4, 5, (5, 6)).astype(dtype)
        for footprint in (random_footprint(rng, shape), np.ones(shape, bool)):
            more = {"mode": mode, "cval": 1.0, "axes": axes}
            dx = morphology.erode_backward(dy, x, footprint, **more)
            arguments = mode, dtype.type(1), [0] * len(shape), axes
            expected = sent_by_loops(dy, x, footprint, *arguments, wins_minimum)
            assert dx.dtype == dtype
            np.testing.assert_array_equal(dx.astype(float), expected.astype(dtype).astype(float))

            dx = morphology.dilate_backward(dy, x, footprint, **more)
            middle = [-(side % 2 == 0) for side in shape]
            arguments = mode, dtype.type(1), middle, axes
            expected = sent_by_loops(dy, x, np.flip(footprint), *arguments, wins)
            np.testing.assert_array_equal(dx.astype(float), expected.astype(dtype).astype(float))


@pytest.mark.parametrize("name", ["dilate", "erode"])
def test_gradients_are_those_of_finite_differences(name):
    rng = np.random.default_rng(9)
    x, dy = rng.permutation(42).reshape(6, 7).astype(float), rng.standard_normal((6, 7))
    function, backward = getattr(morphology, name), getattr(morphology, f"{name}_backward")
    for footprint, more in (
        (morphology.disk(2), {}),
        (random_footprint(rng, (3, 4)), {"mode": "wrap", "origin": (0, 1)}),
    ):
        dx = backward(dy, x, footprint, **more)
        for place in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[place] = 0.25
            change = (function(x + step, footprint, **more) - function(x - step, footprint, **more)) / 0.5
            np.testing.assert_allclose((change * dy).sum(), dx[place], atol=1e-12)


def test_the_gradient_of_a_box_is_that_of_a_pool():
    x, dy = values((20, 30), np.float64), np.random.default_rng(10).integers(-9, 9, (20, 30)).astype(float)
    dy[:2] = dy[-2:] = dy[:, :2] = dy[:, -2:] = 0  # at the borders reflected elements come first
    _, argmax = fp.max_pool2d(x, 5, 1, 2, return_argmax=True)
    expected = fp.max_pool2d_backward(dy, argmax, x.shape, 5, 1, 2)
    np.testing.assert_array_equal(morphology.dilate_backward(dy, x, morphology.box(5, 5)), expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradients_of_signalling_nans_warn_of_nothing(dtype):
    x = signalling(dtype)
    for function in (morphology.dilate_backward, morphology.erode_backward):
        assert np.isnan(function(x, x, [1, 0, 1], mode="constant", cval=float("nan")).astype(float)).any()


def test_gradients_of_other_inputs_are_refused():
    x = np.zeros((3, 4), np.float32)
    for dy, message in (
        (x[:2], r"dy must have the shape \(3, 4\) of input"),
        (x.astype(float), "dy must have the dtype float32"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            morphology.dilate_backward(dy, x, morphology.disk(1))
    with pytest.raises(TypeError, match="input must be float16"):
        morphology.dilate_backward(x, x.astype(int), morphology.disk(1))
    with pytest.raises(ValueError, match="footprint must have 2 axes"):
        morphology.erode_backward(x, x, [1, 1])
    with pytest.raises(ValueError, match="backend must be one of"):
        morphology.erode_backward(x[:0], x[:0], morphology.disk(1), backend="fast")
    assert morphology.dilate_backward(x[:0], x[:0], morphology.disk(1)).shape == (0, 4)


def test_the_gradient_of_an_array_that_is_filtered_along_no_axis_is_that_of_its_elements():
    for shape, axes in (((), None), ((3, 4), ())):
        x, dy = values(shape, np.float32), np.ones(shape, np.float32)
        dx = morphology.dilate_backward(dy, x, True, axes=axes)
        np.testing.assert_array_equal(dx, dy)
        assert not np.shares_memory(dx, dy)
