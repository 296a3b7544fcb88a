"""Kept uploads, as far as stores have them in common: where they are, and what they are called."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Iterable, Iterator

from flask import Flask

from .. import naming
from ..exceptions import NotFoundError

#: The place of kept uploads, below the root of a store. No stored file is there: a name with a leading dot is never
#: listed, served or given.
PLACE = ".kept"

# When it was kept, in seconds since 1970, so that the oldest come first; and 128 random bits.
_ID = re.compile(r"([0-9a-f]{10})-[0-9a-f]{32}")

# What comes after the id in the path of what a rollback has set aside.
_BACKUP = "-back"

#: Bytes that each kept upload counts for at least: very many small ones are a burden too.
MIN_SIZE = 64 * 1024


class Total:
    """Bytes that are kept for an application, as one process knows them.

    A store counts them when it cleans; what this process keeps is added until the next count.
    """

    def __init__(self, app: Flask) -> None:
        #: None where the store counts nothing.
        self.size: int | None = None

    def count(self, sizes: Iterable[int]) -> None:
        """Set the total to the sum of all kept uploads."""
        self.size = sum(max(size, MIN_SIZE) for size in sizes)

    def add(self, size: int) -> None:
        """Count one more upload, which is being kept."""
        if self.size is not None:
            self.size += max(size, MIN_SIZE)

    def has_room(self, size: int, limit: int | None) -> bool:
        """Return whether an upload of a size may be kept, of at most ``limit`` bytes in all."""
        return limit is None or (self.size or 0) + max(size, MIN_SIZE) <= limit


def total_of(app: Flask) -> Total:
    """Return what this process knows of the kept uploads of an application."""
    total: Total = app.extensions["store"].shared(Total)
    return total


def make_id() -> str:
    """Return an id for an upload that is kept now."""
    return f"{int(time.time()):010x}-{secrets.token_hex(16)}"


def path_of(id: str) -> str:
    """Return the path of a kept upload from the root of its store. Whatever reaches for one asks here.

    :raises NotFoundError: If there can be none of that id.
    """
    if not _ID.fullmatch(id):
        raise NotFoundError(id)
    return f"{PLACE}/{id}"


def add_own_part(name: str, id: str) -> str:
    """Return the name of a kept upload that no other has: always the same one, which does not tell the id."""
    return naming.add_part(name, own_part(id))


def backup_path_of(id: str) -> str:
    """Return the path of what a rollback sets aside before it takes a name back."""
    return path_of(id) + _BACKUP


def own_part(id: str) -> str:
    """Return what tells a kept upload from all others, and does not tell the id."""
    digest = hashlib.sha256(id.encode()).digest()[: naming.RANDOM_SIZE]
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def expired(ids: Iterable[str], age: int) -> Iterator[str]:
    """Yield the ids, of some in their order, of uploads that have been kept for ``age`` seconds; then stop."""
    before = time.time() - age
    for id in ids:
        match = _match(id)
        if match is None:
            continue
        if int(match[1], 16) > before:
            return
        yield id


def is_kept(name: str) -> bool:
    """Return whether a name in the place of kept uploads is that of one, or of a backup."""
    return _match(name) is not None


def _match(name: str) -> re.Match[str] | None:
    return _ID.fullmatch(name.removesuffix(_BACKUP))
