"""A TCP proxy in front of a server: as slow as one likes, and at times not there at all."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

# Bytes that are passed on at a time; what a slow connection carries comes in steps of this size.
CHUNK_SIZE = 16 * 1024


class SlowProxy:
    """Passes bytes on unchanged, both ways. A server that signs its own address has to be told the proxy's.

    :param target: Host and port of the server.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        #: Bytes a second that each connection carries to the server, or None for all that come.
        self.rate: float | None = None
        #: Connections that were ever made.
        self.connections = 0
        #: Bytes that came from clients, whether they were passed on or not.
        self.received = 0
        self._passing = threading.Event()
        self._passing.set()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        # It keeps the port while nothing listens there: clients are refused, and nobody else gets it.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self._listener: socket.socket | None = None
        self.come_back()

    @property
    def url(self) -> str:
        """Where clients find the proxy."""
        host, port = self._place.getsockname()
        return f"http://{host}:{port}"

    def hold(self) -> None:
        """Keep what clients send from now on; the server hears nothing of it until :meth:`release`."""
        self._passing.clear()

    def release(self) -> None:
        """Pass on what was held, and what comes."""
        self._passing.set()

    def go_down(self) -> None:
        """Drop every connection, with all that is held of it, and refuse others."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # ends an accept that waits
            self._listener.close()
            self._listener = None
        self.drop_connections()

    def come_back(self) -> None:
        """Take connections again."""
        self._listener = socket.create_server(self._place.getsockname())
        _start(self._accept, self._listener)

    def drop_connections(self) -> None:
        """Drop every connection, with all that is held of it."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # it ends at this moment
                    connection.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def close(self) -> None:
        """End; nothing is passed on any more."""
        self.go_down()
        self.release()
        self._place.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the proxy is down
            while True:
                client, _ = listener.accept()
                self.connections += 1
                _start(self._connect, client)

    def _connect(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(self._target)
            except OSError:
                return
            with server:
                with self._lock:
                    self._open |= {client, server}
                answers = _start(self._pass_answers, server, client)
                self._pass_requests(client, server)
                answers.join()
                with self._lock:
                    self._open -= {client, server}

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(CHUNK_SIZE):
                self.received += len(chunk)
                self._passing.wait()
                with self._lock:
                    if server not in self._open:
                        return
                if self.rate is not None:
                    time.sleep(len(chunk) / self.rate)  # what it is for: the rate
                server.sendall(chunk)
        _end(server)

    def _pass_answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := server.recv(CHUNK_SIZE):
                client.sendall(chunk)
        _end(client)


def _start(function: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, name="slow-proxy", daemon=True)
    thread.start()
    return thread


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def in_front_of(url: str) -> Iterator[SlowProxy]:
    """Return a block with a proxy in front of the server of a URL."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    proxy = SlowProxy((parts.hostname, parts.port))
    try:
        yield proxy
    finally:
        proxy.close()
