"""When S3, or the network before it, fails: nothing is lost, doubled, half stored, or left behind."""

from __future__ import annotations

import hashlib
import io
import logging
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import faulty_proxy
import pytest
import s3_servers
from faulty_proxy import (
    forbidden,
    half_a_request,
    half_an_answer,
    head_of_an_answer,
    internal_error,
    internal_error_in_200,
    late,
    no_answer,
    not_found,
    not_s3,
    refused_without_a_word,
    reset,
    reset_in_the_request,
    slow_down,
    stall,
    stalled_answer,
    stored_but_stalled,
    without,
    without_range,
)
from flask_wtf import FlaskForm
from urllib3.util import connection

from flask_store import NotFoundError, ServiceError
from flask_store.forms import StoreFileField
from flask_store.stores.connection import TOTAL_MAX_ATTEMPTS
from flask_store.stores.multipart import PART_SIZE
from flask_store.stores.s3 import S3Store

#: A request that the service does not carry out.
REFUSALS = [slow_down, internal_error, reset, reset_in_the_request, half_a_request, stall]

#: A request that it has carried out when the client thinks otherwise, or carries out later.
LOST_ANSWERS = [no_answer, half_an_answer, stored_but_stalled, late]

FAULTS = [*REFUSALS, *LOST_ANSWERS]

EVERY_TIME = None

PHOTO = random.Random(1).randbytes(300_000)
#: Too large for one request, and as small as that can be: it goes in two parts.
FILM = random.Random(2).randbytes(PART_SIZE + 1)
#: Of several times what is read at once.
CLIP = FILM[: 2 * 1024 * 1024]
OTHER = b"the file of somebody else"

#: What takes long and does not depend on the server.
on_moto = pytest.mark.parametrize("s3", ["moto"], indirect=True)

on_ceph = pytest.mark.parametrize("s3", [pytest.param("ceph", marks=pytest.mark.ceph)], indirect=True)

pytestmark = [pytest.mark.usefixtures("no_pause"), pytest.mark.slow]


def with_each(*faults):
    return pytest.mark.parametrize("fault", faults, ids=[fault.__name__ for fault in faults])


