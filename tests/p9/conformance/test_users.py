"""What a user may do who is not root: the numeric user of Tattach counts, as Linux's client sends it with access=user.

The host's own rules apply (path_resolution(7), chmod(2), chown(2), unlink(2)). A server that acts with more rights
than its client has must not lend them: so set-user-id bits go when somebody else writes (CVE-2023-1386 was that they
stayed).
"""

from __future__ import annotations

import os
import stat

import pytest

from fusemap.p9.messages import (
    NOFID,
    Rlerror,
    Tattach,
    Tclunk,
    Tlcreate,
    Tlopen,
    Tmkdir,
    Tsetattr,
    Tunlinkat,
    Twalk,
    Twrite,
    Txattrcreate,
)

from ..client import Client
from .numbers import (
    EACCES,
    EOPNOTSUPP,
    EPERM,
    O_CREAT,
    O_EXCL,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    QT_DIR,
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_SET,
    SET_SIZE,
    SET_UID,
)
from .place import Place

ALICE = 61001


class As:
    """The place as user 61001 of group 61001 sees it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.client: Client = place.closing(place.target.connect(place.dialect))
        for aname in (b"", os.fsencode(place.target.export)):
            self.top = self.client.new_fid()
            answer = self.client.ask(Tattach(self.top, NOFID, b"alice", aname, ALICE))
            if not isinstance(answer, Rlerror):
                return
        pytest.skip("the server does not let this user attach")

    def walk(self, *names: str) -> int:
        return self.client.walk(self.top, *self.place.steps, *names)


@pytest.fixture
def alice(place: Place) -> As:
    return As(place)


def owned(place: Place, name: str, mode: int, owner: int = 0) -> None:
    """A file with this owner and mode."""
    path = place.file(name, b"content")
    os.chown(path, owner, owner)
    path.chmod(mode)


def attributes(fid: int, valid: int, mode: int = 0, uid: int = 0, gid: int = 0, size: int = 0) -> Tsetattr:
    return Tsetattr(fid, valid, mode, uid, gid, size, 5, 0, 5, 0)


@pytest.mark.parametrize(
    ("mode", "owner", "reads", "writes"),
    [
        (0o600, 0, 0, 0), (0o644, 0, 1, 0), (0o666, 0, 1, 1),
        (0o602, 0, 0, 1), (0o600, ALICE, 1, 1), (0o066, ALICE, 0, 0),
    ],
)  # fmt: skip
def test_permission_to_open(alice: As, mode: int, owner: int, reads: int, writes: int) -> None:
    owned(alice.place, "f", mode, owner)
    for flags, allowed in ((O_RDONLY, reads), (O_WRONLY, writes), (O_RDWR, reads and writes)):
        fid = alice.walk("f")
        if allowed:
            alice.client.call(Tlopen(fid, flags))
        else:
            alice.client.fails(Tlopen(fid, flags), EACCES)


def test_permission_to_search(alice: As) -> None:
    (alice.place / "d" / "inner").mkdir(parents=True)
    (alice.place / "d").chmod(0o700)
    fid = alice.walk("d")
    alice.client.fails(Twalk(fid, alice.client.new_fid(), (b"inner",)), EACCES)
    alice.client.fails(Tlopen(fid, O_RDONLY), EACCES)


def test_permission_to_make(alice: As) -> None:
    alice.client.fails(Tmkdir(alice.walk(), b"new", 0o755, ALICE), EACCES)
    alice.client.fails(Tlcreate(alice.walk(), b"new", O_RDWR | O_CREAT | O_EXCL, 0o644, ALICE), EACCES)
    assert os.listdir(alice.place.host) == []


def test_what_is_new_is_the_users(alice: As) -> None:
    alice.place.host.chmod(0o777)
    alice.client.call(Tmkdir(alice.walk(), b"d", 0o755, ALICE))
    alice.client.call(Tlcreate(alice.walk(), b"f", O_RDWR | O_CREAT | O_EXCL, 0o644, ALICE))
    for name in ("d", "f"):
        told = alice.client.getattr(alice.walk(name))
        assert (told.uid, told.gid) == (ALICE, ALICE)


def test_only_the_owner_changes_mode_and_times(alice: As) -> None:
    owned(alice.place, "f", 0o666)
    before = os.lstat(alice.place / "f")
    fid = alice.walk("f")
    alice.client.fails(attributes(fid, SET_MODE, mode=0o600), EPERM)
    alice.client.fails(attributes(fid, SET_MTIME | SET_MTIME_SET), EPERM)
    alice.client.fails(attributes(fid, SET_UID, uid=ALICE), EPERM)
    alice.client.fails(attributes(fid, SET_GID, gid=ALICE), EPERM)
    assert os.lstat(alice.place / "f") == before
    alice.client.call(attributes(fid, SET_ATIME | SET_MTIME))  # "now" needs permission to write alone
    alice.client.call(attributes(fid, SET_SIZE, size=3))
    assert (alice.place / "f").read_bytes() == b"con"


def test_the_owner_changes_them(alice: As) -> None:
    owned(alice.place, "f", 0o600, ALICE)
    fid = alice.walk("f")
    alice.client.call(attributes(fid, SET_MODE | SET_MTIME | SET_MTIME_SET, mode=0o640))
    st = os.lstat(alice.place / "f")
    assert (stat.S_IMODE(st.st_mode), st.st_mtime) == (0o640, 5)
    alice.client.fails(attributes(fid, SET_UID, uid=0), EPERM)
    alice.client.fails(attributes(fid, SET_GID, gid=0), EPERM)


def test_size_needs_permission_to_write(alice: As) -> None:
    owned(alice.place, "f", 0o644)
    alice.client.fails(attributes(alice.walk("f"), SET_SIZE, size=3), EACCES)
    assert (alice.place / "f").read_bytes() == b"content"


@pytest.mark.parametrize("way", ["write", "size"])
def test_set_user_id_goes_when_somebody_else_writes(alice: As, way: str) -> None:
    owned(alice.place, "f", 0o6777)
    fid = alice.walk("f")
    if way == "write":
        alice.client.call(Tlopen(fid, O_WRONLY))
        alice.client.write(fid, b"CON")
    else:
        alice.client.call(attributes(fid, SET_SIZE, size=3))
    assert stat.S_IMODE(os.lstat(alice.place / "f").st_mode) == 0o777


def test_a_sticky_directory(alice: As) -> None:
    alice.place.host.chmod(0o1777)
    owned(alice.place, "theirs", 0o666)
    owned(alice.place, "mine", 0o600, ALICE)
    alice.client.fails(Tunlinkat(alice.walk(), b"theirs", 0), EPERM, EACCES, EOPNOTSUPP)
    answer = alice.client.ask(Tunlinkat(alice.walk(), b"mine", 0))
    assert not isinstance(answer, Rlerror) or answer.ecode == EOPNOTSUPP
    assert (alice.place / "theirs").exists()


def test_two_users_of_one_connection(alice: As) -> None:
    """As Linux does with access=user: one connection, an attach for each user."""
    owned(alice.place, "secret", 0o600)
    root = alice.place.target.attach(alice.client)
    fid = alice.client.walk(root, *alice.place.steps, "secret")
    alice.client.call(Tlopen(fid, O_RDONLY))
    assert alice.client.read(fid) == b"content"
    alice.client.fails(Tlopen(alice.walk("secret"), O_RDONLY), EACCES)
    other = alice.client.walk(root, *alice.place.steps, "secret")
    alice.client.call(Tlopen(other, O_RDONLY))


def test_what_was_opened_stays_open(alice: As) -> None:
    owned(alice.place, "f", 0o644)
    fid = alice.walk("f")
    alice.client.call(Tlopen(fid, O_RDONLY))
    (alice.place / "f").chmod(0o600)
    assert alice.client.read(fid) == b"content"


@pytest.mark.parametrize("way", ["write", "size"])
def test_set_user_id_goes_as_the_client_sees_it(alice: As, way: str) -> None:
    """For a server that keeps modes of its own: what getattr tells is what counts."""
    owned(alice.place, "f", 0o6777)
    fid = alice.walk("f")
    if way == "write":
        alice.client.call(Tlopen(fid, O_WRONLY))
        alice.client.write(fid, b"CON")
    else:
        alice.client.call(attributes(fid, SET_SIZE, size=3))
    assert alice.client.getattr(fid).mode & 0o7777 == 0o777


def set_attribute(alice: As, name: bytes, data: bytes) -> bool:
    """Whether the user could set an extended attribute of "f"."""
    fid = alice.walk("f")
    answer = alice.client.ask(Txattrcreate(fid, name, len(data), 0))
    if not isinstance(answer, Rlerror):
        answer = alice.client.ask(Twrite(fid, 0, data))
    end = alice.client.ask(Tclunk(fid))
    return not isinstance(answer, Rlerror) and not isinstance(end, Rlerror)


@pytest.mark.parametrize("name", [b"security.capability", b"trusted.mine"])
def test_attributes_that_only_root_may_set(alice: As, name: bytes) -> None:
    """A capability on a program of one's own would make its user root on the host."""
    owned(alice.place, "f", 0o700, ALICE)
    before = os.listxattr(alice.place / "f")
    assert not set_attribute(alice, name, bytes.fromhex("0100000200200000000000000000000000000000"))
    assert os.listxattr(alice.place / "f") == before


