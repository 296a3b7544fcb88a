"""Small helpers that several rooms need."""

from __future__ import annotations

import contextlib
from typing import IO


def path_to_uri(path: str) -> str:
    """Return a path with every backslash turned into the slash of a URL. Nothing is percent-encoded."""
    return path.replace("\\", "/")


def rewind(stream: IO[bytes]) -> None:
    """Go to the start of a stream, if it can."""
    # Not every stream says honestly whether it can seek, and some have no seek at all.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        stream.seek(0)
