"""Every call on the host that a request makes fails once: the request fails, nothing leaks, the session goes on.

The n-th call of a request gets EIO, for each n until there are no more. What is made, found or opened on the way must
be let go of, whatever the call was. (close(2) is not among them: on a descriptor that nothing was written to it does
not fail; test_session.py has the other case.)
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from fusemap.host.calls import Calls
from fusemap.p9 import messages as m
from fusemap.p9 import metadata, transfer
from fusemap.p9.export import Export
from fusemap.p9.wire import Dialect
from fusemap.qid import QID
from fusemap.tree import live

from ..support.trees import descriptors
from .inside import O_RDWR, O_TRUNC, exported, setattr_message
from .talk import Talk

OF_OS: Final = (
    "chmod", "chown", "dup", "fdatasync", "fstatvfs", "fsync", "ftruncate", "getxattr", "link", "listxattr", "lseek",
    "mkdir", "mknod", "open", "pread", "preadv", "pwrite", "pwritev", "readlink", "removexattr", "rename", "rmdir",
    "setxattr", "symlink", "unlink", "write",
)  # fmt: skip
OF_CALLS: Final = (
    "statx", "handle", "fid", "open_by_handle", "mount_id", "getdents", "rename", "utimens",
)  # fmt: skip


class Faults:
    """While `armed`, counts the calls on the host and fails the one that is `due`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.armed = False
        self.due = self.made = 0
        self.what = ""
        for name in OF_OS:
            patch.setattr(os, name, self._failing(name, getattr(os, name)))
        for name in OF_CALLS:
            patch.setattr(Calls, name, self._failing(f"Calls.{name}", getattr(Calls, name)))

    def _failing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **named: Any) -> Any:
            if self.armed:
                self.made += 1
                if self.made == self.due:
                    self.what = name
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(*arguments, **named)

        return instead


MOST: Final = 0xFFFFFFFF
NUMBERS: Final = itertools.count()


def record(**values: Any) -> m.StatRecord:
    nothing = m.StatRecord(
        0xFFFF, MOST, QID(0xFF, MOST, (1 << 64) - 1), MOST, MOST, MOST, (1 << 64) - 1, b"", b"", b"", b"", b"",
        MOST, MOST, MOST,
    )  # fmt: skip
    return nothing._replace(**values)


def fresh() -> bytes:
    return b"new%d" % next(NUMBERS)


def opened_directory(talk: Talk) -> int:
    return talk.open("d")


def with_attribute(talk: Talk, size: int = 3) -> int:
    fid = talk.walk("d/f")
    talk.ask(m.Txattrcreate(fid, b"user.a", size, 0))
    if size:
        talk.ask(m.Twrite(fid, 0, b"abc"))
    return fid


def doomed(talk: Talk) -> int:
    fid = talk.walk("d/f")
    talk.ask(m.Topen(fid, 0x40))
    return fid


