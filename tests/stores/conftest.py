"""What the tests of the stores share."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

from flask_store.stores.local import LocalStore

# The start of every program that a test runs in a process of its own. Its settings come from the environment.
PROGRAM_START = """
import hashlib, io, json, os, sys, tempfile, threading
from concurrent.futures import ThreadPoolExecutor
from flask import Flask
from werkzeug.datastructures import FileStorage
from flask_store import ServiceError, Store
from flask_store.stores.local import LocalStore
from flask_store.stores.s3 import S3Store

app = Flask("child", instance_path=sys.argv[1])
app.config.from_prefixed_env()
Store(app)
"""


@pytest.fixture
def store(app):
    return LocalStore()


@pytest.fixture(params=["unnamed", "named"])
def staging(request, monkeypatch):
    """How a file is written before it is published: both ways work on every Linux file system.

    The value is Python code that brings another process to the same way.
    """
    if request.param == "unnamed":
        if not hasattr(os, "O_TMPFILE"):
            pytest.skip("this system has no unnamed files")
        return ""
    monkeypatch.setattr("os.O_TMPFILE", 0, raising=False)
    return "os.O_TMPFILE = 0\n"


@pytest.fixture
def start_program(app, tmp_path):
    """Return a function that starts a Python program, on ``app``'s directory; it ends with the test."""
    with ExitStack() as running:

        def start(program, *arguments, **settings):
            environment = {f"FLASK_{name}": str(value) for name, value in settings.items()}
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM_START + program, app.instance_path, *arguments],
                cwd=tmp_path,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            running.enter_context(process)
            running.callback(process.kill)
            return process

        yield start


@pytest.fixture
def no_pause(monkeypatch):
    """Have botocore repeat a request at once: how long it waits is its own affair."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)


@pytest.fixture
def all_files(root):
    """Return a function that lists every file below the root of the store, hidden ones too."""

    def list_all():
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())

    return list_all
