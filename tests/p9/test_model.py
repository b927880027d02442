"""The models none and passthrough: who may do what, and whose is what comes of it.

Under passthrough a client must come to the very same as that user comes to on the host. So most is not written down
here but tried out: each deed is done by the user in a directory on the host, and by the client in one that is just the
same, and what came of it, and both directories, must not differ.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from fusemap.errors import Refused
from fusemap.p9 import messages as m
from fusemap.p9 import model as model_module
from fusemap.p9.wire import Dialect
from fusemap.qid import Mapper
from fusemap.tree import Tree

from ..support.describe import describe, describe_tree
from ..support.house import differences, outcome
from ..support.process import ALICE, BOB, MEMBER, ROOT, TEAM, User, call_as, run
from ..support.stage import Stage, detach
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
    SET_ATIME_SET,
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

KINDS: Final = ("ext4", "xfs", "tmpfs")
STRANGER: Final = User(61009, 65534, name="stranger")  # whom the host does not know
OTHER_TEAM: Final = 62001
NOBODY: Final = 65534
LONG_AGO: Final = 1_000_000_000_123_456_789
ACL_ACCESS: Final = "system.posix_acl_access"
ACL_DEFAULT: Final = "system.posix_acl_default"
dialects = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.value.decode())


@contextmanager
def known_users(stage: Stage) -> Iterator[None]:
    """This host knows alice, bob and member, in our mount namespace; member is of two more groups."""
    users = "".join(f"{user.name}:x:{user.uid}:{user.gid}::/:/bin/sh\n" for user in (ALICE, BOB, MEMBER))
    groups = "".join(f"{user.name}:x:{user.gid}:\n" for user in (ALICE, BOB, MEMBER))
    groups += f"team:x:{TEAM}:member\nother-team:x:{OTHER_TEAM}:member\n"
    covered = []
    try:
        for name, lines in (("passwd", users), ("group", groups)):
            path = Path("/etc") / name
            (stage.path / name).write_text(path.read_text().rstrip() + "\n" + lines)
            run("mount", "--bind", stage.path / name, path)
            covered.append(path)
        model_module._name.cache_clear()
        yield
    finally:
        for path in covered:
            detach(path)
        model_module._name.cache_clear()


class Disks:
    """A file system of each kind, for a whole module."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.tops = {"ext4": stage.ext4("ext4"), "xfs": stage.disk("xfs", "xfs"), "tmpfs": stage.tmpfs("tmpfs")}
        self._made = 0

    def directory(self, kind: str) -> Path:
        """A new one, root's own, which all may search."""
        self._made += 1
        path = self.tops[kind] / str(self._made)
        path.mkdir(0o755)
        return path


@pytest.fixture(scope="module")
def disks() -> Iterator[Disks]:
    stage = Stage()
    try:
        with known_users(stage):
            yield Disks(stage)
    finally:
        stage.close()


