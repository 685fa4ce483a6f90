"""fastpool's pooling, maxout and activations as custom operators of PyTorch."""

import pkgutil
import sys

import numpy as np
import pytest
from doctests import check, of_module, of_page

import fastpool as fp

torch = pytest.importorskip("torch")
F, nn = torch.nn.functional, torch.nn

from torch_specimens import FORMATS, draws, needs_compiler  # noqa: E402  after it is known that PyTorch is there

from fastpool.integrations import torch as ft  # noqa: E402
from fastpool.integrations.torch import pool_operators, tensors  # noqa: E402

POOLS = {1: ft.max_pool1d, 2: ft.max_pool2d, 3: ft.max_pool3d}
THEIRS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
WINDOWS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "dilation": 2, "ceil_mode": True},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)},
]
# PyTorch's make_dual warns of PyTorch's own decompositions.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_pooling_is_pytorchs_with_its_gradient_and_memory_format(window, dtype, memory_format):
    x = torch.randn(2, 5, 11, 12).to(getattr(torch, dtype)).contiguous(memory_format=FORMATS[memory_format])
    results = []
    for pool in (ft.max_pool2d, F.max_pool2d):
        mine = x.clone().requires_grad_()
        y = pool(mine, **window)
        dy = torch.arange(y.numel()).remainder(7).to(y.dtype).reshape(y.shape)
        y.backward(dy)
        results.append((y.detach(), mine.grad))
    for got, expected in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        assert got.stride() == expected.stride()
        assert torch.equal(got, expected)
    assert torch.equal(ft.max_pool2d(x, **window), results[1][0])  # without a gradient


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("batched", [True, False], ids=["batch", "no batch"])
def test_signals_images_and_volumes_pool_with_pytorchs_indices(axes, batched):
    x = draws(*([2] if batched else []), 3, *(9, 8, 7)[:axes])
    y, indices = POOLS[axes](x, 3, 2, 1, return_indices=True)
    expected, theirs = THEIRS[axes](x, 3, 2, 1, return_indices=True)
    assert torch.equal(y, expected)
    assert torch.equal(indices, theirs)
    np.testing.assert_array_equal(POOLS[axes](x[0][0] if batched else x[0], 3, 2, 1), y[0][0] if batched else y[0])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "int64"])
def test_whole_numbers_pool(dtype):
    x = torch.randint(0, 2 if dtype == "bool" else 100, (2, 3, 6, 6)).to(getattr(torch, dtype))
    y = ft.max_pool2d(x, 2)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.numpy(), fp.max_pool2d(x.numpy(), 2))


def volumes(*shape):
    return draws(*shape, memory_format=torch.channels_last_3d)


def images(*shape):
    return draws(*shape, memory_format=torch.channels_last)


LAID_OUT = {
    "images": (2, images(2, 6, 8, 10)),
    "channels of images": (2, images(2, 6, 8, 10)[:, 1:4]),
    "every second channel": (2, images(2, 6, 8, 10)[:, ::2]),
    "one channel of many": (2, images(2, 6, 8, 10)[:, :1]),
    "one channel": (2, images(2, 1, 8, 10)),
    "rows of images": (2, images(2, 6, 8, 10)[:, :, ::2]),
    "columns of images": (2, images(2, 6, 8, 10)[..., 2:]),
    "every second image": (2, images(4, 6, 8, 10)[::2]),
    "one image": (2, images(1, 6, 8, 10)),
    "one window an image": (2, images(2, 6, 2, 2)),
    "one window, one channel": (2, images(2, 1, 2, 2)),
    "an image repeated": (2, images(1, 6, 8, 10).expand(3, 6, 8, 10)),
    "a channel repeated": (2, draws(2, 1, 8, 10).expand(2, 6, 8, 10)),
    "rows repeated": (2, images(2, 6, 1, 10).expand(2, 6, 8, 10)),
    "no images": (2, images(0, 6, 8, 10)),
    "an image without batch": (2, images(2, 6, 8, 10)[0]),
    "channels first": (2, draws(2, 6, 8, 10)[:, :3]),
    "batch inside": (2, draws(8, 10, 6, 2).permute(3, 2, 0, 1)),
    "columns before rows": (2, draws(2, 6, 10, 8).transpose(2, 3)),
    "volumes": (3, volumes(2, 6, 4, 8, 10)),
    "channels of volumes": (3, volumes(2, 6, 4, 8, 10)[:, :4]),
    "planes of volumes": (3, volumes(2, 6, 4, 8, 10)[:, :, ::2]),
    "a volume repeated": (3, volumes(1, 6, 4, 8, 10).expand(2, 6, 4, 8, 10)),
    "a volume without batch": (3, volumes(2, 6, 4, 8, 10)[0]),
    "a volume without batch, channels first": (3, draws(2, 6, 4, 8, 10)[0, ::2]),
}


