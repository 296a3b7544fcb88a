"""Uploads in the background: what sends the files of a spool, and tries again until it succeeds.

No module is patched. Where gevent runs the caller, each upload is a greenlet, and the sending itself is done by
native threads: it computes checksums and, where sockets are not patched, would block the hub. Elsewhere each upload
is a thread.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  # boto3 imports it at its first use, and at the end of a process it cannot
import contextlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from blinker import NamedSignal
from flask import Flask

from .. import signals
from ..config import S3GeventSettings
from ..exceptions import ServiceError
from ..files import StoreFile
from .connection import is_permanent, running_gevent
from .source import opened
from .spool import Entry, Record, Spool

if TYPE_CHECKING:
    from .s3 import S3GeventStore

#: Longest pause between two tries, in seconds. The first is about one second, each further one twice as long.
MAX_PAUSE = 60.0

# Seconds between two looks at what another thread, greenlet or process does.
_POLL_INTERVAL = 0.02


class Uploads:
    """The uploads that one process does in the background for one application."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._settings = settings = S3GeventSettings(app)
        service = (settings.endpoint_url, settings.bucket)
        self.spool = Spool(Path(app.instance_path, settings.spool_path), service, settings.fsync)
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[Entry] = deque()
        self._errors: dict[str, Exception] = {}
        self._has_resumed = False
        # Set where greenlets do the work: whoever waits for them must let the hub run.
        self._gevent: Any = None
        # By hub. The pool of the hub itself ends its threads when they are idle, and where sockets are patched each new
        # one would want another client.
        self._pools: dict[Any, Any] = {}
        self._is_ending = False
        self._pid = os.getpid()
        atexit.register(self._drain)

    def start(self, entry: Entry) -> None:
        """Send an upload as soon as fewer than ``STORE_UPLOAD_WORKERS`` are being sent."""
        with self._lock:
            self._errors.pop(entry.name, None)
            if self._running >= self._settings.upload_workers:
                self._waiting.append(entry)
                return
            self._running += 1
        try:
            self._run_aside(self._work_from, entry)
        except RuntimeError:  # no room for another thread
            self._app.logger.exception("an upload has to wait in %s", entry.directory)
            with self._lock:
                self._running -= 1
                self._waiting.append(entry)

    def resume_once(self) -> None:
        """Take up, once in a process, what processes that have ended left behind."""
        with self._lock:
            if self._has_resumed:
                return
            self._has_resumed = True
        self._run_aside(self._resume_quietly)

    def resume(self, with_failed: bool = False) -> list[str]:
        """Take up what processes that have ended left behind, and return the relative paths.

        :param with_failed: Also what living processes gave up.
        :raises OSError: If the spool cannot be read.
        """
        self.spool.sweep()
        for directory in self.spool.damaged():
            self._app.logger.error("the upload in %s cannot be sent: its record is damaged", directory)
        paths = []
        for entry, record in self.spool.entries():
            with contextlib.suppress(FileNotFoundError):
                if self.spool.claim(entry, with_failed):
                    # It may have been sent, and only the answer not have been heard.
                    entry.note(replace(record, attempts=record.attempts + 1, failed=False))
                    self.start(entry)
                    paths.append(record.path)
        return paths

    def _resume_quietly(self) -> None:
        try:
            self.resume()
        except OSError:
            self._app.logger.exception("could not look for uploads in %s", self.spool.root)

    def wait(self, key: str, timeout: float | None) -> None:
        """Return when the upload to a key has left the spool.

        :raises ServiceError: What the upload raised, if it was given up.
        :raises TimeoutError: If it takes longer than ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (entry := self.spool.find(key)) is not None and not entry.is_cancelled:
            if error := self._error_of(entry):
                raise error
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"the upload of {key!r} has not arrived after {timeout} seconds")
            self._sleep(_POLL_INTERVAL)

    def _error_of(self, entry: Entry) -> Exception | None:
        if entry.name in self._errors:
            return self._errors[entry.name]
        with contextlib.suppress(FileNotFoundError):
            record = entry.record()
            return ServiceError(record.error) if record.failed else None
        return None

    def wait_until_idle(self, timeout: float | None = None) -> None:
        """Return when this process sends nothing any more, or after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._running and (deadline is None or time.monotonic() < deadline):
            self._sleep(_POLL_INTERVAL)

    def _drain(self) -> None:
        if os.getpid() == self._pid:
            self._is_ending = True
            self.wait_until_idle(self._settings.drain_timeout)
            if not self._running:  # else nobody may take up what is still being sent, until the process is gone
                self.spool.leave()

    def _work_from(self, entry: Entry | None) -> None:
        """Send an upload, and then others that wait."""
        while entry is not None:
            try:
                self._bring_to_end(entry)
            except Exception as error:
                # Some Pythons start no thread at the end of a process: then a later one has to send it.
                is_too_late = self._is_ending and isinstance(error, RuntimeError)
                if not is_too_late and entry.directory.exists():  # else another process has done it
                    self._give_up(entry, error)
            with self._lock:
                entry = self._waiting.popleft() if self._waiting else None
                if entry is None:
                    self._running -= 1

    def _bring_to_end(self, entry: Entry) -> None:
        """Try until the file has arrived or, where it was deleted meanwhile, is gone from the service."""
        record = entry.record()
        while True:
            try:
                if not entry.is_cancelled:
                    self._aside(self._send, entry, record)
                self.spool.take_out(entry)
                if entry.is_cancelled:
                    self._aside(self._withdraw, record)
                break
            except ServiceError as error:
                if is_permanent(error):
                    raise
                record = self._note_failure(entry, record, error)
                self._sleep(_pause_after(record.attempts))
        is_cancelled = entry.is_cancelled
        self.spool.remove(entry)
        if not is_cancelled:
            self._tell(signals.upload_finished, record)

    def _send(self, entry: Entry, record: Record) -> None:
        with self._app.app_context(), entry.open() as stream, opened(stream) as content:
            file = StoreFile.from_path(record.path)
            cast("S3GeventStore", file.provider).send(file.filename, content, record.id, record.attempts > 0)

    def _withdraw(self, record: Record) -> None:
        with self._app.app_context():
            file = StoreFile.from_path(record.path)
            cast("S3GeventStore", file.provider).withdraw(file.filename)

    def _note_failure(self, entry: Entry, record: Record, error: Exception, failed: bool = False) -> Record:
        record = replace(record, attempts=record.attempts + 1, error=str(error), failed=failed)
        with contextlib.suppress(OSError if not failed else FileNotFoundError):  # a full disk does not end the tries
            entry.note(record)
        if not failed and record.attempts == 1:
            self._app.logger.warning("the upload of %r failed and will be tried again: %s", record.path, error)
        return record

    def _give_up(self, entry: Entry, error: Exception) -> None:
        self._errors[entry.name] = error.with_traceback(None)  # it would keep what it was about in memory
        try:
            record = self._note_failure(entry, entry.record(), error, failed=True)
        except OSError:
            self._app.logger.exception("could not note in %s that the upload was given up", entry.directory)
            return
        self._app.logger.error(
            "the upload of %r was given up; its bytes are in %s", record.path, entry.directory, exc_info=error
        )
        self._tell(signals.upload_failed, record, error=error)

    def _tell(self, signal: NamedSignal, record: Record, **details: Any) -> None:
        try:
            with self._app.app_context():
                signal.send(self._app, file=StoreFile.from_path(record.path), **details)
        except Exception:  # what a receiver raises is no reason to send the file again
            self._app.logger.exception("a receiver of %r failed for %r", signal.name, record.path)

    def _run_aside(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have a function run in a greenlet or, where nothing runs greenlets, in a thread."""
        gevent = running_gevent()
        if gevent is None:
            # A daemon: what it has not done at the end of the process is in the spool.
            threading.Thread(target=function, args=arguments, name="flask-store-upload", daemon=True).start()
        else:
            self._gevent = gevent
            gevent.spawn(function, *arguments)

    def _aside(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function, off gevent's hub where that runs the caller."""
        gevent = running_gevent()
        if gevent is None:
            function(*arguments)
        else:
            self._pool(gevent.get_hub()).apply(function, arguments)

    def _pool(self, hub: Any) -> Any:
        if hub not in self._pools:
            self._pools[hub] = hub.threadpool_class(self._settings.upload_workers, hub=hub)
        return self._pools[hub]

    def _sleep(self, seconds: float) -> None:
        (self._gevent or time).sleep(seconds)


def _pause_after(attempts: int) -> float:
    """Return how many seconds to wait before the next try: about 1, 2, 4, ..., so that processes do not go in step."""
    return random.uniform(0.5, 1) * min(MAX_PAUSE, 2.0 ** min(attempts, 10))
