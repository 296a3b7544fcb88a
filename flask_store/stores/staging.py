"""Write a file out of sight, then give it its name: it appears whole, or not at all, and replaces nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

#: Start of the names of files that are being written where there are no unnamed files. What is left of them after a
#: crash is no stored file: a name with a leading dot is never listed, served or given.
STAGED_PREFIX = ".staged-"

# What open(2) answers where the system or the file system has no unnamed files.
_NO_UNNAMED_FILES = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})


class StagedFile:
    """A file being written in ``directory``, not visible under any name of the store yet."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: Where it lies until it is committed; None for an unnamed file, which ends with the process.
        self.path: Path | None = None
        self.stream: BinaryIO = os.fdopen(self._open(), "wb")

    def _open(self) -> int:
        unnamed = getattr(os, "O_TMPFILE", 0)
        if unnamed and os.path.isdir("/proc/self/fd"):
            try:
                return os.open(self.directory, unnamed | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            except OSError as error:
                if error.errno not in _NO_UNNAMED_FILES:
                    raise
        self.path = self.directory / f"{STAGED_PREFIX}{secrets.token_hex(10)}"
        return os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), 0o600)

    def finish(self, mode: int, fsync: bool) -> None:
        """Bring everything that was written to the file, with its permission bits, and to the disk if ``fsync``."""
        self.stream.flush()
        if hasattr(os, "fchmod"):
            os.fchmod(self.stream.fileno(), mode)
        if fsync:
            os.fsync(self.stream.fileno())

    def publish(self, name: str) -> None:
        """Make the finished file visible.

        :raises FileExistsError: If the name is taken; the file can be published under another.
        """
        target = self.directory / name
        if self.path is not None:
            os.link(self.path, target)
            return
        # Without the descriptor of a directory Python calls link(2), which does not follow the link in /proc.
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            source = f"/proc/self/fd/{self.stream.fileno()}"
            os.link(source, target, src_dir_fd=directory, follow_symlinks=True)
        finally:
            os.close(directory)

    def close(self) -> None:
        """Let go of what is not published."""
        # After a failed write the buffer fails again here; the first error is the one to see.
        with contextlib.suppress(OSError):
            self.stream.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(directory: Path) -> Iterator[StagedFile]:
    """Return a block that writes one file; what it has not published at its end is gone."""
    file = StagedFile(directory)
    try:
        yield file
    finally:
        file.close()


def make_directories(directory: Path, mode: int) -> list[Path]:
    """Make a directory and those above it that are missing, each with just these permission bits.

    :returns: The ones that were made, the highest first.
    """
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    made = []
    for path in reversed(missing):
        try:
            path.mkdir(mode)
        except FileExistsError:
            if not path.is_dir():
                raise
        else:
            # The umask may have taken bits away; it belongs to the whole process and stays untouched.
            path.chmod(mode)
            made.append(path)
    return made


def fsync_directory(directory: Path) -> None:
    """Bring the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
