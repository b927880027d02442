"""Attacks, each named after where it worked once: by the CVE, or by the project that had to mend it.

What lies outside the export is `secrets`, which no attack may read or touch: not even the time of access of a file in
it may change. The attacker is a client, or a client together with somebody who may write to the tree on the host.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from fusemap.host.calls import RENAME_EXCHANGE, Calls
from fusemap.p9 import messages as m
from fusemap.p9 import session as session_module
from fusemap.p9.wire import Dialect, WireError, encode

from ..support.describe import describe_tree
from ..support.process import ALICE, BOB, ROOT, Child, User, call_as
from ..support.stage import Stage
from .inside import (
    AT_REMOVEDIR,
    DIALECTS,
    MODELS,
    NOTHING_CHANGED,
    O_RDONLY,
    O_RDWR,
    O_TRUNC,
    O_WRONLY,
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_SIZE,
    SET_UID,
    Inside,
    exported,
    refused,
    setattr_message,
)

RACE_SECONDS: Final = 1.5
SECRET: Final = b"a secret of the host"
NOT_NAMES: Final = (b"", b".", b"..", b"/", b"a/b", b"../secrets/file", b"/etc/passwd", b"a\0b", b"\0", b"..\0")
models = pytest.mark.parametrize("model", MODELS)
dialects = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.value.decode())


class Ground:
    """`tree` is to be exported; `secrets`, beside it on the same file system, is nobody's business."""

    def __init__(self, top: Path) -> None:
        self.tree = top / "tree"
        self.secrets = top / "secrets"
        (self.tree / "dir" / "sub").mkdir(parents=True)
        (self.tree / "dir" / "file").write_text("dir's file")
        (self.tree / "file").write_text("a file")
        (self.secrets / "dir").mkdir(parents=True)
        (self.secrets / "dir" / "file").write_bytes(SECRET)
        (self.secrets / "file").write_bytes(SECRET)
        os.setxattr(self.secrets / "file", "user.secret", SECRET)
        self._outside = [self.secrets, *sorted(self.secrets.rglob("*"))]
        for path in self._outside:
            os.utime(path, (1, os.stat(path).st_mtime))  # long ago: any reading would make it now (relatime)
        self._before = self._look()

    def _look(self) -> list[tuple[Any, ...]]:
        told = []
        for path in self._outside:
            st = os.lstat(path)
            told.append((path, *st[:7], st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns))
        return told

    def check(self) -> None:
        """Fails where anything outside was touched, read or made."""
        assert self._look() == self._before
        assert [self.secrets, *sorted(self.secrets.rglob("*"))] == self._outside
        assert (self.secrets / "file").read_bytes() == SECRET
        assert sorted(path.name for path in self.tree.parent.iterdir()) == sorted({"secrets", "tree", *self._others()})

    def _others(self) -> set[str]:
        return {path.name for path in self.tree.parent.iterdir() if path.name in ("lost+found", "elsewhere")}


@pytest.fixture
def ground(stage: Stage) -> Iterator[Ground]:
    ground = Ground(stage.tmpfs("ground"))
    yield ground
    ground.check()


@pytest.fixture
def disk_ground(stage: Stage) -> Iterator[Ground]:
    """On a file system that has file handles, extended attributes of users, and inode numbers that come again."""
    ground = Ground(stage.ext4("ground"))
    yield ground
    ground.check()


