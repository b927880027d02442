"""Records from elsewhere: what `learn` takes and refuses, and a table that several mappers share."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemap.errors import MappingExhausted
from fusemap.qid import Allocator, Build, Entry, FullEntry, Learn, Mapper, Record, suffix

from .strategies import devices, files, inodes, orders, starts

REMAPPING = ["prefix", "qemu", "suffix"]

Files = list[tuple[Hashable, int]]


def records(mapper: Mapper) -> list[Record]:
    return [*mapper.entries(), *mapper.full()]


@pytest.mark.parametrize("mode", REMAPPING)
@given(files=files, k=orders, start=starts, full_first=st.booleans())
def test_a_mapper_that_learns_everything_gives_equal_numbers(
    mode: str, files: Files, k: int, start: int, full_first: bool
) -> None:
    first = Mapper(mode, k, source=Allocator(index=start))
    paths = [first.path(*file) for file in files]
    known: list[Record] = [*first.full(), *first.entries()] if full_first else records(first)
    second = Mapper(mode, k, known)
    assert [second.peek(*file) for file in files] == paths
    assert [second.path(*file) for file in files] == paths
    assert list(second.entries()) == list(first.entries())
    assert list(second.full()) == list(first.full())
    assert [second.locate(path) for path in paths] == [first.locate(path) for path in paths]
    for record in known:
        second.learn(record)  # twice does no harm
    assert len(records(second)) == len(known)


@pytest.mark.parametrize("mode", ["prefix", "suffix"])
@given(old=files, new=files, k=orders, start=starts)
def test_what_comes_after_learning_collides_with_nothing(
    mode: str, old: Files, new: Files, k: int, start: int
) -> None:
    first = Mapper(mode, k, source=Allocator(index=start))
    paths = {file: first.path(*file) for file in old}
    second = Mapper(mode, k, records(first))
    for file in new:
        path = second.path(*file)
        assert paths.setdefault(file, path) == path
    assert len(set(paths.values())) == len(paths)


class Table:
    """What processes share: the records in their order. It skips every other index, as if it were retired."""

    def __init__(self, index: int) -> None:
        self.records: list[Record] = []
        self.index = index
        self.counter = 1


class Process(Allocator):
    """One process's view of a table. A real one locks around `allocate` and reads and writes a file."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table
        self.read = 0

    def allocate(self, device: Hashable, build: Build, learn: Learn) -> None:
        for record in self.table.records[self.read :]:
            learn(record)
        made = build(self.table.index, self.table.counter)
        if made is not None:
            self.table.records.append(made)
            if isinstance(made, Entry):
                self.table.index += 2
            else:
                self.table.counter = made.counter + 1
            learn(made)
        self.read = len(self.table.records)

    def note(self, record: Record) -> None:
        pass


@pytest.mark.parametrize("mode", REMAPPING)
@given(asked=st.lists(st.tuples(st.integers(0, 2), devices, inodes), max_size=60), k=orders, start=starts)
def test_processes_that_share_a_table_agree(
    mode: str, asked: list[tuple[int, Hashable, int]], k: int, start: int
) -> None:
    table = Table(start)
    mappers = [Mapper(mode, k, source=Process(table)) for _ in range(3)]
    paths: dict[tuple[Hashable, int], int] = {}
    for who, device, inode in asked:
        path = mappers[who].path(device, inode)
        assert paths.setdefault((device, inode), path) == path
    if mode != "qemu":
        assert len(set(paths.values())) == len(paths)
    late = Mapper(mode, k, table.records, source=Process(table))
    for file, path in paths.items():
        assert late.peek(*file) == path
        for mapper in mappers:
            assert mapper.path(*file) == path
            assert mapper.locate(path) == late.locate(path)
    assert len(table.records) == late.used() + late.full_used()