@pytest.mark.parametrize("name", LAID_OUT)
def test_results_have_the_strides_of_pytorchs(name):
    axes, x = LAID_OUT[name]
    leaf, their_leaf = x.detach().requires_grad_(), x.detach().requires_grad_()
    got = [POOLS[axes](x, 2), *POOLS[axes](x, 2, return_indices=True), POOLS[axes](leaf, 2)]
    expected = [THEIRS[axes](x, 2), *THEIRS[axes](x, 2, return_indices=True), THEIRS[axes](their_leaf, 2)]
    for g, e in zip(got, expected, strict=True):
        assert torch.equal(g, e)
        assert g.stride() == e.stride()
    dy = torch.randn(got[0].shape)
    (dx,), (their_dx,) = torch.autograd.grad(got[-1], leaf, dy), torch.autograd.grad(expected[-1], their_leaf, dy)
    assert torch.equal(dx, their_dx)
    if name not in ("a volume without batch", "one window, one channel"):  # where PyTorch asks x, and this the argmax
        assert dx.stride() == their_dx.stride()


def test_a_slice_of_an_unbatched_volume_keeps_its_channels_last():
    x = volumes(2, 6, 4, 8, 10)[0, :4]  # PyTorch gives contiguous ones
    y = ft.max_pool3d(x, 2)
    assert torch.equal(y, F.max_pool3d(x, 2))
    assert y.stride() == (1, 80, 20, 4)
    x = images(6, 4, 8, 10)  # which PyTorch refuses, since an image would have its channels last
    assert torch.equal(ft.max_pool3d(x, 2), F.max_pool3d(x.contiguous(), 2))


def test_maxout_and_hard_swish_keep_the_channels_of_a_slice_last():
    x = images(2, 6, 8, 10)[:, :4]
    assert ft.maxout(x, 2, 1).stride() == (160, 1, 20, 2)
    assert ft.hard_swish(x).stride() == F.hardswish(x).stride() == (320, 1, 40, 4)


@pytest.mark.parametrize("padding", ["same", "same_lower", "valid", 5, [(0, 1), (2, 0)], ((4, 4), (0, 0))], ids=str)
def test_padding_may_be_any_that_fastpool_takes(padding):
    x = draws(2, 3, 7, 8, dtype=torch.float64).requires_grad_()
    y = ft.max_pool2d(x, 3, 2, padding)
    expected, argmax = fp.max_pool2d(x.detach().numpy(), 3, 2, padding, return_argmax=True)
    np.testing.assert_array_equal(y.detach().numpy(), expected)
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    np.testing.assert_array_equal(dx.numpy(), fp.max_pool2d_backward(dy.numpy(), argmax, x.shape, 3, 2, padding))


def test_the_kernel_reads_the_memory_of_the_tensor(monkeypatch):
    seen = []
    monkeypatch.setitem(pool_operators.MAX_POOLS, 2, lambda x, **k: seen.append(x) or fp.max_pool2d(x, **k))
    for memory_format in FORMATS.values():
        x = draws(2, 3, 8, 8, memory_format=memory_format)
        ft.max_pool2d(x, 2)
        assert seen[-1].ctypes.data == x.data_ptr()
        assert seen[-1].shape == x.shape
        assert seen[-1].strides == tuple(4 * s for s in x.stride())
    x = draws(2, 3, 8, 8).to(torch.bfloat16)
    ft.max_pool2d(x, 2)
    assert seen[-1].ctypes.data == x.data_ptr()


