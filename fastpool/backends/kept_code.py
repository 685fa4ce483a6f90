"""Machine code of kernels that Numba compiles when they are first called, kept on disk for later processes.

Each kernel is one file, named by a digest of all that its code depends on.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numba

from fastpool.backends import disk_cache

DIGEST = hashlib.sha256


def file_name(*parts: str) -> str:
    """What code is kept as that depends on these texts."""
    return f"{DIGEST('/'.join(parts).encode()).hexdigest()[:40]}.kernel"


@cache  # a later change of the current folder changes nothing
def cache_directory() -> str:
    """Where compiled kernels are kept: below NUMBA_CACHE_DIR, else in the user's cache; '' where there is no home."""
    try:
        configured = getattr(numba.config, "CACHE_DIR", "")
        base = Path(configured).expanduser() if configured else disk_cache.user_cache()
        return "" if base is None else str(Path(base, "fastpool-kernels").absolute())
    except (OSError, RuntimeError):  # no current folder; `~` of a user whom nobody knows
        return ""


def kept(name: str, make: Callable[[], bytes]) -> bytes:
    """The code of a file name; where none is kept, it is made and kept."""
    code = _read(name)
    if code is None:
        code = make()
        _keep(name, code)
    return code


def _checksum(name: str, code: bytes) -> bytes:
    """A digest by which a file is known to be whole, and to be stored under its own name."""
    return DIGEST(name.encode() + code).digest()


def _read(name: str) -> bytes | None:
    try:
        stored = disk_cache.read(cache_directory(), name) if cache_directory() else None
    except Exception:
        return None
    return stored[32:] if stored is not None and _checksum(name, stored[32:]) == stored[:32] else None


def _keep(name: str, code: bytes) -> None:
    try:
        why = disk_cache.why_not_written(cache_directory())
        why = why or disk_cache.write(cache_directory(), name, _checksum(name, code) + code)
    except Exception:
        return
    if why:
        _warn_not_kept(why)


@cache
def _warn_not_kept(why: str) -> None:
    """Warn once that every process compiles for itself. Where warnings are errors, the call goes on all the same."""
    with suppress(RuntimeWarning):
        warnings.warn(
            f"the kernels that fastpool compiles are not kept for later processes: {why}; set NUMBA_CACHE_DIR to a "
            "folder that belongs to you and that others cannot write to",
            RuntimeWarning,
            stacklevel=2,
        )
