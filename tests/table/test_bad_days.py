"""Errors, other processes, clocks and hands at bad moments: no number changes, and none is given twice."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusemap.errors import DamagedTable, Refused
from fusemap.qid import Holder, Mapper
from fusemap.table import Table, codec, open_table, opening, shelf, store, v1, xattr
from fusemap.table import table as table_module
from fusemap.table.home import Home
from fusemap.table.jsonform import from_json, to_json
from fusemap.table.ledger import Device, Floor, Ledger
from fusemap.table.salvage import put_back, salvage
from fusemap.table.shelf import MemoryShelf
from fusemap.table.store import Store
from fusemap.table.xattr import PREFIX

from ..support.process import run
from ..support.stage import Stage
from .shelves import BOOT, IDENTITY, SmallShelf, a_ledger, key, state
from .test_command import fill, fusemap, tree
from .test_store import opened

__all__ = ["tree"]


# Errors of the shelf --------------------------------------------------------------------------------------------------


class FailingShelf(MemoryShelf):
    """Fails once, instead of or after its step number `when`. It sees others' changes as a database does."""

    kind = "sqlite"

    def __init__(self, pieces: dict[str, bytes], others: list[object], when: int = 0, after: bool = False) -> None:
        super().__init__(pieces)
        self.others = others  # who has changed something, in their order
        self.when, self.after = when, after
        self.steps = self.looked_at = 0

    def names(self) -> set[str]:
        names: set[str] = self._step(super().names)
        return names

    def get(self, name: str) -> bytes | None:
        piece: bytes | None = self._step(lambda: super(FailingShelf, self).get(name))
        return piece

    def put(self, name: str, data: bytes, durable: bool = True) -> None:
        self._step(lambda: self._change(lambda: super(FailingShelf, self).put(name, data, durable)))

    def remove(self, name: str) -> None:
        self._step(lambda: self._change(lambda: super(FailingShelf, self).remove(name)))

    def testify(self, generation: int, length: int) -> None:
        self._step(lambda: None)

    def changed(self) -> bool:
        theirs = sum(one is not self for one in self.others)
        before, self.looked_at = self.looked_at, theirs
        return theirs != before

    def _change(self, act: Callable[[], None]) -> None:
        act()
        self.others.append(self)

    def _step(self, act: Callable[[], Any]) -> Any:
        self.steps += 1
        if self.steps == self.when and not self.after:
            raise OSError(errno.EIO, "injected")
        answer = act()
        if self.steps == self.when:
            raise OSError(errno.EIO, "injected")
        return answer


class ShelfHome(Home):
    """A table on this shelf."""

    def __init__(self, shelf: MemoryShelf) -> None:
        self.shelf = shelf

    def find(self, known: Store | None) -> Store | None:
        if known is None:
            known = Store(self.shelf)
            known.load()
        return known


def everyone(shelves: list[FailingShelf]) -> list[Mapper]:
    tables = [Table(ShelfHome(shelf), "suffix", 0, BOOT) for shelf in shelves]
    for table in tables:
        table.open()
    return [table.mapper(by_generation=True) for table in tables]


@pytest.mark.parametrize("after", [False, True], ids=["instead", "after"])
def test_an_error_at_any_step_makes_no_two_numbers_for_one_file(after: bool) -> None:
    for when in range(1, 90, 2):
        pieces: dict[str, bytes] = {}
        others: list[object] = []
        ledger = Ledger("suffix", 0, IDENTITY)
        ledger.apply(Floor(65536 - 8, 1))
        Store(MemoryShelf(pieces)).create(ledger)
        shelves = [FailingShelf(pieces, others), FailingShelf(pieces, others)]
        mappers = everyone(shelves)
        shelves[0].steps, shelves[0].when, shelves[0].after = 0, when, after
        shown: dict[tuple[str, int, int], set[int]] = {}
        for step in range(60):
            file = (key(step * 7 % 12), 5, step % 3)
            try:
                number = mappers[step % 5 % 2].path_of(*file)
            except OSError as error:
                assert error.strerror == "injected", when
            else:
                shown.setdefault(file, set()).add(number)
        mappers += everyone([FailingShelf(pieces, others)])
        for mapper in mappers:
            for file, numbers in shown.items():
                numbers.add(mapper.path_of(*file))
        assert all(len(numbers) == 1 for numbers in shown.values()), when
        assert len(set.union(*shown.values())) == len(shown), when


def test_a_log_never_has_more_pieces_than_can_be_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOG_PIECE", 16)
    monkeypatch.setattr(store, "_MOST_PIECES", 16)
    pieces: dict[str, bytes] = {}
    ledger = Ledger("suffix", 0, IDENTITY)
    ledger.apply(Device(key(1)))
    for inode in range(1000):
        ledger.apply(Holder(key(1), inode, 1))
    one = Store(MemoryShelf(pieces))
    one.create(ledger)
    for inode in range(1000, 1100):
        one.append([Holder(key(1), inode, 2)])
        assert sum(name.startswith("log.") for name in pieces) <= 16
    assert state(opened(pieces).ledger) == state(one.ledger)


