"""hard-swish, swish and their gradients, element by element. Two-byte floats are computed in float32.

LLVM vectorises these loops. Each array is read or written once; `beta` is an array of one float64.
"""

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.simd.half import narrow, widen
from fastpool.backends.numba.simd.math import exponential
from fastpool.backends.numba.simd.views import slice_view


@kernel
def hard_swish(x, y, half_format, scratch, start, stop):
    x, y = slice_view(x, start, stop - start), slice_view(y, start, stop - start)
    for i in range(len(y)):
        value = widen(x[i], half_format)
        dtype = type(value)
        between = value * (value + dtype(3)) / dtype(6)
        above = value if value >= dtype(3) else between
        y[i] = narrow(dtype(0) if value <= dtype(-3) else above, half_format)


@kernel
def hard_swish_backward(dy, x, dx, half_format, scratch, start, stop):
    count = stop - start
    dy, x, dx = slice_view(dy, start, count), slice_view(x, start, count), slice_view(dx, start, count)
    for i in range(len(dx)):
        value = widen(x[i], half_format)
        dtype = type(value)
        between = (dtype(2) * value + dtype(3)) / dtype(6)
        above = dtype(1) if value >= dtype(3) else between
        grad = dtype(0) if value <= dtype(-3) else above
        dx[i] = narrow(widen(dy[i], half_format) * grad, half_format)


@inlined
def sigmoid(z):
    dtype = type(z)
    small = exponential(-abs(z))
    return (small if z < dtype(0) else dtype(1)) / (dtype(1) + small)


@kernel
def swish(x, y, beta, half_format, scratch, start, stop):
    factor = beta[0]
    x, y = slice_view(x, start, stop - start), slice_view(y, start, stop - start)
    for i in range(len(y)):
        value = widen(x[i], half_format)
        dtype = type(value)
        s = sigmoid(dtype(factor) * value)
        product = dtype(0) if s == dtype(0) else value * s
        # A product of NaNs is one of them, which one depending on vector or scalar code: take that of x.
        y[i] = narrow(value if value != value else product, half_format)


@kernel
def swish_backward(dy, x, dx, beta, half_format, scratch, start, stop):
    factor, count = beta[0], stop - start
    dy, x, dx = slice_view(dy, start, count), slice_view(x, start, count), slice_view(dx, start, count)
    for i in range(len(dx)):
        value = widen(x[i], half_format)
        dtype = type(value)
        z = dtype(factor) * value
        s = sigmoid(z)
        grad = s * (dtype(1) + z * (dtype(1) - s))
        saturated = (s == dtype(0)) | (s == dtype(1))  # where z may be infinite
        product = widen(dy[i], half_format) * (s if saturated else grad)
        dx[i] = narrow(value if value != value else product, half_format)
