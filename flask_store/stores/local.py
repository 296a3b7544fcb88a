"""``LocalStore``: files in a directory."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import functools
import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, BinaryIO, ClassVar, cast

from flask import Flask
from werkzeug.datastructures import FileStorage
from werkzeug.security import safe_join

from .. import naming, signals, transaction
from ..config import Settings
from ..exceptions import (
    AlreadyExistsError,
    InvalidNameError,
    NotFoundError,
    ServiceError,
    StoreError,
)
from ..files import StoreFile
from ..receiving import ReceivedFile
from . import kept, locking, opening
from .base import MAX_TRIES, BaseStore, FileStat, filename_of, guess_content_type
from .staging import StagedFile, fsync_directory, link, make_directories
from .streams import owned

# What the system answers for a path at which there can be no file.
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG})

#: Files that a process holds open at a time, at most, because an open transaction may have to delete them.
MAX_HELD_FILES = 100

_holds = threading.BoundedSemaphore(MAX_HELD_FILES)


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

    @classmethod
    def directories(cls, app: Flask) -> dict[str, Path]:
        settings = Settings(app)
        return {type(settings).path.key: Path(app.instance_path, settings.path)}

    @property
    def root(self) -> Path:
        """The directory ``STORE_PATH``, absolute."""
        return Path(self._root)

    # The way of an upload works with text: a Path costs more than the system call that it is for.
    @property
    def _root(self) -> str:
        return os.path.join(self.app.instance_path, self.settings.path)

    @property
    def store_path(self) -> str:
        return self._below(self._root)

    def join(self, *parts: str) -> str:
        path = safe_join(*parts)
        if path is None:
            raise InvalidNameError("/".join(parts[1:]), "it must stay inside the store")
        return path

    def path_for(self, filename: str) -> Path:
        naming.check_path(filename)
        return Path(self._contained(self.relative_path(filename)))

    def _contained(self, path: str) -> str:
        """Return where a checked path from the root is on the disk. Whatever touches the disk asks here."""
        place = root = self._root
        for name in path.split("/") if path else ():
            place = f"{place}/{name}"
            if os.path.islink(place):
                return _followed(root, path)
        return place

    def _directory(self) -> str:
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
        name = self._wanted_name(file)
        directory = self._directory()
        try:
            path = self._write(file.stream, directory, lambda target: self._publish(target, f"{directory}/{name}"))
            if self.settings.fsync:
                self._keep_or_delete(path)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise ServiceError(f"could not store {name!r} in {directory}: {error}") from error
        return StoreFile.of(self, os.path.basename(path))

    def _write(self, stream: IO[bytes], directory: str, publish: Callable[[StagedFile], str]) -> str:
        """Publish an upload that is in this file system already, or else a copy of it; return where."""
        stream = owned(stream)
        if isinstance(stream, ReceivedFile) and stream.staged is not None:
            self._make_directory(directory)
            try:
                return stream.publish(publish)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        with contextlib.closing(self._stage(directory)) as target:
            target.copy(stream.file if isinstance(stream, ReceivedFile) else stream)
            return publish(target)

    def _publish(self, target: StagedFile, path: str) -> str:
        """Publish a file under its name or, where that is taken, under one with a random part."""
        target.finish(self.settings.file_mode, self.settings.fsync)
        directory, name = os.path.split(path)
        has_random = self.settings.unique_names  # has it already
        candidate = path if has_random or _may_stand(name) else os.path.join(directory, naming.add_random(name))
        for _ in range(MAX_TRIES):
            try:
                target.publish(candidate)
            except FileExistsError:
                candidate = os.path.join(directory, naming.add_random(name))
            else:
                return candidate
        raise AlreadyExistsError(name)

    def _keep_or_delete(self, path: str) -> None:
        """Bring the name of a published file, and those of its directories, to the disk; delete it if that fails."""
        root, directory = Path(os.path.realpath(self._root)), Path(os.path.realpath(os.path.dirname(path)))
        try:
            fsync_directory(directory)
            # Another process may have made a directory a moment ago, and not have brought it to the disk yet.
            while directory != root:
                directory = directory.parent
                fsync_directory(directory)
        except OSError:
            os.unlink(path)
            raise

    def receive(self, filename: str, content_type: str, content_length: int | None) -> IO[bytes] | None:
        if os.name == "nt":
            return None  # an open file can be neither renamed nor deleted there
        # Which destination it is meant for is not known yet; the root is in the same file system, as a rule.
        return cast(IO[bytes], ReceivedFile(lambda: self._stage(self._root)))

    def _stage(self, directory: str) -> StagedFile:
        try:
            return StagedFile(directory)
        except (FileNotFoundError, NotADirectoryError):
            self._make_directory(directory)
            return StagedFile(directory)

    def _make_directory(self, directory: str) -> None:
        make_directories(Path(directory), self.settings.directory_mode, self.settings.fsync)

    def keep(self, file: FileStorage) -> str:
        filename_of(file)
        id = kept.make_id()
        path = self._kept_path(id)
        directory = os.path.dirname(path)

        def publish(target: StagedFile) -> str:
            target.finish(0o600, self.settings.fsync)
            target.publish(path)
            return path

        with _translated_errors(id):
            self._make_directory(self._root)
            make_directories(Path(directory), 0o700, self.settings.fsync)
            self._write(file.stream, directory, publish)
        return id

    def _kept_path(self, id: str) -> str:
        return os.path.join(self._root, kept.path_of(id))

    def is_kept(self, id: str) -> bool:
        try:
            with _translated_errors(id):
                os.stat(self._kept_path(id))
        except NotFoundError:
            return False
        return True

    def open_kept(self, id: str) -> BinaryIO:
        with _translated_errors(id):
            return os.fdopen(opening.open_plain(self._kept_path(id)), "rb")

    def promote(self, id: str, filename: str) -> StoreFile:
        name = self._name_for(filename)
        source = self._kept_path(id)
        with _translated_errors(id):
            # Held until the transaction ends, so that of requests that send the same form one gets it.
            held = locking.try_hold(source)
            if held is None:
                raise NotFoundError(id)
            hold, is_sure = held
            try:
                os.stat(source)  # who held it before may have moved it
                path, is_new = self._move(source, hold, f"{self._directory()}/{name}", id)
                made = _MadeFile(path) if is_new else None
            except BaseException:
                hold.close()
                raise
        file = StoreFile.of(self, os.path.basename(path))
        was_renamed = not os.path.exists(source)  # a file system without second names
        with transaction.transaction():  # a receiver that raises undoes the move
            transaction.on_end(
                file,
                undo=functools.partial(self._move_back, made, source, was_renamed, hold),
                finish=functools.partial(self._forget_kept, made, source, None if is_sure else path, hold),
                leave=functools.partial(self._leave_kept, made, hold),
            )
            signals.file_saved.send(self.app, file=file)
        return file

    def _move(self, source: str, hold: IO[bytes], path: str, id: str) -> tuple[str, bool]:
        """Give a kept upload a free name beside its own; return it, and whether it had none before.

        A process that was killed may have given it one already.
        """
        directory, name = os.path.split(path)
        self._make_directory(directory)
        # An open file is not another one meanwhile. It is closed where the system has no locks: on Windows.
        os.chmod(source if hold.closed else hold.fileno(), self.settings.file_mode)
        own = os.path.join(directory, kept.add_own_part(name, id))
        # The visitor can tell that name, and save another file there.
        candidates = [own, os.path.join(directory, naming.add_random(name))]
        takes_own = self.settings.unique_names or not _may_stand(name)
        for candidate in candidates if takes_own else [path, *candidates]:
            try:
                link(source, candidate)
            except FileExistsError:
                if os.path.samefile(source, candidate):
                    return candidate, False
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                return self._copy_kept(source, own)
            else:
                if self.settings.fsync:
                    self._keep_or_delete(candidate)
                return candidate, True
        raise AlreadyExistsError(name)

    def _copy_kept(self, source: str, own: str) -> tuple[str, bool]:
        """Copy a kept upload to another file system, under the name that only it has: one crash makes no two files."""
        with (
            os.fdopen(opening.open_plain(source), "rb") as stream,
            contextlib.closing(self._stage(os.path.dirname(own))) as copy,
        ):
            copy.copy(stream)
            copy.finish(self.settings.file_mode, self.settings.fsync)
            try:
                copy.publish(own)
            except FileExistsError:
                if not filecmp.cmp(source, own, shallow=False):
                    raise AlreadyExistsError(os.path.basename(own)) from None
                return own, False
        if self.settings.fsync:
            self._keep_or_delete(own)
        return own, True

    def _move_back(self, made: _MadeFile | None, source: str, was_renamed: bool, hold: IO[bytes]) -> None:
        with contextlib.closing(hold), self._logged_errors(source), contextlib.suppress(FileNotFoundError):
            if made is None:
                return
            with contextlib.closing(made):
                if not made.is_there():
                    return  # it was deleted, and its name may be another file's by now
                if was_renamed:
                    os.rename(made.path, source)
                elif os.path.exists(source):  # else another request, where there are no locks, has made it final
                    os.unlink(made.path)

    def _forget_kept(self, made: _MadeFile | None, source: str, path: str | None, hold: IO[bytes]) -> None:
        try:
            with self._logged_errors(source), contextlib.suppress(FileNotFoundError):
                if path is not None and not os.path.exists(path):
                    link(source, path)  # another request, where there are no locks, has taken it back
                os.unlink(source)
        finally:
            self._leave_kept(made, hold)  # not before: another request would find it, and hold it

    def _leave_kept(self, made: _MadeFile | None, hold: IO[bytes]) -> None:
        hold.close()
        if made is not None:
            made.close()

    @contextlib.contextmanager
    def _logged_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.app.logger.exception("the kept upload %s could not be settled", path)

    def discard(self, id: str) -> None:
        with contextlib.suppress(NotFoundError), _translated_errors(id):
            os.unlink(self._kept_path(id))

    def clean(self, age: int, limit: int | None = None) -> int:
        sizes = self._kept_sizes()
        left = list(itertools.islice(itertools.filterfalse(self._is_moving, kept.expired(sorted(sizes), age)), limit))
        for id in left:
            self.discard(id)
        kept.total_of(self.app).count(size for id, size in sizes.items() if id not in left)
        return len(left)

    def _kept_sizes(self) -> dict[str, int]:
        """Return the size of each kept upload, by its id."""
        sizes = {}
        place = os.path.join(self._root, kept.PLACE)
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if not kept.is_kept(entry.name):
                        continue
                    with contextlib.suppress(FileNotFoundError):  # somebody needs it no more
                        sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ServiceError(f"could not look for kept uploads in {place}: {error}") from error
        return sizes

    def _is_moving(self, id: str) -> bool:
        """Return whether an open transaction, which may yet fail, has given a kept upload its name."""
        with contextlib.suppress(OSError):
            return locking.is_held(Path(self._kept_path(id)))
        return False

    def open(self, filename: str) -> BinaryIO:
        path = self.path_for(filename)
        with _translated_errors(filename):
            return os.fdopen(opening.open_plain(path), "rb")

    def delete(self, filename: str) -> None:
        naming.check_path(filename)
        below, _, name = self.relative_path(filename).rpartition("/")
        directory = self._contained(below)
        with contextlib.suppress(NotFoundError), _translated_errors(filename):
            os.unlink(f"{directory}/{name}")

    def undo_of(self, saved: StoreFile | str) -> tuple[Callable[[], object], Callable[[], object]]:
        filename = saved if isinstance(saved, str) else saved.filename
        try:
            made = _MadeFile(str(self.path_for(filename)))
        except (OSError, InvalidNameError):
            return super().undo_of(saved)  # it is gone already, or cannot be looked at

        def undo() -> None:
            with contextlib.closing(made):
                if made.is_there():
                    self.delete(filename)
                elif os.path.lexists(made.path):
                    self.app.logger.warning("%s stays in the store after a rollback: it is another file by now", saved)

        return undo, made.close

    def stat(self, filename: str) -> FileStat:
        naming.check_path(filename)
        path = self._contained(self.relative_path(filename))
        with _translated_errors(filename):
            result = os.stat(path)
        if not stat.S_ISREG(result.st_mode):
            raise NotFoundError(filename)
        modified = datetime.fromtimestamp(result.st_mtime, UTC)
        return FileStat(result.st_size, guess_content_type(filename), modified)

    def list(self, prefix: str = "") -> Iterator[StoreFile]:
        below, slash, start = prefix.rpartition("/")
        top = self.path_for(below) if slash else Path(self._directory())
        with _translated_errors(prefix):
            for path in _walk(top, below, start):
                directory, _, name = path.rpartition("/")
                yield StoreFile.of(self.at(self.relative_path(directory) if directory else self.destination), name)


def _may_stand(name: str) -> bool:
    """Return whether a file may have a name that a visitor chose. Without an extension it could be a destination's."""
    return bool(naming.split_extension(name)[1])


