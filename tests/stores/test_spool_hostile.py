"""A spool in which somebody else plants links, FIFOs and files: nothing outside it is changed, and nothing blocks."""

from __future__ import annotations

import io
import os

import pytest

from flask_store.receiving import ReceivedFile
from flask_store.stores.spool import Record, Spool

CANARY = b"not in the spool"

SOME_RECORD = Record("id", ("https://s3.example.com", "album"), "a.txt", 0.0)


@pytest.fixture
def canary(tmp_path):
    """A file and its directory that nothing may change, read or delete."""
    directory = tmp_path / "outside"
    directory.mkdir(mode=0o700)
    file = directory / "canary"
    file.write_bytes(CANARY)
    file.chmod(0o640)
    before = file.lstat()
    yield file
    after = file.lstat()
    assert file.read_bytes() == CANARY
    assert os.listdir(directory) == ["canary"]
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def spool(root):
    spool = Spool(root, ("https://s3.example.com", "album"), fsync=False)
    yield spool
    spool.leave()


@pytest.fixture
def entry(spool):
    return spool.add(io.BytesIO(b"content"), "a.txt")[0]


@pytest.mark.parametrize("kind", ["link", "hard link", "FIFO", "left by a crash"])
def test_a_record_is_noted_beside_whatever_was_planted_for_it(spool, entry, canary, kind):
    new = entry.directory / "record.json.new"
    match kind:
        case "link":
            new.symlink_to(canary)
        case "hard link":
            os.link(canary, new)
        case "FIFO":
            os.mkfifo(new)
        case _:
            new.write_text("half a rec")

    spool.note(entry, entry.record())

    assert entry.record().path == "a.txt"
    assert not (entry.directory / "record.json").is_symlink()
    assert sorted(os.listdir(entry.directory))[:1] == ["data"]
    assert not os.path.lexists(new)


def test_a_link_in_place_of_the_cancellation_is_not_followed(entry, canary):
    (entry.directory / "cancelled").symlink_to(canary.parent / "new")

    assert entry.cancel()
    assert entry.is_cancelled


@pytest.mark.parametrize("plant", [lambda path, canary: path.symlink_to(canary), lambda path, canary: os.mkfifo(path)])
def test_bytes_behind_a_link_or_a_fifo_are_gone(entry, canary, plant):
    (entry.directory / "data").unlink()
    plant(entry.directory / "data", canary)

    with pytest.raises(FileNotFoundError):
        entry.open()
    with pytest.raises(FileNotFoundError):
        entry.stat()


@pytest.mark.parametrize("plant", [lambda path, canary: path.symlink_to(canary), lambda path, canary: os.mkfifo(path)])
def test_a_record_behind_a_link_or_a_fifo_keeps_no_other(spool, entry, canary, plant):
    spool.add(io.BytesIO(b"other"), "b.txt")
    (entry.directory / "record.json").unlink()
    plant(entry.directory / "record.json", canary)

    assert [record.path for _, record in spool.entries()] == ["b.txt"]
    assert spool.damaged() == [entry.directory]


def test_an_upload_whose_directory_became_a_link_has_left_the_spool(spool, entry, canary):
    entry.directory.rename(entry.directory.with_name(".moved"))
    entry.directory.symlink_to(canary.parent)

    assert spool.find("a.txt") is None
    assert entry.mark() is None
    assert not entry.cancel()
    with pytest.raises(FileNotFoundError):
        entry.record()
    with pytest.raises(FileNotFoundError):
        spool.note(entry, SOME_RECORD)
    spool.give_up(entry)
    spool.remove(entry)


@pytest.mark.parametrize("name", [".process-0123", ".new-0123-process", ".new-0123-456", ".done-0123"])
@pytest.mark.parametrize("kind", ["file", "directory", "FIFO", "own directory"])
def test_sweeping_deletes_links_and_fifos_themselves_and_never_waits(spool, entry, canary, name, kind):
    planted = spool.root / name
    if kind == "FIFO":
        os.mkfifo(planted)
        os.utime(planted, (0, 0))
    elif kind == "own directory":
        planted.mkdir()
    else:
        planted.symlink_to(canary if kind == "file" else canary.parent)
        os.utime(planted, (0, 0), follow_symlinks=False)

    spool.sweep()

    assert not os.path.lexists(planted)
    assert [record.path for _, record in spool.entries()] == ["a.txt"]


def test_a_sign_of_life_that_is_a_link_is_none(spool, entry, canary, root):
    other = Spool(root, spool.service, fsync=False)
    os.rename(entry.directory / entry.mark(), entry.directory / "owner-0123")
    (root / ".process-0123").symlink_to(canary)

    assert other.claim(entry)
    other.leave()


def test_a_received_upload_is_published_in_its_own_directory(spool, staging):
    received = ReceivedFile(spool.stage)
    received.write(b"x" * 300_000)

    entry, _ = spool.add(received, "large.bin")

    assert entry.stat().st_size == 300_000
    assert entry.stat().st_nlink == 1
    assert (entry.directory / "data").stat().st_mode & 0o777 == 0o600
    received.close()
