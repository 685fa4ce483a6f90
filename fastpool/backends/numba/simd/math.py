"""The exponential function, in operations that vectorise."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from fastpool.backends.numba.decorators import INLINED
from fastpool.backends.numba.simd.compare import maximum


@intrinsic
def multiply_add(typing_context, a, b, c):
    """a * b + c, with one rounding where the processor can."""

    def generate(context, builder, signature, args):
        llvm_type = args[0].type
        function_type = ir.FunctionType(llvm_type, (llvm_type, llvm_type, llvm_type))
        name = f"llvm.fmuladd.{llvm_type.intrinsic_name}"
        return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)

    return a(a, a, a), generate


def _bitcast(source, target):
    """Make a function that reads the bits of a value of one type as another type."""

    @intrinsic
    def bitcast(typing_context, value):
        def generate(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), generate

    return bitcast


float32_from_bits, float32_bits = _bitcast(types.uint32, types.float32), _bitcast(types.float32, types.uint32)
float64_from_bits, float64_bits = _bitcast(types.uint64, types.float64), _bitcast(types.float64, types.uint64)


def exponential(z):
    """exp(z) for z up to 0, within 1 ulp; NaN of NaN."""


@overload(exponential, jit_options=INLINED)
def _exponential(z):
    """exp(z) = 2**n exp(r) with z = n ln 2 + r (the argument reduction of Cody and Waite, 1980).

    Adding a large constant rounds n to an integer, which is then the last bits of the sum: shifted left, they are an
    exponent. exp(r) is a Taylor series. 2**n is two factors, of which one is constant, since the smallest powers are
    subnormal.
    """
    return _exponential_float32 if z == types.float32 else _exponential_float64


def _exponential_float32(z):
    z = maximum(z, np.float32(-104))
    rounding = np.float32(12582912)  # 1.5 * 2**23: a float32 that is added to it loses its fraction
    shifted = multiply_add(z, np.float32(1.4426950408889634), rounding)
    n = shifted - rounding
    r = multiply_add(n, np.float32(2.12194440e-4), multiply_add(n, np.float32(-0.693359375), z))
    p = np.float32(1 / 5040)
    p = multiply_add(p, r, np.float32(1 / 720))
    p = multiply_add(p, r, np.float32(1 / 120))
    p = multiply_add(p, r, np.float32(1 / 24))
    p = multiply_add(p, r, np.float32(1 / 6))
    p = multiply_add(p, r, np.float32(0.5))
    p = multiply_add(p * r, r, r) + np.float32(1)
    power = float32_from_bits(np.uint32((float32_bits(shifted) << 23) + ((127 + 24) << 23)))
    return p * power * np.float32(2**-24)


def _exponential_float64(z):
    z = maximum(z, np.float64(-746))
    rounding = np.float64(6755399441055744)  # 1.5 * 2**52
    shifted = multiply_add(z, 1.4426950408889634, rounding)
    n = shifted - rounding
    r = multiply_add(n, -1.9082149292705877e-10, multiply_add(n, -0.6931471803691238, z))
    p = 1 / 6227020800
    p = multiply_add(p, r, 1 / 479001600)
    p = multiply_add(p, r, 1 / 39916800)
    p = multiply_add(p, r, 1 / 3628800)
    p = multiply_add(p, r, 1 / 362880)
    p = multiply_add(p, r, 1 / 40320)
    p = multiply_add(p, r, 1 / 5040)
    p = multiply_add(p, r, 1 / 720)
    p = multiply_add(p, r, 1 / 120)
    p = multiply_add(p, r, 1 / 24)
    p = multiply_add(p, r, 1 / 6)
    p = multiply_add(p, r, 0.5)
    p = multiply_add(p * r, r, r) + 1
    power = float64_from_bits((float64_bits(shifted) << np.uint64(52)) + np.uint64((1023 + 54) << 52))
    return p * power * 2**-54
