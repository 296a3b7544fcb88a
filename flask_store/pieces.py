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

# Bytes that can stand in a delimiter line behind its boundary. Compiled once: each request has a boundary of its
# own, and compiling an expression takes longer than parsing a small form.
_LINE_END = re.compile(rb"-{0,2}[%s]{0,%d}" % (_PADDING, MAX_PADDING))


class Pieces:
    """Reads a body in large steps and returns it in pieces, none of which ends inside a delimiter line.

    :param stream: The body; it stays open.
    :param boundary: The boundary of the body, without the dashes before it.
    :param content_length: Size of the body in bytes, if it is declared.
    """

    def __init__(self, stream: IO[bytes], boundary: bytes, content_length: int | None = None) -> None:
        self._stream = stream
        self._delimiter = b"--" + boundary
        # A stream may make a buffer of the size that is asked for, however small the body is.
        self._read_size = min(READ_AHEAD_SIZE, content_length or READ_AHEAD_SIZE)
        # Longest delimiter line: a line break on each side, the delimiter, its closing dashes, the padding.
        self._reach = len(self._delimiter) + MAX_PADDING + 6
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
        while True:
            piece = self._buffer[self._position : self._position + size]
            end = self._safe_end(piece)
            if end == len(piece) > 0 or end > 0 and len(piece) == size:
                break
            # More bytes decide how the line goes on, unless the body ends here.
            if len(piece) == size > 0 and self._position + size < len(self._buffer):
                size += self._reach
            elif not self._fill():
                end = len(piece)
                break
        self._position += end
        return piece[:end]

    def _fill(self) -> bool:
        """Read more behind what is left; return False at the end of the body."""
        more = self._stream.read(self._read_size)
        self._buffer, self._position = self._buffer[self._position :] + more, 0
        return bool(more)

    def _safe_end(self, piece: bytes) -> int:
        """Return where a piece can end: at its own end, or before a delimiter line that may go on behind it."""
        end, before = len(piece), -1
        lowest = max(0, end - self._reach)
        # A line break that is held may also end a delimiter line, which may follow another in its turn.
        while end != before:
            before = end
            line = max(lowest, 1 + piece.rfind(b"\n", lowest, end), 1 + piece.rfind(b"\r", lowest, end))
            start = line + self._find_delimiter(piece[line:end])
            if start < end or start == line:
                end = _before_line_break(piece, start)
        self._check_padding(piece, end)
        return end

    def _find_delimiter(self, line: bytes) -> int:
        """Return where a delimiter begins that a line, or its first bytes, may end with; the line's end if none does.

        In the preamble it need not be the start of the line.
        """
        start = line.find(self._delimiter)
        while start >= 0 and not _LINE_END.fullmatch(line, start + len(self._delimiter)):
            start = line.find(self._delimiter, start + 1)
        if start < 0:
            start = line.find(b"-", max(0, len(line) - len(self._delimiter) + 1))
            while start >= 0 and not self._delimiter.startswith(line[start:]):
                start = line.find(b"-", start + 1)
        return start if start >= 0 else len(line)

    def _check_padding(self, piece: bytes, end: int) -> None:
        tail = piece[max(0, end - MAX_PADDING - 1) : end]
        if (
            len(tail) > MAX_PADDING
            and not tail.strip(_PADDING)
            and piece[:end].rstrip(_PADDING).endswith(self._delimiter)
        ):
            raise ValueError(f"a delimiter has more than {MAX_PADDING} bytes of padding")


def _before_line_break(data: bytes, position: int) -> int:
    """Return where the line break begins that ends at a position; the position, if there is none."""
    before = data[max(0, position - 2) : position]
    if before == b"\r\n":
        return position - 2
    return position - 1 if before.endswith((b"\r", b"\n")) else position
