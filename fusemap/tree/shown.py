"""The colliding maps, raw and qemu, on a live tree: numbers for show, and who was seen to have which.

Nodes have other numbers, which never collide, so no front end takes one file for another; what is made here is only
what stat and QIDs say. The first time that a number is shown for a second file, the log names both, and it stays
remembered with all its files: whoever goes by numbers (tar, rsync -H, find, Samba) has both files for one from then on,
whatever becomes of them.

Files that are shown are remembered under their number as long as there are not too many, since the files of a collision
may be shown hours apart, and known to nobody in between. That costs memory; only these two maps pay it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from fusemap.qid import Mapper
from fusemap.tree.survey import HARMS, harm_of

log = logging.getLogger(__name__)

REMEMBERED: Final = 1 << 20
"""Files whose numbers are remembered; those that are shown first after that collide unseen."""

LOGGED: Final = 100
"""Collisions with a line of their own in the log. Beyond, every time that their count has doubled it is told."""


class Owner(NamedTuple):
    """A file that was shown with a number: its device's key, inode there, and where it was seen first, if known."""

    device: str
    inode: int
    directory: bool
    path: bytes | None


class Shown:
    """What clients are shown in place of nodes' own numbers, by `mapper`, whose mode is raw or qemu."""

    def __init__(self, mapper: Mapper) -> None:
        self.mapper: Final = mapper
        self.mode: Final = mapper.mode
        self._first: dict[int, Owner] = {}
        self._shared: dict[int, list[Owner]] = {}
        self._by_harm: dict[str, dict[int, None]] = {harm: {} for harm in HARMS}
        self._files = 0
        self._next_told = 2 * LOGGED
        self._full = False

    def number(self, device: str, inode: int) -> int:
        """The number that is shown for an inode of `device`, the bare key. Raises MappingExhausted."""
        return self.mapper.path(device, inode)

    def show(self, device: str, inode: int, directory: bool, path: Callable[[], bytes | None]) -> int:
        """`number`, and notes that a client is told it; `path` says where the file is. Raises MappingExhausted."""
        number = self.mapper.path(device, inode)
        first = self._first.get(number)
        if first is None:
            if len(self._first) < REMEMBERED:
                self._first[number] = Owner(device, inode, directory, path())
            elif not self._full:
                self._full = True
                log.warning("%d files were shown; collisions of further ones are not noticed", REMEMBERED)
        elif first.inode != inode or first.device != device:
            self._collides(number, first, Owner(device, inode, directory, None), path)
        elif first.path is None:
            self._first[number] = first._replace(path=path())
        return number

    @property
    def files(self) -> int:
        """How many files were shown with a number that is another's too."""
        return self._files

    def numbers(self) -> dict[str, int]:
        """How many numbers were shown for several files, by harm."""
        return {harm: len(numbers) for harm, numbers in self._by_harm.items()}

    def collisions(self) -> Iterator[tuple[int, str, list[Owner]]]:
        """Those numbers, each with its harm and files: the most harmful first, and then in the order of notice."""
        for harm, numbers in self._by_harm.items():
            for number in numbers:
                yield number, harm, self._shared[number]

    def others(self, number: int, device: str, inode: int) -> list[Owner]:
        """The other files that were shown with a number, not the file with this inode of this device."""
        return [owner for owner in self._shared.get(number, ()) if (owner.device, owner.inode) != (device, inode)]

    def _collides(self, number: int, first: Owner, new: Owner, path: Callable[[], bytes | None]) -> None:
        owners = self._shared.get(number, [])
        if any(owner.inode == new.inode and owner.device == new.device for owner in owners):
            return
        if self._files >= REMEMBERED:
            return
        if owners:
            del self._by_harm[_harm(owners)][number]
        else:
            owners.append(first)
            self._shared[number] = owners
            self._files += 1
        new = new._replace(path=path())
        owners.append(new)
        self._by_harm[_harm(owners)][number] = None
        self._files += 1
        told = self._files - len(self._shared)
        if told <= LOGGED:
            log.warning("number %d is shown for two files: %s and %s", number, _words(first), _words(new))
        elif told == self._next_told:
            self._next_told *= 2
            log.warning("%d files are shown with the number of another; collisions.json lists some", told)
        if told == LOGGED:
            log.warning("further collisions are only counted; collisions.json lists some")


def _harm(owners: list[Owner]) -> str:
    return harm_of(sum(owner.directory for owner in owners))


def _words(owner: Owner) -> str:
    """A file for the log, where nothing may look like another line."""
    path = "a file" if owner.path is None else ascii(os.fsdecode(owner.path))
    return f"{path} (inode {owner.inode} of {owner.device})"
