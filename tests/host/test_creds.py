"""Acting as a caller for one call, and being oneself again afterwards."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from fusemap.host.creds import Caller, Identity, standing

from ..support import needs
from ..support.process import ALICE, MEMBER, TEAM, Child, User
from ..support.stage import Stage


@pytest.fixture
def place(stage: Stage) -> Path:
    """A directory on a tmpfs that everybody may write to."""
    needs.root()
    path = stage.tmpfs("t")
    path.chmod(0o777)
    return path


def ids(kind: str) -> list[str]:
    """A line of this thread's status."""
    with open(f"/proc/self/task/{threading.get_native_id()}/status") as file:
        return next(line.split()[1:] for line in file if line.startswith(kind))


class Process:
    """A process of some user, for the server to ask /proc about."""

    def __init__(self, user: User) -> None:
        reader, self._writer = os.pipe()

        def wait() -> None:
            os.close(self._writer)
            os.read(reader, 1)

        ready_reader, ready_writer = os.pipe()

        def work() -> None:
            os.write(ready_writer, b"x")
            wait()

        self._child = Child(work, user)
        os.close(reader)
        os.read(ready_reader, 1)
        os.close(ready_reader)
        os.close(ready_writer)
        self.pid = self._child.pid

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._writer)
        self._child.result()


def test_a_file_belongs_to_the_caller(place: Path) -> None:
    identity = Identity()
    with identity.of(Caller(61001, 61002, 0, 0o027)):
        os.mkdir(place / "d", 0o777)
    os.mkdir(place / "own", 0o755)
    made, own = os.stat(place / "d"), os.stat(place / "own")
    assert (made.st_uid, made.st_gid, oct(made.st_mode)) == (61001, 61002, oct(0o40750))
    assert (own.st_uid, own.st_gid, oct(own.st_mode)) == (os.geteuid(), os.getegid(), oct(0o40755))


def test_supplementary_groups_are_those_of_the_callers_thread(place: Path) -> None:
    (place / "team").mkdir()
    os.chown(place / "team", 0, TEAM)
    (place / "team").chmod(0o770)
    identity = Identity()
    with Process(MEMBER) as member, Process(ALICE) as alice:
        assert standing(member.pid).groups == sorted(MEMBER.groups)
        assert standing(alice.pid).groups == []
        with identity.of(Caller(MEMBER.uid, MEMBER.gid, member.pid)):
            os.mkdir(place / "team" / "members")
        with pytest.raises(PermissionError), identity.of(Caller(ALICE.uid, ALICE.gid, alice.pid)):
            os.mkdir(place / "team" / "alices")
    assert os.listdir(place / "team") == ["members"]


def test_everything_is_as_before_afterwards_also_after_an_error(place: Path) -> None:
    identity = Identity()
    lines = ("Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:", "Umask:")
    before = [ids(kind) for kind in lines]
    with Process(MEMBER) as member:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), identity.of(Caller(MEMBER.uid, MEMBER.gid, member.pid, 0o777)):
                assert ids("Uid:")[3] == str(MEMBER.uid)
                assert ids("Groups:") == [str(group) for group in sorted(MEMBER.groups)]
                raise ZeroDivisionError
            assert [ids(kind) for kind in lines] == before
            with identity.writing(identity.account(Caller(MEMBER.uid, MEMBER.gid, member.pid), 0o106755)):
                assert ids("Uid:")[3] == str(MEMBER.uid)
            assert [ids(kind) for kind in lines] == before


def test_other_threads_stay_who_they_are(place: Path) -> None:
    identity = Identity()
    inside, done = threading.Event(), threading.Event()
    found = []

    def other() -> None:
        inside.wait(20)
        found.append(ids("Uid:")[3])
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with identity.of(Caller(61001, 61001)):
        inside.set()
        assert done.wait(20)
        assert ids("Uid:")[3] == "61001"
    thread.join()
    assert found == ["0"]


def test_a_caller_that_is_gone_has_no_groups() -> None:
    child = Child(lambda: None)
    pid = child.pid
    child.result()
    assert standing(pid) == standing(0) == standing(-1) == ([], 0)


def test_a_writer_does_not_get_what_is_reserved_for_the_server(place: Path) -> None:
    identity = Identity()
    with identity.writing(identity.account(Caller(ALICE.uid, ALICE.gid, os.getpid()), 0o100644)):
        assert ids("Uid:")[3] == str(ALICE.uid)
        effective = int(ids("CapEff:")[0], 16)
        assert not effective >> 24 & 1, "CAP_SYS_RESOURCE"
        assert not effective & 0b11111, "CAP_CHOWN to CAP_FSETID"


def test_an_ordinary_users_server_switches_nothing() -> None:
    needs.root()

    def work() -> tuple[bool, int]:
        identity = Identity()
        with identity.of(Caller(0, 0, 0, 0o022)):
            return identity.can_switch, int(ids("Uid:")[3])

    assert Child(work, ALICE).result() == (False, ALICE.uid)
