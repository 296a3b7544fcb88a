"""A staged file is out of sight until it is published, and gone if it never is."""

from __future__ import annotations

import errno
import os

import pytest

from flask_store.stores.staging import STAGED_PREFIX, make_directories, staged


def test_it_can_be_seen_under_no_name_of_the_store_until_it_is_published(tmp_path, staging):
    with staged(tmp_path) as file:
        file.stream.write(b"whole")
        before = os.listdir(tmp_path)
        file.finish(0o600, fsync=False)
        file.publish("a.txt")

    assert all(name.startswith(STAGED_PREFIX) for name in before)
    assert len(before) == (1 if staging else 0)
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"whole"


def test_it_replaces_nothing_and_can_be_published_under_another_name(tmp_path, staging):
    (tmp_path / "a.txt").write_bytes(b"first")

    with staged(tmp_path) as file:
        file.stream.write(b"second")
        file.finish(0o600, fsync=False)
        with pytest.raises(FileExistsError):
            file.publish("a.txt")
        file.publish("b.txt")

    assert (tmp_path / "a.txt").read_bytes() == b"first"
    assert (tmp_path / "b.txt").read_bytes() == b"second"


def test_what_is_not_published_is_gone(tmp_path, staging):
    with staged(tmp_path) as file:
        file.stream.write(b"given up")

    assert os.listdir(tmp_path) == []
    assert file.stream.closed


def test_while_it_is_written_it_is_its_owners_alone(tmp_path, staging):
    with staged(tmp_path) as file:
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

    with staged(tmp_path) as file:
        file.stream.write(b"whole")
        assert len(os.listdir(tmp_path)) == 1
        file.finish(0o600, fsync=False)
        file.publish("a.txt")

    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"whole"


def test_directories_are_made_and_told_from_the_highest_down(tmp_path):
    (tmp_path / "there").mkdir()

    made = make_directories(tmp_path / "there" / "a" / "b", 0o750)

    assert made == [tmp_path / "there" / "a", tmp_path / "there" / "a" / "b"]
    assert make_directories(tmp_path / "there" / "a" / "b", 0o750) == []


def test_a_file_in_the_way_of_a_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(FileExistsError):
        make_directories(tmp_path / "file", 0o755)