def test_attributes_need_permission_to_write(alice: As) -> None:
    owned(alice.place, "f", 0o644)
    assert not set_attribute(alice, b"user.mine", b"value")
    assert "user.mine" not in os.listxattr(alice.place / "f")


def test_the_root_is_listed(alice: As) -> None:
    names = [entry.name for entry in alice.client.list(alice.client.open(alice.top))]
    assert os.fsencode(alice.place.steps[0]) in names


def test_permission_to_list(alice: As) -> None:
    (alice.place / "d" / "inner").mkdir(parents=True)
    (alice.place / "d").chmod(0o711)
    alice.client.fails(Tlopen(alice.walk("d"), O_RDONLY), EACCES)
    assert alice.client.qid(alice.walk("d", "inner")).type == QT_DIR


def test_a_link_target_needs_permission_to_search(alice: As) -> None:
    (alice.place / "d").mkdir()
    os.symlink("secret", alice.place / "d" / "l")
    (alice.place / "d").chmod(0o700)
    alice.client.fails(Twalk(alice.walk("d"), alice.client.new_fid(), (b"l",)), EACCES)


def test_a_group_that_the_user_is_not_in(alice: As) -> None:
    """chown(2): an owner may give a file to his own groups alone."""
    owned(alice.place, "f", 0o644, ALICE)
    alice.client.fails(attributes(alice.walk("f"), SET_GID, gid=0), EPERM)
    assert os.lstat(alice.place / "f").st_gid == ALICE
