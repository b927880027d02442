"""Attacks by a client and somebody on the host together, who changes the tree while the client goes through it.

Each runs until both have been met often enough: what is right, and what was put in its place.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fusemap.host.calls import RENAME_EXCHANGE, Calls
from fusemap.p9 import messages as m

from ...support.process import ALICE, Child, call_as
from ..inside import (
    AT_REMOVEDIR,
    O_RDWR,
    SET_ATIME,
    SET_MODE,
    SET_MTIME,
    SET_SIZE,
    SET_UID,
    Inside,
    exported,
    refused,
)
from .ground import SECRET, Ground, models

RACES: Final = 600  # tries, and how often each of the two must have been met
RACED: Final = 40
RACE_SECONDS: Final = 40.0


def swap_for_ever(directory: Path, one: str, two: str) -> None:
    """Exchanges two names until it is killed."""
    calls, fd = Calls(), os.open(directory, os.O_PATH)
    while True:
        calls.rename(fd, os.fsencode(one), fd, os.fsencode(two), RENAME_EXCHANGE)


def run_race(
    ground: Ground, model: str, swapped: tuple[str, str], tries: list[Callable[[Inside], None]], *losing: int
) -> None:
    """Each try again and again while a process of the host swaps two names of the tree.

    A try raises AssertionError when it got what it must not get. Both must have been met often: the right file, and
    what was swapped in, which ends with one of the errors `losing`.
    """
    child = Child(lambda: swap_for_ever(ground.tree, *swapped))
    outcomes: Counter[int] = Counter()  # by errno, 0 for what went well

    def enough() -> bool:
        return outcomes.total() > RACES and outcomes[0] > RACED and sum(outcomes[one] for one in losing) > RACED

    try:
        with exported(ground.tree, model) as export, Inside(export) as client:
            end = time.monotonic() + RACE_SECONDS
            while not enough() and time.monotonic() < end:
                for attempt in tries:
                    try:
                        attempt(client)
                        outcomes[0] += 1
                    except OSError as error:
                        assert error.errno is not None
                        outcomes[error.errno] += 1
                for fid in [fid for fid in client.session.fids if fid != client.root]:
                    client.clunk(fid)
    finally:
        child.kill()
    assert enough(), f"it was not raced: {outcomes}"


@models
def test_a_directory_that_becomes_a_link(disk_ground: Ground, model: str) -> None:
    """CVE-2016-9602 and Samba's CVE-2017-2619: a link swapped in between the check and the use."""
    ground = disk_ground
    (ground.tree / "link").symlink_to(ground.secrets)

    def read(client: Inside) -> None:
        assert client.content("dir/file") == b"dir's file"

    def make(client: Inside) -> None:
        client.make("dir/new", b"x")
        client.remove("dir/new")

    def rename(client: Inside) -> None:
        directory = client.walk("dir")
        client.ask(m.Trenameat(directory, b"file", directory, b"moved"))
        client.ask(m.Trenameat(directory, b"moved", directory, b"file"))

    def change(client: Inside) -> None:
        client.setattr("dir/file", SET_MODE | SET_MTIME | SET_ATIME | SET_UID, mode=0o600, uid=0)
        client.set_xattr("dir/file", b"user.x", b"y")

    def unlink(client: Inside) -> None:
        client.ask(m.Tunlinkat(client.walk("dir"), b"nothing", 0))

    def directory(client: Inside) -> None:
        client.ask(m.Tmkdir(client.walk("dir"), b"made", 0o755, 0))
        client.ask(m.Tunlinkat(client.walk("dir"), b"made", AT_REMOVEDIR))

    def attach(client: Inside) -> None:
        fid = client.attach(0, b"dir")
        assert client.walk("file", fid)

    run_race(ground, model, ("dir", "link"), [read, make, rename, change, unlink, directory, attach], errno.ENOTDIR)


@models
def test_a_file_that_becomes_a_link(disk_ground: Ground, model: str) -> None:
    """CVE-2016-9602 and CVE-2023-2861: the last component swapped for a link while it is opened, made or changed."""
    ground = disk_ground
    (ground.tree / "link").symlink_to("../secrets/file")

    def read(client: Inside) -> None:
        assert client.content("file") == b"a file"

    def change(client: Inside) -> None:
        client.setattr("file", SET_MTIME | SET_UID, uid=0)

    def mode(client: Inside) -> None:
        client.setattr("file", SET_MODE, mode=0o644)

    def create(client: Inside) -> None:
        fid = client.create("file", O_RDWR)
        assert client.read(fid) == b"a file"
        client.write(fid, b"a file")

    def truncate(client: Inside) -> None:
        client.setattr("file", SET_SIZE, size=6)

    def attribute(client: Inside) -> None:
        client.set_xattr("file", b"user.x", b"y")

    def link(client: Inside) -> None:
        client.ask(m.Tlink(client.root, client.walk("file"), b"other"))
        client.remove("other")

    run_race(ground, model, ("file", "link"), [read, change, mode, create, truncate, attribute, link], errno.ELOOP)


