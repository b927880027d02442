"""Exhibits give the numbers that others give."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh32_intdigest, xxh64_intdigest

from fusemap.census.census import expected_pairs
from fusemap.census.hashes import xxh32, xxh64
from fusemap.census.numbers import numbering
from fusemap.census.spill import Spill

from .made import File, spilled, tops_of

U64 = st.integers(0, (1 << 64) - 1)


@given(pairs=st.lists(st.tuples(U64, U64), min_size=1))
def test_hashes_are_the_librarys(pairs: list[tuple[int, int]]) -> None:
    device, inode = (np.array(column, dtype=np.uint64) for column in zip(*pairs, strict=True))
    keys = [struct.pack("<QQ", *pair) for pair in pairs]
    assert xxh64(device, inode).tolist() == [xxh64_intdigest(key) for key in keys]
    assert xxh32(device, inode).tolist() == [xxh32_intdigest(key) for key in keys]


def numbers(scheme: str, *files: File) -> list[int]:
    with Spill() as spill:
        rows = spilled(spill, files)
        of = numbering(scheme, tops_of(rows, 2))
        return [number for chunk in rows.chunks() for number in of(chunk).tolist()]


def test_samba_folds_all_but_the_shares_own_device() -> None:
    high = 1 << 32 | 2
    assert numbers("samba", File(0, high), File(1, 2), File(1, high)) == [high, 41 << 32 | 2, 41 << 32 | 2]


def test_xor() -> None:
    assert numbers("xor", File(0, 5), File(1, 4)) == [40 ^ 5, 41 ^ 4]


def test_the_birthday_estimate() -> None:
    assert expected_pairs(0, 64) == expected_pairs(1, 32) == 0
    assert expected_pairs(1 << 16, 32) == ((1 << 16) - 1) / (1 << 17)
