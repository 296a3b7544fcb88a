"""A directory with uploads that are on their way to a service, shared by the processes of a machine.

Each upload is a directory of its own, with its bytes, a record of where they go, and an empty file whose name tells
which process looks after it. It appears and disappears by a rename, so there is never half of one; it changes hands by
a rename too, so that one of several processes gets it. A process shows that it lives by holding a lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, BinaryIO

from ..receiving import ReceivedFile
from . import opening
from .locking import hold, is_held
from .staging import ABANDONED_AFTER, StagedFile, copy_stream, fsync_directory, make_directories
from .streams import owned

_DATA = "data"
_RECORD = "record.json"
_CANCELLED = "cancelled"
_RETRY = "retry.json"

# What a process puts before its token in the name of a file: that it looks after an upload, or gave it up.
_OWNED = "owner-"
_GIVEN_UP = "failed-"

# Directories that are not, or no longer, uploads to be found.
_NEW = ".new-"
_DONE = ".done-"

# Files whose lock says that a process lives.
_PROCESS = ".process-"

#: Seconds from giving an upload up to the next try: the first pause, and the longest.
FIRST_PAUSE = 2 * 60.0
LONGEST_PAUSE = 6 * 60 * 60.0


@dataclass(frozen=True)
class Record:
    """Where the bytes of an upload go, and how far they came."""

    #: Tells this upload from any other; the object carries it.
    id: str
    #: Endpoint and bucket of the service, and what its keys start with.
    service: tuple[str, ...]
    #: Relative path of the file, from the root of the store.
    path: str
    #: Seconds since 1970.
    saved_at: float
    #: How often sending it failed.
    attempts: int = 0
    #: What the last failure was, or ``""``.
    error: str = ""
    #: Whether it was given up, until a later process or a person takes it up again.
    failed: bool = False


@dataclass(frozen=True)
class Retry:
    """When an upload that was given up is tried again. It is no part of the record, which older versions read too."""

    #: When it was given up first, in seconds since 1970.
    given_up_at: float
    #: When the next try is due, in seconds since 1970.
    due_at: float

    @classmethod
    def after(cls, previous: Retry | None, now: float, chance: float) -> Retry:
        """Return the next try of an upload that is given up now: the pauses double, from minutes to hours.

        :param previous: The retry that has failed, or None at the first time.
        :param chance: From 0 to 1. It shortens the pause by up to half, so that uploads do not go in step.
        """
        given_up_at = now if previous is None else previous.given_up_at
        pause = min(max(now - given_up_at, FIRST_PAUSE), LONGEST_PAUSE)
        return cls(given_up_at, now + pause * (1 - chance / 2))

    def is_due(self, now: float) -> bool:
        """Return whether it is time. A clock that was put back does not delay a try for longer than a pause."""
        return not now < self.due_at <= now + LONGEST_PAUSE


class Entry:
    """One upload in the spool."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def name(self) -> str:
        """What the upload is told by, whatever happens to its directory."""
        return self.directory.name.removeprefix(_DONE)

    @property
    def is_cancelled(self) -> bool:
        """Whether the file was deleted while it was on its way."""
        return os.path.lexists(self.directory / _CANCELLED)

    def record(self) -> Record:
        """Return the record.

        :raises FileNotFoundError: If the upload has left the spool.
        :raises ValueError: If it is damaged.
        """
        with self._open(_RECORD) as file:
            fields = json.loads(file.read())
        try:
            return Record(**{**fields, "service": tuple(fields["service"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no record of an upload: {fields}") from error

    def retry(self) -> Retry | None:
        """Return when an upload that was given up is tried again, or None if that is not noted."""
        try:
            with self._open(_RETRY) as file:
                fields = json.loads(file.read())
            return Retry(float(fields["given_up_at"]), float(fields["due_at"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def open(self) -> BinaryIO:
        """Return the bytes; the caller closes them.

        :raises FileNotFoundError: If the upload has left the spool.
        """
        return self._open(_DATA)

    def _open(self, name: str) -> BinaryIO:
        with opening.directory(self.directory) as directory:
            return os.fdopen(opening.open_plain(name, dir_fd=directory), "rb")

    def stat(self) -> os.stat_result:
        """Return size and times of the bytes.

        :raises FileNotFoundError: If the upload has left the spool.
        """
        with self._open(_DATA) as file:
            return os.fstat(file.fileno())

    def mark(self) -> str | None:
        """Return the name of the file that tells who looks after the upload, or None if it has left the spool."""
        with contextlib.suppress(FileNotFoundError), opening.directory(self.directory) as directory:
            return next((name for name in os.listdir(directory) if name.startswith((_OWNED, _GIVEN_UP))), None)
        return None

    def change_mark(self, mark: str, new: str) -> None:
        """Rename the file that tells who looks after the upload.

        :raises FileNotFoundError: If somebody else has, or the upload has left the spool.
        """
        with opening.directory(self.directory) as directory:
            os.rename(mark, new, src_dir_fd=directory, dst_dir_fd=directory)

    def cancel(self) -> bool:
        """Have the file be deleted instead; return False if the upload has left the spool."""
        try:
            with opening.directory(self.directory) as directory, contextlib.suppress(FileExistsError):
                os.close(opening.create(_CANCELLED, directory))
        except FileNotFoundError:
            return False
        return True


class Spool:
    """The uploads to one service, as one process sees them; it adds some, and looks after those that are its own.

    :param root: The directory, which is made for the eyes of its owner only.
    :param service: Endpoint and bucket, and what keys start with.
    :param fsync: Whether an upload is on the disk, safe from a power cut, when it is in the spool.
    """

    def __init__(self, root: Path, service: tuple[str, ...], fsync: bool) -> None:
        self.root = root
        self.service = service
        self._fsync = fsync
        self._token = secrets.token_hex(8)
        self._sign_of_life: IO[bytes] | None = None
        self._starting = threading.Lock()

    def add(self, stream: IO[bytes], path: str) -> tuple[Entry, Record]:
        """Put an upload into the spool, linked if its bytes are in this file system already.

        :param path: Relative path of the file, from the root of the store.
        :raises OSError: If there is no room or no access; nothing is left then.
        """
        self._live()
        record = Record(secrets.token_urlsafe(16), self.service, path, time.time())
        new = self.root / f"{_NEW}{self._token}-{secrets.token_hex(8)}"
        new.mkdir(0o700)
        try:
            with opening.directory(new) as directory:
                self._write_data(stream, directory)
                self._write_record(directory, _RECORD, record)
                os.close(opening.create(f"{_OWNED}{self._token}", directory))
                if self._fsync:
                    os.fsync(directory)
            entry = self._entry_of(path)
            os.rename(new, entry.directory)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        if self._fsync:
            fsync_directory(self.root)
        return entry, record

    def stage(self) -> StagedFile:
        """Return a file in the spool's file system that an upload is written to, out of sight."""
        self._make_root()
        return StagedFile(str(self.root))

    def _write_data(self, stream: IO[bytes], directory: int) -> None:
        stream = owned(stream)
        if isinstance(stream, ReceivedFile) and stream.staged is not None:
            with contextlib.suppress(OSError):  # another file system, perhaps: then a copy will do
                stream.publish(lambda staged: self._publish(staged, directory))
                return
        with os.fdopen(opening.create(_DATA, directory), "wb", buffering=0) as target:
            copy_stream(stream.file if isinstance(stream, ReceivedFile) else stream, target.fileno())
            if self._fsync:
                os.fsync(target.fileno())

    def _publish(self, staged: StagedFile, directory: int) -> str:
        staged.finish(0o600, self._fsync)
        staged.publish(_DATA, directory)
        return _DATA

    def _write_record(self, directory: int, name: str, record: Record | Retry) -> None:
        with os.fdopen(opening.create(name, directory), "w", encoding="utf-8") as file:
            json.dump(asdict(record), file)
            if self._fsync:
                file.flush()
                os.fsync(file.fileno())

    def find(self, path: str) -> Entry | None:
        """Return the upload of a file, if there is one in the spool."""
        entry = self._entry_of(path)
        return entry if _is_directory(entry.directory) else None

    def has(self, name: str) -> bool:
        """Return whether an entry of this name is there, also one that is still to be deleted at the service."""
        return _is_directory(self.root / name) or _is_directory(self.root / f"{_DONE}{name}")

    def entries(self) -> list[tuple[Entry, Record]]:
        """Return the uploads to this service, the oldest first."""
        return [(entry, record) for entry, record in self._readable() if record.service == self.service]

    def entries_elsewhere(self) -> list[tuple[Entry, Record]]:
        """Return the uploads to other services, which the settings named earlier, the oldest first."""
        return [(entry, record) for entry, record in self._readable() if record.service != self.service]

    def damaged(self) -> list[Path]:
        """Return the directories of uploads whose record cannot be read: where they go is not known."""
        readable = {entry.directory for entry, _ in self._readable()}
        return [
            entry.directory for entry in self._all() if entry.directory not in readable and entry.directory.exists()
        ]

    def _readable(self) -> list[tuple[Entry, Record]]:
        found = []
        for entry in self._all():
            # One that cannot be read must not keep the others.
            with contextlib.suppress(OSError, ValueError):
                found.append((entry, entry.record()))
        return sorted(found, key=lambda pair: pair[1].saved_at)

    def _all(self) -> Iterator[Entry]:
        for name in self._names():
            entry = Entry(self.root / name)
            # What has arrived and is not to be withdrawn is no upload any more.
            if not name.startswith(".") or name.startswith(_DONE) and entry.is_cancelled:
                yield entry

    def claim(self, entry: Entry, with_given_up: bool = False) -> bool:
        """Look after an upload from now on whose process has ended; return False if it has not, or another was faster.

        :param with_given_up: Claim also an upload that a living process gave up and whose next try is not due.
        :raises OSError: If this process may not, say.
        """
        mark = entry.mark()
        if mark is None:
            return False
        is_free = mark.startswith(_GIVEN_UP) and (with_given_up or _is_due(entry))
        if not is_free and self._is_alive(mark.partition("-")[2]):
            return False
        self._live()
        try:
            entry.change_mark(mark, f"{_OWNED}{self._token}")
        except FileNotFoundError:
            return False
        return True

    def note(self, entry: Entry, record: Record) -> None:
        """Replace the record of an upload that this process looks after.

        :raises OSError: If there is no room; the record is as it was then.
        """
        self._replace(entry, _RECORD, record)

    def _replace(self, entry: Entry, name: str, record: Record | Retry) -> None:
        new = f"{name}.new"
        with opening.directory(entry.directory) as directory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new, dir_fd=directory)  # a crash, or somebody else, has left it
            self._write_record(directory, new, record)
            os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)

    def give_up(self, entry: Entry) -> None:
        """Release an upload, so that any process can claim it when its next try is due.

        :raises OSError: If there is no room to note when that is; then it is due at once.
        """
        chance = secrets.SystemRandom().random()  # a forked process has the random numbers of its parent
        with contextlib.suppress(FileNotFoundError):
            try:
                self._replace(entry, _RETRY, Retry.after(entry.retry(), time.time(), chance))
            finally:
                entry.change_mark(f"{_OWNED}{self._token}", f"{_GIVEN_UP}{self._token}")

    def take_out(self, entry: Entry) -> None:
        """Make an upload not to be found any more; :meth:`remove` is the next. Who cancels it in time is seen."""
        done = self.root / f"{_DONE}{entry.name}"
        if entry.directory != done:
            os.rename(entry.directory, done)
            entry.directory = done

    def remove(self, entry: Entry) -> None:
        """Delete an upload that was taken out."""
        with contextlib.suppress(FileNotFoundError), opening.directory(entry.directory) as directory:
            os.unlink(_CANCELLED, dir_fd=directory)  # first: what is cancelled is an upload still
        _delete(entry.directory)

    def sweep(self) -> None:
        """Delete what processes that have ended left and nobody wants: half added uploads, and their locks."""
        for name in self._names():
            path = self.root / name
            if name.startswith(_NEW) and not self._is_alive(name.removeprefix(_NEW).partition("-")[0]):
                _delete_new(path)
            elif name.startswith(_DONE) and not Entry(path).is_cancelled:
                _delete(path)
            elif name.startswith(_PROCESS) and not self._is_alive(name.removeprefix(_PROCESS)):
                _delete(path)  # that there is no lock says the same

    def leave(self) -> None:
        """Say that this process looks after its uploads no more."""
        if self._sign_of_life is not None:
            self._sign_of_life.close()
            self._sign_of_life = None

    def _entry_of(self, path: str) -> Entry:
        place = "\0".join([*self.service, path])
        return Entry(self.root / hashlib.sha256(place.encode()).hexdigest()[:40])

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.root)
        except FileNotFoundError:
            return []

    def _make_root(self) -> None:
        if not self.root.is_dir():
            self.root.parent.mkdir(parents=True, exist_ok=True)
            make_directories(self.root, 0o700, self._fsync)

    def _live(self) -> None:
        """Show the other processes that this one lives."""
        sign = self.root / f"{_PROCESS}{self._token}"
        with self._starting:
            if self._sign_of_life is not None and sign.exists():
                return
            self.leave()  # somebody has deleted it
            self._make_root()
            # It is held before the others can see it.
            new = self.root / f"{_NEW}{self._token}-process"
            self._sign_of_life = hold(new)
            os.rename(new, sign)

    def _is_alive(self, token: str) -> bool:
        if token == self._token:
            return True
        try:
            return _is_held(self.root / f"{_PROCESS}{token}")
        except IsADirectoryError:
            return False


def _is_due(entry: Entry) -> bool:
    retry = entry.retry()
    return retry is None or retry.is_due(time.time())


def _delete_new(path: Path) -> None:
    if _is_directory(path):
        _delete(path)
        return
    with contextlib.suppress(FileNotFoundError):
        # A sign of life. For a moment after it was made, its process does not hold it yet.
        if time.time() - path.lstat().st_mtime > ABANDONED_AFTER and not _is_held(path):
            path.unlink()


def _is_held(path: Path) -> bool:
    """Return whether a process holds a sign of life; nobody holds a link or a FIFO in its place."""
    try:
        return is_held(path)
    except FileNotFoundError:
        return False


def _delete(path: Path) -> None:
    """Delete a directory, or what somebody has put in its place: to enter a FIFO waits for ever."""
    if _is_directory(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False
