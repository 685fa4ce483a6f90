"""The shared rules compiled, a maximum that vectorises, and the two-byte floats that Numba does not know."""

from types import FunctionType

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable
from numba.np.arrayobj import populate_array

from fastpool import _rules
from fastpool.backends.numba import scratch
from fastpool.backends.numba.compilation import INLINED, inlined
from fastpool.backends.numba.lanes import (
    Lanes,
    beside,
    fetch,
    keys_of_halves,
    lanes_in,
    load,
    load_beside,
    store,
    where,
    zip_high,
    zip_low,
)

for both_ask in scratch.__dict__.values():  # the plan of a call in Python, and its kernel
    if isinstance(both_ask, FunctionType):
        register_jitable(**INLINED)(both_ask)

wins = inlined(_rules.wins)
precedes = inlined(_rules.precedes)
half_key = inlined(_rules.half_key)
half_bits = inlined(_rules.half_bits)
first_window = inlined(_rules.first_window)
after_last_window = inlined(_rules.after_last_window)
first_tap = inlined(_rules.first_tap)
after_last_tap = inlined(_rules.after_last_tap)


@intrinsic
def maximum(typing_context, a, b):
    """The larger of two numbers, NaN if either is one; of lanes, one by one.

    As LLVM's own instruction, since LLVM does not vectorise a comparison that looks after NaN. Which zero wins
    is left open (nsz), which spares it three instructions.
    """

    def generate(context, builder, signature, args):
        kind = args[0].type
        if isinstance(number, types.Float):
            name = (
                f"llvm.maximum.{kind.intrinsic_name}" if number is a else f"llvm.maximum.v{a.count}f{number.bitwidth}"
            )
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, (kind, kind)), name)
            return builder.call(function, args, fastmath=("nsz",))
        compare = builder.icmp_signed if number.signed else builder.icmp_unsigned
        return builder.select(compare(">", *args), *args)

    number = a.dtype if isinstance(a, Lanes) else a
    if a == b and isinstance(number, (types.Float, types.Integer)):
        return a(a, b), generate
    return None


@intrinsic
def times_plus(typing_context, a, b, c):
    """a * b + c, rounded once where the machine can."""

    def generate(context, builder, signature, args):
        kind = args[0].type
        function = ir.FunctionType(kind, (kind, kind, kind))
        name = f"llvm.fmuladd.{kind.intrinsic_name}"
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)

    return a(a, a, a), generate


def _same_bits(source, target):
    """A function that takes the bits of one type for another's."""

    @intrinsic
    def same_bits(typing_context, value):
        def generate(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), generate

    return same_bits


float_of_bits, bits_of_float = _same_bits(types.uint32, types.float32), _same_bits(types.float32, types.uint32)
float64_of_bits, bits_of_float64 = _same_bits(types.uint64, types.float64), _same_bits(types.float64, types.uint64)


def exponential(z):
    """exp(z) for z up to 0, in steps that vectorise, within 1 ulp; NaN of NaN."""