def names_of(client: Inside, fid: int) -> dict[str, Callable[[bytes], Any]]:
    """Every message that carries a name, as a function of that name; `fid` is a directory with "file" and "dir"."""
    file, most = client.walk("file"), m.NONUNAME
    messages: dict[str, Callable[[bytes], Any]] = {
        "walk": lambda name: m.Twalk(fid, client.new(), (name,)),
        "walk on": lambda name: m.Twalk(fid, client.new(), (b"dir", name)),
    }
    if client.dialect is not Dialect.LINUX:
        messages |= {
            "create": lambda name: m.Tcreate(client.walk("", fid), name, 0o644, 1, b""),
            "create dir": lambda name: m.Tcreate(client.walk("", fid), name, 0x80000000 | 0o755, 0, b""),
            "wstat": lambda name: m.Twstat(file, NOTHING_CHANGED._replace(name=name)),
        }
    if client.dialect is Dialect.UNIX:
        messages |= {
            "symlink": lambda name: m.Tcreate(client.walk("", fid), name, 0x02000000 | 0o777, 0, b"target"),
            "link": lambda name: m.Tcreate(client.walk("", fid), name, 0x01000000, 0, b"%d" % file),
            "device": lambda name: m.Tcreate(client.walk("", fid), name, 0x00800000 | 0o644, 0, b"c 1 3"),
            "fifo": lambda name: m.Tcreate(client.walk("", fid), name, 0x00200000 | 0o644, 0, b""),
        }
    if client.dialect is Dialect.LINUX:
        messages |= {
            "lcreate": lambda name: m.Tlcreate(client.walk("", fid), name, 0o101, 0o644, most),
            "symlink": lambda name: m.Tsymlink(fid, name, b"target", most),
            "mknod": lambda name: m.Tmknod(fid, name, 0o100644, 0, 0, most),
            "mkdir": lambda name: m.Tmkdir(fid, name, 0o755, most),
            "link": lambda name: m.Tlink(fid, file, name),
            "rename": lambda name: m.Trename(file, fid, name),
            "renameat from": lambda name: m.Trenameat(fid, name, fid, b"new"),
            "renameat to": lambda name: m.Trenameat(fid, b"file", fid, name),
            "unlinkat": lambda name: m.Tunlinkat(fid, name, 0),
            "unlinkat dir": lambda name: m.Tunlinkat(fid, name, AT_REMOVEDIR),
        }
    return messages


# Names and links ----------------------------------------------------------------------------------------------------


@dialects
@models
def test_what_is_no_name(disk_ground: Ground, model: str, dialect: Dialect) -> None:
    """diod, unpfs and DeedleFake's p9 (CVE-less, "filepath.Join"): names with a slash or dots left the export."""
    before = describe_tree(disk_ground.tree)
    with exported(disk_ground.tree, model) as export, Inside(export, dialect=dialect) as client:
        for what, message in names_of(client, client.root).items():
            for name in NOT_NAMES:
                if name == b"" and what == "wstat":
                    continue  # "don't touch"
                reply = client.say(message(name))
                if what.startswith("walk") and name in (b".", b".."):
                    assert len(reply.wqid) == 1 + (what == "walk on"), (what, name)
                elif what == "walk on":  # the part that could be walked
                    assert len(reply.wqid) == 1, name
                else:
                    assert isinstance(reply, (m.Rlerror, m.Rerror)), (what, name, reply)
    assert describe_tree(disk_ground.tree) == before


@dialects
@models
def test_dots_stay_inside(ground: Ground, model: str, dialect: Dialect) -> None:
    """CVE-2017-7471: QEMU's root was left by ".."; here at the root of an export and of an attached subdirectory."""
    with exported(ground.tree, model) as export:
        for aname, names in ((b"", (b"dir", b"file")), (b"dir", (b"file", b"sub")), (b"/dir/sub", ())):
            with Inside(export, dialect=dialect, aname=aname) as client:
                root = client.ask(m.Twalk(client.root, client.new(), (b".",))).wqid[0].path
                for dots in range(1, 17):
                    qids = client.ask(m.Twalk(client.root, client.new(), (b"..",) * dots)).wqid
                    assert {qid.path for qid in qids} == {root}
                for start in ("", *map(os.fsdecode, names[:1])):
                    with refused(errno.ENOENT, errno.ENOTDIR):
                        client.walk_names((b"..", b"..", b"secrets"), client.walk(start))
                with refused(errno.ENOENT):
                    client.walk("../secrets/file")
                fid = client.walk("..")
                client.open_fid(fid)
                for name in names:
                    client.walk_names((name,), fid)


@models
@pytest.mark.parametrize(
    "aname", [b"..", b"/..", b"dir/..", b"dir/../../secrets", b"../secrets", b"link", b"dir/up", b"dir/up/dir", b"file"]
)
def test_attaching_outside(ground: Ground, model: str, aname: bytes) -> None:
    """crosvm and others joined the attach name to the export's path."""
    (ground.tree / "link").symlink_to(ground.secrets)
    (ground.tree / "dir" / "up").symlink_to("../../secrets")
    with exported(ground.tree, model) as export, Inside(export, attach=False) as client:
        for name in (aname, b"/" + aname, os.fsencode(ground.tree) + b"/" + aname):
            with refused(errno.ENOENT, errno.ENOTDIR):
                client.attach(0, name)
        for path in (ground.secrets, "/etc", ground.tree.parent, f"{ground.tree}x"):
            with refused(errno.ENOENT):
                client.attach(0, os.fsencode(path))


