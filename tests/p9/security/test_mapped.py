"""mapped-xattr: what the client sets lives in attributes, byte for byte as QEMU's, and the host sees plain files."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from fusemap.p9 import messages as m

from ...support.describe import describe_tree
from ...support.process import ALICE, BOB, MEMBER, ROOT, TEAM, User
from ..inside import (
    AT_REMOVEDIR,
    O_EXCL,
    O_RDONLY,
    O_RDWR,
    O_TRUNC,
    O_WRONLY,
    SET_ATIME_SET,
    SET_CTIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_SET,
    SET_SIZE,
    SET_UID,
    Inside,
    exported,
    refused,
)
from .qemu import MODEL, on_host, u32, u64

ACL_ACCESS: Final = b"system.posix_acl_access"
ACL_DEFAULT: Final = b"system.posix_acl_default"
ACL: Final = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, 0xFFFFFFFF) for tag, rights in ((1, 7), (4, 5), (0x20, 0))
)
SPECIAL: Final = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "char": stat.S_IFCHR, "block": stat.S_IFBLK}
on_each_disk = pytest.mark.parametrize("source", ["ext4", "xfs"], indirect=True)


# What is made -------------------------------------------------------------------------------------------------------


@on_each_disk
def test_files_and_directories(source: Path) -> None:
    with exported(source, MODEL) as export, Inside(export, ALICE.uid) as client:
        client.make("file", b"content", 0o640, gid=TEAM)
        client.clunk(client.create("program", mode=0o6755, gid=0x7FFFFFFF))
        client.ask(m.Tmkdir(client.root, b"dir", 0o3770, BOB.gid))
        client.ask(m.Tmknod(client.root, b"node", stat.S_IFREG | 0o604, 0, 0, BOB.gid))
        seen = {name: client.getattr(name) for name in ("file", "program", "dir", "node")}
    expected = {
        "file": (TEAM, stat.S_IFREG | 0o640),
        "program": (0x7FFFFFFF, stat.S_IFREG | 0o6755),
        "dir": (BOB.gid, stat.S_IFDIR | 0o3770),
        "node": (BOB.gid, stat.S_IFREG | 0o604),
    }
    for name, (gid, mode) in expected.items():
        assert on_host(source / name) == {"uid": u32(ALICE.uid), "gid": u32(gid), "mode": u32(mode)}
        assert (seen[name].uid, seen[name].gid, seen[name].mode) == (ALICE.uid, gid, mode)
        st = (source / name).lstat()
        assert (st.st_uid, st.st_gid) == (0, 0)
        assert oct(st.st_mode) == oct(stat.S_IFDIR | 0o700 if name == "dir" else stat.S_IFREG | 0o600)
    assert (source / "file").read_bytes() == b"content"


@pytest.mark.parametrize("kind", SPECIAL)
@on_each_disk
def test_special_files(source: Path, kind: str) -> None:
    mode = SPECIAL[kind] | 0o640
    major, minor = (259, 70000) if kind in ("char", "block") else (0, 0)
    with exported(source, MODEL) as export, Inside(export, ALICE.uid) as client:
        client.ask(m.Tmknod(client.root, b"special", mode, major, minor, ALICE.gid))
        seen = client.getattr("special")
        assert (seen.mode, seen.uid, seen.gid, seen.size) == (mode, ALICE.uid, ALICE.gid, 0)
        assert seen.rdev == minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
        client.setattr("special", SET_MODE, mode=0o4600)
        assert client.mode("special") == SPECIAL[kind] | 0o4600
        client.remove("special")
        client.ask(m.Tmknod(client.root, b"special", mode, major, minor, ALICE.gid))
    st = (source / "special").lstat()
    assert (oct(st.st_mode), st.st_size, st.st_uid) == (oct(stat.S_IFREG | 0o600), 0, 0)
    attributes = on_host(source / "special")
    assert attributes.pop("rdev", u64(0)) == u64(os.makedev(major, minor))
    assert attributes == {"uid": u32(ALICE.uid), "gid": u32(ALICE.gid), "mode": u32(mode)}


@pytest.mark.parametrize("target", [b"x", b"/etc/passwd", b"../" * 100, b"\xff\xfe", b"t" * 4095])
@on_each_disk
def test_symbolic_links(source: Path, target: bytes) -> None:
    """The target is the content, without a NUL after it."""
    with exported(source, MODEL) as export, Inside(export, ALICE.uid) as client:
        client.ask(m.Tsymlink(client.root, b"link", target, ALICE.gid))
        assert client.readlink("link") == target
        seen = client.getattr("link")
        assert (seen.mode, seen.size, seen.qid.type) == (stat.S_IFLNK | 0o777, len(target), 2)
        with refused(errno.EINVAL):
            client.setattr("link", SET_SIZE, size=0)
        with refused(errno.EOPNOTSUPP):
            client.setattr("link", SET_MODE, mode=0o600)
        with refused(errno.ELOOP):
            client.open("link")
        with refused(errno.EINVAL):
            client.readlink("")
    assert (source / "link").read_bytes() == target
    assert oct((source / "link").lstat().st_mode) == oct(stat.S_IFREG | 0o600)
    assert on_host(source / "link")["mode"] == u32(stat.S_IFLNK | 0o777)


def test_a_target_that_is_too_long(source: Path) -> None:
    with exported(source, MODEL) as export, Inside(export) as client, refused(errno.ENAMETOOLONG):
        client.ask(m.Tsymlink(client.root, b"link", b"t" * 4096, 0))
    assert list(source.iterdir()) == []


def test_creating_where_something_is(source: Path) -> None:
    with exported(source, MODEL) as export, Inside(export, ALICE.uid) as client, Inside(export, BOB.uid) as bob:
        client.make("file", b"content", 0o640)
        client.ask(m.Tmkdir(client.root, b"dir", 0o755, 0))
        client.ask(m.Tsymlink(client.root, b"link", b"nowhere", 0))
        client.ask(m.Tmknod(client.root, b"fifo", stat.S_IFIFO | 0o666, 0, 0, 0))
        for name in ("file", "dir", "link", "fifo"):
            with refused(errno.EEXIST):
                client.create(name, O_RDWR | O_EXCL)
        for name in ("dir", "link", "fifo"):
            for flags in (O_RDWR, O_RDONLY, O_RDONLY | O_TRUNC):
                with refused(errno.EISDIR if name == "dir" else errno.ELOOP):
                    client.create(name, flags)
        fid = bob.create("file", O_RDWR, 0o777)  # as open(2): neither owner nor mode of what is there change
        assert bob.read(fid) == b"content"
        bob.clunk(fid)
        assert (client.getattr("file").uid, client.mode("file")) == (ALICE.uid, stat.S_IFREG | 0o640)
        for flags in (O_RDWR | O_TRUNC, O_RDONLY | O_TRUNC):
            bob.clunk(bob.create("file", flags))
            assert client.getattr("file").size == 0
            client.write(client.open("file", O_WRONLY), b"content")
        assert client.readlink("link") == b"nowhere"


# What is changed ----------------------------------------------------------------------------------------------------


@on_each_disk
def test_mode_and_owner_change_in_attributes_only(source: Path) -> None:
    with exported(source, MODEL) as export, Inside(export, ALICE.uid) as client:
        client.make("file", mode=0o640, gid=ALICE.gid)
        client.ask(m.Tmkdir(client.root, b"dir", 0o755, ALICE.gid))
        for name, kind in (("file", stat.S_IFREG), ("dir", stat.S_IFDIR)):
            before = (source / name).lstat()
            client.setattr(name, SET_MODE, mode=kind | 0o7711)
            assert on_host(source / name)["mode"] == u32(kind | 0o7711)
            client.setattr(name, SET_UID, uid=BOB.uid, gid=12345)
            assert (on_host(source / name)["uid"], on_host(source / name)["gid"]) == (u32(BOB.uid), u32(ALICE.uid))
            client.setattr(name, SET_GID, uid=12345, gid=0xFFFFFFFE)
            assert on_host(source / name)["gid"] == u32(0xFFFFFFFE)
            assert on_host(source / name)["uid"] == u32(BOB.uid)
            client.setattr(name, SET_CTIME)
            after = (source / name).lstat()
            assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
            assert after.st_ctime_ns > before.st_ctime_ns
            seen = client.getattr(name)
            assert (seen.uid, seen.gid, seen.mode) == (BOB.uid, 0xFFFFFFFE, kind | 0o7711)
        client.setattr("file", SET_MTIME | SET_MTIME_SET | SET_ATIME_SET, mtime_s=1_000_000_000, mtime_ns=5)
        assert (source / "file").stat().st_mtime_ns == 1_000_000_000_000_000_005


WRITES: Final[dict[str, Callable[[Inside], Any]]] = {
    "write": lambda client: client.clunk([fid := client.open("file", O_WRONLY), client.write(fid, b"x")][0]),
    "setattr": lambda client: client.setattr("file", SET_SIZE, size=1),
    "truncating open": lambda client: client.clunk(client.open("file", O_RDWR | O_TRUNC)),
    "creating open": lambda client: client.clunk(client.create("file", O_RDWR | O_TRUNC)),
}


@pytest.mark.parametrize("what", WRITES)
def test_set_id_bits(source: Path, what: str) -> None:
    """As setattr_should_drop_suidgid() in Linux's fs/attr.c has it."""
    run = WRITES[what]
    cases: list[tuple[User, int, int]] = [
        (ROOT, 0o6777, 0o6777),
        (ALICE, 0o6777, 0o0777),  # the owner too
        (BOB, 0o6777, 0o0777),
        (ALICE, 0o2666, 0o2666),  # not executed by the group: locked, of old; and he is in the group
        (BOB, 0o2666, 0o0666),  # he is not
        (BOB, 0o1666, 0o1666),
        (MEMBER, 0o4755, 0o0755),
    ]
    with exported(source, MODEL) as export, Inside(export) as root:
        for user, mode, expected in cases:
            with Inside(export, user.uid) as client:
                root.make("file", b"content")
                root.setattr("file", SET_UID | SET_GID, uid=ALICE.uid, gid=NOBODYS if user is BOB else GROUP[user])
                root.setattr("file", SET_MODE, mode=mode)
                run(client)
                assert oct(root.mode("file")) == oct(stat.S_IFREG | expected), (user, oct(mode))
                assert oct((source / "file").stat().st_mode) == oct(stat.S_IFREG | 0o600)
                root.remove("file")