class _MadeFile:
    """A file that was just made, told from any other that gets its name later."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._stat = os.stat(path)
        self._descriptor: int | None = None
        # While it is open no other file gets its inode, whoever deletes it.
        if os.name != "nt" and _holds.acquire(blocking=False):
            try:
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                _holds.release()
            else:
                self._stat = os.fstat(self._descriptor)

    def is_there(self) -> bool:
        """Return whether the file still has its name."""
        try:
            now = os.stat(self.path)
        except OSError:
            return False
        is_held = self._descriptor is not None
        return os.path.samestat(self._stat, now) and (is_held or now.st_mtime_ns == self._stat.st_mtime_ns)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _holds.release()


def _followed(root: str, path: str) -> str:
    """Return where a path with symbolic links in it ends, if that is inside the root and not hidden."""
    real_root = Path(os.path.realpath(root))
    real = Path(os.path.realpath(os.path.join(root, path)))
    if not real.is_relative_to(real_root):
        raise InvalidNameError(path, "a symbolic link leads it out of the store")
    if any(part.startswith(".") for part in real.relative_to(real_root).parts):
        raise InvalidNameError(path, "a symbolic link leads it to a hidden place")
    return str(real)


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


@contextlib.contextmanager
def _translated_errors(name: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        if error.errno in _NOT_THERE:
            raise NotFoundError(name) from error
        raise ServiceError(f"could not reach {name!r} on the disk: {error}") from error
