"""Whatever boto3 and the libraries below it raise is a ``ServiceError``, and a bug is none."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import faulty_proxy
import pytest
from botocore.exceptions import ClientError
from faulty_proxy import answered, no_answer, without
from flask import render_template_string
from flask_wtf import FlaskForm
from s3_servers import wait_until
from werkzeug.datastructures import FileStorage

from flask_store import ServiceError, StoreFile
from flask_store.forms import StoreFileField
from flask_store.stores import background as background_module
from flask_store.stores.connection import translated_errors
from flask_store.stores.multipart import PART_SIZE
from flask_store.stores.s3 import S3GeventStore, S3Store

EVERY_TIME = None

TRY_AGAIN = "The file could not be stored. Please try again later."

FILM = bytes(PART_SIZE + 1)

# Each verb that makes a request, or signs a URL.
VERBS = {
    "save": lambda store, upload: store.save(upload()),
    "save in parts": lambda store, upload: store.save(upload(FILM)),
    "keep": lambda store, upload: store.keep(upload()),
    "exists": lambda store, upload: store.exists("a.txt"),
    "open": lambda store, upload: store.open("a.txt").close(),
    "stat": lambda store, upload: store.stat("a.txt"),
    "delete": lambda store, upload: store.delete("a.txt"),
    "list": lambda store, upload: list(store.list()),
    "clean": lambda store, upload: store.clean(60),
    "absolute_url": lambda store, upload: store.absolute_url("a.txt"),
    "presign": lambda store, upload: store.presign("a.txt"),
    "connect": lambda store, upload: store.connect(),
}

pytestmark = pytest.mark.usefixtures("no_pause")


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """An environment in which boto3 finds nothing that a test does not set."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)  # between its tries
    return monkeypatch


@pytest.fixture
def proxy(moto, s3_resource):
    bucket = s3_resource(moto).create_bucket(Bucket="foreign")
    with faulty_proxy.before(moto.endpoint_url) as proxy:
        yield proxy
    bucket.objects.all().delete()
    for upload in bucket.multipart_uploads.all():
        upload.abort()


@pytest.fixture
def settings(moto, proxy):
    settings = moto.settings("foreign")
    return {**settings, "STORE_S3_ENDPOINT_URL": proxy.url, "STORE_S3_MULTIPART_THRESHOLD": PART_SIZE}


@pytest.fixture
def chain(settings, environment):
    """The settings of a store whose credentials boto3 finds."""
    kept = {key: value for key, value in settings.items() if not key.endswith("_KEY")}
    return {**kept, "STORE_S3_CREDENTIAL_CHAIN": True}


@pytest.fixture
def store(make_app, settings):
    with make_app("foreign", **settings).app_context():
        yield S3Store()


def errors(store, upload, *verbs):
    """Yield the error of each verb, or of some."""
    for verb in verbs or VERBS:
        with pytest.raises(ServiceError) as caught:
            VERBS[verb](store, upload)
        assert caught.value.__cause__ is not None, verb
        yield caught.value


class CredentialService:
    """What gives a container its keys; the application finds it through the environment."""

    def __init__(self):
        self.answer = self.keys(timedelta(hours=1))
        self.requests = 0

    @staticmethod
    def keys(lifetime):
        """Return an answer with keys that expire after some time, or have expired."""
        expiration = (datetime.now(UTC) + lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"AccessKeyId": "key", "SecretAccessKey": "secret", "Token": "token", "Expiration": expiration}
        return json.dumps(keys).encode()


@pytest.fixture
def credentials(environment):
    service = CredentialService()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            service.requests += 1
            self.send_response(200)
            self.end_headers()
            self.wfile.write(service.answer)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{httpd.server_port}/keys")
        yield service
        httpd.shutdown()
        thread.join()


