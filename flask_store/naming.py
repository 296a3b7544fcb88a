"""What a stored file may be called.

A *name* is the last part of a path: ``clean`` makes a safe one of anything that a client sends, ``check``
refuses one that is not safe. A *path* is one or more names joined by ``/``.
"""

from __future__ import annotations

import functools
import re
import secrets
import unicodedata

from .exceptions import InvalidNameError

#: Longest name, in bytes of UTF-8: NAME_MAX of ext4, XFS, APFS and NTFS (there in UTF-16 units).
MAX_NAME_SIZE = 255

#: Longest extension that is kept as one, with its dot, in bytes of UTF-8. What is longer is part of the stem,
#: so that cutting a name to size never uncovers another extension.
MAX_EXTENSION_SIZE = 64

#: Random bytes in the part that tells two files of one name apart: 80 bits, 14 characters.
RANDOM_SIZE = 10

_SEPARATOR = re.compile(r"[/\\]")

# Beside the separators: what no Windows file system takes ("Naming Files, Paths, and Namespaces").
_FORBIDDEN = re.compile(r'[<>:"|?*]')

# Names of devices on Windows, whatever their extension (same source).
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])\s*(?:\.|$)", re.IGNORECASE)

_COMPOUND_EXTENSION = re.compile(r"\.tar\.(?:br|bz2|gz|lz|lz4|lzma|lzo|xz|z|zst)$", re.IGNORECASE)

# Zero-width joiners are spelling in Persian and Indic scripts and part of emoji, so they stay inside a name.
_JOINERS = "\u200c\u200d"

_SPACES = " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"

# What no name starts or ends with.
_ENDS = "." + _SPACES + _JOINERS

# Control and format characters (the bidirectional ones among them), surrogates, line and paragraph separators.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def clean(filename: str) -> str:
    """Return a safe name that keeps what ``filename`` says as far as possible.

    The result is one path component in NFC that every common file system takes, of at most
    :data:`MAX_NAME_SIZE` bytes. Nothing is decoded or folded on the way, so that no second spelling appears.
    A filename with nothing usable becomes ``file`` and its extension. Cleaning a clean name changes nothing.

    :param filename: What the client called the file: any text, with or without directories.
    """
    # Each name is asked about several times on its way. Longer ones, which may be very long, are not remembered.
    return _clean_short(filename) if len(filename) <= MAX_NAME_SIZE else _clean(filename)


def _clean(filename: str) -> str:
    text = _SEPARATOR.split(filename)[-1]
    if not text.isprintable():
        text = "".join(filter(_is_visible, text))
    stem, extension = _split_short(text.rstrip(_ENDS))
    # Normalising takes time that grows with the square of the length, so what is cut off later is cut off before.
    text = unicodedata.normalize("NFC", _strip(stem)[: 4 * MAX_NAME_SIZE] + extension)
    stem, extension = _split_short(text)
    usable = _strip(_FORBIDDEN.sub("", stem))
    stem = _strip(_FORBIDDEN.sub("_", stem)) if usable else "file"
    extension = _FORBIDDEN.sub("_", extension)
    name = _fit(stem, extension)
    return _fit("_" + stem, extension) if _DEVICE.match(name) else name


_clean_short = functools.lru_cache(maxsize=1024)(_clean)


def check(name: str) -> None:
    """Refuse a name that :func:`clean` would have changed.

    :raises InvalidNameError: If the name is not safe.
    """
    safe = clean(name)
    if name != safe:
        raise InvalidNameError(name, f"use {safe!r}")


def check_path(path: str) -> None:
    """Refuse a path that is not one or more safe names joined by ``/``.

    :raises InvalidNameError: If it is absolute, climbs, or has an unsafe name in it.
    """
    for name in path.split("/"):
        if not name:
            raise InvalidNameError(path, "it must be relative, with one '/' between two names")
        if name != clean(name):
            raise InvalidNameError(path, f"{name!r} in it is not safe")


def split_extension(name: str) -> tuple[str, str]:
    """Return the stem and the extension with its dot, ``.tar.gz`` and its kin as one; or the name and ``""``."""
    compound = _COMPOUND_EXTENSION.search(name)
    if compound:
        return name[: compound.start()], compound.group()
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension.strip(_SPACES)) if dot else (name, "")


def add_random(name: str) -> str:
    """Return ``name`` with an unguessable part before its extension, still a safe name."""
    return add_part(name, secrets.token_urlsafe(RANDOM_SIZE))


def add_part(name: str, part: str) -> str:
    """Return ``name`` with a part of letters, digits, ``-`` and ``_`` before its extension, still a safe name."""
    stem, extension = split_extension(name)
    return _fit(stem, f"_{part}{extension}")


def _split_short(name: str) -> tuple[str, str]:
    """As :func:`split_extension`, but what is too long to be an extension is part of the stem."""
    stem, extension = split_extension(name)
    if len(extension) <= MAX_EXTENSION_SIZE and len(extension.encode()) <= MAX_EXTENSION_SIZE:
        return stem, extension
    return name.replace(".", "_"), ""


def _is_visible(character: str) -> bool:
    return character in _JOINERS or not (
        unicodedata.category(character) in _INVISIBLE
        or ord(character) & 0xFFFE == 0xFFFE
        or 0xFDD0 <= ord(character) <= 0xFDEF
    )


def _strip(stem: str) -> str:
    return stem.lstrip("-" + _ENDS).rstrip(_ENDS)


def _fit(stem: str, ending: str) -> str:
    """Return both together, the stem cut between two characters where it is too long."""
    size = MAX_NAME_SIZE - len(ending.encode())
    return _strip(stem.encode()[:size].decode(errors="ignore")) + ending
