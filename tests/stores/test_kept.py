"""Kept uploads in the stores: where they are, how they become files, and that none is lost, doubled or left behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import shutil
import signal
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote, urlsplit

import pytest
from open_files import open_files
from werkzeug.datastructures import FileStorage

from flask_store import InvalidNameError, NotFoundError, ServiceError, StoreFile, signals
from flask_store.config import UPLOAD_ID
from flask_store.stores import kept
from flask_store.stores.s3 import S3GeventStore, S3Store
from flask_store.transaction import transaction

ID = re.compile(r"[0-9a-f]{10}-[0-9a-f]{32}")

# What a part of a name that is no other file's is made of.
OWN = r"_[\w-]{14}"

TIMEOUT = 60

MIB = 1024 * 1024

CEPH = pytest.param("ceph", marks=pytest.mark.ceph)

on_local = pytest.mark.parametrize("kind", ["local"], indirect=True)
on_s3 = pytest.mark.parametrize("kind", ["moto", CEPH, "moto_like_go"], indirect=True)
on_moto = pytest.mark.parametrize("kind", ["moto"], indirect=True)


class Failure(Exception):
    pass


@pytest.fixture(params=["local", "moto", CEPH, "moto_like_go"])
def kind(request):
    """What the store is on."""
    return request.param


@pytest.fixture
def s3(request, kind):
    return request.getfixturevalue(kind)


@pytest.fixture
def settings(request, kind):
    """The settings of the store."""
    return {} if kind == "local" else request.getfixturevalue("s3").settings(request.getfixturevalue("bucket").name)


@pytest.fixture
def app(make_app, settings):
    app = make_app(**settings)
    with app.app_context():
        yield app


@pytest.fixture
def store(app):
    return app.extensions["store"].provider()


@pytest.fixture
def everything(request, kind, app):
    """Return a function that gives the bytes of all that is there by path, kept or not.

    On S3 a store may have notes of its own beside a kept upload, until that is cleaned away.
    """
    if kind != "local":
        bucket = request.getfixturevalue("bucket")
        own = re.compile(rf"(?:.*/)?\.kept/{ID.pattern}.+")
        return lambda: {
            found.key: found.get()["Body"].read() for found in bucket.objects.all() if not own.fullmatch(found.key)
        }
    root = request.getfixturevalue("root")
    return lambda: {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


@pytest.fixture
def old(monkeypatch):
    """Return a function that has the ids that are made in a block be as old as it says, in seconds."""
    make_id = kept.make_id

    @contextlib.contextmanager
    def make(age):
        kept_at = int(time.time()) - age
        with monkeypatch.context() as patch:
            patch.setattr(kept, "make_id", lambda: f"{kept_at:010x}{make_id()[10:]}")
            yield

    return make


def requests_of(store):
    """Return the list of the requests that the store's client sends from now on."""
    requests = []
    store.connect().meta.events.register("before-send.s3", lambda request, **_: requests.append(request))
    return requests


def lines(requests, bucket):
    """Return method and key of each request; a copy is no PUT."""
    verbs = ["COPY" if "x-amz-copy-source" in request.headers else request.method for request in requests]
    paths = [unquote(urlsplit(request.url).path).removeprefix(f"/{bucket.name}").lstrip("/") for request in requests]
    return [f"{verb} {path}" for verb, path in zip(verbs, paths, strict=True)]


def mode_of(path):
    return oct(stat.S_IMODE(path.stat().st_mode))


def rolled_back(store, *promotions):
    """Promote kept uploads in a transaction that fails; return what they were for a moment."""
    promoted = []
    with pytest.raises(Failure), transaction():
        promoted += [store.promote(id, name) for id, name in promotions]
        raise Failure
    return promoted


class TestKeeping:
    def test_gives_an_id_by_time_that_nobody_guesses(self, store, upload, everything):
        before = int(time.time())
        ids = [store.keep(upload()) for _ in range(3)]

        assert len(set(ids)) == 3
        assert all(ID.fullmatch(id) for id in ids)
        assert all(before <= int(id[:10], 16) <= time.time() for id in ids)
        assert set(everything()) == {f".kept/{id}" for id in ids}

    def test_in_a_destination_is_at_the_same_place(self, store, upload, everything):
        id = store.at("photos/2026").keep(upload())

        assert set(everything()) == {f".kept/{id}"}
        assert str(store.at("films").promote(id, "a.jpg")).startswith("films/a")

    def test_is_hidden_from_every_verb_and_from_the_route(self, app, store, upload):
        id = store.keep(upload())
        path = f".kept/{id}"

        assert list(store.list()) == []
        for verb in (store.exists, store.open, store.stat, store.delete, StoreFile, StoreFile.from_path):
            with pytest.raises(InvalidNameError):
                verb(path)
        for destination in (".kept", "a/../.kept"):
            with pytest.raises(InvalidNameError):
                store.at(destination)
        for prefix in (".kept/", ".", ".kept"):
            try:
                assert list(store.list(prefix)) == []
            except InvalidNameError:
                pass
        for url in (path, f"%2ekept/{id}", f"x/../{path}", f"./{path}", f"/{path}"):
            assert app.test_client().get(f"/uploads/{url}").status_code in (404, 308)
        with store.open_kept(id) as stream:
            assert stream.read() == b"content"

    def test_is_no_matter_of_flask_store_check(self, app, store, upload, everything):
        id = store.keep(upload())

        result = app.test_cli_runner().invoke(args=["store", "check"])

        assert result.exit_code == 0
        assert id not in result.output
        assert set(everything()) == {f".kept/{id}"}

    @pytest.mark.parametrize("name", ["../x", "..", "/etc", "", "a" * 43, "0065a1b2c3-" + "0" * 32 + "/../x"])
    def test_never_is_at_a_path(self, store, name):
        for verb in (store.open_kept, lambda id: store.promote(id, "a.jpg")):
            with pytest.raises(NotFoundError):
                verb(name)
        with contextlib.suppress(NotFoundError):
            store.discard(name)

    @on_s3
    def test_below_a_prefix_of_keys_is_below_it(self, make_app, settings, upload, everything):
        with make_app("below", **settings, STORE_PATH="media/uploads").app_context():
            store = S3Store("photos")
            id = store.keep(upload())
            assert set(everything()) == {f"media/uploads/.kept/{id}"}
            with store.open_kept(id) as stream:
                assert stream.read() == b"content"
            saved = store.promote(id, "a.jpg")
            store.keep(upload())

            assert store.clean(0) == 1
            assert list(everything()) == [f"media/uploads/{saved}"]