def test_tensors_of_any_strides_pool():
    x = draws(4, 6, 9, 8)
    for view in (x[::2, ::3], x[:, :, ::2, 1:], x.transpose(2, 3), x.transpose(0, 1), x[:1].expand(3, 6, 9, 8)):
        assert torch.equal(ft.max_pool2d(view, 2), F.max_pool2d(view, 2))
        leaf = view.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        (dx,) = torch.autograd.grad(ft.max_pool2d(leaf, 3, 2).sum(), leaf)  # a gradient of expanded ones
        (expected,) = torch.autograd.grad(F.max_pool2d(leaf, 3, 2).sum(), leaf)
        assert torch.equal(dx, expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: ft.max_pool2d(x, 0), ValueError, "kernel_size must be positive"),
        (lambda x: ft.max_pool2d(x, (2, 2, 2)), ValueError, "kernel_size must be one integer or 2"),
        (lambda x: ft.max_pool2d(x, True), TypeError, "kernel_size must be an integer, got True"),
        (lambda x: ft.max_pool2d(x, (2, 2.0)), TypeError, "kernel_size must be an integer, got 2.0"),
        (lambda x: ft.max_pool2d(x, 2, padding=[(0, 1), (0, True)]), TypeError, "padding must be an integer, got True"),
        (lambda x: ft.max_pool2d(x, 2, ceil_mode="False"), TypeError, "ceil_mode must be True or False, got 'False'"),
        (lambda x: ft.max_pool2d(x, 2, return_indices=[1]), TypeError, r"return_indices must be .*got \[1\]"),
        (lambda x: ft.maxout(x, True), TypeError, "num_units must be an integer, got True"),
        (lambda x: ft.maxout(torch.tensor(3.0), 1), ValueError, "input must have at least one axis"),
        (lambda x: ft.max_pool2d(x, 9), ValueError, "a window of 9 cells does not fit"),
        (lambda x: ft.max_pool2d(x, 2, padding="full"), ValueError, "padding must be 'valid', 'same'"),
        (lambda x: ft.max_pool2d(x.numpy(), 2), TypeError, "input must be a torch.Tensor, got numpy.ndarray"),
        (lambda x: ft.maxout([1.0], 1), TypeError, "input must be a torch.Tensor, got builtins.list"),
        (lambda x: ft.hard_swish(1.0), TypeError, "input must be a torch.Tensor, got builtins.float"),
        (lambda x: ft.max_pool2d(x, 2, padding=""), ValueError, "padding must hold .* got ''"),
        (lambda x: ft.max_pool2d(x, 2, padding=[(1, 1)]), ValueError, r"padding must hold a \(before, after\) pair"),
        (lambda x: ft.max_pool2d(x[0, 0, 0], 2), ValueError, "x must have 2 to 4 axes"),
        (lambda x: ft.max_pool2d(x.to(torch.complex64), 2), TypeError, "x must be bool, an integer, float16"),
        (lambda x: ft.maxout(x, 2, 1), ValueError, r"number of features \(3\) is not a multiple of num_units \(2\)"),
        (lambda x: ft.maxout(x, 2, 4), ValueError, "axis must be from -4 to 3"),
        (lambda x: ft.maxout(x, 3, 1, "halves"), ValueError, "grouping must be"),
        (lambda x: ft.hard_swish(x.to(torch.int32)), TypeError, "float16, bfloat16, float32 or float64"),
        (lambda x: ft.swish(x.to(torch.int32)), TypeError, "float16, bfloat16, float32 or float64"),
        (lambda x: ft.swish(x, "1"), TypeError, "beta must be a number, got '1'"),
        (lambda x: ft.Swish(float("inf")), ValueError, "beta must be finite, got inf"),
        (lambda x: ft.min_pool2d(x, 0), ValueError, "kernel_size must be positive"),
        (lambda x: ft.Maxout(2, grouping="halves"), ValueError, "grouping must be"),
    ],
)
def test_bad_arguments_are_refused_as_fastpool_does(call, error, message):
    with pytest.raises(error, match=message):
        call(draws(2, 3, 6, 6))


@pytest.mark.parametrize("two", [np.int64(2), np.array([2, 2]), [np.int8(2)]], ids=repr)
def test_sizes_may_be_integers_of_numpys(two):
    x = draws(2, 3, 6, 6)
    assert torch.equal(ft.max_pool2d(x, two, two, np.int64(1)), ft.max_pool2d(x, 2, 2, 1))


MAXOUTS = [(3, 1, "strided"), (2, -1, "contiguous"), (6, 1, "strided"), (1, 0, "contiguous")]


