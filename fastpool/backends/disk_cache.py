"""Compiled kernels as files: where they are kept, whose files are read, how they are written, when they are removed.

A file holds a digest and object code: whoever can write it can run code in every process that loads it. So a folder
or a file is taken only where nobody but its user and root can have written it, and what is made here can be written
by its user alone, whatever the umask.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

NAME = re.compile(r"[0-9a-f]{40}\.kernel(\.[0-9a-f]{16}\.tmp)?")

DAY = 86_400
MOST_DAYS_UNUSED = 90
MOST_BYTES = 1 << 28  # ten times the kernels of one version

# Windows guards folders by access lists, which the modes that Python reports say nothing of.
HAS_OWNERS = hasattr(os, "geteuid")


def user_cache() -> Path | None:
    """The folder of the user's cache for this package; None where no home is known."""
    if sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local", "fastpool", "Cache")
    elif sys.platform == "darwin":
        folder = Path("~/Library/Caches/fastpool")
    else:
        chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = (chosen if chosen.is_absolute() else Path("~/.cache")) / "fastpool"
    try:
        folder = folder.expanduser()
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


def _why_untrusted(place: Path | str, status: os.stat_result) -> str:
    """Why another user may have written a file or a folder; '' where only its user and root can have."""
    if not HAS_OWNERS:
        return ""
    if status.st_uid not in (0, os.geteuid()):
        return f"{place} belongs to another user (uid {status.st_uid})"
    if not stat.S_ISLNK(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write to {place} (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def _why_unsafe(folder: Path) -> str:
    """Why another user may have put files into a folder, or another folder into its place.

    Folders above it are refused where all others can write; a group that can is trusted there.
    """
    if not HAS_OWNERS:
        return ""
    itself = (folder, folder.resolve())
    for place in dict.fromkeys((*itself, *itself[0].parents, *itself[1].parents)):
        try:
            status = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if place in itself or stat.S_ISLNK(status.st_mode):
            why = _why_untrusted(place, status)
            if why:
                return why
        # In a folder with the sticky bit, as /tmp, nobody can rename what others have made.
        elif status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            return f"others can write to {place} (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def _nearest(folder: Path) -> Path:
    """The folder, or what is there of the path to it."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def why_not_read(folder: str) -> str:
    """Why the kernels of a folder are not read; '' where they are."""
    if not folder:
        return "no home folder is known"
    path = Path(folder)
    try:
        why = _why_unsafe(path)
        if why:
            return why
        nearest = _nearest(path)
        if not nearest.is_dir():
            return f"{nearest} is not a folder"
        if nearest != path or os.access(folder, os.R_OK | os.X_OK):
            return ""
    except (OSError, RuntimeError) as error:  # a RuntimeError of links in a circle
        return f"{folder} cannot be read ({getattr(error, 'strerror', error)})"
    return f"{folder} cannot be read by this user"


def why_not_written(folder: str) -> str:
    """Why kernels are not written to a folder; '' where they are. Makes nothing."""
    if not folder:
        return "no home folder is known"
    path = Path(folder)
    try:
        why = _why_unsafe(path)
        if why:
            return why
        nearest = _nearest(path)
        status = nearest.stat()
    except (OSError, RuntimeError) as error:
        return f"{folder} cannot be made ({getattr(error, 'strerror', error)})"
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    if HAS_OWNERS and status.st_uid not in (0, os.geteuid()):
        return f"{nearest} belongs to another user (uid {status.st_uid})"
    if HAS_OWNERS and not status.st_mode & 0o222:  # as of /proc, where the system lets root write, but makes nothing
        return f"nobody may write to {nearest} (mode {stat.S_IMODE(status.st_mode):04o})"
    return "" if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} cannot be written by this user"


def read(folder: str, name: str) -> bytes | None:
    """What a file holds; None where there is none, or where somebody else may have written it."""
    if why_not_read(folder):
        return None
    options = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(Path(folder, name), options), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or _why_untrusted(name, status):
                return None
            content = file.read()
    except OSError:
        return None
    if time.time() - status.st_mtime > DAY:  # the time of the last use, by which old kernels are removed
        with suppress(OSError):
            os.utime(Path(folder, name))
    return content


def write(folder: str, name: str, content: bytes) -> str:
    """Write a file in one step. Why it could not be written, '' where it was."""
    why = why_not_written(folder)
    if why:
        return why
    path = Path(folder)
    temporary = path / f"{name}.{secrets.token_hex(8)}.tmp"
    try:
        for place in reversed((path, *path.parents)):
            if not place.exists():
                with suppress(FileExistsError):
                    place.mkdir(0o755)
        why = why_not_written(folder)  # another user may have been the first to make it
        if why:
            return why
        options = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            # Other users may read it, as they must where one warms the cache for all; tempfile's files they may not.
            with open(os.open(temporary, options, 0o644), "wb") as file:
                file.write(content)
            os.replace(temporary, path / name)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    remove_old(folder)
    return ""


@cache  # once a process
def remove_old(folder: str) -> None:
    """Remove kernels not used for long, the least recently used beyond a size, and files left half-written.

    Another process that has one open reads on; one that looks for it later compiles it anew.
    """
    now, total, files = time.time(), 0, []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    files.append((now - status.st_mtime, status.st_size, entry.path))
    for age, size, path in sorted(files):
        total += size
        days = 1 if path.endswith(".tmp") else MOST_DAYS_UNUSED
        if age > days * DAY or total > MOST_BYTES:
            with suppress(OSError):
                os.unlink(path)
