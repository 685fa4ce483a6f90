"""The GPU benchmark, run on the CPU: each of its calls, at tiny sizes."""

from dataclasses import replace
from importlib import import_module

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("rich")
gpu = import_module("benchmarks.gpu")

ROWS = list(gpu.rows([1]))
FLOATS = [row for row in ROWS if row.task.dtype == "float32"]


def test_the_names_of_rows_are_unique():
    assert len({row.name for row in gpu.rows()}) == len(list(gpu.rows()))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_input_has_about_the_size_of_its_row(row):
    task = row.task
    elements = torch.Size(task.shape).numel() * (9 if task.op in ("im2col", "col2im") else 1)
    itemsize = getattr(torch, task.dtype).itemsize
    image_bytes = elements * itemsize / task.shape[0]
    assert elements * itemsize == pytest.approx(gpu.MEGABYTE, abs=image_bytes)


@pytest.mark.parametrize("row", FLOATS, ids=lambda row: row.name)
def test_the_results_of_fastpool_and_torch_agree(row):
    small = row.task.small() if row.task.axes > 0 else replace(row.task, shape=(8, 8 * row.task.pieces))
    calls, moved = gpu.Problem(replace(row, task=small), torch, 0, "cpu").calls()
    assert list(calls) == ["fastpool", "torch"]
    assert moved > 0
    assert gpu.agrees(torch, calls["fastpool"](), calls["torch"](), exact=False)


def test_results_that_differ_do_not_agree():
    a, b = torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])
    assert not gpu.agrees(torch, a, b, exact=True)
    assert not gpu.agrees(torch, a, b, exact=False)
    assert gpu.agrees(torch, (b, 1), (b.clone(), 2), exact=True)


def test_rows_are_listed_and_a_missing_gpu_is_reported(python):
    assert "max_pool2d backward 2x2 s2" in python("-m", "benchmarks.gpu", "--sizes", "64", "--list")
    assert "no row matches" in python("-m", "benchmarks.gpu", "--rows", "no such row", fails=True)


def _measured(row):
    """A row at a tiny size, on the CPU; each call is made once."""

    def timed(torch, calls, rounds):
        for call in calls:
            call()
        return 1e-3

    small = replace(row, task=row.task.small())
    return gpu.measured(small, torch, 1e9, 1, 2, "cpu", timed)


@pytest.mark.parametrize("mode", gpu.MODES)
def test_what_torch_cannot_do_is_a_gap_in_the_table(mode, monkeypatch):
    """PyTorch's pooling on a GPU takes only floats, which ended the program at its first row of uint8."""

    def refused(*arguments, **options):
        raise NotImplementedError("\"max_pool2d\" not implemented for 'Byte'\nsecond line")

    row = next(row for row in FLOATS if (row.task.op, row.mode) == ("max_pool2d", mode))
    whole = _measured(row)
    assert not gpu.failed(whole)
    assert whole["gaps"] == {}
    assert list(whole["seconds"]) == ["fastpool", "torch"]
    monkeypatch.setattr(torch.nn.functional, "max_pool2d", refused)
    measurements = _measured(row)
    assert list(measurements["seconds"]) == ["fastpool"]
    assert measurements["gaps"] == {"torch": "NotImplementedError: \"max_pool2d\" not implemented for 'Byte'"}
    assert not gpu.failed(measurements)
    assert gpu._line(measurements)[2] == gpu._line(measurements)[4] == "-"


def test_what_fastpool_cannot_do_is_a_failure(monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("no kernel")

    row = next(row for row in FLOATS if (row.task.op, row.mode) == ("max_pool2d", "forward"))
    monkeypatch.setattr(gpu.fp, "max_pool2d", broken)
    measurements = _measured(row)
    assert measurements["gaps"]["fastpool"] == "RuntimeError: no kernel"
    assert gpu.failed(measurements)


def test_a_report_with_gaps_is_shown(capsys):
    row = next(row for row in FLOATS if (row.task.op, row.mode) == ("max_pool2d", "forward"))
    measurements = _measured(row) | {"seconds": {}, "gaps": {"torch": "RuntimeError: [no]"}, gpu.COPY_SHARE: None}
    about = {"GPU": "a GPU", "date": "2026-11-26"}
    gpu.show({"machine": about, "copy": {1: 1e12}, "tiny": {}, "rows": [measurements | {"torch ÷ fastpool": None}]})
    assert f"torch has no {measurements['name']}: RuntimeError: [no]" in capsys.readouterr().out