LINKS: Final = ("absolute", "relative", "directory", "root", "magic")


@models
@pytest.mark.parametrize("kind", LINKS)
def test_planted_links(disk_ground: Ground, model: str, kind: str) -> None:
    """CVE-2016-9602: QEMU followed symbolic links that the guest had planted."""
    ground = disk_ground
    secrets = ground.secrets
    targets: tuple[str | Path, ...] = (secrets / "file", "../secrets/file", secrets, "/", "/proc/self/root")
    link = ground.tree / "link"
    link.symlink_to(dict(zip(LINKS, targets, strict=True))[kind])
    with exported(ground.tree, model) as export, Inside(export) as client:
        with refused(errno.ENOENT, errno.ENOTDIR):
            client.walk("link/file")
        with refused(errno.ENOTDIR):
            client.walk_names((b"file",), client.walk("link"))
        for flags in (O_RDONLY, O_WRONLY, O_RDWR | O_TRUNC, 0o200000, 0o400000):
            with refused(errno.ELOOP, errno.ENOTDIR):
                client.open("link", flags)
        with refused(errno.ELOOP, errno.EEXIST):
            client.create("link", O_RDWR)
        fid = client.walk("link")
        for message in (
            m.Tlcreate(fid, b"x", 0o101, 0o644, 0),
            m.Tmkdir(fid, b"x", 0o755, 0),
            m.Tsymlink(fid, b"x", b"y", 0),
            m.Tmknod(fid, b"x", 0o100644, 0, 0, 0),
            m.Tunlinkat(fid, b"file", 0),
            m.Trenameat(fid, b"file", client.root, b"x"),
            m.Trenameat(client.root, b"file", fid, b"x"),
            m.Tlink(fid, client.walk("file"), b"x"),
            m.Treaddir(fid, 0, 4096),
            m.Tread(fid, 0, 4096),
            setattr_message(fid, SET_MODE, mode=0o777),
            setattr_message(fid, SET_SIZE, size=0),
        ):
            with refused(errno.ENOTDIR, errno.EBADF, errno.EOPNOTSUPP, errno.EINVAL, errno.ELOOP):
                client.ask(message)
        for number in (SET_UID | SET_GID, SET_ATIME | SET_MTIME):  # of the link itself, where that is possible
            client.say(setattr_message(fid, number, uid=7, gid=7))
        assert client.say(m.Txattrwalk(fid, client.new(), b"user.secret")) != m.Rxattrwalk(len(SECRET))
        with refused(errno.EPERM, errno.EOPNOTSUPP):
            client.set_xattr("link", b"user.secret", b"x")
        assert client.readlink("link") == os.fsencode(os.readlink(link))
        client.ask(m.Tlink(client.root, fid, b"second"))
        assert os.readlink(ground.tree / "second") == os.readlink(link)
        client.ask(m.Trenameat(client.root, b"link", client.root, b"third"))
        client.ask(m.Tunlinkat(client.root, b"second", 0))
        client.remove("third")
    assert sorted(path.name for path in ground.tree.iterdir()) == ["dir", "file"]


@models
def test_a_link_that_the_client_made(ground: Ground, model: str) -> None:
    """CVE-2016-9602, by the client alone."""
    with exported(ground.tree, model) as export, Inside(export) as client:
        client.ask(m.Tsymlink(client.root, b"link", os.fsencode(ground.secrets), 0))
        assert client.readlink("link") == os.fsencode(ground.secrets)
        for path in ("link/file", "link/dir/file"):
            with refused(errno.ENOENT, errno.ENOTDIR):
                client.walk(path)
        with refused(errno.ELOOP, errno.ENXIO):
            client.open("link")
        with refused(errno.ENOTDIR, errno.ENOENT):
            client.attach(0, b"link")
        for name in (b"d", b"f"):
            client.ask(m.Tsymlink(client.root, name, b"../secrets/" + name, 0))
            with refused(errno.EEXIST, errno.ELOOP):
                client.create(os.fsdecode(name), O_RDWR)


# Races --------------------------------------------------------------------------------------------------------------


def swap_for_ever(directory: Path, one: str, two: str) -> None:
    """Exchanges two names until it is killed."""
    calls, fd = Calls(), os.open(directory, os.O_PATH)
    while True:
        calls.rename(fd, os.fsencode(one), fd, os.fsencode(two), RENAME_EXCHANGE)


