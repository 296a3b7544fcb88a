"""A unit of work: files saved inside the block are deleted again if the block raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .files import StoreFile
    from .stores.base import BaseStore

# What to undo, newest first, if the innermost open block of this thread or greenlet raises.
_undo: ContextVar[ExitStack | None] = ContextVar("flask_store_undo", default=None)


@contextmanager
def transaction() -> Iterator[None]:
    """Delete every file that this thread or greenlet saves inside the block if the block raises.

    Blocks nest: what an inner one saved belongs to the outer one as soon as the inner one has ended well. The
    exception goes on its way; a file that cannot be deleted is logged and does not hide it.
    """
    outer = _undo.get()
    with ExitStack() as undo:
        token = _undo.set(undo)
        try:
            yield
        finally:
            _undo.reset(token)
        done = undo.pop_all()
    if outer is not None:
        outer.push(done)


def on_rollback(undo: Callable[[], object]) -> None:
    """Have ``undo`` called if the open block raises. Without an open block nothing happens."""
    block = _undo.get()
    if block is not None:
        block.callback(undo)


def record(store: BaseStore, saved: StoreFile | str) -> None:
    """Have a file that was just saved deleted if the open block raises.

    :param saved: What ``save`` returned: the file, or its name in the store's destination.
    """
    on_rollback(partial(_delete, store, saved))


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