class TestCredentialsThatAreNotFound:
    """A role, a mount or a service may be there a moment later."""

    @pytest.fixture(
        params=["no token file", "expired keys", "no keys in the answer", "a wrong answer", "no JSON", "no program"]
    )
    def chain(self, request, chain, environment, tmp_path):
        if request.param == "no token file":
            environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
            environment.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/photos")
        elif request.param == "no program":
            (tmp_path / "config").write_text(f"[default]\ncredential_process = {tmp_path}/none\n")
            environment.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        else:
            answers = {
                "expired keys": CredentialService.keys(timedelta(hours=-1)),
                "no keys in the answer": b"{}",
                "a wrong answer": b"[1]",
                "no JSON": b"<html>",
            }
            request.getfixturevalue("credentials").answer = answers[request.param]
        return chain

    def test_are_an_error_of_every_verb_that_names_the_setting(self, make_app, chain, upload):
        with make_app("chain", **chain).app_context():
            # The client itself may be there before its credentials are.
            for error in errors(S3Store(), upload, *VERBS.keys() - {"connect"}):
                assert "STORE_S3_CREDENTIAL_CHAIN" in str(error)
                assert "read the upload" not in str(error)
                assert error.is_temporary

    def test_are_a_sentence_in_a_form(self, make_app, chain):
        class PhotoForm(FlaskForm):
            photo = StoreFileField()

        app = make_app("chain", **chain)

        @app.post("/")
        def add():
            form = PhotoForm()
            return f"{form.validate_on_submit()} {form.photo.errors}"

        answer = app.test_client().post("/", data={"photo": (io.BytesIO(b"photo"), "photo.jpg")})

        assert (answer.status_code, answer.text) == (200, f"False {[TRY_AGAIN]}")

    def test_are_one_error_in_a_template(self, make_app, chain):
        with make_app("chain", **chain).app_context(), pytest.raises(ServiceError):
            render_template_string("{{ photo.absolute_url() }}", photo=StoreFile("a.jpg"))

    def test_do_not_end_an_upload_in_the_background(self, make_app, chain, upload, monkeypatch):
        monkeypatch.setattr(background_module, "MAX_PAUSE", 0.02)
        provider = {"STORE_PROVIDER": "flask_store.stores.s3.S3GeventStore", "STORE_DRAIN_TIMEOUT": 0}
        with make_app("chain", **{**chain, **provider}).app_context():
            store = S3GeventStore()
            saved = store.save(upload())
            entry = store.uploads.spool.find(str(saved))
            wait_until(lambda: entry.record().attempts >= 2)
            record = entry.record()
            saved.delete()
            # A deletion needs credentials too, so it is put aside.
            store.uploads._is_ending = True

        assert not record.failed
        assert "STORE_S3_CREDENTIAL_CHAIN" in record.error


class TestCredentialsThatAreFoundLater:
    def test_are_used_by_the_next_request(self, make_app, chain, credentials, upload):
        credentials.answer = CredentialService.keys(timedelta(hours=-1))
        with make_app("chain", **chain).app_context():
            store = S3Store()
            for _ in errors(store, upload, "save", "absolute_url"):
                pass
            credentials.answer = CredentialService.keys(timedelta(hours=1))

            assert store.save(upload()).exists()
            assert "X-Amz-Signature" in store.absolute_url("a.txt")

    def test_that_expire_while_the_service_is_wrong_are_an_error_until_it_is_right(
        self, make_app, chain, credentials, upload
    ):
        credentials.answer = CredentialService.keys(timedelta(minutes=5))  # boto3 renews them from now on
        with make_app("chain", **chain).app_context():
            store = S3Store()
            store.save(upload())
            credentials.answer = CredentialService.keys(timedelta(hours=-1))
            for error in errors(store, upload, "save", "exists", "absolute_url"):
                assert isinstance(error.__cause__, RuntimeError)
                assert error.is_temporary
            credentials.answer = CredentialService.keys(timedelta(hours=1))

            assert store.save(upload()).exists()


class TestAnEnvironmentThatIsWrong:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("AWS_ENDPOINT_URL", "minio:9000"),
            ("AWS_ENDPOINT_URL_S3", "http://[x"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:99999"),
            ("AWS_ENDPOINT_URL", "ftp://127.0.0.1"),
            ("AWS_ENDPOINT_URL", " "),
            ("AWS_PROFILE", "none"),
            ("AWS_DEFAULTS_MODE", "none"),
            ("AWS_RESPONSE_CHECKSUM_VALIDATION", "none"),
        ],
    )
    def test_is_an_error_of_every_verb_that_no_retry_mends(self, make_app, settings, environment, upload, name, value):
        environment.setenv("AWS_ENDPOINT_URL", settings.pop("STORE_S3_ENDPOINT_URL"))
        environment.setenv(name, value)

        with make_app("wrong", **settings).app_context():
            verbs = VERBS.keys() - ({"connect"} if "127.0.0.1" in value else set())
            for error in errors(S3Store(), upload, *verbs):
                assert "AWS_" in str(error)
                assert not error.is_temporary


