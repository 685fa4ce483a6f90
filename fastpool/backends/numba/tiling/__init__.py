"""How each kernel cuts its arrays into tiles, and how it divides its scratch.

A plan computes these named tuples of integers once and hands them to the kernel, which computes none of them again.
Sizes are in elements; where a part of scratch begins (`..._begin`), in bytes.
"""

from fastpool.backends.numba.tiling.backward import (
    INTERLEAVED_KW,
    Axis,
    GatherTiling,
    NonoverlappingTiling,
    ScatterTiling,
    ValidationTiling,
    axes_to_validate,
    gather,
    nonoverlapping,
    scatter,
    strides_of,
    validation,
)
from fastpool.backends.numba.tiling.columns import Col2imTiling, Im2colTiling, col2im, im2col
from fastpool.backends.numba.tiling.forward import (
    DirectTiling,
    SeparableTiling,
    VanHerkTiling,
    direct,
    packed_row,
    packed_rows,
    separable,
    van_herk,
)

__all__ = [
    "INTERLEAVED_KW",
    "Axis",
    "Col2imTiling",
    "DirectTiling",
    "GatherTiling",
    "Im2colTiling",
    "NonoverlappingTiling",
    "ScatterTiling",
    "SeparableTiling",
    "ValidationTiling",
    "VanHerkTiling",
    "axes_to_validate",
    "col2im",
    "direct",
    "gather",
    "im2col",
    "nonoverlapping",
    "packed_row",
    "packed_rows",
    "scatter",
    "separable",
    "strides_of",
    "validation",
    "van_herk",
]
