"""Compare what it costs to receive and keep an upload: this package, plain Werkzeug, and others.

    pip install -r benchmarks/requirements.txt
    python benchmarks/uploads.py [--rounds 5] [--sizes 10KB 1MB 100MB 1GB] [--workers sync gthread waitress]
                                 [--targets werkzeug flask-store ...] [--directory .]

Posts one file at a time over loopback to a server for each target, all targets in turn; each round has new servers.
Prints medians and, in brackets, the medians of the ratios to plain Werkzeug (``request.files["file"].save(path)``) in
the same turn. Runs on Linux.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import random
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from measure import WORKERS, cpu_seconds, forget_peak, peak_memory, serve, written_bytes

#: Name of a size: bytes, how many files of it are posted to a target one after the other, and the turns in a round.
SIZES = {"10KB": (10_000, 20, 10), "1MB": (1_000_000, 5, 6), "100MB": (100_000_000, 1, 2), "1GB": (1_000_000_000, 1, 1)}

FLASK = """
import os
from time import perf_counter
from flask import Flask, abort, request
from werkzeug.utils import secure_filename

app = Flask(__name__, instance_path=os.getcwd())
app.secret_key = "benchmark"
{setup}
@app.post("/")
def upload():
    file = request.files["file"]
    start = perf_counter()
    {save}
    return "", {{"Save-Seconds": str(perf_counter() - start)}}
"""

STORE = """
from flask_store import Store

app.config["STORE_PATH"] = os.path.abspath("stored")
store = Store(app)
"""

# Its GET answers what a browser would find in the page with the form.
CSRF = """
from flask_wtf.csrf import generate_csrf, validate_csrf

app.get("/")(generate_csrf)
"""

STORE_FORM = """
from flask_store.forms import StoreFileField
from flask_wtf import FlaskForm

class Form(FlaskForm):
    file = StoreFileField()
"""

PLAIN_FORM = """
from flask_wtf import FlaskForm
from flask_wtf.file import FileField

class Form(FlaskForm):
    file = FileField()
"""

REUPLOADED = """
from flask_uploads import IMAGES, UploadSet, configure_uploads

app.config["UPLOADED_PHOTOS_DEST"] = os.path.abspath("stored")
photos = UploadSet("photos", IMAGES)
configure_uploads(app, photos)
"""

DEPOT = """
from depot.manager import DepotManager

DepotManager.configure("default", {"depot.storage_path": "stored"})
"""

FLASK_STORAGE = """
import flask_storage

app.config["FS_ROOT"] = os.path.abspath("stored")
photos = flask_storage.Storage("photos", flask_storage.IMAGES)
flask_storage.init_app(app, photos)
"""

DJANGO = """
from time import perf_counter
from django.conf import settings
from django.core.files.storage import FileSystemStorage
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="benchmark", ALLOWED_HOSTS=["*"])
storage = FileSystemStorage("stored")

def upload(request):
    file = request.FILES["file"]
    start = perf_counter()
    storage.save(file.name, file)
    return HttpResponse(headers={"Save-Seconds": str(perf_counter() - start)})

urlpatterns = [path("", upload)]
app = get_wsgi_application()
"""


@dataclass(frozen=True)
class Target:
    """One way to keep an upload: the package it needs, and the application that does it."""

    package: str
    app: str
    #: Whether the application wants a CSRF token.
    csrf: bool = False


def flask_target(package: str, save: str, setup: str = "", csrf: bool = False) -> Target:
    return Target(package, FLASK.format(setup=(CSRF if csrf else "") + setup, save=save), csrf)


PLAIN_SAVE = 'file.save(os.path.join("stored", secure_filename(file.filename)))'
STORE_SAVE = "store.Provider().save(file)"
CHECK_CSRF = 'validate_csrf(request.form["csrf_token"]); '
CHECK_FORM = "Form().validate_on_submit() or abort(400); "

# The save time of the last three has the check of the CSRF token in it, and that of the forms all of the form.
TARGETS = {
    "werkzeug": flask_target("flask", PLAIN_SAVE),
    "flask-store": flask_target("flask_store", STORE_SAVE, STORE),
    "flask-reuploaded": flask_target("flask_uploads", "photos.save(file)", REUPLOADED),
    "filedepot": flask_target("depot", "DepotManager.get().create(file)", DEPOT),
    "flask-storage": flask_target("flask_storage", "photos.save(file)", FLASK_STORAGE),
    "django": Target("django", DJANGO),
    "flask-store-csrf": flask_target("flask_store", CHECK_CSRF + STORE_SAVE, STORE, csrf=True),
    "flask-store-form": flask_target("flask_store", CHECK_FORM, STORE + STORE_FORM, csrf=True),
    "flask-wtf-form": flask_target("flask_wtf", CHECK_FORM + PLAIN_SAVE, PLAIN_FORM, csrf=True),
}

# Random, so that it is neither easy nor hard to parse, and sent again and again: making a body costs nothing then.
BLOCK = random.randbytes(1 << 20)
BOUNDARY = "benchmark-of-uploads"
assert BOUNDARY.encode() not in BLOCK + BLOCK

Figures = dict[str, float]


class Server:
    """A running target: posts files to it and measures what that costs."""

    def __init__(self, target: Target, folder: Path, worker: str, stack: ExitStack) -> None:
        self.target = target
        self.stored = folder / "stored"
        self.stored.mkdir(parents=True)
        (folder / "served.py").write_text(target.app, encoding="utf-8")
        self.port, self.pid = stack.enter_context(serve(folder, worker))

    def measure(self, size: int, count: int) -> Figures:
        """Return the medians of ``count`` files of ``size`` bytes."""
        cookie, fields = self._token() if self.target.csrf else ("", "")
        # What others have left to be written to the disk is not this target's burden.
        os.sync()
        forget_peak(self.pid)
        cpu, written = cpu_seconds(self.pid), written_bytes(self.pid)
        posts = [self._post(size, cookie, fields) for _ in range(count)]
        wall, save = (statistics.median(figures) * 1000 for figures in zip(*posts, strict=True))
        return {
            "wall ms": wall,
            "CPU ms": (cpu_seconds(self.pid) - cpu) / count * 1000,
            "written/sent": (written_bytes(self.pid) - written) / count / size,
            "peak MiB": peak_memory(self.pid) / (1 << 20),
            "save ms": save,
        }

    def _token(self) -> tuple[str, str]:
        """Return the header and the field that a browser would send after it has loaded the form."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            headers, body = _answer(connection)
        cookie = headers["set-cookie"].partition(";")[0]
        field = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="csrf_token"\r\n\r\n{body}\r\n'
        return f"Cookie: {cookie}\r\n", field

    def _post(self, size: int, cookie: str, fields: str) -> tuple[float, float]:
        """Return the seconds from connecting until the server has closed the connection, and those of its ``save``."""
        part = (
            f'{fields}--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        end = f"\r\n--{BOUNDARY}--\r\n".encode()
        head = (
            f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{cookie}"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
            f"Content-Length: {len(part) + size + len(end)}\r\n\r\n{part}"
        ).encode()
        whole_blocks, rest = divmod(size, len(BLOCK))
        last = BLOCK[:rest] + end
        start = time.perf_counter()
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(head)
            for _ in range(whole_blocks):
                connection.sendall(BLOCK)
            connection.sendall(last)
            headers, _ = _answer(connection)
        seconds = time.perf_counter() - start
        self._delete(size)
        return seconds, float(headers["save-seconds"])

    def _delete(self, size: int) -> None:
        """Delete what was stored, which must be the file and no other of its size."""
        sizes = [path.stat().st_size for path in self.stored.rglob("*") if path.is_file()]
        assert sizes.count(size) == 1, f"the file was not stored: there are files of {sizes} bytes"
        for entry in self.stored.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _answer(connection: socket.socket) -> tuple[dict[str, str], str]:
    answer = b""
    while received := connection.recv(65536):
        answer += received
    head, _, body = answer.decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    if " 200 " not in status:
        raise SystemExit(f"the server answered: {answer.decode()}")
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}, body


