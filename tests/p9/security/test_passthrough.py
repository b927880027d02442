"""The model passthrough: a client must come to the very same as its user comes to on the host.

So little is written down here: each deed is done by the user in a directory on the host, and by the client in one that
is just the same, and what came of it, and both directories, must not differ.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any, Final

import pytest

from fusemap.errors import Refused
from fusemap.p9 import messages as m
from fusemap.p9.wire import Dialect
from fusemap.qid import Mapper
from fusemap.tree import Tree

from ...support.describe import describe, describe_tree
from ...support.house import differences, outcome
from ...support.process import ALICE, BOB, MEMBER, ROOT, TEAM, User, call_as
from ..inside import (
    MODELS,
    NOTHING_CHANGED,
    SET_MODE,
    SET_UID,
    Inside,
    exported,
    refused,
)
from .deeds import ACL_DEFAULT, DEEDS, INHERITED, INHERITS, SCENES, furnish
from .hands import ByClient, OnHost, owner_of_new
from .users import NOBODY, OTHER_TEAM, STRANGER

pytestmark = pytest.mark.usefixtures("known")

_WHO: Final = {ALICE: [*SCENES], MEMBER: [*SCENES], BOB: ["open", "sticky", "alice's"], ROOT: ["open", "sticky"]}
_ON_EXT4: Final = [("ext4", user, scene) for user, scenes in _WHO.items() for scene in scenes]
_ELSEWHERE: Final = [(kind, user, scene) for kind in ("xfs", "tmpfs") for user in (ALICE, MEMBER) for scene in INHERITS]


@pytest.mark.parametrize(("source", "user", "scene"), _ON_EXT4 + _ELSEWHERE, indirect=["source"], ids=str)
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


def test_the_root_itself(source: Path) -> None:
    """It is not found by a look-up as all else is, but it is opened and changed on the same rights."""
    (source / "file").write_text("")
    with exported(source, "passthrough") as export, Inside(export, ALICE.uid) as client:
        for mode, allowed in ((0o755, True), (0o744, True), (0o711, False)):
            source.chmod(mode)
            for _ in range(2):
                if allowed:
                    assert set(client.entries()) == {b".", b"..", b"file"}
                else:
                    with refused(errno.EACCES):
                        client.entries()
        with refused(errno.EPERM):
            client.setattr("", SET_MODE, mode=0o777)
        with refused(errno.EPERM):
            client.setattr("", SET_UID, uid=ALICE.uid)
        with refused(errno.EACCES):
            client.make("new")


def test_an_attach_by_passthrough_needs_the_right_to_go_there(source: Path) -> None:
    (source / "alice's" / "below").mkdir(parents=True)
    os.chown(source / "alice's", ALICE.uid, ALICE.gid)
    (source / "alice's").chmod(0o700)
    with exported(source, "passthrough") as export, Inside(export, attach=False) as client:
        for uid in (ALICE.uid, 0):
            client.attach(uid, b"alice's/below")
        with refused(errno.EACCES):
            client.attach(BOB.uid, b"alice's/below")


@pytest.mark.parametrize("dialect", [Dialect.UNIX, Dialect.BASE], ids=lambda dialect: dialect.value.decode())
def test_names_alone_where_a_directory_may_only_be_read(source: Path, dialect: Dialect) -> None:
    """A directory of 9P2000 is made of whole stat records; of files that a user may not reach they say nothing."""
    furnish(source)
    source.chmod(0o744)
    with exported(source, "passthrough") as export:
        with Inside(export, ALICE.uid, dialect) as client:
            records = client.records()
            assert set(records) == {os.fsencode(name) for name in os.listdir(source)}
            for name, record in records.items():
                known = (record.mode & 0x7FFFFFFF, record.length, record.mtime, record.extension.replace(b"0", b""))
                assert known == (0, 0, 0, known[3])
                assert known[3] in (b"", b"HARDLINKCOUNT ")
                assert bool(record.mode >> 31) == (name in (b"d", b"empty"))
        with Inside(export, 0, dialect) as client:
            assert client.records()[b"script"].length == len("content of script")


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


@pytest.mark.parametrize("dialect", [Dialect.UNIX, Dialect.BASE], ids=lambda dialect: dialect.value.decode())
def test_the_other_dialects_go_by_the_same_rights(source: Path, dialect: Dialect) -> None:
    furnish(source)
    (source / "closed").mkdir(0o700)
    (source / "his").mkdir()
    os.chown(source / "his", ALICE.uid, ALICE.gid)
    before = describe_tree(source)
    with exported(source, "passthrough") as export, Inside(export, ALICE.uid, dialect) as client:
        with refused(errno.EACCES):
            client.walk("closed/x")
        for path, mode in (("ours", 0), ("other", 1), ("other", 0x10), ("ours", 0x12)):
            with refused(errno.EACCES):
                client.ask(m.Topen(client.walk(path), mode))
        for perm in (0o644, 0x80000000 | 0o755):
            with refused(errno.EACCES):
                client.ask(m.Tcreate(client.walk(), b"new", perm, 0, b""))
        for change in ({"mode": 0o666}, {"mtime": 1}, {"gid": b"team"}):
            with refused(errno.EPERM):
                client.ask(m.Twstat(client.walk("other"), NOTHING_CHANGED._replace(**change)))
        with refused(errno.EPERM):
            client.ask(m.Twstat(client.walk("file"), NOTHING_CHANGED._replace(gid=b"team")))
        with refused(errno.EACCES):
            client.ask(m.Twstat(client.walk("other"), NOTHING_CHANGED._replace(length=1)))
        with refused(errno.EACCES):
            client.ask(m.Twstat(client.walk("file"), NOTHING_CHANGED._replace(name=b"renamed")))
        with refused(errno.EACCES):
            client.remove("file")
        fid = client.walk("file")
        client.ask(m.Topen(fid, 0x40))  # to be removed at clunk, which he may not
        with refused(errno.EACCES):
            client.clunk(fid)
        if dialect is Dialect.UNIX:
            with refused(errno.EPERM):
                client.ask(m.Twstat(client.walk("file"), NOTHING_CHANGED._replace(n_uid=BOB.uid)))
            with refused(errno.EPERM):
                client.ask(m.Tcreate(client.walk("his"), b"null", 0x00800000 | 0o666, 0, b"c 1 3"))
        assert describe_tree(source) == before
        made = client.walk("his")
        client.ask(m.Tcreate(made, b"unreadable", 0x80000000 | 0o300, 0, b""))  # open, whatever its mode
        assert client.read(made) == b""
        assert stat.S_IMODE((source / "his" / "unreadable").stat().st_mode) == 0o300
