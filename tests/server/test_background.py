"""S3GeventStore in servers and programs of their own: files in the background, over a network that fails."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection

import pytest
import slow_proxy
from s3_servers import wait_until

BOUNDARY = "0123456789abcdef"
CONTENT_TYPE = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
MIB = 1024 * 1024
TIMEOUT = 30

# Above it, a file is sent in parts.
THRESHOLD = 5 * MIB

# Half of them small, half of them sent in parts.
TEN_SIZES = [100_000, 6 * MIB] * 5

APPLICATION = """
import io, os, pathlib, signal, sys, time
from flask import Flask, request
from werkzeug.datastructures import FileStorage
from flask_store import Store

app = Flask("application", instance_path=os.path.join(os.path.dirname(os.path.abspath(__file__)), "instance"))
app.config.from_prefixed_env()
store = Store(app)


def save(content, name="a.bin"):
    with app.app_context():
        return store.Provider().save(FileStorage(io.BytesIO(content), filename=name))


@app.post("/")
def upload():
    return str(store.Provider().save(request.files["file"]))


@app.get("/pid")
def pid():
    return str(os.getpid())


@app.get("/meet/<int:count>")
def meet(count):
    # Returns when that many processes are in here.
    here = pathlib.Path(app.instance_path, "here")
    here.mkdir(parents=True, exist_ok=True)
    (here / str(os.getpid())).touch()
    while len(os.listdir(here)) < count:
        time.sleep(0.01)  # between two looks: the others are processes
    return str(os.getpid())
"""

# Deletes what it is told.
DELETING = """
from flask_store import StoreFile
print("ready", flush=True)
paths = sys.stdin.readline().split()
with app.app_context():
    for path in paths:
        StoreFile.from_path(path).delete()
"""

GEVENT_SERVER = """
import signal, sys
import gevent
from gevent.pywsgi import WSGIServer
from application import app

