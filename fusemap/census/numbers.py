"""The number of every file, for arrays of them, in each scheme: fusemap's modes, and exhibits that others use.

A `Mapper` gives one number a call. It is asked here once for each of its entries (fusemap.qid.rules), since for the
files of one entry all there is to do is shift and add; numpy does that for all of them. Which entry a file has is
looked up as the mapper itself does, by the top bits of its inode.

Files that no entry serves have a number of their own from the full map: the few whose number would be a reserved one,
and all that come when the 65535 affixes are used up. That takes less than one might think: where a file system makes
its inode numbers by hashing to 64 bits, every few files need another affix. There can be millions of such files, a
record of each in a mapper would be gigabytes, and no two have one number, whichever it is. So their number is not asked
for: it is told as 0, which is no file's. Only those that the mapper knows already have theirs.

The order in which a mapper first sees devices and inodes decides which affix they get, and in mode qemu what collides.
Here it is the order of the tree: devices by the path at which they are mounted, the top's own first; of each device
first the directory that is mounted, then ascending inodes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fusemap.census.hashes import xxh32, xxh64
from fusemap.census.spill import Chunk, Indices, Numbers
from fusemap.errors import MappingExhausted
from fusemap.qid import MODES as ALL_MODES
from fusemap.qid import Entry, Mapper, decode

MODES: Final = ALL_MODES
"""Schemes that can be mounted: fusemap's --map."""

EXHIBITS: Final = ("xor", "xxh64", "xxh32", "samba")
"""What others do: device XOR inode, hashes of both, and Samba's file id without fusemap."""

SCHEMES: Final = (*MODES, *EXHIBITS)

BITS: Final = {"xxh32": 32}
"""How many bits a scheme's numbers have where that is not 64."""

Halves: TypeAlias = npt.NDArray[np.uint32]

_FULL_INDEX: Final = 0x10000
_MAX: Final = (1 << 64) - 1
_PREFIX: Final = 16
_KEY: Final = 0xFFFF  # the bits of a key in modes prefix and qemu
_PATIENCE: Final = 1 << 16
_MERGE: Final = 1 << 20
_FEW: Final = 64  # for so many, a list is quicker
_U64: Final = np.uint64


class Tops(NamedTuple):
    """What `numbers` must know of a device: its key and st_dev, the inode at its top, the upper halves of its inodes.

    `halves` are the distinct values of inode >> 32, ascending; no affix is longer than that.
    """

    key: str
    dev: int
    top: int
    halves: Halves


class Numbering(Protocol):
    """Gives each row of a chunk its number; where `own`, 0 stands for one of the file's own, from the full map."""

    own: bool

    def __call__(self, chunk: Chunk) -> Numbers: ...

    def room(self) -> int | None:
        """How many numbers the full map has for files that it does not know yet; None where nobody needs one."""


class Plain:
    """A numbering that takes no more than a formula."""

    own = False

    def __init__(self, formula: Callable[[Chunk], Numbers]) -> None:
        self._formula = formula

    def __call__(self, chunk: Chunk) -> Numbers:
        return self._formula(chunk)

    def room(self) -> int | None:
        """There is no full map."""
        return None


def numbering(scheme: str, devices: list[Tops], mapper: Mapper | None = None) -> Numbering:
    """How `scheme` (of SCHEMES) gives numbers to rows whose device is an index of `devices`.

    `mapper` is one that already knows numbers; ValueError where it is of another mode.
    """
    if scheme == "raw":
        return Plain(lambda chunk: chunk.inode)
    if scheme in MODES:
        mapper = Mapper(scheme) if mapper is None else mapper
        if mapper.mode != scheme:
            raise ValueError(f"a mapper of mode {mapper.mode} does not give the numbers of {scheme}")
        return Mapped(mapper, devices)
    dev = np.array([device.dev for device in devices], dtype=np.uint64)
    if scheme == "xor":
        return Plain(lambda chunk: dev[chunk.device] ^ chunk.inode)
    if scheme == "xxh64":
        return Plain(lambda chunk: xxh64(dev[chunk.device], chunk.inode))
    if scheme == "xxh32":
        return Plain(lambda chunk: xxh32(dev[chunk.device], chunk.inode))
    if scheme == "samba":
        return Plain(lambda chunk: _samba(dev, chunk))
    raise ValueError(f"the scheme must be one of {', '.join(SCHEMES)}, not {scheme!r}")


def _samba(dev: Numbers, chunk: Chunk) -> Numbers:
    """vfs_default's file id (fs_file_id in Samba 4.17's source3/modules/vfs_default.c); device 0 is the share's own."""
    low = _U64(0xFFFFFFFF)
    folded = (dev & low) << _U64(32)
    return np.where(chunk.device == 0, chunk.inode, folded[chunk.device] | chunk.inode & low)


