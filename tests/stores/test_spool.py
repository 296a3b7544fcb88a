"""The spool: never half an upload, and each in the hands of one process."""

from __future__ import annotations

import io
import shutil
import threading

import pytest

from flask_store.stores.spool import Spool

SERVICE = ("https://s3.example.com", "album")


@pytest.fixture
def make_spool(tmp_path):
    """Return a function that makes the spool as one more process sees it."""
    spools = []

    def make(service=SERVICE):
        spool = Spool(tmp_path / "spool", service, fsync=False)
        spools.append(spool)
        return spool

    yield make
    for spool in spools:
        spool.leave()


def add(spool, path="a.txt", content=b"content"):
    return spool.add(io.BytesIO(content), path)[0]


def test_what_is_added_is_found_by_any_process(make_spool):
    add(make_spool())

    entry = make_spool().find("a.txt")

    with entry.open() as stream:
        assert stream.read() == b"content"
    record = entry.record()
    assert (record.path, record.service) == ("a.txt", SERVICE)
    assert (record.attempts, record.failed) == (0, False)


def test_another_bucket_has_other_uploads(make_spool):
    add(make_spool())

    other = make_spool(("https://s3.example.com", "other"))

    assert other.find("a.txt") is None
    assert other.entries() == []


def test_entries_are_in_the_order_of_their_saving(make_spool):
    spool = make_spool()
    for key in ("c", "a", "b"):
        add(spool, key)

    assert [record.path for _, record in spool.entries()] == ["c", "a", "b"]


def test_a_stream_that_breaks_off_leaves_nothing(make_spool, tmp_path):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise ZeroDivisionError

    spool = make_spool()
    with pytest.raises(ZeroDivisionError):
        spool.add(Broken(), "a.txt")

    assert [path.name for path in (tmp_path / "spool").iterdir() if not path.name.startswith(".process-")] == []


def test_an_upload_of_a_living_process_cannot_be_claimed(make_spool):
    entry = add(make_spool())

    other = make_spool()

    assert not other.claim(entry)


@pytest.mark.parametrize("is_dead", [True, False])
def test_one_of_many_processes_claims_what_another_left_or_gave_up(make_spool, is_dead):
    other = make_spool()
    entries = [add(other, f"{number}.txt") for number in range(20)]
    if is_dead:
        other.leave()
    else:
        for entry in entries:
            other.give_up(entry)
    claims = []
    start = threading.Barrier(8)

    def claim():
        spool = make_spool()
        start.wait()
        claims.extend(entry.name for entry in entries if spool.claim(entry, with_given_up=True))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(claims) == sorted(entry.name for entry in entries)


def test_what_a_living_process_gave_up_can_be_had_on_request(make_spool):
    spool = make_spool()
    entry = add(spool)
    spool.give_up(entry)

    other, another = make_spool(), make_spool()

    assert not other.claim(entry)
    assert other.claim(entry, with_given_up=True)
    assert not another.claim(entry, with_given_up=True)


def test_cancelling_is_seen_until_the_upload_is_taken_out_and_after(make_spool):
    spool = make_spool()
    early, late, too_late = add(spool, "early"), add(spool, "late"), add(spool, "too late")

    assert early.cancel()
    spool.take_out(early)
    seen_by_another = make_spool().find("late")
    assert seen_by_another.cancel()
    spool.take_out(late)
    seen_by_another = make_spool().find("too late")
    spool.take_out(too_late)
    assert not seen_by_another.cancel()

    assert (early.is_cancelled, late.is_cancelled, too_late.is_cancelled) == (True, True, False)
    assert spool.find("early") is spool.find("late") is spool.find("too late") is None


def test_sweeping_deletes_what_the_dead_left_half_done_and_nothing_else(make_spool, tmp_path):
    root = tmp_path / "spool"
    living, dead = make_spool(), make_spool()
    add(living, "living")
    done, cancelled = add(dead, "done"), add(dead, "cancelled")
    add(dead, "whole")
    dead.take_out(done)
    cancelled.cancel()
    dead.take_out(cancelled)
    (root / f".new-{dead._token}-half").mkdir()
    (root / f".new-{living._token}-half").mkdir()
    dead.leave()

    make_spool().sweep()

    assert not done.directory.exists()
    assert cancelled.directory.exists()
    assert not (root / f".new-{dead._token}-half").exists()
    assert (root / f".new-{living._token}-half").exists()
    assert {record.path for _, record in living.entries()} == {"living", "whole", "cancelled"}
    assert [path.name for path in root.glob(".process-*")] == [f".process-{living._token}"]


def test_a_record_that_cannot_be_read_keeps_no_other(make_spool):
    spool = make_spool()
    damaged, whole = add(spool, "damaged"), add(spool, "whole")
    (damaged.directory / "record.json").write_text("{}")

    assert [record.path for _, record in spool.entries()] == ["whole"]
    assert spool.damaged() == [damaged.directory]
    assert whole.directory.exists()


def test_uploads_to_another_bucket_are_told_apart(make_spool):
    add(make_spool(), "a.txt")

    other = make_spool(("https://s3.example.com", "other"))

    assert [record.path for _, record in other.entries_elsewhere()] == ["a.txt"]


def test_a_spool_that_somebody_deletes_is_made_again(make_spool, tmp_path):
    spool, other = make_spool(), make_spool()
    add(spool, "before")
    shutil.rmtree(tmp_path / "spool")

    entry = add(spool, "after")

    assert not other.claim(entry)
