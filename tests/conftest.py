"""What the tests share: small applications on a directory of their own."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import boto3.session
import botocore.loaders
import faulty_proxy
import postgresql
import pytest
import s3_servers
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

# Directories whose tests start servers and browsers of their own.
SLOW_DIRECTORIES = {Path(__file__).parent / "server", Path(__file__).parent / "example_app"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need a browser, a Ceph or servers of their own as slow."""
    for item in items:
        needs_much = item.get_closest_marker("browser") or item.get_closest_marker("ceph")
        if needs_much or item.path.parent in SLOW_DIRECTORIES:
            item.add_marker(pytest.mark.slow)


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


@pytest.fixture(autouse=True)
def no_upload_outlives_its_test() -> Iterator[None]:
    """Delete the spools of a test, which ends the uploads that its applications would try for ever.

    Python 3.11 may fail to make an application while another thread formats the traceback of such a try.
    """
    yield
    background = sys.modules.get("flask_store.stores.background")
    for uploads in list(background._all) if background else ():
        shutil.rmtree(uploads.spool.root, ignore_errors=True)


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


def cannot_run(reason: str) -> NoReturn:
    """Skip a test for what this machine lacks; where everything must be there, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def moto() -> Iterator[s3_servers.S3Server]:
    with s3_servers.moto() as server:
        yield server


@pytest.fixture(scope="session")
def ceph() -> Iterator[s3_servers.S3Server]:
    if missing := s3_servers.missing_ceph_programs():
        cannot_run(f"Ceph is not installed: no {', '.join(missing)}")
    # Its sockets have paths of limited length.
    with tempfile.TemporaryDirectory(prefix="ceph") as directory, s3_servers.ceph(Path(directory)) as server:
        yield server


@pytest.fixture(scope="session")
def moto_like_go(moto: s3_servers.S3Server) -> Iterator[s3_servers.S3Server]:
    """Moto with names of headers as MinIO and other programs in Go write them."""
    with faulty_proxy.before(moto.endpoint_url, writes_names_as_go=True) as proxy:
        yield dataclasses.replace(moto, name="moto_like_go", endpoint_url=proxy.url)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[tuple[str, int]]:
    """The address of a PostgreSQL server."""
    if missing := postgresql.missing_programs():
        cannot_run(f"PostgreSQL is not installed: no {', '.join(missing)}")
    # Where the tests run as root the server runs as another user, who may not enter a private TMPDIR.
    place = "/tmp" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="postgresql", dir=place) as directory:
        with postgresql.server(Path(directory)) as address:
            yield address


@pytest.fixture(params=["moto", pytest.param("ceph", marks=pytest.mark.ceph)])
def s3(request: pytest.FixtureRequest) -> s3_servers.S3Server:
    """An S3 server: the test runs on each."""
    server: s3_servers.S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session", autouse=True)
def shared_descriptions() -> Iterator[None]:
    """Have boto3 read its long descriptions of services once: each application's client would read them anew."""
    loader = botocore.loaders.create_loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", lambda *_: loader)
        yield


@pytest.fixture(scope="session")
def s3_session(shared_descriptions: None) -> boto3.session.Session:
    """What makes the boto3 clients that look at what the package under test has done."""
    return boto3.session.Session()


@pytest.fixture(scope="session")
def s3_resource(s3_session: boto3.session.Session) -> Callable[[s3_servers.S3Server], Any]:
    """Return a function that gives a server's boto3 resource, the same one each time."""
    return functools.cache(lambda server: server.resource(s3_session))


@pytest.fixture
def bucket(s3: s3_servers.S3Server, s3_resource: Callable[[s3_servers.S3Server], Any]) -> Iterator[Any]:
    """An empty bucket, as a boto3 resource. It ends with its server; only its objects, which take memory, go before."""
    bucket = s3_resource(s3).create_bucket(Bucket=f"test-{uuid.uuid4()}")
    yield bucket
    bucket.objects.all().delete()


@pytest.fixture
def s3_app(make_app: AppFactory, s3: s3_servers.S3Server, bucket: Any) -> Iterator[Flask]:
    """An application on an S3Store with an empty bucket, its context pushed."""
    app = make_app("s3", **s3.settings(bucket.name))
    with app.app_context():
        yield app


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium or Chrome, without a window."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        cannot_run(f"no browser is installed; looked for {', '.join(BROWSERS)}")
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
