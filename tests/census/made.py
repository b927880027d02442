"""Rows without a walk: what a tree of made-up files would have left in a spill."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from fusemap.census.collide import HARMS, Found, find
from fusemap.census.numbers import Tops, numbering, upper_halves
from fusemap.census.spill import Rows, Spill


class File(NamedTuple):
    """One name: device, inode, whether it is a directory."""

    device: int
    inode: int
    directory: bool = False


def spilled(spill: Spill, files: Iterable[File]) -> Rows:
    """The files, each in a run of its own or with the one before, under names that tell their position."""
    for number, file in enumerate(files):
        path = b"at/%d" % number
        inodes = array("Q", [file.inode])
        if file.directory:
            spill.add(file.device, path, [b""], inodes, True)
        else:
            spill.add(file.device, path, [b"file"], inodes, False)
    return spill.rows_of()


def tops_of(rows: Rows, devices: int) -> list[Tops]:
    """The devices, at the top of each inode 1."""
    halves, _, _ = upper_halves(rows.chunks(), devices)
    return [Tops(f"device {number}", 40 + number, 1, some) for number, some in enumerate(halves)]


def found(rows: Rows, scheme: str, devices: int, part: int = 1 << 20, directory: str | None = None) -> Found:
    """What collides in a scheme, kept."""
    return find(rows, numbering(scheme, tops_of(rows, devices)), devices, True, directory, part)


def grouped(files: Iterable[File], numbers: Iterable[int]) -> set[tuple[int, str, frozenset[tuple[int, int]]]]:
    """Every collision by brute force: number, harm, and the files by device and inode."""
    by_number: dict[int, dict[tuple[int, int], bool]] = defaultdict(dict)
    for file, number in zip(files, numbers, strict=True):
        by_number[number].setdefault((file.device, file.inode), file.directory)
    result = set()
    for number, members in by_number.items():
        if len(members) > 1:
            directories = sum(members.values())
            harm = HARMS[0] if directories > 1 else HARMS[1] if directories else HARMS[2]
            result.add((number, harm, frozenset(members)))
    return result
