"""Ways to save files to S3, each run in a process of its own by ``s3.py``, which gives orders line by line."""

from __future__ import annotations

import functools
import io
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any

from measure import forget_peak, peak_memory

PHOTOS = 100


class Target:
    """One way to save files; the constructor does what an application does when it starts."""

    #: What must be installed for it.
    package = ""

    def __init__(self, where: dict[str, str]) -> None:
        raise NotImplementedError

    def upload(self, stream: IO[bytes], name: str) -> Any:
        """Return a stream as the framework gives it to a view."""
        from werkzeug.datastructures import FileStorage

        return FileStorage(stream, name, content_type="image/jpeg")

    def save(self, upload: Any) -> str:
        """Save an upload and return what a database would keep of it."""
        raise NotImplementedError

    def exists(self, saved: str) -> bool:
        raise NotImplementedError

    def url(self, saved: str) -> str:
        raise NotImplementedError


class FlaskStore(Target):
    package = "flask_store"

    def __init__(self, where: dict[str, str]) -> None:
        from flask import Flask

        from flask_store import Store
        from flask_store.files import StoreFile

        app = Flask(__name__)
        app.config.update(
            STORE_PROVIDER="flask_store.stores.s3.S3Store",
            STORE_S3_ENDPOINT_URL=where["endpoint"],
            STORE_S3_ACCESS_KEY=where["access_key"],
            STORE_S3_SECRET_KEY=where["secret_key"],
            STORE_S3_REGION=where["region"],
            STORE_S3_BUCKET=where["bucket"],
        )
        self.store = Store(app)
        self.file = StoreFile.from_path
        app.app_context().push()

    def save(self, upload: Any) -> str:
        return str(self.store.Provider().save(upload))

    def exists(self, saved: str) -> bool:
        return self.file(saved).exists()

    def url(self, saved: str) -> str:
        return self.file(saved).absolute_url()


class Filedepot(Target):
    """It looks for no other file: each has a UUID for its name."""

    package = "depot"

    def __init__(self, where: dict[str, str]) -> None:
        from depot.manager import DepotManager

        options = {
            "depot.backend": "depot.io.boto3.S3Storage",
            "depot.access_key_id": where["access_key"],
            "depot.secret_access_key": where["secret_key"],
            "depot.bucket": where["bucket"],
            "depot.region_name": where["region"],
            "depot.endpoint_url": where["endpoint"],
            "depot.policy": "private",
        }
        self.depot = DepotManager.configure("default", options)

    def save(self, upload: Any) -> str:
        return str(self.depot.create(upload))

    def exists(self, saved: str) -> bool:
        return bool(self.depot.exists(saved))

    def url(self, saved: str) -> str:
        return str(self.depot.get(saved).public_url)


class DjangoStorages(Target):
    """It overwrites, by default."""

    package = "storages"
    options: dict[str, Any] = {}

    def __init__(self, where: dict[str, str]) -> None:
        from django.conf import settings

        settings.configure()
        from storages.backends.s3 import S3Storage

        self.storage = S3Storage(
            access_key=where["access_key"],
            secret_key=where["secret_key"],
            bucket_name=where["bucket"],
            region_name=where["region"],
            endpoint_url=where["endpoint"],
            **self.options,
        )

    def upload(self, stream: IO[bytes], name: str) -> Any:
        from django.core.files.base import File

        return File(stream, name)

    def save(self, upload: Any) -> str:
        return str(self.storage.save(upload.name, upload))

    def exists(self, saved: str) -> bool:
        return bool(self.storage.exists(saved))

    def url(self, saved: str) -> str:
        return str(self.storage.url(saved))


class DjangoStoragesCareful(DjangoStorages):
    options = {"file_overwrite": False}


class FlaskStorage(Target):
    package = "flask_storage"

    def __init__(self, where: dict[str, str]) -> None:
        import flask_storage
        from flask import Flask

        app = Flask(__name__)
        app.config.update(
            FS_BACKEND="s3",
            FS_S3_ENDPOINT=where["endpoint"],
            FS_S3_REGION=where["region"],
            FS_S3_ACCESS_KEY=where["access_key"],
            FS_S3_SECRET_KEY=where["secret_key"],
            FS_S3_BUCKET_NAME=where["bucket"],
        )
        self.storage = flask_storage.Storage("photos", flask_storage.IMAGES)
        flask_storage.init_app(app, self.storage)
        app.test_request_context().push()

    def save(self, upload: Any) -> str:
        return str(self.storage.save(upload))

    def exists(self, saved: str) -> bool:
        return bool(self.storage.exists(saved))

    def url(self, saved: str) -> str:
        return str(self.storage.url(saved))


TARGETS: dict[str, type[Target]] = {
    "flask-store": FlaskStore,
    "filedepot": Filedepot,
    "django-storages": DjangoStorages,
    "django-storages, no overwriting": DjangoStoragesCareful,
    "flask-storage": FlaskStorage,
}

Figures = dict[str, float]


class Orders:
    """What ``s3.py`` may ask of a target: each method returns what it has cost."""

    def __init__(self, name: str, where: dict[str, str]) -> None:
        start = time.perf_counter()
        self.target = TARGETS[name](where)
        started = time.perf_counter()
        self.saved = [self._save(io.BytesIO(os.urandom(10_000)))]
        first = time.perf_counter()
        self.start_up = {
            "start ms": (started - start) * 1000,
            "first save ms": (first - started) * 1000,
            "together ms": (first - start) * 1000,
        }

    def started(self) -> Figures:
        for _ in range(10):  # what is done once in a process, is done now
            self.small(1)
        forget_peak(os.getpid())  # the peak is then what there is at this moment
        self.idle = peak_memory(os.getpid())
        return self.start_up

    def small(self, count: int) -> Figures:
        """Save files of 10 KB."""
        return self._timed(lambda: self.saved.append(self._save(io.BytesIO(os.urandom(10_000)))), count)

    def large(self, size: int) -> Figures:
        """Save one file from a temporary file."""
        stream = _temporary_file(size)
        stream.seek(0)
        forget_peak(os.getpid())
        figures = self._timed(lambda: self._save(stream), 1)
        return {**figures, "MiB more": (peak_memory(os.getpid()) - self.idle) / (1 << 20)}

    def exists(self, count: int) -> Figures:
        return self._timed(lambda: self.target.exists(self.saved[-1]), count)

    def album(self, count: int) -> Figures:
        """Make the URLs of a page of photos that were never shown, and again of the same page."""
        first, *others = (self._timed(self._page, 1)["ms"] for _ in range(count))
        return {"first ms": first, "again ms": statistics.median(others)}

    def _page(self) -> None:
        for photo in self.saved[-PHOTOS:]:
            self.target.url(photo)

    def _save(self, stream: IO[bytes]) -> str:
        return self.target.save(self.target.upload(stream, f"photo-{secrets.token_hex(8)}.jpg"))

    def _timed(self, act: Callable[[], object], count: int) -> Figures:
        times, cpu = [], time.process_time()
        for _ in range(count):
            start = time.perf_counter()
            act()
            times.append(time.perf_counter() - start)
        return {"ms": statistics.median(times) * 1000, "CPU ms": (time.process_time() - cpu) / count * 1000}


@functools.cache
def _temporary_file(size: int) -> IO[bytes]:
    file = tempfile.TemporaryFile(dir=".")
    for _ in range(size >> 20):
        file.write(os.urandom(1 << 20))
    file.flush()
    return file


def main() -> None:
    orders = Orders(sys.argv[1], json.loads(sys.argv[2]))
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(orders, name)(*arguments)), flush=True)


if __name__ == "__main__":
    main()
