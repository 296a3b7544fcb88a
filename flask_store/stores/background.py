"""Uploads in the background: what sends the files of a spool, and tries again until it succeeds.

No module is patched. Where gevent runs the caller, each upload is a greenlet, and the sending itself is done by
native threads: it computes checksums and, where sockets are not patched, would block the hub. Elsewhere each upload
is a thread.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  # boto3 imports it at its first use, and at the end of a process it cannot
import contextlib
import functools
import heapq
import os
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from blinker import NamedSignal
from flask import Flask

from .. import signals
from ..config import S3GeventSettings
from ..exceptions import ServiceError, StoreError
from ..files import StoreFile
from .connection import running_gevent, start_thread
from .source import opened
from .spool import Entry, Record, Spool

if TYPE_CHECKING:
    from .s3 import S3GeventStore

R = TypeVar("R")

#: Longest pause between two tries, in seconds. The first is about one second, each further one twice as long.
MAX_PAUSE = 60.0

#: Seconds between two looks for what other processes have left, and for what was given up and is due again.
LOOK_INTERVAL = 30.0

# Seconds between two looks at what another thread, greenlet or process does.
_POLL_INTERVAL = 0.02

# All there are in this process: they share the time that its end may take.
_all: weakref.WeakSet[Uploads] = weakref.WeakSet()


class Uploads:
    """The uploads that one process does in the background for one application."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._settings = settings = S3GeventSettings(app)
        service = (settings.endpoint_url, settings.bucket, settings.path)
        self.spool = Spool(Path(app.instance_path, settings.spool_path), service, settings.fsync)
        self._lock = threading.Lock()
        # Workers; what they are to send, and what failed and when it is due again.
        self._running = 0
        self._waiting: deque[_Upload] = deque()
        self._delayed: list[_Upload] = []
        # Errors of what this process gave up, by name of the entry. While there are any, it watches the spool.
        self._errors: dict[str, Exception] = {}
        self._is_watching = False
        # What the log has been told of.
        self._damaged: set[Path] = set()
        self._look_at = 0.0
        # The thread where greenlets do the work, and gevent: who waits for them there must let its hub run.
        self._hub_thread: int | None = None
        self._gevent: Any = None
        # By hub. The pool of the hub itself ends its threads when they are idle, and where sockets are patched each new
        # one would want another client.
        self._pools: dict[Any, Any] = {}
        self._is_ending = False
        self._pid = os.getpid()
        _drain_at_exit()
        _all.add(self)
        weakref.finalize(self, self.spool.leave).atexit = False

    def start(self, entry: Entry, record: Record) -> None:
        """Send an upload as soon as fewer than ``STORE_UPLOAD_WORKERS`` are being sent."""
        with self._lock:
            self._errors.pop(entry.name, None)
            self._waiting.append(_Upload(entry, record))
            if self._running >= self._settings.upload_workers:
                return
            self._running += 1
        try:
            self._run_aside(self._work)
        except RuntimeError:  # no room for another thread
            self._app.logger.exception("an upload has to wait in %s", entry.directory)
            with self._lock:
                self._running -= 1

    def look(self) -> None:
        """Take up what processes that have ended left behind, and what is due, at most once in LOOK_INTERVAL."""
        if not self._is_time_to_look():
            return
        try:
            self._run_aside(self._look)
        except RuntimeError:  # no room for another thread
            self._app.logger.exception("could not look for uploads in %s", self.spool.root)

    def _is_time_to_look(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now < self._look_at or self._is_ending:
                return False
            self._look_at = now + LOOK_INTERVAL
            return True

    def _look(self) -> None:
        try:
            self.resume()
        except OSError:
            self._app.logger.exception("could not look for uploads in %s", self.spool.root)

    def _start_watching(self) -> None:
        """Look once in a while, also where nobody saves or asks anything, as long as something is given up."""
        with self._lock:
            if self._is_watching:
                return
            self._is_watching = True
        try:
            # An application that is gone is not held by what watches for it.
            self._run_aside(functools.partial(_watch, weakref.ref(self)))
        except RuntimeError:  # no room for another thread
            self._app.logger.exception("could not watch the uploads in %s", self.spool.root)
            self._is_watching = False

    def _look_again(self) -> bool:
        """Look, if it is time; return whether to do so again."""
        if self._is_time_to_look():
            self._look()
        names = list(self._errors)
        gone = {name for name in names if not self.spool.has(name)}
        with self._lock:
            self._errors = {name: error for name, error in self._errors.items() if name not in gone}
            self._is_watching = bool(self._errors) and not self._is_ending
            return self._is_watching

    def resume(self, with_given_up: bool = False) -> list[tuple[Entry, Record]]:
        """Take up what processes that have ended left behind, and what is due again, and return it.

        :param with_given_up: Also what living processes gave up and is not due.
        :raises OSError: If the spool cannot be read.
        """
        claimed: list[tuple[Entry, Record]] = self._aside(self._claim, with_given_up)
        for entry, record in claimed:
            self.start(entry, record)
        return claimed

    def _claim(self, with_given_up: bool) -> list[tuple[Entry, Record]]:
        self.spool.sweep()
        damaged = set(self.spool.damaged())
        for directory in damaged - self._damaged:
            self._app.logger.error("the upload in %s cannot be sent: its record cannot be read", directory)
        self._damaged = damaged
        claimed = []
        for entry, found in self.spool.entries():
            try:
                if self.spool.claim(entry, with_given_up):
                    # It may have been sent, and only the answer not have been heard.
                    record = replace(found, attempts=found.attempts + (not found.failed), failed=False)
                    claimed.append((entry, record))
                    self.spool.note(entry, record)
            except OSError:
                self._app.logger.exception("could not take up the upload in %s as it should be", entry.directory)
        return claimed

    def wait(self, path: str, timeout: float | None) -> None:
        """Return when the upload of a file has left the spool.

        :raises ServiceError: What the upload raised, if it was given up.
        :raises TimeoutError: If it takes longer than ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (entry := self.spool.find(path)) is not None and not entry.is_cancelled:
            if error := self._error_of(entry):
                raise error.with_traceback(None)
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"the upload of {path!r} has not arrived after {timeout} seconds")
            self._sleep(_POLL_INTERVAL)

    def _error_of(self, entry: Entry) -> Exception | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            record = entry.record()
            if record.failed:
                return self._errors.get(entry.name) or ServiceError(record.error, is_temporary=False)
        return None

    def wait_until_idle(self, timeout: float | None = None) -> None:
        """Return when this process sends nothing any more, or after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._running and (deadline is None or time.monotonic() < deadline):
            self._sleep(_POLL_INTERVAL)

    def drain(self, started_at: float) -> None:
        """Wait, at the end of the process, until all is sent; what is not by then is for another process.

        :param started_at: When the end of the process began, on the monotonic clock.
        """
        if os.getpid() != self._pid:
            return
        self._is_ending = True
        deadline = started_at + self._settings.drain_timeout
        self.wait_until_idle(deadline - time.monotonic())
        if not self._running:  # else nobody may take up what is still being sent, until the process is gone
            self.spool.leave()

    def _work(self) -> None:
        """Send uploads until there are none."""
        while True:
            with self._lock:
                upload, pause = self._next()
                if upload is None and pause is None:
                    self._running -= 1
                    return
            if upload is None:
                self._sleep(pause or 0)
                continue
            try:
                self._handle(upload)
            except Exception:  # the others must be sent all the same
                self._app.logger.exception("the upload in %s waits for another process", upload.entry.directory)

    def _next(self) -> tuple[_Upload | None, float | None]:
        """Return what is to be sent now, or else in how many seconds to look again, or None where nothing is left."""
        if self._waiting:
            return self._waiting.popleft(), None
        if not self._delayed:
            return None, None
        pause = self._delayed[0].due_at - time.monotonic()
        if pause > 0:
            return None, min(pause, 0.1)  # another may come meanwhile
        return heapq.heappop(self._delayed), None

    def _handle(self, upload: _Upload) -> None:
        """Try once, and see to what follows."""
        was_cancelled = upload.entry.is_cancelled
        try:
            was_withdrawn = self._aside(self._bring_to_end, upload.entry, upload.record)
        except Exception as error:
            if not upload.entry.directory.exists():
                return  # another process has done it
            if self._is_ending and (isinstance(error, RuntimeError) or isinstance(error.__cause__, RuntimeError)):
                return  # some Pythons start no thread at the end of a process: then a later one has to send it
            if _is_temporary(error):
                self._delay(upload, error)
            elif upload.entry.is_cancelled and not was_cancelled:
                self.start(upload.entry, upload.record)
            else:
                self._give_up(upload, error, was_cancelled)
        else:
            if not was_withdrawn:
                self._tell(signals.upload_finished, upload.record)

    def _bring_to_end(self, entry: Entry, record: Record) -> bool:
        """Send a file or, where it was deleted meanwhile, take it away from the service; return which of the two."""
        with self._app.app_context():
            file = StoreFile.from_path(record.path)
            store = cast("S3GeventStore", file.provider)
            if not entry.is_cancelled:
                with entry.open() as stream, opened(stream, file.filename) as content:
                    store.send(file.filename, content, record.id, record.attempts > 0)
            self.spool.take_out(entry)
            is_cancelled = entry.is_cancelled
            if is_cancelled:
                store.withdraw(file.filename)
        self.spool.remove(entry)
        return is_cancelled

    def _delay(self, upload: _Upload, error: Exception) -> None:
        if upload.record.attempts == 0:
            self._app.logger.warning("the upload of %r failed and will be tried again: %s", upload.record.path, error)
        record = self._note_failure(upload, error)
        with self._lock:
            heapq.heappush(
                self._delayed, _Upload(upload.entry, record, time.monotonic() + _pause_after(record.attempts))
            )

    def _note_failure(self, upload: _Upload, error: Exception, failed: bool = False) -> Record:
        record = replace(upload.record, attempts=upload.record.attempts + 1, error=str(error), failed=failed)
        try:
            self.spool.note(upload.entry, record)
        except OSError:  # a full disk does not end the tries
            self._app.logger.exception("could not note in %s how the upload went", upload.entry.directory)
        return record

    def _give_up(self, upload: _Upload, error: Exception, was_cancelled: bool) -> None:
        entry = upload.entry
        is_first = entry.retry() is None
        if is_first:
            self._app.logger.error(
                "the upload of %r was given up; its bytes are in %s",
                upload.record.path,
                entry.directory,
                exc_info=error,
            )
        else:
            self._app.logger.warning("the upload of %r failed again: %s", upload.record.path, error)
        _forget_frames(error)
        # Before the record says so: who waits for the file then asks what it was.
        with self._lock:
            self._errors[entry.name] = error
        record = self._note_failure(upload, error, failed=True)
        try:
            self.spool.give_up(entry)
        except OSError:
            self._app.logger.exception("could not note in %s when to try again", entry.directory)
        if entry.is_cancelled and not was_cancelled and self.spool.claim(entry, with_given_up=True):
            self.start(entry, record)  # it was deleted just now, when nobody could take it up
            return
        self._start_watching()
        if is_first:
            self._tell(signals.upload_failed, record, error=error)

    def _tell(self, signal: NamedSignal, record: Record, **details: Any) -> None:
        try:
            with self._app.app_context():
                signal.send(self._app, file=StoreFile.from_path(record.path), **details)
        except Exception:  # what a receiver raises is no reason to send the file again
            self._app.logger.exception("a receiver of %r failed for %r", signal.name, record.path)

    def _run_aside(self, function: Callable[[], None]) -> None:
        """Have a function run in a greenlet or, where nothing runs greenlets, in a thread."""
        gevent = running_gevent()
        if gevent is None:
            # A daemon: what it has not done at the end of the process is in the spool.
            start_thread(function)
        else:
            self._gevent, self._hub_thread = gevent, threading.get_ident()
            gevent.spawn(function)

    def _aside(self, function: Callable[..., R], *arguments: Any) -> R:
        """Return what a function returns, called off gevent's hub where that runs the caller."""
        gevent = running_gevent()
        if gevent is None:
            return function(*arguments)
        result, error = self._pool(gevent.get_hub()).apply(_outcome, (function, arguments))
        if error is not None:
            raise error
        return cast(R, result)

    def _pool(self, hub: Any) -> Any:
        if hub not in self._pools:
            self._pools[hub] = hub.threadpool_class(self._settings.upload_workers, hub=hub)
        return self._pools[hub]

    def _sleep(self, seconds: float) -> None:
        gevent = running_gevent()
        if gevent is None and threading.get_ident() == self._hub_thread:
            gevent = self._gevent
        (gevent or time).sleep(seconds)


@dataclass(order=True)
class _Upload:
    """An upload and when it is due, on the monotonic clock; by that they are ordered."""

    entry: Entry = field(compare=False)
    record: Record = field(compare=False)
    due_at: float = 0.0


def _watch(reference: weakref.ref[Uploads]) -> None:
    """Have uploads look once in a while, as long as they exist and something is given up."""
    gevent = running_gevent()
    while True:
        if gevent is None:
            time.sleep(LOOK_INTERVAL)  # between two looks: other processes change the spool without a word
        else:
            gevent.sleep(LOOK_INTERVAL, ref=False)  # gevent.wait() does not wait for it
        uploads = reference()
        if uploads is None or not uploads._look_again():
            return
        del uploads


def _outcome(function: Callable[..., R], arguments: tuple[Any, ...]) -> tuple[R | None, Exception | None]:
    """Return what a function returns, and what it raises: gevent's pool would print that."""
    try:
        return function(*arguments), None
    except Exception as error:
        return None, error


def _is_temporary(error: Exception) -> bool:
    if isinstance(error, ServiceError):
        return error.is_temporary
    # No room for another thread or file, say. That the bytes are gone is for good.
    is_local = isinstance(error, OSError) and not isinstance(error, StoreError | FileNotFoundError)
    return is_local or isinstance(error, MemoryError | RuntimeError)


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what an error and its causes were about: it may be kept for long."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _pause_after(attempts: int) -> float:
    """Return how many seconds to wait before the next try: about 1, 2, 4, ..., so that processes do not go in step."""
    # Not of the process: one that was forked has the same random numbers as the others.
    return secrets.SystemRandom().uniform(0.5, 1) * min(MAX_PAUSE, 2.0 ** min(attempts, 10))


@functools.cache
def _drain_at_exit() -> None:
    atexit.register(_drain_all)


def _drain_all() -> None:
    now = time.monotonic()
    for uploads in list(_all):
        uploads.drain(now)