NOBODYS: Final = 62002
GROUP: Final = dict.fromkeys((ROOT, ALICE, MEMBER), 65534)  # that of users whom this host does not know


def test_names_move_with_their_attributes(source: Path) -> None:
    with exported(source, MODEL) as export, Inside(export, ALICE.uid) as client:
        client.make("file", b"content", 0o640)
        client.ask(m.Tmkdir(client.root, b"dir", 0o711, ALICE.gid))
        client.ask(m.Tsymlink(client.root, b"sym", b"target", ALICE.gid))
        client.ask(m.Tlink(client.root, client.walk("file"), b"hard"))
        client.ask(m.Tlink(client.root, client.walk("sym"), b"hard-sym"))
        assert client.getattr("hard").nlink == 2
        assert client.getattr("hard").qid == client.getattr("file").qid
        assert client.readlink("hard-sym") == b"target"
        client.setattr("hard", SET_MODE, mode=0o600)
        assert client.mode("file") == stat.S_IFREG | 0o600
        client.ask(m.Trenameat(client.root, b"file", client.walk("dir"), b"moved"))
        client.ask(m.Trenameat(client.root, b"dir", client.root, b"DIR"))
        assert client.mode("DIR") == stat.S_IFDIR | 0o711
        assert client.mode("DIR/moved") == stat.S_IFREG | 0o600
        client.ask(m.Trenameat(client.root, b"sym", client.root, b"hard"))  # over another
        assert client.readlink("hard") == b"target"
        with refused(errno.ENOTEMPTY):
            client.ask(m.Tunlinkat(client.root, b"DIR", AT_REMOVEDIR))
        client.remove("DIR/moved")
        client.ask(m.Tunlinkat(client.root, b"DIR", AT_REMOVEDIR))
        for name in (b"hard", b"hard-sym"):
            client.ask(m.Tunlinkat(client.root, name, 0))
    assert list(source.iterdir()) == []


