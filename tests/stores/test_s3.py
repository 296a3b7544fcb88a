"""S3Store: the contract of all stores, and what its open and its list do beyond it."""

from __future__ import annotations

import io
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from flask_store import InvalidNameError, NotFoundError, ServiceError
from flask_store.stores.s3 import MAX_KEY_SIZE, S3Store
from flask_store.testing import StoreContract

KIB = 1024

#: What does not depend on the server.
on_moto = pytest.mark.parametrize("s3", ["moto"], indirect=True)


class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, s3_app):
        return S3Store()


@on_moto
class TestS3StoreBelowAPrefix(StoreContract):
    @pytest.fixture
    def store(self, make_app, s3, bucket):
        app = make_app(**s3.settings(bucket.name), STORE_PATH="media/uploads")
        with app.app_context():
            yield S3Store(destination="contract")


@pytest.fixture
def store(s3_app):
    return S3Store()


def requests_of(store):
    """Return the list of the requests that the store's client sends from now on."""
    requests = []
    store.connect().meta.events.register("before-send.s3", lambda request, **_: requests.append(request))
    return requests


def header(request, name):
    value = request.headers.get(name)
    return value.decode() if isinstance(value, bytes) else value


def fill(bucket, keys):
    """Put an object under each of many keys."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: bucket.meta.client.put_object(Bucket=bucket.name, Key=key, Body=b"theirs"), keys))


class TestOpen:
    CONTENT = random.Random(4).randbytes(1000 * KIB)

    @pytest.fixture
    def saved(self, store, upload):
        return store.save(upload(self.CONTENT, "film.mp4"))

    def test_reads_from_start_to_end_in_one_request(self, store, saved):
        requests = requests_of(store)

        with saved.open() as stream:
            pieces = iter(lambda: stream.read(10_000), b"")
            content = b"".join(pieces)

        assert content == self.CONTENT
        assert [(request.method, header(request, "Range")) for request in requests] == [("GET", None)]

    def test_goes_on_from_any_place_with_the_bytes_from_there(self, store, saved):
        requests = requests_of(store)

        with saved.open() as stream:
            stream.seek(900 * KIB)
            assert stream.tell() == 900 * KIB
            assert stream.read(10) == self.CONTENT[900 * KIB : 900 * KIB + 10]
            assert stream.seek(-10, io.SEEK_END) == 1000 * KIB - 10
            assert stream.read() == self.CONTENT[-10:]
            assert stream.seek(5) == 5
            assert stream.seek(5, io.SEEK_CUR) == 10
            assert stream.read() == self.CONTENT[10:]

        ranges = [header(request, "Range") for request in requests]
        assert ranges[0] is None
        assert ranges[1] == f"bytes={900 * KIB}-"
        assert ranges[-1] == "bytes=10-"

    def test_asks_for_nothing_at_the_end_and_after_it(self, store, saved):
        with saved.open() as stream:
            requests = requests_of(store)

            assert stream.seek(0, io.SEEK_END) == len(self.CONTENT)
            assert stream.read() == b""
            assert stream.seek(10, io.SEEK_END) == len(self.CONTENT) + 10
            assert stream.read(1) == b""

        assert requests == []

    def test_refuses_a_place_before_the_start(self, saved):
        with saved.open() as stream, pytest.raises(ValueError, match="negative"):
            stream.seek(-1)

    def test_of_an_empty_file_is_empty(self, store, upload):
        with store.save(upload(b"")).open() as stream:
            assert stream.read() == b""
            assert stream.seek(0, io.SEEK_END) == 0

    def test_can_be_read_line_by_line(self, store, upload):
        saved = store.save(upload(b"one\ntwo\nthree", "lines.txt"))

        with saved.open() as stream, io.TextIOWrapper(stream) as text:
            assert list(text) == ["one\n", "two\n", "three"]

    def test_a_stream_that_is_closed_gives_nothing_more(self, saved):
        stream = saved.open()
        stream.close()

        assert stream.closed
        with pytest.raises(ValueError, match="closed"):
            stream.read()

    def test_does_not_mix_an_object_with_the_one_that_took_its_place(self, saved, bucket):
        with saved.open() as stream:
            stream.read(10)
            bucket.put_object(Key=saved.filename, Body=bytes(len(self.CONTENT)))
            stream.seek(900 * KIB)

            with pytest.raises(ServiceError, match=rf"{saved.filename}.*{bucket.name}"):
                stream.read()

    def test_an_object_that_is_deleted_meanwhile_is_not_found(self, saved):
        with saved.open() as stream:
            saved.delete()
            stream.seek(900 * KIB)

            with pytest.raises(NotFoundError, match=saved.filename):
                stream.read()


class TestList:
    def test_gives_more_files_than_s3_gives_at_a_time(self, store, s3, bucket, monkeypatch):
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
        names = [f"{number:04}.txt" for number in range(5 if s3.name == "moto" else 1005)]
        fill(bucket, names)
        requests = requests_of(store)

        listed = store.list()
        first = next(listed)
        assert len(requests) == 1  # the next page is asked for when it is wanted
        rest = list(listed)

        assert [file.filename for file in (first, *rest)] == names
        assert len(requests) == 2

    def test_leaves_out_what_no_store_of_ours_has_written(self, store, bucket):
        safe = ["a.txt", "b/c.txt", "été/写真.jpg"]
        # Not ".." and "." as a part of a key: not every server takes those from a client.
        unsafe = ["/a.txt", "b//c.txt", ".git/config", ".htaccess", "b/", "b/.hidden", "a\\b.txt", "con.txt", "x. "]
        unsafe += ["e\u0301te\u0301.txt", "a:b.txt", "tab\there.txt", "\u202etxt.exe", "n" * 256 + ".txt"]
        fill(bucket, safe + unsafe)

        assert [str(file) for file in store.list()] == safe
        assert [str(file) for file in store.at("b").list()] == ["b/c.txt"]

    def test_below_a_prefix_of_keys_gives_paths_without_it(self, make_app, s3, bucket):
        fill(bucket, ["media/a.txt", "media/b/c.txt", "media2/d.txt", "e.txt"])

        with make_app(**s3.settings(bucket.name), STORE_PATH="media").app_context():
            assert [str(file) for file in S3Store().list()] == ["a.txt", "b/c.txt"]
            [below] = S3Store(destination="b").list()

        assert (below.filename, below.destination, below.absolute_path()) == ("c.txt", "b", "media/b/c.txt")

    @pytest.mark.parametrize("prefix", ["../", "a/../b", "/a", ".git/"])
    def test_refuses_to_look_elsewhere(self, store, prefix):
        with pytest.raises(InvalidNameError):
            list(store.list(prefix))


class TestKeys:
    # Four names of a length that a store takes, and what is left for the fifth.
    DESTINATION = "/".join(letter * 250 for letter in "abcd")

    def test_of_the_longest_name_that_fits_are_stored(self, store, bucket, upload):
        below = store.at(self.DESTINATION)
        name = "n" * (MAX_KEY_SIZE - len(self.DESTINATION) - 1)

        saved = below.save(upload(b"long", name))

        assert len(saved.absolute_path().encode()) == MAX_KEY_SIZE
        assert bucket.Object(saved.absolute_path()).get()["Body"].read() == b"long"
        assert saved.exists()

    @pytest.mark.parametrize("verb", ["exists", "open", "stat", "delete", "absolute_url", "presign"])
    def test_that_s3_does_not_take_are_refused_before_it_is_asked(self, store, verb):
        below = store.at(self.DESTINATION)
        requests = requests_of(store)

        with pytest.raises(InvalidNameError, match=f"more than {MAX_KEY_SIZE} bytes"):
            getattr(below, verb)("é" * 11)

        assert requests == []

    def test_that_s3_does_not_take_are_not_saved(self, store, bucket, upload):
        with pytest.raises(InvalidNameError, match=f"more than {MAX_KEY_SIZE} bytes"):
            store.at(self.DESTINATION).save(upload(filename="n" * 30 + ".txt"))

        assert list(bucket.objects.all()) == []

    def test_of_every_verb_are_one_request(self, store, upload):
        saved = store.save(upload())
        requests = requests_of(store)

        assert saved.exists()
        store.stat(saved.filename)
        saved.open().close()
        saved.delete()
        saved.delete()

        assert [request.method for request in requests] == ["HEAD", "HEAD", "GET", "DELETE", "DELETE"]
