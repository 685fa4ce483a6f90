"""fastpool's pooling in models of PyTorch that exist: put in, reported, and taken out again."""

import contextlib
import copy
import itertools
import pickle
import threading

import pytest

torch = pytest.importorskip("torch")
F, nn = torch.nn.functional, torch.nn

from torch_specimens import draws, needs_compiler  # noqa: E402  after it is known that PyTorch is there

from fastpool.integrations import torch as ft  # noqa: E402
from fastpool.integrations.torch import pool_operators  # noqa: E402


class Gated(nn.MaxPool2d):
    """A subclass, which does more than pool."""


def test_every_pooling_layer_of_a_model_is_replaced_and_no_other():
    model = nn.Sequential(
        nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Sequential(nn.MaxPool1d(2), nn.ReLU()), Gated(2), nn.AvgPool2d(2)
    ).eval()
    shown = repr(model)
    assert ft.replace_max_pools(model) is model
    assert repr(model) == shown
    assert [type(m) for m in model] == [ft.MaxPool2d, nn.Sequential, Gated, nn.AvgPool2d]
    assert type(model[1][0]) is ft.MaxPool1d
    assert not model[0].training
    assert type(ft.replace_max_pools(nn.MaxPool3d(2))) is ft.MaxPool3d


def test_a_pool_in_several_places_is_replaced_by_one_in_all():
    pool = nn.MaxPool2d(2)
    block = nn.Sequential(pool, nn.ReLU())
    model = nn.ModuleDict({"first": pool, "blocks": nn.ModuleList([block, block]), "last": nn.Sequential(pool, pool)})
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    ft.replace_max_pools(model)
    places = [model["first"], model["blocks"][0][0], model["blocks"][1][0], *model["last"]]
    assert {type(place) for place in places} == {ft.MaxPool2d}
    assert len(set(places)) == 1
    assert [name for name, _ in model.named_modules(remove_duplicate=False)] == names
    assert type(pool) is nn.MaxPool2d, "a layer that another model may hold is left alone"


def test_hooks_and_attributes_of_a_pool_are_kept_and_hooks_can_be_removed():
    calls = []
    model = nn.Sequential(nn.MaxPool2d(2)).eval()
    model[0].note = "kept"
    handles = [
        model[0].register_forward_pre_hook(lambda module, args: calls.append("before")),
        model[0].register_forward_hook(lambda module, args, kwargs, y: y + 1, with_kwargs=True),
        model[0].register_full_backward_hook(lambda module, dx, dy: calls.append("gradient")),
    ]
    ft.replace_max_pools(model)
    assert model[0].note == "kept"
    assert not model[0].training
    x = draws(1, 1, 4, 4).requires_grad_()
    assert torch.equal(model(x), F.max_pool2d(x, 2) + 1)
    model(x).sum().backward()
    assert calls == ["before", "before", "gradient"]
    for handle in handles:
        handle.remove()
    assert torch.equal(model(x), F.max_pool2d(x, 2))
    assert len(calls) == 3


def test_what_was_replaced_is_reported_place_by_place():
    pool = nn.MaxPool2d(2)
    model = nn.Sequential(nn.Conv2d(1, 1, 1), pool, nn.Sequential(nn.MaxPool1d(3, 1, 1), pool), Gated(2))
    lines = []
    ft.replace_max_pools(model, report=lines.append)
    assert lines == [
        "1: MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)",
        "2.0: MaxPool1d(kernel_size=3, stride=1, padding=1, dilation=1, ceil_mode=False)",
        "2.1: MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)",
    ]
    again = []
    ft.replace_max_pools(model, report=again.append)
    assert again == []
    back = []
    ft.restore_max_pools(model, report=back.append)
    assert back == lines
    ft.replace_max_pools(nn.MaxPool2d(2), report=again.append)
    assert again == ["the module itself: MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"]


