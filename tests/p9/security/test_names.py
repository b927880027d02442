"""Attacks by names and links, each named after where it worked once: by the CVE, or the project that had to mend it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

import pytest

from fusemap.p9 import messages as m
from fusemap.p9.wire import Dialect

from ...support.describe import describe_tree
from ..inside import (
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
from .ground import NOT_NAMES, SECRET, Ground, dialects, models, names_of


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
