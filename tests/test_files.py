"""A ``StoreFile`` is known by its place and remembers its application."""

from __future__ import annotations

import copy
import errno
import pickle
from pathlib import Path

import pytest
from flask import Flask, request, stream_template_string

from flask_store import AlreadyExistsError, InvalidNameError, NotFoundError, Provider, StoreFile
from flask_store.utils import path_to_uri


def test_its_text_is_the_relative_path(app):
    assert str(StoreFile("a.jpg", "photos/2026")) == "photos/2026/a.jpg"
    assert str(StoreFile("a.jpg")) == "a.jpg"


def test_paths_and_urls_need_no_file(app, root):
    file = StoreFile("ä b.jpg", destination="photos/")

    assert file.absolute_path() == str(root / "photos" / "ä b.jpg")
    assert file.relative_path() == "photos/ä b.jpg"
    assert file.relative_url() == file.absolute_url() == "/uploads/photos/%C3%A4%20b.jpg"
    assert (file.filename, file.destination) == ("ä b.jpg", "photos")
    assert repr(file) == "<StoreFile 'photos/ä b.jpg'>"
    assert not root.exists()


@pytest.mark.parametrize("filename", ["../a.jpg", "a/b.jpg", "", ".hidden", "a\0.jpg", "con.jpg", "a.jpg ", "a" * 256])
def test_an_unsafe_name_gets_no_store_file(app, filename):
    with pytest.raises(InvalidNameError) as caught:
        StoreFile(filename)

    assert caught.value.name == filename


@pytest.mark.parametrize("destination", ["..", "/etc", "a/../..", "a//b", ".git", "photos\\2026"])
def test_an_unsafe_destination_gets_no_store_file(app, destination):
    with pytest.raises(InvalidNameError):
        StoreFile("a.jpg", destination)


def test_equality_and_hash_go_by_place(app):
    assert StoreFile("a.jpg", "photos") == StoreFile.from_path("photos/a.jpg")
    assert len({StoreFile("a.jpg", "photos"), StoreFile("a.jpg", "photos/")}) == 1
    assert StoreFile("a.jpg") != StoreFile("b.jpg")
    assert StoreFile("a.jpg") != "a.jpg"


def test_an_empty_file_is_true(app, upload):
    saved = Provider().save(upload(b""))

    assert saved.size == 0
    assert saved
    with pytest.raises(TypeError):
        len(saved)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/uploads/a.jpg", "http://a.jpg", "//example.com/a.jpg", "s3://bucket/a.jpg", "data:a.jpg"],
)
def test_a_url_from_a_database_is_refused_and_says_what_to_store(app, url):
    with pytest.raises(InvalidNameError, match="store the relative path"):
        StoreFile.from_path(url)


@pytest.mark.parametrize("path", ["", "/a.jpg", "photos/", "../a.jpg", "photos/../a.jpg", "photos\\a.jpg"])
def test_an_unsafe_path_from_a_database_is_refused(app, path):
    with pytest.raises(InvalidNameError):
        StoreFile.from_path(path)


def test_what_is_asked_of_a_missing_file_says_so(app):
    file = StoreFile("missing.jpg", "photos")

    assert not file.exists()
    with pytest.raises(NotFoundError, match=r"missing\.jpg"):
        _ = file.size


def test_a_deleted_file_is_gone(app, upload):
    saved = Provider().save(upload())

    saved.delete()
    saved.delete()

    assert not saved.exists()


def test_urls_start_where_the_application_is_mounted(make_app):
    app = make_app()
    file_url = app.test_request_context(base_url="http://localhost/mounted point/")
    with file_url:
        assert request.script_root == "/mounted point"
        assert StoreFile("a.jpg").relative_url() == "/mounted%20point/uploads/a.jpg"


def test_urls_start_at_the_application_root_outside_a_request(make_app):
    with make_app(APPLICATION_ROOT="/mounted").app_context():
        assert StoreFile("a.jpg").absolute_url() == "/mounted/uploads/a.jpg"


def test_a_domain_has_its_own_root(make_app):
    app = make_app(STORE_DOMAIN="https://files.example.com")
    with app.test_request_context(base_url="http://localhost/mounted/"):
        assert StoreFile("a.jpg").relative_url() == "/uploads/a.jpg"
        assert StoreFile("a.jpg").absolute_url() == "https://files.example.com/uploads/a.jpg"


def test_another_applications_request_does_not_change_a_url(make_app):
    app, other = make_app("app"), make_app("other")
    with app.app_context():
        file = StoreFile("a.jpg")
    with other.test_request_context(base_url="http://localhost/other/"):
        assert file.relative_url() == "/uploads/a.jpg"


def test_a_streamed_template_can_use_it(make_app):
    app: Flask = make_app()

    @app.get("/")
    def index():
        return stream_template_string("{{ file.absolute_url() }} {{ file }}", file=StoreFile("a.jpg"))

    assert app.test_client().get("/").text == "/uploads/a.jpg a.jpg"


def test_it_goes_through_a_cache_and_a_queue(app):
    file = StoreFile("a.jpg", "photos")

    assert pickle.loads(pickle.dumps(file)) == file
    assert copy.deepcopy({"photo": file}) == {"photo": copy.copy(file)} == {"photo": file}


@pytest.mark.parametrize("error", [InvalidNameError("a/b", "it is two"), NotFoundError("a"), AlreadyExistsError("a")])
def test_an_error_goes_through_a_queue(error):
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert (str(again), again.name) == (str(error), error.name)


def test_the_errors_of_files_have_the_systems_numbers():
    assert NotFoundError("a").errno == errno.ENOENT
    assert AlreadyExistsError("a").errno == errno.EEXIST


@pytest.mark.parametrize("destination", [2026, b"photos", Path("photos")])
def test_a_destination_that_is_no_text_is_refused_in_words(app, destination):
    with pytest.raises(TypeError, match="a destination is a text"):
        StoreFile("a.jpg", destination)


def test_path_to_uri_turns_backslashes():
    assert path_to_uri("photos\\2026\\a.jpg") == "photos/2026/a.jpg"