@pytest.fixture
def source(disks: Disks, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory to be exported, on ext4 or on what the test is parametrized with."""
    path = disks.directory(getattr(request, "param", "ext4"))
    yield path
    shutil.rmtree(path)


on_each_disk = pytest.mark.parametrize("source", KINDS, indirect=True)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The value of an ACL's attribute: version 2, then tag, permissions and id (linux/posix_acl_xattr.h)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_ANY: Final = 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 0x10, 0x20
FOR_BOB: Final = acl(
    (USER_OBJ, 6, _ANY), (USER, 6, BOB.uid), (GROUP_OBJ, 4, _ANY), (MASK, 6, _ANY), (OTHER, 0, _ANY)
)
INHERITED: Final = acl(
    (USER_OBJ, 7, _ANY), (USER, 5, BOB.uid), (GROUP_OBJ, 5, _ANY), (MASK, 7, _ANY), (OTHER, 1, _ANY)
)
# CAP_SYS_ADMIN and all else, permitted and effective: struct vfs_cap_data in linux/capability.h
CAPABLE: Final = struct.pack("<5I", 0x02000001, 0xFFFFFFFF, 0, 0x1FF, 0)


# Like the host ------------------------------------------------------------------------------------------------------


class Hands(Protocol):
    """What can be done in one directory, by whatever way. All raise OSError."""

    def create(self, name: str, mode: int) -> None: ...
    def mkdir(self, name: str, mode: int) -> None: ...
    def symlink(self, name: str) -> None: ...
    def mknod(self, name: str, mode: int, rdev: int) -> None: ...
    def link(self, old: str, new: str) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def unlink(self, name: str) -> None: ...
    def rmdir(self, name: str) -> None: ...
    def chmod(self, name: str, mode: int) -> None: ...
    def chown(self, name: str, uid: int, gid: int) -> None: ...
    def touch(self, name: str) -> None: ...
    def set_times(self, name: str, nanoseconds: int) -> None: ...
    def truncate(self, name: str, size: int) -> None: ...
    def open(self, name: str, flags: int) -> None: ...
    def read(self, name: str) -> bytes: ...
    def write(self, name: str, data: bytes) -> None: ...
    def names(self, name: str) -> list[str]: ...
    def size(self, name: str) -> int: ...
    def target(self, name: str) -> str: ...
    def get_xattr(self, name: str, attribute: str) -> bytes: ...
    def set_xattr(self, name: str, attribute: str, value: bytes) -> None: ...
    def remove_xattr(self, name: str, attribute: str) -> None: ...


class OnHost:
    """With the host's own calls, in the working directory."""

    mkdir = staticmethod(os.mkdir)
    mknod = staticmethod(os.mknod)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)
    rmdir = staticmethod(os.rmdir)
    chmod = staticmethod(os.chmod)
    touch = staticmethod(os.utime)
    target = staticmethod(os.readlink)

    def create(self, name: str, mode: int) -> None:
        os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode))

    def symlink(self, name: str) -> None:
        os.symlink("target", name)

    def link(self, old: str, new: str) -> None:
        os.link(old, new, follow_symlinks=False)

    def chown(self, name: str, uid: int, gid: int) -> None:
        os.chown(name, uid, gid, follow_symlinks=False)

    def set_times(self, name: str, nanoseconds: int) -> None:
        os.utime(name, ns=(nanoseconds, nanoseconds))

    def truncate(self, name: str, size: int) -> None:
        os.truncate(name, size)

    def open(self, name: str, flags: int) -> None:
        os.close(os.open(name, flags))

    def read(self, name: str) -> bytes:
        return Path(name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        fd = os.open(name, os.O_WRONLY)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def names(self, name: str) -> list[str]:
        return sorted(os.listdir(name))

    def size(self, name: str) -> int:
        return os.lstat(name).st_size

    def get_xattr(self, name: str, attribute: str) -> bytes:
        return os.getxattr(name, attribute)

    def set_xattr(self, name: str, attribute: str, value: bytes) -> None:
        os.setxattr(name, attribute, value)

    def remove_xattr(self, name: str, attribute: str) -> None:
        os.removexattr(name, attribute)


class ByClient:
    """With messages, in the directory `top` below the attached."""

    def __init__(self, client: Inside, top: str) -> None:
        self.client, self.top = client, top

    def _in(self, name: str) -> tuple[int, bytes]:
        above, _, last = name.rpartition("/")
        return self.client.walk(f"{self.top}/{above}"), os.fsencode(last)

    def _at(self, name: str) -> str:
        return f"{self.top}/{name}" if name != "." else self.top

    def create(self, name: str, mode: int) -> None:
        self.client.clunk(self.client.create(self._at(name), mode=mode))

    def mkdir(self, name: str, mode: int) -> None:
        self.client.ask(m.Tmkdir(*self._in(name), mode, m.NONUNAME))

    def symlink(self, name: str) -> None:
        self.client.ask(m.Tsymlink(*self._in(name), b"target", m.NONUNAME))

    def mknod(self, name: str, mode: int, rdev: int) -> None:
        self.client.ask(m.Tmknod(*self._in(name), mode, os.major(rdev), os.minor(rdev), m.NONUNAME))

    def link(self, old: str, new: str) -> None:
        directory, last = self._in(new)
        self.client.ask(m.Tlink(directory, self.client.walk(self._at(old)), last))

    def rename(self, old: str, new: str) -> None:
        self.client.ask(m.Trenameat(*self._in(old), *self._in(new)))

    def unlink(self, name: str) -> None:
        self.client.ask(m.Tunlinkat(*self._in(name), 0))

    def rmdir(self, name: str) -> None:
        self.client.ask(m.Tunlinkat(*self._in(name), AT_REMOVEDIR))

    def chmod(self, name: str, mode: int) -> None:
        self.client.setattr(self._at(name), SET_MODE, mode=mode)

    def chown(self, name: str, uid: int, gid: int) -> None:
        valid = (SET_UID if uid != -1 else 0) | (SET_GID if gid != -1 else 0)
        self.client.setattr(self._at(name), valid, uid=max(uid, 0), gid=max(gid, 0))

    def touch(self, name: str) -> None:
        self.client.setattr(self._at(name), SET_ATIME | SET_MTIME)

    def set_times(self, name: str, nanoseconds: int) -> None:
        s, ns = divmod(nanoseconds, 10**9)
        valid = SET_ATIME | SET_MTIME | SET_ATIME_SET | SET_MTIME_SET
        self.client.setattr(self._at(name), valid, atime_s=s, atime_ns=ns, mtime_s=s, mtime_ns=ns)

    def truncate(self, name: str, size: int) -> None:
        self.client.setattr(self._at(name), SET_SIZE, size=size)

    def open(self, name: str, flags: int) -> None:
        self.client.clunk(self.client.open(self._at(name), flags))

    def read(self, name: str) -> bytes:
        return self.client.content(self._at(name))

    def write(self, name: str, data: bytes) -> None:
        fid = self.client.open(self._at(name), O_WRONLY)
        self.client.write(fid, data)
        self.client.clunk(fid)

    def names(self, name: str) -> list[str]:
        return sorted(os.fsdecode(name) for name in self.client.entries(self._at(name)) if name not in (b".", b".."))

    def size(self, name: str) -> int:
        return self.client.getattr(self._at(name)).size

    def target(self, name: str) -> str:
        return os.fsdecode(self.client.readlink(self._at(name)))

    def get_xattr(self, name: str, attribute: str) -> bytes:
        return self.client.xattr(self._at(name), attribute.encode())

    def set_xattr(self, name: str, attribute: str, value: bytes) -> None:
        self.client.set_xattr(self._at(name), attribute.encode(), value)

    def remove_xattr(self, name: str, attribute: str) -> None:
        self.client.set_xattr(self._at(name), attribute.encode(), b"", os.XATTR_REPLACE)


# Each is done in a directory with: file (alice's, 640), other (bob's, 644), ours (root's and the team's, 660), script
# (alice's, 6755), acl (alice's, and bob may), link, empty/, d/ with d/inner (alice's)
DEEDS: Final[dict[str, Callable[[Hands], Any]]] = {
    "create": lambda do: do.create("new", 0o666),
    "create, closed": lambda do: do.create("new", 0o600),
    "create, set-id": lambda do: do.create("new", 0o6777),
    "create, sticky": lambda do: do.create("new", 0o1644),
    "create in d": lambda do: do.create("d/new", 0o666),
    "create again": lambda do: do.create("file", 0o666),
    "mkdir": lambda do: do.mkdir("new", 0o777),
    "mkdir, set-id": lambda do: do.mkdir("new", 0o2770),
    "mkdir, sticky": lambda do: do.mkdir("new", 0o1777),
    "mkdir again": lambda do: do.mkdir("d", 0o777),
    "symlink": lambda do: do.symlink("new"),
    "mkfifo": lambda do: do.mknod("new", stat.S_IFIFO | 0o666, 0),
    "socket": lambda do: do.mknod("new", stat.S_IFSOCK | 0o644, 0),
    "device": lambda do: do.mknod("new", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    "link file": lambda do: do.link("file", "new"),
    "link other": lambda do: do.link("other", "new"),
    "link ours": lambda do: do.link("ours", "new"),
    "link script": lambda do: do.link("script", "new"),
    "link link": lambda do: do.link("link", "new"),
    "rename": lambda do: do.rename("file", "new"),
    "rename other": lambda do: do.rename("other", "new"),
    "rename into d": lambda do: do.rename("file", "d/new"),
    "rename out of d": lambda do: do.rename("d/inner", "new"),
    "rename over": lambda do: do.rename("other", "file"),
    "rename d": lambda do: do.rename("d", "new"),
    "unlink file": lambda do: do.unlink("file"),
    "unlink other": lambda do: do.unlink("other"),
    "unlink in d": lambda do: do.unlink("d/inner"),
    "rmdir": lambda do: do.rmdir("empty"),
    "rmdir d": lambda do: do.rmdir("d"),
    "chmod": lambda do: do.chmod("file", 0o604),
    "chmod, set-id": lambda do: do.chmod("file", 0o6755),
    "chmod other": lambda do: do.chmod("other", 0o666),
    "chmod ours": lambda do: do.chmod("ours", 0o2755),
    "chmod d": lambda do: do.chmod("d", 0o3700),
    "chown": lambda do: do.chown("file", BOB.uid, -1),
    "chown to himself": lambda do: do.chown("file", ALICE.uid, -1),
    "chown script": lambda do: do.chown("script", ALICE.uid, ALICE.gid),
    "chgrp to the team": lambda do: do.chown("file", -1, TEAM),
    "chgrp ours": lambda do: do.chown("ours", -1, OTHER_TEAM),
    "chgrp to himself": lambda do: do.chown("file", -1, ALICE.gid),
    "touch": lambda do: do.touch("file"),
    "touch other": lambda do: do.touch("other"),
    "touch ours": lambda do: do.touch("ours"),
    "set times": lambda do: do.set_times("file", LONG_AGO),
    "set times of other": lambda do: do.set_times("other", LONG_AGO),
    "set times of ours": lambda do: do.set_times("ours", LONG_AGO),
    "truncate": lambda do: do.truncate("file", 2),
    "truncate other": lambda do: do.truncate("other", 2),
    "truncate script": lambda do: do.truncate("script", 2),
    "read": lambda do: do.read("file"),
    "read other": lambda do: do.read("other"),
    "read ours": lambda do: do.read("ours"),
    "read by acl": lambda do: do.read("acl"),
    "write": lambda do: do.write("file", b"written"),
    "write other": lambda do: do.write("other", b"written"),
    "write ours": lambda do: do.write("ours", b"written"),
    "write script": lambda do: do.write("script", b"written"),
    "write by acl": lambda do: do.write("acl", b"written"),
    "open to truncate": lambda do: do.open("file", os.O_WRONLY | os.O_TRUNC),
    "open script to truncate": lambda do: do.open("script", os.O_RDWR | os.O_TRUNC),
    "open d to write": lambda do: do.open("d", os.O_WRONLY),
    "names": lambda do: do.names("."),
    "names in d": lambda do: do.names("d"),
    "size": lambda do: do.size("file"),
    "size in d": lambda do: do.size("d/inner"),
    "target": lambda do: do.target("link"),
    "get attribute": lambda do: do.get_xattr("file", "user.here"),
    "get attribute of other": lambda do: do.get_xattr("other", "user.here"),
    "get acl": lambda do: do.get_xattr("acl", ACL_ACCESS),
    "set attribute": lambda do: do.set_xattr("file", "user.new", b"value"),
    "set attribute of other": lambda do: do.set_xattr("other", "user.new", b"value"),
    "set attribute of ours": lambda do: do.set_xattr("ours", "user.new", b"value"),
    "set acl": lambda do: do.set_xattr("file", ACL_ACCESS, FOR_BOB),
    "set acl of script": lambda do: do.set_xattr("script", ACL_ACCESS, FOR_BOB),
    "set acl of other": lambda do: do.set_xattr("other", ACL_ACCESS, FOR_BOB),
    "set default acl": lambda do: do.set_xattr("d", ACL_DEFAULT, INHERITED),
    "set trusted attribute": lambda do: do.set_xattr("file", "trusted.new", b"value"),
    "get trusted attribute": lambda do: do.get_xattr("file", "trusted.here"),
    "remove trusted attribute": lambda do: do.remove_xattr("file", "trusted.here"),
    "set capabilities": lambda do: do.set_xattr("file", "security.capability", CAPABLE),
    "set security attribute": lambda do: do.set_xattr("file", "security.new", b"value"),
    "remove attribute": lambda do: do.remove_xattr("file", "user.here"),
    "remove attribute of other": lambda do: do.remove_xattr("other", "user.here"),
}


def furnish(path: Path) -> None:
    """What stands in the directory of each deed."""
    files = {
        "file": (ALICE.uid, ALICE.gid, 0o640),
        "other": (BOB.uid, BOB.gid, 0o644),
        "ours": (0, TEAM, 0o660),
        "script": (ALICE.uid, ALICE.gid, 0o6755),
        "acl": (ALICE.uid, ALICE.gid, 0o640),
        "d/inner": (ALICE.uid, ALICE.gid, 0o640),
    }
    for name in ("d", "empty"):
        (path / name).mkdir()
        os.chown(path / name, ALICE.uid, ALICE.gid)
        (path / name).chmod(0o755)
    for name, (uid, gid, mode) in files.items():
        (path / name).write_text(f"content of {name}")
        os.setxattr(path / name, "user.here", b"here")
        os.setxattr(path / name, "trusted.here", b"here")
        os.chown(path / name, uid, gid)
        (path / name).chmod(mode)
    os.setxattr(path / "acl", ACL_ACCESS, FOR_BOB)
    (path / "link").symlink_to("file")
    os.chown(path / "link", ALICE.uid, ALICE.gid, follow_symlinks=False)


# How the directory is: owner, group, mode
SCENES: Final = {
    "open": (0, 0, 0o777),
    "set-group-id": (0, TEAM, 0o2777),
    "sticky": (0, 0, 0o1777),
    "alice's sticky": (ALICE.uid, ALICE.gid, 0o1777),
    "alice's": (ALICE.uid, ALICE.gid, 0o755),
    "the team's": (0, TEAM, 0o2770),
    "not to be searched": (0, 0, 0o766),
    "not to be read": (0, 0, 0o733),
    "not to be written": (0, 0, 0o755),
    "default acl": (0, 0, 0o777),
}
INHERITS: Final = ("set-group-id", "default acl")


_WHO: Final = {ALICE: [*SCENES], MEMBER: [*SCENES], BOB: ["open", "sticky", "alice's"], ROOT: ["open", "sticky"]}
_ON_EXT4: Final = [("ext4", user, scene) for user, scenes in _WHO.items() for scene in scenes]
_ELSEWHERE: Final = [(kind, user, scene) for kind in KINDS[1:] for user in (ALICE, MEMBER) for scene in INHERITS]


@pytest.mark.parametrize(("source", "user", "scene"), _ON_EXT4 + _ELSEWHERE, indirect=["source"])
def test_passthrough_is_what_the_host_does(source: Path, user: User, scene: str) -> None:
    uid, gid, mode = SCENES[scene]
    shown, plain = source / "shown", source / "plain"
    numbered = dict(enumerate(DEEDS))
    for top in (shown, plain):
        top.mkdir()
        for number in numbered:
            path = top / str(number)
            path.mkdir()
            furnish(path)
            os.chown(path, uid, gid)
            path.chmod(mode)
            if scene == "default acl":
                os.setxattr(path, ACL_DEFAULT, INHERITED)

    def on_host() -> dict[str, Any]:
        found = {}
        for number, deed in numbered.items():
            os.chdir(plain)
            try:
                os.chdir(str(number))
            except PermissionError:
                found[deed] = outcome(lambda: os.chdir(f"{number}/."))
                continue
            found[deed] = outcome(lambda: DEEDS[deed](OnHost()))
        return found

    expected = call_as(user.with_umask(0), on_host)
    with exported(shown, "passthrough") as export, Inside(export, user.uid) as client:
        came = {deed: outcome(lambda: DEEDS[deed](ByClient(client, str(n)))) for n, deed in numbered.items()}
    if scene == "not to be searched" and user is not ROOT:
        # One cannot change into it, but what is asked of the directory itself is answered.
        expected["names"] = call_as(user, lambda: OnHost().names(str(plain / str(list(DEEDS).index("names")))))
    assert came == expected, "\n".join(differences(came, expected))
    for number, deed in numbered.items():
        one, two = describe_tree(shown / str(number), False), describe_tree(plain / str(number), False)
        assert one == two, "\n".join([deed, *differences(one, two)])
        assert describe(shown / str(number)) == describe(plain / str(number))


# Who is who ---------------------------------------------------------------------------------------------------------


def owner(path: Path) -> tuple[int, int]:
    """User and group of a file."""
    st = path.lstat()
    return st.st_uid, st.st_gid


def owner_of_new(client: Inside, source: Path, gid: int = m.NONUNAME) -> tuple[int, int]:
    """Whose a file is that the client makes in the root."""
    client.make("new", gid=gid)
    found = owner(source / "new")
    (source / "new").unlink()
    return found


@dialects
@pytest.mark.parametrize(
    ("uname", "uid", "expected"),
    [
        (b"alice", None, (ALICE.uid, ALICE.gid)),
        (b"61002", None, (BOB.uid, BOB.gid)),
        (b"", ALICE.uid, (ALICE.uid, ALICE.gid)),
        (b"bob", ALICE.uid, (ALICE.uid, ALICE.gid)),  # the number goes before the name
        (b"nobody-knows-him", ALICE.uid, (ALICE.uid, ALICE.gid)),
        (b"61009", None, (STRANGER.uid, NOBODY)),
        (b"", STRANGER.uid, (STRANGER.uid, NOBODY)),
        (b"", 0, (0, 0)),
        (b"root", None, (0, 0)),
        (b"", 0xFFFFFFFE, (0xFFFFFFFE, NOBODY)),
        (b"", None, (NOBODY, NOBODY)),
        (b"nobody-knows-him", None, errno.EPERM),
        (b"alice\0", None, errno.EPERM),
        (b"\xff\xfe", None, errno.EPERM),
        (b"4294967295", None, errno.EPERM),
        (b"-1", None, errno.EPERM),
        (b"9" * 5000, None, errno.EPERM),
    ],
)
def test_attached_as(
    source: Path, dialect: Dialect, uname: bytes, uid: int | None, expected: tuple[int, int] | int
) -> None:
    source.chmod(0o777)
    if dialect is Dialect.BASE and uid is not None:
        return  # has no number
    number = m.NONUNAME if uid is None else uid
    with exported(source, "passthrough") as export, Inside(export, dialect=dialect, attach=False) as client:
        client.root = client.new()
        message = m.Tattach(client.root, m.NOFID, uname, b"", number)
        if isinstance(expected, int):
            with refused(expected):
                client.ask(message)
        else:
            client.ask(message)
            assert owner_of_new(client, source) == expected
    # Under none a name that says nothing to this host is the server's own user.
    with exported(source, "none") as export, Inside(export, dialect=dialect, attach=False) as client:
        client.root = client.new()
        client.ask(m.Tattach(client.root, m.NOFID, uname, b"", number))
        unknown = isinstance(expected, int) or (not uname and uid is None)
        assert owner_of_new(client, source) == ((0, 0) if unknown else expected)


def test_groups_are_those_of_the_host(source: Path) -> None:
    """Which groups a user is in, this host knows; a client cannot put him into others."""
    os.chown(source, 0, TEAM)
    source.chmod(0o770)
    with exported(source, "passthrough") as export:
        with Inside(export, MEMBER.uid) as client:
            assert owner_of_new(client, source) == (MEMBER.uid, MEMBER.gid)
            for gid in (MEMBER.gid, TEAM, OTHER_TEAM):
                assert owner_of_new(client, source, gid) == (MEMBER.uid, gid)
            for gid in (0, ALICE.gid, 4):  # not his: his own is taken
                assert owner_of_new(client, source, gid) == (MEMBER.uid, MEMBER.gid)
        with Inside(export, ALICE.uid) as client:
            for gid in (m.NONUNAME, TEAM, 0):
                with refused(errno.EACCES):
                    client.make("new", gid=gid)
        with Inside(export, 0) as client:
            assert owner_of_new(client, source, TEAM) == (0, TEAM)
            assert owner_of_new(client, source, 12345) == (0, 12345)


def test_the_group_of_whom_the_host_does_not_know(source: Path) -> None:
    """Only the client can tell; but not one that may attach as one local user alone."""
    source.chmod(0o777)
    with exported(source, "passthrough") as export:
        with Inside(export, STRANGER.uid) as client:
            assert owner_of_new(client, source, 12345) == (STRANGER.uid, 12345)
        with Inside(export, STRANGER.uid, peer=STRANGER.uid) as client:
            for gid in (0, TEAM, 12345):
                assert owner_of_new(client, source, gid) == (STRANGER.uid, NOBODY)
        os.chown(source, 0, 0)
        source.chmod(0o775)
        with Inside(export, STRANGER.uid, peer=STRANGER.uid) as client, refused(errno.EACCES):
            client.make("new", gid=0)


@dialects
@pytest.mark.parametrize("model", ["none", "passthrough"])
def test_a_peer_attaches_as_himself(source: Path, dialect: Dialect, model: str) -> None:
    source.chmod(0o777)
    with exported(source, model) as export:
        with Inside(export, ALICE.uid, dialect, uname=b"alice", peer=ALICE.uid) as client:
            assert owner_of_new(client, source) == (ALICE.uid, ALICE.gid)
            for uname in (b"bob", b"root", b"0", b"61002", b"", b"nobody-knows-him"):
                for aname in (b"", b"ctl"):
                    with refused(errno.EPERM):
                        client.ask(m.Tattach(client.new(), m.NOFID, uname, aname))
            if dialect is not Dialect.BASE:
                for uid in (0, BOB.uid):
                    with refused(errno.EPERM):
                        client.ask(m.Tattach(client.new(), m.NOFID, b"alice", b"", uid))
            client.attach(ALICE.uid, b"", b"alice")
            client.attach(ALICE.uid, b"ctl", b"alice")


def test_an_attach_by_passthrough_needs_the_right_to_go_there(source: Path) -> None:
    (source / "alice's" / "below").mkdir(parents=True)
    os.chown(source / "alice's", ALICE.uid, ALICE.gid)
    (source / "alice's").chmod(0o700)
    with exported(source, "passthrough") as export, Inside(export, attach=False) as client:
        for uid in (ALICE.uid, 0):
            client.attach(uid, b"alice's/below")
        with refused(errno.EACCES):
            client.attach(BOB.uid, b"alice's/below")


# None ---------------------------------------------------------------------------------------------------------------


@on_each_disk
def test_none_makes_for_the_user_with_the_servers_rights(source: Path) -> None:
    """The client has checked already: nothing is refused, and what is made is the user's."""
    furnish(source)
    source.chmod(0o700)
    with exported(source) as export, Inside(export, BOB.uid) as client:
        client.make("new", b"content", 0o4751)
        assert oct((source / "new").stat().st_mode) == oct(stat.S_IFREG | 0o751)  # writing has taken set-user-id away
        client.clunk(client.create("script-2", mode=0o4751))
        assert oct((source / "script-2").stat().st_mode) == oct(stat.S_IFREG | 0o4751)
        client.ask(m.Tmkdir(client.root, b"dir", 0o1730, TEAM))
        client.ask(m.Tsymlink(client.root, b"sym", b"nowhere", TEAM))
        client.ask(m.Tmknod(client.root, b"fifo", stat.S_IFIFO | 0o640, 0, 0, TEAM))
        client.ask(m.Tmknod(client.root, b"null", stat.S_IFCHR | 0o640, 1, 3, TEAM))
        for name in ("dir", "sym", "fifo", "null"):
            assert owner(source / name) == (BOB.uid, TEAM)
        assert owner(source / "new") == (BOB.uid, BOB.gid)
        assert stat.S_IMODE((source / "dir").stat().st_mode) == 0o1730
        assert (source / "null").stat().st_rdev == os.makedev(1, 3)
        do = ByClient(client, "")
        do.chmod("file", 0o600)
        do.chown("file", BOB.uid, TEAM)
        do.set_times("file", LONG_AGO)
        do.touch("ours")
        do.truncate("ours", 1)
        do.write("d/inner", b"bob's now")
        do.set_xattr("other", "user.x", b"y")
        do.set_xattr("ours", ACL_ACCESS, FOR_BOB)
        do.rename("d/inner", "moved")
        do.unlink("acl")
        assert owner(source / "file") == (BOB.uid, TEAM)
        assert (source / "file").stat().st_mtime_ns == LONG_AGO
        assert (source / "moved").read_bytes() == b"bob's nowf d/inner"


@on_each_disk
@pytest.mark.parametrize("model", ["none", "passthrough"])
def test_the_servers_umask_and_the_directorys_rules(source: Path, model: str) -> None:
    """Modes are as the client says, whatever umask the server has; set-group-id and default ACLs are obeyed."""
    os.chown(source, 0, TEAM)
    source.chmod(0o2777)
    (source / "inherits").mkdir()
    (source / "inherits").chmod(0o777)
    os.setxattr(source / "inherits", ACL_DEFAULT, INHERITED)
    before = os.umask(0o077)
    try:
        with exported(source, model) as export, Inside(export, ALICE.uid) as client:
            client.make("file", mode=0o666, gid=ALICE.gid)
            client.ask(m.Tmkdir(client.root, b"dir", 0o777, ALICE.gid))
            client.make("inherits/file", mode=0o666)
            client.ask(m.Tmkdir(client.walk("inherits"), b"dir", 0o777, m.NONUNAME))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE((source / "file").stat().st_mode) == 0o666
    assert stat.S_IMODE((source / "dir").stat().st_mode) == 0o2777
    assert owner(source / "file") == owner(source / "dir") == (ALICE.uid, TEAM)
    expected = acl((USER_OBJ, 6, _ANY), (USER, 5, BOB.uid), (GROUP_OBJ, 5, _ANY), (MASK, 6, _ANY), (OTHER, 0, _ANY))
    assert os.getxattr(source / "inherits" / "file", ACL_ACCESS) == expected
    assert os.getxattr(source / "inherits" / "dir", ACL_DEFAULT) == INHERITED


# Without root -------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_root(source: Path) -> None:
    """Under none it does what it may; all that is made is its own, and a wish for another owner is let pass."""
    furnish(source)
    os.chown(source, ALICE.uid, ALICE.gid)
    (source / "closed").mkdir(0o700)

    def work() -> dict[str, Any]:
        with exported(source) as export, Inside(export, BOB.uid) as client:
            do = ByClient(client, "")
            do.create("new", 0o640)
            do.mkdir("dir", 0o750)
            do.write("new", b"content")
            do.chown("new", BOB.uid, TEAM)
            do.rename("new", "dir/moved")
            do.link("file", "second")
            do.truncate("file", 3)
            do.set_xattr("file", "user.x", b"y")
            do.set_times("file", LONG_AGO)
            return {
                "read": do.read("dir/moved"),
                "not his": outcome(lambda: do.write("other", b"x")),
                "not his either": outcome(lambda: do.chmod("other", 0o600)),
                "closed": outcome(lambda: do.names("closed")),
                "in closed": outcome(lambda: client.walk("closed/x")),
                "device": outcome(lambda: do.mknod("null", stat.S_IFCHR | 0o600, os.makedev(1, 3))),
            }

    came = call_as(ALICE, work)
    failed = {what: getattr(value, "errno", None) for what, value in came.items()}
    assert came["read"] == b"content"
    assert failed == {
        "read": None, "not his": "EACCES", "not his either": "EPERM", "closed": "EACCES", "in closed": "EACCES",
        "device": "EPERM",
    }  # fmt: skip
    assert owner(source / "dir" / "moved") == (ALICE.uid, ALICE.gid)
    assert (source / "file").stat().st_mtime_ns == LONG_AGO


def test_passthrough_needs_root(source: Path) -> None:
    def work() -> str:
        tree = Tree(source, Mapper("suffix"))
        try:
            MODELS["passthrough"](tree)
        except Refused as error:
            return str(error)
        finally:
            tree.close()
        return ""

    said = call_as(ALICE, work)
    assert "root" in said
    assert "none" in said  # what to do instead


# Read-only ----------------------------------------------------------------------------------------------------------


def changing(client: Inside) -> Iterator[Any]:
    """Every message of the client's dialect that changes anything, each with fids of its own."""
    most = m.NONUNAME
    if client.dialect is Dialect.LINUX:
        for flags in (O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_TRUNC):
            yield m.Tlopen(client.walk("file"), flags)
        yield m.Tlcreate(client.walk(), b"new", O_RDWR, 0o644, most)
        yield m.Tlcreate(client.walk(), b"file", O_RDONLY, 0o644, most)
        yield m.Tsymlink(client.root, b"new", b"target", most)
        yield m.Tmknod(client.root, b"new", stat.S_IFREG | 0o644, 0, 0, most)
        yield m.Tmkdir(client.root, b"new", 0o755, most)
        yield m.Tlink(client.root, client.walk("file"), b"new")
        yield m.Trename(client.walk("file"), client.root, b"new")
        yield m.Trenameat(client.root, b"file", client.root, b"new")
        yield m.Tunlinkat(client.root, b"file", 0)
        yield m.Tunlinkat(client.root, b"empty", AT_REMOVEDIR)
        for bit in range(7):
            yield setattr_message(client.walk("file"), 1 << bit, size=1)
        yield m.Txattrcreate(client.walk("file"), b"user.x", 1, 0)
        yield m.Txattrcreate(client.walk("file"), b"user.here", 0, os.XATTR_REPLACE)
    else:
        for mode in (1, 2, 0x10, 0x11, 0x40):
            yield m.Topen(client.walk("file"), mode)
        yield m.Tcreate(client.walk(), b"new", 0o644, 0, b"")
        yield m.Tcreate(client.walk(), b"new", 0x80000000 | 0o755, 0, b"")
        for change in ({"mode": 0o600}, {"mtime": 1}, {"length": 1}, {"name": b"new"}, {"gid": b"team"}):
            yield m.Twstat(client.walk("file"), NOTHING_CHANGED._replace(**change))
    if client.dialect is Dialect.UNIX:
        yield m.Tcreate(client.walk(), b"new", 0x02000000 | 0o777, 0, b"target")
        yield m.Tcreate(client.walk(), b"new", 0x01000000 | 0o644, 0, b"%d" % client.walk("file"))
        yield m.Tcreate(client.walk(), b"new", 0x00200000 | 0o644, 0, b"")
        yield m.Twstat(client.walk("file"), NOTHING_CHANGED._replace(n_uid=BOB.uid))
    yield m.Tremove(client.walk("file"))
    yield m.Tremove(client.walk("empty"))


@dialects
@pytest.mark.parametrize("model", MODELS)
def test_read_only(source: Path, model: str, dialect: Dialect) -> None:
    furnish(source)
    before = describe_tree(source)
    with exported(source, model, read_only=True) as export, Inside(export, dialect=dialect) as client:
        for message in changing(client):
            with refused(errno.EROFS):
                client.ask(message)
        assert client.content("file") == b"content of file"
        fid = client.open("file")
        with refused(errno.EBADF, errno.EROFS):
            client.write(fid, b"x")
    assert describe_tree(source) == before


@dialects
@pytest.mark.parametrize("model", MODELS)
def test_what_read_only_refuses_is_done_otherwise(source: Path, model: str, dialect: Dialect) -> None:
    """That the list above is one of requests that change something, and are refused for no other reason."""
    with exported(source, model) as export, Inside(export, dialect=dialect) as client:
        count = len(list(_first(source, client)))
        for index in range(count):
            with Inside(export, dialect=dialect) as fresh:
                message = list(_first(source, fresh))[index]
                before = _seen(source)
                fresh.ask(message)
                if (isinstance(message, m.Topen) and message.mode == 0x40) or isinstance(message, m.Txattrcreate):
                    assert isinstance(message, m.Topen) or not message.attr_size or fresh.write(message.fid, b"x") == 1
                    fresh.clunk(message.fid)
                writes = isinstance(message, (m.Tlopen, m.Topen))
                opened_only = isinstance(message, m.Tlcreate) and message.name == b"file"
                assert _seen(source) != before or writes or opened_only, message


def _first(source: Path, client: Inside) -> Iterator[Any]:
    """The messages, in a tree that is as it was."""
    for path in source.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    furnish(source)
    return changing(client)


def _seen(source: Path) -> dict[str, Any]:
    """What a tree is like, with the times of all and of the status."""
    return {str(path): (path.lstat()[:], path.lstat().st_ctime_ns) for path in sorted(source.rglob("*"))}
