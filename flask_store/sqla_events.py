"""Which files the rows name that an SQLAlchemy transaction commits, and whether it is known that it did.

The listeners hold for every engine of the process and look at the open block of their thread or greenlet alone. A
row names a file by a parameter that is the file's path, or a list or JSON with it: of a flush, in bulk, or of a
statement of the caller's own.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine, ExceptionContext

from .transaction import Block, open_block

# Statements that write nothing: a file that they name is not in a row for that.
_READS = re.compile(r"\s*(?:select|delete)\b", re.IGNORECASE)

_SAVEPOINT = re.compile(r"\s*save(?:point|\s+transaction)\s+(\S+)", re.IGNORECASE)
_BACK_TO_SAVEPOINT = re.compile(r"\s*rollback\s+(?:to\s+(?:savepoint\s+)?|transaction\s+)(\S+)", re.IGNORECASE)


class _Work:
    """What the open transaction of a connection has written."""

    def __init__(self) -> None:
        # Paths of files, and the savepoints between them.
        self._written: list[str | _Savepoint] = []
        #: Paths whose COMMIT was the last that was asked of the database, or None.
        self.committing: list[str] | None = None

    def write(self, paths: Iterable[str]) -> None:
        self._written += paths

    def set_savepoint(self, name: str) -> None:
        self._written.append(_Savepoint(name))

    def go_back_to(self, name: str) -> None:
        places = [place for place, entry in enumerate(self._written) if isinstance(entry, _Savepoint)]
        place = next((place for place in reversed(places) if str(self._written[place]) == name), 0)
        del self._written[place:]

    def end(self) -> list[str]:
        """Return the paths that it has written, and begin anew."""
        paths = [entry for entry in self._written if not isinstance(entry, _Savepoint)]
        self._written = []
        return paths


class _Savepoint(str):
    """The name of a savepoint, among paths."""


@functools.cache
def watch() -> None:
    """Listen to SQLAlchemy; once a process is enough."""
    event.listen(Engine, "after_cursor_execute", _on_execute)
    event.listen(Engine, "rollback", _on_rollback)
    event.listen(Engine, "rollback_twophase", _on_rollback_twophase)
    event.listen(Engine, "commit", _on_commit)
    event.listen(Engine, "commit_twophase", _on_commit_twophase)
    event.listen(Engine, "handle_error", _on_error)


def _open_block() -> Block | None:
    """Return the open block, if a file was saved in it."""
    block = open_block()
    return block if block is not None and block.has_files() else None


def _work_of(block: Block, connection: Connection) -> _Work:
    work: _Work = block.watched.setdefault(connection, _Work())
    return work


def _on_execute(
    conn: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> None:
    block = _open_block()
    if block is None:
        return
    work = _work_of(block, conn)
    work.committing = None
    if savepoint := _SAVEPOINT.match(statement):
        work.set_savepoint(savepoint[1])
    elif savepoint := _BACK_TO_SAVEPOINT.match(statement):
        work.go_back_to(savepoint[1])
    elif not _READS.match(statement):
        work.write(path for path in _texts(parameters) if block.names(path))
        if _commits_by_itself(conn):
            _set_committed(block, work.end())


def _on_rollback(conn: Connection) -> None:
    block = _open_block()
    if block is not None:
        work = _work_of(block, conn)
        work.committing = None
        work.end()


def _on_rollback_twophase(conn: Connection, xid: Any, is_prepared: bool) -> None:
    _on_rollback(conn)


def _on_commit(conn: Connection) -> None:
    """Keep what the rows name whose COMMIT is about to be sent: a file stays if it fails, too."""
    block = _open_block()
    if block is not None:
        work = _work_of(block, conn)
        work.committing = work.end()
        _set_committed(block, work.committing)


def _on_commit_twophase(conn: Connection, xid: Any, is_prepared: bool) -> None:
    _on_commit(conn)


def _on_error(context: ExceptionContext) -> None:
    block = _open_block()
    if block is None or context.connection is None or context.statement is not None:
        return
    work = _work_of(block, context.connection)
    if work.committing is not None:
        for path in work.committing:
            block.set_committed(path, False)
        work.committing = None
        block.doubt()


def _set_committed(block: Block, paths: Iterable[str]) -> None:
    for path in paths:
        block.set_committed(path)


def _commits_by_itself(conn: Connection) -> bool:
    level = conn.get_execution_options().get("isolation_level")
    return (level or getattr(conn.dialect, "_on_connect_isolation_level", None)) == "AUTOCOMMIT"


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in the parameters of a statement, also those in lists and in JSON."""
    if isinstance(value, str | bytes):
        if isinstance(value, str):
            yield value
        yield from _texts_in_json(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _texts(item)
    elif hasattr(value, "obj"):  # Json and Jsonb of psycopg
        yield from _texts(value.obj)


def _texts_in_json(value: str | bytes) -> Iterator[str]:
    start = value[:1] if isinstance(value, str) else value[:1].decode("latin-1")
    if start not in ("[", "{", '"'):
        return
    try:
        found = json.loads(value)
    except ValueError:
        return
    # A text in JSON is no JSON again.
    yield from [found] if isinstance(found, str) else _texts(found)
