"""The integrations for cs231n, "Deep Learning from Scratch", DeZero and numpy-ml give what the originals give.

The references here are loops after the published formulas, in the order of the originals. DeZero and numpy-ml are asked
themselves where they are installed.
"""

import importlib.util
import warnings

import numpy as np
import pytest

from fastpool.integrations import cs231n, dlfs, numpy_ml

# Height and width of the images; those of the windows, the stride, the padding.
TILING = [
    ((6, 8), (3, 3, 1, 1)),
    ((7, 9), (3, 3, 2, 0)),
    ((6, 4), (2, 2, 2, 0)),
    ((5, 5), (1, 3, 2, 0)),
    ((4, 7), (4, 5, 2, 1)),
]
NOT_TILING = [((6, 8), (3, 2, 2, 0)), ((9, 7), (2, 2, 3, 1))]


def draws(shape, dtype=np.float64, seed=1):
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(dtype)


def columns(x, height, width, stride, pad, order, fill=0):
    """Every element where it belongs, by the axes of `order`: n, c, i, j, oh, ow."""
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
    n, channels, rows, cols = padded.shape
    oh, ow = (rows - height) // stride + 1, (cols - width) // stride + 1
    made = np.empty((n, channels, height, width, oh, ow), x.dtype)
    for index in np.ndindex(made.shape):
        image, c, i, j, top, left = index
        made[index] = padded[image, c, top * stride + i, left * stride + j]
    return made.transpose(["ncijhw".index(axis) for axis in order])


def image(cols, shape, height, width, stride, pad, order):
    """The adjoint of `columns`, for columns with all six axes."""
    n, channels, rows, width_of_image = shape
    padded = np.zeros((n, channels, rows + 2 * pad, width_of_image + 2 * pad), cols.dtype)
    cols = cols.transpose([order.index(axis) for axis in "ncijhw"])
    for image_, c, i, j, top, left in np.ndindex(cols.shape):
        padded[image_, c, top * stride + i, left * stride + j] += cols[image_, c, i, j, top, left]
    return padded[:, :, pad : pad + rows, pad : pad + width_of_image]


def strided(x):
    """The same elements in other memory: every second of a larger array, the rows backwards."""
    larger = np.zeros((*x.shape[:2], *(2 * n for n in x.shape[2:])), x.dtype)
    view = larger[:, :, ::2, ::2][:, :, ::-1]
    view[...] = x
    return view


