"""What is tried by users of all kinds in directories of all kinds."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ...support.process import ALICE, BOB, TEAM
from .hands import Hands
from .users import OTHER_TEAM

LONG_AGO: Final = 1_000_000_000_123_456_789
ACL_ACCESS: Final = "system.posix_acl_access"
ACL_DEFAULT: Final = "system.posix_acl_default"


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The value of an ACL's attribute: version 2, then tag, permissions and id (linux/posix_acl_xattr.h)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ANY: Final = 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 0x10, 0x20
FOR_BOB: Final = acl(
    (USER_OBJ, 6, ANY), (USER, 6, BOB.uid), (GROUP_OBJ, 4, ANY), (MASK, 6, ANY), (OTHER, 0, ANY)
)
INHERITED: Final = acl(
    (USER_OBJ, 7, ANY), (USER, 5, BOB.uid), (GROUP_OBJ, 5, ANY), (MASK, 7, ANY), (OTHER, 1, ANY)
)
# CAP_SYS_ADMIN and all else, permitted and effective: struct vfs_cap_data in linux/capability.h
CAPABLE: Final = struct.pack("<5I", 0x02000001, 0xFFFFFFFF, 0, 0x1FF, 0)


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
