"""Lanes: as many neighbouring numbers as fit 64 bytes, in one vector of LLVM's, on which kernels work at a time.

A loop over numbers is at the compiler's mercy: it guards every short row against overlaps, and runs the rest of it one
by one. A loop over lanes is what it says, and on machines with shorter vectors lanes are a few of them.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from fastpool.backends.numba.scratch import BYTES


class Lanes(types.Type):
    """The type of `count` numbers of a dtype; of booleans, a mask."""

    def __init__(self, dtype, count):
        self.dtype, self.count = dtype, count
        super().__init__(f"Lanes({dtype}, {count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        number = ir.IntType(1) if kind.dtype == types.boolean else manager[kind.dtype].get_data_type()
        super().__init__(manager, kind, ir.VectorType(number, kind.count))


def _pointer(context, builder, kind, array, at):
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [at])


def _load(dtype, count):
    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        vector = context.get_value_type(signature.return_type)
        return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=dtype.bitwidth // 8)

    return Lanes(dtype, count), generate


@intrinsic
def lanes_in(typing_context, run):
    """How many numbers of a run's dtype go into lanes."""

    def generate(context, builder, signature, args):
        # A product that is read from the array, not a constant, keeps LLVM from unrolling every loop over lanes.
        itemsize = context.make_array(run)(context, builder, args[0]).itemsize
        return builder.mul(itemsize, ir.Constant(itemsize.type, BYTES // (run.dtype.bitwidth // 8) ** 2))

    return types.intp(run), generate


@intrinsic
def load(typing_context, run, at):
    """The lanes of a run of numbers from `at` on."""
    lanes, generate = _load(run.dtype, BYTES * 8 // run.dtype.bitwidth)
    return lanes(run, types.intp), generate


@intrinsic
def load_beside(typing_context, lanes, run, at):
    """As many numbers as `lanes` has, of another run."""
    kind, generate = _load(run.dtype, lanes.count)

    def generate_beside(context, builder, signature, args):
        return generate(context, builder, kind(*signature.args[1:]), args[1:])

    return kind(lanes, run, types.intp), generate_beside


@intrinsic
def store(typing_context, run, at, lanes):
    """Write lanes to a run of numbers from `at` on."""

    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        align = run.dtype.bitwidth // 8
        builder.store(args[2], builder.bitcast(pointer, args[2].type.as_pointer()), align=align)
        return context.get_dummy_value()

    if run.dtype != lanes.dtype:
        return None
    return types.void(run, types.intp, lanes), generate


@intrinsic
def stream(typing_context, run, at, lanes):
    """The same past the caches, which spares the read of what is overwritten. The place must begin a line, `to_line`.

    Nobody else need see it before a `fence`.
    """

    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        stored = builder.store(args[2], builder.bitcast(pointer, args[2].type.as_pointer()), align=BYTES)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    if run.dtype != lanes.dtype:
        return None
    return types.void(run, types.intp, lanes), generate


@intrinsic
def to_line(typing_context, run, at):
    """How many numbers there are from a place of a run to where the next line of the caches begins."""

    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        before = builder.neg(builder.ptrtoint(pointer, args[1].type))
        rest = builder.and_(before, ir.Constant(before.type, BYTES - 1))
        return builder.udiv(rest, ir.Constant(rest.type, run.dtype.bitwidth // 8))

    return types.intp(run, types.intp), generate


@intrinsic
def fence(typing_context):
    """What was streamed before is seen by whoever sees what is written after."""

    def generate(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _fetch(to_write):
    """A function that has what lies at a place of a run, or beyond its end, brought close."""

    @intrinsic
    def fetch(typing_context, run, at):
        def generate(context, builder, signature, args):
            small = ir.IntType(32)
            pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
            pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), (pointer.type, small, small, small))
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(function, [pointer, small(to_write), small(2), small(1)])
            return context.get_dummy_value()

        return types.void(run, types.intp), generate

    return fetch


fetch, fetch_to_write = _fetch(0), _fetch(1)


def _in_each(builder, number, count):
    unknown = ir.Constant(ir.VectorType(number.type, count), ir.Undefined)
    one = builder.insert_element(unknown, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, unknown, ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count))


@intrinsic
def beside(typing_context, lanes, number):
    """A number in as many lanes as `lanes` has."""

    def generate(context, builder, signature, args):
        return _in_each(builder, args[1], lanes.count)

    return Lanes(number, lanes.count)(lanes, number), generate


def _offsets_of(lanes, argmax):
    """The type of as many offsets as `lanes` has, of an argmax or its dtype; None of None."""
    return types.none if isinstance(argmax, types.NoneType) else Lanes(argmax.dtype, lanes.count)


@intrinsic
def splat_offset(typing_context, lanes, argmax, offset):
    """An offset in as many lanes as `lanes` has, of the dtype of an argmax; None of None."""
    offsets = _offsets_of(lanes, argmax)

    def generate(context, builder, signature, args):
        if offsets is types.none:
            return context.get_dummy_value()
        return _in_each(builder, context.cast(builder, args[2], types.int64, argmax.dtype), lanes.count)

    return offsets(lanes, argmax, types.int64), generate


@intrinsic
def count_up(typing_context, lanes, argmax):
    """0, 1, 2 and so on in as many lanes as `lanes` has, of the dtype of an argmax; None of None."""
    offsets = _offsets_of(lanes, argmax)

    def generate(context, builder, signature, args):
        if offsets is types.none:
            return context.get_dummy_value()
        return ir.Constant(context.get_value_type(offsets), list(range(lanes.count)))

    return offsets(lanes, argmax), generate


@intrinsic
def add_offsets(typing_context, a, b):
    """The sum of two vectors of offsets; None of None."""

    def generate(context, builder, signature, args):
        return context.get_dummy_value() if a is types.none else builder.add(*args)

    return a(a, b), generate


@intrinsic
def where(typing_context, mask, a, b):
    """Of each lane of a mask, `a` where it is true, else `b`."""
    if a != b:
        return None
    return a(mask, a, b), lambda context, builder, signature, args: builder.select(*args)


@intrinsic
def keys_of_halves(typing_context, lanes, infinity):
    """The bits of two-byte floats as integers that sort like them, as `half_key` does of one."""

    def generate(context, builder, signature, args):
        bits, vector = args[0], args[0].type
        largest = ir.Constant(vector, [0x7FFF] * lanes.count)
        is_nan = builder.icmp_signed(">", builder.and_(bits, largest), _in_each(builder, args[1], lanes.count))
        sign = builder.ashr(bits, ir.Constant(vector, [15] * lanes.count))
        keys = builder.xor(bits, builder.and_(sign, largest))
        is_zero = builder.icmp_signed("==", keys, ir.Constant(vector, [-1] * lanes.count))
        return builder.select(is_nan, largest, builder.select(is_zero, ir.Constant(vector, None), keys))

    return lanes(lanes, types.int16), generate


@intrinsic
def first_of(typing_context, lanes, count):
    """A mask of the first `count` lanes; of none, or of all, beyond either end."""

    def generate(context, builder, signature, args):
        numbers = ir.Constant(ir.VectorType(ir.IntType(64), lanes.count), list(range(lanes.count)))
        return builder.icmp_signed("<", numbers, _in_each(builder, args[1], lanes.count))

    return Lanes(types.boolean, lanes.count)(lanes, types.int64), generate


def _shuffle(order):
    """A function that puts the lanes of a and then b in an order, of which it keeps as many as one of them has."""

    @intrinsic
    def shuffle(typing_context, a, b):
        def generate(context, builder, signature, args):
            places = ir.Constant(ir.VectorType(ir.IntType(32), a.count), order(a.count))
            return builder.shuffle_vector(*args, places)

        return a(a, b), generate

    return shuffle


evens = _shuffle(lambda n: list(range(0, 2 * n, 2)))
odds = _shuffle(lambda n: list(range(1, 2 * n, 2)))
zip_low = _shuffle(lambda n: [i // 2 + i % 2 * n for i in range(n)])  # a[0], b[0], a[1], ...
zip_high = _shuffle(lambda n: [n // 2 + i // 2 + i % 2 * n for i in range(n)])  # and the other half


def _load_apart(step):
    """A function that loads lanes of every step-th number of a run from `at` on."""

    @intrinsic
    def load_apart(typing_context, run, at):
        lanes, generate = _load(run.dtype, BYTES * 8 // run.dtype.bitwidth)
        count = lanes.count

        def generate_apart(context, builder, signature, args):
            found = None
            for one in range(step):
                behind = builder.add(args[1], ir.Constant(args[1].type, one * count))
                loaded = generate(context, builder, signature, (args[0], behind))
                # Lane i is number i * step of all that is loaded: found already, or of these lanes, or still to come.
                order = [i if i * step < one * count else count + i * step % count for i in range(count)]
                places = ir.Constant(ir.VectorType(ir.IntType(32), count), order)
                found = builder.shuffle_vector(loaded if found is None else found, loaded, places)
            return found

        return lanes(run, types.intp), generate_apart

    return load_apart


every_second, every_third, every_fifth = map(_load_apart, (2, 3, 5))


def _store_won(pieces):
    """A function that stores each lane `pieces` times side by side, where its winner is not `first` and so on as 0."""

    @intrinsic
    def store_won(typing_context, run, at, lanes, winners, first):
        def generate(context, builder, signature, args):
            _, at, lanes, winners, first = args
            count = signature.args[2].count
            unknown = ir.Constant(winners.type, ir.Undefined)
            firsts = _in_each(builder, first, count)
            for piece in range(pieces):
                lane_and_tap = [divmod(piece * count + i, pieces) for i in range(count)]
                order = ir.Constant(ir.VectorType(ir.IntType(32), count), [lane for lane, _ in lane_and_tap])
                taps = builder.add(firsts, ir.Constant(winners.type, [tap for _, tap in lane_and_tap]))
                spread = builder.shuffle_vector(lanes, ir.Constant(lanes.type, ir.Undefined), order)
                won = builder.icmp_unsigned("==", builder.shuffle_vector(winners, unknown, order), taps)
                value = builder.select(won, spread, ir.Constant(lanes.type, None))
                place = builder.add(at, ir.Constant(at.type, piece * count))
                pointer = _pointer(context, builder, signature.args[0], args[0], place)
                align = run.dtype.bitwidth // 8
                builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=align)
            return context.get_dummy_value()

        if run.dtype != lanes.dtype or winners.count != lanes.count or winners.dtype != first:
            return None
        return types.void(run, types.intp, lanes, winners, first), generate

    return store_won


store_won_2, store_won_3, store_won_4, store_won_5, store_won_8 = map(_store_won, (2, 3, 4, 5, 8))


def _on_lanes(operation, of_floats, of_integers, compares=False):
    """Let an operator of Python's work on lanes, one by one."""

    @type_callable(operation)
    def type_operation(context):
        def of_lanes(a, b):
            if isinstance(a, Lanes) and a == b:
                return Lanes(types.boolean if compares else a.dtype, a.count)
            return None

        return of_lanes

    @lower_builtin(operation, Lanes, Lanes)
    def generate(context, builder, signature, args):
        number = signature.args[0].dtype
        if isinstance(number, types.Float):
            return of_floats(builder, *args)
        return of_integers(builder, isinstance(number, types.Integer) and number.signed, *args)


def _let_compare(operation, sign):
    _on_lanes(
        operation,
        lambda builder, a, b: (builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered)(sign, a, b),
        lambda builder, signed, a, b: (builder.icmp_signed if signed else builder.icmp_unsigned)(sign, a, b),
        compares=True,
    )


_let_compare(operator.le, "<=")
_let_compare(operator.eq, "==")
_let_compare(operator.ne, "!=")
_on_lanes(operator.and_, None, lambda builder, signed, a, b: builder.and_(a, b))
_on_lanes(operator.add, lambda builder, a, b: builder.fadd(a, b), lambda builder, signed, a, b: builder.add(a, b))
