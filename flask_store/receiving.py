"""Where an upload's bytes land while the request is parsed.

Werkzeug writes each file part to a temporary file, and saving it writes every byte again. Here the part is written
where its store wants it, so that saving a large one is giving it a name.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, cast

from flask import Request, current_app
from werkzeug.formparser import FormDataParser

from .config import Settings
from .exceptions import StoreError
from .pieces import Pieces
from .stores.staging import StagedFile, copy_stream

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer
    from werkzeug.formparser import TStreamFactory

    from .stores.base import BaseStore

#: Largest upload that is held in memory, in bytes. Above it a file of its own is cheaper, as measured on Linux. A
#: request that is no larger goes Werkzeug's way, which holds it in memory too.
MEMORY_SIZE = 256 * 1024

#: File parts of one request that are received, each of which may take a descriptor. The ones after that go the way of
#: Werkzeug.
MAX_FILES = 64

# glibc gives freed memory back to the system beyond twice the largest block that it ever mapped and freed (mallopt(3),
# M_MMAP_THRESHOLD, "dynamic"). Buffers of some 100 KiB that are freed and asked for again are then paged in anew each
# time, which costs more than reading and parsing an upload. One block of this size is enough for all of them.
_LARGE_BLOCK_SIZE = 4 * 1024 * 1024


_GOES_ON = "an upload goes on in a temporary file, because the store cannot take it"


class ReceivedFile(io.BufferedIOBase):
    """An upload: in memory while it is small, then in a staged file that can be published without a copy.

    Closing it lets go of what was not published.

    :param stage: Makes the staged file when it is needed.
    """

    def __init__(self, stage: Callable[[], StagedFile]) -> None:
        self._stage = stage
        #: The plain file that has the bytes: in memory, staged, or the published one.
        self.file: IO[bytes] = io.BytesIO()
        #: What can be published; None while the upload is in memory, and once it is published.
        self.staged: StagedFile | None = None
        # A parser writes every byte, then goes to the start.
        self._is_complete = False

    def publish(self, publish: Callable[[StagedFile], str]) -> str:
        """Have the staged file published, and keep a read-only handle on its bytes.

        Nobody writes into the stored file through the upload then, and it cannot be published again: two names of
        one file would change together.

        :param publish: Gives the staged file its name and returns where it is.
        :raises ValueError: If the upload is closed.
        """
        if self.closed:
            raise ValueError("the upload is closed")
        assert self.staged is not None
        readable = self.staged.reopen()
        try:
            path = publish(self.staged)
        except BaseException:
            readable.close()
            raise
        self.staged.close()
        self.staged, self.file = None, readable
        return path

    def write(self, data: ReadableBuffer, /) -> int:
        return self.file.write(data) if self._is_complete else self._receive(data)

    def _receive(self, data: ReadableBuffer) -> int:
        """Write what comes next.

        :raises OSError: If neither the store nor the directory of temporary files can take it.
        """
        if isinstance(self.file, io.BytesIO) and self.file.tell() + memoryview(data).nbytes > MEMORY_SIZE:
            self._roll_over()
        if self.staged is not None:
            try:
                return self.staged.append(data)
            except OSError as error:
                _log(logging.WARNING, _GOES_ON, error)
                self._leave_store(self.staged)
        written = self.file.write(data)
        self.file.flush()  # or the last bytes would fail when they are read
        return written

    def _roll_over(self) -> None:
        """Bring what is in memory to the disk.

        :raises OSError: If it cannot be; it is in memory as before then.
        """
        assert isinstance(self.file, io.BytesIO)
        content, position = self.file.getvalue(), self.file.tell()
        staged = None
        try:
            staged = self._stage()
            staged.append(content)
        except (OSError, StoreError) as error:
            # This upload may not be meant for the store at all; if it is, saving it says what is wrong.
            _log(logging.WARNING, _GOES_ON, error)
            if staged is not None:
                staged.close()
            self.file = _temporary_copy(io.BytesIO(content))
        else:
            self.staged, self.file = staged, staged.stream
        self.file.seek(position)

    def _leave_store(self, staged: StagedFile) -> None:
        """Go on in a temporary file: the file system of the store is full, or fails."""
        self.file = _temporary_copy(staged.stream)
        self.staged = None
        staged.close()

    def read(self, size: int | None = -1, /) -> bytes:
        return self.file.read(-1 if size is None else size)

    def read1(self, size: int = -1, /) -> bytes:
        return self.file.read1(size)  # type: ignore[attr-defined, no-any-return]  # all files here have it

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        return self.file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]  # all files here have it

    def readline(self, size: int | None = -1, /) -> bytes:
        return self.file.readline(-1 if size is None else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._is_complete = True
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def truncate(self, size: int | None = None, /) -> int:
        return self.file.truncate(size)

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        """Return the descriptor of the file on the disk; there is one from now on."""
        if isinstance(self.file, io.BytesIO):
            self._roll_over()
        return self.file.fileno()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.file)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return self.file.writable()

    def close(self) -> None:
        if not self.closed:
            try:
                super().close()  # writes what is left in the buffer, which a full disk refuses
            finally:
                (self.staged or self.file).close()


def _temporary_copy(content: IO[bytes]) -> IO[bytes]:
    """Return a temporary file with some bytes, at its end."""
    file = tempfile.TemporaryFile()
    try:
        copy_stream(content, file.fileno())
        file.seek(0, io.SEEK_END)
    except BaseException:
        file.close()
        raise
    return file


class LostFile(io.BufferedRandom):
    """The stream of an upload that no place on this machine could take; reading it raises the error."""

    def __init__(self, error: OSError | StoreError) -> None:
        super().__init__(_Lost(error))
        self.error = error


class _Lost(io.RawIOBase):
    """A file that takes any bytes and cannot be read."""

    def __init__(self, error: OSError | StoreError) -> None:
        self._error = error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        code = self._error.errno if isinstance(self._error, OSError) else None
        raise OSError(code or errno.EIO, f"the bytes of the upload are lost: {self._error}") from self._error

    def write(self, data: ReadableBuffer, /) -> int:
        return memoryview(data).nbytes

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return 0


class _Landing:
    """Takes the bytes of one file part. An error of the stream below costs that upload, not the request.

    :param open_stream: Opens the stream of the upload.
    """

    def __init__(self, open_stream: Callable[[], IO[bytes]]) -> None:
        self.stream: IO[bytes] = io.BytesIO()
        with self._contained_errors():
            self.stream = open_stream()

    def write(self, data: bytes) -> None:
        with self._contained_errors():
            self.stream.write(data)

    def seek(self, offset: int) -> None:
        with self._contained_errors():
            self.stream.seek(offset)  # which writes what is left in a buffer

    @contextlib.contextmanager
    def _contained_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, StoreError) as error:
            _log(logging.ERROR, "an upload is lost, because no place on this machine can take it", error)
            _close([self.stream])
            self.stream = cast(IO[bytes], LostFile(error))


def _log(level: int, message: str, error: OSError | StoreError) -> None:
    if current_app:
        current_app.logger.log(level, "%s: %s", message, error)


class ReceivingParser(FormDataParser):
    """Parses a form exactly as it was sent, its file parts landing where the store of the application wants them."""

    def parse(
        self, stream: IO[bytes], mimetype: str, content_length: int | None, options: dict[str, str] | None = None
    ) -> Any:
        if mimetype != "multipart/form-data":
            return super().parse(stream, mimetype, content_length, options)
        _keep_freed_memory()
        boundary = (options or {}).get("boundary", "").encode(errors="ignore")
        pieces = cast(IO[bytes], Pieces(stream, boundary, content_length))
        is_small = content_length is not None and content_length <= MEMORY_SIZE
        provider = None if is_small or not _is_default(self.stream_factory) else _receiving_provider()
        landings: list[_Landing] = []
        land = functools.partial(_land, provider, landings, self.stream_factory)
        self.stream_factory = cast("TStreamFactory", land)
        try:
            _, form, files = super().parse(pieces, mimetype, content_length, options)
        except BaseException:
            _close(landing.stream for landing in landings)
            raise
        if not files:
            _close(landing.stream for landing in landings)  # the body broke off
        for file in itertools.chain.from_iterable(files.listvalues()):
            file.stream = cast(_Landing, file.stream).stream
        return stream, form, files


def request_class(base: type[Request]) -> type[Request]:
    """Return a request class with :class:`ReceivingParser`, which works below a parser of the developer."""
    parser = base.form_data_parser_class
    if issubclass(parser, ReceivingParser):
        return base  # of another application
    bases = (ReceivingParser,) if parser is FormDataParser else (parser, ReceivingParser)
    return type("ReceivingRequest", (base,), {"form_data_parser_class": type("ReceivingParser", bases, {})})


def _receiving_provider() -> type[BaseStore] | None:
    """Return the store class of the current application, if there is one and it is to receive uploads."""
    state = current_app.extensions.get("store") if current_app else None
    if state is None or not Settings(state.app).receive:
        return None
    provider: type[BaseStore] = state.provider
    return provider


def _is_default(stream_factory: Callable[..., IO[bytes]]) -> bool:
    """Return whether the request class of the developer leaves it to Werkzeug where uploads land."""
    return getattr(stream_factory, "__func__", None) is Request._get_file_stream


def _land(
    provider: type[BaseStore] | None,
    landings: list[_Landing],
    default: Callable[..., IO[bytes]],
    total_content_length: int | None,
    content_type: str | None,
    filename: str | None,
    content_length: int | None = None,
) -> _Landing:
    def open_stream() -> IO[bytes]:
        stream = None
        if provider is not None and len(landings) < MAX_FILES:
            stream = provider().receive(filename or "", content_type or "", content_length or None)
        return default(total_content_length, content_type, filename, content_length) if stream is None else stream

    landing = _Landing(open_stream)
    landings.append(landing)
    return landing


def _close(streams: Iterable[IO[bytes]]) -> None:
    for stream in streams:
        # What could not be written before cannot be now; that error is on its way already.
        with contextlib.suppress(OSError, StoreError):
            stream.close()


@functools.cache
def _keep_freed_memory() -> None:
    """Have the C library keep some MiB of freed memory; once a process is enough."""
    bytes(_LARGE_BLOCK_SIZE)
