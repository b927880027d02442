"""Reading directories: large ones, from any place, while they change, by several readers at once."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemap.host.calls import Calls, Entry

from ..support.house import PARTS, House, Pair
from ..support.process import ALICE, Child, call_as

MANY = 20_000


class Reader:
    """A directory stream, as opendir(3) gives one; `cookie` is what telldir(3) would say."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._calls = Calls()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def block(self) -> list[Entry]:
        """The next records, empty at the end."""
        return self._calls.getdents(self.fd)

    def rest(self) -> list[Entry]:
        """All records from here on."""
        found = []
        while block := self.block():
            found += block
        return found

    def seek(self, cookie: int) -> None:
        """seekdir(3)."""
        os.lseek(self.fd, cookie, os.SEEK_SET)


def names(entries: list[Entry]) -> list[bytes]:
    return [entry.name for entry in entries if entry.name not in (b".", b"..")]


@pytest.fixture(scope="module")
def many(house: House) -> Iterator[Path]:
    """A directory of 20,000 files, as the mount shows it."""
    pair = house.pair("many", "xfs")
    for n in range(MANY):
        os.mknod(pair.host / f"file-{n:05d}")
    yield pair.seen


@pytest.fixture(params=["ext4", "xfs", "tmpfs", "subvol-a", "overlay"])
def some(request: pytest.FixtureRequest, house: House) -> Pair:
    """A directory of 3,000 files on each kind of file system."""
    pair = house.pair("some", request.param)
    for n in range(3000):
        os.mknod(pair.host / f"{n:04d}")
    return pair


def test_all_of_a_large_directory_is_listed_once(many: Path) -> None:
    with Reader(many) as reader:
        found = reader.rest()
    assert len(found) == MANY + 2
    assert sorted(names(found)) == [b"file-%05d" % n for n in range(MANY)]
    assert len({entry.ino for entry in found}) == MANY + 2


def test_a_listing_can_be_taken_up_at_every_entry(many: Path) -> None:
    with Reader(many) as reader:
        all_of_it = reader.rest()
        assert len({entry.cookie for entry in all_of_it}) == len(all_of_it), "telldir would be ambiguous"
        order = random.Random(1)
        for at in [0, 1, len(all_of_it) - 2, len(all_of_it) - 1, *(order.randrange(len(all_of_it)) for _ in range(60))]:
            reader.seek(all_of_it[at].cookie)
            block = reader.block()
            assert [entry.name for entry in block] == [entry.name for entry in all_of_it[at + 1 : at + 1 + len(block)]]
            assert block or at == len(all_of_it) - 1
        reader.seek(0)
        assert names(reader.rest()) == names(all_of_it)


def test_a_listing_can_be_taken_up_on_every_file_system(some: Pair) -> None:
    with Reader(some.seen) as reader:
        all_of_it = reader.rest()
        assert sorted(names(all_of_it)) == [b"%04d" % n for n in range(3000)]
        for at in range(0, len(all_of_it), 97):
            reader.seek(all_of_it[at].cookie)
            assert [entry.name for entry in reader.rest()] == [entry.name for entry in all_of_it[at + 1 :]]


@pytest.mark.parametrize("side", ["host", "seen"])
def test_removing_while_listing_skips_nothing_else(some: Pair, side: str) -> None:
    """rm -r reads a block and removes it, again and again: everything must come up."""
    top = getattr(some, side)
    with Reader(some.seen) as reader:
        found = []
        while block := reader.block():
            for name in names(block):
                found.append(name)
                os.unlink(os.path.join(os.fsencode(top), name))
    assert sorted(found) == [b"%04d" % n for n in range(3000)]
    assert os.listdir(some.host) == os.listdir(some.seen) == []


