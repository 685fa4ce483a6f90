"""The inverse of max pooling in PyTorch: values, gradients, sizes and errors, compared with PyTorch's own."""

import pytest

torch = pytest.importorskip("torch")
F, nn = torch.nn.functional, torch.nn

from torch_specimens import FORMATS, draws, needs_compiler  # noqa: E402  after it is known that PyTorch is there

from fastpool.integrations import torch as ft  # noqa: E402

SIZES = (9, 8, 7)
UNPOOLS = {1: ft.max_unpool1d, 2: ft.max_unpool2d, 3: ft.max_unpool3d}
THEIRS = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}
POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("window", [(2,), (3, 3, 1), (2, 3), ((2, 3), (2, 3), (1, 0))], ids=str)
def test_values_and_gradients_are_pytorchs(window, dtype, memory_format):
    x = torch.randn(2, 5, *SIZES[:2]).to(getattr(torch, dtype)).contiguous(memory_format=FORMATS[memory_format])
    y, indices = F.max_pool2d(x, *window, return_indices=True)
    results = []
    for unpool in (ft.max_unpool2d, F.max_unpool2d):
        leaf = y.detach().clone().requires_grad_()
        back = unpool(leaf, indices, *window, output_size=x.shape)
        dx = torch.arange(back.numel()).remainder(7).to(back.dtype).reshape(back.shape)
        (dy,) = torch.autograd.grad(back, leaf, dx)
        results.append((back, dy))
    for got, expected in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)
    assert results[0][0].is_contiguous(memory_format=FORMATS[memory_format])


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("batched", [True, False], ids=["batch", "no batch"])
def test_signals_images_and_volumes_are_unpooled(axes, batched):
    shape = (*([2] if batched else []), 3, *SIZES[:axes])
    y, indices = POOLS[axes](draws(*shape), 3, 2, 1, ceil_mode=True, return_indices=True)
    layer, theirs = getattr(ft, f"MaxUnpool{axes}d")(3, 2, 1), getattr(nn, f"MaxUnpool{axes}d")(3, 2, 1)
    assert repr(layer) == repr(theirs)
    assert isinstance(layer, type(theirs))
    for size in (shape, shape[-axes:], list(shape)) if batched else (shape[-axes:],):
        expected = THEIRS[axes](y, indices, 3, 2, 1, output_size=size)
        assert torch.equal(UNPOOLS[axes](y, indices, 3, 2, 1, output_size=size), expected)
        assert torch.equal(layer(y, indices, size), expected)
    assert torch.equal(UNPOOLS[axes](y, indices, 3, 2, 1, output_size=shape), expected)  # all axes, with no batch too


def test_without_a_size_it_is_that_of_the_windows():
    y, indices = F.max_pool2d(draws(2, 3, 8, 8), 2, (2, 3), return_indices=True)
    got, expected = ft.max_unpool2d(y, indices, 2, (2, 3)), F.max_unpool2d(y, indices, 2, (2, 3))
    assert got.shape == (2, 3, 8, 8)
    assert torch.equal(got, expected)


def test_an_image_alone_is_unpooled():
    x = draws(6, 8)
    y, indices = ft.max_pool2d(x, 2, return_indices=True)
    assert torch.equal(ft.max_unpool2d(y, indices, 2), F.max_unpool2d(y[None], indices[None], 2)[0])


def test_pools_that_pytorch_does_not_have_are_unpooled():
    x = draws(2, 3, 7, 9)
    for padding in ([(2, 0), (0, 1)], "same", "same_lower", 3):
        y, indices = ft.max_pool2d(x, 3, 2, padding, return_indices=True)
        layer = ft.MaxUnpool2d(3, 2, padding)
        assert layer.padding == (padding if isinstance(padding, str) else (3, 3) if padding == 3 else tuple(padding))
        back = layer(y, indices, x.shape)
        real = indices >= 0
        assert torch.equal(back.flatten(2).gather(2, indices.clamp(min=0).flatten(2))[real.flatten(2)], y[real])
        assert back.count_nonzero() <= real.sum()


def test_the_gradient_of_a_value_is_that_of_its_cell_and_of_padding_alone_zero():
    y = torch.tensor([[5.0, 7.0], [9.0, 3.0]], requires_grad=True)
    indices = torch.tensor([[3, -1], [0, 0]])
    x = ft.max_unpool2d(y, indices, 1, output_size=(2, 2))
    assert torch.equal(x, torch.tensor([[3.0, 0.0], [0.0, 5.0]]))
    (dy,) = torch.autograd.grad(x, y, torch.tensor([[1.0, 2.0], [4.0, 8.0]]))
    assert torch.equal(dy, torch.tensor([[8.0, 0.0], [1.0, 1.0]]))


