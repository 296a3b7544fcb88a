"""The ``STORE_*`` settings: the one place that reads and checks them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
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
    """

    def __init__(self, key: str, default: object, parse: Callable[[Any], T]) -> None:
        self.key = key
        self.default = default
        self.parse = parse

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
            raise NotConfiguredError(f"{self.key} must be {error}, not {value!r}") from error


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
    if value is None:
        return ""
    if not isinstance(value, str) or not re.fullmatch(r"(?:https?:)?//[^/?#\s\\]+(?:/[^?#\s\\]*)?", value):
        raise ValueError("None or the start of a URL, such as https://files.example.com")
    return value.rstrip("/")


def _url_prefix(value: object) -> str:
    if not isinstance(value, str) or re.search(r"[?#<>\\\s]|//", value):
        raise ValueError("the path of a URL, such as /uploads (the domain goes into STORE_DOMAIN)")
    path = value.strip("/")
    return f"/{path}" if path else ""


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

    def __init__(self, app: Flask) -> None:
        self.app = app

    @classmethod
    def all(cls) -> list[Setting[Any]]:
        """Return every setting there is."""
        return [setting for setting in vars(cls).values() if isinstance(setting, Setting)]

    @property
    def url_root(self) -> str:
        """What stands between the domain and a name in a URL, percent-encoded.

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
