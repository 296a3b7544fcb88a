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


class _Block(ExitStack):
    """What to undo, newest first, if a block raises."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: set[tuple[Flask, str]] = set()


# The innermost open block of this thread or greenlet.
_block: ContextVar[_Block | None] = ContextVar("flask_store_block", default=None)


@contextmanager
def transaction() -> Iterator[None]:
    """Delete every file that this thread or greenlet saves inside the block if the block raises.

    Blocks nest: what an inner one saved belongs to the outer one as soon as the inner one has ended well. The
    exception goes on its way; a file that cannot be deleted is logged and does not hide it.
    """
    outer = _block.get()
    with _Block() as block:
        token = _block.set(block)
        try:
            yield
        finally:
            _block.reset(token)
        done = block.pop_all()
    if outer is not None:
        outer.push(done)
        outer.saved |= block.saved


def on_rollback(undo: Callable[[], object]) -> None:
    """Have ``undo`` called if the open block raises. Without an open block nothing happens."""
    block = _block.get()
    if block is not None:
        block.callback(undo)


def record(store: BaseStore, saved: StoreFile | str) -> None:
    """Have a file that was just saved deleted if the open block raises.

    :param saved: What ``save`` returned: the file, or its name in the store's destination.
    """
    block = _block.get()
    place = (store.app, store.relative_path(saved) if isinstance(saved, str) else str(saved))
    # A save that calls its parent's is told of twice.
    if block is not None and place not in block.saved:
        block.saved.add(place)
        block.callback(_delete, store, saved)


def _delete(store: BaseStore, saved: StoreFile | str) -> None:
    logger = store.app.logger
    try:
        if isinstance(saved, str):
            store.delete(saved)
        else:
            saved.delete()
    except NotImplementedError as error:
        logger.warning("%s stays in the store after a rollback: %s", saved, error)
    except Exception:
        logger.exception("%s stays in the store after a rollback: it could not be deleted", saved)