def test_what_stays_is_listed_once_while_others_come_and_go(some: Pair) -> None:
    order = random.Random(2)
    keep = {b"%04d" % n for n in range(0, 3000, 3)}
    go = [b"%04d" % n for n in range(3000) if n % 3]
    order.shuffle(go)
    found: list[bytes] = []
    here, there = os.fsencode(some.host), os.fsencode(some.seen)
    with Reader(some.seen) as reader:
        while block := reader.block():
            found += names(block)
            for n in range(60):
                top = here if n % 2 else there
                if go:
                    os.unlink(os.path.join(top, go.pop()))
                os.mknod(os.path.join(top, b"new-%d-%d" % (len(found), n)))
    for name in keep:
        assert found.count(name) == 1, name
    assert len(found) == len(set(found))


def test_two_streams_of_one_directory_do_not_disturb_each_other(many: Path) -> None:
    with Reader(many) as one, Reader(many) as two:
        first, second = [], []
        while True:
            block = one.block()
            first += block
            if len(first) % 5 == 0:
                second += two.block()
            if not block:
                break
        second += two.rest()
    assert names(first) == names(second)
    assert len(first) == MANY + 2


def test_several_processes_list_and_stat_at_once(some: Pair) -> None:
    def one(seed: int) -> int:
        with os.scandir(some.seen) as entries:
            found = [(entry.name, entry.inode(), entry.stat().st_ino) for entry in entries]
        assert all(d_ino == st_ino for _, d_ino, st_ino in found)
        return len(found)

    children = [Child(lambda n=n: one(n)) for n in range(4)]  # type: ignore[misc]
    assert [child.result() for child in children] == [3000] * 4


def test_a_descriptor_shared_by_two_processes_goes_on_where_the_other_stopped(many: Path) -> None:
    with Reader(many) as reader:
        mine = reader.block()
        theirs = call_as(None, lambda: [tuple(entry) for entry in reader.block()])
        rest = reader.rest()
    found = [*names(mine), *(name for _, _, _, name in theirs), *names(rest)]
    assert len(found) == len(set(found)) == MANY


def test_new_files_are_seen_by_rewinding(pair: Pair) -> None:
    with Reader(pair.seen) as reader:
        assert names(reader.rest()) == []
        (pair.host / "by-the-host").touch()
        (pair.seen / "by-a-client").touch()
        reader.seek(0)
        assert sorted(names(reader.rest())) == [b"by-a-client", b"by-the-host"]


def test_kinds_are_told_in_the_listing(house: House) -> None:
    for part in ("", *PARTS):
        pair = house.pair("kinds", part)
        (pair.host / "directory").mkdir()
        (pair.host / "file").touch()
        os.mkfifo(pair.host / "fifo")
        os.symlink("x", pair.host / "symlink")
        with Reader(pair.seen) as reader:
            kinds = {entry.name.decode(): entry.kind for entry in reader.rest()}
        assert kinds == {".": 4, "..": 4, "directory": 4, "file": 8, "fifo": 1, "symlink": 10}, part


def test_names_that_are_not_text_are_listed(pair: Pair) -> None:
    raw = [b"\xff\xfe\xfd", b"caf\xe9", b"line\nbreak", b"x" * 255]
    for name in raw:
        os.mknod(os.path.join(os.fsencode(pair.host), name))
    assert sorted(os.listdir(os.fsencode(pair.seen))) == sorted(raw)


def test_a_directory_that_may_be_read_but_not_searched(pair: Pair) -> None:
    (pair.host / "d").mkdir()
    (pair.host / "d" / "f").touch()
    os.chown(pair.host / "d", ALICE.uid, ALICE.gid)
    (pair.host / "d").chmod(0o400)
    assert call_as(ALICE, lambda: os.listdir(pair.seen / "d")) == ["f"]


def test_seeking_to_nonsense_does_no_harm(pair: Pair) -> None:
    for n in range(50):
        (pair.host / str(n)).touch()
    with Reader(pair.seen) as reader:
        for cookie in (1, 12345, 1 << 40, (1 << 63) - 1):
            with contextlib.suppress(OSError):
                reader.seek(cookie)
                reader.rest()
        reader.seek(0)
        assert len(names(reader.rest())) == 50
