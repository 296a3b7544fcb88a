"""Uploads in parts: how they are divided. What becomes of them at a server is in ``test_s3_faults.py``."""

from __future__ import annotations

import pytest

from flask_store.stores.multipart import part_ranges

MIB, GIB, TIB = 2**20, 2**30, 2**40


@pytest.mark.parametrize("size", [5 * MIB + 1, 10 * MIB, 48 * GIB, 5 * TIB - 1, 5 * TIB])
def test_the_parts_of_any_size_are_ones_that_s3_takes(size):
    parts = list(part_ranges(size))

    numbers, starts, sizes = zip(*parts, strict=True)
    ends = [start + part_size for start, part_size in zip(starts, sizes, strict=True)]
    assert numbers == tuple(range(1, len(parts) + 1))
    assert len(parts) <= 10_000
    assert [*starts, size] == [0, *ends]
    assert all(5 * MIB <= part_size <= 5 * GIB for part_size in sizes[:-1])
    assert 0 < sizes[-1] <= 5 * GIB
