"""``flask store check``."""

from __future__ import annotations

import pytest
from flask import Request

from flask_store.stores import BaseStore
from flask_store.stores.local import LocalStore


@pytest.fixture
def check(make_app):
    def run(change=None, **config):
        app = make_app(**config)
        app.config.update(change or {})
        return app.test_cli_runner().invoke(args=["store", "check"])

    return run


def test_a_good_store_is_shown_and_left_as_it_was(check, tmp_path):
    result = check(STORE_FILE_MODE=0o640)

    assert result.exit_code == 0
    assert "STORE_PATH = 'uploads'" in result.output
    assert "STORE_FILE_MODE = 0o640" in result.output
    assert "Store: flask_store.stores.local.LocalStore" in result.output
    assert "Route: /uploads/<path:filename>" in result.output
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_secrets_are_masked(check):
    result = check(STORE_S3_ACCESS_KEY="AKIAEXAMPLE", STORE_S3_SECRET_KEY="very-secret")

    assert result.exit_code == 0
    assert "STORE_S3_SECRET_KEY = ********" in result.output
    assert "very-secret" not in result.output
    assert "AKIAEXAMPLE" not in result.output


def test_no_route_is_said(check):
    assert "Route: none" in check(STORE_SERVE=False).output


def test_it_says_how_often_a_large_upload_is_written(check, make_app, monkeypatch):
    assert "Large uploads: written once, where they stay" in check().output
    assert "Large uploads: written twice: STORE_RECEIVE is off" in check(STORE_RECEIVE=False).output

    app = make_app()
    app.request_class = Request
    output = app.test_cli_runner().invoke(args=["store", "check"]).output
    assert "Large uploads: written twice: app.request_class was set after init_app" in output

    monkeypatch.setattr(LocalStore, "receive", BaseStore.receive)
    assert "Large uploads: written to a temporary file" in check().output


def test_a_store_that_cannot_be_written_fails(check, tmp_path):
    (tmp_path / "file").write_bytes(b"")

    result = check(STORE_PATH=str(tmp_path / "file" / "uploads"))

    assert result.exit_code == 1
    assert "could not store" in result.stderr


def test_a_setting_that_turned_wrong_fails_and_is_named(check):
    result = check(change={"STORE_DOMAIN": "files.example.com"})

    assert result.exit_code == 1
    assert "STORE_DOMAIN" in result.stderr
