"""A folder that is written next to another and then takes its place in one step."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replaceable(folder: Path) -> bool:
    """Whether another folder can be put into its place."""
    return not folder.is_mount() and os.access(folder.parent, os.W_OK)


@contextmanager
def replacement(folder: Path) -> Iterator[Path]:
    """An empty folder in the same parent, which takes the place of `folder` at the end, or is deleted after an error.

    Killed at any moment, the old or the new one is in its place, whole; or none where the system cannot exchange two
    folders, and then `recover` puts the new one there.
    """
    new, old = _names(folder)
    for left_over in (new, old):
        if left_over.exists():
            shutil.rmtree(left_over)
    new.mkdir()
    try:
        shutil.copymode(folder, new)
        yield new
        replaced = new if _exchanged(new, folder) else _renamed(new, folder, old)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def recover(folder: Path) -> None:
    """Finish a replacement that was killed between its two steps."""
    new, old = _names(folder)
    # The old one is moved away only when the new one is complete, and a new one is made only where no old one is left.
    if not folder.exists() and new.exists() and old.exists():
        os.rename(new, folder)
        shutil.rmtree(old, ignore_errors=True)


def _names(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f"{folder.name}.fastpool-new"), folder.with_name(f"{folder.name}.fastpool-old")


def _exchanged(a: Path, b: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot. Linux can, mostly."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    current_folder, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return renameat2(current_folder, os.fsencode(a), current_folder, os.fsencode(b), exchange) == 0


def _renamed(new: Path, folder: Path, old: Path) -> Path:
    os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        os.rename(old, folder)
        raise
    return old
