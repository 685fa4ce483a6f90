"""Lanes: neighbouring numbers that a thread loads, compares and stores at once, in a vector of LLVM's.

A kernel takes its arrays as pointers, whose type says how many numbers go into lanes, how the memory is aligned, and
what they are calculated with: two-byte floats are widened to float32 when they are loaded, offsets to indices.
Numba has no vector loads of its own.
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
    "beside",
    "every",
    "exponential",
    "first_of",
    "lanes_of",
    "larger",
    "load",
    "lowest",
    "quotient",
    "ramp",
    "raise_to",
    "store",
    "where",
]

BIT, BYTE, WORD = ir.IntType(1), ir.IntType(8), ir.IntType(32)


class Lanes(types.Type):
    """The type of `count` numbers of a dtype; of booleans, a mask."""

    def __init__(self, dtype, count):
        self.dtype, self.count = dtype, count
        super().__init__(f"Lanes({dtype}, {count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        number = BIT if kind.dtype == types.boolean else manager[kind.dtype].get_data_type()
        super().__init__(manager, kind, ir.VectorType(number, kind.count))


class Pointer(types.CPointer):
    """Numbers in a GPU's memory: as what they are stored, how many are lanes, of what type, how aligned."""

    def __init__(self, stored, lanes, number, align):
        unsigned = {"float16": types.uint16, "bfloat16": types.uint16, "bool": types.uint8}
        self.stored, self.lanes, self.number, self.align = stored, lanes, number, align
        super().__init__(unsigned.get(stored) or getattr(types, stored))
        self.name = f"Pointer({stored}, {lanes}, {number}, {align})"

    @property
    def key(self):
        return self.name


register_model(Pointer)(core_models.PointerModel)


def _known(*arguments):
    """Whether arguments are constants. Numba asks first whether their values matter, then again with them."""
    return all(isinstance(a, types.IntegerLiteral) for a in arguments)


def _vector(number, count):
    return ir.VectorType(number, count)


def _splat(vector, value):
    return ir.Constant(vector, [value] * vector.count)


def _spread(vector, builder, value):
    """A value in every lane of a vector."""
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, value, WORD(0))
    return builder.shuffle_vector(one, undefined, _splat(_vector(WORD, vector.count), 0))


def _converted(builder, value, pointer, to):
    """Stored numbers, a vector, as numbers to calculate with."""
    count = value.type.count
    if pointer.stored == "float16":
        return builder.fpext(builder.bitcast(value, _vector(ir.HalfType(), count)), _vector(ir.FloatType(), count))
    if pointer.stored == "bfloat16":
        words = _vector(WORD, count)
        bits = builder.shl(builder.zext(value, words), _splat(words, 16))
        return builder.bitcast(bits, _vector(ir.FloatType(), count))
    if pointer.stored == "bool":  # any byte but 0 is True
        true = builder.icmp_unsigned("!=", value, ir.Constant(value.type, None))
        return builder.zext(true, to)
    if value.type.element == to.element:
        return value
    if to.element.width < value.type.element.width:
        return builder.trunc(value, to)
    return builder.sext(value, to) if pointer.dtype.signed else builder.zext(value, to)


def _as_stored(builder, lanes, pointer, stored):
    """The inverse of `_converted`; floats are rounded to nearest, ties to even."""
    count = lanes.type.count
    if pointer.stored == "float16":
        return builder.bitcast(builder.fptrunc(lanes, _vector(ir.HalfType(), count)), stored)
    if pointer.stored == "bfloat16":
        words = _vector(WORD, count)
        bits = builder.bitcast(lanes, words)
        even = builder.and_(builder.lshr(bits, _splat(words, 16)), _splat(words, 1))
        rounded = builder.lshr(builder.add(builder.add(bits, even), _splat(words, 0x7FFF)), _splat(words, 16))
        nan = builder.fcmp_unordered("uno", lanes, lanes)
        return builder.trunc(builder.select(nan, _splat(words, 0x7FC0), rounded), stored)
    if lanes.type.element == stored.element:
        return lanes
    if stored.element.width < lanes.type.element.width:
        return builder.trunc(lanes, stored)
    return builder.zext(lanes, stored)


