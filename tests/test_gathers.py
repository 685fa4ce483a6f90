"""Second derivatives of pooling, the gradient of max unpooling and nearest unpooling: against loops and PyTorch.

Index conventions that max unpooling alone has are here, too, against TensorFlow and ONNX.
"""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import FLOATS, LAYOUTS, POOLS, UNPOOLS, shaped, to_layout, values
from test_properties import CONVENTIONS, problems

import fastpool as fp
from fastpool.window import Window

few = settings(max_examples=40, deadline=None, derandomize=True, database=None)
DOUBLE_BACKWARD = {n: getattr(fp, f"max_pool{n}d_double_backward") for n in (1, 2, 3)}
UNPOOLS_BACKWARD = {n: getattr(fp, f"max_unpool{n}d_backward") for n in (1, 2, 3)}
NEAREST = {n: getattr(fp, f"nearest_unpool{n}d") for n in (1, 2, 3)}


def dot(a, b):
    return np.vdot(a.astype(np.float64), b.astype(np.float64))


@few
@given(problem=problems())
def test_a_double_backward_is_the_adjoint_of_backward(problem):
    axes, shape, window, layout = problem
    n = len(axes)
    rng = np.random.default_rng(1)
    x, ddx = (to_layout(rng.integers(-9, 10, shape).astype(np.float64), layout) for _ in range(2))
    for op in ("max", "min"):
        name = f"arg{op}"
        pool = getattr(fp, f"{op}_pool{n}d")
        y, where = pool(x, **window, data_format=layout, **{f"return_{name}": True})
        dy = rng.integers(-9, 10, y.shape).astype(np.float64)
        dx = getattr(fp, f"{op}_pool{n}d_backward")(dy, where, x.shape, **window, data_format=layout)
        ddy = getattr(fp, f"{op}_pool{n}d_double_backward")(ddx, where, **window, data_format=layout)
        assert ddy.shape == y.shape
        assert dot(dx, ddx) == dot(dy, ddy)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_double_backward_of_x_itself_is_the_pooled_array(dtype, layout, swapped):
    x = to_layout(values((2, 3, 9, 8), dtype), layout)
    if swapped and dtype.isbuiltin == 1:
        x = x.astype(dtype.newbyteorder())[::-1]
    y, argmax = fp.max_pool2d(x, 3, 2, 1, data_format=layout, return_argmax=True)
    out = np.empty(y.shape, y.dtype)
    got = fp.max_pool2d_double_backward(x, argmax, 3, 2, 1, data_format=layout, out=out)
    assert got is out
    np.testing.assert_array_equal(got.astype(float), y.astype(float))


