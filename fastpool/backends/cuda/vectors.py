"""Vectors: neighbouring elements that a thread loads, compares and stores with one LLVM instruction.

Numba has no vector loads of its own. A kernel takes its arrays as pointers. The type of a pointer holds the width of
its vectors, the alignment of its memory, and the dtype to compute in: a load widens two-byte floats to float32, and
converts offsets to the dtype of the kernel's indices. A function that does the same as one of
`fastpool.backends.numba.simd` has the same name.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba.cuda import cgutils
from numba.cuda.cudadecl import registry
from numba.cuda.extending import core_models, intrinsic, lower_builtin, models, register_model
from numba.cuda.typing.templates import AbstractTemplate, signature

from fastpool.backends.cuda.compilation import compiling_for, types

__all__ = [
    "Half",
    "arange_like",
    "atomic_max",
    "constant",
    "divide",
    "divide_by",
    "exponential",
    "first_element",
    "floor_divide",
    "load",
    "lowest",
    "maximum",
    "not_negative",
    "repeat",
    "splat",
    "splat_for",
    "store",
    "take_strided",
    "where",
]

BIT, BYTE, WORD = ir.IntType(1), ir.IntType(8), ir.IntType(32)


class Half(types.Type):
    """The compute dtype of two-byte floats that are compared in pairs, as they are stored. `ptx` is its name in PTX."""

    def __init__(self, stored):
        self.ptx, self.lowest = {"float16": ("f16", 0xFC00), "bfloat16": ("bf16", 0xFF80)}[stored]
        super().__init__(f"Half({stored})")


@register_model(Half)
class _HalfModel(models.PrimitiveModel):
    def __init__(self, manager, half):
        super().__init__(manager, half, ir.IntType(16))


class Vector(types.Type):
    """The type of a vector of `count` elements of a dtype. A vector of booleans is a mask."""

    def __init__(self, dtype, count):
        self.dtype, self.count = dtype, count
        super().__init__(f"Vector({dtype}, {count})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        element = BIT if vector.dtype == types.boolean else manager[vector.dtype].get_data_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.count))


class Pointer(types.CPointer):
    """The type of an array in a GPU's memory.

    `stored` is the name of the array's dtype, `width` the number of elements of a vector, `compute_dtype` the Numba
    type that they are computed in, `align` the bytes to which each vector is aligned. `whole` tells that every vector
    which is loaded or stored lies within its row, so that nothing has to be compared. `reverses` tells that a load
    reverses the order of values, and a store restores it: a kernel of maxima then takes minima.
    """

    def __init__(self, stored, width, compute_dtype, align, whole=False, reverses=False):
        unsigned = {"float16": types.uint16, "bfloat16": types.uint16, "bool": types.uint8}
        self.stored, self.width, self.compute_dtype = stored, width, compute_dtype
        self.align, self.whole, self.reverses = align, whole, reverses
        super().__init__(unsigned.get(stored) or getattr(types, stored))
        self.name = f"Pointer({stored}, {width}, {compute_dtype}, {align}, {whole}, {reverses})"

    @property
    def key(self):
        return self.name


register_model(Pointer)(core_models.PointerModel)


def _are_constants(*arguments):
    """Whether arguments are constants. Numba types a call without their values first, and with them if that fails."""
    return all(isinstance(a, types.IntegerLiteral) for a in arguments)


def _constant(vector_type, value):
    return ir.Constant(vector_type, [value] * vector_type.count)


def _broadcast(builder, value, count):
    undefined = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(undefined, value, WORD(0))
    return builder.shuffle_vector(first, undefined, _constant(ir.VectorType(WORD, count), 0))


def _reversed(builder, vector, pointer):
    """A vector of the compute dtype in reversed order, if the pointer asks for it: NaN stays NaN. Its own inverse."""
    if not pointer.reverses:
        return vector
    count, dtype = vector.type.count, pointer.compute_dtype
    if isinstance(dtype, types.Float):
        words = ir.VectorType(ir.IntType(dtype.bitwidth), count)
        flipped = builder.xor(builder.bitcast(vector, words), _constant(words, 1 << dtype.bitwidth - 1))
        return builder.bitcast(flipped, vector.type)
    bits = 0x8000 if isinstance(dtype, Half) else 1 if pointer.stored == "bool" else -1
    return builder.xor(vector, _constant(vector.type, bits))


def _to_compute_dtype(builder, value, pointer, to):
    """A vector of elements as they are stored, converted to the vector type `to` of the compute dtype."""
    return _reversed(builder, _converted(builder, value, pointer, to), pointer)


def _converted(builder, value, pointer, to):
    count = value.type.count
    if isinstance(pointer.compute_dtype, Half):
        return value
    if pointer.stored == "float16":
        halves = builder.bitcast(value, ir.VectorType(ir.HalfType(), count))
        return builder.fpext(halves, ir.VectorType(ir.FloatType(), count))
    if pointer.stored == "bfloat16":
        words = ir.VectorType(WORD, count)
        bits = builder.shl(builder.zext(value, words), _constant(words, 16))
        return builder.bitcast(bits, ir.VectorType(ir.FloatType(), count))
    if pointer.stored == "bool":  # any byte but 0 is True
        true = builder.icmp_unsigned("!=", value, ir.Constant(value.type, None))
        return builder.zext(true, to)
    if value.type.element == to.element:
        return value
    if to.element.width < value.type.element.width:
        return builder.trunc(value, to)
    return builder.sext(value, to) if pointer.dtype.signed else builder.zext(value, to)


def _to_stored_dtype(builder, vector, pointer, stored):
    """The inverse of `_to_compute_dtype`. Floats are rounded to nearest, ties to even."""
    count, vector = vector.type.count, _reversed(builder, vector, pointer)
    if isinstance(pointer.compute_dtype, Half):
        return vector
    if pointer.stored in ("float16", "bfloat16") and count % 2 == 0 and compiling_for.get() >= (8, 0):
        instruction = f"cvt.rn.{Half(pointer.stored).ptx}x2.f32 $0, $2, $1;"  # the high half comes first
        low, high = (_every_other(builder, vector, first) for first in (0, 1))
        words = _ptx_by_element(builder, low, high, WORD, instruction)
        return builder.bitcast(words, stored)
    if pointer.stored == "float16":
        return builder.bitcast(builder.fptrunc(vector, ir.VectorType(ir.HalfType(), count)), stored)
    if pointer.stored == "bfloat16":
        words = ir.VectorType(WORD, count)
        bits = builder.bitcast(vector, words)
        even = builder.and_(builder.lshr(bits, _constant(words, 16)), _constant(words, 1))
        rounded = builder.lshr(builder.add(builder.add(bits, even), _constant(words, 0x7FFF)), _constant(words, 16))
        nan = builder.fcmp_unordered("uno", vector, vector)
        return builder.trunc(builder.select(nan, _constant(words, 0x7FC0), rounded), stored)
    if vector.type.element == stored.element:
        return vector
    if stored.element.width < vector.type.element.width:
        return builder.trunc(vector, stored)
    return builder.zext(vector, stored)


def _every_other(builder, vector, first):
    """The elements first, first + 2, ... of a vector."""
    order = ir.Constant(ir.VectorType(WORD, vector.type.count // 2), list(range(first, vector.type.count, 2)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), order)


def _ptx_by_element(builder, x, y, element, instruction):
    """A PTX instruction on each pair of elements of two vectors. It gives a value of the type `element`."""
    letters = {"float": "f", "i32": "r", "i16": "h"}
    result_letter, letter = letters[str(element)], letters[str(x.type.element)]
    function = ir.FunctionType(element, [x.type.element] * 2)
    result = ir.Constant(ir.VectorType(element, x.type.count), ir.Undefined)
    for k in range(x.type.count):
        pair = [builder.extract_element(vector, WORD(k)) for vector in (x, y)]
        one = builder.asm(function, instruction, f"={result_letter},{letter},{letter}", pair, side_effect=False)
        result = builder.insert_element(result, one, WORD(k))
    return result


def _word_vector(pointer, count):
    """`count` elements as a vector of the widest words that their alignment allows, up to 4 bytes or an element."""
    bits = pointer.dtype.bitwidth
    word = ir.IntType(max(bits, min(32, bits * count, 8 * pointer.align)))
    return ir.VectorType(word, bits * count // word.width)


def _stored_vector(context, pointer, count):
    return ir.VectorType(context.get_data_type(pointer.dtype), count)


def _load_full(context, builder, pointer, address):
    words = _word_vector(pointer, pointer.width)
    size = pointer.dtype.bitwidth // 8
    align = min(pointer.align, size * pointer.width)
    if words.count == 1:
        word = builder.load(builder.bitcast(address, words.element.as_pointer()), align=align)
        value = builder.insert_element(ir.Constant(words, ir.Undefined), word, WORD(0))
    else:
        value = builder.load(builder.bitcast(address, words.as_pointer()), align=align)
    stored, in_word = _stored_vector(context, pointer, pointer.width), words.element.width // pointer.dtype.bitwidth
    if in_word == 1:
        return builder.bitcast(value, stored)
    # The words are unpacked here, because LLVM would load a vector of bytes four at a time.
    result = ir.Constant(stored, ir.Undefined)
    for k in range(pointer.width):
        word = builder.extract_element(value, WORD(k // in_word))
        word = builder.lshr(word, words.element(k % in_word * pointer.dtype.bitwidth))
        result = builder.insert_element(result, builder.trunc(word, stored.element), WORD(k))
    return result


def _store_full(context, builder, pointer, address, value):
    words = _word_vector(pointer, pointer.width)
    align = min(pointer.align, pointer.dtype.bitwidth // 8 * pointer.width)
    in_word = words.element.width // pointer.dtype.bitwidth
    if in_word == 1:
        value = builder.bitcast(value, words)
    else:
        whole = ir.Constant(words, ir.Undefined)
        for i in range(words.count):
            word = words.element(0)
            for k in range(in_word):
                one = builder.zext(builder.extract_element(value, WORD(i * in_word + k)), words.element)
                word = builder.or_(word, builder.shl(one, words.element(k * pointer.dtype.bitwidth)))
            whole = builder.insert_element(whole, word, WORD(i))
        value = whole
    if words.count == 1:
        value, words = builder.extract_element(value, WORD(0)), words.element
    builder.store(value, builder.bitcast(address, words.as_pointer()), align=align)


def _load_element(context, builder, pointer, address, position, size, element, fill):
    """One element in the compute dtype, whose LLVM type is `element`, where 0 <= position < size; else `fill`."""
    one = ir.VectorType(element, 1)
    before = builder.block
    with builder.if_then(builder.icmp_unsigned("<", position, size)):
        stored = builder.load(address, align=pointer.dtype.bitwidth // 8)
        vector = ir.Constant(_stored_vector(context, pointer, 1), ir.Undefined)
        vector = builder.insert_element(vector, stored, WORD(0))
        loaded = builder.extract_element(_to_compute_dtype(builder, vector, pointer, one), WORD(0))
        inside = builder.block
    result = builder.phi(element)
    result.add_incoming(fill, before)
    result.add_incoming(loaded, inside)
    return result


@intrinsic
def load(typing_context, p, row_start, i, size, before, after, fill):
    """A vector of the row of `size` elements that begins at p[row_start], from the row's element i on.

    It is one load where the whole vector lies in the row. `before` and `after` are constants: how many elements to load
    in front of the vector and behind it. Elements outside the row are `fill`.
    """
    if not _are_constants(before, after):
        return None
    vector = Vector(p.compute_dtype, before.literal_value + p.width + after.literal_value)

    def generate(context, builder, sig, args):
        pointer, row_start, i, size, _, _, fill = args
        result_type = context.get_value_type(vector)
        element = result_type.element
        address = builder.gep(pointer, [builder.add(row_start, i)])
        position = lambda k: builder.add(i, i.type(k))  # noqa: E731
        # The offset is signed and as wide as a pointer: elements before the vector have lower addresses.
        at = lambda k: builder.gep(address, [ir.IntType(64)(k)])  # noqa: E731

        def load_element(k):
            return _load_element(context, builder, p, at(k), position(k), size, element, fill)

        middle_type = ir.VectorType(element, p.width)
        if p.whole:
            middle = _to_compute_dtype(builder, _load_full(context, builder, p, address), p, middle_type)
            if vector.count == p.width:
                return middle
            elements = [builder.extract_element(middle, WORD(k)) for k in range(p.width)]
        elif p.width == 1:
            elements = [load_element(0)]
        else:
            is_full = builder.icmp_signed("<=", position(p.width), size)
            with builder.if_else(is_full) as (full, partial):
                with full:
                    loaded = _to_compute_dtype(builder, _load_full(context, builder, p, address), p, middle_type)
                    full_block = builder.block
                with partial:
                    single = ir.Constant(middle_type, ir.Undefined)
                    for k in range(p.width):
                        single = builder.insert_element(single, load_element(k), WORD(k))
                    partial_block = builder.block
            middle = builder.phi(middle_type)
            middle.add_incoming(loaded, full_block)
            middle.add_incoming(single, partial_block)
            if vector.count == p.width:
                return middle
            elements = [builder.extract_element(middle, WORD(k)) for k in range(p.width)]
        elements = [load_element(-k) for k in range(before.literal_value, 0, -1)] + elements
        elements += [load_element(p.width + k) for k in range(after.literal_value)]
        result = ir.Constant(result_type, ir.Undefined)
        for k, value in enumerate(elements):
            result = builder.insert_element(result, value, WORD(k))
        return result

    return vector(p, size, size, size, before, after, p.compute_dtype), generate


@intrinsic
def store(typing_context, p, row_start, i, size, vector):
    """Write a vector to the row of `size` elements that begins at p[row_start], from the row's element i on.

    Elements beyond the end of the row are dropped.
    """
    if vector.count != p.width:
        return None

    def generate(context, builder, sig, args):
        pointer, row_start, i, size, value = args
        value = _to_stored_dtype(builder, value, p, _stored_vector(context, p, p.width))
        address = builder.gep(pointer, [builder.add(row_start, i)])
        position = lambda k: builder.add(i, i.type(k))  # noqa: E731
        if p.whole:
            _store_full(context, builder, p, address, value)
            return context.get_dummy_value()
        with builder.if_else(builder.icmp_signed("<=", position(p.width), size)) as (full, partial):
            with full:
                _store_full(context, builder, p, address, value)
            with partial:
                for k in range(p.width - 1):
                    with builder.if_then(builder.icmp_signed("<", position(k), size)):
                        one = builder.gep(address, [ir.IntType(64)(k)])
                        builder.store(builder.extract_element(value, WORD(k)), one)
        return context.get_dummy_value()

    return types.void(p, size, size, size, vector), generate


@intrinsic
def lowest(typing_context, p):
    """The lowest value of a pointer's compute dtype."""

    def generate(context, builder, sig, args):
        llvm_type = context.get_value_type(p.compute_dtype)
        if isinstance(p.compute_dtype, Half):
            return ir.Constant(llvm_type, p.compute_dtype.lowest)
        if isinstance(p.compute_dtype, types.Float):
            return ir.Constant(llvm_type, float("-inf"))
        return ir.Constant(llvm_type, p.compute_dtype.minval)

    return p.compute_dtype(p), generate


