"""How a call is cut into work items, and what its kernel is given.

The functions are pure: a plan depends on the window, layout, dtypes, batch and threads of a call, and on `tuning.py`.

A module is imported when the first of its names is asked for: half of a process's first call would be spent on named
tuples that it does not use.
"""

from importlib import import_module
from typing import Any

from fastpool.threads import importing

MODULE_OF = {
    "WARMUP_DTYPES": "built",
    "WARMUP_ARGMAX_DTYPES": "built",
    "activation": "activations",
    "avg_pool": "average",
    "avg_pool_backward": "average",
    "avg_pool_by_tables": "by_tables",
    "built_calls": "built",
    "col2im": "columns",
    "im2col": "columns",
    "locate_by_tables": "by_tables",
    "max_pool": "forward",
    "max_pool_backward": "backward",
    "max_pool_by_tables": "by_tables",
    "max_unpool": "unpool",
    "min_pool": "forward",
    "suits_van_herk": "forward",
    "validate_argmax": "validation",
}


def __getattr__(name: str) -> Any:
    if name not in MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with importing:
        found = globals()[name] = getattr(import_module(f"{__name__}.{MODULE_OF[name]}"), name)
    return found