@overload(exponential, jit_options=INLINED)
def _exponential(z):
    """exp(z) = 2**n exp(r) with z = n ln 2 + r: n by rounding in the adder, exp(r) by its series, 2**n by its bits.

    2**n comes in two factors, since the smallest is subnormal.
    """
    if z == types.float32:

        def exponential(z):
            z = maximum(z, np.float32(-104))
            rounding = np.float32(12582912)  # 1.5 * 2**23: what is added to it loses its fraction
            shifted = times_plus(z, np.float32(1.4426950408889634), rounding)
            n = shifted - rounding
            r = times_plus(n, np.float32(2.12194440e-4), times_plus(n, np.float32(-0.693359375), z))
            p = np.float32(1 / 5040)
            p = times_plus(p, r, np.float32(1 / 720))
            p = times_plus(p, r, np.float32(1 / 120))
            p = times_plus(p, r, np.float32(1 / 24))
            p = times_plus(p, r, np.float32(1 / 6))
            p = times_plus(p, r, np.float32(0.5))
            p = times_plus(p * r, r, r) + np.float32(1)
            power = np.int32(bits_of_float(shifted)) - np.int32(0x4B400000)
            half = np.int32(power >> 1)
            low = float_of_bits(np.uint32((half + np.int32(127)) << 23))
            return p * low * float_of_bits(np.uint32((power - half + np.int32(127)) << 23))

        return exponential

    def exponential(z):
        z = maximum(z, np.float64(-746))
        rounding = np.float64(6755399441055744)  # 1.5 * 2**52
        shifted = times_plus(z, 1.4426950408889634, rounding)
        n = shifted - rounding
        r = times_plus(n, -1.9082149292705877e-10, times_plus(n, -0.6931471803691238, z))
        p = 1 / 6227020800
        p = times_plus(p, r, 1 / 479001600)
        p = times_plus(p, r, 1 / 39916800)
        p = times_plus(p, r, 1 / 3628800)
        p = times_plus(p, r, 1 / 362880)
        p = times_plus(p, r, 1 / 40320)
        p = times_plus(p, r, 1 / 5040)
        p = times_plus(p, r, 1 / 720)
        p = times_plus(p, r, 1 / 120)
        p = times_plus(p, r, 1 / 24)
        p = times_plus(p, r, 1 / 6)
        p = times_plus(p, r, 0.5)
        p = times_plus(p * r, r, r) + 1
        power = np.int64(bits_of_float64(shifted)) - np.int64(0x4338000000000000)
        half = np.int64(power >> 1)
        low = float64_of_bits(np.uint64((half + 1023) << 52))
        return p * low * float64_of_bits(np.uint64((power - half + 1023) << 52))

    return exponential


# `infinity` says how to read a number: None where it is one, else it is a two-byte float in an int16, of the
# format whose +inf has these bits.


@inlined
def key(value, infinity):
    """A number as one that compares like it."""
    if infinity is None:
        return value
    return np.int16(half_key(value, infinity))


def keyed(lanes, infinity):
    """`key` of each of some lanes."""


@overload(keyed, jit_options=INLINED)
def _keyed(lanes, infinity):
    if isinstance(infinity, types.NoneType):
        return lambda lanes, infinity: lanes
    return lambda lanes, infinity: keys_of_halves(lanes, infinity)


@inlined
def unkeyed(value, infinity):
    """The number that `key` came from."""
    if infinity is None:
        return value
    return np.int16(half_bits(value))


@inlined
def lay_row(cells, to, x, source, begin, end, rest, around, infinity, ahead):
    """The keys of x[source + begin : source + end] beside cells[to], then `around`; where to go on behind their lanes.

    `rest` are the lanes that the last ones have of the row. What lies `ahead` is fetched.
    """
    i, lanes = begin, lanes_in(x)
    while i + lanes <= end:
        store(cells, to + i, keyed(load(x, source + i), infinity))
        fetch(x, source + i + ahead)
        i += lanes
    if i < end and source + i + lanes <= len(x):
        store(cells, to + i, where(rest, keyed(load(x, source + i), infinity), around))
        fetch(x, source + i + ahead)
        i += lanes
    while i < end:
        cells[to + i] = key(x[source + i], infinity)
        i += 1
    return i


@inlined
def widened(value, infinity):
    """A number as one to calculate with: two-byte floats as float32."""
    if infinity is None:
        return value
    bits = np.uint32(np.uint16(value))
    if infinity == 0x7F80:
        return float_of_bits(bits << 16)
    magnitude = bits & 0x7FFF
    # The exponent moves by a product, which brings subnormal numbers right; inf and NaN need their own exponent.
    number = float_of_bits(magnitude << 13) * np.float32(2.0**112)
    if magnitude >= 0x7C00:
        number = float_of_bits((magnitude << 13) | 0x7F800000)
    return -number if bits & 0x8000 else number


