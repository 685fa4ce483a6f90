"""The public functions on Dask arrays: graphs of calls on their chunks.

Each op that can be computed later is a function here, by the name under which calls ask `interop.deferred` for it. It
checks the arguments and decides, for each axis, which cells each chunk of the result is made of (`spans.py`);
`graphs.py` makes tasks of that.
"""

from fastpool.integrations.dask.lazy.activations import hard_swish, hard_swish_backward, swish, swish_backward
from fastpool.integrations.dask.lazy.adaptive import (
    adaptive_avg_pool,
    adaptive_avg_pool_backward,
    adaptive_max_pool,
    adaptive_max_pool_backward,
)
from fastpool.integrations.dask.lazy.filters import difference, maximum_filter, minimum_filter, moving_max, moving_min
from fastpool.integrations.dask.lazy.maxout import maxout, maxout_backward
from fastpool.integrations.dask.lazy.planes import (
    global_avg_pool,
    global_avg_pool_backward,
    global_max_pool,
    global_max_pool_backward,
    global_min_pool,
    global_min_pool_backward,
)
from fastpool.integrations.dask.lazy.pools import (
    avg_pool,
    avg_pool_backward,
    masked_max_pool,
    masked_min_pool,
    max_pool,
    max_pool_backward,
    min_pool,
    min_pool_backward,
)

__all__ = [
    "adaptive_avg_pool",
    "adaptive_avg_pool_backward",
    "adaptive_max_pool",
    "adaptive_max_pool_backward",
    "avg_pool",
    "avg_pool_backward",
    "difference",
    "global_avg_pool",
    "global_avg_pool_backward",
    "global_max_pool",
    "global_max_pool_backward",
    "global_min_pool",
    "global_min_pool_backward",
    "hard_swish",
    "hard_swish_backward",
    "masked_max_pool",
    "masked_min_pool",
    "max_pool",
    "max_pool_backward",
    "maximum_filter",
    "maxout",
    "maxout_backward",
    "min_pool",
    "min_pool_backward",
    "minimum_filter",
    "moving_max",
    "moving_min",
    "swish",
    "swish_backward",
]
