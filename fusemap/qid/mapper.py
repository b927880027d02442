"""`Mapper`: from (device, inode) to a QID path, and back.

A mapper keeps two kinds of record. Entries (see rules.py) serve whole devices at once. The full map serves
single files: all that come when no affix is left, and the few whose number under their entry would be
reserved. First an inode's entry decides, then the full map, and whatever has been decided once stays; see
`learn`.

Reserved are 0 ("no inode"), 1 (FUSE's root node), 2^64 - 1 and 2^64 - 2 (Linux's 9P client adds 2 to a path
and would get 1 and 0). Among inodes that share their top bits, paths grow with the inode, so reserved ones
can only stand at either end: suffix 1 makes 1 of the smallest inode, suffixes 1 and 110 make 2^64 - 1 and
2^64 - 2 of the largest (k = 0; likewise for others), prefix 65535 makes both of the two largest, and nothing
makes 0. Hence the hot path needs no test for them. What it holds per device is the range of inodes for which
shifting and adding the affix is all there is to do, cut short at the ends where need be, and the one test for
that range answers everything at once: top bits that belong to another entry, a reserved number, no unsigned
64-bit number at all.

The mapper takes no lock. Its tables only grow, one dictionary item at a time, the inverse before what leads
to it; so one thread at a time may call `path` or `learn` while others call `peek` and `locate`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from functools import partial

from ..errors import MappingExhausted
from .affix import LAST_INDEX, check_k
from .entries import Allocator, Entry, FullEntry, Holder, Record
from .owners import Owners
from .rules import MAX, Prefix, Qemu, Rule, Suffix

__all__ = ["MODES", "Mapper"]

MODES = ("raw", "prefix", "qemu", "suffix")
"""The modes that `Mapper` knows."""

FIRST_PATH = 2
"""The smallest path that is not reserved."""

LAST_PATH = MAX - 2
"""The largest path that is not reserved."""

_RULES: dict[str, type[Rule]] = {"prefix": Prefix, "qemu": Qemu, "suffix": Suffix}

_Slot = tuple[int, int, int, int]
_NOTHING: _Slot = (1, 0, 0, 0)  # no inode is at least 1 and at most 0
_EVERYTHING: _Slot = (0, MAX, 0, 0)


class Mapper:
    """Gives every (device, inode) a number of its own, an unsigned 64-bit QID path, and finds it back.

    `mode` (str) is how:

    * ``raw``: the inode itself, whatever the device. Not unique: the disease, to be shown. Uses no entries.
    * ``prefix``: 16 bits in front stand for the device and the inode's top 16 bits. Unique; large numbers.
    * ``qemu``: bit for bit the numbers of QEMU's 9pfs with multidevs=remap, if asked in the same order.
      **Not unique** for inodes with high bits set. (QEMU knows no reserved numbers; the handful of inodes
      that could get one are in the full map here.)
    * ``suffix``: as QEMU's, with keys that lose no bits. Unique; small numbers, and QEMU's own wherever the
      inodes' top bits are clear.

    `k` (int, 0 to 8) is the order of the Exp-Golomb suffixes: the larger, the longer the first suffixes and
    the shorter the last ones. `entries` are records to start from, in the order in which they were made.
    `source` (Allocator) makes new ones; without it, they are made in memory. ValueError for an unknown mode
    or order, and for records that `learn` refuses.

    With `by_generation`, `path_of` gives no path to a second file, also where the host gives its inode number to
    one (see owners.py).

    Source: stat_to_qid() and what it calls in QEMU's hw/9pfs/9p.c.

    >>> mapper = Mapper()
    >>> mapper.path("home", 12), mapper.path("usr", 12), mapper.path("home", 13)
    (25, 98, 27)
    >>> mapper.locate(98)
    ('usr', 12)
    """

    def __init__(
        self,
        mode: str = "suffix",
        k: int = 0,
        entries: Iterable[Record] = (),
        source: Allocator | None = None,
        by_generation: bool = False,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"the mode must be one of {', '.join(MODES)}, not {mode!r}")
        check_k(k)
        self.mode = mode
        self.k = k
        self._rule = _RULES[mode](k) if mode in _RULES else None
        self._source = source if source is not None else Allocator()
        # By device: lowest and highest inode for which `inode << shift | bits` is the path; shift; bits.
        self._hot: dict[Hashable, _Slot] = {}
        self._full: dict[Hashable, dict[int, int]] = {}
        self._owners = Owners()
        self._new_paths = by_generation and mode in _RULES
        self._full_entries: dict[int, FullEntry] = {}
        self._learn_all(list(entries))

    def __repr__(self) -> str:
        counts = f"{self.used()} entries, {self.full_used()} in the full map"
        return f"<Mapper mode={self.mode!r} k={self.k}: {counts}>"

    def path(self, device: Hashable, inode: int) -> int:
        """Return the QID path (int, 2 to 2^64 - 3, in `raw` 0 to 2^64 - 1) of an inode, making it if need be.

        `device` is any hashable, `inode` an int from 0 to 2^64 - 1, else ValueError. Raises MappingExhausted
        (an OSError with ENFILE) for a file that has no number yet when none is left; others keep theirs.

        >>> Mapper("prefix").path(device=7, inode=12) == (1 << 48) + 12
        True
        """
        try:
            low, high, shift, bits = self._hot[device]
            if low <= inode <= high:
                return inode << shift | bits
        except KeyError:
            pass
        return self._cold(device, inode)

    def peek(self, device: Hashable, inode: int) -> int | None:
        """Return the QID path that an inode has without making anything, or None where `path` would have to.

        Never calls the allocator, hence never waits. Arguments and ValueError as for `path`.

        >>> mapper = Mapper()
        >>> mapper.peek("home", 12), mapper.path("home", 13), mapper.peek("home", 12)
        (None, 27, 25)
        """
        if not 0 <= inode <= MAX:
            raise ValueError(f"an inode must be an unsigned 64-bit number, 0 to {MAX}, not {inode}")
        rule = self._rule
        if rule is None:
            return inode
        entry = rule.find(device, inode)
        if entry is not None:
            path = rule.number(entry, inode)
            if FIRST_PATH <= path <= LAST_PATH:
                return path
        return self._full.get(device, {}).get(inode)

    @property
    def by_generation(self) -> bool:
        """Whether `path_of` can differ from `path`: it was asked for, or such paths have been given before."""
        return self._new_paths or bool(self._owners)

    def path_of(self, device: Hashable, inode: int, generation: int) -> int:
        """Return the QID path of the file that has this inode number and generation (int, up to 64 bits).

        It is `path` for the first one that is seen under the number, and without `by_generation` for every one that
        was not given a path of its own before. Errors as for `path`.

        >>> mapper = Mapper(by_generation=True)
        >>> mapper.path_of("home", 12, 7), mapper.path_of("home", 12, 8), mapper.path_of("home", 12, 7)
        (25, 8590000128, 25)
        """
        path = self._owners.path(device, inode, generation)
        if path is None and self._new_paths:
            self._source.allocate(device, partial(self._build_owner, device, inode, generation), self.learn)
            path = self._owners.path(device, inode, generation)
        return path or self.path(device, inode)

    def peek_of(self, device: Hashable, inode: int, generation: int) -> int | None:
        """Return what `path_of` returns without making anything, or None where that would have to."""
        path = self._owners.path(device, inode, generation)
        return None if path is None and self._new_paths else path or self.peek(device, inode)

    def locate(self, path: int) -> tuple[Hashable, int]:
        """Return the (device, inode) that has this QID path (int): the inverse of `path`, without a search.

        It answers for every inode that an entry covers, whether `path` was ever asked for it or not. Raises
        LookupError for a path that belongs to nothing so far, or never can (the reserved ones, and those that
        are no 64-bit numbers).

        Where a mode is not unique, neither is its inverse. In `qemu`, several inodes of one device can
        share a path; the answer is the one whose bits that QEMU loses are all clear, which does have that
        path, but may not exist. In `raw`, there is an answer only if exactly one device has been seen by
        `path`.
        """
        rule = self._rule
        if rule is None:
            return self._locate_raw(path)
        if not FIRST_PATH <= path <= LAST_PATH:
            raise LookupError(f"no file has the path {path}: it is reserved, or no unsigned 64-bit number")
        try:
            index, rest = rule.split(path)
        except ValueError:
            raise LookupError(f"no file has the path {path}: no affix that is ever given ends it") from None
        if index == rule.full_index:
            full = self._full_entries.get(rest)
            if full is not None:
                return full.device, full.inode
        else:
            entry = rule.entries.get(index)
            if entry is not None:
                return entry.device, rule.inode(entry, rest)
        raise LookupError(f"no file has the path {path} so far")

    def learn(self, record: Record) -> None:
        """Take in a record that was made elsewhere: by another process, or in an earlier life of the table.

        Records come in the order in which they were made, at least those of one device. One that is known
        already is ignored. Raises ValueError, and changes nothing, for one that does not belong to this
        mode and `k`, or would give a path, or a file that has one, to another: an index or counter that is
        taken, an affix shorter than the device's longest, an entry over inodes that have a number, a file
        in the full map that an entry serves.
        """
        if self._rule is None:
            raise ValueError("mode raw has no entries to learn")
        if isinstance(record, FullEntry):
            self._learn_full(self._rule, record)
        elif isinstance(record, Holder):
            self._owners.learn(record)
            self._source.note(record)
        else:
            self._learn_entry(self._rule, record)

    def entry(self, index: int, device: Hashable, top: int) -> Entry:
        """Return the Entry of an affix index (int) for a device and its inodes' top bits (int), for `learn`.

        It is made from what this mode and `k` say of the index, and not learned yet. ValueError for an index
        outside 1 to 65535, and in `raw`.

        >>> Mapper().entry(5, "home", 0)
        Entry(index=5, device='home', length=5, affix=20, top=0)
        """
        if self._rule is None:
            raise ValueError("mode raw has no entries")
        return self._rule.entry(index, device, top)

    def entries(self) -> Iterator[Entry]:
        """Iterate over the entries, oldest first, as they are now; none in `raw`.

        >>> mapper = Mapper()
        >>> _ = mapper.path("home", 12)
        >>> list(mapper.entries())
        [Entry(index=1, device='home', length=1, affix=1, top=0)]
        """
        return iter(() if self._rule is None else tuple(self._rule.entries.values()))

    def full(self) -> Iterator[FullEntry]:
        """Iterate over the files of the full map, oldest first, as they are now."""
        return iter(tuple(self._full_entries.values()))

    def holders(self) -> Iterator[Holder]:
        """Iterate over the files that hold their inode's number, as they are now; see `path_of`."""
        return iter(tuple(self._owners.records()))

    def used(self) -> int:
        """Return how many affix indices are taken, of 65535."""
        return 0 if self._rule is None else len(self._rule.entries)

    def full_used(self) -> int:
        """Return how many files are in the full map."""
        return len(self._full_entries)

    def _cold(self, device: Hashable, inode: int) -> int:
        """Do what `path` does for an inode that the hot path does not serve, known or not."""
        path = self.peek(device, inode)
        if path is None:
            return self._make(device, inode)
        if device not in self._hot:
            rule = self._rule
            entry = None if rule is None else rule.key_zero(device)
            self._hot[device] = _EVERYTHING if rule is None else _NOTHING if entry is None else _slot(rule, entry)
        return path

    def _make(self, device: Hashable, inode: int) -> int:
        build = partial(self._build, device, inode)
        # Two records at most: only its entry tells that an inode's number is reserved and needs the full map.
        for _ in range(2):
            self._source.allocate(device, build, self.learn)
            path = self.peek(device, inode)
            if path is not None:
                return path
        raise RuntimeError(f"{self._source!r} did not pass on the records that it made")

    def _build(self, device: Hashable, inode: int, index: int, counter: int) -> Record | None:
        """Make the next record that an inode needs in order to have a number; see Allocator.allocate."""
        rule = self._rule
        if rule is None or self.peek(device, inode) is not None:
            return None
        if index <= LAST_INDEX and rule.find(device, inode) is None:
            entry = rule.build(index, device, inode)
            # Where indices had run out and are free again, files that went to the full map hold their ground.
            if self._renumbered(rule, entry) is None:
                return entry
        return FullEntry(self._counter(rule, counter), device, inode)

    def _counter(self, rule: Rule, counter: int) -> int:
        counter = max(counter, rule.first_counter)
        if counter > rule.last_counter:
            raise MappingExhausted(
                f"all {rule.last_counter} numbers of the full map are given: export fewer devices or files"
            )
        return counter

    def _build_owner(self, device: Hashable, inode: int, generation: int, index: int, counter: int) -> Record | None:
        """Make the record that a file needs in order to be told from others with its inode number."""
        rule = self._rule
        if rule is None or self._owners.path(device, inode, generation) is not None:
            return None
        if not self._owners.held(device, inode):
            return Holder(device, inode, generation)
        return FullEntry(self._counter(rule, counter), device, inode, generation)

    def _learn_all(self, records: list[Record]) -> None:
        """Do what `learn` does for each. Most are the only entry of their device, and there may be very many."""
        rule, note = self._rule, self._source.note
        others: Iterable[Record] = records
        if rule is not None:
            indices = [record.index for record in records if type(record) is Entry]
            last = max(indices, default=0)
            # For a few with high indices it would be more work to have all affixes at hand than to take each by itself.
            affixes = rule.affixes(last) if 8 * len(indices) >= last else []
            # What the hot path needs is found when a device is asked for: see _cold.
            others = rule.add_firsts(records, affixes, self._full, note)
        for record in others:
            if rule is not None and type(record) is Holder and self._owners.learn_first(record):
                note(record)
            else:
                self.learn(record)

    def _learn_entry(self, rule: Rule, entry: Entry) -> None:
        if rule.entries.get(entry.index) == entry:
            return
        rule.check(entry)
        inode = self._renumbered(rule, entry)
        if inode is not None:
            raise ValueError(f"{entry} would renumber inode {inode}, which the full map serves")
        rule.add(entry)
        if entry.top == 0:
            self._hot[entry.device] = _slot(rule, entry)
        else:
            self._hot.setdefault(entry.device, _NOTHING)
        self._source.note(entry)

    def _renumbered(self, rule: Rule, entry: Entry) -> int | None:
        """Return an inode of the full map that would get another number if the entry were added, or None."""
        for inode in self._full.get(entry.device, ()):
            if rule.covers(entry, inode) and FIRST_PATH <= rule.number(entry, inode) <= LAST_PATH:
                return inode
        return None

    def _learn_full(self, rule: Rule, full: FullEntry) -> None:
        known = self._full_entries.get(full.counter)
        if known == full:
            return
        if known is not None:
            raise ValueError(f"{full} has the counter of {known}")
        if not rule.first_counter <= full.counter <= rule.last_counter:
            raise ValueError(f"{full} has a counter outside {rule.first_counter} to {rule.last_counter}")
        if full.generation is not None:
            self._owners.learn(full, rule.full_number(full.counter))
            self._full_entries[full.counter] = full
            self._source.note(full)
            return
        if self.peek(full.device, full.inode) is not None:
            raise ValueError(f"{full} would renumber its inode, which has a number already")
        self._full_entries[full.counter] = full
        self._full.setdefault(full.device, {})[full.inode] = rule.full_number(full.counter)
        self._hot.setdefault(full.device, _NOTHING)
        self._source.note(full)

    def _locate_raw(self, path: int) -> tuple[Hashable, int]:
        if not 0 <= path <= MAX:
            raise LookupError(f"no file has the path {path}: it is not an unsigned 64-bit number")
        if len(self._hot) != 1:
            raise LookupError(f"mode raw cannot tell the device of path {path}: it has seen {len(self._hot)}")
        (device,) = self._hot
        return device, path


def _slot(rule: Rule, entry: Entry) -> _Slot:
    """Return the hot path's slot for an entry whose key is 0: its plain inodes, without reserved paths."""
    shift, bits = rule.plain(entry)
    low, high = 0, (1 << 64 - entry.length) - 1
    while (low << shift | bits) < FIRST_PATH:
        low += 1
    while (high << shift | bits) > LAST_PATH:
        high -= 1
    return low, high, shift, bits
