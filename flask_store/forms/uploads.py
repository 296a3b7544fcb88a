"""``Upload``: an upload while its field is validated."""

from __future__ import annotations

from typing import IO, Any

from werkzeug.datastructures import FileStorage

from .. import naming
from ..stores.streams import borrowed, owned
from ..utils import rewind


class Upload(FileStorage):
    """An upload whose stream no validator can close.

    A validator may replace its stream or its filename. :meth:`restore` undoes that.
    """

    def __init__(self, stream: IO[bytes], filename: str, **kwargs: Any) -> None:
        #: The bytes that arrived. The request, or whoever opened them, closes them.
        self.arrived = owned(stream)
        super().__init__(stream, filename, **kwargs)
        self.remember()

    @classmethod
    def of(cls, file: FileStorage) -> Upload:
        """Return an upload on the same stream whose name is safe, so that every validator judges the final name."""
        return cls(file.stream, naming.clean(file.filename or ""), name=file.name, headers=file.headers)

    @property
    def stream(self) -> IO[bytes]:
        """The bytes; closing it does nothing."""
        return self._stream

    @stream.setter
    def stream(self, stream: IO[bytes]) -> None:
        self._stream = borrowed(stream)

    @property
    def identity(self) -> str | int:
        """The same for each object that stands for this upload, while one of them lives."""
        return id(self.arrived)

    @property
    def is_replaced(self) -> bool:
        """Whether the stream is another one than the one that arrived."""
        return owned(self.stream) is not self.arrived

    def remember(self) -> None:
        """Have :meth:`restore` bring back the stream and the filename of this moment."""
        self._remembered = self.stream, self.filename

    def restore(self) -> None:
        """Bring back the stream, at its start, and the filename."""
        self.stream, self.filename = self._remembered
        rewind(self.stream)
