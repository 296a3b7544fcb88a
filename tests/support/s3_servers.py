"""S3 servers to test against: moto in this process, and a Ceph of one node."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import boto3.session
from botocore.config import Config
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

# Seconds until a daemon must have started.
PATIENCE = 60

# Debian's packages ceph-mon, ceph-osd and radosgw.
CEPH_PROGRAMS = ("monmaptool", "ceph-mon", "ceph-osd", "ceph", "radosgw", "radosgw-admin")

# One node, objects in memory, loopback only, and nothing that waits for better times. "ms client mode" because the
# gateway's default cannot go without authentication; "paxos ... interval" because each new pool would wait a second;
# "tcp_nodelay" because each small answer would wait 40 ms.
CEPH_CONFIGURATION = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
ms bind msgr1 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms client mode = crc
run dir = {directory}
pid file =
admin socket =
crash dir = {directory}
log file = {directory}/$name.log
mon cluster log file = {directory}/cluster.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
[mon]
mon data = {directory}/mon
mon data avail warn = 2
mon data avail crit = 1
paxos propose interval = 0.05
paxos min wait = 0.01
[osd]
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd max object size = 1G
osd class load list = *
osd class default list = *
[client.rgw]
rgw data = {directory}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw rados pool pg num min = 8
rgw thread pool size = 64
rgw enable usage log = false
rgw dynamic resharding = false
"""


@dataclass(frozen=True)
class S3Server:
    """Where an S3 server is, and who may use it."""

    name: str
    endpoint_url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"
    #: Where the server writes a line for each request, if it does.
    log: Path | None = None

    def resource(self, session: boto3.session.Session) -> Any:
        """Return a boto3 resource that looks at what is there, independent of the package under test."""
        return session.resource(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(signature_version="s3v4"),
        )

    def settings(self, bucket: str) -> dict[str, str]:
        """Return the settings of a store on a bucket."""
        return {
            "STORE_PROVIDER": "flask_store.stores.s3.S3Store",
            "STORE_S3_ENDPOINT_URL": self.endpoint_url,
            "STORE_S3_ACCESS_KEY": self.access_key,
            "STORE_S3_SECRET_KEY": self.secret_key,
            "STORE_S3_REGION": self.region,
            "STORE_S3_BUCKET": bucket,
        }


@contextlib.contextmanager
def moto() -> Iterator[S3Server]:
    """Return a block with moto, which believes every signature."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with _one_put_at_a_time():
        server.start()
        try:
            host, port = server.get_host_and_port()
            yield S3Server("moto", f"http://{host}:{port}", "moto-access-key", "moto-secret-key")
        finally:
            server.stop()


@contextlib.contextmanager
def _one_put_at_a_time() -> Iterator[None]:
    # Moto looks whether a name is taken, and some time later takes it, so that two get it. S3 does both in one step.
    put_object, lock = S3Response.put_object, threading.Lock()

    def put_alone(self: S3Response) -> Any:
        with lock:
            return put_object(self)

    with mock.patch.object(S3Response, "put_object", put_alone):
        yield


def missing_ceph_programs() -> list[str]:
    """Return what Ceph lacks on this machine."""
    return [program for program in CEPH_PROGRAMS if shutil.which(program) is None]


@contextlib.contextmanager
def ceph(directory: Path) -> Iterator[S3Server]:
    """Return a block with a Ceph whose only user has any right, in an empty directory."""
    server = S3Server(
        "ceph",
        f"http://127.0.0.1:{_free_port()}",
        "ceph-access-key-0001",
        "ceph-secret-key-that-is-forty-letters-ok",
        log=directory / "client.rgw.log",
    )
    with contextlib.ExitStack() as daemons:
        _start_ceph(directory, server, daemons)
        yield server


def _start_ceph(directory: Path, server: S3Server, daemons: contextlib.ExitStack) -> None:
    fsid, mon_port = str(uuid.uuid4()), _free_port()
    for name in ("mon", "osd", "rgw"):
        (directory / name).mkdir()
    port = server.endpoint_url.rpartition(":")[2]
    text = CEPH_CONFIGURATION.format(directory=directory, fsid=fsid, mon_port=mon_port, port=port)
    (directory / "ceph.conf").write_text(text)

    def run(program: str, *arguments: str) -> None:
        command = [program, "-c", str(directory / "ceph.conf"), *arguments]
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=PATIENCE)
        assert result.returncode == 0, result.stderr

    def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [program, "-c", str(directory / "ceph.conf"), *arguments, "-f"]
        with (directory / f"{program}.out").open("wb") as out:
            daemon = subprocess.Popen(command, cwd=directory, stdout=out, stderr=out)
        daemons.callback(_end, daemon)
        return daemon

    monmap = str(directory / "monmap")
    run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", monmap)
    run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
    start("ceph-mon", "-i", "a")
    osd = str(uuid.uuid4())
    run("ceph", "--connect-timeout", str(PATIENCE), "osd", "new", osd)
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
    start("ceph-osd", "-i", "0")
    keys = [f"--access-key={server.access_key}", f"--secret-key={server.secret_key}"]
    run("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid=tester", "--display-name=tester", *keys)
    gateway = start("radosgw", "-n", "client.rgw")
    wait_until(lambda: gateway.poll() is not None or _answers(server.endpoint_url))
    assert gateway.poll() is None, (directory / "radosgw.out").read_text()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return as soon as something is so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"it took more than {PATIENCE} seconds"
        time.sleep(0.05)  # between two looks, until the deadline


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(timeout=10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
