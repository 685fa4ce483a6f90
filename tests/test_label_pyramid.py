"""Pyramids of labels have labels of the level before, and readers of OME-NGFF open every level as labels."""

import warnings
from collections import Counter
from importlib.util import find_spec
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpool as fp

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
zarr = pytest.importorskip("zarr", "3.1.3")
from fastpool.integrations.dask import pyramid  # noqa: E402

METHODS = ("mode", "nearest")


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


# The specification: loops over windows


def mode_of(window):
    counts = Counter(window.ravel().tolist())
    return min(label for label, count in counts.items() if count == max(counts.values()))


def nearest_of(window, kernel):
    return window[tuple(min(k // 2, n - 1) for k, n in zip(kernel, window.shape, strict=True))]


def expected(x, kernel, method, ceil_mode=False):
    """The next level of an array all of whose axes are space."""
    sizes = [-(-n // k) if ceil_mode else n // k for n, k in zip(x.shape, kernel, strict=True)]
    y = np.empty(sizes, x.dtype)
    for at in np.ndindex(*sizes):
        window = x[tuple(slice(i * k, (i + 1) * k) for i, k in zip(at, kernel, strict=True))]
        y[at] = mode_of(window) if method == "mode" else nearest_of(window, kernel)
    return y


def labels(shape, dtype=np.uint16, seed=0, different=4):
    return np.random.default_rng(seed).integers(0, different, shape).astype(dtype)


@given(
    sides=st.lists(st.integers(1, 12), min_size=2, max_size=3),
    kernel=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    chunk=st.integers(1, 7),
    ceil_mode=st.booleans(),
    method=st.sampled_from(METHODS),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_levels_are_those_of_the_specification(sides, kernel, chunk, ceil_mode, method, seed):
    kernel = tuple(min(k, n) for k, n in zip(kernel, sides, strict=False))
    x = labels(sides, seed=seed, different=3)
    with dask.config.set(scheduler="synchronous"):
        levels = pyramid(
            da.from_array(x, chunks=chunk),
            2,
            kernel,
            ceil_mode=ceil_mode,
            store=zarr.storage.MemoryStore(),
            method=method,
            axes="zyx"[-len(sides) :],
            chunks=(chunk,) * len(sides),
        )
    assert levels[1].dtype == x.dtype
    np.testing.assert_array_equal(levels[1].compute(), expected(x, kernel, method, ceil_mode))


@pytest.mark.parametrize("dtype", "bBhHiIqQ")
@pytest.mark.parametrize("method", METHODS)
def test_every_integer_dtype_is_taken_with_its_extremes(dtype, method, tmp_path):
    x = labels((40, 30), dtype)
    x[x == 2], x[x == 3] = np.iinfo(dtype).max, np.iinfo(dtype).min
    levels = pyramid(x, 4, store=tmp_path / "x", method=method)
    for before, level in pairwise(levels):
        np.testing.assert_array_equal(level.compute(), expected(before.compute(), (2, 2), method))


@pytest.mark.parametrize("method", METHODS)
def test_blocks_of_several_chunks_are_pooled_as_one_array(method, tmp_path, monkeypatch):
    from fastpool.integrations.dask import _pyramid

    monkeypatch.setattr(_pyramid, "BLOCK_BYTES", 1 << 10)
    x = labels((3, 130, 150))
    levels = pyramid(x, 3, (2, 3), store=tmp_path / "x", chunks=(1, 8, 8), axes="cyx", method=method)
    for before, level in pairwise(levels):
        images = [expected(channel, (2, 3), method) for channel in before.compute()]
        np.testing.assert_array_equal(level.compute(), images)


def test_of_equally_frequent_labels_the_smallest_is_taken_as_by_scipy(tmp_path):
    stats = pytest.importorskip("scipy.stats")
    windows = np.array(list(product((0, 3, 5, 9), repeat=4)), np.uint8)
    x = windows.reshape(-1, 2, 2).transpose(1, 0, 2).reshape(2, -1)
    level = pyramid(x, 2, store=tmp_path / "x", method="mode")[1].compute()
    np.testing.assert_array_equal(level[0], stats.mode(windows, axis=1).mode)


@pytest.mark.parametrize("side", [2, 3, 4, 5])
def test_the_nearest_label_is_that_of_scikit_image_and_ome_zarr(side, tmp_path):
    transform = pytest.importorskip("skimage.transform")
    x = labels((side * 6, side * 5), different=1000)
    level = pyramid(x, 2, side, store=tmp_path / "x", method="nearest")[1].compute()
    theirs = transform.resize(x, (6, 5), order=0, preserve_range=True, anti_aliasing=False)
    np.testing.assert_array_equal(level, theirs)


def test_maxima_of_labels_would_be_other_labels(tmp_path):
    x = np.array([[1, 1], [1, 7]], np.uint8)
    made = {m: pyramid(x, 2, store=tmp_path / m, method=m)[1].compute().item() for m in ("max", "mode", "nearest")}
    assert made == {"max": 7, "mode": 1, "nearest": 7}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "mean"}, ValueError, "method must be 'max', 'mode' or 'nearest', got 'mean'"),
        ({"array": np.zeros((8, 8))}, TypeError, "array must hold labels, which are integers, .*got float64"),
        ({"array": np.zeros((8, 8), bool)}, TypeError, "array must hold labels, which are integers, .*got bool"),
        ({"stride": 1}, ValueError, r"stride must be left out with method='mode', got \(1, 1\)"),
        ({"padding": 1}, ValueError, "padding must be left out with method='mode', got 1"),
        ({"dilation": 2}, ValueError, r"dilation must be left out with method='mode', got \(2, 2\)"),
        ({"backend": "numpy"}, ValueError, "backend must be None with method='mode', .*got 'numpy'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_written(arguments, error, message, tmp_path):
    arguments = {"array": labels((8, 8)), "levels": 2, "method": "mode", **arguments}
    with pytest.raises(error, match=message):
        pyramid(**arguments, store=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_pyramid_of_another_method_is_not_continued(tmp_path):
    x = labels((20, 20))
    pyramid(x, 2, store=tmp_path / "x", method="mode")
    with pytest.raises(ValueError, match="store holds a pyramid of another method"):
        pyramid(x, 2, store=tmp_path / "x", method="nearest")


# Other readers

VERSIONS = pytest.mark.parametrize("version", ["0.4", "0.5"])


@pytest.fixture
def slide(tmp_path, version):
    """An image with labels, as docs/scale.md writes them: the folder, and the levels of each."""
    place = tmp_path / "slide.zarr"
    image, nuclei = labels((2, 70, 90), np.uint8, different=200), labels((70, 90))
    levels = [
        pyramid(image, 3, store=place, axes="cyx", scale={"y": 0.5, "x": 0.5}, version=version),
        pyramid(nuclei, 3, store=place / "labels/nuclei", scale={"y": 0.5, "x": 0.5}, method="mode", version=version),
    ]
    listed = {"labels": ["nuclei"]}
    attributes = listed if version == "0.4" else {"ome": {"version": version, **listed}}
    zarr.open_group(place / "labels", mode="a", zarr_format=2 if version == "0.4" else 3).attrs.update(attributes)
    return place, levels


@VERSIONS
def test_ome_zarr_models_validates_images_and_labels(slide, version):
    models = pytest.importorskip("ome_zarr_models")
    place, _ = slide
    read = models.open_ome_zarr(zarr.open_group(place, mode="r"))
    assert type(read).__name__ == "Image"
    assert read.labels is not None
    assert list(read.labels.attributes.labels if version == "0.4" else read.labels.ome_attributes.labels) == ["nuclei"]
    read = models.open_ome_zarr(zarr.open_group(place / "labels/nuclei", mode="r"))
    assert (type(read).__name__, read.ome_zarr_version) == ("ImageLabel", version)


@VERSIONS
def test_ome_zarr_opens_every_level_of_images_and_labels(slide):
    place, levels = slide
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own and of its dependencies
        pytest.importorskip("ome_zarr")
        from ome_zarr.io import parse_url
        from ome_zarr.reader import Label, Reader

        found = {
            any(isinstance(s, Label) for s in node.specs): node for node in Reader(parse_url(place))() if node.data
        }
    for written, node in zip(levels, (found[False], found[True]), strict=True):
        assert len(node.data) == len(written) == 3
        for theirs, ours in zip(node.data, written, strict=True):
            np.testing.assert_array_equal(theirs.compute(), ours.compute())


NAPARI = """
import sys
import numpy as np, zarr
from napari_ome_zarr import napari_get_reader

layers = {kind: (levels, options) for levels, options, kind in napari_get_reader(sys.argv[1])(sys.argv[1])}
for kind, folder in (("image", ""), ("labels", "/labels/nuclei")):
    levels, options = layers[kind]
    assert len(levels) == 3, levels
    for n, level in enumerate(levels):
        np.testing.assert_array_equal(level, zarr.open_array(f"{sys.argv[1]}{folder}/{n}", mode="r")[...])
print(sorted(layers), layers["labels"][1]["scale"])
"""


@VERSIONS
@pytest.mark.skipif(find_spec("napari_ome_zarr") is None, reason="napari-ome-zarr is not installed")
def test_napari_opens_every_level_of_images_and_labels(slide, python):
    place, _ = slide
    assert "['image', 'labels'] [0.5, 0.5]" in python("-c", NAPARI, place)


def test_a_pyramid_of_maxima_is_no_labels(tmp_path):
    pyramid(labels((20, 20)), 2, store=tmp_path / "x")
    assert "image-label" not in zarr.open_group(tmp_path / "x", mode="r").attrs["ome"]
    np.testing.assert_array_equal(
        zarr.open_array(tmp_path / "x" / "1", mode="r")[...], fp.max_pool2d(labels((20, 20)), 2)
    )
