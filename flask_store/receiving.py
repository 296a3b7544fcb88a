"""Where an upload's bytes land while the request is parsed.

Werkzeug writes each file part to a temporary file, and saving it writes every byte again. Here the part is written
where its store wants it, so that saving a large one is giving it a name.
"""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from flask import Request, current_app
from werkzeug.formparser import FormDataParser

from .stores.staging import StagedFile

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from .stores.base import BaseStore

#: Largest upload that is held in memory, in bytes. Above it a file of its own is cheaper, as measured on Linux.
MEMORY_SIZE = 256 * 1024

#: Bytes asked of the server at a time. With less the reading costs more than the parsing, as measured with gunicorn.
READ_AHEAD_SIZE = 512 * 1024

# glibc gives freed memory back to the system beyond twice the largest block that it ever mapped and freed (mallopt(3),
# M_MMAP_THRESHOLD, "dynamic"). Buffers of some 100 KiB that are freed and asked for again are then paged in anew each
# time, which costs more than reading and parsing an upload. One block of this size is enough for all of them.
_LARGE_BLOCK_SIZE = 4 * 1024 * 1024


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

    def publish(self, publish: Callable[[StagedFile], str]) -> str:
        """Have the staged file published, and keep a read-only handle on its bytes.

        Nobody writes into the stored file through the upload then, and it cannot be published again: two names of
        one file would change together.

        :param publish: Gives the staged file its name and returns where it is.
        """
        assert self.staged is not None
        path = publish(self.staged)
        published = open(path, "rb")
        self.staged.close()
        self.staged, self.file = None, published
        return path

    def write(self, data: ReadableBuffer, /) -> int:
        if isinstance(self.file, io.BytesIO) and self.file.tell() + memoryview(data).nbytes > MEMORY_SIZE:
            self._roll_over()
        return self.file.write(data)

    def _roll_over(self) -> None:
        position, content = self.file.tell(), self.file
        assert isinstance(content, io.BytesIO)
        try:
            self.staged = self._stage()
        except OSError:
            # This upload may not be meant for the store at all; if it is, saving it says what is wrong.
            self.file = tempfile.TemporaryFile()
        else:
            self.file = self.staged.stream
        self.file.write(content.getbuffer())
        self.file.seek(position)

    def read(self, size: int | None = -1, /) -> bytes:
        return self.file.read(-1 if size is None else size)

    def read1(self, size: int = -1, /) -> bytes:
        return self.file.read1(size)  # type: ignore[attr-defined, no-any-return]  # all files here have it

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        return self.file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]  # all files here have it

    def readline(self, size: int | None = -1, /) -> bytes:
        return self.file.readline(-1 if size is None else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def truncate(self, size: int | None = None, /) -> int:
        return self.file.truncate(size)

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return self.file.writable()

    def close(self) -> None:
        if not self.closed:
            super().close()
            (self.staged or self.file).close()


class ReceivingRequest(Request):
    """A request whose file parts land where the store of the application wants them."""

    def make_form_data_parser(self) -> FormDataParser:
        parser = super().make_form_data_parser()
        state = current_app.extensions.get("store")
        store: BaseStore | None = state and state.provider()
        if store is None or not store.settings.receive:
            return parser
        parser.stream_factory = functools.partial(_land, store, parser.stream_factory)
        if self.content_length is None or self.content_length > MEMORY_SIZE:
            _keep_freed_memory()
            parser.parse = functools.partial(_parse_ahead, parser.parse)  # type: ignore[method-assign]
        return parser


def request_class(base: type[Request]) -> type[Request]:
    """Return a request class that also receives uploads for the store."""
    return type(base.__name__, (ReceivingRequest, base), {"__module__": base.__module__})


@functools.cache
def _keep_freed_memory() -> None:
    """Have the C library keep some MiB of freed memory; once a process is enough."""
    bytes(_LARGE_BLOCK_SIZE)


def _land(
    store: BaseStore,
    default: Callable[..., IO[bytes]],
    total_content_length: int | None,
    content_type: str | None,
    filename: str | None,
    content_length: int | None = None,
) -> IO[bytes]:
    stream = store.receive(filename or "", content_type or "", content_length or None)
    if stream is not None:
        return stream
    return default(total_content_length, content_type, filename, content_length)


def _parse_ahead(parse: Callable[..., Any], stream: IO[bytes], mimetype: str, *args: Any, **kwargs: Any) -> Any:
    if mimetype != "multipart/form-data":
        return parse(stream, mimetype, *args, **kwargs)
    _, form, files = parse(_ReadAhead(stream), mimetype, *args, **kwargs)
    return stream, form, files


class _ReadAhead:
    """Reads a stream in large steps and gives it in the parser's small ones."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._buffer = b""
        self._position = 0

    def read(self, size: int) -> bytes:
        if self._position >= len(self._buffer):
            self._buffer, self._position = self._stream.read(READ_AHEAD_SIZE), 0
        start = self._position
        self._position += size
        return self._buffer[start : self._position]