class TestPromoting:
    def test_gives_the_file_its_name_and_leaves_nothing_kept(self, store, upload, everything, kind):
        id = store.keep(upload(b"waves", "x.jpg"))
        saved = store.at("photos").promote(id, "../Sea 1.jpg")

        own = "" if kind == "local" else OWN
        assert re.fullmatch(rf"photos/Sea 1{own}\.jpg", str(saved))
        assert everything() == {str(saved): b"waves"}
        assert list(store.list()) == [saved]

    def test_tells_who_listens(self, app, store, upload):
        heard = []
        id = store.keep(upload())
        assert heard == []

        with signals.file_saved.connected_to(lambda app, file: heard.append(file), app):
            saved = store.promote(id, "a.jpg")

        assert heard == [saved]

    def test_under_a_taken_name_leaves_that_file_alone(self, store, upload, everything):
        first = store.save(upload(b"first", "a.tar.gz"))
        ids = [store.keep(upload(content)) for content in (b"second", b"third")]
        second, third = (store.promote(id, "a.tar.gz") for id in ids)

        assert everything() == {str(first): b"first", str(second): b"second", str(third): b"third"}
        for file in (second, third):
            assert re.fullmatch(rf"a{OWN}\.tar\.gz", str(file))

    def test_does_not_tell_the_id(self, store, upload):
        store.save(upload(filename="a.jpg"))
        id = store.keep(upload())

        saved = store.promote(id, "a.jpg")

        assert not any(part in str(saved) for part in (id[:10], id[11:25]))

    def test_replaces_no_file_that_has_the_name_which_it_would_get(self, store, upload, everything):
        """A visitor can work that name out from their token, and upload another file under it first."""
        id = store.keep(upload(b"second"))
        first = store.save(upload(b"approved", "a.jpg"))
        own = store.save(upload(b"approved too", kept.add_own_part("a.jpg", id)))

        with contextlib.suppress(ServiceError, FileExistsError):
            store.promote(id, "a.jpg")

        files = everything()
        assert files[str(first)] == b"approved"
        assert files[str(own)] == b"approved too"

    def test_follows_the_names_of_a_subclass(self, store, upload):
        class Numbering(type(store)):
            def safe_filename(self, filename):
                return f"number-1{os.path.splitext(filename)[1]}"

        numbering = Numbering()
        id = numbering.keep(upload())

        assert numbering.save(upload(filename="a.jpg")).filename == "number-1.jpg"
        assert numbering.promote(id, "b.jpg").filename.startswith("number-1")

    def test_twice_finds_nothing_the_second_time(self, store, upload, everything):
        id = store.keep(upload(b"waves"))
        saved = store.promote(id, "a.jpg")

        with pytest.raises(NotFoundError):
            store.promote(id, "b.jpg")
        # On S3 who tries the same thing again learns that it is done.
        with contextlib.suppress(NotFoundError):
            assert store.promote(id, "a.jpg") == saved
        with pytest.raises(Failure), transaction():
            with contextlib.suppress(NotFoundError):
                store.promote(id, "a.jpg")
            raise Failure
        assert everything() == {str(saved): b"waves"}

    def test_what_was_discarded_finds_nothing(self, store, upload, everything):
        id = store.keep(upload())
        store.discard(id)
        store.discard(id)

        with pytest.raises(NotFoundError):
            store.promote(id, "a.jpg")
        with pytest.raises(NotFoundError):
            store.open_kept(id)
        assert everything() == {}

    def test_keeps_it_until_the_transaction_ends(self, store, upload, everything):
        id = store.keep(upload(b"waves"))

        with transaction():
            with transaction():
                saved = store.promote(id, "a.jpg")
            assert everything() == {f".kept/{id}": b"waves", str(saved): b"waves"}

        assert everything() == {str(saved): b"waves"}

    def test_is_taken_back_if_the_transaction_fails(self, store, upload, everything):
        ids = [store.keep(upload(content)) for content in (b"1", b"2")]

        rolled_back(store, (ids[0], "a.jpg"), (ids[1], "a.jpg"))

        assert everything() == {f".kept/{ids[0]}": b"1", f".kept/{ids[1]}": b"2"}
        assert everything().keys() != {str(store.promote(id, "a.jpg")) for id in ids}
        assert sorted(everything().values()) == [b"1", b"2"]

    def test_is_taken_back_alone(self, store, upload, everything):
        """An inner block that fails takes back what is in it; the outer one goes on."""
        ids = [store.keep(upload(content)) for content in (b"1", b"2")]

        with transaction():
            saved = store.promote(ids[0], "a.jpg")
            rolled_back(store, (ids[1], "a.jpg"))

        assert everything() == {str(saved): b"1", f".kept/{ids[1]}": b"2"}

    @pytest.mark.parametrize("fails", [False, True])
    def test_and_deleting_in_one_transaction_is_no_problem(self, store, upload, everything, caplog, fails):
        id = store.keep(upload())

        with contextlib.suppress(Failure), transaction():
            store.promote(id, "a.jpg").delete()
            if fails:
                raise Failure

        assert [path for path in everything() if not path.startswith(".kept/")] == []
        assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []

    def test_whose_own_name_was_taken_beforehand_gets_another_and_replaces_nothing(self, store, upload, everything):
        id = store.keep(upload(b"waves"))
        taken = [store.save(upload(name.encode(), name)) for name in ("a.jpg", kept.add_own_part("a.jpg", id))]

        saved = store.promote(id, "a.jpg")

        files = {str(file): file.filename.encode() for file in taken}
        assert everything() == {**files, str(saved): b"waves"}

    @on_local
    def test_what_a_transaction_has_is_not_cleaned_away_and_is_kept_again_when_that_fails(
        self, store, upload, everything
    ):
        id = store.keep(upload(b"waves"))

        with pytest.raises(Failure), transaction():
            store.promote(id, "a.jpg")
            assert store.clean(0) == 0
            raise Failure

        assert everything() == {f".kept/{id}": b"waves"}

    @on_s3
    def test_what_was_cleaned_away_in_the_middle_is_still_stored(self, store, upload, everything):
        id = store.keep(upload(b"waves"))

        with transaction():
            saved = store.promote(id, "a.jpg")
            assert store.clean(0) == 1

        assert everything() == {str(saved): b"waves"}


