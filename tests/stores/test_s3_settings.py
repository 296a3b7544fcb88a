"""The settings of S3Store: a wrong one fails in ``init_app`` and is named, and no secret is shown."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
import s3_servers
from flask import Flask
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server, make_ssl_devcert

from flask_store import NotConfiguredError, Store
from flask_store.config import OBJECT_PARAMETERS, S3Settings
from flask_store.stores.s3 import S3Store

MIB = 1024 * 1024

ACCESS_KEY, SECRET_KEY = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

SETTINGS = s3_servers.S3Server("none", "http://127.0.0.1:9", ACCESS_KEY, SECRET_KEY).settings("album")

KEYS = ("STORE_S3_ACCESS_KEY", "STORE_S3_SECRET_KEY")


def make_s3_app(make_app, **settings):
    """Make an application with settings that are right but for the given ones; None leaves one out."""
    merged = {**SETTINGS, **settings}
    return make_app(**{key: value for key, value in merged.items() if value is not None})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("STORE_S3_ACCESS_KEY", 5),
        ("STORE_S3_ACCESS_KEY", b"bytes"),
        ("STORE_S3_ACCESS_KEY", "two words"),
        ("STORE_S3_SECRET_KEY", "a line\n"),
        ("STORE_S3_SECRET_KEY", ["a list"]),
        ("STORE_PATH", "my files"),
        ("STORE_PATH", "a\\b"),
        ("STORE_PATH", "a/../b"),
        ("STORE_PATH", "a//b"),
        ("STORE_PATH", "a?b"),
        ("STORE_PATH", "line\nbreak"),
        ("STORE_PATH", "\ud800"),
        ("STORE_PATH", "a" * 201),
        ("STORE_S3_OBJECT_PARAMETERS", {"Metadata": {"Flask-Store-Upload": "mine"}}),
        ("STORE_S3_OBJECT_PARAMETERS", {"CacheControl": "schön"}),
        ("STORE_S3_BUCKET", "my bucket"),
        ("STORE_S3_BUCKET", 5),
        ("STORE_S3_REGION", "eu central 1"),
        ("STORE_S3_REGION", ["eu-central-1"]),
        ("STORE_S3_ENDPOINT_URL", "s3.example.com"),
        ("STORE_S3_ENDPOINT_URL", "ftp://s3.example.com"),
        ("STORE_S3_ENDPOINT_URL", "https://"),
        ("STORE_S3_ENDPOINT_URL", "https://s3.example.com/?x=1"),
        ("STORE_S3_ENDPOINT_URL", "https://s3.example.com/#x"),
        ("STORE_S3_ENDPOINT_URL", "https://s3.example.com\n"),
        ("STORE_S3_ENDPOINT_URL", 5),
        # What boto3 would refuse when the first visitor comes.
        ("STORE_S3_ENDPOINT_URL", "http://s3..example.com"),
        ("STORE_S3_ENDPOINT_URL", "http://my_s3:9000"),
        ("STORE_S3_ENDPOINT_URL", "http://s3.example.com:port"),
        ("STORE_S3_ENDPOINT_URL", "http://s3.example.com:99999"),
        ("STORE_S3_ENDPOINT_URL", "http://[::1"),
        ("STORE_S3_REGION", "eu/central"),
        ("STORE_S3_BUCKET", "album/photos"),
        ("STORE_S3_ADDRESSING_STYLE", "subdomain"),
        ("STORE_S3_ADDRESSING_STYLE", "PATH"),
        ("STORE_S3_ADDRESSING_STYLE", ["path"]),
        ("STORE_S3_ACL", "public"),
        ("STORE_S3_ACL", ""),
        ("STORE_S3_ACL", True),
        ("STORE_S3_CREDENTIAL_CHAIN", "True"),
        ("STORE_S3_CREDENTIAL_CHAIN", 1),
        ("STORE_S3_OBJECT_PARAMETERS", "CacheControl"),
        ("STORE_S3_OBJECT_PARAMETERS", ["CacheControl"]),
        ("STORE_S3_OBJECT_PARAMETERS", {"Cache-Control": "max-age=1"}),
        ("STORE_S3_OBJECT_PARAMETERS", {"ACL": "public-read"}),
        ("STORE_S3_OBJECT_PARAMETERS", {"ContentType": "text/html"}),
        ("STORE_S3_OBJECT_PARAMETERS", {"ContentDisposition": "inline"}),
        ("STORE_S3_OBJECT_PARAMETERS", {"Key": "a.txt"}),
        ("STORE_S3_OBJECT_PARAMETERS", {"IfNoneMatch": ""}),
        ("STORE_S3_OBJECT_PARAMETERS", {"CacheControl": 3600}),
        ("STORE_S3_OBJECT_PARAMETERS", {"CacheControl": "max-age=1\r\nX-Evil: 1"}),
        ("STORE_S3_OBJECT_PARAMETERS", {"Metadata": "camera=pinhole"}),
        ("STORE_S3_OBJECT_PARAMETERS", {"Metadata": {"camera": 1}}),
        ("STORE_S3_OBJECT_PARAMETERS", {"Metadata": {"camera": "Lochkamera für alle"}}),
        ("STORE_S3_OBJECT_PARAMETERS", {"Metadata": {"ort": "Köln", "camera": "pinhole"}}),
        ("STORE_S3_OBJECT_PARAMETERS", {"Metadata": {"camera": "pinhole\nX-Evil: 1"}}),
        ("STORE_S3_OBJECT_PARAMETERS", {"BucketKeyEnabled": "yes"}),
        ("STORE_S3_OBJECT_PARAMETERS", {"ObjectLockRetainUntilDate": "2030-01-01"}),
        ("STORE_S3_MULTIPART_THRESHOLD", 5 * MIB - 1),
        ("STORE_S3_MULTIPART_THRESHOLD", 5 * 1024 * MIB + 1),
        ("STORE_S3_MULTIPART_THRESHOLD", "64 MiB"),
        ("STORE_S3_MULTIPART_THRESHOLD", 64.5 * MIB),
        ("STORE_S3_TIMEOUT", 0),
        ("STORE_S3_TIMEOUT", -1),
        ("STORE_S3_TIMEOUT", float("nan")),
        ("STORE_S3_TIMEOUT", float("inf")),
        ("STORE_S3_TIMEOUT", "20"),
        ("STORE_S3_TIMEOUT", True),
        ("STORE_URL_EXPIRES", 0),
        ("STORE_URL_EXPIRES", 7 * 24 * 3600 + 1),
        ("STORE_URL_EXPIRES", 60.5),
        ("STORE_URL_EXPIRES", "3600"),
        ("STORE_PATH", "../media"),
        ("STORE_PATH", "media//uploads"),
        ("STORE_PATH", "media/./uploads"),
        ("STORE_PATH", "me\0dia"),
        ("STORE_PATH", 5),
        ("STORE_DOMAIN", "cdn.example.com"),
        ("STORE_URL_PREFIX", "https://cdn.example.com"),
    ],
)
def test_a_wrong_setting_fails_in_init_app_and_is_named(make_app, key, value):
    with pytest.raises(NotConfiguredError, match=key) as caught:
        make_s3_app(make_app, **{key: value})

    assert ACCESS_KEY not in str(caught.value)
    assert SECRET_KEY not in str(caught.value)
    assert key not in KEYS or repr(value) not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"STORE_S3_ENDPOINT_URL": ""},
        {"STORE_S3_ENDPOINT_URL": "https://s3.example.com/storage/v1/s3/"},
        {"STORE_S3_ENDPOINT_URL": "http://[::1]:9000"},
        {"STORE_S3_ENDPOINT_URL": "http://minio:9000"},
        {"STORE_S3_REGION": "auto"},
        {"STORE_S3_BUCKET": "my.bucket.example.com"},
        {"STORE_S3_BUCKET": "arn:aws:s3:eu-central-1:123456789012:accesspoint/album"},
        {"STORE_S3_ADDRESSING_STYLE": "virtual"},
        {"STORE_S3_ACL": "bucket-owner-full-control"},
        {"STORE_S3_TIMEOUT": 0.5},
        {"STORE_S3_MULTIPART_THRESHOLD": 5 * 1024 * MIB},
        {"STORE_URL_EXPIRES": 7 * 24 * 3600},
        {"STORE_PATH": "/media/uploads/"},
        {
            "STORE_S3_OBJECT_PARAMETERS": {
                "ServerSideEncryption": "aws:kms",
                "SSEKMSKeyId": "alias/album",
                "BucketKeyEnabled": True,
                "ObjectLockRetainUntilDate": datetime(2030, 1, 1, tzinfo=UTC),
            }
        },
    ],
)
def test_a_right_setting_is_taken_by_init_app_and_by_boto3(make_app, settings):
    with make_s3_app(make_app, **settings).app_context():
        store = S3Store()

        assert store.connect().meta.service_model.service_name == "s3"
        assert store.absolute_url("a.txt").startswith("http")


@pytest.mark.parametrize("key", S3Store.REQUIRED_CONFIGURATION)
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_setting_fails_in_init_app_and_is_named(make_app, key, value):
    with pytest.raises(NotConfiguredError, match=f"{key} must be set") as caught:
        make_s3_app(make_app, **{key: value})

    assert SECRET_KEY not in str(caught.value)


def test_all_that_is_missing_is_named_at_once(make_app):
    with pytest.raises(NotConfiguredError) as caught:
        make_app(STORE_PROVIDER=SETTINGS["STORE_PROVIDER"])

    assert re.findall(r"(\w+) must be set", str(caught.value)) == S3Store.REQUIRED_CONFIGURATION


def test_a_password_in_the_endpoint_is_refused_and_not_shown(make_app):
    with pytest.raises(NotConfiguredError, match="STORE_S3_ENDPOINT_URL") as caught:
        make_s3_app(make_app, STORE_S3_ENDPOINT_URL="https://someone:pass-phrase@s3.example.com")

    assert "pass-phrase" not in str(caught.value)


def test_the_defaults_are_those_of_the_documentation(make_app):
    settings = S3Settings(make_s3_app(make_app, STORE_S3_ENDPOINT_URL=None))

    assert (settings.path, settings.url_prefix, settings.domain) == ("", "", "")
    assert (settings.endpoint_url, settings.addressing_style, settings.acl) == ("", "auto", None)
    assert (settings.credential_chain, settings.object_parameters) == (False, {})
    assert (settings.multipart_threshold, settings.timeout, settings.url_expires) == (64 * MIB, 20, 3600)


def test_the_prefix_of_urls_is_that_of_the_keys_by_default(make_app):
    assert S3Settings(make_s3_app(make_app, STORE_PATH="media/")).url_prefix == "/media"


def test_settings_come_from_the_environment(make_app, monkeypatch):
    values = {
        **SETTINGS,
        "STORE_S3_MULTIPART_THRESHOLD": "8388608",
        "STORE_S3_TIMEOUT": "2.5",
        "STORE_URL_EXPIRES": "600",
        "STORE_S3_OBJECT_PARAMETERS": '{"CacheControl": "max-age=86400", "Metadata": {"camera": "pinhole"}}',
        "STORE_S3_ACL": "public-read",
    }
    for key, value in values.items():
        monkeypatch.setenv(f"FLASK_{key}", value)

    settings = S3Settings(make_app())

    assert (settings.access_key, settings.secret_key, settings.bucket) == (ACCESS_KEY, SECRET_KEY, "album")
    assert (settings.multipart_threshold, settings.timeout, settings.url_expires) == (8 * MIB, 2.5, 600)
    assert settings.object_parameters == {"CacheControl": "max-age=86400", "Metadata": {"camera": "pinhole"}}
    assert settings.acl == "public-read"


def test_the_parameters_of_objects_are_those_that_both_ways_of_storing_know(make_app):
    with make_s3_app(make_app).app_context():
        model = S3Store().connect().meta.service_model

    kinds = {"string": str, "boolean": bool, "map": dict, "timestamp": datetime}
    for operation in ("PutObject", "CreateMultipartUpload"):
        members = model.operation_model(operation).input_shape.members
        assert OBJECT_PARAMETERS.keys() <= members.keys()
        assert {name: kinds[members[name].type_name] for name in OBJECT_PARAMETERS} == OBJECT_PARAMETERS


class TestTheCredentialChain:
    @pytest.fixture
    def chain_settings(self, s3, bucket):
        settings = {**s3.settings(bucket.name), "STORE_S3_CREDENTIAL_CHAIN": True}
        return {key: value for key, value in settings.items() if key not in KEYS}

    def test_finds_keys_in_the_environment(self, make_app, s3, bucket, chain_settings, upload, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)

        with make_app(**chain_settings).app_context():
            saved = S3Store().save(upload(b"photo"))
            url = saved.absolute_url()

        assert bucket.Object(saved.filename).get()["Body"].read() == b"photo"
        assert f"X-Amz-Credential={s3.access_key}" in url

    def test_finds_the_keys_of_a_profile(self, make_app, s3, bucket, chain_settings, upload, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        profiles = tmp_path / "credentials"
        keys = f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}"
        profiles.write_text(f"[album]\n{keys}\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
        monkeypatch.setenv("AWS_PROFILE", "album")

        with make_app(**chain_settings).app_context():
            saved = S3Store().save(upload(b"photo"))

        assert bucket.Object(saved.filename).get()["Body"].read() == b"photo"

    def test_signs_urls_with_a_session_token(self, make_app, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-a-role")
        without = dict.fromkeys(KEYS)

        with make_s3_app(make_app, **without, STORE_S3_CREDENTIAL_CHAIN=True).app_context():
            url = S3Store().absolute_url("a.txt")

        assert "X-Amz-Security-Token=token-of-a-role" in url

    def test_does_not_count_where_the_keys_are_set(self, make_app, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFSOMEONEELSE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-someone-else")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "of-someone-else")

        with make_s3_app(make_app).app_context():
            url = S3Store().absolute_url("a.txt")

        assert f"X-Amz-Credential={ACCESS_KEY}" in url
        assert "Security-Token" not in url

    @pytest.mark.parametrize("key", KEYS)
    def test_and_keys_together_are_refused(self, make_app, key):
        other = {one: None for one in KEYS if one != key}

        with pytest.raises(NotConfiguredError, match="STORE_S3_CREDENTIAL_CHAIN") as caught:
            make_s3_app(make_app, **other, STORE_S3_CREDENTIAL_CHAIN=True)

        assert key in str(caught.value)
        assert ACCESS_KEY not in str(caught.value)
        assert SECRET_KEY not in str(caught.value)

    def test_still_needs_bucket_and_region(self, make_app):
        without = dict.fromkeys([*KEYS, "STORE_S3_BUCKET", "STORE_S3_REGION"])

        with pytest.raises(NotConfiguredError) as caught:
            make_s3_app(make_app, **without, STORE_S3_CREDENTIAL_CHAIN=True)

        assert re.findall(r"(\w+) must be set", str(caught.value)) == ["STORE_S3_BUCKET", "STORE_S3_REGION"]


class TestAwsWithoutAnEndpoint:
    """boto3's own variable leads its client to a server at hand; all else is as at AWS, checksums too."""

    @pytest.mark.parametrize("s3", ["moto"], indirect=True)
    @pytest.mark.parametrize("size", [10_000, MIB, 5 * MIB, 5 * MIB + 1, 11 * MIB])
    def test_a_save_carries_checksums(self, make_app, s3, bucket, upload, monkeypatch, size):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint_url)
        settings = s3.settings(bucket.name)
        del settings["STORE_S3_ENDPOINT_URL"]
        app = make_app(**settings, STORE_S3_MULTIPART_THRESHOLD=5 * MIB)
        content = os.urandom(size)
        requests = []

        with app.app_context():
            store = S3Store()
            store.connect().meta.events.register("before-send.s3", lambda request, **_: requests.append(request))
            saved = store.save(upload(content, "photo.jpg"))
            with saved.open() as stream:
                assert stream.read() == content

        assert bucket.Object(saved.filename).get()["Body"].read() == content
        puts = [request for request in requests if request.method == "PUT"]
        assert len(puts) == (1 if size <= 5 * MIB else -(-size // (5 * MIB)))
        assert all("x-amz-checksum-crc32" in request.headers for request in puts)

    @pytest.mark.parametrize("s3", ["moto"], indirect=True)
    def test_with_an_endpoint_none_are_added(self, s3_app, upload):
        store, requests = S3Store(), []
        store.connect().meta.events.register("before-send.s3", lambda request, **_: requests.append(request))

        store.save(upload())

        assert [name for name in requests[0].headers if "checksum" in name.lower()] == []


class TestAwsOverTls:
    """Checksums follow the body there, which boto3 wraps once more."""

    @pytest.fixture
    def url(self, tmp_path, monkeypatch):
        """moto behind TLS; it has the same buckets as the one without."""
        certificate, key = make_ssl_devcert(str(tmp_path / "localhost"), host="localhost")
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        moto = DomainDispatcherApplication(create_backend_app)
        server = make_server("127.0.0.1", 0, moto, threaded=True, ssl_context=(certificate, key))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()
        thread.join()
        server.server_close()

    @pytest.mark.parametrize("s3", ["moto"], indirect=True)
    @pytest.mark.parametrize("size", [0, 10_000, MIB, 11 * MIB])
    @pytest.mark.parametrize("has_endpoint", [False, True])
    def test_a_save_is_byte_for_byte(self, make_app, s3, bucket, url, upload, monkeypatch, size, has_endpoint):
        settings = {**s3.settings(bucket.name), "STORE_S3_ADDRESSING_STYLE": "path"}
        settings["STORE_S3_ENDPOINT_URL"] = url if has_endpoint else None
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        content, trailers = os.urandom(size), []

        with make_app(**settings, STORE_S3_MULTIPART_THRESHOLD=5 * MIB).app_context():
            store = S3Store()
            store.connect().meta.events.register(
                "before-send.s3", lambda request, **_: trailers.append(request.headers.get("X-Amz-Trailer"))
            )
            saved = store.save(upload(content, "photo.jpg"))
            with saved.open() as stream:
                assert stream.read() == content

        assert bucket.Object(saved.filename).get()["Body"].read() == content
        assert any(trailers) == (not has_endpoint)


class TestWithoutBoto3:
    def test_init_app_says_what_to_install(self, make_app, monkeypatch):
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *more: None if name == "boto3" else find_spec(name, *more)
        )

        with pytest.raises(NotConfiguredError, match=r"boto3.*pip install Flask-Store\[s3\]"):
            make_s3_app(make_app)

    def test_init_app_looks_for_it_without_importing_it(self, tmp_path):
        program = """
import json, sys
import flask_store
from flask import Flask

app = Flask("app", instance_path=sys.argv[1])
app.config.update(json.loads(sys.argv[2]))
flask_store.Store(app)
with app.app_context():
    file = flask_store.StoreFile("a.txt", "photos")
    shown = [repr(file), file.relative_url(), file.absolute_path()]
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
        command = [sys.executable, "-c", program, str(tmp_path), json.dumps(SETTINGS)]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

        assert result.returncode == 0, result.stderr
        loaded = set(json.loads(result.stdout))
        assert "flask_store" in loaded
        assert loaded & {"boto3", "botocore", "s3transfer", "urllib3", "gevent", "wtforms"} == set()


def test_one_extension_serves_applications_on_several_stores(tmp_path, make_app, s3, bucket, upload):
    store = Store()
    apps = [Flask(name, instance_path=str(tmp_path / name)) for name in ("local", "remote")]
    apps[1].config.update(s3.settings(bucket.name))

    for app in apps:
        store.init_app(app)
    saved = []
    for app in apps:
        with app.app_context():
            saved.append(store.Provider().save(upload(app.name.encode(), "a.txt")))

    assert [file.absolute_path() for file in saved] == [str(tmp_path / "local" / "uploads" / "a.txt"), "a.txt"]
    assert bucket.Object("a.txt").get()["Body"].read() == b"remote"


@pytest.mark.parametrize("path", [Path("media"), "media", "media/", "/media"])
def test_the_start_of_keys_may_be_written_in_several_ways(make_app, path):
    with make_s3_app(make_app, STORE_PATH=path).app_context():
        store = S3Store(destination="photos")

        assert store.store_path == "media/photos"
        assert store.relative_url("a.jpg") == "/media/photos/a.jpg"
