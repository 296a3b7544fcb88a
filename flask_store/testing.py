"""``StoreContract``: the tests that every store must pass, a third party's too.

Needs pytest. Subclass it in a test module and give it a fixture named ``store``::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self, app):
            with app.app_context():
                yield MyStore(destination="contract")

With ``pytest.register_assert_rewrite("flask_store.testing")`` at the top of ``conftest.py`` a test that fails says why.

The store must be empty. A verb that the store does not override is not tested, and where a test needs it to look
at what was stored, the test looks at what it can.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from werkzeug.datastructures import FileStorage

from . import naming
from .exceptions import InvalidNameError, NotFoundError
from .files import StoreFile
from .stores.base import BaseStore
from .transaction import transaction

#: Names that clients send to get out of the store, past an allow-list, or into a file system's special cases.
HOSTILE_NAMES = [
    "../escape.txt",
    "..\\escape.txt",
    "/absolute.txt",
    "C:\\drive.txt",
    "\\\\server\\share\\unc.txt",
    "%2e%2e%2fencoded.txt",
    "．．／fullwidth.txt",
    ".hidden",
    "...",
    "nul\0byte.txt",
    "line\r\nbreak.txt",
    "\u202etxt.exe",
    "con.txt",
    "trailing.txt. . ",
    "stream.txt::$DATA",
    "-rf.txt",
    "\ud800surrogate.txt",
    "a" * 300 + ".txt",
    "写" * 200 + ".txt",
]

#: Paths that no verb may follow.
HOSTILE_PATHS = ["../escape.txt", "/absolute.txt", "a/../../escape.txt", "..", "", "a\\b.txt", ".hidden", "a\0b"]

_THREADS = 8


def make_upload(content: bytes = b"content", filename: str = "file.txt") -> FileStorage:
    """Return an upload as a view gets it from ``request.files``."""
    return FileStorage(io.BytesIO(content), filename=filename)


class _BrokenStream(io.RawIOBase):
    """Gives some bytes and then fails, as a client does that goes away."""

    def __init__(self) -> None:
        self._left = 3

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            raise _ClientGoneError
        self._left -= 1
        buffer[:10] = b"0123456789"
        return 10


class _ClientGoneError(Exception):
    pass


class _OneWayStream(io.RawIOBase):
    """Cannot seek, and gives a few bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self._source = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.readinto(memoryview(buffer)[:7])


