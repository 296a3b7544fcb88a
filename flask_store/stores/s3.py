"""``S3Store``: files in a bucket of Amazon S3, or of another service that speaks its language."""

from __future__ import annotations

import functools
import heapq
import importlib.util
import io
import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, BinaryIO, ClassVar, cast
from urllib.parse import quote

from flask import Flask
from werkzeug.datastructures import FileStorage

from .. import naming, serving, signals, transaction
from ..config import ENCRYPTION_PARAMETERS, MAX_URL_EXPIRES, UPLOAD_ID, S3GeventSettings, S3Settings
from ..exceptions import (
    AlreadyExistsError,
    InvalidNameError,
    NotConfiguredError,
    NotFoundError,
    ServiceError,
    StoreError,
)
from ..files import StoreFile
from ..receiving import ReceivedFile
from . import connection, kept, locking, source
from .background import Uploads
from .base import MAX_TRIES, BaseStore, FileStat, filename_of, guess_content_type
from .connection import S3Connection
from .multipart import MultipartUpload
from .ranged import BUFFER_SIZE, Body, RangedStream
from .source import Source
from .spool import Entry

#: Longest object key S3 accepts, in bytes of UTF-8 (Amazon S3 User Guide, "Naming objects").
MAX_KEY_SIZE = 1024

#: Largest object that S3 copies in one request, in bytes (Amazon S3 API Reference, "CopyObject").
MAX_COPY_SIZE = 5 * 1024**3

#: Objects that S3 lists in one request (Amazon S3 API Reference, "ListObjectsV2").
MAX_KEYS = 1000

# ACLs under which anyone may read an object, so that its URL needs no signature.
_PUBLIC_ACLS = ("public-read", "public-read-write")


_KEPT_PARAMETERS = {"ContentType", "ContentDisposition", "Metadata", *ENCRYPTION_PARAMETERS}


