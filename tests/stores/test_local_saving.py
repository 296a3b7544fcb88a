"""How LocalStore saves: where, under which name, with which modes, and whole or not at all."""

from __future__ import annotations

import io
import os
import re
import stat
import subprocess
import tempfile

import pytest
from werkzeug.datastructures import FileStorage

from flask_store import InvalidNameError, Provider, ServiceError
from flask_store.stores.local import LocalStore


def mode_of(path):
    return oct(stat.S_IMODE(path.stat().st_mode))


SAVE_UNDER_UMASK = """
os.umask(int(sys.stdin.readline(), 8))
with app.app_context():
    store = LocalStore(destination="photos/2026")
    for size in (0, 1, 1_000_000):
        store.save(FileStorage(io.BytesIO(b"x" * size), f"{size}.bin"))
os.close(os.open(sys.argv[1] + "/made-by-the-application", os.O_CREAT | os.O_WRONLY, 0o666))
"""


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_are_the_same_for_every_size_under_any_umask(root, staging, start_program, umask):
    process = start_program(staging + SAVE_UNDER_UMASK)

    process.communicate(oct(umask))

    assert process.returncode == 0
    files = [path for path in root.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["0.bin", "1.bin", "1000000.bin"]
    assert {mode_of(path) for path in files} == {"0o644"}
    made = [root.parent, root, root / "photos", root / "photos" / "2026"]
    assert {mode_of(path) for path in made} == {"0o755"}
    assert mode_of(root.parent / "made-by-the-application") == oct(0o666 & ~umask)


def test_modes_can_be_set(app, root, upload):
    app.config.update(STORE_FILE_MODE=0o640, STORE_DIRECTORY_MODE=0o750)

    LocalStore(destination="photos").save(upload())

    assert mode_of(root / "photos" / "photo.jpg") == "0o640"
    assert mode_of(root / "photos") == "0o750"


def test_the_mode_of_a_directory_that_is_there_already_stays(store, root, upload):
    root.mkdir(parents=True)
    root.chmod(0o700)

    store.save(upload())

    assert mode_of(root) == "0o700"


def test_a_relative_path_is_below_the_instance_folder_for_saving_and_serving(make_app, upload, tmp_path, monkeypatch):
    working_folder = tmp_path / "working-folder"
    working_folder.mkdir()
    monkeypatch.chdir(working_folder)
    app = make_app(STORE_PATH="files/public")

    with app.app_context():
        saved = Provider(destination="photos").save(upload(b"served"))
        url, path = saved.absolute_url(), saved.absolute_path()

    assert path == f"{app.instance_path}/files/public/photos/photo.jpg"
    assert os.path.isfile(path)
    with app.test_client().get(url) as response:
        assert response.data == b"served"
    assert os.listdir(working_folder) == []


def test_the_path_may_be_a_symbolic_link(make_app, upload, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    app = make_app(STORE_PATH=str(tmp_path / "link"))

    with app.app_context():
        saved = Provider(destination="photos").save(upload(b"linked"))

        assert (tmp_path / "disk" / "photos" / "photo.jpg").read_bytes() == b"linked"
        assert saved.exists()
        assert list(Provider().list()) == [saved]
        with app.test_client().get(saved.absolute_url()) as response:
            assert response.data == b"linked"


@pytest.mark.parametrize(
    ("filename", "pattern"),
    [
        ("photo.jpg", r"photo_[\w-]{14}\.jpg"),
        ("backup.tar.gz", r"backup_[\w-]{14}\.tar\.gz"),
        ("LICENSE", r"LICENSE_[\w-]{14}"),
        ("x" * 255, r"x{240}_[\w-]{14}"),
        ("é" * 125 + ".jpg", r"é{118}_[\w-]{14}\.jpg"),
        (".jpg", r"file_[\w-]{14}\.jpg"),
    ],
)
def test_a_taken_name_gets_a_random_part_before_its_extension(store, upload, filename, pattern):
    store.save(upload(b"first", filename))

    second = store.save(upload(b"second", filename))

    assert re.fullmatch(pattern, second.filename, re.ASCII)
    with second.open() as stream:
        assert stream.read() == b"second"


def make_link_to_nowhere(path):
    path.symlink_to(path.parent.parent / "outside.txt")


def make_link_to_itself(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize("make_obstacle", [os.mkdir, os.mkfifo, make_link_to_nowhere, make_link_to_itself])
def test_a_name_taken_by_something_else_gets_a_random_part_too(store, root, upload, staging, make_obstacle):
    root.mkdir(parents=True)
    make_obstacle(root / "photo.jpg")
    kind = stat.S_IFMT((root / "photo.jpg").lstat().st_mode)

    saved = store.save(upload(b"beside"))

    assert re.fullmatch(r"photo_[\w-]{14}\.jpg", saved.filename)
    assert (root / saved.filename).read_bytes() == b"beside"
    assert stat.S_IFMT((root / "photo.jpg").lstat().st_mode) == kind
    assert not (root.parent / "outside.txt").exists()


def test_a_freed_name_is_given_again(store, upload):
    store.save(upload()).delete()

    assert store.save(upload()).filename == "photo.jpg"


@pytest.mark.parametrize("file", [FileStorage(filename=""), FileStorage(filename=None), None])
def test_where_no_file_was_chosen_saving_says_so_and_makes_nothing(store, root, file):
    with pytest.raises(InvalidNameError, match="no file was chosen"):
        store.save(file)

    assert not root.exists()


def test_what_is_no_upload_is_refused_in_words(store, root):
    with pytest.raises(TypeError, match="werkzeug FileStorage, not 'photo.jpg'"):
        store.save("photo.jpg")

    assert not root.exists()


class Watched(io.BytesIO):
    """Calls a function before each read."""

    def __init__(self, content, watch):
        super().__init__(content)
        self.watch = watch

    def read(self, size=-1):
        self.watch(self.tell())
        return super().read(size)


def test_nothing_is_visible_before_the_file_is_whole(store, root, staging):
    seen = []

    def look(position):
        seen.append((position, store.exists("photo.jpg"), list(store.list()), (root / "photo.jpg").exists()))

    store.save(FileStorage(Watched(b"x" * 1_000_000, look), "photo.jpg"))

    positions = {position for position, *_ in seen}
    assert {0, 1_000_000} < positions
    assert {tuple(map(bool, visible)) for _, *visible in seen} == {(False, False, False)}
    assert store.stat("photo.jpg").size == 1_000_000


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(1), KeyboardInterrupt()])
def test_an_error_of_the_stream_goes_on_its_way_and_leaves_nothing(store, all_files, upload, staging, error):
    def fail(position):
        if position:
            raise error

    with pytest.raises(type(error)) as caught:
        store.save(FileStorage(Watched(b"x" * 1_000_000, fail), "photo.jpg"))

    assert caught.value is error
    assert all_files() == []
    assert store.save(upload()).filename == "photo.jpg"


def test_an_os_error_of_the_stream_is_a_service_error_with_its_cause(store, all_files, upload, staging):
    error = ConnectionResetError("the client is gone")

    def fail(position):
        if position:
            raise error

    with pytest.raises(ServiceError, match=r"photo\.jpg.*the client is gone") as caught:
        store.save(FileStorage(Watched(b"x" * 1_000_000, fail), "photo.jpg"))

    assert caught.value.__cause__ is error
    assert all_files() == []
    assert store.save(upload()).filename == "photo.jpg"


class OnlyRead:
    """A stream that is nothing but something to read from, little by little."""

    def __init__(self, content):
        self.source = io.BytesIO(content)

    def read(self, size):
        return self.source.read(min(size, 1000))


class Stubborn(io.BytesIO):
    """Says that it can seek, and cannot."""

    def seek(self, *args):
        raise io.UnsupportedOperation("seek")


@pytest.mark.parametrize("make_stream", [OnlyRead, Stubborn])
def test_a_stream_that_cannot_seek_is_read_from_where_it_is(store, root, make_stream):
    content = os.urandom(100_000)

    store.save(FileStorage(make_stream(content), "photo.jpg"))

    assert (root / "photo.jpg").read_bytes() == content


def test_a_large_upload_that_was_rolled_over_to_disk_is_read_from_its_start(store, root):
    content = os.urandom(2_000_000)
    with tempfile.SpooledTemporaryFile(max_size=500_000) as stream:
        stream.write(content)

        store.save(FileStorage(stream, "photo.jpg"))

        assert not stream.closed
    assert (root / "photo.jpg").read_bytes() == content


@pytest.fixture
def events(monkeypatch):
    """What is brought to disk and what is published, in order: each an operation and the inode it is about."""
    recorded = []
    fsync, link = os.fsync, os.link

    def recording_fsync(descriptor):
        fsync(descriptor)
        recorded.append(("fsync", os.fstat(descriptor).st_ino))

    def recording_link(source, target, **kwargs):
        link(source, target, **kwargs)
        recorded.append(("link", os.stat(target).st_ino))

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "link", recording_link)
    return recorded


