"""How each kernel cuts its arrays into tiles, and how it divides its scratch.

A plan computes these named tuples of integers once, and the kernel is given them as they are: neither side computes
anything that the other knows. Sizes are in elements, and where scratch is divided (`..._begin`) in bytes.
"""

from fastpool.backends.numba.tiling.backward import (
    Axis,
    GatherTiling,
    NonoverlappingTiling,
    ScatterTiling,
    ValidationTiling,
    axes_to_validate,
    gather,
    nonoverlapping,
    scatter,
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
    "validation",
    "van_herk",
]
