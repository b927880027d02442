"""Directories as 9P2000.L lists them: in any portions, from any place, whatever comes and goes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusemap.p9 import messages as m

from ..support import needs
from ..support.process import ALICE, call_as
from ..support.stage import Stage
from .inside import refused
from .talk import Talk, entries, talking


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    """A client of d/e/f, g and an empty "void"."""
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f").write_bytes(b"content")
    (tmp_path / "g").write_bytes(b"other")
    (tmp_path / "void").mkdir()
    with talking(tmp_path) as client:
        yield client


# Directories


def listed(talk: Talk, fid: int, count: int, start: int = 0) -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []
    while True:
        part = entries(bytes(talk.ask(m.Treaddir(fid, found[-1][1] if found else start, count)).data))
        if not part:
            return found
        found += part


def test_a_listing_in_any_portions_and_from_any_place(talk: Talk, tmp_path: Path) -> None:
    names = {b"n" * (1 + n % 200) + b"%d" % n for n in range(150)}
    for name in names:
        (tmp_path / "void" / os.fsdecode(name)).touch()
    fid = talk.open("void")
    whole = listed(talk, fid, 1 << 17)
    assert {name for name, _ in whole} == names | {b".", b".."}
    assert len(whole) == len(names) + 2
    for count in (228, 229, 500, 4096):
        assert listed(talk, fid, count) == whole
    for at in (0, 1, 75, 150):
        assert listed(talk, fid, 3000, whole[at][1]) == whole[at + 1 :]
    for count in (0, 24, 24):
        with refused(errno.EINVAL):
            talk.ask(m.Treaddir(fid, 0, count))
    assert listed(talk, fid, 1 << 17) == whole


def test_a_listing_goes_on_whatever_is_removed(talk: Talk, tmp_path: Path) -> None:
    for n in range(100):
        (tmp_path / "void" / f"{n}").touch()
    fid = talk.open("void")
    found: list[tuple[bytes, int]] = []
    while part := entries(bytes(talk.ask(m.Treaddir(fid, found[-1][1] if found else 0, 100)).data)):
        for name, _ in part:
            if name.isdigit():
                os.unlink(tmp_path / "void" / os.fsdecode(name))
        found += part
    assert len(found) == 102
    assert os.listdir(tmp_path / "void") == []
    assert [name for name, _ in listed(talk, fid, 100)] == [b".", b".."]


def test_an_entry_of_mapped_xattr_that_goes_while_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    with talking(tmp_path, model="mapped-xattr") as talk:
        show = type(talk.session.model).shown_entry

        def gone(self: Any, directory: Any, name: bytes, st: Any) -> Any:
            if name == b"b":
                os.unlink(tmp_path / "b")
            return show(self, directory, name, st)

        monkeypatch.setattr(type(talk.session.model), "shown_entry", gone)
        assert {name for name, _ in listed(talk, talk.open(""), 8192)} == {b".", b"..", b"a", b"c"}


def test_what_a_mapped_server_may_not_read_is_shown_as_it_is(stage: Stage) -> None:
    needs.root()
    top = stage.directory("mapped")
    (top / "closed").mkdir(mode=0o700)
    (top / "secret").write_bytes(b"secret")
    (top / "secret").chmod(0o600)
    (top / "open").write_bytes(b"open")
    os.setxattr(top / "open", "user.virtfs.uid", (77).to_bytes(4, "little"))

    def server() -> tuple[set[bytes], int, int]:
        with talking(top, model="mapped-xattr") as talk:
            names = {name for name, _ in listed(talk, talk.open(""), 8192)}
            with refused(errno.EACCES):
                talk.open("secret")
            return names, talk.getattr("secret").mode, talk.getattr("open").uid

    assert call_as(ALICE, server) == ({b".", b"..", b"closed", b"secret", b"open"}, 0o100600, 77)
