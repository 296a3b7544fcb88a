"""A real server in a process of its own, with an application that stores what it is sent."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

APPLICATION = """
import os

from flask import Flask, request

from flask_store import Store

app = Flask(__name__, instance_path=os.path.join(os.getcwd(), "instance"))
app.config.from_prefixed_env()
store = Store(app)


@app.post("/")
def upload():
    return store.Provider(destination="photos").save(request.files["photo"]).absolute_url()


@app.get("/pid")
def pid():
    return str(os.getpid())
"""

TIMEOUT = 20


@dataclass
class Server:
    """Where a server listens, and where its application keeps the files."""

    port: int
    root: Path

    def connect(self):
        return HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)

    def request(self, method, url, body=None, headers=()):
        """Return the response, its body read, of one request on a connection of its own."""
        connection = self.connect()
        try:
            connection.request(method, url, body, dict(headers))
            response = connection.getresponse()
            response.content = response.read()
        finally:
            connection.close()
        return response

    def files(self):
        """Return every file below the root of the store, hidden ones too."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("server")
    (directory / "application.py").write_text(APPLICATION)
    # The socket listens before the server starts: a client that is early waits for it.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.fileno()
        command = [sys.executable, "-m", "gunicorn", "--workers=1", "--worker-class=sync", "--log-level=warning"]
        process = subprocess.Popen(
            [*command, f"--bind=fd://{descriptor}", "application:app"], cwd=directory, pass_fds=[descriptor]
        )
        try:
            yield Server(listener.getsockname()[1], directory / "instance" / "uploads")
        finally:
            process.terminate()
            process.wait(TIMEOUT)
