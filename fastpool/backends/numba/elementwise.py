"""hard-swish, swish and their gradients, number by number. Two-byte floats are calculated in float32."""

from fastpool.backends.numba.compilation import inlined, kernel
from fastpool.backends.numba.scalars import exponential, narrowed, part, widened


@kernel
def hard_swish(x, y, infinity, scratch, start, stop):
    x, y = part(x, start, stop - start), part(y, start, stop - start)
    for i in range(len(y)):
        value = widened(x[i], infinity)
        number = type(value)
        between = value * (value + number(3)) / number(6)
        above = value if value >= number(3) else between
        y[i] = narrowed(number(0) if value <= number(-3) else above, infinity)


@kernel
def hard_swish_backward(dy, x, dx, infinity, scratch, start, stop):
    dy, x, dx = part(dy, start, stop - start), part(x, start, stop - start), part(dx, start, stop - start)
    for i in range(len(dx)):
        value = widened(x[i], infinity)
        number = type(value)
        between = (number(2) * value + number(3)) / number(6)
        above = number(1) if value >= number(3) else between
        slope = number(0) if value <= number(-3) else above
        dx[i] = narrowed(widened(dy[i], infinity) * slope, infinity)


@inlined
def sigmoid(z):
    number = type(z)
    small = exponential(-abs(z))
    return (small if z < number(0) else number(1)) / (number(1) + small)


@kernel
def swish(x, y, beta, infinity, scratch, start, stop):
    x, y = part(x, start, stop - start), part(y, start, stop - start)
    for i in range(len(y)):
        value = widened(x[i], infinity)
        number = type(value)
        s = sigmoid(number(beta) * value)
        product = number(0) if s == number(0) else value * s
        # Which NaN a product of two gives is left to the order in which a vector or a single number is multiplied.
        y[i] = narrowed(value if value != value else product, infinity)


@kernel
def swish_backward(dy, x, dx, beta, infinity, scratch, start, stop):
    dy, x, dx = part(dy, start, stop - start), part(x, start, stop - start), part(dx, start, stop - start)
    for i in range(len(dx)):
        value = widened(x[i], infinity)
        number = type(value)
        z = number(beta) * value
        s = sigmoid(z)
        slope = s * (number(1) + z * (number(1) - s))
        flat = (s == number(0)) | (s == number(1))
        product = widened(dy[i], infinity) * (s if flat else slope)
        dx[i] = narrowed(value if value != value else product, infinity)