class StoreContract:
    """What every store promises. Subclasses provide a ``store`` fixture: an empty store of the class under test."""

    @pytest.fixture
    def store(self) -> BaseStore:
        raise NotImplementedError("a StoreContract class provides a fixture named store")

    def test_save_returns_the_stored_file(self, store: BaseStore) -> None:
        saved = store.save(make_upload(b"hello", "hello.txt"))

        assert isinstance(saved, StoreFile)
        assert saved.destination == store.destination
        assert naming.split_extension(saved.filename)[1] == ".txt"
        assert store.exists(saved.filename)
        assert_content(saved, b"hello")

    def test_an_empty_file_is_a_file(self, store: BaseStore) -> None:
        saved = store.save(make_upload(b"", "empty.txt"))

        assert store.exists(saved.filename)
        assert_content(saved, b"")

    @pytest.mark.parametrize("filename", HOSTILE_NAMES)
    def test_a_hostile_name_is_stored_under_a_safe_one(self, store: BaseStore, filename: str) -> None:
        saved = store.save(make_upload(b"hostile", filename))

        naming.check(saved.filename)
        assert saved.filename == str(saved).rpartition("/")[2]
        assert store.exists(saved.filename)
        assert_content(saved, b"hostile")

    def test_letters_of_any_script_survive_in_a_name(self, store: BaseStore) -> None:
        saved = store.save(make_upload(filename="旅行の写真.jpg"))

        assert saved.filename.startswith("旅行の写真")
        assert saved.filename.endswith(".jpg")

    def test_an_upload_without_a_name_is_refused(self, store: BaseStore) -> None:
        with pytest.raises(InvalidNameError):
            store.save(make_upload(b"", ""))

        assert_listed(store, [])

    def test_a_name_that_is_taken_is_not_overwritten(self, store: BaseStore) -> None:
        first = store.save(make_upload(b"first", "same.tar.gz"))
        second = store.save(make_upload(b"second", "same.tar.gz"))

        assert first != second
        assert second.filename.endswith(".tar.gz")
        assert_content(first, b"first")
        assert_content(second, b"second")

    def test_threads_that_save_one_name_each_get_a_file_of_their_own(self, store: BaseStore) -> None:
        contents = [f"content {number}".encode() * 1000 for number in range(_THREADS)]
        saved: dict[bytes, StoreFile] = {}
        start = threading.Barrier(_THREADS)

        def save(content: bytes) -> None:
            with store.app.app_context():
                start.wait()
                saved[content] = store.save(make_upload(content, "race.txt"))

        run_in_threads(save, contents)

        assert len(saved) == len(set(saved.values())) == _THREADS
        for content, file in saved.items():
            assert_content(file, content)

    @pytest.mark.parametrize("read", [0, 4, -1])
    def test_a_stream_is_stored_from_its_start_whatever_was_read(self, store: BaseStore, read: int) -> None:
        upload = make_upload(b"0123456789")
        upload.stream.read(read)

        saved = store.save(upload)

        assert_content(saved, b"0123456789")

    def test_a_stream_that_cannot_seek_is_stored_to_its_end(self, store: BaseStore) -> None:
        content = bytes(range(256)) * 20

        saved = store.save(FileStorage(_OneWayStream(content), filename="one-way.bin"))  # type: ignore[arg-type]

        assert_content(saved, content)

    def test_a_saved_stream_stays_open(self, store: BaseStore) -> None:
        upload = make_upload()

        store.save(upload)

        assert not upload.stream.closed

    def test_an_upload_can_be_saved_twice(self, store: BaseStore) -> None:
        upload = make_upload(b"twice")

        first, second = store.save(upload), store.save(upload)

        assert first != second
        assert_content(first, b"twice")
        assert_content(second, b"twice")

    def test_the_length_that_a_client_claims_is_not_believed(self, store: BaseStore) -> None:
        upload = FileStorage(io.BytesIO(b"0123456789"), filename="length.txt", content_length=3)

        saved = store.save(upload)

        assert_content(saved, b"0123456789")

    def test_an_upload_that_breaks_off_leaves_nothing_and_keeps_its_error(self, store: BaseStore) -> None:
        with pytest.raises(_ClientGoneError):
            store.save(FileStorage(_BrokenStream(), filename="broken.txt"))  # type: ignore[arg-type]

        assert not store.exists("broken.txt")
        assert_listed(store, [])

    def test_a_transaction_that_fails_deletes_what_was_saved_in_it(self, store: BaseStore) -> None:
        needs(store, "delete")
        with pytest.raises(_ClientGoneError), transaction():
            saved = store.save(make_upload())
            raise _ClientGoneError

        assert not store.exists(saved.filename)

    def test_a_transaction_that_ends_well_keeps_what_was_saved_in_it(self, store: BaseStore) -> None:
        with transaction():
            saved = store.save(make_upload())

        assert store.exists(saved.filename)

    @pytest.mark.parametrize("filename", HOSTILE_PATHS)
    def test_exists_does_not_look_outside_the_store(self, store: BaseStore, filename: str) -> None:
        try:
            found = store.exists(filename)
        except InvalidNameError:
            found = False

        assert not found

    @pytest.mark.parametrize(
        "destination", ["../outside", "/absolute", "a/../../outside", "..", "a//b", "a\\b", ".git"]
    )
    def test_a_destination_that_leaves_the_store_is_refused(self, store: BaseStore, destination: str) -> None:
        with pytest.raises(InvalidNameError):
            type(store)(destination=destination)

    def test_a_nested_destination_is_part_of_the_path(self, store: BaseStore) -> None:
        below = type(store)(destination="2026/photos")

        saved = below.save(make_upload(b"nested", "nested.txt"))

        assert str(saved) == f"2026/photos/{saved.filename}"
        assert saved.exists()
        assert StoreFile.from_path(str(saved)) == saved
        assert_content(saved, b"nested")

    def test_join_refuses_to_climb(self, store: BaseStore) -> None:
        with pytest.raises(InvalidNameError):
            store.join(store.store_path, "../escape.txt")

    def test_urls_are_percent_encoded(self, store: BaseStore) -> None:
        url = StoreFile.of(store, "a b#c%41é.txt").relative_url()

        assert url.startswith("/")
        assert url.endswith("a%20b%23c%2541%C3%A9.txt")

    def test_exists_is_false_for_what_is_not_there(self, store: BaseStore) -> None:
        assert not store.exists("missing.txt")

    def test_open_gives_the_bytes_and_can_seek(self, store: BaseStore) -> None:
        needs(store, "open")
        saved = store.save(make_upload(b"0123456789"))

        with store.open(saved.filename) as stream:
            assert stream.read(3) == b"012"
            assert stream.seek(-2, io.SEEK_END) == 8
            assert stream.read() == b"89"
            assert stream.seek(0) == 0
            assert stream.read() == b"0123456789"

    def test_open_of_a_missing_name_is_not_found(self, store: BaseStore) -> None:
        needs(store, "open")
        with pytest.raises(NotFoundError, match=r"missing\.txt"):
            store.open("missing.txt")

    def test_delete_deletes_only_the_file_of_that_name(self, store: BaseStore) -> None:
        needs(store, "delete")
        deleted = store.save(make_upload(filename="photo.txt"))
        kept = store.save(make_upload(filename="photo.txt.txt"))

        store.delete(deleted.filename)

        assert not store.exists(deleted.filename)
        assert store.exists(kept.filename)

    def test_delete_of_what_is_gone_is_fine(self, store: BaseStore) -> None:
        needs(store, "delete")

        store.delete("missing.txt")

        assert not store.exists("missing.txt")

    @pytest.mark.parametrize("verb", ["open", "delete", "stat"])
    @pytest.mark.parametrize("filename", HOSTILE_PATHS)
    def test_no_verb_follows_a_hostile_path(self, store: BaseStore, verb: str, filename: str) -> None:
        needs(store, verb)
        with pytest.raises(InvalidNameError):
            getattr(store, verb)(filename)

    def test_stat_tells_size_type_and_time(self, store: BaseStore) -> None:
        needs(store, "stat")
        before = datetime.now(UTC)
        saved = store.save(make_upload(b"12345", "page.html"))

        stat = store.stat(saved.filename)

        assert stat.size == saved.size == 5
        assert stat.content_type == saved.content_type == "text/html"
        assert stat.last_modified == saved.last_modified
        # Clocks of a service and of a file system may lag behind a little.
        assert abs(stat.last_modified - before) < timedelta(minutes=1)

    def test_the_content_type_is_never_missing(self, store: BaseStore) -> None:
        needs(store, "stat")
        saved = store.save(make_upload(filename="no-extension"))

        assert saved.content_type == "application/octet-stream"

    def test_stat_of_a_missing_name_is_not_found(self, store: BaseStore) -> None:
        needs(store, "stat")
        with pytest.raises(NotFoundError, match=r"missing\.txt"):
            store.stat("missing.txt")

    def test_list_yields_the_files_of_the_destination_in_order(self, store: BaseStore) -> None:
        needs(store, "list")
        inside = type(store)(destination="list")
        saved = [inside.save(make_upload(filename=name)) for name in ("b.txt", "a.txt", "写.txt")]
        deeper = type(store)(destination="list/a").save(make_upload())
        type(store)(destination="listed").save(make_upload())

        assert list(inside.list()) == sorted([*saved, deeper], key=str)

    def test_list_yields_what_starts_with_a_prefix(self, store: BaseStore) -> None:
        needs(store, "list")
        inside = type(store)(destination="list")
        july = inside.save(make_upload(filename="2026-07.txt"))
        inside.save(make_upload(filename="2027.txt"))
        below = type(store)(destination="list/2026").save(make_upload())

        assert list(inside.list("2026-")) == [july]
        assert list(inside.list("2026/")) == [below]
        assert list(inside.list("2028")) == []

    def test_list_of_a_missing_destination_is_empty(self, store: BaseStore) -> None:
        needs(store, "list")

        assert list(type(store)(destination="missing").list()) == []

    def test_a_kept_upload_can_be_read_and_is_no_file(self, store: BaseStore) -> None:
        needs(store, "keep")
        id = store.keep(make_upload(b"0123456789", "photo.jpg"))

        with store.open_kept(id) as stream:
            assert stream.read(3) == b"012"
            assert stream.seek(-2, io.SEEK_END) == 8
            assert stream.read() == b"89"
        assert not store.exists("photo.jpg")
        assert_listed(store, [])
        assert_listed(store.at(None), [])

    def test_a_promoted_upload_is_a_file_and_kept_no_more(self, store: BaseStore) -> None:
        needs(store, "keep")
        id = store.keep(make_upload(b"kept", "a.txt"))

        saved = store.promote(id, "../b.tar.gz")

        assert isinstance(saved, StoreFile)
        assert saved.destination == store.destination
        assert saved.filename.startswith("b")
        assert saved.filename.endswith(".tar.gz")
        assert store.exists(saved.filename)
        assert_content(saved, b"kept")
        assert_listed(store, [saved.filename])
        assert_gone(store, id)

    def test_a_promoted_upload_with_a_hostile_name_has_a_safe_one(self, store: BaseStore) -> None:
        needs(store, "keep")
        for filename in HOSTILE_NAMES:
            saved = store.promote(store.keep(make_upload(b"hostile", filename)), filename)

            naming.check(saved.filename)
            assert store.exists(saved.filename)
            assert_content(saved, b"hostile")

    def test_a_promoted_upload_replaces_no_file(self, store: BaseStore) -> None:
        needs(store, "keep")
        first = store.save(make_upload(b"first", "same.txt"))
        others = [store.promote(store.keep(make_upload(content)), "same.txt") for content in (b"second", b"third")]

        assert len({first, *others}) == 3
        for file, content in zip([first, *others], [b"first", b"second", b"third"], strict=True):
            assert_content(file, content)

    def test_a_transaction_that_fails_leaves_a_promoted_upload_kept(self, store: BaseStore) -> None:
        needs(store, "keep")
        id = store.keep(make_upload(b"kept"))
        with pytest.raises(_ClientGoneError), transaction():
            taken_back = store.promote(id, "file.txt")
            raise _ClientGoneError

        assert not store.exists(taken_back.filename)
        assert_listed(store, [])
        assert_content(store.promote(id, "file.txt"), b"kept")

    def test_a_promoted_upload_is_kept_until_the_transaction_ends(self, store: BaseStore) -> None:
        needs(store, "keep")
        id = store.keep(make_upload(b"kept"))

        with transaction():
            saved = store.promote(id, "file.txt")
            assert_content(saved, b"kept")

        assert_content(saved, b"kept")
        assert_gone(store, id)

    def test_threads_that_promote_one_upload_make_one_file(self, store: BaseStore) -> None:
        needs(store, "keep")
        id = store.keep(make_upload(b"kept" * 1000))
        saved: list[StoreFile] = []
        start = threading.Barrier(_THREADS)

        def promote(number: int) -> None:
            with store.app.app_context():
                start.wait()
                with suppress(NotFoundError):
                    saved.append(store.promote(id, "file.txt"))

        run_in_threads(promote, list(range(_THREADS)))

        assert len(set(saved)) == 1
        assert_content(saved[0], b"kept" * 1000)
        assert_listed(store, [saved[0].filename])
        assert_gone(store, id)

    def test_a_discarded_upload_is_gone(self, store: BaseStore) -> None:
        needs(store, "keep")
        id, other = store.keep(make_upload()), store.keep(make_upload(b"other"))

        store.discard(id)
        store.discard(id)

        assert_gone(store, id)
        with store.open_kept(other) as stream:
            assert stream.read() == b"other"

    def test_clean_deletes_only_what_has_been_kept_long_enough(self, store: BaseStore) -> None:
        needs(store, "keep")
        ids = [store.keep(make_upload()) for _ in range(3)]
        saved = store.save(make_upload())

        assert store.clean(3600) == 0
        assert store.clean(0, limit=1) == 1
        assert store.clean(0) == 2
        assert store.clean(0) == 0
        for id in ids:
            assert_gone(store, id)
        assert store.exists(saved.filename)

    def test_no_id_is_a_path(self, store: BaseStore) -> None:
        needs(store, "keep")
        saved = store.save(make_upload(filename="file.txt"))

        for id in [*HOSTILE_PATHS, "file.txt", str(saved)]:
            with pytest.raises(NotFoundError):
                store.open_kept(id)
            with pytest.raises(NotFoundError):
                store.promote(id, "other.txt")
            with suppress(NotFoundError):
                store.discard(id)
        assert store.exists(saved.filename)

    def test_an_upload_without_a_name_is_not_kept(self, store: BaseStore) -> None:
        needs(store, "keep")
        with pytest.raises(InvalidNameError):
            store.keep(make_upload(b"", ""))

        assert store.clean(0) == 0

    def test_of_an_upload_that_breaks_off_nothing_is_kept(self, store: BaseStore) -> None:
        needs(store, "keep")
        with pytest.raises(_ClientGoneError):
            store.keep(FileStorage(_BrokenStream(), filename="broken.txt"))  # type: ignore[arg-type]

        assert store.clean(0) == 0

    def test_an_upload_can_be_kept_and_saved(self, store: BaseStore) -> None:
        needs(store, "keep")
        upload = make_upload(b"twice")
        upload.stream.read(3)

        id = store.keep(upload)
        saved = store.save(upload)

        assert_content(saved, b"twice")
        with store.open_kept(id) as stream:
            assert stream.read() == b"twice"

    def test_a_file_without_an_extension_stands_in_no_destinations_way(self, store: BaseStore) -> None:
        first = store.save(make_upload(b"first", "album"))
        below = type(store)(destination="/".join(filter(None, [store.destination, "album"])))

        second = below.save(make_upload(b"second", "a.txt"))

        assert_content(first, b"first")
        assert_content(second, b"second")

    def test_a_file_is_used_without_an_application_context(self, store: BaseStore) -> None:
        saved = store.save(make_upload(b"thread"))
        answers: list[str] = []

        def use(file: StoreFile) -> None:
            assert_content(file, b"thread")
            answers.extend([file.absolute_url(), file.absolute_path(), str(file.exists())])

        run_in_threads(use, [saved])

        assert answers == [saved.absolute_url(), saved.absolute_path(), "True"]


def overrides(store: BaseStore, verb: str) -> bool:
    """Return whether a store has a verb of its own."""
    return getattr(type(store), verb) is not getattr(BaseStore, verb)


def needs(store: BaseStore, verb: str) -> None:
    """Skip the test if a store has no such verb."""
    if not overrides(store, verb):
        pytest.skip(f"{type(store).__name__} does not override {verb}()")


def assert_content(file: StoreFile, content: bytes) -> None:
    """Check the bytes of a stored file, where its store can open it."""
    if overrides(file.provider, "open"):
        with file.open() as stream:
            assert stream.read() == content


def assert_gone(store: BaseStore, id: str) -> None:
    """Check that an upload is not kept any more."""
    with pytest.raises(NotFoundError):
        store.open_kept(id)


def assert_listed(store: BaseStore, names: list[str]) -> None:
    """Check which files the destination of a store has, where the store can list them."""
    if overrides(store, "list"):
        assert [file.filename for file in store.list()] == names


def run_in_threads(function: Callable[[Any], None], arguments: list[Any]) -> None:
    """Call a function with each argument in a thread of its own, and raise what one of them raised."""
    errors: list[BaseException] = []

    def run(argument: Any) -> None:
        try:
            function(argument)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
