"""Vectors of the elements of an array, 64 bytes wide: loads, stores, masks and shuffles, as LLVM has them.

The masks and argmax offsets that belong to such a vector have as many elements as it has, whatever their bytes.

Where LLVM vectorises a loop over elements, it tests for each row whether arrays overlap, and leaves the end of the row
to a scalar loop: too slow for short rows. A loop over vectors is vector code by construction. On a processor with
shorter registers, LLVM splits each vector into several.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from fastpool.backends.numba.geometry import LOADED_STRIDES, VECTOR_BYTES


class Vector(types.Type):
    """The type of a vector of `count` elements of a dtype. A vector of booleans is a mask."""

    def __init__(self, dtype, count):
        self.dtype, self.count = dtype, count
        super().__init__(f"Vector({dtype}, {count})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        element = ir.IntType(1) if vector.dtype == types.boolean else manager[vector.dtype].get_data_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.count))


def _full_width(dtype):
    return VECTOR_BYTES * 8 // dtype.bitwidth


def _pointer(context, builder, array_type, array, at):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [at])


def _load(dtype, count):
    """The type of a loaded vector, and a generator of the code that loads it from (array, at)."""

    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        vector = context.get_value_type(signature.return_type)
        return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=dtype.bitwidth // 8)

    return Vector(dtype, count), generate


@intrinsic
def width_of(typing_context, array):
    """How many elements of an array's dtype fill a vector."""

    def generate(context, builder, signature, args):
        # Computed from the array's itemsize, since LLVM would unroll every loop over vectors if it knew the width. That
        # is why a kernel is given the itemsize of each array at run time: see `encoding.py`.
        itemsize = context.make_array(array)(context, builder, args[0]).itemsize
        return builder.mul(itemsize, ir.Constant(itemsize.type, VECTOR_BYTES // (array.dtype.bitwidth // 8) ** 2))

    return types.intp(array), generate


@intrinsic
def load(typing_context, array, at):
    """A full vector of an array's elements, from index `at` on."""
    vector, generate = _load(array.dtype, _full_width(array.dtype))
    return vector(array, types.intp), generate


@intrinsic
def load_like(typing_context, like, array, at):
    """A vector of as many elements as `like` has, from index `at` of an array of any dtype."""
    vector, generate = _load(array.dtype, like.count)

    def generate_load(context, builder, signature, args):
        return generate(context, builder, vector(*signature.args[1:]), args[1:])

    return vector(like, array, types.intp), generate_load


def _load_strided(step):
    """Make a function that loads a full vector of every step-th element of an array, from index `at` on."""

    @intrinsic
    def load_strided(typing_context, array, at):
        vector, generate = _load(array.dtype, _full_width(array.dtype))
        count = vector.count

        def generate_strided(context, builder, signature, args):
            found = None
            for block in range(step):
                start = builder.add(args[1], ir.Constant(args[1].type, block * count))
                loaded = generate(context, builder, signature, (args[0], start))
                # Element i of the result is at i * step: in an earlier block, in this one, or in a later one.
                order = [i if i * step < block * count else count + i * step % count for i in range(count)]
                indices = ir.Constant(ir.VectorType(ir.IntType(32), count), order)
                found = builder.shuffle_vector(loaded if found is None else found, loaded, indices)
            return found

        return vector(array, types.intp), generate_strided

    return load_strided


load_stride_2, load_stride_3, load_stride_5 = map(_load_strided, LOADED_STRIDES)


def _of_unknown_origin(builder, vector):
    """The same vector, past a fence: LLVM does not see how it was computed. This takes no instruction.

    LLVM would turn a maximum that overwrites one of its operands into a masked store, which is slow on AMD's
    processors. 13x13 at stride 1 of (8, 256, 20, 20): 6.4 ms with masked stores, 2.4 without.
    """
    element, count = vector.type.element, vector.type.count
    if isinstance(element, ir.IntType):
        element, count = ir.FloatType(), count * element.width // 32
    floats = ir.VectorType(element, count)
    name = f"llvm.arithmetic.fence.v{count}{element.intrinsic_name}"
    fence = cgutils.get_or_insert_function(builder.module, ir.FunctionType(floats, (floats,)), name)
    return builder.bitcast(builder.call(fence, [builder.bitcast(vector, floats)]), vector.type)


@intrinsic
def store(typing_context, array, at, vector):
    """Write a vector to an array of the same dtype, from index `at` on."""

    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        value, align = _of_unknown_origin(builder, args[2]), array.dtype.bitwidth // 8
        builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=align)
        return context.get_dummy_value()

    if array.dtype != vector.dtype:
        return None
    return types.void(array, types.intp, vector), generate


@intrinsic
def store_nontemporal(typing_context, array, at, vector):
    """Write a vector to memory, past the caches: the cache line is not read first. `at` must begin a cache line.

    Other threads see the store only after a `fence`.
    """

    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        stored = builder.store(args[2], builder.bitcast(pointer, args[2].type.as_pointer()), align=VECTOR_BYTES)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    if array.dtype != vector.dtype:
        return None
    return types.void(array, types.intp, vector), generate


@intrinsic
def elements_to_cache_line(typing_context, array, at):
    """How many elements from index `at` of an array the next cache line begins."""

    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        before = builder.neg(builder.ptrtoint(pointer, args[1].type))
        rest = builder.and_(before, ir.Constant(before.type, VECTOR_BYTES - 1))
        return builder.udiv(rest, ir.Constant(rest.type, array.dtype.bitwidth // 8))

    return types.intp(array, types.intp), generate


@intrinsic
def fence(typing_context):
    """Order all earlier stores, non-temporal ones too, before all later ones."""

    def generate(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _prefetch(to_write):
    """Make a function that prefetches the cache line of index `at`, which may lie outside the array."""

    @intrinsic
    def prefetch(typing_context, array, at):
        def generate(context, builder, signature, args):
            int32 = ir.IntType(32)
            pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
            pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
            function_type = ir.FunctionType(ir.VoidType(), (pointer.type, int32, int32, int32))
            function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
            builder.call(function, [pointer, int32(to_write), int32(2), int32(1)])
            return context.get_dummy_value()

        return types.void(array, types.intp), generate

    return prefetch


prefetch, prefetch_to_write = _prefetch(0), _prefetch(1)


def _broadcast(builder, value, count):
    undefined = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count))


@intrinsic
def splat(typing_context, like, value):
    """A vector of as many elements as `like` has, each of them `value`."""

    def generate(context, builder, signature, args):
        return _broadcast(builder, args[1], like.count)

    return Vector(value, like.count)(like, value), generate


@intrinsic
def vector_like(typing_context, array, value):
    """A vector as wide as those of an array, each element `value`. Nothing is read from the array."""

    def generate(context, builder, signature, args):
        return _broadcast(builder, args[1], signature.return_type.count)

    return Vector(value, _full_width(array.dtype))(array, value), generate


@intrinsic
def where(typing_context, mask, a, b):
    """The elements of `a` where the mask is true, else those of `b`."""
    if a != b:
        return None
    return a(mask, a, b), lambda context, builder, signature, args: builder.select(*args)


@intrinsic
def mask_first(typing_context, like, count):
    """A mask as wide as `like` whose first `count` elements are true: none if `count` is negative."""

    def generate(context, builder, signature, args):
        indices = ir.Constant(ir.VectorType(ir.IntType(64), like.count), list(range(like.count)))
        return builder.icmp_signed("<", indices, _broadcast(builder, args[1], like.count))

    return Vector(types.boolean, like.count)(like, types.int64), generate


@intrinsic
def half_keys(typing_context, bits, half_format):
    """The bits of two-byte floats as integers that sort like them: `half_key` of `fastpool._rules`, for a vector."""

    def generate(context, builder, signature, args):
        value, vector = args[0], args[0].type
        largest = ir.Constant(vector, [0x7FFF] * bits.count)
        magnitude = builder.and_(value, largest)
        is_nan = builder.icmp_signed(">", magnitude, _broadcast(builder, args[1], bits.count))
        sign = builder.ashr(value, ir.Constant(vector, [15] * bits.count))
        keys = builder.xor(value, builder.and_(sign, largest))
        is_zero = builder.icmp_signed("==", keys, ir.Constant(vector, [-1] * bits.count))
        return builder.select(is_nan, largest, builder.select(is_zero, ir.Constant(vector, None), keys))

    return bits(bits, types.int16), generate


def _shuffle(order):
    """Make a function of vectors (a, b) that picks those elements of a followed by b which `order(width)` lists.

    Of offsets that are None, the result is None.
    """

    @intrinsic
    def shuffle(typing_context, a, b):
        def generate(context, builder, signature, args):
            if isinstance(a, types.NoneType):
                return context.get_dummy_value()
            indices = ir.Constant(ir.VectorType(ir.IntType(32), a.count), order(a.count))
            return builder.shuffle_vector(*args, indices)

        return a(a, b), generate

    return shuffle


deinterleave_even = _shuffle(lambda n: list(range(0, 2 * n, 2)))
deinterleave_odd = _shuffle(lambda n: list(range(1, 2 * n, 2)))
interleave_low = _shuffle(lambda n: [i // 2 + i % 2 * n for i in range(n)])  # a[0], b[0], a[1], b[1] ...
interleave_high = _shuffle(lambda n: [n // 2 + i // 2 + i % 2 * n for i in range(n)])  # from a[n // 2] on


@intrinsic
def sum_elements(typing_context, vector):
    """The sum of a vector's elements: its halves are added until one element is left."""

    def generate(context, builder, signature, args):
        total, count, int32 = args[0], vector.count, ir.IntType(32)
        while count > 1:
            count //= 2
            halves = (range(count), range(count, 2 * count))
            low, high = (
                builder.shuffle_vector(total, total, ir.Constant(ir.VectorType(int32, count), list(half)))
                for half in halves
            )
            total = builder.fadd(low, high)
        return builder.extract_element(total, ir.Constant(int32, 0))

    if not isinstance(vector.dtype, types.Float):
        return None
    return vector.dtype(vector), generate


def _scatter_to_taps(taps):
    """Make a function that writes each gradient to one of `taps` neighbouring cells, and 0 to the others.

    `first_tap` is the offset of the first of these cells, and the argmax that of the winner.
    """

    @intrinsic
    def scatter_to_taps(typing_context, array, at, grads, argmax, first_tap):
        def generate(context, builder, signature, args):
            _, at, grads, argmax, first_tap = args
            count = signature.args[2].count
            undefined = ir.Constant(argmax.type, ir.Undefined)
            first_taps = _broadcast(builder, first_tap, count)
            for piece in range(taps):
                source_and_tap = [divmod(piece * count + i, taps) for i in range(count)]
                order = ir.Constant(ir.VectorType(ir.IntType(32), count), [source for source, _ in source_and_tap])
                tap = builder.add(first_taps, ir.Constant(argmax.type, [tap for _, tap in source_and_tap]))
                spread = builder.shuffle_vector(grads, ir.Constant(grads.type, ir.Undefined), order)
                is_winner = builder.icmp_unsigned("==", builder.shuffle_vector(argmax, undefined, order), tap)
                value = builder.select(is_winner, spread, ir.Constant(grads.type, None))
                place = builder.add(at, ir.Constant(at.type, piece * count))
                pointer = _pointer(context, builder, signature.args[0], args[0], place)
                align = array.dtype.bitwidth // 8
                builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=align)
            return context.get_dummy_value()

        if array.dtype != grads.dtype or argmax.count != grads.count or argmax.dtype != first_tap:
            return None
        return types.void(array, types.intp, grads, argmax, first_tap), generate

    return scatter_to_taps


scatter_to_2, scatter_to_3, scatter_to_4, scatter_to_5, scatter_to_8 = map(_scatter_to_taps, (2, 3, 4, 5, 8))


def _define_operator(operation, of_floats, of_integers, compares=False):
    """Define an operator of Python for two vectors of one type, element by element."""

    @type_callable(operation)
    def type_operation(context):
        def type_vectors(a, b):
            if isinstance(a, Vector) and a == b:
                return Vector(types.boolean if compares else a.dtype, a.count)
            return None

        return type_vectors

    @lower_builtin(operation, Vector, Vector)
    def generate(context, builder, signature, args):
        dtype = signature.args[0].dtype
        if isinstance(dtype, types.Float):
            return of_floats(builder, *args)
        return of_integers(builder, isinstance(dtype, types.Integer) and dtype.signed, *args)


def _define_comparison(operation, sign):
    _define_operator(
        operation,
        lambda builder, a, b: (builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered)(sign, a, b),
        lambda builder, signed, a, b: (builder.icmp_signed if signed else builder.icmp_unsigned)(sign, a, b),
        compares=True,
    )


_define_comparison(operator.le, "<=")
_define_comparison(operator.eq, "==")
_define_comparison(operator.ne, "!=")
_define_operator(operator.and_, None, lambda builder, signed, a, b: builder.and_(a, b))
_define_operator(
    operator.add, lambda builder, a, b: builder.fadd(a, b), lambda builder, signed, a, b: builder.add(a, b)
)
_define_operator(
    operator.mul, lambda builder, a, b: builder.fmul(a, b), lambda builder, signed, a, b: builder.mul(a, b)
)
_define_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b), None)
