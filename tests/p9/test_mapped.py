"""mapped-xattr: what the client sets lives in attributes, byte for byte as QEMU's, and the host sees plain files only.

The expectations about attributes are written down from QEMU's hw/9pfs/9p-local.c and 9p-posix-acl.c, not taken from the
product.
"""

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
from fusemap.p9.wire import Dialect

from ..support.describe import describe_tree
from ..support.process import ALICE, BOB, MEMBER, ROOT, TEAM, User, call_as
from ..support.stage import Stage
from .inside import (
    AT_REMOVEDIR,
    NOTHING_CHANGED,
    O_EXCL,
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
    setattr_message,
)

MODEL: Final = "mapped-xattr"
ACL_ACCESS: Final = b"system.posix_acl_access"
ACL_DEFAULT: Final = b"system.posix_acl_default"
ACL: Final = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, 0xFFFFFFFF) for tag, rights in ((1, 7), (4, 5), (0x20, 0))
)
SPECIAL: Final = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "char": stat.S_IFCHR, "block": stat.S_IFBLK}


@pytest.fixture(params=["ext4", "xfs"])
def source(stage: Stage, request: pytest.FixtureRequest) -> Path:
    """A directory to be exported, on a file system with attributes."""
    path = stage.disk(request.param, request.param) / "source"
    path.mkdir()
    return path


@pytest.fixture
def one_source(stage: Stage) -> Path:
    """A directory to be exported."""
    path = stage.ext4("ext4") / "source"
    path.mkdir()
    return path


def u32(number: int) -> bytes:
    """As QEMU writes uid, gid and mode."""
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    """As QEMU writes rdev."""
    return struct.pack("<Q", number)


def on_host(path: Path) -> dict[str, bytes]:
    """The attributes of a host file that are QEMU's and ours, without the prefix."""
    names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user.virtfs.")]
    return {name[12:]: os.getxattr(path, name, follow_symlinks=False) for name in names}


def by_qemu(path: Path, uid: int, gid: int, mode: int, rdev: int = 0) -> None:
    """Marks a host file as local_set_xattr() does."""
    for name, value in (("uid", u32(uid)), ("gid", u32(gid)), ("mode", u32(mode))):
        os.setxattr(path, f"user.virtfs.{name}", value)
    if rdev:
        os.setxattr(path, "user.virtfs.rdev", u64(rdev))


# What is made -------------------------------------------------------------------------------------------------------


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


def test_a_target_that_is_too_long(one_source: Path) -> None:
    with exported(one_source, MODEL) as export, Inside(export) as client, refused(errno.ENAMETOOLONG):
        client.ask(m.Tsymlink(client.root, b"link", b"t" * 4096, 0))
    assert list(one_source.iterdir()) == []


def test_creating_where_something_is(one_source: Path) -> None:
    with exported(one_source, MODEL) as export, Inside(export, ALICE.uid) as client, Inside(export, BOB.uid) as bob:
        client.make("file", b"content", 0o640)
        client.ask(m.Tmkdir(client.root, b"dir", 0o755, 0))
        client.ask(m.Tsymlink(client.root, b"link", b"nowhere", 0))
        client.ask(m.Tmknod(client.root, b"fifo", stat.S_IFIFO | 0o666, 0, 0, 0))
        for name in ("file", "dir", "link", "fifo"):
            with refused(errno.EEXIST):
                client.create(name, O_RDWR | O_EXCL)
        for name in ("dir", "link", "fifo"):
            with refused(errno.EISDIR, errno.ELOOP, errno.ENXIO):
                client.create(name, O_RDWR)
        fid = bob.create("file", O_RDWR, 0o777)  # as open(2): neither owner nor mode of what is there change
        assert bob.read(fid) == b"content"
        bob.clunk(fid)
        assert (client.getattr("file").uid, client.mode("file")) == (ALICE.uid, stat.S_IFREG | 0o640)
        bob.clunk(bob.create("file", O_RDWR | O_TRUNC))
        assert client.getattr("file").size == 0
        assert client.readlink("link") == b"nowhere"


# What is changed ----------------------------------------------------------------------------------------------------


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
def test_set_id_bits(one_source: Path, what: str) -> None:
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
    with exported(one_source, MODEL) as export, Inside(export) as root:
        for user, mode, expected in cases:
            with Inside(export, user.uid) as client:
                root.make("file", b"content")
                root.setattr("file", SET_UID | SET_GID, uid=ALICE.uid, gid=NOBODYS if user is BOB else GROUP[user])
                root.setattr("file", SET_MODE, mode=mode)
                run(client)
                assert oct(root.mode("file")) == oct(stat.S_IFREG | expected), (user, oct(mode))
                assert oct((one_source / "file").stat().st_mode) == oct(stat.S_IFREG | 0o600)
                root.remove("file")


NOBODYS: Final = 62002
GROUP: Final = dict.fromkeys((ROOT, ALICE, MEMBER), 65534)  # that of users whom this host does not know


def test_names_move_with_their_attributes(one_source: Path) -> None:
    with exported(one_source, MODEL) as export, Inside(export, ALICE.uid) as client:
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
    assert list(one_source.iterdir()) == []


# Attributes ---------------------------------------------------------------------------------------------------------


def test_our_attributes_are_hidden(one_source: Path) -> None:
    with exported(one_source, MODEL) as export, Inside(export, ALICE.uid) as client:
        client.make("file")
        client.ask(m.Tmkdir(client.root, b"dir", 0o755, 0))
        client.ask(m.Tmknod(client.root, b"device", stat.S_IFCHR | 0o600, 1, 3, 0))
        before = describe_tree(one_source)
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
        assert describe_tree(one_source) == before
        os.setxattr(one_source / "file", "trusted.host", b"x")
        client.set_xattr("file", b"user.his", b"own")
        assert client.xattrs("file") == {b"user.his"}
        assert os.getxattr(one_source / "file", "user.his") == b"own"
        client.set_xattr("file", b"user.his", b"", os.XATTR_REPLACE)
        assert client.xattrs("file") == set()