def measure_in_turn(servers: dict[str, Server], size: int, count: int, turns: int) -> list[dict[str, Figures]]:
    rows = []
    for _ in range(turns):
        # Another order each time: none suffers always from what the same other has left behind.
        order = random.sample(list(servers), len(servers))
        rows.append({name: servers[name].measure(size, count) for name in order})
    return rows


def one_round(
    targets: dict[str, Target], worker: str, sizes: list[str], directory: str
) -> dict[str, list[dict[str, Figures]]]:
    """Return what each target costs, turn by turn, for each size.

    Its servers are new: how the memory of a process happens to be laid out makes it faster or slower for all its life.
    """
    with tempfile.TemporaryDirectory(dir=directory) as folder, ExitStack() as stack:
        servers = {name: Server(target, Path(folder, name), worker, stack) for name, target in targets.items()}
        measure_in_turn(servers, *SIZES["10KB"])  # what is done once in a process, is done now
        return {name: measure_in_turn(servers, *SIZES[name]) for name in sizes}


def report(title: str, turns: list[dict[str, Figures]]) -> None:
    columns = list(turns[0]["werkzeug"])
    print(f"\n{title}\n{'':18}" + "".join(f"{column:>18}" for column in columns))
    for name in sorted(turns[0], key=list(TARGETS).index):
        cells = [
            f"{statistics.median(turn[name][column] for turn in turns):11.2f} ({ratio(turns, column, name):.2f})"
            for column in columns
        ]
        print(f"{name:18}" + "".join(cells))
    for route in ("flask-store", "flask-store-csrf", "flask-wtf-form"):
        if {route, "flask-store-form"} <= turns[0].keys():
            times = ratio(turns, "wall ms", "flask-store-form", route)
            print(f"The wall time of flask-store-form is {times:.2f} of that of {route}.")


def ratio(turns: list[dict[str, Figures]], column: str, name: str, base: str = "werkzeug") -> float:
    """Return the median of the ratios turn by turn: what else the machine does in a turn slows down both."""
    return statistics.median(turn[name][column] / turn[base][column] for turn in turns)


def installed(names: list[str]) -> dict[str, Target]:
    targets = {}
    for name in dict.fromkeys(["werkzeug", *names]):
        if importlib.util.find_spec(TARGETS[name].package):
            targets[name] = TARGETS[name]
        else:
            print(f"{name} is left out: {TARGETS[name].package} is not installed")
    return targets


def versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    yield f"{platform.system()} {platform.release()}"
    names = ("gunicorn", "waitress", "Flask", "Werkzeug", "Flask-Reuploaded", "filedepot", "flask-storage", "Django")
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--workers", nargs="+", choices=WORKERS, default=["sync", "gthread"])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--directory", default=".", help="where files are kept, for its file system: 3 GB are needed")
    arguments = parser.parse_args()
    targets = installed(arguments.targets)
    print(", ".join(versions()))
    for worker in arguments.workers:
        rounds = []
        for number in range(arguments.rounds):
            print(f"{worker}: round {number + 1} of {arguments.rounds}", file=sys.stderr)
            rounds.append(one_round(targets, worker, arguments.sizes, arguments.directory))
        for size in arguments.sizes:
            turns = [turn for measured in rounds for turn in measured[size]]
            report(f"{worker}, {size}: {len(turns)} turns of {SIZES[size][1]} posts", turns)


if __name__ == "__main__":
    main()
