"""The database as a shelf: damage that SQLite does not see, other programs' files, and who may read it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from fusemap.errors import DamagedTable, Refused
from fusemap.table.sqlite import SqliteShelf
from fusemap.table.store import Store

from .shelves import a_ledger, another, key, state

FLIPS = 700


def filled(file: Path, count: int = 60, checkpoint: bool = True) -> object:
    """A database with a table in it; what the table says. Without `checkpoint` it looks as after a kill -9."""
    store = Store(SqliteShelf(str(file)))
    store.load()
    store.create(a_ledger())
    ledger = store.ledger
    assert ledger is not None
    for number in range(count):
        store.append(another(ledger, key(1000 + number)))
    if checkpoint:
        store.close()
    else:
        for tail in ("", "-wal", "-lock"):
            shutil.copy(f"{file}{tail}", f"{file}.killed{tail}")
        store.close()
        for tail in ("", "-wal", "-lock"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{file}{tail}")
            os.rename(f"{file}.killed{tail}", f"{file}{tail}")
    return state(ledger)


def read(file: Path) -> object:
    """What the table says when it is opened, and after it has taken one more entry; raises when it is refused."""
    store = Store(SqliteShelf(str(file)))
    try:
        with store.lock():
            store.load()
            found = state(store.ledger)
            if store.ledger is not None:
                store.append(another(store.ledger, key(999_999)))
        return found
    finally:
        store.close()


@pytest.mark.parametrize("tail", ["", "-wal", "-lock"])
def test_a_flipped_bit_anywhere_is_refused_or_harmless(tail: str, tmp_path: Path) -> None:
    """A database has bytes that mean nothing; turning those does no harm. All others must not be believed."""
    whole, work = tmp_path / "whole", tmp_path / "work"
    whole.mkdir()
    said = filled(whole / "t.sqlite", checkpoint=tail != "-wal")
    size = os.path.getsize(whole / f"t.sqlite{tail}")
    chosen = random.Random(1).sample(range(size * 8), min(FLIPS, size * 8))
    refused = 0
    for bit in sorted(chosen):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(whole, work)
        with open(work / f"t.sqlite{tail}", "r+b") as file:
            file.seek(bit // 8)
            byte = file.read(1)[0]
            file.seek(bit // 8)
            file.write(bytes((byte ^ 1 << bit % 8,)))
        try:
            found = read(work / "t.sqlite")
        except (DamagedTable, Refused) as error:
            assert "t.sqlite" in str(error)
            refused += 1
        else:
            assert found == said, f"bit {bit} of the file{tail}"
    assert refused > len(chosen) // 10


@pytest.mark.parametrize("tail", ["", "-wal", "-lock"])
def test_every_truncation_is_refused_or_harmless(tail: str, tmp_path: Path) -> None:
    whole, work = tmp_path / "whole", tmp_path / "work"
    whole.mkdir()
    said = filled(whole / "t.sqlite", checkpoint=tail != "-wal")
    size = os.path.getsize(whole / f"t.sqlite{tail}")
    for length in sorted({*range(0, size, 997), *range(0, size, 4096), *range(min(size, 40)), size - 1}):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(whole, work)
        os.truncate(work / f"t.sqlite{tail}", length)
        try:
            found = read(work / "t.sqlite")
        except (DamagedTable, Refused):
            continue
        assert found == said, f"file{tail} of {length} bytes"


def test_a_lost_database_or_wal_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "t.sqlite", checkpoint=False)
    (tmp_path / "t.sqlite-wal").unlink()
    with pytest.raises(DamagedTable, match=r"t\.sqlite .*backup.*repair"):
        read(tmp_path / "t.sqlite")
    filled(tmp_path / "u.sqlite")
    (tmp_path / "u.sqlite").unlink()
    with pytest.raises(DamagedTable, match="backup"):
        read(tmp_path / "u.sqlite")


def test_after_a_kill_the_wal_is_read(tmp_path: Path) -> None:
    said = filled(tmp_path / "t.sqlite", checkpoint=False)
    assert read(tmp_path / "t.sqlite") == said


def test_a_database_without_its_witness_is_believed(tmp_path: Path) -> None:
    said = filled(tmp_path / "t.sqlite")
    (tmp_path / "t.sqlite-lock").unlink()
    assert read(tmp_path / "t.sqlite") == said


def test_other_programs_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "other.sqlite")
    database.execute("CREATE TABLE cookies (x)")
    database.commit()
    database.close()
    (tmp_path / "text").write_text("a letter to a friend, and no database at all\n" * 100)
    for name in ("other.sqlite", "text"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises((Refused, DamagedTable), match=name.replace(".", r"\.")):
            SqliteShelf(str(tmp_path / name))
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(Refused, match="not a regular file"):
        os.mkfifo(tmp_path / "pipe")
        SqliteShelf(str(tmp_path / "pipe"))


def test_a_database_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        shelf = SqliteShelf(str(tmp_path / "t.sqlite"))
        shelf.put("a.0", b"x")
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    shelf.close()
    assert set(modes.values()) == {0o600}
    assert "t.sqlite-wal" in modes