@pytest.mark.parametrize(("size", "window"), TILING + NOT_TILING, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, ">f8"], ids=str)
def test_the_columns_are_the_originals(size, window, dtype):
    height, width, stride, pad = window
    x = draws((3, 2, *size), dtype)
    expected = columns(x, *window, "cijhwn").reshape(2 * height * width, -1)
    calls = [(cs231n.im2col_cython(x, height, width, pad, stride), expected, x.dtype)]
    if (size, window) in TILING:
        calls.append((cs231n.im2col_indices(x, height, width, pad, stride), expected, x.dtype))
        k, i, j = cs231n.get_im2col_indices(x.shape, height, width, pad, stride)
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        np.testing.assert_array_equal(padded[:, k, i, j].transpose(1, 2, 0).reshape(expected.shape), expected)
    rows = columns(x, *window, "nhwcij")
    rows = rows.reshape(rows[..., 0, 0, 0].size, -1)
    calls.append((dlfs.im2col(x, height, width, stride, pad), rows, np.float64))
    calls.append((dlfs.im2col(strided(x), height, width, stride, pad), rows, np.float64))
    calls.append((dlfs.im2col_array(x, (height, width), stride, pad), rows, x.dtype))
    windows = columns(x, *window, "ncijhw")
    calls.append((dlfs.im2col_array(x, (height, width), (stride, stride), (pad, pad), False), windows, x.dtype))
    last = np.moveaxis(x, 1, -1)
    cols, pads = numpy_ml.im2col(last, (height, width, 2, 7), pad, stride)
    assert pads == (pad,) * 4
    calls.append((cols, expected, x.dtype))
    for got, wanted, of in calls:
        assert got.dtype == np.dtype(of).newbyteorder("=")
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(("size", "window"), TILING + NOT_TILING, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_images_are_the_originals(size, window, dtype):
    height, width, stride, pad = window
    shape = 3, 2, *size
    like = columns(np.zeros(shape), *window, "ncijhw").shape
    by_axis = dict(zip("ncijhw", like, strict=True))

    def cols(order):
        return draws([by_axis[axis] for axis in order], dtype)

    gemm, first, rows = cols("cijhwn"), cols("cijnhw"), cols("nhwcij")
    flat = gemm.reshape(2 * height * width, -1)
    expected = image(gemm, shape, *window, "cijhwn")
    calls = [
        (cs231n.col2im_cython(flat, *shape, height, width, pad, stride), expected, dtype),
        (
            cs231n.col2im_6d_cython(first, *shape, height, width, pad, stride),
            image(first, shape, *window, "cijnhw"),
            dtype,
        ),
    ]
    if (size, window) in TILING:
        calls.append((cs231n.col2im_indices(flat, shape, height, width, pad, stride), expected, dtype))
    matrix, expected_of_rows = rows.reshape(-1, 2 * height * width), image(rows, shape, *window, "nhwcij")
    calls.append((dlfs.col2im(matrix, shape, height, width, stride, pad), expected_of_rows, np.float64))
    calls.append((dlfs.col2im_array(matrix, shape, (height, width), stride, pad), expected_of_rows, dtype))
    windows = cols("ncijhw")
    back = dlfs.col2im_array(windows, shape, (height, width), stride, pad, to_matrix=False)
    calls.append((back, image(windows, shape, *window, "ncijhw"), dtype))
    last = 3, *size, 2
    calls.append((numpy_ml.col2im(flat, last, (height, width, 2, 7), (pad,) * 4, stride), expected, np.float64))
    for got, wanted, of in calls:
        assert got.dtype == of
        np.testing.assert_array_equal(got, wanted)


def pooled(x, height, width, stride):
    """The maxima, and for each the cells of its window that are equal to it."""
    n, channels, rows, cols = x.shape
    out = np.empty((n, channels, (rows - height) // stride + 1, (cols - width) // stride + 1), x.dtype)
    winners = {}
    for index in np.ndindex(out.shape):
        image_, c, i, j = index
        top, left = i * stride, j * stride
        window = x[image_, c, top : top + height, left : left + width]
        out[index] = window.max()
        winners[index] = [(image_, c, top + a, left + b) for a, b in np.argwhere(window == out[index])]
    return out, winners


@pytest.mark.parametrize(
    ("size", "window", "method"),
    [
        ((6, 8), (2, 2, 2), "reshape"),
        ((6, 9), (3, 3, 3), "reshape"),
        ((4, 4), (1, 1, 1), "reshape"),
        ((7, 9), (3, 3, 2), "im2col"),
        ((6, 8), (2, 2, 1), "im2col"),
        ((6, 8), (2, 4, 2), "im2col"),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling_of_cs231n_divides_a_tie_by_the_method_reshape_alone(size, window, method, dtype):
    height, width, stride = window
    x = np.random.default_rng(3).integers(0, 3, (2, 3, *size)).astype(dtype)  # full of ties
    param = {"pool_height": height, "pool_width": width, "stride": stride}
    out, cache = cs231n.max_pool_forward_fast(x, param)
    expected, winners = pooled(x, height, width, stride)
    np.testing.assert_array_equal(out, expected)
    assert cache[0] == method
    dout = draws(out.shape, np.float64)
    dx = np.zeros(x.shape, dtype)
    for index, cells in winners.items():
        for cell in cells if method == "reshape" else cells[:1]:
            dx[cell] += dtype(dout[index]) / (len(cells) if method == "reshape" else 1)
    got = cs231n.max_pool_backward_fast(dout, cache)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, dx, rtol=1e-6)


def test_the_cache_of_the_method_reshape_is_the_courses():
    x = draws((2, 3, 4, 6))
    out, (method, (saved, reshaped, maxima)) = cs231n.max_pool_forward_fast(
        x, {"pool_height": 2, "pool_width": 2, "stride": 2}
    )
    assert (method, reshaped.shape) == ("reshape", (2, 3, 2, 2, 3, 2))
    assert saved is x
    assert maxima is out
    np.testing.assert_array_equal(reshaped.max(axis=(3, 5)), out)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_tie_of_more_cells_than_a_two_byte_float_counts_is_divided_among_all(name):
    dtype = np.dtype(name) if name == "float16" else np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    x = np.zeros((1, 1, 50, 50), dtype)
    out, cache = cs231n.max_pool_forward_fast(x, {"pool_height": 50, "pool_width": 50, "stride": 50})
    dx = cs231n.max_pool_backward_fast(np.full_like(out, 7), cache)
    np.testing.assert_array_equal(dx, np.full_like(x, dtype.type(7 / 2500)))


def test_nan_fills_the_gradient_of_its_window_by_the_method_reshape():
    x = np.array([[[[1.0, np.nan, 2.0, 2.0], [3.0, 4.0, np.inf, 0.0]]]])
    out, cache = cs231n.max_pool_forward_fast(x, {"pool_height": 2, "pool_width": 2, "stride": 2})
    np.testing.assert_array_equal(out, [[[[np.nan, np.inf]]]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dx = cs231n.max_pool_backward_fast(np.array([[[[5.0, np.inf]]]]), cache)
    np.testing.assert_array_equal(dx, [[[[np.nan, np.nan, 0, 0], [np.nan, np.nan, np.inf, 0]]]])


@pytest.mark.parametrize(("size", "window"), [case for case in TILING if case[1][0] == case[1][1]], ids=str)
def test_convolution_is_its_sum_over_the_windows(size, window):
    height, width, stride, pad = window
    x, w, b = draws((2, 3, *size)), draws((4, 3, height, width), seed=2), draws((4,), seed=3)
    cols = columns(x, *window, "nhwcij")
    expected = np.einsum("nhwcij,fcij->nfhw", cols, w) + b[:, None, None]
    dout = draws(expected.shape, seed=4)
    dw = np.einsum("nfhw,nhwcij->fcij", dout, cols)
    dx = image(np.einsum("nfhw,fcij->nhwcij", dout, w), x.shape, *window, "nhwcij")

    out, cache = cs231n.conv_forward_fast(x, w, b, {"stride": stride, "pad": pad})
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(cache[4], columns(x, *window, "cijnhw").reshape(3 * height * width, -1))
    layer = dlfs.Convolution(w, b, stride, pad)
    outs = out, layer.forward(x)
    np.testing.assert_array_equal(layer.col, cols.reshape(-1, 3 * height * width))
    np.testing.assert_array_equal(layer.col_W, w.reshape(4, -1).T)
    gradients = cs231n.conv_backward_fast(dout, cache), (layer.backward(dout), layer.dW, layer.db)
    for got in outs:
        np.testing.assert_array_equal(got, expected)
    for got in gradients:
        for one, of in zip(got, (dx, dw, dout.sum(axis=(0, 2, 3))), strict=True):
            np.testing.assert_array_equal(one, of)


@pytest.mark.parametrize(
    ("size", "window"),
    [((6, 8), (2, 2, 2, 0)), ((7, 9), (3, 2, 2, 0)), ((5, 5), (3, 3, 1, 1)), ((4, 6), (2, 3, 2, 2))],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling_of_the_book_lets_the_zeros_of_the_padding_win(size, window, dtype):
    height, width, stride, pad = window
    x = draws((2, 3, *size), dtype)  # half of it below zero, full of ties
    cols = columns(x, *window, "nhwcij")
    shape, cols = cols.shape[:4], cols.reshape(-1, height * width)
    layer = dlfs.Pooling(height, width, stride, pad)
    out = layer.forward(x)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, cols.max(axis=1).reshape(shape).transpose(0, 3, 1, 2))
    assert layer.arg_max.dtype == np.int64
    np.testing.assert_array_equal(layer.arg_max, cols.argmax(axis=1))
    dout = draws(out.shape)
    chosen = np.zeros(cols.shape)
    chosen[np.arange(len(cols)), cols.argmax(axis=1)] = dout.transpose(0, 2, 3, 1).ravel()
    expected = image(chosen.reshape(*shape, height, width), x.shape, *window, "nhwcij")
    np.testing.assert_array_equal(layer.backward(dout), expected)


def test_the_strides_of_the_book_are_its_defaults():
    assert dlfs.Pooling(3, 2).stride == 2
    assert dlfs.Convolution(np.ones((1, 1, 1, 1)), np.zeros(1)).stride == 1


def test_a_dilation_of_zero_is_none():
    X = draws((2, 7, 8, 3))
    for dilation in (0, 1, 2):
        cols, pads = numpy_ml.im2col(X, (2, 3, 3, 5), (1, 0), 1, dilation)
        assert pads == (1, 1, 0, 0)
        padded = np.pad(np.moveaxis(X, -1, 1), ((0, 0), (0, 0), (1, 1), (0, 0)))
        step = dilation + 1
        rows, columns_ = 9 - step, 8 - 2 * step
        taps = [
            padded[:, c, i * step : i * step + rows, j * step : j * step + columns_] for c, i, j in np.ndindex(3, 2, 3)
        ]
        expected = np.stack(taps).transpose(0, 2, 3, 1).reshape(18, -1)
        np.testing.assert_array_equal(cols, expected)


POOL = {"pool_height": 2, "pool_width": 2, "stride": 2}
X = np.zeros((1, 1, 5, 4))
CONVOLUTION = np.ones((2, 1, 2, 2)), np.zeros(2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cs231n.im2col_indices(X, 2, 2, 0, 2), ValueError, "do not tile an axis of 5 padded by 0"),
        (lambda: cs231n.max_pool_forward_fast(X, POOL), ValueError, "do not tile an axis of 5 padded by 0"),
        (
            lambda: cs231n.max_pool_forward_fast(X, {"stride": 2}),
            ValueError,
            "pool_param must be a dict with 'pool_height'",
        ),
        (
            lambda: cs231n.max_pool_forward_fast(X[0], POOL),
            ValueError,
            r"x must have shape \(N, C, H, W\), got \(1, 5, 4\)",
        ),
        (lambda: cs231n.max_pool_backward_fast(X, ("naive", ())), ValueError, "the method of cache .* got 'naive'"),
        (
            lambda: cs231n.max_pool_backward_fast(X, cs231n.max_pool_forward_fast(X[:, :, 1:], POOL)[1]),
            ValueError,
            r"dout must have the shape \(1, 1, 2, 2\) of out, got \(1, 1, 5, 4\)",
        ),
        (
            lambda: cs231n.max_pool_backward_fast(
                np.ones((1, 1, 2, 2)), cs231n.max_pool_forward_fast(np.zeros((1, 1, 4, 4), int), POOL)[1]
            ),
            TypeError,
            "x of the forward pass must be floating for a gradient, got int64",
        ),
        (
            lambda: cs231n.conv_forward_fast(X, *CONVOLUTION, {"stride": 2, "pad": 0}),
            ValueError,
            "do not tile an axis of 5 padded by 0",
        ),
        (
            lambda: cs231n.conv_forward_fast(X, np.ones((2, 3, 2, 2)), np.zeros(2), {"stride": 1, "pad": 0}),
            ValueError,
            r"w must have shape \(F, 1, HH, WW\) for the channels of x, got \(2, 3, 2, 2\)",
        ),
        (
            lambda: cs231n.conv_forward_fast(X, CONVOLUTION[0], np.zeros(3), {"stride": 1, "pad": 0}),
            ValueError,
            r"b must have shape \(2,\) for the filters of w, got \(3,\)",
        ),
        (
            lambda: cs231n.col2im_6d_cython(np.zeros((1, 2, 2, 9)), 1, 1, 3, 3, 2, 2, 0, 1),
            ValueError,
            r"cols must have shape \(C, HH, WW, N, OH, OW\)",
        ),
        (
            lambda: cs231n.col2im_6d_cython(np.zeros((1, 2, 2, 1, 3, 2)), 1, 1, 3, 4, 2, 2, 0, 1),
            ValueError,
            r"cols must have shape .* here \(1, 2, 2, 1, 2, 3\), got \(1, 2, 2, 1, 3, 2\)",
        ),
        (
            lambda: cs231n.conv_backward_fast(
                np.ones((1, 2, 3, 4)), cs231n.conv_forward_fast(X, *CONVOLUTION, {"stride": 1, "pad": 0})[1]
            ),
            ValueError,
            r"dout must have the shape \(1, 2, 4, 3\) of out, got \(1, 2, 3, 4\)",
        ),
        (lambda: cs231n.col2im_cython(np.zeros((4, 5)), 1, 1, 3, 3, 2, 2, 0, 1), ValueError, "cols must have shape"),
        (lambda: dlfs.im2col(X[0, 0], 2, 2), ValueError, r"input_data must have shape \(N, C, H, W\), got \(5, 4\)"),
        (lambda: dlfs.im2col(X, 6, 2), ValueError, "6"),
        (lambda: dlfs.Pooling(2, 2, pad=-1), ValueError, "pad must be 0 or more, got -1"),
        (lambda: dlfs.Pooling(2, 2).backward(X), RuntimeError, "Pooling.backward needs a forward pass before it"),
        (
            lambda: dlfs.Convolution(*CONVOLUTION).forward(np.zeros((1, 3, 5, 5))),
            ValueError,
            "x must have the 1 channels of W",
        ),
        (
            lambda: numpy_ml.im2col(X, (2, 2, 1, 3), 0, 1),
            ValueError,
            r"W_shape must be \(kernel_rows, kernel_cols, 4, out_ch\)",
        ),
        (lambda: numpy_ml.im2col(X, (2, 2, 4, 3), "full", 1), ValueError, "pad must be .* got 'full'"),
        (lambda: numpy_ml.im2col(X, (2, 2, 4, 3), 1, 1, -1), ValueError, "dilation must be 0 or more, got -1"),
        (
            lambda: numpy_ml.col2im(X, X.shape, (2, 2, 4, 3), 0, 1),
            TypeError,
            r"pad must be a tuple \(above, below, left, right\), got 0",
        ),
    ],
)
def test_a_refusal_names_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_gradient_with_rows_and_columns_exchanged_is_refused():
    layer = dlfs.Convolution(*CONVOLUTION)
    dout = layer.forward(X).swapaxes(2, 3)
    with pytest.raises(ValueError, match=r"dout must have the shape \(1, 2, 4, 3\) .* got \(1, 2, 3, 4\)"):
        layer.backward(dout)


def test_batches_of_no_image_work():
    x = np.zeros((0, 2, 4, 4))
    out, cache = cs231n.max_pool_forward_fast(x, POOL)
    assert cs231n.max_pool_backward_fast(out, cache).shape == x.shape
    assert dlfs.im2col(x, 2, 2).shape == (0, 8)
    assert dlfs.col2im(np.zeros((0, 8)), x.shape, 2, 2).shape == x.shape
    assert cs231n.col2im_6d_cython(np.zeros((0, 2, 2, 1, 3, 3)), 1, 0, 4, 4, 2, 2, 0, 1).shape == (1, 0, 4, 4)
    for layer in dlfs.Pooling(2, 2), dlfs.Convolution(np.ones((3, 2, 2, 2)), np.zeros(3)):
        assert layer.backward(layer.forward(x)).shape == x.shape


@pytest.fixture
def dezero(monkeypatch):
    """DeZero, whose latest release names aliases that NumPy no longer has."""
    monkeypatch.setattr(np, "int", int, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("dezero.functions_conv")


@pytest.fixture
def original():
    """The module of numpy-ml alone: the package itself does not import on this Python."""
    found = importlib.util.find_spec("numpy_ml")
    if found is None:
        pytest.skip("numpy_ml is not installed")
    path = f"{found.submodule_search_locations[0]}/neural_nets/utils/utils.py"
    spec = importlib.util.spec_from_file_location("numpy_ml_utils", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("to_matrix", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 1, 1), ((2, 3), (2, 1), (1, 2)), (2, 2, 0)], ids=str)
def test_dezero_gives_the_same_columns(dezero, kernel, stride, pad, to_matrix):
    x = draws((2, 3, 7, 8), np.float32)
    cols = dlfs.im2col_array(x, kernel, stride, pad, to_matrix)
    expected = dezero.im2col_array(x, kernel, stride, pad, to_matrix)
    assert cols.dtype == expected.dtype
    np.testing.assert_array_equal(cols, expected)
    np.testing.assert_array_equal(
        dlfs.col2im_array(cols, x.shape, kernel, stride, pad, to_matrix),
        dezero.col2im_array(cols, x.shape, kernel, stride, pad, to_matrix),
    )


def test_a_gradient_of_dezero_is_the_same_on_fastpool(dezero, monkeypatch):
    import dezero as framework

    x, w, b = draws((2, 3, 6, 6)), draws((4, 3, 3, 3), seed=2), draws((4,), seed=3)

    def gradients():
        of = [framework.Variable(a.copy()) for a in (x, w, b)]
        y = dezero.pooling(dezero.conv2d(*of, stride=1, pad=1), 2, 2)
        framework.functions.sum(y).backward()
        return [y.data, *(v.grad.data for v in of)]

    expected = gradients()
    monkeypatch.setattr(dezero, "im2col_array", dlfs.im2col_array)
    monkeypatch.setattr(dezero, "col2im_array", dlfs.col2im_array)
    for got, wanted in zip(gradients(), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("pad", [0, 2, (1, 2), (1, 2, 3, 0), "same"], ids=str)
@pytest.mark.parametrize(("stride", "dilation"), [(1, 0), (2, 0), (1, 2), (3, 1)])
def test_numpy_ml_gives_the_same_columns(original, pad, stride, dilation):
    X, kernel = draws((2, 7, 8, 3)), (2, 3, 3, 5)
    cols, pads = numpy_ml.im2col(X, kernel, pad, stride, dilation)
    expected, expected_pads = original.im2col(X, kernel, pad, stride, dilation)
    assert pads == expected_pads
    np.testing.assert_array_equal(cols, expected)
    back = numpy_ml.col2im(cols, X.shape, kernel, pads, stride, dilation)
    wanted = original.col2im(cols, X.shape, kernel, pads, stride, dilation)
    assert back.dtype == wanted.dtype
    np.testing.assert_array_equal(back, wanted)
