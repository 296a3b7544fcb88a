"""S3GeventStore: files that arrive in the background. How it fares in servers is in ``tests/server``."""

from __future__ import annotations

import gc
import io
import logging
import os
import resource
import socket
import stat
import time
import weakref

import pytest
from botocore.exceptions import ClientError
from flask import request
from werkzeug.datastructures import FileStorage

from flask_store import NotFoundError, ServiceError, StoreFile, signals
from flask_store.config import UPLOAD_ID
from flask_store.stores import background as background_module
from flask_store.stores import source
from flask_store.stores.s3 import S3GeventStore
from flask_store.stores.spool import Spool
from flask_store.testing import StoreContract
from flask_store.transaction import transaction


@pytest.fixture
def background(make_app):
    """Return a function that makes a store, its context pushed, whose files go to S3 in the background."""
    contexts = []

    def make(settings, name="background", **more):
        config = {"STORE_DRAIN_TIMEOUT": 0, **settings, **more}
        config["STORE_PROVIDER"] = "flask_store.stores.s3.S3GeventStore"
        context = make_app(name, **config).app_context()
        context.push()
        contexts.append(context)
        return S3GeventStore()

    yield make
    for context in reversed(contexts):
        context.pop()


@pytest.fixture(params=["moto", pytest.param("ceph", marks=pytest.mark.ceph), "moto_like_go"])
def s3(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def store(background, s3, bucket):
    store = background(s3.settings(bucket.name))
    yield store
    store.uploads.wait_until_idle(30)


@pytest.fixture
def unreachable(background, moto):
    """A store whose S3 takes no connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {**moto.settings("album"), "STORE_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    return background(settings, name="unreachable")


@pytest.fixture
def without_bucket(background, moto):
    """A store whose bucket there is not: no upload can succeed."""
    return background(moto.settings("no-such-bucket"), name="without-bucket")


def spooled(store):
    """Return the names of what a store's spool has, its processes apart."""
    root = store.uploads.spool.root
    return (
        sorted(path.name for path in root.iterdir() if not path.name.startswith(".process-")) if root.exists() else []
    )


class TestContract(StoreContract):
    @pytest.fixture
    def store(self, store):
        return store


@pytest.mark.parametrize("size", [0, 1000, 12_000_000])
def test_a_file_arrives_once_with_its_bytes_and_leaves_nothing_behind(background, s3, bucket, upload, size):
    store = background(s3.settings(bucket.name), STORE_S3_MULTIPART_THRESHOLD=5 * 1024 * 1024)
    content = bytes(index * index % 251 for index in range(1000)) * (size // 1000)

    saved = store.save(upload(content, "photo.jpg"))
    saved.wait(60)

    assert not saved.pending
    assert [found.key for found in bucket.objects.all()] == [saved.filename]
    assert bucket.Object(saved.filename).get()["Body"].read() == content
    assert list(bucket.multipart_uploads.all()) == []
    store.uploads.wait_until_idle(10)
    assert spooled(store) == []


def test_a_saved_file_is_there_for_this_machine_before_s3_has_it(unreachable, upload):
    saved = unreachable.save(upload(b"on its way", "photo.jpg"))

    assert saved.pending
    assert saved.exists()
    assert saved.size == 10
    assert saved.content_type == "image/jpeg"
    with saved.open() as stream:
        assert stream.read() == b"on its way"
    assert list(unreachable.at(None).uploads.spool.entries())[0][1].path == str(saved)


def test_a_name_always_has_a_random_part_and_is_final(store, upload):
    first, second = store.save(upload(filename="photo.jpg")), store.save(upload(filename="photo.jpg"))
    names = [first.filename, second.filename]
    first.wait(30)
    second.wait(30)

    assert all(name.startswith("photo_") and len(name) == len("photo_.jpg") + 14 for name in names)
    assert names[0] != names[1]
    assert sorted(file.filename for file in store.list()) == sorted(names)


def test_waiting_has_its_limit(unreachable, upload):
    saved = unreachable.save(upload())

    with pytest.raises(TimeoutError, match="has not arrived after 0.1 seconds"):
        saved.wait(0.1)


def test_waiting_for_a_file_that_is_not_pending_is_over_at_once(store):
    StoreFile("other.jpg").wait(0)


def test_an_upload_that_cannot_succeed_keeps_its_bytes_and_says_why_once(without_bucket, upload, caplog):
    told = []

    def receive(app, file, error):
        told.append((app, file, error))

    with signals.upload_failed.connected_to(receive):
        saved = without_bucket.save(upload(b"kept", "photo.jpg"))
        with pytest.raises(ServiceError, match=r"NoSuchBucket.*check STORE_S3_BUCKET") as raised:
            saved.wait(30)
        without_bucket.uploads.wait_until_idle(10)

    assert isinstance(raised.value.__cause__, ClientError)
    assert saved.pending
    with saved.open() as stream:
        assert stream.read() == b"kept"
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "was given up; its bytes are in" in errors[0].getMessage()
    assert errors[0].exc_info is not None
    assert [(app, file) for app, file, _ in told] == [(without_bucket.app, saved)]
    assert told[0][2] is raised.value


def test_another_process_is_told_of_a_failure_too(without_bucket, make_app, moto, upload):
    saved = without_bucket.save(upload())
    without_bucket.uploads.wait_until_idle(30)
    without_bucket.uploads._errors.clear()  # what another process does not know

    with pytest.raises(ServiceError, match="NoSuchBucket"):
        saved.wait(1)


def test_what_was_given_up_is_sent_when_a_person_says_so(without_bucket, s3_session, moto, upload):
    saved = without_bucket.save(upload(b"late", "photo.jpg"))
    without_bucket.uploads.wait_until_idle(30)
    runner = without_bucket.app.test_cli_runner()
    listed = runner.invoke(args=["store", "pending"])
    failing = runner.invoke(args=["store", "resume"])
    bucket = moto.resource(s3_session).create_bucket(Bucket="no-such-bucket")
    try:
        resumed = runner.invoke(args=["store", "resume"])
        content = bucket.Object(saved.filename).get()["Body"].read()
    finally:
        bucket.objects.all().delete()
        bucket.delete()

    assert listed.output.startswith("failed")
    assert str(saved) in listed.output
    assert "NoSuchBucket" in listed.output
    assert (failing.exit_code, failing.output) == (1, f"failed  {saved}\n")
    assert (resumed.exit_code, resumed.output) == (0, f"sent  {saved}\n")
    assert content == b"late"
    assert not saved.pending
    assert spooled(without_bucket) == []


@pytest.mark.parametrize("command", ["pending", "resume"])
def test_the_commands_say_where_there_is_nothing_to_do(app, command):
    result = app.test_cli_runner().invoke(args=["store", command])

    assert result.exit_code == 1
    assert "LocalStore uploads nothing in the background" in result.stderr


def test_a_pending_file_that_is_deleted_is_gone_at_once_and_does_not_come_back(unreachable, upload):
    saved = unreachable.save(upload())
    other = unreachable.save(upload())

    saved.delete()

    assert not saved.exists()
    assert not saved.pending
    with pytest.raises(NotFoundError):
        saved.open()
    with pytest.raises(NotFoundError):
        saved.size  # noqa: B018
    saved.wait(0)
    assert other.pending


def test_a_file_deleted_while_it_is_sent_is_not_in_s3_in_the_end(store, bucket, upload):
    saved = [store.save(upload(b"x" * 100_000)) for _ in range(10)]

    for file in saved:
        file.delete()
    store.uploads.wait_until_idle(30)

    assert not any(file.exists() for file in saved)
    assert list(bucket.objects.all()) == []
    assert spooled(store) == []


def test_a_failed_upload_that_is_deleted_leaves_the_spool(without_bucket, s3_session, moto, upload):
    saved = without_bucket.save(upload())
    without_bucket.uploads.wait_until_idle(30)
    bucket = moto.resource(s3_session).create_bucket(Bucket="no-such-bucket")
    try:
        saved.delete()
        without_bucket.uploads.wait_until_idle(30)
        assert list(bucket.objects.all()) == []
    finally:
        bucket.delete()

    assert spooled(without_bucket) == []


def test_a_transaction_that_fails_leaves_nothing_pending(store, bucket, upload):
    with pytest.raises(ZeroDivisionError), transaction():
        saved = store.save(upload())
        raise ZeroDivisionError

    assert not saved.pending
    assert not saved.exists()
    store.uploads.wait_until_idle(30)
    assert list(bucket.objects.all()) == []


def test_a_try_whose_answer_was_lost_is_known_again(store, bucket):
    with source.opened(io.BytesIO(b"content"), "a.txt") as content:
        store.send("a.txt", content, "the upload", is_repeated=False)
        store.send("a.txt", content, "the upload", is_repeated=True)
        store.send("a.txt", content, "the upload", is_repeated=False)

    metadata = bucket.Object("a.txt").metadata
    assert {name.lower(): value for name, value in metadata.items()} == {UPLOAD_ID: "the upload"}
    assert len(list(bucket.object_versions.all())) == 1


def test_no_upload_takes_the_place_of_another(store, bucket):
    bucket.put_object(Key="a.txt", Body=b"another")

    with source.opened(io.BytesIO(b"content"), "a.txt") as content, pytest.raises(FileExistsError):
        store.send("a.txt", content, "the upload", is_repeated=True)

    assert bucket.Object("a.txt").get()["Body"].read() == b"another"


def test_parts_that_a_killed_process_left_are_taken_away(background, s3, bucket):
    store = background(s3.settings(bucket.name), STORE_S3_MULTIPART_THRESHOLD=5 * 1024 * 1024)
    bucket.Object("a.bin").initiate_multipart_upload()

    with source.opened(io.BytesIO(b"x" * 6_000_000), "a.bin") as content:
        store.send("a.bin", content, "the upload", is_repeated=True)

    assert list(bucket.multipart_uploads.all()) == []
    assert bucket.Object("a.bin").content_length == 6_000_000


def test_a_full_disk_is_an_error_and_leaves_nothing(unreachable, upload):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(ServiceError, match="STORE_SPOOL_PATH") as raised:
            unreachable.save(upload(b"x" * 2_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert isinstance(raised.value.__cause__, OSError)
    assert spooled(unreachable) == []


def test_a_spool_that_cannot_be_made_is_an_error(background, moto, upload, tmp_path):
    (tmp_path / "file").touch()
    store = background(moto.settings("album"), STORE_SPOOL_PATH=str(tmp_path / "file" / "spool"))

    with pytest.raises(ServiceError, match="STORE_SPOOL_PATH"):
        store.save(upload())


def test_the_spool_is_for_its_owner_only(unreachable, upload):
    unreachable.save(upload())

    root = unreachable.uploads.spool.root
    directory = next(path for path in root.iterdir() if path.is_dir())
    assert stat.S_IMODE(root.stat().st_mode) == stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert all(
        stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.stat().st_size == 0 for path in directory.iterdir()
    )


@pytest.mark.receiving
def test_a_large_upload_is_linked_into_the_spool(unreachable):
    app = unreachable.app
    inodes = []

    @app.post("/")
    def save():
        inodes.append(os.fstat(request.files["file"].stream.staged.stream.fileno()).st_ino)
        return str(unreachable.save(request.files["file"]))

    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    body = head + b"y" * 400_000 + b"\r\n--x--\r\n"
    answer = app.test_client().post("/", data=body, content_type="multipart/form-data; boundary=x")

    stored = unreachable.uploads.spool.entries()[0][0].stat()
    assert answer.status_code == 200
    assert stored.st_ino == inodes[0]
    assert stored.st_size == 400_000


def test_signals_tell_of_a_file_once(store, upload):
    told = []

    def saved(app, file):
        told.append(("saved", app, file))

    def finished(app, file):
        told.append(("finished", app, file))

    with signals.file_saved.connected_to(saved), signals.upload_finished.connected_to(finished):
        file = store.save(upload())
        store.uploads.wait_until_idle(30)

    assert sorted(told, key=str) == sorted([("saved", store.app, file), ("finished", store.app, file)], key=str)


def test_a_receiver_that_raises_is_logged_and_changes_nothing(store, bucket, upload, caplog):
    def raise_error(app, file):
        raise ZeroDivisionError

    with signals.upload_finished.connected_to(raise_error):
        saved = store.save(upload())
        store.uploads.wait_until_idle(30)

    assert [found.key for found in bucket.objects.all()] == [saved.filename]
    assert "a receiver of 'upload-finished' failed" in caplog.text


def test_no_more_uploads_at_a_time_than_allowed_and_all_arrive(background, moto, s3_session, upload):
    bucket = moto.resource(s3_session).create_bucket(Bucket="workers")
    store = background(moto.settings("workers"), STORE_UPLOAD_WORKERS=2)
    most = []

    def count(app, file):
        most.append(store.uploads._running)

    try:
        with signals.upload_finished.connected_to(count):
            saved = [store.save(upload(f"{number}".encode())) for number in range(12)]
            store.uploads.wait_until_idle(60)
        assert {found.key for found in bucket.objects.all()} == {file.filename for file in saved}
    finally:
        bucket.objects.all().delete()
        bucket.delete()
    assert len(most) == 12
    assert max(most) == 2


def test_what_a_process_leaves_later_is_taken_up_too(store, bucket, monkeypatch, upload):
    store.save(upload(filename="first.jpg")).wait(30)
    dead = Spool(store.uploads.spool.root, store.uploads.spool.service, fsync=False)
    dead.add(io.BytesIO(b"left"), "left.jpg")
    dead.leave()
    left = StoreFile("left.jpg")

    store.save(upload()).wait(30)
    is_left_at_once = left.pending
    now = time.monotonic()
    monkeypatch.setattr(background_module, "LOOK_INTERVAL", 0)
    monkeypatch.setattr(store.uploads, "_look_at", now)
    store.save(upload())
    left.wait(30)

    assert is_left_at_once
    assert bucket.Object("left.jpg").get()["Body"].read() == b"left"


def test_an_upload_whose_record_cannot_be_renewed_is_sent_with_the_others(store, bucket, caplog):
    dead = Spool(store.uploads.spool.root, store.uploads.spool.service, fsync=False)
    entries = [dead.add(io.BytesIO(b"left"), f"{number}.jpg")[0] for number in range(3)]
    (entries[0].directory / "record.json.new").mkdir()
    dead.leave()

    store.uploads.resume()
    store.uploads.wait_until_idle(30)

    assert sorted(found.key for found in bucket.objects.all()) == ["0.jpg", "1.jpg", "2.jpg"]
    assert spooled(store) == []


def test_uploads_that_fail_do_not_keep_others_from_being_sent(background, moto, s3_session, upload):
    bucket = moto.resource(s3_session).create_bucket(Bucket="others")
    store = background(moto.settings("others"), STORE_UPLOAD_WORKERS=1)
    unreadable = [store.uploads.spool.add(io.BytesIO(b"x"), f"{number}.jpg") for number in range(3)]
    for entry, record in unreadable:
        (entry.directory / "data").unlink()
        (entry.directory / "data").mkdir()  # it cannot be read now, and perhaps later
        store.uploads.start(entry, record)

    saved = store.save(upload(b"good"))
    saved.wait(10)

    assert bucket.Object(saved.filename).get()["Body"].read() == b"good"
    for entry, _ in unreadable:
        entry.cancel()
    store.uploads.wait_until_idle(30)
    assert spooled(store) == []


def test_uploads_to_another_bucket_are_shown(background, moto, tmp_path, upload):
    store = background(moto.settings("no-such-bucket"), STORE_SPOOL_PATH=str(tmp_path / "spool"))
    saved = store.save(upload())
    store.uploads.wait_until_idle(30)
    other = background(moto.settings("new-bucket"), "other", STORE_SPOOL_PATH=str(tmp_path / "spool"))

    output = other.app.test_cli_runner().invoke(args=["store", "pending"]).output

    assert output.startswith("elsewhere")
    assert str(saved) in output
    assert "no-such-bucket" in output


def test_an_application_that_is_gone_leaves_nothing_open(make_app, moto, s3_session):
    bucket = moto.resource(s3_session).create_bucket(Bucket="gone")
    settings = {**moto.settings("gone"), "STORE_PROVIDER": "flask_store.stores.s3.S3GeventStore"}

    def use():
        with make_app("gone", **settings).app_context():
            store = S3GeventStore()
            store.save(FileStorage(io.BytesIO(b"x"), filename="a.txt")).wait(30)
            store.uploads.wait_until_idle(30)
            return weakref.ref(store.uploads)

    uploads = use()
    gc.collect()

    assert uploads() is None
    bucket.objects.all().delete()
    bucket.delete()


def test_an_upload_that_cannot_be_read_is_told_once(store, caplog):
    entry, _ = store.uploads.spool.add(io.BytesIO(b"x"), "a.jpg")
    (entry.directory / "record.json").write_text("")

    store.uploads.resume()
    store.uploads.resume()

    assert caplog.text.count("its record cannot be read") == 1