def run_race(stage: Stage, ground: Ground, model: str, swapped: tuple[str, str], tries: list[Any]) -> dict[Any, int]:
    """What came of each try, again and again while a process of the host swaps two names of the tree."""
    child = Child(lambda: swap_for_ever(ground.tree, *swapped))
    outcomes: dict[Any, int] = {}
    try:
        with exported(ground.tree, model) as export, Inside(export) as client:
            end = time.monotonic() + RACE_SECONDS
            while time.monotonic() < end:
                for attempt in tries:
                    try:
                        attempt(client)
                        outcome: Any = "done"
                    except OSError as error:
                        outcome = error.errno
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1
                for fid in [fid for fid in client.session.fids if fid != client.root]:
                    client.clunk(fid)
    finally:
        child.kill()
    return outcomes


@models
def test_a_directory_that_becomes_a_link(stage: Stage, disk_ground: Ground, model: str) -> None:
    """CVE-2016-9602 and Samba's CVE-2017-2619: a link swapped in between the check and the use."""
    ground = disk_ground
    (ground.tree / "link").symlink_to(ground.secrets)

    def read(client: Inside) -> None:
        assert client.content("dir/file") == b"dir's file"

    def make(client: Inside) -> None:
        client.make("dir/new", b"x")
        client.remove("dir/new")

    def rename(client: Inside) -> None:
        directory = client.walk("dir")
        client.ask(m.Trenameat(directory, b"file", directory, b"moved"))
        client.ask(m.Trenameat(directory, b"moved", directory, b"file"))

    def change(client: Inside) -> None:
        client.setattr("dir/file", SET_MODE | SET_MTIME | SET_ATIME | SET_UID, mode=0o600, uid=0)
        client.set_xattr("dir/file", b"user.x", b"y")

    def unlink(client: Inside) -> None:
        client.ask(m.Tunlinkat(client.walk("dir"), b"nothing", 0))

    def directory(client: Inside) -> None:
        client.ask(m.Tmkdir(client.walk("dir"), b"made", 0o755, 0))
        client.ask(m.Tunlinkat(client.walk("dir"), b"made", AT_REMOVEDIR))

    def attach(client: Inside) -> None:
        fid = client.attach(0, b"dir")
        assert client.walk("file", fid)

    outcomes = run_race(stage, ground, model, ("dir", "link"), [read, make, rename, change, unlink, directory, attach])
    assert sum(outcomes.values()) > 500
    assert outcomes["done"] > 50, outcomes
    assert outcomes[errno.ENOENT] + outcomes.get(errno.ENOTDIR, 0) > 50, outcomes  # the link was seen too


@models
def test_a_file_that_becomes_a_link(stage: Stage, disk_ground: Ground, model: str) -> None:
    """CVE-2016-9602 and CVE-2023-2861: the last component swapped for a link while it is opened, made or changed."""
    ground = disk_ground
    (ground.tree / "link").symlink_to("../secrets/file")

    def read(client: Inside) -> None:
        assert client.content("file") == b"a file"

    def change(client: Inside) -> None:
        client.setattr("file", SET_MTIME | SET_UID, uid=0)

    def mode(client: Inside) -> None:
        client.setattr("file", SET_MODE, mode=0o644)

    def create(client: Inside) -> None:
        fid = client.create("file", O_RDWR)
        assert client.read(fid) == b"a file"
        client.write(fid, b"a file")

    def truncate(client: Inside) -> None:
        client.setattr("file", SET_SIZE, size=6)

    def attribute(client: Inside) -> None:
        client.set_xattr("file", b"user.x", b"y")

    def link(client: Inside) -> None:
        client.ask(m.Tlink(client.root, client.walk("file"), b"other"))
        client.remove("other")

    outcomes = run_race(stage, ground, model, ("file", "link"), [read, change, mode, create, truncate, attribute, link])
    assert sum(outcomes.values()) > 500
    assert outcomes["done"] > 50, outcomes
    assert outcomes[errno.ELOOP] > 50, outcomes


@models
def test_a_file_that_becomes_a_fifo(stage: Stage, disk_ground: Ground, model: str) -> None:
    """CVE-2023-2861: looked at as a file, opened as a fifo, and the server hangs."""
    ground = disk_ground
    os.mkfifo(ground.tree / "fifo")

    def read(client: Inside) -> None:
        assert client.content("file") == b"a file"

    def create(client: Inside) -> None:
        assert client.read(client.create("file", O_RDWR)) == b"a file"

    outcomes = run_race(stage, ground, model, ("file", "fifo"), [read, create])
    assert outcomes["done"] > 50, outcomes
    assert outcomes[errno.ENXIO] > 50, outcomes


