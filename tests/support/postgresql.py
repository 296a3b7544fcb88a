"""A PostgreSQL server to test against, and a proxy in front of it that loses the answer to COMMIT."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Debian keeps the server's programs out of the search path.
_PLACES = (os.environ.get("PATH", ""), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True))

# Nothing of a test has to survive a power cut.
_SETTINGS = ("listen_addresses=127.0.0.1", "fsync=off", "synchronous_commit=off", "full_page_writes=off")

PATIENCE = 30


def missing_programs() -> list[str]:
    """Return the programs of PostgreSQL that are not on this machine."""
    return [name for name in ("initdb", "pg_ctl") if _program(name) is None]


def _program(name: str) -> str | None:
    return next(filter(None, (shutil.which(name, path=place) for place in _PLACES)), None)


@contextlib.contextmanager
def server(directory: Path) -> Iterator[tuple[str, int]]:
    """Return a block with a server; its value is the server's address. Anybody is its superuser ``tester``.

    :param directory: An empty directory that every user can reach.
    """
    data = directory / "data"
    data.mkdir()
    port = _free_port()
    # The server refuses to run as root.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    if user is not None:
        directory.chmod(0o755)
        os.chown(data, user.pw_uid, user.pw_gid)

    def run(name: str, *arguments: str) -> None:
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user is not None else {}
        command = [str(_program(name)), "-D", str(data), *arguments]
        with (directory / f"{name}.log").open("ab") as log:
            result = subprocess.run(
                command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=PATIENCE, **as_user
            )
        assert result.returncode == 0, (directory / f"{name}.log").read_text()

    run("initdb", "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
    options = " ".join(["-p", str(port), "-k", str(data), *(f"-c {setting}" for setting in _SETTINGS)])
    run("pg_ctl", "-w", "-l", str(data / "server.log"), "-o", options, "start")
    try:
        yield "127.0.0.1", port
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class LosingProxy:
    """Passes on what client and server say until a COMMIT comes: the server gets it, and the client no answer.

    :param target: Address of the server.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        #: Set while COMMIT is to be lost.
        self.is_losing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.address: tuple[str, int] = self._listener.getsockname()
        self._start(self._accept)

    def _start(self, function: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=function, args=arguments, name="losing-proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target, PATIENCE) as server:
            is_lost = threading.Event()
            self._start(self._pass_answers, server, client, is_lost)
            with contextlib.suppress(OSError):
                while chunk := client.recv(65536):
                    if self.is_losing.is_set() and b"COMMIT" in chunk:
                        is_lost.set()
                    server.sendall(chunk)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_WR)

    def _pass_answers(self, server: socket.socket, client: socket.socket, is_lost: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := server.recv(65536):
                if is_lost.is_set():  # the server has answered, so it has committed
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(chunk)
            client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)
