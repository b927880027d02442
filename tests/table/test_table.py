"""`Table`: numbers that last, that move with their table, and on which processes agree."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusemap.errors import DamagedTable, Refused
from fusemap.qid import FullEntry, Mapper
from fusemap.table import Table, open_table
from fusemap.table.home import Home
from fusemap.table.ledger import Floor, Ledger
from fusemap.table.shelf import NoRoom
from fusemap.table.sqlite import SqliteShelf
from fusemap.table.store import Store
from fusemap.table.xattr import PREFIX, XattrShelf

from ..support import needs
from ..support.stage import Stage
from .shelves import BOOT, IDENTITY, LATER, SmallShelf, key

SECONDS = 60.0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory that can hold a table in its attributes."""
    path = tmp_path / "tree"
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    try:
        why = XattrShelf(fd, str(path)).why_not()
    finally:
        os.close(fd)
    if why:
        needs.missing(f"the temporary directory cannot hold a table, because {why}")
    return path


@pytest.fixture
def place(tmp_path: Path) -> str:
    """Where databases go."""
    return str(tmp_path / "state")


def states(tmp_path: Path) -> list[str]:
    return ["auto", "xattr", f"sqlite:{tmp_path}/own.sqlite"]


def numbers(table: Table, count: int) -> list[int]:
    mapper = table.mapper()
    return [mapper.path(key(device), inode) for device in range(1, count + 1) for inode in (5, 1 << 63)]


@pytest.mark.parametrize("state", [0, 1, 2], ids=["auto", "xattr", "sqlite"])
def test_numbers_are_the_same_after_a_restart_in_another_order(
    state: int, tree: Path, place: str, tmp_path: Path
) -> None:
    name = states(tmp_path)[state]
    table = open_table(tree, name, directory=place)
    before = numbers(table, 30)
    table.close()
    table = open_table(tree, name, directory=place)
    mapper = table.mapper()
    assert mapper.peek(key(30), 6) is not None
    backwards = [mapper.path(key(device), inode) for device in range(30, 0, -1) for inode in (1 << 63, 5)]
    assert backwards[::-1] == before
    assert mapper.path(key(31), 5) not in before
    assert [device.key for device in table.devices()] == [key(device) for device in range(1, 32)]
    assert table.state == ("sqlite" if state == 2 else "xattr")
    table.close()


def test_none_forgets(tree: Path, place: str) -> None:
    for _ in range(2):
        table = open_table(tree, "none", directory=place)
        assert table.mapper().path(key(1), 5) == 5 << 1 | 1
        assert table.mapper().path(key(1), 5) == 5 << 1 | 1
        table.close()
    assert os.listxattr(tree) == []
    assert not os.path.exists(place)


def test_a_table_that_is_only_opened_writes_nothing(tree: Path, place: str) -> None:
    before = os.stat(tree)
    open_table(tree, "auto", directory=place).close()
    assert os.listxattr(tree) == []
    assert os.stat(tree).st_ctime_ns == before.st_ctime_ns
    assert not os.path.exists(place)


def test_two_tables_at_once_agree(tree: Path, place: str) -> None:
    tables = [open_table(tree, "auto", directory=place) for _ in range(3)]
    mappers = [table.mapper() for table in tables]
    seen: dict[tuple[str, int], int] = {}
    for step in range(150):
        device, inode = key(step * 7 % 40), step * 11 % 3 << 61 | 5
        number = mappers[step % 3].path(device, inode)
        assert seen.setdefault((device, inode), number) == number
    for mapper in mappers:
        for (device, inode), number in seen.items():
            assert mapper.path(device, inode) == number
            assert mapper.locate(number) == (device, inode)
    assert len(set(seen.values())) == len(seen)
    for table in tables:
        table.close()


