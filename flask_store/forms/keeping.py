"""Keep a good upload across a failed submission: in the store, with a signed token for it in the page.

The token is good for the field that it was made for, in the same form and the same visitor's session, for
``STORE_KEEP_UPLOADS`` seconds.
"""

from __future__ import annotations

import io
import re
import secrets
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from flask import Flask, current_app, has_request_context, session
from flask.sessions import NullSession
from werkzeug.datastructures import FileStorage
from wtforms.csrf.core import CSRFTokenField

from .. import signing
from ..config import Settings
from ..exceptions import StoreError
from ..extension import store_provider
from ..stores import kept as kept_uploads
from ..stores.base import BaseStore, guess_content_type
from .saving import SavingField, fields_below, outermost
from .uploads import Upload

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from ..files import StoreFile

#: What tells a token from any other text in a form.
TOKEN_PREFIX = "kept."

#: Longest token that is looked at, in characters; one with the longest name in it is shorter.
MAX_TOKEN_SIZE = 2048

# In the visitor's session: the random value that tokens are bound to.
_SESSION_KEY = "_flask_store_kept"

# Kept uploads that are deleted at most, because nobody came back for them, when another one is kept; and seconds until
# that is done again, if it were fewer.
_CLEAN_LIMIT = 20
_CLEAN_INTERVAL = 60


@dataclass(frozen=True)
class KeptUpload:
    """An upload that the store keeps until the form is sent again, or nobody comes back for it."""

    id: str
    filename: str
    #: In bytes.
    size: int
    #: What the page carries.
    token: str

    @property
    def url(self) -> str | None:
        """A URL at which the visitor can see it for a while, or None where the store cannot show it."""
        return store_provider()().kept_url(self.id)


class KeptFile(Upload):
    """A kept upload as the field gets it when the form is sent again; its bytes are fetched when they are read."""

    def __init__(self, kept: KeptUpload) -> None:
        self.kept = kept
        self._source = _KeptStream(store_provider()(), kept)
        stream = cast(IO[bytes], io.BufferedReader(self._source))
        super().__init__(stream, kept.filename, content_type=guess_content_type(kept.filename))

    @property
    def identity(self) -> str:
        return self.kept.id

    def become(self, file: StoreFile | None) -> None:
        """Have the bytes be read from the stored file that it was moved to, or None for where it was kept."""
        self._source.release()
        self._source.file = file

    def is_gone(self) -> bool:
        """Return whether the store has it no more.

        :raises ServiceError: If the store cannot tell.
        """
        return not self._source.exists()

    def release(self) -> None:
        """Let go of what reading has opened; it is opened again when it is read again."""
        self._source.release()


