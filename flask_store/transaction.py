"""A unit of work: files saved inside the block are deleted again if the block raises.

A file stays whose row was committed meanwhile. If it is not known whether the database committed, all files stay.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import lost_connections

if TYPE_CHECKING:
    from flask import Flask

    from .files import StoreFile
    from .stores.base import BaseStore

Callback = Callable[[], object]


@dataclass(eq=False)
class Step:
    """One thing to do at the end of a block: exactly one of the three, at most once."""

    #: Called if the block raises.
    undo: Callback | None = None
    #: Called if the outermost block ends well, or if a committed row names the file.
    finish: Callback | None = None
    #: Called if the block raises and the database may have committed.
    leave: Callback | None = None
    #: The file that the step is about, if it is about one.
    app: Flask | None = None
    path: str | None = None
    #: True if ``undo`` deletes the file.
    deletes: bool = False
    #: True if a committed row names the file.
    is_committed: bool = False

    def disarm(self) -> None:
        """Delete the file no more: it is deleted already, and its name may be another file's by then."""
        self.undo, self.deletes = self.leave, False


class Block:
    """An open block, and what is to be done at its end."""

    def __init__(self, outer: Block | None) -> None:
        self.outer = outer
        self.is_open = True
        self.is_in_doubt = False
        self.steps: list[Step] = []
        # By the path of the file.
        self._steps: dict[str, list[Step]] = {}
        #: Data of whoever watches the database, of the outermost block alone.
        self.watched: dict[Any, Any] = {} if outer is None else outer.watched

    def chain(self) -> Iterator[Block]:
        """Yield this block and those around it."""
        block: Block | None = self
        while block is not None:
            yield block
            block = block.outer

    def add(self, step: Step) -> None:
        self.steps.append(step)
        if step.path is not None:
            self._steps.setdefault(step.path, []).append(step)

    def join(self, inner: Block) -> None:
        """Take over what an inner block has left to do."""
        for step in inner.steps:
            self.add(step)

    def disarm(self, app: Flask, path: str) -> None:
        """Delete the file of a path no more, whatever happens."""
        for step in self._steps.get(path, ()):
            if step.deletes and step.app is app:
                step.disarm()

    def names(self, path: str) -> bool:
        """Return whether a file of that path was saved in this block or one around it."""
        return any(path in block._steps for block in self.chain())

    def has_files(self) -> bool:
        return any(block._steps for block in self.chain())

    def set_committed(self, path: str, is_committed: bool = True) -> None:
        """Keep the files of a path, whatever happens: a row that names them was committed."""
        for block in self.chain():
            for step in block._steps.get(path, ()):
                step.is_committed = is_committed

    def doubt(self) -> None:
        """Delete nothing: it is not known whether the database committed."""
        for block in self.chain():
            block.is_in_doubt = True


# The innermost block of this thread or greenlet.
_block: ContextVar[Block | None] = ContextVar("flask_store_block", default=None)


def open_block() -> Block | None:
    """Return the innermost open block of this thread or greenlet."""
    # Blocks in two generators can end in another order than they began; then one that has ended is set again.
    block = _block.get()
    while block is not None and not block.is_open:
        block = block.outer
    return block


@contextmanager
def transaction() -> Iterator[None]:
    """Delete every file that this thread or greenlet saves inside the block if the block raises.

    Blocks nest: the files of an inner one that ended well belong to the outer one. The exception goes on its way; a
    file that cannot be deleted is logged and does not hide it. A file stays if an SQLAlchemy transaction of the block
    committed a row that names it. All files stay, with a line in the log, if COMMIT itself failed or the connection
    to the database was lost.
    """
    _watch_sqlalchemy()
    before = sys.exception()
    block = Block(open_block())
    token = _block.set(block)
    try:
        yield
    except BaseException as error:
        _close(block, token)
        if block.is_in_doubt or lost_connections.caused(error, before):
            _leave(block, error)
        else:
            _run(step.finish if step.is_committed else step.undo for step in block.steps)
        raise
    _close(block, token)
    if block.outer is not None:
        block.outer.join(block)
    else:
        _run(step.finish for step in reversed(block.steps))


