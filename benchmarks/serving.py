"""Compare the serving route with ``flask.send_from_directory``, through gunicorn, side by side.

    python benchmarks/serving.py [--rounds 7] [--seconds 2] [--workers sync gthread]

Prints requests a second for a small file, and server CPU seconds for a large one, as medians and as the ratio of
the route's cost to that of ``send_from_directory``. Everything listens on loopback.
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import tempfile
import time
from pathlib import Path

from measure import WORKERS, cpu_seconds, serve

APP = """
from flask import Flask, send_from_directory
from flask_store import Store

app = Flask(__name__, instance_path={instance!r})
Store(app)

@app.get("/plain/<path:filename>")
def plain(filename):
    return send_from_directory({directory!r}, filename)
"""

ROUTES = {"send_from_directory": "/plain/", "flask_store.file": "/uploads/"}


def get(port: int, url: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", url)
    response = connection.getresponse()
    assert response.status == 200, response.status
    while response.read(1 << 20):
        pass
    connection.close()


def seconds_a_request(port: int, url: str, seconds: float) -> float:
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        get(port, url)
        count += 1
    return (time.perf_counter() - start) / count


def cpu_of_large(port: int, pid: int, url: str) -> float:
    before = cpu_seconds(pid)
    for _ in range(5):
        get(port, url)
    return cpu_seconds(pid) - before


def report(title: str, unit: str, figures: dict[str, list[float]]) -> None:
    base = statistics.median(figures["send_from_directory"])
    for name, values in figures.items():
        median = statistics.median(values)
        print(f"{title:28} {name:20} {median:10.3f} {unit}   {median / base if base else float('nan'):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--workers", nargs="+", choices=WORKERS, default=["sync", "gthread"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        directory = folder / "instance" / "uploads"
        directory.mkdir(parents=True)
        (directory / "small.jpg").write_bytes(os.urandom(10_000))
        (directory / "large.mp4").write_bytes(os.urandom(100 << 20))
        app = APP.format(instance=str(folder / "instance"), directory=str(directory))
        (folder / "served.py").write_text(app, encoding="utf-8")
        for worker in arguments.workers:
            small: dict[str, list[float]] = {name: [] for name in ROUTES}
            large: dict[str, list[float]] = {name: [] for name in ROUTES}
            with serve(folder, worker) as (port, pid):
                for _ in range(arguments.rounds):
                    for name, prefix in ROUTES.items():
                        small[name].append(seconds_a_request(port, f"{prefix}small.jpg", arguments.seconds) * 1000)
                        large[name].append(cpu_of_large(port, pid, f"{prefix}large.mp4"))
            report(f"{worker}, GET 10 KB", "ms ", small)
            report(f"{worker}, 5 x GET 100 MiB", "s CPU", large)


if __name__ == "__main__":
    main()