def test_an_allocator_that_swallows_records_is_found_out() -> None:
    class Broken(Allocator):
        def allocate(self, device: Hashable, build: Build, learn: Learn) -> None:
            build(1, 1)

    with pytest.raises(RuntimeError, match="did not pass on"):
        Mapper(source=Broken()).path("d", 5)


def test_an_index_too_short_for_the_device_is_refused_before_it_is_stored() -> None:
    table = Table(index=9)
    mapper = Mapper(source=Process(table))
    mapper.path("d", 5)
    table.index = 2  # an index of a device that is gone
    with pytest.raises(ValueError, match="shorter than the 7 bits"):
        mapper.path("d", 1 << 63)
    assert len(table.records) == 1
    assert mapper.path("e", 5) == 5 << 3 | 0b010


@pytest.mark.parametrize("mode", REMAPPING)
def test_indices_that_come_free_again_renumber_nothing(mode: str) -> None:
    table = Table(index=65536)
    mapper = Mapper(mode, source=Process(table))
    paths = {("d", inode): mapper.path("d", inode) for inode in (5, 6)}
    table.index = 65533
    # The first three are the full map's neighbours, hence go there too; the others can have an entry.
    for file in (("d", 7), ("d", 0), ("d", 8), ("d", 1 << 48), ("d", 1 << 48 | 1), ("e", 5)):
        paths[file] = mapper.path(*file)
    assert len(set(paths.values())) == len(paths)
    assert [(entry.index, entry.device) for entry in mapper.entries()] == [(65533, "d"), (65535, "e")]
    assert mapper.full_used() == 5
    again = Mapper(mode, entries=table.records)
    for file, path in paths.items():
        assert mapper.path(*file) == again.peek(*file) == path
        assert mapper.locate(path) == file


def test_exhaustion_leaves_a_shared_table_as_it_was() -> None:
    table = Table(index=65536)
    table.counter = 2**31
    with pytest.raises(MappingExhausted):
        Mapper(source=Process(table)).path("d", 5)
    assert table.records == []


# What learn refuses. Known are entry 4 (5 bits, "d", key 0), entry 5 (5 bits, "e", key 3), and file 1 of "x".

REFUSED = [
    ("index of another device", lambda m: m.entry(4, "x", 0), "has the index of"),
    ("index with another key", lambda m: m.entry(4, "d", 1), "has the index of"),
    ("shorter affix", lambda m: m.entry(2, "d", 0b100), "shorter than the 5 bits"),
    ("same key", lambda m: m.entry(6, "d", 0), "covers inodes that"),
    ("longer key below", lambda m: m.entry(9, "e", 3 << 2 | 1), "covers inodes that"),
    ("key too wide", lambda m: m.entry(6, "d", 32), "more top bits"),
    ("negative key", lambda m: m.entry(6, "d", -1), "more top bits"),
    ("wrong length", lambda m: replace(m.entry(6, "d", 1), length=4), "not of mode suffix with k=0"),
    ("wrong affix", lambda m: replace(m.entry(6, "d", 1), affix=7), "not of mode suffix with k=0"),
    ("index 0", lambda m: Entry(0, "x", 1, 1, 0), "1 to 65536, not 0"),
    ("the full map's index", lambda m: Entry(65536, "x", 33, 65536, 0), "full map"),
    ("file that an entry serves", lambda m: FullEntry(1, "d", 5), "has a number already"),
    ("counter of another file", lambda m: FullEntry(7, "x", 2), "has the counter of"),
    ("file with two counters", lambda m: FullEntry(8, "x", 1), "has a number already"),
    ("counter 0", lambda m: FullEntry(0, "x", 2), "outside 1 to 2147483647"),
    ("counter too large", lambda m: FullEntry(1 << 31, "x", 2), "outside 1 to 2147483647"),
    ("inode too large", lambda m: FullEntry(8, "x", 1 << 64), "64-bit"),
    ("entry over the full map", lambda m: m.entry(6, "x", 0), "would renumber inode 1"),
]


