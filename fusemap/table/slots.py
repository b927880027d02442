"""The two slots of a shelf in which snapshots lie, written in turn.

A snapshot counts from the moment its first piece is there: of several pieces the first is written last, and is the
first to go when the slot is used again or given up.
"""

from __future__ import annotations

from collections.abc import Iterator

from fusemap.errors import DamagedTable, Refused
from fusemap.table import codec
from fusemap.table.shelf import NoRoom, Shelf


class Slots:
    """The slots "a" and "b" of `shelf`, whose lock every method needs."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.firsts: dict[str, bytes] = {}
        """The first piece of each slot as it was last read or written."""

    def read(self, slot: str) -> codec.Snapshot | None:
        """The snapshot in a slot, None if none. Raises DamagedTable, OSError, and Refused for a later format."""
        first = self._shelf.get(f"{slot}.0")
        if first is None:
            return None
        try:
            head = codec.head_of(first)
            pieces = [first]
            size = len(first)
            while size < head.length:
                piece = self._shelf.get(f"{slot}.{len(pieces)}")
                if not piece:
                    raise codec.Damaged(f"goes on for {head.length} bytes of which only {size} are there")
                pieces.append(piece)
                size += len(piece)
            snapshot = codec.decode_snapshot(b"".join(pieces))
        except codec.Damaged as error:
            raise damaged(self._shelf, f"{slot}.0", str(error)) from error
        except codec.Unknown as error:
            raise Refused(f"{self._shelf.piece(f'{slot}.0')} {error}; use that fusemap, or another --state") from error
        self.firsts[slot] = first
        return snapshot

    def write(self, slot: str, data: bytes, size: int) -> int:
        """Write a snapshot in pieces of `size` bytes; returns how many there are. Raises NoRoom and OSError."""
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        if len(pieces) > 1:
            self._shelf.remove(f"{slot}.0")
        try:
            for number in range(len(pieces) - 1, -1, -1):
                # The first piece must not reach the disk before the others.
                self._shelf.put(f"{slot}.{number}", pieces[number], durable=number <= 1)
        except NoRoom:
            if len(pieces) > 1:
                self.remove(slot)
            raise
        return len(pieces)

    def left_over(self, slot: str, count: int) -> Iterator[str]:
        """Pieces of a slot from `count` on, and of its log: of an earlier snapshot that was written here."""
        for name in self._shelf.names():
            prefix, _, number = name.rpartition(".")
            if prefix == f"log.{slot}" or (prefix == slot and int(number) >= count):
                yield name

    def remove(self, slot: str) -> bool:
        """Remove a snapshot that is not the current one, its first piece first. Returns whether there was one."""
        names = sorted(
            (name for name in self._shelf.names() if name.rpartition(".")[0] == slot),
            key=lambda name: int(name.rpartition(".")[2]),
        )
        for name in names:
            self._shelf.remove(name)
        return bool(names)


def damaged(shelf: Shelf, name: str, how: str) -> DamagedTable:
    """The error for a piece of a shelf that is not as it was written; `how` ends the sentence."""
    return DamagedTable(
        f"{shelf.piece(name)} {how}; nothing was changed. Restore it from a backup, see what fusemap table "
        f"repair can save, or keep another table with --state"
    )


def other(slot: str) -> str:
    """The other one of two slots."""
    return "b" if slot == "a" else "a"
