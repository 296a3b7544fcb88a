"""S3Store: the contract of all stores."""

from __future__ import annotations

import pytest

from flask_store.stores.s3 import S3Store
from flask_store.testing import StoreContract


class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, s3_app):
        return S3Store()


class TestS3StoreBelowAPrefix(StoreContract):
    @pytest.fixture
    def store(self, make_app, s3, bucket):
        app = make_app(**s3.settings(bucket.name), STORE_PATH="media/uploads")
        with app.app_context():
            yield S3Store(destination="contract")
