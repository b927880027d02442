"""How each mode turns an inode into a path and back: the arithmetic, and the entries it goes by.

All modes but `raw` do the same thing: find the entry of (device, some top bits of the inode), take those bits
away and put the entry's affix in their place. They differ in which bits are the key and where the affix goes:

  prefix  the key is the top 16 bits, the affix is the entry's index and takes exactly their place
  suffix  the affix has M bits and goes to the low end; the key is the top M bits, which are shifted out
  qemu    as suffix, but the key is the top N bits with one N for all of a device's entries, and 16 bits wide

In the first two the key is exactly what the path lacks, hence nothing is lost. In `qemu` it is not: N is
the length of the affix that was next when the device was first seen, and that is the one its first entry
got. Later entries have a longer affix, M > N, and lose M - N bits that no key holds. An N above 16 loses
bits as well.

`suffix` has to find an entry without knowing M. A device has few lengths, ordinarily one, so each is tried,
the shortest first. That is sound because lengths never decrease within a device: an inode gets a longer entry
only after all shorter ones were tried in vain, and as none shorter comes afterwards, regions never overlap.
(One trie of bits per device would do as well, but costs a step per bit where this costs a step per length.)
`check` holds every entry to it, own or foreign.

A rule knows nothing of reserved numbers and of who is in the full map. That is `Mapper`'s side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Hashable, Iterable, Iterator

from .affix import FULL_INDEX, LAST_INDEX, Affix, decode, suffix, suffixes
from .entries import Entry, Learn, Record

__all__ = ["MAX", "Prefix", "Qemu", "Rule", "Suffix"]

MAX = (1 << 64) - 1
"""The largest inode and the largest path: both are unsigned 64-bit numbers."""


class Rule(ABC):
    """One mode's arithmetic and its entries. `k` (int, 0 to 8) is the order of the Exp-Golomb suffixes.

    Inodes and paths are ints from 0 to 2^64 - 1; the caller sees to that.
    """

    key_mask: int = MAX
    """Which of the bits above the shift make up a key."""

    full_index: int = FULL_INDEX
    """What `split` gives as the index of a path from the full map."""

    first_counter: int = 1
    """The first counter of the full map whose number may be emitted."""

    last_counter: int
    """The last counter of the full map that fits beside its affix."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.entries: dict[int, Entry] = {}
        """All entries by index, in the order in which they were added."""
        # For each device the shifts that bare a key, the largest first, and behind each the entries by key.
        self._levels: dict[Hashable, list[tuple[int, dict[int, Entry]]]] = {}
        self._longest: dict[Hashable, int] = {}

    @abstractmethod
    def affix(self, index: int) -> Affix:
        """Return the affix of an index from 1 to 65535; ValueError for others."""

    @abstractmethod
    def affixes(self, last: int) -> list[Affix]:
        """Return the affixes of all indices up to `last`, each at its own position; position 0 is empty."""

    @abstractmethod
    def number(self, entry: Entry, inode: int) -> int:
        """Return the path of an inode that the entry covers; it may be a reserved number."""

    @abstractmethod
    def plain(self, entry: Entry) -> tuple[int, int]:
        """Return (shift, bits): `inode << shift | bits` is the path where the inode's top bits are clear.

        Only for an entry whose `top` is 0, and there for inodes whose top `entry.length` bits are all zero.
        """

    @abstractmethod
    def full_number(self, counter: int) -> int:
        """Return the path that a counter of the full map stands for."""

    @abstractmethod
    def split(self, path: int) -> tuple[int, int]:
        """Return (index, rest) of a path; the rest is the inode without its key, or the full map's counter.

        Raises ValueError where the path has no index that is ever given.
        """

    def shift(self, device: Hashable, length: int) -> int:
        """Return how far an inode of the device is shifted to the right to bare the key of an entry."""
        return 64 - length

    def key(self, device: Hashable, length: int, inode: int) -> int:
        """Return the key of an inode for an entry with an affix of this length."""
        return inode >> self.shift(device, length) & self.key_mask

    def inode(self, entry: Entry, rest: int) -> int:
        """Return the inode of an entry whose path has this `rest`, the inverse of `number` and `split`."""
        return entry.top << self.shift(entry.device, entry.length) | rest

    def find(self, device: Hashable, inode: int) -> Entry | None:
        """Return the entry that covers an inode, or None."""
        for shift, entries in self._levels.get(device, ()):
            entry = entries.get(inode >> shift & self.key_mask)
            if entry is not None:
                return entry
        return None

    def covers(self, entry: Entry, inode: int) -> bool:
        """Tell whether an entry, added or not, is for this inode of its device."""
        return self.key(entry.device, entry.length, inode) == entry.top

    def entry(self, index: int, device: Hashable, top: int) -> Entry:
        """Return the entry of an index with a known key; not yet added. ValueError for an unknown index."""
        bits, length = self.affix(index)
        return Entry(index, device, length, bits, top)

    def build(self, index: int, device: Hashable, inode: int) -> Entry:
        """Return the entry, not yet added, that an inode without one gets from this index; see `check`."""
        bits, length = self.affix(index)
        entry = Entry(index, device, length, bits, self.key(device, length, inode))
        self.check(entry)
        return entry

    def check(self, entry: Entry) -> None:
        """Raise ValueError unless the entry can be added: it fits the mode, and takes nothing from others."""
        if (entry.affix, entry.length) != self.affix(entry.index):
            raise ValueError(f"{entry} is not of mode {type(self).__name__.lower()} with k={self.k}")
        if entry.index in self.entries:
            raise ValueError(f"{entry} has the index of {self.entries[entry.index]}")
        lowest = self.inode(entry, 0)
        if not (0 <= lowest <= MAX and self.covers(entry, lowest)):
            raise ValueError(f"{entry} has more top bits than its key holds")
        longest = self._longest.get(entry.device, 0)
        if entry.length < longest:
            raise ValueError(f"{entry} is shorter than the {longest} bits that its device has reached")
        other = self.find(entry.device, lowest)
        if other is not None:
            raise ValueError(f"{entry} covers inodes that {other} covers already")

    def add_firsts(
        self, records: Iterable[Record], affixes: list[Affix], full: Container[Hashable], note: Learn
    ) -> Iterator[Record]:
        """Add those records that are the first entry of a device, tell `note` of each, and yield the others in between.

        `check` is cut down to what can be wrong with a first one; what does not pass is yielded as well. So are entries
        beyond `affixes`, and those of devices in `full`. It is one loop without calls, because it is for very many.
        """
        entries, longest, levels, mask, reach = self.entries, self._longest, self._levels, self.key_mask, len(affixes)
        for record in records:
            if type(record) is Entry:
                index, device, length, top = record.index, record.device, record.length, record.top
                if (
                    0 < index < reach
                    and affixes[index] == (record.affix, length)
                    and device not in levels
                    and device not in full
                    and index not in entries
                    and not top >> length
                    and top <= mask
                ):
                    entries[index] = record
                    longest[device] = length
                    levels[device] = [(64 - length, {top: record})]
                    note(record)
                    continue
            yield record

    def key_zero(self, device: Hashable) -> Entry | None:
        """Return the entry for the device's inodes whose top bits are clear, or None."""
        for _, entries in self._levels.get(device, ()):
            if 0 in entries:
                return entries[0]
        return None

    def add(self, entry: Entry) -> None:
        """Add an entry that `check` has passed."""
        shift = self.shift(entry.device, entry.length)
        # The way back comes first, so that whichever thread finds a path can locate it.
        self.entries[entry.index] = entry
        self._longest[entry.device] = entry.length
        levels = self._levels.setdefault(entry.device, [])
        if not levels or levels[-1][0] != shift:
            levels.append((shift, {}))
        levels[-1][1][entry.top] = entry


