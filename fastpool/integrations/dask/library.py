"""Dask's arrays among those of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from fastpool.array_library import ArrayLibrary
from fastpool.device_arrays import DeviceArray


class Dask(ArrayLibrary):
    """Arrays without elements yet: most ops give graphs, made in `lazy`."""

    def holds(self, x: Any) -> bool:
        return isinstance(x, getattr(self.module, "Array", ()))

    def read(self, name: str, x: Any) -> np.ndarray | DeviceArray:
        raise TypeError(
            f"{name} must not be a Dask array here, which pooling, filters, maxout and activations take, all inputs "
            f"being Dask arrays; give {name}.compute(), or call this function within dask.array.map_blocks"
        )

    def deferred(self, op: str) -> Callable[..., Any] | None:
        return getattr(import_module("fastpool.integrations.dask.lazy"), op, None)
