"""Collisions are found exactly: beside a brute-force search, in one part and in many, with every scheme."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemap.census import collide
from fusemap.census.collide import HARMS, find
from fusemap.census.numbers import SCHEMES, Numbering, numbering
from fusemap.census.spill import Rows, Spill
from fusemap.qid import Allocator, Mapper, decode

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


def paths_of(mapper: Mapper, files: Iterable[File]) -> list[int]:
    """What the mapper says; 0 for numbers of the full map."""
    paths = [mapper.path(f"device {file.device}", file.inode) for file in files]
    if mapper.mode == "prefix":
        return [path if path >> 48 else 0 for path in paths]
    return paths if mapper.mode == "raw" else [path if decode(path, mapper.k)[0] < 65536 else 0 for path in paths]


@given(files=FILES, scheme=st.sampled_from(SCHEMES), part=st.sampled_from([3, 10, 1 << 20]))
def test_every_collision_is_found_and_none_is_made_up(
    files: list[tuple[int, int, bool]], scheme: str, part: int
) -> None:
    given_files = told(files)
    with Spill() as spill:
        rows = spilled(spill, given_files)
        numbers = numbering(scheme, tops_of(rows, DEVICES))
        told_numbers = list(zip(given_files, numbers_of(rows, numbers), strict=True))
        compared = [(file, number) for file, number in told_numbers if number or not numbers.own]
        expected = grouped([file for file, _ in compared], [number for _, number in compared])
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
    alone = {file[:2] for file, number in told_numbers if not number and numbers.own}
    assert result.own == len(alone)
    assert result.again == len(compared) - len({file[:2] for file, _ in compared})
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
    assert numbers == paths_of(mapper, given_files)


@given(files=FILES, scheme=st.sampled_from(["prefix", "qemu", "suffix"]), start=st.integers(65520, 65536))
def test_numbers_are_a_mappers_when_affixes_run_out(
    files: list[tuple[int, int, bool]], scheme: str, start: int
) -> None:
    given_files = told(files)
    with Spill() as spill:
        rows = spilled(spill, given_files)
        mapper = Mapper(scheme, source=Allocator(start))
        numbers = numbers_of(rows, numbering(scheme, tops_of(rows, DEVICES), mapper))
    assert numbers == paths_of(mapper, given_files)


@given(files=FILES, start=st.integers(65530, 65536))
def test_numbers_of_a_table_are_kept(files: list[tuple[int, int, bool]], start: int) -> None:
    given_files = told(files)
    before = Mapper(source=Allocator(start))
    known = {file: before.path(f"device {file.device}", file.inode) for file in reversed(given_files)}
    with Spill() as spill:
        rows = spilled(spill, given_files)
        mapper = Mapper("suffix", entries=[*before.entries(), *before.full()], source=Allocator(start))
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


COUNT = 4000


@pytest.mark.parametrize("scheme", ["prefix", "qemu", "suffix"])
@pytest.mark.parametrize("part", [900, 1 << 20])
def test_no_memory_goes_to_files_of_the_full_map(scheme: str, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    count = collide._distinct
    monkeypatch.setattr(collide, "_distinct", lambda device, inode: at_once.append(len(device)) or count(device, inode))
    chance = random.Random(7)
    files = [File(number % 2, chance.getrandbits(64)) for number in range(COUNT)]
    with Spill() as spill:
        rows = spilled(spill, [*files, *files])  # each has two names
        mapper = Mapper(scheme, source=Allocator(65000))
        numbers = numbering(scheme, tops_of(rows, 2), mapper)
        result = find(rows, numbers, 2, True, part=part)
        result.close()
    assert mapper.full_used() <= 1
    assert max(at_once) < 2 * part
    alone = sum(not path for path in paths_of(mapper, files))
    assert mapper.used() == 536 if scheme != "qemu" else mapper.used() <= 536
    assert COUNT // 2 < alone == result.own
    assert not result.pairs


@pytest.mark.parametrize("scheme", ["prefix", "qemu", "suffix"])
def test_how_many_numbers_the_full_map_has_left(scheme: str) -> None:
    last = (1 << 48) - 1 if scheme == "prefix" else (1 << 31) - 1
    files = [File(0, top << 48 | low) for top in range(3, 65535, 7000) for low in (5, 6)]
    for counter in (last - 3, last, last + 1):
        with Spill() as spill:
            rows = spilled(spill, files)
            numbers = numbering(scheme, tops_of(rows, 1), Mapper(scheme, source=Allocator(65536, counter)))
            assert numbers_of(rows, numbers) == [0] * len(files)
            assert numbers.room() == last + 1 - counter


def test_a_reserved_number_needs_the_full_map() -> None:
    with Spill() as spill:
        rows = spilled(spill, [File(0, 0), File(0, 5)])
        numbers = numbering("suffix", tops_of(rows, 1), Mapper())
        assert numbers.room() is None
        assert numbers_of(rows, numbers) == [0, 11]
        assert numbers.room() == (1 << 31) - 1
