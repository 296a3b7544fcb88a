"""A unit of work: files saved inside the block are deleted again if the block raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from .files import StoreFile
    from .stores.base import BaseStore


class _Block:
    """An open block: what to undo if it raises, newest first, what to do if it does not, and what was saved in it."""

    def __init__(self, outer: _Block | None) -> None:
        self.outer = outer
        self.is_open = True
        self.undo = ExitStack()
        self.commit: list[Callable[[], object]] = []
        self.saved: set[tuple[Flask, str]] = set()


# The innermost block of this thread or greenlet.
_block: ContextVar[_Block | None] = ContextVar("flask_store_block", default=None)


def _open_block() -> _Block | None:
    # Blocks in two generators can end in another order than they began; then one that has ended is set again.
    block = _block.get()
    while block is not None and not block.is_open:
        block = block.outer
    return block


@contextmanager
def transaction() -> Iterator[None]:
    """Delete every file that this thread or greenlet saves inside the block if the block raises.

    Blocks nest: what an inner one saved belongs to the outer one as soon as the inner one has ended well. The
    exception goes on its way; a file that cannot be deleted is logged and does not hide it.
    """
    outer = _open_block()
    block = _Block(outer)
    with block.undo:
        token = _block.set(block)
        try:
            yield
        finally:
            block.is_open = False
            _block.reset(token)
        done = block.undo.pop_all()
    if outer is not None:
        outer.undo.push(done)
        outer.commit += block.commit
        outer.saved |= block.saved
    else:
        with ExitStack() as commit:  # whatever one raises, each of them runs
            for finish in reversed(block.commit):
                commit.callback(finish)


def on_rollback(undo: Callable[[], object]) -> None:
    """Have ``undo``, which must not raise, called if the open block raises. Without one nothing happens."""
    block = _open_block()
    if block is not None:
        block.undo.callback(undo)


def on_commit(finish: Callable[[], object]) -> None:
    """Have ``finish``, which must not raise, called when the outermost open block ends well. Without one it is now."""
    block = _open_block()
    if block is None:
        finish()
    else:
        block.commit.append(finish)


def record(store: BaseStore, saved: StoreFile | str) -> None:
    """Have a file that was just saved deleted if the open block raises.

    :param saved: What ``save`` returned: the file, or its name in the store's destination.
    """
    block = _open_block()
    place = (store.app, store.relative_path(saved) if isinstance(saved, str) else str(saved))
    # A save that calls its parent's is told of twice.
    if block is not None and place not in block.saved:
        block.saved.add(place)
        block.undo.callback(_delete, store, saved)


def _delete(store: BaseStore, saved: StoreFile | str) -> None:
    logger = store.app.logger
    try:
        if isinstance(saved, str):
            store.delete(saved)
        else:
            saved.delete()
    except NotImplementedError as error:
        logger.warning("%s stays in the store after a rollback: %s", saved, error)
    except Exception:  # whatever it is, the other files must go and the block's own error be raised
        logger.exception("%s stays in the store after a rollback: it could not be deleted", saved)
