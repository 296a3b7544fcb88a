"""A stream of an object on a service, read by range requests."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Protocol

from ..exceptions import ServiceError

#: How often a reading that broke off goes on where it was, without a byte in between.
MAX_TRIES = 3

#: Bytes that a reader asks for at a time.
BUFFER_SIZE = 128 * 1024


class Body(Protocol):
    """What a request for bytes is answered with."""

    def read(self, amt: int, /) -> bytes: ...

    def close(self) -> None: ...


class RangedStream(io.RawIOBase):
    """Reads an object from its start on in one request; a seek makes another one, when bytes are asked for.

    :param body: The answer to the request that is open already, from the start of the object.
    :param size: Of the object, in bytes.
    :param fetch: Returns a body from a position to the end.
    :param broken: The errors of a body that breaks off.
    :param what: What is read, for the message of an error.
    """

    def __init__(
        self, body: Body, size: int, fetch: Callable[[int], Body], broken: tuple[type[Exception], ...], what: str
    ) -> None:
        self._what = what
        self._body: Body | None = body
        self._size = size
        self._fetch = fetch
        self._broken = broken
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        position = origin + offset
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        if position != self._position:
            self._let_go()
            self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        left = self._size - self._position
        if left <= 0 or not len(buffer):
            return 0
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
            except self._broken as broken:
                error = broken
            else:
                if content:
                    return content
            self._let_go()
        raise ServiceError(
            f"could not read {self._what}: it broke off {MAX_TRIES} times at byte {self._position}; check the network"
        ) from error

    def _let_go(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    def close(self) -> None:
        self._let_go()
        super().close()
