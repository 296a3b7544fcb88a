"""What goes wrong at S3 is told as a ``ServiceError`` that says where and what to check, and gives no key away."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import socket
import subprocess
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import s3_servers
from flask_wtf import FlaskForm

from flask_store import NotFoundError, ServiceError
from flask_store.forms import StoreFileField
from flask_store.stores.s3 import S3Store

ACCESS_KEY, SECRET_KEY = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

SENTENCE = "The file could not be stored."
TRY_AGAIN = f"{SENTENCE} Please try again later."

SETTINGS = s3_servers.S3Server("none", "http://127.0.0.1:9", ACCESS_KEY, SECRET_KEY).settings("album")

# Each verb that makes a request, as the tests below call it.
VERBS = {
    "save": lambda store, upload: store.save(upload(b"photo", "photo.jpg")),
    "exists": lambda store, upload: store.exists("photo.jpg"),
    "open": lambda store, upload: store.open("photo.jpg"),
    "stat": lambda store, upload: store.stat("photo.jpg"),
    "delete": lambda store, upload: store.delete("photo.jpg"),
    "list": lambda store, upload: list(store.list("photo")),
}

pytestmark = pytest.mark.usefixtures("no_pause")

on_ceph = pytest.mark.parametrize("s3", [pytest.param("ceph", marks=pytest.mark.ceph)], indirect=True)


@pytest.fixture
def store_on(make_app):
    """Return a function that makes a store with some settings."""
    with contextlib.ExitStack() as contexts:

        def make(**settings):
            app = make_app(**{**SETTINGS, **settings})
            contexts.enter_context(app.app_context())
            return S3Store()

        yield make


def failure(store, verb, upload):
    """Return the error of a verb, after looking at what each error has to tell, and to keep to itself."""
    with pytest.raises(ServiceError) as caught:
        VERBS[verb](store, upload)

    error = caught.value
    settings = store.settings
    assert repr(settings.bucket) in str(error)
    assert "'photo" in str(error)
    assert error.__cause__ is not None
    told = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)
    assert settings.secret_key not in told
    assert settings.access_key not in told
    return error


def failures(store, upload, *verbs):
    """Yield the error of each verb, or of some."""
    return (failure(store, verb, upload) for verb in verbs or VERBS)


@pytest.fixture
def closed_port():
    """A URL that refuses every connection."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # without listening: nobody else gets the port meanwhile
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


class TestARealServer:
    @on_ceph
    @pytest.mark.parametrize(
        ("key", "value"), [("STORE_S3_ACCESS_KEY", ACCESS_KEY), ("STORE_S3_SECRET_KEY", SECRET_KEY)]
    )
    def test_a_wrong_key(self, store_on, s3, bucket, upload, key, value):
        store = store_on(**{**s3.settings(bucket.name), key: value})

        for error in failures(store, upload):
            assert "403" in str(error)
            assert key in str(error)
        assert list(bucket.objects.all()) == []

    def test_a_missing_bucket(self, store_on, s3, upload):
        store = store_on(**s3.settings("no-such-bucket"))

        for error in failures(store, upload, "save", "open", "delete", "list"):
            assert "NoSuchBucket" in str(error)
            assert "STORE_S3_BUCKET" in str(error)

    def test_a_missing_bucket_for_an_upload_in_parts(self, store_on, s3, upload):
        store = store_on(**s3.settings("no-such-bucket"), STORE_S3_MULTIPART_THRESHOLD=5 * 1024 * 1024)

        with pytest.raises(ServiceError, match="NoSuchBucket.*STORE_S3_BUCKET"):
            store.save(upload(b"x" * (5 * 1024 * 1024 + 1), "photo.jpg"))

    @pytest.fixture
    def stranger(self, ceph):
        """A user of Ceph who has no right to what another one has."""
        server = s3_servers.S3Server("ceph", ceph.endpoint_url, ACCESS_KEY, SECRET_KEY)
        admin = ["radosgw-admin", "-c", str(ceph.log.parent / "ceph.conf"), "-n", "client.rgw", "user"]
        keys = [f"--access-key={server.access_key}", f"--secret-key={server.secret_key}"]
        make = [*admin, "create", "--uid=stranger", "--display-name=stranger", *keys]
        subprocess.run(make, capture_output=True, check=True, timeout=60)
        yield server
        subprocess.run([*admin, "rm", "--uid=stranger"], capture_output=True, check=True, timeout=60)

    @on_ceph
    def test_what_one_may_not_see_is_not_missing(self, store_on, s3, bucket, stranger, upload):
        store_on(**s3.settings(bucket.name)).save(upload(b"mine", "photo.jpg"))
        store = store_on(**stranger.settings(bucket.name))

        for error in failures(store, upload):
            assert "403" in str(error)
            assert "what these keys may do" in str(error)

        assert [item.key for item in bucket.objects.all()] == ["photo.jpg"]
        assert bucket.Object("photo.jpg").get()["Body"].read() == b"mine"


