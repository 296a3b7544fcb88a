"""``StoreFile``: one stored file."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import BinaryIO

from flask import Flask

from . import naming
from .exceptions import InvalidNameError
from .extension import store_provider
from .stores.base import BaseStore

_URL = re.compile(r"[a-z][a-z0-9+.-]*://|//|data:", re.IGNORECASE)


class StoreFile:
    """A file in the store of an application, known by its place; that it is there is not checked.

    It remembers its application, so that it can be used without an application context once it is made. Paths and
    URLs are told by settings alone; ``size``, ``content_type``, ``last_modified`` and :meth:`exists` ask the store
    each time. Two of them are equal if they name the same place of the same application.

    :param filename: Name of the file in its destination.
    :param destination: Directory below the root of the store.
    :raises InvalidNameError: If either is not safe.
    """

    # Identifies the upload that has just made the file, for a store that keeps such an id with its files.
    _upload_id: str | None = None

    def __init__(self, filename: str, destination: str | None = None) -> None:
        self._set_place(store_provider()(destination=destination), filename)

    def _set_place(self, provider: BaseStore, filename: str) -> None:
        naming.check(filename)
        #: The store that keeps the file, with its destination.
        self.provider = provider
        self.filename = filename

    @classmethod
    def of(cls, provider: BaseStore, filename: str) -> StoreFile:
        """Return the file of a name in the destination of a store: what a store's ``save`` returns."""
        file = cls.__new__(cls)
        file._set_place(provider, filename)
        return file

    @classmethod
    def from_path(cls, path: str) -> StoreFile:
        """Return the file of a relative path, such as ``photos/a.jpg``: what a database keeps.

        :raises InvalidNameError: If the path is not safe, or is a URL.
        """
        destination, _, filename = check_relative_path(path).rpartition("/")
        return cls(filename, destination or None)

    @property
    def destination(self) -> str | None:
        """Directory below the root of the store, or None."""
        return self.provider.destination

    def absolute_path(self) -> str:
        """Return the path on disk, or the full key on S3."""
        return self.provider.join(self.provider.store_path, self.filename)

    def relative_path(self) -> str:
        """Return the path from the root of the store, such as ``photos/a.jpg``: what a database keeps."""
        return self.provider.relative_path(self.filename)

    def absolute_url(self) -> str:
        """Return the URL, with ``STORE_DOMAIN`` in front if that is set."""
        return self.provider.absolute_url(self.filename)

    def presign(self, expires_in: int | None = None, download_as: str | None = None) -> str:
        """Return a URL that lets whoever has it read the file for a while, where the store can make one: on S3.

        :param expires_in: Lifetime in seconds, at most 604800 (7 days); ``STORE_URL_EXPIRES`` by default.
        :param download_as: What a browser calls the file when it downloads it, rather than shows it.
        :raises ValueError: If the lifetime is not positive or too long.
        """
        return self.provider.presign(self.filename, expires_in, download_as)

    def relative_url(self) -> str:
        """Return the URL without the domain."""
        return self.provider.relative_url(self.filename)

    def open(self) -> BinaryIO:
        """Return a readable, seekable stream of the bytes; the caller closes it.

        :raises NotFoundError: If the file is not there.
        """
        return self.provider.open(self.filename)

    def delete(self) -> None:
        """Delete the file. It may be gone already."""
        self.provider.delete(self.filename)

    def exists(self) -> bool:
        """Return whether the file is there."""
        return self.provider.exists(self.filename)

    @property
    def pending(self) -> bool:
        """True while the file is on its way from this machine to its service, by this machine's disk alone."""
        return self.provider.is_pending(self.filename)

    def wait(self, timeout: float | None = None) -> None:
        """Return when the file is no longer pending.

        :param timeout: In seconds; without one it may take for ever.
        :raises ServiceError: What the upload raised, if it was given up.
        :raises TimeoutError: If it takes longer.
        """
        self.provider.wait(self.filename, timeout)

    @property
    def size(self) -> int:
        """Size in bytes.

        :raises NotFoundError: If the file is not there.
        """
        return self.provider.stat(self.filename).size

    @property
    def content_type(self) -> str:
        """Media type by the name.

        :raises NotFoundError: If the file is not there.
        """
        return self.provider.stat(self.filename).content_type

    @property
    def last_modified(self) -> datetime:
        """Time of the last change, in UTC.

        :raises NotFoundError: If the file is not there.
        """
        return self.provider.stat(self.filename).last_modified

    @property
    def _app(self) -> Flask:
        return self.provider.app

    def __str__(self) -> str:
        return self.relative_path()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.relative_path()!r}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoreFile):
            return NotImplemented  # Python then asks the other one
        return self._app is other._app and self.relative_path() == other.relative_path()

    def __hash__(self) -> int:
        return hash((id(self._app), self.relative_path()))

    def __copy__(self) -> StoreFile:
        return self

    def __deepcopy__(self, memo: object) -> StoreFile:
        return self  # a place; its application is not to be copied

    def __reduce__(self) -> tuple[Callable[..., StoreFile], tuple[str, ...]]:
        # For a cache or a queue: it is read again inside an application context.
        return type(self).from_path, (self.relative_path(),)


class InvalidFile(StoreFile):
    """A row's text that is no path of a stored file: it can be shown, and compared, and that is all.

    Whatever asks for the file raises ``InvalidNameError``. Needs an application context, as every ``StoreFile``.

    :param text: The text as it is stored; it is also the ``filename``.
    :param reason: Why it is no path.
    """

    def __init__(self, text: str, reason: str) -> None:
        self._made_in = store_provider()().app
        self._reason = reason
        self.filename = text

    @property
    def error(self) -> InvalidNameError:
        """The error that each use raises."""
        return InvalidNameError(self.filename, self._reason)

    @property
    def provider(self) -> BaseStore:  # type: ignore[override]
        """Raises the error: every use of a file asks for its store."""
        raise self.error

    @property
    def destination(self) -> None:
        return None

    def relative_path(self) -> str:
        return self.filename

    @property
    def _app(self) -> Flask:
        return self._made_in

    def __reduce__(self) -> tuple[Callable[..., StoreFile], tuple[str, ...]]:
        return type(self), (self.filename, self._reason)


def check_relative_path(path: str) -> str:
    """Return ``path`` if it can be the relative path of a stored file.

    :raises InvalidNameError: If it is not safe, or is a URL.
    """
    if _URL.match(path):
        raise InvalidNameError(path, "it is a URL; store the relative path, str(store_file), and ask absolute_url()")
    naming.check_path(path)
    return path
