"""How S3Store saves: in how many requests, under which name, with which headers, and byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import re
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote, urlsplit

import pytest
import s3_servers
from flask import request
from werkzeug.datastructures import FileStorage

from flask_store import serving
from flask_store.stores.s3 import S3Store

pytestmark = pytest.mark.slow

KIB, MIB = 1024, 1024 * 1024

# The least that S3 allows.
THRESHOLD = 5 * MIB

# What a random part is made of.
RANDOM = r"_[\w-]{14}"

TIMEOUT = 60


def some_bytes(size):
    """Return bytes that differ from place to place, so that none can be lost or swapped unseen."""
    return random.Random(size).randbytes(size)


@pytest.fixture
def store(make_app, s3, bucket):
    """A store that sends more than 5 MiB in parts."""
    app = make_app(**s3.settings(bucket.name), STORE_S3_MULTIPART_THRESHOLD=THRESHOLD)
    with app.app_context():
        yield S3Store()


def requests_of(store):
    """Return the list of the requests that the store's client sends, repeated ones too, from now on."""
    requests = []
    store.connect().meta.events.register("before-send.s3", lambda request, **_: requests.append(request))
    return requests


def lines(requests):
    """Return method and decoded path of each request."""
    return [f"{request.method} {unquote(urlsplit(request.url).path)}" for request in requests]


def header(request, name):
    value = request.headers.get(name)
    return value.decode() if isinstance(value, bytes) else value


def keys(bucket):
    return sorted(found.key for found in bucket.objects.all())


def content(bucket, saved):
    return bucket.Object(saved.absolute_path()).get()["Body"].read()


def head(bucket, saved):
    return bucket.meta.client.head_object(Bucket=bucket.name, Key=saved.absolute_path())


@pytest.mark.parametrize("size", [0, 10 * KIB, MIB, THRESHOLD])
def test_a_save_is_one_conditional_put(store, bucket, upload, size):
    requests = requests_of(store)

    saved = store.save(upload(some_bytes(size), "photo.jpg"))

    assert lines(requests) == [f"PUT /{bucket.name}/photo.jpg"]
    assert header(requests[0], "If-None-Match") == "*"
    assert content(bucket, saved) == some_bytes(size)


on_moto = pytest.mark.parametrize("s3", ["moto"], indirect=True)
on_ceph = pytest.mark.parametrize("s3", [pytest.param("ceph", marks=pytest.mark.ceph)], indirect=True)


@on_ceph
def test_the_server_sees_one_request_for_a_save(store, s3, bucket, upload):
    def arrived():
        return re.findall(rf'"(\w+ /{bucket.name}\S*) HTTP', s3.log.read_text())

    store.save(upload(filename="photo.jpg")).delete()

    s3_servers.wait_until(lambda: f"DELETE /{bucket.name}/photo.jpg" in arrived())
    assert arrived() == [
        f"PUT /{bucket.name}",  # the bucket
        f"PUT /{bucket.name}/photo.jpg",
        f"DELETE /{bucket.name}/photo.jpg",
    ]


def test_a_taken_name_costs_one_request_more_and_gets_a_random_part(store, bucket, upload):
    first = store.save(upload(b"first", "backup.tar.gz"))
    requests = requests_of(store)

    second = store.save(upload(b"second", "backup.tar.gz"))

    assert re.fullmatch(rf"backup{RANDOM}\.tar\.gz", second.filename)
    assert lines(requests) == [f"PUT /{bucket.name}/{name}" for name in ("backup.tar.gz", second.filename)]
    assert {header(request, "If-None-Match") for request in requests} == {"*"}
    assert content(bucket, first) == b"first"
    assert content(bucket, second) == b"second"


def test_an_object_of_another_program_is_not_overwritten(store, bucket, upload):
    bucket.put_object(Key="photo.jpg", Body=b"theirs")

    saved = store.save(upload(b"ours", "photo.jpg"))

    assert saved.filename != "photo.jpg"
    assert bucket.Object("photo.jpg").get()["Body"].read() == b"theirs"
    assert content(bucket, saved) == b"ours"