class TestNoAnswer:
    def test_a_refused_connection(self, store_on, upload, closed_port):
        store = store_on(STORE_S3_ENDPOINT_URL=closed_port)

        for error in failures(store, upload):
            assert "STORE_S3_ENDPOINT_URL" in str(error)

    def test_a_server_that_does_not_answer(self, store_on, upload):
        with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
            port = silent.getsockname()[1]
            store = store_on(STORE_S3_ENDPOINT_URL=f"http://127.0.0.1:{port}", STORE_S3_TIMEOUT=0.1)

            for error in failures(store, upload):
                assert "STORE_S3_TIMEOUT" in str(error)

    def test_a_host_without_an_address(self, store_on, upload):
        store = store_on(STORE_S3_ENDPOINT_URL="http://s3.invalid")

        for error in failures(store, upload):
            assert "STORE_S3_ENDPOINT_URL" in str(error)

    def test_a_server_without_encryption(self, store_on, upload, server):
        store = store_on(STORE_S3_ENDPOINT_URL=server(200).replace("http:", "https:"))

        for error in failures(store, upload):
            assert "certificate of STORE_S3_ENDPOINT_URL" in str(error)


@pytest.fixture
def server():
    """Return a function that starts an S3 that gives one answer to every request, and returns its URL."""
    with contextlib.ExitStack() as running:

        def start(status, code="", headers=(), message="", count=None):
            class Handler(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"  # boto3 wants to be told to go on before it sends a body

                def answer(self):
                    self.rfile.read(int(self.headers["Content-Length"] or 0))
                    if count is not None:
                        count.append(self.command)
                    # As AWS does: it repeats the key, and more.
                    body = (
                        f"<Error><Code>{code}</Code><Message>{message or code}</Message>"
                        f"<AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId><Region>eu-central-1</Region></Error>"
                    ).encode()
                    self.send_response(status)
                    for header in headers:
                        self.send_header(*header)
                    self.send_header("Connection", "close")
                    self.send_header("Content-Type", "application/xml")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(body)

                do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

                def log_message(self, *arguments):
                    pass

            httpd = running.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
            thread.start()
            running.callback(thread.join)
            running.callback(httpd.shutdown)
            return f"http://127.0.0.1:{httpd.server_port}"

        yield start


ANSWERS = [
    (403, "RequestTimeTooSkewed", "check the clock of this machine"),
    (403, "SignatureDoesNotMatch", "STORE_S3_SECRET_KEY"),
    (403, "InvalidAccessKeyId", "STORE_S3_ACCESS_KEY"),
    (403, "AccessDenied", "what these keys may do"),
    (403, "QuotaExceeded", "no room left"),
    (400, "ExpiredToken", "STORE_S3_CREDENTIAL_CHAIN"),
    (400, "AuthorizationHeaderMalformed", "STORE_S3_REGION"),
    (400, "IllegalLocationConstraintException", "STORE_S3_REGION"),
    (400, "EntityTooLarge", "STORE_S3_MULTIPART_THRESHOLD"),
    (400, "AccessControlListNotSupported", "STORE_S3_ACL"),
    (400, "InvalidStorageClass", "STORE_S3_OBJECT_PARAMETERS"),
    (400, "SomethingNew", "STORE_S3_OBJECT_PARAMETERS"),
    (301, "PermanentRedirect", "STORE_S3_REGION"),
    (307, "TemporaryRedirect", "STORE_S3_REGION"),
    (404, "NoSuchBucket", "STORE_S3_BUCKET"),
    (500, "InternalError", "tried several times"),
    (503, "SlowDown", "tried several times"),
    (507, "XMinioStorageFull", "no room left"),
    (507, "InsufficientStorage", "no room left"),
    (418, "Teapot", "see what S3 said"),
]


class TestAnAnswer:
    @pytest.mark.parametrize(("status", "code", "advice"), ANSWERS)
    def test_is_told_with_what_to_check(self, store_on, server, upload, status, code, advice):
        # A redirection names the region, and the client tries there once.
        store = store_on(STORE_S3_ENDPOINT_URL=server(status, code, [("x-amz-bucket-region", "eu-central-1")]))

        for error in failures(store, upload, "save", "open", "delete", "list"):
            assert f"{code} ({status})" in str(error)
            assert advice in str(error)

    @pytest.mark.parametrize("status", [400, 403, 409, 412, 500, 503, 507])
    def test_without_a_word_is_told_with_its_status(self, store_on, server, upload, status):
        store = store_on(STORE_S3_ENDPOINT_URL=server(status))

        for error in failures(store, upload, "exists", "stat"):
            assert f"S3 answered {status}: " in str(error)
            assert not isinstance(error, NotFoundError)

    @pytest.mark.parametrize("status", [301, 308])
    def test_of_a_proxy_that_wants_https_is_told_as_a_wrong_endpoint(self, store_on, server, upload, status):
        store = store_on(STORE_S3_ENDPOINT_URL=server(status, headers=[("Location", "https://s3.example.com/")]))

        for error in failures(store, upload):
            assert "STORE_S3_ENDPOINT_URL" in str(error)

    @pytest.mark.parametrize(("status", "tries"), [(503, 3), (500, 3), (403, 1), (409, 1)])
    def test_that_may_pass_is_waited_for_and_another_is_not(self, store_on, server, upload, status, tries):
        count = []
        store = store_on(STORE_S3_ENDPOINT_URL=server(status, "SlowDown" if status == 503 else "Code", count=count))

        failure(store, "exists", upload)

        # Where an answer without a body has to be explained, one with a body is asked for.
        assert count == (["HEAD"] * tries if status >= 500 else ["HEAD", "GET"])

    def test_that_is_no_xml_is_told_too(self, store_on, server, upload):
        store = store_on(STORE_S3_ENDPOINT_URL=server(502, "&nonsense;<"))

        assert "502" in str(failure(store, "save", upload))

    def test_may_say_anything(self, store_on, server, upload):
        store = store_on(STORE_S3_ENDPOINT_URL=server(403, "AccessDenied", message=f"{SECRET_KEY} {ACCESS_KEY}"))

        with pytest.raises(ServiceError) as caught:
            store.save(upload())

        assert SECRET_KEY not in str(caught.value)
        assert ACCESS_KEY not in str(caught.value)

    def test_of_success_that_is_none_does_not_make_a_file(self, store_on, server, upload):
        # As some gateways answer while the service behind them fails.
        store = store_on(STORE_S3_ENDPOINT_URL=server(200, "InternalError"), STORE_S3_MULTIPART_THRESHOLD=5 * 2**20)

        with pytest.raises(ServiceError):
            store.save(upload(b"x" * (5 * 2**20 + 1), "photo.jpg"))


class TestABodyThatBreaksOff:
    def test_is_told_with_bucket_and_key(self, store_on, server, upload):
        # Each answer is the XML above and promises more than comes.
        store = store_on(STORE_S3_ENDPOINT_URL=server(200, headers=[("ETag", '"1"')]))
        with store.open("photo.jpg") as stream:
            assert stream.read()  # whole

        with _serving_half() as url:
            broken = store_on(STORE_S3_ENDPOINT_URL=url)
            with pytest.raises(ServiceError) as caught, broken.open("photo.jpg") as stream:
                stream.read()

        assert "'album'" in str(caught.value)
        assert "'photo.jpg'" in str(caught.value)


@contextlib.contextmanager
def _serving_half():
    """Return a block with an S3 whose objects break off at once, each time."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", "1000")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


class TestCredentials:
    def test_that_the_chain_does_not_find_are_told(self, make_app, upload, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        settings = {key: value for key, value in SETTINGS.items() if not key.endswith("_KEY")}

        with make_app(**settings, STORE_S3_CREDENTIAL_CHAIN=True).app_context():
            store = S3Store()
        for act in (*VERBS.values(), lambda store, upload: store.absolute_url("photo.jpg")):
            with pytest.raises(ServiceError, match=r"'photo.* 'album'.*STORE_S3_CREDENTIAL_CHAIN"):
                act(store, upload)

    def test_are_in_no_repr(self, store_on):
        store = store_on()
        client = store.connect()

        told = repr([store, vars(store), client, store.bucket(client), store.app.extensions, vars(store.settings)])

        assert SECRET_KEY not in told
        assert ACCESS_KEY not in told


class PhotoForm(FlaskForm):
    photo = StoreFileField(destination="photos")


class TestAForm:
    @pytest.mark.parametrize(
        ("fault", "sentence"),
        [
            ("refused", TRY_AGAIN),
            ("denied", SENTENCE),  # a person has to change the keys
            ("slow down", TRY_AGAIN),
        ],
    )
    def test_shows_a_plain_sentence_and_the_log_has_the_cause(
        self, make_app, server, closed_port, fault, sentence, caplog
    ):
        urls = {
            "refused": lambda: closed_port,
            "denied": lambda: server(403, "SignatureDoesNotMatch"),
            "slow down": lambda: server(503, "SlowDown"),
        }
        app = make_app(**{**SETTINGS, "STORE_S3_ENDPOINT_URL": urls[fault]()})
        seen = []

        @app.post("/")
        def add():
            form = PhotoForm()
            valid = form.validate_on_submit()
            seen.append((valid, form.photo.data.read()))
            return " ".join(form.photo.errors)

        with caplog.at_level(logging.WARNING):
            page = app.test_client().post("/", data={"photo": (io.BytesIO(b"photo"), "photo.jpg")}).text

        assert page == sentence
        assert seen == [(False, b"photo")]
        [record] = [record for record in caplog.records if record.name == app.logger.name]
        logged = logging.Formatter().format(record)
        assert isinstance(record.exc_info[1], ServiceError)
        assert re.search(r"could not store 'photos/photo\.jpg' in bucket 'album': ", logged)
        assert "botocore.exceptions." in logged
        assert SECRET_KEY not in logged
        assert ACCESS_KEY not in logged

    def test_with_a_missing_bucket_shows_the_same(self, make_app, s3, caplog):
        app = make_app(**s3.settings("no-such-bucket"))

        data = {"photo": (io.BytesIO(b"photo"), "photo.jpg")}
        with app.test_request_context(method="POST", data=data):
            form = PhotoForm()

            assert not form.validate_on_submit()
            assert form.photo.errors == [SENTENCE]
        assert "NoSuchBucket" in caplog.text
        assert s3.secret_key not in caplog.text
