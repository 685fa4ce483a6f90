"""Grey morphology with flat footprints: dilation and erosion with their gradients, and what is made of them.

Values are those of `scipy.ndimage`: of grey_dilation, grey_erosion, grey_opening, grey_closing, morphological_gradient,
white_tophat and black_tophat. scikit-image and OpenCV differ from them in three matters:

- Dilation takes the footprint reflected here and in SciPy, as it is in the others. `fastpool.maximum_filter` takes it
  as it is.
- The middle of a side of even length n is element n // 2 here, in SciPy and in OpenCV, and n // 2 - 1 in scikit-image:
  origin=-1 gives that. A dilation is reflected with its middle.
- Beyond the borders the array is reflected here, in SciPy and in scikit-image, unless mode says otherwise. In OpenCV
  what lies there never wins: mode="constant", with the lowest value as `cval` in dilations, the highest in erosions.

For disks, diamonds and boxes with odd sides all three give the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpool import arrays
from fastpool.filter_plans import MAXIMUM_FILTER, MINIMUM_FILTER
from fastpool.filters import call_filter
from fastpool.footprints import box, diamond, disk, reflected
from fastpool.interop import deferred
from fastpool.morphology_backward import dilate_backward, erode_backward
from fastpool.out import check_apart
from fastpool.type_hints import A, Modes, Size

__all__ = [
    "black_tophat",
    "box",
    "closing",
    "diamond",
    "dilate",
    "dilate_backward",
    "disk",
    "erode",
    "erode_backward",
    "morphological_gradient",
    "opening",
    "white_tophat",
]


def dilate(
    input: A,
    footprint: Any,
    mode: Modes = "reflect",
    cval: float = 0.0,
    origin: Size = 0,
    *,
    axes: Size | None = None,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Grey dilation: the maximum over the reflected footprint, as `scipy.ndimage.grey_dilation`.

    Parameters
    ----------
    input : array of any number of axes, in main memory
        Of any dtype and memory order that `max_pool2d` takes.
    footprint : array of bool
        Flat, with as many axes as are filtered: `disk(r)`, `diamond(r)`, `box(*sizes)`, or any other. Its middle, at
        `shape // 2`, lies on the element.
    mode, cval, axes, backend
        As in `fastpool.maximum_filter`.
    origin : int or sequence of int
        How far the footprint lies to the left of its middle, before it is reflected.
    out : array of the shape and dtype of `input`
        Where to write the result.

    Returns
    -------
    array of the shape, dtype and array library of `input`

    Raises
    ------
    TypeError, ValueError
        As `fastpool.maximum_filter`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool import morphology
    >>> morphology.dilate(np.array([0, 0, 5, 0, 0]), [True, True, False])
    array([0, 5, 5, 0, 0])
    """
    elements, origins = reflected(footprint, origin)
    return call_filter(MAXIMUM_FILTER, input, None, elements, mode, cval, origins, axes, out, backend)


