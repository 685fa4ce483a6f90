"""The primitives of `fastpool.backends.cuda.lanes` in NumPy, for Numba's simulator: lanes are small arrays.

An index outside an array's memory is an error here, which on a card would go unnoticed.
"""

from __future__ import annotations

import threading

import numpy as np

_COUNT = np.arange(64)
_raising = threading.Lock()


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
        """Whether the memory has so many numbers from its i-th on."""
        if not 0 <= i <= len(self._memory) - count:
            raise IndexError(f"{i} to {i + count} of {len(self._memory)} numbers")

    def check_alignment(self, i):
        """Whether lanes begin at an address as aligned as was promised."""
        if (self._memory.ctypes.data + i * self._memory.itemsize) % min(self.align, self.lanes * self._memory.itemsize):
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
            bits = numbers.view(np.uint32).astype(np.uint64)
            numbers = np.where(np.isnan(numbers), 0x7FC0, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)
        self._memory[i : i + len(numbers)] = numbers.astype(self._memory.dtype)

    def __getitem__(self, i):
        return self.read(i)[0]

    def __setitem__(self, i, value):
        self.write(i, np.array([value], self.number))


def load(p, run, i, size, before, after, otherwise):
    first, end = max(i - before, 0), min(i + p.lanes + after, size)
    if i + p.lanes <= size:
        p.check_alignment(run + i)
    result = np.full(before + p.lanes + after, otherwise, p.number)
    if first < end:
        result[first - i + before : end - i + before] = p.read(run + first, end - first)
    return result


def store(p, run, i, size, lanes):
    assert len(lanes) == p.lanes
    if i + p.lanes <= size:
        p.check_alignment(run + i)
    p.write(run + i, lanes[: max(size - i, 0)])


def lowest(p):
    return p.number.type(-np.inf) if p.number.kind == "f" else p.number.type(np.iinfo(p.number).min)


def lanes_of(p, number):
    return np.full(p.lanes, number, p.number)


def beside(lanes, number):
    return np.full(len(lanes), number)


def ramp(lanes, start, step):
    return start + _COUNT[: len(lanes)] * step


def every(lanes, first, step, like):
    return lanes[first + _COUNT[: len(like)] * step]


def first_of(lanes):
    return lanes[0]


def where(mask, a, b):
    assert a.dtype == b.dtype, (a.dtype, b.dtype)
    return np.where(mask, a, b)


def exponential(lanes):
    return np.exp(lanes)


def raise_to(p, i, value):
    with _raising:
        p[i] = max(p[i], value)
