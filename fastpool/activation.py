"""hard-swish (Howard et al. 2019, "Searching for MobileNetV3") and swish (Ramachandran et al. 2017)."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

import numpy as np

from fastpool import arrays
from fastpool.backends import chosen, kernel
from fastpool.kinds import again, lazy

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

# What needs no more than a look, as NumPy's own.
PLAIN = {dtype: dtype for dtype in map(np.dtype, ("f2", "f4", "f8"))}


def _elementwise(
    op: str, names: tuple[str, ...], given: tuple[Any, ...], extra: tuple[float, ...], out: Any, backend: str | None
) -> Any:
    """Run `op` over arrays of one shape and dtype, in the memory order of the last of them."""
    x = given[-1]
    if _is_plain(x) and all(_is_plain(a) and _alike(a, x) for a in given[:-1]):
        if extra:
            _check_extra(extra, x.dtype)
        dtype = PLAIN[x.dtype]
        y = np.empty(x.shape, dtype) if out is None else arrays.contiguous_out(out, x.shape, dtype, given[::-1])
        if y is not None:
            run = kernel(op, backend)
            if x.size:
                run(*[a.reshape(-1) for a in given], *extra, y.reshape(-1))
            return y
    if (graphs := lazy(x)) is not None:
        return graphs.elementwise(op, dict(zip(names, given, strict=True)), extra, out, backend)
    return again(_run, given, (op, names, extra, chosen(backend)), out)


def _is_plain(a: Any) -> bool:
    return type(a) is np.ndarray and a.dtype in PLAIN and a.flags.carray


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape


def _run(*arguments: Any) -> Any:
    *inputs, op, names, extra, backend, out = arguments
    read = [arrays.read(name, a, floats_only=True) for name, a in zip(names, inputs, strict=True)]
    x, given = read[-1], inputs[-1]
    run = kernel(op, backend, x.device)
    dtype = arrays.native(x.dtype)
    _check_extra(extra, dtype)
    for name, a in zip(names[:-1], read[:-1], strict=True):
        arrays.like(name, a, x.shape, dtype, names[-1], x)
    room = None if out is None else arrays.check_out(out, x.shape, dtype, (x, *read[:-1]), given)
    order = arrays.memory_axes(x)
    flat = [arrays.dense(a, order).reshape(-1) for a in read]
    if room is None:
        fresh = arrays.empty((x.size,), dtype, x)
        shape = tuple(x.shape[axis] for axis in order)
        y = arrays.Target(fresh.reshape(shape).transpose(np.argsort(order)), fresh, None)
    else:
        y = arrays.within(room, room.transpose(order), (x.size,))
    if x.size:
        run(*flat, *extra, y.canonical)
    return arrays.as_given(y.done(), given, out)


def _checked_beta(beta: Any) -> float:
    if isinstance(beta, (bool, np.bool_)) or not isinstance(beta, (int, float, np.integer, np.floating)):
        raise TypeError(f"beta must be a number, got {beta!r}")
    try:
        number = float(beta)
    except OverflowError:
        number = inf
    if not isfinite(number):
        raise ValueError(f"beta must be finite, got {beta!r}")
    return number


def _check_extra(extra: tuple[float, ...], dtype: np.dtype) -> None:
    """Refuse what overflows where a dtype is computed: infinity times 0 is no number."""
    for beta in extra:
        if abs(beta) > LARGEST_FLOAT32 and arrays.sum_dtype(dtype).itemsize == 4:
            raise ValueError(f"beta must be finite in float32, in which {dtype} is computed, got {beta!r}")


def hard_swish(x: Any, *, out: np.ndarray | None = None, backend: str | None = None) -> np.ndarray:
    """x * relu6(x + 3) / 6, the cheap stand-in for swish of MobileNetV3.

    Parameters
    ----------
    x : array of any shape; float16, bfloat16, float32 or float64
    out : array of the shape and dtype of `x`
    backend : str
        As in `max_pool2d`.

    Returns
    -------
    array of the shape and dtype of `x`
        0 at -inf (the limit); NaN stays NaN. float16 and bfloat16 are computed in float32 and rounded once.

    Raises
    ------
    TypeError
        For a dtype that is not floating.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.hard_swish(np.array([-4.0, 0.0, 1.5, 4.0]))
    array([0.   , 0.   , 1.125, 4.   ])
    """
    return _elementwise("hard_swish", ("x",), (x,), (), out, backend)


def hard_swish_backward(dy: Any, x: Any, *, out: np.ndarray | None = None, backend: str | None = None) -> np.ndarray:
    """Gradient of `hard_swish` with respect to its input: dy * (2x + 3) / 6 between -3 and 3, 0 below and dy above.

    Parameters
    ----------
    dy, x : arrays of one shape and one floating dtype
    out, backend
        As in `hard_swish`.

    Returns
    -------
    array of the shape and dtype of `x`

    Raises
    ------
    TypeError, ValueError
        For a dtype that is not floating, or shapes or dtypes that differ.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.hard_swish_backward(np.ones(3), np.array([-4.0, 0.0, 4.0]))
    array([0. , 0.5, 1. ])
    """
    return _elementwise("hard_swish_backward", ("dy", "x"), (dy, x), (), out, backend)


def swish(x: Any, beta: float = 1.0, *, out: np.ndarray | None = None, backend: str | None = None) -> np.ndarray:
    """x * sigmoid(beta * x); with beta = 1 also called SiLU.

    Parameters
    ----------
    x : array of any shape; float16, bfloat16, float32 or float64
    beta : float
        Finite where it is used: in float64 for float64, in float32 for all others.
    out, backend
        As in `hard_swish`.

    Returns
    -------
    array of the shape and dtype of `x`
        0 at -inf (the limit, for beta > 0); NaN stays NaN.

    Raises
    ------
    TypeError, ValueError
        For a dtype that is not floating, or a beta that is not a number, or not finite where it is used.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.swish(np.array([0.0, 100.0]))
    array([  0., 100.])
    """
    return _elementwise("swish", ("x",), (x,), (_checked_beta(beta),), out, backend)


def swish_backward(
    dy: Any, x: Any, beta: float = 1.0, *, out: np.ndarray | None = None, backend: str | None = None
) -> np.ndarray:
    """Gradient of `swish` with respect to its input: dy * s * (1 + beta x (1 - s)), s = sigmoid(beta x).

    Parameters
    ----------
    dy, x : arrays of one shape and one floating dtype
    beta, out, backend
        As in `swish`.

    Returns
    -------
    array of the shape and dtype of `x`

    Raises
    ------
    TypeError, ValueError
        As `swish`, and for shapes or dtypes that differ.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.swish_backward(np.ones(2), np.array([0.0, 100.0]))
    array([0.5, 1. ])
    """
    return _elementwise("swish_backward", ("dy", "x"), (dy, x), (_checked_beta(beta),), out, backend)