class Rival:
    """Another request with the same token, in a thread of its own: it promotes, and ends when it is told."""

    def __init__(self, store, id):
        self.store, self.id = store, id
        self.file = None
        self.error = None
        self._fails = False
        self._promoted, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._promoted.wait(TIMEOUT)

    def _run(self):
        with self.store.app.app_context():
            try:
                with transaction():
                    self.file = self.store.promote(self.id, "a.jpg")
                    self._promoted.set()
                    self._go.wait(TIMEOUT)
                    if self._fails:
                        raise Failure
            except Exception as error:
                self.error = error
            finally:
                self._promoted.set()

    def end(self, fails=False):
        self._fails = fails
        self._go.set()
        self._thread.join(TIMEOUT)


PROMOTE = """
from flask_store import NotFoundError
from flask_store.transaction import transaction

id, threads = sys.argv[2], int(sys.argv[3])
start = threading.Barrier(threads)

def promote(number):
    with app.app_context():
        store = app.extensions["store"].provider()
        start.wait()
        try:
            return str(store.promote(id, "a.jpg"))
        except NotFoundError:
            return None

with app.app_context():
    store = app.extensions["store"].provider()
    store.exists("ready.jpg")
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(threads) as pool:
    print(json.dumps(list(pool.map(promote, range(threads)))))
"""

PROMOTE_AND_HANG = """
from flask_store.transaction import transaction

with app.app_context(), transaction():
    saved = app.extensions["store"].provider().promote(sys.argv[2], "a.jpg")
    print(saved, flush=True)
    sys.stdin.readline()
    os.abort()
"""

# Code that brings another process to a file system of the kind.
NO_HARD_LINKS = """
def link(*arguments, **options):
    raise PermissionError(1, "Operation not permitted")
os.link = link
"""
OTHER_FILE_SYSTEM = """
_link = os.link
def link(source, target, **options):
    if "/.kept/" in str(source):
        raise OSError(18, "Invalid cross-device link")
    _link(source, target, **options)
os.link = link
"""
NAMED = "os.O_TMPFILE = 0\n"