class Mapped:
    """Numbers of a mapper, by its entries."""

    own = True

    def __init__(self, mapper: Mapper, devices: list[Tops]) -> None:
        self._mapper = mapper
        self._keys = [device.key for device in devices]
        self._room: int | None = None
        self._out = False  # no affix is left
        self._blocked = 0
        self._known = self._full_map()
        first = {key: entries[0].length for key, entries in self._entries().items()}
        served = [self._ask(number, device, first.get(device.key, 0)) for number, device in enumerate(devices)]
        self._lay_out(served)

    def room(self) -> int | None:
        """How many numbers the full map has for files that it does not know yet; None where nobody needs one."""
        return self._room

    def _entries(self) -> dict[str, list[Entry]]:
        """The entries of each device that is here, oldest first."""
        found: dict[str, list[Entry]] = {}
        here = set(self._keys)
        for entry in self._mapper.entries():
            if entry.device in here:
                found.setdefault(str(entry.device), []).append(entry)
        return found

    def _full_map(self) -> dict[int, tuple[Numbers, Numbers]]:
        """Those inodes of each device (index) that the mapper's full map knows, ascending, and their numbers."""
        index = {key: number for number, key in enumerate(self._keys)}
        found: dict[int, list[tuple[int, int]]] = {}
        for record in self._mapper.full():
            if record.generation is None and record.device in index:
                path = self._mapper.peek(record.device, record.inode)
                if path is not None:
                    found.setdefault(index[str(record.device)], []).append((record.inode, path))
        known = {}
        for number, pairs in found.items():
            inodes, paths = np.array(sorted(pairs), dtype=np.uint64).T.copy()
            known[number] = (inodes, paths)
        return known

    # Making entries ---------------------------------------------------------------------------------------------------

    def _ask(self, number: int, device: Tops, bits: int) -> bool:
        """Has the mapper make the entries that a device (index) needs; whether there is one for each of its inodes.

        `bits` is the length of the first entry that it has already, 0 without one.
        """
        halves: Sequence[int] | Halves = device.halves.tolist() if len(device.halves) < _FEW else device.halves
        if not len(halves):
            return True
        top = device.top >> 32
        at = bisect_left(halves, top)
        first = top if at < len(halves) and halves[at] == top else int(halves[0])
        lengths = [self._length(number, first)]
        if len(halves) == 1:
            return lengths[0] > 0
        if self._mapper.mode == "suffix":
            at = 0
            while at < len(halves) and not self._out:
                half = int(halves[at])
                length = self._length(number, half)
                lengths.append(length)
                at = bisect_left(halves, (half >> 32 - length) + 1 << 32 - length if length else half + 1, at)
        else:
            bits = _PREFIX if self._mapper.mode == "prefix" else bits or lengths[0] or 32
            keys = device.halves >> np.uint32(32 - bits) & np.uint32(_KEY)
            for half in device.halves[np.sort(np.unique(keys, return_index=True)[1])].tolist():
                if self._out:
                    break
                lengths.append(self._length(number, half))
        return not self._out and all(lengths)

    def _length(self, number: int, half: int) -> int:
        """How many bits the affix has that inodes with this upper half get; 0 where they are for the full map."""
        if self._out:
            return 0
        path = self._path(self._keys[number], half << 32 | 1 << 31)  # in the middle: reserved numbers are at either end
        if path is not None and self._mapper.mode == "prefix" and path >> 48:
            return _PREFIX
        if path is not None and self._mapper.mode != "prefix":
            index, length = decode(path, self._mapper.k)
            if index != _FULL_INDEX:
                return length
        # Where files of this device are in the full map already, an affix that is free may not be for it, since it
        # would give them other numbers. The next half may have better luck; that is not tried for ever.
        self._blocked += 1
        self._out = path is None or number not in self._known or self._blocked > _PATIENCE
        return 0

    def _path(self, key: str, inode: int) -> int | None:
        """The number that the mapper gives, None where none is left. Sees how much room there is in the full map."""
        before = self._mapper.full_used()
        try:
            path = self._mapper.path(key, inode)
        except MappingExhausted:
            self._room = 0
            return None
        if self._room is None and self._mapper.full_used() > before:
            length = _PREFIX if self._mapper.mode == "prefix" else decode(path, self._mapper.k)[1]
            counter = path if self._mapper.mode == "prefix" else path >> length
            self._room = (1 << 64 - length) - counter  # with this one, which may be no file's
        return path

    # Giving numbers ---------------------------------------------------------------------------------------------------

    def _lay_out(self, served: list[bool]) -> None:
        """Puts all entries into arrays, and how they are found."""
        prefix, qemu = self._mapper.mode == "prefix", self._mapper.mode == "qemu"
        lengths: list[int] = []
        affixes: list[int] = []
        self._one = np.full(len(self._keys), -1, dtype=np.int64)  # the entry of a device that has no other
        self._levels: dict[int, list[tuple[np.uint64, Numbers, Indices]]] = {}
        known = self._entries()
        for number, key in enumerate(self._keys):
            entries = known.get(key, [])
            levels: dict[int, list[tuple[int, int]]] = {}
            for entry in entries:
                shift = 64 - (entries[0].length if qemu else entry.length)
                levels.setdefault(shift, []).append((entry.top, len(lengths)))
                lengths.append(0 if prefix else entry.length)
                affixes.append(entry.affix << 48 if prefix else entry.affix)
            if served[number] and len(entries) == 1:
                self._one[number] = len(lengths) - 1
                continue
            self._levels[number] = []
            for shift, pairs in levels.items():
                pairs.sort()
                keys, where = np.array([top for top, _ in pairs], dtype=_U64), np.array([at for _, at in pairs])
                self._levels[number].append((_U64(shift), keys, where))
        # The last is for rows that have none
        self._lengths = np.array([*lengths, 0], dtype=_U64)
        self._affixes = np.array([*affixes, 0], dtype=_U64)
        self._kept = _U64((1 << 64 - _PREFIX) - 1 if prefix else _MAX)
        self._key = _U64(_KEY if qemu else _MAX)

    def __call__(self, chunk: Chunk) -> Numbers:
        entry = self._one[chunk.device]
        sought = np.flatnonzero(entry < 0)
        if len(sought):
            self._look_up(chunk, sought, entry)
        numbers: Numbers = (chunk.inode & self._kept) << self._lengths[entry] | self._affixes[entry]
        own = (entry < 0) | (numbers + _U64(2) < _U64(4))  # reserved: the two highest, 0 and 1
        if own.any():
            self._single(chunk, np.flatnonzero(own), numbers)
        return numbers

    def _look_up(self, chunk: Chunk, rows: Indices, entry: Indices) -> None:
        """Finds the entries of these rows, one device after the other."""
        rows = rows[np.argsort(chunk.device[rows], kind="stable")]
        devices, starts = np.unique(chunk.device[rows], return_index=True)
        for device, some in zip(devices.tolist(), np.split(rows, starts[1:]), strict=True):
            for shift, keys, where in self._levels[device]:
                key = chunk.inode[some] >> shift & self._key
                at = np.searchsorted(keys, key)
                at[at == len(keys)] = 0
                hit = keys[at] == key
                entry[some[hit]] = where[at[hit]]
                some = some[~hit]

    def _single(self, chunk: Chunk, rows: Indices, numbers: Numbers) -> None:
        """Tells the numbers of these rows, which are for the full map."""
        numbers[rows] = 0
        for device, (inodes, paths) in self._known.items():
            some = rows[chunk.device[rows] == device]
            at = np.searchsorted(inodes, chunk.inode[some])
            at[at == len(inodes)] = 0
            hit = inodes[at] == chunk.inode[some]
            numbers[some[hit]] = paths[at[hit]]
        if self._room is None and not numbers[rows].all():
            row = rows[numbers[rows] == 0][0]
            self._path(self._keys[chunk.device[row]], int(chunk.inode[row]))


