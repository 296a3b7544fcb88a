"""The ``STORE_*`` settings: the one place that reads and checks them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Generic, TypeVar, overload
from urllib.parse import quote

from flask import Flask, current_app, has_request_context, request

from .exceptions import NotConfiguredError

T = TypeVar("T")


class Setting(Generic[T]):
    """One key of ``app.config``, read and checked each time it is used.

    :param key: Its name in ``app.config``.
    :param default: Its value where the application and the provider set none.
    :param parse: Returns the usable value, or raises ``ValueError`` that says what the value must be.
    :param secret: Whether the value must not be shown.
    """

    def __init__(self, key: str, default: object, parse: Callable[[Any], T], secret: bool = False) -> None:
        self.key = key
        self.default = default
        self.parse = parse
        self.secret = secret

    @overload
    def __get__(self, instance: None, owner: type[Settings]) -> Setting[T]: ...

    @overload
    def __get__(self, instance: Settings, owner: type[Settings]) -> T: ...

    def __get__(self, instance: Settings | None, owner: type[Settings]) -> Setting[T] | T:
        return self if instance is None else self.read(instance.app)

    def read(self, app: Flask) -> T:
        """Return the value that an application has set, or the default.

        :raises NotConfiguredError: If it is wrong.
        """
        value = app.config.get(self.key, self.default)
        try:
            return self.parse(value)
        except ValueError as error:
            shown = "what it is" if self.secret else repr(value)
            raise NotConfiguredError(f"{self.key} must be {error}, not {shown}") from error


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text that is not empty")
    return value


def _path(value: object) -> str:
    if not isinstance(value, str | os.PathLike):
        raise ValueError("a path")
    path = os.fspath(value)
    if not isinstance(path, str) or "\0" in path or path.isspace():
        raise ValueError("a path")
    return path


def _some_path(value: object) -> str:
    return _path(value) or _text(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("True or False (in the environment: true or false)")
    return value


def _mode(owner_needs: int, example: str) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if type(value) is not int or not 0 <= value <= 0o777 or value & owner_needs != owner_needs:
            raise ValueError(
                f"permission bits that leave the owner access, such as {example} ({int(example, 8)} in the environment)"
            )
        return value

    return parse


def _domain(value: object) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not re.fullmatch(r"(?:https?:)?//[^/?#\s\\]+(?:/[^?#\s\\]*)?", value):
        raise ValueError("None or the start of a URL, such as https://files.example.com")
    return value.rstrip("/")


def _number(low: float, high: float, what: str) -> Callable[[object], float]:
    def parse(value: object) -> float:
        if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
            raise ValueError(f"{what} from {low} to {high}")
        return value  # type: ignore[return-value]

    return parse


def _whole_number(low: int, high: int, what: str) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number of {what} from {low} to {high}")
        return value

    return parse


def _limit(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise ValueError(
            "None or a whole number of bytes from 1 (null in the environment means None; STORE_KEEP_UPLOADS = 0 has"
            " nothing kept)"
        )
    return value


def _url_prefix(value: object) -> str:
    if not isinstance(value, str) or re.search(r"[?#<>\\\s]|//", value):
        raise ValueError("the path of a URL, such as /uploads (the domain goes into STORE_DOMAIN)")
    path = value.strip("/")
    return f"/{path}" if path else ""


#: Longest time that the upload of a form that failed is kept, in seconds: 30 days.
MAX_KEEP_UPLOADS = 30 * 24 * 3600


class Settings:
    """The settings of one application's store.

    Each attribute reads ``app.config`` when it is used and raises
    :class:`~flask_store.exceptions.NotConfiguredError`, naming the setting, when the value is wrong.
    """

    provider = Setting("STORE_PROVIDER", "flask_store.stores.local.LocalStore", _text)
    #: Domain without a slash at its end, or ``""``.
    domain = Setting("STORE_DOMAIN", None, _domain)
    path = Setting("STORE_PATH", "", _path)
    #: Path of a URL with a slash at its start and none at its end, not percent-encoded, or ``""``.
    url_prefix = Setting("STORE_URL_PREFIX", "", _url_prefix)
    serve = Setting("STORE_SERVE", True, _boolean)
    #: Permission bits of files and directories.
    file_mode = Setting("STORE_FILE_MODE", 0o644, _mode(0o400, "0o644"))
    directory_mode = Setting("STORE_DIRECTORY_MODE", 0o755, _mode(0o700, "0o755"))
    receive = Setting("STORE_RECEIVE", True, _boolean)
    fsync = Setting("STORE_FSYNC", False, _boolean)
    #: True if every saved file gets a random part in its name.
    unique_names = Setting("STORE_UNIQUE_NAMES", False, _boolean)
    #: Seconds that the upload of a form that failed is kept, or 0.
    keep_uploads = Setting("STORE_KEEP_UPLOADS", 3600, _whole_number(0, MAX_KEEP_UPLOADS, "seconds"))
    #: Bytes that are kept at a time, or None.
    keep_limit = Setting("STORE_KEEP_LIMIT", 1024**3, _limit)

    def __init__(self, app: Flask) -> None:
        self.app = app

    @classmethod
    def all(cls) -> list[Setting[Any]]:
        """Return every setting of this kind of store."""
        names = {name: None for kind in reversed(cls.__mro__) for name in vars(kind)}
        return [setting for name in names if isinstance(setting := getattr(cls, name), Setting)]

    @property
    def url_root(self) -> str:
        """The part of a URL between the domain and a name, percent-encoded.

        Without ``STORE_DOMAIN`` that includes where the application is mounted: ``request.script_root``, or
        ``APPLICATION_ROOT`` outside a request.
        """
        mount = "" if self.domain else self._mount()
        return quote(mount.rstrip("/") + self.url_prefix)

    def _mount(self) -> str:
        if has_request_context() and current_app == self.app:
            return request.script_root
        return str(self.app.config["APPLICATION_ROOT"])

    def check(self, required: Iterable[str] = ()) -> None:
        """Read every setting once.

        :param required: Keys that must also have a value that is not empty.
        :raises NotConfiguredError: Naming each that is wrong or missing.
        """
        problems = [f"{key} must be set" for key in required if self.app.config.get(key) in (None, "")]
        for setting in self.all():
            try:
                setting.read(self.app)
            except NotConfiguredError as error:
                problems.append(str(error))
        if problems:
            raise NotConfiguredError("; ".join(problems))


#: Longest life of a presigned URL, in seconds: 7 days (AWS Signature Version 4).
MAX_URL_EXPIRES = 604800

MIB = 1024 * 1024

#: Longest start of a key, in characters, that leaves room for a destination and a name in the 1,024 bytes of a key.
MAX_PREFIX_LENGTH = 200

#: Name of the object's metadata with the id of the upload that made it.
UPLOAD_ID = "flask-store-upload"

#: Parameters of every object that a setting may give, besides those of the store itself. PutObject and
#: CreateMultipartUpload share them.
OBJECT_PARAMETERS = {
    "BucketKeyEnabled": bool,
    "CacheControl": str,
    "ContentLanguage": str,
    "Metadata": dict,
    "ObjectLockLegalHoldStatus": str,
    "ObjectLockMode": str,
    "ObjectLockRetainUntilDate": datetime,
    "SSEKMSEncryptionContext": str,
    "SSEKMSKeyId": str,
    "ServerSideEncryption": str,
    "StorageClass": str,
    "Tagging": str,
}

#: Those of them for the encryption of an object.
ENCRYPTION_PARAMETERS = ("BucketKeyEnabled", "SSEKMSEncryptionContext", "SSEKMSKeyId", "ServerSideEncryption")

#: Canned ACLs (Amazon S3 User Guide, "Access control list (ACL) overview").
ACLS = (
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
)


# Hosts as boto3 takes them.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_ENDPOINT = re.compile(
    rf"https?://(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::(?P<port>[0-9]+))?(?:/[^?#@\s\\]*)?"
)


def _word(value: object) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        raise ValueError("a text without spaces and line breaks")
    return value


def _endpoint(value: object) -> str:
    if value is None or value == "":
        return ""
    match = isinstance(value, str) and _ENDPOINT.fullmatch(value)
    if not match or not 0 < int(match["port"] or 443) < 65536:
        raise ValueError("None or a URL without a user and without underscores, such as https://s3.example.com:9000")
    return match[0].rstrip("/")


def _region(value: object) -> str:
    region = _word(value)
    if region and not re.fullmatch(r"[A-Za-z0-9-]+", region):
        raise ValueError("the name of a region, such as eu-central-1")
    return region


def _bucket(value: object) -> str:
    bucket = _word(value)
    if bucket and not re.fullmatch(r"[A-Za-z0-9._-]+|arn:.+", bucket):
        raise ValueError("the name of a bucket, or an ARN; where in it the files are is STORE_PATH")
    return bucket


def _key_prefix(value: object) -> str:
    prefix = _path(value).strip("/")
    has_bad_part = prefix and any(part in ("", ".", "..") for part in prefix.split("/"))
    if has_bad_part or not prefix.isprintable() or re.search(r"[?#<>\\\s]", prefix) or len(prefix) > MAX_PREFIX_LENGTH:
        raise ValueError(
            "the start of a key, such as media/uploads, without empty parts, dots, spaces and what URLs give a meaning,"
            f" of at most {MAX_PREFIX_LENGTH} characters"
        )
    return prefix


def _choice(*choices: str | None) -> Callable[[object], str | None]:
    def parse(value: object) -> str | None:
        if value not in choices:
            raise ValueError(f"one of {', '.join(map(repr, choices))}")
        return value

    return parse


def _object_parameters(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a dict, such as {'CacheControl': 'max-age=86400'}")
    for name, parameter in value.items():
        if name not in OBJECT_PARAMETERS:
            raise ValueError(f"a dict with some of the keys {', '.join(OBJECT_PARAMETERS)}")
        if not isinstance(parameter, OBJECT_PARAMETERS[name]):
            raise ValueError(f"a dict whose {name} is of the type {OBJECT_PARAMETERS[name].__name__}")
        if isinstance(parameter, str) and not _is_plain(parameter):
            raise ValueError(f"a dict whose {name} is in ASCII, without line breaks")
    metadata = value.get("Metadata", {})
    if any(str(key).lower() == UPLOAD_ID for key in metadata):
        raise ValueError(f"a dict whose Metadata leaves out {UPLOAD_ID}, which is the store's own")
    if not all(_is_plain(text) for item in metadata.items() for text in item):
        raise ValueError("a dict whose Metadata has texts in ASCII, without line breaks, for keys and values")
    return value


def _is_plain(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isprintable()


class S3Settings(Settings):
    """The settings of an application's S3 store."""

    #: Start of every key, without a slash at its ends, or ``""``.
    path = Setting("STORE_PATH", "", _key_prefix)
    access_key = Setting("STORE_S3_ACCESS_KEY", None, _word, secret=True)
    secret_key = Setting("STORE_S3_SECRET_KEY", None, _word, secret=True)
    bucket = Setting("STORE_S3_BUCKET", None, _bucket)
    region = Setting("STORE_S3_REGION", None, _region)
    credential_chain = Setting("STORE_S3_CREDENTIAL_CHAIN", False, _boolean)
    #: Without a slash at its end, or ``""`` for AWS.
    endpoint_url = Setting("STORE_S3_ENDPOINT_URL", None, _endpoint, secret=True)
    addressing_style = Setting("STORE_S3_ADDRESSING_STYLE", "auto", _choice("auto", "path", "virtual"))
    acl = Setting("STORE_S3_ACL", None, _choice(None, *ACLS))
    object_parameters: Setting[dict[str, Any]] = Setting("STORE_S3_OBJECT_PARAMETERS", {}, _object_parameters)
    #: Largest upload that goes in one request, in bytes. A part has at least 5 MiB, and a request at most 5 GiB
    #: (Amazon S3 User Guide, "Amazon S3 multipart upload limits").
    multipart_threshold = Setting(
        "STORE_S3_MULTIPART_THRESHOLD", 64 * MIB, _whole_number(5 * MIB, 5 * 1024 * MIB, "bytes")
    )
    #: Seconds until the server must take a connection, and each piece of an answer must come.
    timeout = Setting("STORE_S3_TIMEOUT", 20, _number(0.1, 3600, "seconds"))
    #: Seconds that the URL of a private file works.
    url_expires = Setting("STORE_URL_EXPIRES", 3600, _whole_number(1, MAX_URL_EXPIRES, "seconds"))

    def _mount(self) -> str:
        return ""  # the files are not the application's to serve

    def check(self, required: Iterable[str] = ()) -> None:
        keys = {setting.key for setting in (type(self).access_key, type(self).secret_key)}
        has_chain = self.app.config.get(type(self).credential_chain.key) is True
        if has_chain and any(self.app.config.get(key) for key in keys):
            raise NotConfiguredError(
                "STORE_S3_ACCESS_KEY and STORE_S3_SECRET_KEY must not be set where "
                "STORE_S3_CREDENTIAL_CHAIN is True: which credentials count?"
            )
        super().check(key for key in required if not (has_chain and key in keys))


class S3GeventSettings(S3Settings):
    """The settings of an application whose files go to S3 in the background."""

    #: A relative one is below the instance folder.
    spool_path = Setting("STORE_SPOOL_PATH", "spool", _some_path)
    #: Uploads at a time in one process.
    upload_workers = Setting("STORE_UPLOAD_WORKERS", 4, _whole_number(1, 100, "uploads"))
    #: Seconds that the end of a process waits for its uploads.
    drain_timeout = Setting("STORE_DRAIN_TIMEOUT", 5, _number(0, 3600, "seconds"))
