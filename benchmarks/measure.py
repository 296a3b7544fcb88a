"""Run a server of one application, and read what it costs. On Linux."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

#: gunicorn's kinds of worker, and another server.
WORKERS = {
    "sync": ["gunicorn", "-k", "sync"],
    "gthread": ["gunicorn", "-k", "gthread", "--threads", "4"],
    "waitress": ["waitress", "--threads", "4", "--listen", "127.0.0.1:0"],
}

GUNICORN = """
bind = "127.0.0.1:0"
workers = 1
timeout = 600
loglevel = "info"
# Since gunicorn 25 there is one, below the home directory; earlier ones pass over this line.
control_socket_disable = True
"""


@contextmanager
def serve(folder: Path, worker: str) -> Iterator[tuple[int, int]]:
    """Return a block with a server of ``served:app`` in a folder, in one process.

    What the server holds back in temporary files is in that folder too.

    :returns: The port on loopback, and the process that answers.
    """
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    (folder / "gunicorn.conf.py").write_text(GUNICORN, encoding="utf-8")
    command = [sys.executable, "-m", *WORKERS[worker], "served:app"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    server = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        yield _port_and_process(server.stderr, server.pid)
    finally:
        server.terminate()
        server.wait()


def _port_and_process(log: IO[str], pid: int) -> tuple[int, int]:
    port, lines = None, []
    for line in log:
        lines.append(line)
        if "Listening at" in line or "Serving on" in line:
            port = int(line.rpartition(":")[2].split()[0])
        if "Booting worker" in line:
            pid = int(line.rpartition(" ")[2])
        if port and ("Booting worker" in line or "Serving on" in line):
            threading.Thread(target=_show_errors, args=[log], daemon=True).start()
            return port, pid
    raise SystemExit("The server did not start:\n" + "".join(lines))


def _show_errors(log: IO[str]) -> None:
    for line in log:
        if "[INFO]" not in line:
            sys.stderr.write(line)


def cpu_seconds(pid: int) -> float:
    """Return the time that all threads of a process have computed, in user space and in the kernel."""
    # The clock of another process, as clock_getcpuclockid(3) names it: nanoseconds, where /proc counts by ten
    # milliseconds.
    return time.clock_gettime(~pid << 3 | 2)


def written_bytes(pid: int) -> int:
    """Return how much a process has written to files."""
    # wchar is what it has given to write(2), copy_file_range(2) and sendfile(2). Sockets are not in it: servers use
    # send(2) for them. write_bytes is no good here: it counts whole pages as they become dirty, and none on a tmpfs.
    return _number(Path(f"/proc/{pid}/io"), "wchar:")


def peak_memory(pid: int) -> int:
    """Return the largest resident size of a process in bytes, since it started or since ``forget_peak``."""
    return _number(Path(f"/proc/{pid}/status"), "VmHWM:") * 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _number(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