def test_a_large_file_goes_in_parts_under_a_random_name_without_looking_first(store, bucket, upload):
    data = some_bytes(2 * THRESHOLD + 1)
    requests = requests_of(store)

    saved = store.save(upload(data, "film.mp4"))

    assert re.fullmatch(rf"film{RANDOM}\.mp4", saved.filename)
    path = f"/{bucket.name}/{saved.filename}"
    assert sorted(lines(requests)) == [f"POST {path}"] * 2 + [f"PUT {path}"] * 3
    assert content(bucket, saved) == data
    assert keys(bucket) == [saved.filename]
    assert list(bucket.multipart_uploads.all()) == []


SIZES = [pytest.param(10 * KIB, id="at once"), pytest.param(THRESHOLD + 1, id="in parts")]


@pytest.mark.parametrize(
    ("filename", "content_type"),
    [
        ("photo.jpg", "image/jpeg"),
        ("PHOTO.PNG", "image/png"),
        ("clip.m4v", "video/mp4"),
        ("notes.txt", "text/plain"),
        ("page.html", "text/html"),
        ("page.xhtml", "application/xhtml+xml"),
        ("drawing.svg", "image/svg+xml"),
        ("drawing.svgz", "application/gzip"),
        ("page.html.gz", "application/gzip"),
        ("photo.jpg.html", "text/html"),
        ("data.unheard-of", "application/octet-stream"),
        ("LICENSE", "application/octet-stream"),
    ],
)
def test_the_type_is_told_by_the_name_and_what_a_browser_might_run_is_downloaded(
    store, bucket, upload, filename, content_type
):
    saved = store.save(upload(filename=filename, content_type="image/png"))

    found = head(bucket, saved)
    assert found["ContentType"] == content_type
    shown = serving.inline_type(filename) is not None
    assert found.get("ContentDisposition") == (None if shown else "attachment")
    assert "ContentEncoding" not in found


def test_a_large_file_too_has_its_type_and_is_downloaded_where_a_browser_might_run_it(store, bucket, upload):
    data = some_bytes(THRESHOLD + 1)
    page, photo = (store.save(upload(data, filename)) for filename in ("page.html", "photo.jpg"))

    page, photo = head(bucket, page), head(bucket, photo)
    assert (page["ContentType"], page.get("ContentDisposition")) == ("text/html", "attachment")
    assert (photo["ContentType"], photo.get("ContentDisposition")) == ("image/jpeg", None)


@pytest.mark.parametrize("size", SIZES)
def test_the_parameters_of_the_settings_reach_the_object(store, bucket, upload, size):
    store.app.config["STORE_S3_OBJECT_PARAMETERS"] = {
        "CacheControl": "private, max-age=86400",
        "ContentLanguage": "de",
        "Metadata": {"camera": "pinhole"},
        "StorageClass": "STANDARD",
        "Tagging": "album=sea",
    }
    requests = requests_of(store)

    saved = store.save(upload(some_bytes(size)))

    found = head(bucket, saved)
    assert found["CacheControl"] == "private, max-age=86400"
    assert found["ContentLanguage"] == "de"
    assert found["Metadata"]["camera"] == "pinhole"
    assert header(requests[0], "x-amz-storage-class") == "STANDARD"
    assert header(requests[0], "x-amz-tagging") == "album=sea"
    # The settings are not changed by what the store adds.
    assert store.app.config["STORE_S3_OBJECT_PARAMETERS"]["Metadata"] == {"camera": "pinhole"}


@pytest.mark.parametrize("size", SIZES)
def test_no_acl_is_asked_for_by_default(store, upload, size):
    requests = requests_of(store)

    store.save(upload(some_bytes(size)))

    assert [name for request in requests for name in request.headers if name.lower().startswith("x-amz-acl")] == []
    assert [request.url for request in requests if "acl" in urlsplit(request.url).query] == []


@pytest.mark.parametrize("size", SIZES)
def test_the_acl_of_the_settings_reaches_the_object_without_a_request_of_its_own(store, bucket, upload, size):
    store.app.config["STORE_S3_ACL"] = "public-read"
    requests = requests_of(store)

    saved = store.save(upload(some_bytes(size)))

    assert header(requests[0], "x-amz-acl") == "public-read"
    assert [request.url for request in requests if "acl" in urlsplit(request.url).query] == []
    grants = bucket.Object(saved.filename).Acl().grants
    everyone = "http://acs.amazonaws.com/groups/global/AllUsers"
    assert [grant["Permission"] for grant in grants if grant["Grantee"].get("URI") == everyone] == ["READ"]