@pytest.mark.parametrize(("num_units", "axis", "grouping"), MAXOUTS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_maxout_is_fastpools_with_its_gradient(num_units, axis, grouping, memory_format):
    x = draws(3, 6, 5, 4, memory_format=FORMATS[memory_format]).requires_grad_()
    expected, argmax = fp.maxout(x.detach().numpy(), num_units, axis, grouping=grouping, return_argmax=True)
    y = ft.maxout(x, num_units, axis, grouping)
    assert y.is_contiguous(memory_format=FORMATS[memory_format])
    np.testing.assert_array_equal(y.detach().numpy(), expected)
    np.testing.assert_array_equal(ft.maxout(x.detach(), num_units, axis, grouping).numpy(), expected)
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    np.testing.assert_array_equal(dx.numpy(), fp.maxout_backward(dy.numpy(), argmax, x.shape, axis, grouping=grouping))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_min_pooling_is_the_negated_maximum_of_negated_values(window, dtype, memory_format):
    x = torch.randn(2, 5, 11, 12).to(getattr(torch, dtype)).contiguous(memory_format=FORMATS[memory_format])
    results = []
    for pool in (ft.min_pool2d, lambda x, **window: -F.max_pool2d(-x, **window)):
        mine = x.clone().requires_grad_()
        y = pool(mine, **window)
        dy = torch.arange(y.numel()).remainder(7).to(y.dtype).reshape(y.shape)
        y.backward(dy)
        results.append((y.detach(), mine.grad))
    for got, expected in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        assert got.stride() == expected.stride()
        assert torch.equal(got, expected)
    assert torch.equal(ft.min_pool2d(x, **window), results[1][0])  # without a gradient


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("batched", [True, False], ids=["batch", "no batch"])
def test_minima_of_signals_images_and_volumes_have_pytorchs_indices(axes, batched):
    x = draws(*([2] if batched else []), 3, *(9, 8, 7)[:axes])
    expected, theirs = THEIRS[axes](-x, 3, 2, 1, return_indices=True)
    for pool in (getattr(ft, f"min_pool{axes}d"), lambda x, *a, **k: getattr(ft, f"MinPool{axes}d")(*a, **k)(x)):
        y, indices = pool(x, 3, 2, 1, return_indices=True)
        assert torch.equal(y, -expected)
        assert torch.equal(indices, theirs)
    assert torch.equal(getattr(ft, f"MinPool{axes}d")(2)(x), -THEIRS[axes](-x, 2))


def test_minima_of_integers_and_of_padding_alone():
    x = torch.tensor([[0, 200], [255, 7]], dtype=torch.uint8)
    assert torch.equal(ft.min_pool2d(x, 2), torch.tensor([[0]], dtype=torch.uint8))
    y = ft.min_pool2d(x, 1, 1, 1)
    assert torch.equal(y[1:-1, 1:-1], x)
    assert y[0].eq(255).all()
    assert repr(ft.MinPool2d(3, 2, 1)) == repr(nn.MaxPool2d(3, 2, 1)).replace("Max", "Min")
    assert not isinstance(ft.MinPool2d(2), nn.MaxPool2d)


@pytest.mark.parametrize("beta", [1.0, -0.5, 2.5, 1])
def test_swish_is_its_definition_with_its_gradient(beta):
    x = torch.linspace(-20, 20, 101, dtype=torch.float64).requires_grad_()
    y, expected = ft.swish(x, beta), x * torch.sigmoid(beta * x)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(x)
    torch.testing.assert_close(torch.autograd.grad(y, x, dy), torch.autograd.grad(expected, x, dy))
    assert torch.equal(ft.Swish(beta)(x), y)
    assert torch.equal(ft.HardSwish()(x), ft.hard_swish(x))
    assert repr(ft.Swish(beta)) == f"Swish(beta={float(beta)})"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_second_derivatives_of_swish_are_right_where_its_exponential_overflows(dtype):
    x = torch.tensor([-torch.inf, -3e4, -800, 0, 800, 3e4, torch.inf, torch.nan]).to(getattr(torch, dtype))
    x.requires_grad_()
    (dx,) = torch.autograd.grad(ft.swish(x).sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.sum(), x)
    assert dx.dtype == ddx.dtype == x.dtype
    assert ddx[:-1].tolist() == [0, 0, 0, 0.5, 0, 0, 0]
    assert ddx[-1].isnan()


def test_hard_swish_is_pytorchs():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64).reshape(1, 101).requires_grad_()
    y, expected = ft.hard_swish(x), F.hardswish(x)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(x)
    torch.testing.assert_close(torch.autograd.grad(y, x, dy), torch.autograd.grad(expected, x, dy))


# Where the values of a (2, 4, 4, 6) go in planes of (8, 12), each to a cell of its own.
PLACES = torch.from_numpy(np.random.default_rng(1).permuted(np.tile(np.arange(96), (8, 1)), axis=1)[:, :24])
PLACES = PLACES.reshape(2, 4, 4, 6)

