"""S3GeventStore: files that arrive in the background."""

from __future__ import annotations

import pytest

from flask_store.stores.s3 import S3GeventStore
from flask_store.testing import StoreContract


@pytest.fixture
def gevent_app(make_app, s3, bucket):
    """An application whose files go to an empty bucket in the background, its context pushed."""
    settings = {**s3.settings(bucket.name), "STORE_PROVIDER": "flask_store.stores.s3.S3GeventStore"}
    app = make_app("gevent", **settings)
    with app.app_context():
        yield app
        S3GeventStore().uploads.wait_until_idle(30)


class TestS3GeventStore(StoreContract):
    @pytest.fixture
    def store(self, gevent_app):
        return S3GeventStore()
