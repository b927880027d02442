"""What programs in a guest may expect of a tree, whatever way the guest mounts it."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import TEST_SECONDS
from ..p9.served import Served
from ..support.stage import Stage, watchdog
from .machine import BUSYBOX, SECONDS, Guest

LARGE = 20_000
LINUX, UNIX = "9p2000.L", "9p2000.u"
WAYS = {
    "L-none-client-8K": {"version": LINUX, "cache": "none", "access": "client", "msize": "8192"},
    "L-loose-user-1M": {"version": LINUX, "cache": "loose", "access": "user", "msize": "1048576"},
    "L-mmap-user-128K": {"version": LINUX, "cache": "mmap", "access": "user", "msize": "131072"},
    "L-loose-client-8K": {"version": LINUX, "cache": "loose", "access": "client", "msize": "8192"},
    "u-none-user-8K": {"version": UNIX, "cache": "none", "access": "user", "msize": "8192"},
    "u-loose-user-1M": {"version": UNIX, "cache": "loose", "access": "user", "msize": "1048576"},
    "L-loose-acl-64K": {"version": LINUX, "cache": "loose", "access": "client", "posixacl": "", "msize": "65536"},
    "L-mmap-acl-1M": {"version": LINUX, "cache": "mmap", "access": "client", "posixacl": "", "msize": "1048576"},
    "L-none-user-1M": {"version": LINUX, "cache": "none", "access": "user", "msize": "1048576"},
    "L-fscache-user-16K": {"version": LINUX, "cache": "fscache", "access": "user", "msize": "16384"},
    "u-mmap-client-128K": {"version": UNIX, "cache": "mmap", "access": "client", "msize": "131072"},
}
SLOW = {"L-mmap-acl-1M", "L-none-user-1M", "L-fscache-user-16K", "u-mmap-client-128K"}
_places = itertools.count()


@pytest.fixture(scope="module")
def tree(place: Stage) -> Path:
    """An ext4 with a large directory, and some files to be read."""
    top = place.ext4("export", 64, "-N", "30000")
    (top / "large").mkdir()
    for n in range(LARGE):
        (top / "large" / f"entry-{n}").touch()
    (top / "files" / "a" / "b" / "c").mkdir(parents=True)
    for n, path in enumerate([top / "files", top / "files" / "a", top / "files" / "a" / "b" / "c"]):
        (path / "data").write_bytes(bytes(range(256)) * (n * 300) + b"end")
        os.symlink("../data", path / "link")
        (path / "program").touch(mode=0o755)
    os.link(top / "files" / "data", top / "files" / "a" / "hard")
    os.mkfifo(top / "files" / "fifo")
    os.chown(top / "files" / "a", 1234, 4321)
    (Path(os.fsdecode(os.fsencode(top / "files") + b"/\xff\xfe"))).write_text("not UTF-8")
    return top


@pytest.fixture(scope="module")
def server(place: Stage, tree: Path) -> Iterator[Served]:
    """`fusemap serve` of the tree."""
    with watchdog.limit(TEST_SECONDS):
        served = Served(tree, place.path)
    with served:
        yield served


@pytest.fixture(params=[pytest.param(way, marks=[pytest.mark.thorough] * (way in SLOW)) for way in WAYS])
def way(request: pytest.FixtureRequest) -> dict[str, str]:
    """The options of a mount."""
    return WAYS[request.param]


@pytest.fixture
def mounted(guests: tuple[Guest, Guest], server: Served, way: dict[str, str]) -> Iterator[Guest]:
    """The first guest, which has mounted the tree at /mnt."""
    guest = guests[0]
    at = guest.mount(server.address, **way)
    yield guest
    guest.unmount(at)
    server.check_log()


def test_contract(mounted: Guest, tree: Path, way: dict[str, str]) -> None:
    name = f"contract{next(_places)}"
    (tree / name).mkdir()
    *broken, last = mounted.json("contract", f"/mnt/{name}", way["version"], way["cache"])
    for line in broken:
        line["broken"] = bytes.fromhex(line["broken"]).decode()
    assert not broken
    assert last["tried"] > 250
    assert os.listdir(tree / name) == []


def test_large_directory(mounted: Guest, way: dict[str, str]) -> None:
    (answer,) = mounted.json("list", "/mnt/large")
    again = answer.pop("found_again")
    assert answer == {"entries": LARGE, "names": LARGE, "numbers": LARGE}
    # A .u client that goes back in a directory goes on with what it has left of the last answer (v9fs_dir_readdir)
    assert again or way["version"] == UNIX


def test_tar_is_the_hosts(mounted: Guest, tree: Path) -> None:
    command = [BUSYBOX, "tar", "-cf", "-", "files"]
    host = subprocess.run(command, cwd=tree, capture_output=True, check=True, timeout=SECONDS).stdout
    sums = subprocess.run([BUSYBOX, "sha256sum"], input=host, capture_output=True, check=True).stdout.decode()
    assert mounted.sh("cd /mnt && tar -cf - files | sha256sum") == sums