# Moved away on the host ---------------------------------------------------------------------------------------------


@models
@pytest.mark.parametrize("aname", [b"", b"dir"])
def test_a_directory_moved_away_under_a_fid(disk_ground: Ground, model: str, aname: bytes) -> None:
    """From a directory that the host moves out of what was attached, ".." must not lead to its new surroundings."""
    ground = disk_ground
    elsewhere = ground.tree if aname else ground.tree.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    (elsewhere / "around").write_bytes(SECRET)
    (ground.tree / "dir" / "sub" / "deep").mkdir()
    with exported(ground.tree, model) as export, Inside(export, aname=aname) as client:
        path = "sub" if aname else "dir/sub"
        sub, deep = client.walk(path), client.walk(f"{path}/deep")
        (ground.tree / "dir" / "sub").rename(elsewhere / "moved")
        for dots in range(1, 5):
            for fid in (sub, deep):  # a directory that is not below what was attached leads nowhere
                with refused(errno.ESTALE):
                    client.walk_names((*[b".."] * dots, b"around"), fid)
        with refused(errno.ENOENT):
            client.walk(path)
        client.say(m.Tremove(sub))
        assert (elsewhere / "moved" / "deep").is_dir()


@models
def test_the_listing_of_a_root_says_nothing_of_what_is_above(disk_ground: Ground, model: str) -> None:
    """CVE-2017-7471 in a listing: the entry ".." of an attached directory is that directory itself."""
    ground = disk_ground
    for aname in (b"", b"dir"):
        above = ground.tree if aname else ground.tree.parent
        os.setxattr(above, "user.virtfs.mode", (0o100001).to_bytes(4, "little"))
        with exported(ground.tree, model) as export:
            with Inside(export, aname=aname) as client:
                entries = client.entries()
                qid = client.getattr().qid
                assert entries[b"."].qid == entries[b".."].qid == qid
                assert entries[b".."].kind == entries[b"."].kind


@models
def test_a_file_moved_away_is_out_of_reach_by_name(disk_ground: Ground, model: str) -> None:
    """As above for what is removed or renamed by its fid: nothing outside of what was attached is."""
    ground = disk_ground
    for number, elsewhere in enumerate((ground.tree, ground.tree.parent / "elsewhere")):
        elsewhere.mkdir(exist_ok=True)
        with exported(ground.tree, model) as export, Inside(export) as whole, Inside(export, aname=b"dir") as client:
            (ground.tree / "dir" / "moving").write_text("moved")
            fids = [client.walk("moving") for _ in range(2)]
            whole.walk("dir")
            (ground.tree / "dir" / "moving").rename(elsewhere / f"moved-{number}")
            with refused(errno.ENOENT, errno.EXDEV):
                client.ask(m.Trename(fids[0], client.root, b"back"))
            with refused(errno.ENOENT):
                client.ask(m.Tremove(fids[1]))
            assert (elsewhere / f"moved-{number}").read_text() == "moved"


@models
def test_a_file_replaced_on_the_host(disk_ground: Ground, model: str) -> None:
    """CVE-2018-19489: a fid means the file that was walked to, whatever has its name now."""
    ground = disk_ground
    with exported(ground.tree, model) as export, Inside(export) as client:
        for again in range(20):  # the inode number of the removed file is given to the new one
            path = ground.tree / "dir" / "file"
            path.write_text("old")
            opened, known, removing = client.open("dir/file", O_RDWR), client.walk("dir/file"), client.walk("dir/file")
            if again % 2:
                path.unlink()
                path.write_text("new")
            else:
                (ground.tree / "fresh").write_text("new")
                (ground.tree / "fresh").rename(path)
            assert client.read(opened) == b"old"
            client.write(opened, b"OLD")
            client.open_fid(known)  # as long as it is open, the file is there
            assert client.read(known) == b"OLD"
            with refused(errno.ENOENT, errno.ESTALE):
                client.ask(m.Tremove(removing))
            assert path.read_text() == "new"
            assert client.content("dir/file") == b"new"
            client.clunk(opened)
            client.clunk(known)


