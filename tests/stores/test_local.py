"""LocalStore keeps the contract of every store."""

from __future__ import annotations

import pytest

from flask_store.stores.local import LocalStore
from flask_store.testing import StoreContract


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, app):
        return LocalStore()


class TestLocalStoreInADestination(StoreContract):
    @pytest.fixture
    def store(self, app):
        return LocalStore(destination="photos/2026")


class TestLocalStoreWithoutUnnamedFiles(StoreContract):
    """As on macOS, NFS and some overlays."""

    @pytest.fixture
    def store(self, app, monkeypatch):
        monkeypatch.setattr("os.O_TMPFILE", 0, raising=False)
        return LocalStore()


class TestLocalStoreWithoutWhatPosixHas(StoreContract):
    """As on Windows: no unnamed files, no bits to change on an open file, no locks, no copies inside the kernel."""

    @pytest.fixture
    def store(self, app, monkeypatch):
        monkeypatch.setattr("os.O_TMPFILE", 0, raising=False)
        monkeypatch.setattr("flask_store.stores.locking.fcntl", None)
        for name in ("fchmod", "copy_file_range", "sendfile"):
            monkeypatch.delattr(f"os.{name}", raising=False)
        return LocalStore()
