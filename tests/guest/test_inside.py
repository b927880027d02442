"""A server that runs in the guest itself: unix, vsock and descriptors as transports, and a share that is shared again.

The guest mounts the tree of the host by 9P, and serves a tree of its own of which that mount is a part. Through all
ways into it every file has the same number. A number of the host's server is an inode number to the guest's, which puts
the mark of a device behind it: it grows by the few bits that this has.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ..conftest import TEST_SECONDS
from ..p9.conftest import build
from ..p9.served import Served
from ..support.stage import Stage, watchdog
from .conftest import populate
from .test_numbers import CLIENT_ADDS, host_scan, shared
from .toolbox import OWN, Toolbox

TREE = f"{OWN}/tree"
PORT = 5640
END = f"""
kill $(cat {OWN}/pid)
for pid in $(cat {OWN}/pid) $(pgrep -f "[f]usemap mount"); do while [ -e /proc/$pid/exe ]; do sleep 0.05; done; done
cat {OWN}/log
"""
WAYS = ("unix", "vsock", "pipes", "fuse")


class Inside(NamedTuple):
    """The guest's tree, and where it is mounted again, by way."""

    box: Toolbox
    at: dict[str, str]
    outer: dict[str, Any]  # the host's files, as the guest sees them at TREE/outer
    first: dict[str, Any]  # what one way showed, for the others


@pytest.fixture(scope="module")
def tree(place: Stage) -> Path:
    """Four file systems of the host's, with files."""
    top = build(place)
    for part in (".", "subvol-a", "subvol-b", "tmpfs"):
        populate(top / part, 2)
    return top


@pytest.fixture(scope="module")
def inside(box: Toolbox, tree: Path, place: Stage) -> Iterator[Inside]:
    """The guest's tree, with the host's below it, mounted again in every way."""
    with watchdog.limit(TEST_SECONDS):
        server = Served(tree, place.path)
    with server:
        with watchdog.limit(TEST_SECONDS):
            outer = box.mount(server.address, "tree/outer", msize=65536)
            box.sh(f"mkdir {TREE}/local && mount -t tmpfs tmpfs {TREE}/local && echo own > {TREE}/local/own")
            seen = box.scan(outer)
            at = mount_all(box)
        yield Inside(box, at, seen, {})
        with watchdog.limit(TEST_SECONDS):
            for path in at.values():
                box.unmount(path)
            log = box.sh(END)
            box.unmount(outer)
            box.sh(f"umount {TREE}/local")
        wrong = [line for line in log.splitlines() if " INFO: " not in line and " WARNING: " not in line]
        assert not wrong, log
        server.check_log()


def mount_all(box: Toolbox) -> dict[str, str]:
    """Serves the guest's tree in all ways at once, and mounts it in every one; where, by way."""
    # The kernel of a guest that is older than 6.8 tells no two mounts without a uuid apart for more than one process
    options = f"--state sqlite:{OWN}/table --name {TREE}/outer=outer"
    fusemap = f"{sys.executable} -m fusemap"
    listen = f"--listen fd:0,1 --listen unix:{OWN}/socket --listen vsock:any:{PORT}"
    server = box.command(
        "/bin/sh", "-c", f"echo $$ > {OWN}/pid; exec {fusemap} serve {TREE} {options} {listen} --log {OWN}/log"
    )
    at = {
        "pipes": box.attach(f"pipes {server}", "pipes"),  # it answers when it listens everywhere
        "unix": box.mount("unix:" + box.outside(f"{OWN}/socket"), "unix"),
        "vsock": box.attach(f"vsock 1 {PORT}", "vsock"),
        "fuse": f"{OWN}/fuse",
    }
    box.sh(f"mkdir {at['fuse']}; {fusemap} mount {TREE} {at['fuse']} {options}")
    return at


def host_numbers(tree: Path) -> dict[str, os.stat_result]:
    """What the host sees of the part of the tree that is its own."""
    return {os.path.normpath(f"outer/{path}"): st for path, st in host_scan(tree).items()}


@pytest.mark.parametrize("way", WAYS)
def test_numbers(inside: Inside, tree: Path, way: str) -> None:
    host = host_numbers(tree)
    seen = inside.box.scan(inside.at[way])
    theirs = {path: line for path, line in seen.items() if path.startswith("outer")}
    assert theirs.keys() == host.keys()
    assert not shared(theirs, host)
    for path, line in seen.items():
        assert line["d_ino"] == line["ino"] or not path, path
    assert Counter(line["ino"] for line in seen.values()).most_common(1)[0][1] == 2  # the hard links
    for part in (".", "subvol-a", "subvol-b", "tmpfs"):
        one, other = (os.path.normpath(f"outer/{part}/{name}") for name in ("file0", "below/hard"))
        assert seen[one]["ino"] == seen[other]["ino"]
    # One file, one number: by whatever way, and to FUSE and 9P alike
    numbers = {path: line["ino"] - (0 if way == "fuse" else CLIENT_ADDS) for path, line in seen.items()}
    del numbers[""]  # to FUSE, the root of a mount is number 1
    assert inside.first.setdefault("numbers", numbers) == numbers
    # Behind the number of the host's server stand a few bits, the same for all its files
    pairs = [(numbers[os.path.normpath(f"outer/{path}")], line["ino"]) for path, line in inside.outer.items()]
    bits = pairs[0][0].bit_length() - pairs[0][1].bit_length()
    assert 0 < bits < 8
    assert len({number - (theirs << bits) for number, theirs in pairs}) == 1


@pytest.mark.thorough
@pytest.mark.parametrize("way", WAYS)
def test_contract(inside: Inside, way: str) -> None:
    """Of the host's part of the tree: every call goes through two servers."""
    at = f"{inside.at[way]}/outer/contract-{way}"
    inside.box.sh(f"mkdir {at}")
    *broken, last = inside.box.guest.json("contract", inside.box.outside(at), "9p2000.L", "none", timeout=TEST_SECONDS)
    for line in broken:
        line["broken"] = bytes.fromhex(line["broken"]).decode()
    assert not broken
    assert last["tried"] > 250
    inside.box.sh(f"rmdir {at}")


@pytest.mark.parametrize("way", WAYS)
def test_much_data(inside: Inside, way: str) -> None:
    at = f"{inside.at[way]}/local/data"
    inside.box.sh(f"head -c 700001 /dev/urandom > {at}; cmp {TREE}/local/data {at}; rm {at}")