@pytest.fixture(params=["moto", pytest.param("ceph", marks=pytest.mark.ceph), "moto_like_go"])
def s3(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def proxy(s3, bucket):
    """The proxy between the store and the server; it ends before the bucket does."""
    with faulty_proxy.before(s3.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def app(make_app, s3, bucket, proxy):
    settings = {**s3.settings(bucket.name), "STORE_S3_ENDPOINT_URL": proxy.url}
    app = make_app("faulty", **settings, STORE_S3_TIMEOUT=15, STORE_S3_MULTIPART_THRESHOLD=PART_SIZE)
    with app.app_context():
        yield app


@pytest.fixture
def store(app):
    return S3Store()


@pytest.fixture
def impatient(app):
    """Have the client give up early where no answer comes."""
    app.config["STORE_S3_TIMEOUT"] = 0.3


@pytest.fixture
def stored(bucket, proxy):
    """Return a function that tells a digest of every object, and checks that no parts of one are left."""

    def look():
        proxy.settle()
        assert [upload.object_key for upload in bucket.multipart_uploads.all()] == []
        return {found.key: digest(found.get()["Body"].read()) for found in bucket.objects.all()}

    return look


def digest(content):
    """Return what is short enough to be shown where two contents differ."""
    return hashlib.sha256(content).hexdigest()


def warnings_logged(caplog):
    """Return what the application has logged; the servers have loggers of their own."""
    return [record for record in caplog.records if record.name == "faulty" and record.levelno >= logging.WARNING]


def keys(proxy):
    """Return the keys that the store has asked for."""
    return {request.path.rpartition("/")[2] for request in proxy.requests}


def refuse_connections(monkeypatch, times):
    """Have some of the connections that boto3 makes refused, counted from 1."""
    connect, made = connection.create_connection, []

    def refuse_some(*args, **kwargs):
        made.append(args)
        if len(made) in times:
            raise ConnectionRefusedError("nobody listens")
        return connect(*args, **kwargs)

    monkeypatch.setattr(connection, "create_connection", refuse_some)


class TestTheProxy:
    def test_changes_nothing_that_the_server_would_refuse(self, proxy, store, upload, stored):
        saved = store.save(upload(PHOTO, "写 真+&.jpg"))

        assert stored() == {saved.filename: digest(PHOTO)}
        assert [request.operation for request in proxy.requests] == ["PutObject"]

    def test_fails_only_what_it_is_told_to(self, proxy, store, upload):
        proxy.fail("PutObject", forbidden, times=[2], key="a.txt")

        store.save(upload(filename="b.txt"))
        store.save(upload(filename="a.txt"))
        with pytest.raises(ServiceError, match=r"a\.txt"):
            store.save(upload(filename="a.txt"))
        store.save(upload(filename="c.txt"))

        assert proxy.count("PutObject") == 4


class TestAFileStoredAtOnce:
    def test_is_stored_once_when_one_request_fails(self, impatient, proxy, store, upload, stored):
        names = [f"{fault.__name__}.jpg" for fault in FAULTS]
        for name, fault in zip(names, FAULTS, strict=True):
            proxy.fail("PutObject", fault, key=name)

        saved = [store.save(upload(PHOTO, name)).filename for name in names]

        assert saved == names
        assert stored() == dict.fromkeys(names, digest(PHOTO))

    def test_gets_another_name_when_one_request_fails_for_a_name_that_is_taken(
        self, impatient, bucket, proxy, store, upload, stored
    ):
        names = [f"{fault.__name__}.jpg" for fault in FAULTS]
        for name, fault in zip(names, FAULTS, strict=True):
            bucket.put_object(Key=name, Body=OTHER)
            proxy.fail("PutObject", fault, key=name)

        saved = [store.save(upload(PHOTO, name)).filename for name in names]

        found = stored()
        assert found == dict.fromkeys(names, digest(OTHER)) | dict.fromkeys(saved, digest(PHOTO))
        assert len(found) == 2 * len(FAULTS)

    @with_each(no_answer, half_an_answer)
    def test_costs_one_question_when_its_answer_is_lost(self, proxy, store, upload, stored, fault):
        proxy.fail("PutObject", fault)

        store.save(upload(PHOTO))

        assert [request.operation for request in proxy.requests] == ["PutObject", "PutObject", "HeadObject"]

    @with_each(slow_down, reset)
    def test_costs_no_question_when_it_is_stored_at_the_second_try(self, proxy, store, upload, fault):
        proxy.fail("PutObject", fault)

        store.save(upload(PHOTO))

        assert [request.operation for request in proxy.requests] == ["PutObject", "PutObject"]

    def test_is_stored_when_no_answer_comes_back(self, proxy, store, upload, stored):
        proxy.fail("PutObject", no_answer, EVERY_TIME)

        assert store.save(upload(PHOTO)).filename == "photo.jpg"

        assert stored() == {"photo.jpg": digest(PHOTO)}
        assert proxy.count("PutObject") == TOTAL_MAX_ATTEMPTS
        assert proxy.count("HeadObject") == 1

    def test_gets_another_name_when_no_answer_comes_back_for_a_name_that_is_taken(
        self, bucket, proxy, store, upload, stored
    ):
        bucket.put_object(Key="photo.jpg", Body=OTHER)
        proxy.fail("PutObject", no_answer, EVERY_TIME, key="/photo.jpg")

        saved = store.save(upload(PHOTO))

        assert stored() == {"photo.jpg": digest(OTHER), saved.filename: digest(PHOTO)}

    @with_each(slow_down, internal_error, reset)
    def test_is_stored_when_its_answer_is_lost_and_the_service_then_fails(self, proxy, store, upload, stored, fault):
        proxy.fail("PutObject", no_answer)
        proxy.fail("PutObject", fault, range(2, 10))

        assert store.save(upload(PHOTO)).filename == "photo.jpg"

        assert stored() == {"photo.jpg": digest(PHOTO)}

    def test_is_stored_when_its_answer_is_lost_and_the_service_then_takes_no_connection(
        self, proxy, store, upload, stored, monkeypatch
    ):
        proxy.fail("PutObject", no_answer)
        refuse_connections(monkeypatch, times=[2, 3])

        assert store.save(upload(PHOTO)).filename == "photo.jpg"

        assert stored() == {"photo.jpg": digest(PHOTO)}

    def test_keeps_to_its_second_name_when_that_answer_is_lost(self, bucket, proxy, store, upload, stored):
        bucket.put_object(Key="photo.jpg", Body=OTHER)
        proxy.fail("PutObject", no_answer, [2])

        saved = store.save(upload(PHOTO))

        assert stored() == {"photo.jpg": digest(OTHER), saved.filename: digest(PHOTO)}

    def test_is_told_from_one_of_equal_bytes(self, proxy, store, upload, stored):
        store.save(upload(PHOTO))
        proxy.fail("PutObject", no_answer)

        saved = store.save(upload(PHOTO))

        assert saved.filename != "photo.jpg"
        assert stored() == {"photo.jpg": digest(PHOTO), saved.filename: digest(PHOTO)}

    @on_moto
    @with_each(slow_down, reset, reset_in_the_request, half_a_request, stall)
    def test_fails_in_bounded_time_when_every_request_fails(self, impatient, proxy, store, upload, stored, fault):
        proxy.fail("PutObject", fault, EVERY_TIME)
        start = time.monotonic()

        with pytest.raises(ServiceError, match=r"photo\.jpg") as caught:
            store.save(upload(PHOTO))

        assert time.monotonic() - start < 15
        assert caught.value.__cause__ is not None
        assert stored() == {}
        assert proxy.count("PutObject") == TOTAL_MAX_ATTEMPTS

    def test_fails_and_takes_no_other_name_when_a_repeated_request_is_refused_for_a_name_that_is_free(
        self, proxy, store, upload
    ):
        # What is not there yet may come still: then one upload would have two names.
        proxy.fail("PutObject", no_answer)
        proxy.fail("HeadObject", not_found, EVERY_TIME)

        with pytest.raises(ServiceError, match=r"photo\.jpg.*412"):
            store.save(upload(PHOTO))

        assert keys(proxy) == {"photo.jpg"}

    @with_each(forbidden, internal_error, reset)
    def test_fails_and_takes_no_other_name_when_nobody_says_whose_the_name_is(
        self, bucket, proxy, store, upload, stored, fault
    ):
        bucket.put_object(Key="photo.jpg", Body=OTHER)
        proxy.fail("PutObject", no_answer)
        proxy.fail("HeadObject", fault, EVERY_TIME)
        proxy.fail("GetObject", fault, EVERY_TIME)

        with pytest.raises(ServiceError, match=r"photo\.jpg"):
            store.save(upload(PHOTO))

        assert stored() == {"photo.jpg": digest(OTHER)}
        assert keys(proxy) == {"photo.jpg"}

    @with_each(slow_down, reset, half_an_answer)
    def test_is_stored_when_the_question_whose_the_name_is_fails_once(self, proxy, store, upload, stored, fault):
        proxy.fail("PutObject", no_answer)
        proxy.fail("HeadObject", fault)

        assert store.save(upload(PHOTO)).filename == "photo.jpg"

        assert stored() == {"photo.jpg": digest(PHOTO)}
        assert proxy.count("HeadObject") == 2

    @with_each(forbidden, refused_without_a_word)
    def test_is_stored_when_only_an_answer_with_a_body_says_whose_the_name_is(
        self, proxy, store, upload, stored, fault
    ):
        proxy.fail("PutObject", no_answer)
        proxy.fail("HeadObject", fault, EVERY_TIME)

        assert store.save(upload(PHOTO)).filename == "photo.jpg"

        assert stored() == {"photo.jpg": digest(PHOTO)}

    @on_moto
    def test_is_stored_when_the_answer_lacks_its_etag(self, proxy, store, upload, stored):
        proxy.fail("PutObject", without("ETag"))

        assert store.save(upload(PHOTO)).filename == "photo.jpg"

        assert stored() == {"photo.jpg": digest(PHOTO)}

    @on_moto
    def test_fails_when_a_server_that_is_not_s3_says_that_all_is_well(self, proxy, store, upload, stored):
        proxy.fail("PutObject", not_s3, EVERY_TIME)

        with pytest.raises(ServiceError, match=r"photo\.jpg"):
            store.save(upload(PHOTO))

        assert stored() == {}

    def test_can_be_saved_again_after_a_failure(self, proxy, store, upload, stored):
        proxy.fail("PutObject", forbidden)
        photo = upload(PHOTO)
        with pytest.raises(ServiceError):
            store.save(photo)

        assert store.save(photo).filename == "photo.jpg"

        assert stored() == {"photo.jpg": digest(PHOTO)}

    def test_is_never_doubled_or_lost_in_many_saves_with_every_fifth_answer_lost(
        self, s3, proxy, store, upload, stored
    ):
        proxy.fail("PutObject", no_answer, range(1, 2000, 5))
        contents = [f"photo {number}".encode() for number in range(200 if s3.name == "ceph" else 50)]

        with ThreadPoolExecutor(4) as threads:
            saved = list(threads.map(lambda content: store.save(upload(content)), contents))

        found = stored()
        assert found == {file.filename: digest(content) for file, content in zip(saved, contents, strict=True)}
        assert len(found) == len(contents)


SAVE_FILM = """
with app.app_context():
    S3Store().save(FileStorage(io.BytesIO(bytes(int(sys.argv[2]))), "film.mp4"))
"""


class TestAFileStoredInParts:
    @pytest.mark.parametrize(
        ("operation", "time"), [("CreateMultipartUpload", 1), ("UploadPart", 2), ("CompleteMultipartUpload", 1)]
    )
    def test_is_stored_once_when_one_request_fails(
        self, impatient, s3, proxy, store, upload, stored, caplog, operation, time
    ):
        # What a server does not carry out, it does not matter which server it is.
        faults = LOST_ANSWERS if s3.name == "ceph" else FAULTS
        saved = []
        for fault in faults:
            proxy.fail(operation, fault, [time])

            saved.append(store.save(upload(FILM, f"{fault.__name__}.mp4")).filename)

        found = stored()
        assert found == dict.fromkeys(saved, digest(FILM))
        assert len(found) == len(faults)
        assert warnings_logged(caplog) == []

    @with_each(slow_down, no_answer)
    @pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart"])
    def test_leaves_nothing_when_a_request_fails_every_time(self, proxy, store, upload, stored, operation, fault):
        proxy.fail(operation, fault, EVERY_TIME)

        with pytest.raises(ServiceError, match=r"film_.*\.mp4") as caught:
            store.save(upload(FILM, "film.mp4"))

        assert caught.value.__cause__ is not None
        assert stored() == {}

    @with_each(slow_down, internal_error_in_200, reset, not_found)
    def test_leaves_nothing_when_it_cannot_be_completed(self, proxy, store, upload, stored, fault):
        proxy.fail("CompleteMultipartUpload", fault, EVERY_TIME)

        with pytest.raises(ServiceError, match=r"film_.*\.mp4"):
            store.save(upload(FILM, "film.mp4"))

        assert stored() == {}

    def test_is_stored_when_no_answer_to_its_completion_comes_back(self, proxy, store, upload, stored):
        proxy.fail("CompleteMultipartUpload", no_answer, EVERY_TIME)

        saved = store.save(upload(FILM, "film.mp4"))

        assert stored() == {saved.filename: digest(FILM)}

    def test_is_stored_when_its_completion_is_lost_and_the_service_then_takes_no_connection(
        self, proxy, store, upload, stored, monkeypatch
    ):
        proxy.fail("CompleteMultipartUpload", no_answer)
        refuse_connections(monkeypatch, times=[5, 6])  # after the start, two parts and the first completion

        saved = store.save(upload(FILM, "film.mp4"))

        assert stored() == {saved.filename: digest(FILM)}

    def test_is_stored_when_its_completion_fails_once_inside_an_answer_of_success(self, proxy, store, upload, stored):
        proxy.fail("CompleteMultipartUpload", internal_error_in_200)

        saved = store.save(upload(FILM, "film.mp4"))

        assert stored() == {saved.filename: digest(FILM)}

    def test_leaves_nothing_that_nobody_knows_of_when_its_completion_stays_in_doubt(self, proxy, store, upload, stored):
        proxy.fail("CompleteMultipartUpload", no_answer, EVERY_TIME)
        proxy.fail("HeadObject", forbidden, EVERY_TIME)
        proxy.fail("GetObject", forbidden, EVERY_TIME)

        with pytest.raises(ServiceError, match=r"film_.*\.mp4"):
            store.save(upload(FILM, "film.mp4"))

        assert stored() == {}

    def test_leaves_nothing_when_no_connection_is_taken_after_the_start_of_an_upload_is_lost(
        self, proxy, store, upload, stored, monkeypatch
    ):
        proxy.fail("CreateMultipartUpload", no_answer)
        refuse_connections(monkeypatch, times=[2, 3])

        with pytest.raises(ServiceError, match=r"film_.*\.mp4"):
            store.save(upload(FILM, "film.mp4"))

        assert stored() == {}

    def test_leaves_one_object_when_its_start_is_lost_twice_and_an_answer_in_tidying_up_once(
        self, proxy, store, upload, stored
    ):
        proxy.fail("CreateMultipartUpload", no_answer, [1, 2])
        proxy.fail("AbortMultipartUpload", no_answer)

        saved = store.save(upload(FILM, "film.mp4"))

        assert stored() == {saved.filename: digest(FILM)}

    @with_each(slow_down, reset, no_answer)
    def test_leaves_nothing_when_tidying_up_fails_once(self, caplog, proxy, store, upload, stored, fault):
        proxy.fail("UploadPart", forbidden, [2])
        proxy.fail("AbortMultipartUpload", fault)

        with pytest.raises(ServiceError, match="AccessDenied"):
            store.save(upload(FILM, "film.mp4"))

        assert stored() == {}
        assert warnings_logged(caplog) == []

    def test_raises_what_went_wrong_first_when_tidying_up_fails(self, bucket, caplog, proxy, store, upload):
        proxy.fail("UploadPart", not_found, [2])
        proxy.fail("AbortMultipartUpload", forbidden, EVERY_TIME)

        with pytest.raises(ServiceError, match="NoSuchKey"):
            store.save(upload(FILM, "film.mp4"))

        (record,) = warnings_logged(caplog)
        (left,) = bucket.multipart_uploads.all()
        assert left.object_key in record.getMessage()
        assert bucket.name in record.getMessage()
        assert list(bucket.objects.all()) == []

    def test_is_stored_when_only_tidying_up_fails(self, bucket, caplog, proxy, store, upload):
        proxy.fail("CreateMultipartUpload", no_answer)
        proxy.fail("ListMultipartUploads", forbidden, EVERY_TIME)

        saved = store.save(upload(FILM, "film.mp4"))

        (found,) = bucket.objects.all()
        (record,) = warnings_logged(caplog)
        assert found.key == saved.filename
        assert digest(found.get()["Body"].read()) == digest(FILM)
        assert saved.filename in record.getMessage()

    @on_moto
    @pytest.mark.parametrize("operation", ["CreateMultipartUpload", "CompleteMultipartUpload"])
    def test_fails_and_leaves_nothing_when_a_server_that_is_not_s3_answers(
        self, proxy, store, upload, stored, operation
    ):
        proxy.fail(operation, not_s3, EVERY_TIME)

        with pytest.raises(ServiceError, match=r"film_.*\.mp4"):
            store.save(upload(FILM, "film.mp4"))

        assert stored() == {}

    @on_ceph
    def test_leaves_no_object_and_one_open_upload_when_its_process_is_killed(
        self, s3, bucket, proxy, store, start_program
    ):
        proxy.fail("UploadPart", stall, [2])
        settings = {**s3.settings(bucket.name), "STORE_S3_ENDPOINT_URL": proxy.url}
        program = start_program(SAVE_FILM, str(len(FILM)), **settings, STORE_S3_MULTIPART_THRESHOLD=PART_SIZE)
        s3_servers.wait_until(lambda: [len(list(open.parts.all())) for open in bucket.multipart_uploads.all()] == [1])

        program.kill()
        program.wait()

        proxy.settle()
        assert program.returncode == -signal.SIGKILL
        assert list(bucket.objects.all()) == list(store.list()) == []
        (left,) = bucket.multipart_uploads.all()
        assert left.object_key.startswith("film_")

    def test_leaves_the_uploads_of_others_alone(self, bucket, proxy, store, upload):
        other = bucket.Object("film.mp4").initiate_multipart_upload()
        proxy.fail("CreateMultipartUpload", no_answer)
        proxy.fail("UploadPart", forbidden)

        with pytest.raises(ServiceError):
            store.save(upload(FILM, "film.mp4"))

        assert [left.id for left in bucket.multipart_uploads.all()] == [other.id]


class TestAFileThatIsRead:
    @pytest.fixture
    def film(self, bucket):
        bucket.put_object(Key="film.mp4", Body=CLIP)
        return "film.mp4"

    def test_is_whole_when_one_request_fails(self, impatient, proxy, store, film):
        for fault in [*REFUSALS, no_answer, half_an_answer, head_of_an_answer, stalled_answer]:
            made = proxy.count("GetObject")
            proxy.fail("GetObject", fault)

            with store.open(film) as stream:
                content = stream.read()

            assert digest(content) == digest(CLIP), fault
            assert proxy.count("GetObject") == made + 2, fault

    @on_moto
    @pytest.mark.parametrize("size", [1, 1000, 100_000, 1_000_000])
    def test_is_whole_in_pieces_of_any_size_when_one_request_breaks_off(self, proxy, store, bucket, size):
        bucket.put_object(Key="photo.jpg", Body=PHOTO)
        proxy.fail("GetObject", half_an_answer)

        with store.open("photo.jpg") as stream:
            content = b"".join(iter(lambda: stream.read(size), b""))

        assert digest(content) == digest(PHOTO)

    def test_is_whole_when_requests_break_off_again_and_again_on_the_way(self, proxy, store, film):
        proxy.fail("GetObject", half_an_answer, range(1, 6))

        with store.open(film) as stream:
            content = stream.read()

        assert digest(content) == digest(CLIP)
        assert proxy.count("GetObject") == 6

    def test_gives_the_right_bytes_after_seeks_whose_requests_break_off(self, proxy, store, film):
        proxy.fail("GetObject", half_an_answer, EVERY_TIME)

        with store.open(film) as stream:
            for position in [len(CLIP) - 300_000, 5, 1_200_001, 0, len(CLIP) - 1_000_000]:
                stream.seek(position)
                assert digest(stream.read(100_000)) == digest(CLIP[position : position + 100_000])
                assert stream.tell() == position + 100_000

    @with_each(head_of_an_answer, reset, slow_down)
    def test_is_an_error_and_not_short_when_it_breaks_off_for_good(self, proxy, store, film, fault):
        proxy.fail("GetObject", half_an_answer)
        proxy.fail("GetObject", fault, range(2, 100))

        with store.open(film) as stream, pytest.raises(ServiceError) as caught:
            stream.read()

        assert caught.value.__cause__ is not None

    def test_is_an_error_when_it_breaks_off_in_an_ever_smaller_rest(self, proxy, store, bucket):
        bucket.put_object(Key="photo.jpg", Body=PHOTO)
        proxy.fail("GetObject", half_an_answer, EVERY_TIME)

        with store.open("photo.jpg") as stream, pytest.raises(ServiceError):
            stream.read()

    def test_is_an_error_when_it_is_replaced_while_it_is_read(self, bucket, proxy, store, film):
        proxy.fail("GetObject", half_an_answer)

        with store.open(film) as stream:
            start = stream.read(1_000_000)
            bucket.put_object(Key=film, Body=bytes(len(CLIP)))
            with pytest.raises(ServiceError, match=r"film\.mp4"):
                stream.read()

        assert digest(start) == digest(CLIP[:1_000_000])

    def test_is_not_found_when_it_is_deleted_while_it_is_read(self, bucket, proxy, store, film):
        proxy.fail("GetObject", half_an_answer)

        with store.open(film) as stream:
            bucket.Object(film).delete()
            with pytest.raises(NotFoundError, match=r"film\.mp4"):
                stream.read()

    @on_moto  # the range is signed, and moto does not look at signatures
    def test_is_an_error_and_never_has_bytes_of_another_place_where_a_server_knows_no_ranges(self, proxy, store, film):
        proxy.fail("GetObject", without_range, EVERY_TIME)

        with store.open(film) as stream:
            stream.seek(1_500_000)
            with pytest.raises(ServiceError, match="ranges"):
                stream.read()

    def test_of_no_bytes_is_read_when_one_request_fails(self, bucket, proxy, store):
        bucket.put_object(Key="empty.txt", Body=b"")
        proxy.fail("GetObject", reset)

        with store.open("empty.txt") as stream:
            assert stream.read() == b""

        assert proxy.count("GetObject") == 2


@pytest.fixture
def pages(s3, bucket, monkeypatch):
    """Names of files of which a server lists only some at a time: S3 a thousand, moto as many as it is told."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    names = [f"{number:04}.txt" for number in range(1001 if s3.name == "ceph" else 5)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: bucket.meta.client.put_object(Bucket=bucket.name, Key=name), names))
    return names


class TestOtherVerbs:
    def test_delete_deletes_when_one_request_fails(self, impatient, s3, bucket, proxy, store, stored):
        faults = [slow_down, reset, no_answer] if s3.name == "ceph" else FAULTS
        names = [f"{fault.__name__}.jpg" for fault in faults]
        for name, fault in zip(names, faults, strict=True):
            bucket.put_object(Key=name, Body=PHOTO)
            proxy.fail("DeleteObject", fault, key=name)

        for name in names:
            store.delete(name)

        assert stored() == {}

    @on_moto
    def test_delete_raises_when_every_request_fails(self, bucket, proxy, store, stored):
        bucket.put_object(Key="photo.jpg", Body=PHOTO)
        proxy.fail("DeleteObject", slow_down, EVERY_TIME)

        with pytest.raises(ServiceError, match=r"photo\.jpg.*SlowDown"):
            store.delete("photo.jpg")

        assert stored() == {"photo.jpg": digest(PHOTO)}

    def test_stat_tells_when_one_request_fails(self, impatient, bucket, proxy, store):
        bucket.put_object(Key="photo.jpg", Body=PHOTO)
        for fault in FAULTS:
            made = proxy.count("HeadObject")
            proxy.fail("HeadObject", fault)

            assert store.stat("photo.jpg").size == len(PHOTO)
            assert proxy.count("HeadObject") == made + 2

    @with_each(forbidden, internal_error, reset)
    def test_neither_stat_nor_exists_calls_a_file_missing_when_every_request_fails(self, bucket, proxy, store, fault):
        bucket.put_object(Key="photo.jpg", Body=PHOTO)
        proxy.fail("HeadObject", fault, EVERY_TIME)
        proxy.fail("GetObject", fault, EVERY_TIME)

        for ask in (store.exists, store.stat):
            with pytest.raises(ServiceError, match=r"photo\.jpg"):
                ask("photo.jpg")

    def test_list_is_complete_when_a_request_for_a_later_page_fails(self, impatient, s3, proxy, store, pages):
        more = [] if s3.name == "ceph" else [slow_down, reset, no_answer, stall]
        for fault in [half_an_answer, stalled_answer, *more]:
            proxy.fail("ListObjectsV2", fault, [2])

            assert [file.filename for file in store.list()] == pages

    @on_moto
    @with_each(slow_down, forbidden, not_s3)
    def test_list_is_an_error_and_not_short_when_a_later_page_does_not_come(self, proxy, store, pages, fault):
        proxy.fail("ListObjectsV2", fault, range(2, 100))

        with pytest.raises(ServiceError, match="could not list"):
            list(store.list())

    @on_moto
    @pytest.mark.parametrize(
        ("operation", "verb"), [("GetObject", "open"), ("HeadObject", "stat"), ("HeadObject", "exists")]
    )
    def test_no_verb_believes_a_server_that_is_not_s3(self, proxy, store, operation, verb):
        proxy.fail(operation, not_s3, EVERY_TIME)

        with pytest.raises(ServiceError, match=r"photo\.jpg"):
            getattr(store, verb)("photo.jpg")


class PairForm(FlaskForm):
    first = StoreFileField()
    second = StoreFileField()


class TestAForm:
    @pytest.fixture
    def form(self, app):
        data = {"first": (io.BytesIO(b"first"), "first.jpg"), "second": (io.BytesIO(b"second"), "second.jpg")}
        with app.test_request_context(method="POST", data=data):
            yield PairForm()

    def test_stores_both_files_when_a_request_for_each_fails(self, proxy, form, stored):
        proxy.fail("PutObject", no_answer, key="first.jpg")
        proxy.fail("PutObject", slow_down, key="second.jpg")

        assert form.validate_on_submit()

        assert stored() == {"first.jpg": digest(b"first"), "second.jpg": digest(b"second")}

    @with_each(slow_down, forbidden, reset)
    def test_stores_neither_when_the_second_fails_and_says_so_once(self, caplog, proxy, form, stored, fault):
        proxy.fail("PutObject", fault, EVERY_TIME, key="second.jpg")
        proxy.fail("DeleteObject", no_answer)

        assert not form.validate_on_submit()

        assert stored() == {}
        assert not form.first.errors
        later = "" if fault is forbidden else " Please try again later."
        assert form.second.errors == [f"The file could not be stored.{later}"]
        (record,) = warnings_logged(caplog)
        assert "'second'" in record.getMessage()
        assert isinstance(record.exc_info[1], ServiceError)

    def test_can_be_sent_again_after_a_failure(self, proxy, form, stored):
        proxy.fail("PutObject", forbidden, key="second.jpg")
        assert not form.validate_on_submit()

        assert form.validate_on_submit()

        assert stored() == {"first.jpg": digest(b"first"), "second.jpg": digest(b"second")}