def _close(block: Block, token: Any) -> None:
    block.is_open = False
    with suppress(ValueError):  # a generator may end in another context than it began
        _block.reset(token)


def _run(callbacks: Iterator[Callback | None]) -> None:
    """Call each, the last one first, even if one of them raises."""
    with ExitStack() as stack:
        for callback in callbacks:
            if callback is not None:
                stack.callback(callback)


def _leave(block: Block, error: BaseException) -> None:
    left: dict[Flask, list[str]] = {}
    for step in block.steps:
        if step.deletes and not step.is_committed and step.app is not None:
            left.setdefault(step.app, []).append(str(step.path))
    for app, paths in left.items():
        app.logger.error(
            "%s: the database may have committed, so these files stay in the store: %s",
            type(error).__name__,
            ", ".join(paths),
        )
    _run(step.finish if step.is_committed else step.leave for step in block.steps)


def _watch_sqlalchemy() -> None:
    if "sqlalchemy.engine" in sys.modules:
        from . import sqla_events

        sqla_events.watch()


def on_rollback(undo: Callback, file: StoreFile | None = None) -> None:
    """Have ``undo``, which must not raise, called if the open block raises. Without one nothing happens.

    It must delete no file: it is also called if the database may have committed.

    :param file: A file that was saved in the block; ``undo`` is not called if that stays because of a committed row.
    """
    block = open_block()
    if block is not None:
        block.add(Step(undo=undo, leave=undo, **_place(file)))


def on_commit(finish: Callback, file: StoreFile | None = None) -> None:
    """Have ``finish``, which must not raise, called when the outermost open block ends well. Without one it is now.

    :param file: A file that was saved in the block; ``finish`` is also called if that stays because of a committed row.
    """
    block = open_block()
    if block is None:
        finish()
    else:
        block.add(Step(finish=finish, **_place(file)))


def on_end(file: StoreFile, undo: Callback, finish: Callback, leave: Callback | None = None) -> None:
    """Have one of three functions, which must not raise, called for a file that the open block has made.

    Without a block it is ``finish``, now.

    :param undo: Deletes the file, if the block raises.
    :param finish: For a block that ends well, or a file that a committed row names.
    :param leave: Deletes nothing: the block raises, and the database may have committed.
    """
    block = open_block()
    if block is None:
        finish()
    else:
        block.add(Step(undo, finish, leave, **_place(file), deletes=True))


def _place(file: StoreFile | None) -> dict[str, Any]:
    return {} if file is None else {"app": file.provider.app, "path": str(file)}


def record(store: BaseStore, saved: StoreFile | str) -> None:
    """Have a file that was just saved deleted, once, if the open block raises.

    :param saved: The file, or its name in the store's destination: the value that ``save`` returned.
    """
    block = open_block()
    if block is None:
        return
    _watch_sqlalchemy()  # its first import may be in the block
    path = store.relative_path(saved) if isinstance(saved, str) else str(saved)
    # A save that calls its parent's is recorded twice. The later one has seen the finished file.
    block.disarm(store.app, path)
    owner = store if isinstance(saved, str) else saved.provider
    undo, close = owner.undo_of(saved)
    block.add(Step(lambda: _delete(store, saved, undo), close, close, app=store.app, path=path, deletes=True))


def forget(store: BaseStore, filename: str) -> None:
    """Have the open blocks delete a file no more that was just deleted."""
    innermost = open_block()
    if innermost is not None and innermost.has_files():
        for block in innermost.chain():
            block.disarm(store.app, store.relative_path(filename))


def _delete(store: BaseStore, saved: StoreFile | str, undo: Callback) -> None:
    logger = store.app.logger
    try:
        undo()
    except NotImplementedError as error:
        logger.warning("%s stays in the store after a rollback: %s", saved, error)
    except Exception:  # whatever it is, the other files must go and the block's own error be raised
        logger.exception("%s stays in the store after a rollback: it could not be deleted", saved)
