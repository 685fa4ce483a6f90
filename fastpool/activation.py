"""hard-swish (Howard et al. 2019, "Searching for MobileNetV3") and swish (Ramachandran et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, overload

import numpy as np

from fastpool import arrays, forms
from fastpool.arguments import finite, shown
from fastpool.backends import backend_for
from fastpool.calls import Op, Plan, call
from fastpool.dtypes import native, sum_dtype
from fastpool.forms import Result
from fastpool.type_hints import A

LARGEST_FLOAT32 = (2 - 2.0**-23) * 2.0**127


def _plan(op: str, inputs: tuple[arrays.Array, ...], backend: str | None) -> Plan:
    """Of arrays of one shape and dtype, in the memory order of the last of them."""
    names, x = INPUTS[op], inputs[-1]
    module = backend_for(op, backend, x.device)
    dtype = native(x.dtype)
    for name, a in zip(names[:-1], inputs[:-1], strict=True):
        arrays.expect(name, a, x.shape, dtype, names[-1], x)
    prepare = getattr(module, f"prepare_{op}", None)
    run = _run_of(module, op) if prepare is None else prepare(dtype, x.size)
    order = forms.memory_axes(x)
    axes = None if order == tuple(range(x.ndim)) else order
    canonical_shape = None if prepare is not None else (x.size,)
    operands = [forms.operand(a, order, canonical_shape) for a in inputs]
    return Plan(tuple(operands), (Result(x.shape, dtype, axes, axes, canonical_shape),), run, partial(_beta_in, dtype))


def _run_of(module: ModuleType, op: str) -> Callable[..., None]:
    """A function of a backend that takes the result before beta, as plans hand them over."""
    function: Callable[..., None] = getattr(module, op)
    if not op.startswith("swish"):
        return function

    def run_with_beta(*operands: Any) -> None:
        *others, y, beta = operands
        function(*others, beta, y)

    return run_with_beta


INPUTS = {
    "hard_swish": ("x",),
    "hard_swish_backward": ("dy", "x"),
    "swish": ("x",),
    "swish_backward": ("dy", "x"),
}
_OPS = {name: Op(name, inputs, inputs, partial(_plan, name)) for name, inputs in INPUTS.items()}


def _beta_in(dtype: np.dtype, beta: float) -> float:
    """A beta that does not overflow where a dtype is computed: infinity times 0 is no number."""
    if abs(beta) > LARGEST_FLOAT32 and sum_dtype(dtype).itemsize == 4:
        raise ValueError(f"beta must be finite in float32, in which {dtype} is computed, got {shown(beta)}")
    return beta


@overload
def hard_swish(x: A, *, out: A | None = ..., backend: str | None = ...) -> A: ...
@overload
def hard_swish(x: Any, *, out: Any = ..., backend: str | None = ...) -> Any: ...
def hard_swish(x: Any, *, out: Any = None, backend: str | None = None) -> Any:
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
    return call(_OPS["hard_swish"], (x,), (), out, backend)


def hard_swish_backward(dy: A, x: A, *, out: A | None = None, backend: str | None = None) -> A:
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
    return call(_OPS["hard_swish_backward"], (dy, x), (), out, backend)


@overload
def swish(x: A, beta: float = ..., *, out: A | None = ..., backend: str | None = ...) -> A: ...
@overload
def swish(x: Any, beta: float = ..., *, out: Any = ..., backend: str | None = ...) -> Any: ...
def swish(x: Any, beta: float = 1.0, *, out: Any = None, backend: str | None = None) -> Any:
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
    return call(_OPS["swish"], (x,), (), out, backend, (finite("beta", beta),))


def swish_backward(dy: A, x: A, beta: float = 1.0, *, out: A | None = None, backend: str | None = None) -> A:
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
    return call(_OPS["swish_backward"], (dy, x), (), out, backend, (finite("beta", beta),))
