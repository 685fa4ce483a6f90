"""Sliding maxima and minima: SciPy's filters, over boxes and footprints, and Bottleneck's moving windows."""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool import arrays
from fastpool.arguments import frozen, integer, one_of, per_axis
from fastpool.borders import read_mode
from fastpool.calls import Op, call
from fastpool.dtypes import is_float, native
from fastpool.filter_plans import MAXIMUM_FILTER, MINIMUM_FILTER, filtered_axes
from fastpool.footprints import read_footprint
from fastpool.interop import deferred
from fastpool.type_hints import A, Modes, Size


def call_filter(
    op: Op,
    input: Any,
    size: Any,
    footprint: Any,
    mode: Any,
    cval: Any,
    origin: Any,
    axes: Any,
    out: Any,
    backend: str | None,
) -> Any:
    bits = None
    if (size is None) == (footprint is None):
        raise ValueError(f"either size or footprint must be given, got {'neither' if size is None else 'both'}")
    if footprint is not None:
        elements = read_footprint(footprint)
        size, bits = elements.shape, np.packbits(elements).tobytes()
    static = frozen("size", size), bits, read_mode(mode), frozen("origin", origin), frozen("axes", axes)
    return call(op, (input,), static, out, backend, (cval,))


def maximum_filter(
    input: A,
    size: Size | None = None,
    footprint: Any = None,
    mode: Modes = "reflect",
    cval: float = 0.0,
    origin: Size = 0,
    *,
    axes: Size | None = None,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """The maximum of a box, or of another footprint, around each element: as `scipy.ndimage.maximum_filter`.

    A box takes as long for any size, since it is a pool along each axis. Other footprints take time in proportion to
    the number of their rows: a disk of radius r some 2.3 r comparisons of each element.

    Parameters
    ----------
    input : array of any number of axes
        Of any dtype and memory order that `max_pool2d` takes, in main memory.
    size : int or sequence of int
        The sides of the box, one for all axes or one for each. Either `size` or `footprint` must be given.
    footprint : array of bool
        Which elements around each one take part, with as many axes as are filtered. Its middle, at `shape // 2`, lies
        on the element.
    mode : str or sequence of str
        What lies beyond the borders, for all axes or for each: "reflect" (d c b a | a b c d | d c b a), "constant"
        (`cval`), "nearest" (a a a a | a b c d | d d d d), "mirror" (d c b | a b c d | c b a) or "wrap"
        (a b c d | a b c d | a b c d); also "grid-mirror", "grid-constant" and "grid-wrap", which are reflect, constant
        and wrap.
    cval : number
        What lies beyond the borders with mode="constant"; the dtype of `input` must hold it.
    origin : int or sequence of int
        How far windows lie to the left of their elements, from `-(size // 2)` to `(size - 1) // 2`.
    axes : int or sequence of int
        The axes to filter, all by default; entry i of `size`, `mode` and `origin`, and axis i of the footprint, belong
        to `axes[i]`.
    out : array of the shape and dtype of `input`
        Where to write the result.
    backend : str
        As in `max_pool2d`. "cuda" takes boxes alone.

    Returns
    -------
    array of the shape, dtype and array library of `input`

    Raises
    ------
    TypeError
        For a dtype, a footprint or an array library that is not supported.
    ValueError
        For a size, a mode, an origin, axes, a cval or an `out` that do not fit.

    Notes
    -----
    The values are those of SciPy with these exceptions. A NaN in a window makes its maximum NaN; in SciPy it depends on
    the order of comparisons. 64-bit integers are compared exactly; SciPy compares in float64. SciPy lets a `cval`
    overflow, and takes a size together with a footprint. Where a footprint is longer than twice an axis, SciPy 1.17
    reflects some elements wrongly.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.maximum_filter(np.array([2, 8, 0, 4, 1, 9, 9, 0]), 3)
    array([8, 8, 8, 4, 9, 9, 9, 9])
    >>> cross = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    >>> fp.maximum_filter(np.diag([1, 2, 3]), footprint=cross, mode="constant")
    array([[1, 2, 0],
           [2, 2, 3],
           [0, 3, 3]])
    """
    return call_filter(MAXIMUM_FILTER, input, size, footprint, mode, cval, origin, axes, out, backend)


def minimum_filter(
    input: A,
    size: Size | None = None,
    footprint: Any = None,
    mode: Modes = "reflect",
    cval: float = 0.0,
    origin: Size = 0,
    *,
    axes: Size | None = None,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """The minimum of a box, or of another footprint, around each element: as `scipy.ndimage.minimum_filter`.

    As `maximum_filter` in every respect, for the minimum; a NaN in a window makes its minimum NaN, too.

    Parameters
    ----------
    input, size, footprint, mode, cval, origin, axes, out, backend
        As in `maximum_filter`.

    Returns
    -------
    array of the shape, dtype and array library of `input`

    Raises
    ------
    TypeError, ValueError
        As `maximum_filter`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.minimum_filter(np.array([2, 8, 0, 4, 1, 9, 9, 0]), 3)
    array([2, 0, 0, 0, 1, 1, 0, 0])
    """
    return call_filter(MINIMUM_FILTER, input, size, footprint, mode, cval, origin, axes, out, backend)


def moving_max(
    x: A,
    window: Size,
    min_count: int | None = None,
    axis: Size = -1,
    *,
    nan: str = "ignore",
    backend: str | None = None,
) -> A:
    """The maximum of the last `window` elements, at each element: as Bottleneck's `move_max`.

    It takes as long for any window.

    Parameters
    ----------
    x : array of any number of axes, in main memory
        Integers and bools become float64, as in Bottleneck, since the first results are NaN.
    window : int or sequence of int
        How many elements: the one at hand, and those before it. One integer for all axes, or one for each.
    min_count : int
        How many elements a window must hold for a result that is not NaN, all by default.
    axis : int or sequence of int
        The axis to move along. Along several, a window is a box, which ends at the element.
    nan : "ignore" or "propagate"
        Whether a NaN is left out, and not counted, or makes every result NaN whose window holds it.
    backend : str
        As in `max_pool2d`.

    Returns
    -------
    array of the shape of `x`, of its floating dtype or in float64

    Raises
    ------
    TypeError
        For a dtype or an array library that is not supported.
    ValueError
        For a window that is longer than the axis, and a `min_count` below 1 or above the window.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.array([1.0, 5.0, np.nan, 2.0, 3.0])
    >>> fp.moving_max(x, 2)
    array([nan,  5., nan, nan,  3.])
    >>> fp.moving_max(x, 2, min_count=1)
    array([1., 5., 5., 2., 3.])
    """
    return _moving("moving_max", x, window, min_count, axis, nan, backend)


def moving_min(
    x: A,
    window: Size,
    min_count: int | None = None,
    axis: Size = -1,
    *,
    nan: str = "ignore",
    backend: str | None = None,
) -> A:
    """The minimum of the last `window` elements, at each element: as Bottleneck's `move_min`.

    As `moving_max` in every respect, for the minimum.

    Parameters
    ----------
    x, window, min_count, axis, nan, backend
        As in `moving_max`.

    Returns
    -------
    array of the shape of `x`, of its floating dtype or in float64

    Raises
    ------
    TypeError, ValueError
        As `moving_max`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.moving_min(np.array([1.0, 5.0, 4.0, 2.0, 3.0]), 3)
    array([nan, nan,  1.,  2.,  2.])
    """
    return _moving("moving_min", x, window, min_count, axis, nan, backend)


class MovingWindows(NamedTuple):
    """The windows of a call, checked: they end at each element, and have one side for each axis."""

    axes: tuple[int, ...]
    windows: tuple[int, ...]
    least: int  # elements that a window must hold for a result that is not NaN
    nan: str


def moving_windows(shape: tuple[int, ...], window: Any, min_count: Any, axis: Any, nan: Any) -> MovingWindows:
    axes = filtered_axes("axis", frozen("axis", axis), len(shape))
    if axis is None or not axes:
        raise ValueError(f"axis must name at least one axis of an array of shape {shape}, got {axis!r}")
    windows = per_axis("window", frozen("window", window), len(axes), 1)
    sizes = tuple(shape[a] for a in axes)
    if any(w > n for w, n in zip(windows, sizes, strict=True)):
        raise ValueError(f"window must not be longer than its axis, got {window!r} for axes of {sizes}")
    most = prod(windows)
    least = most if min_count is None else integer("min_count", min_count)
    if not 1 <= least <= most:
        raise ValueError(f"min_count must be from 1 to the {most} elements of a window, got {min_count!r}")
    return MovingWindows(axes, windows, least, one_of("nan", nan, ("ignore", "propagate")))


def moving_dtype(dtype: np.dtype) -> np.dtype:
    """That of the results, which may be NaN."""
    return native(dtype) if is_float(dtype) else np.dtype(np.float64)


@np.errstate(invalid="ignore")  # of a signalling NaN, in conversions
def _moving(name: str, x: Any, window: Any, min_count: Any, axis: Any, nan: Any, backend: str | None) -> Any:
    move_later = deferred(name, x)
    if move_later is not None:
        return move_later(x, window, min_count, axis, nan, backend)
    op, never_wins = (MAXIMUM_FILTER, -np.inf) if name == "moving_max" else (MINIMUM_FILTER, np.inf)
    original, x = x, arrays.in_main_memory("x", arrays.read("x", x), "filtered")
    x = x.astype(moving_dtype(x.dtype), copy=False)
    axes, windows, least, nan = moving_windows(x.shape, window, min_count, axis, nan)
    sizes = tuple(x.shape[a] for a in axes)
    # Beyond the border lies its nearest element, which each window holds anyway.
    origin = tuple((w - 1) // 2 for w in windows)

    def extremes(op: Op, x: np.ndarray) -> np.ndarray:
        return call_filter(op, x, windows, None, "nearest", 0, origin, axes, None, backend)

    too_few: Any = _elements_of_windows(x.ndim, axes, sizes, windows) < least
    if nan == "ignore":
        missing = np.isnan(x)
        if missing.any():
            x = np.where(missing, x.dtype.type(never_wins), x)
            too_few = extremes(MINIMUM_FILTER, missing) if least == 1 else _present(missing, axes, windows) < least
    y = extremes(op, x)
    np.copyto(y, np.nan, where=too_few)
    return arrays.to_library(y, original)


def _present(missing: np.ndarray, axes: tuple[int, ...], windows: tuple[int, ...]) -> np.ndarray:
    """How many elements of each window are not missing."""
    counts, dtype = ~missing, np.int32 if missing.size < 1 << 31 else np.int64
    for axis, window in zip(axes, windows, strict=True):
        sums = np.moveaxis(np.cumsum(counts, axis, dtype), axis, 0)
        counts = np.empty_like(sums)
        counts[:window] = sums[:window]
        np.subtract(sums[window:], sums[:-window], out=counts[window:])
        counts = np.moveaxis(counts, 0, axis)
    return counts


def _elements_of_windows(
    ndim: int, axes: tuple[int, ...], sizes: tuple[int, ...], windows: tuple[int, ...]
) -> np.ndarray:
    """How many elements each window holds, in a shape that broadcasts with the array."""
    along = [
        np.minimum(np.arange(1, n + 1), w).reshape([n if a == axis else 1 for a in range(ndim)])
        for axis, n, w in zip(axes, sizes, windows, strict=True)
    ]
    return reduce(np.multiply, along)