Y, INDICES = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Y, INDICES, 0), ValueError, r"kernel_size must be 1 or more in every axis, got \(0, 0\)"),
        ((Y, INDICES, 2, (1, 0)), ValueError, r"stride must be 1 or more in every axis, got \(1, 0\)"),
        ((Y, INDICES, 2, 2, -1), ValueError, "padding must be 0 or more in every axis"),
        ((Y, INDICES, 2, 2, "full", (8, 8)), ValueError, "padding must be 'valid', 'same'"),
        ((Y, INDICES, 2, True), TypeError, "stride must be an integer, got True"),
        (
            (Y, INDICES, 2, 2, 0, (7,)),
            ValueError,
            r"output_size must have 2 spatial axes, or all 4 of input, got \[7\]",
        ),
        ((Y, INDICES, 2, 2, 0, (1, 3, 8, 8)), ValueError, r"keep the batch and the channels of input \(2, 3, 4, 4\)"),
        ((Y, INDICES, 2, 2, 0, (8, 10)), ValueError, "from 7 to 9 along spatial axis 1, which 4 windows .* got 10"),
        ((Y, INDICES, 2, 2, 0, (6, 8)), ValueError, "output_size must be from 7 to 9 along spatial axis 0.* got 6"),
        ((Y, INDICES, 3, 2, "same", (6, 8)), ValueError, "output_size must be from 7 to 8 along spatial axis 0"),
        ((Y, INDICES, 3, 2, "same"), ValueError, "output_size must be given with padding 'same'"),
        ((Y, INDICES, 2, 2, 0, (8, 8.0)), TypeError, "output_size must be an integer, got 8.0"),
        ((Y, INDICES, 2, 2, 0, 8), TypeError, "output_size must be a sequence of integers, got int"),
        ((Y, INDICES.numpy(), 2), TypeError, r"indices must be a torch\.Tensor, got numpy\.ndarray"),
        ((Y, INDICES + 64, 2), ValueError, "indices must name cells of their own plane, from 0 below 64.*got 64"),
        ((Y, INDICES - 2, 2), ValueError, "indices must name cells"),
        ((Y, INDICES[:1], 2), ValueError, r"indices must have the shape \(2, 3, 4, 4\)"),
        ((Y, INDICES.float(), 2), TypeError, "indices must be integers, got float32"),
        ((Y[0, 0, 0], INDICES[0, 0, 0], 2), ValueError, r"input must have 2 to 4 axes, got shape \(4,\)"),
        ((Y[None], INDICES[None], 2), ValueError, "y must have 2 to 4 axes"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ft.max_unpool2d(*arguments)


def test_the_sizes_that_are_taken_are_those_that_pytorch_takes():
    y, indices = F.max_pool2d(draws(1, 1, 9, 9), 3, 2, 1, return_indices=True)
    for size in range(5, 14):
        outcomes = []
        for unpool in (ft.max_unpool2d, F.max_unpool2d):
            try:
                outcomes.append(unpool(y, indices // 9 * 5, 3, 2, 1, output_size=(9, size)))
            except ValueError:
                outcomes.append(None)
        got, expected = outcomes
        assert (got is None) == (expected is None)
        if got is not None:
            assert torch.equal(got, expected)
    assert ft.max_unpool2d(y, indices, 3, 2, 1, output_size=(9, 9)).shape == (1, 1, 9, 9)


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.pool, self.unpool = ft.MaxPool2d(3, 2, 1, return_indices=True), ft.MaxUnpool2d(3, 2, 1)

    def forward(self, x):
        features = self.down(x)
        y, indices = self.pool(features)
        return self.up(self.unpool(y, indices, features.shape))


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of itself
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_compiled_autoencoder_gives_what_it_gives_uncompiled(dynamic):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Autoencoder()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for size in (8, 11) if dynamic else (8,):
        x = draws(2, 2, size, size) / 100
        results = []
        for run in (model, compiled):
            model.zero_grad()
            y = run(x)
            y.square().sum().backward()
            results.append((y, *(p.grad for p in model.parameters())))
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got, expected)
