"""The album, a visitor to it, and real photographs to put in."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skimage
from flask import Flask
from werkzeug.datastructures import FileStorage
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


@pytest.fixture
def stored(instance: Path) -> Callable[[], list[str]]:
    """Return a function that tells the paths of all files in the album's store."""

    def paths() -> list[str]:
        root = instance / "uploads"
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    return paths


@pytest.fixture
def album(instance: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    monkeypatch.delenv("SECRET_KEY", raising=False)
    app = create_app(instance_path=str(instance))
    app.testing = True
    yield app
    with app.app_context():
        db.engine.dispose()


class Visitor:
    """Opens pages and sends their forms, with the CSRF token that is in them, as a browser does."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def open(self, url: str = "/") -> TestResponse:
        return self.client.get(url, follow_redirects=True, buffered=True)

    def send(self, url: str, photo: Path | None = None, **fields: str) -> TestResponse:
        token = re.search(r'name="csrf_token" type="hidden" value="([^"]+)"', self.open(url).text)
        assert token is not None, f"no form on {url}"
        return self.send_alone(url, photo, csrf_token=token[1], **fields)

    def send_alone(self, url: str, photo: Path | None = None, **fields: str) -> TestResponse:
        """Send a form without having opened its page."""
        content, name = (photo.read_bytes(), photo.name) if photo else (b"", "")
        # Given the fields, the client would keep a large body in a temporary file that it does not close.
        boundary, body = encode_multipart({**fields, "photo": FileStorage(io.BytesIO(content), name)})
        content_type = f"multipart/form-data; boundary={boundary}"
        return self.client.post(url, data=body, content_type=content_type, follow_redirects=True, buffered=True)


@pytest.fixture
def visitor(album: Flask) -> Visitor:
    return Visitor(album.test_client())
