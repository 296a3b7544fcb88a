"""The bytes of an upload on their way to a service: of a known size, and read from several threads at once."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

from ..exceptions import ServiceError, StoreError
from ..utils import rewind
from .staging import file_descriptor
from .streams import SizedStream, owned

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
        #: An error of reading, or None. boto3 may raise it as one of the connection.
        self.error: Exception | None = None

    def read_at(self, position: int, size: int) -> bytes:
        """Return bytes from a position, at least one.

        :raises OSError: If they cannot be read, or there are none.
        """
        try:
            content = self._read_at(position, size)
            if not content:
                raise OSError("the upload became shorter while it was read")
        except Exception as error:
            self.error = error
            raise
        return content

    def _read_at(self, position: int, size: int) -> bytes:
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
        self._position += len(content)
        return content


@contextlib.contextmanager
def opened(stream: IO[bytes], filename: str | None) -> Iterator[Source]:
    """Return a block with the bytes of a stream, from its start if it can seek, else from where it is, to its end.

    An error of the block that a failed reading has led to is raised as that.

    :param filename: Names the upload in errors.
    :raises ServiceError: If the stream cannot be read, or there is no room for a temporary copy, where one is needed.
    """
    with contextlib.ExitStack() as copies:
        with _reading_errors(filename):
            source = _measured(stream, copies)
        try:
            yield source
        except Exception:  # each is raised again, or its cause: the error of reading
            if isinstance(source.error, OSError):
                raise _reading_error(filename, source.error) from source.error
            if source.error is not None:
                raise source.error from None
            raise


def _measured(stream: IO[bytes], copies: contextlib.ExitStack) -> Source:
    stream = owned(stream)
    if _seeks_cheaply(stream):
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        return Source(stream, size)
    rewind(stream)
    copy = copies.enter_context(tempfile.SpooledTemporaryFile(max_size=MEMORY_SIZE))
    while content := stream.read(MAX_READ_SIZE):
        try:
            copy.write(content)
        except OSError as error:
            place = tempfile.gettempdir()
            raise ServiceError(f"no room for a copy of an upload that cannot seek in {place}: {error}") from error
    return Source(copy, copy.tell())


@contextlib.contextmanager
def _reading_errors(filename: str | None) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise _reading_error(filename, error) from error


def _reading_error(filename: str | None, error: OSError) -> ServiceError:
    return ServiceError(f"could not read the upload of {filename!r}: {error}")


def _seeks_cheaply(stream: IO[bytes]) -> bool:
    # Others may have to start anew to go back, as those that decompress, or may not seek at all.
    is_known = type(stream) is io.BytesIO or isinstance(stream, tempfile.SpooledTemporaryFile)
    return is_known or file_descriptor(stream) is not None