@inlined
def narrowed(number, infinity):
    """The inverse of `widened`, rounding to nearest, ties to even."""
    if infinity is None:
        return number
    bits = np.int64(bits_of_float(np.float32(number)))
    sign, magnitude = (bits >> 16) & 0x8000, bits & 0x7FFFFFFF
    if infinity == 0x7F80:
        rounded = (magnitude + 0x7FFF + ((magnitude >> 16) & 1)) >> 16
        if magnitude > 0x7F800000:
            rounded = 0x7FC0
    elif magnitude >= 0x477FF000:  # 65520 and more round to infinity
        rounded = 0x7E00 if magnitude > 0x7F800000 else 0x7C00
    elif magnitude < 0x38800000:  # below 2**-14: adding 0.5 lets the float32 adder round to the subnormal grid
        rounded = np.int64(bits_of_float(float_of_bits(magnitude) + np.float32(0.5))) - 0x3F000000
    else:
        rounded = (magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13
    return np.int16(np.uint16(rounded | sign))


def widen_row(slopes, to, dy, source, begin, end, rest, around, infinity):
    """As `lay_row`, of gradients as numbers to add up."""


@overload(widen_row, jit_options=INLINED)
def _widen_row(slopes, to, dy, source, begin, end, rest, around, infinity):
    if isinstance(infinity, types.NoneType):

        def widen_row(slopes, to, dy, source, begin, end, rest, around, infinity):
            return lay_row(slopes, to, dy, source, begin, end, rest, around, None, 0)

        return widen_row

    def widen_row(slopes, to, dy, source, begin, end, rest, around, infinity):
        for i in range(begin, end):
            slopes[to + i] = widened(dy[source + i], infinity)
        return end

    return widen_row


def narrow_row(dx, to, limit, cells, count, infinity):
    """Sums as gradients, dx[to : to + count]; in whole lanes that may spill over up to `limit`."""


@overload(narrow_row, jit_options=INLINED)
def _narrow_row(dx, to, limit, cells, count, infinity):
    if isinstance(infinity, types.NoneType):

        def narrow_row(dx, to, limit, cells, count, infinity):
            i, lanes = 0, lanes_in(dx)
            writes_to = count if to + count + lanes <= limit else count - lanes + 1
            while i < writes_to:
                store(dx, to + i, load(cells, i))
                i += lanes
            while i < count:
                dx[to + i] = cells[i]
                i += 1

        return narrow_row

    def narrow_row(dx, to, limit, cells, count, infinity):
        for i in range(count):
            dx[to + i] = narrowed(cells[i], infinity)

    return narrow_row


def narrow_zipped(dx, to, limit, one, other, count, infinity):
    """The same where every other number is of another run."""


@overload(narrow_zipped, jit_options=INLINED)
def _narrow_zipped(dx, to, limit, one, other, count, infinity):
    if isinstance(infinity, types.NoneType):

        def narrow_zipped(dx, to, limit, one, other, count, infinity):
            i, lanes = 0, lanes_in(dx)
            writes_to = count if to + count + 2 * lanes <= limit else count - 2 * lanes + 1
            while i < writes_to:
                low, high = load(one, i // 2), load(other, i // 2)
                store(dx, to + i, zip_low(low, high))
                store(dx, to + i + lanes, zip_high(low, high))
                i += 2 * lanes
            while i < count:
                dx[to + i] = one[i // 2] if i % 2 == 0 else other[i // 2]
                i += 1

        return narrow_zipped

    def narrow_zipped(dx, to, limit, one, other, count, infinity):
        for i in range(count):
            dx[to + i] = narrowed(one[i // 2] if i % 2 == 0 else other[i // 2], infinity)

    return narrow_zipped


def scratch_for_sums(into, scratch, infinity):
    """Where to add up what ends in `into`: there itself, or in scratch as float32 for two-byte floats."""


@overload(scratch_for_sums, jit_options=INLINED)
def _scratch_for_sums(into, scratch, infinity):
    if isinstance(infinity, types.NoneType):
        return lambda into, scratch, infinity: into
    return lambda into, scratch, infinity: carve(scratch, 0, len(into), np.float32)


def in_place_of(sums, run):
    """A run of gradients where they lie, instead of a run of them laid out, if both are of one dtype."""


@overload(in_place_of)
def _in_place_of(sums, run):
    if sums == run:
        return lambda sums, run: run
    return lambda sums, run: sums


# A kernel that is not asked for an argmax has None for it, and for everything that would go with it.


def won_at(lanes, argmax, won, at):
    """The offsets beside `lanes`: those of a run of them from `at` on, 0 where it is None."""


@overload(won_at)
def _won_at(lanes, argmax, won, at):
    if isinstance(won, types.NoneType):
        return lambda lanes, argmax, won, at: beside(lanes, argmax.dtype.type(0))
    return lambda lanes, argmax, won, at: load_beside(lanes, won, at)


def slice_array(builder, context, kind, array, begin, count):
    """LLVM's code for array[begin : begin + count], of a flat one."""
    source = context.make_array(kind)(context, builder, array)
    return _array_at(builder, context, kind, builder.gep(source.data, [begin]), count)


def _array_at(builder, context, kind, pointer, count):
    run = context.make_array(kind)(context, builder)
    itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    populate_array(
        run,
        data=pointer,
        shape=cgutils.pack_array(builder, [count]),
        strides=cgutils.pack_array(builder, [itemsize]),
        itemsize=itemsize,
        meminfo=None,
    )
    return run._getvalue()


@intrinsic
def part(typing_context, run, begin, count):
    """run[begin : begin + count], flat and contiguous, without the bounds' care and the reference count; None of None.

    A kernel takes such runs by the million, and leaves no array's bounds.
    """

    def generate(context, builder, signature, args):
        if isinstance(run, types.NoneType):
            return context.get_dummy_value()
        return slice_array(builder, context, run, *args)

    return run(run, types.intp, types.intp), generate


@intrinsic
def onward(typing_context, run, begin):
    """run[begin:] in the same way."""

    def generate(context, builder, signature, args):
        if isinstance(run, types.NoneType):
            return context.get_dummy_value()
        nitems = context.make_array(run)(context, builder, args[0]).nitems
        return slice_array(builder, context, run, *args, builder.sub(nitems, args[1]))

    return run(run, types.intp), generate


@intrinsic
def plain(typing_context, constant):
    """A constant as any other integer: Numba compiles a function once for all of them, LLVM sees which it is."""
    return types.intp(constant), lambda context, builder, signature, args: context.cast(
        builder, args[0], constant, types.intp
    )


@intrinsic
def positive(typing_context, step):
    """A step that is above 0: LLVM is told so, and drops the error that range() would raise."""

    def generate(context, builder, signature, args):
        builder.assume(builder.icmp_signed(">", args[0], args[0].type(0)))
        return args[0]

    return step(step), generate


# A kernel's scratch comes from its caller, as bytes that begin a line of the caches. Each part of it does so too.


@intrinsic
def carve(typing_context, scratch, begin, count, like):
    """`count` elements of scratch from the byte `begin` on, of the dtype of an array or of this dtype; None of None."""

    def generate(context, builder, signature, args):
        if isinstance(like, types.NoneType):
            return context.get_dummy_value()
        source = context.make_array(scratch)(context, builder, args[0])
        pointer = builder.gep(source.data, [args[1]])
        pointer = builder.bitcast(pointer, context.get_data_type(signature.return_type.dtype).as_pointer())
        return _array_at(builder, context, signature.return_type, pointer, args[2])

    if isinstance(like, types.NoneType):
        return types.none(scratch, types.intp, types.intp, like), generate
    dtype = like.dtype if isinstance(like, (types.Array, types.DType)) else like.instance_type
    return types.Array(dtype, 1, "C")(scratch, types.intp, types.intp, like), generate


def carve_bounds(argmax, scratch, begin, count):
    """`count` elements of scratch that calculate with offsets exactly: float32 for those of up to two bytes."""


@overload(carve_bounds, jit_options=INLINED)
def _carve_bounds(argmax, scratch, begin, count):
    number = np.float32 if argmax.dtype.bitwidth <= 16 else np.float64
    return lambda argmax, scratch, begin, count: carve(scratch, begin, count, number)


@intrinsic
def itemsize_of(typing_context, run):
    """Bytes of an element of an array; 0 of None."""
    itemsize = 0 if isinstance(run, types.NoneType) else run.dtype.bitwidth // 8
    return types.intp(run), lambda context, builder, signature, args: context.get_constant(types.intp, itemsize)
