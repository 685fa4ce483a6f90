"""How graphs are made: what inputs must be, the blocks that chunks are put together to, and the calls on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from math import isnan
from operator import getitem
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import concatenate3
from dask.array.utils import meta_from_array
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from fastpool import arrays
from fastpool.backends import check_name, chosen
from fastpool.dtypes import native
from fastpool.integrations.dask.lazy.spans import Span
from fastpool.threads import at_most

if getattr(da, "array_expr_enabled", bool)():
    raise NotImplementedError(
        "fastpool makes graphs for Dask arrays, not expressions; set Dask's option array.query-planning to False"
    )


# Inputs


def read(name: str, x: Any, floats_only: bool = False) -> Any:
    """A Dask array that may be computed with, else an error."""
    if not isinstance(x, da.Array):
        kind = f"{type(x).__module__}.{type(x).__qualname__}"
        raise TypeError(f"{name} must be a Dask array as the other input is, got {kind}; see dask.array.from_array")
    arrays.read(name, x._meta, floats_only)
    if any(isnan(n) for n in x.shape):
        raise ValueError(f"{name} has chunks of unknown size, shape {x.shape}; call {name}.compute_chunk_sizes() first")
    return x


def expect(name: str, x: Any, shape: tuple[int, ...], dtype: np.dtype, of: str, other: Any) -> Any:
    """A second array, of this shape and dtype, in the chunks of the other."""
    x = read(name, x)
    arrays.expect_shape(name, x, shape, of)
    if native(x.dtype) != dtype:
        raise TypeError(f"{name} must have the dtype {dtype} of {of}, got {x.dtype}")
    return x.rechunk(other.chunks)


def backend_name(backend: str | None, out: Any) -> str | None:
    """The backend that is chosen here and now: workers know nothing of it."""
    if out is not None:
        raise TypeError("out must be None for a Dask array, which is computed later; see dask.array.store")
    name = chosen(backend)
    return None if name is None else check_name(name, "backend")


# What runs in the workers


def _call(function, arguments, keywords, crop, *blocks) -> Any:
    """A function of fastpool's on blocks, which come as chunks or as nested lists of pieces; `crop` is what is wanted.

    On one thread: Dask has threads of its own.
    """
    with at_most(1):
        result = function(*(concatenate3(b) if isinstance(b, list) else b for b in blocks), *arguments, **keywords)
    return tuple(_cropped(r, crop) for r in result) if isinstance(result, tuple) else _cropped(result, crop)


def _cropped(result: Any, crop: tuple[slice, ...]) -> Any:
    """A view, which keeps the whole result in memory, or a copy where it would keep more than twice its own size."""
    wanted = result[crop]
    return wanted if 2 * wanted.size >= result.size else wanted.copy()


def part_of(chunk: Any, part: tuple[slice, ...]) -> Any:
    """A copy, so that the rest of the chunk need not stay in memory."""
    return chunk[part].copy()


# Graphs


def array(name: str, layer: dict[Any, Any], sources: Sequence[Any], chunks: Any, meta: Any) -> Any:
    return da.Array(HighLevelGraph.from_collections(name, layer, sources), name, chunks, meta=meta)


def meta_of(like: Any, dtype: np.dtype | None = None, ndim: int | None = None) -> Any:
    """An empty array of the library of the chunks."""
    return meta_from_array(like._meta, like.ndim if ndim is None else ndim, native(dtype or like.dtype))


def _block(source: Any, name: str, spans: Sequence[Span], layer: dict[Any, Any]) -> Any:
    """Keys of the pieces that make up a block, in nested lists; tasks that cut them out of chunks go into `layer`."""

    def nested(chunk: tuple[int, ...], parts: tuple[slice | None, ...]) -> Any:
        if len(chunk) < len(spans):
            return [nested((*chunk, i), (*parts, part)) for i, part in spans[len(chunk)].takes]
        if not any(parts):
            return (source.name, *chunk)
        ends = (f"{part.start}:{part.stop}:{part.step}" if part else ":" for part in parts)
        key = (name, *chunk, ",".join(ends))
        layer[key] = (part_of, (source.name, *chunk), tuple(part or slice(None) for part in parts))
        return key

    block = nested((), ())
    if all(len(span.takes) == 1 for span in spans):
        for _ in spans:
            (block,) = block
    return block


def map_spans(
    op: str,
    function: Callable[..., Any],
    sources: Sequence[Any],
    spans: Sequence[Sequence[Span]],
    arguments: Callable[[Sequence[Span]], tuple[Any, ...]],
    keywords: dict[str, Any],
    dtypes: Sequence[np.dtype],
    names: tuple[str, ...] = ("y", "argmax"),
) -> Any:
    """An array whose chunks `function` makes of blocks; for two dtypes two of them, of these `names`.

    `function` takes the blocks, the `arguments` that follow from their spans, and the `keywords`. `op` and these tell
    what it computes.
    """
    # Arguments that do not follow from the spans are those of all blocks, or of blocks at one of the borders.
    corners = [arguments([axis[i] for axis in spans]) for i in (0, -1)]
    token = tokenize(op, [s.name for s in sources], spans, corners, keywords)
    name, parts = f"{op}-{token}", [f"{op}-part-{i}-{token}" for i in range(len(sources))]
    chunks = tuple(tuple(span.size for span in axis) for axis in spans)
    calls: dict[Any, Any] = {}
    layer: dict[Any, Any] = {}
    for at in product(*(range(len(axis)) for axis in spans)):
        here = [axis[i] for axis, i in zip(spans, at, strict=True)]
        key = arguments(here), tuple((span.begin, span.begin + span.size) for span in here)
        if key not in calls:
            crop = tuple(slice(*ends) for ends in key[1])
            calls[key] = partial(_call, function, key[0], keywords, crop)
        layer[name, *at] = (calls[key], *(_block(s, p, here, layer) for s, p in zip(sources, parts, strict=True)))
    made = array(name, layer, sources, chunks, meta_of(sources[0], dtypes[0]))
    return made if len(dtypes) == 1 else split(made, chunks, dtypes, names)


def split(together: Any, chunks: Any, dtypes: Sequence[np.dtype], names: Sequence[str]) -> tuple[Any, ...]:
    """The two arrays of which an array's chunks are pairs."""
    arrays_of_each = []
    for n, (which, dtype) in enumerate(zip(names, dtypes, strict=True)):
        name = f"{which}-{together.name}"
        layer = {(name, *at): (getitem, (together.name, *at), n) for at in product(*map(range, together.numblocks))}
        arrays_of_each.append(array(name, layer, [together], chunks, meta_of(together, dtype)))
    return tuple(arrays_of_each)
