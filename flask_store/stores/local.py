"""``LocalStore``: files in a directory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, BinaryIO, ClassVar, cast

from flask import Flask
from werkzeug.datastructures import FileStorage
from werkzeug.security import safe_join

from .. import naming
from ..exceptions import AlreadyExistsError, InvalidNameError, NotFoundError, ServiceError, StoreError
from ..files import StoreFile
from ..receiving import ReceivedFile
from .base import BaseStore, FileStat, guess_content_type
from .staging import StagedFile, copy_stream, fsync_directory, make_directories, staged

# After the first name each is new by 80 random bits: a second collision means a broken file system.
_MAX_TRIES = 5


# What the system answers for a path at which there can be no file.
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG})


class LocalStore(BaseStore):
    """Keeps files in the directory ``STORE_PATH``; a relative one is below the instance folder.

    A file appears under its final name whole or not at all and never replaces another, whatever number of threads
    and processes save at once.
    """

    register_route: ClassVar[bool] = True

    REQUIRED_CONFIGURATION: ClassVar[list[str]] = ["STORE_PATH"]

    @staticmethod
    def app_defaults(app: Flask) -> None:
        app.config.setdefault("STORE_PATH", "uploads")
        app.config.setdefault("STORE_URL_PREFIX", "/uploads")

    @property
    def root(self) -> Path:
        """The directory ``STORE_PATH``, absolute."""
        return Path(self.app.instance_path, self.settings.path)

    @property
    def store_path(self) -> str:
        return self._below(str(self.root))

    def join(self, *parts: str) -> str:
        path = safe_join(*parts)
        if path is None:
            raise InvalidNameError("/".join(parts[1:]), "it must stay inside the store")
        return path

    def path_for(self, filename: str) -> Path:
        naming.check_path(filename)
        return self._contained(self.relative_path(filename))

    def _contained(self, path: str) -> Path:
        """Return where a checked path from the root is on the disk. Whatever touches the disk asks here."""
        place = root = str(self.root)
        for name in path.split("/") if path else ():
            place = f"{place}/{name}"
            if os.path.islink(place):
                return _followed(root, path)
        return Path(place)

    def _directory(self) -> Path:
        """Return where the files of this destination are."""
        return self._contained(self.destination or "")

    def exists(self, filename: str) -> bool:
        naming.check_path(filename)
        try:
            self.stat(filename)
        except (NotFoundError, InvalidNameError):  # a link that leads out is no file of the store
            return False
        return True

    def save(self, file: FileStorage) -> StoreFile:
        name = self.safe_filename(_filename_of(file))
        naming.check(name)
        directory = self._directory()
        try:
            made = make_directories(directory, self.settings.directory_mode)
            path = self._write(file.stream, directory / name)
            if self.settings.fsync:
                _keep_or_delete(path, made)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise ServiceError(f"could not store {name!r} in {directory}: {error}") from error
        return StoreFile.of(self, path.name)

    def _write(self, stream: IO[bytes], path: Path) -> Path:
        """Publish an upload that is in this file system already, or else a copy of it; return where."""
        if isinstance(stream, ReceivedFile) and stream.staged is not None:
            try:
                return stream.publish(lambda target: self._publish(target, path))
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        with staged(path.parent) as target:
            copy_stream(stream, target.stream)
            return self._publish(target, path)

    def _publish(self, target: StagedFile, path: Path) -> Path:
        """Publish a file under its name or, where that is taken, under one with a random part."""
        target.finish(self.settings.file_mode, self.settings.fsync)
        candidate = path
        for _ in range(_MAX_TRIES):
            try:
                target.publish(candidate)
            except FileExistsError:
                candidate = path.with_name(naming.add_random(path.name))
            else:
                return candidate
        raise AlreadyExistsError(path.name)

    def receive(self, filename: str, content_type: str, content_length: int | None) -> IO[bytes]:
        return cast(IO[bytes], ReceivedFile(self._stage))

    def _stage(self) -> StagedFile:
        # Which destination it is meant for is not known yet; the root is in the same file system, as a rule.
        make_directories(self.root, self.settings.directory_mode)
        return StagedFile(self.root)

    def open(self, filename: str) -> BinaryIO:
        self.stat(filename)  # opening a FIFO would block
        with _translated_errors(filename):
            return self.path_for(filename).open("rb")

    def delete(self, filename: str) -> None:
        naming.check_path(filename)
        below, _, name = filename.rpartition("/")
        directory = self.path_for(below) if below else self._directory()
        with suppress(NotFoundError), _translated_errors(filename):
            (directory / name).unlink()

    def stat(self, filename: str) -> FileStat:
        with _translated_errors(filename):
            result = self.path_for(filename).stat()
        if not stat.S_ISREG(result.st_mode):
            raise NotFoundError(filename)
        modified = datetime.fromtimestamp(result.st_mtime, UTC)
        return FileStat(result.st_size, guess_content_type(filename), modified)

    def list(self, prefix: str = "") -> Iterator[StoreFile]:
        below, slash, start = prefix.rpartition("/")
        top = self.path_for(below) if slash else self._directory()
        with _translated_errors(prefix):
            for path in _walk(top, below, start):
                directory, _, name = path.rpartition("/")
                yield StoreFile.of(self.at(self.relative_path(directory) if directory else self.destination), name)


def _followed(root: str, path: str) -> Path:
    """Return where a path with symbolic links in it ends, if that is inside the root and not hidden."""
    real_root = Path(os.path.realpath(root))
    real = Path(os.path.realpath(os.path.join(root, path)))
    if not real.is_relative_to(real_root):
        raise InvalidNameError(path, "a symbolic link leads it out of the store")
    if any(part.startswith(".") for part in real.relative_to(real_root).parts):
        raise InvalidNameError(path, "a symbolic link leads it to a hidden place")
    return real


def _filename_of(file: FileStorage | None) -> str:
    if file is not None and not isinstance(file, FileStorage):
        raise TypeError(f"save() takes an uploaded file, a werkzeug FileStorage, not {file!r}")
    if file is None or not file.filename:
        raise InvalidNameError("", "no file was chosen")
    return file.filename


def _keep_or_delete(path: Path, made: Iterable[Path]) -> None:
    """Bring the name of a published file, and those of new directories, to the disk; delete it if that fails."""
    try:
        for directory in (path.parent, *(directory.parent for directory in made)):
            fsync_directory(directory)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _walk(directory: Path, below: str, start: str = "") -> Iterator[str]:
    """Yield the paths of the stored files in a directory, each with ``below`` in front, in order.

    :param start: What the names in this directory, not in those below it, start with.
    """
    try:
        with os.scandir(directory) as entries:
            found = {entry.name: entry for entry in entries if entry.name == naming.clean(entry.name)}
    except (FileNotFoundError, NotADirectoryError):
        return
    directories = {name for name, entry in found.items() if entry.is_dir(follow_symlinks=False)}
    for name in sorted(found, key=lambda name: f"{name}/" if name in directories else name):
        path = f"{below}/{name}" if below else name
        if not name.startswith(start):
            continue
        if name in directories:
            yield from _walk(directory / name, path)
        elif found[name].is_file(follow_symlinks=False):
            yield path


@contextmanager
def _translated_errors(name: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        if error.errno in _NOT_THERE:
            raise NotFoundError(name) from error
        raise ServiceError(f"could not reach {name!r} on the disk: {error}") from error
