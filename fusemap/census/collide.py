"""All files whose number is another file's as well: every one of them, in bounded memory.

The numbers are cut into parts by their value, so that equal ones are in the same part and each part fits in memory. A
part is sorted, which shows the numbers that come twice; only the rows that have those are looked at again. They may be
names of one file (hard links, bind mounts), which have one device and inode; what is left are collisions. They are kept
on disk, a list for each degree of harm, since in mode raw half of all files can be among them.

Files from the full map have a number of their own, so they are not compared; they are only counted, each once.

Why numpy: in most schemes hardly any numbers come twice, and then one sort of plain numbers is all there is to do. With
ten million files that took 1.2 s where duckdb took 6 s to group the same in a table, with twice the memory; sqlite3
would take a minute for a table and its index. Only where nearly all files collide duckdb is quicker, by about a third.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Final, NamedTuple

import numpy as np

from fusemap.census.numbers import Numbering
from fusemap.census.spill import Chunk, Flags, Indices, Numbers, Rows, discard, scratch, writing

HARMS: Final = ("loop", "error", "mixed")
"""What a collision does to those who go by numbers, the worst first: two directories are a loop to find and du and make
kernels confuse whole trees; a directory and a file are EIO in a 9P client; two files are taken for hard links of one,
and one's data is read for the other's."""

PART: Final = 1 << 22
"""The most rows that are sorted at once, but for chance."""

_U64: Final = np.uint64
_NONE: Final = _U64(0)  # what stands for a number from the full map
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: consecutive numbers go far apart
# How many members the group has is told with each of them, and is negative for directories.
_RECORD: Final = np.dtype([("number", "<u8"), ("inode", "<u8"), ("row", "<i8"), ("device", "<i4"), ("size", "<i4")])
_RECORDS: Final = 8192  # read at once


class Member(NamedTuple):
    """One file of a collision: one of its paths, relative to the top; the device's index; and the inode."""

    path: bytes
    device: int
    inode: int
    directory: bool


class Collision(NamedTuple):
    """Files that have one number. `harm` is one of HARMS."""

    number: int
    harm: str
    members: list[Member]


