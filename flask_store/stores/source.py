"""The bytes of an upload on their way to a service: of a known size, and read from several threads at once."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

from ..exceptions import ServiceError
from ..utils import rewind
from .staging import file_descriptor
from .streams import SizedStream

#: Largest upload that is held in memory, in bytes.
MEMORY_SIZE = 256 * 1024


#: Most bytes that are read at a time: boto3 asks for 1 MiB to compute a checksum, in each of many threads.
MAX_READ_SIZE = 256 * 1024


class Source:
    """The bytes of a stream that can seek.

    :param stream: It stays open, and nobody else uses it meanwhile.
    :param size: Its size in bytes.
    """

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.size = size
        self._stream = stream
        self._descriptor = file_descriptor(stream) if hasattr(os, "pread") else None
        self._lock = threading.Lock()

    def read_at(self, position: int, size: int) -> bytes:
        """Return bytes from a position, fewer than ``size`` only at the end.

        :raises OSError: If they cannot be read.
        """
        if self._descriptor is not None:
            return os.pread(self._descriptor, size, position)
        with self._lock:
            self._stream.seek(position)
            return self._stream.read(size)

    def part(self, start: int, size: int) -> Part:
        """Return the stream of some of the bytes."""
        return Part(self, start, size)


class Part(SizedStream):
    """A stream of some of the bytes of a source. Closing it does nothing to the source."""

    def __init__(self, source: Source, start: int, size: int) -> None:
        super().__init__(size)
        self._source = source
        self._start = start

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self._position)
        size = left if size is None or size < 0 else min(size, left, MAX_READ_SIZE)
        content = self._source.read_at(self._start + self._position, size) if size else b""
        if size and not content:
            raise OSError("the upload became shorter while it was read")
        self._position += len(content)
        return content


@contextlib.contextmanager
def opened(stream: IO[bytes]) -> Iterator[Source]:
    """Return a block with the bytes of a stream, from its start if it can seek, else from where it is, to its end.

    :raises ServiceError: If there is no room for a temporary copy, where one is needed.
    """
    if _seeks_cheaply(stream):
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        yield Source(stream, size)
        return
    rewind(stream)
    with tempfile.SpooledTemporaryFile(max_size=MEMORY_SIZE) as copy:
        while content := stream.read(MAX_READ_SIZE):
            try:
                copy.write(content)
            except OSError as error:
                place = tempfile.gettempdir()
                raise ServiceError(f"no room for a copy of an upload that cannot seek in {place}: {error}") from error
        yield Source(copy, copy.tell())


def _seeks_cheaply(stream: IO[bytes]) -> bool:
    # Others may have to start anew to go back, as those that decompress, or may not seek at all.
    is_known = type(stream) is io.BytesIO or isinstance(stream, tempfile.SpooledTemporaryFile)
    return is_known or file_descriptor(stream) is not None
