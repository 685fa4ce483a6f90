"""Views of flat arrays and of scratch, without bounds checks or reference counts.

A kernel makes millions of views. A view may begin outside its array; the tiling of the plan keeps every access to its
elements inside. A view of None, which stands for an argmax that is not computed, is None.
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array


def _array_at(builder, context, array_type, pointer, count):
    array = context.make_array(array_type)(context, builder)
    itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(array_type.dtype)))
    populate_array(
        array,
        data=pointer,
        shape=cgutils.pack_array(builder, [count]),
        strides=cgutils.pack_array(builder, [itemsize]),
        itemsize=itemsize,
        meminfo=None,
    )
    return array._getvalue()


def _view(builder, context, array_type, array, begin, count):
    source = context.make_array(array_type)(context, builder, array)
    return _array_at(builder, context, array_type, builder.gep(source.data, [begin]), count)


@intrinsic
def slice_view(typing_context, array, begin, count):
    """array[begin : begin + count]."""

    def generate(context, builder, signature, args):
        if isinstance(array, types.NoneType):
            return context.get_dummy_value()
        return _view(builder, context, array, *args)

    return array(array, types.intp, types.intp), generate


@intrinsic
def tail_view(typing_context, array, begin):
    """array[begin:]. A `begin` outside the array is a position there: its elements must not be accessed."""

    def generate(context, builder, signature, args):
        if isinstance(array, types.NoneType):
            return context.get_dummy_value()
        length = context.make_array(array)(context, builder, args[0]).nitems
        return _view(builder, context, array, *args, builder.sub(length, args[1]))

    return array(array, types.intp), generate


@intrinsic
def scratch_view(typing_context, scratch, begin, count, like):
    """`count` elements of scratch from byte `begin` on, in the dtype of `like`, an array or a dtype; None for None."""

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


@intrinsic
def unliteral(typing_context, constant):
    """A constant as an integer whose value is not part of its type: Numba compiles a callee once for all constants."""
    return types.intp(constant), lambda context, builder, signature, args: context.cast(
        builder, args[0], constant, types.intp
    )


@intrinsic
def assume_positive(typing_context, step):
    """Promise LLVM that a step is positive, so that it drops the test of range() for 0."""

    def generate(context, builder, signature, args):
        builder.assume(builder.icmp_signed(">", args[0], args[0].type(0)))
        return args[0]

    return step(step), generate
