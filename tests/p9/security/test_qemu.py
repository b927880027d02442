"""mapped-xattr: trees that QEMU made, 9P2000.u, and servers and file systems that can do less."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from fusemap.p9 import messages as m
from fusemap.p9.wire import Dialect

from ...support.process import ALICE, BOB, TEAM, call_as
from ...support.stage import Stage
from ..inside import (
    NOTHING_CHANGED,
    O_RDWR,
    SET_GID,
    SET_MODE,
    SET_UID,
    Inside,
    exported,
    refused,
    setattr_message,
)
from .qemu import MODEL, on_host, qemu_tree


def test_a_tree_that_qemu_made(source: Path) -> None:
    told = qemu_tree(source)
    with exported(source, MODEL) as export, Inside(export, ALICE.uid) as client:
        for name, (uid, gid, mode, rdev) in told.items():
            seen = client.getattr(name)
            assert (seen.uid, seen.gid, oct(seen.mode)) == (uid, gid, oct(mode)), name
            major, minor = os.major(rdev), os.minor(rdev)
            assert seen.rdev == minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
        assert client.readlink("link") == b"the target"
        assert client.readlink("host-link") == b"plain"
        assert client.content("plain") == b"made on the host"
        entries = client.entries()
        assert set(entries) == {b".", b"..", *map(os.fsencode, told)}
        for name, (_, _, mode, _) in told.items():
            entry, qid = entries[os.fsencode(name)], client.getattr(name).qid
            assert entry.kind == mode >> 12, name
            assert entry.qid == qid, name
            assert client.ask(m.Twalk(client.root, client.new(), (os.fsencode(name),))).wqid == (qid,)


@pytest.mark.parametrize("dialect", [Dialect.UNIX, Dialect.BASE], ids=lambda dialect: dialect.value.decode())
def test_a_tree_that_qemu_made_in_other_dialects(source: Path, dialect: Dialect) -> None:
    told = qemu_tree(source)
    with exported(source, MODEL) as export, Inside(export, dialect=dialect) as client:
        records = client.records()
        assert set(records) == set(map(os.fsencode, told))
        for name, (uid, gid, mode, rdev) in told.items():
            record = client.stat(name)
            assert record == records[os.fsencode(name)]
            assert record.mode & 0o777 == mode & 0o777
            if dialect is Dialect.UNIX:
                assert (record.n_uid, record.n_gid) == (uid, gid)
                assert bool(record.mode & 0x00080000) == bool(mode & stat.S_ISUID)
                if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                    letter = b"c" if stat.S_ISCHR(mode) else b"b"
                    assert record.extension == b"%c %d %d" % (letter, os.major(rdev), os.minor(rdev))
        if dialect is Dialect.UNIX:
            assert records[b"link"].extension == b"the target"
            assert records[b"host-link"].extension == b"plain"


def test_making_in_dialect_u(source: Path) -> None:
    with exported(source, MODEL) as export, Inside(export, ALICE.uid, Dialect.UNIX) as client:
        for name, perm, extension in (
            (b"link", 0x02000000 | 0o777, b"target"),
            (b"device", 0x00800000 | 0o640, b"b 8 1"),
            (b"fifo", 0x00200000 | 0o640, b""),
            (b"program", 0x00080000 | 0o755, b""),
        ):
            client.ask(m.Tcreate(client.walk(), name, perm, 0, extension))
        assert client.stat("link").extension == b"target"
        assert client.stat("device").extension == b"b 8 1"
        client.ask(m.Twstat(client.walk("program"), NOTHING_CHANGED._replace(mode=0o600, n_uid=BOB.uid)))
        assert (client.stat("program").n_uid, client.stat("program").mode) == (BOB.uid, 0o600)
    modes = {path.name: struct.unpack("<I", on_host(path)["mode"])[0] for path in source.iterdir()}
    assert {name: oct(mode) for name, mode in modes.items()} == {
        "link": oct(stat.S_IFLNK | 0o777),
        "device": oct(stat.S_IFBLK | 0o640),
        "fifo": oct(stat.S_IFIFO | 0o640),
        "program": oct(stat.S_IFREG | 0o600),
    }
    assert {oct(path.lstat().st_mode) for path in source.iterdir()} == {oct(stat.S_IFREG | 0o600)}


# Where it may do less -----------------------------------------------------------------------------------------------


def test_a_server_that_is_not_root(source: Path) -> None:
    """What mapped-xattr is for: a user's server that holds a whole system's tree."""
    os.chown(source, ALICE.uid, ALICE.gid)

    def work() -> dict[str, tuple[int, ...]]:
        with exported(source, MODEL) as export, Inside(export, 0) as client:
            client.make("file", b"content", 0o4755, gid=0)
            client.setattr("file", SET_UID | SET_GID, uid=BOB.uid, gid=TEAM)
            client.setattr("file", SET_MODE, mode=0o4750)
            client.ask(m.Tmkdir(client.root, b"dir", 0, 0))
            client.make("dir/file", b"in a directory that nobody may search", 0)
            client.ask(m.Tmknod(client.root, b"null", stat.S_IFCHR | 0o666, 1, 3, 0))
            client.ask(m.Tsymlink(client.root, b"link", b"target", 0))
            client.ask(m.Trenameat(client.root, b"link", client.walk("dir"), b"link"))
            assert client.readlink("dir/link") == b"target"
            assert client.content("dir/file").startswith(b"in a directory")
            told = {name: client.getattr(name) for name in ("file", "dir", "dir/file", "null")}
            return {name: (seen.mode, seen.uid, seen.gid, seen.rdev) for name, seen in told.items()}

    assert call_as(ALICE, work) == {
        "file": (stat.S_IFREG | 0o4750, BOB.uid, TEAM, 0),
        "dir": (stat.S_IFDIR, 0, 0, 0),
        "dir/file": (stat.S_IFREG, 0, 0, 0),
        "null": (stat.S_IFCHR | 0o666, 0, 0, 1 << 8 | 3),
    }
    for path in source.rglob("*"):
        st = path.lstat()
        assert (st.st_uid, st.st_gid) == (ALICE.uid, ALICE.gid)
        assert oct(st.st_mode) == oct(stat.S_IFDIR | 0o700 if path.name == "dir" else stat.S_IFREG | 0o600)


def test_a_file_that_the_server_may_not_read(source: Path) -> None:
    """Its attributes neither: it is shown as the host has it, and the rest of the listing comes as well."""
    for name in ("a", "closed", "z"):
        (source / name).write_text("")
    (source / "closed").chmod(0o600)

    def work() -> tuple[set[bytes], int, int]:
        with exported(source, MODEL) as export, Inside(export) as client:
            seen = client.getattr("closed")
            with refused(errno.EACCES):
                client.open("closed")
        with exported(source, MODEL) as export, Inside(export, 0, Dialect.UNIX) as client:
            return set(client.records()), seen.mode, seen.uid

    expected = ({b"a", b"closed", b"z"}, stat.S_IFREG | 0o600, 0)
    assert call_as(ALICE, work) == expected


@pytest.mark.parametrize("dialect", [Dialect.LINUX, Dialect.UNIX], ids=lambda dialect: dialect.value.decode())
def test_a_file_system_without_attributes(stage: Stage, dialect: Dialect) -> None:
    """Nothing can be made there, since it could not be the user's; and nothing half-made stays."""
    source = stage.mount("ramfs", "ramfs", "-t", "ramfs")
    (source / "file").write_text("made on the host")
    (source / "dir").mkdir()
    with exported(source, MODEL) as export, Inside(export, ALICE.uid, dialect) as client:
        most = m.NONUNAME
        messages: list[Any] = [
            m.Tcreate(client.walk(), b"new", 0o644, 1, b""),
            m.Tcreate(client.walk(), b"new", 0x80000000 | 0o755, 0, b""),
            m.Tcreate(client.walk(), b"new", 0x02000000 | 0o777, 0, b"target"),
            m.Tcreate(client.walk(), b"new", 0x00200000 | 0o644, 0, b""),
            m.Twstat(client.walk("file"), NOTHING_CHANGED._replace(mode=0o600)),
        ]
        if dialect is Dialect.LINUX:
            messages = [
                m.Tlcreate(client.walk(), b"new", O_RDWR, 0o644, most),
                m.Tmkdir(client.root, b"new", 0o755, most),
                m.Tsymlink(client.root, b"new", b"target", most),
                m.Tmknod(client.root, b"new", stat.S_IFIFO | 0o644, 0, 0, most),
                setattr_message(client.walk("file"), SET_MODE, mode=0o600),
                setattr_message(client.walk("file"), SET_UID, uid=1),
            ]
        for message in messages:
            with refused(errno.EOPNOTSUPP):
                client.ask(message)
            assert sorted(os.listdir(source)) == ["dir", "file"]
        assert client.content("file") == b"made on the host"  # what is there is shown as it is
        fid = client.open("file", O_RDWR)
        client.write(fid, b"MADE")
        client.clunk(fid)
        client.remove("file")
    assert os.listdir(source) == ["dir"]
