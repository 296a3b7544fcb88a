"""The interface of every store."""

from __future__ import annotations

import copy
import functools
import mimetypes
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, ClassVar, NoReturn, TypeVar
from urllib.parse import quote

from flask import Flask, current_app
from werkzeug.datastructures import FileStorage

from .. import naming, signals, transaction
from ..config import Settings
from ..exceptions import AlreadyExistsError, InvalidNameError

if TYPE_CHECKING:
    from ..files import StoreFile

S = TypeVar("S", bound="BaseStore")

#: How many names a store tries for a file. After the first, each has 80 random bits: it is taken only where the store
#: is broken.
MAX_TRIES = 5


# The store whose save is running in this thread or greenlet: one that calls its parent's saves one file, not two.
_saving: ContextVar[BaseStore | None] = ContextVar("flask_store_saving", default=None)


@dataclass(frozen=True)
class FileStat:
    """What a store knows of a file."""

    #: In bytes.
    size: int
    #: Told by the name, never by the client.
    content_type: str
    #: With a time zone: UTC.
    last_modified: datetime


def guess_content_type(name: str) -> str:
    """Return the media type that a name tells, ``application/octet-stream`` where it tells none.

    What is compressed is not what it contains: ``page.html.gz`` is a gzip file.
    """
    content_type, encoding = mimetypes.guess_type(name)
    if encoding is not None:
        content_type = "application/gzip" if encoding == "gzip" else None
    return content_type or "application/octet-stream"


