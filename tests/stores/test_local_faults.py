"""When the process dies, the disk is full or nothing may be written: no half file, no lost space, no stuck name."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import subprocess
import tempfile
from contextlib import contextmanager, nullcontext

import pytest
from open_files import open_files

from flask_store import AlreadyExistsError, ServiceError
from flask_store.stores.local import LocalStore

MEGABYTE = 1_000_000

SAVE_200_MB = """
class Slow:
    left, chunk = 200, b"x" * 1_000_000

    def read(self, size):
        if self.left == int(sys.argv[2]):
            print("midway", flush=True)
            sys.stdin.read()
        self.left -= 1
        return self.chunk if self.left >= 0 else b""

with app.app_context():
    LocalStore().save(FileStorage(Slow(), "photo.jpg"))
"""


@pytest.mark.parametrize("megabytes_left", [100, 0])
def test_a_process_killed_in_a_save_of_200_mb_leaves_nothing_under_a_name(
    app, store, root, upload, all_files, staging, start_program, megabytes_left
):
    process = start_program(staging + SAVE_200_MB, str(megabytes_left))
    assert process.stdout.readline() == "midway\n"

    process.send_signal(signal.SIGKILL)

    assert process.wait(10) == -signal.SIGKILL
    left = all_files()
    # What was being written under a name is still there, as nothing that the store knows.
    assert [name.partition("/")[0] for name in left] == ([".staged"] if staging else [])
    assert list(store.list()) == []
    assert not store.exists("photo.jpg")
    for name in ["photo.jpg", *left]:
        assert app.test_client().get(f"/uploads/{name}").status_code == 404
    assert store.save(upload()).filename == "photo.jpg"


def assert_fails_and_leaves_nothing(store, upload, *errors, during=None):
    """Save, and check that the failure is told with its cause and costs neither a file nor a descriptor."""
    gc.collect()
    before = open_files(store.root)

    with during or nullcontext(), pytest.raises(ServiceError, match=r"photo\.jpg") as caught:
        store.save(upload)

    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno in errors
    assert open_files(store.root) == before
    assert [path for path in store.root.rglob("*") if not path.is_dir()] == []


@contextmanager
def limit(what, value):
    """Lower one of the limits of this process for a while."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


@contextmanager
def free_descriptors(count):
    """Leave this process only so many descriptors for a while."""
    fillers = []
    with limit(resource.RLIMIT_NOFILE, max(map(int, os.listdir("/proc/self/fd"))) + 10):
        try:
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            for _ in range(count):
                os.close(fillers.pop())
        try:
            yield
        finally:
            for descriptor in fillers:
                os.close(descriptor)


@contextmanager
def without_root():
    """Make this process an ordinary user's for a while; root may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(user)


@pytest.mark.parametrize("size", [10 * MEGABYTE, MEGABYTE + 1])
def test_a_file_larger_than_the_system_allows(store, upload, staging, size):
    allowed = limit(resource.RLIMIT_FSIZE, MEGABYTE)

    assert_fails_and_leaves_nothing(store, upload(b"x" * size), errno.EFBIG, during=allowed)

    with limit(resource.RLIMIT_FSIZE, MEGABYTE):
        assert store.save(upload(b"x" * MEGABYTE)).filename == "photo.jpg"


@pytest.fixture
def mount(root):
    """Return a function that mounts an empty file system of one megabyte as the store, with options."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    root.mkdir(parents=True)
    mounted = []

    def mount_store(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(root)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here: {error}")
        mounted.append(root)

    yield mount_store
    for directory in mounted:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.mark.parametrize("size", [10 * MEGABYTE, 1024 * 1024 + 1])
def test_a_full_disk(store, root, upload, staging, mount, size):
    mount("size=1m")
    free = os.statvfs(root).f_bfree

    assert_fails_and_leaves_nothing(store, upload(b"x" * size), errno.ENOSPC)

    assert os.statvfs(root).f_bfree == free
    assert store.save(upload(b"x" * 500_000)).filename == "photo.jpg"


def test_a_disk_without_a_free_inode(store, upload, mount):
    mount("nr_inodes=1")

    assert_fails_and_leaves_nothing(store, upload(), errno.ENOSPC)


def test_a_read_only_disk(store, upload, staging, mount):
    mount("ro")

    assert_fails_and_leaves_nothing(store, upload(), errno.EROFS)


def test_a_directory_without_permission(make_app, upload, staging):
    # Not below tmp_path, which belongs to the user who runs the tests.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o555)
        app = make_app(STORE_PATH=directory)
        with app.app_context():
            assert_fails_and_leaves_nothing(LocalStore(), upload(), errno.EACCES, during=without_root())


def test_a_process_without_a_free_descriptor(store, root, upload, staging):
    root.mkdir(parents=True)

    assert_fails_and_leaves_nothing(store, upload(), errno.EMFILE, during=free_descriptors(0))

    assert store.save(upload()).filename == "photo.jpg"


@pytest.mark.parametrize("destination", [None, "photos/2026"])
def test_a_path_below_a_file(make_app, upload, tmp_path, destination):
    (tmp_path / "file").write_bytes(b"here first")
    app = make_app(STORE_PATH=str(tmp_path / "file" / "uploads"))
    with app.app_context():
        store = LocalStore(destination=destination)

        assert_fails_and_leaves_nothing(store, upload(), errno.ENOTDIR, errno.EEXIST)

    assert (tmp_path / "file").read_bytes() == b"here first"


def test_a_destination_below_a_stored_file(app, store, upload):
    store.save(upload(b"here first", "photos.d"))

    with pytest.raises(ServiceError):
        LocalStore(destination="photos.d").save(upload())

    assert [str(file) for file in store.list()] == ["photos.d"]
    with store.open("photos.d") as stream:
        assert stream.read() == b"here first"


def test_a_disk_that_cannot_keep_the_name(app, root, upload, staging, monkeypatch):
    app.config["STORE_FSYNC"] = True
    root.mkdir(parents=True)
    fsync = os.fsync

    def fail_for_directories(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_directories)

    assert_fails_and_leaves_nothing(LocalStore(), upload(), errno.EIO)


def test_a_disk_that_calls_every_name_taken(store, all_files, upload, staging, monkeypatch):
    def refuse(source, target, **kwargs):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))

    monkeypatch.setattr(os, "link", refuse)

    with pytest.raises(AlreadyExistsError, match=r"photo\.jpg"):
        store.save(upload())

    assert all_files() == []
