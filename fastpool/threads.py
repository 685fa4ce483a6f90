"""How many threads a call may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from fastpool.window import integer

_set: int | None = None
_limit: ContextVar[int | None] = ContextVar("fastpool_threads", default=None)


def _checked(name: str, n: Any) -> int:
    n = integer(name, n)
    if n < 1:
        raise ValueError(f"{name} must be positive, got {n}")
    return n


@cache
def _at_start() -> int:
    """FASTPOOL_NUM_THREADS, else the CPUs that this process may run on."""
    text = os.environ.get("FASTPOOL_NUM_THREADS", "")
    if text:
        try:
            return _checked("FASTPOOL_NUM_THREADS", int(text))
        except ValueError:
            raise ValueError(f"FASTPOOL_NUM_THREADS must be a positive integer, got {text!r}") from None
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_num_threads() -> int:
    """How many threads a call may use.

    The number given to `set_num_threads`, else the environment's FASTPOOL_NUM_THREADS, else the CPUs that
    this process may run on. Small arrays take one.

    Examples
    --------
    >>> import fastpool as fp
    >>> fp.get_num_threads() >= 1
    True
    """
    threads, limit = _set or _at_start(), _limit.get()
    return threads if limit is None else min(threads, limit)


def set_num_threads(n: int | None) -> None:
    """Let calls use up to `n` threads, in this whole process; None returns to the default.

    No result depends on it. Numba's own setting is left alone.

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    Examples
    --------
    >>> import fastpool as fp
    >>> fp.set_num_threads(1)
    >>> fp.get_num_threads()
    1
    >>> fp.set_num_threads(None)
    """
    global _set
    _set = None if n is None else _checked("n", n)


@contextmanager
def at_most(n: int) -> Iterator[None]:
    """Within the `with` block, calls in this thread (or task) use up to `n` threads each."""
    token = _limit.set(n)
    try:
        yield
    finally:
        _limit.reset(token)