@intrinsic
def splat_for(typing_context, p, value):
    """A vector as wide as those of a pointer, in its compute dtype, each element `value`."""

    def generate(context, builder, sig, args):
        return _broadcast(builder, args[1], p.width)

    return Vector(p.compute_dtype, p.width)(p, p.compute_dtype), generate


@intrinsic
def splat(typing_context, like, value):
    """A vector of as many elements as `like` has, each of them `value`."""
    dtype = types.unliteral(value)

    def generate(context, builder, sig, args):
        return _broadcast(builder, args[1], like.count)

    return Vector(dtype, like.count)(like, dtype), generate


@intrinsic
def arange_like(typing_context, like, start, step):
    """The vector start, start + step, start + 2 step, ... of as many elements as `like` has. `step` is a constant."""
    if not _are_constants(step):
        return None
    dtype = types.unliteral(start)
    result = Vector(dtype, like.count)

    def generate(context, builder, sig, args):
        steps = ir.Constant(context.get_value_type(result), [k * step.literal_value for k in range(like.count)])
        return builder.add(_broadcast(builder, args[1], like.count), steps)

    return result(like, dtype, step), generate


@intrinsic
def take_strided(typing_context, vector, first, step, like):
    """The elements first, first + step, ... of a vector, as many as `like` has. `first` and `step` are constants."""
    if not _are_constants(first, step):
        return None
    result = Vector(vector.dtype, like.count)
    order = [first.literal_value + k * step.literal_value for k in range(like.count)]

    def generate(context, builder, sig, args):
        indices = ir.Constant(ir.VectorType(WORD, like.count), order)
        return builder.shuffle_vector(args[0], ir.Constant(args[0].type, ir.Undefined), indices)

    return result(vector, first, step, like), generate


