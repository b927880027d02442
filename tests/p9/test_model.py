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


_ON_EXT4: Final = [("ext4", user, scene) for scene in SCENES for user in (ALICE, BOB, MEMBER, ROOT)]
_ELSEWHERE: Final = [(kind, user, s) for kind in KINDS[1:] for user in (ALICE, MEMBER) for s in ("the team's", *INHERITS)]


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
                found[deed] = outcome(lambda: os.chdir(f"{number}/."))  # noqa: B023
                continue
            found[deed] = outcome(lambda: DEEDS[deed](OnHost()))  # noqa: B023
        return found

    expected = call_as(user.with_umask(0), on_host)
    with exported(shown, "passthrough") as export, Inside(export, user.uid) as client:
        came = {deed: outcome(lambda: DEEDS[deed](ByClient(client, str(n)))) for n, deed in numbered.items()}  # noqa: B023
    if scene == "not to be searched" and user is not ROOT:
        # One cannot change into it, but what is asked of the directory itself is answered.
        expected["names"] = call_as(user, lambda: OnHost().names(str(plain / str(list(DEEDS).index("names")))))
    assert came == expected, "\n".join(differences(came, expected))
    for number, deed in numbered.items():
        one, two = describe_tree(shown / str(number), False), describe_tree(plain / str(number), False)
        assert one == two, "\n".join([deed, *differences(one, two)])
        assert describe(shown / str(number)) == describe(plain / str(number))
