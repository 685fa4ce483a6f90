"""PyTorch as an independent reference: values, indices and gradients on seeded random problems.

PyTorch pads by at most half a window, the same at both ends. Of several NaN in a window its index is the last, that of
fastpool the first, so indices are compared without NaN. FASTPOOL_TORCH_PROBLEMS sets the number of problems.
"""

import os

import ml_dtypes
import numpy as np
import pytest
from specimens import AVERAGES, AVERAGES_BACKWARD, LAYOUTS, POOLS, POOLS_BACKWARD, UNPOOLS, to_layout, values

import fastpool as fp
from fastpool import convolution

torch = pytest.importorskip("torch")
F = torch.nn.functional

PROBLEMS = int(os.environ.get("FASTPOOL_TORCH_PROBLEMS", "300"))
DTYPES = ("float32", "float64", "float16", "bfloat16", "uint8", "int8", "int32", "int64")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
MAX_UNPOOLS = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}


def tensor(a):
    if a.dtype == BFLOAT16:
        return torch.from_numpy(np.ascontiguousarray(a).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(a))


def array(t):
    t = t.detach().contiguous()
    return t.view(torch.int16).numpy().view(BFLOAT16) if t.dtype == torch.bfloat16 else t.numpy()


def same(got, expected):
    assert got.dtype == expected.dtype
    if got.dtype == BFLOAT16:
        got, expected = got.astype(np.float32), expected.astype(np.float32)
    np.testing.assert_array_equal(got, expected)


def random_problem(seed):
    """A shape, a window that PyTorch takes, and a dtype."""
    rng = np.random.default_rng([2026, seed])
    axes = int(rng.integers(1, 4))
    most = {1: 60, 2: 22, 3: 10}[axes]
    window = {
        "kernel_size": tuple(int(k) for k in rng.integers(1, {1: 9, 2: 6, 3: 4}[axes], axes)),
        "dilation": tuple(int(d) for d in rng.integers(1, 4, axes)),
        "stride": tuple(int(s) for s in rng.integers(1, 5, axes)),
        "ceil_mode": bool(rng.integers(2)),
    }
    window["padding"] = tuple(int(rng.integers(0, k // 2 + 1)) for k in window["kernel_size"])
    reach = [d * (k - 1) + 1 for k, d in zip(window["kernel_size"], window["dilation"], strict=True)]
    space = tuple(int(rng.integers(min(e, most), most + 1)) + max(e - most, 0) for e in reach)
    shape = (int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 5, 16, 19])), *space)
    return axes, shape, window, DTYPES[int(rng.integers(len(DTYPES)))], LAYOUTS[int(rng.integers(2))]


@pytest.mark.parametrize("seed", range(PROBLEMS))
def test_pooling_agrees(seed):
    axes, shape, window, dtype, layout = random_problem(seed)
    dtype = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    x = values(shape, dtype, seed)
    is_float = dtype.kind == "f" or dtype == BFLOAT16
    if is_float:
        x[np.isnan(x)] = -np.inf
    theirs = tensor(x).requires_grad_(is_float)
    expected, indices = MAX_POOLS[axes](theirs, **window, return_indices=True)

    mine = to_layout(x, layout)
    plan = {**window, "data_format": layout}
    y, argmax = POOLS[axes](mine, **plan, return_argmax=True)
    same(y, to_layout(array(expected), layout))
    np.testing.assert_array_equal(
        fp.argmax_to_indices(argmax, mine.shape, **plan, convention="torch"), to_layout(indices.numpy(), layout)
    )
    if is_float:
        dy = np.random.default_rng(seed).integers(-4, 5, expected.shape).astype(dtype)
        expected.backward(tensor(dy))
        dx = POOLS_BACKWARD[axes](to_layout(dy, layout), argmax, mine.shape, **plan)
        same(dx, to_layout(array(theirs.grad), layout))