# Name of a request: what makes it ready and gives the message that is to fail
LINUX: Final[dict[str, Callable[[Talk], Any]]] = {
    "attach": lambda t: m.Tattach(99, m.NOFID, b"", b"", 0),
    "attach-below": lambda t: m.Tattach(99, m.NOFID, b"", b"d/e", 0),
    "walk-clone": lambda t: m.Twalk(t.root, 99, ()),
    "walk-one": lambda t: m.Twalk(t.root, 99, (b"d",)),
    "walk-dot": lambda t: m.Twalk(t.root, 99, (b".",)),
    "walk-far": lambda t: m.Twalk(t.root, 99, (b"d", b"e", b"..", b".", b"f")),
    "walk-itself": lambda t: (fid := t.walk("d")) and m.Twalk(fid, fid, (b"e",)),
    "walk-above-the-top": lambda t: m.Twalk(t.attach(aname=b"d/e"), 99, (b"..", b"..")),
    "walk-up": lambda t: m.Twalk(t.walk("d/e"), 99, (b"..", b"..")),
    "statfs": lambda t: m.Tstatfs(t.walk("d/f")),
    "getattr": lambda t: m.Tgetattr(t.walk("d/f"), 0x3FFF),
    "open": lambda t: m.Tlopen(t.walk("d/f"), 0),
    "open-directory": lambda t: m.Tlopen(t.walk("d"), 0o200000),
    "open-truncating": lambda t: m.Tlopen(t.walk("d/f"), O_RDWR | O_TRUNC),
    "open-truncating-long": lambda t: m.Tlopen(t.walk("d/large"), O_RDWR | O_TRUNC),
    "create": lambda t: m.Tlcreate(t.walk("d"), fresh(), O_RDWR, 0o644, 0),
    "create-existing": lambda t: m.Tlcreate(t.walk("d"), b"f", O_RDWR | O_TRUNC, 0o644, 0),
    "symlink": lambda t: m.Tsymlink(t.walk("d"), fresh(), b"target", 0),
    "mknod": lambda t: m.Tmknod(t.walk("d"), fresh(), 0o20644, 1, 3, 0),
    "mkdir": lambda t: m.Tmkdir(t.walk("d"), fresh(), 0o755, 0),
    "link": lambda t: m.Tlink(t.walk("d"), t.walk("d/f"), fresh()),
    "rename": lambda t: m.Trename(t.walk("d/g"), t.walk("d/e"), b"g"),
    "rename-over": lambda t: m.Trenameat(t.walk("d"), b"g", t.walk("d"), b"f"),
    "rename-over-long": lambda t: m.Trenameat(t.walk("d"), b"g", t.walk("d"), b"large"),
    "rename-over-held": lambda t: t.walk("d/f") and m.Trenameat(t.walk("d"), b"g", t.walk("d"), b"f"),
    "unlink": lambda t: m.Tunlinkat(t.walk("d"), b"f", 0),
    "unlink-held": lambda t: t.walk("d/f") and m.Tunlinkat(t.walk("d"), b"f", 0),
    "unlink-long": lambda t: m.Tunlinkat(t.walk("d"), b"large", 0),
    "rmdir": lambda t: m.Tunlinkat(t.walk("d"), b"e", 0x200),
    "remove": lambda t: m.Tremove(t.walk("d/f")),
    "remove-open": lambda t: m.Tremove(t.open("d/f", O_RDWR)),
    "remove-long": lambda t: m.Tremove(t.walk("d/large")),
    "remove-directory": lambda t: m.Tremove(t.open("d/e")),
    "readlink": lambda t: m.Treadlink(t.walk("d/l")),
    "setattr": lambda t: setattr_message(t.walk("d/f"), 0x1FF, mode=0o600, uid=1, gid=1, size=3, mtime_s=1),
    "setattr-long": lambda t: setattr_message(t.walk("d/large"), 0x28),
    "setattr-open-long": lambda t: setattr_message(t.open("d/large", O_RDWR), 0x28),
    "xattrwalk": lambda t: m.Txattrwalk(t.walk("d/f"), 99, b"user.old"),
    "xattrwalk-list": lambda t: m.Txattrwalk(t.walk("d/f"), 99, b""),
    "xattr-set": lambda t: m.Tclunk(with_attribute(t)),
    "xattr-remove": lambda t: m.Tclunk(with_attribute(t, 0)),
    "readdir": lambda t: m.Treaddir(opened_directory(t), 0, 8192),
    "readdir-little": lambda t: m.Treaddir(opened_directory(t), 0, 100),
    "read": lambda t: m.Tread(t.open("d/f"), 0, 100),
    "write": lambda t: m.Twrite(t.open("d/f", O_RDWR), 0, b"data"),
    "fsync": lambda t: m.Tfsync(t.open("d/f", O_RDWR), 0),
    "fsync-directory": lambda t: m.Tfsync(opened_directory(t), 1),
    "lock": lambda t: m.Tlock(t.open("d/f", O_RDWR), 1, 0, 0, 0, 1, b"c"),
    "getlock": lambda t: m.Tgetlock(t.open("d/f", O_RDWR), 1, 0, 0, 1, b"c"),
    "clunk": lambda t: m.Tclunk(t.walk("d/f")),
    "clunk-open": lambda t: m.Tclunk(t.open("d/f", O_RDWR)),
    "clunk-open-directory": lambda t: m.Tclunk(opened_directory(t)),
    "version": lambda t: t.open("d/f") and m.Tversion(1 << 17, b"9P2000.L"),
}
UNIX: Final[dict[str, Callable[[Talk], Any]]] = {
    "open": lambda t: m.Topen(t.walk("d/f"), 0),
    "open-truncating-long": lambda t: m.Topen(t.walk("d/large"), 0x11),
    "open-to-remove": lambda t: m.Topen(t.walk("d/f"), 0x40),
    "create": lambda t: m.Tcreate(t.walk("d"), fresh(), 0o644, 2),
    "create-directory": lambda t: m.Tcreate(t.walk("d"), fresh(), 0x800001ED, 0),
    "create-symlink": lambda t: m.Tcreate(t.walk("d"), fresh(), 0x02000000, 0, b"target"),
    "create-link": lambda t: m.Tcreate(t.walk("d"), fresh(), 0x01000000, 0, b"%d" % t.walk("d/f")),
    "create-device": lambda t: m.Tcreate(t.walk("d"), fresh(), 0x008001A4, 0, b"c 1 3"),
    "stat": lambda t: m.Tstat(t.walk("d/l")),
    "wstat": lambda t: m.Twstat(
        t.walk("d/f"), record(mode=0o600, mtime=5, length=3, name=fresh(), gid=b"1")
    ),
    "wstat-long": lambda t: m.Twstat(t.walk("d/large"), record(length=3, name=fresh())),
    "wstat-nothing": lambda t: m.Twstat(t.open("d/f", O_RDWR), record()),
    "read-directory": lambda t: m.Tread(opened_directory(t), 0, 8192),
    "clunk-to-remove": lambda t: m.Tclunk(doomed(t)),
    "version-to-remove": lambda t: doomed(t) and m.Tversion(1 << 17, b"9P2000.u"),
}


