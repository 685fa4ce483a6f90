"""hard-swish, swish and their gradients, lanes by lanes. Two-byte floats are calculated in float32."""

from __future__ import annotations

from fastpool.backends.cuda.compilation import cuda, inlined
from fastpool.backends.cuda.lanes import exponential, lanes_of, load, store, where


@inlined
def hard_swish_of(value, zero, three, six):
    above = where(three <= value, value, value * (value + three) / six)
    return where(value <= zero - three, zero, above)


@inlined
def hard_swish_slope(value, zero, one, three, six):
    above = where(three <= value, one, (value + value + three) / six)
    return where(value <= zero - three, zero, above)


@inlined
def sigmoid(z, zero, one):
    """By the exponential of what is not positive, which does not overflow."""
    small = exponential(where(z < zero, z, zero - z))
    return where(z < zero, small, one) / (one + small)


@inlined
def swish_of(value, beta, zero, one):
    s = sigmoid(beta * value, zero, one)
    return where(s == zero, zero, value * s)


@inlined
def swish_slope(value, beta, zero, one):
    z = beta * value
    s = sigmoid(z, zero, one)
    return where((s == zero) | (s == one), s, s * (one + z * (one - s)))


def hard_swish(lanes):
    def hard_swish(x, y, units):
        index = type(units)
        i, step = index(cuda.grid(1) * lanes), index(cuda.gridsize(1) * lanes)
        zero, three, six = lanes_of(x, 0), lanes_of(x, 3), lanes_of(x, 6)
        while i < units:
            store(y, index(0), i, units, hard_swish_of(load(x, index(0), i, units, 0, 0, 0), zero, three, six))
            i = index(i + step)

    return hard_swish


def hard_swish_backward(lanes):
    def hard_swish_backward(dy, x, dx, units):
        index = type(units)
        i, step = index(cuda.grid(1) * lanes), index(cuda.gridsize(1) * lanes)
        zero, one, three, six = lanes_of(x, 0), lanes_of(x, 1), lanes_of(x, 3), lanes_of(x, 6)
        while i < units:
            slope = hard_swish_slope(load(x, index(0), i, units, 0, 0, 0), zero, one, three, six)
            store(dx, index(0), i, units, load(dy, index(0), i, units, 0, 0, 0) * slope)
            i = index(i + step)

    return hard_swish_backward


def swish(lanes):
    def swish(x, beta, y, units):
        index = type(units)
        i, step = index(cuda.grid(1) * lanes), index(cuda.gridsize(1) * lanes)
        zero, one, by = lanes_of(x, 0), lanes_of(x, 1), lanes_of(x, beta)
        while i < units:
            store(y, index(0), i, units, swish_of(load(x, index(0), i, units, 0, 0, 0), by, zero, one))
            i = index(i + step)

    return swish


def swish_backward(lanes):
    def swish_backward(dy, x, beta, dx, units):
        index = type(units)
        i, step = index(cuda.grid(1) * lanes), index(cuda.gridsize(1) * lanes)
        zero, one, by = lanes_of(x, 0), lanes_of(x, 1), lanes_of(x, beta)
        while i < units:
            slope = swish_slope(load(x, index(0), i, units, 0, 0, 0), by, zero, one)
            store(dx, index(0), i, units, load(dy, index(0), i, units, 0, 0, 0) * slope)
            i = index(i + step)

    return swish_backward
