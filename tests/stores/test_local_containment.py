"""Nothing leads LocalStore out of its directory or to what is no stored file: no name, no link, no special file."""

from __future__ import annotations

import errno
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_store import InvalidNameError, NotFoundError, ServiceError, StoreFile
from flask_store.stores.local import LocalStore

CANARY = b"not in the store"


@pytest.fixture
def outside(tmp_path):
    """A directory beside the store, with a file that no visitor may read, change or delete."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "canary.txt").write_bytes(CANARY)
    yield directory
    assert (directory / "canary.txt").read_bytes() == CANARY
    assert os.listdir(directory) == ["canary.txt"]


@pytest.fixture
def filled(root, outside):
    """The root of a store with everything in it that is no stored file, and a few that are."""
    for path in ("plain.txt", "photos/a.txt", "photos/2026/b.txt", "photos-old/c.txt", ".hidden/d.txt"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    (root / ".env").write_bytes(b"secret")
    (root / ".staged").mkdir()
    (root / ".staged" / "0123456789").write_bytes(b"half a file")
    (root / "unclean .txt").mkdir()
    (root / "unclean .txt" / "e.txt").write_bytes(b"")
    (root / "con.txt").write_bytes(b"")
    (root / "nu\nl.txt").write_bytes(b"")
    (root / unicodedata.normalize("NFD", "é.txt")).write_bytes(b"")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff.txt")).write_bytes(b"")
    os.mkfifo(root / "fifo.txt")
    (root / "file-out.txt").symlink_to(outside / "canary.txt")
    (root / "directory-out").symlink_to(outside)
    (root / "to-nowhere.txt").symlink_to(outside / "new.txt")
    (root / "to-itself.txt").symlink_to("to-itself.txt")
    (root / "to-hidden.txt").symlink_to(".env")
    (root / "inside.txt").symlink_to("plain.txt")
    (root / "inside").symlink_to("photos")
    return root


LINKS_OUT = ["file-out.txt", "to-nowhere.txt", "directory-out/canary.txt", "to-hidden.txt"]
NO_FILES = [
    "fifo.txt",
    "photos",
    "photos/2026",
    "to-itself.txt",
    "plain.txt/below.txt",
    "missing/below.txt",
    "a/" * 3000 + "a",
]


@pytest.mark.parametrize("verb", ["open", "stat", "path_for"])
@pytest.mark.parametrize("name", LINKS_OUT)
def test_a_link_that_leads_out_is_refused(store, filled, verb, name):
    with pytest.raises(InvalidNameError, match="symbolic link leads it"):
        getattr(store, verb)(name)


@pytest.mark.parametrize("name", LINKS_OUT)
def test_a_link_that_leads_out_is_no_file_of_the_store(store, filled, name):
    assert store.exists(name) is False


@pytest.mark.parametrize("name", NO_FILES, ids=lambda name: name[:20])
def test_what_is_no_regular_file_is_not_found(store, filled, name):
    assert store.exists(name) is False
    for verb in (store.open, store.stat):
        with pytest.raises(NotFoundError):
            verb(name)


@pytest.mark.parametrize("name", [".env", ".hidden/d.txt", ".staged/0123456789", "unclean .txt/e.txt", "con.txt"])
def test_a_file_whose_name_no_store_gives_is_out_of_reach(store, filled, name):
    for verb in (store.exists, store.open, store.stat, store.delete, store.path_for):
        with pytest.raises(InvalidNameError):
            verb(name)

    assert (filled / name).exists()


@pytest.mark.parametrize("name", ["file-out.txt", "to-nowhere.txt", "to-itself.txt", "inside.txt"])
def test_delete_of_a_link_deletes_only_the_link(store, filled, name):
    store.delete(name)

    assert not (filled / name).is_symlink()
    assert (filled / "plain.txt").exists()


def test_delete_does_not_follow_a_linked_directory_out(store, filled):
    with pytest.raises(InvalidNameError):
        store.delete("directory-out/canary.txt")


@pytest.mark.parametrize("name", ["photos", "photos/2026", "directory-out", "inside"])
def test_delete_of_a_directory_leaves_the_files_in_it(store, filled, name):
    store.delete(name)

    assert (filled / "photos" / "2026" / "b.txt").read_bytes() == b"photos/2026/b.txt"


def test_a_link_that_stays_inside_is_followed(store, filled):
    assert store.stat("inside.txt").size == len(b"plain.txt")
    with store.open("inside/2026/b.txt") as stream:
        assert stream.read() == b"photos/2026/b.txt"


@pytest.mark.parametrize("destination", ["directory-out", "directory-out/new"])
def test_a_destination_that_leads_out_is_refused(app, filled, upload, destination):
    store = LocalStore(destination=destination)

    with pytest.raises(InvalidNameError):
        store.save(upload())
    with pytest.raises(InvalidNameError):
        list(store.list())
    with pytest.raises(InvalidNameError):
        store.delete("canary.txt")


def test_a_name_behind_a_link_to_nowhere_is_never_written(store, filled, upload, outside):
    saved = store.save(upload(filename="to-nowhere.txt"))

    assert saved.filename != "to-nowhere.txt"
    assert saved.exists()


def test_list_yields_stored_files_alone_in_the_order_of_their_paths(store, filled):
    assert [str(file) for file in store.list()] == [
        "photos-old/c.txt",
        "photos/2026/b.txt",
        "photos/a.txt",
        "plain.txt",
    ]


@pytest.mark.parametrize(
    ("prefix", "paths"),
    [
        ("p", ["photos-old/c.txt", "photos/2026/b.txt", "photos/a.txt", "plain.txt"]),
        ("photos", ["photos-old/c.txt", "photos/2026/b.txt", "photos/a.txt"]),
        ("photos/", ["photos/2026/b.txt", "photos/a.txt"]),
        ("photos/2", ["photos/2026/b.txt"]),
        ("photos/2026/b.txt", ["photos/2026/b.txt"]),
        ("plain.txt", ["plain.txt"]),
        ("plain.txt/", []),
        ("P", []),
        ("missing/", []),
        (".", []),
        ("file-out", []),
    ],
)
def test_list_yields_the_files_whose_path_starts_with_the_prefix(store, filled, prefix, paths):
    assert [str(file) for file in store.list(prefix)] == paths


def test_list_is_about_the_destination_and_its_files_know_their_own(app, filled):
    files = list(LocalStore(destination="photos").list("2026/"))

    assert files == [StoreFile("b.txt", "photos/2026")]
    assert files[0].size == len(b"photos/2026/b.txt")


def test_exists_does_not_say_no_where_it_cannot_tell(store, root, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr("os.stat", refuse)

    with pytest.raises(ServiceError):
        store.exists("photo.jpg")


@pytest.mark.parametrize("prefix", ["/plain", "../", "photos/../../outside/", "a//b", "directory-out/"])
def test_list_does_not_look_outside(store, filled, prefix):
    with pytest.raises(InvalidNameError):
        list(store.list(prefix))


@pytest.mark.parametrize("place", ["/absolute", "..", "../outside", "a/../../outside", "a\0b", "~root/../..", ""])
def test_a_store_file_made_by_hand_cannot_leave_the_store(app, outside, place):
    for filename, destination in ((f"{place}/canary.txt", None), ("canary.txt", f"{place}/..")):
        with pytest.raises(InvalidNameError):
            StoreFile(filename, destination)


parts = st.text(st.one_of(st.sampled_from("./\\~a:\0"), st.characters(exclude_categories=["Cs"])), max_size=12)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(parts, min_size=1, max_size=4))
def test_join_stays_below_its_first_part_or_refuses(store, names):
    try:
        joined = store.join(store.store_path, *names)
    except InvalidNameError:
        return
    assert Path(os.path.normpath(joined)).is_relative_to(store.store_path)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(parts, min_size=1, max_size=4).map("/".join))
def test_a_path_on_disk_is_strictly_below_the_root_or_refused(store, path):
    try:
        place = store.path_for(path)
    except InvalidNameError:
        return
    assert Path(os.path.normpath(place)).is_relative_to(store.root)
    assert Path(os.path.normpath(place)) != store.root
