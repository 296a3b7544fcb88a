"""What a store gets from ``BaseStore``, be it a third party's with no more than ``join``, ``exists`` and ``save``."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_store import AlreadyExistsError, InvalidNameError, Provider, StoreFile, naming
from flask_store.stores import BaseStore
from flask_store.stores.base import guess_content_type


class DictStore(BaseStore):
    """Keeps contents in memory, as simply as the reference allows."""

    contents: dict[str, bytes]

    def join(self, *parts):
        return "/".join(part for part in parts if part)

    def exists(self, filename):
        return self.join(self.store_path, filename) in self.contents

    def save(self, file):
        name = self.safe_filename(file.filename)
        self.contents[self.join(self.store_path, name)] = file.stream.read()
        return StoreFile(name, self.destination)


@pytest.fixture
def app(make_app):
    DictStore.contents = {}
    app = make_app(STORE_PROVIDER=f"{__name__}.DictStore")
    with app.app_context():
        yield app


def test_a_store_of_three_methods_saves_under_safe_names_of_their_own(app, upload):
    store = Provider(destination="photos")

    first = store.save(upload(b"first", "../../été.tar.gz"))
    second = store.save(upload(b"second", "/été.tar.gz"))

    assert str(first) == "photos/été.tar.gz"
    assert second.filename.startswith("été_")
    assert second.filename.endswith(".tar.gz")
    assert DictStore.contents == {str(first): b"first", str(second): b"second"}
    assert first.exists()


@pytest.mark.parametrize("verb", ["open", "delete", "stat", "list", "path_for"])
def test_a_verb_that_a_store_lacks_names_the_class_and_itself(app, verb):
    with pytest.raises(NotImplementedError, match=rf"DictStore .*{verb}\(\)"):
        getattr(Provider(), verb)("a.txt")


@pytest.mark.parametrize("verb", ["join", "exists", "save"])
def test_the_base_itself_can_do_nothing(app, verb):
    with pytest.raises(NotImplementedError, match=rf"BaseStore .*{verb}\(\)"):
        getattr(BaseStore(), verb)("a.txt")


class Careless(DictStore):
    """Takes the client's word for the name."""

    def save(self, file):
        self.contents[file.filename] = file.stream.read()
        return StoreFile(file.filename, self.destination)


@pytest.mark.parametrize("filename", ["../a.txt", "/a.txt", ".htaccess", "a\0.txt", ""])
def test_a_store_that_skips_safe_filename_gets_no_file_of_an_unsafe_name(app, upload, filename):
    with pytest.raises(InvalidNameError):
        Careless().save(upload(filename=filename))


class Crowded(DictStore):
    """Has every name there is."""

    def exists(self, filename):
        return True


def test_safe_filename_gives_up_where_every_name_is_taken(app):
    with pytest.raises(AlreadyExistsError, match=r"photo\.jpg"):
        Crowded().safe_filename("../photo.jpg")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_safe_filename_is_safe(app, filename):
    naming.check(Provider().safe_filename(filename))


def test_the_same_store_at_another_destination_needs_no_application_context(make_app):
    with make_app(STORE_PROVIDER=f"{__name__}.DictStore").app_context():
        store = Provider(destination="photos")

    other = store.at("documents/2026/")

    assert (other.destination, store.destination) == ("documents/2026", "photos")
    with pytest.raises(InvalidNameError):
        store.at("../documents")


@pytest.mark.parametrize(
    ("parts", "url"),
    [
        (("https://example.com", "photos", "a.jpg"), "https://example.com/photos/a.jpg"),
        (("https://example.com/", "/photos/", "/a.jpg"), "https://example.com/photos/a.jpg"),
        (("/uploads", "photos/2026/a.jpg"), "/uploads/photos/2026/a.jpg"),
        (("", "a.jpg"), "/a.jpg"),
        (("/uploads", "", "a.jpg"), "/uploads/a.jpg"),
        (("/uploads",), "/uploads"),
        # What would lead a browser elsewhere if it were taken for a URL.
        (("/uploads", "https:evil.example"), "/uploads/https%3Aevil.example"),
        (("/uploads", "javascript:alert(1)"), "/uploads/javascript%3Aalert%281%29"),
        (("/uploads", "//evil.example/a.jpg"), "/uploads/evil.example/a.jpg"),
        (("/uploads", "a?b=c#d.jpg"), "/uploads/a%3Fb%3Dc%23d.jpg"),
        (("/uploads", "a b+c&d;e=f@g.jpg"), "/uploads/a%20b%2Bc%26d%3Be%3Df%40g.jpg"),
        (("/uploads", "100%.jpg"), "/uploads/100%25.jpg"),
        (("/uploads", "%2e%2e%2fa.jpg"), "/uploads/%252e%252e%252fa.jpg"),
        (("/uploads", "a\\b\"<'>.jpg"), "/uploads/a%5Cb%22%3C%27%3E.jpg"),
        (("/uploads", "写真.jpg"), "/uploads/%E5%86%99%E7%9C%9F.jpg"),
    ],
)
def test_url_join_encodes_all_but_the_first_part(app, parts, url):
    assert Provider().url_join(*parts) == url


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("photo.jpg", "image/jpeg"),
        ("PHOTO.JPG", "image/jpeg"),
        ("page.html", "text/html"),
        ("page.html.gz", "application/gzip"),
        ("backup.tar.gz", "application/gzip"),
        ("drawing.svgz", "application/gzip"),
        ("backup.tar.bz2", "application/octet-stream"),
        ("data.unheard-of", "application/octet-stream"),
        ("LICENSE", "application/octet-stream"),
    ],
)
def test_the_content_type_is_that_of_the_file_as_it_is(name, content_type):
    assert guess_content_type(name) == content_type
