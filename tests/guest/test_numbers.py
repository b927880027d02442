"""Numbers of files as Linux's own 9P client shows them, and as QEMU's 9P server numbers the same files.

The client shows a file as st_ino = QID path + 2, and reads d_ino from directories without asking for the file.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import TEST_SECONDS
from ..p9.client import Client
from ..p9.conftest import build
from ..p9.served import Served
from ..support.process import die_with_parent
from ..support.stage import Stage, detach, wait_mounted, watchdog
from .conftest import populate
from .machine import Guest, Image

CLIENT_ADDS = 2
ODD = [5, 0x4000000000000005, 0x8000000000000005, 0x9000000000000005]  # the last two are one file to QEMU


@pytest.fixture(scope="module")
def tree(place: Stage) -> Path:
    """Four file systems with files."""
    top = build(place)
    for part in (".", "subvol-a", "subvol-b", "tmpfs"):
        populate(top / part)
    return top


@pytest.fixture(scope="module")
def layers(place: Stage) -> Path:
    """An overlay with xino=on of four tmpfs, the first file in each of which has the same inode number."""
    return place.overlay("overlay", lowers=3)


@pytest.fixture(scope="module")
def odd(place: Stage) -> Path:
    """A tmpfs, and below it a file system whose files have the inode numbers `ODD` and others of all lengths."""
    top = place.tmpfs("odd")
    at = place.directory("odd/numbers")
    dice = random.Random(20190522)
    numbers = ODD + [dice.getrandbits(dice.randrange(10, 65)) | 2 for _ in range(90)]
    command = [sys.executable, "-m", "tests.guest.odd", str(at), *map(str, numbers)]
    process = subprocess.Popen(command, preexec_fn=die_with_parent)
    watchdog.guard(process.pid)

    def end() -> None:
        detach(at)
        process.kill()
        process.wait(20)
        watchdog.release(process.pid)

    place.after(end)
    wait_mounted(at, process.pid)
    return top


@pytest.fixture(scope="module")
def guest(image: Image, place: Stage, tree: Path, layers: Path, odd: Path) -> Iterator[Guest]:
    """A guest to which QEMU shows the tree as "qemu0", the overlay as "qemu1" and the odd numbers as "qemu2"."""
    with Guest(image, place.path, "numbers", tree, layers, odd) as machine:
        with watchdog.limit(TEST_SECONDS):
            machine.up()
        yield machine


def scan(guest: Guest, address: str, **options: str) -> dict[str, Any]:
    """What the guest sees of a tree, by path; it mounts it for that only."""
    at = guest.mount(address, **options)
    try:
        lines = guest.json("scan", at)
    finally:
        guest.unmount(at)
    return {os.fsdecode(bytes.fromhex(line.pop("path"))): line for line in lines}


def host_scan(top: Path) -> dict[str, os.stat_result]:
    """What the host sees of it."""
    found = {"": top.lstat()}
    for path, directories, files in os.walk(top):
        for name in directories + files:
            each = Path(path) / name
            found[str(each.relative_to(top))] = each.lstat()
    return found


def shared(seen: dict[str, Any], host: dict[str, os.stat_result]) -> list[set[str]]:
    """The groups of paths of different files of the host that have one number in the guest."""
    files: dict[int, set[tuple[int, int]]] = {}
    for path, line in seen.items():
        files.setdefault(line["ino"], set()).add((host[path].st_dev, host[path].st_ino))
    return [{path for path in seen if seen[path]["ino"] == ino} for ino, group in files.items() if len(group) > 1]


def test_every_file_has_its_own_number(guest: Guest, tree: Path, stage: Stage) -> None:
    host = host_scan(tree)
    with Served(tree, stage.path) as server:
        seen = scan(guest, server.address)
        with Client(server.address) as client:
            client.attach()
            for path, line in seen.items():
                fid = client.walk(client.root, *filter(None, path.split("/")))
                assert line["ino"] == client.qid(fid).path + CLIENT_ADDS, path
                client.clunk(fid)
    assert seen.keys() == host.keys()
    assert len({st.st_dev for st in host.values()}) == 4
    assert not shared(seen, host)
    for path, line in seen.items():
        st = host[path]
        assert line["d_ino"] == line["ino"], path
        assert (line["mode"], line["nlink"]) == (st.st_mode, st.st_nlink), path
        assert line["size"] == st.st_size or os.path.isdir(tree / path), path
    for part in (".", "subvol-a", "subvol-b", "tmpfs"):
        one, other = (os.path.normpath(f"{part}/{name}") for name in ("file0", "below/hard"))
        assert seen[one]["ino"] == seen[other]["ino"]
    assert Counter(line["ino"] for line in seen.values()).most_common(1)[0][1] == 2


def test_numbers_are_qemus(guest: Guest, tree: Path, stage: Stage) -> None:
    theirs = scan(guest, "qemu0")
    with Served(tree, stage.path, "--map", "qemu", "--state", "none") as server:
        ours = scan(guest, server.address)
    assert len({st.st_dev for st in host_scan(tree).values()}) == 4
    assert {path: line["ino"] for path, line in ours.items()} == {path: line["ino"] for path, line in theirs.items()}


def test_qemu_gives_two_files_one_number_and_we_do_not(guest: Guest, layers: Path, stage: Stage) -> None:
    host = host_scan(layers)
    theirs = scan(guest, "qemu1")
    assert {"from-1", "from-2"} in shared(theirs, host), {path: st.st_ino for path, st in host.items()}
    with Served(layers, stage.path, "--map", "qemu", "--state", "none") as server:
        as_theirs = scan(guest, server.address)
    assert {path: line["ino"] for path, line in as_theirs.items()} == {
        path: line["ino"] for path, line in theirs.items()
    }
    with Served(layers, stage.path, "--map", "suffix", "--state", "none") as server:
        ours = scan(guest, server.address)
    assert ours.keys() == theirs.keys()
    assert not shared(ours, host)


def test_arbitrary_inode_numbers(guest: Guest, odd: Path, stage: Stage) -> None:
    host = host_scan(odd)
    theirs = scan(guest, "qemu2")
    assert {"numbers/02", "numbers/03"} in shared(theirs, host)
    with Served(odd, stage.path, "--map", "qemu", "--state", "none") as server:
        as_theirs = scan(guest, server.address)
    assert {path: line["ino"] for path, line in as_theirs.items()} == {
        path: line["ino"] for path, line in theirs.items()
    }
    with Served(odd, stage.path, "--state", "none") as server:
        ours = scan(guest, server.address)
    assert ours.keys() == host.keys()
    assert not shared(ours, host)


def test_a_mount_on_the_host_at_the_same_time(guest: Guest, tree: Path, stage: Stage) -> None:
    mounted = stage.fusemap(tree)
    with Served(tree, stage.path) as server:
        seen = scan(guest, server.address)
    del seen[""]  # to FUSE, the root of a mount is number 1
    assert {path: line["ino"] for path, line in seen.items()} == {
        path: os.lstat(mounted / path).st_ino + CLIENT_ADDS for path in seen
    }


def test_numbers_outlast_the_server(guest: Guest, tree: Path, stage: Stage) -> None:
    table = f"sqlite:{stage.path}/table"
    with Served(tree, stage.path, "--state", table) as server:
        before = scan(guest, server.address)
    with Served(tree, stage.path, "--state", table) as server:
        part = scan(guest, server.address, aname="tmpfs")  # without a table, the order of first sight decides
        after = scan(guest, server.address)
    assert after == before
    assert part["file0"]["ino"] == before["tmpfs/file0"]["ino"]