class _KeptStream(io.RawIOBase):
    def __init__(self, store: BaseStore, kept: KeptUpload) -> None:
        self._store = store
        self._kept = kept
        self._position = 0
        self._opened: BinaryIO | None = None
        self.file: StoreFile | None = None

    def exists(self) -> bool:
        return self.file.exists() if self.file else self._store.is_kept(self._kept.id)

    def open(self) -> BinaryIO:
        if self._opened is None:
            self._opened = self.file.open() if self.file else self._store.open_kept(self._kept.id)
        return self._opened

    def release(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def close(self) -> None:
        self.release()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        stream = self.open()
        if stream.tell() != self._position:
            stream.seek(self._position)
        count = stream.readinto(buffer)  # type: ignore[attr-defined]  # what stores open is buffered
        self._position += count
        return cast(int, count)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._kept.size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position


def keep(field: SavingField, upload: FileStorage) -> KeptUpload | None:
    """Keep the upload of a field; return None where it cannot be: that is no reason to fail.

    A form whose CSRF token is missing or wrong keeps nothing: somebody else may have sent it.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    age = Settings(app).keep_uploads
    if not (age and has_request_context() and app.secret_key and _has_passed_csrf(field)):
        return None
    store = store_provider()()
    try:
        size = _size_of(upload)
        _clean_now_and_then(app, store, age)
        if not _has_room(app, field, size):
            return None
        id = store.keep(upload)
    except NotImplementedError:  # a store of the developer's own
        return None
    except (StoreError, OSError, ValueError):  # a stream that is closed says ValueError
        app.logger.exception("The upload of field %r could not be kept for the next try", field.name)
        return None
    kept_uploads.total_of(app).add(size)
    filename = upload.filename or ""
    upload.stream.seek(0)
    token = signing.sign(app, _purpose(field, _session_value(make=True)), [id, filename, size])
    return KeptUpload(id, filename, size, TOKEN_PREFIX + token)


def _size_of(upload: FileStorage) -> int:
    size = upload.stream.seek(0, io.SEEK_END)
    upload.stream.seek(0)
    return size


def _has_room(app: Flask, field: SavingField, size: int) -> bool:
    """Return whether an upload may be kept beside the others, which visitors could otherwise fill the store with."""
    limit = Settings(app).keep_limit
    if kept_uploads.total_of(app).has_room(size, limit):
        return True
    app.logger.warning(
        "The upload of field %r, of %d bytes, was not kept for the next try: with it more than STORE_KEEP_LIMIT, %s"
        " bytes, would be kept",
        field.name,
        size,
        limit,
    )
    return False


def find(field: SavingField, token: str) -> KeptUpload | None:
    """Return what a token stands for, or None if it is forged, too old, or for another field, form or visitor.

    That the upload is still there is not checked.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    age = Settings(app).keep_uploads
    if not (age and has_request_context() and len(token) <= MAX_TOKEN_SIZE):
        return None
    value = signing.read(app, _purpose(field, _session_value()), token.removeprefix(TOKEN_PREFIX), age)
    if value is None:
        return None
    id, filename, size = value
    return KeptUpload(id, filename, size, token)


def discard(kept: KeptUpload) -> None:
    """Delete a kept upload that is not needed any more; if that fails, it goes when its time is over."""
    try:
        store_provider()().discard(kept.id)
    except (StoreError, OSError, NotImplementedError):
        current_app.logger.exception("The kept upload of %r could not be deleted", kept.filename)


def plain_name(field: SavingField) -> str:
    """Return the name of a field without the numbers of list entries: these change when an entry goes."""
    return re.sub(r"-\d+(?=-|$)", "", field.name)


def _purpose(field: SavingField, session_value: str) -> list[str]:
    form = type(outermost(field._form)) if field._form is not None else type(field)
    return ["kept upload", session_value, f"{form.__module__}.{form.__qualname__}", plain_name(field)]


def _session_value(make: bool = False) -> str:
    """Return the value in the session that tokens are bound to, ``""`` if there is none.

    :param make: Whether to put one there, where there is a session.
    """
    if make and _SESSION_KEY not in session and not _is_null(session):
        session[_SESSION_KEY] = secrets.token_urlsafe()
    value: Any = session.get(_SESSION_KEY)
    return value if isinstance(value, str) else ""


def _is_null(session: Any) -> bool:
    return isinstance(session._get_current_object(), NullSession)


def _has_passed_csrf(field: SavingField) -> bool:
    if field._form is None:
        return True
    # A field has a list of errors, empty or not, when it has been validated.
    tokens = [token for token in fields_below(outermost(field._form)) if isinstance(token, CSRFTokenField)]
    return all(isinstance(token.errors, list) and not token.errors for token in tokens)


class _Cleaning:
    """When one process cleans next, for one application."""

    def __init__(self, app: Flask) -> None:
        self.due_at = 0.0


def _clean_now_and_then(app: Flask, store: BaseStore, age: int) -> None:
    cleaning: _Cleaning = app.extensions["store"].shared(_Cleaning)
    now = time.monotonic()
    if now < cleaning.due_at:
        return
    cleaning.due_at = now + min(_CLEAN_INTERVAL, age / 10)
    try:
        if store.clean(age, _CLEAN_LIMIT) == _CLEAN_LIMIT:
            cleaning.due_at = now  # so that no more is kept than deleted
    except (StoreError, OSError, NotImplementedError):
        app.logger.exception("Kept uploads that nobody came back for could not be deleted")