@intrinsic
def repeat(typing_context, vector, times):
    """Each element of a vector, `times` times in a row. `times` is a constant."""
    if not _are_constants(times):
        return None
    result = Vector(vector.dtype, vector.count * times.literal_value)
    order = [k // times.literal_value for k in range(result.count)]

    def generate(context, builder, sig, args):
        indices = ir.Constant(ir.VectorType(WORD, result.count), order)
        return builder.shuffle_vector(args[0], ir.Constant(args[0].type, ir.Undefined), indices)

    return result(vector, times), generate


def constant(elements):
    """A function that gives a vector of these integers, in the dtype of its argument, which is an integer."""

    @intrinsic
    def constant_vector(typing_context, like):
        result = Vector(types.unliteral(like), len(elements))
        return result(like), lambda context, builder, sig, args: ir.Constant(context.get_value_type(result), elements)

    return constant_vector


@intrinsic
def first_element(typing_context, vector):
    """The first element of a vector, as a scalar."""
    return vector.dtype(vector), lambda context, builder, sig, args: builder.extract_element(args[0], WORD(0))


@intrinsic
def where(typing_context, mask, a, b):
    """The elements of `a` where the mask is true, else those of `b`."""
    if a != b:
        return None
    return a(mask, a, b), lambda context, builder, sig, args: builder.select(*args)


@intrinsic
def exponential(typing_context, vector):
    """exp(z) of each element of a vector."""
    name = "__nv_expf" if vector.dtype == types.float32 else "__nv_exp"

    def generate(context, builder, sig, args):
        element = context.get_value_type(vector.dtype)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(element, [element]), name)
        result = args[0]
        for k in range(vector.count):
            power = builder.call(function, [builder.extract_element(args[0], WORD(k))])
            result = builder.insert_element(result, power, WORD(k))
        return result

    return vector(vector), generate


