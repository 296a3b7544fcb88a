"""S3GeventStore when S3 refuses an upload: the bytes wait, and the upload is tried again until it arrives."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import logging
import time

import faulty_proxy
import pytest
from faulty_proxy import answered, no_answer, refused_without_a_word
from s3_servers import wait_until

from flask_store import ServiceError, StoreFile, signals
from flask_store.stores import background as background_module
from flask_store.stores.multipart import PART_SIZE
from flask_store.stores.s3 import S3GeventStore
from flask_store.stores.spool import Record, Retry, Spool

EVERY_TIME = None

FILM = bytes(PART_SIZE + 1)

#: Keys without permission.
DENIED = answered("403 Forbidden", "AccessDenied")

CEPH = pytest.param("ceph", marks=pytest.mark.ceph)

on_moto = pytest.mark.parametrize("s3", ["moto"], indirect=True)
on_ceph = pytest.mark.parametrize("s3", [CEPH], indirect=True)

pytestmark = pytest.mark.usefixtures("no_pause")


@pytest.fixture(params=["moto", CEPH, "moto_like_go"])
def s3(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def proxy(s3, bucket):
    with faulty_proxy.before(s3.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def settings(s3, bucket, proxy):
    return {
        **s3.settings(bucket.name),
        "STORE_PROVIDER": "flask_store.stores.s3.S3GeventStore",
        "STORE_S3_ENDPOINT_URL": proxy.url,
        "STORE_S3_MULTIPART_THRESHOLD": PART_SIZE,
        "STORE_DRAIN_TIMEOUT": 0,
    }


@pytest.fixture
def store(make_app, settings, monkeypatch):
    monkeypatch.setattr(background_module, "MAX_PAUSE", 0.05)
    with make_app("background", **settings).app_context():
        yield S3GeventStore()


@pytest.fixture
def failures():
    """The signals of uploads that were given up."""
    received = []

    def receive(app, file, error):
        received.append((file, error))

    with signals.upload_failed.connected_to(receive):
        yield received


def stored(bucket):
    return {found.key: found.get()["Body"].read() for found in bucket.objects.all()}


def given_up(store, upload, content=b"content"):
    """Save a file whose upload is given up, and return it and its entry in the spool."""
    saved = store.save(upload(content))
    store.uploads.wait_until_idle(30)
    entry = store.uploads.spool.find(str(saved))
    assert entry.record().failed
    return saved, entry


def is_given_up(entry, attempts):
    """Return whether an upload was given up after so many tries; its mark is the last thing to change."""
    return entry.record().attempts == attempts and (entry.mark() or "").startswith("failed-")


def be_due(entry):
    """Have the next try of an upload be due."""
    now = time.time()
    retry = dataclasses.replace(entry.retry(), due_at=now - 1)
    (entry.directory / "retry.json").write_text(json.dumps(dataclasses.asdict(retry)))


def look(uploads):
    """Have uploads look again as if half a minute had passed."""
    uploads._look_at = 0.0
    uploads.look()


class TestATryWhoseAnswerIsLost:
    @pytest.mark.parametrize("content", [b"content", FILM], ids=["at once", "in parts"])
    def test_is_found_by_the_next_try(self, store, bucket, proxy, upload, failures, content):
        # The first try cannot ask whether its file is there.
        operation = "PutObject" if content is not FILM else "CompleteMultipartUpload"
        proxy.fail(operation, no_answer, [1])
        proxy.fail(operation, answered("500 Internal Server Error", "InternalError"), [2, 3])
        proxy.fail("HeadObject", answered("500 Internal Server Error"), range(1, 4))

        saved = store.save(upload(content))
        saved.wait(30)

        assert stored(bucket) == {saved.filename: content}
        assert failures == []
        assert list(bucket.multipart_uploads.all()) == []


class TestARepeatedTry:
    """It begins with HEAD, whose answer has no body and so no reason."""

    @pytest.mark.parametrize(
        ("refusal", "head"),
        [
            (answered("403 Forbidden", "RequestTimeTooSkewed"), answered("403 Forbidden")),
            (answered("400 Bad Request", "ExpiredToken"), refused_without_a_word),
        ],
        ids=["a wrong clock", "expired keys"],
    )
    @pytest.mark.parametrize("content", [b"content", FILM], ids=["at once", "in parts"])
    def test_waits_for(self, store, bucket, proxy, upload, failures, refusal, head, content):
        tries = range(1, 6)
        for operation in ("PutObject", "GetObject", "CreateMultipartUpload"):
            proxy.fail(operation, refusal, tries)
        proxy.fail("HeadObject", head, tries)

        saved = store.save(upload(content))
        saved.wait(30)

        assert proxy.count("HeadObject") > 5
        assert stored(bucket) == {saved.filename: content}
        assert failures == []

    @on_ceph
    def test_waits_for_a_wrong_clock_as_a_real_service_tells_it(
        self, store, bucket, proxy, upload, failures, monkeypatch
    ):
        with monkeypatch.context() as patch:
            shift = datetime.timedelta(hours=1)
            patch.setattr("botocore.auth.get_current_datetime", lambda: datetime.datetime.now(datetime.UTC) - shift)
            saved = store.save(upload())
            wait_until(lambda: proxy.count("HeadObject") >= 2)
            record = store.uploads.spool.find(str(saved)).record()
        saved.wait(30)

        assert "RequestTimeTooSkewed" in record.error
        assert stored(bucket) == {saved.filename: b"content"}
        assert failures == []

    def test_stores_the_file_where_the_keys_may_not_look(self, store, bucket, proxy, upload, failures):
        proxy.fail("PutObject", answered("503 Slow Down", "SlowDown"), range(1, 4))
        proxy.fail("HeadObject", answered("403 Forbidden"), EVERY_TIME)
        proxy.fail("GetObject", DENIED, EVERY_TIME)

        saved = store.save(upload())
        saved.wait(30)

        assert stored(bucket) == {saved.filename: b"content"}
        assert failures == []


class TestAnUploadThatWasGivenUp:
    @pytest.fixture(autouse=True)
    def denied(self, proxy):
        """Keys have no permission for the first two requests, as where a new role is not known everywhere yet."""
        proxy.fail("PutObject", DENIED, [1, 2])

    def test_is_tried_again_when_it_is_due_and_arrives_by_itself(self, store, bucket, upload, failures, caplog):
        saved, entry = given_up(store, upload)
        look(store.uploads)
        store.uploads.wait_until_idle(30)
        too_early = entry.record()

        be_due(entry)
        look(store.uploads)
        wait_until(lambda: is_given_up(entry, 2))
        be_due(entry)
        look(store.uploads)
        wait_until(lambda: not saved.pending)

        assert too_early.attempts == 1
        assert stored(bucket) == {saved.filename: b"content"}
        assert not entry.directory.exists()
        assert [file for file, _ in failures] == [saved]
        levels = [record.levelno for record in caplog.records if record.name == "background"]
        assert levels == [logging.ERROR, logging.WARNING]

    @on_moto
    def test_is_tried_by_a_process_that_does_nothing_else(self, store, bucket, upload, monkeypatch):
        monkeypatch.setattr(background_module, "LOOK_INTERVAL", 0.05)

        saved = store.save(upload())
        entry = store.uploads.spool.find(str(saved))
        for attempts in (1, 2):
            wait_until(lambda attempts=attempts: is_given_up(entry, attempts))
            be_due(entry)
        wait_until(lambda: not saved.pending)

        assert stored(bucket) == {saved.filename: b"content"}
        wait_until(lambda: not store.uploads._is_watching)

    @on_moto
    def test_is_tried_by_another_process_as_soon_as_it_is_due_and_once(
        self, store, make_app, settings, bucket, proxy, upload
    ):
        saved, entry = given_up(store, upload)
        spool = str(store.uploads.spool.root)
        with make_app("others", **settings, STORE_SPOOL_PATH=spool).app_context():
            other = S3GeventStore().uploads
            early = other.resume()
            be_due(entry)
            first = other.resume()
            second = store.uploads.resume()
            other.wait_until_idle(30)

        assert [record.path for _, record in first] == [str(saved)]
        assert early == second == []
        assert proxy.count("PutObject") == 2

    @on_moto
    def test_is_an_error_for_who_waits_with_what_to_check(self, store, upload):
        saved, _ = given_up(store, upload)

        with pytest.raises(ServiceError, match="AccessDenied") as caught:
            saved.wait(0)

        assert not caught.value.is_temporary

    @on_moto
    def test_shows_when_it_is_tried_again(self, store, upload):
        saved, entry = given_up(store, upload)

        output = store.app.test_cli_runner().invoke(args=["store", "pending"]).output

        assert output.startswith("failed")
        assert "tries that failed: 1, next try in 0:0" in output
        assert 60 <= entry.retry().due_at - entry.retry().given_up_at <= 120

    @on_moto
    def test_that_is_deleted_is_gone_and_is_not_tried_again(self, store, bucket, proxy, upload):
        saved, entry = given_up(store, upload)
        be_due(entry)

        saved.delete()
        look(store.uploads)
        wait_until(lambda: not entry.directory.exists())
        store.uploads.wait_until_idle(30)

        assert proxy.count("PutObject") == 1
        assert stored(bucket) == {}
        assert not saved.exists()

    @on_moto
    def test_whose_deletion_fails_is_deleted_when_that_is_due(self, store, bucket, proxy, upload):
        proxy.fail("DeleteObject", DENIED, [1])
        saved, entry = given_up(store, upload)
        saved.delete()
        store.uploads.wait_until_idle(30)
        ((left, record),) = store.uploads.spool.entries()

        be_due(left)
        look(store.uploads)
        wait_until(lambda: not left.directory.exists())

        assert record.path == str(saved)
        assert "AccessDenied" in record.error
        assert stored(bucket) == {}
        assert proxy.count("PutObject") == 1

    @on_moto
    def test_is_not_waited_for_at_the_end_of_the_process(self, make_app, settings, upload):
        with make_app("patient", **{**settings, "STORE_DRAIN_TIMEOUT": 60}).app_context():
            store = S3GeventStore()
            _, entry = given_up(store, upload)
            started = time.monotonic()

            store.uploads.drain(started)
            took = time.monotonic() - started
            be_due(entry)
            look(store.uploads)
            store.uploads.wait_until_idle(30)

        assert took < 5
        assert entry.record().attempts == 1

    @on_moto
    def test_has_a_record_that_older_versions_read(self, store, upload):
        _, entry = given_up(store, upload)

        fields = json.loads((entry.directory / "record.json").read_text())

        assert fields.keys() == {"id", "service", "path", "saved_at", "attempts", "error", "failed"}
        assert entry.mark().startswith("failed-")

    @on_moto
    def test_by_an_older_version_is_tried_at_the_next_look(self, store, bucket, proxy, upload):
        saved, entry = given_up(store, upload)
        (entry.directory / "retry.json").unlink()

        look(store.uploads)
        wait_until(lambda: entry.retry() is not None)

        assert proxy.count("PutObject") == 2

    @on_moto
    def test_is_tried_again_though_its_next_try_could_not_be_noted(self, store, bucket, proxy, upload, caplog):
        entry, record = store.uploads.spool.add(io.BytesIO(b"content"), "a.txt")
        (entry.directory / "retry.json.new").mkdir()  # as a full disk would do
        store.uploads.start(entry, record)
        wait_until(lambda: is_given_up(entry, 1))

        look(store.uploads)
        wait_until(lambda: is_given_up(entry, 2))
        look(store.uploads)
        wait_until(lambda: not StoreFile("a.txt").pending)

        assert "when to try again" in caplog.text
        assert stored(bucket) == {"a.txt": b"content"}


class TestTheSchedule:
    def test_goes_from_minutes_to_hours_and_no_further(self):
        now, retry, pauses = 1_000_000.0, None, []
        for _ in range(14):
            retry = Retry.after(retry, now, chance=0)
            pauses.append(retry.due_at - now)
            now = retry.due_at

        assert pauses == [120, 120, 240, 480, 960, 1920, 3840, 7680, 15360, *[6 * 3600] * 5]
        assert retry.given_up_at == 1_000_000.0

    def test_has_a_part_by_chance(self):
        pauses = [Retry.after(None, 0.0, chance).due_at for chance in (0, 0.5, 1)]

        assert pauses == [120, 90, 60]

    def test_does_not_wait_for_a_clock_that_was_put_back(self):
        retry = Retry.after(None, 1_000_000_000.0, chance=0)

        assert not retry.is_due(1_000_000_000.0)
        assert retry.is_due(1_000_000_120.0)
        assert retry.is_due(900_000_000.0)

    def test_is_not_due_for_who_did_not_give_up(self, tmp_path):
        spool = Spool(tmp_path / "spool", ("", "album"), fsync=False)
        entry, record = spool.add(io.BytesIO(b"x"), "a.txt")

        assert isinstance(record, Record)
        assert entry.retry() is None
        assert not Spool(tmp_path / "spool", ("", "album"), fsync=False).claim(entry)
        spool.leave()