class BaseStore:
    """Keeps files for one application, in one destination.

    A store of your own overrides at least :meth:`join`, :meth:`exists` and :meth:`save`; names, URLs, ``StoreFile``
    and forms then work. ``save`` asks :meth:`safe_filename` for the name. Each further verb that is overridden
    (``open``, ``delete``, ``stat``, ``list``) works wherever files are used; the others raise
    ``NotImplementedError``. A class that has its own ``__init__`` calls this one.

    :param destination: Directory below the root of the store, with ``/`` between names, chosen by the application.
    :raises InvalidNameError: If the destination leaves the store or has an unsafe name in it.
    """

    #: Whether the application gets a route that serves the files; such a store also has :meth:`path_for`.
    register_route: ClassVar[bool] = False

    #: The class of the store's settings.
    settings_class: ClassVar[type[Settings]] = Settings

    #: Settings without which ``init_app`` fails.
    REQUIRED_CONFIGURATION: ClassVar[list[str]] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls.save, "is_recorded"):
            cls.save = _recorded(cls.save)  # type: ignore[method-assign]
        if cls.delete is not BaseStore.delete and not hasattr(cls.delete, "is_recorded"):
            cls.delete = _forgetting(cls.delete)  # type: ignore[method-assign]

    def __init__(self, destination: str | None = None) -> None:
        self.app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        self.settings = self.settings_class(self.app)
        self.destination = _checked_destination(destination)

    @staticmethod
    def app_defaults(app: Flask) -> None:
        """Set defaults of this provider's settings in ``app.config``; called by ``init_app``."""

    @staticmethod
    def check_config(app: Flask) -> None:
        """Check what this provider wants of the settings beside each being right; called by ``init_app``.

        :raises NotConfiguredError: If something is wrong, naming the setting.
        """

    @classmethod
    def directories(cls, app: Flask) -> dict[str, Path]:
        """Return the directories of this machine where uploads lie, by the settings that name them.

        ``init_app`` refuses those from which Flask would serve or render uploads itself, and the ``flask store``
        commands, run as root, those of another user.
        """
        return {}

    @classmethod
    def set_up(cls, app: Flask) -> None:
        """Do what else the application needs for this provider; called at the end of ``init_app``."""

    @property
    def store_path(self) -> str:
        """Where the files of this destination are: ``STORE_PATH`` and the destination, joined."""
        return self._below(self.settings.path)

    def _below(self, root: str) -> str:
        return self.join(root, self.destination) if self.destination else root

    def at(self: S, destination: str | None) -> S:
        """Return the same store with another destination. No application context is needed.

        :param destination: From the root of the store, as in the constructor.
        """
        store = copy.copy(self)
        store.destination = _checked_destination(destination)
        return store

    def join(self, *parts: str) -> str:
        """Return the parts as one path or key.

        :raises InvalidNameError: If a part after the first leads out of the first.
        """
        self._missing("join")

    def exists(self, filename: str) -> bool:
        """Return whether there is such a file.

        :param filename: Name relative to the destination, here and below.
        :raises ServiceError: If the store cannot tell.
        """
        self._missing("exists")

    def save(self, file: FileStorage) -> StoreFile:
        """Store an upload under a free name and return it.

        The stream is read from its start if it can seek, else from where it is, to its end, and left open.

        :raises InvalidNameError: If no file was chosen: there is no upload, or it has no filename.
        :raises ServiceError: If the store fails; nothing of the file is left behind.
        """
        self._missing("save")

    def receive(self, filename: str, content_type: str, content_length: int | None) -> IO[bytes] | None:
        """Return a file into which an upload is written while the request is parsed, or None for Werkzeug's own.

        Called for each file part of a request of more than 256 KiB, with what the client claims of it. The file can be
        read and can seek, is the stream of the upload that ``save`` then gets, perhaps, and is closed at the end of the
        request.
        """
        return None

    def keep(self, file: FileStorage) -> str:
        """Store the upload of a form that failed where nobody sees it, and return the id that it has there.

        The destination does not matter: it may be another one when the form is sent again.

        :raises InvalidNameError: If no file was chosen.
        :raises ServiceError: If the store fails; nothing of the file is left behind.
        """
        self._missing("keep")

    def open_kept(self, id: str) -> BinaryIO:
        """Return a readable, seekable stream of a kept upload; the caller closes it.

        :raises NotFoundError: If it is gone.
        """
        self._missing("open_kept")

    def is_kept(self, id: str) -> bool:
        """Return whether there is a kept upload.

        :raises ServiceError: If the store cannot tell.
        """
        self._missing("is_kept")

    def kept_url(self, id: str) -> str | None:
        """Return a URL at which a kept upload can be seen for a while, or None where it cannot."""
        return None

    def promote(self, id: str, filename: str) -> StoreFile:
        """Move a kept upload to this destination, under a free name, and return the file.

        If the open transaction raises, it is a kept upload again.

        :param filename: What the client called the file.
        :raises NotFoundError: If the upload is gone, or another request is moving it.
        :raises ServiceError: If the store fails; the upload is still kept.
        """
        self._missing("promote")

    def discard(self, id: str) -> None:
        """Delete a kept upload. That it is gone already is fine."""
        self._missing("discard")

    def clean(self, age: int, limit: int | None = None) -> int:
        """Delete the kept uploads that nobody came back for, the oldest first, and return how many.

        :param age: Since how many seconds at least they have been kept.
        :param limit: How many to delete at most.
        :raises ServiceError: If the store fails.
        """
        self._missing("clean")

    def open(self, filename: str) -> BinaryIO:
        """Return a readable, seekable stream of a file; the caller closes it.

        :raises NotFoundError: If there is no such file.
        """
        self._missing("open")

    def delete(self, filename: str) -> None:
        """Delete a file. That it is gone already is fine.

        :raises ServiceError: If it cannot be deleted.
        """
        self._missing("delete")

    def undo_of(self, saved: StoreFile | str) -> tuple[Callable[[], object], Callable[[], object]]:
        """Return a function that deletes a file that was just saved, and one that is called if that is not needed.

        One of them is called, once. The first deletes no other file that has got the name meanwhile, as far as the
        store can tell the two apart: here it cannot.
        """
        delete = functools.partial(self.delete, saved) if isinstance(saved, str) else saved.delete
        return delete, _do_nothing

    def stat(self, filename: str) -> FileStat:
        """Return size, content type and time of last change of a file.

        :raises NotFoundError: If there is no such file.
        """
        self._missing("stat")

    def list(self, prefix: str = "") -> Iterator[StoreFile]:
        """Yield the files whose name relative to the destination starts with ``prefix``, in order of that name.

        Files in directories below count, under ``directory/name``.
        """
        self._missing("list")

    def is_pending(self, filename: str) -> bool:
        """Return whether a file that was saved is still on its way from this machine to where it stays."""
        return False

    def wait(self, filename: str, timeout: float | None = None) -> None:
        """Return when a file is no longer pending.

        :param timeout: In seconds; without one it may take for ever.
        :raises ServiceError: What the upload raised, if it was given up.
        :raises TimeoutError: If it takes longer.
        """

    def presign(self, filename: str, expires_in: int | None = None, download_as: str | None = None) -> str:
        """Return a URL that lets whoever has it read a file for a while. No network is asked.

        :param expires_in: Lifetime in seconds, at most 604800 (7 days); ``STORE_URL_EXPIRES`` by default.
        :param download_as: What a browser calls the file when it downloads it, rather than shows it.
        :raises ValueError: If the lifetime is not positive or too long.
        """
        self._missing("presign")

    def path_for(self, filename: str) -> Path:
        """Return where a file is on this machine's disk, for the route that serves it.

        :raises InvalidNameError: If that would be outside the store.
        """
        self._missing("path_for")

    def safe_filename(self, filename: str) -> str:
        """Return a safe name for what the client called a file, one that is free at this moment.

        With ``STORE_UNIQUE_NAMES`` it has a random part, so that it was never another file's.

        :raises AlreadyExistsError: If no free name is found.
        """
        name = candidate = naming.clean(filename)
        if self.settings.unique_names:
            return naming.add_random(name)
        for _ in range(MAX_TRIES):
            if not self.exists(candidate):
                return candidate
            candidate = naming.add_random(name)
        raise AlreadyExistsError(name)

    def _wanted_name(self, file: FileStorage | None) -> str:
        """Return the name that an upload wants, for a store that learns by publishing it whether it is free.

        :raises InvalidNameError: If no file was chosen.
        """
        name = self._name_for(filename_of(file))
        return naming.add_random(name) if self.settings.unique_names else name

    def _unique_name(self, file: FileStorage | None) -> str:
        """Return a name for an upload that no other file has, had, or will get."""
        return naming.add_random(self._name_for(filename_of(file)))

    def _name_for(self, filename: str) -> str:
        if type(self).safe_filename is BaseStore.safe_filename:
            return naming.clean(filename)  # looking for a free name first would be in vain
        name = self.safe_filename(filename)
        naming.check(name)
        return name

    def url_join(self, *parts: str) -> str:
        """Return the parts joined by ``/``; all but the first are percent-encoded.

        :param parts: The first is a domain or the start of a URL and is taken as it is.
        """
        first, *names = parts
        return "/".join([first.rstrip("/"), *(quote(name.strip("/")) for name in names if name.strip("/"))])

    def relative_path(self, filename: str) -> str:
        """Return the path of a file from the root of the store: what a database keeps."""
        return f"{self.destination}/{filename}" if self.destination else filename

    def relative_url(self, filename: str) -> str:
        """Return the URL of a file without the domain."""
        return self.url_join(self.settings.url_root, self.relative_path(filename))

    def absolute_url(self, filename: str) -> str:
        """Return the URL of a file, with ``STORE_DOMAIN`` in front if that is set."""
        return self.settings.domain + self.relative_url(filename)

    def _missing(self, verb: str) -> NoReturn:
        raise NotImplementedError(f"{type(self).__name__} does not implement {verb}()")