def erode(
    input: A,
    footprint: Any,
    mode: Modes = "reflect",
    cval: float = 0.0,
    origin: Size = 0,
    *,
    axes: Size | None = None,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Grey erosion: the minimum over the footprint, as `scipy.ndimage.grey_erosion`.

    Parameters
    ----------
    input, footprint, mode, cval, axes, out, backend
        As in `dilate`.
    origin : int or sequence of int
        How far the footprint lies to the left of its middle.

    Returns
    -------
    array of the shape, dtype and array library of `input`

    Raises
    ------
    TypeError, ValueError
        As `fastpool.maximum_filter`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool import morphology
    >>> morphology.erode(np.array([5, 5, 0, 5, 5]), morphology.box(3))
    array([5, 0, 0, 0, 5])
    """
    return call_filter(MINIMUM_FILTER, input, None, footprint, mode, cval, origin, axes, out, backend)


def opening(
    input: A,
    footprint: Any,
    mode: Modes = "reflect",
    cval: float = 0.0,
    origin: Size = 0,
    *,
    axes: Size | None = None,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Grey opening: a dilation of the erosion, as `scipy.ndimage.grey_opening`.

    It removes bright details that the footprint does not fit into.

    Parameters
    ----------
    input, footprint, mode, cval, origin, axes, out, backend
        As in `dilate` and `erode`.

    Returns
    -------
    array of the shape, dtype and array library of `input`

    Raises
    ------
    TypeError, ValueError
        As `fastpool.maximum_filter`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool import morphology
    >>> morphology.opening(np.array([0, 9, 0, 7, 8, 7, 0]), morphology.box(3))
    array([0, 0, 0, 7, 7, 7, 0])
    """
    _check_apart(input, out)
    eroded = erode(input, footprint, mode, cval, origin, axes=axes, backend=backend)
    return dilate(eroded, footprint, mode, cval, origin, axes=axes, out=out, backend=backend)


def closing(
    input: A,
    footprint: Any,
    mode: Modes = "reflect",
    cval: float = 0.0,
    origin: Size = 0,
    *,
    axes: Size | None = None,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Grey closing: an erosion of the dilation, as `scipy.ndimage.grey_closing`.

    It removes dark details that the footprint does not fit into.

    Parameters
    ----------
    input, footprint, mode, cval, origin, axes, out, backend
        As in `dilate` and `erode`.

    Returns
    -------
    array of the shape, dtype and array library of `input`

    Raises
    ------
    TypeError, ValueError
        As `fastpool.maximum_filter`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool import morphology
    >>> morphology.closing(np.array([9, 0, 9, 9, 1, 2, 1, 9]), morphology.box(3))
    array([9, 9, 9, 9, 2, 2, 2, 9])
    """
    _check_apart(input, out)
    dilated = dilate(input, footprint, mode, cval, origin, axes=axes, backend=backend)
    return erode(dilated, footprint, mode, cval, origin, axes=axes, out=out, backend=backend)


def _check_apart(input: Any, out: Any) -> None:
    """The last step does not see the input, which may be needed after it."""
    if out is not None and deferred("maximum_filter", input) is None:
        taken = arrays.in_main_memory("input", arrays.read("input", input), "filtered")
        check_apart(arrays.in_main_memory("out", arrays.read("out", out), "filtered"), (taken,), ())


@np.errstate(all="ignore")  # inf - inf, and overflow
def _subtract(a: Any, b: Any, out: Any) -> Any:
    """The difference of two arrays, in the place of one of them; of bools, where they differ."""
    subtract_later = deferred("difference", out)
    if subtract_later is not None:
        return subtract_later(a, b, out)
    first, second, result = (arrays.read("input", x) for x in (a, b, out))
    (np.bitwise_xor if result.dtype.kind == "b" else np.subtract)(first, second, out=result)
    return out


def morphological_gradient(
    input: A,
    footprint: Any,
    mode: Modes = "reflect",
    cval: float = 0.0,
    origin: Size = 0,
    *,
    axes: Size | None = None,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """The dilation less the erosion, as `scipy.ndimage.morphological_gradient`.

    Differences are taken in the dtype of `input`, as in SciPy: those of signed integers may overflow. Of bools
    it is where the two differ.

    Parameters
    ----------
    input, footprint, mode, cval, origin, axes, out, backend
        As in `dilate` and `erode`.

    Returns
    -------
    array of the shape, dtype and array library of `input`

    Raises
    ------
    TypeError, ValueError
        As `fastpool.maximum_filter`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool import morphology
    >>> morphology.morphological_gradient(np.array([1, 1, 1, 5, 5, 5]), morphology.box(3))
    array([0, 0, 4, 4, 0, 0])
    """
    dilated = dilate(input, footprint, mode, cval, origin, axes=axes, out=out, backend=backend)
    eroded = erode(input, footprint, mode, cval, origin, axes=axes, backend=backend)
    return _subtract(dilated, eroded, dilated)


def white_tophat(
    input: A,
    footprint: Any,
    mode: Modes = "reflect",
    cval: float = 0.0,
    origin: Size = 0,
    *,
    axes: Size | None = None,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """The input less its opening, as `scipy.ndimage.white_tophat`: bright details alone.

    An uneven background is removed, where it changes slowly along the footprint. Differences are taken in the dtype of
    `input`, as in SciPy. They are not negative, unless a `cval` wins at the borders. Of bools it is where the two
    differ.

    Parameters
    ----------
    input, footprint, mode, cval, origin, axes, out, backend
        As in `dilate` and `erode`.

    Returns
    -------
    array of the shape, dtype and array library of `input`

    Raises
    ------
    TypeError, ValueError
        As `fastpool.maximum_filter`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool import morphology
    >>> morphology.white_tophat(np.array([1, 2, 9, 4, 4, 4]), morphology.box(3))
    array([0, 0, 5, 0, 0, 0])
    """
    opened = opening(input, footprint, mode, cval, origin, axes=axes, out=out, backend=backend)
    return _subtract(input, opened, opened)


def black_tophat(
    input: A,
    footprint: Any,
    mode: Modes = "reflect",
    cval: float = 0.0,
    origin: Size = 0,
    *,
    axes: Size | None = None,
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """The closing less the input, as `scipy.ndimage.black_tophat`: dark details alone.

    Differences are taken as in `white_tophat`.

    Parameters
    ----------
    input, footprint, mode, cval, origin, axes, out, backend
        As in `dilate` and `erode`.

    Returns
    -------
    array of the shape, dtype and array library of `input`

    Raises
    ------
    TypeError, ValueError
        As `fastpool.maximum_filter`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool import morphology
    >>> morphology.black_tophat(np.array([6, 5, 0, 3, 3, 3]), morphology.box(3))
    array([0, 0, 3, 0, 0, 0])
    """
    closed = closing(input, footprint, mode, cval, origin, axes=axes, out=out, backend=backend)
    return _subtract(closed, input, closed)
