"""Making the album: its configurations, its instance folder, its secret key."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from example_app import create_app
from example_app.extensions import db

ROOT = Path(__file__).parent.parent.parent

WORKER = """
import sys

import flask_store

sys.path.append(sys.argv[1])

from example_app import create_app

print("ready", flush=True)
sys.stdin.readline()
app = create_app(instance_path=sys.argv[2])
print(app.test_client().get("/").status_code, app.secret_key)
"""


def dispose(app):
    with app.app_context():
        db.engine.dispose()


def test_an_unknown_configuration_is_refused_and_the_known_ones_are_named(instance):
    with pytest.raises(ValueError, match="'cloud'.*local"):
        create_app("cloud", instance_path=str(instance))

    assert not instance.exists()


def test_everything_is_kept_in_the_instance_folder(visitor, photograph, instance):
    visitor.send("/add", photograph("coffee.png"), title="Coffee")

    files = {path.relative_to(instance).as_posix() for path in instance.rglob("*") if path.is_file()}
    assert files == {"album.sqlite", "secret_key", "uploads/photos/coffee.png"}


def test_the_album_is_still_there_when_the_application_is_made_again(visitor, photograph, instance):
    visitor.send("/add", photograph("coffee.png"), title="Morning coffee")

    again = create_app(instance_path=str(instance))

    assert "Morning coffee" in again.test_client().get("/").text
    dispose(again)


def test_a_secret_key_is_made_once_and_only_its_owner_can_read_it(album, instance):
    again = create_app(instance_path=str(instance))

    assert len(album.secret_key) >= 64
    assert again.secret_key == album.secret_key
    assert stat.S_IMODE((instance / "secret_key").stat().st_mode) == 0o600
    dispose(again)


def test_two_albums_have_two_secret_keys(album, tmp_path):
    other = create_app(instance_path=str(tmp_path / "other"))

    assert other.secret_key != album.secret_key
    dispose(other)


def test_the_environment_has_the_last_word_on_the_secret_key(instance, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "from the environment")

    app = create_app(instance_path=str(instance))

    assert app.secret_key == "from the environment"
    assert not (instance / "secret_key").exists()
    dispose(app)


def test_workers_that_start_at_once_share_one_album_and_one_secret_key(instance, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "SECRET_KEY"}
    command = [sys.executable, "-c", WORKER, str(ROOT), str(instance)]
    workers = [
        subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"

    for worker in workers:
        worker.stdin.write("start\n")
        worker.stdin.flush()
    answers = [worker.communicate(timeout=60)[0] for worker in workers]

    assert [worker.returncode for worker in workers] == [0] * 4
    assert answers == [f"200 {(instance / 'secret_key').read_text()}\n"] * 4