def test_a_window_of_padding_alone_has_no_second_derivative():
    x = np.ones(3)
    y, argmax = fp.max_pool1d(x, 2, 1, ((2, 0),), return_argmax=True)
    assert y[0] == -np.inf
    np.testing.assert_array_equal(fp.max_pool1d_double_backward(x, argmax, 2, 1, ((2, 0),)), [0, 1, 1, 1])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_second_derivatives_are_those_of_pytorch(axes):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    x = torch.randn(2, 3, *(9,) * axes, dtype=torch.float64, requires_grad=True)
    y, argmax = POOLS[axes](x.detach(), 3, 2, 1, return_argmax=True)
    dy = torch.randn(y.shape, dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(getattr(F, f"max_pool{axes}d")(x, 3, 2, 1), x, dy, create_graph=True)
    ddx = torch.randn(x.shape, dtype=torch.float64)
    (expected,) = torch.autograd.grad(dx, dy, ddx)
    assert torch.equal(DOUBLE_BACKWARD[axes](ddx, argmax, 3, 2, 1), expected)


def test_an_argmax_that_does_not_fit_is_refused_before_anything_is_written():
    out = np.full(2, 7.0)
    with pytest.raises(ValueError, match=r"argmax must be below 2, .*got 2"):
        fp.max_pool1d_double_backward(np.ones(4), np.array([0, 2], np.uint8), 2, out=out)
    with pytest.raises(ValueError, match="argmin names a cell of padding"):
        fp.min_pool1d_double_backward(np.ones(3), np.zeros(2, np.uint8), 2, padding=1, out=out)
    with pytest.raises(TypeError, match="argmax must have the dtype uint8"):
        fp.max_pool1d_double_backward(np.ones(4), np.zeros(2, int), 2)
    with pytest.raises(TypeError, match="ddx must be float16"):
        fp.max_pool1d_double_backward(np.ones(4, int), np.zeros(2, np.uint8), 2)
    with pytest.raises(ValueError, match=r"argmax must have the shape \(2,\)"):
        fp.max_pool1d_double_backward(np.ones(4), np.zeros(3, np.uint8), 2)
    assert (out == 7).all()


@few
@given(problem=problems(), convention=st.sampled_from(CONVENTIONS))
def test_the_gradient_of_unpooling_is_its_adjoint(problem, convention):
    """Where no two values go to one cell."""
    axes, shape, window, layout = problem
    window = {**window, "stride": tuple(map(int, np.atleast_1d(window["kernel_size"]))), "dilation": 1}
    n = len(axes)
    x = to_layout(np.random.default_rng(2).permutation(np.prod(shape)).reshape(shape).astype(np.float64), layout)
    y, argmax = POOLS[n](x, **window, data_format=layout, return_argmax=True)
    if convention == "chainer" and window.pop("ceil_mode", False):
        return
    window.pop("ceil_mode", None)
    if POOLS[n](x, **window, data_format=layout).shape != y.shape:
        return
    indices = fp.argmax_to_indices(argmax, x.shape, **window, data_format=layout, convention=convention)
    del window["dilation"]
    y = np.where(np.isfinite(y), y, 0)
    rest = {"data_format": layout, "convention": convention}
    unpooled = UNPOOLS[n](y, indices, **window, output_shape=x.shape, **rest)
    dx = np.random.default_rng(3).integers(-9, 10, x.shape).astype(np.float64)
    dy = UNPOOLS_BACKWARD[n](dx, indices, **window, **rest)
    assert dot(unpooled, dx) == dot(y, dy)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_gradient_of_unpooling_is_that_of_pytorch(axes):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    x = torch.randn(2, 3, *(8,) * axes)
    y, indices = getattr(F, f"max_pool{axes}d")(x, 2, return_indices=True)
    y.requires_grad_()
    unpooled = getattr(F, f"max_unpool{axes}d")(y, indices, 2)
    dx = torch.randn(unpooled.shape)
    unpooled.backward(dx)
    assert torch.equal(UNPOOLS_BACKWARD[axes](dx, indices, 2), y.grad)


def test_minus_one_takes_no_gradient_and_wrong_indices_are_refused():
    dx = np.arange(4.0)
    np.testing.assert_array_equal(fp.max_unpool1d_backward(dx, np.array([-1, 3]), 2), [0, 3])
    out = np.full(2, 7.0)
    for wrong in (-2, 4):
        with pytest.raises(ValueError, match=f"indices must name cells.*below 4.*got {wrong}"):
            fp.max_unpool1d_backward(dx, np.array([0, wrong]), 2, out=out)
    with pytest.raises(ValueError, match="a cell of another plane"):
        fp.max_unpool1d_backward(
            np.ones((2, 4)), np.array([[0, 1], [3, 5]]), 2, convention="onnx", out=np.empty((2, 2))
        )
    with pytest.raises(TypeError, match="indices must be integers"):
        fp.max_unpool1d_backward(dx, np.ones(2), 2)
    with pytest.raises(ValueError, match="dx must have as many axes as indices"):
        fp.max_unpool1d_backward(dx, np.zeros((1, 2), int), 2)
    with pytest.raises(ValueError, match="dx must keep the batch and the channels of indices"):
        fp.max_unpool1d_backward(np.ones((2, 4)), np.zeros((3, 2), int), 2)
    assert (out == 7).all()


def _nearest(y, window):
    """Of an array (N, C, ...): each value at all taps of its window, zeros elsewhere."""
    x = np.zeros((*y.shape[:2], *window.size[3 - (y.ndim - 2) :]), y.dtype)
    taps = [window.taps(axis) for axis in range(3 - (y.ndim - 2), 3)]
    for place in np.ndindex(*y.shape[2:]):
        for cell in product(*(t[o] for t, o in zip(taps, place, strict=True))):
            if all(0 <= i < n for i, n in zip(cell, x.shape[2:], strict=True)):
                x[(..., *cell)] = y[(..., *place)]
    return x


@few
@given(
    kernel=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    data=st.data(),
    layout=st.sampled_from(LAYOUTS),
    batch=st.integers(0, 2),
)
def test_nearest_unpooling_puts_each_value_to_all_cells_of_its_window(kernel, data, layout, batch):
    n = len(kernel)
    stride = [k + data.draw(st.integers(0, 2)) for k in kernel]
    padding = [data.draw(st.integers(0, k)) for k in kernel]
    out = [data.draw(st.integers(1, 4)) for _ in kernel]
    least = [(o - 1) * s + k - 2 * p for o, s, k, p in zip(out, stride, kernel, padding, strict=True)]
    size = [max(s + data.draw(st.integers(0, 3)), 1) for s in least]
    y = np.arange(1, 1 + batch * 2 * np.prod(out)).reshape(batch, 2, *out)
    arguments = {"kernel_size": tuple(kernel), "stride": tuple(stride), "padding": tuple(padding)}
    got = NEAREST[n](to_layout(y, layout), **arguments, output_shape=tuple(size), data_format=layout)
    window = Window.plan(n, (1, 1, *size), **arguments)
    kept = window._replace(out=(1,) * (3 - n) + tuple(out), stride=(1,) * (3 - n) + tuple(stride))
    np.testing.assert_array_equal(got, to_layout(_nearest(y, kept), layout))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_nearest_unpooling_is_upsampling_whose_gradient_is_a_pool_of_sums(axes):
    torch = pytest.importorskip("torch")
    y = torch.randn(2, 3, *(4,) * axes, requires_grad=True)
    expected = torch.nn.functional.interpolate(y, scale_factor=3, mode="nearest")
    assert torch.equal(NEAREST[axes](y.detach(), 3), expected)
    dx = torch.randn(expected.shape)
    expected.backward(dx)
    torch.testing.assert_close(getattr(fp, f"avg_pool{axes}d")(dx, 3, divisor_override=1), y.grad)


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">i4", "float16"])
def test_nearest_unpooling_takes_any_dtype_and_strides(dtype):
    y = np.arange(12).reshape(3, 4).astype(dtype)[::-1, ::2]
    out = np.empty((8, 6), y.dtype.newbyteorder("="))[:6, :4]
    assert fp.nearest_unpool2d(y, 2, out=out) is out
    np.testing.assert_array_equal(out, np.repeat(np.repeat(y, 2, 0), 2, 1))
    with pytest.raises(ValueError, match=r"stride must be at least kernel_size \(2, 2\), got \(1, 2\)"):
        fp.nearest_unpool2d(y, 2, (1, 2))
    with pytest.raises(ValueError, match=r"padding must leave cells of \(\d+, \d+\) windows of \(2, 2\) .* got 9"):
        fp.nearest_unpool2d(y, 2, padding=9)