class TestAtOnce:
    def test_ten_threads_make_one_file(self, app, store, upload, everything, kind):
        for _ in range(10 if kind == "local" else 2):
            id = store.keep(upload(b"waves"))
            start = threading.Barrier(10)

            def promote(number, id=id, start=start):
                with app.app_context():
                    start.wait(TIMEOUT)
                    try:
                        return store.promote(id, "a.jpg")
                    except NotFoundError:
                        return None

            with ThreadPoolExecutor(10) as pool:
                promoted = [file for file in pool.map(promote, range(10)) if file is not None]

            assert len(set(promoted)) == 1
            assert len(promoted) == 1 or kind != "local"
            assert everything() == {str(promoted[0]): b"waves"}
            promoted[0].delete()

    def test_processes_make_one_file(self, store, upload, everything, start_program, kind, settings):
        id = store.keep(upload(b"waves"))
        processes = [start_program(PROMOTE, id, "3", **settings) for _ in range(3)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()

        promoted = [name for process in processes for name in json.loads(process.stdout.readline()) if name]

        assert len(set(promoted)) == 1
        assert len(promoted) == 1 or kind != "local"
        assert everything() == {promoted[0]: b"waves"}

    def test_a_rollback_and_a_commit_lose_nothing(self, app, store, upload, everything, kind):
        """Whoever of two is first. On a disk only one of them gets the upload."""
        for turn in range(200 if kind == "local" else 15):
            id = store.keep(upload(b"waves"))
            rivals = [Rival(store, id) for _ in range(2)]
            start = threading.Barrier(2)

            def end(rival, fails, start=start):
                start.wait(TIMEOUT)
                rival.end(fails)

            with ThreadPoolExecutor(2) as pool:
                list(pool.map(end, rivals, [turn % 2 == 0, turn % 2 == 1]))
            committed = [rival.file for rival in rivals if rival.error is None]
            files = everything()

            for file in committed:
                assert files == {str(file): b"waves"}, turn
            if not committed:
                assert files == {f".kept/{id}": b"waves"}, turn
            for path in files:
                store.discard(path.removeprefix(".kept/")) if path.startswith(".kept/") else committed[0].delete()

    @on_s3
    @pytest.mark.parametrize("is_waiting_for", ["kept", "final"])
    def test_a_rollback_between_the_steps_of_a_commit_loses_nothing(self, store, upload, everything, is_waiting_for):
        id = store.keep(upload(b"waves"))
        failing = Rival(store, id)
        committing = Rival(store, id)
        ended = []

        def interrupt(request, **_):
            # One of them is about to delete something: the other one ends first, from its first request to its last.
            is_kept = ".kept" in request.url
            if not ended and is_kept == (is_waiting_for == "kept"):
                ended.append(True)
                committing.end() if is_waiting_for == "final" else failing.end(fails=True)

        store.connect().meta.events.register("before-send.s3.DeleteObject", interrupt)
        failing.end(fails=True) if is_waiting_for == "final" else committing.end()
        failing.end(fails=True)
        committing.end()

        assert ended
        assert committing.error is None
        files = {path: content for path, content in everything().items() if not path.startswith(".kept/")}
        assert files == {str(committing.file): b"waves"}

    @on_s3
    @pytest.mark.parametrize("first", ["the one that fails", "the one that ends well"])
    def test_of_two_that_got_it_the_one_that_ends_well_has_it(self, store, upload, everything, first):
        for is_newer in (True, False):
            id = store.keep(upload(b"waves"))
            rivals = [Rival(store, id) for _ in range(2)]
            failing, committing = rivals if is_newer else rivals[::-1]

            if first == "the one that fails":
                failing.end(fails=True)
                committing.end()
            else:
                committing.end()
                failing.end(fails=True)

            assert committing.error is None
            assert everything() == {str(committing.file): b"waves"}
            committing.file.delete()

    @on_s3
    def test_two_that_fail_leave_nothing(self, store, upload, everything):
        id = store.keep(upload(b"waves"))
        rivals = [Rival(store, id) for _ in range(2)]

        for rival in rivals:
            rival.end(fails=True)

        assert [path for path in everything() if not path.startswith(".kept/")] == []
        assert everything()[f".kept/{id}"] == b"waves"

    @on_local
    def test_while_one_is_at_it_it_is_gone_for_others_and_there_again_when_that_fails(self, store, upload, everything):
        id = store.keep(upload(b"waves"))
        rival = Rival(store, id)

        with pytest.raises(NotFoundError):
            store.promote(id, "b.jpg")
        rival.end(fails=True)

        saved = store.promote(id, "b.jpg")
        assert everything() == {str(saved): b"waves"}


class TestAProcessThatIsKilled:
    def kill(self, process):
        name = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
        process.wait(TIMEOUT)
        return name

    def test_before_its_transaction_ends_leaves_one_file_when_it_is_sent_again(
        self, store, upload, everything, start_program, settings
    ):
        id = store.keep(upload(b"waves"))
        name = self.kill(start_program(PROMOTE_AND_HANG, id, **settings))
        assert everything() == {name: b"waves", f".kept/{id}": b"waves"}

        saved = store.promote(id, "a.jpg")

        assert str(saved) == name
        assert everything() == {name: b"waves"}

    @on_local
    @pytest.mark.parametrize("system", [NAMED, OTHER_FILE_SYSTEM], ids=["named", "other file system"])
    def test_on_another_kind_of_disk_leaves_one_file_too(
        self, store, upload, everything, start_program, system, monkeypatch
    ):
        id = store.keep(upload(b"waves"))
        for _ in range(2):
            name = self.kill(start_program(system + PROMOTE_AND_HANG, id))
        if system == OTHER_FILE_SYSTEM:
            other_file_system(monkeypatch)

        saved = store.promote(id, "a.jpg")

        assert str(saved) == name
        assert everything() == {name: b"waves"}

    @on_local
    def test_without_hard_links_has_moved_it_already(self, store, upload, everything, start_program, monkeypatch):
        id = store.keep(upload(b"waves"))
        name = self.kill(start_program(NO_HARD_LINKS + PROMOTE_AND_HANG, id))

        with pytest.raises(NotFoundError):
            store.promote(id, "a.jpg")
        assert everything() == {name: b"waves"}


def other_file_system(monkeypatch):
    """Have the kept uploads be in another file system than the destinations."""
    link = os.link

    def link_within(source, target, **options):
        if "/.kept/" in str(source):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target, **options)

    monkeypatch.setattr("os.link", link_within)


