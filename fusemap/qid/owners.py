"""Which file an inode number belongs to, for those who want no number shown twice.

A host gives the number of a deleted inode to the next file. A path that follows from (device, inode) is then shown for
two files, one after the other; clients tell them apart by the generation, if they look at it. Whoever must not see that
needs a memory of single files: the first one seen under an inode number is its holder and has the path that follows
from it; each later one is told by its generation and has a path of its own, from the full map. The holder must be
remembered as well, or nobody could tell after a restart, or in another process, which of the two a file is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final

from .entries import FullEntry, Holder

__all__ = ["ORDINARY", "Owners"]

ORDINARY: Final = 0
"""Stands for the path that follows from device and inode; no file has the path 0."""


class Owners:
    """Holders, and the paths of later files. Generations are ints, of whatever size the host's are."""

    def __init__(self) -> None:
        self.holders: dict[Hashable, dict[int, int]] = {}
        self.own: dict[tuple[Hashable, int, int], int] = {}

    def __bool__(self) -> bool:
        return bool(self.holders)

    def path(self, device: Hashable, inode: int, generation: int) -> int | None:
        """Return the path of a file, ORDINARY where it is the holder, or None where it is not known."""
        holders = self.holders.get(device)
        holder = None if holders is None else holders.get(inode)
        if holder is None:
            return None
        return ORDINARY if holder == generation else self.own.get((device, inode, generation))

    def held(self, device: Hashable, inode: int) -> bool:
        """Return whether the inode number has a holder."""
        return inode in self.holders.get(device, ())

    def learn_first(self, record: Holder) -> bool:
        """Take in the holder of an inode number that has none, in as few steps as can be; False where it has one."""
        holders = self.holders.setdefault(record.device, {})
        if record.inode in holders:
            return False
        holders[record.inode] = record.generation
        return True

    def learn(self, record: Holder | FullEntry, path: int = ORDINARY) -> None:
        """Take in a holder, or a later file with its path. ValueError where that contradicts what is known."""
        known = self.path(record.device, record.inode, record.generation or 0)
        if isinstance(record, Holder):
            if known == ORDINARY:
                return
            if self.held(record.device, record.inode):
                raise ValueError(f"{record} would take its inode from another file")
            self.holders.setdefault(record.device, {})[record.inode] = record.generation
            return
        if known is not None:
            raise ValueError(f"{record} would renumber its file, which has a number already")
        if not self.held(record.device, record.inode):
            raise ValueError(f"{record} is a later file of an inode that has no earlier one")
        self.own[record.device, record.inode, record.generation or 0] = path

    def records(self) -> Iterator[Holder]:
        """Iterate over the holders."""
        for device, holders in self.holders.items():
            for inode, generation in holders.items():
                yield Holder(device, inode, generation)
