"""What can be done in a directory: on the host, by its own calls, and by a client, with messages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from fusemap.p9 import messages as m

from ..inside import (
    AT_REMOVEDIR,
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
)


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
