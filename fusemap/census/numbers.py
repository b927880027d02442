"""The number of every file, for arrays of them, in each scheme: fusemap's modes, and exhibits that others use.

A `Mapper` gives one number a call. It is asked here once for each stretch of inodes that share their top bits, since
within one all there is to do is shift and add; numpy does that for all files of the stretch. How long a stretch is, the
number itself tells: its affix decodes to the bits it stands in for (fusemap.qid.affix). Full maps and reserved numbers
have no stretches: such files are asked for one by one.

The order in which a mapper first sees devices and inodes decides which affix they get, and in mode qemu what collides.
Here it is the order of the tree: devices by the path at which they are mounted, the top's own first; of each device
first the directory that is mounted, then ascending inodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

import numpy as np

from fusemap.census.hashes import xxh32, xxh64
from fusemap.census.spill import Chunk, Flags, Indices, Numbers
from fusemap.qid import MODES as ALL_MODES
from fusemap.qid import Mapper, decode

MODES: Final = ALL_MODES
"""Schemes that can be mounted: fusemap's --map."""

EXHIBITS: Final = ("xor", "xxh64", "xxh32", "samba")
"""What others do: device XOR inode, hashes of both, and Samba's file id without fusemap."""

SCHEMES: Final = (*MODES, *EXHIBITS)

BITS: Final = {"xxh32": 32}
"""How many bits a scheme's numbers have where that is not 64."""

_FULL_INDEX: Final = 0x10000
_MAX: Final = (1 << 64) - 1
_RESERVED: Final = np.array([0, 1, _MAX - 1, _MAX], dtype=np.uint64)
_PREFIX: Final = 16
_U64: Final = np.uint64


class Tops(NamedTuple):
    """What `numbers` must know of a device: its key and st_dev, the inode at its top, the upper halves of its inodes.

    `halves` are the distinct values of inode >> 32, ascending; no affix is longer than that.
    """

    key: str
    dev: int
    top: int
    halves: list[int]


class Numbering(Protocol):
    """Gives each row of a chunk its number."""

    def __call__(self, chunk: Chunk) -> Numbers: ...


def numbering(scheme: str, devices: list[Tops], mapper: Mapper | None = None) -> Numbering:
    """How `scheme` (of SCHEMES) gives numbers to rows whose device is an index of `devices`.

    `mapper` is one that already knows numbers; ValueError where it is of another mode. Raises MappingExhausted here or
    later where no number is left.
    """
    if scheme == "raw":
        return lambda chunk: chunk.inode
    if scheme in MODES:
        mapper = Mapper(scheme) if mapper is None else mapper
        if mapper.mode != scheme:
            raise ValueError(f"a mapper of mode {mapper.mode} does not give the numbers of {scheme}")
        return Mapped(mapper, devices)
    dev = np.array([device.dev for device in devices], dtype=np.uint64)
    if scheme == "xor":
        return lambda chunk: dev[chunk.device] ^ chunk.inode
    if scheme == "xxh64":
        return lambda chunk: xxh64(dev[chunk.device], chunk.inode)
    if scheme == "xxh32":
        return lambda chunk: xxh32(dev[chunk.device], chunk.inode)
    if scheme == "samba":
        return lambda chunk: _samba(dev, chunk)
    raise ValueError(f"the scheme must be one of {', '.join(SCHEMES)}, not {scheme!r}")


def _samba(dev: Numbers, chunk: Chunk) -> Numbers:
    """vfs_default's file id (fs_file_id in Samba 4.17's source3/modules/vfs_default.c); device 0 is the share's own."""
    low = _U64(0xFFFFFFFF)
    folded = (dev & low) << _U64(32)
    return np.where(chunk.device == 0, chunk.inode, folded[chunk.device] | chunk.inode & low)


