"""The client of S3: made at its first use, one for each application and process, shared by threads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import s3_servers
from flask import Flask

from flask_store import Store
from flask_store.stores.s3 import S3Store

THREADS = 20

TIMEOUT = 60


@pytest.fixture
def listener():
    """A server that takes connections and answers none, with its settings; nobody should come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = s3_servers.S3Server("silent", url, "silent-access-key", "silent-secret-key")
        yield listener, server.settings("album")


def test_neither_init_app_nor_the_client_makes_a_connection(make_app, listener):
    silent, settings = listener

    with make_app(**settings).app_context():
        store = S3Store(destination="photos")
        client = store.connect()
        bucket = store.bucket(client)
        store.absolute_url("a.txt")

    assert bucket.name == "album"
    with pytest.raises(BlockingIOError):
        silent.accept()


def test_threads_that_come_first_at_once_get_the_same_client(s3_app, upload):
    start = threading.Barrier(THREADS)

    def use(number):
        with s3_app.app_context():
            store = S3Store(destination=f"{number}")
            start.wait(TIMEOUT)
            client = store.connect()
            saved = store.save(upload(b"%d" % number))
            with saved.open() as stream:
                return client, stream.read()

    with ThreadPoolExecutor(THREADS) as pool:
        clients, contents = zip(*pool.map(use, range(THREADS)), strict=True)

    assert {id(client) for client in clients} == {id(S3Store().connect())}
    assert contents == tuple(b"%d" % number for number in range(THREADS))


def test_the_client_stays_the_same(s3_app):
    first = S3Store().connect()

    with s3_app.app_context():
        assert S3Store(destination="photos").connect() is first
    assert S3Store().at("2026").connect() is first


def test_each_application_has_a_client_of_its_own(make_app, listener):
    _, settings = listener
    apps = [make_app(name, **{**settings, "STORE_S3_BUCKET": name}) for name in ("one", "two")]
    clients, urls = [], []
    for app in apps:
        with app.app_context():
            clients.append(S3Store().connect())
            urls.append(S3Store().absolute_url("a.txt").partition("?")[0])

    assert clients[0] is not clients[1]
    assert [url.rpartition("/")[0].rpartition("/")[2] for url in urls] == ["one", "two"]


def test_applications_of_one_extension_have_keys_of_their_own(tmp_path, listener):
    _, settings = listener
    store, urls = Store(), []
    for name in ("one", "two"):
        app = Flask(name, instance_path=str(tmp_path))
        app.config.update(settings, STORE_S3_ACCESS_KEY=f"key-of-{name}")
        store.init_app(app)
        with app.app_context():
            urls.append(store.Provider().absolute_url("a.txt"))

    assert ["key-of-one" in urls[0], "key-of-two" in urls[1]] == [True, True]


FORK = """
import io, json, os, sys, threading
from flask import Flask
from werkzeug.datastructures import FileStorage
from flask_store import Store
from flask_store.stores.s3 import S3Store

app = Flask("app", instance_path=sys.argv[1])
app.config.from_prefixed_env()
Store(app)

def save(name):
    with app.app_context():
        return str(S3Store().save(FileStorage(io.BytesIO(name.encode()), name)))

def client():
    with app.app_context():
        return S3Store().connect()

save("before.txt")
before = client()
# Another thread is in the middle of something at the fork.
in_the_middle, go_on = threading.Event(), threading.Event()
other = threading.Thread(
    target=lambda: app.extensions["store"].shared(lambda app: (in_the_middle.set(), go_on.wait()))
)
other.start()
in_the_middle.wait()

children = []
for number in range(3):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        names = [save(f"child-{number}-{turn}.txt") for turn in range(5)]
        again = client()
        answer = {"names": names, "is_own": again is not before, "is_kept": again is client()}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    children.append((pid, reader))

go_on.set()
other.join()
names = [save(f"parent-{turn}.txt") for turn in range(5)]
answers = [{"names": names, "is_own": client() is before, "is_kept": True}]
for pid, reader in children:
    with open(reader, "rb") as pipe:
        answers.append(json.load(pipe))
    os.waitpid(pid, 0)
print(json.dumps(answers))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_has_a_client_of_its_own(s3, bucket, tmp_path):
    environment = {f"FLASK_{key}": value for key, value in s3.settings(bucket.name).items()}
    command = [sys.executable, "-c", FORK, str(tmp_path)]

    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, timeout=TIMEOUT
    )

    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout)
    assert [(answer["is_own"], answer["is_kept"]) for answer in answers] == [(True, True)] * 4
    names = {name for answer in answers for name in answer["names"]}
    assert {item.key: item.get()["Body"].read().decode() for item in bucket.objects.all()} == {
        name: name for name in names | {"before.txt"}
    }


def test_the_bucket_is_a_boto3_resource_that_uses_the_shared_client(s3_app, bucket, upload):
    store = S3Store()
    store.save(upload(b"photo", "photo.jpg"))
    client = store.connect()

    resource = store.bucket(client)

    assert resource.name == bucket.name
    assert resource.meta.client is client
    assert [(item.key, item.size) for item in resource.objects.all()] == [("photo.jpg", 5)]
    assert resource.Object("photo.jpg").get()["Body"].read() == b"photo"
    assert resource.Object("photo.jpg").meta.client is client


def test_flask_store_check_tries_the_store_and_shows_no_secret(s3_app, s3, bucket):
    result = s3_app.test_cli_runner().invoke(args=["store", "check"])

    assert result.exit_code == 0, result.output
    assert f"STORE_S3_BUCKET = '{bucket.name}'" in result.output
    assert "STORE_S3_SECRET_KEY = ********" in result.output
    assert "Store: flask_store.stores.s3.S3Store" in result.output
    assert "Route: none" in result.output
    assert "The store can be written" in result.output
    assert s3.secret_key not in result.output
    assert s3.access_key not in result.output
    assert list(bucket.objects.all()) == []


def test_flask_store_check_says_what_is_wrong_at_s3(make_app, s3):
    app = make_app(**s3.settings("no-such-bucket"))

    result = app.test_cli_runner().invoke(args=["store", "check"])

    assert result.exit_code == 1
    assert "NoSuchBucket" in result.stderr
    assert "STORE_S3_BUCKET" in result.stderr
    assert s3.secret_key not in result.output + result.stderr
    assert s3.access_key not in result.output + result.stderr


def test_no_region_or_file_of_the_machine_changes_where_requests_go(make_app, listener, monkeypatch, tmp_path):
    _, settings = listener
    configuration = tmp_path / "config"
    configuration.write_text("[default]\nregion = ap-south-1\ns3 =\n  addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://elsewhere.example.com")

    with make_app(**settings).app_context():
        url = S3Store().absolute_url("a.txt")

    assert url.startswith(settings["STORE_S3_ENDPOINT_URL"] + "/album/a.txt?")
    assert "us-east-1" in url
    assert "ap-south-1" not in url
