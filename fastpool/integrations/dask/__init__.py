"""fastpool on Dask arrays, larger than memory and larger than one machine.

Max, min, average, adaptive and global pools, `maxout`, `hard_swish` and `swish` with their gradients, filters and
morphology take Dask arrays and give lazy ones, with the values that arrays in memory have. `pyramid` writes multiscale
pyramids.
"""

from typing import Any

from fastpool.integrations.dask.library import Dask
from fastpool.interop import register

__all__ = ["pyramid"]

register("dask.array", Dask)


def __getattr__(name: str) -> Any:
    # Pyramids need Zarr, which pooling a Dask array must not ask for.
    if name != "pyramid":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fastpool.integrations.dask._pyramid import pyramid

    return pyramid