@models
def test_races_of_a_fid_with_rename_and_remove(disk_ground: Ground, model: str) -> None:
    """CVE-2018-19364 and CVE-2018-19489: QEMU rewrote the path in a fid while another request used it."""
    ground = disk_ground
    with exported(ground.tree, model) as export, Inside(export) as one, Inside(export) as two:
        file, also = one.open("dir/file", O_RDWR), one.walk("dir/file")
        directory = two.walk("dir")
        two.ask(m.Trenameat(directory, b"file", two.root, b"moved"))
        two.make("dir/file", b"another")
        assert one.read(file) == b"dir's file"
        one.write(file, b"changed")
        assert two.content("dir/file") == b"another"
        assert two.content("moved") == b"changedile"
        one.ask(m.Trename(also, one.walk("dir"), b"back"))  # by its fid, where it is now
        assert sorted(os.listdir(ground.tree)) == ["dir", "file"]
        assert sorted(os.listdir(ground.tree / "dir")) == ["back", "file", "sub"]
        fids = [one.walk("dir/back") for _ in range(2)]
        two.remove("dir/back")
        two.make("dir/back", b"a third")
        with refused(errno.ENOENT):
            one.ask(m.Tremove(fids[0]))
        with refused(errno.ENOENT):
            one.ask(m.Trename(fids[1], one.root, b"x"))
        assert one.content("dir/back") == b"a third"
        assert one.read(file) == b"changedile"


# Own tables, attributes ---------------------------------------------------------------------------------------------


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
def test_special_files_are_never_opened(stage: Stage, disk_ground: Ground, model: str, dialect: Dialect) -> None:
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
def test_set_id_bits_that_come_while_the_file_is_open(disk_ground: Ground, model: str) -> None:
    """CVE-2023-1386 with the open before the chmod."""
    disk_ground.tree.joinpath("file").chmod(0o666)
    with exported(disk_ground.tree, model) as export, Inside(export) as root, Inside(export, BOB.uid) as client:
        root.setattr("file", SET_MODE, mode=0o666)
        fid = client.open("file", O_WRONLY)
        root.setattr("file", SET_MODE, mode=0o6777)
        client.write(fid, b"x")
        assert oct(root.mode("file")) == oct(stat.S_IFREG | 0o777)


# Limits -------------------------------------------------------------------------------------------------------------


