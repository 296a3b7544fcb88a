"""What the tests of forms share: requests with files in them, and a look into the store."""

from __future__ import annotations

from contextlib import contextmanager
from io import BytesIO

import pytest

KINDS = ["local", "moto"]
CEPH = pytest.param("ceph", marks=pytest.mark.ceph)


def pytest_generate_tests(metafunc):
    """Run each test that looks at what is stored on several kinds of store, unless it also looks at the directory."""
    if "stored" in metafunc.fixturenames and "root" not in metafunc.fixturenames:
        # What does not depend on how a file is stored does not depend on which S3 it is.
        is_about_storing = metafunc.definition.path.name == "test_saving.py"
        metafunc.parametrize("kind", [*KINDS, CEPH] if is_about_storing else KINDS, indirect=True)


@pytest.fixture
def kind(request):
    """What ``app`` runs on."""
    return getattr(request, "param", "local")


@pytest.fixture
def s3(request, kind):
    return request.getfixturevalue(kind)


@pytest.fixture
def app(request, kind):
    """An application on an empty store, its context pushed."""
    if kind != "local":
        return request.getfixturevalue("s3_app")
    app = request.getfixturevalue("make_app")()
    context = app.app_context()
    context.push()
    request.addfinalizer(context.pop)
    return app


@pytest.fixture
def post(app):
    """Return a function that opens a POST request; a pair of bytes and filename in its data is a file."""

    def part(value):
        if isinstance(value, list):
            return [part(one) for one in value]
        return (BytesIO(value[0]), value[1]) if isinstance(value, tuple) else value

    @contextmanager
    def post(data, **kwargs):
        data = {key: part(data[key]) for key in data}
        with app.test_request_context(method="POST", data=data, **kwargs) as context:
            yield
            context.request.environ["wsgi.input"].close()

    return post


@pytest.fixture
def stored(request, app, kind):
    """Return a function that tells the bytes of each file in the store, by its path."""
    if kind != "local":
        bucket = request.getfixturevalue("bucket")
        return lambda: {found.key: found.get()["Body"].read() for found in bucket.objects.all()}
    root = request.getfixturevalue("root")
    return lambda: {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
