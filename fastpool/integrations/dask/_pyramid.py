"""Multiscale pyramids of arrays of any size, in Zarr, with OME-NGFF metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, product
from math import isfinite, isnan, prod
from pathlib import Path
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import get_scheduler, tokenize
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph

import fastpool as fp
from fastpool.arguments import frozen, integer, one_of
from fastpool.integrations.dask import _folders, _labels
from fastpool.type_hints import Padding
from fastpool.window import Window

try:
    import zarr
    from zarr.abc.store import Store
    from zarr.core.sync import sync
    from zarr.errors import ContainsArrayError
    from zarr.storage import FsspecStore, LocalStore, MemoryStore, StorePath
except ImportError as error:
    raise ImportError(f'pyramids are written by Zarr: pip install "fastpool[dask]" ({error})') from None

FORMATS = {"0.4": 2, "0.5": 3}  # of OME-NGFF, and of Zarr
BLOCK_BYTES = 1 << 24
MULTISCALE_TYPES = {"max": "maximum", "mode": "mode", "nearest": "nearest"}  # of each method, as OME-NGFF tells it
TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
NOTE = "fastpool"  # the attribute of the group that tells what was asked for
DELETED = "being deleted"  # what it is before the group is emptied
METADATA = {"zarr.json", ".zgroup", ".zattrs"}
Size = int | tuple[int, ...]


def pyramid(
    array: Any,
    levels: int,
    kernel_size: Size = 2,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    store: Any,
    method: str = "max",
    axes: str | None = None,
    scale: Mapping[str, float] | None = None,
    units: Mapping[str, str] | None = None,
    name: str = "",
    version: str = "0.5",
    chunks: tuple[int, ...] | None = None,
    shards: tuple[int, ...] | None = None,
    compressors: Any = "auto",
    overwrite: bool = False,
    progress: bool = False,
    backend: str | None = None,
) -> list[da.Array]:
    """Write an array and ever smaller versions of it to Zarr, each level pooled from the stored one before.

    Levels of an image are its maxima, those of labels the most frequent label of each window, or the middle one.

    Called again after it was interrupted, with the same arguments, it goes on: finished levels are left as they are,
    and so are finished chunks of the level that was being written, but for those that hold only zeros, which Zarr does
    not store. A level has no metadata, so that no reader finds it, until all its chunks are there, and the group lists
    finished levels alone. That the data of `array` are the same is not checked, nor that nobody else is writing.

    Parameters
    ----------
    array : Dask array, or what `dask.array.asarray` makes one, of 2 to 5 axes
        Of a dtype that both `max_pool2d` and Zarr take.
    levels : int
        How many, with that of the array itself. A finished pyramid can be given more.
    kernel_size, stride, padding, dilation, ceil_mode
        Of the pooling from one level to the next, as in `max_pool2d`; one for each of the space axes where they differ:
        kernel_size=(1, 2, 2) leaves the depth of a volume as it is. Windows of labels neither overlap nor have padding:
        for them stride, padding and dilation stay as they are by default.
    store : str, path or Zarr store
        Where the group is, or is to be. Workers must reach it by the same name.
    method : "max", "mode" or "nearest"
        What stands for a window: its maximum, or, of labels, which are integers, the most frequent one, or the one in
        the middle. Of labels that are equally frequent the smallest is taken, as by `scipy.stats.mode` and TensorStore.
        The middle of k elements is element k // 2, as scikit-image and ome-zarr take it; of a window that hangs over
        the end it is the last element at most.
    axes : str
        What each axis is: "yx" with "z", "c" and "t" before it as far as they are there, in the order "tczyx". It need
        not be given for 2 or 5 axes, nor where kernel_size says how many of them are space.
    scale : dict of str to float
        Size of a cell along each axis, by default 1.
    units : dict of str to str
        Their units, as {"y": "micrometer", "x": "micrometer"}.
    name : str
        Of the image.
    version : "0.5" or "0.4"
        Of OME-NGFF; 0.5 is Zarr format 3, 0.4 Zarr format 2.
    chunks, shards : tuple of int
        Of the stored arrays, one for each axis. By default 1024 cells a side for images, 128 for volumes; no shards.
    compressors
        As `zarr.create_array` takes them.
    overwrite : bool
        Replace the group in the store. In a local folder the new one is written next to the old one, as
        `<folder>.fastpool-new`, and takes its place in one step when it is complete. Killed before, the old one is
        there as it was, and another call with overwrite=True begins anew. In other stores, and where a folder cannot be
        renamed (a mount point, a parent that must not be written to), the old one is marked and deleted first. Killed
        then, no level is listed, and the next call deletes what is left.
    progress : bool
        Show a progress bar for each level; needs rich.
    backend : str
        Of maxima, as in `max_pool2d`. With "cuda" the chunks are pooled on the GPUs of the workers.

    Returns
    -------
    list of Dask arrays, one for each level

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, labels that are no integers, chunks of unknown size, a window that does not fit
        into a level, or a store that holds something else: a pyramid of other arguments, or no pyramid.

    Examples
    --------
    >>> import dask.array as da
    >>> import tempfile
    >>> from fastpool.integrations.dask import pyramid
    >>> slide = da.random.default_rng(0).integers(0, 255, (3000, 2000), dtype="uint8", chunks=1000)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [level.shape for level in pyramid(slide, 3, store=f"{folder}/slide.zarr", scale={"y": 0.25, "x": 0.25})]
    [(3000, 2000), (1500, 1000), (750, 500)]
    """
    if version not in FORMATS:
        raise ValueError(f"version must be '0.4' or '0.5', got {version!r}")
    array = da.asarray(array)
    if any(isnan(n) for n in array.shape):
        raise ValueError(
            f"array has chunks of unknown size, shape {array.shape}; call array.compute_chunk_sizes() first"
        )
    method = one_of("method", method, tuple(MULTISCALE_TYPES))
    axes = _checked_axes(axes, array.ndim, kernel_size)
    space = sum(TYPES[axis] == "space" for axis in axes)
    window = {
        "kernel_size": _each("kernel_size", kernel_size, space),
        "stride": _each("stride", kernel_size if stride is None else stride, space),
        "padding": frozen("padding", padding),
        "dilation": _each("dilation", dilation, space),
        "ceil_mode": ceil_mode,
    }
    if method != "max":
        _check_labels(method, array.dtype, window, backend)
    cell = _of_axes("scale", scale or {}, axes)
    if not all(isinstance(size, (int, float)) and isfinite(size) and size > 0 for size in cell.values()):
        raise ValueError(f"scale must be positive for each axis, got {scale!r}")
    plan = _planned(array.shape, integer("levels", levels), window, [float(cell.get(axis, 1)) for axis in axes])
    options = _storage(array.dtype, axes, version, chunks, shards, compressors)
    described = _described(axes, _of_axes("units", units or {}, axes))
    named = {"name": name, "axes": described, "version": version, "method": method}

    place = _place(store)
    first = _unseen(place, 0, array.shape, options).metadata.to_dict()
    asked = json.loads(json.dumps({"window": window, "scale": plan[0].scale, **named, "array": first}))
    with _shown(progress) as bar, _group(place, FORMATS[version], overwrite) as root:
        found = root.attrs.get(NOTE)
        if found is None:
            root.attrs[NOTE] = asked
        elif found != asked:
            other = " and ".join(key for key in asked if found.get(key) != asked[key])
            raise ValueError(f"store holds a pyramid of another {other}; give another store, or overwrite=True")

        for n, level in enumerate(plan):
            if str(n) not in root:
                target = _unseen(root, n, level.shape, options)
                block = _block(target, space)
                if n == 0:
                    source = array if _aligned(array, target) else array.rechunk(block)
                else:
                    source = _pooled(root[str(n - 1)], window, block, method, backend)
                _write(source, target, f"level {n} {level.shape}", bar)
                zarr.create_array(root.store, name=_path(root, n), shape=level.shape, **options)
            if n >= len(_listed(root)):
                root.attrs.update(_metadata(plan[: n + 1], named, window))
    root = zarr.open_group(place, mode="r+", use_consolidated=False)
    return [da.from_zarr(root[str(n)]) for n in range(len(plan))]


class _Level(NamedTuple):
    shape: tuple[int, ...]
    scale: tuple[float, ...]
    """Size of a cell along each axis."""
    translation: tuple[float, ...]
    """Where the middle of the first cell is, from that of the first cell of the array."""


def _checked_axes(axes: Any, ndim: int, kernel_size: Any) -> str:
    if axes is None:
        space = 2 if ndim == 2 else 3 if ndim == 5 else len(kernel_size) if isinstance(kernel_size, Sequence) else 0
        axes = {(2, 2): "yx", (3, 2): "cyx", (3, 3): "zyx", (4, 2): "tcyx", (4, 3): "czyx", (5, 3): "tczyx"}.get(
            (ndim, space)
        )
        if axes is None:
            raise ValueError(f"axes must be given for an array of {ndim} axes, as 'zyx' or 'cyx'")
    if not isinstance(axes, str) or not re.fullmatch("t?c?z?yx", axes):
        raise ValueError(f"axes must be of 'tczyx' in this order, with y and x (see dask.array.moveaxis), got {axes!r}")
    if len(axes) != ndim:
        raise ValueError(f"axes must name each of the {ndim} axes of array, got {axes!r}")
    return axes


def _of_axes(name: str, given: Mapping[str, Any], axes: str) -> dict[str, Any]:
    """A value for some of the axes, checked."""
    if not isinstance(given, Mapping) or not set(given) <= set(axes):
        raise ValueError(f"{name} must be a dict whose keys are axes of {axes!r}, got {given!r}")
    return dict(given)


def _each(name: str, value: Any, space: int) -> tuple[int, ...]:
    """An argument of the window for each space axis."""
    value = frozen(name, value)
    each = value if isinstance(value, tuple) else (value,) * space
    if len(each) != space:
        raise ValueError(f"{name} must be one integer or {space}, one for each space axis, got {value!r}")
    return each


def _check_labels(method: str, dtype: np.dtype, window: dict[str, Any], backend: str | None) -> None:
    if dtype.kind not in "iu":
        raise TypeError(f"array must hold labels, which are integers, with method={method!r}, got {dtype}")
    plain = {"stride": window["kernel_size"], "padding": 0, "dilation": (1,) * len(window["kernel_size"])}
    for name, value in plain.items():
        if window[name] != value:
            raise ValueError(f"{name} must be left out with method={method!r}, got {window[name]!r}")
    if backend is not None:
        raise ValueError(f"backend must be None with method={method!r}, which has no kernels, got {backend!r}")


def _planned(shape: tuple[int, ...], levels: int, window: dict[str, Any], cell: Sequence[float]) -> list[_Level]:
    """All levels; an error if a window does not fit into one."""
    if levels < 1:
        raise ValueError(f"levels must be positive, got {levels}")
    plan = [_Level(shape, tuple(cell), (0.0,) * len(shape))]
    space = len(window["kernel_size"])
    others = len(shape) - space
    for n in range(1, levels):
        shape, scale, translation = plan[-1]
        try:
            windows = Window.plan(space, shape, **window)
        except ValueError as error:
            raise ValueError(f"level {n} cannot be pooled from one of shape {shape}: {error}") from None
        geometry = zip(windows.before, windows.dilation, windows.kernel, strict=True)
        middles = [(d * (k - 1)) / 2 - before for before, d, k in geometry][3 - space :]
        moved = [t + s * m for t, s, m in zip(translation[others:], scale[others:], middles, strict=True)]
        steps = [s * step for s, step in zip(scale[others:], window["stride"], strict=True)]
        plan.append(_Level(windows.y_shape, (*scale[:others], *steps), (*translation[:others], *moved)))
    return plan


def _described(axes: str, units: dict[str, str]) -> list[dict[str, str]]:
    """The axes as OME-NGFF has them."""
    described = []
    for axis in axes:
        unit = {"unit": units[axis]} if axis in units else {}
        described.append({"name": axis, "type": TYPES[axis], **unit})
    return described


def _metadata(plan: Sequence[_Level], named: dict[str, Any], window: dict[str, Any]) -> dict[str, Any]:
    """The attributes that list these levels."""
    datasets = []
    for n, level in enumerate(plan):
        transformations = [
            {"type": "scale", "scale": list(level.scale)},
            {"type": "translation", "translation": list(level.translation)},
        ]
        datasets.append({"path": str(n), "coordinateTransformations": transformations})
    method, labels = named["method"], {}
    function, kwargs = f"fastpool.max_pool{len(window['kernel_size'])}d", window
    if method != "max":
        function, kwargs = "fastpool.integrations.dask.pyramid", {"method": method, **window}
        labels = {"image-label": {"version": named["version"]}}  # by which viewers know that these are labels
    multiscale = {
        "name": named["name"],
        "axes": named["axes"],
        "datasets": datasets,
        "type": MULTISCALE_TYPES[method],
        "metadata": {"method": function, "version": fp.__version__, "kwargs": kwargs},
    }
    if named["version"] == "0.4":
        return {"multiscales": [{"version": "0.4", **multiscale}], **labels}
    return {"ome": {"version": "0.5", "multiscales": [multiscale], **labels}}


# Zarr


def _place(store: Any) -> Any:
    """Where the group is, or is to be."""
    if isinstance(store, StorePath):
        return store
    if isinstance(store, str) and ("://" in store or "::" in store):
        return StorePath(FsspecStore.from_url(store))
    if isinstance(store, (str, Path)):
        return StorePath(LocalStore(store))
    if isinstance(store, dict):
        return StorePath(MemoryStore(store))
    return StorePath(store if isinstance(store, Store) else zarr.open_group(store, mode="a").store)


def _folder(place: Any) -> Path | None:
    """The local folder of a place. A store of the caller's own class may do more than that."""
    if type(place.store) is not LocalStore:
        return None
    folder = (place.store.root / place.path).absolute()
    return folder.resolve() if folder.is_symlink() else folder


