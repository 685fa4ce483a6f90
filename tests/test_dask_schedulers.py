"""Dask arrays on Dask's schedulers: threads, and processes of which one dies or all have less memory than the array."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from specimens import values

import fastpool as fp
from fastpool.threads import at_most

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

needs_numba = pytest.mark.skipif(not fp.backends()["numba"].available, reason=fp.backends()["numba"].reason or "-")


def chain(x):
    """Layers that cross chunks, reduce, and come back."""
    y, argmax = fp.max_pool2d(x, (5, 5), 2, 2, return_argmax=True)
    z, units = fp.maxout(fp.hard_swish(y), y.shape[0] // 2, 0, return_argmax=True)
    dy = fp.hard_swish_backward(fp.maxout_backward(z, units, y.shape, 0), y)
    dx = fp.max_pool2d_backward(dy, argmax, x.shape, (5, 5), 2, 2)
    where = fp.global_max_pool(x[None, None], return_argmax=True)
    return z, dx, *where


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_the_same_bits_on_any_local_scheduler(scheduler):
    x = np.random.default_rng(0).integers(-50, 50, (148, 130)).astype(np.float32)
    expected = chain(x)
    with dask.config.set(scheduler=scheduler, num_workers=4):
        for _ in range(3):
            for got, e in zip(dask.compute(*chain(da.from_array(x, chunks=31))), expected, strict=True):
                np.testing.assert_array_equal(got, e)


# Threads


def test_a_limit_holds_in_its_block_and_thread_alone():
    before = fp.get_num_threads()
    fp.set_num_threads(7)
    try:
        with at_most(3):
            assert fp.get_num_threads() == 3
            with at_most(1):
                assert fp.get_num_threads() == 1
            fp.set_num_threads(2)
            assert fp.get_num_threads() == 2
            fp.set_num_threads(7)
        assert fp.get_num_threads() == 7
    finally:
        fp.set_num_threads(None)
    assert fp.get_num_threads() == before


THREADS = """
import numpy as np, dask, dask.array as da, fastpool as fp
from fastpool.backends.numba._launch import helpers_started
fp.set_num_threads(4)
x = np.ones((4096, 2048), np.float32)
lazy = da.from_array(x, chunks=1024)
with dask.config.set(scheduler="threads", num_workers=3):
    y, argmax = fp.max_pool2d(lazy, (3, 3), 2, 1, return_argmax=True)
    dask.compute(fp.max_pool2d_backward(y, argmax, x.shape, (3, 3), 2, 1), fp.maxout(fp.hard_swish(lazy), 1024))
in_tasks = helpers_started()
assert fp.get_num_threads() == 4
fp.max_pool2d(x, (3, 3), 2, 1)
print(in_tasks, helpers_started())
"""


@needs_numba
def test_kernels_in_tasks_start_no_threads_of_their_own(python):
    in_tasks, elsewhere = map(int, python("-c", THREADS).split())
    assert in_tasks == 0
    assert elsewhere == 3


# Processes


@pytest.fixture
def cluster(request):
    """Two worker processes of one thread each, with the memory that the test asks for, and a client."""
    distributed = pytest.importorskip("distributed")
    settings = {"distributed.admin.large-graph-warning-threshold": "1 GB", "distributed.comm.timeouts.connect": "60s"}
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            memory_limit=getattr(request, "param", None),
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as started,
        distributed.Client(started, timeout=60) as client,
    ):
        yield client


def slow_and_once_deadly(block, flag, block_info=None):
    """Kills its process when it first reaches the block in the middle."""
    if block_info[0]["chunk-location"] == (2, 2):
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return block


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.slow
def test_a_worker_that_dies_in_the_middle_changes_nothing(cluster, tmp_path):
    flag = tmp_path / "died"
    x = np.random.default_rng(0).integers(-50, 50, (148, 130)).astype(np.float32)
    workers = set(cluster.run(os.getpid).values())
    lazy = da.from_array(x, chunks=31).map_blocks(slow_and_once_deadly, flag=str(flag), meta=np.empty((0, 0), x.dtype))
    expected = chain(x)
    futures = cluster.compute(chain(lazy))
    for got, e in zip(cluster.gather(futures), expected, strict=True):
        np.testing.assert_array_equal(got, e)
    assert flag.exists()
    assert set(cluster.run(os.getpid).values()) != workers


def peak_memory():
    """The memory of this process, in bytes."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def ramp(block_info=None):
    """float32 values that encode their row and column, cheap to compute."""
    (top, bottom), (left, right) = block_info[None]["array-location"]
    rows = np.arange(top, bottom, dtype=np.float32)[:, None]
    return rows * 7 % 1013 + np.arange(left, right, dtype=np.float32) % 911


LIMIT = 512 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the peak")
@pytest.mark.parametrize("cluster", [LIMIT], indirect=True)
@pytest.mark.slow
def test_an_array_larger_than_the_memory_of_all_workers(cluster):
    n = 17 * 1024
    x = da.map_blocks(ramp, chunks=((1024,) * 17,) * 2, meta=np.empty((0, 0), np.float32))
    assert x.nbytes > 2 * LIMIT
    y = fp.max_pool2d(x, (3, 3), 2, 1)
    total, largest = cluster.gather(cluster.compute([y.sum(dtype=np.float64), y.max()]))
    rows = np.arange(n) * 7 % 1013
    columns = np.arange(n) % 911
    pooled = [fp.max_pool1d(a.astype(np.float64), (3,), 2, 1) for a in (rows, columns)]
    assert total == sum(p.sum() for p in pooled) * (n // 2)
    assert largest == rows.max() + columns.max()
    peaks = cluster.run(peak_memory)
    assert len(peaks) == 2
    assert max(peaks.values()) < LIMIT


def slow(block):
    time.sleep(0.05)
    return block


@pytest.mark.parametrize("progress", [False, True])
@pytest.mark.slow
def test_a_pyramid_by_worker_processes(progress, cluster, tmp_path, capsys):
    pytest.importorskip("zarr", "3.1.3")
    pytest.importorskip("rich")
    from fastpool.integrations.dask import pyramid

    x = values((120, 130), np.uint8)
    source = da.from_array(x, chunks=30).map_blocks(slow)  # without waiting, a reader finds zeros
    levels = pyramid(source, 3, 3, 2, 1, store=Path(tmp_path) / "x", chunks=(16, 16), progress=progress)
    for level in levels:
        np.testing.assert_array_equal(level.compute(), x)
        x = fp.max_pool2d(x, (3, 3), 2, 1)
    assert ("level 2 (30, 33)" in capsys.readouterr().out) == progress


def broken(block, block_info=None):
    if block_info[0]["chunk-location"] == (1, 1):
        raise RuntimeError("this chunk cannot be read")
    return block


@pytest.mark.parametrize("progress", [False, True])
@pytest.mark.slow
def test_a_chunk_that_fails_on_a_worker_fails_the_pyramid(progress, cluster, tmp_path):
    pytest.importorskip("zarr", "3.1.3")
    pytest.importorskip("rich")
    from fastpool.integrations.dask import pyramid

    source = da.from_array(values((64, 64), np.uint8), chunks=32).map_blocks(broken, dtype=np.uint8)
    with pytest.raises(RuntimeError, match="this chunk cannot be read"):
        pyramid(source, 2, store=Path(tmp_path) / "x", chunks=(32, 32), progress=progress)
    assert not list(tmp_path.glob("x/*/zarr.json"))  # no level
