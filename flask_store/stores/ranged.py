"""A stream of an object on a service, read by range requests."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from .connection import UnexpectedAnswerError
from .streams import SizedStream

#: How often a reading that broke off goes on where it was, without a byte in between.
MAX_TRIES = 3

#: Bytes that a reader asks for at a time.
BUFFER_SIZE = 128 * 1024


class Body(Protocol):
    """What a request for bytes is answered with."""

    def read(self, amt: int, /) -> bytes: ...

    def close(self) -> None: ...


class RangedStream(SizedStream):
    """Reads an object from its start on in one request; a seek makes another one, when bytes are asked for.

    :param body: The answer to the request that is open already, from the start of the object.
    :param size: Of the object, in bytes.
    :param fetch: Returns a body from a position to the end.
    :param broken: The errors of a body that breaks off, after which it is fetched again.
    :param translated: Returns a block that turns the other errors of a body into ones of ours.
    """

    def __init__(
        self,
        body: Body,
        size: int,
        fetch: Callable[[int], Body],
        broken: tuple[type[Exception], ...],
        translated: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(size)
        self._body: Body | None = body
        self._fetch = fetch
        self._broken = broken
        self._translated = translated

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        before = self._position
        if super().seek(offset, whence) != before:
            self._let_go()
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        left = self._size - self._position
        if left <= 0 or not len(buffer):
            return 0
        with self._translated():
            content = self._read(min(len(buffer), left))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _read(self, size: int) -> bytes:
        error: Exception | None = None
        for _ in range(MAX_TRIES):
            if self._body is None:
                self._body = self._fetch(self._position)
            try:
                content = self._body.read(size)
                if self._position + len(content) == self._size:
                    self._body.read(1)  # only then are checksums compared
            except self._broken as broken:
                error = broken
            else:
                if content:
                    return content
            self._let_go()
        raise UnexpectedAnswerError(
            f"it broke off {MAX_TRIES} times at byte {self._position}; check the network"
        ) from error

    def _let_go(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    def close(self) -> None:
        self._let_go()
        super().close()