DIFFERENTIABLE = {
    "pool": lambda x: ft.max_pool2d(x, 3, 2, 1),
    "pool, padding of pairs": lambda x: ft.max_pool2d(x, 2, 1, [(1, 0), (0, 1)]),
    "pool, channels last": lambda x: ft.max_pool2d(x.contiguous(memory_format=torch.channels_last), 2),
    "pool of signals": lambda x: ft.max_pool1d(x[0], 3, 1, 1, 2),
    "pool of volumes": lambda x: ft.max_pool3d(x, 2),
    "maxout": lambda x: ft.maxout(x, 2, 1),
    "maxout, contiguous": lambda x: ft.maxout(x, 3, -1, "contiguous"),
    "hard_swish": lambda x: ft.hard_swish(x / 16 - 3.01),
    "swish": lambda x: ft.swish(x / 16 - 3.01, 1.5),
    "min pool": lambda x: ft.min_pool2d(x, 3, 2, 1),
    "unpool": lambda x: ft.max_unpool2d(x, PLACES, 2),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_first_and_second_derivatives_agree_with_finite_differences(name):
    x = draws(2, 4, 4, 6, dtype=torch.float64).requires_grad_()
    squared = lambda x: DIFFERENTIABLE[name](x) ** 2 / 16  # noqa: E731  so that the second derivative is not zero
    assert torch.autograd.gradcheck(squared, x)
    assert torch.autograd.gradgradcheck(squared, x)


TWINS = {
    "pool": (lambda x: ft.max_pool2d(x, 3, 2, 1), lambda x: F.max_pool2d(x, 3, 2, 1)),
    "pool, channels last": (
        lambda x: ft.max_pool2d(x.movedim(1, -1).contiguous().movedim(-1, 1), 2),
        lambda x: F.max_pool2d(x, 2),
    ),
    "pool of signals": (lambda x: ft.max_pool1d(x[0], 3, 1, 1, 2), lambda x: F.max_pool1d(x[0], 3, 1, 1, 2)),
    "pool of volumes": (lambda x: ft.max_pool3d(x, 2), lambda x: F.max_pool3d(x, 2)),
    "maxout": (lambda x: ft.maxout(x, 2, 1), lambda x: x.unflatten(1, (-1, 2)).amax(1)),
    "maxout, contiguous": (lambda x: ft.maxout(x, 3, -1, "contiguous"), lambda x: x.unflatten(-1, (3, -1)).amax(-1)),
    "hard_swish": (lambda x: ft.hard_swish(x / 16 - 3.01), lambda x: F.hardswish(x / 16 - 3.01)),
    "swish": (lambda x: ft.swish(x / 16 - 3.01), lambda x: F.silu(x / 16 - 3.01)),
    "min pool": (lambda x: ft.min_pool2d(x, 3, 2, 1), lambda x: -F.max_pool2d(-x, 3, 2, 1)),
    "min pool, no batch": (lambda x: ft.min_pool2d(x[0], 2), lambda x: -F.max_pool2d(-x[0], 2)),
    "pool, image alone": (lambda x: ft.max_pool2d(x[0, 0], 2), lambda x: F.max_pool2d(x[0, :1], 2)[0]),
    "unpool": (
        lambda x: ft.max_unpool2d(x, PLACES, 2),
        lambda x: x.new_zeros(2, 4, 96).scatter(2, PLACES.flatten(2), x.flatten(2)).reshape(2, 4, 8, 12),
    ),
}


def _tangent_of_a_dual(f, x, t):
    with torch.autograd.forward_ad.dual_level():
        return torch.autograd.forward_ad.unpack_dual(f(torch.autograd.forward_ad.make_dual(x, t))).tangent


def _cubes(f):
    return lambda x: (f(x) ** 3).sum()


TRANSFORMS = {
    "jvp": lambda f, x, t: torch.func.jvp(f, (x,), (t,))[1],
    "jvp without grad mode": lambda f, x, t: torch.no_grad()(torch.func.jvp)(f, (x,), (t,))[1],
    "dual": _tangent_of_a_dual,
    "dual that requires grad": lambda f, x, t: _tangent_of_a_dual(f, x.clone().requires_grad_(), t).detach(),
    "jacfwd": lambda f, x, t: torch.func.jacfwd(f)(x),
    "grad": lambda f, x, t: torch.func.grad(_cubes(f))(x),
    "jvp of grad": lambda f, x, t: torch.func.jvp(torch.func.grad(_cubes(f)), (x,), (t,))[1],
    "grad of jvp": lambda f, x, t: torch.func.grad(_cubes(lambda a: torch.func.jvp(f, (a,), (t,))[1] * f(a)))(x),
    "jvp of jvp": lambda f, x, t: torch.func.jvp(
        lambda a: torch.func.jvp(lambda b: f(b) ** 3, (a,), (t,))[1], (x,), (t,)
    )[1],
    "jvp of vmap": lambda f, x, t: torch.func.jvp(torch.func.vmap(f), (x[None],), (t[None],))[1],
    "vmap of jvp": lambda f, x, t: torch.func.vmap(lambda a, b: torch.func.jvp(f, (a,), (b,))[1])(x[None], t[None]),
    "jacrev": lambda f, x, t: torch.func.jacrev(f)(x),
    "vjp": lambda f, x, t: torch.func.vjp(f, x)[1](f(x).detach())[0],
    "vjp of vjp": lambda f, x, t: torch.func.vjp(torch.func.grad(_cubes(f)), x)[1](t)[0],
    "linearize": lambda f, x, t: torch.func.linearize(f, x)[1](t),
    "hessian": lambda f, x, t: torch.func.hessian(_cubes(f))(x),
    "jacrev of grad": lambda f, x, t: torch.func.jacrev(torch.func.grad(_cubes(f)))(x),
    "vmap": lambda f, x, t: torch.func.vmap(f)(torch.stack([x, t, x + t])),
    "vmap over the last axis": lambda f, x, t: torch.func.vmap(f, in_dims=-1, out_dims=-1)(torch.stack([x, t], -1)),
    "vmap of vmap": lambda f, x, t: torch.func.vmap(torch.func.vmap(f))(torch.stack([x, t, x + t, x - t])[None]),
    "vmap of grad": lambda f, x, t: torch.func.vmap(torch.func.grad(_cubes(f)))(torch.stack([x, t])),
    "grad of vmap": lambda f, x, t: torch.func.grad(lambda a: _cubes(torch.func.vmap(f))(a))(torch.stack([x, t])),
}


@forward_mode
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # torch.func.linearize, of its own graphs
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", TWINS)
def test_forward_mode_and_function_transforms_agree_with_pytorchs(name, transform):
    x = draws(2, 4, 4, 6, dtype=torch.float64)
    t = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got, expected = (TRANSFORMS[transform](f, x, t) for f in TWINS[name])
    assert expected.count_nonzero() > 0
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("randomly_kept", [False, True], ids=["", "and dropout"])
def test_gradients_of_each_sample_are_those_of_the_samples_one_by_one(memory_format, randomly_kept):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), ft.MaxPool2d(3, 2, 1), ft.Maxout(4), ft.Swish(), ft.MinPool2d(2)
    dropout = [nn.Dropout()] if randomly_kept else []
    model = nn.Sequential(*layers, ft.HardSwish(), *dropout, nn.Flatten(), nn.Linear(64, 2)).eval()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    x, labels = draws(5, 3, 16, 16, memory_format=FORMATS[memory_format]) / 100, torch.tensor([0, 1, 1, 0, 1])

    def loss(weights, image, label):
        return F.cross_entropy(torch.func.functional_call(model, weights, (image[None],)), label[None])

    got = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, x, labels)
    for i in range(len(x)):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), labels[i : i + 1]).backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(got[name][i], p.grad)


