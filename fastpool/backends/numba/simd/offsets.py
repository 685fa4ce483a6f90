"""Vectors of argmax offsets, or None in a kernel whose argmax is None.

So one loop serves calls with and without an argmax: without one, `larger` compiles to the maximum of its values, and
each other function to nothing.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from fastpool.backends.numba.decorators import INLINED
from fastpool.backends.numba.simd.compare import maximum, wins
from fastpool.backends.numba.simd.vectors import Vector, _broadcast, load_like, splat, store, where


def _offsets_type(like, argmax):
    return types.none if isinstance(argmax, types.NoneType) else Vector(argmax.dtype, like.count)


@intrinsic
def splat_offset(typing_context, like, argmax, offset):
    """A vector of one offset, as wide as `like`, in the dtype of `argmax`."""
    offsets = _offsets_type(like, argmax)

    def generate(context, builder, signature, args):
        if offsets is types.none:
            return context.get_dummy_value()
        return _broadcast(builder, context.cast(builder, args[2], types.int64, argmax.dtype), like.count)

    return offsets(like, argmax, types.int64), generate


@intrinsic
def arange_offsets(typing_context, like, argmax):
    """The offsets 0, 1, 2, ... as wide as `like`, in the dtype of `argmax`."""
    offsets = _offsets_type(like, argmax)

    def generate(context, builder, signature, args):
        if offsets is types.none:
            return context.get_dummy_value()
        return ir.Constant(context.get_value_type(offsets), list(range(like.count)))

    return offsets(like, argmax), generate


@intrinsic
def add_offsets(typing_context, a, b):
    """The sum of two vectors of offsets."""

    def generate(context, builder, signature, args):
        return context.get_dummy_value() if a is types.none else builder.add(*args)

    return a(a, b), generate


def load_offsets(like, argmax, source, at):
    """The offsets of `source` from `at` on, as wide as `like`; 0 if `source` is None; None if `argmax` is None."""


@overload(load_offsets, jit_options=INLINED)
def _load_offsets(like, argmax, source, at):
    if isinstance(argmax, types.NoneType):
        return lambda like, argmax, source, at: None
    if isinstance(source, types.NoneType):
        return lambda like, argmax, source, at: splat(like, argmax.dtype.type(0))
    return lambda like, argmax, source, at: load_like(like, source, at)


def store_offsets(argmax, at, offsets):
    """Write a vector of offsets to `argmax`, from `at` on."""


@overload(store_offsets, jit_options=INLINED)
def _store_offsets(argmax, at, offsets):
    if isinstance(argmax, types.NoneType):
        return lambda argmax, at, offsets: None
    return lambda argmax, at, offsets: store(argmax, at, offsets)


def larger(best, best_offset, value, offset):
    """The larger of two vectors, element by element, and its offsets. Of equal elements, that of `best` stays."""


@overload(larger, jit_options=INLINED)
def _larger(best, best_offset, value, offset):
    if isinstance(best_offset, types.NoneType):
        return lambda best, best_offset, value, offset: (maximum(best, value), None)

    def larger_with_offset(best, best_offset, value, offset):
        takes = wins(value, best)
        return where(takes, value, best), where(takes, offset, best_offset)

    return larger_with_offset


def fill_offsets(argmax, offset):
    """Set all of `argmax` to one offset."""


@overload(fill_offsets, jit_options=INLINED)
def _fill_offsets(argmax, offset):
    if isinstance(argmax, types.NoneType):
        return lambda argmax, offset: None

    def fill_offsets(argmax, offset):
        for i in range(len(argmax)):
            argmax[i] = offset

    return fill_offsets


def set_offset(argmax, at, offset):
    """argmax[at] = offset."""


@overload(set_offset, jit_options=INLINED)
def _set_offset(argmax, at, offset):
    if isinstance(argmax, types.NoneType):
        return lambda argmax, at, offset: None

    def set_offset(argmax, at, offset):
        argmax[at] = offset

    return set_offset


def copy_offsets(argmax, to, source, step, count):
    """argmax[to : to + count] = source[: count * step : step]."""


@overload(copy_offsets, jit_options=INLINED)
def _copy_offsets(argmax, to, source, step, count):
    if isinstance(argmax, types.NoneType):
        return lambda argmax, to, source, step, count: None

    def copy_offsets(argmax, to, source, step, count):
        for i in range(count):
            argmax[np.uint64(to + i)] = source[np.uint64(i * step)]

    return copy_offsets
