"""A staged file is out of sight until it is published, and gone if it never is."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from werkzeug.datastructures import FileStorage

from flask_store import Provider, ServiceError
from flask_store.stores.staging import STAGING_DIRECTORY, StagedFile, copy_stream, make_directories

LARGE = bytes(range(256)) * 1200


def files_below(directory):
    return sorted(path for path in Path(directory).rglob("*") if path.is_file())


def content_of(saved):
    with saved.open() as stream:
        return stream.read()


def test_it_can_be_seen_under_no_name_of_the_store_until_it_is_published(tmp_path, staging):
    with closing(StagedFile(tmp_path)) as file:
        file.stream.write(b"whole")
        before = files_below(tmp_path)
        file.finish(0o600, fsync=False)
        file.publish(tmp_path / "a.txt")

    assert [path.parent.name for path in before] == ([STAGING_DIRECTORY] if staging else [])
    assert files_below(tmp_path) == [tmp_path / "a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"whole"


def test_it_replaces_nothing_and_can_be_published_under_another_name(tmp_path, staging):
    (tmp_path / "a.txt").write_bytes(b"first")

    with closing(StagedFile(tmp_path)) as file:
        file.stream.write(b"second")
        file.finish(0o600, fsync=False)
        with pytest.raises(FileExistsError):
            file.publish(tmp_path / "a.txt")
        file.publish(tmp_path / "b.txt")

    assert (tmp_path / "a.txt").read_bytes() == b"first"
    assert (tmp_path / "b.txt").read_bytes() == b"second"


def test_what_is_not_published_is_gone(tmp_path, staging):
    with closing(StagedFile(tmp_path)) as file:
        file.stream.write(b"given up")

    assert files_below(tmp_path) == []
    assert file.stream.closed


def test_while_it_is_written_it_is_its_owners_alone(tmp_path, staging):
    with closing(StagedFile(tmp_path)) as file:
        mode = os.fstat(file.stream.fileno()).st_mode

    assert mode & 0o077 == 0


@pytest.mark.parametrize("answer", [errno.EOPNOTSUPP, errno.EISDIR])
def test_a_file_system_without_unnamed_files_gets_a_named_one(tmp_path, monkeypatch, answer):
    """As NFS answers, and a kernel that does not know the flag."""
    open_ = os.open

    def refuse_unnamed(path, flags, *args, **kwargs):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(answer, os.strerror(answer), str(path))
        return open_(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse_unnamed)

    with closing(StagedFile(tmp_path)) as file:
        file.stream.write(b"whole")
        assert len(files_below(tmp_path)) == 1
        file.finish(0o600, fsync=False)
        file.publish(tmp_path / "a.txt")

    assert files_below(tmp_path) == [tmp_path / "a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"whole"


def test_missing_directories_are_made_with_their_bits_and_others_left_alone(tmp_path):
    (tmp_path / "there").mkdir(0o700)

    make_directories(tmp_path / "there" / "a" / "b", 0o750)
    make_directories(tmp_path / "there" / "a", 0o755)

    modes = [(tmp_path / path).stat().st_mode & 0o777 for path in ("there", "there/a", "there/a/b")]
    assert modes == [0o700, 0o750, 0o750]


def test_a_directory_inherits_that_files_get_its_group(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2775)

    make_directories(tmp_path / "shared" / "a" / "b", 0o755)

    assert (tmp_path / "shared" / "a" / "b").stat().st_mode & 0o7777 == 0o2755


def test_a_file_in_the_way_of_a_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(FileExistsError, match="file") as caught:
        make_directories(tmp_path / "file" / "a" / "b", 0o755)

    assert caught.value.filename == str(tmp_path / "file")


class TestWithoutUnnamedFiles:
    @pytest.fixture
    def directory(self, tmp_path, monkeypatch):
        monkeypatch.setattr("os.O_TMPFILE", 0, raising=False)
        return tmp_path

    def test_a_staged_file_is_hidden_until_it_is_published(self, directory):
        file = StagedFile(directory)
        file.stream.write(b"content")

        assert [path.parent.name for path in files_below(directory)] == [STAGING_DIRECTORY]
        file.finish(0o644, fsync=True)
        file.publish(directory / "a.txt")
        file.close()
        assert files_below(directory) == [directory / "a.txt"]

    def test_what_a_crash_left_is_deleted_by_the_next_file(self, directory):
        abandoned = directory / STAGING_DIRECTORY / "abandoned"
        abandoned.parent.mkdir()
        abandoned.write_bytes(b"half")
        os.utime(abandoned, (0, 0))

        StagedFile(directory).close()

        assert files_below(directory) == []

    def test_what_is_still_being_written_is_not_deleted(self, directory):
        slow = StagedFile(directory)
        os.utime(slow.path, (0, 0))

        StagedFile(directory).close()

        assert slow.path.exists()
        slow.close()
        assert not slow.path.exists()

    def test_what_another_process_is_writing_is_not_deleted(self, directory):
        program = (
            "import os, sys, pathlib; os.O_TMPFILE = 0\n"
            "from flask_store.stores.staging import StagedFile\n"
            "file = StagedFile(pathlib.Path(sys.argv[1]))\n"
            "print(file.path, flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", program, directory]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            path = Path(other.stdout.readline().strip())
            os.utime(path, (0, 0))
            StagedFile(directory).close()
            alive = path.exists()
            other.kill()
        StagedFile(directory).close()

        assert alive
        assert not path.exists()

    def test_a_recent_file_is_not_taken_for_abandoned(self, directory):
        recent = directory / STAGING_DIRECTORY / "recent"
        recent.parent.mkdir()
        recent.write_bytes(b"")

        StagedFile(directory).close()

        assert recent.exists()

    @pytest.fixture
    def no_hard_links(self, directory, monkeypatch):
        """As on FAT."""

        def link(*arguments, **options):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr("os.link", link)

    def test_without_hard_links_a_file_is_renamed_and_replaces_nothing(self, app, no_hard_links, upload):
        first = Provider().save(upload(b"first"))
        second = Provider().save(upload(b"second"))

        assert first != second
        assert (content_of(first), content_of(second)) == (b"first", b"second")

    def test_a_file_system_with_neither_is_an_error_that_leaves_nothing(
        self, app, no_hard_links, monkeypatch, upload, root
    ):
        monkeypatch.setattr("ctypes.CDLL", lambda *arguments, **options: object())

        with pytest.raises(ServiceError, match="no exclusive rename"):
            Provider().save(upload())

        assert files_below(root) == []


class TestCopies:
    @pytest.fixture
    def target(self, tmp_path):
        with (tmp_path / "target").open("w+b") as file:
            yield file

    def copied(self, source, target):
        copy_stream(source, target.fileno())
        target.seek(0)
        return target.read()

    def test_a_spooled_file_in_memory_stays_there(self, target):
        with tempfile.SpooledTemporaryFile(max_size=2 * len(LARGE)) as source:
            source.write(LARGE)

            assert self.copied(source, target) == LARGE
            assert not source._rolled

    def test_a_large_file_is_copied_by_the_kernel(self, target, monkeypatch):
        monkeypatch.setattr("os.write", lambda *arguments: pytest.fail("copied through memory"))
        with tempfile.SpooledTemporaryFile(max_size=1000) as source:
            source.write(LARGE * 4)
            source.read()

            assert self.copied(source, target) == LARGE * 4

    @pytest.mark.parametrize("missing", [["copy_file_range"], ["copy_file_range", "sendfile"]])
    def test_a_kernel_that_cannot_copy_is_no_problem(self, target, monkeypatch, missing):
        def refuse(*arguments):
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        for name in missing:
            monkeypatch.setattr(f"os.{name}", refuse, raising=False)
        with tempfile.TemporaryFile() as source:
            source.write(LARGE)

            assert self.copied(source, target) == LARGE

    def test_a_file_that_tells_no_size_is_read(self, target, monkeypatch):
        """As of /proc, of which Linux before 5.19 says that it copied nothing."""
        for name in ("copy_file_range", "sendfile"):
            monkeypatch.setattr(f"os.{name}", lambda *arguments: 0, raising=False)
        with open("/proc/self/status", "rb") as source:
            assert self.copied(source, target).startswith(b"Name:")

    def test_what_decodes_a_file_is_read_not_copied_raw(self, target, tmp_path):
        with gzip.open(tmp_path / "packed.gz", "wb") as packed:
            packed.write(LARGE)
        with gzip.open(tmp_path / "packed.gz", "rb") as source:
            assert self.copied(source, target) == LARGE

    def test_a_file_storage_that_someone_else_made_is_copied(self, app, tmp_path):
        path = tmp_path / "large.bin"
        path.write_bytes(LARGE)
        with path.open("rb") as stream:
            saved = Provider().save(FileStorage(stream, "large.bin"))

        assert content_of(saved) == LARGE
        assert not path.samefile(saved.absolute_path())