def test_numbers_of_fids_are_bounded(disk_ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU's list of fids, on which nobody put an end."""
    monkeypatch.setattr(session_module, "FIDS", 1000)
    with exported(disk_ground.tree) as export:
        with Inside(export) as client:
            with refused(errno.EMFILE):
                for _ in range(1001):
                    client.walk()
            assert len(client.session.fids) == 1000
            with refused(errno.EMFILE):
                client.attach()
            client.clunk(1)
        with Inside(export) as another:
            assert another.content("file") == b"a file"


def test_numbers_of_control_fids_are_bounded(disk_ground: Ground) -> None:
    """As above, by the way of the control names."""
    with exported(disk_ground.tree) as export, Inside(export, aname=b"ctl") as client:
        with refused(errno.EINVAL):
            client.ask(m.Twalk(client.root, m.NOFID, ()))
        with refused(errno.EMFILE):
            for _ in range(session_module.FIDS + 1):
                client.walk("stats.json")
        with refused(errno.EMFILE):
            client.attach(0, b"ctl")
        assert len(client.session.control) < 10000


def test_memory_for_attributes_is_bounded(disk_ground: Ground) -> None:
    """QEMU's fids of attributes: each could hold 64 KiB, announced but never written, or read and never clunked."""
    os.setxattr(disk_ground.tree / "file", "user.x", b"x" * 900)
    with exported(disk_ground.tree) as export, Inside(export) as client:
        file = client.walk("file")
        with refused(errno.ENOSPC, errno.ENOMEM, errno.EMFILE):
            for _ in range(1 << 16):
                client.ask(m.Txattrwalk(file, client.new(), b"user.x"))
        first = min(fid for fid in client.session.fids if fid > file)
        for fid in [fid for fid in client.session.fids if fid > file]:
            client.clunk(fid)
        assert client.xattr("file", b"user.x") == b"x" * 900
        assert first
        with refused(errno.ENOSPC, errno.ENOMEM, errno.EMFILE):
            for _ in range(1 << 16):
                fid = client.walk("file")
                client.ask(m.Txattrcreate(fid, b"user.y", 65536, 0))
        with refused(errno.E2BIG):
            client.ask(m.Txattrcreate(client.root, b"user.y", 65537, 0))
        with refused(errno.E2BIG):
            client.ask(m.Txattrcreate(client.root, b"user.y", (1 << 64) - 1, 0))


def test_a_client_that_opens_all_it_can(disk_ground: Ground) -> None:
    """Descriptors are the server's: who runs into the limit gets an error, and what is not open goes on working."""
    tree = disk_ground.tree

    def work() -> tuple[int, int]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        with exported(tree) as export, Inside(export) as client:
            fids = []
            with refused(errno.EMFILE, errno.ENFILE):
                for _ in range(300):
                    fids.append(client.open("file", O_RDWR))
            count = len(fids)
            for fid in fids[:8]:
                client.clunk(fid)
            assert client.content("dir/file") == b"dir's file"
            for fid in fids[8:]:
                assert client.read(fid) == b"a file"
            return count, len(client.session.fids)

    opened, left = call_as(None, work)
    assert 100 < opened < 256
    assert left >= opened - 8


@dialects
def test_numbers_out_of_range(disk_ground: Ground, dialect: Dialect) -> None:
    """hugelgupf/p9 and others took offsets and sizes as signed, or added them up first."""
    with exported(disk_ground.tree) as export, Inside(export, dialect=dialect, msize=8192) as client:
        fid = client.open("file", O_RDWR)
        for offset in (1 << 63, (1 << 64) - 1, (1 << 63) - 2):
            reply = client.say(m.Tread(fid, offset, 100))
            assert isinstance(reply, (m.Rlerror, m.Rerror)) or bytes(reply.data) == b""
            with refused(errno.EFBIG, errno.EINVAL):
                client.write(fid, b"abc", offset)
        assert len(client.read(fid, 0, 0xFFFFFFFF)) == 6
        os.truncate(disk_ground.tree / "file", 100000)
        assert len(client.read(fid, 0, 0xFFFFFFFF)) == 8192 - 24
        if dialect is Dialect.LINUX:
            for size in (1 << 63, (1 << 64) - 1):
                with refused(errno.EFBIG, errno.EINVAL):
                    client.setattr("file", SET_SIZE, size=size)
            for seconds in (1 << 62, 1 << 63, (1 << 64) - 1):
                client.say(setattr_message(fid, 0xFF0, atime_s=seconds, mtime_s=seconds))
            with refused(errno.EINVAL):
                client.setattr("file", 0xFF0, atime_ns=1_000_000_000)
            listing = client.open("dir")
            for offset in (1 << 63, (1 << 64) - 1, 12345):
                client.say(m.Treaddir(listing, offset, 4096))
            with refused(errno.EINVAL):
                client.ask(m.Treaddir(listing, 0, 24))
            for major, minor in ((0xFFFFFFFF,) * 2, (0xFFFFFFFF, 0), (0, 0xFFFFFFFF), (1 << 12, 0), (0, 1 << 20)):
                with refused(errno.EINVAL):
                    client.ask(m.Tmknod(client.root, b"device", stat.S_IFCHR | 0o600, major, minor, 0))
        else:
            with refused(errno.EFBIG):
                client.ask(m.Twstat(fid, NOTHING_CHANGED._replace(length=1 << 63)))
        if dialect is Dialect.UNIX:
            for extension in (b"9" * 20, b"9" * 5000, b"-1", b"", b"1 2"):
                with refused(errno.EINVAL, errno.EBADF):
                    client.ask(m.Tcreate(client.walk(), b"x", 0x01000000 | 0o777, 0, extension))
            for extension in (b"c 99999999999 1", b"b 1 " + b"9" * 5000, b"x 1 3", b"c 1", b"c -1 3", b""):
                with refused(errno.EINVAL):
                    client.ask(m.Tcreate(client.walk(), b"x", 0x00800000 | 0o644, 0, extension))
    with exported(disk_ground.tree) as export, Inside(export, dialect=dialect, attach=False) as client:
        reply = client.say(m.Tattach(1, m.NOFID, b"9" * 5000, b""))
        assert isinstance(reply, m.Rattach)  # a name that nobody has


@pytest.mark.parametrize("count", [0, 16, 17, 0xFFFF])
def test_long_walks(ground: Ground, count: int) -> None:
    """MAXWELEM: a walk of 16 names is the longest."""
    with exported(ground.tree) as export, Inside(export) as client:
        frame = encode(m.Twalk(client.root, 7, (b".",) * min(count, 17)), 1, client.dialect)
        if count > 17:
            frame = frame[:15] + count.to_bytes(2, "little") + frame[17:]
        client.session.space()[: len(frame)] = frame
        client.session.received(len(frame))
        client.session.advance()
        reply = b"".join(bytes(part) for part in client.session.outgoing())
        assert reply[4] == (111 if count <= 16 else 7)
        assert (7 in client.session.fids) == (count <= 16)


@pytest.mark.parametrize(
    "frame", [bytes(7), b"\6\0\0\0\x78\1\0", b"\xff\xff\xff\xff\x78\1\0", b"\7\0\0\0\x79\1\0"]
)
def test_frames_that_are_none(ground: Ground, frame: bytes) -> None:
    """Frames shorter than a header, longer than msize, or no requests end the connection and hurt nobody else."""
    with exported(ground.tree) as export, Inside(export) as client, Inside(export) as other:
        client.session.space()[:7] = frame
        client.session.received(7)
        with pytest.raises(WireError):
            client.session.advance()
        client.close()
        assert other.content("file") == b"a file"


@models
def test_fids_mean_nothing_in_another_connection(ground: Ground, model: str) -> None:
    """A fid is looked for among those of its own connection, and a connection that ends takes no other's with it."""
    with exported(ground.tree, model) as export, Inside(export) as one:
        fid = one.open("file", O_RDWR)
        fid = [fid, *(one.open("file", O_RDWR) for _ in range(20))][-1]
        with Inside(export) as two:
            for message in (
                m.Tread(fid, 0, 100),
                m.Twrite(fid, 0, b"x"),
                m.Twalk(fid, 999, ()),
                m.Tgetattr(fid, 0x3FFF),
                m.Tclunk(fid),
                m.Tremove(fid),
                m.Tlock(fid, 1, 0, 0, 0, 1, b""),
                m.Tlink(two.root, fid, b"x"),
                m.Trename(fid, two.root, b"x"),
                m.Trenameat(two.root, b"file", fid, b"x"),
                m.Txattrwalk(fid, 999, b""),
                setattr_message(fid, SET_MODE, mode=0),
            ):
                with refused(errno.EBADF):
                    two.ask(message)
            same = two.open("dir/file")
            while same != fid:
                same = two.open("dir/file")
            assert two.read(fid) == b"dir's file"
        assert one.read(fid) == b"a file"


@dialects
@models
def test_control_names_cannot_be_written(ground: Ground, model: str, dialect: Dialect) -> None:
    """As of .virtfs_metadata: what the server says of itself is for reading only, and is not in the tree."""
    with exported(ground.tree, model) as export, Inside(export, dialect=dialect) as client:
        top = client.attach(0, b"ctl")
        before = describe_tree(ground.tree)
        for what, message in names_of(client, client.root).items():
            if not what.startswith(("walk", "wstat")):
                request = message(b"stats.json")
                for place, value in enumerate(request):
                    if value in client.session.fids and place < 3:
                        fid = client.walk("stats.json", top) if place else top
                        with refused(errno.EPERM, errno.EROFS, errno.ENOTDIR):
                            client.ask(request._replace(**{request._fields[place]: fid}))
        for path in ("", "stats.json", "devices.json"):
            for flags in (O_WRONLY, O_RDWR, O_WRONLY | O_TRUNC):
                with refused(errno.EROFS, errno.EPERM):
                    client.open_fid(client.walk(path, top), flags)
            fid = client.walk(path, top)
            client.open_fid(fid)
            with refused(errno.EBADF, errno.EPERM, errno.EROFS):
                client.write(fid, b"x")
            if dialect is Dialect.LINUX:
                with refused(errno.EROFS, errno.EPERM):
                    client.ask(setattr_message(fid, SET_MODE, mode=0o777))
                with refused(errno.EROFS, errno.EPERM):
                    client.ask(m.Txattrcreate(fid, b"user.x", 1, 0))
                with refused(errno.EOPNOTSUPP):
                    client.ask(m.Txattrwalk(fid, client.new(), b""))
                with refused(errno.EROFS, errno.EPERM, errno.EBADF):
                    client.ask(m.Tlock(fid, 1, 0, 0, 0, 1, b""))
            else:
                with refused(errno.EROFS, errno.EPERM):
                    client.ask(m.Twstat(fid, NOTHING_CHANGED._replace(mode=0o777)))
            with refused(errno.EROFS, errno.EPERM):
                client.ask(m.Tremove(fid))
        assert describe_tree(ground.tree) == before
        for dots in (1, 2, 16):
            assert len(set(client.ask(m.Twalk(top, client.new(), (b"..",) * dots)).wqid)) == 1
        with refused(errno.ENOENT, errno.ENOTDIR):
            client.walk_names((b"..", b"file"), top)
