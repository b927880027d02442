"""What a damaged table still says.

A single flipped bit is undone. A CRC is linear: flipping a bit changes it by a pattern that depends only on how far the
bit is from the end, and with 32 bits no two places within any table have the same one. So the difference between the
checksum that is there and the one that ought to be names the bit.

Where more is broken, everything that still reads and agrees with itself is kept: whole pieces first, then what stands
before the break in the others. Entries that are lost get no successor: indices are given again only well above all that
were seen. So a repair can cost a device its numbers, but gives none to a second file, as long as what reads well is as
it was written: where several bits are wrong in a row, nobody can tell.

The repaired table takes the place of the undamaged or older snapshot, and only then are damaged pieces removed. While
one is left the table is refused, so a repair that is interrupted has to be done again, and that is all.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from crc32c import crc32c

from fusemap.qid.affix import LAST_INDEX
from fusemap.table import codec
from fusemap.table.home import merge
from fusemap.table.ledger import Change, Device, Floor, Ledger
from fusemap.table.shelf import Shelf
from fusemap.table.store import Store

MARGIN: Final = 256
"""How many indices are left out where an unknown number of entries was lost."""

_POLYNOMIAL: Final = 0x82F63B78  # CRC-32C, reflected
_CRC_SIZE: Final = 4
_COUNTERS: Final = 1 << 16


class Salvage(NamedTuple):
    """What was found. `ledger` is None where nothing was; `notes` say, a sentence each, how every damaged piece fared.

    `complete` says that nothing is missing; `damaged` which pieces are not as they were written.
    """

    ledger: Ledger | None
    notes: list[str]
    complete: bool
    damaged: list[str]
    generation: int


def salvage(pieces: dict[str, bytes]) -> Salvage:
    """Read whatever can be read of a table's pieces."""
    work = _Work(pieces)
    work.read()
    return Salvage(work.ledger, work.notes, work.complete, work.damaged, work.generation)


def read_pieces(shelf: Shelf) -> dict[str, bytes]:
    """All pieces that a shelf still gives. Raises OSError."""
    pieces = {}
    for name in sorted(shelf.names()):
        data = shelf.get(name)
        if data is not None:
            pieces[name] = data
    return pieces


def put_back(shelf: Shelf, found: Salvage) -> None:
    """Make what was salvaged the table of this shelf, whose lock is held. Raises NoRoom and OSError."""
    if found.ledger is None:
        raise ValueError("nothing was salvaged")
    slots = {name[0] for name in found.damaged if name[0] in "ab"}
    slot = "a" if "b" in slots else "b"
    Store(shelf).rescue(found.ledger, slot, found.generation + 1)


def correct(data: bytes) -> bytes | None:
    """`data`, which begins with the CRC-32C of the rest, with the one bit turned that makes it right.

    None where no single bit does.

    >>> whole = crc32c(b"table").to_bytes(4, "little") + b"table"
    >>> correct(whole[:5] + b"c" + whole[6:]) == whole
    True
    """
    if len(data) <= _CRC_SIZE:
        return None
    stored = int.from_bytes(data[:_CRC_SIZE], "little")
    difference = stored ^ crc32c(memoryview(data)[_CRC_SIZE:])
    if difference & (difference - 1) == 0:  # one bit of the checksum itself, or none at all
        return (stored ^ difference).to_bytes(_CRC_SIZE, "little") + data[_CRC_SIZE:]
    pattern = _POLYNOMIAL
    for at in range(len(data) - 1, _CRC_SIZE - 1, -1):
        for bit in range(7, -1, -1):
            if pattern == difference:
                return data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]
            pattern = pattern >> 1 ^ (_POLYNOMIAL if pattern & 1 else 0)
    return None


