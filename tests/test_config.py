"""The settings: a wrong one fails in ``init_app`` and is named, a right one is read when it is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask

from flask_store import NotConfiguredError, Provider, Store, StoreFile


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("STORE_PROVIDER", ""),
        ("STORE_PROVIDER", None),
        ("STORE_PROVIDER", 5),
        ("STORE_PATH", ""),
        ("STORE_PATH", None),
        ("STORE_PATH", b"uploads"),
        ("STORE_PATH", "up\0loads"),
        ("STORE_PATH", "  "),
        ("STORE_DOMAIN", "files.example.com"),
        ("STORE_DOMAIN", "javascript://alert(1)"),
        ("STORE_DOMAIN", "https://files.example.com/?x=1"),
        ("STORE_DOMAIN", "https://"),
        ("STORE_DOMAIN", 5),
        ("STORE_URL_PREFIX", ""),
        ("STORE_URL_PREFIX", "/"),
        ("STORE_URL_PREFIX", None),
        ("STORE_URL_PREFIX", "https://files.example.com"),
        ("STORE_URL_PREFIX", "//files.example.com"),
        ("STORE_URL_PREFIX", "/uploads/<path>"),
        ("STORE_URL_PREFIX", "/uploads?x"),
        ("STORE_SERVE", "False"),
        ("STORE_SERVE", 1),
        ("STORE_SERVE", None),
        ("STORE_RECEIVE", "off"),
        ("STORE_FSYNC", "yes"),
        ("STORE_KEEP_UPLOADS", -1),
        ("STORE_KEEP_UPLOADS", 1.5),
        ("STORE_KEEP_UPLOADS", "3600"),
        ("STORE_KEEP_UPLOADS", True),
        ("STORE_KEEP_UPLOADS", 30 * 24 * 3600 + 1),
        ("STORE_FILE_MODE", "0o644"),
        ("STORE_FILE_MODE", 644),
        ("STORE_FILE_MODE", 0o044),
        ("STORE_FILE_MODE", True),
        ("STORE_FILE_MODE", -1),
        ("STORE_DIRECTORY_MODE", 0o644),
        ("STORE_DIRECTORY_MODE", None),
    ],
)
def test_a_wrong_setting_fails_in_init_app_and_is_named(make_app, key, value):
    with pytest.raises(NotConfiguredError, match=key):
        make_app(**{key: value})


@pytest.mark.parametrize("path", ["/", "{root}", "{root}/.."])
def test_a_store_that_contains_the_source_code_is_refused(make_app, path):
    with pytest.raises(NotConfiguredError, match="STORE_PATH"):
        make_app(STORE_PATH=path.format(root=Flask("app").root_path))


def test_all_that_is_wrong_is_named_at_once(make_app):
    with pytest.raises(NotConfiguredError, match=r"STORE_PATH.*STORE_DOMAIN.*STORE_FSYNC"):
        make_app(STORE_PATH="", STORE_DOMAIN="example.com", STORE_FSYNC="no")


def test_a_false_in_the_environment_that_is_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASK_STORE_FSYNC", "False")
    app = Flask("app", instance_path=str(tmp_path))
    app.config.from_prefixed_env()

    with pytest.raises(NotConfiguredError, match=r"STORE_FSYNC.*true or false"):
        Store(app)


def test_the_environment_can_set_everything(tmp_path, monkeypatch):
    for key, value in {"PATH": "files", "FSYNC": "true", "FILE_MODE": "416", "DOMAIN": "https://x.example"}.items():
        monkeypatch.setenv(f"FLASK_STORE_{key}", value)
    app = Flask("app", instance_path=str(tmp_path))
    app.config.from_prefixed_env()

    Store(app)

    with app.app_context():
        settings = Provider().settings
        assert (settings.path, settings.fsync, settings.file_mode, settings.domain) == (
            "files",
            True,
            0o640,
            "https://x.example",
        )


@pytest.mark.receiving
def test_the_defaults_are_safe(app):
    assert {key: value for key, value in app.config.items() if key.startswith("STORE_")} == {
        "STORE_PROVIDER": "flask_store.stores.local.LocalStore",
        "STORE_PATH": "uploads",
        "STORE_URL_PREFIX": "/uploads",
        "STORE_DOMAIN": None,
        "STORE_SERVE": True,
        "STORE_FILE_MODE": 0o644,
        "STORE_DIRECTORY_MODE": 0o755,
        "STORE_RECEIVE": True,
        "STORE_FSYNC": False,
        "STORE_UNIQUE_NAMES": False,
        "STORE_KEEP_UPLOADS": 3600,
        "STORE_KEEP_LIMIT": 1024**3,
    }


def test_a_path_may_be_a_path_object(make_app, tmp_path, upload):
    app = make_app(STORE_PATH=tmp_path / "elsewhere")
    with app.app_context():
        saved = Provider().save(upload())

    assert Path(saved.absolute_path()) == tmp_path / "elsewhere" / "photo.jpg"


def test_an_empty_domain_is_none(make_app):
    """The environment has no other way to say so that its users try."""
    with make_app(STORE_DOMAIN="").app_context():
        assert StoreFile("a.jpg").absolute_url() == "/uploads/a.jpg"


def test_a_setting_is_read_when_it_is_used(app):
    file = StoreFile("a.jpg")
    app.config["STORE_DOMAIN"] = "https://cdn.example.com/"

    assert file.absolute_url() == "https://cdn.example.com/uploads/a.jpg"


def test_a_setting_that_turned_wrong_is_named_when_it_is_used(app):
    app.config["STORE_DOMAIN"] = "cdn.example.com"

    with pytest.raises(NotConfiguredError, match="STORE_DOMAIN"):
        StoreFile("a.jpg").absolute_url()


@pytest.mark.parametrize("prefix", ["files", "/files", "/files/", "files/"])
def test_slashes_around_the_url_prefix_do_not_matter(make_app, prefix):
    with make_app(STORE_URL_PREFIX=prefix).app_context():
        assert StoreFile("a.jpg").relative_url() == "/files/a.jpg"


def test_an_empty_url_prefix_is_fine_where_another_server_has_the_files(make_app):
    app = make_app(STORE_URL_PREFIX="", STORE_SERVE=False, STORE_DOMAIN="https://files.example.com")
    with app.app_context():
        assert StoreFile("a.jpg", "photos").absolute_url() == "https://files.example.com/photos/a.jpg"
