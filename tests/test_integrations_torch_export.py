"""Models with fastpool's layers leave PyTorch: what is exported, scripted or traced runs without fastpool."""

import warnings

import pytest

torch = pytest.importorskip("torch")
F, nn = torch.nn.functional, torch.nn

from fastpool.integrations import torch as ft  # noqa: E402  after it is known that PyTorch is there

# PyTorch warns of its own exporters, and of TorchScript.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


SPACE = {1: (9,), 2: (9, 8), 3: (5, 6, 7)}
X = {axes: images(2, 4, *SPACE[axes]) for axes in SPACE}


def _pools(axes):
    max_pool, min_pool = getattr(ft, f"MaxPool{axes}d"), getattr(ft, f"MinPool{axes}d")
    window = {"kernel_size": 3, "stride": 2, "padding": 1}
    yield f"max pool {axes}d", max_pool(**window, ceil_mode=True), X[axes]
    yield f"max pool {axes}d with indices", max_pool(**window, return_indices=True), X[axes]
    yield f"min pool {axes}d", min_pool(**window, dilation=2), X[axes]
    yield f"min pool {axes}d with indices", min_pool(2, return_indices=True), X[axes]


LAYERS = {
    **{name: (layer, x) for axes in SPACE for name, layer, x in _pools(axes)},
    "max pool, padding of equal pairs": (ft.MaxPool2d(3, 2, [(1, 1), (1, 1)]), X[2]),
    "max pool, valid": (ft.MaxPool2d(3, 2, "valid"), X[2]),
    "max pool, same": (ft.MaxPool2d((3, 5), 1, "same"), X[2]),
    "maxout": (ft.Maxout(2), X[2]),
    "maxout, contiguous": (ft.Maxout(4, -1, "contiguous"), X[2]),
    "maxout, first axis": (ft.Maxout(1, 0), X[2]),
    "hard_swish": (ft.HardSwish(), 4 * X[2]),
    "swish": (ft.Swish(), X[2]),
    "swish, beta": (ft.Swish(2.5), X[2]),
}


def _onnx(model, x, path, dynamo):
    pytest.importorskip("onnxscript") if dynamo else pytest.importorskip("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"dynamo": True, "external_data": False} if dynamo else {"dynamo": False}
        torch.onnx.export(model, (x,), path, **options, verbose=False)


def _run_onnx(path, x):
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    results = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return [torch.from_numpy(y) for y in results]


def _by_torch(export):
    """Ways in which the exported model is called in PyTorch."""

    def run(model, x, path):
        results = export(model, x)(x)
        return list(results) if isinstance(results, tuple) else [results]

    return run


def _by_onnx(dynamo):
    def run(model, x, path):
        _onnx(model, x, path, dynamo)
        return _run_onnx(path, x)

    return run


EXPORTS = {
    "script": _by_torch(lambda model, x: torch.jit.script(model)),
    "trace": _by_torch(lambda model, x: torch.jit.trace(model, (x,))),
    "fx": _by_torch(lambda model, x: torch.fx.symbolic_trace(model)),
    "onnx by tracing": _by_onnx(dynamo=False),
    "onnx by torch.export": _by_onnx(dynamo=True),
}


def results_of(model, x):
    y = model(x)
    return list(y) if isinstance(y, tuple) else [y]


@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.slow] * ("onnx" in way)) for way in EXPORTS])
@pytest.mark.parametrize("name", LAYERS)
def test_an_exported_layer_gives_what_the_layer_gives(name, way, tmp_path):
    layer, x = LAYERS[name]
    expected = results_of(layer, x)
    got = EXPORTS[way](layer, x, str(tmp_path / "layer.onnx"))
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        assert g.dtype == e.dtype
        torch.testing.assert_close(g, e)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.MaxPool2d(3, 2, 1),
        ft.Maxout(4),
        ft.Swish(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 2),
    ).eval()
    return ft.replace_max_pools(model), images(2, 3, 15, 15)


def pools_called(graph_module):
    return [node.target for node in graph_module.graph.nodes if "pool" in getattr(node.target, "__name__", "")]


@pytest.mark.parametrize("dynamo", [False, True], ids=["tracing", "torch.export"])
def test_an_onnx_model_holds_nodes_of_the_standard_alone(dynamo, tmp_path):
    model, x = network()
    _onnx(model, x, str(tmp_path / "model.onnx"), dynamo)
    nodes = pytest.importorskip("onnx").load(tmp_path / "model.onnx").graph.node
    assert {node.domain for node in nodes} == {""}
    assert [node.op_type for node in nodes].count("MaxPool") == 2
    (got,) = _run_onnx(str(tmp_path / "model.onnx"), x)
    torch.testing.assert_close(got, model(x))


