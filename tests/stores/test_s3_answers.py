"""S3Store and services that answer in their own way: a server of the test's plays them."""

from __future__ import annotations

import base64
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flask_store import ServiceError
from flask_store.stores.s3 import S3Store

CONTENT = b"G" * 300_000


class Service(BaseHTTPRequestHandler):
    """Answers each PUT with a status and a code that the test sets, and each GET with an object that is damaged."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def handle_expect_100(self):
        self.server.expected.append(self.path)
        return super().handle_expect_100()

    def do_PUT(self):
        chunked = self.headers.get("X-Amz-Decoded-Content-Length")
        while chunked and (size := int(self.rfile.readline().partition(b";")[0], 16)):
            self.rfile.read(size + 2)
        while chunked and self.rfile.readline().strip():
            pass
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append("PUT")
        status, code = self.server.answer
        self._answer(status, b"" if status == 200 else f"<Error><Code>{code}</Code></Error>".encode(), ETag='"x"')

    def do_HEAD(self):
        self.server.requests.append("HEAD")
        self._answer(404, b"")

    def do_GET(self):
        checksum = base64.b64encode(zlib.crc32(CONTENT).to_bytes(4, "big")).decode()
        self._answer(200, b"B" + CONTENT[1:], **{"ETag": '"x"', "x-amz-checksum-crc32": checksum})

    def _answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def service():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.requests, server.expected, server.answer = [], [], (200, "")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(make_app, service, moto, monkeypatch):
    """A store on Amazon's S3, as far as boto3 can tell."""
    settings = {**moto.settings("album"), "STORE_S3_ADDRESSING_STYLE": "path"}
    del settings["STORE_S3_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{service.server_port}")
    with make_app(**settings).app_context():
        yield S3Store()


def test_an_object_that_is_damaged_is_not_given_out_as_whole(store):
    with store.open("a.jpg") as stream:
        with pytest.raises(ServiceError, match=r"a\.jpg' in bucket 'album'.*damaged"):
            stream.read()


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted", ""])
def test_a_conflict_is_a_name_that_is_taken(store, service, upload, code):
    service.answer = (409, code)

    with pytest.raises(ServiceError, match=r"'photo\.jpg' in bucket 'album'.*5 names that they are taken"):
        store.save(upload())

    assert service.requests == ["PUT"] * 5


def test_a_conflict_about_the_bucket_is_none_about_a_name(store, service, upload):
    service.answer = (409, "InvalidBucketState")

    with pytest.raises(ServiceError, match="InvalidBucketState"):
        store.save(upload())

    assert service.requests == ["PUT"]


def test_a_service_without_conditional_writes_is_told(store, service, upload):
    service.answer = (501, "NotImplemented")

    with pytest.raises(ServiceError, match="does not know conditional writes"):
        store.save(upload())

    assert service.requests == ["PUT"]


@pytest.mark.parametrize(("size", "asks"), [(0, False), (10_000, False), (256 * 1024, False), (1_000_000, True)])
def test_only_a_large_body_waits_for_leave_to_be_sent(store, service, upload, size, asks):
    store.save(upload(b"x" * size))

    assert bool(service.expected) == asks
    assert service.requests == ["PUT"]


def test_credentials_that_come_later_are_found(make_app, service, monkeypatch, tmp_path, moto, upload):
    settings = moto.settings("album")
    for key in ("STORE_S3_ACCESS_KEY", "STORE_S3_SECRET_KEY"):
        del settings[key]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    settings["STORE_S3_ENDPOINT_URL"] = f"http://127.0.0.1:{service.server_port}"
    with make_app(**settings, STORE_S3_CREDENTIAL_CHAIN=True).app_context():
        store = S3Store()
        with pytest.raises(ServiceError, match="STORE_S3_CREDENTIAL_CHAIN"):
            store.save(upload())
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "late")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "late")

        assert store.save(upload()).filename == "photo.jpg"