@pytest.mark.parametrize("seed", range(PROBLEMS // 2))
def test_average_pooling_agrees(seed):
    axes, shape, window, _, layout = random_problem(seed)
    rng = np.random.default_rng([7, seed])
    space = [max(n, k) for n, k in zip(shape[2:], window["kernel_size"], strict=True)]
    window = {name: value for name, value in window.items() if name != "dilation"}
    window["count_include_pad"] = bool(rng.integers(2))
    if axes > 1 and rng.random() < 0.3:
        window["divisor_override"] = int(rng.integers(1, 9))
    dtype = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16)[seed % 4]
    x = rng.integers(-9, 10, (*shape[:2], *space)).astype(dtype)
    in_torch = np.float32 if dtype.itemsize == 2 else dtype  # it has no two-byte averages of volumes
    theirs = tensor(x.astype(in_torch)).requires_grad_()
    expected = AVG_POOLS[axes](theirs, **window)
    dy = rng.integers(-9, 10, expected.shape).astype(dtype)
    expected.backward(tensor(dy.astype(in_torch)))
    y = AVERAGES[axes](to_layout(x, layout), **window, data_format=layout)
    dx = AVERAGES_BACKWARD[axes](to_layout(dy, layout), to_layout(x, layout).shape, **window, data_format=layout)
    tolerance = 40 * float(ml_dtypes.finfo(dtype).eps)
    for got, their in ((y, expected), (dx, theirs.grad)):
        assert got.dtype == dtype
        got, their = got.astype(np.float64), to_layout(array(their), layout).astype(np.float64)
        np.testing.assert_allclose(got, their, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_tensor_is_averaged_to_a_tensor(axes):
    x = torch.arange(2.0 * 3 * 8**axes).reshape(2, 3, *(8,) * axes)
    y = AVERAGES[axes](x, 3, 2, 1)
    torch.testing.assert_close(y, AVG_POOLS[axes](x, 3, 2, 1))
    torch.testing.assert_close(fp.global_avg_pool(x), x.mean(tuple(range(2, x.ndim))))


@pytest.mark.parametrize("axes", [2, 3])
def test_a_channels_last_tensor_gives_the_same_maxima(axes):
    x = values((2, 7, 9, 8, 6)[: axes + 2], np.float32)
    x[np.isnan(x)] = 0
    memory = {2: torch.channels_last, 3: torch.channels_last_3d}[axes]
    theirs = tensor(x).to(memory_format=memory)
    expected, indices = MAX_POOLS[axes](theirs, 3, 2, 1, return_indices=True)
    mine = theirs.numpy()
    y, argmax = POOLS[axes](mine, 3, 2, 1, return_argmax=True)
    same(y, array(expected))
    np.testing.assert_array_equal(fp.argmax_to_indices(argmax, mine.shape, 3, 2, 1), indices.numpy())


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_nan_propagates_as_in_pytorch(axes, dtype):
    dtype = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    x = values((3, 7, 12, 11, 10)[: axes + 2], dtype)
    assert np.isnan(x).any()
    same(POOLS[axes](x, 3, 2, 1), array(MAX_POOLS[axes](tensor(x), 3, 2, 1)))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kernel", [2, 3])
def test_unpooling_agrees(axes, kernel):
    x = np.random.default_rng(axes).permutation(2 * 3 * 12**axes).reshape(2, 3, *(12,) * axes).astype(np.float32)
    expected, indices = MAX_POOLS[axes](tensor(x), kernel, return_indices=True)
    unpooled = MAX_UNPOOLS[axes](expected, indices, kernel)
    same(UNPOOLS[axes](array(expected), indices.numpy(), kernel), array(unpooled))


@pytest.mark.parametrize("window", [{}, {"padding": 1, "stride": 2}, {"padding": (2, 0), "dilation": (1, 2)}], ids=str)
def test_unfold_and_fold_agree(window):
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 10, (2, 3, 8, 9)).astype(np.float32)
    cols = F.unfold(tensor(x), (3, 2), **window)
    same(fp.im2col(x, (3, 2), **window), array(cols))
    dcols = rng.integers(-9, 10, cols.shape).astype(np.float32)
    same(fp.col2im(dcols, x.shape, (3, 2), **window), array(F.fold(tensor(dcols), (8, 9), (3, 2), **window)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda t: t.__name__)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    ("groups", "window"),
    [
        (1, {}),
        (2, {"stride": 2, "padding": 1}),
        (4, {"stride": (1, 3), "padding": (3, 0), "dilation": (2, 1)}),
        (1, {"padding": "same", "dilation": 2}),
        (1, {"padding": "valid", "stride": 3}),
    ],
    ids=str,
)
def test_convolution_and_its_gradients_agree(window, groups, bias, layout, dtype):
    rng = np.random.default_rng(1)
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((2, 4, 9, 10), (8, 4 // groups, 3, 3), (8,)))
    tx, tw, tb = (tensor(a).requires_grad_() for a in (x, w, b))
    expected = F.conv2d(tx, tw, tb if bias else None, groups=groups, **window)
    dy = rng.standard_normal(expected.shape).astype(dtype)
    expected.backward(tensor(dy))

    plan = {"groups": groups, "data_format": layout, **window}
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype is np.float32 else {"rtol": 1e-11, "atol": 1e-11}
    mine = to_layout(x, layout)
    y = fp.conv2d(mine, w, b if bias else None, **plan)
    np.testing.assert_allclose(y, to_layout(array(expected), layout), **close)
    dx, dw, db = fp.conv2d_backward(to_layout(dy, layout), mine, w, **plan)
    np.testing.assert_allclose(dx, to_layout(array(tx.grad), layout), **close)
    np.testing.assert_allclose(dw, array(tw.grad), **close)
    np.testing.assert_allclose(db, dy.sum((0, 2, 3)), **close)


@pytest.mark.parametrize("seed", range(40))
def test_convolution_with_any_stride_agrees(seed):
    """Also with strides beyond the filter, elements left over at the end, and blocks of one row; with integers."""
    rng = np.random.default_rng([14, seed])
    kernel, stride, padding, dilation = (
        tuple(map(int, rng.integers(low, high, 2))) for low, high in ((1, 4), (1, 6), (0, 4), (1, 3))
    )
    groups, layout = int(rng.integers(1, 3)), LAYOUTS[seed % 2]
    space = tuple(
        max(d * (k - 1) + 1 - 2 * p, 1) + int(rng.integers(6))
        for k, p, d in zip(kernel, padding, dilation, strict=True)
    )
    x, w, b = (
        rng.integers(-4, 5, s).astype(np.float32)
        for s in ((2, 2 * groups, *space), (3 * groups, 2, *kernel), (3 * groups,))
    )
    tx, tw, tb = (tensor(a).requires_grad_() for a in (x, w, b))
    expected = F.conv2d(tx, tw, tb, stride, padding, dilation, groups)
    dy = rng.integers(-4, 5, expected.shape).astype(np.float32)
    expected.backward(tensor(dy))

    plan = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "data_format": layout}
    for block_bytes in (convolution.BLOCK_BYTES, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(convolution, "BLOCK_BYTES", block_bytes)
            same(fp.conv2d(to_layout(x, layout), w, b, **plan), to_layout(array(expected), layout))
            dx, dw, db = fp.conv2d_backward(to_layout(dy, layout), to_layout(x, layout), w, **plan)
        same(dx, to_layout(array(tx.grad), layout))
        same(dw, array(tw.grad))
        same(db, array(tb.grad))


@pytest.mark.parametrize("op", ["hard_swish", "swish"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda t: t.__name__)
def test_activations_and_their_gradients_agree(op, dtype, backend):
    forward, backward, theirs = {
        "hard_swish": (fp.hard_swish, fp.hard_swish_backward, F.hardswish),
        "swish": (fp.swish, fp.swish_backward, F.silu),
    }[op]
    x = np.random.default_rng(2).uniform(-12, 12, (3, 5, 41)).astype(dtype)
    dy = np.random.default_rng(3).standard_normal(x.shape).astype(dtype)
    try:
        y, dx = forward(x, backend=backend), backward(dy, x, backend=backend)
    except NotImplementedError as missing:
        pytest.skip(str(missing))
    tx = tensor(x).requires_grad_()
    expected = theirs(tx)
    expected.backward(tensor(dy))
    close = {"rtol": 2e-6, "atol": 2e-6} if dtype is np.float32 else {"rtol": 1e-14, "atol": 1e-14}
    np.testing.assert_allclose(y, array(expected), **close)
    np.testing.assert_allclose(dx, array(tx.grad), **close)


@pytest.mark.parametrize("pieces", [2, 3])
def test_maxout_and_its_gradient_agree_with_amax_over_the_pieces(pieces, backend):
    x = np.random.default_rng(4).permutation(2 * 4 * pieces * 35).reshape(2, 4 * pieces, 5, 7).astype(np.float32)
    tx = tensor(x).requires_grad_()
    expected = tx.reshape(2, pieces, 4, 5, 7).amax(1)
    dy = np.random.default_rng(5).standard_normal(expected.shape).astype(np.float32)
    expected.backward(tensor(dy))
    y, argmax = fp.maxout(x, 4, 1, return_argmax=True, backend=backend)
    same(y, array(expected))
    same(fp.maxout_backward(dy, argmax, x.shape, 1, backend=backend), array(tx.grad))


def test_out_that_shares_memory_with_itself_is_refused():
    x, one = torch.arange(64.0).reshape(1, 1, 8, 8), torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match="out must not have elements that share memory"):
        fp.max_pool2d(x, 2, out=one.expand(1, 1, 4, 4))
    assert not one.any()
    interleaved = np.lib.stride_tricks.as_strided(np.zeros(64, np.float32), (1, 1, 4, 4), (0, 0, 4, 24))
    fp.max_pool2d(x.numpy(), 2, out=interleaved)
    np.testing.assert_array_equal(interleaved, fp.max_pool2d(x.numpy(), 2))
    entangled = np.lib.stride_tricks.as_strided(np.zeros(64, np.float32), (1, 1, 4, 4), (0, 0, 8, 12))
    with pytest.raises(ValueError, match="out must not have elements that share memory"):
        fp.max_pool2d(x.numpy(), 2, out=entangled)


def test_autograd_notices_what_is_written_to_out():
    w = torch.randn(1, 1, 4, 4, requires_grad=True)
    y = torch.sigmoid(w)
    fp.max_pool2d(torch.full((1, 1, 4, 4), 0.5), 1, out=y.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_tensors_without_memory_and_negated_views_are_refused():
    x = torch.ones(1, 1, 4, 4)
    with pytest.raises(TypeError, match="x must be a tensor with memory"):
        torch.func.functionalize(lambda t: fp.max_pool2d(t, 2))(x)
    freed = torch.ones(1, 1, 4, 4)
    part = freed[:, :, :2, :2]
    freed.untyped_storage().resize_(0)
    with pytest.raises(TypeError, match="x must be a tensor with memory"):
        fp.max_pool2d(freed, 2)
    with pytest.raises(TypeError, match="out must be a tensor with memory"):
        fp.max_pool2d(x, 2, out=part)
    with pytest.raises(TypeError, match="x is a view that negates"):
        fp.max_pool2d(torch._neg_view(x), 2)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Dynamo tells what it cannot trace
@pytest.mark.slow
def test_a_compiled_function_can_make_a_call_that_is_not_yet_planned():
    """Dynamo recursed for ever where constants of kernels were written with `struct.pack`."""
    x = torch.randn(1, 3, 10, 47)  # a shape that no other test has
    compiled = torch.compile(lambda t: fp.max_pool2d(t, 3) + 1, backend="eager")
    assert torch.equal(compiled(x), F.max_pool2d(x, 3) + 1)