def _checked_destination(destination: str | None) -> str | None:
    if destination is not None and not isinstance(destination, str):
        raise TypeError(f"a destination is a text such as 'photos/2026', not {destination!r}")
    path = (destination or "").removesuffix("/")
    if path:
        naming.check_path(path)
    return path or None


def filename_of(file: FileStorage | None) -> str:
    """Return what the client called an upload.

    :raises InvalidNameError: If no file was chosen.
    """
    if file is not None and not isinstance(file, FileStorage):
        raise TypeError(f"save() takes an uploaded file, a werkzeug FileStorage, not {file!r}")
    if file is None or not file.filename:
        raise InvalidNameError("", "no file was chosen")
    return file.filename


def _recorded(save: Callable[..., StoreFile]) -> Callable[..., StoreFile]:
    """Make a store's ``save`` part of the open transaction, whoever wrote it."""

    @functools.wraps(save)
    def recorded(self: BaseStore, *args: Any, **kwargs: Any) -> StoreFile:
        is_outermost = _saving.get() is not self
        token = _saving.set(self)
        try:
            saved = save(self, *args, **kwargs)
        finally:
            _saving.reset(token)
        if is_outermost and signals.file_saved.receivers:
            with transaction.transaction():  # a receiver that raises undoes the save
                transaction.record(self, saved)
                signals.file_saved.send(self.app, file=saved)
        else:
            transaction.record(self, saved)
        return saved

    recorded.is_recorded = True  # type: ignore[attr-defined]
    return recorded


def _forgetting(delete: Callable[..., None]) -> Callable[..., None]:
    """Have a store's ``delete``, whoever wrote it, use up the undo of the file in the open transaction."""

    @functools.wraps(delete)
    def forgetting(self: BaseStore, filename: str, *args: Any, **kwargs: Any) -> None:
        delete(self, filename, *args, **kwargs)
        transaction.forget(self, filename)

    forgetting.is_recorded = True  # type: ignore[attr-defined]
    return forgetting


def _do_nothing() -> None:
    pass
