"""Write a file out of sight, then give it its name: it appears whole, or not at all, and replaces nothing."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from ..utils import rewind
from . import opening
from .locking import is_held, lock

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: Directory beside the files of a store where they are written on systems without unnamed files. What is in it is no
#: stored file: a name with a leading dot is never listed, served or given.
STAGING_DIRECTORY = ".staged"

#: Seconds after its last change from which a staged file that nobody holds counts as left by a crash.
ABANDONED_AFTER = 60

# What open(2) answers where the system or the file system has no unnamed files.
_NO_UNNAMED_FILES = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})

# What link(2) answers where the file system has no second names: FAT and some network and user space ones.
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})

# Bytes copied at a time through memory and, at most, inside the kernel.
_CHUNK_SIZE = 256 * 1024
_KERNEL_CHUNK_SIZE = 1 << 30

# From linux/fcntl.h and linux/fs.h.
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


class StagedFile:
    """A file being written for ``directory``, not visible under any name of the store yet."""

    def __init__(self, directory: str | Path) -> None:
        #: Where it lies until it is published; None for an unnamed file, which ends with the process.
        self.path: Path | None = None
        self._descriptor = self._open(directory)
        self._stream: BinaryIO | None = None

    @property
    def stream(self) -> BinaryIO:
        """The file, to be written and read."""
        if self._stream is None:
            self._stream = os.fdopen(self._descriptor, "w+b")
        return self._stream

    def reopen(self) -> BinaryIO:
        """Return another handle on the file, which can only be read; the caller closes it."""
        return open(self.path or f"/proc/self/fd/{self._descriptor}", "rb")

    def append(self, data: ReadableBuffer) -> int:
        """Write all of some bytes at the end, past the buffer of :attr:`stream`, or none of them.

        :raises OSError: If there is no room for them.
        """
        size = os.fstat(self._descriptor).st_size
        try:
            _write_all(self._descriptor, memoryview(data).cast("B"))
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise
        return memoryview(data).nbytes

    def copy(self, source: IO[bytes]) -> None:
        """Write a stream from its start, if it can seek, to its end."""
        copy_stream(source, self._descriptor)

    def _open(self, directory: str | Path) -> int:
        unnamed = getattr(os, "O_TMPFILE", 0)
        if unnamed and _has_proc():
            try:
                return os.open(directory, unnamed | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except OSError as error:
                if error.errno not in _NO_UNNAMED_FILES:
                    raise
        hidden = Path(directory, STAGING_DIRECTORY)
        _make_hidden(hidden)
        delete_abandoned(hidden)
        self.path = hidden / secrets.token_hex(10)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self.path, flags, 0o600)
        # Some network file systems cannot.
        with contextlib.suppress(OSError):
            lock(descriptor)
        return descriptor

    def finish(self, mode: int, fsync: bool) -> None:
        """Bring everything that was written to the file, with its permission bits, and to the disk if ``fsync``."""
        if self._stream is not None:
            self._stream.flush()
        if hasattr(os, "fchmod"):
            os.fchmod(self._descriptor, mode)
        if fsync:
            os.fsync(self._descriptor)

    def publish(self, target: str | Path, dir_fd: int | None = None) -> None:
        """Make the finished file visible as ``target``, at most once.

        :param dir_fd: Descriptor of the directory that a relative target is in.
        :raises FileExistsError: If the name is taken; the file can be published under another.
        """
        if self.path is not None:
            self._publish_named(self.path, target, dir_fd)
            return
        # Without a descriptor here Python calls link(2), which does not follow the link in /proc. The path is absolute,
        # so it does not matter which one.
        source = f"/proc/self/fd/{self._descriptor}"
        os.link(source, target, src_dir_fd=self._descriptor, dst_dir_fd=dir_fd, follow_symlinks=True)

    def _publish_named(self, path: Path, target: str | Path, dir_fd: int | None) -> None:
        if os.name == "nt":
            self._close_file()  # an open file cannot be renamed there
        link(path, target, dir_fd)

    def close(self) -> None:
        """Let go of what is not published."""
        self._close_file()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _close_file(self) -> None:
        # After a failed write the buffer fails again here; the first error is the one to see.
        with contextlib.suppress(OSError):
            if self._stream is not None:
                self._stream.close()
            elif self._descriptor >= 0:
                os.close(self._descriptor)
        self._descriptor = -1


def link(source: str | Path, target: str | Path, dir_fd: int | None = None) -> None:
    """Give a file a second name or, where the file system has no second names, another one.

    :param dir_fd: Descriptor of the directory that a relative target is in.
    :raises FileExistsError: If the name is taken.
    """
    try:
        os.link(source, target, dst_dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_exclusively(source, target, dir_fd)


@functools.cache
def _has_proc() -> bool:
    """Return whether the kernel tells a process its open files: an unnamed one is published through that."""
    return os.path.isdir("/proc/self/fd")


def copy_stream(source: IO[bytes], target: int) -> None:
    """Copy a stream to an empty file, from its start if it can seek, inside the kernel if it is a large file.

    :param target: Descriptor of the file.
    """
    rewind(source)
    descriptor = file_descriptor(source)
    if descriptor is None or not _copy_in_kernel(descriptor, target):
        while content := source.read(_CHUNK_SIZE):
            _write_all(target, memoryview(content))


def _write_all(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def file_descriptor(stream: Any) -> int | None:
    """Return the descriptor of a stream that is known to be a plain file; others may give the one of what they wrap."""
    if isinstance(stream, tempfile.SpooledTemporaryFile):
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        # Below this it may be in memory, from where asking for its descriptor would write it to the disk.
        return stream.fileno() if size > _CHUNK_SIZE * 4 else None
    raw = getattr(stream, "raw", None)
    return stream.fileno() if isinstance(raw, io.FileIO) else None


def _copy_in_kernel(source: int, target: int) -> bool:
    """Copy a file from its start to an empty one; return False, with nothing copied, where that is not possible.

    That it copied nothing does not say that the file is empty: those of /proc tell no size, and can be read.
    """
    for copy in _kernel_copies():
        position = 0
        try:
            while count := copy(source, target, position):
                position += count
        except OSError:
            if position:
                raise
        if position:
            return True
    return False


def _kernel_copies() -> Iterator[Callable[[int, int, int], int]]:
    if hasattr(os, "copy_file_range"):
        yield lambda source, target, position: os.copy_file_range(source, target, _KERNEL_CHUNK_SIZE, position)
    if sys.platform == "linux":  # elsewhere it writes to sockets only
        yield lambda source, target, position: os.sendfile(target, source, position, _KERNEL_CHUNK_SIZE)


def _rename_exclusively(source: str | Path, target: str | Path, dir_fd: int | None) -> None:
    if os.name == "nt":
        os.rename(source, target)  # fails there if the target exists
        return
    import ctypes  # rarely needed, and slow to load

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(
            errno.EOPNOTSUPP, "the file system has no hard links, the system no exclusive rename", str(target)
        )
    below = _AT_FDCWD if dir_fd is None else dir_fd
    if rename(_AT_FDCWD, os.fsencode(source), below, os.fsencode(target), _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def delete_abandoned(directory: Path) -> None:
    """Delete the staged files in a staging directory that a crash has left: those that no process holds."""
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > ABANDONED_AFTER and not is_held(path):
                path.unlink()


def _make_hidden(directory: Path) -> None:
    try:
        directory.mkdir(0o700)
    except FileExistsError:
        # A link would have files deleted elsewhere.
        if directory.is_symlink() or not directory.is_dir():
            raise _in_the_way(directory) from None


def make_directories(directory: Path, mode: int, fsync: bool = False) -> None:
    """Make a directory and those above it that are missing, each with just these permission bits.

    :param fsync: Whether to bring each to the disk.
    :raises FileExistsError: If something that is no directory is in the way; it is the ``filename`` of the error.
    """
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for directory in reversed(missing):
        _make_directory(directory, mode, fsync)


def _make_directory(directory: Path, mode: int, fsync: bool) -> None:
    try:
        directory.mkdir(mode)
    except FileExistsError:
        if not directory.is_dir():
            raise _in_the_way(directory) from None
    else:
        _set_mode(directory, mode)
        if fsync:
            fsync_directory(directory.parent)


def _set_mode(path: Path, mode: int) -> None:
    """Give a new directory its bits: the umask, which belongs to the whole process, may have taken some away."""
    if os.name == "nt":
        return
    with opening.directory(path) as directory:
        # The one bit that is inherited has files get the group of their directory.
        os.chmod(directory, mode | stat.S_ISGID & os.fstat(directory).st_mode)


def _in_the_way(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "no directory, but in the way of one", str(path))


def fsync_directory(directory: Path) -> None:
    """Bring the names in a directory to the disk, where directories can be opened: not on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