def furnish(top: Path) -> None:
    """What the requests need, made anew where an earlier one has taken it away."""
    d = top / "d"
    (d / "e").mkdir(parents=True, exist_ok=True)
    (d / "e" / "g").unlink(missing_ok=True)
    for made in d.glob("new*"):
        made.rmdir() if made.is_dir() else made.unlink()
    for name in ("f", "g"):
        (d / name).write_bytes(b"content")
    os.setxattr(d / "f", "user.old", b"old")
    if not os.path.lexists(d / "l"):
        os.symlink("target", d / "l")
    (d / "large").write_bytes(bytes(65536))


@pytest.fixture(scope="module", params=["none", "mapped-xattr"])
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Export]]:
    """A directory and its export, in which files of 64 KiB are large ones."""
    top = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        for module in (transfer, metadata, live):
            patch.setattr(module, "LONG_REMOVAL_BLOCKS", 64)
        with exported(top, request.param) as found:
            yield top, found


@pytest.mark.parametrize(
    ("dialect", "name"),
    [*((Dialect.LINUX, name) for name in LINUX), *((Dialect.UNIX, name) for name in UNIX)],
    ids=lambda value: value if isinstance(value, str) else value.value.decode(),
)
def test_a_call_that_fails(
    export: tuple[Path, Export], dialect: Dialect, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, shared = export
    prepare = (LINUX if dialect is Dialect.LINUX else UNIX)[name]
    faults = Faults(monkeypatch)
    shared.tree.rest()
    before = descriptors()
    for due in range(1, 200):
        furnish(top)
        faults.due, faults.made, faults.what = due, 0, ""
        with Talk(shared, 0, dialect) as talk:
            message = prepare(talk)
            shared.tree.rest()
            faults.armed = True
            answers = talk.tell(message, 9)
            while talk.works:
                answers += talk.run()
            faults.armed = False
            assert [tag for tag, _ in answers] == [9], faults.what
            if not isinstance(message, m.Tversion):
                reply = talk.tell(m.Twalk(talk.root, 1000, ()), 10)[0][1]
                assert isinstance(reply, m.Rwalk), f"after {faults.what}: {reply}"
        assert len(shared.tree) == 1, f"nodes are left after {faults.what}"
        assert not shared.places._places, f"places are left after {faults.what}"
        assert not (descriptors() ^ before), f"descriptors after {faults.what}"
        if faults.made < due:
            break
    else:
        pytest.fail("no end of calls")
    refused = isinstance(answers[0][1], (m.Rlerror, m.Rerror))
    assert not refused, f"it fails by itself: {answers[0][1]}"