@pytest.mark.parametrize("state", [0, 2], ids=["xattr", "sqlite"])
def test_a_mapper_made_by_hand_is_told_everything(state: int, tree: Path, place: str, tmp_path: Path) -> None:
    name = states(tmp_path)[state]
    table = open_table(tree, name, directory=place)
    before = numbers(table, 5)
    table.close()
    table = open_table(tree, name, directory=place)
    mapper = Mapper(source=table)  # without records(): the first new device brings them all
    mapper.path(key(99), 5)
    assert [mapper.peek(key(device), inode) for device in range(1, 6) for inode in (5, 1 << 63)] == before
    table.close()


def test_another_mode_or_k_is_refused_with_the_ways_out(tree: Path, place: str) -> None:
    table = open_table(tree, "auto", "suffix", 2, directory=place)
    table.mapper().path(key(1), 5)
    table.close()
    for mode, k in (("suffix", 0), ("prefix", 0), ("qemu", 2)):
        with pytest.raises(Refused, match=r"--map suffix -k 2, not .*--state sqlite:FILE.*--state none"):
            open_table(tree, "auto", mode, k, directory=place)
    table = open_table(tree, "auto", None, directory=place)
    assert (table.mode, table.k) == ("suffix", 2)
    table.close()
    open_table(tree, "auto", "raw", directory=place).close()


def test_an_unknown_state_and_a_missing_root_are_refused(tree: Path, place: str) -> None:
    for state in ("sqlite", "sqlite:", "file", ""):
        with pytest.raises(Refused, match="choose auto, xattr"):
            open_table(tree, state, directory=place)
    with pytest.raises(Refused, match="cannot open"):
        open_table(tree / "nothing", directory=place)


# Moving to a database -------------------------------------------------------------------------------------------------


def test_a_full_attribute_moves_the_table_to_a_database(
    tree: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    table = open_table(tree, "auto", directory=place)
    other = open_table(tree, "auto", directory=place)
    theirs = other.mapper()
    before = numbers(table, 700)
    table.close()
    moved = [record for record in caplog.records if "does not fit its attributes" in record.message]
    if not moved:
        needs.missing("the temporary directory has room for 1,400 entries in attributes")
    assert len(moved) == 1
    assert place in moved[0].message
    # A process that was there before finds them, and so does one that comes later.
    assert [theirs.path(key(device), inode) for device in range(1, 701) for inode in (5, 1 << 63)] == before
    assert other.state == "sqlite"
    other.close()
    table = open_table(tree, "xattr", directory=place)
    assert table.state == "sqlite"
    assert numbers(table, 700) == before
    table.close()
    # Another user, or another machine, has another place for databases, and is told where this one is.
    with pytest.raises(OSError, match="Permission denied") if os.geteuid() else _nothing():
        table = open_table(tree, "auto", directory=place + "-other")
        assert table.where.startswith(place)
        table.close()
    os.rename(place, place + "-lost")
    with pytest.raises(Refused, match=r"moved to .* which is not there"):
        open_table(tree, "auto", directory=place + "-other")


def _nothing() -> object:
    import contextlib

    return contextlib.nullcontext()


class SmallHome(Home):
    """A root whose attributes are a SmallShelf, and a database beside it."""

    def __init__(self, shelf: SmallShelf, file: Path) -> None:
        self.shelf = shelf
        self.file = file

    def find(self, known: Store | None) -> Store | None:
        if known is not None:
            return known
        store = Store(SqliteShelf(str(self.file)) if self.file.exists() else self.shelf)
        store.load()
        if store.ledger is None:
            store.close()
            return None
        return store

    def begin(self, ledger: Ledger) -> Store:
        store = Store(self.shelf)
        store.create(ledger)
        return store

    def move(self, store: Store, ledger: Ledger, why: OSError) -> Store:
        target = Store(SqliteShelf(str(self.file)))
        target.load()
        target.create(ledger)
        return target


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.ERANGE, errno.E2BIG, errno.EROFS])
@pytest.mark.parametrize("room", [0, 300, 500, 900, 2000])
def test_whatever_the_attribute_says_nothing_is_lost(number: int, room: int, tmp_path: Path) -> None:
    pieces: dict[str, bytes] = {}
    home = SmallHome(SmallShelf(pieces, room=room, number=number), tmp_path / "t.sqlite")
    table = Table(home, "suffix", 0)
    table.open()
    if room == 0:
        with pytest.raises(NoRoom):
            table.mapper().path(key(1), 5)
        return
    before = numbers(table, 60)
    assert table.state == "sqlite"
    table.close()
    table = Table(home, "suffix", 0)
    table.open()
    assert numbers(table, 60) == before
    table.close()


