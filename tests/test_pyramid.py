"""Pyramids: levels and metadata are right, and an unfinished level is never visible."""

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from doctests import check as check_example
from doctests import of_module, of_page

import fastpool as fp

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
zarr = pytest.importorskip("zarr", "3.1.3")
from fastpool.integrations.dask import pyramid  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def image(shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def expected_levels(x, levels, pool, *window, **more):
    found = [x]
    for _ in range(levels - 1):
        found.append(pool(found[-1], *window, **more))
    return found


def check(levels, expected):
    assert len(levels) == len(expected)
    for level, e in zip(levels, expected, strict=True):
        assert level.dtype == e.dtype
        np.testing.assert_array_equal(level.compute(), e)


WINDOWS = {
    "2 s2": (2, None, 0, 1, False),
    "3 s2 p1": (3, 2, 1, 1, False),
    "(3,4) s(2,3) same": ((3, 4), (2, 3), "same", 1, False),
    "2 ceil": (2, None, 0, 1, True),
    "3 s1 d2": (3, 1, ((2, 2), (2, 2)), 2, False),
}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.slow
def test_each_level_is_pooled_from_the_one_before(name, version, tmp_path):
    window = WINDOWS[name]
    x = image((207, 330))
    levels = pyramid(da.from_array(x, chunks=70), 4, *window, store=tmp_path / "x", chunks=(16, 16), version=version)
    space = tuple(np.atleast_1d(window[0]).repeat(2)[:2].tolist()) if np.ndim(window[0]) == 0 else window[0]
    check(levels, expected_levels(x, 4, fp.max_pool2d, space, *window[1:]))


@pytest.mark.parametrize("dtype", [bool, np.int16, np.float16, np.float32, np.float64])
def test_each_dtype_stays_what_it_is(dtype, tmp_path):
    x = image((50, 40), dtype)
    check(pyramid(x, 3, store=tmp_path / "x"), expected_levels(x, 3, fp.max_pool2d, (2, 2)))


def test_volumes_may_keep_their_depth(tmp_path):
    x = image((2, 3, 9, 40, 50), np.uint16)
    levels = pyramid(x, 3, (1, 2, 2), store=tmp_path / "x", chunks=(1, 1, 4, 8, 8), shards=(1, 1, 8, 16, 16))
    assert [level.shape for level in levels] == [(2, 3, 9, 40, 50), (2, 3, 9, 20, 25), (2, 3, 9, 10, 12)]
    check(levels, expected_levels(x, 3, fp.max_pool3d, (1, 2, 2)))


def attributes(store, version="0.5"):
    """The metadata that a reader finds in the files."""
    if version == "0.4":
        return json.loads((Path(store) / ".zattrs").read_text())["multiscales"][0]
    return json.loads((Path(store) / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_metadata_gives_the_position_of_each_element(version, tmp_path):
    pyramid(
        image((2, 64, 90)),
        3,
        (2, 3),
        store=tmp_path / "x",
        axes="cyx",
        scale={"y": 0.5, "x": 0.25},
        units={"y": "micrometer", "x": "micrometer"},
        name="slide",
        version=version,
    )
    written = attributes(tmp_path / "x", version)
    assert written["name"] == "slide"
    assert written["axes"] == [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    assert [d["path"] for d in written["datasets"]] == ["0", "1", "2"]
    steps = [{t["type"]: t[t["type"]] for t in d["coordinateTransformations"]} for d in written["datasets"]]
    assert [s["scale"] for s in steps] == [[1, 0.5, 0.25], [1, 1, 0.75], [1, 2, 2.25]]
    # The first element of a level is at the centre of the elements that it is the maximum of.
    assert [s["translation"] for s in steps] == [[0, 0, 0], [0, 0.25, 0.25], [0, 0.75, 1]]
    if version == "0.5":
        assert zarr.open_array(tmp_path / "x" / "2").metadata.dimension_names == ("c", "y", "x")


def test_a_padded_window_in_the_middle_moves_nothing(tmp_path):
    pyramid(image((40, 40)), 3, 3, 2, 1, store=tmp_path / "x")
    moves = [d["coordinateTransformations"][1]["translation"] for d in attributes(tmp_path / "x")["datasets"]]
    assert moves == [[0, 0]] * 3


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_other_readers_take_the_metadata(version, tmp_path):
    models = pytest.importorskip("ome_zarr_models")
    pyramid(image((2, 64, 90)), 3, store=tmp_path / "x", axes="cyx", version=version)
    read = models.open_ome_zarr(zarr.open_group(tmp_path / "x", mode="r"))
    assert read.ome_zarr_version == version
    assert len(read.datasets[0] if isinstance(read.datasets, tuple) else read.datasets) >= 1


# Interrupted


DYING = """
import asyncio, os, signal, sys
import numpy as np, dask, dask.array as da
from zarr.storage import LocalStore
from fastpool.integrations.dask import pyramid

class Dying(LocalStore):
    left = int(sys.argv[2])
    async def set(self, key, value):
        Dying.left -= 1
        if Dying.left < 0:
            torn = self.root / (key + ".torn.partial")  # as LocalStore leaves it
            torn.parent.mkdir(parents=True, exist_ok=True)
            torn.write_bytes(value.to_bytes()[: len(value) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        await super().set(key, value)

x = np.random.default_rng(0).integers(1, 200, (100, 90)).astype(np.uint8)
dask.config.set(scheduler=sys.argv[3])
pyramid(da.from_array(x, chunks=48), 4, 3, 2, 1, store=Dying(sys.argv[1]), chunks=(24, 24), version=sys.argv[4])
print("finished")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize(("version", "scheduler", "puts"), [("0.5", "synchronous", 9), ("0.4", "threads", 11)])
@pytest.mark.slow
def test_killed_repeatedly_it_finishes_with_the_same_result(version, scheduler, puts, tmp_path):
    store = tmp_path / "x"
    x = np.random.default_rng(0).integers(1, 200, (100, 90)).astype(np.uint8)
    expected = expected_levels(x, 4, fp.max_pool2d, (3, 3), 2, 1)
    deaths = 0
    while True:
        done = subprocess.run(
            [sys.executable, "-c", DYING, str(store), str(puts), scheduler, version],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "FASTPOOL_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        group = zarr.open_group(store, mode="r")
        listed = group.attrs.get("ome", group.attrs).get("multiscales", [{"datasets": []}])[0]["datasets"]
        seen = {str(n) for n in range(4) if str(n) in group}
        assert {d["path"] for d in listed} <= seen
        for n in seen:  # whatever a reader can open is complete
            np.testing.assert_array_equal(group[n][:], expected[int(n)])
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        deaths += 1
        assert deaths < 20
    assert "finished" in done.stdout
    assert deaths >= 3
    assert [d["path"] for d in listed] == ["0", "1", "2", "3"]
    assert not [torn for torn in store.rglob("*.partial") if len(torn.relative_to(store).parts) > 2]


KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
import dask, dask.array as da, numpy as np, zarr
from fastpool.integrations.dask import _folders, pyramid

folder, way = Path(sys.argv[1]), sys.argv[2]
store, pristine = folder / "x", folder / "pristine"
old, new = (np.random.default_rng(seed).integers(1, 200, (12, 12)).astype(np.uint8) for seed in (0, 1))

if way == "renamed":
    _folders._exchanged = lambda a, b: False
if way == "deleted":
    _folders.replaceable = lambda folder: False


def write(x, to=store, **more):
    with dask.config.set(scheduler="synchronous"):
        return pyramid(da.from_array(x, chunks=8), 2, store=to, chunks=(8, 8), backend="numpy", **more)


def of(x):
    return [x, x.reshape(6, 2, 6, 2).max((1, 3))]


def seen():
    "What a reader finds: whose levels, all of them, or that they are not complete."
    try:
        group = zarr.open_group(store, mode="r")
    except FileNotFoundError:
        return "no group"
    listed = group.attrs.get("ome", {}).get("multiscales", [{"datasets": []}])[0]["datasets"]
    if len(listed) < 2:
        return f"{len(listed)} levels"
    whose = [name for name, x in (("old", old), ("new", new)) if all(map(np.array_equal, of(x), map(group.get, "01")))]
    return whose[0] if whose else "MIXED"


def in_a_child(function):
    "The exit status, and what it returned."
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(function()).encode())
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text and json.loads(text)


def prepare():
    write(old, pristine)
    if way == "half deleted":
        (pristine / "zarr.json").unlink()
        (pristine / "0/c/0/0").unlink()


def killed_at(count):
    def watch(event, arguments):
        nonlocal count
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            inside = str(arguments[0]).startswith(str(folder)) or isinstance(arguments[-1], int) and arguments[-1] >= 0
            count -= inside
            if count < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def run():
        for place in folder.glob("x*"):
            shutil.rmtree(place)
        shutil.copytree(pristine, store)
        sys.addaudithook(watch)
        write(new, overwrite=True)

    return run


def again(overwrite):
    def run():
        try:
            write(new, overwrite=overwrite)
        except ValueError as error:
            return str(error)
        return [seen(), sorted(place.name for place in folder.glob("x*"))]

    return run


assert in_a_child(prepare)[0] == 0
for count in range(0, 10000, int(sys.argv[3])):
    status, _ = in_a_child(killed_at(count))
    overwrite = count % 2 == 0
    print(json.dumps([overwrite, status, in_a_child(seen)[1], in_a_child(again(overwrite))[1]]), flush=True)
    if status == 0:
        break
"""


INCOMPLETE = ("0 levels", "1 levels")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("way", ["exchanged", "renamed", "deleted", "half deleted"])
@pytest.mark.slow
def test_overwriting_is_killed_at_any_moment_and_no_old_data_pass_for_new(way, tmp_path, python):
    # Every third write is one to be killed at; the call after it overwrites in every other case.
    outcomes = [json.loads(line) for line in python("-c", KILLED, str(tmp_path), way, "3").splitlines()]
    assert outcomes[-1][1:3] == [0, "new"]
    assert len(outcomes) > 15
    whole = {"old", "new"}
    allowed = {"exchanged": whole, "renamed": {*whole, "no group"}, "deleted": {*whole, "no group", *INCOMPLETE}}
    for overwrite, _, seen, result in outcomes:
        assert seen in allowed.get(way, {"new", "no group", *INCOMPLETE})
        if overwrite:
            assert result == ["new", ["x"]], "nothing else is left"
        elif "outside any group" in result:
            assert way == "half deleted"
        else:
            assert result[0] == ("old" if seen == "old" else "new")


def test_what_is_finished_is_not_done_again(tmp_path, monkeypatch):
    x = image((100, 90)) + 1
    computed = []

    def noted(block, block_info=None):
        computed.append(block_info[0]["chunk-location"])
        return block

    source = da.from_array(x, chunks=24).map_blocks(noted, dtype=x.dtype)
    computed.clear()
    plan = {"store": tmp_path / "x", "chunks": (24, 24)}
    pyramid(source, 2, **plan)
    assert len(computed) == 20
    (tmp_path / "x" / "0" / "zarr.json").unlink()  # as if it had been killed in the first level
    for chunk in ("0/1", "3/2"):
        (tmp_path / "x" / "0" / "c" / chunk).unlink()
    computed.clear()
    levels = pyramid(source, 3, **plan)  # and one more
    assert sorted(computed) == [(0, 1), (3, 2)]
    check(levels, expected_levels(x, 3, fp.max_pool2d, (2, 2)))
    assert len(attributes(tmp_path / "x")["datasets"]) == 3
    computed.clear()
    check(pyramid(source, 2, **plan), expected_levels(x, 2, fp.max_pool2d, (2, 2)))
    assert computed == [], "a finished pyramid reads nothing of its source"


class Torn(Exception):
    """Simulates a kill in stores in memory."""


@pytest.fixture(params=["memory", "fsspec"])
def other_store(request):
    """A store that is no local folder, and the class whose method deletes its keys."""
    if request.param == "memory":
        return zarr.storage.MemoryStore(), zarr.storage.MemoryStore
    pytest.importorskip("fsspec")
    return "memory://other_store/x", zarr.storage.FsspecStore


def test_in_other_stores_what_an_interrupted_deletion_leaves_is_deleted(other_store, monkeypatch):
    store, store_type = other_store
    old, new = image((30, 20)), image((30, 20))[::-1]
    plan = {"store": store, "chunks": (8, 8)}
    pyramid(old, 3, **plan)
    deleted = []

    async def tear(self, prefix):
        if deleted:
            raise Torn
        deleted.append(prefix)
        await delete_dir(self, prefix)

    delete_dir = store_type.delete_dir
    monkeypatch.setattr(store_type, "delete_dir", tear)
    with pytest.raises(Torn):
        pyramid(new, 3, **plan, overwrite=True)
    monkeypatch.undo()
    group = zarr.open_group(store, mode="r")
    assert dict(group.attrs) == {"fastpool": "being deleted"}
    check(pyramid(new, 3, **plan), expected_levels(new, 3, fp.max_pool2d, 2))
    check(pyramid(old, 2, **plan, overwrite=True), expected_levels(old, 2, fp.max_pool2d, 2))
    assert sorted(zarr.open_group(store, mode="r")) == ["0", "1"]


def test_a_store_that_does_not_delete_is_not_written_to(monkeypatch):
    store = zarr.storage.MemoryStore()
    pyramid(image((30, 20)), 2, store=store)

    async def nothing(self, prefix):
        """As fsspec does where a name looks like a pattern."""

    monkeypatch.setattr(zarr.storage.MemoryStore, "delete_dir", nothing)
    with pytest.raises(RuntimeError, match="store still holds 0, 1 after their deletion; delete them by hand"):
        pyramid(image((30, 20)), 2, store=store, overwrite=True)


def test_a_pyramid_of_the_other_version_is_replaced(tmp_path):
    x = image((30, 20))
    for store in (tmp_path / "x", zarr.storage.MemoryStore()):
        pyramid(x, 3, store=store, version="0.4")
        check(pyramid(x, 2, store=store, overwrite=True), expected_levels(x, 2, fp.max_pool2d, 2))
        check(pyramid(x, 3, store=store, version="0.4", overwrite=True), expected_levels(x, 3, fp.max_pool2d, 2))
        assert sorted(zarr.open_group(store, mode="r")) == ["0", "1", "2"]


def test_a_failed_replacement_leaves_the_old_pyramid_and_nothing_else(tmp_path):
    x = image((30, 20))

    def fail(block):
        raise Torn

    pyramid(x, 2, store=tmp_path / "x")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    with pytest.raises(Torn):
        pyramid(da.from_array(x).map_blocks(fail, dtype=x.dtype), 2, store=tmp_path / "x", overwrite=True)
    check(pyramid(x, 2, store=tmp_path / "x"), expected_levels(x, 2, fp.max_pool2d, 2))
    assert sorted(place.name for place in tmp_path.iterdir()) == ["link", "x"]
    pyramid(x + 1, 2, store=str(tmp_path / "link"), overwrite=True)
    assert (tmp_path / "link").is_symlink()
    check(pyramid(x, 2, store=tmp_path / "x"), expected_levels(x + 1, 2, fp.max_pool2d, 2))


def test_levels_outside_any_group_are_replaced_only_on_request(tmp_path):
    x = image((30, 20))
    pyramid(x + 1, 4, store=tmp_path / "x", chunks=(8, 8))
    (tmp_path / "x" / "zarr.json").unlink()
    (tmp_path / "x" / "0" / "zarr.json").unlink()
    with pytest.raises(ValueError, match=r"store holds 0, 1, 2, 3 outside any group.*overwrite=True"):
        pyramid(x, 2, store=tmp_path / "x", chunks=(8, 8))
    assert not (tmp_path / "x" / "zarr.json").exists()
    zarr.open_group(tmp_path / "x", mode="a")  # chunks without metadata are no members of it
    with pytest.raises(ValueError, match="no pyramid of fastpool's"):
        pyramid(x, 2, store=tmp_path / "x", chunks=(8, 8))
    levels = pyramid(x, 3, store=tmp_path / "x", chunks=(8, 8), overwrite=True)
    check(levels, expected_levels(x, 3, fp.max_pool2d, 2))
    assert sorted(zarr.open_group(tmp_path / "x", mode="r")) == ["0", "1", "2"]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_store_that_is_an_array_is_refused(zarr_format, overwrite, tmp_path):
    zarr.create_array(tmp_path / "x", shape=(4,), chunks=(2,), dtype="u1", zarr_format=zarr_format)[:] = 7
    with pytest.raises(ValueError, match="store holds an array, and no group; give another store"):
        pyramid(image((30, 20)), 2, store=tmp_path / "x", overwrite=overwrite)
    assert zarr.open_array(tmp_path / "x")[0] == 7
    (tmp_path / "file").write_text("dear")
    with pytest.raises(ValueError, match="store must be a folder or a name for one, got the file"):
        pyramid(image((30, 20)), 2, store=tmp_path / "file", overwrite=overwrite)


def test_chunks_of_unknown_size_are_to_be_computed_first(tmp_path):
    x = da.from_array(image((30, 20)), chunks=8)
    x = x[x[:, 0] > 5]
    with pytest.raises(
        ValueError, match=r"array has chunks of unknown size, .*call array\.compute_chunk_sizes\(\) first"
    ):
        pyramid(x, 2, store=tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert len(pyramid(x.compute_chunk_sizes(), 2, store=tmp_path / "x")) == 2


def test_a_store_that_holds_something_else_is_refused(tmp_path):
    x = image((60, 50))
    pyramid(x, 2, store=tmp_path / "x")
    for other, what in (
        ({"kernel_size": 3}, "window"),
        ({"scale": {"y": 2}}, "scale"),
        ({"units": {"y": "meter"}}, "axes"),
        ({"compressors": None}, "array"),
        ({"chunks": (8, 8)}, "array"),
        ({"name": "other"}, "name"),
        ({"version": "0.4"}, "version"),
    ):
        with pytest.raises(ValueError, match=f"a pyramid of another .*{what}.*overwrite=True"):
            pyramid(x, 2, store=tmp_path / "x", **other)
    with pytest.raises(ValueError, match="a pyramid of another array"):
        pyramid(x[:-1], 2, store=tmp_path / "x")
    check(pyramid(x, 2, 3, store=tmp_path / "x", overwrite=True), expected_levels(x, 2, fp.max_pool2d, (3, 3)))
    zarr.create_group(tmp_path / "other").create_array("0", shape=(3,), dtype="u1")
    with pytest.raises(ValueError, match="no pyramid of fastpool's"):
        pyramid(x, 2, store=tmp_path / "other")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "letter").write_text("dear")
    pyramid(x, 2, store=folder, overwrite=True)
    assert (folder / "letter").read_text() == "dear", "what is no Zarr group is not deleted"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 0}, "levels must be positive, got 0"),
        ({"levels": 9}, r"level 6 cannot be pooled from one of shape \(1, 1\)"),
        ({"axes": "xy"}, "axes must be of 'tczyx' in this order"),
        ({"axes": "zyx"}, "axes must name each of the 2 axes"),
        ({"scale": {"z": 1}}, "scale must be a dict whose keys are axes of 'yx'"),
        ({"scale": {"y": 0}}, "scale must be positive"),
        ({"units": {"c": "meter"}}, "units must be a dict whose keys are axes"),
        ({"version": "0.3"}, "version must be '0.4' or '0.5'"),
        ({"shards": (64, 64), "version": "0.4", "chunks": (32, 32)}, "shards need version='0.5'"),
        ({"kernel_size": (2, 2, 2)}, "kernel_size must be one integer or 2, one for each space axis"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pyramid(image((50, 40)), **{"levels": 2, **arguments}, store=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_axes_are_asked_for_where_they_cannot_be_known(tmp_path):
    with pytest.raises(ValueError, match="axes must be given for an array of 3 axes"):
        pyramid(image((3, 20, 20)), 2, store=tmp_path / "x")
    assert pyramid(image((3, 20, 20)), 2, (2, 2), store=tmp_path / "x")[1].shape == (3, 10, 10)
    assert pyramid(image((4, 20, 20)), 2, (2, 2, 2), store=tmp_path / "y")[1].shape == (2, 10, 10)


@pytest.mark.skipif(find_spec("rich") is None, reason="rich is not installed")
def test_progress_reaches_the_end(tmp_path, capsys):
    with dask.config.set(scheduler="threads"):
        pyramid(da.from_array(image((100, 90)), chunks=24), 2, store=tmp_path / "x", chunks=(24, 24), progress=True)
    shown = capsys.readouterr().out
    assert "20/20" in shown
    assert "level 1 (50, 45)" in shown
    pyramid(image((9, 9)), 2, store=tmp_path / "y")
    assert capsys.readouterr().out == ""


def test_the_examples_run_as_printed():
    check_example(of_module("fastpool.integrations.dask._pyramid")["fastpool.integrations.dask._pyramid.pyramid"])
    check_example(of_page("docs/scale.md"))