@intrinsic
def divide(typing_context, vector, divisor):
    """The quotients of a vector's elements, finite and far from overflow, and a constant integer, correctly rounded.

    The error of a product with the reciprocal is found by a fused multiplication and added (Markstein 1990, IBM Journal
    of Research and Development 34). That is four instructions, where a division takes twenty.
    """
    if not _are_constants(divisor):
        return None

    def generate(context, builder, sig, args):
        element, result = args[0].type.element, args[0]
        reciprocal, negated = element(1 / divisor.literal_value), element(-float(divisor.literal_value))
        for k in range(vector.count):
            value = builder.extract_element(args[0], WORD(k))
            quotient = builder.fmul(value, reciprocal)
            rest = builder.fma(quotient, negated, value)
            result = builder.insert_element(result, builder.fma(rest, reciprocal, quotient), WORD(k))
        return result

    return vector(vector, divisor), generate


@intrinsic
def floor_divide(typing_context, i, n):
    """i // n for integers of one type that are not negative: one unsigned division in their width.

    Numba's own // is a signed division in 64 bits.
    """
    if i != n:
        return None
    return n(i, n), lambda context, builder, sig, args: builder.udiv(*args)


@intrinsic
def divide_by(typing_context, i, n, multiplier, shift):
    """i // n for integers of one type that are not negative. See `launch.divisor`."""

    def generate(context, builder, sig, args):
        i, n, multiplier, shift = args
        if n.type != WORD:
            return builder.udiv(i, n)
        long = ir.IntType(64)
        product = builder.mul(builder.zext(builder.shl(i, WORD(1)), long), builder.zext(multiplier, long))
        return builder.lshr(builder.trunc(builder.lshr(product, long(32)), WORD), shift)

    return n(n, n, n, n), generate


