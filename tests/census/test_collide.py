"""Collisions are found exactly: beside a brute-force search, in one part and in many, with every scheme."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemap.census.collide import HARMS, find
from fusemap.census.numbers import SCHEMES, Numbering, numbering
from fusemap.census.spill import Rows, Spill
from fusemap.qid import Mapper

from .made import File, found, grouped, spilled, tops_of

DEVICES = 4
HIGH = st.sampled_from([0, 0, 0, 1, 0x80000000, 0x90000000, 0xC0000000, 0xFFFFFFFF, 0x00010000, 0x00000100])
INODES = st.builds(
    lambda high, low: high << 32 | low,
    HIGH,
    st.one_of(st.integers(0, 6), st.sampled_from([(1 << 32) - 1, (1 << 32) - 2, 1 << 31, 256])),
)
FILES = st.lists(st.tuples(st.integers(0, DEVICES - 1), INODES, st.booleans()), max_size=40)
ORACLE = Path(__file__).parents[1] / "qid" / "oracle"


def told(files: list[tuple[int, int, bool]]) -> list[File]:
    """Names of one file agree on what it is."""
    kinds: dict[tuple[int, int], bool] = {}
    return [File(device, inode, kinds.setdefault((device, inode), kind)) for device, inode, kind in files]


def numbers_of(rows: Rows, numbers: Numbering) -> list[int]:
    return [number for chunk in rows.chunks(7) for number in numbers(chunk).tolist()]


@given(files=FILES, scheme=st.sampled_from(SCHEMES), part=st.sampled_from([3, 10, 1 << 20]))
def test_every_collision_is_found_and_none_is_made_up(
    files: list[tuple[int, int, bool]], scheme: str, part: int
) -> None:
    given_files = told(files)
    with Spill() as spill:
        rows = spilled(spill, given_files)
        expected = grouped(given_files, numbers_of(rows, numbering(scheme, tops_of(rows, DEVICES))))
        result = found(rows, scheme, DEVICES, part)
        collisions = list(result.collisions(rows))
        result.close()
    seen = [
        (number, harm, frozenset((member.device, member.inode) for member in members))
        for number, harm, members in collisions
    ]
    assert len(seen) == len(expected)
    assert set(seen) == expected
    degrees = [HARMS.index(collision.harm) for collision in collisions]
    assert all(one <= two for one, two in pairwise(degrees))
    for harm in HARMS:
        assert result.groups[harm] == sum(group[1] == harm for group in expected)
        assert result.files[harm] == sum(len(group[2]) for group in expected if group[1] == harm)
    assert result.pairs == sum(len(group[2]) * (len(group[2]) - 1) // 2 for group in expected)
    assert len(rows) - result.again == len({file[:2] for file in given_files})
    for number, harm, members in collisions:
        assert number >= 0
        assert harm in HARMS
        for member in members:  # the path is that of the file
            position = int(member.path.split(b"/")[1])
            assert given_files[position] == (member.device, member.inode, member.directory)
    if scheme in ("suffix", "prefix"):
        assert not seen


@given(files=FILES, scheme=st.sampled_from(["raw", "prefix", "qemu", "suffix"]))
def test_numbers_are_a_mappers(files: list[tuple[int, int, bool]], scheme: str) -> None:
    given_files = told(files)
    with Spill() as spill:
        rows = spilled(spill, given_files)
        mapper = Mapper(scheme)
        numbers = numbers_of(rows, numbering(scheme, tops_of(rows, DEVICES), mapper))
    assert numbers == [mapper.path(f"device {file.device}", file.inode) for file in given_files]


@given(files=FILES)
def test_suffixes_of_a_table_are_kept(files: list[tuple[int, int, bool]]) -> None:
    given_files = told(files)
    before = Mapper()
    known = {file: before.path(f"device {file.device}", file.inode) for file in reversed(given_files)}
    with Spill() as spill:
        rows = spilled(spill, given_files)
        mapper = Mapper("suffix", entries=[*before.entries(), *before.full()])
        numbers = numbers_of(rows, numbering("suffix", tops_of(rows, DEVICES), mapper))
    assert numbers == [known[file] for file in given_files]


def test_qemus_own_collision() -> None:
    recorded = json.loads((ORACLE / "qemu-remap-collision.json").read_text())["rows"]
    files = [File(row["dev"], row["ino"]) for row in recorded]
    with Spill() as spill:
        rows = spilled(spill, files)
        result = found(rows, "qemu", 2)
        (collision,) = result.collisions(rows)
        result.close()
        assert not found(rows, "suffix", 2).pairs
    assert (collision.number, collision.harm) == (164, "mixed")
    assert [member.inode for member in collision.members] == [0x8000000000000005, 0x9000000000000005]


def test_one_file_of_many_names_does_not_collide() -> None:
    with Spill() as spill:
        rows = spilled(spill, [File(0, 12)] * 5 + [File(0, 13, True)] * 2)
        result = found(rows, "raw", 1)
        assert (result.pairs, result.again, result.again_on.tolist()) == (0, 5, [5])


def test_an_empty_tree_and_an_unknown_scheme() -> None:
    with Spill() as spill:
        rows = spill.rows_of()
        assert not list(rows.chunks())
        assert find(rows, numbering("raw", []), 0, True).pairs == 0
    with pytest.raises(ValueError, match="scheme"):
        numbering("nonsense", [])
    with pytest.raises(ValueError, match="mode"):
        numbering("suffix", [], Mapper("qemu"))


def test_when_affixes_run_out_every_file_has_a_number_of_its_own() -> None:
    files = [File(0, top << 48 | low) for top in range(3, 65535, 7000) for low in (5, 6)]
    with Spill() as spill:
        rows = spilled(spill, files)
        mapper = Mapper("suffix", entries=[Mapper().entry(n, f"other {n}", 0) for n in range(1, 65534)])
        numbers = numbers_of(rows, numbering("suffix", tops_of(rows, 1), mapper))
    assert len(set(numbers)) == len(files)
    assert numbers == [mapper.path("device 0", file.inode) for file in files]
    assert mapper.full_used() >= len(files) - 4