def upper_halves(chunks: Iterable[Chunk], devices: int) -> tuple[list[Halves], list[int], list[int]]:
    """For each device (int, how many): the distinct inode >> 32, the highest inode, and the number of rows."""
    highest = np.zeros(devices, dtype=np.uint64)
    rows = np.zeros(devices, dtype=np.int64)
    merged, waiting = np.empty(0, dtype=np.uint64), [np.empty(0, dtype=np.uint64)]
    for chunk in chunks:
        np.maximum.at(highest, chunk.device, chunk.inode)
        rows += np.bincount(chunk.device, minlength=devices)
        waiting.append(_distinct(chunk.device.astype(np.uint64) << _U64(32) | chunk.inode >> _U64(32)))
        if sum(map(len, waiting)) > max(_MERGE, len(merged)):
            merged = _distinct(np.concatenate([merged, *waiting]))
            waiting.clear()
    merged = _distinct(np.concatenate([merged, *waiting]))
    ends = np.searchsorted(merged >> _U64(32), np.arange(1, devices, dtype=np.uint64))
    halves = np.split(merged.astype(np.uint32), ends) if devices else []  # the lower half of each
    return halves, highest.tolist(), rows.tolist()


def _distinct(values: Numbers) -> Numbers:
    """The values (which are sorted in place) without those that come again."""
    values.sort()
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values
