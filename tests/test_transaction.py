"""A unit of work: what was saved inside a block that raises is deleted again."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

import pytest
from flask import abort

from flask_store import Provider, ServiceError, StoreFile
from flask_store.stores.base import BaseStore
from flask_store.stores.local import LocalStore
from flask_store.transaction import on_commit, on_rollback


class Failure(Exception):
    pass


@pytest.fixture
def store(app):
    return app.extensions["store"].store


class KeepingStore(BaseStore):
    """Cannot delete."""

    def join(self, *parts):
        return "/".join(parts)

    def exists(self, filename):
        return False

    def save(self, file):
        return file.filename


def names():
    return [str(file) for file in Provider().list()]


def test_a_block_that_raises_deletes_what_was_saved_in_it(store, upload):
    before = Provider().save(upload(filename="before.txt"))
    with pytest.raises(Failure), store.transaction():
        Provider().save(upload(filename="a.txt"))
        Provider(destination="photos").save(upload(filename="b.txt"))
        raise Failure

    assert names() == [str(before)]


def test_what_is_saved_after_a_block_stays(store, upload):
    with store.transaction():
        Provider().save(upload(filename="a.txt"))
    with pytest.raises(Failure):
        Provider().save(upload(filename="b.txt"))
        raise Failure

    assert names() == ["a.txt", "b.txt"]


def test_an_inner_block_that_ended_well_belongs_to_the_outer_one(store, upload):
    with pytest.raises(Failure), store.transaction():
        with store.transaction():
            Provider().save(upload())
        raise Failure

    assert names() == []


def test_an_inner_block_that_raises_undoes_itself_alone(store, upload):
    with store.transaction():
        Provider().save(upload(filename="outer.txt"))
        with pytest.raises(Failure), store.transaction():
            Provider().save(upload(filename="inner.txt"))
            raise Failure
        Provider().save(upload(filename="later.txt"))

    assert names() == ["later.txt", "outer.txt"]


def test_an_aborted_request_leaves_no_file(app, store, upload):
    @app.post("/")
    def view():
        with store.transaction():
            Provider().save(upload())
            abort(409)

    assert app.test_client().post("/").status_code == 409
    assert names() == []


def test_an_interrupt_undoes_too(store, upload):
    with pytest.raises(KeyboardInterrupt), store.transaction():
        Provider().save(upload())
        raise KeyboardInterrupt

    assert names() == []


def test_a_file_that_was_deleted_inside_is_no_problem(store, upload):
    with pytest.raises(Failure), store.transaction():
        Provider().save(upload()).delete()
        raise Failure

    assert names() == []


def test_a_store_that_cannot_delete_keeps_the_file_with_one_warning(app, store, upload, caplog):
    with pytest.raises(Failure), store.transaction():
        KeepingStore().save(upload(filename="kept.txt"))
        raise Failure

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "kept.txt stays in the store after a rollback: KeepingStore does not implement delete()")
    ]


class UndeletableStore(LocalStore):
    def delete(self, filename):
        raise ServiceError(f"cannot delete {filename}")


def test_a_file_that_cannot_be_deleted_hides_neither_the_error_nor_the_other_files(store, upload, caplog):
    with pytest.raises(Failure), store.transaction():
        Provider().save(upload(filename="first.txt"))
        stuck = UndeletableStore().save(upload(filename="stuck.txt"))
        Provider().save(upload(filename="last.txt"))
        raise Failure

    assert names() == [str(stuck)]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "stuck.txt" in record.getMessage()
    assert isinstance(record.exc_info[1], ServiceError)


def test_a_subclass_that_saves_through_its_parent_takes_part(store, upload):
    deleted = []

    class Renaming(LocalStore):
        def save(self, file):
            file.filename = "renamed.txt"
            return super().save(file)

        def delete(self, filename):
            deleted.append(filename)
            super().delete(filename)

    with pytest.raises(Failure), store.transaction():
        assert Renaming().save(upload()) == StoreFile("renamed.txt")
        raise Failure

    assert names() == []
    assert deleted == ["renamed.txt"]


def test_blocks_that_end_in_another_order_than_they_began_leave_none_open(store, upload):
    def hold():
        with store.transaction():
            yield

    first, second = hold(), hold()
    next(first)
    next(second)
    for block in (first, second):
        with pytest.raises(StopIteration):
            next(block)

    with pytest.raises(Failure):
        Provider().save(upload(filename="after.txt"))
        raise Failure

    on_rollback(lambda: pytest.fail("there is no block"))
    assert names() == ["after.txt"]


def test_on_rollback_outside_a_block_does_nothing():
    on_rollback(lambda: pytest.fail("there is no block"))


class TestOnCommit:
    """What is to be done once the work is known to have ended well."""

    def test_is_done_when_the_block_has_ended(self, store):
        done = []
        with store.transaction():
            on_commit(lambda: done.append(1))
            on_commit(lambda: done.append(2))
            assert done == []

        assert done == [1, 2]

    def test_is_done_when_the_outermost_block_has_ended(self, store):
        done = []
        with store.transaction():
            with store.transaction():
                with store.transaction():
                    on_commit(lambda: done.append("innermost"))
                on_commit(lambda: done.append("inner"))
            on_commit(lambda: done.append("outer"))
            assert done == []

        assert done == ["innermost", "inner", "outer"]

    def test_is_not_done_if_the_block_raises(self, store):
        with pytest.raises(Failure), store.transaction():
            on_commit(lambda: pytest.fail("the block failed"))
            raise Failure

        with store.transaction():
            pass  # nor by the next one

    def test_is_not_done_if_a_block_around_raises(self, store):
        with pytest.raises(Failure), store.transaction():
            with store.transaction():
                on_commit(lambda: pytest.fail("the outer block failed"))
            raise Failure

    def test_of_an_inner_block_that_raises_is_not_done_and_of_the_outer_one_it_is(self, store):
        done = []
        with store.transaction():
            on_commit(lambda: done.append("outer"))
            with pytest.raises(Failure), store.transaction():
                on_commit(lambda: pytest.fail("the inner block failed"))
                raise Failure

        assert done == ["outer"]

    def test_is_done_at_once_where_there_is_no_block(self):
        done = []

        on_commit(lambda: done.append(1))

        assert done == [1]

    def test_goes_before_what_is_saved_later_is_undone(self, store, upload):
        """A block that has ended well is not undone by the next one."""
        done = []
        with store.transaction():
            Provider().save(upload(filename="first.txt"))
            on_commit(lambda: done.append(names()))
        with pytest.raises(Failure), store.transaction():
            Provider().save(upload(filename="second.txt"))
            raise Failure

        assert done == [["first.txt"]]
        assert names() == ["first.txt"]

    def test_sees_no_open_block(self, store):
        """What it saves or registers is not part of what has ended."""
        done = []

        def finish():
            on_rollback(lambda: pytest.fail("there is no block"))
            on_commit(lambda: done.append("inner"))

        with store.transaction():
            on_commit(finish)

        assert done == ["inner"]

    def test_is_done_for_one_thread_alone(self, app, store):
        done = []
        with store.transaction():
            thread = threading.Thread(target=lambda: on_commit(lambda: done.append("thread")))
            thread.start()
            thread.join()
            assert done == ["thread"]
            on_commit(lambda: done.append("block"))
            assert done == ["thread"]

        assert done == ["thread", "block"]

    def test_and_rollback_are_never_both_done(self, store):
        for fails in (False, True):
            done = []
            with suppress(Failure), store.transaction():
                on_commit(lambda done=done: done.append("commit"))
                on_rollback(lambda done=done: done.append("rollback"))
                if fails:
                    raise Failure

            assert done == ["rollback" if fails else "commit"]

    def test_is_done_for_all_even_if_one_fails(self, store):
        def fail():
            raise Failure

        done = []
        with pytest.raises(Failure), store.transaction():
            on_commit(lambda: done.append("first"))
            on_commit(fail)
            on_commit(lambda: done.append("last"))

        assert done == ["first", "last"]
