"""What is attacked: a tree, and beside it what is nobody's business.

What lies outside the export is `secrets`, which no attack may read or touch: not even the time of access of a file in
it may change. The attacker is a client, or a client together with somebody who may write to the tree on the host.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from fusemap.p9 import messages as m
from fusemap.p9.wire import Dialect

from ..inside import (
    AT_REMOVEDIR,
    DIALECTS,
    MODELS,
    NOTHING_CHANGED,
    Inside,
)

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