def test_acls_are_kept_beside(one_source: Path) -> None:
    """As 9p-posix-acl.c maps them; the host itself does not act on them."""
    with exported(one_source, MODEL) as export, Inside(export, ALICE.uid) as client:
        client.make("file", mode=0o640)
        client.ask(m.Tmkdir(client.root, b"dir", 0o755, 0))
        for name in ("file", "dir"):
            for acl in (ACL_ACCESS, ACL_DEFAULT):
                with refused(errno.ENODATA):
                    client.xattr(name, acl)
                client.set_xattr(name, acl, ACL)
                assert client.xattr(name, acl) == ACL
                assert os.getxattr(one_source / name, b"user.virtfs." + acl) == ACL
                with pytest.raises(OSError) as none:
                    os.getxattr(one_source / name, acl)
                assert none.value.errno == errno.ENODATA
            assert client.xattrs(name) == {ACL_ACCESS, ACL_DEFAULT}
            client.set_xattr(name, ACL_ACCESS, b"", os.XATTR_REPLACE)
            assert client.xattrs(name) == {ACL_DEFAULT}
            with refused(errno.ENODATA):
                client.set_xattr(name, ACL_ACCESS, b"", os.XATTR_REPLACE)


# What QEMU made -----------------------------------------------------------------------------------------------------


def qemu_tree(top: Path) -> dict[str, tuple[int, int, int, int]]:
    """A tree as QEMU leaves it, and plain files of the host in it: uid, gid, mode and rdev of each."""
    told = {
        "dir": (1000, 100, stat.S_IFDIR | 0o1777, 0),
        "file": (1000, 100, stat.S_IFREG | 0o4755, 0),
        "link": (0, 0, stat.S_IFLNK | 0o777, 0),
        "fifo": (1, 2, stat.S_IFIFO | 0o600, 0),
        "socket": (1, 2, stat.S_IFSOCK | 0o755, 0),
        "char": (0, 6, stat.S_IFCHR | 0o660, os.makedev(4, 64)),
        "block": (0, 6, stat.S_IFBLK | 0o660, os.makedev(259, 70000)),
    }
    for name, (uid, gid, mode, rdev) in told.items():
        path = top / name
        if stat.S_ISDIR(mode):
            path.mkdir(0o700)
        else:
            path.write_bytes(b"the target" if name == "link" else b"")
            path.chmod(0o600)
        by_qemu(path, uid, gid, mode, rdev)
    (top / "plain").write_text("made on the host")
    os.chown(top / "plain", 7, 8)
    told["plain"] = (7, 8, stat.S_IFREG | 0o644, 0)
    (top / "host-link").symlink_to("plain")
    told["host-link"] = (0, 0, stat.S_IFLNK | 0o777, 0)
    os.mkfifo(top / "host-fifo", 0o640)
    told["host-fifo"] = (0, 0, stat.S_IFIFO | 0o640, 0)
    os.mknod(top / "host-null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    told["host-null"] = (0, 0, stat.S_IFCHR | 0o640, os.makedev(1, 3))
    (top / "half").write_text("")
    os.setxattr(top / "half", "user.virtfs.uid", u32(5))
    told["half"] = (5, 0, stat.S_IFREG | 0o644, 0)
    (top / "wrong").write_text("")
    os.setxattr(top / "wrong", "user.virtfs.uid", b"123")
    os.setxattr(top / "wrong", "user.virtfs.mode", b"")
    told["wrong"] = (0, 0, stat.S_IFREG | 0o644, 0)
    return told


def test_a_tree_that_qemu_made(one_source: Path) -> None:
    told = qemu_tree(one_source)
    with exported(one_source, MODEL) as export, Inside(export, ALICE.uid) as client:
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
def test_a_tree_that_qemu_made_in_other_dialects(one_source: Path, dialect: Dialect) -> None:
    told = qemu_tree(one_source)
    with exported(one_source, MODEL) as export, Inside(export, dialect=dialect) as client:
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


def test_making_in_dialect_u(one_source: Path) -> None:
    with exported(one_source, MODEL) as export, Inside(export, ALICE.uid, Dialect.UNIX) as client:
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
    modes = {path.name: struct.unpack("<I", on_host(path)["mode"])[0] for path in one_source.iterdir()}
    assert {name: oct(mode) for name, mode in modes.items()} == {
        "link": oct(stat.S_IFLNK | 0o777),
        "device": oct(stat.S_IFBLK | 0o640),
        "fifo": oct(stat.S_IFIFO | 0o640),
        "program": oct(stat.S_IFREG | 0o600),
    }
    assert {oct(path.lstat().st_mode) for path in one_source.iterdir()} == {oct(stat.S_IFREG | 0o600)}


# Where it may do less -----------------------------------------------------------------------------------------------


def test_a_server_that_is_not_root(one_source: Path) -> None:
    """What mapped-xattr is for: a user's server that holds a whole system's tree."""
    os.chown(one_source, ALICE.uid, ALICE.gid)

    def work() -> dict[str, tuple[int, ...]]:
        with exported(one_source, MODEL) as export, Inside(export, 0) as client:
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
    for path in one_source.rglob("*"):
        st = path.lstat()
        assert (st.st_uid, st.st_gid) == (ALICE.uid, ALICE.gid)
        assert oct(st.st_mode) == oct(stat.S_IFDIR | 0o700 if path.name == "dir" else stat.S_IFREG | 0o600)


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
