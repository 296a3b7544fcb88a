"""Open what lies in a directory that others may write to: plain files and directories alone, never through a link."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

# What open(2) answers for a link that must not be followed, for what is no directory, and for a socket.
_NOT_PLAIN = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO})

_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)

# Otherwise opening a FIFO waits for whoever has its other end.
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)


def open_plain(path: str | Path, flags: int = os.O_RDONLY, dir_fd: int | None = None) -> int:
    """Return a descriptor of a regular file that is there already.

    :param dir_fd: Descriptor of the directory that a relative path is in.
    :raises FileNotFoundError: If there is none, or a link, a FIFO or the like in its place.
    :raises IsADirectoryError: If it is a directory.
    """
    try:
        descriptor = os.open(path, flags | _NO_LINKS | _NO_WAITING | _CLOSE_ON_EXEC | _BINARY, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in _NOT_PLAIN:
            raise FileNotFoundError(errno.ENOENT, "no plain file", str(path)) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise FileNotFoundError(errno.ENOENT, "no plain file", str(path))
    return descriptor


def create(path: str | Path, dir_fd: int | None = None) -> int:
    """Return a descriptor of a new file, for its owner alone, that can be written.

    :raises FileExistsError: If anything has the name, be it a link to nowhere.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS | _CLOSE_ON_EXEC | _BINARY
    return os.open(path, flags, 0o600, dir_fd=dir_fd)


@contextlib.contextmanager
def directory(path: str | Path) -> Iterator[int]:
    """Return a block with the descriptor of a directory, not for Windows.

    :raises FileNotFoundError: If there is none, or a link or a file in its place.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_LINKS | _CLOSE_ON_EXEC)
    except OSError as error:
        if error.errno in _NOT_PLAIN:
            raise FileNotFoundError(errno.ENOENT, "no directory", str(path)) from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)
