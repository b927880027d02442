"""What happens in a day: everybody works at once, a server goes away and comes back, a guest is killed."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..conftest import TEST_SECONDS
from ..p9.client import Client
from ..p9.conftest import build
from ..p9.served import ENDING, Process, Served
from ..support.stage import Stage
from .conftest import populate
from .machine import Guest, Image
from .test_numbers import CLIENT_ADDS, scan

ROUNDS = 20


@pytest.fixture
def tree(stage: Stage) -> Path:
    """Four file systems with files."""
    top = build(stage)
    for part in (".", "subvol-a", "subvol-b", "tmpfs"):
        populate(top / part)
    return top


def statistics(server: Process) -> dict[str, Any]:
    """What the server says of itself, while a client asks."""
    with Client(server.address) as client:
        client.attach(b"ctl")
        told: dict[str, Any] = json.loads(client.read_all(client.open(client.root, "stats.json")))
    return told


def at_once(*works: Callable[[], None]) -> None:
    """Does all of them, each in a thread; raises what the first of them raised that failed."""
    failures: list[BaseException] = []

    def careful(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=careful, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def churn(top: Path) -> None:
    """Makes, moves, links and removes files; in the end there are `ROUNDS` of them."""
    for n in range(ROUNDS):
        (top / "new").write_text(str(n))
        (top / "new").rename(top / f"file{n}")
        os.link(top / f"file{n}", top / "linked")
        assert (top / "linked").stat().st_ino == (top / f"file{n}").stat().st_ino
        (top / "linked").unlink()
        (top / "d").mkdir()
        (top / "d").rmdir()


def test_two_guests_and_a_mount_at_once(guests: tuple[Guest, Guest], tree: Path, stage: Stage) -> None:
    def work(guest: Guest) -> None:
        *broken, last = guest.json("contract", f"/mnt/{guest.name}", "9p2000.L", "none", timeout=TEST_SECONDS)
        assert (broken, last["tried"] > 250) == ([], True)

    mounted = stage.fusemap(tree)
    with Served(tree, stage.path) as server:
        for guest in guests:
            (tree / guest.name).mkdir()
            guest.mount(server.address, cache="none")
        (tree / "tmpfs" / "host").mkdir()
        try:
            one, two = guests
            at_once(lambda: work(one), lambda: work(two), lambda: churn(mounted / "tmpfs" / "host"))
            assert sorted(os.listdir(tree / "tmpfs" / "host")) == sorted(f"file{n}" for n in range(ROUNDS))
        finally:
            for guest in guests:
                guest.unmount()
        first, second = (scan(guest, server.address) for guest in guests)
    assert first == second
    del first[""]  # to FUSE, the root of a mount is number 1
    assert {path: line["ino"] - CLIENT_ADDS for path, line in first.items()} == {
        path: os.lstat(mounted / path).st_ino for path in first
    }


def test_a_server_goes_away_and_comes_back(guests: tuple[Guest, Guest], tree: Path, stage: Stage) -> None:
    guest, table = guests[0], f"sqlite:{stage.path}/table"
    with Served(tree, stage.path, "--state", table) as server:
        before = scan(guest, server.address, aname="subvol-b") | scan(guest, server.address)
        guest.mount(server.address)
        guest.sh("exec 3> /mnt/tmpfs/written 4< /mnt/file0; cd /mnt/below; sleep 1000 &")
    # Linux's client does not connect again: what is mounted gives errors, at once, and can be unmounted
    for broken in ("cat /mnt/file1", "echo > /mnt/new", "ls /mnt/below", "stat /mnt/fifo"):
        assert guest.attempt(broken)[0] != 0
    guest.sh("killall sleep")
    guest.unmount()
    (tree / "new").write_text("made while nobody served")
    with Served(tree, stage.path, "--state", table) as server:
        after = scan(guest, server.address)
    assert after.keys() - before.keys() == {"new", "tmpfs/written"}
    assert after["new"]["ino"] not in {line["ino"] for line in before.values()}
    assert {path: after[path]["ino"] for path in before} == {path: line["ino"] for path, line in before.items()}


def test_a_killed_guest_leaves_nothing(image: Image, guests: tuple[Guest, Guest], tree: Path, stage: Stage) -> None:
    other = guests[0]
    with Served(tree, stage.path) as server, Guest(image, stage.path, "victim") as guest:
        other.mount(server.address)
        try:
            idle = statistics(server)
            guest.up().mount(server.address)
            guest.sh(
                "cd /mnt/tmpfs; head -c 100000 /dev/zero > half; head -c 1000000 /dev/zero > unlinked\n"
                "exec 3>> unlinked 4< file0; cd below; sleep 1000 & rm ../unlinked"
            )
            assert json.loads(guest.sh("guest lock fcntl /mnt/file0 hold"))["got"]
            used = statistics(server)
            assert used["clients"] == idle["clients"] + 1
            assert used["fids"] > idle["fids"]
            with open(tree / "file0", "r+") as file:
                with pytest.raises(BlockingIOError):
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                guest.kill()
                fcntl.lockf(file, fcntl.LOCK_EX)
            end = time.monotonic() + ENDING
            while (now := statistics(server))["fids"] != idle["fids"] and time.monotonic() < end:
                pass
            assert (now["fids"], now["clients"]) == (idle["fids"], idle["clients"])
            assert (tree / "tmpfs" / "half").stat().st_size == 100_000
            assert other.sh("echo still there > /mnt/tmpfs/half; cat /mnt/tmpfs/half") == "still there\n"
        finally:
            other.unmount()