@pytest.mark.parametrize(("make", "why"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_records_that_would_harm_are_refused(make: object, why: str) -> None:
    mapper = Mapper()
    mapper.learn(mapper.entry(4, "d", 0))
    mapper.learn(mapper.entry(5, "e", 3))
    mapper.learn(FullEntry(7, "x", 1))
    before = records(mapper)
    assert callable(make)
    with pytest.raises(ValueError, match=why):
        mapper.learn(make(mapper))
    assert records(mapper) == before
    assert mapper.peek("x", 2) is None
    assert mapper.peek("d", 5) == 5 << 5 | 0b00100
    assert mapper.peek("d", 1 << 63) is None


def test_entries_of_another_order_or_mode_are_refused() -> None:
    entry = Mapper(k=2).entry(3, "d", 0)
    for other in (Mapper(), Mapper(k=3), Mapper("prefix", k=2), Mapper("qemu")):
        with pytest.raises(ValueError, match="is not of mode"):
            other.learn(entry)
    Mapper("qemu", k=2).learn(entry)


def test_prefix_and_qemu_refuse_what_is_not_theirs() -> None:
    prefix = Mapper("prefix")
    with pytest.raises(ValueError, match="outside 2 to 281474976710655"):
        prefix.learn(FullEntry(1, "d", 5))
    for index in (0, 65536):
        with pytest.raises(ValueError, match="1 to 65535"):
            prefix.learn(Entry(index, "d", 16, index, 0))
    prefix.learn(prefix.entry(2, "d", 0xFFFF))
    with pytest.raises(ValueError, match="covers inodes that"):
        prefix.learn(prefix.entry(1, "d", 0xFFFF))
    prefix.learn(prefix.entry(1, "d", 0))
    qemu = Mapper("qemu")
    qemu.learn(qemu.entry(2, "d", 0b100))
    with pytest.raises(ValueError, match="more top bits"):
        qemu.learn(qemu.entry(4, "d", 0b1000))  # its key has the 3 bits of the first entry, not 5
    qemu.learn(qemu.entry(4, "d", 0b101))
    wide = Mapper("qemu", entries=[qemu.entry(65535, "d", 0xFFFF)])
    with pytest.raises(ValueError, match="more top bits"):
        wide.learn(qemu.entry(65534, "d", 0x10000))


def test_learning_goes_past_what_was_given_elsewhere() -> None:
    mapper = Mapper()
    mapper.learn(mapper.entry(9, "d", 0))
    mapper.learn(FullEntry(41, "x", 1))
    assert mapper.path("e", 5) == 5 << 7 | suffix(10).bits
    mapper.path("first", 1)
    full = Mapper(source=Allocator(index=65536), entries=mapper.full())
    full.path("y", 1)
    assert [record.counter for record in full.full()] == [41, 42]
    # Earlier ones that come late, of other devices, do not turn the clock back.
    mapper.learn(mapper.entry(3, "f", 0))
    mapper.learn(FullEntry(7, "g", 1))
    assert mapper.path("h", 5) == 5 << 7 | suffix(12).bits
    full.learn(FullEntry(7, "g", 1))
    assert full.path("y", 2) == 43 << 33 | 1 << 16


def test_records_do_not_change_and_compare_by_what_they_say() -> None:
    entry, full = Mapper().entry(4, "d", 0), FullEntry(1, "d", 5)
    assert {entry, full} == {Entry(4, "d", 5, 0b00100, 0), FullEntry(1, "d", 5)}
    with pytest.raises(FrozenInstanceError):
        entry.top = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        full.inode = 1  # type: ignore[misc]


def test_a_listing_is_not_disturbed_by_what_comes_next() -> None:
    mapper = Mapper(source=Allocator(index=65530))
    for n in range(10):
        mapper.path(n, 5)
    seen = 0
    for entry in mapper.entries():
        seen += 1
        mapper.path(("new", entry.device), 5)
    for full in mapper.full():
        mapper.path(("newer", full.device), 5)
    assert (seen, mapper.used()) == (6, 6)
