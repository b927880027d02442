"""What a table says, in memory: devices, entries, the full map, and which numbers are never given again.

Everything that can happen to a table is a `Change`, and a table is nothing but its changes in their order. So a store
only has to keep changes, several processes agree as soon as they have read the same ones, and a store that is full is
left by writing the same changes into another.

Devices are lasting identities as text (fusemap.host.identity). A device without a lasting identity is known by a key
that begins with "session:" and the boot id. Once another kernel has booted, such a device cannot come back, whatever
its key says; then, and only then, its indices are given again, and only to devices of the same short life: a lasting
device must not get the number that a client may still hold for a file of yesterday.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple, TypeAlias

from fusemap.qid import Affix, Entry, FullEntry, Holder, Record, suffix, suffixes
from fusemap.qid.affix import LAST_INDEX

UNKNOWN_BOOT: Final = "unknown"
"""Stands for the boot id where the kernel does not tell it; a device of such a session never counts as gone."""

_SESSION: Final = "session:"


class Device(NamedTuple):
    """A device of the table: its identity, what it was called when first met, and the day it was last seen.

    `seen` is in days since 1970, 0 where that is not known.
    """

    key: str
    label: str = ""
    seen: int = 0


@dataclass(frozen=True, slots=True)
class Retired:
    """An affix index that is never given again."""

    index: int


@dataclass(frozen=True, slots=True)
class Floor:
    """No index below `index` and no full-map counter below `counter` is given any more."""

    index: int
    counter: int


Change: TypeAlias = Device | Entry | FullEntry | Holder | Retired | Floor
"""Anything that can be appended to a table."""


def session_of(key: str) -> str | None:
    """The boot id in the key of a session-only device, None for a lasting one.

    >>> session_of("session:5cd1:77:0:41"), session_of("uuid:6b7c")
    ('5cd1', None)
    """
    return key[len(_SESSION) :].partition(":")[0] if key.startswith(_SESSION) else None


def is_dead(key: str, boot: str) -> bool:
    """Whether device `key` was known for a session only, and that session is over, `boot` being the boot id of now."""
    session = session_of(key)
    return session not in (None, boot, UNKNOWN_BOOT) and boot != UNKNOWN_BOOT


class Ledger:
    """The state of a table. `mode` and `k` are those of its Mapper, `identity` 16 bytes that tell tables apart."""

    def __init__(self, mode: str, k: int, identity: bytes) -> None:
        self.mode = mode
        self.k = k
        self.identity = identity
        self.devices: dict[str, Device] = {}
        self.entries: dict[int, Entry] = {}
        self.full: dict[int, FullEntry] = {}
        self.holders: dict[str, dict[int, int]] = {}  # device -> inode -> generation; there may be one for every file
        self.holder_count = 0
        self.retired: set[int] = set()
        self.floor = Floor(1, 1)
        self._affix = affixes(mode, k)
        self._longest: dict[str, int] = {}
        self._files: set[tuple[str, int, int | None]] = set()
        self._top = 0
        self._top_counter = 0
        # Indices of session-only devices; few, so that looking through them all costs nothing.
        self._passing: set[int] = set()

    def __repr__(self) -> str:
        return f"<Ledger {self.mode} k={self.k}: {len(self.devices)} devices, {len(self.entries)} entries>"

    def apply(self, change: Change) -> None:
        """Take a change in. Raises ValueError, and changes nothing, for one that does not fit what is there."""
        if isinstance(change, Entry):
            self._apply_entry(change)
        elif isinstance(change, FullEntry):
            self._apply_full(change)
        elif isinstance(change, Holder):
            self._apply_holder(change)
        elif isinstance(change, Device):
            if not change.key:
                raise ValueError("a device has no key")
            self.devices[change.key] = change
        elif isinstance(change, Retired):
            self._apply_retired(change.index)
        else:
            self.floor = Floor(max(change.index, self.floor.index), max(change.counter, self.floor.counter))

    def apply_all(self, changes: Iterable[Change]) -> None:
        """Take changes in, in their order. Raises ValueError at the first that does not fit."""
        for change in changes:
            self.apply(change)

    def fill(self, devices: list[Device], rows: Iterable[tuple[int, int, int, int]]) -> None:
        """Take in a whole snapshot at once: devices, and rows of (index, length, position of the device, top).

        The ledger must be empty and the rows in the order of their indices. As `apply` for each, but faster by what it
        need not ask in that order. Raises ValueError, or IndexError for a device that is not there.
        """
        self.devices = {device.key: device for device in devices}
        if len(self.devices) < len(devices) or "" in self.devices:
            raise ValueError("a device is there twice, or has no key")
        keys = [device.key for device in devices]
        entries, longest = self.entries, self._longest
        every = list(rows)
        highest = max((row[0] for row in every), default=0)
        # Of a few with high indices, it is less work to take each affix by itself.
        affix = all_affixes(self.mode, self.k, highest).__getitem__ if 8 * len(every) >= highest else self._affix
        last = 0
        for index, length, number, top in every:
            if index <= last:
                raise ValueError(f"index {index} is out of order")
            last = index
            bits, known = affix(index)
            if length != known or top >> length:
                raise ValueError(f"index {index} has {length} bits and the top bits {top:#x}")
            key = keys[number]
            entries[index] = Entry(index, key, length, bits, top)
            longest[key] = length  # lengths grow with the index
        self._top = last
        passing = {key for key in keys if key.startswith(_SESSION)}
        if passing:
            self._passing = {index for index, entry in entries.items() if entry.device in passing}

    def hold(self, keys: list[str], rows: Iterable[tuple[int, int, int]]) -> None:
        """Take in a snapshot's holders at once: rows of (position of the device in `keys`, inode, generation).

        There must be none yet. Raises ValueError where one is there twice, IndexError for a device that is not there.
        """
        count = 0
        for number, inode, generation in rows:
            self.holders.setdefault(keys[number], {})[inode] = generation
            count += 1
        self.holder_count = sum(map(len, self.holders.values()))
        if self.holder_count != count:
            raise ValueError("an inode number has two holders")

    def changes(self) -> Iterator[Change]:
        """The changes that make an equal ledger out of an empty one: the shortest such list."""
        yield from self.devices.values()
        yield from sorted(self.entries.values(), key=lambda entry: entry.index)
        yield from self._holders()
        yield from self.full.values()
        yield from map(Retired, sorted(self.retired))
        yield Floor(self.next_index(), self.next_counter())

    def copy(self) -> Ledger:
        """An equal ledger that can be changed on its own."""
        other = Ledger(self.mode, self.k, self.identity)
        other.apply_all(self.changes())
        return other

    def entry(self, index: int, device: str, top: int) -> Entry:
        """The Entry of an index for a device and a key, not applied. ValueError for an index outside 1 to 65535."""
        bits, length = self._affix(index)
        return Entry(index, device, length, bits, top)

    def records(self, boot: str) -> list[Record]:
        """All that a Mapper learns under the kernel with this boot id: devices of earlier sessions are left out.

        They cannot be met any more, and their indices may have gone to others by the time somebody asks.
        """
        dead = {key for key in self.devices if key.startswith(_SESSION) and is_dead(key, boot)}
        every = self.every()
        return [record for record in every if record.device not in dead] if dead else every

    def every(self) -> list[Record]:
        """All records, in an order in which they can be learned."""
        return [*self.entries.values(), *self._holders(), *self.full.values()]

    def index_for(self, device: str, boot: str) -> int:
        """The affix index that `device` gets next: one that a dead session left, where it may, else a new one.

        Above 65535 when none is left.
        """
        if session_of(device) is not None:
            longest = self._longest.get(device, 0)
            for index in sorted(self._passing):
                entry = self.entries[index]
                if entry.length >= longest and is_dead(str(entry.device), boot):
                    return index
        return self.next_index()

    def next_index(self) -> int:
        """The smallest index above all that were ever given; 65536 when none is left."""
        return max(self._top + 1, self.floor.index)

    def next_counter(self) -> int:
        """The smallest full-map counter above all that were ever given."""
        return max(self._top_counter + 1, self.floor.counter)

    def entry_count(self) -> dict[str, int]:
        """How many entries each device has, and files in the full map."""
        counts = dict.fromkeys(self.devices, 0)
        every: list[Record] = [*self.entries.values(), *self.full.values()]
        for record in every:
            counts[str(record.device)] += 1
        return counts

    def new_since(self, before: Ledger) -> list[Record]:
        """The records that `before` does not have."""
        new: list[Record] = [entry for entry in self.entries.values() if before.entries.get(entry.index) != entry]
        for device, holders in self.holders.items():
            old = before.holders.get(device, {})
            if len(old) < len(holders):
                new += [Holder(device, inode, holders[inode]) for inode in holders if inode not in old]
        return new + [full for full in self.full.values() if full.counter not in before.full]

    def lost_since(self, before: Ledger) -> str:
        """A record of `before` that is gone without having been dropped on purpose, in words; "" if there is none.

        On purpose is what was retired, and what the rules for dead sessions gave to others.
        """
        for index, entry in before.entries.items():
            if index not in self.entries and index not in self.retired:
                return f"index {index} of {entry.device}"
        for counter, full in before.full.items():
            if counter not in self.full and full.device in self.devices:
                return f"counter {counter} of {full.device}"
        return "" if self.holds(before) else "holders of inode numbers"

    def holds(self, before: Ledger) -> bool:
        """Whether all holders of `before` are here, but for those of devices that were dropped."""
        return all(
            device not in self.devices or holders.items() <= self.holders.get(device, {}).items()
            for device, holders in before.holders.items()
        )

    def forget(self, keys: Iterable[str]) -> int:
        """Drop devices; their indices are retired and their counters never given again. Returns the retired count."""
        gone = set(keys).intersection(self.devices)
        indices = [index for index, entry in self.entries.items() if entry.device in gone]
        self.floor = Floor(self.next_index(), self.next_counter())
        for index in indices:
            del self.entries[index]
            self._passing.discard(index)
            self.retired.add(index)
        for counter in [counter for counter, full in self.full.items() if full.device in gone]:
            full = self.full.pop(counter)
            self._files.discard((str(full.device), full.inode, full.generation))
        for key in gone:
            del self.devices[key]
            self.holder_count -= len(self.holders.pop(key, ()))
            self._longest.pop(key, None)
        return len(indices)

    def check(self, change: Change, devices: Collection[str] = ()) -> None:
        """Raise ValueError unless `change` can be applied, once `devices` are known too."""
        if isinstance(change, Entry):
            self.check_entry(change, devices)
        elif isinstance(change, FullEntry):
            self.check_full(change, devices)
        elif isinstance(change, Holder):
            self.check_holder(change, devices)

    def check_entry(self, entry: Entry, devices: Collection[str] = ()) -> None:
        """Raise ValueError unless `entry` can be applied, once `devices` are known too."""
        index, device = entry.index, str(entry.device)
        known = self.entries.get(index)
        if known == entry:
            return
        if device not in self.devices and device not in devices:
            raise ValueError(f"index {index} belongs to a device that is not in the table")
        if (entry.affix, entry.length) != self._affix(index):
            raise ValueError(f"index {index} has no affix of {entry.length} bits in map {self.mode} with k {self.k}")
        if not 0 <= entry.top < 1 << entry.length:
            raise ValueError(f"index {index} has more top bits than its {entry.length} bits hold")
        if index in self.retired:
            raise ValueError(f"index {index} is retired")
        if entry.length < self._longest.get(device, 0):
            raise ValueError(f"index {index} is shorter than the longest that its device has")
        if known is not None:
            session, before = session_of(device), session_of(str(known.device))
            if session is None or before is None or session == before:
                raise ValueError(f"index {index} belongs to another device")

    def check_full(self, full: FullEntry, devices: Collection[str] = ()) -> None:
        """Raise ValueError unless `full` can be applied, once `devices` are known too."""
        known = self.full.get(full.counter)
        if known == full:
            return
        if known is not None:
            raise ValueError(f"counter {full.counter} belongs to another file")
        if full.device not in self.devices and full.device not in devices:
            raise ValueError(f"counter {full.counter} belongs to a device that is not in the table")
        if full.counter < 1 or not 0 <= full.inode < 1 << 64:
            raise ValueError(f"counter {full.counter} for inode {full.inode} is out of range")
        if (full.device, full.inode, full.generation) in self._files:
            raise ValueError(f"counter {full.counter} is the second of its file")
        if full.generation is not None:
            holder = self.holders.get(str(full.device), {}).get(full.inode)
            if holder is None or holder == full.generation:
                raise ValueError(f"counter {full.counter} is for a file that has its inode's own number")

    def check_holder(self, holder: Holder, devices: Collection[str] = ()) -> None:
        """Raise ValueError unless `holder` can be applied, once `devices` are known too."""
        if holder.device not in self.devices and holder.device not in devices:
            raise ValueError(f"inode {holder.inode} is held on a device that is not in the table")
        if not 0 <= holder.inode < 1 << 64 or not 0 <= holder.generation < 1 << 64:
            raise ValueError(f"generation {holder.generation} of inode {holder.inode} is out of range")
        if self.holders.get(str(holder.device), {}).get(holder.inode, holder.generation) != holder.generation:
            raise ValueError(f"inode {holder.inode} of {holder.device} is another file's")

    def _holders(self) -> Iterator[Holder]:
        for device, holders in self.holders.items():
            for inode, generation in holders.items():
                yield Holder(device, inode, generation)

    def _apply_entry(self, entry: Entry) -> None:
        self.check_entry(entry)
        index, device = entry.index, str(entry.device)
        # A dead session's entry goes, and the new one to the end: entries stay in the order in which they were made.
        self.entries.pop(index, None)
        self.entries[index] = entry
        self._longest[device] = entry.length
        self._top = max(self._top, index)
        if session_of(device) is not None:
            self._passing.add(index)

    def _apply_full(self, full: FullEntry) -> None:
        self.check_full(full)
        self._files.add((str(full.device), full.inode, full.generation))
        self.full[full.counter] = full
        self._top_counter = max(self._top_counter, full.counter)

    def _apply_holder(self, holder: Holder) -> None:
        self.check_holder(holder)
        holders = self.holders.setdefault(str(holder.device), {})
        self.holder_count += holder.inode not in holders
        holders[holder.inode] = holder.generation

    def _apply_retired(self, index: int) -> None:
        if not 1 <= index <= LAST_INDEX:
            raise ValueError(f"there is no index {index}")
        if index in self.entries:
            raise ValueError(f"index {index} is retired and in use")
        self.retired.add(index)
        self._top = max(self._top, index)


@cache
def affixes(mode: str, k: int) -> Callable[[int], Affix]:
    """The function from index to affix of a mode; it raises ValueError for an index outside 1 to 65535.

    The affixes are those of fusemap.qid, remembered: a table of sixty thousand entries asks for each one several times.
    """

    @cache
    def affix(index: int) -> Affix:
        if not 1 <= index <= LAST_INDEX:
            raise ValueError(f"there is no index {index}")
        return Affix(index, 16) if mode == "prefix" else suffix(index, k)

    return affix


def all_affixes(mode: str, k: int, last: int) -> list[Affix]:
    """The affixes of a mode up to index `last`, each at its own position. ValueError for a last one above 65535."""
    if last > LAST_INDEX:
        raise ValueError(f"there is no index {last}")
    return [Affix(index, 16) for index in range(last + 1)] if mode == "prefix" else suffixes(last, k)