listener = gevent.socket.socket(fileno=int(sys.argv[1]))
server = WSGIServer(listener, app, log=None)
gevent.signal_handler(signal.SIGTERM, server.stop, 0)
server.serve_forever()
"""

GUNICORN = [sys.executable, "-m", "gunicorn", "--log-level=info", "--bind=fd://{fd}", "application:app"]

SERVERS = {
    "gevent": [*GUNICORN, "--worker-class=gevent"],
    "sync": [*GUNICORN, "--worker-class=sync"],
    "gthread": [*GUNICORN, "--worker-class=gthread", "--threads=4"],
    "preload": [*GUNICORN, "--worker-class=sync", "--preload"],
    "wsgiserver": [sys.executable, "gevent_server.py", "{fd}"],
    "development": [sys.executable, "-m", "flask", "--app=application", "run", "--port=0"],
}

on_ceph = pytest.mark.parametrize("s3", [pytest.param("ceph", marks=pytest.mark.ceph)], indirect=True)
on_moto = pytest.mark.parametrize("s3", ["moto"], indirect=True)


@pytest.fixture
def proxy(s3):
    """What is between the application and S3."""
    with slow_proxy.in_front_of(s3.endpoint_url) as proxy:
        yield proxy


class Server:
    """A server in a process of its own."""

    def __init__(self, process, port, log):
        self.process = process
        self.port = port
        self._log = log

    @property
    def log(self):
        return self._log.read_text()

    def request(self, method, url, body=None, headers=()):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            connection.request(method, url, body, dict(headers))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        assert response.status == 200, (content, self.log)
        return content.decode()

    def upload(self, content):
        """Return the path of the file that was stored."""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
        return self.request("POST", "/", head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode(), CONTENT_TYPE)

    def end(self, by=signal.SIGTERM):
        self.process.send_signal(by)
        return self.process.wait(TIMEOUT)


class Machine:
    """A machine that an application with a spool runs on."""

    def __init__(self, directory, settings, running):
        self.directory = directory
        self._running = running
        self._settings = settings
        (directory / "application.py").write_text(APPLICATION)
        (directory / "gevent_server.py").write_text(GEVENT_SERVER)

    def _start(self, command, settings, **options):
        environ = {f"FLASK_{key}": str(value) for key, value in {**self._settings, **settings}.items()}
        process = subprocess.Popen(
            command, cwd=self.directory, env={**os.environ, **environ}, start_new_session=True, **options
        )
        self._running.enter_context(process)
        self._running.callback(_kill_session, process)
        return process

    def serve(self, kind, *arguments, **settings):
        """Return a server of one of the kinds in SERVERS that runs the application."""
        log = self.directory / f"{kind}-{time.monotonic_ns()}.log"
        # The socket listens before the server starts: a client that is early waits for it.
        with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as stderr:
            command = [part.format(fd=listener.fileno()) for part in SERVERS[kind]]
            process = self._start(
                [*command, *arguments], settings, pass_fds=[listener.fileno()], stdout=stderr, stderr=stderr
            )
            port = listener.getsockname()[1]
        if kind == "development":
            wait_until(lambda: "Running on" in log.read_text() or process.poll() is not None)
            port = int(re.search(r"Running on http://127.0.0.1:(\d+)", log.read_text()).group(1))
        return Server(process, port, log)

    def start(self, program, first="", stderr=None):
        """Start a program that has the names of the application; it gets lines, and its output is read.

        :param first: What it does before it loads the application.
        """
        return self._start(
            [sys.executable, "-c", f"{first}\nfrom application import *\n{program}"],
            {},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run(self, program, **options):
        """Return what a program writes."""
        output, _ = self.start(program, **options).communicate(timeout=TIMEOUT)
        return output

    def flask(self, *arguments, stdin="", **settings):
        """Return the output of a flask command, and its exit code."""
        process = self._start(
            [sys.executable, "-m", "flask", "--app=application", *arguments],
            settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output, _ = process.communicate(stdin, timeout=2 * TIMEOUT)
        return output, process.returncode

    @property
    def spool(self):
        """The names in the spool: uploads, and what was half done. Signs of life of processes do not count."""
        try:
            names = os.listdir(self.directory / "instance" / "spool")
        except FileNotFoundError:
            return []
        return [name for name in names if not name.startswith(".process-")]

    @property
    def files(self):
        """Everything in the spool."""
        return sorted(map(str, (self.directory / "instance" / "spool").rglob("*")))

    @property
    def records(self):
        return [
            json.loads((self.directory / "instance" / "spool" / name / "record.json").read_text())
            for name in self.spool
            if not name.startswith(".")
        ]


def _kill_session(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def machine(tmp_path, s3, bucket, proxy):
    settings = {
        **s3.settings(bucket.name),
        "STORE_PROVIDER": "flask_store.stores.s3.S3GeventStore",
        "STORE_S3_ENDPOINT_URL": proxy.url,
        "STORE_S3_MULTIPART_THRESHOLD": THRESHOLD,
        "STORE_DRAIN_TIMEOUT": 10,
    }
    directory = tmp_path / "machine"
    directory.mkdir()
    with ExitStack() as running:
        yield Machine(directory, settings, running)


def digest(content):
    return hashlib.sha256(content).hexdigest()


def digests(contents):
    """Return what objects have to be, by key."""
    return {key: digest(content) for key, content in contents.items()}


def objects(bucket):
    """Return what the objects of a bucket are, by key."""
    return {summary.key: digest(summary.get()["Body"].read()) for summary in bucket.objects.all()}


def count_keys(bucket):
    return len(list(bucket.objects.all()))


def incomplete_uploads(bucket):
    return list(bucket.multipart_uploads.all())


def times_stored(s3, bucket, count):
    """Return how often a file was stored under each key, as the access log says when it tells of that many."""
    pattern = rf'"(?:PUT|POST) /{bucket.name}/([^? ]+)(\?\S*)? HTTP/1.1" 200 '

    def times():
        found = re.findall(pattern, s3.log.read_text(errors="replace"))
        # Of an upload in parts the last request stores the file.
        return Counter(key for key, query in found if not query or re.fullmatch(r"\?uploadId=[^&]*", query))

    wait_until(lambda: times().total() >= count)
    return times()


@on_moto
@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_answers_before_the_upload_and_while_it_goes_on(machine, proxy, bucket, kind):
    server = machine.serve(kind)
    contents = [os.urandom(300_000), os.urandom(6 * MIB)]
    proxy.hold()

    saved = {server.upload(content): content for content in contents}
    wait_until(lambda: proxy.received)
    others = {server.request("GET", "/pid") for _ in range(3)}
    stored_before = count_keys(bucket)
    proxy.release()
    wait_until(lambda: not machine.spool)

    assert len(others) == 1
    assert stored_before == 0
    assert objects(bucket) == digests(saved)
    assert incomplete_uploads(bucket) == []
    assert "Traceback" not in server.log


@on_moto
def test_a_script_ends_when_what_it_saved_has_arrived(machine, proxy, bucket):
    proxy.hold()

    script = machine.start("print(save(bytes(1000)), save(bytes(6 * 1024 * 1024)), flush=True)")
    saved = script.stdout.readline().split()
    wait_until(lambda: proxy.received)
    stored_before = count_keys(bucket)
    proxy.release()

    assert script.wait(TIMEOUT) == 0
    assert stored_before == 0
    assert objects(bucket) == {saved[0]: digest(bytes(1000)), saved[1]: digest(bytes(6 * MIB))}
    assert machine.spool == []


@on_moto
def test_a_script_that_has_ended_already_when_its_upload_begins_finishes_it(machine, bucket):
    # boto3 is imported by the upload.
    late = """