@pytest.mark.parametrize(
    ("kind", "options", "count"),
    [("ext4", (), 700), ("ext4", ("-b", "1024"), 300), ("btrfs", (), 700), ("xfs", (), 700), ("tmpfs", (), 700)],
    ids=["ext4", "ext4-1k", "btrfs", "xfs", "tmpfs"],
)
def test_every_file_system_holds_what_it_can_and_loses_nothing(
    stage: Stage, kind: str, options: tuple[str, ...], count: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tree = stage.tmpfs("tree") if kind == "tmpfs" else stage.disk(kind, "tree", 0, *options)
    place = str(stage.directory("state"))
    table = open_table(tree, "auto", directory=place)
    before = numbers(table, count)
    state = table.state
    table.close()
    assert state == ("sqlite" if kind == "ext4" else "xattr")
    assert ("does not fit" in caplog.text) == (state == "sqlite")
    table = open_table(tree, "auto", directory=place)
    assert numbers(table, count) == before
    table.close()
    # An administrator's backup of the directory must still be possible.
    os.listxattr(tree)


def test_a_read_only_root_gets_a_database_that_starts_from_its_attributes(stage: Stage) -> None:
    image = stage.image("ext4")
    place = str(stage.directory("state"))
    tree = stage.mount(image, "tree", "-o", "loop")
    table = open_table(tree, directory=place)
    before = numbers(table, 5)
    table.close()
    seen = stage.directory("ro")
    stage.mount(tree, "ro", "-o", "bind,ro")
    table = open_table(seen, directory=place)
    mapper = table.mapper()
    assert [mapper.path(key(device), inode) for device in range(1, 6) for inode in (5, 1 << 63)] == before
    assert table.state == "xattr"  # nothing had to be added so far
    more = mapper.path(key(6), 5)
    assert table.state == "sqlite"
    table.close()
    for path in (seen, tree):
        table = open_table(path, directory=place)
        assert table.mapper().path(key(6), 5) == more
        assert table.state == "sqlite"
        assert numbers(table, 5) == before
        table.close()
    with pytest.raises(Refused, match=r"read-only.*--state auto"):
        open_table(seen, "xattr", directory=place + "-other")


def test_an_ordinary_user_falls_to_a_database_of_their_own(stage: Stage) -> None:
    tree = stage.ext4("tree")
    program = (
        "import os, sys, logging; logging.basicConfig(level=logging.INFO, format='%(message)s');"
        "os.setgid(12345); os.setuid(12345);"
        "from fusemap.table import open_table;"
        "t = open_table(sys.argv[1]); m = t.mapper(); print(m.path('uuid:1', 5), t.state, t.where); t.close()"
    )
    home = stage.directory("home")
    os.chown(home, 12345, 12345)
    environment = {**os.environ, "XDG_STATE_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("STATE_DIRECTORY", None)
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, "-c", program, str(tree)], env=environment, cwd="/", text=True, capture_output=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        number, state, where = result.stdout.split()
        assert (number, state) == (str(5 << 1 | 1), "sqlite")
        assert where.startswith(f"{home}/fusemap/")
    assert [path.stat().st_mode & 0o077 for path in (home / "fusemap").iterdir()] == [0, 0]
    assert os.listxattr(tree) == []
    table = open_table(tree, directory=str(stage.directory("state")))
    assert not table.exists
    table.close()


# Sessions -------------------------------------------------------------------------------------------------------------


def test_session_indices_are_given_again_only_after_a_boot_and_only_to_sessions(tree: Path, place: str) -> None:
    def opened(boot: str) -> Table:
        return open_table(tree, directory=place, boot=boot)

    mine, other, mine_later = f"session:{BOOT}:1", f"session:{BOOT}:2", f"session:{LATER}:1"
    table = opened(BOOT)
    mapper = table.mapper()
    mapper.path(mine, 5)
    mapper.path(key(1), 5)
    table.close()
    # The same session: nothing is given again.
    table = opened(BOOT)
    mapper = table.mapper()
    assert mapper.path(mine, 5) == 5 << 1 | 1
    assert mapper.path(other, 5) == 5 << 3 | 0b110
    table.close()
    # The next one: not to a lasting device, but to a session-only one; and its second entry is not shorter.
    table = opened(LATER)
    mapper = table.mapper()
    assert mapper.peek(mine, 5) is None
    assert mapper.path(key(2), 5) == 5 << 5 | 0b00100
    assert mapper.path(mine_later, 5) == 5 << 1 | 1
    assert mapper.path(mine_later, 1 << 63) & 0b111 == 0b110
    assert mapper.path(mine_later, 3 << 62) & 0b11111 == 0b10100
    table.close()
    table = opened(LATER)
    assert [entry.index for entry in table.mapper().entries() if entry.device == mine_later] == [1, 3, 5]
    assert {device.key: device.dead for device in table.devices()}[mine]
    table.close()


def test_a_longer_device_never_gets_a_shorter_index_back(tree: Path, place: str) -> None:
    table = open_table(tree, directory=place, boot=BOOT)
    mapper = table.mapper()
    mapper.path(f"session:{BOOT}:1", 5)
    mapper.path(key(1), 5)
    table.close()
    table = open_table(tree, directory=place, boot=LATER)
    ledger = table.ledger()
    ledger.apply_all([ledger.devices[key(1)]._replace(key=f"session:{LATER}:9")])
    ledger.apply(ledger.entry(8, f"session:{LATER}:9", 0))
    table.replace(ledger)
    mapper = table.mapper()
    mapper.path(f"session:{LATER}:9", 1 << 63)
    assert [e.index for e in mapper.entries() if e.device == f"session:{LATER}:9"] == [8, 9]
    assert mapper.path(f"session:{LATER}:10", 5) == 5 << 1 | 1
    table.close()


def test_gc_retires_and_nobody_gets_the_index(tree: Path, place: str) -> None:
    table = open_table(tree, directory=place)
    before = numbers(table, 4)
    assert table.retire([key(2), "unknown"]) == 2
    mapper = table.mapper()
    after = [mapper.path(key(device), inode) for device in (1, 2, 3, 4) for inode in (5, 1 << 63)]
    assert after[:2] + after[4:] == before[:2] + before[4:]
    assert not set(after[2:4]) & set(before)
    table.close()
    table = open_table(tree, directory=place)
    assert not {mapper.path(f"uuid:new{n}", 5) for n in range(20)} & set(before)
    assert len(table.ledger().retired) == 2
    table.close()


# The full map ---------------------------------------------------------------------------------------------------------


def full_ledger() -> Ledger:
    ledger = Ledger("suffix", 0, IDENTITY)
    ledger.apply(Floor(65536, 1))
    return ledger


def test_the_full_map_lasts_and_lives_in_a_database(tree: Path, place: str) -> None:
    table = open_table(tree, directory=place)
    table.replace(full_ledger())
    mapper = table.mapper()
    before = [mapper.path(key(1), inode) for inode in range(300)]
    assert len(set(before)) == 300
    assert table.state == "sqlite"
    other = open_table(tree, directory=place)
    theirs = other.mapper()
    assert [theirs.path(key(1), inode) for inode in range(300)] == before
    mixed = [(mapper if n % 2 else theirs).path(key(2), n) for n in range(100)]
    assert len({*mixed, *before}) == 400
    table.close()
    other.close()
    table = open_table(tree, directory=place)
    mapper = table.mapper()
    assert [mapper.path(key(1), inode) for inode in range(300)] == before
    assert [mapper.path(key(2), n) for n in range(100)] == mixed
    table.close()


def test_a_power_cut_gives_no_counter_to_a_second_file(tmp_path: Path) -> None:
    """Files of the full map are not waited for on the disk; their block of counters is."""
    table = open_table(tmp_path, f"sqlite:{tmp_path}/t.sqlite")
    table.replace(full_ledger())
    mapper = table.mapper()
    mapper.path(key(1), 1)
    with Store(SqliteShelf(f"{tmp_path}/t.sqlite")).lock():
        pass
    lost = {mapper.path(key(1), inode) for inode in range(2, 50)}
    ledger = table.ledger()
    table.close()
    # What a power cut may leave: everything up to the last write that was waited for.
    cut = Ledger("suffix", 0, IDENTITY)
    cut.apply_all(change for change in ledger.changes() if not isinstance(change, FullEntry) or change.inode == 1)
    fresh = open_table(tmp_path, f"sqlite:{tmp_path}/cut.sqlite")
    fresh.replace(cut)
    again = fresh.mapper()
    assert again.path(key(1), 1) == 1 << 33 | 1 << 16
    assert not {again.path(key(2), inode) for inode in range(50)} & lost
    fresh.close()


# Damage at run time ---------------------------------------------------------------------------------------------------


def test_a_damaged_table_costs_new_files_their_number_and_no_other(
    tree: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    table = open_table(tree, directory=place)
    mapper = table.mapper()
    known = mapper.path(key(1), 5)
    name = PREFIX + "a.0"
    data = os.getxattr(tree, name)
    os.setxattr(tree, name, data[:20] + bytes((data[20] ^ 1,)) + data[21:])
    for _ in range(3):
        with pytest.raises(DamagedTable, match=r"attribute user\.fusemap\.table\.a\.0 of .*repair") as caught:
            mapper.path(key(2), 5)
        assert caught.value.errno == errno.EIO
    assert mapper.path(key(1), 5) == known
    assert sum("a.0" in record.message for record in caplog.records) == 1
    with pytest.raises(DamagedTable):
        open_table(tree, directory=place)
    os.setxattr(tree, name, data)
    assert mapper.path(key(2), 5) == 5 << 3 | 0b010
    table.close()


def test_an_export_of_months_notes_what_it_still_shows(
    tree: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = 20_000
    monkeypatch.setattr("fusemap.table.table._today", lambda: day)
    with contextlib.closing(open_table(tree, directory=place)) as table:
        for number in (1, 2):
            table.seen(key(number), f"mnt/{number}")
        mapper = table.mapper()
        mapper.path(key(1), 5)
        day += 100
        table.still_here()
        with contextlib.closing(open_table(tree, directory=place)) as other:
            assert [(device.label, device.seen) for device in other.devices()] == [("mnt/1", day)]
        mapper.path(key(2), 5)  # met long ago, and nothing of it was known till now
        assert [(device.label, device.seen) for device in table.devices()] == [("mnt/1", day), ("mnt/2", day)]


def test_seen_is_noted_once_a_day(tree: Path, place: str) -> None:
    table = open_table(tree, directory=place)
    table.seen(key(1), "mnt/one")
    table.mapper().path(key(1), 5)
    (device,) = table.devices()
    assert (device.label, device.lasting, device.entries) == ("mnt/one", True, 1)
    old = table.ledger()
    old.apply(old.devices[key(1)]._replace(seen=100))
    table.replace(old)
    table.close()
    table = open_table(tree, directory=place)
    assert table.devices()[0].seen == 100
    table.seen(key(1))
    table.seen("uuid:never-met")
    table.close()
    table = open_table(tree, directory=place)
    assert [(device.key, device.label, device.seen > 20000) for device in table.devices()] == [
        (key(1), "mnt/one", True)
    ]
    table.close()
