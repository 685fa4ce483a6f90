"""The larger of two values, of scalars and of vectors, by the rules that all backends share."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastpool import _rules
from fastpool.backends.numba.decorators import inlined
from fastpool.backends.numba.simd.vectors import Vector

wins = inlined(_rules.wins)
precedes = inlined(_rules.precedes)


@intrinsic
def maximum(typing_context, a, b):
    """The larger of two values, NaN if either is NaN; of two vectors, element by element.

    Of floats this is one instruction of LLVM, which does not vectorise `wins` with its care for NaN. The result may be
    either of two zeros (nsz), which saves three machine instructions.
    """

    def generate(context, builder, signature, args):
        llvm_type = args[0].type
        if isinstance(dtype, types.Float):
            overload = f"v{a.count}f{dtype.bitwidth}" if isinstance(a, Vector) else llvm_type.intrinsic_name
            function_type = ir.FunctionType(llvm_type, (llvm_type, llvm_type))
            function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.maximum.{overload}")
            return builder.call(function, args, fastmath=("nsz",))
        compare = builder.icmp_signed if dtype.signed else builder.icmp_unsigned
        return builder.select(compare(">", *args), *args)

    dtype = a.dtype if isinstance(a, Vector) else a
    if a == b and isinstance(dtype, (types.Float, types.Integer)):
        return a(a, b), generate
    return None
