"""What this process has open: other threads of it, those of servers, open and close files of their own all the time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def open_files(directory: str | Path) -> list[str]:
    """Return the paths of the files below a directory that are open, each as often as it is; deleted ones too."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile, as is the one that lists them
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    start = os.path.join(os.path.realpath(directory), "")
    return sorted(path for path in found if path.startswith(start))