def test_indices_with_the_batch_are_those_of_tensorflow():
    tensorflow = pytest.importorskip("tensorflow")
    x = np.random.default_rng(0).standard_normal((3, 6, 4, 5)).astype(np.float32)
    expected = tensorflow.nn.max_pool_with_argmax(x, 2, 2, "VALID", include_batch_in_index=True)[1].numpy()
    _, argmax = fp.max_pool2d(x, 2, data_format="channels_last", return_argmax=True)
    rest = {"data_format": "channels_last", "convention": "tensorflow_with_batch"}
    indices = fp.argmax_to_indices(argmax, x.shape, 2, **rest)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(x.reshape(-1)[indices], fp.max_pool2d(x, 2, data_format="channels_last"))


@pytest.mark.parametrize("shape", [None, (5, 5), (1, 1, 6, 7)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", ["naive", "numpy", "numba"])
def test_indices_of_onnx_count_in_the_default_shape(shape, layout, backend):
    """The node test test_maxunpool_export_with_output_shape of ONNX has the first output_shape."""
    y, indices = np.array([[[[5, 6], [7, 8]]]], np.float32), np.array([[[[5, 7], [13, 15]]]])
    given_shape = shape if shape is None or len(shape) == 2 else shaped(shape, layout)
    got = fp.max_unpool2d(
        to_layout(y, layout), to_layout(indices, layout), 2, output_shape=given_shape,
        convention="onnx_default_shape", data_format=layout, backend=backend,
    )  # fmt: skip
    expected = np.zeros((1, 1, *(shape or (4, 4))[-2:]), np.float32)
    expected[0, 0, 1:4:2, 1:4:2] = y
    np.testing.assert_array_equal(got, to_layout(expected, layout))


def test_onnx_itself_counts_in_the_default_shape():
    reference = pytest.importorskip("onnx.reference")
    from onnx import TensorProto, helper

    y, indices = np.array([[[[5, 6], [7, 8]]]], np.float32), np.array([[[[5, 7], [13, 15]]]])
    node = helper.make_node("MaxUnpool", ["y", "indices", "shape"], ["x"], kernel_shape=[2, 2], strides=[2, 2])
    inputs = [
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in (("y", TensorProto.FLOAT), ("indices", TensorProto.INT64), ("shape", TensorProto.INT64))
    ]
    graph = helper.make_graph([node], "unpool", inputs, [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    feed = {"y": y, "indices": indices, "shape": np.array([1, 1, 5, 5])}
    (expected,) = reference.ReferenceEvaluator(model).run(None, feed)
    got = fp.max_unpool2d(y, indices, 2, output_shape=(5, 5), convention="onnx_default_shape")
    np.testing.assert_array_equal(got, expected)


def test_an_output_shape_below_the_default_is_refused_where_indices_count_in_that():
    with pytest.raises(ValueError, match=r"output_shape must be at least the default \(4, 4\).*got \(3, 5\)"):
        fp.max_unpool2d(np.ones((2, 2)), np.zeros((2, 2), int), 2, output_shape=(3, 5), convention="onnx_default_shape")
    with pytest.raises(ValueError, match="convention must be"):
        fp.argmax_to_indices(np.zeros((2, 2), np.uint8), (4, 4), (2, 2), convention="onnx_default_shape")
