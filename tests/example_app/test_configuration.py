"""Making the album: its configurations, its instance folder, its secret key."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from example_app import create_app
from example_app.extensions import db
from example_app.models import Picture
from flask_store import NotConfiguredError, Provider, StoreFile
from flask_store.config import S3Settings
from flask_store.stores.s3 import S3GeventStore, S3Store

ROOT = Path(__file__).parent.parent.parent

WORKER = """
import sys

import flask_store

sys.path.append(sys.argv[1])

from example_app import create_app

print("ready", flush=True)
sys.stdin.readline()
app = create_app(sys.argv[2], instance_path=sys.argv[3])
print(app.test_client().get("/").status_code, app.secret_key)
"""


on_disk = pytest.mark.parametrize("kind", ["local"], indirect=True)

S3_VARIABLES = {
    "S3_ACCESS_KEY": "the-access-key",
    "S3_SECRET_KEY": "the-secret-key",
    "S3_REGION": "eu-central-1",
    "S3_BUCKET": "the-bucket",
}


@pytest.mark.parametrize("known", ["local", "s3", "s3-gevent", "s3-demo"])
def test_an_unknown_configuration_is_refused_and_the_known_ones_are_named(known, instance):
    with pytest.raises(ValueError, match=f"'cloud'.*: .*\\b{known}\\b"):
        create_app("cloud", instance_path=str(instance))

    assert not instance.exists()


def test_everything_but_photos_at_s3_is_kept_in_the_instance_folder(visitor, photograph, instance, kind):
    visitor.send("/add", photograph("coffee.png"), title="Coffee")

    files = {path.relative_to(instance).as_posix() for path in instance.rglob("*") if path.is_file()}
    on_disk = {"album.sqlite", "uploads/photos/coffee.png"} if kind == "local" else {"album-s3.sqlite"}
    assert files == {"secret_key"} | on_disk


def test_the_album_is_still_there_when_the_application_is_made_again(visitor, photograph, make_album):
    visitor.send("/add", photograph("coffee.png"), title="Morning coffee")

    again = make_album()

    assert "Morning coffee" in again.test_client().get("/").text


@on_disk
def test_a_secret_key_is_made_once_and_only_its_owner_can_read_it(make_album, instance):
    album, again = make_album(), make_album()

    assert len(album.secret_key) >= 64
    assert again.secret_key == album.secret_key
    assert stat.S_IMODE((instance / "secret_key").stat().st_mode) == 0o600


@on_disk
def test_two_albums_have_two_secret_keys(make_album, tmp_path):
    assert make_album(tmp_path / "one").secret_key != make_album(tmp_path / "two").secret_key


@on_disk
def test_the_environment_has_the_last_word_on_the_secret_key(make_album, instance, environment):
    environment.setenv("SECRET_KEY", "from the environment")

    assert make_album().secret_key == "from the environment"
    assert not (instance / "secret_key").exists()


def test_workers_that_start_at_once_share_one_album_and_one_secret_key(place, instance, tmp_path, environment):
    command = [sys.executable, "-c", WORKER, str(ROOT), place.configuration, str(instance)]
    workers = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, **place.environment},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
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


@pytest.mark.parametrize("configuration", ["s3", "s3-gevent"], scope="class")
class TestS3:
    @pytest.fixture
    def variables(self, environment):
        for name, value in S3_VARIABLES.items():
            environment.setenv(name, value)
        return environment

    @pytest.fixture
    def make(self, instance, configuration):
        """Return a function that makes the album on the S3 that the environment names."""
        made = []

        def make():
            made.append(create_app(configuration, instance_path=str(instance)))
            return made[-1]

        yield make
        for app in made:
            with app.app_context():
                db.engine.dispose()

    def test_all_variables_that_are_missing_are_named_at_once_and_nothing_is_made(
        self, variables, make, instance, configuration
    ):
        for name in ("S3_SECRET_KEY", "S3_BUCKET"):
            variables.delenv(name)

        with pytest.raises(NotConfiguredError) as caught:
            make()

        message = str(caught.value)
        assert [name for name in S3_VARIABLES if name in message] == ["S3_SECRET_KEY", "S3_BUCKET"]
        assert f"the configuration {configuration!r}" in message
        assert S3_VARIABLES["S3_ACCESS_KEY"] not in message
        assert not instance.exists()

    @pytest.mark.parametrize("name", S3_VARIABLES)
    def test_an_empty_variable_is_missing_too(self, name, variables, make):
        variables.setenv(name, "")

        with pytest.raises(NotConfiguredError, match=f": {name}$"):
            make()

    def test_a_variable_that_is_wrong_is_refused_at_start(self, variables, make):
        variables.setenv("S3_ENDPOINT", "s3.example.com")

        with pytest.raises(NotConfiguredError, match="STORE_S3_ENDPOINT_URL"):
            make()

    def test_the_variables_are_the_settings_of_the_store(self, variables, make):
        variables.setenv("S3_ENDPOINT", "https://s3.example.com")

        settings = S3Settings(make())

        assert settings.endpoint_url == "https://s3.example.com"
        assert settings.access_key == "the-access-key"
        assert settings.secret_key == "the-secret-key"
        assert settings.region == "eu-central-1"
        assert settings.bucket == "the-bucket"

    @pytest.mark.parametrize("endpoint", [None, ""], ids=["not set", "empty"])
    def test_without_an_endpoint_it_is_amazons(self, endpoint, variables, make):
        if endpoint is not None:
            variables.setenv("S3_ENDPOINT", endpoint)

        with make().app_context():
            url = StoreFile("coffee.png", "photos").absolute_url()

        assert url.startswith("https://the-bucket.s3.eu-central-1.amazonaws.com/photos/coffee.png?")

    def test_no_request_is_made_at_start(self, variables, make):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            variables.setenv("S3_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")

            assert make().test_client().get("/").status_code == 200
            with pytest.raises(BlockingIOError):
                listener.accept()

    def test_the_rows_of_a_local_album_are_not_shown(self, variables, make, instance):
        local = create_app(instance_path=str(instance))
        with local.app_context():
            db.session.add(Picture(title="On disk", photo=StoreFile("a.png", "photos"), filename="a.png", size=1))
            db.session.commit()
            db.engine.dispose()

        assert "No photos yet" in make().test_client().get("/").text

    def test_the_rows_of_the_other_album_on_s3_are_not_shown(self, variables, make, instance, configuration):
        other = create_app({"s3": "s3-gevent", "s3-gevent": "s3"}[configuration], instance_path=str(instance))
        with other.app_context():
            db.session.add(Picture(title="Elsewhere", photo=StoreFile("a.png", "photos"), filename="a.png", size=1))
            db.session.commit()
            db.engine.dispose()

        assert "No photos yet" in make().test_client().get("/").text


@pytest.mark.parametrize(("configuration", "provider"), [("s3", S3Store), ("s3-gevent", S3GeventStore)])
def test_each_configuration_on_s3_has_a_store_of_its_kind(configuration, provider, environment, instance):
    for name, value in S3_VARIABLES.items():
        environment.setenv(name, value)

    app = create_app(configuration, instance_path=str(instance))

    with app.app_context():
        db.engine.dispose()
        assert type(Provider()) is provider


def test_an_album_that_nobody_uses_yet_makes_no_spool(environment, instance):
    for name, value in S3_VARIABLES.items():
        environment.setenv(name, value)

    app = create_app("s3-gevent", instance_path=str(instance))

    with app.app_context():
        db.engine.dispose()
    assert sorted(path.name for path in instance.iterdir()) == ["album-s3-gevent.sqlite", "secret_key"]
