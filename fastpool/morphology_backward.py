"""Gradients of dilation and erosion: each gradient goes to the element that won."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastpool import arrays
from fastpool.arguments import frozen
from fastpool.backends import kernel
from fastpool.borders import Extension, extend, read_mode
from fastpool.dtypes import native, number_held
from fastpool.filter_plans import filtered_axes, reaches_of, spread
from fastpool.footprints import read_footprint, reflected
from fastpool.running_extremes import RunningExtreme
from fastpool.type_hints import A, Modes, Size

POSITIONS = 1 << 31  # that a key tells apart, in an array with its borders


def dilate_backward(
    dy: A,
    input: A,
    footprint: Any,
    mode: Modes = "reflect",
    cval: float = 0.0,
    origin: Size = 0,
    *,
    axes: Size | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `dilate` with respect to its input: each dy goes to the maximum of its window.

    The first of equal maxima in row-major order gets it, or the first NaN. Where it lies beyond a border, the element
    that stands there gets it; a `cval` gets none. Sums are made in float64, in the same order on every run.

    Parameters
    ----------
    dy : array of the shape and dtype of `input`; float16, bfloat16, float32 or float64
    input, footprint, mode, cval, origin, axes, backend
        As in `dilate`.

    Returns
    -------
    array of the shape and dtype of `input`

    Raises
    ------
    TypeError, ValueError
        As `dilate`, and for a `dy` of another shape or dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool import morphology
    >>> x = np.array([1.0, 5.0, 2.0, 3.0])
    >>> morphology.dilate_backward(np.ones(4), x, morphology.box(3))
    array([0., 3., 0., 1.])
    """
    elements, origins = reflected(footprint, origin)
    return _backward(dy, input, elements, mode, cval, origins, axes, backend, minimum=False)


def erode_backward(
    dy: A,
    input: A,
    footprint: Any,
    mode: Modes = "reflect",
    cval: float = 0.0,
    origin: Size = 0,
    *,
    axes: Size | None = None,
    backend: str | None = None,
) -> A:
    """Gradient of `erode` with respect to its input: as `dilate_backward`, for the minimum.

    Parameters
    ----------
    dy, input, footprint, mode, cval, origin, axes, backend
        As in `dilate_backward`.

    Returns
    -------
    array of the shape and dtype of `input`

    Raises
    ------
    TypeError, ValueError
        As `dilate_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool import morphology
    >>> x = np.array([1.0, 5.0, 2.0, 3.0])
    >>> morphology.erode_backward(np.ones(4), x, morphology.box(3))
    array([2., 0., 2., 0.])
    """
    elements, origin = read_footprint(footprint), frozen("origin", origin)
    return _backward(dy, input, elements, mode, cval, origin, axes, backend, minimum=True)


@np.errstate(all="ignore")
def _backward(
    dy: Any,
    input: Any,
    elements: np.ndarray,
    mode: Any,
    cval: Any,
    origin: Any,
    axes: Any,
    backend: str | None,
    minimum: bool,
) -> Any:
    original, x = input, arrays.in_main_memory("input", arrays.read("input", input, floats_only=True), "filtered")
    dtype = native(x.dtype)
    dy = arrays.in_main_memory("dy", arrays.expect("dy", dy, x.shape, dtype, "input"), "filtered")
    axes = filtered_axes("axes", frozen("axes", axes), x.ndim)
    footprint = spread(elements, axes, x.ndim)
    reaches = reaches_of(x.shape, axes, elements.shape, read_mode(mode), origin)
    constant, run_passes = dtype.type(0), kernel("run_passes", backend)
    if any(reach.mode == "constant" for reach in reaches.values()):
        constant = number_held("cval", dtype, cval)
    if x.size == 0 or not axes:  # without axes, each element is a window of its own
        return arrays.to_library(np.array(dy, dtype), original)
    extension = Extension(x.shape, [reaches.get(axis) for axis in range(x.ndim)])
    if prod(extension.shape) > POSITIONS:
        raise ValueError(f"input must have at most {POSITIONS} elements with its borders, got shape {x.shape}")
    everywhere = extension.copies([slice(0, n) for n in extension.shape])
    ranks = _ranks(np.append(x, constant), minimum)
    keys, sources = np.empty(extension.shape, np.int64), np.empty(extension.shape, np.int64)
    extend(ranks[:-1].reshape(x.shape), everywhere, ranks[-1], keys)
    extend(np.arange(1, x.size + 1).reshape(x.shape), everywhere, 0, sources)
    # The first of equal elements has the largest key. Since keys differ, the maximum of a window tells where it is.
    positions = np.arange(POSITIONS - 1, POSITIONS - 1 - keys.size, -1).reshape(keys.shape)
    winners = np.empty(x.shape, np.int64)
    as_it_is = Extension(keys.shape, [None] * x.ndim)
    find = RunningExtreme(footprint, x.shape, keys.dtype, np.maximum, as_it_is, run_passes)
    find(keys * POSITIONS + positions, np.zeros(1, np.int64), winners)
    targets = sources.ravel()[POSITIONS - 1 - winners % POSITIONS]
    sums = np.bincount(targets.ravel(), dy.ravel(), x.size + 1)[1:]
    return arrays.to_library(sums.astype(dtype).reshape(x.shape), original)


def _ranks(values: np.ndarray, minimum: bool) -> np.ndarray:
    """Integers from 0 that sort like the values, or the other way round for minima; a NaN has the largest."""
    wide = values.astype(np.promote_types(np.float32, values.dtype) if values.dtype.kind == "f" else np.float32)
    _, ranks = np.unique(wide, return_inverse=True)
    if minimum:
        missing = np.isnan(wide)
        ranks = np.where(missing, len(ranks), len(ranks) - ranks)
    return ranks
