"""The body of a multipart request, in pieces that Werkzeug's decoder reads right.

The decoder loses its place where a piece ends inside a delimiter line: after ``--boundary-`` it adds a carriage return
to the part, and after a padded ``--boundary`` it takes the delimiter for bytes of the part (Werkzeug, issue 3285). So
no piece here ends between the line break before a delimiter and the line break after it.
"""

from __future__ import annotations

import re
from typing import IO

#: Bytes asked of the server at a time. With less the reading costs more than the parsing, as measured with gunicorn.
READ_AHEAD_SIZE = 512 * 1024

#: Most white space after a boundary, in bytes, that is held until the end of the line has come. A request with more of
#: it at the end of a piece is refused: the decoder would add the delimiter to the part.
MAX_PADDING = 1024

# White space that is no line break, as Werkzeug's decoder has it.
_PADDING = b" \t\v\f"


class Pieces:
    """Reads a body in large steps and returns it in pieces, none of which ends inside a delimiter line.

    :param stream: The body; it stays open.
    :param boundary: The boundary of the body, without the dashes before it.
    """

    def __init__(self, stream: IO[bytes], boundary: bytes) -> None:
        self._stream = stream
        self._delimiter = b"--" + boundary
        # Part of a delimiter, and a delimiter line that may go on. Neither needs a line break in the preamble.
        starts = [self._delimiter[:size] for size in range(len(self._delimiter) - 1, 0, -1)]
        alternatives = rb"|".join(map(re.escape, starts))
        self._begun = re.compile(rb"(?:(?:\r\n?|\n)(?:%s)?|%s)\Z" % (alternatives, alternatives))
        self._begun_ends = (b"\r", b"\n", *starts)
        self._unfinished = re.compile(
            rb"(?:\r\n?|\n)?%s(?:-|[%s]*\r?)\Z" % (re.escape(self._delimiter), re.escape(_PADDING))
        )
        # Longest unfinished delimiter line: two line breaks, the delimiter, the padding and a byte after that.
        self._reach = len(self._delimiter) + MAX_PADDING + 5
        self._buffer = b""
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most ``size`` and the rest of a delimiter line; none at the end of the body.

        :param size: In bytes; everything that is left if it is negative.
        :raises ValueError: If a piece would end after more than :data:`MAX_PADDING` bytes of padding.
        """
        if size is None or size < 0:
            left, self._buffer, self._position = self._buffer[self._position :], b"", 0
            return left + self._stream.read()
        if self._position >= len(self._buffer):
            self._fill()
        length = min(size, len(self._buffer) - self._position)
        while (kept := length - self._held(length)) == 0 and length:
            # The whole piece may be the start of a delimiter line: more bytes decide that.
            if self._position + length == len(self._buffer) and not self._fill():
                kept = length  # the end of the body
                break
            length = min(length + self._reach, len(self._buffer) - self._position)
        start = self._position
        self._position += kept
        return self._buffer[start : self._position]

    def _fill(self) -> bool:
        """Read more behind what is left; return False at the end of the body."""
        more = self._stream.read(READ_AHEAD_SIZE)
        self._buffer, self._position = self._buffer[self._position :] + more, 0
        return bool(more)

    def _held(self, length: int) -> int:
        """Return how many bytes at the end of a piece may be the start of a delimiter line."""
        end = self._position + length
        tail = self._buffer[max(self._position, end - self._reach) : end]
        self._check_padding(tail, end)
        # Most pieces end in the middle of a file: plain searches find that out faster than expressions.
        if self._delimiter in tail and (unfinished := self._unfinished.search(tail)):
            return len(tail) - unfinished.start()
        if not tail.endswith(self._begun_ends):
            return 0
        begun = self._begun.search(tail, max(0, len(tail) - len(self._delimiter) - 2))
        # A line break that ends a delimiter line begins no other.
        if begun is None or self._unfinished.search(tail[: begun.start()]):
            return 0
        return len(tail) - begun.start()

    def _check_padding(self, tail: bytes, end: int) -> None:
        if len(tail) - len(tail.rstrip(_PADDING)) > MAX_PADDING:
            piece = self._buffer[self._position : end]
            if piece.rstrip(_PADDING).endswith(self._delimiter):
                raise ValueError(f"a delimiter has more than {MAX_PADDING} bytes of padding")
