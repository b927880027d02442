"""Attacks by way of what files are: own tables, attributes, devices and fifos, set-id bits."""

from __future__ import annotations

import errno
import os
import select
import shutil
import socket
import stat
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import pytest

from fusemap.p9 import messages as m
from fusemap.p9.wire import Dialect

from ...support.describe import describe_tree
from ...support.process import ALICE, BOB, ROOT, User, run
from ..inside import (
    NOTHING_CHANGED,
    O_RDONLY,
    O_RDWR,
    O_TRUNC,
    O_WRONLY,
    SET_GID,
    SET_MODE,
    SET_SIZE,
    SET_UID,
    Inside,
    exported,
    refused,
    setattr_message,
)
from .ground import Ground, dialects, models


@models
def test_own_tables_cannot_be_seen(disk_ground: Ground, model: str) -> None:
    """CVE-2017-7493: QEMU's clients could reach .virtfs_metadata, in which QEMU itself keeps notes."""
    ground = disk_ground
    tables = {b"user.fusemap.table.1": b"our table", b"user.virtfs.system.qidp.1": b"QEMU's patches' table"}
    for name, value in tables.items():
        os.setxattr(ground.tree, name, value)
    os.setxattr(ground.tree, "user.other", b"other")
    before = describe_tree(ground.tree)
    with exported(ground.tree, model) as export, Inside(export) as client:
        assert client.xattrs() == {b"user.other"}
        for name in (*tables, b"user.fusemap.table.new", b"user.fusemap.", b"user.virtfs.system.new"):
            with refused(errno.ENODATA):
                client.xattr("", name)
            for flags in (0, os.XATTR_CREATE, os.XATTR_REPLACE):
                with refused(errno.EPERM):
                    client.set_xattr("", name, b"forged", flags)
            with refused(errno.EPERM):
                client.set_xattr("", name, b"", os.XATTR_REPLACE)
        for name in (b"user.fusemap.locate." + b"9" * 5000, b"user.fusemap.locate.99999999999999999999"):
            with refused(errno.ENODATA, errno.ERANGE):
                client.xattr("", name)
    assert {name: os.getxattr(ground.tree, name) for name in tables} == tables
    assert describe_tree(ground.tree) == before


@models
def test_an_attribute_has_only_bytes_that_were_written(disk_ground: Ground, model: str) -> None:
    """CVE-2017-15038: bytes of QEMU's memory came with an attribute whose value was never written."""
    with exported(disk_ground.tree, model) as export, Inside(export) as client:
        for first, later in ((b"", 0), (b"1234", 0), (b"", 5), (b"12345", 6)):
            fid = client.walk("file")
            client.ask(m.Txattrcreate(fid, b"user.x", 10, 0))
            if first:
                client.write(fid, first)
            if later:  # which would leave a hole
                with refused(errno.EINVAL):
                    client.write(fid, b"6789", later)
            with refused(errno.EBADF):
                client.read(fid, 0, 10)
            with refused(errno.EINVAL):
                client.clunk(fid)
            assert client.xattrs("file") == set()
        fid = client.walk("file")
        client.ask(m.Txattrcreate(fid, b"user.x", 10, 0))
        with refused(errno.ENOSPC):
            client.write(fid, b"x" * 11)
        client.write(fid, b"0123456789")
        with refused(errno.ENOSPC):
            client.write(fid, b"x", 10)
        client.clunk(fid)
        value, file = client.new(), client.walk("file")
        assert client.ask(m.Txattrwalk(file, value, b"user.x")).size == 10
        os.setxattr(disk_ground.tree / "file", "user.x", b"x" * 100)  # longer than what was announced
        assert client.read(value, 0, 100) == b"0123456789"
        assert client.read(value, 10, 100) == client.read(value, (1 << 64) - 1, 100) == b""
        with refused(errno.EBADF):
            client.write(value, b"x")


# Special files ------------------------------------------------------------------------------------------------------


@dialects
@models
def test_special_files_are_never_opened(disk_ground: Ground, model: str, dialect: Dialect) -> None:
    """CVE-2023-2861: QEMU opened devices and fifos of the host for its guest, or hung on them."""
    tree = disk_ground.tree
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tree / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 255))
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(os.fspath(tree / "socket"))
        listening.listen()
        reader = os.open(tree / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, reader)
        poll = select.poll()
        poll.register(reader)
        export = stack.enter_context(exported(tree, model))
        client = stack.enter_context(Inside(export, dialect=dialect))
        for name in ("fifo", "null", "disk", "socket"):
            for flags in (O_RDONLY, O_WRONLY, O_RDWR, O_WRONLY | O_TRUNC):
                with refused(errno.ENXIO):
                    client.open(name, flags)
            fid = client.walk(name)
            for message in (m.Tread(fid, 0, 10), m.Twrite(fid, 0, b"x")):
                with refused(errno.EBADF):
                    client.ask(message)
            if dialect is Dialect.LINUX:
                with refused(errno.ENXIO, errno.EEXIST, errno.ELOOP):
                    client.create(name, O_WRONLY)
                with refused(errno.EINVAL):
                    client.setattr(name, SET_SIZE, size=0)
            else:
                with refused(errno.EINVAL):
                    client.ask(m.Twstat(fid, NOTHING_CHANGED._replace(length=0)))
        assert poll.poll(0) == []  # it hangs up as soon as a writer was there
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


