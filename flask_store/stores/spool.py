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
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, BinaryIO

from ..receiving import ReceivedFile
from .locking import hold, is_held
from .staging import ABANDONED_AFTER, StagedFile, copy_stream, fsync_directory, make_directories

_DATA = "data"
_RECORD = "record.json"
_CANCELLED = "cancelled"
_OWNER = "owner-"

# Directories that are not, or no longer, uploads to be found.
_NEW = ".new-"
_DONE = ".done-"

# Files whose lock says that a process lives.
_PROCESS = ".process-"


@dataclass(frozen=True)
class Record:
    """Where the bytes of an upload go, and how far they came."""

    #: Tells this upload from any other; the object carries it.
    id: str
    #: Endpoint and bucket of the service.
    service: tuple[str, str]
    key: str
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
        return (self.directory / _CANCELLED).exists()

    def record(self) -> Record:
        """Return the record.

        :raises FileNotFoundError: If the upload has left the spool.
        :raises ValueError: If a power cut, perhaps, has left no whole record.
        """
        try:
            fields = json.loads((self.directory / _RECORD).read_text(encoding="utf-8"))
            return Record(**{**fields, "service": tuple(fields["service"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is no record of an upload: {error!r}") from error

    def open(self) -> BinaryIO:
        """Return the bytes; the caller closes them.

        :raises FileNotFoundError: If the upload has left the spool.
        """
        return (self.directory / _DATA).open("rb")

    def stat(self) -> os.stat_result:
        """Return size and times of the bytes.

        :raises FileNotFoundError: If the upload has left the spool.
        """
        return (self.directory / _DATA).stat()

    def owner(self) -> str | None:
        """Return the token of the process that looks after the upload."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.name.startswith(_OWNER):
                    return entry.name.removeprefix(_OWNER)
        return None

    def note(self, record: Record) -> None:
        """Replace the record; for the owner only."""
        _write_record(self.directory / f"{_RECORD}.new", record, fsync=False)
        os.replace(self.directory / f"{_RECORD}.new", self.directory / _RECORD)

    def cancel(self) -> bool:
        """Have the file be deleted instead; return False if the upload has left the spool."""
        try:
            (self.directory / _CANCELLED).touch()
        except FileNotFoundError:
            return False
        return True


class Spool:
    """The uploads to one service, as one process sees them; it adds some, and looks after those that are its own.

    :param root: The directory, which is made for the eyes of its owner only.
    :param service: Endpoint and bucket.
    :param fsync: Whether an upload is on the disk, safe from a power cut, when it is in the spool.
    """

    def __init__(self, root: Path, service: tuple[str, str], fsync: bool) -> None:
        self.root = root
        self.service = service
        self._fsync = fsync
        self._token = secrets.token_hex(8)
        self._sign_of_life: IO[bytes] | None = None
        self._starting = threading.Lock()

    def add(self, stream: IO[bytes], key: str, path: str) -> Entry:
        """Put an upload into the spool, linked if its bytes are in this file system already.

        :raises OSError: If there is no room or no access; nothing is left then.
        """
        self._live()
        record = Record(secrets.token_urlsafe(16), self.service, key, path, time.time())
        new = self.root / f"{_NEW}{self._token}-{secrets.token_hex(8)}"
        new.mkdir(0o700)
        try:
            self._write_data(stream, new / _DATA)
            _write_record(new / _RECORD, record, self._fsync)
            (new / f"{_OWNER}{self._token}").touch()
            if self._fsync:
                fsync_directory(new)
            entry = self._entry_of(key)
            os.rename(new, entry.directory)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        if self._fsync:
            fsync_directory(self.root)
        return entry

    def stage(self) -> StagedFile:
        """Return a file in the spool's file system that an upload is written to, out of sight."""
        self._make_root()
        return StagedFile(str(self.root))

    def _write_data(self, stream: IO[bytes], path: Path) -> None:
        if isinstance(stream, ReceivedFile) and stream.staged is not None:
            with contextlib.suppress(OSError):  # another file system, perhaps: then a copy will do
                stream.publish(lambda staged: self._publish(staged, path))
                return
        with open(path, "xb", buffering=0, opener=_private) as target:
            copy_stream(stream.file if isinstance(stream, ReceivedFile) else stream, target.fileno())
            if self._fsync:
                os.fsync(target.fileno())

    def _publish(self, staged: StagedFile, path: Path) -> str:
        staged.finish(0o600, self._fsync)
        staged.publish(str(path))
        return str(path)

    def find(self, key: str) -> Entry | None:
        """Return the upload to a key, if there is one in the spool."""
        entry = self._entry_of(key)
        return entry if entry.directory.exists() else None

    def entries(self) -> list[tuple[Entry, Record]]:
        """Return the uploads to this service, the oldest first."""
        found = []
        for entry in self._all():
            # A damaged one must not keep the others.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
                record = entry.record()
                if record.service == self.service:
                    found.append((entry, record))
        return sorted(found, key=lambda pair: pair[1].saved_at)

    def damaged(self) -> list[Path]:
        """Return the directories of uploads whose record cannot be read: where they go is not known."""
        found = []
        for entry in self._all():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                try:
                    entry.record()
                except ValueError:
                    found.append(entry.directory)
        return found

    def _all(self) -> Iterator[Entry]:
        for name in self._names():
            entry = Entry(self.root / name)
            # What has arrived and is not to be withdrawn is no upload any more.
            if not name.startswith(".") or name.startswith(_DONE) and entry.is_cancelled:
                yield entry

    def is_abandoned(self, entry: Entry) -> bool:
        """Return whether the process that looked after an upload has ended."""
        owner = entry.owner()
        return owner is not None and not self._is_alive(owner)

    def claim(self, entry: Entry, with_failed: bool = False) -> bool:
        """Look after an abandoned upload from now on; return False if it is not abandoned, or another was faster.

        :param with_failed: Whether an upload that a living process gave up is to be had, too.
        """
        owner = entry.owner()
        try:
            if owner is None or self._is_alive(owner) and not (with_failed and entry.record().failed):
                return False
            self._live()
            os.rename(entry.directory / f"{_OWNER}{owner}", entry.directory / f"{_OWNER}{self._token}")
        except FileNotFoundError:
            return False
        return True

    def take_out(self, entry: Entry) -> None:
        """Make an upload not to be found any more; :meth:`remove` is the next. Who cancels it in time is seen."""
        done = self.root / f"{_DONE}{entry.name}"
        if entry.directory != done:
            os.rename(entry.directory, done)
            entry.directory = done

    def remove(self, entry: Entry) -> None:
        """Delete an upload that was taken out."""
        with contextlib.suppress(FileNotFoundError):
            (entry.directory / _CANCELLED).unlink()  # first: what is cancelled is an upload still
        shutil.rmtree(entry.directory, ignore_errors=True)

    def sweep(self) -> None:
        """Delete what processes that have ended left and nobody wants: half added uploads, and their locks."""
        for name in self._names():
            path = self.root / name
            if name.startswith(_NEW) and not self._is_alive(name.removeprefix(_NEW).partition("-")[0]):
                _delete_new(path)
            elif name.startswith(_DONE) and not Entry(path).is_cancelled:
                shutil.rmtree(path, ignore_errors=True)
            elif name.startswith(_PROCESS) and not self._is_alive(name.removeprefix(_PROCESS)):
                path.unlink(missing_ok=True)  # that there is no lock says the same

    def leave(self) -> None:
        """Say that this process looks after its uploads no more."""
        if self._sign_of_life is not None:
            self._sign_of_life.close()
            self._sign_of_life = None

    def _entry_of(self, key: str) -> Entry:
        place = "\0".join([*self.service, key])
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
        with self._starting:
            if self._sign_of_life is not None:
                return
            self._make_root()
            # It is held before the others can see it.
            new = self.root / f"{_NEW}{self._token}-process"
            self._sign_of_life = hold(new)
            os.rename(new, self.root / f"{_PROCESS}{self._token}")

    def _is_alive(self, token: str) -> bool:
        if token == self._token:
            return True
        try:
            return is_held(self.root / f"{_PROCESS}{token}")
        except FileNotFoundError:
            return False


def _delete_new(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        # A sign of life. For a moment after it was made, its process does not hold it yet.
        if time.time() - path.stat().st_mtime > ABANDONED_AFTER and not is_held(path):
            path.unlink()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_record(path: Path, record: Record, fsync: bool) -> None:
    with open(path, "w", encoding="utf-8", opener=_private) as file:
        json.dump(asdict(record), file)
        if fsync:
            file.flush()
            os.fsync(file.fileno())
