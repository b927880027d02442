"""What a mapping remembers, and where it gets new memories from.

A mapping is nothing but its records: an `Entry` for all inodes of a device that share their top bits, a `FullEntry`
for a single file where entries cannot serve, and where generations count a `Holder`. Records never change, and none is
ever taken back or given to somebody else, so any number of processes may hold copies; only making a new one needs
agreement. That one act is `Allocator.allocate`. The allocator here agrees with nobody: it counts in memory. A table
that lasts, or is shared, overrides it and takes its lock there; `Mapper` does not see the difference.

Devices are any hashable values: st_dev in a session, a lasting identity in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Allocator", "Build", "Entry", "FullEntry", "Holder", "Learn", "Record"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One affix, for the inodes of one device whose top bits are `top` (QppEntry in QEMU's hw/9pfs/9p.h).

    `Rule.entry` (and through it `Mapper.entry`) derives all the rest from `index`, `device` and `top`.
    """

    index: int
    """Which affix, counted from 1: what the low (`prefix`: the high) bits of the paths decode to."""

    device: Hashable
    """Whose inodes."""

    length: int
    """How many bits the affix has, and thus how many of the inode's top bits it stands in for."""

    affix: int
    """The affix itself, a number of `length` bits."""

    top: int
    """The key: the inode's top `length` bits. In `qemu`, the bits that QEMU's ino_prefix keeps instead."""


@dataclass(frozen=True, slots=True)
class FullEntry:
    """One file with a number of its own, from the full map (QpfEntry in QEMU's hw/9pfs/9p.h)."""

    counter: int
    """Which number: the files of the full map are counted from 1."""

    device: Hashable
    """Where the file is."""

    inode: int
    """Which file, an unsigned 64-bit number."""

    generation: int | None = None
    """Which of the files that have had this inode number; None where nobody asks (see owners.py)."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The file to which an inode number's ordinary path belongs, for good (see owners.py)."""

    device: Hashable
    """Where the file is."""

    inode: int
    """Its inode number, an unsigned 64-bit number."""

    generation: int
    """Its generation, unsigned, of up to 64 bits."""


Record: TypeAlias = Entry | FullEntry | Holder
"""Anything that a mapping remembers."""

Build: TypeAlias = Callable[[int, int], Record | None]
"""`build(index, counter)` makes a record out of the next free numbers; see `Allocator.allocate`."""

Learn: TypeAlias = Callable[[Record], None]
"""`learn(record)` takes a record into a mapping; see `Mapper.learn`."""


class Allocator:
    """Hands out affix indices and full-map counters, each once. This one counts in memory, for one mapper.

    `index` and `counter` (int) are the first ones to give. A mapper tells its allocator of every record that
    it learns, so there is no need to set them for records that are learned anyway.
    """

    def __init__(self, index: int = 1, counter: int = 1) -> None:
        self._index = index
        self._counter = counter

    def allocate(self, device: Hashable, build: Build, learn: Learn) -> None:
        """Make one new record for `device`, unless it has become needless, and pass it to `learn`.

        `build(index, counter)` returns the record, which has either the index or the counter that it was
        given (or a later counter; a holder needs neither), or None where what was learned meanwhile serves already. It
        raises MappingExhausted when nothing is left to give.

        A table that is shared does this, in this order: take the lock; pass to `learn` what others have
        added, in the order in which they did; call `build` once; make its record last; release the lock;
        pass the record to `learn`. The index must be free, and its affix no shorter than the longest that
        the device has (a shorter one could take over inodes that have a number already; `build` raises
        ValueError). An index above 65535 says that none is left, and is the only way to say so.
        """
        record = build(self._index, self._counter)
        if record is not None:
            learn(record)

    def note(self, record: Record) -> None:
        """Take note of a record that the mapper has learned, from here or elsewhere, and never give it again.

        A table that is the source of all records has nothing to do here.
        """
        if isinstance(record, Entry):
            self._index = max(self._index, record.index + 1)
        elif isinstance(record, FullEntry):
            self._counter = max(self._counter, record.counter + 1)