@models
def test_special_files_that_the_client_made(disk_ground: Ground, model: str) -> None:
    """CVE-2023-2861, by the client alone; under mapped-xattr nothing special is on the host at all."""
    with exported(disk_ground.tree, model) as export, Inside(export) as client:
        kinds = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK, "socket": stat.S_IFSOCK}
        for name, kind in kinds.items():
            client.ask(m.Tmknod(client.root, os.fsencode(name), kind | 0o666, 7, 255, 0))
            assert client.mode(name) == kind | 0o666
            for flags in (O_RDONLY, O_WRONLY, O_RDWR, O_WRONLY | O_TRUNC):
                with refused(errno.ENXIO):
                    client.open(name, flags)
            with refused(errno.EINVAL):
                client.setattr(name, SET_SIZE, size=0)
            on_host = os.lstat(disk_ground.tree / name).st_mode
            assert stat.S_IFMT(on_host) == (stat.S_IFREG if model == "mapped-xattr" else kind)


# Rights that stay ---------------------------------------------------------------------------------------------------

STRIPS: Final[dict[str, Callable[[Inside], None]]] = {
    "write": lambda client: client.clunk([fid := client.open("file", O_WRONLY), client.write(fid, b"x")][0]),
    "read and write": lambda client: client.clunk([fid := client.open("file", O_RDWR), client.write(fid, b"x")][0]),
    "much": lambda client: client.clunk([fid := client.open("file", O_RDWR), client.write(fid, b"x" * 100000)][0]),
    "synchronous": lambda client: client.clunk([fid := client.open("file", 0o4010002), client.write(fid, b"x")][0]),
    "truncating open": lambda client: client.clunk(client.open("file", O_RDWR | O_TRUNC)),
    "creating open": lambda client: client.clunk(client.create("file", O_RDWR | O_TRUNC)),
    "setattr": lambda client: client.setattr("file", SET_SIZE, size=1),
    "setattr of an open file": lambda client: client.clunk(
        [fid := client.open("file", O_RDWR), client.ask(setattr_message(fid, SET_SIZE, size=1))][0]
    ),
}


@models
@pytest.mark.parametrize("what", STRIPS)
@pytest.mark.parametrize("user", [ROOT, ALICE, BOB], ids=repr)
def test_set_id_bits_go(disk_ground: Ground, model: str, what: str, user: User) -> None:
    """CVE-2023-1386: written by a user through a server with root's rights, a program kept its set-user-id bit."""
    path = disk_ground.tree / "file"
    disk_ground.tree.chmod(0o777)
    modes = (0o6777, 0o4766, 0o2676)
    with exported(disk_ground.tree, model) as export, Inside(export) as root, Inside(export, user.uid) as client:
        for mode in modes:
            path.unlink()
            path.write_text("program")
            root.setattr("file", SET_UID | SET_GID, uid=ALICE.uid, gid=ALICE.gid)
            root.setattr("file", SET_MODE, mode=mode)
            assert root.mode("file") == stat.S_IFREG | mode
            STRIPS[what](client)
            expected = mode if user is ROOT else mode & 0o777
            assert oct(root.mode("file")) == oct(stat.S_IFREG | expected)
            if model != "mapped-xattr":
                assert oct(path.stat().st_mode) == oct(stat.S_IFREG | expected)
            assert not path.stat().st_mode & 0o6000 or model != "mapped-xattr"


@models
@pytest.mark.parametrize("read_only", [False, True])
def test_a_lock_does_not_keep_the_host_from_running_a_program(
    disk_ground: Ground, model: str, read_only: bool
) -> None:
    """A program that is open for writing cannot be run; who may only read it must not bring that about by a lock."""
    program = disk_ground.tree / "program"
    shutil.copy(shutil.which("true") or "/bin/true", program)
    program.chmod(0o755)
    with exported(disk_ground.tree, model, read_only=read_only) as export, Inside(export, ALICE.uid) as client:
        fid = client.open("program")
        assert client.ask(m.Tlock(fid, 0, 0, 0, 0, 1, b"")).status == 0
        with refused(errno.EBADF):
            client.ask(m.Tlock(fid, 1, 0, 0, 0, 1, b""))
        run(program)


@models
def test_set_id_bits_that_come_while_the_file_is_open(disk_ground: Ground, model: str) -> None:
    """CVE-2023-1386 with the open before the chmod."""
    disk_ground.tree.joinpath("file").chmod(0o666)
    with exported(disk_ground.tree, model) as export, Inside(export) as root, Inside(export, BOB.uid) as client:
        root.setattr("file", SET_MODE, mode=0o666)
        fid = client.open("file", O_WRONLY)
        root.setattr("file", SET_MODE, mode=0o6777)
        client.write(fid, b"x")
        assert oct(root.mode("file")) == oct(stat.S_IFREG | 0o777)