def test_models_of_an_ensemble_are_mapped_over():
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Conv2d(3, 4, 3), ft.MaxPool2d(2), ft.Maxout(2)) for _ in range(3)]
    weights, buffers = torch.func.stack_module_state(models)
    x = draws(2, 3, 8, 8)
    got = torch.func.vmap(lambda w, b: torch.func.functional_call(models[0], (w, b), (x,)))(weights, buffers)
    for each, model in zip(got, models, strict=True):
        torch.testing.assert_close(each, model(x))


def test_vmap_calls_the_kernel_once_for_all_items(monkeypatch):
    shapes = []
    monkeypatch.setitem(
        pool_operators.MAX_POOLS, 2, lambda x, *a, **k: shapes.append(x.shape) or fp.max_pool2d(x, *a, **k)
    )
    torch.func.vmap(lambda x: ft.max_pool2d(x, 2))(draws(5, 2, 3, 4, 4))
    torch.func.vmap(lambda x: ft.max_pool2d(x, 2))(draws(5, 3, 4, 4))
    torch.func.vmap(torch.func.vmap(lambda x: ft.max_pool2d(x, 2)))(draws(5, 2, 4, 4))
    assert shapes == [(10, 3, 4, 4), (5, 3, 4, 4), (5, 2, 4, 4)]
    assert ft.max_pool2d(torch.zeros(0, 3, 4, 4), 2).shape == (0, 3, 2, 2)
    assert torch.func.vmap(lambda x: ft.max_pool2d(x, 2))(torch.zeros(3, 0, 2, 4, 4)).shape == (3, 0, 2, 2, 2)


@forward_mode
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_tangent_has_the_dtype_of_the_values(dtype):
    x = torch.randn(1, 2, 6, 6).to(getattr(torch, dtype))
    for ours, theirs in ((lambda x: ft.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2)), (ft.hard_swish, F.hardswish)):
        got, expected = (torch.func.jvp(f, (x,), (torch.ones_like(x),)) for f in (ours, theirs))
        for g, e in zip(got, expected, strict=True):
            torch.testing.assert_close(g, e)