class OneWay(io.RawIOBase):
    """Cannot seek, and gives no more than some bytes at a time."""

    def __init__(self, data):
        self._source = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._source.readinto(memoryview(buffer)[:50_001])


def spooled(data, max_size):
    stream = tempfile.SpooledTemporaryFile(max_size=max_size)
    stream.write(data)
    return stream


def named(data):
    stream = tempfile.NamedTemporaryFile()
    stream.write(data)  # stays in the buffer, in part
    return stream


def unbuffered(data):
    stream = tempfile.TemporaryFile(buffering=0)
    stream.write(data)
    return stream


STREAMS = {
    "BytesIO": io.BytesIO,
    "SpooledTemporaryFile in memory": lambda data: spooled(data, 0),
    "SpooledTemporaryFile rolled over": lambda data: spooled(data, 1),
    "SpooledTemporaryFile of werkzeug": lambda data: spooled(data, 500 * KIB),
    "NamedTemporaryFile": named,
    "unbuffered file": unbuffered,
    "GzipFile": lambda data: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(data, 1))),
}


@pytest.mark.parametrize("size", [10 * KIB, MIB, THRESHOLD + 1])
@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_is_stored_byte_for_byte_and_is_the_caller_s_again(store, bucket, kind, size):
    data = some_bytes(size)
    with STREAMS[kind](data) as stream:
        stream.seek(0)
        stream.read(7)  # as a validator does

        first = store.save(FileStorage(stream, "first.bin"))
        second = store.save(FileStorage(stream, "second.bin"))

        assert not stream.closed
        stream.seek(0)
        assert stream.read() == data
    assert content(bucket, first) == data
    assert content(bucket, second) == data


@pytest.mark.parametrize("size", [10 * KIB, MIB, THRESHOLD + 1])
def test_a_stream_that_cannot_seek_is_stored_from_where_it_is(store, bucket, size):
    data = some_bytes(size)
    stream = OneWay(data)
    stream.read(7)

    saved = store.save(FileStorage(stream, "one-way.bin"))

    assert not stream.closed
    assert content(bucket, saved) == data[7:]


class DearToSeek(io.RawIOBase):
    """Can seek, but starts anew to go back, as a decompressing stream does."""

    def __init__(self, data):
        self._source = io.BytesIO(data)
        self.starts = 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def readinto(self, buffer):
        return self._source.readinto(buffer)

    def seek(self, offset, whence=io.SEEK_SET):
        before = self._source.tell()
        position = self._source.seek(offset, whence)
        self.starts += position < before
        return position


@on_moto
def test_a_stream_that_starts_anew_to_go_back_is_not_read_to_and_fro(store, bucket):
    data = some_bytes(2 * THRESHOLD)
    stream = DearToSeek(data)
    stream.read(7)

    saved = store.save(FileStorage(stream, "dear.bin"))

    assert content(bucket, saved) == data
    assert stream.starts == 1


def test_a_field_of_the_request_of_a_view_is_stored(make_app, s3, bucket):
    app = make_app(**s3.settings(bucket.name), STORE_S3_MULTIPART_THRESHOLD=THRESHOLD)
    data = some_bytes(THRESHOLD + 1)

    @app.post("/")
    def add():
        return str(S3Store(destination="photos").save(request.files["photo"]))

    def post(data, filename):
        response = app.test_client().post("/", data={"photo": (io.BytesIO(data), filename)})
        response.request.environ["wsgi.input"].close()
        return response.text

    small, large = post(b"small", "../small.txt"), post(data, "large.bin")

    assert small == "photos/small.txt"
    assert bucket.Object(small).get()["Body"].read() == b"small"
    assert bucket.Object(large).get()["Body"].read() == data


