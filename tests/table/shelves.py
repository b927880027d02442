"""Shelves to test with: one that fails at a chosen step, and one of each real kind in a fresh place."""

from __future__ import annotations

import errno

from fusemap.qid import Entry, FullEntry, Holder
from fusemap.table.ledger import Change, Device, Ledger, Retired
from fusemap.table.shelf import MemoryShelf, NoRoom

BOOT = "11111111-1111-4111-8111-111111111111"
LATER = "22222222-2222-4222-8222-222222222222"
IDENTITY = bytes(range(16))


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours runs after it."""


class KillingShelf(MemoryShelf):
    """Dies instead of, or right after, its step number `when`; a step is whatever changes a piece."""

    def __init__(self, pieces: dict[str, bytes], when: int, after: bool) -> None:
        super().__init__(pieces)
        self.steps = 0
        self.when = when
        self.after = after

    def put(self, name: str, data: bytes, durable: bool = True) -> None:
        self._step(lambda: super(KillingShelf, self).put(name, data, durable))

    def remove(self, name: str) -> None:
        self._step(lambda: super(KillingShelf, self).remove(name))

    def _step(self, act: object) -> None:
        self.steps += 1
        assert callable(act)
        if self.steps != self.when:
            act()
            return
        if self.after:
            act()
        raise Killed


class SmallShelf(MemoryShelf):
    """Takes pieces of `size` bytes and `room` bytes in all; `number` is what it says when that is not enough."""

    kind = "xattr"

    def __init__(self, pieces: dict[str, bytes], size: int = 1 << 16, room: int = 1 << 30, number: int = errno.ENOSPC):
        super().__init__(pieces)
        self.sizes = (size,)
        self.room = room
        self.number = number
        self.limit = 1 << 20
        self.puts: list[int] = []

    def put(self, name: str, data: bytes, durable: bool = True) -> None:
        others = sum(len(piece) for other, piece in self.pieces.items() if other != name)
        if len(data) > self.sizes[0] or others + len(data) > self.room:
            raise NoRoom(self.number, "no room")
        self.puts.append(len(data))
        super().put(name, data, durable)


def key(number: int) -> str:
    """A lasting device."""
    return f"uuid:{number:08x}-0000-4000-8000-{number:012x}"


def a_ledger(devices: int = 3, mode: str = "suffix") -> Ledger:
    """A ledger with a bit of everything."""
    ledger = Ledger(mode, 0, IDENTITY)
    for number in range(1, devices + 1):
        ledger.apply(Device(key(number), f"mnt/{number}", 20000))
        ledger.apply(ledger.entry(number, key(number), 0))
    ledger.apply(Device("name:päck\x01\udcff at a/b"))
    ledger.apply(ledger.entry(devices + 1, "name:päck\x01\udcff at a/b", 1))
    ledger.apply(FullEntry(5, key(1), (1 << 64) - 1))
    ledger.apply(Retired(devices + 2))
    ledger.apply(Holder(key(1), 77, 1 << 33))
    ledger.apply(FullEntry(6, key(1), 77, 5))
    return ledger


def state(ledger: Ledger | None) -> object:
    """All that a ledger says, to compare."""
    return None if ledger is None else (ledger.mode, ledger.k, ledger.identity, list(ledger.changes()))


def another(ledger: Ledger, device: str) -> list[Change]:
    """The changes of one more entry."""
    changes: list[Change] = [] if device in ledger.devices else [Device(device, "", 20001)]
    index = ledger.index_for(device, BOOT)
    bits, length = ledger.entry(index, device, 0).affix, ledger.entry(index, device, 0).length
    top = sum(entry.device == device for entry in ledger.entries.values())
    return [*changes, Entry(index, device, length, bits, top)]