class TestAnAnswerThatLacksAField:
    @pytest.mark.parametrize(
        ("verb", "operation", "field"),
        [
            ("save", "PutObject", "ETag"),
            ("save in parts", "CreateMultipartUpload", "UploadId"),
            ("save in parts", "UploadPart", "ETag"),
            ("save in parts", "CompleteMultipartUpload", "Key"),
            ("keep", "PutObject", "ETag"),
            ("exists", "HeadObject", "ETag"),
            ("open", "GetObject", "ETag"),
            ("open", "GetObject", "Content-Length"),
            ("stat", "HeadObject", "ETag"),
            ("stat", "HeadObject", "Content-Length"),
            ("stat", "HeadObject", "Last-Modified"),
            ("list", "ListObjectsV2", "IsTruncated"),
            ("clean", "ListObjectsV2", "IsTruncated"),
        ],
    )
    def test_is_an_error_that_names_it(self, store, proxy, upload, verb, operation, field):
        store.save(upload(filename="a.txt"))
        proxy.fail(operation, without(field), EVERY_TIME)
        proxy.fail("HeadObject", without("ETag"), EVERY_TIME)  # so that the store does not find what it has stored

        (error,) = errors(store, upload, verb)

        assert f"there is no {field.replace('-', '')}; check STORE_S3_ENDPOINT_URL" in str(error)
        assert error.is_temporary

    def test_of_a_checksum_is_an_error_where_the_endpoint_is_of_the_environment(
        self, make_app, settings, proxy, environment, upload
    ):
        environment.setenv("AWS_ENDPOINT_URL", settings.pop("STORE_S3_ENDPOINT_URL"))
        proxy.fail("UploadPart", without("x-amz-checksum-crc32"), EVERY_TIME)

        with make_app("parts", **settings, STORE_S3_ADDRESSING_STYLE="path").app_context():
            (error,) = errors(S3Store(), upload, "save in parts")

        assert "there is no ChecksumCRC32; check STORE_S3_ENDPOINT_URL" in str(error)

    def test_of_a_next_page_is_an_error_and_not_a_short_list(self, store, proxy, upload, monkeypatch):
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
        for number in range(3):
            store.save(upload(filename=f"{number}.txt"))
        proxy.fail("ListObjectsV2", without("NextContinuationToken"), EVERY_TIME)

        (error,) = errors(store, upload, "list")

        assert "there is no NextContinuationToken" in str(error)


class TestAnAnswerThatCannotBeRead:
    @pytest.mark.parametrize(
        ("verb", "head"),
        [
            (verb, head)
            for verb in ("exists", "stat", "open")
            for head in (
                "Content-Length: many",
                "Last-Modified: some time",
                "x-amz-missing-meta: some",
                "ETag: \xff\r\nLast-Modified: \xff",
                "no header at all",
            )
            if (verb, head) != ("open", "Content-Length: many")  # which boto3 leaves open
        ],
    )
    def test_for_its_head_is_no_error_but_ours(self, store, proxy, upload, verb, head):
        answer = f"HTTP/1.1 200 OK\r\n{head}\r\nConnection: close\r\n\r\n".encode("latin-1")
        for operation in ("HeadObject", "GetObject"):
            proxy.fail(operation, lambda exchange: exchange.send(answer), EVERY_TIME)

        (error,) = errors(store, upload, verb)

        assert error.is_temporary

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{}",
            b"\xff\xfe",
            b"<a>",
            b"<a>&b;</a>",
            b"<ListBucketResult><IsTruncated>maybe</IsTruncated><Contents>x</Contents></ListBucketResult>",
            b"<R><IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>x</Size></Contents></R>",
            b"<R><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType><Contents/></R>",
            b"<R><IsTruncated>false</IsTruncated><Contents><Size>1</Size></Contents></R>",
            b"<R><IsTruncated>false</IsTruncated><Contents><LastModified>x</LastModified></Contents></R>",
        ],
    )
    @pytest.mark.parametrize(
        ("verb", "operation"),
        [
            ("list", "ListObjectsV2"),
            ("clean", "ListObjectsV2"),
            ("save in parts", "CreateMultipartUpload"),
            ("save in parts", "CompleteMultipartUpload"),
        ],
    )
    def test_for_its_body_is_no_error_but_ours(self, store, proxy, upload, verb, operation, body):
        proxy.fail(operation, answered("200 OK", content=body), EVERY_TIME)

        (error,) = errors(store, upload, verb)

        assert error.is_temporary

    @pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "503 Busy"])
    @pytest.mark.parametrize("body", [b"", b"{}", b"\xff\xfe", b"<a>", b"<html/>", b"<Error><Code/></Error>"])
    def test_for_its_error_is_no_error_but_ours(self, store, proxy, upload, status, body):
        for operation in ("PutObject", "GetObject", "HeadObject", "DeleteObject", "ListObjectsV2"):
            proxy.fail(operation, answered(status, content=body), EVERY_TIME)

        for error in errors(store, upload, "save", "exists", "open", "stat", "delete", "list"):
            assert status[:3] in str(error)

    def test_after_a_file_was_stored_in_parts_leaves_it(self, store, proxy, upload):
        def garbled(exchange):
            exchange.pass_on()
            exchange.reply("200 OK", b"\xff<a>")

        proxy.fail("CompleteMultipartUpload", garbled, EVERY_TIME)

        assert store.save(upload(FILM)).size == len(FILM)


