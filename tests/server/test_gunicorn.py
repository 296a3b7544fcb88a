"""Upload and fetch back through gunicorn, over a socket."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest

BOUNDARY = "0123456789abcdef"
TIMEOUT = 20
CONTENT_TYPE = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def multipart(filename, content):
    head = (
        f"--{BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="photo"; filename="{filename}"\r\n'
        "Content-Type: text/html\r\n\r\n"
    )
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


@pytest.fixture
def send(server):
    """Return a function that uploads a file and returns its URL."""

    def send_file(filename, content):
        response = server.request("POST", "/", multipart(filename, content), CONTENT_TYPE)
        assert response.status == 200, response.content
        return response.content.decode()

    return send_file


@pytest.fixture
def send_half(server):
    """Return a function that sends the first half of a request with a file of 20 MB and returns the connection."""

    def send_half_file(filename):
        body = multipart(filename, b"x" * 20_000_000)
        connection = server.connect()
        connection.putrequest("POST", "/")
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Content-Type", CONTENT_TYPE["Content-Type"])
        connection.endheaders(body[:10_000_000])
        return connection

    return send_half_file


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_a_file_comes_back_byte_for_byte(server, send, size):
    content = os.urandom(size)

    url = send("写真.jpg", content)
    response = server.request("GET", url)

    assert url.startswith("/uploads/photos/" + quote("写真"))
    assert response.status == 200
    assert response.content == content
    assert response.headers["Content-Type"] == "image/jpeg"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]


def test_a_part_of_a_file_comes_back(server, send):
    url = send("a.mp4", bytes(range(256)) * 1000)

    response = server.request("GET", url, headers={"Range": "bytes=1000-100999"})

    assert response.status == 206
    assert response.content == (bytes(range(256)) * 1000)[1000:101000]
    assert response.headers["Content-Range"] == "bytes 1000-100999/256000"


def test_head_tells_the_length_and_sends_nothing(server, send):
    url = send("page.html", b"x" * 1000)
    connection = server.connect()

    connection.request("HEAD", url)
    with connection.getresponse() as response:
        assert response.status == 200
        assert response.headers["Content-Length"] == "1000"
        assert response.headers["Content-Disposition"] == "attachment; filename=page.html"
        assert response.fp.read() == b""
    connection.close()


def test_a_file_that_a_browser_has_is_not_sent_again(server, send):
    url = send("a.txt", b"known")
    known = server.request("GET", url).headers["ETag"]

    response = server.request("GET", url, headers={"If-None-Match": known})

    assert response.status == 304
    assert response.content == b""
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["../application.py", "../../application.py", "..%2f..%2fapplication.py", "%2e%2e/%2e%2e/application.py"]
)
def test_a_path_that_climbs_is_not_found_as_it_comes_over_the_wire(server, path):
    response = server.request("GET", f"/uploads/{path}")

    assert response.status == 404
    assert b"Store" not in response.content


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(server, send, send_half):
    before = server.files()

    send_half("gone.txt").close()

    # One worker takes one request after the other: when this one is answered, that one is over.
    pid = server.request("GET", "/pid").content.decode()
    assert server.files() == before
    assert unnamed_file_size(pid, server.root) == 0
    assert send("gone.txt", b"here now").endswith("/gone.txt")


@pytest.mark.receiving
def test_a_server_that_is_killed_in_the_middle_of_an_upload_leaves_nothing(server, send, send_half):
    before = server.files()
    pid = int(server.request("GET", "/pid").content)

    connection = send_half("killed.txt")
    wait_until(lambda: unnamed_file_size(pid, server.root) > 5_000_000)
    os.kill(pid, signal.SIGKILL)
    connection.close()

    assert server.request("GET", "/pid").content != str(pid).encode()
    assert server.files() == before
    assert send("killed.txt", b"here now").endswith("/killed.txt")


def unnamed_file_size(pid, root):
    """Return the size of the file without a name that a process has open in a directory, 0 if there is none."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            target = os.readlink(descriptor)
            if target.startswith(f"{root}/") and target.endswith(" (deleted)"):
                return descriptor.stat().st_size
    return 0


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline


@contextmanager
def traced(server, calls, log):
    """Return a block in which strace writes down what the server calls, and the process that it traces."""
    if shutil.which("strace") is None:
        assert "CI" not in os.environ, "strace is missing: apt-get install strace"
        pytest.skip("strace is not installed")
    pid = server.request("GET", "/pid").content.decode()
    command = ["strace", "-e", f"trace={calls}", "-o", str(log), "-p", pid]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        try:
            assert "attached" in strace.stderr.readline()
            yield pid
        finally:
            strace.send_signal(signal.SIGINT)


def test_a_chunked_upload_arrives_whole(server):
    content = os.urandom(1_000_000)
    body = multipart("chunked.bin", content)
    connection = server.connect()

    connection.request("POST", "/", iter([body[:300_000], body[300_000:]]), CONTENT_TYPE, encode_chunked=True)
    url = connection.getresponse().read().decode()
    connection.close()

    assert server.request("GET", url).content == content


def test_a_large_file_goes_out_by_sendfile(server, send, tmp_path):
    url = send("large.mp4", b"x" * 5_000_000)
    log = tmp_path / "calls"

    with traced(server, "sendfile", log):
        response = server.request("GET", url)

    assert len(response.content) == 5_000_000
    assert sum(map(int, re.findall(r"^sendfile\(.* = (\d+)$", log.read_text(), re.MULTILINE))) == 5_000_000


@pytest.mark.receiving
def test_a_large_upload_is_written_once_and_linked(server, send, tmp_path):
    log = tmp_path / "calls"
    content = os.urandom(5_000_000)

    with traced(server, "linkat,rename,renameat,renameat2,copy_file_range,sendfile", log) as pid:
        before = bytes_written(pid)
        url = send("once.bin", content)
        written = bytes_written(pid) - before

    assert 5_000_000 <= written <= 1.02 * 5_000_000
    calls = [line for line in log.read_text().splitlines() if "(" in line]
    assert len(calls) == 1, calls
    assert re.match(r'linkat\(.*"/proc/self/fd/\d+",.*once\.bin".* = 0', calls[0])
    assert server.request("GET", url).content == content


def bytes_written(pid):
    """Return what a process has given to write(2) and its kin; servers use send(2) for their sockets."""
    return int(re.search(r"^wchar: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE).group(1))
