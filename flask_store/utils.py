"""Helpers of the documented API."""

from __future__ import annotations


def path_to_uri(path: str) -> str:
    """Return a path with every backslash turned into the slash of a URL. Nothing is percent-encoded."""
    return path.replace("\\", "/")
