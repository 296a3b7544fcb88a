"""The album, a visitor to it, and real photographs to put in."""

from __future__ import annotations

import io
import os
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import s3_servers
import skimage
import slow_proxy
from flask import Flask
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import Client, TestResponse, encode_multipart

from example_app import create_app
from example_app.extensions import db


@pytest.fixture
def photograph(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that gives a photograph that scikit-image ships, under a name of one's own."""

    def copy(source: str, name: str | None = None) -> Path:
        folder = tmp_path / "photographs"
        folder.mkdir(exist_ok=True)
        return Path(shutil.copy(Path(skimage.data_dir, source), folder / (name or source)))

    return copy


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    """The album's instance folder."""
    return tmp_path / "instance"


@dataclass(frozen=True)
class Place:
    """Where the album of a test keeps its photos."""

    #: What ``create_app`` is told.
    configuration: str
    #: Variables of the environment that go with it.
    environment: Mapping[str, str]
    #: Start of the photos' URLs in a page.
    url: str
    #: Tells the paths of all files that are there, also of those that are kept for a form.
    files: Callable[[], list[str]]

    def stored(self) -> list[str]:
        return [path for path in self.files() if not path.startswith(".kept/")]

    def kept(self) -> list[str]:
        return [path for path in self.files() if path.startswith(".kept/")]


@pytest.fixture(params=["local", "moto", pytest.param("ceph", marks=pytest.mark.ceph)])
def kind(request: pytest.FixtureRequest) -> str:
    """What the album runs on: a test that wants one kind alone, or photos in the background, parametrises this."""
    kind: str = request.param
    return kind


@pytest.fixture
def s3(request: pytest.FixtureRequest, kind: str) -> s3_servers.S3Server:
    server: s3_servers.S3Server = request.getfixturevalue("moto" if kind == "background" else kind)
    return server


@pytest.fixture
def proxy(s3: s3_servers.S3Server) -> Iterator[slow_proxy.SlowProxy]:
    """What is between an album that sends its photos in the background and S3."""
    with slow_proxy.in_front_of(s3.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def place(request: pytest.FixtureRequest, kind: str, instance: Path) -> Place:
    if kind == "local":
        return _local_place(instance / "uploads")
    s3, bucket = request.getfixturevalue("s3"), request.getfixturevalue("bucket")
    if kind == "background":
        return _s3_place(s3, bucket, "s3-gevent", request.getfixturevalue("proxy").url)
    return _s3_place(s3, bucket, "s3", s3.endpoint_url)


def _local_place(root: Path) -> Place:
    def files() -> list[str]:
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    return Place("local", {}, "/uploads/", files)


def _s3_place(server: s3_servers.S3Server, bucket: Any, configuration: str, endpoint: str) -> Place:
    environment = {
        "S3_ENDPOINT": endpoint,
        "S3_ACCESS_KEY": server.access_key,
        "S3_SECRET_KEY": server.secret_key,
        "S3_REGION": server.region,
        "S3_BUCKET": bucket.name,
    }
    url = f"{endpoint}/{bucket.name}/"
    return Place(configuration, environment, url, lambda: [found.key for found in bucket.objects.all()])


@pytest.fixture
def stored(place: Place) -> Callable[[], list[str]]:
    """Return a function that tells the paths of all files in the album's store."""
    return place.stored


@pytest.fixture
def kept(place: Place) -> Callable[[], list[str]]:
    """Return a function that tells the paths of the uploads that are kept for forms that failed."""
    return place.kept


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a machine on which nobody has set anything for the album."""
    for name in [name for name in os.environ if name == "SECRET_KEY" or name.startswith("S3_")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def make_album(place: Place, instance: Path, environment: pytest.MonkeyPatch) -> Iterator[Callable[..., Flask]]:
    """Return a function that makes the album, again and again if need be."""
    made = []
    for name, value in place.environment.items():
        environment.setenv(name, value)

    def make(instance: Path = instance) -> Flask:
        app = create_app(place.configuration, instance_path=str(instance))
        app.testing = True
        made.append(app)
        return app

    yield make
    for app in made:
        with app.app_context():
            db.engine.dispose()


@pytest.fixture
def album(make_album: Callable[..., Flask]) -> Flask:
    return make_album()


class Visitor:
    """Opens pages and sends their forms, with the CSRF token that is in them, as a browser does."""

    def __init__(self, client: Client) -> None:
        self.client = client
        # What a proxy of the environment would say is not what is there.
        self.elsewhere = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def open(self, url: str = "/") -> TestResponse:
        return self.client.get(url, follow_redirects=True, buffered=True)

    def fetch(self, url: str) -> bytes:
        """Return what is at a URL, at the album or elsewhere."""
        if url.startswith("/"):
            return self.open(url).data
        with self.elsewhere.open(url, timeout=30) as response:
            content: bytes = response.read()
        return content

    def send(self, url: str, photo: Path | None = None, **fields: str | Path | list[Path]) -> TestResponse:
        return self.send_again(url, self.open(url).text, photo, **fields)

    def send_again(
        self, url: str, page: str, photo: Path | None = None, **fields: str | Path | list[Path]
    ) -> TestResponse:
        """Send the form of a page, with what is hidden in it."""
        inputs = re.findall(r'<input [^>]*type="hidden"[^>]*>', page)
        hidden = [(re.search(r' name="([^"]+)"', tag)[1], re.search(r' value="([^"]+)"', tag)[1]) for tag in inputs]  # type: ignore[index]
        assert any(name == "csrf_token" for name, _ in hidden), f"no form on {url}"
        return self.send_alone(url, photo, hidden, **fields)

    def send_alone(
        self,
        url: str,
        photo: Path | None = None,
        hidden: Iterable[tuple[str, str]] = (),
        **fields: str | Path | list[Path],
    ) -> TestResponse:
        """Send a form without having opened its page."""
        parts = MultiDict[str, str | FileStorage](hidden)
        for name, value in {"photo": photo or [], **fields}.items():
            for one in value if isinstance(value, list) else [value]:
                parts.add(name, FileStorage(io.BytesIO(one.read_bytes()), one.name) if isinstance(one, Path) else one)
        if "photo" not in parts:
            parts.add("photo", FileStorage(io.BytesIO(), ""))
        # Given the fields, the client would keep a large body in a temporary file that it does not close.
        boundary, body = encode_multipart(parts)
        content_type = f"multipart/form-data; boundary={boundary}"
        return self.client.post(url, data=body, content_type=content_type, follow_redirects=True, buffered=True)


@pytest.fixture
def visitor(album: Flask) -> Visitor:
    return Visitor(album.test_client())