class Prefix(Rule):
    """A 16-bit prefix for (device, top 16 bits): qid_path_prefixmap() of QEMU's series, before suffixes."""

    full_index = 0
    # Prefix 0 leaves the counter as it is, and 1 is FUSE's root node.
    first_counter = 2
    last_counter = (1 << 48) - 1

    def affix(self, index: int) -> Affix:
        if not 1 <= index <= LAST_INDEX:
            raise ValueError(f"a prefix must be from 1 to {LAST_INDEX}, not {index}")
        return Affix(index, 16)

    def affixes(self, last: int) -> list[Affix]:
        return [Affix(index, 16) for index in range(min(last, LAST_INDEX) + 1)]

    def number(self, entry: Entry, inode: int) -> int:
        return entry.affix << 48 | inode & (1 << 48) - 1

    def plain(self, entry: Entry) -> tuple[int, int]:
        return 0, entry.affix << 48

    def full_number(self, counter: int) -> int:
        return counter

    def split(self, path: int) -> tuple[int, int]:
        return path >> 48, path & (1 << 48) - 1


class Suffix(Rule):
    """A suffix for (device, as many top bits as it is long): qid_path_suffixmap() made injective."""

    def __init__(self, k: int) -> None:
        super().__init__(k)
        self._full = suffix(FULL_INDEX, k)
        self.last_counter = (1 << 64 - self._full.length) - 1

    def affix(self, index: int) -> Affix:
        if index == FULL_INDEX:
            raise ValueError(f"index {index} is the full map's own")
        return suffix(index, self.k)

    def affixes(self, last: int) -> list[Affix]:
        return suffixes(min(last, LAST_INDEX), self.k)

    def number(self, entry: Entry, inode: int) -> int:
        return inode << entry.length & MAX | entry.affix

    def plain(self, entry: Entry) -> tuple[int, int]:
        return entry.length, entry.affix

    def full_number(self, counter: int) -> int:
        return counter << self._full.length | self._full.bits

    def split(self, path: int) -> tuple[int, int]:
        index, length = decode(path, self.k)
        return index, path >> length


class Qemu(Suffix):
    """A suffix for (device, 16 of the top N bits): qid_path_suffixmap() in QEMU's hw/9pfs/9p.c, to the bit.

    N is what qid_inode_prefix_hash_bits() remembers per device: the length of the affix that was next when
    the device was first seen. Its first entry was made in the same breath and got that affix, so the first
    entry's length says it all, and nothing else needs to be remembered. The inverse gives the inode whose
    lost bits are all clear.
    """

    key_mask = 0xFFFF  # ino_prefix is an uint16_t

    def shift(self, device: Hashable, length: int) -> int:
        levels = self._levels.get(device)
        return levels[0][0] if levels else 64 - length
