"""Uploads lie where only the store's route serves them, and root works in no directory of somebody else."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flask import Blueprint, Flask
from jinja2 import ChoiceLoader, DictLoader, FileSystemLoader
from werkzeug.datastructures import FileStorage

from flask_store import NotConfiguredError, Store
from flask_store.config import S3GeventSettings
from flask_store.stores import places
from flask_store.stores.spool import Spool

is_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root has this danger")

S3 = {
    "STORE_PROVIDER": "flask_store.stores.s3.S3GeventStore",
    "STORE_S3_ACCESS_KEY": "key",
    "STORE_S3_SECRET_KEY": "secret",
    "STORE_S3_BUCKET": "album",
    "STORE_S3_REGION": "eu-central-1",
}


@pytest.fixture
def make(tmp_path):
    """Return a function that makes an application in ``app``, its instance folder ``instance`` beside it."""

    def make(static_folder="static", store=True, **config):
        (tmp_path / "app").mkdir(exist_ok=True)
        app = Flask(
            "app",
            root_path=str(tmp_path / "app"),
            instance_path=str(tmp_path / "instance"),
            static_folder=static_folder,
        )
        app.config.update(config)
        if store:
            Store(app)
        return app

    return make


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (".", "instance folder"),
        ("", "instance folder"),
        ("..", "contain the application"),
        ("uploads/..", "instance folder"),
        ("../app/static", "static folder of the application"),
        ("../app/static/uploads", "static folder of the application"),
        ("../app/STATIC/uploads", "static folder of the application"),
        ("../app/templates/uploads", "template folder of the application"),
        ("../link-to-static/uploads", "static folder of the application"),
        ("../app", "contain the application"),
    ],
)
@pytest.mark.parametrize("setting", ["STORE_PATH", "STORE_SPOOL_PATH"])
def test_a_forbidden_place_is_refused_and_named(make, tmp_path, setting, path, problem):
    (tmp_path / "link-to-static").symlink_to("app/static")
    others = S3 if setting == "STORE_SPOOL_PATH" else {}
    if path == "":
        path = str(tmp_path / "instance")

    with pytest.raises(NotConfiguredError, match=f"{setting} must not .*{problem}"):
        make(**others, **{setting: path})


@pytest.mark.parametrize("path", ["uploads", "../static/uploads", "../app/statics", "../app/uploads", "../uploads"])
def test_any_other_place_is_fine(make, path):
    assert make(STORE_PATH=path).config["STORE_PATH"] == path


def test_a_static_folder_below_the_instance_folder_may_stand_beside_the_store(make, tmp_path):
    static = str(tmp_path / "instance" / "static")

    assert make(static_folder=static, STORE_PATH="uploads")
    with pytest.raises(NotConfiguredError, match="static folder"):
        make(static_folder=static, STORE_PATH="static/uploads")
    with pytest.raises(NotConfiguredError, match="static folder"):
        make(static_folder=str(tmp_path / "instance" / "uploads" / "static"))


def test_an_application_without_a_static_folder_may_use_its_name(make):
    assert make(static_folder=None, STORE_PATH="../app/static/uploads")


@pytest.mark.parametrize("is_nested", [False, True])
def test_blueprints_are_looked_at_at_the_first_request_too(make, tmp_path, is_nested):
    app = make(STORE_PATH="../shared/uploads")
    blueprint = Blueprint("admin", "admin", root_path=str(tmp_path), static_folder="shared", static_url_path="/shared")
    if is_nested:
        outer = Blueprint("outer", "outer", root_path=str(tmp_path / "app"))
        outer.register_blueprint(blueprint)
        app.register_blueprint(outer)
    else:
        app.register_blueprint(blueprint)
    (tmp_path / "shared" / "uploads").mkdir(parents=True)
    (tmp_path / "shared" / "uploads" / "evil.html").write_text("evil")
    client = app.test_client()

    answers = [client.get("/shared/uploads/evil.html") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [500, 500]
    app.testing = True
    with pytest.raises(NotConfiguredError, match=r"STORE_PATH must not .*blueprint '(outer\.)?admin'"):
        client.get("/")
    result = app.test_cli_runner().invoke(args=["store", "check"])
    assert result.exit_code == 1
    assert "admin" in result.stderr


def test_folders_of_a_loader_of_templates_count(make, tmp_path):
    app = make(store=False, STORE_PATH="../shared/uploads")
    app.jinja_loader = ChoiceLoader([DictLoader({}), FileSystemLoader(tmp_path / "shared")])

    with pytest.raises(NotConfiguredError, match="template folder"):
        Store(app)


def test_looking_leaves_the_template_folder_open_to_change(make, tmp_path):
    app = make()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.html").write_text("other")

    app.template_folder = str(tmp_path / "other")

    assert app.jinja_env.get_template("a.html").render() == "other"


def test_check_finds_links_in_a_static_folder_that_lead_to_uploads(make, tmp_path):
    app = make()
    (tmp_path / "app" / "static").mkdir()
    (tmp_path / "app" / "static" / "uploads").symlink_to("../../instance/uploads")

    result = app.test_cli_runner().invoke(args=["store", "check"])

    assert result.exit_code == 1
    assert "static/uploads" in result.stderr
    assert "STORE_PATH" in result.stderr


@is_root
@pytest.mark.parametrize("command", ["check", "clean"])
@pytest.mark.parametrize("owned", ["instance", "instance/uploads", "instance/uploads/.kept", "."])
def test_root_refuses_a_store_of_somebody_else_and_names_him(make, tmp_path, command, owned):
    app = make()
    (tmp_path / owned).mkdir(parents=True, exist_ok=True)
    os.chown(tmp_path / owned, 65534, 65534)
    before = sorted(tmp_path.rglob("*"))

    result = app.test_cli_runner().invoke(args=["store", command])

    assert result.exit_code == 1
    assert f"sudo -u nobody flask store {command}" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@is_root
@pytest.mark.parametrize("command", ["check", "pending", "resume", "clean"])
def test_root_refuses_a_spool_of_somebody_else_and_changes_nothing_in_it(make, tmp_path, command):
    app = make(**S3)
    spool = Spool(tmp_path / "instance" / "spool", ("", "album", ""), fsync=False)
    entry, _ = spool.add(io.BytesIO(b"content"), "a.txt")
    spool.leave()
    canary = tmp_path / "canary"
    canary.write_bytes(b"root's own")
    (entry.directory / "record.json.new").symlink_to(canary)
    os.chown(spool.root, 65534, 65534)

    result = app.test_cli_runner().invoke(args=["store", command])

    assert result.exit_code == 1
    assert f"sudo -u nobody flask store {command}" in result.stderr
    assert S3GeventSettings.spool_path.key in result.stderr
    assert (canary.read_bytes(), canary.stat().st_uid) == (b"root's own", 0)


@is_root
@pytest.mark.parametrize(("mode", "is_refused"), [(0o755, False), (0o775, True), (0o777, True), (0o1777, True)])
def test_root_refuses_a_directory_that_others_can_write_to(tmp_path, mode, is_refused):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(mode)

    def look():
        places.check_owner({"STORE_PATH": tmp_path / "shared" / "uploads"}, "flask store check")

    if is_refused:
        with pytest.raises(NotConfiguredError, match="shared can be written by others"):
            look()
    else:
        look()
    (tmp_path / "shared" / "uploads").mkdir(exist_ok=True)
    if mode & 0o1000:
        look()  # what is there already cannot be replaced by others


@is_root
def test_root_refuses_a_way_through_a_link_of_somebody_else(tmp_path):
    (tmp_path / "uploads").mkdir()
    (tmp_path / "link").symlink_to("uploads")
    places.check_owner({"STORE_PATH": tmp_path / "link"}, "flask store check")
    os.chown(tmp_path / "link", 65534, 65534, follow_symlinks=False)

    with pytest.raises(NotConfiguredError, match="link belongs to nobody"):
        places.check_owner({"STORE_PATH": tmp_path / "link"}, "flask store check")


CHECK_AS = """
import os, pdb, sys  # pdb: click loads it late, and somebody else may not be able to read it
from flask import Flask
from flask_store import Store
app = Flask("app", instance_path=sys.argv[1])
Store(app)
app.test_cli_runner().invoke(args=["--help"])
os.setgid(65534), os.setuid(65534)
result = app.test_cli_runner().invoke(args=["store", "check"])
sys.exit(result.exit_code)
"""


@is_root
def test_the_user_himself_may(tmp_path):
    place = Path("/tmp", f"flask-store-{os.getpid()}")  # others may not enter pytest's own directory
    place.mkdir()
    try:
        os.chown(place, 65534, 65534)
        result = subprocess.run([sys.executable, "-c", CHECK_AS, place / "instance"], capture_output=True, cwd="/")
        made = [path.lstat().st_uid for path in place.rglob("*")]
    finally:
        subprocess.run(["rm", "-r", place], check=True)

    assert (result.returncode, result.stderr) == (0, b"")
    assert set(made) == {65534}


def test_a_file_in_the_way_of_a_destination_is_named(store, root):
    store.save(FileStorage(io.BytesIO(b"first"), "v1.0"))

    for use in (
        lambda: store.at("v1.0").save(FileStorage(io.BytesIO(b"x"), "a.txt")),
        lambda: store.at("v1.0/b").promote(store.keep(FileStorage(io.BytesIO(b"x"), "a.txt")), "a.txt"),
    ):
        with pytest.raises(Exception, match=str(root / "v1.0")) as caught:
            use()
        assert type(caught.value).__name__ == "ServiceError"


@pytest.mark.parametrize("verb", ["keep", "clean"])
def test_a_file_in_the_way_of_kept_uploads_is_named(store, root, verb):
    root.mkdir(parents=True)
    (root / ".kept").write_bytes(b"")

    with pytest.raises(Exception, match=r"\.kept") as caught:
        store.keep(FileStorage(io.BytesIO(b"x"), "a.txt")) if verb == "keep" else store.clean(0)

    assert type(caught.value).__name__ == "ServiceError"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_in_the_way_of_staged_files_is_named(store, root, monkeypatch, kind, tmp_path):
    monkeypatch.setattr("os.O_TMPFILE", 0, raising=False)
    root.mkdir(parents=True)
    (tmp_path / "canaries").mkdir()
    (tmp_path / "canaries" / "old").write_bytes(b"")
    os.utime(tmp_path / "canaries" / "old", (0, 0))
    if kind == "file":
        (root / ".staged").write_bytes(b"")
    else:
        (root / ".staged").symlink_to(tmp_path / "canaries")

    with pytest.raises(Exception, match=r"\.staged") as caught:
        store.save(FileStorage(io.BytesIO(b"x"), "a.txt"))

    assert type(caught.value).__name__ == "ServiceError"
    assert (tmp_path / "canaries" / "old").exists()


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_file_without_an_extension_stands_in_no_destinations_way(store, is_kept):
    upload = FileStorage(io.BytesIO(b"x"), "photos")
    saved = store.promote(store.keep(upload), "photos") if is_kept else store.save(upload)

    assert len(saved.filename) == len("photos_") + 14
    assert store.at("photos").save(FileStorage(io.BytesIO(b"y"), "a.txt")).exists()


@is_root
def test_a_link_in_place_of_a_kept_upload_is_not_followed(store, root, tmp_path):
    canary = tmp_path / "canary"
    canary.write_bytes(b"root's own")
    canary.chmod(0o600)
    id = store.keep(FileStorage(io.BytesIO(b"x"), "a.txt"))
    (root / ".kept" / id).unlink()
    (root / ".kept" / id).symlink_to(canary)

    for use in (store.open_kept, lambda id: store.promote(id, "a.txt")):
        with pytest.raises(FileNotFoundError):
            use(id)

    assert canary.stat().st_mode & 0o777 == 0o600
    assert list(store.list()) == []
    assert store.clean(0) == 1
    assert canary.exists()
