"""hard-swish, swish and their gradients, vector by vector. Two-byte floats are calculated in float32."""

from __future__ import annotations

from fastpool.backends.cuda.compilation import cuda, inlined
from fastpool.backends.cuda.vectors import divide, exponential, load, splat_for, store, where


@inlined
def hard_swish_of(value, zero, three):
    above = where(three <= value, value, divide(value * (value + three), 6))
    return where(value <= zero - three, zero, above)


@inlined
def hard_swish_grad(value, zero, one, three):
    above = where(three <= value, one, divide(value + value + three, 6))
    return where(value <= zero - three, zero, above)


@inlined
def sigmoid(z, zero, one):
    """1 / (1 + exp(-z)), from the exponential of -|z|, which does not overflow."""
    small = exponential(where(z < zero, z, zero - z))
    return where(z < zero, small, one) / (one + small)


@inlined
def swish_of(value, beta, zero, one):
    s = sigmoid(beta * value, zero, one)
    return where(s == zero, zero, value * s)


@inlined
def swish_grad(value, beta, zero, one):
    z = beta * value
    s = sigmoid(z, zero, one)
    return where((s == zero) | (s == one), s, s * (one + z * (one - s)))


def hard_swish(width):
    def hard_swish(x, y, size):
        index = type(size)
        i, step = index(cuda.grid(1) * width), index(cuda.gridsize(1) * width)
        zero, three = splat_for(x, 0), splat_for(x, 3)
        while i < size:
            store(y, index(0), i, size, hard_swish_of(load(x, index(0), i, size, 0, 0, 0), zero, three))
            i = index(i + step)

    return hard_swish


def hard_swish_backward(width):
    def hard_swish_backward(dy, x, dx, size):
        index = type(size)
        i, step = index(cuda.grid(1) * width), index(cuda.gridsize(1) * width)
        zero, one, three = splat_for(x, 0), splat_for(x, 1), splat_for(x, 3)
        while i < size:
            grad = hard_swish_grad(load(x, index(0), i, size, 0, 0, 0), zero, one, three)
            store(dx, index(0), i, size, load(dy, index(0), i, size, 0, 0, 0) * grad)
            i = index(i + step)

    return hard_swish_backward


def swish(width):
    def swish(x, beta, y, size):
        index = type(size)
        i, step = index(cuda.grid(1) * width), index(cuda.gridsize(1) * width)
        zero, one, beta_vector = splat_for(x, 0), splat_for(x, 1), splat_for(x, beta)
        while i < size:
            store(y, index(0), i, size, swish_of(load(x, index(0), i, size, 0, 0, 0), beta_vector, zero, one))
            i = index(i + step)

    return swish


def swish_backward(width):
    def swish_backward(dy, x, beta, dx, size):
        index = type(size)
        i, step = index(cuda.grid(1) * width), index(cuda.gridsize(1) * width)
        zero, one, beta_vector = splat_for(x, 0), splat_for(x, 1), splat_for(x, beta)
        while i < size:
            grad = swish_grad(load(x, index(0), i, size, 0, 0, 0), beta_vector, zero, one)
            store(dx, index(0), i, size, load(dy, index(0), i, size, 0, 0, 0) * grad)
            i = index(i + step)

    return swish_backward