# Attributes ---------------------------------------------------------------------------------------------------------


def test_our_attributes_are_hidden(source: Path) -> None:
    with exported(source, MODEL) as export, Inside(export, ALICE.uid) as client:
        client.make("file")
        client.ask(m.Tmkdir(client.root, b"dir", 0o755, 0))
        client.ask(m.Tmknod(client.root, b"device", stat.S_IFCHR | 0o600, 1, 3, 0))
        before = describe_tree(source)
        for name in ("file", "dir", "device"):
            assert client.xattrs(name) == set()
            for word in ("uid", "gid", "mode", "rdev", "", "other", "system.posix_acl_access"):
                attribute = f"user.virtfs.{word}".encode()
                with refused(errno.ENODATA):
                    client.xattr(name, attribute)
                for value, flags in ((u32(0), 0), (u32(0), os.XATTR_CREATE), (b"", os.XATTR_REPLACE), (b"", 0)):
                    with refused(errno.EPERM, errno.EACCES):
                        client.set_xattr(name, attribute, value, flags)
            for attribute in (b"security.capability", b"trusted.x", b"system.x", b"nonsense"):
                with refused(errno.EOPNOTSUPP):
                    client.set_xattr(name, attribute, b"x")
                with refused(errno.EOPNOTSUPP, errno.ENODATA):
                    client.xattr(name, attribute)
        assert describe_tree(source) == before
        os.setxattr(source / "file", "trusted.host", b"x")
        client.set_xattr("file", b"user.his", b"own")
        assert client.xattrs("file") == {b"user.his"}
        assert os.getxattr(source / "file", "user.his") == b"own"
        client.set_xattr("file", b"user.his", b"", os.XATTR_REPLACE)
        assert client.xattrs("file") == set()


def test_acls_are_kept_beside(source: Path) -> None:
    """As 9p-posix-acl.c maps them; the host itself does not act on them."""
    with exported(source, MODEL) as export, Inside(export, ALICE.uid) as client:
        client.make("file", mode=0o640)
        client.ask(m.Tmkdir(client.root, b"dir", 0o755, 0))
        for name in ("file", "dir"):
            for acl in (ACL_ACCESS, ACL_DEFAULT):
                with refused(errno.ENODATA):
                    client.xattr(name, acl)
                client.set_xattr(name, acl, ACL)
                assert client.xattr(name, acl) == ACL
                assert os.getxattr(source / name, b"user.virtfs." + acl) == ACL
                with pytest.raises(OSError) as none:
                    os.getxattr(source / name, acl)
                assert none.value.errno == errno.ENODATA
            assert client.xattrs(name) == {ACL_ACCESS, ACL_DEFAULT}
            client.set_xattr(name, ACL_ACCESS, b"", os.XATTR_REPLACE)
            assert client.xattrs(name) == {ACL_DEFAULT}
            with refused(errno.ENODATA):
                client.set_xattr(name, ACL_ACCESS, b"", os.XATTR_REPLACE)
