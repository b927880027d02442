"""Numbers by generation: no path for a second file, whatever the host does with its inode numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemap.errors import MappingExhausted
from fusemap.qid import Allocator, Entry, FullEntry, Holder, Mapper, Record

GENERATED = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from([1, 2, 1 << 63, (1 << 64) - 1]), st.integers(0, 3)), max_size=40
)
REMAPPING = ["prefix", "qemu", "suffix"]


def records(mapper: Mapper) -> list[Record]:
    return [*mapper.entries(), *mapper.holders(), *mapper.full()]


@pytest.mark.parametrize("mode", ["prefix", "suffix"])
@given(files=GENERATED, start=st.sampled_from([1, 65535, 65536]))
def test_every_file_has_one_number_and_no_two_have_the_same(
    mode: str, files: list[tuple[str, int, int]], start: int
) -> None:
    mapper = Mapper(mode, source=Allocator(index=start), by_generation=True)
    paths = {}
    for device, inode, generation in files:
        path = mapper.path_of(device, inode, generation)
        assert paths.setdefault((device, inode, generation), path) == path
        assert mapper.peek_of(device, inode, generation) == path
        assert mapper.locate(path) == (device, inode)
    assert len(set(paths.values())) == len(paths)
    # Another process, or a later one, that learns what this one knows; also one that does not ask for such numbers.
    for by_generation in (True, False):
        again = Mapper(mode, entries=records(mapper), by_generation=by_generation)
        assert {file: again.peek_of(*file) for file in paths} == paths
        assert {file: again.path_of(*file) for file in paths} == paths
        assert again.by_generation == (by_generation or bool(files))


@given(files=GENERATED)
def test_the_first_file_of_an_inode_number_has_the_ordinary_path(files: list[tuple[str, int, int]]) -> None:
    mapper, plain = Mapper(by_generation=True), Mapper()
    seen = set()
    for device, inode, generation in files:
        if (device, inode) not in seen:
            seen.add((device, inode))
            assert mapper.path_of(device, inode, generation) == mapper.path(device, inode)
    assert {Mapper.path_of(plain, *file) for file in files} == {plain.path(*file[:2]) for file in files}
    assert not plain.by_generation
    assert list(plain.holders()) == []


def test_raw_knows_no_generations() -> None:
    mapper = Mapper("raw", by_generation=True)
    assert (mapper.path_of("a", 5, 1), mapper.path_of("a", 5, 2)) == (5, 5)


def test_nothing_is_given_when_nothing_is_left() -> None:
    mapper = Mapper(source=Allocator(counter=1 << 31), by_generation=True)
    first = mapper.path_of("a", 5, 1)
    for _ in range(2):
        with pytest.raises(MappingExhausted):
            mapper.path_of("a", 5, 2)
    assert mapper.path_of("a", 5, 1) == first


REFUSED = [
    ("another holder", Holder("a", 5, 2), "from another file"),
    ("a later file that is the holder", FullEntry(9, "a", 5, 1), "has a number already"),
    ("a later file that has a number", FullEntry(9, "a", 5, 3), "has a number already"),
    ("a later file without an earlier one", FullEntry(9, "a", 6, 1), "no earlier one"),
    ("the counter of another file", FullEntry(1, "a", 5, 4), "has the counter of"),
    ("a counter out of range", FullEntry(0, "a", 5, 4), "outside 1 to"),
]


@pytest.mark.parametrize(("record", "why"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_records_that_would_harm_are_refused(record: Record, why: str) -> None:
    known: list[Record] = [Entry(1, "a", 1, 1, 0), Holder("a", 5, 1), FullEntry(1, "a", 5, 3)]
    mapper = Mapper(entries=known)
    for twice in known:
        mapper.learn(twice)
    with pytest.raises(ValueError, match=why):
        mapper.learn(record)
    assert records(mapper) == known
