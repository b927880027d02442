"""What QEMU's mapped-xattr is on the host, written down from its hw/9pfs/9p-local.c and not taken from the product."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Final

MODEL: Final = "mapped-xattr"


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
    for name, mode in (("no-kind", 0o600), ("no-directory", stat.S_IFDIR | 0o600)):
        (top / name).write_text("")
        by_qemu(top / name, 1, 2, mode)
        told[name] = (1, 2, stat.S_IFREG | 0o600, 0)
    (top / "no-file").mkdir()
    by_qemu(top / "no-file", 1, 2, stat.S_IFREG | 0o700)
    told["no-file"] = (1, 2, stat.S_IFDIR | 0o700, 0)
    return told