def test_restored_layers_are_pytorchs_with_their_hooks_and_attributes():
    calls = []
    pool = nn.MaxPool2d(3, 2, 1)
    model = nn.Sequential(pool, nn.ModuleList([nn.MaxPool3d(2), pool]), ft.MinPool2d(2)).eval()
    shown = repr(model)
    ft.replace_max_pools(model)
    handle = model[0].register_forward_hook(lambda module, args, y: calls.append(type(module)))
    model[0].note = "kept"
    assert ft.restore_max_pools(model) is model
    for change in (ft.restore_max_pools, ft.replace_max_pools):
        with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got builtins\.NoneType"):
            change(None)
    assert repr(model) == shown
    assert [type(m) for m in (model[0], *model[1], model[2])] == [
        nn.MaxPool2d,
        nn.MaxPool3d,
        nn.MaxPool2d,
        ft.MinPool2d,
    ]
    assert model[0] is model[1][1]
    assert (model[0].note, model[0].training) == ("kept", False)
    x = draws(1, 2, 6, 6)
    assert torch.equal(model[0](x), F.max_pool2d(x, 3, 2, 1))
    handle.remove()
    model[0](x)
    assert calls == [nn.MaxPool2d]
    assert type(ft.restore_max_pools(ft.MaxPool1d(2))) is nn.MaxPool1d


@pytest.mark.parametrize(
    ("padding", "restored"), [(1, 1), ((1, 0), (1, 0)), ([(1, 1), (0, 0)], (1, 0)), ("valid", (0, 0)), ("same", (1, 1))]
)
def test_padding_is_restored_as_pytorch_takes_it(padding, restored):
    layer = ft.MaxPool2d(3, 1, padding)
    x = draws(2, 3, 6, 7)
    back = ft.restore_max_pools(layer)
    assert back.padding == restored
    assert torch.equal(back(x), layer(x))


def test_a_layer_unlike_any_of_pytorchs_is_not_restored_and_nothing_is_changed():
    model = nn.Sequential(ft.MaxPool2d(2), ft.MaxPool2d(3, 2, 2))
    with pytest.raises(ValueError, match=r"padding must be one that PyTorch's own max pooling has.*more than half"):
        ft.restore_max_pools(model, report=print)
    assert [type(m) for m in model] == [ft.MaxPool2d, ft.MaxPool2d]


class LightCNN(nn.Module):
    """With the pooling of LightCNN-29 v2 (Wu et al. 2018): the sum of a maximum and an average, by functions."""

    def __init__(self):
        super().__init__()
        channels = [1, 4, 6, 8, 8]
        self.convolutions = nn.ModuleList(nn.Conv2d(i, 2 * o, 3, padding=1) for i, o in itertools.pairwise(channels))
        self.mfm = nn.ModuleList(ft.Maxout(o) for o in channels[1:])
        self.classes = nn.Linear(8 * 2 * 2, 5)

    def forward(self, x):
        for convolution, mfm in zip(self.convolutions, self.mfm, strict=True):
            x = mfm(convolution(x))
            x = F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)
        return self.classes(F.dropout(x.flatten(1), 0.5, self.training))


@pytest.fixture
def seen(monkeypatch):
    """The shapes that fastpool's max pooling of images was called with."""
    shapes = []
    pool = pool_operators.MAX_POOLS[2]
    monkeypatch.setitem(pool_operators.MAX_POOLS, 2, lambda x, *a, **k: shapes.append(x.shape) or pool(x, *a, **k))
    return shapes


def test_calls_of_functions_are_replaced_and_counted(seen):
    torch.manual_seed(0)
    model, x = LightCNN().eval(), draws(2, 1, 32, 32)
    results = []
    for context in (contextlib.nullcontext(), ft.replace_max_pool_calls()):
        model.zero_grad()
        with context as calls:
            y = model(x)
            y.square().sum().backward()
        results.append((y, *(p.grad for p in model.parameters())))
    assert calls == {"max_pool2d": 4}
    assert [shape[1:] for shape in seen] == [(4, 32, 32), (6, 16, 16), (8, 8, 8), (8, 4, 4)]
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)
    model(x)
    assert len(seen) == 4, "after the context the calls are PyTorch's"


