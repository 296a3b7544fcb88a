"""``flask store check`` and ``flask store clean``; the commands of the background store are in ``tests/stores``."""

from __future__ import annotations

import subprocess
import sys
import time
from io import BytesIO

import pytest
from flask import Request

from flask_store import ServiceError, StoreFile
from flask_store.stores import BaseStore, kept
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
    assert f"Place: {tmp_path}" in result.output
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


@pytest.mark.receiving
def test_it_says_how_often_a_large_upload_is_written(check, make_app, monkeypatch):
    assert "Large uploads: written once, where they stay" in check().output
    assert "Large uploads: written twice: STORE_RECEIVE is off" in check(STORE_RECEIVE=False).output

    class Special(make_app().request_class):
        def _get_file_stream(self, *arguments, **options):
            return BytesIO()

    app = make_app()
    app.request_class = Special
    output = app.test_cli_runner().invoke(args=["store", "check"]).output
    assert "Large uploads: written where app.request_class says" in output

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


@pytest.mark.parametrize(
    ("setting", "named"),
    [('STORE_DOMAIN="files.example.com"', "STORE_DOMAIN"), ('STORE_PROVIDER="nowhere.Store"', "nowhere")],
)
def test_an_application_that_cannot_be_set_up_says_what_is_wrong(tmp_path, setting, named):
    (tmp_path / "broken.py").write_text(
        "from flask import Flask\n"
        "from flask_store import Store\n"
        "def create_app():\n"
        "    app = Flask(__name__)\n"
        f"    app.config.update({setting})\n"
        "    Store(app)\n"
    )
    command = [sys.executable, "-m", "flask", "--app", "broken", "store", "check"]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert result.returncode == 1
    assert result.stderr.startswith("Wrong: ")
    assert named in result.stderr
    assert "Traceback" not in result.stderr


def test_an_application_without_a_store_says_so(tmp_path):
    (tmp_path / "bare.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    command = [sys.executable, "-m", "flask", "--app", "bare", "store", "check"]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert result.returncode == 1
    assert result.stderr == "Wrong: the application has no store: call Store(app) or Store().init_app(app)\n"


def test_a_setting_that_turned_wrong_fails_and_is_named(check):
    result = check(change={"STORE_DOMAIN": "files.example.com"})

    assert result.exit_code == 1
    assert "STORE_DOMAIN" in result.stderr


class Overwriting(LocalStore):
    """Has one file only, the last."""

    def save(self, file):
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "last.txt").write_bytes(file.read())
        return StoreFile.of(self, "last.txt")


def test_a_store_that_replaces_files_is_told(check, tmp_path):
    result = check(STORE_PROVIDER=f"{__name__}.Overwriting")

    assert result.exit_code == 1
    assert "replaced the first" in result.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class Forgetful(LocalStore):
    """Keeps nothing of what is in a file."""

    def save(self, file):
        file.stream = BytesIO()
        return super().save(file)


def test_a_store_that_loses_bytes_is_told(check, tmp_path):
    result = check(STORE_PROVIDER=f"{__name__}.Forgetful")

    assert result.exit_code == 1
    assert "does not have the bytes that were saved" in result.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class SavesOnce(LocalStore):
    """Has room for one file."""

    def save(self, file):
        if list(self.list()):
            raise ServiceError("there is no more room")
        return super().save(file)


def test_nothing_stays_of_a_check_that_fails_half_way(check, tmp_path):
    result = check(STORE_PROVIDER=f"{__name__}.SavesOnce")

    assert result.exit_code == 1
    assert "there is no more room" in result.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", ["local", "moto"])
class TestClean:
    @pytest.fixture
    def s3(self, moto):
        return moto

    @pytest.fixture
    def app(self, make_app, kind, request):
        if kind == "local":
            app = make_app()
        else:
            app = make_app(**request.getfixturevalue("s3").settings(request.getfixturevalue("bucket").name))
        with app.app_context():
            yield app

    @pytest.fixture
    def keep(self, app, upload, monkeypatch):
        """Return a function that keeps an upload as some seconds ago."""
        store, make_id = app.extensions["store"].provider(), kept.make_id

        def keep_upload(age):
            with monkeypatch.context() as patch:
                patch.setattr(kept, "make_id", lambda: f"{int(time.time()) - age:010x}{make_id()[10:]}")
                return store.keep(upload())

        return keep_upload

    @staticmethod
    def is_kept(app, id):
        try:
            app.extensions["store"].provider().open_kept(id).close()
        except FileNotFoundError:
            return False
        return True

    @staticmethod
    def clean(app):
        return app.test_cli_runner().invoke(args=["store", "clean"])

    def test_deletes_what_nobody_came_back_for_and_says_how_much(self, app, keep):
        ids = [keep(age) for age in (5000, 4000, 3000, 0)]

        result = self.clean(app)

        assert (result.exit_code, result.output) == (0, "deleted: 2\n")
        assert [self.is_kept(app, id) for id in ids] == [False, False, True, True]
        assert self.clean(app).output == "deleted: 0\n"

    def test_deletes_more_than_a_request_does(self, app, keep):
        for _ in range(25):
            keep(5000)

        assert self.clean(app).output == "deleted: 25\n"

    def test_follows_the_setting(self, app, keep):
        app.config["STORE_KEEP_UPLOADS"] = 100
        ids = [keep(age) for age in (200, 50)]

        assert self.clean(app).output == "deleted: 1\n"
        assert [self.is_kept(app, id) for id in ids] == [False, True]

    def test_deletes_everything_where_nothing_is_kept_any_more(self, app, keep):
        id = keep(0)
        app.config["STORE_KEEP_UPLOADS"] = 0

        assert self.clean(app).output == "deleted: 1\n"
        assert not self.is_kept(app, id)

    def test_leaves_stored_files_alone(self, app, keep, upload):
        saved = app.extensions["store"].provider("photos").save(upload())
        keep(5000)

        assert self.clean(app).exit_code == 0
        assert saved.exists()


def test_clean_of_a_store_that_was_never_used_is_fine(make_app):
    result = make_app().test_cli_runner().invoke(args=["store", "clean"])

    assert (result.exit_code, result.output) == (0, "deleted: 0\n")


class Plain(LocalStore):
    """Keeps nothing."""

    clean = BaseStore.clean


class Stuck(LocalStore):
    def clean(self, age, limit=None):
        raise ServiceError("the disk is gone")


@pytest.mark.parametrize(("provider", "problem"), [(Plain, "does not implement clean"), (Stuck, "the disk is gone")])
def test_clean_of_a_store_that_cannot_fails_and_says_why(make_app, provider, problem):
    app = make_app(STORE_PROVIDER=f"{__name__}.{provider.__name__}")

    result = app.test_cli_runner().invoke(args=["store", "clean"])

    assert result.exit_code == 1
    assert result.stderr.startswith("Wrong: ")
    assert problem in result.stderr


def test_clean_of_an_application_without_a_store_says_so(tmp_path):
    (tmp_path / "bare.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    command = [sys.executable, "-m", "flask", "--app", "bare", "store", "clean"]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert result.returncode == 1
    assert result.stderr == "Wrong: the application has no store: call Store(app) or Store().init_app(app)\n"
