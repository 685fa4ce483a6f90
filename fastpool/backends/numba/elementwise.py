"""hard-swish, swish and their gradients, number by number. Two-byte floats are calculated in float32."""

from math import exp

from numba import prange

from fastpool.backends.numba.compilation import inlined, kernel
from fastpool.backends.numba.scalars import narrowed, widened


@kernel
def hard_swish(x, y, infinity, start, stop):
    for i in range(start, stop):
        value = widened(x[i], infinity)
        number = type(value)
        between = value * (value + number(3)) / number(6)
        above = value if value >= number(3) else between
        y[i] = narrowed(number(0) if value <= number(-3) else above, infinity)


@kernel(parallel=True)
def hard_swish_parallel(x, y, infinity, units, chunks):
    for i in prange(chunks):
        hard_swish(x, y, infinity, units * i // chunks, units * (i + 1) // chunks)


@kernel
def hard_swish_backward(dy, x, dx, infinity, start, stop):
    for i in range(start, stop):
        value = widened(x[i], infinity)
        number = type(value)
        between = (number(2) * value + number(3)) / number(6)
        above = number(1) if value >= number(3) else between
        slope = number(0) if value <= number(-3) else above
        dx[i] = narrowed(widened(dy[i], infinity) * slope, infinity)


@kernel(parallel=True)
def hard_swish_backward_parallel(dy, x, dx, infinity, units, chunks):
    for i in prange(chunks):
        hard_swish_backward(dy, x, dx, infinity, units * i // chunks, units * (i + 1) // chunks)


@inlined
def sigmoid(z):
    number = type(z)
    return number(1) / (number(1) + number(exp(-z)))


@kernel
def swish(x, beta, y, infinity, start, stop):
    for i in range(start, stop):
        value = widened(x[i], infinity)
        number = type(value)
        s = sigmoid(number(beta) * value)
        y[i] = narrowed(number(0) if s == number(0) else value * s, infinity)


@kernel(parallel=True)
def swish_parallel(x, beta, y, infinity, units, chunks):
    for i in prange(chunks):
        swish(x, beta, y, infinity, units * i // chunks, units * (i + 1) // chunks)


@kernel
def swish_backward(dy, x, beta, dx, infinity, start, stop):
    for i in range(start, stop):
        value = widened(x[i], infinity)
        number = type(value)
        z = number(beta) * value
        s = sigmoid(z)
        slope = s * (number(1) + z * (number(1) - s))
        flat = (s == number(0)) | (s == number(1))
        dx[i] = narrowed(widened(dy[i], infinity) * (s if flat else slope), infinity)


@kernel(parallel=True)
def swish_backward_parallel(dy, x, beta, dx, infinity, units, chunks):
    for i in prange(chunks):
        swish_backward(dy, x, beta, dx, infinity, units * i // chunks, units * (i + 1) // chunks)