MEASURE = """
def memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name + ":"))

size, block = int(sys.argv[2]), b"0123456789abcdef" * 65536
with app.app_context(), tempfile.TemporaryFile() as file:
    for start in range(0, size, len(block)):
        file.write(block)
    store = S3Store()
    store.save(FileStorage(io.BytesIO(b"the client is there now"), "small.txt")).delete()
    idle = memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak is that of from now on
    saved = store.save(FileStorage(file, "large.bin"))
    print(json.dumps([str(saved), memory("VmHWM") - idle]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("threshold", [pytest.param(1024 * MIB, id="at once"), pytest.param(THRESHOLD, id="in parts")])
@on_moto
def test_a_file_of_any_size_takes_little_memory(s3, bucket, start_program, threshold):
    size = 200 * MIB
    settings = {**s3.settings(bucket.name), "STORE_S3_MULTIPART_THRESHOLD": threshold}

    process = start_program(MEASURE, str(size), **settings)
    saved, growth = json.loads(process.communicate(timeout=TIMEOUT)[0])

    assert bucket.Object(saved).content_length == size
    assert growth <= 64 * MIB


def fingerprint(chunks):
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def assert_each_has_its_own(bucket, saved, is_first_plain):
    """Check the bucket, given fingerprints by key: nothing else is there, and one file has the plain name or none."""
    found = {item.key: fingerprint(item.get()["Body"].iter_chunks(MIB)) for item in bucket.objects.all()}
    assert found == saved
    others = [key for key in found if key != "photo.jpg"]
    assert len(others) == len(found) - is_first_plain
    assert all(re.fullmatch(rf"photo{RANDOM}\.jpg", key) for key in others)
    assert list(bucket.multipart_uploads.all()) == []


def write_variant(file, template, number):
    """Write, and return, content that differs from that of any other number in every byte, and in its size."""
    content = template.translate(bytes((byte + number) % 256 for byte in range(256))) + b"end" * number
    file.write(content)
    return content


RACES = [
    pytest.param(10 * KIB, 64 * MIB, id="10 KiB"),
    pytest.param(20 * MIB, 64 * MIB, id="20 MiB at once"),
    pytest.param(20 * MIB, THRESHOLD, id="20 MiB in parts"),
]


@pytest.mark.parametrize(("size", "threshold"), RACES)
def test_threads_that_race_for_a_name_each_end_with_a_whole_file(s3_app, bucket, size, threshold):
    count = 20
    s3_app.config["STORE_S3_MULTIPART_THRESHOLD"] = threshold
    store, start, template = S3Store(), threading.Barrier(count), some_bytes(size)

    def save(number):
        with tempfile.TemporaryFile() as file:
            digest = fingerprint([write_variant(file, template, number)])
            start.wait(TIMEOUT)
            return str(store.save(FileStorage(file, "photo.jpg"))), digest

    with ThreadPoolExecutor(count) as pool:
        saved = list(pool.map(save, range(count)))

    assert len(dict(saved)) == count
    assert_each_has_its_own(bucket, dict(saved), is_first_plain=size <= threshold)


RACE = """
size, process, threads = map(int, sys.argv[2:])
start = threading.Barrier(threads + 1)

def save(thread):
    chunk = bytes([process, thread]) * 2048
    content = chunk * (size // len(chunk))
    with app.app_context():
        store = S3Store()
        start.wait(60)
        return str(store.save(FileStorage(io.BytesIO(content), "photo.jpg"))), hashlib.sha256(content).hexdigest()

with ThreadPoolExecutor(threads) as pool:
    saves = [pool.submit(save, thread) for thread in range(threads)]
    print("ready", flush=True)
    sys.stdin.readline()
    start.wait(60)
    print(json.dumps([save.result() for save in saves]))
"""


@pytest.mark.parametrize("size", [10 * KIB, 6 * MIB])
@on_ceph
def test_processes_that_race_for_a_name_each_end_with_a_whole_file(s3, bucket, start_program, size):
    processes, threads = 4, 5
    programs = [
        start_program(RACE, str(size), str(number), str(threads), **s3.settings(bucket.name))
        for number in range(processes)
    ]
    for program in programs:
        assert program.stdout.readline() == "ready\n"

    for program in programs:
        program.stdin.write("go\n")
        program.stdin.flush()
    saved = [tuple(file) for program in programs for file in json.loads(program.stdout.readline())]

    assert len(dict(saved)) == processes * threads
    assert_each_has_its_own(bucket, dict(saved), is_first_plain=True)
