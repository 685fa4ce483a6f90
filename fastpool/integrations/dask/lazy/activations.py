"""The activations on Dask arrays: chunk by chunk."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
from dask.base import tokenize

import fastpool as fp
from fastpool.activation import INPUTS
from fastpool.dtypes import native
from fastpool.integrations.dask.lazy.graphs import backend_name, expect, meta_of, read
from fastpool.threads import at_most


def _elementwise_call(*blocks, op, extra, backend) -> Any:
    with at_most(1):
        return getattr(fp, op)(*blocks, *extra, backend=backend)


def _elementwise(op: str, *arguments: Any) -> Any:
    """Of (*inputs, *options, out, backend)."""
    names = INPUTS[op]
    given, (*options, out, backend) = arguments[: len(names)], arguments[len(names) :]
    backend = backend_name(backend, out)
    x = read(names[-1], given[-1], floats_only=True)
    others = [
        expect(name, a, x.shape, native(x.dtype), names[-1], x) for name, a in zip(names[:-1], given[:-1], strict=True)
    ]
    axes = tuple(range(x.ndim))
    operands = [part for each in (*others, x) for part in (each, axes)]
    keywords = {"op": op, "extra": tuple(options), "backend": backend}
    name = f"{op}-{tokenize(keywords, [a.name for a in (*others, x)])}"
    return da.blockwise(_elementwise_call, axes, *operands, name=name, meta=meta_of(x), align_arrays=False, **keywords)


hard_swish, hard_swish_backward, swish, swish_backward = (partial(_elementwise, op) for op in INPUTS)