@forward_mode
def test_a_window_of_padding_alone_has_the_tangent_zero():
    x = draws(1, 1, 2, 2)
    y, t = torch.func.jvp(lambda a: ft.max_pool2d(a, 1, 1, 2), (x,), (torch.ones_like(x),))
    assert torch.equal(t, y.isfinite().to(t.dtype))
    indices = torch.func.jvp(lambda a: ft.max_pool2d(a, 2, return_indices=True), (x,), (x,), has_aux=True)[2]
    assert torch.equal(indices, F.max_pool2d(x, 2, return_indices=True)[1])


@needs_compiler
@pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of itself
def test_a_compiled_forward_mode_gradient_is_right_or_refused():
    x, t = draws(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    for ours, theirs in ((lambda a: ft.max_pool2d(a, 2), lambda a: F.max_pool2d(a, 2)), (ft.hard_swish, F.hardswish)):
        derivative = lambda a, b, f=ours: torch.func.jvp(f, (a,), (b,))[1]  # noqa: E731
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(derivative)(x, t), torch.func.jvp(theirs, (x,), (t,))[1])
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported):
            torch.compile(derivative, fullgraph=True)(x, t)


def test_windows_of_padding_alone_give_the_lowest_value_and_no_gradient():
    x = draws(1, 1, 2, 2, dtype=torch.float64).requires_grad_()
    y = ft.max_pool2d(x, 1, 1, 2)
    assert y.isneginf().sum() == 32
    dy = torch.ones_like(y).requires_grad_()
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    assert torch.equal(dx, torch.ones_like(x))
    (ddy,) = torch.autograd.grad(dx.sum(), dy)
    assert torch.equal(ddy, y.isfinite().to(ddy.dtype))
    indices = ft.max_pool2d(x, 1, 1, 2, return_indices=True)[1]
    assert torch.equal(indices == -1, y.isneginf())


WINDOW = ([3, 3], [2, 2], [1, 1, 1, 1], "", [1, 1], False)


def _operator_cases():
    for memory_format in FORMATS:
        x = draws(2, 6, 7, 8, memory_format=FORMATS[memory_format]).requires_grad_()
        y, argmax = torch.ops.fastpool.max_pool_with_argmax(x, *WINDOW)
        dy = torch.randn_like(y).requires_grad_()
        yield f"max_pool-{memory_format}", (x, *WINDOW)
        yield f"max_pool_with_argmax-{memory_format}", (x, *WINDOW)
        yield f"max_pool_backward-{memory_format}", (dy, argmax, list(x.shape), *WINDOW)
        yield f"max_pool_indices-{memory_format}", (argmax, list(x.shape), *WINDOW)
        for grouping in ("strided", "contiguous"):
            y, argmax = torch.ops.fastpool.maxout_with_argmax(x, 3, 1, grouping)
            dy = torch.randn_like(y).requires_grad_()
            yield f"maxout-{memory_format}-{grouping}", (x, 3, 1, grouping)
            yield f"maxout_with_argmax-{memory_format}-{grouping}", (x, 3, 1, grouping)
            yield f"maxout_backward-{memory_format}-{grouping}", (dy, argmax, list(x.shape), 1, grouping)
        yield f"min_pool-{memory_format}", (x, *WINDOW)
        yield f"min_pool_with_argmin-{memory_format}", (x, *WINDOW)
        for name, beta in (("hard_swish", ()), ("swish", (1.5,))):
            yield f"{name}-{memory_format}", (x, *beta)
            yield f"{name}_backward-{memory_format}", (torch.randn_like(x).requires_grad_(), x, *beta)
        indices = torch.arange(2 * 6 * 7 * 8).reshape(2, 6, 7, 8) % 56
        yield f"max_unpool-{memory_format}", (x, indices, [8, 9])
    yield "max_pool-no batch", (draws(6, 7, 8).requires_grad_(), *WINDOW)
    yield "max_pool-same", (draws(6, 7, 8).requires_grad_(), [3, 3], [2, 2], [], "same", [1, 1], False)


OPERATORS = dict(_operator_cases())


@pytest.mark.parametrize("name", OPERATORS)
def test_the_operator_keeps_pytorchs_contract(name):
    operator = getattr(torch.ops.fastpool, name.split("-")[0]).default
    torch.library.opcheck(operator, OPERATORS[name])


