"""The type of an uploaded file, by its name and its first bytes, never by the client's word."""

from __future__ import annotations

import codecs
import mimetypes
import re
from typing import IO

from werkzeug.datastructures import FileStorage

from ..exceptions import StoreError

#: How much of a file is read to tell its type, in bytes, however large the file is.
HEAD_SIZE = 64 * 1024

#: Types of extensions that Python's own table lacks, has only in newer versions, or has under several names.
#: The first extension of a type is the one that a visitor is told.
TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".jfif": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".tiff": "image/tiff",
    ".tif": "image/tiff",
    ".ico": "image/vnd.microsoft.icon",
    ".jp2": "image/jp2",
    ".jpf": "image/jp2",
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".3gp": "video/3gpp",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
    ".ogv": "video/ogg",
    ".avi": "video/x-msvideo",
    ".mp3": "audio/mpeg",
    ".m4a": "audio/mp4",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odp": "application/vnd.oasis.opendocument.presentation",
    ".epub": "application/epub+zip",
    ".jar": "application/java-archive",
    ".zip": "application/zip",
    ".gz": "application/gzip",
    ".rtf": "application/rtf",
    ".txt": "text/plain",
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".html": "text/html",
    ".js": "text/javascript",
    ".xml": "text/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".ttf": "font/ttf",
    ".otf": "font/otf",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}

#: Other names of types, by which a developer, Python's table or puremagic may call them.
ALIASES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-ms-bmp": "image/bmp",
    "image/x-icon": "image/vnd.microsoft.icon",
    "audio/mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-m4a": "audio/mp4",
    "audio/opus": "audio/ogg",
    "audio/x-aac": "audio/aac",
    "video/avi": "video/x-msvideo",
    "video/x-m4v": "video/mp4",
    "application/x-gzip": "application/gzip",
    "application/x-zip-compressed": "application/zip",
    "application/x-rar-compressed": "application/vnd.rar",
    "application/x-pdf": "application/pdf",
    "application/xml": "text/xml",
    "application/javascript": "text/javascript",
    "application/x-yaml": "application/yaml",
    "text/yaml": "application/yaml",
    "text/rtf": "application/rtf",
}

#: Types that a browser may run scripts from, beside those of XML.
_WITH_SCRIPTS = {"text/html", "text/xml", "text/javascript"}

_TYPE = re.compile(r"[a-z0-9.+-]+/([a-z0-9_.+-]+|\*)")


def checked_type(type_: str) -> str:
    """Return a media type, or a wildcard such as ``image/*``, in lower case.

    :raises TypeError: If it is no text.
    :raises ValueError: If it is not written so.
    """
    if not isinstance(type_, str):
        raise TypeError(f"{type_!r} is no media type: it must be a text such as 'image/*'")
    if not _TYPE.fullmatch(type_.lower()):
        raise ValueError(f"{type_!r} is no media type: write it as 'image/jpeg' or 'image/*'")
    return type_.lower()


def type_of_extension(extension: str) -> str | None:
    """Return the media type that an extension with its dot, in lower case, tells; None if it is not known."""
    if extension in TYPES:
        return TYPES[extension]
    # A compressed file has not the type inside: a .svgz is no image to us.
    type_, encoding = mimetypes.guess_type(f"name{extension}", strict=False)
    if encoding is not None:
        return {"gzip": "application/gzip"}.get(encoding, f"application/x-{encoding}")
    return None if type_ is None else ALIASES.get(type_, type_)


#: Bytes that text does not have; ESC is part of Japanese encodings.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")

#: The ends of types that are text, although they are not called so.
_TEXT_SUFFIXES = "+json", "/json", "/yaml", "/toml", "/sql", "/x-tex", "/x-latex", "/x-sh"

#: How documents begin that are text to the eye, but not plain text; in lower case.
_DOCUMENT_STARTS = b"%pdf-", b"%!ps", b"{\\rtf", b"<!doctype html", b"<html", b"<script", b"<svg"

#: Bytes near the start of each format's ZIP archive: puremagic takes every archive for each of them.
_ZIP_MEMBERS = {
    TYPES[".docx"]: b"word/",
    TYPES[".xlsx"]: b"xl/",
    TYPES[".pptx"]: b"ppt/",
    TYPES[".jar"]: b"META-INF/",
    **{type_: b"mimetype" + type_.encode() for type_ in (TYPES[".odt"], TYPES[".ods"], TYPES[".odp"], TYPES[".epub"])},
}

