"""What the tests share: small applications on a directory of their own."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Browser, sync_playwright
from werkzeug.datastructures import FileStorage

# The installed package is tested, so it comes first; the checkout adds only what is not installed: example_app.
import flask_store  # noqa: F401
from flask_store import Store

# A test of the contract that fails says why, too.
pytest.register_assert_rewrite("flask_store.testing")

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# --no-sandbox lets it run as root, as in a container; a proxy of the environment must not come between.
BROWSER_OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"]

# Playwright's own, which would leave the browser without its viewer of PDF.
LEFT_OUT_OPTIONS = ["--disable-extensions", "--disable-component-extensions-with-background-pages"]

AppFactory = Callable[..., Flask]


@pytest.fixture
def make_app(tmp_path: Path) -> AppFactory:
    """Return a function that makes an application with a store, its instance folder below ``tmp_path``.

    Settings in the environment count, so that the tests can be run with others than the defaults.
    """

    def make(name: str = "app", **config: Any) -> Flask:
        app = Flask(name, instance_path=str(tmp_path / f"{name}-instance"))
        app.config.from_mapping(TESTING=True, SECRET_KEY="test", WTF_CSRF_ENABLED=False)
        app.config.from_prefixed_env()
        app.config.from_mapping(config)
        Store(app)
        return app

    return make


@pytest.fixture
def app(make_app: AppFactory) -> Iterator[Flask]:
    """An application on a LocalStore with default settings, its context pushed."""
    app = make_app()
    with app.app_context():
        yield app


@pytest.fixture
def root(app: Flask) -> Path:
    """The directory of ``app``'s store; it is made by the first save."""
    return Path(app.instance_path) / "uploads"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium or Chrome, without a window."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        reason = f"no browser is installed; looked for {', '.join(BROWSERS)}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=BROWSER_OPTIONS, ignore_default_args=LEFT_OUT_OPTIONS
        )
        yield browser
        browser.close()


@pytest.fixture
def upload() -> Callable[..., FileStorage]:
    """Return a function that makes an upload as a view gets it from ``request.files``."""

    def make(content: bytes = b"content", filename: str = "photo.jpg", **kwargs: Any) -> FileStorage:
        return FileStorage(io.BytesIO(content), filename=filename, **kwargs)

    return make