@contextmanager
def _group(place: Any, zarr_format: int, overwrite: bool) -> Iterator[Any]:
    """The group to write levels to: the one that is there, a new one, or one that takes the place of the old one."""
    folder = _folder(place)
    if folder is not None:
        _folders.recover(folder)
        if folder.is_file():
            raise ValueError(f"store must be a folder or a name for one, got the file {folder}")
    root = _existing(place)
    names = sync(_names(place))
    levels = {name for name in names if name.isdecimal()}
    if root is None:
        if levels and not overwrite:
            raise ValueError(
                f"store holds {', '.join(sorted(levels))} outside any group, as an interrupted deletion leaves them; "
                "give another store, or overwrite=True"
            )
        sync(_delete(place, levels))
        yield zarr.open_group(place, mode="a", zarr_format=zarr_format)
    elif overwrite and folder is not None and _folders.replaceable(folder):
        with _folders.replacement(folder) as new:
            yield zarr.open_group(LocalStore(new), mode="a", zarr_format=zarr_format)
    elif overwrite or root.attrs.get(NOTE) == DELETED:
        if not place.store.supports_deletes:
            raise ValueError(f"store must be one that can delete with overwrite=True, got {place.store}")
        # Without the mark, chunks that are left would count as those of the new pyramid.
        root.attrs.put({NOTE: DELETED})
        sync(_delete(place, names - METADATA))
        yield zarr.open_group(place, mode="w", zarr_format=zarr_format)
    elif NOTE not in root.attrs and (levels or len(root) or len(root.attrs)):
        raise ValueError("store holds a group that is no pyramid of fastpool's; give another store, or overwrite=True")
    else:
        yield root