# Two that begin at once, and the first days of a table ----------------------------------------------------------------


def a_v1_table(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        v1.write(fd, v1.build(v1.V1Table(True, 0, [(1, 0), (2, 0)], {1: 1, 2: 3})))
    finally:
        os.close(fd)


def a_table_of_ours(path: Path) -> None:
    fill(path, 3)


@pytest.mark.parametrize(
    ("prepare", "place"), [(a_v1_table, "auto"), (a_v1_table, "sqlite"), (a_table_of_ours, "sqlite")]
)
def test_two_that_take_a_table_over_at_once_agree(
    prepare: Callable[[Path], None], place: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.listxattr(tree):
        os.removexattr(tree, name)
    prepare(tree)
    where = f"sqlite:{tmp_path}/t.sqlite" if place == "sqlite" else place
    real = opening._start
    first: list[Any] = []

    def start(table: Table, *rest: Any) -> None:
        if not first:
            first.append(None)
            other = open_table(tree, where, device_of=key)
            first[0] = other.mapper()
            first[0].path(key(9), 5)
        real(table, *rest)

    monkeypatch.setattr(opening, "_start", start)
    mapper = open_table(tree, where, device_of=key).mapper()
    for number in (9, 1, 20, 2, 30):
        assert mapper.path(key(number), 5) == first[0].path(key(number), 5)


def test_a_new_database_starts_from_the_table_wherever_it_is(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fill(tree, 3)
    table = open_table(tree)
    table._store.leave(str(tmp_path / "moved.sqlite"))  # type: ignore[union-attr]
    table.close()
    with pytest.raises(Refused, match="bring that file"):
        open_table(tree)
    assert fill(tree, 3, f"sqlite:{tmp_path}/without.sqlite")  # naming another file is the way out
    a_ledger_of_three = Ledger("suffix", 0, IDENTITY)
    for number in (3, 1, 2):
        a_ledger_of_three.apply(Device(key(number)))
        a_ledger_of_three.apply(a_ledger_of_three.entry(len(a_ledger_of_three.devices), key(number), 0))
    moved = open_table(tmp_path, f"sqlite:{tmp_path}/moved.sqlite")
    moved.begin(a_ledger_of_three)
    moved.close()
    numbers = fill(tree, 3)
    assert numbers != before
    assert fill(tree, 3, f"sqlite:{tmp_path}/named.sqlite") == numbers


def test_a_damaged_attribute_does_not_keep_another_database_from_being_used(tree: Path, tmp_path: Path) -> None:
    for name in os.listxattr(tree):
        os.setxattr(tree, name, b"junk")
    assert fill(tree, 2, f"sqlite:{tmp_path}/t.sqlite")
    assert os.getxattr(tree, PREFIX + "a.0") == b"junk"


# Clocks and labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [-5e9, 84006 * 86400.0])
def test_a_clock_that_is_centuries_off_stops_nothing(
    seconds: float, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusemap.table.table.time.time", lambda: seconds)
    for name in os.listxattr(tree):
        os.removexattr(tree, name)
    table = open_table(tree)
    table.seen(key(1), "one")
    numbers = [table.mapper().path(key(number), 5) for number in (1, 7)]
    table.close()
    monkeypatch.undo()
    assert [open_table(tree).mapper().path(key(number), 5) for number in (1, 7)] == numbers


@pytest.mark.parametrize("room", [1 << 30, 9000])
def test_the_day_of_many_devices_is_written_however_long_their_names_are(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "_today", lambda: 20500)
    ledger = Ledger("suffix", 0, IDENTITY)
    keys = [f"uuid:{number:08x} at " + "\u4e2d" * (200 if room > 9000 else 1) for number in range(1, 101)]
    for index, name in enumerate(keys, 1):
        ledger.apply(Device(name, "\u4e2d" * (64 if room > 9000 else 1), 20000))
        ledger.apply(ledger.entry(index, name, 0))
    shelf = SmallShelf({}, room=room)
    Store(shelf).create(ledger)
    table = Table(ShelfHome(shelf), "suffix", 0, BOOT)
    table.open()
    for name in keys:
        table.seen(name, "x")
    table.close()
    found = opened(shelf.pieces).ledger
    assert found is not None
    assert {device.seen for device in found.devices.values()} == {20500}


# Hands ----------------------------------------------------------------------------------------------------------------


def with_k(said: dict[str, Any]) -> None:
    said.update(map="prefix", k=3, entries=[], full=[], holders=[])


def twice(said: dict[str, Any]) -> None:
    said["entries"][1]["device"] = said["entries"][0]["device"]


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.update(k=9, entries=[], full=[], holders=[]),
        lambda said: said.update(k=300, entries=[], full=[], holders=[]),
        with_k,
        twice,
        lambda said: said["next"].update(index=10**30),
        lambda said: said["next"].update(counter=1 << 64),
        lambda said: said["devices"][0].update(seen=70000),
        lambda said: said["devices"][0].update(label="x" * 70000),
        lambda said: said["devices"][0].update(label="\ud800"),
        lambda said: said["full"].append({"counter": 1 << 70, "device": key(1), "inode": 1}),
        lambda said: said["full"].append({"counter": 9, "device": key(1), "inode": 3}),
    ],
)
def test_what_could_not_be_read_again_is_not_imported(change: Callable[[dict[str, Any]], None]) -> None:
    said: Any = to_json(a_ledger())
    from_json(said)
    change(said)
    with pytest.raises(Refused, match="cannot be read"):
        from_json(said)


def test_json_without_end_is_refused(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert fusemap("table", "import", tree, tmp_path / "deep.json") == 2


def test_a_row_that_is_cut_off_is_not_made_up() -> None:
    ledger = a_ledger(20)
    data = codec.encode_snapshot(ledger, 7)
    first = data.index(b"\x01\x00\x01\x00\x00")  # the row of index 1: everything after it is rows
    for size in range(first, len(data), 2):
        pieces = {"a.0": data[:size]}
        found = salvage(pieces).ledger
        assert found is not None
        assert found.entries.items() <= ledger.entries.items()
        assert found.full.items() <= ledger.full.items()
        assert all(found.holders[device].items() <= ledger.holders[device].items() for device in found.holders)
        if size % 40 == 0:
            put_back(MemoryShelf(pieces), salvage(pieces))
            Mapper("suffix", 0, opened(pieces).ledger.every())  # type: ignore[union-attr]


@pytest.mark.parametrize("tail", ["", "-lock"])
def test_a_database_that_was_put_aside_gets_no_new_entries(tail: str, tmp_path: Path) -> None:
    state = f"sqlite:{tmp_path}/t.sqlite"
    one = open_table(tmp_path, state)
    mapper = one.mapper()
    before = mapper.path(key(1), 5)
    os.rename(tmp_path / f"t.sqlite{tail}", tmp_path / "aside")
    with pytest.raises(DamagedTable, match="removed or replaced"):
        mapper.path(key(2), 5)
    (tmp_path / f"t.sqlite{tail}").write_bytes(b"")
    with pytest.raises(DamagedTable, match="removed or replaced"):
        mapper.path(key(2), 5)
    assert mapper.path(key(1), 5) == before
    os.rename(tmp_path / "aside", tmp_path / f"t.sqlite{tail}")
    assert mapper.path(key(2), 5) != before
    one.close()


def test_attributes_that_only_say_where_the_table_is_can_be_repaired(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = open_table(tree)
    mapper = table.mapper()
    numbers = [mapper.path(key(number), 5) for number in range(1, 4)]
    ledger = table.ledger()
    with table._locked():
        table._store = table._home.move(table._store, ledger, OSError(errno.ENOSPC, "full"))  # type: ignore[arg-type]
    assert table.state == "sqlite"
    table.close()
    for name in os.listxattr(tree):
        os.setxattr(tree, name, b"junk")
    assert fusemap("table", "show", tree) == 2
    assert fusemap("table", "repair", tree) == 1
    assert "is whole" in capsys.readouterr().out
    assert fusemap("table", "repair", tree, "--write", tmp_path / "saved.json") == 0
    assert fusemap("table", "show", tree) == 0
    assert fill(tree, 3) == numbers
    assert open_table(tree).state == "sqlite"


FULL = """
import os, sys
from fusemap.table import open_table
mappers = [open_table("/", f"sqlite:{sys.argv[1]}/t.sqlite").mapper(by_generation=True) for _ in range(2)]
def look(first, last):
    refused = 0
    for number in range(first, last):
        try:
            mappers[number % 2].path_of(f"uuid:{number % 50}", number // 3, number % 3)
        except OSError:
            refused += 1
    return refused
assert look(0, 200) == 0
with open(f"{sys.argv[1]}/ballast", "wb", 0) as ballast:
    for size in (1 << 20, 1 << 12):
        try:
            while True:
                ballast.write(bytes(size))
        except OSError:
            pass
assert look(200, 900)
os.unlink(f"{sys.argv[1]}/ballast")
os.sync()
assert look(200, 300) == 0
"""


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_a_disk_that_is_full_ends_no_process(stage: Stage, kind: str) -> None:
    run(sys.executable, "-c", FULL, stage.disk(kind, "full"))


def test_a_lock_that_is_never_let_go_moves_no_table(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fill(tree, 3)
    monkeypatch.setattr(xattr, "flock", functools.partial(shelf.flock, patience=0.05))
    fd = os.open(tree, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(Refused, match=r"keeps .* locked"):
            open_table(tree)
    finally:
        os.close(fd)
    assert fill(tree, 3) == before
    assert open_table(tree).state == "xattr"


def test_replacing_a_table_brings_back_nothing_that_was_retired(tree: Path) -> None:
    table = open_table(tree)
    old = table.ledger()
    table.retire([key(2)])
    with pytest.raises(ValueError, match="would be lost"):
        table.replace(old)
    now = table.ledger()
    lower = now.copy()
    lower.floor = Floor(1, 1)
    table.replace(lower)
    assert table.ledger().next_counter() == now.next_counter()
    assert table.ledger().next_index() == now.next_index()
    table.close()