import sys, threading

class Late:
    def find_spec(self, name, path=None, target=None):
        if name == "boto3.session":
            threading.main_thread().join()

sys.meta_path.insert(0, Late())
"""

    output = machine.run("print(save(bytes(1000)))", first=late, stderr=subprocess.STDOUT)

    assert re.fullmatch(r"a_\S+\.bin\n", output)
    assert objects(bucket) == {output.strip(): digest(bytes(1000))}
    assert machine.spool == []


@on_moto
def test_a_patched_process_has_one_client_for_uploads_one_after_the_other(machine, bucket):
    # gevent's own threads go when they have been idle for that long, with what belongs to them.
    patched = """
import os
os.environ["GEVENT_THREADPOOL_IDLE_TASK_TIMEOUT"] = "0.01"
from gevent import monkey
monkey.patch_all()
"""
    program = """
import gc
from flask_store.stores.connection import S3Connection

for _ in range(3):
    file = save(bytes(1000))
    file.wait()
    time.sleep(0.2)  # until the thread that did the work is gone, where it goes; that it stays shows in time alone
print(sum(isinstance(found, S3Connection) for found in gc.get_objects()))
"""

    clients = machine.run(program, first=patched)

    assert clients == "1\n"
    assert count_keys(bucket) == 3


@on_moto
def test_a_test_process_saves_before_the_upload(make_app, s3, proxy, bucket, upload):
    settings = {**s3.settings(bucket.name), "STORE_PROVIDER": "flask_store.stores.s3.S3GeventStore"}
    app = make_app(**{**settings, "STORE_S3_ENDPOINT_URL": proxy.url, "STORE_S3_MULTIPART_THRESHOLD": THRESHOLD})
    contents = [os.urandom(300_000), os.urandom(6 * MIB)]
    proxy.hold()

    with app.app_context():
        saved = {app.extensions["store"].provider().save(upload(content)): content for content in contents}
    wait_until(lambda: proxy.received)
    stored_before = count_keys(bucket)
    proxy.release()
    for file in saved:
        file.wait(TIMEOUT)

    assert stored_before == 0
    assert objects(bucket) == digests({str(file): content for file, content in saved.items()})


@on_ceph
@pytest.mark.parametrize("kind", ["gevent", "sync", "gthread"])
def test_ten_uploads_survive_their_worker(machine, proxy, s3, bucket, kind):
    server = machine.serve(kind)
    worker = int(server.request("GET", "/pid"))
    proxy.rate = MIB
    saved = {server.upload(content): content for content in map(os.urandom, TEN_SIZES)}
    wait_until(lambda: 0 < count_keys(bucket))
    wait_until(lambda: incomplete_uploads(bucket))

    os.kill(worker, signal.SIGKILL)
    at_the_kill = count_keys(bucket)
    proxy.rate = None
    restarted = int(server.request("GET", "/pid"))
    wait_until(lambda: not machine.spool)

    assert restarted != worker
    assert 0 < at_the_kill < 10
    assert objects(bucket) == digests(saved)
    assert times_stored(s3, bucket, 10) == dict.fromkeys(saved, 1)
    assert incomplete_uploads(bucket) == []


@on_ceph
def test_ten_uploads_survive_their_machine(machine, proxy, s3, bucket):
    server = machine.serve("gthread", "--workers=2")
    proxy.rate = MIB
    saved = {server.upload(content): content for content in map(os.urandom, TEN_SIZES)}
    wait_until(lambda: 0 < count_keys(bucket))
    wait_until(lambda: incomplete_uploads(bucket))

    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait(TIMEOUT)
    proxy.rate = None
    before, _ = machine.flask("store", "pending")
    output, code = machine.flask("store", "resume")

    assert code == 0, output
    assert re.findall(r"^sent  (\S+)$", output, re.MULTILINE)
    assert set(re.findall(r"^sent  (\S+)$", output, re.MULTILINE)) == set(re.findall(r"\S+\.bin", before))
    assert objects(bucket) == digests(saved)
    assert times_stored(s3, bucket, 10) == dict.fromkeys(saved, 1)
    assert incomplete_uploads(bucket) == []
    assert machine.spool == []


@on_ceph
def test_nothing_is_lost_while_s3_is_down_for_half_a_minute(machine, proxy, s3, bucket):
    server = machine.serve("gthread")
    proxy.rate = MIB
    early = {server.upload(content): content for content in map(os.urandom, [300_000, 6 * MIB])}
    wait_until(lambda: proxy.received)

    proxy.go_down()
    down_since = time.monotonic()
    late = {server.upload(content): content for content in map(os.urandom, [300_000, 6 * MIB])}
    wait_until(lambda: time.monotonic() - down_since > 30)
    pending, _ = machine.flask("store", "pending")
    proxy.rate = None
    proxy.come_back()
    wait_until(lambda: not machine.spool)

    assert len(re.findall(r"^pending .* tries that failed: [3-9] .*: .*EndpointConnectionError", pending, re.M)) >= 2
    assert objects(bucket) == digests({**early, **late})
    assert times_stored(s3, bucket, 4) == dict.fromkeys({**early, **late}, 1)
    assert incomplete_uploads(bucket) == []
    assert "given up" not in server.log


@on_moto
def test_an_upload_whose_failure_cannot_be_noted_is_tried_again(machine, proxy, bucket):
    proxy.hold()
    script = machine.start("print(save(b'content'), flush=True)", stderr=subprocess.PIPE)
    path = script.stdout.readline().strip()
    wait_until(lambda: proxy.received)

    # As a full disk would do.
    (machine.directory / "instance" / "spool" / machine.spool[0] / "record.json.new").mkdir()
    proxy.go_down()
    proxy.release()
    warning = script.stderr.readline()
    proxy.come_back()

    assert script.wait(TIMEOUT) == 0
    assert "failed and will be tried again" in warning
    assert objects(bucket) == {path: digest(b"content")}
    assert machine.spool == []


def leave_behind(machine, proxy, count, size=2000):
    """Return the contents of uploads, by path, that a killed process has left in the spool."""
    proxy.go_down()
    program = (
        f"for number in range({count}): print(save(f'{{number:0{size}}}'.encode()), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    paths = machine.run(program).split()
    proxy.come_back()
    assert len(paths) == len(machine.spool) == count
    return {path: f"{number:0{size}}".encode() for number, path in enumerate(paths)}


@on_ceph
def test_each_of_fifty_leftovers_is_uploaded_by_one_of_four_workers(machine, proxy, s3, bucket):
    left = leave_behind(machine, proxy, 50)
    server = machine.serve("sync", "--workers=4")
    proxy.rate = 50_000

    with ExitStack() as connections:
        waiting = [
            connections.enter_context(closing(HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)))
            for _ in range(4)
        ]
        for connection in waiting:
            connection.request("GET", "/meet/4")
        workers = {connection.getresponse().read() for connection in waiting}
    wait_until(lambda: not machine.spool)

    assert len(workers) == 4
    assert objects(bucket) == digests(left)
    assert times_stored(s3, bucket, 50) == dict.fromkeys(left, 1)
    # None was sent in vain, either.
    assert len(re.findall(rf'"PUT /{bucket.name}/[^? ]+ HTTP', s3.log.read_text(errors="replace"))) == 50


@on_moto
@pytest.mark.parametrize("command", [["shell"], ["store", "pending"], ["routes"]], ids=lambda command: command[-1])
def test_a_command_leaves_the_spool_alone(machine, proxy, command):
    leave_behind(machine, proxy, 1)
    before, connections = machine.files, proxy.connections

    output, code = machine.flask(*command, stdin="print(app)\n")

    assert code == 0, output
    assert machine.files == before
    assert proxy.connections == connections


@on_moto
def test_a_server_that_nobody_asks_anything_leaves_the_spool_alone(machine, proxy):
    leave_behind(machine, proxy, 1)
    before, connections = machine.files, proxy.connections
    server = machine.serve("preload", "--workers=2")

    wait_until(lambda: server.log.count("Booting worker") == 2)
    server.end()

    assert machine.files == before
    assert proxy.connections == connections


@on_moto
@pytest.mark.parametrize("kind", ["gevent", "sync", "gthread", "preload", "wsgiserver"])
def test_a_server_that_is_to_end_finishes_its_uploads(machine, proxy, bucket, kind):
    server = machine.serve(kind)
    proxy.hold()
    saved = {server.upload(content): content for content in [os.urandom(300_000), os.urandom(6 * MIB)]}
    wait_until(lambda: proxy.received)

    server.process.terminate()
    wait_until(lambda: "Worker exiting" in server.log or kind == "wsgiserver" and not takes_connections(server))
    still_runs = server.process.poll() is None
    stored_before = count_keys(bucket)
    proxy.release()

    assert server.process.wait(TIMEOUT) == 0
    assert "Traceback" not in server.log
    assert still_runs
    assert stored_before == 0
    assert objects(bucket) == digests(saved)
    assert machine.spool == []


def takes_connections(server):
    # Refused, or reset where it closes at that very moment.
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", server.port)):
        return True
    return False


@on_moto
@pytest.mark.parametrize("kind", ["gevent", "sync", "gthread", "wsgiserver"])
def test_a_server_ends_though_s3_is_stalled(machine, proxy, bucket, kind):
    server = machine.serve(kind, STORE_DRAIN_TIMEOUT=2)
    proxy.hold()
    saved = {server.upload(content): content for content in [os.urandom(300_000), os.urandom(6 * MIB)]}
    wait_until(lambda: proxy.received)

    began = time.monotonic()
    code = server.end()
    took = time.monotonic() - began
    left = {record["path"] for record in machine.records}
    proxy.drop_connections()
    proxy.release()
    output, _ = machine.flask("store", "resume")

    assert code == 0
    assert 2 <= took < 6
    assert left == saved.keys()
    assert objects(bucket) == digests(saved), output
    assert machine.spool == []
    assert incomplete_uploads(bucket) == []


@on_moto
@pytest.mark.parametrize(
    "start_child",
    ["child = os.fork()", "process = multiprocessing.Process(target=signal.pause); process.start()"],
    ids=["fork", "multiprocessing"],
)
def test_a_child_that_outlives_its_parent_does_not_keep_the_uploads(machine, proxy, bucket, start_child):
    proxy.go_down()
    program = f"""