class _Rows(codec.Cursor):
    """Reads a body that may be cut off, and gives the whole rows that stand before the end."""

    def rows(self, row: struct.Struct, count: int) -> Iterator[tuple[Any, ...]]:
        whole = min(count, (len(self.data) - self.at) // row.size)
        found = super().rows(row, whole)
        if whole < count:
            self.at = len(self.data)  # what is left of a row is nothing to go by
        return found


class _Work:
    """One salvage."""

    def __init__(self, pieces: dict[str, bytes]) -> None:
        self.pieces = pieces
        self.ledger: Ledger | None = None
        self.notes: list[str] = []
        self.damaged: list[str] = []
        self.complete = True
        self.generation = 0

    def read(self) -> None:
        whole: list[tuple[int, str, codec.Snapshot]] = []
        broken: list[Ledger] = []
        for slot in "ab":
            snapshot = self._slot(slot)
            if isinstance(snapshot, Ledger):
                broken.append(snapshot)
            elif snapshot is not None:
                whole.append((snapshot.head.generation, slot, snapshot))
                self.generation = max(self.generation, snapshot.head.generation)
        whole.sort(key=lambda found: found[0])
        while whole:
            generation, slot, snapshot = whole.pop()
            if snapshot.moved_to:
                self.notes.append(f"the table moved to {snapshot.moved_to}; this is what was here before")
                self.complete = False
                continue
            self.ledger = snapshot.ledger
            self._logs(slot, generation)
            break
        for ledger in broken:
            self._add(ledger)
        if self.ledger is not None and not self.complete:
            index = min(self.ledger.next_index() + MARGIN, LAST_INDEX + 1)
            self.ledger.apply(Floor(index, self.ledger.next_counter() + _COUNTERS))

    def _slot(self, slot: str) -> codec.Snapshot | Ledger | None:
        """A slot's snapshot, as written or corrected; the ledger of what can be read of it; None where it is empty."""
        stream, number = b"", 0
        while f"{slot}.{number}" in self.pieces:
            stream += self.pieces[f"{slot}.{number}"]
            number += 1
        if not stream:
            if number:
                self._say(f"{slot}.0", "is empty")
            return None
        tries = [stream]
        try:
            length = codec.head_of(stream).length
            if length < len(stream):
                tries.insert(0, stream[:length])
        except codec.Damaged:
            pass
        for data in tries:
            try:
                return codec.decode_snapshot(data)
            except codec.Unknown:
                self._say(f"{slot}.0", "is of a later format")
                return None
            except codec.Damaged:
                pass
        for data in tries:
            fixed = correct(data)
            if fixed is not None:
                try:
                    snapshot = codec.decode_snapshot(fixed)
                except ValueError:
                    continue
                self.notes.append(f"{slot}.0 has one flipped bit, which was turned back")
                self.damaged.append(f"{slot}.0")
                return snapshot
        return self._broken_slot(slot, stream)

    def _broken_slot(self, slot: str, stream: bytes) -> Ledger | None:
        try:
            head = codec.head_of(stream)
            ledger = Ledger(codec.MODES[head.mode], head.k, head.identity)
            ledger.entry(1, "", 0)  # k is in range
        except (ValueError, IndexError):
            self._say(f"{slot}.0", "cannot be read at all")
            return None
        # A generation that is off would make every later one look old.
        self.generation = max(self.generation, min(head.generation, self.generation + (1 << 32)))

        def take(change: Change) -> None:
            with contextlib.suppress(ValueError):
                ledger.apply(change)

        def fill(devices: list[Device], rows: Iterable[tuple[int, int, int, int]]) -> None:
            for device in devices:
                take(device)
            for index, length, number, top in rows:
                with contextlib.suppress(ValueError, IndexError):
                    entry = ledger.entry(index, devices[number].key, top)
                    if entry.length == length:
                        take(entry)

        with contextlib.suppress(ValueError, IndexError):
            codec.decode_body(_Rows(stream, codec.HEAD_SIZE), fill, take, head.version)
        self._say(f"{slot}.0", f"is damaged; {len(ledger.entries)} entries of it can be read")
        return ledger

    def _logs(self, slot: str, generation: int) -> None:
        """Add the log of the snapshot that was taken."""
        ledger = self.ledger
        assert ledger is not None
        names = [name for name in self.pieces if name.startswith(f"log.{slot}.")]
        names.sort(key=lambda name: int(name.rpartition(".")[2]))
        for name in names:
            data = self.pieces[name]
            try:
                of, position, payload = codec.decode_log(data)
            except codec.Damaged:
                fixed = correct(data)
                if fixed is None or len(fixed) < codec.LOG_HEAD_SIZE:
                    self._broken_log(name, data, ledger)
                    continue
                of, position, payload = codec.decode_log(fixed)
                self.notes.append(f"{name} has one flipped bit, which was turned back")
                self.damaged.append(name)
            if of == generation:
                if position != int(name.rpartition(".")[2]):
                    self._say(name, "is out of place")
                    continue
                try:
                    codec.decode_changes(payload, ledger)
                except codec.Damaged as error:
                    self._say(name, str(error))

    def _broken_log(self, name: str, data: bytes, ledger: Ledger) -> None:
        before = len(ledger.entries)
        with contextlib.suppress(codec.Damaged):
            codec.decode_changes(data[codec.LOG_HEAD_SIZE :], ledger)
        self._say(name, f"is damaged; {len(ledger.entries) - before} entries of it can be read")

    def _add(self, ledger: Ledger) -> None:
        """Add what a broken snapshot says, as far as it contradicts nothing."""
        if self.ledger is None:
            self.ledger = ledger
            return
        merged, lost = merge(self.ledger, ledger)
        if merged is not None:
            self.ledger = merged
        if lost:
            self.notes.append(f"{lost} entries of a damaged snapshot contradict another one and were left out")

    def _say(self, name: str, how: str) -> None:
        self.notes.append(f"{name} {how}")
        self.damaged.append(name)
        self.complete = False
