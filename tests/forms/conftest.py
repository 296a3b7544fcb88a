"""What the tests of forms share: requests with files in them, and a look into the store."""

from __future__ import annotations

from contextlib import contextmanager
from io import BytesIO

import pytest


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
def stored(root):
    """Return a function that tells the bytes of each file in the store, by its path."""
    return lambda: {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