import multiprocessing
multiprocessing.set_start_method("fork")
path = save(b"of the parent")
child, process = None, None
{start_child}
if child == 0:
    signal.pause()
print(child or process.pid, path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = machine.start(program)
    child, path = parent.stdout.readline().split()
    parent.wait(TIMEOUT)

    proxy.come_back()
    output, _ = machine.flask("store", "resume")
    os.kill(int(child), 0)

    assert output == f"sent  {path}\n"
    assert objects(bucket) == {path: digest(b"of the parent")}


@on_moto
def test_a_child_uploads_what_it_saves_itself(machine, bucket):
    program = """
first = save(b"of the parent")
first.wait(20)
if os.fork() == 0:
    second = save(b"of the child")
    second.wait(20)
    print(second, flush=True)
else:
    os.wait()
    print(first, flush=True)
"""

    second, first = machine.run(program).split()

    assert objects(bucket) == digests({first: b"of the parent", second: b"of the child"})
    assert machine.spool == []


@on_ceph
def test_what_cannot_succeed_is_kept_until_somebody_has_mended_it(machine, s3, s3_session):
    absent = s3.resource(s3_session).Bucket(f"test-{uuid.uuid4()}")
    server = machine.serve("gthread", STORE_S3_BUCKET=absent.name)
    contents = [os.urandom(300_000), os.urandom(6 * MIB)]

    saved = {server.upload(content): content for content in contents}
    wait_until(lambda: server.log.count("was given up") == 2)
    pending, _ = machine.flask("store", "pending", STORE_S3_BUCKET=absent.name)
    in_vain, code_in_vain = machine.flask("store", "resume", STORE_S3_BUCKET=absent.name)
    absent.create()
    try:
        output, code = machine.flask("store", "resume", STORE_S3_BUCKET=absent.name)
        arrived = objects(absent)
    finally:
        absent.objects.all().delete()
        absent.delete()

    for path in saved:
        assert len(re.findall(f"was given up.*{path}|{path}.*was given up", server.log)) == 1
        assert re.search(rf"^failed .* {path}: .*NoSuchBucket", pending, re.MULTILINE)
        assert re.search(rf"^failed  {path}$", in_vain, re.MULTILINE)
        assert re.search(rf"^sent  {path}$", output, re.MULTILINE)
    assert (code_in_vain, code) == (1, 0)
    assert arrived == digests(saved)
    assert machine.spool == []


@on_moto
@pytest.mark.parametrize("first", ["", "from gevent import monkey; monkey.patch_all()"], ids=["threads", "gevent"])
def test_what_was_given_up_is_tried_again_by_a_process_that_does_nothing_else(machine, s3, s3_session, first):
    absent = s3.resource(s3_session).Bucket(f"test-{uuid.uuid4()}")
    script = machine.start(
        "print(save(b'content'), flush=True)\nwhile True: time.sleep(0.1)  # idle, until it is killed",
        first=f"{first}\nimport os; os.environ['FLASK_STORE_S3_BUCKET'] = {absent.name!r}\n"
        "import flask_store.stores.background; flask_store.stores.background.LOOK_INTERVAL = 0.2",
    )
    path = script.stdout.readline().strip()
    spool = machine.directory / "instance" / "spool"
    wait_until(lambda: list(spool.glob("*/failed-*")))
    (retry,) = spool.glob("*/retry.json")

    absent.create()
    try:
        retry.write_text(json.dumps({**json.loads(retry.read_text()), "due_at": time.time() - 1}))
        wait_until(lambda: not machine.spool)
        arrived = objects(absent)
    finally:
        absent.objects.all().delete()
        absent.delete()

    assert arrived == {path: digest(b"content")}
    assert script.poll() is None


@on_moto
def test_an_upload_with_a_damaged_record_keeps_no_other(machine, proxy, bucket):
    left = leave_behind(machine, proxy, 3)
    damaged = sorted(machine.spool)[1]
    record = machine.directory / "instance" / "spool" / damaged / "record.json"
    path = json.loads(record.read_text())["path"]
    record.write_bytes(b"")

    output, code = machine.flask("store", "resume")

    del left[path]
    assert code == 0, output
    assert re.search(f"the upload in .*{damaged} cannot be sent", output)
    assert objects(bucket) == digests(left)
    assert machine.spool == [damaged]


@on_moto
def test_several_processes_delete_what_another_one_uploads(machine, bucket):
    uploading = machine.start("""
paths = [str(save(b"%d" % number)) for number in range(60)]
print(*paths, flush=True)
sys.stdin.readline()
""")
    others = [machine.start(DELETING) for _ in range(2)]
    for other in others:
        other.stdout.readline()

    paths = uploading.stdout.readline()
    for other in others:
        other.stdin.write(paths)
        other.stdin.close()
    codes = [other.wait(TIMEOUT) for other in others]
    wait_until(lambda: not machine.spool)

    assert len(paths.split()) == 60
    assert codes == [0, 0]
    assert objects(bucket) == {}


@on_moto
def test_several_processes_delete_what_a_killed_one_has_left(machine, proxy, bucket):
    left = leave_behind(machine, proxy, 30)
    others = [machine.start(DELETING) for _ in range(2)]
    for other in others:
        other.stdout.readline()

    for other in others:
        other.stdin.write(" ".join(left) + "\n")
        other.stdin.close()
    codes = [other.wait(TIMEOUT) for other in others]

    assert codes == [0, 0]
    assert machine.spool == []
    assert objects(bucket) == {}


@on_moto
def test_nothing_stays_of_a_file_that_is_deleted_after_its_process_was_killed_in_an_upload_in_parts(
    machine, proxy, bucket
):
    proxy.rate = MIB
    killed = machine.start("print(save(bytes(6 * 1024 * 1024)), flush=True)\nsys.stdin.readline()")
    path = killed.stdout.readline().strip()
    wait_until(lambda: incomplete_uploads(bucket))
    killed.kill()
    killed.wait(TIMEOUT)
    proxy.rate = None

    machine.run(f"from flask_store import StoreFile\nwith app.app_context(): StoreFile.from_path({path!r}).delete()")

    assert machine.spool == []
    assert objects(bucket) == {}
    assert incomplete_uploads(bucket) == []


# Runs work() in one child after another, each with a spool of its own; the n-th is killed at the n-th line that it runs
# of the module of the spool. Then takes up what they left, and writes what is still there.
KILLED_AT_EACH_LINE = """
import sys, threading, traceback
from flask_store.stores import spool
from flask_store.stores.background import Uploads

end = lines = 0


def trace(frame, event, argument):
    global lines
    if frame.f_code.co_filename != spool.__file__:
        return None
    if event == "line":
        lines += 1
        if lines == end:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace


def left():
    root = pathlib.Path(app.instance_path, app.config["STORE_SPOOL_PATH"])
    # A sign of life of a process that was killed while it started goes later.
    return [str(path) for path in root.glob("*") if path.is_dir()]


def run():
    sys.settrace(trace)
    threading.settrace(trace)
    try:
        work()
        while left():
            time.sleep(0.001)  # between two looks: a thread is at work
    except BaseException:
        print("error", traceback.format_exc(), flush=True)
    finally:
        os._exit(0)


is_killed = True
while is_killed:
    end += 1
    app.config["STORE_SPOOL_PATH"] = f"spools/{end}"
    child = os.fork()
    if child == 0:
        run()
    is_killed = os.waitpid(child, 0)[1] != 0
for number in range(1, end + 1):
    app.config["STORE_SPOOL_PATH"] = f"spools/{number}"
    uploads = Uploads(app)
    uploads.resume()
    uploads.wait_until_idle()
    print("left", left())
print("lines", end)
"""


@on_moto
def test_a_process_that_is_killed_at_any_line_of_the_spool_leaves_a_whole_upload_or_none(machine, bucket):
    # One that is linked, not copied.
    program = """
def work():
    with app.app_context():
        stream = store.Provider().receive("a.bin", "", None)
        stream.write(b"%d " % end * 100_000)
        print("saved", store.Provider().save(FileStorage(stream, filename="a.bin")), end, flush=True)
"""

    output = machine.run(program + KILLED_AT_EACH_LINE)

    saved = {path: f"{end} ".encode() * 100_000 for path, end in re.findall(r"saved (\S+) (\d+)", output)}
    lines = int(re.search(r"lines (\d+)", output).group(1))
    assert "error" not in output
    assert lines > len(saved) > 1
    found = objects(bucket)
    assert digests(saved).items() <= found.items()
    # One whose process was killed before it could tell anybody may be there or not, but whole and once.
    assert set(found.values()) <= {digest(f"{end} ".encode() * 100_000) for end in range(1, lines + 1)}
    assert len(set(found.values())) == len(found)
    assert re.findall(r"left (.*)", output) == ["[]"] * lines


@on_moto
def test_a_deletion_whose_process_is_killed_at_any_line_of_the_spool_is_finished_later(machine, bucket):
    program = """
def work():
    file = save(b"%d" % end)
    print("saved", file, flush=True)
    file.delete()
    print("deleted", file, flush=True)
"""

    output = machine.run(program + KILLED_AT_EACH_LINE)

    saved, deleted = (set(re.findall(rf"{word} (\S+)", output)) for word in ("saved", "deleted"))
    lines = int(re.search(r"lines (\d+)", output).group(1))
    assert "error" not in output
    assert len(saved) > len(deleted) > 0
    assert not deleted & objects(bucket).keys()
    assert re.findall(r"left (.*)", output) == ["[]"] * lines


@on_moto
def test_a_failing_try_is_told_in_one_line_where_gevent_runs_it(machine, proxy, bucket):
    proxy.go_down()
    script = machine.start(
        "print(save(b'content'), flush=True)",
        first="from gevent import monkey; monkey.patch_all()",
        stderr=subprocess.PIPE,
    )
    path = script.stdout.readline().strip()
    warning = script.stderr.readline()
    proxy.come_back()

    _, rest = script.communicate(timeout=TIMEOUT)

    assert "failed and will be tried again" in warning
    assert "Traceback" not in rest
    assert objects(bucket) == {path: digest(b"content")}
    assert machine.spool == []


@on_moto
def test_a_native_thread_of_a_patched_process_sends_too(machine, bucket):
    path = machine.run(
        "import gevent\nprint(gevent.get_hub().threadpool.apply(save, (b'content',)))",
        first="from gevent import monkey; monkey.patch_all()",
    ).strip()

    assert objects(bucket) == {path: digest(b"content")}
    assert machine.spool == []


@on_moto
def test_a_reload_leaves_nothing_behind(machine, proxy, bucket):
    # The new worker looks while the old one is still sending; what that cannot send it takes up later.
    (machine.directory / "application.py").write_text(
        "import flask_store.stores.background\nflask_store.stores.background.LOOK_INTERVAL = 0.5\n"
        + (machine.directory / "application.py").read_text()
    )
    proxy.hold()
    server = machine.serve("gthread", "--graceful-timeout=1", STORE_DRAIN_TIMEOUT=1)
    path = server.upload(b"content")
    wait_until(lambda: proxy.received)

    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "Hang up" in server.log or "HUP" in server.log)
    proxy.release()
    wait_until(lambda: server.request("GET", "/pid") and machine.spool == [])

    assert objects(bucket) == {path: digest(b"content")}