RUN_WITHOUT_FASTPOOL = """
import sys
sys.modules["fastpool"] = None  # importing it fails
import torch
path, load = sys.argv[1:]
model = torch.jit.load(path) if load == "jit" else torch.load(path, weights_only=False)
x, y = torch.load(path + ".arrays")
torch.testing.assert_close(model(x), y)
print("the same")
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["script", "trace", "fx"])
def test_a_saved_model_runs_where_fastpool_is_not_installed(way, tmp_path, python):
    model, x = network()
    model[2], model[3] = nn.Identity(), nn.Identity()
    model[-1] = nn.Linear(8 * 4 * 4, 2)
    path = str(tmp_path / "model.pt")
    torch.save((x, model(x)), path + ".arrays")
    if way == "fx":
        torch.save(torch.fx.symbolic_trace(model), path)
    else:
        torch.jit.save(torch.jit.script(model) if way == "script" else torch.jit.trace(model, (x,)), path)
    assert python("-W", "ignore", "-c", RUN_WITHOUT_FASTPOOL, path, "fx" if way == "fx" else "jit") == "the same\n"


def test_a_traced_graph_calls_pytorchs_functions_and_can_be_differentiated():
    model, x = network()
    graph_module = torch.fx.symbolic_trace(model)
    assert pools_called(graph_module) == [F.max_pool2d, F.max_pool2d]
    grads = []
    for run in (model, graph_module):
        run(x).square().sum().backward()
        grads.append([w.grad.clone() for w in model.parameters()])
        model.zero_grad()
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("grouping", ["strided", "contiguous"])
def test_a_traced_maxout_sends_the_gradient_of_a_tie_to_the_first_piece_as_fastpool_does(grouping):
    layer, x = ft.Maxout(2, grouping=grouping), torch.zeros(1, 8, 3).requires_grad_()
    expected, got = (torch.autograd.grad(run(x).sum(), x)[0] for run in (layer, torch.jit.trace(layer, (x,))))
    assert torch.equal(got, expected)


UNLIKE_PYTORCHS = {
    "more than half a window": (5, r"got \(5, 5\), more than half of a window of \(3, 3\)"),
    "one more than half a window": (2, r"got \(2, 2\), more than half"),
    "before and after": ([(1, 0), (1, 1)], r"got \(\(1, 0\), \(1, 1\)\), which differs before and after"),
    "same": ("same", "got 'same', which depends on the size of the input"),
}


@pytest.mark.parametrize("way", EXPORTS)
@pytest.mark.parametrize("name", UNLIKE_PYTORCHS)
@pytest.mark.parametrize("layer", [ft.MaxPool2d, ft.MinPool2d])
def test_padding_that_pytorch_does_not_have_is_refused_when_exported(layer, name, way, tmp_path):
    padding, problem = UNLIKE_PYTORCHS[name]
    model = nn.Sequential(layer(3, 2, padding))
    model(X[2])
    with pytest.raises(Exception, match=r"padding must be one that PyTorch's own max pooling has.*" + problem):
        EXPORTS[way](model, X[2], str(tmp_path / "model.onnx"))


def test_minima_of_integers_are_refused_when_exported():
    x = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4)
    with pytest.raises(TypeError, match=r"input must be floating .* got torch.uint8"):
        torch.jit.trace(ft.MinPool2d(2), (x,))
    with pytest.raises(torch.jit.Error, match="input must be floating"):
        torch.jit.script(ft.MinPool2d(2))(x)
    with pytest.raises(AssertionError, match="input must be floating"):
        torch.fx.symbolic_trace(ft.MinPool2d(2))(x)
    assert torch.jit.trace(ft.MaxPool2d(2), (x,))(x).dtype == torch.uint8


def test_a_program_of_torch_export_keeps_the_operators_and_is_refused_by_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    model, x = nn.Sequential(ft.MaxPool2d(2)), X[2]
    program = torch.export.export(model, (x,))
    assert "fastpool.max_pool" in program.graph_module.code
    with pytest.raises(Exception, match=r"fastpool::max_pool has no counterpart in ONNX.*restore_max_pools"):
        torch.onnx.export(program, (x,), str(tmp_path / "model.onnx"), dynamo=True, verbose=False)
    _onnx(ft.restore_max_pools(model), x, str(tmp_path / "model.onnx"), dynamo=True)
    torch.testing.assert_close(_run_onnx(str(tmp_path / "model.onnx"), x)[0], model(x))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("way", ["script", "fx"])
def test_unpooling_is_scripted_and_traced_as_pytorchs(axes, way):
    size = (5, 7, 9)[:axes]
    y, indices = getattr(ft, f"max_pool{axes}d")(images(2, 4, *size), 3, 2, 1, return_indices=True)
    layer = getattr(ft, f"MaxUnpool{axes}d")(3, 2, 1)
    exported = torch.jit.script(layer) if way == "script" else torch.fx.symbolic_trace(layer)
    assert torch.equal(exported(y, indices), layer(y, indices))
    if way == "script":
        assert torch.equal(exported(y, indices, size), layer(y, indices, size))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8], ids=str)
def test_quantised_tensors_pool_as_in_pytorch(dtype):
    q = torch.quantize_per_tensor(X[2], 0.05, 10, dtype)
    got, expected = ft.MaxPool2d(3, 2, 1)(q), nn.MaxPool2d(3, 2, 1)(q)
    assert got.is_quantized
    assert got.q_scale() == expected.q_scale()
    assert torch.equal(got.int_repr(), expected.int_repr())
    with pytest.raises(ValueError, match=r"padding must be one that PyTorch's own max pooling has"):
        ft.max_pool2d(q, 3, 2, 2)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_with_replaced_pools_is_quantised():
    quantization = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    before = nn.Sequential(
        quantization.QuantStub(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), quantization.DeQuantStub()
    ).eval()
    x = images(2, 3, 12, 12)
    outputs = []
    for make in (lambda: before, lambda: ft.replace_max_pools(before)):
        model = make()
        model.qconfig = quantization.get_default_qconfig("fbgemm")
        prepared = quantization.prepare(model)
        prepared(x)
        outputs.append(quantization.convert(prepared)(x))
    assert torch.equal(*outputs)
