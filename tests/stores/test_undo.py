"""A saved file has one undo, used once, and that removes no file but this one."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_files import open_files

from flask_store import Provider, StoreFile, naming
from flask_store.stores import local
from flask_store.stores.base import BaseStore
from flask_store.stores.local import LocalStore
from flask_store.transaction import transaction

CEPH = pytest.param("ceph", marks=pytest.mark.ceph)


class Failure(Exception):
    pass


@pytest.fixture(params=["local", "moto", CEPH])
def kind(request):
    """What the store is on."""
    return request.param


@pytest.fixture
def s3(request, kind):
    return request.getfixturevalue(kind)


@pytest.fixture
def store(request, kind):
    app = request.getfixturevalue("app" if kind == "local" else "s3_app")
    return app.extensions["store"].provider()


def in_a_thread(store, function):
    """Have another visitor's request do something, and return what it returns."""
    results = []

    def run():
        with store.app.app_context():
            results.append(function())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def content(file):
    with file.open() as stream:
        return stream.read()


def delete_by_file(store, file):
    file.delete()


def delete_by_name(store, file):
    type(store)().delete(file.filename)


def delete_from_outside(store, file):
    """As another process may."""
    if isinstance(store, LocalStore):
        os.unlink(file.absolute_path())
    else:
        store.bucket(store.connect()).Object(file.absolute_path()).delete()


@pytest.mark.parametrize("delete", [delete_by_file, delete_by_name, delete_from_outside])
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_name_that_was_free_again_is_another_visitors(store, upload, delete, is_nested):
    with pytest.raises(Failure), transaction():
        file = store.save(upload(b"mine!!", "photo.jpg"))
        if is_nested:
            with transaction():
                delete(store, file)
        else:
            delete(store, file)
        theirs = in_a_thread(store, lambda: store.save(upload(b"theirs", "photo.jpg")))
        raise Failure

    assert str(theirs) == "photo.jpg"
    assert content(theirs) == b"theirs"


def test_the_rollback_of_an_inner_block_is_the_only_one(store, upload):
    with pytest.raises(Failure), transaction():
        with suppress(ZeroDivisionError), transaction():
            store.save(upload(b"mine!!", "photo.jpg"))
            raise ZeroDivisionError
        theirs = in_a_thread(store, lambda: store.save(upload(b"theirs", "photo.jpg")))
        raise Failure

    assert content(theirs) == b"theirs"


def test_a_file_that_was_deleted_and_saved_again_goes(store, upload):
    with pytest.raises(Failure), transaction():
        store.save(upload(b"first", "photo.jpg")).delete()
        second = store.save(upload(b"second", "photo.jpg"))
        raise Failure

    assert str(second) == "photo.jpg"
    assert list(store.list()) == []


def test_a_delete_in_another_thread_leaves_the_undo_and_that_leaves_the_other_file(store, upload):
    with pytest.raises(Failure), transaction():
        file = store.save(upload(b"mine!!", "photo.jpg"))
        in_a_thread(store, file.delete)
        theirs = in_a_thread(store, lambda: store.save(upload(b"theirs", "photo.jpg")))
        raise Failure

    assert content(theirs) == b"theirs"


@pytest.mark.parametrize("delete", [delete_by_file, delete_from_outside])
def test_a_promoted_upload_takes_back_its_own_name_alone(store, upload, delete):
    id = store.keep(upload(b"mine!!", "photo.jpg"))
    with pytest.raises(Failure), transaction():
        file = store.promote(id, "photo.jpg")
        name = file.filename
        delete(store, file)
        theirs = in_a_thread(store, lambda: store.save(upload(b"theirs", name)))
        raise Failure

    assert theirs.filename == name
    assert content(theirs) == b"theirs"
    with store.open_kept(id) as stream:
        assert stream.read() == b"mine!!"


def test_a_promoted_upload_that_was_deleted_is_kept_no_more_after_a_block_that_ended_well(store, upload):
    id = store.keep(upload(b"mine", "photo.jpg"))
    with transaction():
        file = store.promote(id, "photo.jpg")
        file.delete()

    assert not store.is_kept(id)


