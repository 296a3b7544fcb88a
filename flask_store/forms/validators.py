"""Rules for uploads. Each judges what was sent; an existing file that is kept has been judged before."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from jinja2.filters import do_filesizeformat
from werkzeug.datastructures import FileStorage
from wtforms.fields import Field
from wtforms.form import BaseForm
from wtforms.validators import StopValidation, ValidationError

from ..files import StoreFile


class FileRequired:
    """There must be a file: a new one, or the existing one that the form was opened with.

    :param message: In place of the built-in sentence.
    """

    def __init__(self, message: str | None = None) -> None:
        self.message = message
        self.field_flags = {"required": True}

    def __call__(self, form: BaseForm, field: Field) -> None:
        if not any(isinstance(value, StoreFile) or value for value in _values(field)):
            raise StopValidation(self.message or field.gettext("This field is required."))


class FileAllowed:
    """An upload's name must end in one of some extensions, in upper or lower case.

    :param extensions: Such as ``["jpg", "png", "tar.gz"]``; a leading dot does not matter.
    :param message: In place of the built-in sentence; ``%(extensions)s`` in it stands for the list.
    """

    def __init__(self, extensions: Iterable[str], message: str | None = None) -> None:
        if isinstance(extensions, str):
            raise TypeError(f"FileAllowed takes a list of extensions, not the text {extensions!r}")
        self.extensions = [extension.lower().lstrip(".") for extension in extensions]
        self.message = message
        self.field_flags = {"accept": ",".join(_accepted(self.extensions))}

    def __call__(self, form: BaseForm, field: Field) -> None:
        endings = tuple(f".{extension}" for extension in self.extensions)
        for upload in _uploads(field):
            if not (upload.filename or "").lower().endswith(endings):
                message = self.message or field.gettext("Only these types of files are allowed: %(extensions)s.")
                raise StopValidation(_fill(message, extensions=", ".join(self.extensions)))


class FileSize:
    """An upload's size must lie between two limits, both inclusive, in bytes.

    The size is measured, whatever the client claims; the stream stays where it is.

    :param max_size: Largest size, in bytes.
    :param min_size: Smallest size, in bytes.
    :param message: In place of the built-in sentences; ``%(min_size)s`` and ``%(max_size)s`` stand for the limits.
    """

    def __init__(self, max_size: int, min_size: int = 0, message: str | None = None) -> None:
        self.max_size = max_size
        self.min_size = min_size
        self.message = message

    def __call__(self, form: BaseForm, field: Field) -> None:
        for upload in _uploads(field):
            size = _measure(upload)
            if size > self.max_size:
                self._refuse(field.gettext("The file is too large: at most %(max_size)s are allowed."))
            if size < self.min_size:
                self._refuse(field.gettext("The file is too small: at least %(min_size)s are needed."))

    def _refuse(self, message: str) -> None:
        limits = {"max_size": _readable(self.max_size), "min_size": _readable(self.min_size)}
        raise ValidationError(_fill(self.message or message, **limits))


def _fill(message: str, **values: str) -> str:
    """Return a message with its placeholders filled; a lone ``%`` is nothing special, as in Flask-WTF."""
    for name, value in values.items():
        message = message.replace(f"%({name})s", value)
    return message


def _values(field: Field) -> list[Any]:
    return field.data if isinstance(field.data, list) else [field.data]


def _uploads(field: Field) -> list[FileStorage]:
    return [value for value in _values(field) if isinstance(value, FileStorage) and value]


def _accepted(extensions: Iterable[str]) -> Iterable[str]:
    """Yield what a browser's ``accept`` needs: of ``tar.gz`` some know only the last part."""
    for extension in extensions:
        yield f".{extension}"
        if "." in extension:
            yield f".{extension.rpartition('.')[2]}"


def _measure(upload: FileStorage) -> int:
    position = upload.stream.tell()
    size = upload.stream.seek(0, os.SEEK_END)
    upload.stream.seek(position)
    return size


def _readable(size: int) -> str:
    return do_filesizeformat(size, binary=True)


file_required = FileRequired
file_allowed = FileAllowed
file_size = FileSize
