"""STORE_UNIQUE_NAMES: no name comes back after a deletion, in any store."""

from __future__ import annotations

import io
import re

import faulty_proxy
import pytest
from werkzeug.datastructures import FileStorage

from flask_store import NotConfiguredError, Provider, StoreFile
from flask_store.stores.base import BaseStore
from flask_store.stores.local import LocalStore
from flask_store.testing import StoreContract
from flask_store.transaction import transaction

CEPH = pytest.param("ceph", marks=pytest.mark.ceph)

RANDOM_NAME = re.compile(r"photo_[\w-]{14}\.tar\.gz")

THRESHOLD = 5 * 1024 * 1024


@pytest.fixture(params=["local", "moto", CEPH])
def kind(request):
    """What the store is on."""
    return request.param


@pytest.fixture
def s3(request, kind):
    return request.getfixturevalue(kind)


@pytest.fixture
def settings(request, kind):
    if kind == "local":
        return {}
    bucket = request.getfixturevalue("bucket")
    return {**request.getfixturevalue("s3").settings(bucket.name), "STORE_S3_MULTIPART_THRESHOLD": THRESHOLD}


@pytest.fixture
def store(make_app, settings):
    with make_app("unique", STORE_UNIQUE_NAMES=True, **settings).app_context():
        yield Provider()


class TestContract(StoreContract):
    @pytest.fixture
    def store(self, store):
        return store


def save(store, upload, content=b"content"):
    return store.save(upload(content, "photo.tar.gz"))


def save_in_parts(store, upload):
    return save(store, upload, bytes(THRESHOLD + 1))


def save_received(store, upload):
    """As an upload that is written where it stays while the request is parsed."""
    body = {"file": (io.BytesIO(bytes(THRESHOLD)), "photo.tar.gz")}
    with store.app.test_request_context(method="POST", data=body) as context:
        saved = store.save(context.request.files["file"])
        context.request.environ["wsgi.input"].close()
    return saved


def keep_and_promote(store, upload):
    return store.promote(store.keep(upload(filename="photo.tar.gz")), "photo.tar.gz")


def save_through_a_subclass(store, upload):
    """Whose names are the client's whatever happens."""

    class Naming(type(store)):
        def safe_filename(self, filename):
            return filename

    return save(Naming(), upload)


@pytest.mark.parametrize("save", [save, save_in_parts, save_received, keep_and_promote, save_through_a_subclass])
def test_every_file_has_one_random_part_and_none_comes_back(store, upload, save):
    names = set()
    for _ in range(3):
        file = save(store, upload)
        names.add(file.filename)
        file.delete()

    assert len(names) == 3
    assert all(map(RANDOM_NAME.fullmatch, names))


def test_a_promotion_that_is_repeated_after_a_crash_makes_one_file(store, upload):
    id = store.keep(upload(filename="photo.tar.gz"))
    with pytest.raises(KeyboardInterrupt), transaction():
        first = store.promote(id, "photo.tar.gz")
        raise KeyboardInterrupt
    second = store.promote(id, "photo.tar.gz")

    assert second == first
    assert list(store.list()) == [second]


class ListedStore(BaseStore):
    """A third party's."""

    names: set[str] = set()

    def join(self, *parts):
        return "/".join(parts)

    def exists(self, filename):
        return filename in self.names

    def save(self, file):
        return StoreFile.of(self, self.safe_filename(file.filename))


def test_another_store_has_them_from_safe_filename(make_app, upload):
    with make_app("other", STORE_UNIQUE_NAMES=True).app_context():
        assert RANDOM_NAME.fullmatch(save(ListedStore(), upload).filename)


def test_they_are_not_the_default(app, upload):
    assert save(LocalStore(), upload).filename == "photo.tar.gz"


def test_a_long_name_keeps_its_random_part_and_its_extension(make_app):
    with make_app("long", STORE_UNIQUE_NAMES=True).app_context():
        saved = LocalStore().save(FileStorage(io.BytesIO(b""), "写" * 200 + ".jpg"))

    assert re.fullmatch(r"写+_[\w-]{14}\.jpg", saved.filename)


@pytest.mark.parametrize("value", [1, "true", None])
def test_the_setting_is_a_boolean(make_app, value):
    with pytest.raises(NotConfiguredError, match="STORE_UNIQUE_NAMES must be True or False"):
        make_app("wrong", STORE_UNIQUE_NAMES=value)


@pytest.mark.parametrize(
    "provider, is_unique",
    [("S3Store", False), ("S3Store", True), ("S3GeventStore", True)],
)
@pytest.mark.parametrize("kind", ["moto"], indirect=True)
def test_no_condition_is_sent_where_the_name_is_unique(make_app, s3, settings, upload, provider, is_unique):
    with faulty_proxy.before(s3.endpoint_url) as proxy:
        settings |= {
            "STORE_PROVIDER": f"flask_store.stores.s3.{provider}",
            "STORE_S3_ENDPOINT_URL": proxy.url,
            "STORE_UNIQUE_NAMES": is_unique,
        }
        with make_app("proxied", **settings).app_context():
            file = save(Provider(), upload)
            file.wait(30)

        conditions = [one.headers.get("if-none-match") for one in proxy.requests if one.operation == "PutObject"]
        assert conditions == [None if is_unique else "*"]
        assert bool(RANDOM_NAME.fullmatch(file.filename)) is is_unique