def test_importing_the_operators_does_not_import_the_compiler(python):
    python("-c", "import sys, fastpool.integrations.torch; assert 'torch._dynamo' not in sys.modules")


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        ft.MaxPool2d(3, 2, 1),
        ft.Maxout(4),
        ft.MaxPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(2),
    )


@needs_compiler
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of itself
@pytest.mark.slow
def test_a_compiled_network_gives_what_it_gives_uncompiled(dynamic):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = network()
    model(torch.randn(1, 3, 16, 16))
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for batch in (2, 5) if dynamic else (2,):
        x = torch.randn(batch, 3, 16, 16)
        gradients = []
        for run in (model, compiled):
            leaf = x.clone().requires_grad_()
            y = run(leaf)
            gradients.append((y.detach(), *torch.autograd.grad(y.square().sum(), leaf)))
        for got, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(got, expected)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), gradients[0][0])


def test_a_network_is_exported_with_the_operators_whole():
    model = nn.Sequential(ft.MaxPool2d(2), ft.Maxout(2))
    program = torch.export.export(model, (torch.randn(2, 4, 6, 6),))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert names == {"fastpool.max_pool.default", "fastpool.maxout.default"}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_layer_is_a_drop_in(axes):
    own = getattr(nn, f"MaxPool{axes}d")
    mine = getattr(ft, f"MaxPool{axes}d")
    arguments = (3, 2, 1, 1, True, True)
    assert repr(mine(*arguments)) == repr(own(*arguments))
    assert mine(2).state_dict() == own(2).state_dict()
    assert isinstance(mine(2), own)
    x = draws(2, 3, *(9, 8, 7)[:axes])
    for got, expected in zip(mine(*arguments)(x), own(*arguments)(x), strict=True):
        assert torch.equal(got, expected)


@pytest.fixture
def without_ml_dtypes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)  # importing it fails
    tensors._numpy_bfloat16.cache_clear()
    yield
    tensors._numpy_bfloat16.cache_clear()


IN_BFLOAT16 = {
    "max pool": lambda x: ft.max_pool2d(x, 3, 1, 1),
    "max pool with indices": lambda x: ft.max_pool2d(x, 3, 2, 1, return_indices=True)[0],
    "min pool": lambda x: ft.min_pool2d(x, 3, 1, 1),
    "maxout": lambda x: ft.maxout(x, 2, 1),
    "hard_swish": ft.hard_swish,
    "swish": lambda x: ft.swish(x, 1.5),
    "unpool": lambda x: ft.max_unpool2d(*ft.max_pool2d(x, 2, return_indices=True), 2),
}


@pytest.mark.parametrize("name", IN_BFLOAT16)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_bfloat16_gives_the_same_bits_with_and_without_ml_dtypes(name, memory_format, request):
    torch.manual_seed(0)
    x = (4 * torch.randn(2, 4, 10, 12)).to(torch.bfloat16).contiguous(memory_format=FORMATS[memory_format])
    x[0, 0, :2, 0], x[0, 1, 3, 3] = torch.tensor([-torch.inf, torch.inf]), torch.nan
    results = []
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        y = IN_BFLOAT16[name](leaf)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
        (dx,) = torch.autograd.grad(y, leaf, dy)
        assert y.dtype == dx.dtype == torch.bfloat16
        results.append((y.detach(), dx, y.stride(), dx.stride()))
        request.getfixturevalue("without_ml_dtypes")  # from the second time on
    assert sys.modules["ml_dtypes"] is None
    (y, dx, *strides), (y2, dx2, *strides2) = results
    torch.testing.assert_close(y2, y, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(dx2, dx, rtol=0, atol=0, equal_nan=True)
    assert strides2 == strides


def test_the_layer_of_maxout_says_what_it_is():
    assert repr(ft.Maxout(4)) == "Maxout(num_units=4, axis=1, grouping='strided')"
    assert ft.Maxout(2)(torch.zeros(1, 6, 3, 3)).shape == (1, 2, 3, 3)


def test_a_network_with_the_layers_learns():
    torch.manual_seed(0)
    x, labels = torch.randn(64, 3, 16, 16), torch.randint(0, 2, (64,))
    model = network()
    model(x)
    optimizer, losses = torch.optim.Adam(model.parameters(), 0.01), []
    for _ in range(15):
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


MODULES = [module.name for module in pkgutil.iter_modules(ft.__path__, f"{ft.__name__}.")]
EXAMPLES = {name: test for module in MODULES for name, test in of_module(module).items()}
EXAMPLES["guide"] = of_page("docs/guides/pytorch.md")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs_as_printed(name):
    check(EXAMPLES[name])
