"""Any number of threads and processes that save one name at once each end with a whole file of their own."""

from __future__ import annotations

import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

from werkzeug.datastructures import FileStorage

from flask_store.stores.local import LocalStore

THREADS = 32
PROCESSES = 8
SAVES = 10
TIMEOUT = 60


def assert_each_has_its_own(root, contents):
    """Check the files of a directory, given what was saved under which name."""
    assert {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()} == contents
    others = sorted(contents.keys() - {"photo.jpg"})
    assert len(others) == len(contents) - 1
    assert all(re.fullmatch(r"photo_[\w-]{14}\.jpg", name) for name in others)


class Waiting(io.BytesIO):
    """Waits for the others before it is read: each has looked for a free name by then, and none has taken it."""

    def __init__(self, content, start):
        super().__init__(content)
        self.start = start

    def read(self, size=-1):
        if not self.tell():
            self.start.wait(TIMEOUT)
        return super().read(size)


def test_threads(app, root, staging):
    start = threading.Barrier(THREADS)

    def save(number):
        # Longer than what is read at a time, each of another length.
        content = number.to_bytes(2, "big") * (200_000 + number)
        with app.app_context():
            store = LocalStore(destination="made/by/the/first")
            return store.save(FileStorage(Waiting(content, start), "photo.jpg")).filename, content

    with ThreadPoolExecutor(THREADS) as pool:
        saved = list(pool.map(save, range(THREADS)))

    assert len(dict(saved)) == THREADS
    assert_each_has_its_own(root / "made" / "by" / "the" / "first", dict(saved))


SAVE_MANY = """
class Waiting(io.BytesIO):
    # As above, but for processes: the first save of each waits to be told to go on.
    def read(self, size=-1):
        if turn == 0 and not self.tell():
            print("ready", flush=True)
            sys.stdin.readline()
        return super().read(size)

number, saves = map(int, sys.argv[2:])
with app.app_context():
    for turn in range(saves):
        content = bytes([number, turn]) * 150_000
        name = LocalStore().save(FileStorage(Waiting(content), "photo.jpg")).filename
        print(json.dumps([name, number, turn]))
"""


def test_processes(root, staging, start_program):
    processes = [start_program(staging + SAVE_MANY, str(number), str(SAVES)) for number in range(PROCESSES)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"

    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    saved = [json.loads(line) for process in processes for line in process.stdout]

    assert len(saved) == PROCESSES * SAVES
    contents = {name: bytes([number, turn]) * 150_000 for name, number, turn in saved}
    assert len(contents) == PROCESSES * SAVES
    assert_each_has_its_own(root, contents)
