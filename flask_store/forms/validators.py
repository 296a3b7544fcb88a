"""Rules for uploads. Each judges what was sent; an existing file that stays has been judged before."""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from flask import current_app
from jinja2.filters import do_filesizeformat
from werkzeug.datastructures import FileStorage
from wtforms.fields import Field
from wtforms.form import BaseForm
from wtforms.validators import StopValidation, ValidationError

from ..exceptions import NotFoundError, StoreError
from ..files import StoreFile
from . import content, translation
from .keeping import KeptFile
from .saving import SavingField


class FileRequired:
    """There must be a file: a new one, a kept one, or an existing one that stays.

    :param message: In place of the built-in sentence.
    """

    def __init__(self, message: str | None = None) -> None:
        self.message = message
        self.field_flags = {"required": True}

    def __call__(self, form: BaseForm, field: Field) -> None:
        _refuse_text(field)
        if not _files(field):
            message = self.message or translation.gettext(field, "This field is required.")
            _note_refusal(field, message, [])
            raise StopValidation(message)


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

        def judge(upload: FileStorage) -> str | None:
            return None if (upload.filename or "").lower().endswith(endings) else self._sentence(field)

        _judge_each(field, judge, StopValidation)

    def attributes(self, field: Field) -> dict[str, str]:
        """Return HTML attributes for the file input: ``accept`` is a flag of the field already."""
        return {"data-accept-message": self._sentence(field)}

    def _sentence(self, field: Field) -> str:
        message = self.message or translation.gettext(field, "Only these types of files are allowed: %(extensions)s.")
        return _fill(message, extensions=", ".join(self.extensions))


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
        def judge(upload: FileStorage) -> str | None:
            size = _measure(upload)
            if size > self.max_size:
                return self._too_large(field)
            return self._too_small(field) if size < self.min_size else None

        _judge_each(field, judge)

    def attributes(self, field: Field) -> dict[str, str]:
        """Return HTML attributes for the file input."""
        attributes = {"data-max-size": str(self.max_size), "data-max-size-message": self._too_large(field)}
        if self.min_size:
            attributes |= {"data-min-size": str(self.min_size), "data-min-size-message": self._too_small(field)}
        return attributes

    def _too_large(self, field: Field) -> str:
        return self._filled(translation.gettext(field, "The file is too large: at most %(max_size)s are allowed."))

    def _too_small(self, field: Field) -> str:
        return self._filled(translation.gettext(field, "The file is too small: at least %(min_size)s are needed."))

    def _filled(self, message: str) -> str:
        return _fill(
            self.message or message, max_size=_readable_size(self.max_size), min_size=_readable_size(self.min_size)
        )


class TotalSize:
    """All files that a field will hold must have at most some size together: new, kept and existing ones.

    Existing files are measured only if there is an upload; one that is gone counts nothing.

    :param max_size: Largest total, in bytes, inclusive.
    :param message: In place of the built-in sentence; ``%(max_size)s`` stands for the limit.
    """

    def __init__(self, max_size: int, message: str | None = None) -> None:
        self.max_size = max_size
        self.message = message

    def __call__(self, form: BaseForm, field: Field) -> None:
        _refuse_text(field)
        files = _files(field)
        total = sum(_measure(file) for file in files if isinstance(file, FileStorage))
        if not any(isinstance(file, FileStorage) for file in files):
            return
        try:
            for file in files:
                # Each existing file may be a request to S3: none is made where the uploads are too large already.
                if total > self.max_size:
                    break
                total += _stored_size(file) if isinstance(file, StoreFile) else 0
        except (StoreError, OSError) as error:
            current_app.logger.error("The existing files of field %r could not be measured", field.name, exc_info=error)
            message = translation.gettext(field, "The size of the files could not be checked: please try again later.")
            _note_refusal(field, message, [])
            raise ValidationError(message) from error
        if total > self.max_size:
            message = self._sentence(field)
            _note_refusal(field, message, [])
            raise ValidationError(message)

    def attributes(self, field: Field) -> dict[str, str]:
        """Return HTML attributes for the file input."""
        return {"data-max-total-size": str(self.max_size), "data-max-total-size-message": self._sentence(field)}

    def _sentence(self, field: Field) -> str:
        message = self.message or translation.gettext(
            field, "The files are too large together: at most %(max_size)s in total are allowed."
        )
        return _fill(message, max_size=_readable_size(self.max_size))


