"""Who owns what is made through the mount, with which mode, and who may do what: as on the disk itself."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support import needs
from ..support.describe import describe
from ..support.house import Failed, Pair, same, tried
from ..support.process import ALICE, BOB, MEMBER, ROOT, TEAM, User, call_as, run


def make(path: Path, kind: str, mode: int) -> None:
    """One file of any kind."""
    if kind == "file":
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    elif kind == "directory":
        os.mkdir(path, mode)
    elif kind == "fifo":
        os.mkfifo(path, mode)
    elif kind == "node":
        os.mknod(path, stat.S_IFREG | mode)
    elif kind == "symlink":
        os.symlink("nowhere", path)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            here = os.open(path.parent, os.O_PATH)
            try:
                server.bind(f"/proc/self/fd/{here}/{path.name}")  # paths of sockets may have 107 bytes only
            finally:
                os.close(here)


MAKERS = (ROOT, ALICE, MEMBER, User(0, 61001, name="0:alice"), User(61001, 0, name="alice:0"))
KINDS = ("file", "directory", "fifo", "node", "symlink", "socket")


@pytest.mark.parametrize("user", MAKERS, ids=repr)
@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_owner_and_mode_of_what_is_made(pair: Pair, user: User, umask: int) -> None:
    def work(path: Path) -> list[dict[str, Any]]:
        told = []
        for kind in KINDS:
            for mode in (0o777, 0o644, 0o600, 0, 0o4755, 0o2755, 0o1777, 0o7777):
                name = path / f"{kind}-{mode:o}"
                make(name, kind, mode)
                st = os.lstat(name)
                told.append({"name": name.name, "mode": oct(st.st_mode), "owner": (st.st_uid, st.st_gid)})
        return told

    made = same(pair, work, user.with_umask(umask))
    assert isinstance(made, list)
    assert {row["owner"] for row in made} == {(user.uid, user.gid)}
    if umask == 0o022:
        assert made[0]["mode"] == oct(stat.S_IFREG | 0o755)


@pytest.fixture
def setgid(pair: Pair) -> Pair:
    """In each directory of the pair one that belongs to TEAM and has the set-group-id bit."""
    for top in (pair.host, pair.twin):
        (top / "team").mkdir()
        os.chown(top / "team", 0, TEAM)
        (top / "team").chmod(0o2777)
    return pair


@pytest.mark.parametrize("user", [ROOT, ALICE, MEMBER], ids=repr)
def test_a_setgid_directory_gives_its_group_on(setgid: Pair, user: User) -> None:
    def work(path: Path) -> list[Any]:
        told = []
        for kind in KINDS:
            for mode in (0o755, 0o2755, 0o2745, 0o6775):
                name = path / "team" / f"{kind}-{mode:o}"
                make(name, kind, mode)
                told.append((name.name, describe(name)))
        return told

    made = same(setgid, work, user.with_umask(0))
    assert isinstance(made, list)
    assert {told["owner"] for _, told in made} == {(user.uid, TEAM)}
    assert dict(made)["directory-755"]["mode"] == oct(0o2755)


def test_supplementary_groups_count(pair: Pair) -> None:
    for top in (pair.host, pair.twin):
        for name, mode in (("closed", 0o770), ("file", 0o640)):
            path = top / name
            path.mkdir() if name == "closed" else path.write_text("for the team")
            os.chown(path, 0, TEAM)
            path.chmod(mode)

    def work(path: Path) -> list[Any]:
        told: list[Any] = [(path / "file").read_text()]
        for kind in KINDS:
            make(path / "closed" / kind, kind, 0o644)
            told.append(describe(path / "closed" / kind))
        os.rename(path / "closed" / "file", path / "closed" / "renamed")
        os.link(path / "closed" / "renamed", path / "closed" / "linked")
        os.unlink(path / "closed" / "renamed")
        return [*told, sorted(os.listdir(path / "closed"))]

    assert not isinstance(same(pair, work, MEMBER), Failed)
    pair_of_bob = same(pair, lambda path: os.listdir(path / "closed"), BOB)
    assert pair_of_bob == Failed("EACCES")
    # A call made for one user must not leave a trace in the next one's.
    assert isinstance(call_as(MEMBER, lambda: os.listdir(pair.seen / "closed")), list)
    with pytest.raises(PermissionError):
        call_as(User(BOB.uid, BOB.gid, [62001]), lambda: os.mkdir(pair.seen / "closed" / "x"))


def test_changing_the_group_to_one_of_ones_own(pair: Pair) -> None:
    def work(path: Path) -> list[Any]:
        (path / "f").write_text("")
        os.chown(path / "f", -1, TEAM)
        return [os.stat(path / "f").st_gid]

    assert same(pair, work, MEMBER) == [TEAM]
    assert same(pair, lambda path: os.chown(path / "f", -1, 62002), MEMBER) == Failed("EPERM")
    assert same(pair, lambda path: os.chown(path / "f", BOB.uid, -1), MEMBER) == Failed("EPERM")


ACTS: dict[str, Callable[[Path, User], Any]] = {
    "chown": lambda path, user: os.chown(path, user.uid, user.gid),
    "chown to nobody": lambda path, user: os.chown(path, -1, -1),
    "chgrp": lambda path, user: os.chown(path, -1, 62001),
    "chmod": lambda path, user: os.chmod(path, 0o2770),
    "write": lambda path, user: path.open("r+b", buffering=0).write(b"x"),
    "append": lambda path, user: path.open("ab", buffering=0).write(b"x"),
    "truncate": lambda path, user: os.truncate(path, 3),
    "O_TRUNC": lambda path, user: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    "O_CREAT|O_TRUNC": lambda path, user: os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)),
}


@pytest.mark.parametrize("mode", [0o6755, 0o2745, 0o4711, 0o7777, 0o6000], ids=oct)
@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("act", ACTS)
def test_set_id_bits_go_when_they_must(pair: Pair, act: str, mode: int, kind: str) -> None:
    """Who is not root loses them by writing or giving away, who is not of the group by chmod: as the host does it."""
    users = (ROOT, ALICE, MEMBER, BOB)
    for top in (pair.host, pair.twin):
        for user in users:
            path = top / user.name
            make(path, kind, 0o777)
            os.chown(path, MEMBER.uid, TEAM)
            path.chmod(mode | 0o066)

    # On the host chown(-1, -1) of another's 02767 is EPERM, since it would take the bit away; FUSE does not ask.
    for user in users[:3:2] if act == "chown to nobody" else users:

        def work(path: Path, user: User = user) -> list[Any]:
            return [user.name, tried(lambda: ACTS[act](path / user.name, user)), describe(path / user.name)]

        same(pair, work, user)
    # What the kernel of the mount believes and what is on the disk must be one.
    for user in users:
        assert describe(pair.host / user.name) == describe(pair.twin / user.name)


def test_a_file_opened_before_it_was_closed_to_others_stays_open(pair: Pair) -> None:
    def work(path: Path) -> bytes:
        fd = os.open(path / "f", os.O_CREAT | os.O_RDWR, 0o600)
        os.write(fd, b"mine")
        os.fchmod(fd, 0)
        os.write(fd, b" still")
        os.lseek(fd, 0, os.SEEK_SET)
        return os.read(fd, 100)

    assert same(pair, work, ALICE) == b"mine still"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
@pytest.mark.parametrize("mode", [0, 0o200, 0o400, 0o444])
def test_creating_with_a_mode_that_denies_the_access_asked_for(pair: Pair, flags: int, mode: int) -> None:
    def work(path: Path) -> list[Any]:
        os.close(os.open(path / "f", flags | os.O_CREAT, mode))
        again = tried(lambda: os.close(os.open(path / "f", flags | os.O_CREAT, mode)))
        return [describe(path / "f"), again]

    same(pair, work, ALICE)


def test_the_sticky_bit(pair: Pair) -> None:
    for top in (pair.host, pair.twin):
        (top / "shared").mkdir()
        (top / "shared").chmod(0o1777)
        for owner in (ALICE, BOB):
            for name in ("unlink", "rename", "over"):
                path = top / "shared" / f"{owner.uid}-{name}"
                path.write_text("x")
                os.chown(path, owner.uid, owner.gid)

    def work(path: Path) -> list[Any]:
        told: list[Any] = []
        for owner in (ALICE.uid, BOB.uid):
            shared = path / "shared"
            for act in (
                lambda: os.unlink(shared / f"{owner}-unlink"),
                lambda: os.rename(shared / f"{owner}-rename", shared / f"{owner}-renamed"),
                lambda: os.rename(shared / f"{ALICE.uid}-over", shared / f"{owner}-over"),
            ):
                told.append(tried(act))
        return [*told, sorted(os.listdir(path / "shared"))]

    told = same(pair, work, ALICE)
    assert isinstance(told, list)
    assert "EPERM" in told, "nothing was refused"


def test_directories_without_search_or_write_permission(pair: Pair) -> None:
    for top in (pair.host, pair.twin):
        for mode in range(8):
            path = top / f"d{mode}"
            path.mkdir()
            (path / "f").write_text("f")
            os.chmod(path, mode << 6)
            os.chown(path, ALICE.uid, ALICE.gid)
            os.chown(path / "f", ALICE.uid, ALICE.gid)

    def work(path: Path) -> list[Any]:
        told: list[Any] = []
        for mode in range(8):
            directory = path / f"d{mode}"
            for act in (
                lambda: os.listdir(directory),
                lambda: sorted(entry.stat().st_size for entry in os.scandir(directory)),
                lambda: (directory / "f").read_text(),
                lambda: os.mkdir(directory / "new"),
                lambda: os.unlink(directory / "f"),
                lambda: os.access(directory, os.R_OK),
                lambda: os.access(directory, os.W_OK),
                lambda: os.access(directory, os.X_OK),
            ):
                told.append(tried(act))
        return told

    same(pair, work, ALICE)


@pytest.fixture
def acl() -> None:
    needs.tools("setfacl", "getfacl")


def getfacl(path: Path) -> str:
    return run("getfacl", "-cn", path).stdout


@pytest.mark.usefixtures("acl")
@pytest.mark.parametrize("umask", [0, 0o077])
def test_default_acls_decide_the_mode_not_the_umask(pair: Pair, umask: int) -> None:
    for top in (pair.host, pair.twin):
        (top / "d").mkdir()
        (top / "d").chmod(0o777)
        run("setfacl", "-m", f"d:u:{BOB.uid}:rwx,d:g:{TEAM}:r-x,d:m::rwx,d:o::---", top / "d")

    def work(path: Path) -> list[Any]:
        told = []
        for kind in KINDS:
            make(path / "d" / kind, kind, 0o777)
            told.append((kind, describe(path / "d" / kind)))
        return told

    made = same(pair, work, ALICE.with_umask(umask))
    assert isinstance(made, list)
    told = dict(made)
    assert "system.posix_acl_access" in told["file"]["xattrs"]
    assert "system.posix_acl_default" in told["directory"]["xattrs"]
    assert told["file"]["mode"] == oct(0o770)
    # BOB gets in by the ACL alone, his access checked by the mount's kernel
    assert call_as(BOB, lambda: (pair.seen / "d" / "file").read_text()) == ""
    with pytest.raises(PermissionError):
        call_as(User(61009, 61009), lambda: (pair.seen / "d" / "file").read_text())


@pytest.mark.usefixtures("acl")
def test_acls_are_set_read_and_obeyed(pair: Pair) -> None:
    def prepare(path: Path) -> None:
        (path / "f").write_text("secret")
        (path / "f").chmod(0o600)
        run("setfacl", "-m", f"u:{BOB.uid}:r", path / "f")

    call_as(ALICE, lambda: prepare(pair.seen))
    call_as(ALICE, lambda: prepare(pair.twin))
    assert getfacl(pair.seen / "f") == getfacl(pair.host / "f") == getfacl(pair.twin / "f")
    assert same(pair, lambda path: (path / "f").read_text(), BOB) == "secret"
    assert same(pair, lambda path: (path / "f").write_text("x"), BOB) == Failed("EACCES")
    assert same(pair, lambda path: (path / "f").read_text(), MEMBER) == Failed("EACCES")

    def change(path: Path) -> dict[str, Any]:
        (path / "f").chmod(0o640)  # changes the mask
        return describe(path / "f")

    same(pair, change, ALICE)

    def remove(path: Path) -> dict[str, Any]:
        run("setfacl", "-b", path / "f")
        return describe(path / "f")

    told = same(pair, remove, ALICE)
    assert isinstance(told, dict)
    assert told["xattrs"] == {}


@pytest.mark.usefixtures("acl")
@pytest.mark.parametrize("user", [ROOT, ALICE, MEMBER, BOB], ids=repr)
@pytest.mark.parametrize("rule", ["g::rwx", f"u:{BOB.uid}:rw,m::rwx", f"d:u:{BOB.uid}:rwx", "o::r"])
def test_setting_an_acl_clears_the_setgid_bit_where_a_chmod_would(pair: Pair, user: User, rule: str) -> None:
    for top in (pair.host, pair.twin):
        for kind in ("file", "directory"):
            make(top / kind, kind, 0o700)
            os.chown(top / kind, user.uid if user is not BOB else ALICE.uid, TEAM)
            (top / kind).chmod(0o2775)

    def work(path: Path) -> list[Any]:
        told: list[Any] = []
        for kind in ("file", "directory"):
            done = subprocess.run(["setfacl", "-m", rule, path / kind], capture_output=True, timeout=30, check=False)
            told.append((kind, done.returncode, describe(path / kind)))
        return told

    same(pair, work, user)
    for kind in ("file", "directory"):
        assert describe(pair.host / kind) == describe(pair.twin / kind)


@pytest.mark.usefixtures("acl")
def test_an_invalid_acl_is_refused(pair: Pair) -> None:
    def work(path: Path) -> None:
        (path / "f").write_text("")
        os.setxattr(path / "f", "system.posix_acl_access", b"\x02\0\0\0rubbish!")

    assert same(pair, work, ALICE) == Failed("EINVAL")


@pytest.fixture
def capable() -> Iterator[list[str]]:
    """A command's beginning that runs it as ALICE with the right to pass all file permission checks."""
    needs.root()
    needs.tools("setpriv")
    yield [
        "setpriv", f"--reuid={ALICE.uid}", f"--regid={ALICE.gid}", "--clear-groups",
        "--inh-caps=+dac_override,+chown,+fowner", "--ambient-caps=+dac_override,+chown,+fowner",
    ]  # fmt: skip


def test_a_user_with_capabilities_uses_them(pair: Pair, capable: list[str]) -> None:
    told = []
    for top, where in ((pair.host, pair.seen), (pair.twin, pair.twin)):
        (top / "closed").mkdir(mode=0o700)
        run(*capable, "mkdir", where / "closed" / "d")
        run(*capable, "touch", where / "closed" / "f")
        run(*capable, "chown", f"{BOB.uid}", where / "closed" / "f")
        told.append([describe(where / "closed" / name) for name in ("d", "f")])
    assert told[0] == told[1]
