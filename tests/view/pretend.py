"""Censuses of trees that nobody has: a million files, thousands of devices, names that mean harm."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from fusemap.census import SCHEMES, Census, Unreadable
from fusemap.census import census as census_module
from fusemap.census.collide import PART
from fusemap.census.spill import Spill

FANOUT: Final = 100
"""Files in each directory of a made-up disk."""


_MORE: Final = 1 << 20  # an inode


class Disk(NamedTuple):
    """A made-up device: where it is, its files, and the first of their inodes, one after the other from there."""

    place: bytes
    files: int
    first: int = 2
    kind: str = "ext4"
    lasting: bool = True


def pretended(
    disks: Iterable[Disk], unreadable: Iterable[Unreadable] = (), more: Sequence[bytes] = (), root: str = "/srv/tree"
) -> Census:
    """The census of a tree with these disks, whose files are named after their inodes. Close it.

    Files named `more` are on every disk besides, with the same inodes.
    """
    census = Census(root)
    census.chosen = SCHEMES
    spill = census._stack.enter_context(Spill())
    devices = []
    for number, disk in enumerate(disks):
        for start in range(0, disk.files, FANOUT):
            inodes = array("Q", range(disk.first + start, disk.first + min(start + FANOUT, disk.files)))
            path = os.path.normpath(os.path.join(disk.place, b"dir-%d" % (start // FANOUT) if start else b""))
            names = [b"", *(b"file-%d" % inode for inode in inodes[1:])]
            spill.add(number, path, names, inodes, True)
        if more:
            spill.add(number, disk.place, list(more), array("Q", range(_MORE, _MORE + len(more))), False)
        devices.append(_device(number, disk))
    walk: Any = SimpleNamespace(devices=devices, vanished=0, unreadable=list(unreadable), unnamed=0)
    census_module._count(census, walk, spill, None, lambda *_: None, PART, None)
    return census


def many(devices: int, files: int) -> list[Disk]:
    """So many disks with so many files in all, the first ones larger than the later ones."""
    weights = [1 / (number + 2) for number in range(devices)]
    whole = sum(weights)
    places = [b".", *(b"vm/%05d/root" % number for number in range(1, devices))]
    return [
        Disk(place, max(2, round(files * weight / whole)), 256 if at else 2, ("ext4", "xfs", "btrfs")[at % 3])
        for at, (place, weight) in enumerate(zip(places, weights, strict=True))
    ]


def _device(number: int, disk: Disk) -> Any:
    key = f"uuid:{number:08x}-5ee7-4a11-9b1c-{number * 7919:012x}" if disk.lasting else f"session:{number}"
    return SimpleNamespace(
        index=number, identity=SimpleNamespace(key=key, lasting=disk.lasting), dev=os.makedev(8, number),
        place=disk.place, kind=disk.kind, top=disk.first,
    )  # fmt: skip