class TestOnADisk:
    @pytest.fixture
    def kind(self):
        return "local"

    def test_a_file_that_was_changed_in_place_goes(self, store, upload):
        with pytest.raises(Failure), transaction():
            path = store.save(upload()).absolute_path()
            with open(path, "ab") as file:
                file.write(b" and more")
            os.chmod(path, 0o600)
            raise Failure

        assert list(store.list()) == []

    def test_a_file_that_the_save_of_a_subclass_replaced_goes(self, store, upload):
        class Smaller(LocalStore):
            def save(self, file):
                saved = super().save(file)
                with open(f"{saved.absolute_path()}.new", "wb") as new:
                    new.write(b"smaller")
                os.replace(new.name, saved.absolute_path())
                return saved

        with pytest.raises(Failure), transaction():
            Smaller().save(upload())
            raise Failure

        assert list(store.list()) == []

    def test_a_file_that_was_replaced_later_stays_with_a_warning(self, store, upload, caplog):
        with pytest.raises(Failure), transaction():
            file = store.save(upload(filename="a.txt"))
            with open(f"{file.absolute_path()}.new", "wb") as new:
                new.write(b"another")
            os.replace(new.name, file.absolute_path())
            raise Failure

        assert content(file) == b"another"
        assert [record.getMessage() for record in caplog.records] == [
            "a.txt stays in the store after a rollback: it is another file by now"
        ]

    def test_no_block_holds_a_file_open_after_its_end(self, store, root, upload):
        for raises in (False, True):
            with suppress(Failure), transaction():
                for number in range(local.MAX_HELD_FILES + 10):
                    store.save(upload(filename=f"{raises}-{number}.txt"))
                store.save(upload()).delete()
                assert len(open_files(root)) == local.MAX_HELD_FILES
                if raises:
                    raise Failure

            assert open_files(root) == []
        assert len(list(store.list())) == local.MAX_HELD_FILES + 10

    def test_more_files_than_are_held_open_are_told_from_others_too(self, store, upload):
        with pytest.raises(Failure), transaction():
            for number in range(local.MAX_HELD_FILES):
                store.save(upload(filename=f"{number}.txt"))
            file = store.save(upload(b"mine", "photo.jpg"))
            os.unlink(file.absolute_path())
            theirs = store.at(None).save(upload(b"somebody's", "other.jpg"))
            os.rename(theirs.absolute_path(), file.absolute_path())
            os.utime(file.absolute_path(), (0, 0))
            raise Failure

        assert content(file) == b"somebody's"


class ListedStore(BaseStore):
    """A third party's: cannot tell two files of one name apart. It counts what is deleted."""

    def __init__(self, destination=None):
        super().__init__(destination)
        self.names = set()
        self.deleted = Counter()

    def join(self, *parts):
        return "/".join(parts)

    def exists(self, filename):
        return filename in self.names

    def save(self, file):
        name = self.safe_filename(file.filename)
        self.names.add(name)
        return StoreFile.of(self, name)

    def delete(self, filename):
        self.names.discard(filename)
        self.deleted[filename] += 1


@pytest.mark.parametrize("is_name", [False, True])
def test_another_store_deletes_by_name_and_once(app, upload, is_name):
    class NamingStore(ListedStore):
        def save(self, file):
            return str(super().save(file)) if is_name else super().save(file)

    store = NamingStore()
    with pytest.raises(Failure), transaction():
        store.save(upload(filename="deleted.txt"))
        store.delete("deleted.txt")
        with suppress(ZeroDivisionError), transaction():
            store.save(upload(filename="inner.txt"))
            raise ZeroDivisionError
        store.save(upload(filename="last.txt"))
        raise Failure

    assert store.deleted == {"deleted.txt": 1, "inner.txt": 1, "last.txt": 1}


def test_a_store_without_delete_has_none_for_taking_part(app):
    class NoDelete(ListedStore):
        delete = BaseStore.delete

    assert NoDelete.delete is BaseStore.delete


def test_a_delete_that_failed_leaves_the_undo(app, upload):
    class Failing(ListedStore):
        failures = 1

        def delete(self, filename):
            if self.failures:
                self.failures -= 1
                raise OSError
            super().delete(filename)

    store = Failing()
    with pytest.raises(Failure), transaction():
        file = store.save(upload())
        with suppress(OSError):
            file.delete()
        raise Failure

    assert store.names == set()


_ACTIONS = st.lists(st.sampled_from(["save", "delete", "theirs", "open", "end", "fail"]), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_ACTIONS, st.booleans())
def test_whatever_happens_their_files_stay_and_of_ours_those_of_blocks_that_ended_well(app, upload, actions, fails):
    """Ours and theirs want one name, and whoever deletes, only files of failed blocks and deleted ones are gone."""
    store = LocalStore()
    for file in store.list():
        file.delete()
    expected = {}
    mine = []

    def run(actions):
        """Do what comes until the block ends; return the files that were saved in it, with their bytes."""
        saved = []
        while actions:
            action = actions.pop(0)
            if action == "save":
                ours = naming.add_random("ours").encode()
                file = Provider().save(upload(ours, "photo.jpg"))
                saved.append((file, ours))
                mine.append((file, ours))
                expected[str(file)] = ours
            elif action == "delete" and mine:
                file, ours = mine[-1]
                os.unlink(file.absolute_path()) if len(actions) % 2 else file.delete()
                gone([(file, ours)])
            elif action == "theirs":
                file = in_a_thread(store, lambda: store.save(upload(b"theirs", "photo.jpg")))
                expected[str(file)] = b"theirs"
            elif action == "open":
                saved += inner(actions)
            elif action == "end":
                break
            elif action == "fail":
                raise ZeroDivisionError(saved)
        return saved

    def inner(actions):
        try:
            with transaction():
                return run(actions)
        except ZeroDivisionError as error:
            gone(error.args[0])
            return []

    def gone(files):
        for file, ours in files:
            if expected.get(str(file)) == ours:
                del expected[str(file)]
            if (file, ours) in mine:
                mine.remove((file, ours))

    files = []
    with suppress(Failure, ZeroDivisionError), transaction():
        try:
            files = run(list(actions))
        except ZeroDivisionError as error:
            gone(error.args[0])
            raise
        if fails:
            gone(files)
            raise Failure

    assert {str(file): content(file) for file in store.list()} == expected
