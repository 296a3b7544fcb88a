"""An S3 that keeps nothing but the names, for measuring what clients of it cost. On Linux.

    python benchmarks/null_s3.py

Listens on a free port of loopback, prints it, and ends with its standard input. It believes every signature, throws
bodies away unseen, and answers what boto3 needs to save: PutObject (412 with ``If-None-Match: *`` for a key that is
there), HeadObject, uploads in parts, HeadBucket, ListBuckets.

Two paths are its own. ``PUT /-/behaviour`` takes ``{"delay": seconds before each answer, "continue_delay": seconds
before each "100 Continue", "rate": most bytes a second on each connection, 0 for any}``. ``GET /-/requests`` returns
the kinds of the requests since the last one.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from http import HTTPStatus
from urllib.parse import urlsplit

# Read of a body at a time. Small where the rate is limited, so that the pace is even.
CHUNK_SIZE = 1 << 20
PACED_CHUNK_SIZE = 1 << 17

BUCKETS = (
    "<ListAllMyBucketsResult><Owner><ID>o</ID></Owner><Buckets><Bucket><Name>benchmark</Name>"
    "<CreationDate>2026-01-01T00:00:00.000Z</CreationDate></Bucket></Buckets></ListAllMyBucketsResult>"
)
CREATED = (
    "<InitiateMultipartUploadResult><Bucket>benchmark</Bucket><Key>key</Key><UploadId>upload</UploadId>"
    "</InitiateMultipartUploadResult>"
)
COMPLETED = (
    "<CompleteMultipartUploadResult><Bucket>benchmark</Bucket><Key>key</Key><ETag>&quot;etag&quot;</ETag>"
    "</CompleteMultipartUploadResult>"
)
TAKEN = "<Error><Code>PreconditionFailed</Code><Message>There is such an object.</Message></Error>"

Headers = dict[str, str]
Answer = tuple[int, Headers, str]


class NullS3:
    """What all connections share."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.continue_delay = 0.0
        self.rate = 0.0
        self._keys: set[str] = set()
        self._requests: list[str] = []

    def answer(self, method: str, target: str, headers: Headers, body: bytes) -> Answer:
        path, query = urlsplit(target).path, urlsplit(target).query
        if path.startswith("/-/"):
            return self._own(path, body)
        time.sleep(self.delay)  # what is simulated: the way there and back
        if method == "PUT" and "uploadId=" in query:
            self._requests.append("PUT part")
            return 200, {"ETag": '"etag"', **_checksum(headers)}, ""
        if method == "PUT":
            self._requests.append("PUT")
            return self._put(path, headers)
        if method == "POST":
            self._requests.append("POST")
            if "uploadId=" in query:
                self._keys.add(path)
            return 200, {}, COMPLETED if "uploadId=" in query else CREATED
        self._requests.append(method)
        if method == "GET" and path == "/":
            return 200, {}, BUCKETS
        if method in ("GET", "HEAD"):
            found = path.count("/") == 1 or path in self._keys
            return 200 if found else 404, {"ETag": '"etag"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, ""
        return 204, {}, ""

    def _put(self, path: str, headers: Headers) -> Answer:
        if headers.get("if-none-match") == "*" and path in self._keys:
            return 412, {}, TAKEN
        self._keys.add(path)
        return 200, {"ETag": '"etag"', **_checksum(headers)}, ""

    def _own(self, path: str, body: bytes) -> Answer:
        if path == "/-/behaviour":
            behaviour = json.loads(body)
            self.delay, self.continue_delay = behaviour["delay"], behaviour["continue_delay"]
            self.rate = behaviour["rate"]
            return 204, {}, ""
        requests, self._requests = self._requests, []
        return 200, {}, json.dumps(requests)


def _checksum(headers: Headers) -> Headers:
    """Return the checksums of a request, which S3 repeats in its answer."""
    return {name: value for name, value in headers.items() if name.startswith("x-amz-checksum-")}


def serve(s3: NullS3, connection: socket.socket) -> None:
    """Answer the requests of one connection, one after the other."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    scrap = memoryview(bytearray(CHUNK_SIZE))
    received = b""
    with connection:
        while head := _head(connection, received):
            lines, received = head
            method, target, _ = lines[0].split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if headers.get("expect") == "100-continue":
                time.sleep(s3.continue_delay)  # as above
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            length = int(headers.get("content-length", 0))
            if target.startswith("/-/"):
                while len(received) < length:
                    received += connection.recv(length - len(received))
            elif not _discard(connection, length, len(received), s3.rate, scrap):
                return
            status, more, text = s3.answer(method, target, headers, received)
            received = b""
            fields = "".join(f"{name}: {value}\r\n" for name, value in more.items())
            start = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{fields}Content-Length: {len(text)}\r\n\r\n"
            connection.sendall((start + text).encode())


def _head(connection: socket.socket, received: bytes) -> tuple[list[str], bytes] | None:
    """Return the lines before a body, and what came with them of the body; None at the end of the connection."""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        if not more:
            return None
        received += more
    head, _, rest = received.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), rest


def _discard(connection: socket.socket, length: int, done: int, rate: float, scrap: memoryview) -> bool:
    """Receive the rest of a body without copying it; return False if it breaks off."""
    start = time.monotonic()
    size = PACED_CHUNK_SIZE if rate else CHUNK_SIZE
    while done < length:
        count = connection.recv_into(scrap, min(length - done, size), socket.MSG_TRUNC | socket.MSG_WAITALL)
        if not count:
            return False
        done += count
        if rate:
            time.sleep(max(0.0, start + done / rate - time.monotonic()))  # what is simulated: the rate
    return True


def main() -> None:
    s3 = NullS3()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=_accept, args=(s3, listener), daemon=True).start()
        sys.stdin.read()


def _accept(s3: NullS3, listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(s3, connection), daemon=True).start()


if __name__ == "__main__":
    main()
