"""Streams whose bytes come from elsewhere: some of a known size, and one that its user cannot close."""

from __future__ import annotations

import io
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator


class SizedStream(io.RawIOBase):
    """A readable stream that seeks by remembering where to read next.

    :param size: In bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError(f"negative seek position {origin + offset}")
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position


@io.BufferedIOBase.register
class BorrowedStream:
    """A stream that its user cannot close; everything else is as the stream itself does it.

    ``io.TextIOWrapper``, ``zipfile.ZipFile`` and others close the stream that they were given.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def close(self) -> None:
        """Do nothing: the owner of the stream closes it."""

    def __enter__(self) -> BorrowedStream:
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        pass

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def __next__(self) -> bytes:
        return next(self._stream)

    def __getattr__(self, name: str) -> Any:
        # Names of the inside are not for others: a text wrapper that is collected would have its warning through one.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._stream, name)


def borrowed(stream: IO[bytes]) -> IO[bytes]:
    """Return a stream that its user cannot close."""
    return stream if isinstance(stream, BorrowedStream) else cast(IO[bytes], BorrowedStream(stream))


def owned(stream: IO[bytes]) -> IO[bytes]:
    """Return the stream itself, where it is a borrowed one."""
    return stream._stream if isinstance(stream, BorrowedStream) else stream
