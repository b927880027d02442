"""Two guests and the host on one tree: locks, and what a guest that caches knows of changes made elsewhere."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import TEST_SECONDS
from ..p9.client import Client
from ..p9.served import Process, Served
from ..support.stage import Stage
from .machine import Guest

RECORD, WHOLE = "fcntl", "flock"
LINES = 50


@pytest.fixture
def tree(stage: Stage) -> Path:
    """An ext4 with the file "f"."""
    top = stage.ext4("export")
    (top / "f").write_text("first")
    return top


@pytest.fixture
def mounted(guests: tuple[Guest, Guest], tree: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Guest, Guest]]:
    """Both guests, with the tree at /mnt; a parameter is the mode of caching."""
    with Served(tree, tree.parent) as server:
        for guest in guests:
            guest.mount(server.address, cache=getattr(request, "param", "none"))
        try:
            yield guests
        finally:
            for guest in guests:
                guest.unmount()


def locked(guest: Guest, kind: str, how: str) -> Any:
    """The answer of the guest's program lock; an error other than that the lock is taken fails the test."""
    (answer,) = guest.json("lock", kind, "/mnt/f", how)
    assert answer["error"] == 0, answer
    return answer


@pytest.mark.parametrize("kind", [RECORD, WHOLE])
def test_locks_between_guests(mounted: tuple[Guest, Guest], kind: str) -> None:
    one, two = mounted
    holder = locked(one, kind, "hold")
    assert holder["got"]
    assert not locked(two, kind, "try")["got"]
    waited: list[Any] = []
    waiting = threading.Thread(target=lambda: waited.append(locked(two, kind, "wait")))
    waiting.start()
    one.sh(f"kill {holder['pid']}")
    waiting.join(TEST_SECONDS)
    assert waited[0]["got"]
    assert locked(one, kind, "try")["got"]


def test_locks_between_guest_and_host(mounted: tuple[Guest, Guest], tree: Path) -> None:
    one, _ = mounted
    with open(tree / "f", "r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not locked(one, RECORD, "try")["got"]
        assert not locked(one, RECORD, "ask")["got"]
        fcntl.lockf(file, fcntl.LOCK_UN)
        assert locked(one, RECORD, "ask")["got"]
        holder = locked(one, RECORD, "hold")
        assert holder["got"]
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        one.sh(f"kill {holder['pid']}")
        fcntl.lockf(file, fcntl.LOCK_EX)


@pytest.mark.parametrize("how", ["fcntl", "flock"])
def test_a_guest_that_locks_whole_files(mounted: tuple[Guest, Guest], tree: Path, how: str) -> None:
    """What flock(2) of a guest is to its host: a record lock of the whole file, which no flock(2) of the host meets."""
    one, two = mounted
    holder = locked(one, how, "hold")
    for kind in (RECORD, WHOLE):
        assert not locked(two, kind, "try")["got"]
    with open(tree / "f", "r+") as file:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        one.sh(f"kill {holder['pid']}")
        fcntl.lockf(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_UN)
        assert locked(one, how, "try")["got"]


def test_appending_from_two_guests(mounted: tuple[Guest, Guest], tree: Path) -> None:
    def append(guest: Guest) -> None:
        guest.sh(f"for n in $(seq {LINES}); do echo {guest.name} $n >> /mnt/log; done")

    threads = [threading.Thread(target=append, args=(guest,)) for guest in mounted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tree / "log").read_text().splitlines()
    for guest in mounted:
        own = [f"{guest.name} {n + 1}" for n in range(LINES)]
        assert [line for line in lines if line.startswith(guest.name)] == own
    assert len(lines) == 2 * LINES


def test_what_one_guest_does_the_other_sees(mounted: tuple[Guest, Guest]) -> None:
    one, two = mounted
    one.sh("mkdir /mnt/d && echo hello > /mnt/d/new && ln /mnt/d/new /mnt/linked")
    assert two.sh("cat /mnt/d/new; stat -c %h /mnt/linked") == "hello\n2\n"
    two.sh("mv /mnt/d/new /mnt/moved && echo again >> /mnt/moved && rmdir /mnt/d")
    assert one.sh("cat /mnt/moved /mnt/linked") == "hello\nagain\n" * 2
    assert one.attempt("ls /mnt/d")[0] != 0


def asked(server: Process, kind: str) -> int:
    """How many requests of a kind the server has had, without those by which it is asked that."""
    with Client(server.address) as client:
        client.attach(b"ctl")
        fid = client.open(client.root, "stats.json")
        return int(json.loads(client.read_all(fid))["requests"].get(kind, 0))


def test_what_is_cached_is_not_read_again(guests: tuple[Guest, Guest], tree: Path, stage: Stage) -> None:
    guest, size = guests[0], 300_000
    (tree / "f").write_bytes(os.urandom(size))
    with Served(tree, stage.path) as server:
        guest.mount(server.address, cache="loose")
        try:
            idle = asked(server, "Tread")
            idle = asked(server, "Tread") - idle  # what asking for the statistics costs
            before = asked(server, "Tread")
            first = guest.sh("sha256sum /mnt/f")
            middle = asked(server, "Tread")
            second = guest.sh("sha256sum /mnt/f")
            after = asked(server, "Tread")
            assert first == second
            assert middle - before > idle
            assert after - middle == idle

            (tree / "f").write_text("changed")
            guest.sh("echo 3 > /proc/sys/vm/drop_caches")
            assert guest.sh("cat /mnt/f") == "changed"
        finally:
            guest.unmount()