def no_hard_links(monkeypatch):
    """As on FAT."""

    def refuse(*arguments, **options):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)


@on_local
class TestADirectory:
    def test_shows_a_kept_upload_to_its_owner_alone(self, app, store, upload, root):
        app.config.update(STORE_FILE_MODE=0o640, STORE_DIRECTORY_MODE=0o750)
        id = store.keep(upload())

        assert mode_of(root / ".kept" / id) == "0o600"
        assert mode_of(root / ".kept") == "0o700"
        assert mode_of(root) == "0o750"
        saved = store.at("photos").promote(id, "a.jpg")
        assert mode_of(root / str(saved)) == "0o640"
        assert mode_of(root / "photos") == "0o750"

    def test_that_is_not_writable_by_its_owner_is_no_mode_that_matters(self, app, store, upload, root):
        app.config["STORE_FILE_MODE"] = 0o400
        id = store.keep(upload())

        rolled_back(store, (id, "a.jpg"))

        assert mode_of(root / str(store.promote(id, "a.jpg"))) == "0o400"

    def test_moves_the_file_itself(self, store, upload, root, staging, everything):
        id = store.keep(upload(b"waves"))
        inode = (root / ".kept" / id).stat().st_ino

        saved = store.at("photos").promote(id, "a.jpg")

        assert (root / str(saved)).stat().st_ino == inode
        assert (root / str(saved)).stat().st_nlink == 1
        assert everything() == {"photos/a.jpg": b"waves"}

    def test_keeps_an_upload_that_was_received_there_without_a_copy(self, store, root, staging, everything):
        content = os.urandom(MIB)
        stream = store.receive("a.bin", "", None)
        stream.write(content)
        inode = os.fstat(stream.fileno()).st_ino

        id = store.keep(FileStorage(stream, "a.bin"))

        assert (root / ".kept" / id).stat().st_ino == inode
        assert mode_of(root / ".kept" / id) == "0o600"
        stream.seek(0)
        assert stream.read() == content
        stream.close()
        assert everything() == {f".kept/{id}": content}

    def test_keeps_an_upload_of_a_transaction_that_failed(self, store, root, staging, everything):
        content = os.urandom(MIB)
        stream = store.receive("a.bin", "", None)
        stream.write(content)
        upload = FileStorage(stream, "a.bin")
        with pytest.raises(Failure), transaction():
            store.save(upload)
            raise Failure

        id = store.keep(upload)

        stream.close()
        assert everything() == {f".kept/{id}": content}

    def test_without_hard_links_moves_it_too(self, store, upload, everything, monkeypatch, root):
        no_hard_links(monkeypatch)
        monkeypatch.setattr("os.O_TMPFILE", 0, raising=False)
        first = store.save(upload(b"first", "a.jpg"))
        id = store.keep(upload(b"waves"))

        rolled_back(store, (id, "a.jpg"))
        assert everything() == {"a.jpg": b"first", f".kept/{id}": b"waves"}
        second = store.promote(id, "a.jpg")

        assert everything() == {str(first): b"first", str(second): b"waves"}

    def test_in_another_file_system_gets_a_copy(self, store, upload, everything, monkeypatch, staging, root):
        first = store.save(upload(b"first", "a.jpg"))
        id = store.keep(upload(b"waves"))
        other_file_system(monkeypatch)

        rolled_back(store, (id, "a.jpg"))
        assert everything() == {"a.jpg": b"first", f".kept/{id}": b"waves"}
        second = store.promote(id, "a.jpg")

        assert everything() == {str(first): b"first", str(second): b"waves"}
        assert mode_of(root / str(second)) == "0o644"

    @pytest.mark.parametrize("system", ["no fcntl", "no locks"])
    @pytest.mark.parametrize("links", [True, False])
    @pytest.mark.parametrize("first", ["the one that fails", "the one that ends well"])
    def test_without_locks_loses_nothing_either(self, store, upload, everything, monkeypatch, system, links, first):
        def refuse(*arguments):
            raise OSError(errno.ENOLCK, "No locks available")

        if system == "no fcntl":
            monkeypatch.setattr("flask_store.stores.locking.fcntl", None)
        else:
            monkeypatch.setattr("fcntl.flock", refuse)
        if not links:
            no_hard_links(monkeypatch)
            monkeypatch.setattr("os.O_TMPFILE", 0, raising=False)
        for is_newer in (True, False):
            id = store.keep(upload(b"waves"))
            rivals = [Rival(store, id) for _ in range(2)]
            failing, committing = rivals if is_newer else rivals[::-1]
            if first == "the one that fails":
                failing.end(fails=True)
                committing.end()
            else:
                committing.end()
                failing.end(fails=True)

            files = everything()
            if committing.error is None:
                assert files == {str(committing.file): b"waves"}
                committing.file.delete()
            else:
                assert isinstance(committing.error, NotFoundError)
                assert files == {f".kept/{id}": b"waves"}
                store.discard(id)

    def test_of_another_machine_has_locks_for_files_that_are_open_for_writing(self, store, upload, monkeypatch):
        """As NFS: flock(2) says that its exclusive locks are for descriptors that can write."""
        flock = fcntl.flock

        def nfs_flock(file, operation):
            descriptor = file if isinstance(file, int) else file.fileno()
            access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
            if operation & fcntl.LOCK_EX and access == os.O_RDONLY:
                raise OSError(errno.EBADF, "Bad file descriptor")
            flock(file, operation)

        monkeypatch.setattr("fcntl.flock", nfs_flock)
        id = store.keep(upload())
        rival = Rival(store, id)

        with pytest.raises(NotFoundError):
            store.promote(id, "a.jpg")

        rival.end()
        assert rival.error is None

    def test_that_cannot_be_made_sure_of_keeps_the_upload(self, app, store, upload, everything, monkeypatch):
        app.config["STORE_FSYNC"] = True
        id = store.keep(upload(b"waves"))

        def fail(directory):
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("flask_store.stores.local.fsync_directory", fail)
            with pytest.raises(ServiceError):
                store.promote(id, "a.jpg")

        assert everything() == {f".kept/{id}": b"waves"}
        assert everything().keys() != {str(store.promote(id, "a.jpg"))}

    @pytest.mark.parametrize("made", ["file", "link out"])
    def test_that_is_something_else_keeps_the_upload(self, store, upload, everything, root, made, tmp_path):
        id = store.keep(upload(b"waves"))
        (tmp_path / "outside").mkdir()
        if made == "file":
            (root / "photos").write_bytes(b"a file")
        else:
            (root / "photos").symlink_to(tmp_path / "outside")

        with pytest.raises((ServiceError, NotFoundError, InvalidNameError)) as caught:
            store.at("photos").promote(id, "a.jpg")

        assert not isinstance(caught.value, NotFoundError), "it is not the kept upload that is missing"
        assert os.listdir(tmp_path / "outside") == []
        assert everything()[f".kept/{id}"] == b"waves"
        assert store.promote(id, "a.jpg").exists()

    def test_has_no_open_files_left(self, store, upload, staging):
        ids = [store.keep(upload()) for _ in range(3)]

        rolled_back(store, (ids[0], "a.jpg"), (ids[1], "a.jpg"))
        for id in ids:
            store.promote(id, "a.jpg")
            with pytest.raises(NotFoundError):
                store.promote(id, "a.jpg")

        assert open_files(store.root) == []

    def test_has_nothing_left_of_an_upload_that_breaks_off(self, store, everything, staging):
        class Broken(io.BytesIO):
            def read(self, size=-1):
                raise OSError(errno.EIO, "Input/output error")

        with pytest.raises(ServiceError):
            store.keep(FileStorage(Broken(b"waves"), "a.jpg"))

        assert everything() == {}

    def test_goes_away_as_a_whole(self, store, upload, root):
        """Between two requests an administrator may delete it."""
        id = store.keep(upload())
        shutil.rmtree(root)

        assert store.clean(0) == 0
        store.discard(id)
        with pytest.raises(NotFoundError):
            store.promote(id, "a.jpg")
        assert store.keep(upload())