class Unreadable(io.BytesIO):
    """A stream that is read through a copy or in place, and breaks."""

    def __init__(self, error, size, works_for=0):
        super().__init__(bytes(size))
        self.error = error
        self.reads = works_for

    def read(self, size=-1):
        self.reads -= 1
        if self.reads < 0:
            raise self.error
        return super().read(size)


class TestAnUploadThatCannotBeRead:
    @pytest.mark.parametrize("verb", ["save", "keep"])
    @pytest.mark.parametrize("size", [1000, len(FILM)], ids=["at once", "in parts"])
    def test_is_told_as_that(self, store, verb, size):
        broken = FileStorage(Unreadable(OSError(5, "Input/output error"), size, works_for=1), filename="a.txt")

        with pytest.raises(
            ServiceError, match=r"could not read the upload of 'a\.txt': .*Input/output error"
        ) as caught:
            getattr(store, verb)(broken)

        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.is_temporary

    @pytest.mark.parametrize("size", [1000, 400_000, len(FILM)], ids=["small", "larger", "in parts"])
    def test_while_it_is_sent_is_told_as_that(self, store, tmp_path, size):
        path = tmp_path / "upload"
        path.write_bytes(bytes(size))

        with path.open("r+b") as file:

            def truncate(**_):
                file.truncate(0)

            store.connect().meta.events.register("before-call.s3", truncate)
            with pytest.raises(ServiceError, match=r"could not read the upload of 'a\.txt': .*shorter"):
                store.keep(FileStorage(file, filename="a.txt"))

    def test_by_a_mistake_of_the_application_raises_that(self, store):
        with pytest.raises(ZeroDivisionError):
            store.save(FileStorage(Unreadable(ZeroDivisionError(), 1000), filename="a.txt"))


class TestTranslation:
    @pytest.mark.parametrize(
        "error", [TypeError(), AttributeError(), AssertionError(), NameError(), MemoryError(), NotImplementedError()]
    )
    def test_leaves_bugs_alone(self, error):
        with pytest.raises(type(error)) as caught, translated_errors("store 'a.txt'"):
            raise error

        assert caught.value is error

    @pytest.mark.parametrize(
        ("status", "code", "is_temporary"),
        [
            (403, "AccessDenied", False),
            (404, "NoSuchBucket", False),
            (400, "SomethingNew", False),
            (400, "ExpiredToken", True),
            (403, "RequestTimeTooSkewed", True),
            (400, "BadDigest", True),
            (429, "429", True),
            (500, "InternalError", True),
            (503, "SlowDown", True),
        ],
    )
    def test_tells_whether_a_retry_can_succeed(self, status, code, is_temporary):
        answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}

        with pytest.raises(ServiceError) as caught, translated_errors("store 'a.txt'"):
            raise ClientError(answer, "PutObject")

        assert caught.value.is_temporary is is_temporary

    def test_of_a_service_that_is_away_is_temporary(self, store, proxy, upload):
        for operation in ("PutObject", "HeadObject"):
            proxy.fail(operation, no_answer, EVERY_TIME)

        with contextlib.suppress(ServiceError):
            store.exists("a.txt")
        (error,) = errors(store, upload, "exists")

        assert error.is_temporary
