"""Compare how soon an upload is answered when S3 gets it in the background, and what other visitors feel meanwhile.

    pip install -r benchmarks/requirements.txt
    python benchmarks/background.py [--rounds 7] [--workers sync gthread gevent wsgiserver] [--size 50000000]

Posts a file to a server whose store is an S3GeventStore, on an S3 that takes 25 MB/s from each connection, and the same
to one with a LocalStore, in turn, with a server of each kind of worker. From the answer until S3 has the file a second
visitor asks for a small page all the time. Prints medians, and the worst of those small pages. Runs on Linux.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from measure import WORKERS, forget_peak, peak_memory, serve

RATE = 25_000_000

APPLICATION = """
import os
from flask import Flask, request
from flask_store import Store

app = Flask(__name__, instance_path=os.path.abspath("instance"))
app.config.from_mapping({settings!r})
store = Store(app)

@app.post("/")
def upload():
    return str(store.Provider().save(request.files["file"]))

@app.get("/")
def page():
    return "a small page"

@app.get("/pending")
def pending():
    return str(len(store.Provider().uploads.spool.entries()))
"""

# gevent's own server, with nothing patched.
WSGI_SERVER = """
import importlib, sys
from gevent.pywsgi import WSGIServer

module, _, name = sys.argv[1].partition(":")
server = WSGIServer(("127.0.0.1", 0), getattr(importlib.import_module(module), name), log=None)
server.start()
print(f"Serving on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
server.serve_forever()
"""

WORKERS["gevent"] = ["gunicorn", "-k", "gevent"]
WORKERS["wsgiserver"] = ["wsgi_server"]

LOCAL = {"STORE_PROVIDER": "flask_store.stores.local.LocalStore"}


def background(port: int) -> dict[str, object]:
    return {
        "STORE_PROVIDER": "flask_store.stores.s3.S3GeventStore",
        "STORE_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "STORE_S3_ACCESS_KEY": "key",
        "STORE_S3_SECRET_KEY": "secret",
        "STORE_S3_BUCKET": "benchmark",
        "STORE_S3_REGION": "us-east-1",
    }


class Visitor:
    """A browser's connection to a server."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[float, bytes]:
        """Return how many seconds it took, and the answer."""
        headers = {"Content-Type": "multipart/form-data; boundary=x"} if body else {}
        start = time.perf_counter()
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        took = time.perf_counter() - start
        self._connection.close()
        assert answer.status < 300, content
        return took, content


def form(size: int) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="film.bin"\r\n\r\n'
    return head + bytes(size) + b"\r\n--x--\r\n"


def ask_until_sent(visitor: Visitor) -> list[float]:
    """Return how long small pages took until the server has nothing pending."""
    times = []
    while True:
        for _ in range(25):
            times.append(visitor.ask("GET", "/")[0])
            time.sleep(0.002)  # at once, they would measure how a second visitor slows the first one down
        if visitor.ask("GET", "/pending")[1] == b"0":
            return times


def measure(worker: str, s3: int, rounds: int, size: int) -> None:
    with ExitStack() as stack:
        servers = {}
        for name, settings in {"local": LOCAL, "background": background(s3)}.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=".")))
            (folder / "served.py").write_text(APPLICATION.format(settings=settings))
            (folder / "wsgi_server.py").write_text(WSGI_SERVER)
            servers[name] = stack.enter_context(serve(folder.resolve(), worker))
        visitors = {name: Visitor(port) for name, (port, _) in servers.items()}
        pid = servers["background"][1]
        times: dict[str, list[float]] = {"local": [], "background": []}
        pages, body = [], form(size)
        for visitor in visitors.values():
            visitor.ask("POST", "/", body)
        ask_until_sent(visitors["background"])
        forget_peak(pid)
        before = peak_memory(pid)
        for _ in range(rounds):
            times["local"].append(visitors["local"].ask("POST", "/", body)[0])
            times["background"].append(visitors["background"].ask("POST", "/", body)[0])
            pages += ask_until_sent(visitors["background"])
        after = peak_memory(pid)
    ratios = [mine / theirs for mine, theirs in zip(times["background"], times["local"], strict=True)]
    milliseconds = [1000 * statistics.median(times[name]) for name in ("local", "background")]
    print(
        f"{worker:12} LocalStore {milliseconds[0]:7.1f} ms   background {milliseconds[1]:7.1f} ms"
        f"   ratio {statistics.median(ratios):5.2f}   other pages {1000 * statistics.median(pages):5.1f} ms,"
        f" 99 % {1000 * statistics.quantiles(pages, n=100)[98]:5.1f} ms, worst {1000 * max(pages):5.1f} ms"
        f"   memory +{(after - before) / 2**20:.0f} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", nargs="+", default=["sync", "gthread", "gevent", "wsgiserver"], choices=WORKERS)
    parser.add_argument("--size", type=int, default=50_000_000)
    options = parser.parse_args()
    command = [sys.executable, str(Path(__file__).with_name("null_s3.py"))]
    s3 = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert s3.stdin is not None and s3.stdout is not None
    try:
        port = int(s3.stdout.readline())
        behaviour = json.dumps({"delay": 0, "continue_delay": 0, "rate": RATE}).encode()
        Visitor(port).ask("PUT", "/-/behaviour", behaviour)
        for worker in options.workers:
            measure(worker, port, options.rounds, options.size)
    finally:
        s3.stdin.close()
        s3.wait()


if __name__ == "__main__":
    main()
