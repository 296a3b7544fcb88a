"""A receiver of ``file_saved`` that raises undoes the save."""

from __future__ import annotations

import io

import pytest
from werkzeug.datastructures import FileStorage

from flask_store import StoreFile, signals, store_provider
from flask_store.stores import BaseStore
from flask_store.transaction import transaction


class ReceiverError(Exception):
    pass


def refuse(app, file):
    raise ReceiverError


@pytest.fixture(params=["local", "moto"])
def store(request, make_app):
    app = make_app() if request.param == "local" else request.getfixturevalue("s3_app")
    with app.app_context():
        yield store_provider()()


@pytest.fixture
def s3(moto):
    return moto


def upload(content=b"waves", name="a.jpg"):
    return FileStorage(io.BytesIO(content), name)


def files_of(store):
    return [str(file) for file in store.list()]


def test_leaves_no_file(store):
    with signals.file_saved.connected_to(refuse, store.app), pytest.raises(ReceiverError):
        store.save(upload())

    assert files_of(store) == []
    assert str(store.save(upload())) == "a.jpg"


def test_undoes_its_own_file_alone_where_the_error_is_caught_in_a_transaction(store):
    with transaction():
        store.save(upload(name="before.jpg"))
        with signals.file_saved.connected_to(refuse, store.app), pytest.raises(ReceiverError):
            store.save(upload())
        store.save(upload(name="later.jpg"))

    assert files_of(store) == ["before.jpg", "later.jpg"]


def test_leaves_a_kept_upload_where_it_was(store):
    id = store.keep(upload())

    with signals.file_saved.connected_to(refuse, store.app), pytest.raises(ReceiverError):
        store.promote(id, "a.jpg")

    assert files_of(store) == []
    with store.open_kept(id) as stream:
        assert stream.read() == b"waves"
    assert store.promote(id, "a.jpg").size == 5


def test_leaves_no_file_in_a_store_of_somebody_elses(app):
    contents = {}

    class DictStore(BaseStore):
        def join(self, *parts):
            return "/".join(filter(None, parts))

        def exists(self, filename):
            return filename in contents

        def save(self, file):
            name = self.safe_filename(file.filename)
            contents[name] = file.read()
            return StoreFile.of(self, name)

        def delete(self, filename):
            contents.pop(filename, None)

    with signals.file_saved.connected_to(refuse, app), pytest.raises(ReceiverError):
        DictStore().save(upload())

    assert contents == {}