@intrinsic
def not_negative(typing_context, i):
    """An integer that the compiler may take for 0 or more, so that it divides it as an unsigned one."""

    def generate(context, builder, sig, args):
        builder.assume(builder.icmp_signed(">=", args[0], args[0].type(0)))
        return args[0]

    return i(i), generate


@intrinsic
def maximum(typing_context, a, b):
    """The larger of two vectors, element by element; NaN if either is NaN."""
    if a != b:
        return None

    def generate(context, builder, sig, args):
        x, y = args
        if isinstance(a.dtype, Half):
            return _maximum_of_pairs(builder, x, y, a.dtype.ptx)
        if a.dtype == types.float32 and compiling_for.get() >= (8, 0):
            return _ptx_by_element(builder, x, y, x.type.element, "max.NaN.f32 $0, $1, $2;")
        if isinstance(a.dtype, types.Float):
            takes = builder.or_(builder.fcmp_ordered(">", y, x), builder.fcmp_unordered("uno", y, y))
            return builder.select(takes, y, x)
        compared = builder.icmp_signed if a.dtype.signed else builder.icmp_unsigned
        return builder.select(compared(">", y, x), y, x)

    return a(a, b), generate


def _maximum_of_pairs(builder, x, y, ptx):
    """The maxima of two-byte floats, two in each instruction, where two are left."""
    if x.type.count % 2:
        return _ptx_by_element(builder, x, y, x.type.element, f"max.NaN.{ptx} $0, $1, $2;")
    pairs = ir.VectorType(WORD, x.type.count // 2)
    x, y = (builder.bitcast(vector, pairs) for vector in (x, y))
    largest = _ptx_by_element(builder, x, y, WORD, f"max.NaN.{ptx}x2 $0, $1, $2;")
    return builder.bitcast(largest, ir.VectorType(ir.IntType(16), 2 * pairs.count))


@intrinsic
def atomic_max(typing_context, p, i, value):
    """p[i] = max(p[i], value), atomically."""

    def generate(context, builder, sig, args):
        address = builder.gep(args[0], [args[1]])
        builder.atomic_rmw("max", address, args[2], "monotonic")
        return context.get_dummy_value()

    return types.void(p, i, p.dtype), generate


def _define_operator(operation, of_values, of_masks=None, compares=False):
    """Let a Python operator work on two vectors of one type, element by element."""

    @registry.register_global(operation)
    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) != 2 or not isinstance(args[0], Vector) or args[0] != args[1]:
                return None
            return signature(Vector(types.boolean, args[0].count) if compares else args[0], *args)

    @lower_builtin(operation, Vector, Vector)
    def lower(context, builder, sig, args):
        dtype = sig.args[0].dtype
        return (of_masks if dtype == types.boolean else of_values)(builder, dtype, *args)


