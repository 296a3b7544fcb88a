"""Locks on files: a process holds one until it lets go of it or ends, however it ends."""

from __future__ import annotations

import functools
import os
import weakref
from pathlib import Path
from typing import IO

from . import opening

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Locks that a child process must not hold on to: they are its parent's.
_held: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def is_supported() -> bool:
    """Return whether this system has such locks."""
    return fcntl is not None


def lock(descriptor: int) -> None:
    """Hold an open file until it is closed.

    :raises OSError: If its file system has no locks, as some network file systems.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def try_hold(path: str) -> tuple[IO[bytes], bool] | None:
    """Open a file and hold it until that is closed, and return whether nobody else can; None if it is held already.

    Where a system or file system has no locks, everybody holds it.

    :raises FileNotFoundError: If there is no plain file.
    """
    _let_go_in_children()
    try:
        # NFS has exclusive locks for those who can write only.
        file: IO[bytes] = os.fdopen(opening.open_plain(path, os.O_RDWR), "r+b", buffering=0)
    except PermissionError:
        file = os.fdopen(opening.open_plain(path), "rb", buffering=0)
    is_sure = fcntl is not None
    try:
        lock(file.fileno())
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        is_sure = False
    if fcntl is None:
        file.close()  # there an open file could not be deleted
    _held.add(file)
    return file, is_sure


def hold(path: Path) -> IO[bytes]:
    """Make a file, which names this process, and hold it until the result is closed.

    :raises OSError: If it is there already, or its file system has no locks.
    """
    _let_go_in_children()
    file = path.open("xb", buffering=0)
    try:
        file.write(str(os.getpid()).encode())
        lock(file.fileno())
    except BaseException:
        file.close()
        raise
    _held.add(file)
    return file


@functools.cache
def _let_go_in_children() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    for file in list(_held):
        file.close()
    _held.clear()


def is_held(path: Path) -> bool:
    """Return whether any process holds a file.

    :raises FileNotFoundError: If there is no plain file.
    """
    if fcntl is None:
        return False
    with os.fdopen(opening.open_plain(path), "rb") as file:
        try:
            # Shared, so that two processes that look at once do not take each other for the holder.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
