"""The primitives of `fastpool.backends.cuda.lanes` in NumPy, for Numba's simulator: lanes are small arrays.

An index outside an array's memory is an error here, which on a card would go unnoticed.
"""

from __future__ import annotations

import threading

import numpy as np

_HALVES = {"float16", "bfloat16"}
_raising = threading.Lock()


class _Lanes(np.ndarray):
    """Numbers side by side, which overflow and divide as a card's do: without a word."""

    def __array_ufunc__(self, ufunc, method, *inputs, **more):
        with np.errstate(all="ignore"):
            result = getattr(ufunc, method)(*(np.asarray(i) for i in inputs), **more)
        return result.view(_Lanes)


def _lanes(numbers):
    return np.asarray(numbers).view(_Lanes)


class Pointer:
    """What the type of the same name says, and, called with memory, a pointer to it."""

    def __init__(self, stored, lanes, number, align):
        self.stored, self.lanes, self.number, self.align = stored, lanes, np.dtype(str(number)), align
        self._memory = None

    def __call__(self, memory):
        """This pointer to flat memory, in bytes."""
        pointer = Pointer(self.stored, self.lanes, self.number, self.align)
        pointer._memory = memory.view(np.uint16 if self.stored == "bfloat16" else self.stored)
        return pointer

    def check(self, i, count):
        """A place in the memory, which it must have; whole lanes at an address as aligned as was promised."""
        if not 0 <= i <= len(self._memory) - count:
            raise IndexError(f"{i} to {i + count} of {len(self._memory)} numbers")
        if count > 1 and self._memory[i : i + count].ctypes.data % min(self.align, count * self._memory.itemsize):
            raise ValueError(f"{i} is not aligned to {self.align} bytes")

    def read(self, i, count=1):
        self.check(i, count)
        stored = self._memory[i : i + count]
        if self.stored == "bfloat16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(self.number)

    def write(self, i, numbers):
        self.check(i, len(numbers))
        if self.stored == "bfloat16":
            bits = np.asarray(numbers).view(np.uint32).astype(np.uint64)
            numbers = np.where(np.isnan(numbers), 0x7FC0, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)
        with np.errstate(all="ignore"):
            self._memory[i : i + len(numbers)] = np.asarray(numbers).astype(self._memory.dtype)

    def __getitem__(self, i):
        return self.read(i)[0]

    def __setitem__(self, i, value):
        self.write(i, np.array([value], self.number))


def load(p, run, i, size, before, after, otherwise):
    result = np.full(before + p.lanes + after, otherwise, p.number)
    if i + p.lanes <= size:
        result[before : before + p.lanes] = p.read(run + i, p.lanes)
    for k in (*range(-before, 0), *range(p.lanes + after)):
        if 0 <= i + k < size and (k < 0 or k >= p.lanes or i + p.lanes > size):
            result[before + k] = p[run + i + k]
    return _lanes(result)


def store(p, run, i, size, lanes):
    assert len(lanes) == p.lanes
    if i + p.lanes <= size:
        p.write(run + i, lanes)
    else:
        for k in range(min(p.lanes, size - i)):
            p.write(run + i + k, lanes[k : k + 1])


def lowest(p):
    return p.number.type(-np.inf) if p.number.kind == "f" else p.number.type(np.iinfo(p.number).min)


def _number(value):
    return np.int64(value) if isinstance(value, int) else value


def lanes_of(p, number):
    return _lanes(np.full(p.lanes, number, p.number))


def beside(lanes, number):
    return _lanes(np.full(len(lanes), _number(number)))


def ramp(lanes, start, step):
    return _lanes(_number(start) + np.arange(len(lanes)) * step)


def every(lanes, first, step, like):
    return _lanes(np.asarray(lanes)[first + np.arange(len(like)) * step])


def first_of(lanes):
    return lanes[0]


def where(mask, a, b):
    assert a.dtype == b.dtype, (a.dtype, b.dtype)
    return _lanes(np.where(mask, a, b))


def exponential(lanes):
    return _lanes(np.exp(lanes))


def raise_to(p, i, value):
    with _raising:
        p[i] = max(p[i], value)