class Found:
    """What was found for one scheme. `groups` and `files` are counts by harm; close it."""

    def __init__(self, devices: int, directory: str | None = None) -> None:
        self.groups = dict.fromkeys(HARMS, 0)
        self.files = dict.fromkeys(HARMS, 0)
        self.pairs = 0
        """Pairs of files with one number, as the birthday estimate counts them."""
        self.rows = 0
        self.again = 0
        """Rows that are further names of a file."""
        self.own = 0
        """Files for which the full map has to find a number."""
        self.again_on = np.zeros(devices, dtype=np.int64)
        self.colliding_on = np.zeros(devices, dtype=np.int64)
        self._directory = directory
        self._lists: dict[str, IO[bytes]] = {}

    def close(self) -> None:
        """Forgets the collisions themselves; counts stay."""
        for file in self._lists.values():
            discard(file)

    def keep(self, harm: str, records: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        """Writes down the members of collisions of one degree of harm, group after group."""
        if harm not in self._lists:
            self._lists[harm] = scratch(self._directory)
        with writing(self._directory):
            self._lists[harm].write(records.view(np.uint8).data)
            self._lists[harm].flush()

    def members(self) -> Iterator[tuple[Indices, Numbers]]:
        """Device and inode of every colliding file that was kept, many at a time."""
        for harm in self._lists:
            for records in self._records(harm):
                yield records["device"].astype(np.int64), records["inode"].astype(np.uint64)

    def numbers(self) -> Iterator[Numbers]:
        """The number of every colliding file that was kept, many at a time."""
        for harm in self._lists:
            for records in self._records(harm):
                yield records["number"].astype(np.uint64)

    def collisions(self, rows: Rows, harms: Sequence[str] = HARMS) -> Iterator[Collision]:
        """Every collision, the most harmful first, and each group's paths in their order."""
        for harm in harms:
            members: list[tuple[bytes, int, int, bool]] = []
            for records in self._records(harm):
                for number, inode, row, device, size in records.tolist():
                    members.append((rows.path(row), device, inode, size < 0))
                    if len(members) == abs(size):
                        members.sort()
                        yield Collision(number, harm, [Member(*member) for member in members])
                        members.clear()

    def begun(self, rows: Rows, harm: str, most: int) -> Iterator[tuple[Collision, int]]:
        """Every collision of a degree of harm, with its first members only, and how many it has in all.

        For pictures: a number that thirty thousand files share costs no more than another one.
        """
        file, at = self._lists.get(harm), 0
        while file is not None:
            records = np.frombuffer(os.pread(file.fileno(), most * _RECORD.itemsize, at), dtype=_RECORD)
            if not len(records):
                return
            size = abs(int(records["size"][0]))
            at += size * _RECORD.itemsize
            first = records[:size].tolist()
            members = sorted(Member(rows.path(row), device, inode, own < 0) for _, inode, row, device, own in first)
            yield Collision(first[0][0], harm, members), size

    def _records(self, harm: str) -> Iterator[np.ndarray[tuple[int], np.dtype[np.void]]]:
        file, at = self._lists.get(harm), 0
        while file is not None:
            data = os.pread(file.fileno(), _RECORDS * _RECORD.itemsize, at)
            if not data:
                return
            at += len(data)
            yield np.frombuffer(data, dtype=_RECORD)


def find(
    rows: Rows,
    numbers: Numbering,
    devices: int,
    keep: bool,
    directory: str | None = None,
    part: int = PART,
    progress: Callable[[float], None] = lambda done: None,
) -> Found:
    """Finds every collision of a numbering. With `keep`, they can be listed afterwards and not only counted.

    `devices` (int) is how many there are; `directory` where collisions go; `progress` is called now and then with what
    part of the work is done, 0 to 1. Raises Refused where `directory` is full.
    """
    found = Found(devices, directory)
    found.rows = len(rows)
    parts = -(-len(rows) // part)
    try:
        for number in range(parts):
            _part(rows, numbers, number, parts, found, keep, progress)
    except BaseException:
        found.close()
        raise
    return found


def _part(
    rows: Rows, numbers: Numbering, number: int, parts: int, found: Found, keep: bool, progress: Callable[[float], None]
) -> None:
    def mine(chunk: Chunk, passes: int) -> tuple[Numbers, Indices]:
        values = numbers(chunk)
        progress((number + (passes + (chunk.start + len(values)) / len(rows)) / 2) / parts)
        if parts == 1:
            return values, np.arange(len(values))
        # Files from the full map are told apart by their inode, and that is spread likewise.
        spread = np.where(values == _NONE, chunk.inode, values) if numbers.own else values
        at = np.flatnonzero(_of_part(spread, number, parts))
        return values[at], at

    taken = []
    own = []
    for chunk in rows.chunks():
        values, at = mine(chunk, 0)
        if numbers.own:
            full = values == _NONE
            if full.any():
                own.append((chunk.device[at[full]], chunk.inode[at[full]]))
                values = values[~full]
        taken.append(values)
    if own:
        found.own += _distinct(np.concatenate([some for some, _ in own]), np.concatenate([some for _, some in own]))
        del own
    every = np.concatenate(taken)
    del taken
    every.sort()
    twice = every[1:][every[1:] == every[:-1]]
    del every
    if not len(twice):
        return
    twice = twice[np.append(True, twice[1:] != twice[:-1])]
    hits: list[tuple[Numbers, Chunk, Indices]] = []
    for chunk in rows.chunks():
        values, at = mine(chunk, 1)
        place = np.searchsorted(twice, values)
        place[place == len(twice)] = 0
        same = twice[place] == values
        hit = at[same]
        some = Chunk(chunk.start, chunk.device[hit], chunk.inode[hit], chunk.directory[hit])
        hits.append((values[same], some, hit + chunk.start))
    _groups(
        np.concatenate([values for values, _, _ in hits]),
        np.concatenate([some.device for _, some, _ in hits]),
        np.concatenate([some.inode for _, some, _ in hits]),
        np.concatenate([some.directory for _, some, _ in hits]),
        np.concatenate([at for _, _, at in hits]),
        found,
        keep,
    )


def _distinct(device: Indices, inode: Numbers) -> int:
    """How many files these are; one that has several names is one."""
    order = np.lexsort((device, inode))
    device, inode = device[order], inode[order]
    return 1 + int(((device[1:] != device[:-1]) | (inode[1:] != inode[:-1])).sum())


def _of_part(values: Numbers, number: int, parts: int) -> Flags:
    """Which of the values belong to a part. Equal values do so together."""
    spread = values * _SPREAD >> _U64(32)
    mine: Flags = spread * _U64(parts) >> _U64(32) == _U64(number)
    return mine


def _groups(
    values: Numbers, device: Indices, inode: Numbers, is_dir: Flags, row: Indices, found: Found, keep: bool
) -> None:
    """Sorts rows whose numbers come twice into files, and files into collisions."""
    order = np.lexsort((inode, device, values))  # stable: of a file's names, the one that was found first leads
    values, device, inode, is_dir, row = values[order], device[order], inode[order], is_dir[order], row[order]
    new = np.ones(len(values), dtype=np.bool_)
    new[1:] = (values[1:] != values[:-1]) | (device[1:] != device[:-1]) | (inode[1:] != inode[:-1])
    found.again += int((~new).sum())
    found.again_on += np.bincount(device[~new], minlength=len(found.again_on))
    values, device, inode, is_dir, row = values[new], device[new], inode[new], is_dir[new], row[new]

    start = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    size = np.diff(np.append(start, len(values)))
    directories = np.add.reduceat(is_dir.astype(np.int64), start)
    harm = np.where(directories > 1, 0, np.where(directories == 1, 1, 2))
    harm[size == 1] = -1
    found.pairs += int((size * (size - 1) // 2).sum())
    sizes, harms = np.repeat(size, size), np.repeat(harm, size)
    found.colliding_on += np.bincount(device[harms >= 0], minlength=len(found.colliding_on))
    for degree, name in enumerate(HARMS):
        found.groups[name] += int((harm == degree).sum())
        mine = np.flatnonzero(harms == degree)
        found.files[name] += len(mine)
        if keep and len(mine):
            records = np.empty(len(mine), dtype=_RECORD)
            records["number"], records["inode"], records["row"] = values[mine], inode[mine], row[mine]
            records["device"] = device[mine]
            records["size"] = np.where(is_dir[mine], -sizes[mine], sizes[mine])
            found.keep(name, records)