def _in_words(pointer, count):
    """The widest pieces in which so many numbers can be moved, and their vector."""
    bits = pointer.dtype.bitwidth
    word = ir.IntType(max(bits, min(32, bits * count, 8 * pointer.align)))
    return _vector(word, bits * count // word.width)


def _stored_vector(context, pointer, count):
    return _vector(context.get_data_type(pointer.dtype), count)


def _load_whole(context, builder, pointer, address):
    words = _in_words(pointer, pointer.lanes)
    size = pointer.dtype.bitwidth // 8
    align = min(pointer.align, size * pointer.lanes)
    if words.count == 1:
        word = builder.load(builder.bitcast(address, words.element.as_pointer()), align=align)
        value = builder.insert_element(ir.Constant(words, ir.Undefined), word, WORD(0))
    else:
        value = builder.load(builder.bitcast(address, words.as_pointer()), align=align)
    stored, in_word = _stored_vector(context, pointer, pointer.lanes), words.element.width // pointer.dtype.bitwidth
    if in_word == 1:
        return builder.bitcast(value, stored)
    # Taken apart by hand: a vector of bytes would be loaded in pieces of four.
    result = ir.Constant(stored, ir.Undefined)
    for k in range(pointer.lanes):
        word = builder.extract_element(value, WORD(k // in_word))
        word = builder.lshr(word, words.element(k % in_word * pointer.dtype.bitwidth))
        result = builder.insert_element(result, builder.trunc(word, stored.element), WORD(k))
    return result


def _store_whole(context, builder, pointer, address, value):
    words = _in_words(pointer, pointer.lanes)
    align = min(pointer.align, pointer.dtype.bitwidth // 8 * pointer.lanes)
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


def _load_one(context, builder, pointer, address, place, size, number, otherwise):
    """One number as numbers are calculated with, where 0 <= place < size, else `otherwise`."""
    one = _vector(number.element, 1)
    before = builder.block
    with builder.if_then(builder.icmp_unsigned("<", place, size)):
        stored = builder.load(address, align=pointer.dtype.bitwidth // 8)
        vector = ir.Constant(_stored_vector(context, pointer, 1), ir.Undefined)
        vector = builder.insert_element(vector, stored, WORD(0))
        loaded = builder.extract_element(_converted(builder, vector, pointer, one), WORD(0))
        inside = builder.block
    either = builder.phi(number.element)
    either.add_incoming(otherwise, before)
    either.add_incoming(loaded, inside)
    return either


@intrinsic
def load(typing_context, p, run, i, size, before, after, otherwise):
    """Lanes of the run of `size` numbers at p[run], from its i-th on, in one load where the run has them all.

    With `before` and `after` more at their ends; where the run has none there is `otherwise`.
    """
    if not _known(before, after):
        return None
    lanes = Lanes(p.number, before.literal_value + p.lanes + after.literal_value)

    def generate(context, builder, sig, args):
        pointer, run, i, size, _, _, otherwise = args
        number = context.get_value_type(lanes)
        address = builder.gep(pointer, [builder.add(run, i)])
        place = lambda k: builder.add(i, i.type(k))  # noqa: E731
        # A whole pointer and a signed step: what is before lies below the address.
        at = lambda k: builder.gep(address, [ir.IntType(64)(k)])  # noqa: E731

        def one(k):
            return _load_one(context, builder, p, at(k), place(k), size, number, otherwise)

        middle = _vector(number.element, p.lanes)
        if p.lanes == 1:
            numbers = [one(0)]
        else:
            whole = builder.icmp_signed("<=", place(p.lanes), size)
            with builder.if_else(whole) as (all_of_them, some):
                with all_of_them:
                    loaded = _converted(builder, _load_whole(context, builder, p, address), p, middle)
                    first = builder.block
                with some:
                    part = ir.Constant(middle, ir.Undefined)
                    for k in range(p.lanes):
                        part = builder.insert_element(part, one(k), WORD(k))
                    second = builder.block
            both = builder.phi(middle)
            both.add_incoming(loaded, first)
            both.add_incoming(part, second)
            if lanes.count == p.lanes:
                return both
            numbers = [builder.extract_element(both, WORD(k)) for k in range(p.lanes)]
        numbers = [one(-k) for k in range(before.literal_value, 0, -1)] + numbers
        numbers += [one(p.lanes + k) for k in range(after.literal_value)]
        result = ir.Constant(number, ir.Undefined)
        for k, value in enumerate(numbers):
            result = builder.insert_element(result, value, WORD(k))
        return result

    return lanes(p, size, size, size, before, after, p.number), generate


@intrinsic
def store(typing_context, p, run, i, size, lanes):
    """Write lanes to the run of `size` numbers at p[run], from its i-th on, as many as it has room for."""
    if lanes.count != p.lanes:
        return None

    def generate(context, builder, sig, args):
        pointer, run, i, size, value = args
        value = _as_stored(builder, value, p, _stored_vector(context, p, p.lanes))
        address = builder.gep(pointer, [builder.add(run, i)])
        place = lambda k: builder.add(i, i.type(k))  # noqa: E731
        with builder.if_else(builder.icmp_signed("<=", place(p.lanes), size)) as (all_of_them, some):
            with all_of_them:
                _store_whole(context, builder, p, address, value)
            with some:
                for k in range(p.lanes - 1):
                    with builder.if_then(builder.icmp_signed("<", place(k), size)):
                        one = builder.gep(address, [ir.IntType(64)(k)])
                        builder.store(builder.extract_element(value, WORD(k)), one)
        return context.get_dummy_value()

    return types.void(p, size, size, size, lanes), generate


@intrinsic
def lowest(typing_context, p):
    """The number of a pointer's kind below or equal to every other."""

    def generate(context, builder, sig, args):
        kind = context.get_value_type(p.number)
        if isinstance(p.number, types.Float):
            return ir.Constant(kind, float("-inf"))
        return ir.Constant(kind, p.number.minval)

    return p.number(p), generate


@intrinsic
def lanes_of(typing_context, p, number):
    """A number in as many lanes as a pointer has."""
    result = Lanes(p.number, p.lanes)

    def generate(context, builder, sig, args):
        return _spread(context.get_value_type(result), builder, args[1])

    return result(p, p.number), generate


@intrinsic
def beside(typing_context, lanes, number):
    """A number in as many lanes as `lanes` has."""
    result = Lanes(types.unliteral(number), lanes.count)

    def generate(context, builder, sig, args):
        return _spread(context.get_value_type(result), builder, args[1])

    return result(lanes, types.unliteral(number)), generate


@intrinsic
def ramp(typing_context, lanes, start, step):
    """start, start + step, ... in as many lanes as `lanes` has."""
    if not _known(step):
        return None
    number = types.unliteral(start)
    result, by = Lanes(number, lanes.count), step.literal_value

    def generate(context, builder, sig, args):
        kind = context.get_value_type(result)
        steps = ir.Constant(kind, [k * by for k in range(lanes.count)])
        return builder.add(_spread(kind, builder, args[1]), steps)

    return result(lanes, number, step), generate


@intrinsic
def every(typing_context, lanes, first, step, like):
    """Every `step`-th of `lanes` from the `first` on, as many as `like` has."""
    if not _known(first, step):
        return None
    result = Lanes(lanes.dtype, like.count)
    order = [first.literal_value + k * step.literal_value for k in range(like.count)]

    def generate(context, builder, sig, args):
        mask = ir.Constant(_vector(WORD, like.count), order)
        return builder.shuffle_vector(args[0], ir.Constant(args[0].type, ir.Undefined), mask)

    return result(lanes, first, step, like), generate


@intrinsic
def first_of(typing_context, lanes):
    """The first of some lanes, a number."""
    return lanes.dtype(lanes), lambda context, builder, sig, args: builder.extract_element(args[0], WORD(0))


@intrinsic
def where(typing_context, mask, a, b):
    """Of each lane of a mask, `a` where it is true, else `b`."""
    if a != b:
        return None
    return a(mask, a, b), lambda context, builder, sig, args: builder.select(*args)


@intrinsic
def exponential(typing_context, lanes):
    """e to the power of each lane."""
    name = "__nv_expf" if lanes.dtype == types.float32 else "__nv_exp"

    def generate(context, builder, sig, args):
        number = context.get_value_type(lanes.dtype)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number, [number]), name)
        result = args[0]
        for k in range(lanes.count):
            power = builder.call(function, [builder.extract_element(args[0], WORD(k))])
            result = builder.insert_element(result, power, WORD(k))
        return result

    return lanes(lanes), generate


@intrinsic
def quotient(typing_context, i, n):
    """i / n, rounded down, of two numbers of one type that are not negative.

    Numba divides in 64 bits, and with a sign.
    """
    if i != n:
        return None
    return n(i, n), lambda context, builder, sig, args: builder.udiv(*args)


@intrinsic
def larger(typing_context, a, b):
    """The larger of two lanes; NaN where one of them is."""
    if a != b:
        return None

    def generate(context, builder, sig, args):
        x, y = args
        if a.dtype == types.float32 and compiling_for.get() >= (8, 0):
            return _each_lane(builder, x, y, "max.NaN.f32 $0, $1, $2;", "=f,f,f")
        if isinstance(a.dtype, types.Float):
            takes = builder.or_(builder.fcmp_ordered(">", y, x), builder.fcmp_unordered("uno", y, y))
            return builder.select(takes, y, x)
        compared = builder.icmp_signed if a.dtype.signed else builder.icmp_unsigned
        return builder.select(compared(">", y, x), y, x)

    return a(a, b), generate


def _each_lane(builder, x, y, instruction, constraint):
    """An instruction of PTX on each pair of numbers of two vectors."""
    number, result = x.type.element, ir.Constant(x.type, ir.Undefined)
    function = ir.FunctionType(number, [number, number])
    for k in range(x.type.count):
        pair = [builder.extract_element(vector, WORD(k)) for vector in (x, y)]
        one = builder.asm(function, instruction, constraint, pair, side_effect=False)
        result = builder.insert_element(result, one, WORD(k))
    return result


@intrinsic
def raise_to(typing_context, p, i, value):
    """Make p[i] the larger of itself and a value, whoever else does the same at that time."""

    def generate(context, builder, sig, args):
        address = builder.gep(args[0], [args[1]])
        builder.atomic_rmw("max", address, args[2], "monotonic")
        return context.get_dummy_value()

    return types.void(p, i, p.dtype), generate


def _operator(operation, of_numbers, of_masks=None, gives_mask=False):
    """An operator between two of the same lanes."""

    @registry.register_global(operation)
    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) != 2 or not isinstance(args[0], Lanes) or args[0] != args[1]:
                return None
            return signature(Lanes(types.boolean, args[0].count) if gives_mask else args[0], *args)

    @lower_builtin(operation, Lanes, Lanes)
    def lower(context, builder, sig, args):
        dtype = sig.args[0].dtype
        return (of_masks if dtype == types.boolean else of_numbers)(builder, dtype, *args)


def _compared(symbol):
    def generate(builder, dtype, a, b):
        if isinstance(dtype, types.Float):
            return builder.fcmp_unordered(symbol, a, b) if symbol == "!=" else builder.fcmp_ordered(symbol, a, b)
        return (builder.icmp_signed if dtype.signed else builder.icmp_unsigned)(symbol, a, b)

    return generate


def _calculated(of_floats, of_integers):
    def generate(builder, dtype, a, b):
        name = of_floats if isinstance(dtype, types.Float) else of_integers
        return getattr(builder, name)(a, b)

    return generate


_operator(operator.le, _compared("<="), gives_mask=True)
_operator(operator.lt, _compared("<"), gives_mask=True)
_operator(operator.eq, _compared("=="), gives_mask=True)
_operator(operator.ne, _compared("!="), lambda builder, dtype, a, b: builder.xor(a, b), gives_mask=True)
_operator(operator.and_, _calculated("", "and_"), lambda builder, dtype, a, b: builder.and_(a, b))
_operator(operator.or_, _calculated("", "or_"), lambda builder, dtype, a, b: builder.or_(a, b))
_operator(operator.add, _calculated("fadd", "add"))
_operator(operator.sub, _calculated("fsub", "sub"))
_operator(operator.mul, _calculated("fmul", "mul"))
_operator(operator.truediv, _calculated("fdiv", ""))