class TestCleaning:
    def test_deletes_what_nobody_came_back_for_the_oldest_first(self, store, upload, everything, old):
        ages = [5000, 100, 4000, 3600, 3000, 9000]
        ids = {}
        for age in ages:
            with old(age):
                ids[age] = store.keep(upload())

        assert store.clean(3600, limit=0) == 0
        assert len(everything()) == 6
        assert store.clean(3600, limit=2) == 2
        assert set(everything()) == {f".kept/{ids[age]}" for age in (100, 3000, 3600, 4000)}
        assert store.clean(3600) == 2
        assert set(everything()) == {f".kept/{ids[age]}" for age in (100, 3000)}
        assert store.clean(3600) == 0

    def test_leaves_files_and_what_others_have_put_there(self, store, upload, everything, old, root, kind, request):
        names = ["README", "0065a1b2c3", "0065a1b2c3-xyz", "0065a1b2c3-" + "0" * 31, "zzz", "a/b"]
        for name in names:
            if kind == "local":
                path = root / ".kept" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"foreign")
            else:
                request.getfixturevalue("bucket").put_object(Key=f".kept/{name}", Body=b"foreign")
        saved = store.save(upload())
        with old(9000):
            store.keep(upload())

        assert store.clean(3600) == 1
        assert set(everything()) == {str(saved), *(f".kept/{name}" for name in names)}

    def test_of_nothing_is_fine(self, store):
        assert store.clean(0) == 0

    @on_s3
    def test_costs_one_request_and_one_for_each_that_goes(self, store, bucket, upload, old):
        with old(9000):
            for _ in range(4):
                store.keep(upload())
        requests = requests_of(store)

        assert store.clean(3600, limit=3) == 3

        assert len(lines(requests, bucket)) == 4
        assert store.clean(3600, limit=3) == 1
        assert store.clean(3600, limit=3) == 0
        assert len(lines(requests, bucket)) == 7

    @on_moto
    def test_of_more_than_s3_lists_at_a_time(self, store, bucket, upload, old, monkeypatch):
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
        with old(9000):
            for _ in range(8):
                store.keep(upload())
        store.keep(upload())

        assert store.clean(3600) == 8
        assert len(list(bucket.objects.all())) == 1

    def test_by_several_at_once_is_fine(self, app, store, upload, everything, old):
        with old(9000):
            for _ in range(10):
                store.keep(upload())

        def clean(number):
            with app.app_context():
                return store.clean(3600)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(clean, range(4)))

        assert everything() == {}