class FileCount:
    """A field must hold some number of files in the end: new, kept and existing ones that stay.

    :param min: Smallest number, inclusive.
    :param max: Largest number, inclusive; any number without one.
    :param message: In place of the built-in sentences; ``%(min)s`` and ``%(max)s`` stand for the limits.
    :raises ValueError: If no number of files would do.
    """

    def __init__(self, min: int = 0, max: int | None = None, message: str | None = None) -> None:
        if min < 0 or (max is not None and max < min):
            raise ValueError(f"FileCount cannot ask for at least {min} and at most {max} files")
        self.min = min
        self.max = max
        self.message = message

    def __call__(self, form: BaseForm, field: Field) -> None:
        _refuse_text(field)
        count = len(_files(field))
        if count < self.min:
            message = self._too_few(field)
        elif self.max is not None and count > self.max:
            message = self._too_many(field, self.max)
        else:
            return
        _note_refusal(field, message, [])
        raise ValidationError(message)

    def attributes(self, field: Field) -> dict[str, str]:
        """Return HTML attributes for the file input."""
        if self.max is None:
            return {}
        return {"data-max-files": str(self.max), "data-max-files-message": self._too_many(field, self.max)}

    def _too_few(self, field: Field) -> str:
        return self._filled(
            translation.ngettext(
                field, "Please choose at least %(min)s file.", "Please choose at least %(min)s files.", self.min
            )
        )

    def _too_many(self, field: Field, limit: int) -> str:
        return self._filled(
            translation.ngettext(
                field, "At most %(max)s file is allowed here.", "At most %(max)s files are allowed here.", limit
            )
        )

    def _filled(self, message: str) -> str:
        return _fill(self.message or message, min=_readable_limit(self.min), max=_readable_limit(self.max))


class ContentType:
    """An upload must be of one of some media types, as told by its bytes *and* by the extension of its name.

    What the client says of the type does not count. The extension tells the type; the first 64 KiB must agree, as
    ``puremagic`` knows them, so ``photo.png`` with a JPEG in it is refused, and a name without extension as well.
    Types of text have no signature: their bytes must be free of control characters and not begin like another kind
    of document. A type that neither rule knows is refused; ``mimetypes.add_type`` teaches an extension.

    A wildcard such as ``"image/*"`` does not include types that may carry scripts, such as SVG: name them.
    A type is no proof of a sound file: it may be cut off, or have something else appended.

    :param types: Such as ``["image/*", "application/pdf"]``.
    :param message: In place of the built-in sentences; ``%(types)s`` in it stands for the list.
    :raises TypeError: If the types are one text.
    :raises ValueError: If a type is not written ``kind/name`` or ``kind/*``, or if there is none.
    """

    def __init__(self, types: Iterable[str], message: str | None = None) -> None:
        if isinstance(types, str):
            raise TypeError(f"ContentType takes a list of media types, not the text {types!r}")
        self.types = [content.checked_type(type_) for type_ in types]
        if not self.types:
            raise ValueError("ContentType needs at least one media type")
        self.message = message
        self._allowed = {content.ALIASES.get(type_, type_) for type_ in self.types}

    def __call__(self, form: BaseForm, field: Field) -> None:
        _judge_each(field, lambda upload: self._judge(field, upload), StopValidation)

    def attributes(self, field: Field) -> dict[str, str]:
        """Return HTML attributes for the file input."""
        return {"accept": ",".join(self.types), "data-accept-message": self._sentence(field)}

    def _judge(self, field: Field, upload: FileStorage) -> str | None:
        extension = os.path.splitext(upload.filename or "")[1].lower()
        if extension in ("", "."):
            return self._filled(
                field,
                translation.gettext(field, "The file's name has no extension: please add the right one, such as .jpg."),
            )
        type_ = content.type_of_extension(extension)
        if type_ is None or not self._allows(type_):
            return self._sentence(field)
        if not content.is_of_type(content.head_of(upload), type_):
            return self._filled(
                field,
                translation.gettext(
                    field,
                    "The content of the file does not fit its extension %(extension)s: please choose another file.",
                ),
                extension=extension,
            )
        return None

    def _allows(self, type_: str) -> bool:
        kind = type_.partition("/")[0]
        return type_ in self._allowed or (f"{kind}/*" in self._allowed and not content.may_have_scripts(type_))

    def _sentence(self, field: Field) -> str:
        message = translation.gettext(field, "Only these types of files are allowed: %(extensions)s.")
        return self._filled(field, message)

    def _filled(self, field: Field, message: str, **values: str) -> str:
        types = ", ".join(dict.fromkeys(_readable_type(field, type_) for type_ in self.types))
        return _fill(self.message or message, types=types, extensions=types, **values)


