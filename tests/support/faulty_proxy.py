"""A proxy between an HTTP client and a server, through real sockets, that fails as networks and servers fail."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

# Seconds that the proxy waits for a peer. No request of a test takes so long, so nothing waits for ever.
PATIENCE = 30

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
INTERNAL_ERROR = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
FORBIDDEN = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
NOT_FOUND = b"<Error><Code>NoSuchKey</Code><Message>The key does not exist.</Message></Error>"
NOT_S3 = b"<html><body><h1>It works!</h1></body></html>"


@dataclass(frozen=True)
class Request:
    """The head of a request, as the client sent it."""

    head: bytes
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]

    @classmethod
    def parse(cls, head: bytes) -> Request:
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        parts = urlsplit(target)
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        return cls(head, method, unquote(parts.path), parse_qs(parts.query, keep_blank_values=True), headers)

    @property
    def size(self) -> int:
        """Size of the body in bytes."""
        return int(self.headers.get("content-length", 0))

    @property
    def operation(self) -> str:
        """What S3 calls the request."""
        if "uploads" in self.query:
            return "CreateMultipartUpload" if self.method == "POST" else "ListMultipartUploads"
        if "partNumber" in self.query:
            return "UploadPart"
        if "uploadId" in self.query:
            return "CompleteMultipartUpload" if self.method == "POST" else "AbortMultipartUpload"
        if "list-type" in self.query:
            return "ListObjectsV2"
        return f"{self.method.title()}Object"


class Exchange:
    """A request that has arrived, and what a fault can do with it."""

    def __init__(
        self,
        request: Request,
        client: socket.socket,
        stream: BinaryIO,
        server: tuple[str, int],
        writes_names_as_go: bool = False,
    ) -> None:
        self.request = request
        self._client = client
        self._stream = stream
        self._server = server
        self._body: bytes | None = None
        self._writes_names_as_go = writes_names_as_go

    def receive(self) -> bytes:
        """Return the body of the request."""
        if self._body is None:
            if self.request.headers.get("expect", "").lower() == "100-continue":
                self._client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._body = self._stream.read(self.request.size)
            if len(self._body) < self.request.size:
                raise ConnectionAbortedError("the client has gone in the middle of its request")
        return self._body

    def receive_half(self) -> None:
        """Take half of the body of the request off the wire."""
        if self.request.headers.get("expect", "").lower() == "100-continue":
            self._client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._stream.read(self.request.size // 2)

    def pass_on(self, without: str | None = None) -> bytes:
        """Have the server carry out the request; return its whole answer.

        :param without: A header, in small letters, that the server does not get.
        """
        body = self.receive()
        with socket.create_connection(self._server, PATIENCE) as server:
            server.sendall(self._head_for_server(without) + body)
            answer = _receive_all(server)
        return _with_names_as_go(answer) if self._writes_names_as_go else answer

    def pass_on_half(self) -> None:
        """Have the server get half of the request's body, and then no more."""
        body = self.receive()
        with socket.create_connection(self._server, PATIENCE) as server:
            server.sendall(self._head_for_server() + body[: len(body) // 2])
            server.shutdown(socket.SHUT_WR)
            _receive_all(server)

    def _head_for_server(self, without: str | None = None) -> bytes:
        # All that is signed stays as it is. What a connection does is of that connection alone and never signed.
        own = {"connection", "expect", without}
        first, *lines = self.request.head.rstrip(b"\r\n").split(b"\r\n")
        kept = [line for line in lines if line.partition(b":")[0].decode().lower() not in own]
        return b"\r\n".join([first, *kept, b"Connection: close", b"", b""])

    def reply(self, status: str, content: bytes = b"", content_type: str = "application/xml") -> None:
        """Answer in place of the server."""
        body = b"" if self.request.method == "HEAD" else content
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        self.send(head.encode() + body)

    def send(self, answer: bytes) -> None:
        """Send the client an answer, or a part of one."""
        self._client.sendall(answer)

    def reset(self) -> None:
        """End the connection as a machine that has crashed and started again does."""
        # RST in place of FIN: see socket(7), SO_LINGER.
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def wait_until_client_has_gone(self) -> None:
        while self._client.recv(65536):
            pass


#: Deals with a request in place of the proxy, which then closes the connection.
Fault = Callable[[Exchange], None]


def without(*names: str) -> Fault:
    """Return a fault: the server's answer comes without some headers or, of XML, some elements."""

    def answer_without(exchange: Exchange) -> None:
        head, _, body = exchange.pass_on().partition(b"\r\n\r\n")
        for name in names:
            head = re.sub(rb"\r\n" + re.escape(name.encode()) + rb":[^\r\n]*", b"", head, flags=re.IGNORECASE)
            body = re.sub(rb"<(%b)>.*?</\1>" % re.escape(name.encode()), b"", body, flags=re.DOTALL)
        head = re.sub(rb"\r\nContent-Length:[^\r\n]*", b"", head, flags=re.IGNORECASE)
        size = b"" if "Content-Length" in names else b"\r\nContent-Length: %d" % len(body)
        exchange.send(head + size + b"\r\n\r\n" + body)

    return answer_without


def answered(status: str, code: str = "", content: bytes | None = None) -> Fault:
    """Return a fault: an answer in place of the server's, with S3's code where its body is no other."""
    body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode() if content is None else content

    def answer(exchange: Exchange) -> None:
        exchange.receive()
        exchange.reply(status, body)

    return answer


def refused_without_a_word(exchange: Exchange) -> None:
    exchange.receive()
    exchange.reply("400 Bad Request")


def slow_down(exchange: Exchange) -> None:
    exchange.receive()
    exchange.reply("503 Slow Down", SLOW_DOWN)


def internal_error(exchange: Exchange) -> None:
    exchange.receive()
    exchange.reply("500 Internal Server Error", INTERNAL_ERROR)


def internal_error_in_200(exchange: Exchange) -> None:
    """S3 may begin its answer to a long operation before it knows how that ends."""
    exchange.receive()
    exchange.reply("200 OK", INTERNAL_ERROR)


def forbidden(exchange: Exchange) -> None:
    exchange.receive()
    exchange.reply("403 Forbidden", FORBIDDEN)


def not_found(exchange: Exchange) -> None:
    exchange.receive()
    exchange.reply("404 Not Found", NOT_FOUND)


def not_s3(exchange: Exchange) -> None:
    """What a web server answers that was put in S3's place by mistake."""
    exchange.receive()
    exchange.reply("200 OK", NOT_S3, "text/html")


def reset(exchange: Exchange) -> None:
    exchange.reset()


def reset_in_the_request(exchange: Exchange) -> None:
    exchange.receive_half()
    exchange.reset()


def half_a_request(exchange: Exchange) -> None:
    exchange.pass_on_half()


def stall(exchange: Exchange) -> None:
    exchange.receive()
    exchange.wait_until_client_has_gone()


def late(exchange: Exchange) -> None:
    """The client gives up, and then the server gets its request all the same."""
    exchange.receive()
    exchange.wait_until_client_has_gone()
    exchange.pass_on()


def stored_but_stalled(exchange: Exchange) -> None:
    exchange.pass_on()
    exchange.wait_until_client_has_gone()


def no_answer(exchange: Exchange) -> None:
    exchange.pass_on()


def half_an_answer(exchange: Exchange) -> None:
    exchange.send(_half(exchange.pass_on()))


def head_of_an_answer(exchange: Exchange) -> None:
    head, blank, _ = exchange.pass_on().partition(b"\r\n\r\n")
    exchange.send(head + blank)


def stalled_answer(exchange: Exchange) -> None:
    exchange.send(_half(exchange.pass_on()))
    exchange.wait_until_client_has_gone()


def without_range(exchange: Exchange) -> None:
    """Some servers do not know ranges and answer with all they have, as HTTP allows."""
    exchange.send(exchange.pass_on(without="range"))


class FaultyProxy:
    """Passes requests on to a server, except for those that a test wants to fail.

    :param address: Host and port of the server.
    :param writes_names_as_go: Whether names of headers in answers are written as programs in Go do.
    """

    def __init__(self, address: tuple[str, int], writes_names_as_go: bool = False) -> None:
        self._address = address
        self._writes_names_as_go = writes_names_as_go
        self._rules: list[Callable[[Request], Fault | None]] = []
        self._lock = threading.Lock()
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._is_open = True
        #: The requests that have arrived.
        self.requests: list[Request] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._start(self._accept)

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()
        return f"http://{host}:{port}"

    def count(self, operation: str) -> int:
        """Return how many requests of an operation have arrived."""
        return sum(request.operation == operation for request in list(self.requests))

    def fail(self, operation: str, fault: Fault, times: Iterable[int] | None = (1,), key: str = "") -> None:
        """Have requests fail.

        :param operation: What S3 calls the requests, such as ``PutObject``.
        :param times: Which ones, counted from 1; None for all.
        :param key: End of the path of those that count.
        """
        chosen = None if times is None else frozenset(times)
        seen = 0

        def rule(request: Request) -> Fault | None:
            nonlocal seen
            if request.operation != operation or not request.path.endswith(key):
                return None
            seen += 1
            return fault if chosen is None or seen in chosen else None

        with self._lock:
            self._rules.append(rule)

    def settle(self) -> None:
        """Wait until all that has arrived is dealt with, also what the client does not wait for."""
        with self._lock:
            threads = self._threads[1:]  # the first one listens
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def close(self) -> None:
        """End every connection, and wait until all is over."""
        self._is_open = False
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(PATIENCE)
        self.settle()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while self._is_open:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._clients.add(client)
        try:
            # A client that has gone, and a server that ends a broken request, are what is wanted here.
            with contextlib.suppress(OSError), client, client.makefile("rb") as stream:
                client.settimeout(PATIENCE)
                self._exchange(client, stream)
        finally:
            with self._lock:
                self._clients.discard(client)

    def _exchange(self, client: socket.socket, stream: BinaryIO) -> None:
        head = _receive_head(stream)
        if not head:
            return
        request = Request.parse(head)
        exchange = Exchange(request, client, stream, self._address, self._writes_names_as_go)
        fault = self._choose_fault(request)
        if fault is not None:
            fault(exchange)
        else:
            exchange.send(exchange.pass_on())

    def _choose_fault(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            faults = [rule(request) for rule in self._rules]  # each counts, whichever is chosen
        return next(filter(None, faults), None)


@contextlib.contextmanager
def before(endpoint_url: str, writes_names_as_go: bool = False) -> Iterator[FaultyProxy]:
    """Return a block with a proxy before the server of a URL."""
    parts = urlsplit(endpoint_url)
    assert parts.hostname and parts.port
    proxy = FaultyProxy((parts.hostname, parts.port), writes_names_as_go)
    try:
        yield proxy
    finally:
        proxy.close()


def _with_names_as_go(answer: bytes) -> bytes:
    """Return an answer with ``X-Amz-Meta-Some-Name`` for ``x-amz-meta-some-name``."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    pairs = [line.partition(b":") for line in lines]
    return b"\r\n".join([first, *(name.title() + colon + value for name, colon, value in pairs)]) + blank + body


def _half(answer: bytes) -> bytes:
    """Return an answer with half of its body or, if it has none, half of its first line."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    return head + blank + body[: len(body) // 2] if body else head[: head.index(b"\r\n") // 2]


def _receive_head(stream: BinaryIO) -> bytes:
    """Return the first line of a request and its headers, or nothing if none came."""
    lines = []
    while (line := stream.readline()) not in (b"", b"\r\n"):
        lines.append(line)
    return b"".join(lines)


def _receive_all(server: socket.socket) -> bytes:
    """Return what a server sends until it closes the connection."""
    pieces = iter(lambda: server.recv(1024 * 1024), b"")
    return b"".join(pieces)