class S3Store(BaseStore):
    """Keeps files in the bucket ``STORE_S3_BUCKET``, under keys that start with ``STORE_PATH``.

    A file of up to ``STORE_S3_MULTIPART_THRESHOLD`` bytes is stored by one request, which S3 refuses if the name is
    taken; a larger one goes in parts, under a name that is its own by construction. A file appears whole or not at
    all and never replaces another, whatever number of processes and machines save at once.
    """

    REQUIRED_CONFIGURATION: ClassVar[list[str]] = [
        "STORE_S3_ACCESS_KEY",
        "STORE_S3_SECRET_KEY",
        "STORE_S3_BUCKET",
        "STORE_S3_REGION",
    ]

    settings_class: ClassVar[type[S3Settings]] = S3Settings
    settings: S3Settings

    @staticmethod
    def app_defaults(app: Flask) -> None:
        app.config.setdefault("STORE_PATH", "")
        path = app.config["STORE_PATH"]
        app.config.setdefault("STORE_URL_PREFIX", os.fspath(path) if isinstance(path, os.PathLike) else path)

    @staticmethod
    def check_config(app: Flask) -> None:
        if importlib.util.find_spec("boto3") is None:
            raise NotConfiguredError("STORE_PROVIDER names a store that needs boto3: pip install Flask-Store[s3]")

    @property
    def _connection(self) -> S3Connection:
        state = self.app.extensions["store"]
        shared: S3Connection = state.shared(S3Connection, connection.hub_of_sockets())
        return shared

    @property
    def _client(self) -> Any:
        return self._connection.client

    def connect(self) -> Any:
        """Return the boto3 client that all stores of this application and process share.

        It is made at the first use. No request is made to S3; boto3's own chain of credentials may ask others.
        """
        with connection.translated_errors("set up a client of S3"):
            return self._connection.client

    def bucket(self, s3connection: Any) -> Any:
        """Return the bucket as a boto3 resource, for what the store does not do. No request is made to S3.

        :param s3connection: What :meth:`connect` returned. The resource is for one thread.
        """
        with connection.translated_errors("set up a client of S3"):
            return self._connection.bucket(s3connection)

    def join(self, *parts: str) -> str:
        for part in parts[1:]:
            if any(name in ("", ".", "..") for name in part.split("/")):
                raise InvalidNameError(part, "it must stay below the start of the key")
        return "/".join(part for part in parts if part)

    def _key(self, filename: str) -> str:
        """Return the key of a file. Whatever asks S3 for one asks here."""
        naming.check_path(filename)
        key = self.join(self.settings.path, self.relative_path(filename))
        if len(key.encode()) > MAX_KEY_SIZE:
            raise InvalidNameError(filename, f"its key would have more than {MAX_KEY_SIZE} bytes")
        return key

    def _kept_key(self, id: str) -> str:
        return self.join(self.settings.path, kept.path_of(id))

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.settings.bucket, "Key": key}

    @contextmanager
    def _reading_errors(self, filename: str, key: str) -> Iterator[None]:
        from botocore.exceptions import ClientError

        with self._errors("read", key):
            try:
                yield
            except ClientError as error:
                if connection.is_not_found(error):
                    raise NotFoundError(filename) from error
                raise

    def _errors(self, verb: str, key: str) -> AbstractContextManager[None]:
        return connection.translated_errors(f"{verb} {key!r} in bucket {self.settings.bucket!r}")

    def exists(self, filename: str) -> bool:
        """Return whether there is such a file, and False where there is no bucket: S3 does not tell the two apart.

        :raises ServiceError: If the store cannot tell, as where S3 says 403.
        """
        key = self._key(filename)
        with self._errors("look for", key):
            return self._head(key) is not None

    def _head(self, key: str) -> dict[str, Any] | None:
        """Return the answer to HEAD, or None if there is no such object."""
        from botocore.exceptions import ClientError

        try:
            answer = self._head_or_get(key)
        except ClientError as error:
            if connection.is_not_found(error):
                return None
            raise
        connection.check_answer(answer, "ETag")
        return answer

    def _head_or_get(self, key: str) -> dict[str, Any]:
        from botocore.exceptions import ClientError

        try:
            answer: dict[str, Any] = self._client.head_object(**self._place(key))
        except ClientError as error:
            if connection.has_code(error) or connection.is_not_found(error) or connection.status(error) >= 500:
                raise
            # An answer to HEAD has no body, so expired keys, a wrong clock and missing rights are all the same there.
            answer = self._get(key)
            answer["Body"].close()
        return answer

    def _get(self, key: str, *fields: str, **parameters: str) -> dict[str, Any]:
        """Return the answer to GET, whose body the caller closes.

        :param fields: What it must have, beside the body.
        """
        answer: dict[str, Any] = self._client.get_object(**self._place(key), **parameters)
        try:
            connection.check_answer(answer, "Body", *fields)
        except connection.UnexpectedAnswerError:
            if "Body" in answer:
                answer["Body"].close()
            raise
        return answer

    def save(self, file: FileStorage) -> StoreFile:
        name, upload_id = self._wanted_name(file), _make_upload_id()
        with source.opened(file.stream, name) as content:
            if content.size > self.settings.multipart_threshold:
                name = name if self.settings.unique_names else naming.add_random(name)
                self._save_in_parts(self._key(name), self._object_parameters(name, upload_id), content)
            else:
                name = self._save_at_once(name, upload_id, content)
        saved = StoreFile.of(self, name)
        saved._upload_id = upload_id
        return saved

    def undo_of(self, saved: StoreFile | str) -> tuple[Callable[[], object], Callable[[], object]]:
        delete, close = super().undo_of(saved)
        if isinstance(saved, str) or saved._upload_id is None:
            return delete, close
        name, upload_id = saved.filename, saved._upload_id

        def undo() -> None:
            owner = self._owner_of_key(self._key(name))
            if owner == upload_id:
                delete()
            elif owner is not None:
                self.app.logger.warning("%s stays in the store after a rollback: it is another file by now", saved)

        return undo, close

    def _save_at_once(self, wanted: str, upload_id: str, content: Source) -> str:
        """Store a file under the name that it wants or, where that is taken, under one with a random part."""
        name = wanted
        for _ in range(MAX_TRIES):
            if self._put(self._key(name), self._object_parameters(name, upload_id), content):
                return name
            name = naming.add_random(wanted)
        place = f"{self._key(wanted)!r} in bucket {self.settings.bucket!r}"
        raise ServiceError(f"could not store {place}: the service says of {MAX_TRIES} names that they are taken")

    def _put(self, key: str, parameters: dict[str, Any], content: Source) -> bool:
        """Store a file under a key; return False, with nothing done, if another file has it."""
        # A name that no other file has needs no condition, which not every service knows.
        condition = {} if self.settings.unique_names else {"IfNoneMatch": "*"}
        with self._errors("store", key):
            try:
                answer = self._client.put_object(
                    **self._place(key),
                    **parameters,
                    Body=content.part(0, content.size),
                    **condition,
                )
                connection.check_answer(answer, "ETag")
            except Exception as error:
                if connection.is_taken(error) and not connection.was_repeated(error):
                    return False
                # An earlier try may have stored the file, and only its answer have been lost.
                owner = self._probable_owner(key) if connection.is_uncertain(error) else None
                if owner == parameters["Metadata"][UPLOAD_ID]:
                    return True
                if owner is not None:
                    return False
                # Nothing is there, but it may come yet: another name would make two files of one.
                raise
        return True

    def _save_in_parts(self, key: str, parameters: dict[str, Any], content: Source, is_repeated: bool = False) -> None:
        with self._errors("store", key):
            self._multipart_upload(key, is_repeated).run(
                content,
                parameters,
                is_stored=lambda: self._probable_owner(key) == parameters["Metadata"][UPLOAD_ID],
            )

    def _multipart_upload(self, key: str, may_be_others: bool) -> MultipartUpload:
        return MultipartUpload(
            self._client,
            self._place(key),
            with_checksums=not self.settings.endpoint_url,
            logger=self.app.logger,
            may_be_others=may_be_others,
        )

    def _owner(self, key: str) -> str | None:
        """Return the id of the upload that made an object, ``""`` if another program did, None if there is none."""
        answer = self._head(key)
        return None if answer is None else _metadata(answer).get(UPLOAD_ID, "")

    def _probable_owner(self, key: str) -> str | None:
        """Return what :meth:`_owner` does, but None also where S3 fails in that: its first error is to be raised."""
        with suppress(ServiceError):
            return self._owner_of_key(key)
        return None

    def _owner_of_key(self, key: str) -> str | None:
        with self._errors("look for", key):
            return self._owner(key)

    def _object_parameters(self, name: str, upload_id: str) -> dict[str, Any]:
        parameters = dict(self.settings.object_parameters)
        parameters["Metadata"] = {**parameters.get("Metadata", {}), UPLOAD_ID: upload_id}
        content_type = serving.inline_type(name)
        parameters["ContentType"] = content_type or guess_content_type(name)
        if content_type is None:
            parameters["ContentDisposition"] = "attachment"
        if self.settings.acl is not None:
            parameters["ACL"] = self.settings.acl
        return parameters

    def keep(self, file: FileStorage) -> str:
        id = kept.make_id()
        key = self._kept_key(id)
        parameters = _kept_parameters(self._object_parameters(naming.clean(filename_of(file)), id))
        with source.opened(file.stream, file.filename) as content:
            if content.size > MAX_COPY_SIZE:
                raise StoreError(f"an upload of more than {MAX_COPY_SIZE} bytes cannot be kept: S3 would not move it")
            if content.size > self.settings.multipart_threshold:
                self._save_in_parts(key, parameters, content)
            else:
                self._put(key, parameters, content)
        return id

    def is_kept(self, id: str) -> bool:
        try:
            key = self._kept_key(id)
        except NotFoundError:
            return False
        with self._errors("look for", key):
            return self._head(key) is not None

    def open_kept(self, id: str) -> BinaryIO:
        return self._open(id, self._kept_key(id))

    def kept_url(self, id: str) -> str | None:
        key = self._kept_key(id)
        with self._errors("sign a URL of", key):
            return self._connection.steady_url(key, self.settings.url_expires)

    def promote(self, id: str, filename: str) -> StoreFile:
        # One request after the other may try, also after a crash: under this name they make one object. A condition on
        # the copy, which would allow any name, is ignored by some services.
        wanted = self._name_for(filename)
        name = kept.add_own_part(wanted, id)
        owner = self._owner_of_key(self._key(name))
        if owner not in (None, kept.own_part(id)):
            # The visitor can tell the name that the upload will get, and save another file there.
            name, owner = naming.add_random(wanted), None
        if owner is None:
            try:
                self._copy_kept(id, name)
            except ServiceError:  # perhaps of its answer alone
                self._settle(id, self._take_back, name)
                raise
        file = StoreFile.of(self, name)
        forget_kept = functools.partial(self._settle, id, self._forget_kept, name)
        with transaction.transaction():  # a receiver that raises undoes the move
            if owner is None:
                transaction.on_end(file, functools.partial(self._settle, id, self._take_back, name), forget_kept)
            else:
                transaction.on_commit(forget_kept, file)
            signals.file_saved.send(self.app, file=file)
        return file

    def _copy_kept(self, id: str, name: str, source: str | None = None) -> None:
        """Give a kept upload its name."""
        self._copy(source or self._kept_key(id), self._key(name), self._object_parameters(name, kept.own_part(id)), id)

    def _copy(self, source: str, key: str, parameters: dict[str, Any], id: str) -> None:
        if "Tagging" in parameters:  # not every service knows tags
            parameters["TaggingDirective"] = "REPLACE"
        with self._reading_errors(id, key):
            answer = self._client.copy_object(
                **self._place(key),
                **parameters,
                CopySource=self._place(source),
                MetadataDirective="REPLACE",
            )
            connection.check_answer(answer, "CopyObjectResult")

    def _settle(self, id: str, settle: Callable[[str, str], None], name: str) -> None:
        try:
            settle(id, name)
        except StoreError:
            self.app.logger.exception("the kept upload %s could not be settled", self._kept_key(id))

    def _take_back(self, id: str, name: str) -> None:
        # Another request with the same token may end well meanwhile: it deletes the kept upload, then looks whether
        # the file is there; this one deletes the file, then looks whether the upload is kept. So one of them sees what
        # the other did, and there is a copy from which to mend it.
        key, backup = self._kept_key(id), self._backup_key(id)
        parameters = _kept_parameters(self._object_parameters(name, id))
        try:
            self._copy(key, backup, parameters, id)
        except NotFoundError:
            return
        if self._owner_of_key(self._key(name)) == kept.own_part(id):  # else its name is another file's by now
            self.delete(name)
        if not self.is_kept(id):
            self._copy_kept(id, name, backup)

    def _backup_key(self, id: str) -> str:
        return self.join(self.settings.path, kept.backup_path_of(id))

    def _forget_kept(self, id: str, name: str) -> None:
        self.discard(id)
        if self._owner_of_key(self._key(name)) is None:
            with suppress(NotFoundError):
                self._copy_kept(id, name, self._backup_key(id))

    def discard(self, id: str) -> None:
        key = self._kept_key(id)
        with self._errors("delete", key):
            self._client.delete_object(**self._place(key))

    def clean(self, age: int, limit: int | None = None) -> int:
        start = self.join(self.settings.path, kept.PLACE) + "/"
        with self._errors("list", start):
            sizes = self._kept_sizes(start)
            left = list(itertools.islice(kept.expired(sorted(sizes), age), limit))
            for id in left:
                self._client.delete_object(**self._place(start + id))
                del sizes[id]
        kept.total_of(self.app).count(sizes.values())
        return len(left)

    def _kept_sizes(self, start: str) -> dict[str, int]:
        """Return the size of each kept upload and backup, by the end of its key."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.settings.bucket, Prefix=start, PaginationConfig={"PageSize": MAX_KEYS}
        )
        found = ((entry["Key"].removeprefix(start), entry) for page in pages for entry in _contents_of(page))
        return {name: entry.get("Size", 0) for name, entry in found if kept.is_kept(name)}

    def open(self, filename: str) -> BinaryIO:
        return self._open(filename, self._key(filename))

    def _open(self, filename: str, key: str) -> BinaryIO:
        with self._reading_errors(filename, key):
            answer = self._get(key, "ETag", "ContentLength")
        from botocore.exceptions import HTTPClientError, IncompleteReadError
        from urllib3.exceptions import HTTPError

        stream = RangedStream(
            answer["Body"],
            answer["ContentLength"],
            functools.partial(self._fetch, filename, key, answer["ETag"]),
            (HTTPClientError, IncompleteReadError, HTTPError, OSError),
            functools.partial(self._errors, "read", key),
        )
        return io.BufferedReader(stream, BUFFER_SIZE)

    def _fetch(self, filename: str, key: str, etag: str, position: int) -> Body:
        with self._reading_errors(filename, key):
            answer = self._get(key, Range=f"bytes={position}-", IfMatch=etag)
            if position and not answer.get("ContentRange", "").startswith(f"bytes {position}-"):
                answer["Body"].close()
                raise connection.UnexpectedAnswerError("the service does not know ranges")
        body: Body = answer["Body"]
        return body

    def delete(self, filename: str) -> None:
        key = self._key(filename)
        with self._errors("delete", key):
            self._client.delete_object(**self._place(key))

    def stat(self, filename: str) -> FileStat:
        key = self._key(filename)
        with self._errors("look for", key):
            answer = self._head(key)
            if answer is None:
                raise NotFoundError(filename)
            connection.check_answer(answer, "ContentLength", "LastModified")
        return FileStat(answer["ContentLength"], guess_content_type(filename), answer["LastModified"].astimezone(UTC))

    def list(self, prefix: str = "") -> Iterator[StoreFile]:
        below, slash, _ = prefix.rpartition("/")
        if slash:
            naming.check_path(below)
        root = f"{self.store_path}/" if self.store_path else ""
        with self._errors("list", root + prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.settings.bucket, Prefix=root + prefix):
                for found in _contents_of(page):
                    path = found["Key"].removeprefix(root)
                    if all(name and name == naming.clean(name) for name in path.split("/")):
                        yield self._file_below(path)

    def _file_below(self, path: str) -> StoreFile:
        directory, _, name = path.rpartition("/")
        return StoreFile.of(self.at(self.relative_path(directory)) if directory else self, name)

    def absolute_url(self, filename: str) -> str:
        """Return a URL that works as it is: below ``STORE_DOMAIN``, or at S3, where a private file's is presigned.

        A presigned one works for ``STORE_URL_EXPIRES`` seconds, of which half are left at least, and is the same
        until then. No request is made.
        """
        if self.settings.domain:
            return super().absolute_url(filename)
        key = self._key(filename)
        with self._errors("sign a URL of", key):
            url = self._connection.steady_url(key, self.settings.url_expires)
        return url.partition("?")[0] if self.settings.acl in _PUBLIC_ACLS else url

    def presign(self, filename: str, expires_in: int | None = None, download_as: str | None = None) -> str:
        lifetime = self.settings.url_expires if expires_in is None else expires_in
        if type(lifetime) is not int or not 1 <= lifetime <= MAX_URL_EXPIRES:
            raise ValueError(f"a URL works for 1 to {MAX_URL_EXPIRES} seconds, a whole number, not {lifetime}")
        key = self._key(filename)
        parameters = {} if download_as is None else {"ResponseContentDisposition": _attachment(download_as)}
        with self._errors("sign a URL of", key):
            return self._connection.presign(key, lifetime, **parameters)


class S3GeventStore(S3Store):
    """Keeps files where :class:`S3Store` does, and sends them there in the background.

    ``save`` writes an upload to a directory on this machine, ``STORE_SPOOL_PATH``, and returns: no request is made in
    the visitor's time, so each name gets a random part. The upload is a greenlet where gevent runs the application, a
    thread elsewhere. It is tried until it succeeds, by another process if this one ends. Until then the file is
    ``pending``: this machine knows it, others do not yet.
    """

    settings_class: ClassVar[type[S3GeventSettings]] = S3GeventSettings
    settings: S3GeventSettings

    @classmethod
    def directories(cls, app: Flask) -> dict[str, Path]:
        settings = S3GeventSettings(app)
        return {type(settings).spool_path.key: Path(app.instance_path, settings.spool_path)}

    @staticmethod
    def check_config(app: Flask) -> None:
        S3Store.check_config(app)
        if not locking.is_supported():
            raise NotConfiguredError("STORE_PROVIDER names a store that needs locks on files, which Windows has not")

    @classmethod
    def set_up(cls, app: Flask) -> None:
        # Not now: a process that only loads the application, to fork or to show a shell, is to send nothing.
        app.before_request(lambda: _uploads_of(app).look())

    @property
    def uploads(self) -> Uploads:
        """What this process does in the background for the application."""
        return _uploads_of(self.app)

    def save(self, file: FileStorage) -> StoreFile:
        name = self._unique_name(file)
        self._key(name)  # refuses what S3 would
        with self._spool_errors("write", name):
            entry, record = self.uploads.spool.add(file.stream, self.relative_path(name))
        self.uploads.start(entry, record)
        self.uploads.look()
        return StoreFile.of(self, name)

    def receive(self, filename: str, content_type: str, content_length: int | None) -> IO[bytes] | None:
        return cast(IO[bytes], ReceivedFile(self.uploads.spool.stage))

    def send(self, filename: str, content: Source, upload_id: str, is_repeated: bool) -> None:
        """Bring a file to S3, in the time of the caller.

        :param upload_id: The object carries it, so that it is known again.
        :param is_repeated: Whether it may be there already, from a try whose answer was lost.
        :raises ServiceError: If that fails.
        """
        key, parameters = self._key(filename), self._object_parameters(filename, upload_id)
        if is_repeated and self._is_stored(key, upload_id):
            with self._errors("store", key):
                self._multipart_upload(key, may_be_others=True).abort()
            return
        if content.size > self.settings.multipart_threshold:
            self._save_in_parts(key, parameters, content, is_repeated)
        elif not self._put(key, parameters, content):
            if self._owner_of_key(key) != upload_id:
                raise AlreadyExistsError(filename)

    def _is_stored(self, key: str, upload_id: str) -> bool:
        try:
            return self._owner_of_key(key) == upload_id
        except ServiceError as error:
            if error.is_temporary:
                raise
            return False  # these keys may not look, perhaps; the answer to storing decides

    def withdraw(self, filename: str) -> None:
        """Delete a file from S3, in the time of the caller, whatever the spool says.

        :raises ServiceError: If that fails.
        """
        try:
            super().delete(filename)
        except ServiceError as error:
            if error.__cause__ is None or connection.error_code(error.__cause__) != "NoSuchBucket":
                raise
            return
        key = self._key(filename)
        with self._errors("delete", key):
            self._multipart_upload(key, may_be_others=True).abort()

    @contextmanager
    def _spool_errors(self, verb: str, filename: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            raise ServiceError(f"could not {verb} the upload of {filename!r} in STORE_SPOOL_PATH: {error}") from error

    def _pending(self, filename: str) -> Entry | None:
        """Return the upload of a file that is on its way.

        :raises NotFoundError: If the file was deleted on its way.
        """
        naming.check_path(filename)
        with self._spool_errors("look for", filename):
            entry = self.uploads.spool.find(self.relative_path(filename))
            if entry is not None and entry.is_cancelled:
                raise NotFoundError(filename)
        return entry

    def is_pending(self, filename: str) -> bool:
        with suppress(NotFoundError):
            return self._pending(filename) is not None
        return False

    def wait(self, filename: str, timeout: float | None = None) -> None:
        naming.check_path(filename)
        self.uploads.wait(self.relative_path(filename), timeout)

    def exists(self, filename: str) -> bool:
        try:
            return self._pending(filename) is not None or super().exists(filename)
        except NotFoundError:
            return False

    def open(self, filename: str) -> BinaryIO:
        entry = self._pending(filename)
        if entry is not None:
            with self._spool_errors("read", filename), suppress(FileNotFoundError):  # it has arrived a moment ago
                return entry.open()
        return super().open(filename)

    def stat(self, filename: str) -> FileStat:
        entry = self._pending(filename)
        if entry is not None:
            with self._spool_errors("read", filename), suppress(FileNotFoundError):  # as above
                result = entry.stat()
                modified = datetime.fromtimestamp(result.st_mtime, UTC)
                return FileStat(result.st_size, guess_content_type(filename), modified)
        return super().stat(filename)

    def delete(self, filename: str) -> None:
        naming.check_path(filename)
        with self._spool_errors("cancel", filename):
            entry = self.uploads.spool.find(self.relative_path(filename))
            if entry is not None and entry.cancel():
                if self.uploads.spool.claim(entry, with_given_up=True):
                    self.uploads.start(entry, entry.record())  # nobody else looks after it
                elif not entry.directory.exists():
                    # It was taken out just then, and whoever did that may not have seen it.
                    with suppress(ServiceError):
                        super().delete(filename)
                return
        super().delete(filename)

    def list(self, prefix: str = "") -> Iterator[StoreFile]:
        # Looked for first: what arrives meanwhile is in both, rather than in neither.
        with self._spool_errors("list", prefix):
            uploads = self.uploads.spool.entries()
        cancelled = {record.path for entry, record in uploads if entry.is_cancelled}
        start = self.relative_path(prefix)
        pending = sorted(record.path for _, record in uploads if record.path.startswith(start))
        previous = None
        for file in heapq.merge(map(self._file_of, pending), super().list(prefix), key=str):
            if file != previous and str(file) not in cancelled:
                yield file
            previous = file

    def _file_of(self, path: str) -> StoreFile:
        destination, _, name = path.rpartition("/")
        return StoreFile.of(self.at(destination), name)


def _uploads_of(app: Flask) -> Uploads:
    uploads: Uploads = app.extensions["store"].shared(Uploads)
    return uploads


def _metadata(answer: dict[str, Any]) -> dict[str, str]:
    """Return the metadata of an object with its names in small letters: names of headers have no case."""
    return {name.lower(): value for name, value in answer.get("Metadata", {}).items()}


def _contents_of(page: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects in a page of a listing, each with its key."""
    connection.check_answer(page, "IsTruncated")
    if page["IsTruncated"]:
        connection.check_answer(page, "NextContinuationToken")  # without it, boto3 ends the listing here
    contents: list[dict[str, Any]] = page.get("Contents", [])
    for found in contents:
        connection.check_answer(found, "Key")
    return contents


def _kept_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what a kept upload has of the parameters of a file: it is for nobody's eyes and may go at any time."""
    return {name: value for name, value in parameters.items() if name in _KEPT_PARAMETERS}


def _make_upload_id() -> str:
    return secrets.token_urlsafe(naming.RANDOM_SIZE)


def _attachment(filename: str) -> str:
    """Return the value of a Content-Disposition header that has a browser download a file under a name."""
    name = naming.clean(filename)
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