class ImageSize:
    """An uploaded image must have a width, a height and a number of pixels between limits, all inclusive.

    Only the header is read, with ``imagesize``, so an image that would fill the memory if it were opened costs
    nothing here. An image whose size cannot be read is refused; so is SVG, which has no pixels. Width and height are
    as a viewer shows a JPEG or TIFF, turned as its Exif says; those of HEIC and AVIF are as stored. Of a file with
    several pictures the first counts, or what it declares for all of them.

    :param max_pixels: Largest product of width and height: set it where the image will be opened.
    :param message: In place of the built-in sentences; ``%(min_width)s`` and so on stand for the limits.
    :raises ValueError: If no image could satisfy the limits.
    """

    def __init__(
        self,
        min_width: int | None = None,
        max_width: int | None = None,
        min_height: int | None = None,
        max_height: int | None = None,
        max_pixels: int | None = None,
        message: str | None = None,
    ) -> None:
        self.limits = {
            "min_width": min_width,
            "max_width": max_width,
            "min_height": min_height,
            "max_height": max_height,
            "max_pixels": max_pixels,
        }
        for least, most in (
            (min_width, max_width),
            (min_height, max_height),
            ((min_width or 1) * (min_height or 1), max_pixels),
        ):
            if least is not None and most is not None and least > most:
                raise ValueError(f"ImageSize cannot ask for at least {least} and at most {most} pixels")
        self.message = message

    def __call__(self, form: BaseForm, field: Field) -> None:
        _judge_each(field, lambda upload: self._judge(field, upload))

    def _judge(self, field: Field, upload: FileStorage) -> str | None:
        size = content.image_size(upload)
        if size is None:
            return self._filled(
                translation.gettext(field, "The image could not be read: please save it again as JPEG or PNG.")
            )
        width, height = size
        for name, value in (
            ("min_width", width),
            ("max_width", width),
            ("min_height", height),
            ("max_height", height),
            ("max_pixels", width * height),
        ):
            limit = self.limits[name]
            if limit is not None and (value < limit if name.startswith("min") else value > limit):
                return self._filled(_image_sentence(field, name, limit))
        return None

    def _filled(self, message: str) -> str:
        limits = {name: _readable_limit(limit) for name, limit in self.limits.items()}
        return _fill(self.message or message, **limits)


def _image_sentence(field: Field, name: str, limit: int) -> str:
    # Whole sentences, so that whoever collects messages for translation finds them.
    if name == "min_width":
        return translation.ngettext(
            field,
            "The image must be at least %(min_width)s pixel wide.",
            "The image must be at least %(min_width)s pixels wide.",
            limit,
        )
    if name == "max_width":
        return translation.ngettext(
            field,
            "The image must be at most %(max_width)s pixel wide.",
            "The image must be at most %(max_width)s pixels wide.",
            limit,
        )
    if name == "min_height":
        return translation.ngettext(
            field,
            "The image must be at least %(min_height)s pixel high.",
            "The image must be at least %(min_height)s pixels high.",
            limit,
        )
    if name == "max_height":
        return translation.ngettext(
            field,
            "The image must be at most %(max_height)s pixel high.",
            "The image must be at most %(max_height)s pixels high.",
            limit,
        )
    return translation.ngettext(
        field,
        "The image must have at most %(max_pixels)s pixel in all.",
        "The image must have at most %(max_pixels)s pixels in all.",
        limit,
    )


