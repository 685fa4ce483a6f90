"""Max, min and average pooling, maxout and im2col/col2im for arrays, forward and backward, as fast as memory allows."""

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastpool.activation import hard_swish, hard_swish_backward, swish, swish_backward
from fastpool.average_pooling import (
    avg_pool1d,
    avg_pool1d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool3d,
    avg_pool3d_backward,
    global_avg_pool,
    global_avg_pool_backward,
)
from fastpool.backends import use_backend
from fastpool.columns import col2im, im2col
from fastpool.convolution import conv2d, conv2d_backward
from fastpool.indices import argmax_to_indices, indices_to_argmax
from fastpool.maxout import maxout, maxout_backward
from fastpool.min_pooling import (
    global_min_pool,
    global_min_pool_backward,
    min_pool1d,
    min_pool1d_backward,
    min_pool2d,
    min_pool2d_backward,
    min_pool3d,
    min_pool3d_backward,
)
from fastpool.pooling import (
    global_max_pool,
    global_max_pool_backward,
    max_pool1d,
    max_pool1d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_pool3d,
    max_pool3d_backward,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
)
from fastpool.threads import get_num_threads, importing, set_num_threads

if TYPE_CHECKING:
    from fastpool import morphology
    from fastpool.adaptive_average_pooling import (
        adaptive_avg_pool1d,
        adaptive_avg_pool1d_backward,
        adaptive_avg_pool2d,
        adaptive_avg_pool2d_backward,
        adaptive_avg_pool3d,
        adaptive_avg_pool3d_backward,
    )
    from fastpool.adaptive_pooling import (
        adaptive_max_pool1d,
        adaptive_max_pool1d_backward,
        adaptive_max_pool2d,
        adaptive_max_pool2d_backward,
        adaptive_max_pool3d,
        adaptive_max_pool3d_backward,
    )
    from fastpool.backends import backends  # a call of the package fastpool.backends is one of this function
    from fastpool.filters import maximum_filter, minimum_filter, moving_max, moving_min
    from fastpool.fractional_pooling import (
        fractional_max_pool2d,
        fractional_max_pool2d_backward,
        fractional_max_pool3d,
        fractional_max_pool3d_backward,
    )
    from fastpool.nd_pooling import max_pool, max_pool_backward, min_pool, min_pool_backward
    from fastpool.second_derivatives import (
        max_pool1d_double_backward,
        max_pool2d_double_backward,
        max_pool3d_double_backward,
        min_pool1d_double_backward,
        min_pool2d_double_backward,
        min_pool3d_double_backward,
    )
    from fastpool.unpooling import (
        max_unpool1d_backward,
        max_unpool2d_backward,
        max_unpool3d_backward,
        nearest_unpool1d,
        nearest_unpool2d,
        nearest_unpool3d,
    )

__version__ = "0.1.0"

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool1d_backward",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool3d",
    "adaptive_avg_pool3d_backward",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_backward",
    "argmax_to_indices",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "backends",
    "col2im",
    "conv2d",
    "conv2d_backward",
    "fractional_max_pool2d",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d",
    "fractional_max_pool3d_backward",
    "get_num_threads",
    "global_avg_pool",
    "global_avg_pool_backward",
    "global_max_pool",
    "global_max_pool_backward",
    "global_min_pool",
    "global_min_pool_backward",
    "hard_swish",
    "hard_swish_backward",
    "im2col",
    "indices_to_argmax",
    "max_pool",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool1d_double_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool2d_double_backward",
    "max_pool3d",
    "max_pool3d_backward",
    "max_pool3d_double_backward",
    "max_pool_backward",
    "max_unpool1d",
    "max_unpool1d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "max_unpool3d",
    "max_unpool3d_backward",
    "maximum_filter",
    "maxout",
    "maxout_backward",
    "min_pool",
    "min_pool1d",
    "min_pool1d_backward",
    "min_pool1d_double_backward",
    "min_pool2d",
    "min_pool2d_backward",
    "min_pool2d_double_backward",
    "min_pool3d",
    "min_pool3d_backward",
    "min_pool3d_double_backward",
    "min_pool_backward",
    "minimum_filter",
    "morphology",
    "moving_max",
    "moving_min",
    "nearest_unpool1d",
    "nearest_unpool2d",
    "nearest_unpool3d",
    "set_num_threads",
    "swish",
    "swish_backward",
    "use_backend",
]

# Modules that are imported when the first name that fits is asked for: they would lengthen every import.
_ON_DEMAND = {
    "adaptive_avg": "adaptive_average_pooling",
    "adaptive_max": "adaptive_pooling",
    "fractional": "fractional_pooling",
    "(maximum|minimum)_filter|moving": "filters",
    "morphology": "morphology",
    "(max|min)_pool.*double": "second_derivatives",
    "(max|min)_pool": "nd_pooling",
    "(max|nearest)_unpool": "unpooling",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        for pattern, module in _ON_DEMAND.items():
            if name in __all__ and re.match(pattern, name):
                with importing:
                    found = import_module(f"{__name__}.{module}")
                globals()[name] = found if name == module else getattr(found, name)
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