def _comparison(symbol):
    def generate(builder, dtype, a, b):
        if isinstance(dtype, types.Float):
            return builder.fcmp_unordered(symbol, a, b) if symbol == "!=" else builder.fcmp_ordered(symbol, a, b)
        return (builder.icmp_signed if dtype.signed else builder.icmp_unsigned)(symbol, a, b)

    return generate


def _arithmetic(of_floats, of_integers):
    def generate(builder, dtype, a, b):
        name = of_floats if isinstance(dtype, types.Float) else of_integers
        return getattr(builder, name)(a, b)

    return generate


_define_operator(operator.le, _comparison("<="), compares=True)
_define_operator(operator.lt, _comparison("<"), compares=True)
_define_operator(operator.eq, _comparison("=="), compares=True)
_define_operator(operator.ne, _comparison("!="), lambda builder, dtype, a, b: builder.xor(a, b), compares=True)
_define_operator(operator.and_, _arithmetic("", "and_"), lambda builder, dtype, a, b: builder.and_(a, b))
_define_operator(operator.or_, _arithmetic("", "or_"), lambda builder, dtype, a, b: builder.or_(a, b))
_define_operator(operator.add, _arithmetic("fadd", "add"))
_define_operator(operator.sub, _arithmetic("fsub", "sub"))
_define_operator(operator.mul, _arithmetic("fmul", "mul"))
_define_operator(operator.truediv, _arithmetic("fdiv", ""))
