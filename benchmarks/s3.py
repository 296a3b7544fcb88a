"""Compare what it costs to save files to S3: this package, filedepot, django-storages and flask-storage.

    pip install -r benchmarks/requirements.txt
    python benchmarks/s3.py [--rounds 4] [--turns 3] [--targets flask-store filedepot ...] [--directory .]

Each target has a process of its own, which saves to an S3 on loopback that throws everything away (``null_s3.py``), in
turn with the others; each round has new processes. Prints medians and, in brackets, the medians of the ratios to this
package in the same turn. Runs on Linux.

With ``S3_ENDPOINT``, ``S3_ACCESS_KEY``, ``S3_SECRET_KEY`` and ``S3_REGION`` in the environment, it also measures with
that server, in a bucket that it makes and deletes.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import secrets
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3_targets import PHOTOS, TARGETS, Figures

OURS = "flask-store"
HUNDRED_MIB = 100 << 20

#: Seconds of a request to S3 and its answer, and bytes a second of a connection: what a server nearby gives.
DELAY = 0.020
RATE = 25_000_000


@dataclass(frozen=True)
class Case:
    """One thing to measure: the order to a target with its argument, and how the server is to behave."""

    title: str
    order: str
    argument: int
    delay: float = 0
    continue_delay: float = 0
    rate: float = 0

    @property
    def acts(self) -> int:
        """How often a target does it for an order."""
        return 1 if self.order == "large" else self.argument


CASES = {
    "small": Case("10 KB", "small", 20),
    "small-delayed": Case("10 KB, 20 ms a request", "small", 10, delay=DELAY),
    # boto3 sends a body after the server has said that it will have it: "100 Continue".
    "small-far": Case("10 KB, 20 ms a round trip", "small", 10, delay=DELAY, continue_delay=DELAY),
    "large": Case("100 MiB", "large", HUNDRED_MIB),
    "large-throttled": Case("100 MiB, 25 MB/s a connection", "large", HUNDRED_MIB, rate=RATE),
    "exists": Case("exists", "exists", 10),
    "album": Case(f"The page of an album: URLs of {PHOTOS} new photos", "album", 10),
}
REAL_CASES = ("small", "large", "exists", "album")

Turn = dict[str, Figures]


class NullServer:
    """The S3 that throws everything away, in a process of its own."""

    def __init__(self, stack: ExitStack) -> None:
        script = Path(__file__).with_name("null_s3.py")
        process = stack.enter_context(
            subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        assert process.stdin is not None and process.stdout is not None
        stack.callback(process.stdin.close)
        self._port = int(process.stdout.readline())
        self.where = {
            "endpoint": f"http://127.0.0.1:{self._port}",
            "access_key": "access-key",
            "secret_key": "secret-key",
            "region": "us-east-1",
            "bucket": "benchmark",
        }

    def prepare(self, case: Case) -> None:
        behaviour = {"delay": case.delay, "continue_delay": case.continue_delay, "rate": case.rate}
        self._ask("PUT", "/-/behaviour", json.dumps(behaviour))
        self.requests()

    def requests(self) -> list[str]:
        """Return the requests since the last call."""
        requests: list[str] = json.loads(self._ask("GET", "/-/requests"))
        return requests

    def _ask(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.request(method, path, body)
        answer = connection.getresponse().read()
        connection.close()
        return answer


class RealServer:
    """The S3 that the environment names."""

    def __init__(self, stack: ExitStack) -> None:
        import boto3
        from botocore.config import Config

        names = ("endpoint", "access_key", "secret_key", "region")
        self.where = {name: os.environ[f"S3_{name.upper()}"] for name in names}
        self.where["bucket"] = f"benchmark-{secrets.token_hex(8)}"
        resource = boto3.session.Session().resource(
            "s3",
            endpoint_url=self.where["endpoint"],
            aws_access_key_id=self.where["access_key"],
            aws_secret_access_key=self.where["secret_key"],
            region_name=self.where["region"],
            config=Config(request_checksum_calculation="when_required"),
        )
        self._bucket = resource.Bucket(self.where["bucket"])
        self._bucket.create()
        stack.callback(self._bucket.delete)
        stack.callback(self._bucket.objects.delete)

    def prepare(self, case: Case) -> None:
        """Make room: some servers keep objects in memory."""
        for item in self._bucket.objects.all():
            if item.size == HUNDRED_MIB:
                item.delete()

    def requests(self) -> list[str]:
        return []


class Worker:
    """A process that saves files in one of the ways."""

    def __init__(self, name: str, server: NullServer | RealServer, directory: str, stack: ExitStack) -> None:
        self._server = server
        script = Path(__file__).with_name("s3_targets.py").resolve()
        self._process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, script, name, json.dumps(server.where)],
                cwd=directory,
                env={**os.environ, "NO_PROXY": "127.0.0.1,localhost", "AWS_EC2_METADATA_DISABLED": "true"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert self._process.stdin is not None
        stack.callback(self._process.stdin.close)
        self.start_up = self._order("started")

    def measure(self, case: Case) -> tuple[Figures, list[str]]:
        if case.order == "album":
            self._order("small", PHOTOS)
        self._server.prepare(case)
        figures = self._order(case.order, case.argument)
        return figures, self._server.requests()

    def _order(self, *order: Any) -> Figures:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a target has failed")
        figures: Figures = json.loads(line)
        return figures


class Results:
    """What was measured, turn by turn, and which requests that took."""

    def __init__(self) -> None:
        self.turns: dict[str, list[Turn]] = {}
        self.requests: dict[tuple[str, str], str] = {}

    def one_round(self, server: NullServer | RealServer, targets: list[str], cases: list[str], options: Any) -> None:
        with ExitStack() as stack:
            workers = {name: Worker(name, server, options.directory, stack) for name in shuffled(targets)}
            self.turns.setdefault("start", []).append({name: worker.start_up for name, worker in workers.items()})
            for case in (case for _ in range(options.turns) for case in cases):
                self.turns.setdefault(case, []).append(self._turn(workers, case))

    def _turn(self, workers: dict[str, Worker], case: str) -> Turn:
        turn = {}
        for name in shuffled(list(workers)):
            turn[name], requests = workers[name].measure(CASES[case])
            self.requests[case, name] = describe(requests, CASES[case].acts)
        return turn

    def median(self, case: str, name: str, column: str) -> float:
        return statistics.median(turn[name][column] for turn in self.turns[case])

    def ratio(self, case: str, name: str, column: str, base: str = OURS) -> float:
        """Return the median of the ratios turn by turn: what else the machine does in a turn slows down both."""
        return statistics.median(turn[name][column] / turn[base][column] for turn in self.turns[case])

    def print(self, title: str) -> None:
        for case in self.turns:
            heading = CASES[case].title if case in CASES else "From nothing imported to the first file saved"
            names = [name for name in TARGETS if name in self.turns[case][0]]
            columns = list(self.turns[case][0][OURS])
            print(f"\n{title}: {heading}: {len(self.turns[case])} turns")
            print(f"{'':32}" + "".join(f"{column:>18}" for column in columns) + "  requests for one")
            for name in names:
                cells = [self._cell(case, name, column) for column in columns]
                print(f"{name:32}" + "".join(cells) + "  " + self.requests.get((case, name), ""))

    def _cell(self, case: str, name: str, column: str) -> str:
        median = self.median(case, name, column)
        if column == "MiB more":  # may be nothing: no ratios
            return f"{max(turn[name][column] for turn in self.turns[case]):12.1f} most "
        return f"{median:11.2f} ({self.ratio(case, name, column):.2f})"

    def compare(self, case: str, peers: list[str]) -> str:
        """Return how long this package takes of what the fastest of its peers takes."""
        fastest = min(peers, key=lambda name: self.median(case, name, "ms"))
        return f"{CASES[case].title}: {self.ratio(case, OURS, 'ms', fastest):.2f} of the time of {fastest}"


def describe(requests: list[str], count: int) -> str:
    """Return what one of ``count`` equal acts asked, such as ``HEAD + PUT``."""
    kinds = Counter(requests)
    each = {kind: number / count for kind, number in kinds.items()}
    return " + ".join(kind if number == 1 else f"{number:g} {kind}" for kind, number in each.items())


def shuffled(names: list[str]) -> list[str]:
    # Another order each time: none suffers always from what the same other has left behind.
    return random.sample(names, len(names))


def installed(names: list[str]) -> Iterator[str]:
    for name in dict.fromkeys([OURS, *names]):
        if importlib.util.find_spec(TARGETS[name].package):
            yield name
        else:
            print(f"{name} is left out: {TARGETS[name].package} is not installed")


def versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    yield f"{platform.system()} {platform.release()}"
    for name in ("boto3", "Flask", "filedepot", "django-storages", "Django", "flask-storage"):
        with suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}"


@contextmanager
def servers() -> Iterator[dict[str, NullServer | RealServer]]:
    with ExitStack() as stack:
        found: dict[str, NullServer | RealServer] = {"null": NullServer(stack)}
        if os.environ.get("S3_ENDPOINT"):
            found["real"] = RealServer(stack)
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3, help="in a round")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--directory", default=".", help="where files are read from: 100 MiB for each target")
    options = parser.parse_args()
    targets = list(installed(options.targets))
    print(", ".join(versions()))
    with servers() as found:
        for kind, server in found.items():
            results = Results()
            cases = [case for case in options.cases if kind == "null" or case in REAL_CASES]
            for number in range(options.rounds):
                print(f"{kind} server: round {number + 1} of {options.rounds}", file=sys.stderr)
                results.one_round(server, targets, cases, options)
            results.print("S3 on loopback that keeps nothing" if kind == "null" else server.where["endpoint"])
            conclude(results, [name for name in targets if name != OURS])


def conclude(results: Results, peers: list[str]) -> None:
    print(f"\n{OURS} takes")
    for case in ("small-delayed", "small-far"):
        if checking := [name for name in peers if results.requests.get((case, name)) == "HEAD + PUT"]:
            print(f"  {results.compare(case, checking)}, the fastest that looks for a file of that name")
    for case in ("small", "small-delayed", "small-far", "large", "large-throttled"):
        if case in results.turns and peers:
            print(f"  {results.compare(case, peers)}, the fastest")


if __name__ == "__main__":
    main()