def _existing(place: Any) -> Any:
    """The group that is there, or None."""
    try:
        return zarr.open_group(place, mode="r+", use_consolidated=False)
    except FileNotFoundError:
        if not sync((place / ".zarray").exists()):
            return None
    except ContainsArrayError:
        pass
    raise ValueError("store holds an array, and no group; give another store")


async def _names(place: Any) -> set[str]:
    """What is directly in a place."""
    return {name async for name in place.store.list_dir(place.path)}


async def _delete(place: Any, names: set[str]) -> None:
    for name in names:
        key = _path(place, name)
        if any([True async for _ in place.store.list_prefix(f"{key}/")]):
            await place.store.delete_dir(key)
        else:
            await place.store.delete(key)
    left = names & await _names(place)
    if left:
        raise RuntimeError(f"store still holds {', '.join(sorted(left))} after their deletion; delete them by hand")


def _listed(root: Any) -> list[Any]:
    multiscales = root.attrs.get("ome", root.attrs).get("multiscales")
    return multiscales[0]["datasets"] if multiscales else []


def _path(place: Any, name: Any) -> str:
    return f"{place.path}/{name}".lstrip("/")


def _storage(dtype: np.dtype, axes: str, version: str, chunks: Any, shards: Any, compressors: Any) -> dict[str, Any]:
    """How the arrays are stored, as `zarr.create_array` has it."""
    side = 128 if "z" in axes else 1024
    default = tuple(side if TYPES[axis] == "space" else 1 for axis in axes)
    if dtype.kind in "iu":
        dtype = np.dtype(dtype.str)  # Zarr knows one of two C types of the same size, such as long and long long
    options = {"chunks": chunks or default, "dtype": dtype, "compressors": compressors}
    if version == "0.4":
        if shards is not None:
            raise ValueError("shards need version='0.5'")
        return {**options, "zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}}
    return {**options, "zarr_format": 3, "shards": shards, "dimension_names": tuple(axes)}


def _unseen(place: Any, n: int, shape: tuple[int, ...], options: dict[str, Any]) -> Any:
    """A level to write to whose metadata is not stored, so that no reader finds it."""
    model = zarr.create_array(MemoryStore(), shape=shape, **options)
    return zarr.Array(zarr.AsyncArray(model.metadata, StorePath(place.store, _path(place, n))))


def _unit(stored: Any) -> tuple[int, ...]:
    """What is stored under one key, and so by one task alone."""
    return stored.shards or stored.chunks


def _block(stored: Any, space: int) -> tuple[int, ...]:
    """Some of these in one task."""
    block = list(_unit(stored))
    while prod(block) * stored.dtype.itemsize << space <= BLOCK_BYTES:
        block[-space:] = [2 * n for n in block[-space:]]
    return tuple(block)


def _aligned(array: Any, stored: Any) -> bool:
    """Whether no two chunks of the array are stored under one key."""
    ends = (accumulate(chunks[:-1]) for chunks in array.chunks)
    return all(end % unit == 0 for each, unit in zip(ends, _unit(stored), strict=True) for end in each)


def _pooled(stored: Any, window: dict[str, Any], block: tuple[int, ...], method: str, backend: str | None) -> Any:
    """The level that is pooled from a stored one, in chunks that are blocks."""
    space = len(window["kernel_size"])
    strides = (1,) * (len(block) - space) + window["stride"]
    source = da.from_zarr(stored, chunks=tuple(b * s for b, s in zip(block, strides, strict=True)))
    if method != "max":
        return _labels.pooled(source, strides, method, window["ceil_mode"])
    return getattr(fp, f"max_pool{space}d")(source, **window, backend=backend)


# Writing


def _store_block(block: Any, target: Any, region: tuple[slice, ...]) -> np.ndarray:
    target[region] = block
    return np.ones((1,) * target.ndim, bool)


def _write(source: Any, target: Any, title: str, bar: Any) -> None:
    """Store what is not stored yet of an array."""
    stored = sync(_keys(target))
    starts = [list(accumulate(chunks, initial=0)) for chunks in source.chunks]
    name = f"stored-{tokenize(source.name, title)}"
    layer: dict[Any, Any] = {}
    left = 0
    for at in product(*map(range, source.numblocks)):
        region = tuple(slice(s[i], s[i + 1]) for s, i in zip(starts, at, strict=True))
        if _keys_of(region, target) <= stored:
            layer[name, *at] = np.ones((1,) * source.ndim, bool)
        else:
            layer[name, *at] = (_store_block, (source.name, *at), target, region)
            left += 1
    graph = HighLevelGraph.from_collections(name, layer, [source])
    marks = da.Array(graph, name, [(1,) * n for n in source.numblocks], bool)
    bar(title, left, marks)


async def _keys(target: Any) -> set[str]:
    """The chunks of a level that are there; what a killed writer left of one is deleted."""
    place = target.store_path
    keys = set()
    async for key in place.store.list_prefix(f"{place.path}/"):
        if key.endswith(".partial"):
            await place.store.delete(key)
        keys.add(key.removeprefix(f"{place.path}/"))
    return keys


def _keys_of(region: tuple[slice, ...], target: Any) -> set[str]:
    """Under which keys a region is stored."""
    each = (range(r.start // n, -(-r.stop // n)) for r, n in zip(region, _unit(target), strict=True))
    return {target.metadata.encode_chunk_key(at) for at in product(*each)}


def _quietly(title: str, left: int, marks: Any) -> None:
    # persist() first: with one task behind all others Dask goes through the chunks in an order that keeps rows of them.
    # On a cluster it is back at once: compute() then waits, and raises what went wrong.
    marks.persist().compute()


@contextmanager
def _shown(progress: bool) -> Iterator[Callable[[str, int, Any], None]]:
    """A function that computes marks, and tells how far it is if that is wanted."""
    if not progress:
        yield _quietly
        return
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        raise ImportError("progress=True needs rich: pip install rich") from None
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as bar:

        def compute(title: str, left: int, marks: Any) -> None:
            shown = bar.add_task(title, total=left)
            client = getattr(get_scheduler(), "__self__", None)
            if client is None:

                def advance(key: Any, *more: Any) -> None:
                    if isinstance(key, tuple) and key[0] == marks.name:
                        bar.advance(shown)

                with Callback(posttask=advance):
                    _quietly(title, left, marks)
                return
            from distributed import as_completed, futures_of

            futures = futures_of(marks.persist())
            bar.update(shown, total=len(futures))
            for future in as_completed(futures):
                future.result()
                bar.advance(shown)

        yield compute