def _judge_each(
    field: Field, judge: Callable[[FileStorage], str | None], error: type[Exception] = ValidationError
) -> None:
    """Refuse the uploads for which ``judge`` returns a message; every one is judged, so that good ones are known."""
    _refuse_text(field)
    refused: dict[str, list[FileStorage]] = {}
    for upload in _uploads(field):
        if message := judge(upload):
            refused.setdefault(message, []).append(upload)
        if isinstance(upload, KeptFile):
            upload.release()  # of many that are open at once a process has not enough
    if not refused:
        return
    text = " ".join(_with_names(field, message, uploads) for message, uploads in refused.items())
    _note_refusal(field, text, [upload for uploads in refused.values() for upload in uploads])
    raise error(text)


def _refuse_text(field: Field) -> None:
    """Refuse the text that a form without ``enctype`` sends for a file. A field of this package leaves it out."""
    if isinstance(field, SavingField):
        return
    if any(isinstance(value, str) and value for value in field.raw_data or ()):
        raise StopValidation(translation.gettext(field, "Only the name of the file has arrived, not the file."))


def _with_names(field: Field, message: str, uploads: list[FileStorage]) -> str:
    if not isinstance(field.data, list):
        return message
    return f"{', '.join(upload.filename or '' for upload in uploads)}: {message}"


def _note_refusal(field: Field, message: str, uploads: list[FileStorage]) -> None:
    """Tell a store field what is refused, so that it can keep the other uploads; other fields keep none."""
    note_refusal = getattr(field, "note_refusal", None)
    if note_refusal is not None:
        note_refusal(message, uploads)


def _fill(message: str, **values: str) -> str:
    """Return a message with its placeholders filled; a lone ``%`` is nothing special, as in Flask-WTF."""
    return re.sub(r"%\((\w+)\)s", lambda found: values.get(found[1], found[0]), str(message))


def _values(field: Field) -> list[Any]:
    return field.data if isinstance(field.data, list) else [field.data]


def _uploads(field: Field) -> list[FileStorage]:
    return [value for value in _values(field) if isinstance(value, FileStorage) and value]


def _files(field: Field) -> list[Any]:
    """Return what a field will hold if it is valid; of a field that is not ours, what it has."""
    files = getattr(field, "files", None)
    if files is not None:
        return list(files)
    return [value for value in _values(field) if isinstance(value, StoreFile) or value]


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


def _stored_size(file: StoreFile) -> int:
    try:
        return file.size
    except NotFoundError:
        return 0


def _readable_size(size: int) -> str:
    return do_filesizeformat(size, binary=True)


def _readable_limit(limit: int | None) -> str:
    return "" if limit is None else str(limit)


def _readable_type(field: Field, type_: str) -> str:
    """Return what a visitor calls a type: ``pdf``, or ``images``."""
    kind, _, name = type_.partition("/")
    if name == "*":
        words = {
            "image": translation.gettext(field, "images"),
            "audio": translation.gettext(field, "audio files"),
            "video": translation.gettext(field, "videos"),
            "text": translation.gettext(field, "text files"),
        }
        return words.get(kind, kind)
    type_ = content.ALIASES.get(type_, type_)
    extension = next((extension for extension, known in content.TYPES.items() if known == type_), None)
    return (extension or mimetypes.guess_extension(type_) or name).lstrip(".")


file_required = FileRequired
file_allowed = FileAllowed
file_size = FileSize
total_size = TotalSize
file_count = FileCount
content_type = ContentType
image_size = ImageSize