_RIFF_FORMS = {b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo", b"WEBP": "image/webp"}

#: How MP3 begins where there is no tag in front: layer III of MPEG 1, 2 and 2.5, with a checksum or without.
_MP3_FRAMES = b"\xff\xfa", b"\xff\xfb", b"\xff\xf2", b"\xff\xf3", b"\xff\xe2", b"\xff\xe3"

_AVIF_BRANDS = {b"avif", b"avis"}
_PICTURE_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", *_AVIF_BRANDS}


def is_of_type(head: bytes, type_: str) -> bool:
    """Return whether a file with these first bytes can be of the type that its name tells."""
    is_text = not _CONTROL.search(head)
    if type_ == "image/svg+xml":
        return is_text and b"<svg" in head
    if may_have_scripts(type_):
        return is_text
    if _is_plain_text(type_):
        start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:20].lower()
        return is_text and not start.startswith(_DOCUMENT_STARTS)
    if is_text and type_.startswith(("image/", "audio/", "video/", "font/")):
        return False  # such as "GIF89a=1;alert()", a script that begins like a picture
    return type_ in _possible_types(head)


def may_have_scripts(type_: str) -> bool:
    """Return whether a browser that shows a file of a type may run what is in it."""
    return type_ in _WITH_SCRIPTS or type_.endswith("+xml")


def _is_plain_text(type_: str) -> bool:
    return type_.startswith(("text/", "message/")) or type_.endswith(_TEXT_SUFFIXES)


def _possible_types(head: bytes) -> set[str]:
    """Return the types that a file can be. Of containers puremagic reads too little, or knows too few."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return {"application/zip"} | {type_ for type_, member in _ZIP_MEMBERS.items() if member in head}
    if head.startswith(b"RIFF"):
        return {_RIFF_FORMS.get(head[8:12], "")}
    if head.startswith(b"\x1aE\xdf\xa3"):
        return {"video/webm" if b"webm" in head[:64] else "video/x-matroska"}
    if head[4:8] == b"ftyp":
        return _possible_iso_types(head)
    if head.startswith(_MP3_FRAMES):
        return {"audio/mpeg"}
    return _known_types(head)


def _possible_iso_types(head: bytes) -> set[str]:
    """Return the types that an ISO media file can be: its major brand tells, the one for all pictures with others."""
    major = head[8:12]
    if major in _PICTURE_BRANDS:
        brands = {head[start : start + 4] for start in range(8, min(int.from_bytes(head[:4]), 128), 4)}
        return {"image/avif"} if brands & _AVIF_BRANDS else {"image/heic", "image/heif"}
    if major == b"qt  ":
        return {"video/quicktime"}
    if major in {b"M4A ", b"M4B "}:
        return {"audio/mp4"}
    # The others, of which there are many, say nothing of whether there is a picture beside the sound.
    return {"video/mp4", "audio/mp4", "video/3gpp"}


def _known_types(head: bytes) -> set[str]:
    """Return the types whose signature puremagic finds at the start."""
    import puremagic  # reads its table of signatures, so only where it is needed

    try:
        # Bytes only: with a filename it would open that file on this machine.
        matches = puremagic.magic_string(head)
    except (ValueError, puremagic.PureError):
        return set()  # nothing in it, or nothing known
    # The extension comes first: puremagic calls JPEG 2000 image/jpeg. Anyone can append bytes at the end.
    return {
        type_of_extension(match.extension) or ALIASES.get(match.mime_type, match.mime_type)
        for match in matches
        if match.offset >= 0
    }


class _Header:
    """A stream that limits reads, so that a crafted image cannot make measuring slow."""

    #: An Exif block has the orientation near its start, and the other tables are small.
    MAX_READ = 4096
    MAX_READS = 1000

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._reads = 0
        #: The error of the stream, which imagesize takes for a broken image.
        self.failure: StoreError | OSError | None = None

    def read(self, size: int = -1) -> bytes:
        self._reads += 1
        if self._reads > self.MAX_READS:
            raise ValueError("the header of the image has too many parts")
        try:
            return self._stream.read(self.MAX_READ if size < 0 else min(size, self.MAX_READ))
        except (StoreError, OSError) as error:
            self.failure = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)


def image_size(upload: FileStorage) -> tuple[int, int] | None:
    """Return width and height of an uploaded image, or None if they cannot be read; the stream stays where it is."""
    import imagesize  # type: ignore[import-untyped]  # loads an HTTP client and an XML parser, so only where needed

    start = head_of(upload, 8)
    if start[:1] == b"<":
        return None  # SVG: what it says of its size may be anything
    position = upload.stream.tell()
    header = _Header(upload.stream)
    try:
        # To turn HEIC and AVIF, imagesize would read tables that can be made to go on for ever.
        width, height = imagesize.get(header, exif_rotation=start[4:8] != b"ftyp")
    finally:
        upload.stream.seek(position)
    if header.failure is not None:
        raise header.failure
    # Some formats have numbers with a sign: what is too large for them comes out below zero.
    return (width, height) if width > 0 and height > 0 else None


def head_of(upload: FileStorage, size: int = HEAD_SIZE) -> bytes:
    """Return the first bytes of an upload; its stream stays where it is."""
    position = upload.stream.tell()
    upload.stream.seek(0)
    head = b""
    while len(head) < size and (chunk := upload.stream.read(size - len(head))):
        head += chunk
    upload.stream.seek(position)
    return head