PARAMETERS = {
    "CacheControl": "max-age=60",
    "Metadata": {"team": "photos"},
    "StorageClass": "STANDARD_IA",
    "Tagging": "kind=photo",
}


def head_of(bucket, key):
    head = bucket.meta.client.head_object(Bucket=bucket.name, Key=key)
    # Some servers write names of headers their own way.
    return {**head, "Metadata": {name.lower(): value for name, value in head["Metadata"].items()}}


@on_s3
class TestS3:
    @pytest.mark.parametrize(
        ("name", "content_type", "disposition"),
        [("a.jpg", "image/jpeg", None), ("a.html", "text/html", "attachment"), ("写真.PNG", "image/png", None)],
    )
    def test_has_the_right_type_on_both(self, store, bucket, upload, name, content_type, disposition):
        id = store.keep(upload(b"waves", name))
        kept_head = head_of(bucket, f".kept/{id}")
        saved = store.promote(id, name)

        for head in (kept_head, head_of(bucket, str(saved))):
            assert head["ContentType"] == content_type
            assert head.get("ContentDisposition") == disposition

    def test_follows_the_name_that_it_is_promoted_to(self, store, bucket, upload):
        id = store.keep(upload(b"<script>", "a.html"))

        head = head_of(bucket, str(store.promote(id, "a.txt")))

        assert (head["ContentType"], head.get("ContentDisposition")) == ("text/plain", None)

    def test_gives_the_file_what_files_have(self, make_app, settings, bucket, upload, kind):
        parameters = {name: PARAMETERS[name] for name in ("CacheControl", "Metadata", "Tagging")}
        if kind == "ceph":
            del parameters["Tagging"]  # Ceph 16 leaves tags out when it copies
        with make_app("other", **settings, STORE_S3_OBJECT_PARAMETERS=parameters).app_context():
            store = S3Store()
            id = store.keep(upload(b"waves", "a.jpg"))
            saved = store.promote(id, "a.jpg")

        head = head_of(bucket, str(saved))
        assert head["CacheControl"] == "max-age=60"
        assert head["Metadata"]["team"] == "photos"
        if "Tagging" in parameters:
            tags = bucket.meta.client.get_object_tagging(Bucket=bucket.name, Key=str(saved))["TagSet"]
            assert tags == [{"Key": "kind", "Value": "photo"}]
        assert id not in head["Metadata"][UPLOAD_ID]
        assert id[11:] not in str(head)

    def test_moves_no_bytes_through_the_application(self, store, bucket, upload):
        id = store.keep(upload(os.urandom(MIB)))
        requests = requests_of(store)

        saved = store.promote(id, "a.jpg")

        verbs = [line.partition(" ")[0] for line in lines(requests, bucket)]
        assert sorted(verbs)[:2] == ["COPY", "DELETE"]
        assert set(verbs) <= {"COPY", "DELETE", "HEAD"}
        assert len(verbs) <= 5
        assert f"COPY {saved}" in lines(requests, bucket)
        assert not any(request.body for request in requests)

    def test_keeps_a_large_upload_in_parts(self, make_app, settings, bucket, upload, everything):
        content = os.urandom(5 * MIB + 1)
        app = make_app("other", **settings, STORE_S3_MULTIPART_THRESHOLD=5 * MIB)
        with app.app_context():
            store = S3Store()
            requests = requests_of(store)
            id = store.keep(upload(content, "film.mp4"))
            assert [request.method for request in requests] == ["POST", "PUT", "PUT", "POST"]
            with store.open_kept(id) as stream:
                stream.seek(5 * MIB)
                assert stream.read() == content[-1:]
            saved = store.promote(id, "film.mp4")

        assert everything() == {str(saved): content}
        assert head_of(bucket, str(saved))["ContentType"] == "video/mp4"

    def test_has_a_url_that_shows_it_for_a_while(self, store, upload):
        import urllib.request

        id = store.keep(upload(b"waves", "a.html"))
        url = store.kept_url(id)

        with urllib.request.urlopen(url) as response:
            assert response.read() == b"waves"
            assert response.headers["Content-Disposition"] == "attachment"
        assert "Signature=" in url