def test_every_spelling_of_max_pooling_is_replaced():
    from torch.nn.functional import max_pool2d as imported

    x, window = draws(2, 3, 8, 9), (3, 2, 1)
    spellings = {
        "imported": lambda: imported(x, *window),
        "keywords": lambda: F.max_pool2d(input=x, kernel_size=3, stride=2, padding=1, ceil_mode=True),
        "indices": lambda: F.max_pool2d(x, *window, return_indices=True),
        "with_indices": lambda: F.max_pool2d_with_indices(x, *window, 1, False, True),
        "torch": lambda: torch.max_pool2d(x, 3),
        "torch, empty stride": lambda: torch.max_pool2d(x, 3, ()),
        "layer": lambda: nn.MaxPool2d(*window)(x),
        "1d": lambda: F.max_pool1d(x[0], *window),
        "1d, torch": lambda: torch.max_pool1d(x[0], *window),
        "1d, indices": lambda: torch.max_pool1d_with_indices(x[0], *window),
        "3d": lambda: F.max_pool3d(x, *window),
        "3d, indices": lambda: F.max_pool3d_with_indices(x, *window),
    }
    for name, call in spellings.items():
        expected = call()
        with ft.replace_max_pool_calls() as calls:
            got = call()
        assert sum(calls.values()) == 1, name
        for g, e in zip(got, expected, strict=True):
            assert torch.equal(g, e), name


def test_the_calls_of_other_threads_and_of_code_after_an_error_are_pytorchs(seen):
    x = draws(1, 1, 4, 4)

    def fail():
        with ft.replace_max_pool_calls():
            F.max_pool2d(x, 2)
            thread = threading.Thread(target=F.max_pool2d, args=(x, 2))
            thread.start()
            thread.join()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    F.max_pool2d(x, 2)
    assert len(seen) == 1


class Decorated(LightCNN):
    forward = ft.replace_max_pool_calls()(LightCNN.forward)


def test_a_decorated_forward_is_replaced_in_each_call_and_copied_and_pickled(seen):
    torch.manual_seed(0)
    model, x = Decorated().eval(), draws(2, 1, 32, 32)
    expected = LightCNN.forward(model, x)
    for same in (model, model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(same(x), expected)
    assert len(seen) == 16


@needs_compiler
@pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of itself
@pytest.mark.parametrize("how", ["compiled within the context", "compiled with its context"])
def test_replaced_calls_are_compiled_as_operators(how):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x = LightCNN().eval(), draws(2, 1, 32, 32)
    expected, names = model(x), []

    def backend(graph_module, inputs):
        names.extend(str(node.target) for node in graph_module.graph.nodes if "pool" in str(node.target))
        return graph_module.forward

    if how == "compiled with its context":
        forward = torch.compile(ft.replace_max_pool_calls()(model), fullgraph=True, backend=backend)
        got = forward(x)
    else:
        with ft.replace_max_pool_calls():
            got = torch.compile(model, fullgraph=True, backend=backend)(x)
    torch.testing.assert_close(got, expected)
    assert sum("fastpool.max_pool" in name for name in names) == 4


def test_a_graph_traced_by_fx_is_replaced_too(seen):
    model, x = nn.Sequential(nn.Conv2d(1, 2, 3), ft.MaxPool2d(2), ft.MaxPool2d(2)), draws(1, 1, 18, 18)
    graph_module = torch.fx.symbolic_trace(model)
    expected = graph_module(x)
    assert seen == []
    with ft.replace_max_pool_calls() as calls:
        assert torch.equal(graph_module(x), expected)
    assert calls == {"max_pool2d": 2}
    assert len(seen) == 2


def test_within_the_context_a_model_is_traced_as_pytorchs():
    class Model(nn.Module):
        def forward(self, x):
            return F.max_pool2d(x, 2)

    x = draws(1, 1, 4, 4)
    with ft.replace_max_pool_calls():
        graph_module = torch.fx.symbolic_trace(Model())
    assert [n.target for n in graph_module.graph.nodes if n.op == "call_function"] == [F.max_pool2d]
    assert torch.equal(graph_module(x), F.max_pool2d(x, 2))