@models
def test_a_file_that_becomes_a_fifo(disk_ground: Ground, model: str) -> None:
    """CVE-2023-2861: looked at as a file, opened as a fifo, and the server hangs."""
    ground = disk_ground
    os.mkfifo(ground.tree / "fifo")

    def read(client: Inside) -> None:
        assert client.content("file") == b"a file"

    def create(client: Inside) -> None:
        assert client.read(client.create("file", O_RDWR)) == b"a file"

    run_race(ground, model, ("file", "fifo"), [read, create], errno.ENXIO)


def test_races_with_a_server_that_is_not_root(disk_ground: Ground) -> None:
    """It may not open by handle, so it goes down by names, again and again: here too none may be a link."""
    ground = disk_ground
    for name in ("link", "filelink"):
        (ground.tree / name).symlink_to(ground.secrets if name == "link" else "../secrets/file")
    for path in (ground.tree, *ground.tree.rglob("*")):
        os.chown(path, ALICE.uid, ALICE.gid, follow_symlinks=False)

    def read(client: Inside) -> None:
        assert client.content("dir/file") == b"dir's file"

    def later(client: Inside) -> None:
        directory = client.walk("dir")
        file = client.walk("file", directory)
        client.open_fid(file, O_RDWR)
        assert client.read(file) == b"dir's file"

    def change(client: Inside) -> None:
        client.make("dir/new", b"x")
        client.setattr("dir/new", SET_MODE, mode=0o600)
        client.ask(m.Trenameat(client.walk("dir"), b"new", client.walk("dir"), b"newer"))
        client.remove("dir/newer")

    def file(client: Inside) -> None:
        fid = client.create("file", O_RDWR)
        assert client.read(fid) == b"a file"

    def attributes(client: Inside) -> None:
        client.setattr("file", SET_MTIME)
        client.set_xattr("file", b"user.x", b"y")

    call_as(ALICE, lambda: run_race(ground, "none", ("dir", "link"), [read, later, change], errno.ENOTDIR))
    call_as(ALICE, lambda: run_race(ground, "none", ("file", "filelink"), [file, attributes], errno.ELOOP))


@models
def test_a_directory_that_moves_while_it_is_climbed(disk_ground: Ground, model: str) -> None:
    """".." from a directory that goes out of the tree and comes back all the time."""
    ground = disk_ground
    elsewhere = ground.tree.parent / "elsewhere"
    elsewhere.mkdir()
    for name in ("around", "file"):
        (elsewhere / name).write_bytes(SECRET)

    def move_for_ever() -> None:
        while True:
            os.rename(ground.tree / "dir" / "sub", elsewhere / "sub")
            os.rename(elsewhere / "sub", ground.tree / "dir" / "sub")

    child = Child(move_for_ever)
    outcomes: Counter[int] = Counter()
    end = time.monotonic() + RACE_SECONDS
    try:
        with exported(ground.tree, model) as export, Inside(export) as client:
            sub, fid = 0, 0
            while min(outcomes[0], outcomes[errno.ESTALE]) < RACED and time.monotonic() < end:
                try:
                    sub = sub or client.walk("dir/sub")
                    fid = client.walk_names((b"..", b"file"), sub)
                    client.open_fid(fid)
                    assert client.read(fid) == b"dir's file"
                    outcomes[0] += 1
                except OSError as error:
                    outcomes[error.errno or 0] += 1
                with refused(errno.ENOENT, errno.ESTALE):
                    client.walk_names((b"..", b"around"), sub or client.root)
                for fid in [fid for fid in client.session.fids if fid not in (client.root, sub)]:
                    client.clunk(fid)
    finally:
        child.kill()
    assert min(outcomes[0], outcomes[errno.ESTALE]) >= RACED, f"it was not raced: {outcomes}"
    assert sorted(path.name for path in elsewhere.iterdir() if path.name != "sub") == ["around", "file"]
