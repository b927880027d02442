"""No number is left: ENFILE from whatever would tell a new one, and nothing half-made stays behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from fusemap import errors
from fusemap.p9 import messages as m
from fusemap.p9.wire import Dialect
from fusemap.qid import Allocator, Mapper

from .inside import O_RDWR, exported, refused
from .talk import Talk, entries


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """That no number is left is logged once, and was."""
    monkeypatch.setattr(errors, "_exhausted_logged", True)


def scarce(numbers: int) -> Mapper:
    """A mapper that has this many numbers left (mode suffix, k = 0)."""
    return Mapper(source=Allocator(65536, 2**31 - numbers))


MAKING: dict[str, Any] = {
    "lcreate": lambda fid: m.Tlcreate(fid, b"new", O_RDWR, 0o600, 0),
    "mkdir": lambda fid: m.Tmkdir(fid, b"new", 0o700, 0),
    "mknod": lambda fid: m.Tmknod(fid, b"new", 0o10600, 0, 0, 0),
    "symlink": lambda fid: m.Tsymlink(fid, b"new", b"target", 0),
    "create": lambda fid: m.Tcreate(fid, b"new", 0o600, 2),
    "create-directory": lambda fid: m.Tcreate(fid, b"new", 0x800001ED, 0),
    "create-symlink": lambda fid: m.Tcreate(fid, b"new", 0x02000000, 0, b"target"),
    "create-fifo": lambda fid: m.Tcreate(fid, b"new", 0x00200180, 0),
}


@pytest.mark.parametrize("which", ["own", "shown"])
@pytest.mark.parametrize("name", MAKING)
def test_what_gets_no_number_is_not_made(tmp_path: Path, name: str, which: str, logged: None) -> None:
    (tmp_path / "old").touch()
    mapper = scarce(1) if which == "own" else None
    shown = None if which == "own" else scarce(1)
    dialect = Dialect.UNIX if name.startswith("create") else Dialect.LINUX
    with exported(tmp_path, mapper=mapper, shown=shown) as export, Talk(export, 0, dialect) as talk:
        fid = talk.walk("")
        for _ in range(2):
            with refused(errno.ENFILE):
                talk.ask(MAKING[name](fid))
            assert os.listdir(tmp_path) == ["old"]
        with refused(errno.ENFILE):
            talk.walk("old")
        number = talk.ask(m.Tgetattr(fid, 1)).qid if dialect is Dialect.LINUX else talk.ask(m.Tstat(fid)).stat.qid
        assert number.type == 0x80
        talk.open_fid(fid)


def test_what_is_there_and_gets_no_number_is_not_removed(tmp_path: Path, logged: None) -> None:
    (tmp_path / "old").write_bytes(b"old")
    with exported(tmp_path, shown=scarce(1)) as export, Talk(export) as talk:
        with refused(errno.ENFILE):
            talk.ask(m.Tlcreate(talk.walk(""), b"old", O_RDWR, 0o600, 0))
    assert (tmp_path / "old").read_bytes() == b"old"


@pytest.mark.parametrize("which", ["own", "shown"])
def test_a_listing_and_a_walk_up_to_what_gets_no_number(tmp_path: Path, which: str, logged: None) -> None:
    for n in range(10):
        (tmp_path / f"d{n}").mkdir()
    options: dict[str, Any] = {"mapper": scarce(5)} if which == "own" else {"shown": scarce(5)}
    with exported(tmp_path, **options) as export, Talk(export) as talk:
        fid = talk.open("")
        first = entries(bytes(talk.ask(m.Treaddir(fid, 0, 8192)).data))
        for _ in range(2):
            with refused(errno.ENFILE):
                talk.ask(m.Treaddir(fid, first[-1][1], 8192))
        seen = [name for name, _ in first if name.startswith(b"d")]
        assert len(seen) == 4
        (tmp_path / os.fsdecode(seen[0]) / "below").touch()
        with refused(errno.ENFILE):  # not the part that could be walked: to a client that means ENOENT
            talk.ask(m.Twalk(talk.root, 50, (seen[0], b"below")))
        other = next(f"d{n}" for n in range(10) if b"d%d" % n not in seen)
        for act in (talk.walk, lambda name: talk.attach(aname=name.encode()), talk.open):
            with refused(errno.ENFILE):
                act(other)