@on_moto
class TestS3InDetail:
    def test_has_the_parameters_of_files_on_the_file_alone(self, make_app, settings, bucket, upload, everything):
        parameters = {
            **PARAMETERS,
            "ObjectLockMode": "GOVERNANCE",
            "ObjectLockRetainUntilDate": datetime.now(UTC) + timedelta(days=1),
        }
        app = make_app("other", **settings, STORE_S3_OBJECT_PARAMETERS=parameters, STORE_S3_ACL="public-read")
        with app.app_context():
            store = S3Store()
            requests = []
            store.connect().meta.events.register("before-send.s3", lambda request, **_: requests.append(request))
            id = store.keep(upload(b"waves", "a.jpg"))
            sent = {name.lower() for name in requests[0].headers}
            tags = bucket.meta.client.get_object_tagging(Bucket=bucket.name, Key=f".kept/{id}")["TagSet"]
            head = head_of(bucket, f".kept/{id}")
            requests.clear()
            with contextlib.suppress(ServiceError):  # the bucket has no locks
                store.promote(id, "a.jpg")

        assert not {name for name in sent if name.startswith(("x-amz-acl", "x-amz-object-lock", "x-amz-storage"))}
        assert "x-amz-tagging" not in sent
        assert tags == []
        assert head.get("StorageClass", "STANDARD") == "STANDARD"
        copy = next(request for request in requests if "x-amz-copy-source" in request.headers)
        assert {
            "x-amz-acl",
            "x-amz-object-lock-mode",
            "x-amz-object-lock-retain-until-date",
            "x-amz-storage-class",
            "x-amz-tagging",
        } <= {name.lower() for name in copy.headers}

    def test_encrypts_both(self, make_app, settings, upload):
        parameters = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key", "BucketKeyEnabled": True}
        with make_app("other", **settings, STORE_S3_OBJECT_PARAMETERS=parameters).app_context():
            store = S3Store()
            requests = requests_of(store)
            id = store.keep(upload())
            store.promote(id, "a.jpg")

        written = [request for request in requests if request.method == "PUT"]
        assert len(written) == 2
        for request in written:
            assert request.headers["x-amz-server-side-encryption"] in ("aws:kms", b"aws:kms")

    def test_whose_answer_to_the_copy_is_lost_leaves_no_file_that_nobody_knows(self, store, upload, everything):
        from botocore.exceptions import ConnectionClosedError

        id = store.keep(upload(b"waves"))

        def lose(**_):
            events.unregister("after-call.s3.CopyObject", lose)
            raise ConnectionClosedError(endpoint_url="http://127.0.0.1")

        events = store.connect().meta.events
        events.register("after-call.s3.CopyObject", lose)
        saved = None
        with contextlib.suppress(ServiceError), transaction():
            saved = store.promote(id, "a.jpg")

        if saved is None:
            assert everything() == {f".kept/{id}": b"waves"}
            saved = store.promote(id, "a.jpg")
        assert everything() == {str(saved): b"waves"}

    @pytest.mark.parametrize("operation", ["HeadObject", "CopyObject"])
    def test_that_fails_leaves_it_kept(self, store, upload, everything, operation):
        from botocore.exceptions import ConnectTimeoutError

        id = store.keep(upload(b"waves"))

        def fail(**_):
            raise ConnectTimeoutError(endpoint_url="http://127.0.0.1")

        events = store.connect().meta.events
        events.register(f"before-send.s3.{operation}", fail)
        with pytest.raises(ServiceError), transaction():
            store.promote(id, "a.jpg")
        events.unregister(f"before-send.s3.{operation}", fail)

        assert everything() == {f".kept/{id}": b"waves"}
        assert store.promote(id, "a.jpg").exists()

    def test_that_fails_when_a_transaction_has_ended_well_logs_that(self, store, upload, everything, caplog):
        from botocore.exceptions import ConnectTimeoutError

        id = store.keep(upload(b"waves"))

        def fail(**_):
            raise ConnectTimeoutError(endpoint_url="http://127.0.0.1")

        with transaction():
            saved = store.promote(id, "a.jpg")
            store.connect().meta.events.register("before-send.s3.DeleteObject", fail)

        assert everything() == {str(saved): b"waves", f".kept/{id}": b"waves"}
        assert [record.levelname for record in caplog.records if record.name == store.app.logger.name] == ["ERROR"]


@on_moto
class TestS3GeventStore:
    @pytest.fixture
    def store(self, make_app, settings):
        provider = "flask_store.stores.s3.S3GeventStore"
        app = make_app("background", **{**settings, "STORE_PROVIDER": provider}, STORE_DRAIN_TIMEOUT=0)
        with app.app_context():
            store = S3GeventStore("photos")
            yield store
            store.uploads.wait_until_idle(30)

    def test_keeps_and_promotes_at_once(self, store, upload, everything):
        id = store.keep(upload(b"waves"))
        assert everything() == {f".kept/{id}": b"waves"}

        saved = store.promote(id, "a.jpg")

        assert not saved.pending
        assert saved.exists()
        assert everything() == {str(saved): b"waves"}
        assert list(store.list()) == [saved]
        assert store.uploads.spool.entries() == []

    def test_takes_back_at_once(self, store, upload, everything):
        id = store.keep(upload(b"waves"))

        [saved] = rolled_back(store, (id, "a.jpg"))

        assert everything() == {f".kept/{id}": b"waves"}
        assert not saved.exists()

    def test_keeps_what_it_has_received(self, store, everything):
        content = os.urandom(MIB)
        stream = store.receive("a.bin", "", None)
        stream.write(content)

        id = store.keep(FileStorage(stream, "a.bin"))

        stream.close()
        assert everything() == {f".kept/{id}": content}
        assert store.uploads.spool.entries() == []


class TestNamesOfItsOwn:
    def test_are_always_the_same_for_an_id_and_keep_the_extension(self):
        id, other = kept.make_id(), kept.make_id()

        assert kept.add_own_part("a.tar.gz", id) == kept.add_own_part("a.tar.gz", id)
        assert kept.add_own_part("a.tar.gz", id) != kept.add_own_part("a.tar.gz", other)
        assert re.fullmatch(rf"a{OWN}\.tar\.gz", kept.add_own_part("a.tar.gz", id))
        assert len(kept.add_own_part("写" * 83 + ".jpg", id).encode()) <= 255

    def test_ids_are_in_order_of_time(self, old):
        ids = []
        for age in (9000, 5000, 1000, 0):
            with old(age):
                ids.append(kept.make_id())

        assert ids == sorted(ids)
        assert list(kept.expired([*ids, "zzz"], 1001)) == ids[:2]