class Mapped:
    """Numbers of a mapper, by stretches."""

    def __init__(self, mapper: Mapper, devices: list[Tops]) -> None:
        self._mapper = mapper
        self._keys = [device.key for device in devices]
        # Per stretch: its first inode, the bits of the inode that stay, by how much they are shifted, what is added.
        self._low: list[int] = []
        self._mask: list[int] = []
        self._shift: list[int] = []
        self._affix: list[int] = []
        first, count = [], []
        for device in devices:
            first.append(len(self._low))
            self._stretches(device)
            count.append(len(self._low) - first[-1])
        self._first = np.array(first, dtype=np.int64)
        self._count = np.array(count, dtype=np.int64)
        low, mask, affix = (np.array(of, dtype=np.uint64) for of in (self._low, self._mask, self._affix))
        self._lows, self._masks, self._affixes = low, mask, affix
        self._shifts = np.array([max(shift, 0) for shift in self._shift], dtype=np.uint64)
        self._single = np.array([shift < 0 for shift in self._shift], dtype=np.bool_)

    def _stretches(self, device: Tops) -> None:
        """Finds the stretches of a device; the one at its top comes first in the mapper, not in the list."""
        found: dict[int, tuple[int, int, int, int]] = {}
        low, end = 0, -1
        for half in sorted(device.halves, key=lambda half: (half != device.top >> 32, half)):
            if low <= half << 32 < end:
                continue
            inode = half << 32 | 1 << 31  # in the middle: reserved numbers are at either end
            path = self._mapper.path(device.key, inode)
            if self._mapper.mode == "prefix":
                length, mask, shift, affix = _PREFIX, (1 << 48) - 1, 0, path >> 48 << 48
                full = not path >> 48
            else:
                index, length = decode(path, self._mapper.k)
                mask, shift, affix = _MAX, length, path & (1 << length) - 1
                full = index == _FULL_INDEX
            if full:  # that one number more was given for nothing does no harm
                low, end = half << 32, half + 1 << 32
                found[low] = (low, mask, -1, 0)
                continue
            # In qemu an entry can cover more than this: the rest is another stretch, with the same affix.
            low = inode >> 64 - length << 64 - length
            end = low + (1 << 64 - length)
            found[low] = (low, mask, shift, affix)
        for _, (first, mask, shift, affix) in sorted(found.items()):
            self._low.append(first)
            self._mask.append(mask)
            self._shift.append(shift)
            self._affix.append(affix)

    def __call__(self, chunk: Chunk) -> Numbers:
        stretch = self._first[chunk.device]
        many: Flags = self._count[chunk.device] > 1
        if many.any():
            self._find(chunk, np.flatnonzero(many), stretch)
        numbers: Numbers = (chunk.inode & self._masks[stretch]) << self._shifts[stretch] | self._affixes[stretch]
        alone = self._single[stretch]
        if self._mapper.mode != "raw":
            alone |= np.isin(numbers, _RESERVED)
        for row in np.flatnonzero(alone):
            numbers[row] = self._mapper.path(self._keys[chunk.device[row]], int(chunk.inode[row]))
        return numbers

    def _find(self, chunk: Chunk, rows: Indices, stretch: Indices) -> None:
        """Says which of its device's stretches each of these rows belongs to."""
        rows = rows[np.argsort(chunk.device[rows], kind="stable")]
        devices, starts = np.unique(chunk.device[rows], return_index=True)
        for device, some in zip(devices, np.split(rows, starts[1:]), strict=True):
            first = self._first[device]
            lows = self._lows[first : first + self._count[device]]
            stretch[some] = first + np.searchsorted(lows, chunk.inode[some], "right") - 1


def upper_halves(chunks: Iterable[Chunk], devices: int) -> tuple[list[list[int]], list[int], list[int]]:
    """For each device (int, how many): the distinct inode >> 32, the highest inode, and the number of rows."""
    halves: list[set[int]] = [set() for _ in range(devices)]
    highest = np.zeros(devices, dtype=np.uint64)
    rows = np.zeros(devices, dtype=np.int64)
    for chunk in chunks:
        np.maximum.at(highest, chunk.device, chunk.inode)
        rows += np.bincount(chunk.device, minlength=devices)
        both = np.unique(chunk.device.astype(np.uint64) << _U64(32) | chunk.inode >> _U64(32))
        for device, half in zip((both >> _U64(32)).tolist(), (both & _U64(0xFFFFFFFF)).tolist(), strict=True):
            halves[device].add(half)
    return [sorted(some) for some in halves], highest.tolist(), rows.tolist()