def test_with_fsync_the_bytes_are_on_disk_before_the_name_and_the_name_before_save_returns(
    app, root, upload, staging, events
):
    app.config["STORE_FSYNC"] = True
    root.parent.mkdir()

    LocalStore(destination="photos/2026").save(upload())

    directory = root / "photos" / "2026"
    file = (directory / "photo.jpg").stat().st_ino
    published = events.index(("link", file))
    assert events.index(("fsync", file)) < published
    # A directory that was made is itself a name in the one above it, and another process may have made it just now.
    changed = [directory, directory.parent, root]
    assert events[published + 1 :] == [("fsync", path.stat().st_ino) for path in changed]
    assert ("fsync", root.parent.stat().st_ino) in events[:published]


def test_with_fsync_through_a_link_the_directories_are_those_where_the_file_is(app, root, upload, events):
    app.config["STORE_FSYNC"] = True
    (root / "real").mkdir(parents=True)
    (root / "link").symlink_to("real")

    LocalStore(destination="link").save(upload())

    assert [inode for operation, inode in events[2:]] == [p.stat().st_ino for p in (root / "real", root)]


def test_without_fsync_the_disk_is_not_waited_for(store, upload, events):
    store.save(upload())

    assert [operation for operation, _ in events] == ["link"]


def test_the_umask_is_never_touched(store, upload, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("os.umask was called"))

    assert store.save(upload()).exists()


class TestNamingOfASubclass:
    def test_counts(self, app, upload):
        class Numbered(LocalStore):
            def safe_filename(self, filename):
                return super().safe_filename(f"1-{filename}")

        assert [Numbered().save(upload()).filename[:8] for _ in range(2)] == ["1-photo.", "1-photo_"]

    def test_that_is_not_safe_is_refused_and_leaves_nothing(self, app, root, upload):
        class Careless(LocalStore):
            def safe_filename(self, filename):
                return filename

        with pytest.raises(InvalidNameError):
            Careless().save(upload(filename="../photo.jpg"))

        assert not root.exists()


@pytest.fixture
def deep_root(root):
    yield root
    subprocess.run(["rm", "-rf", root], check=True)  # Python's own would go too deep


def test_a_destination_of_very_many_parts_is_made_or_refused_with_an_error_of_the_store(deep_root):
    assert Provider("/".join("d" * 1200)).save(FileStorage(io.BytesIO(b"waves"), "a.jpg")).size == 5
    with pytest.raises(ServiceError):
        Provider("/".join("d" * 2500)).save(FileStorage(io.BytesIO(b"waves"), "a.jpg"))
