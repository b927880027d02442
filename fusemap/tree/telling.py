"""What a live tree tells of itself: the content of the files that both front ends show.

A mount has them in the hidden directory `.fusemap` of its root, a 9P server under the attach name "ctl"; they are found
without ".json" too. Each is made when it is opened and stays as it was for as long as it is open. They are JSON: one
value, ASCII, a newline at the end. Names that are not UTF-8 come as Python's surrogate escapes (byte ff is "\\udcff"),
as from `fusemap scan --json`. Keys may be added, and none is taken away or changes its meaning.

`stats.json`: what was asked and how long it took. Everything is since the start, so a rate is the difference of two
readings.

    {"format": "fusemap-stats", "version": 1,
     "front": "fuse",                  or "9p"
     "source": "/srv/tree", "map": "suffix", "k": 0, "pid": 4711,
     "time": 1795397529.1,             now, seconds since 1970
     "uptime": 86.2,                   seconds since the start
     "operations": {                   by the name of FUSE's request (pyfuse3's word for it) or 9P's message ("Twalk")
       "lookup": {"count": 120,
                  "timed": 120,        of how many the time was taken: of one in 32 of FUSE's lookup and getattr,
                                       of the first of a burst of 9P's requests
                  "seconds": 0.0123,   the sum over those, from the request's arrival to its answer
                  "slowest": 0.0009,   the longest of those
                  "latency": [[16.384, 100], [32.768, 20]]}},    [below so many microseconds, how many], rising; the
                                       bounds are twice the one before, and those without any are left out
     "errors": {"2": 14},              answered so often with this errno
     "bytes_read": 0, "bytes_written": 0,                file data only
     "known_inodes": 812,              files that a client knows now
     "descriptors": 14, "descriptor_limit": 524288,      of the server process
     "devices": 3,                     that were met
     "collisions_averted": 7,          host inode numbers that several known files have, and clients see apart
     "collisions_real": 0}             numbers that were shown for several files (maps raw and qemu)
     9P adds "requests" (the counts alone), "bytes_in", "bytes_out" (of the wire), "connections" (ever), "clients" (now)
     and "fids" (now).

`devices.json`: a list, in the order in which the devices were met.

    [{"identity": "uuid:6b7c...",      the key in the table of numbers
      "lasting": true,                 false: known by this name until it is unmounted
      "st_dev": "254:1",               now
      "kind": "ext4",                  as in the mount table, "" where it is not found there
      "mounted": ["/srv/tree/a"],      the mount points that were met
      "entries": [{"index": 1, "affix": "1", "length": 1, "top": 0, "at": ""}],    as `fusemap table show --json`; "at"
                                       is the place of a bind mount whose directories have numbers of their own
      "full_map": 0,                   files that have a number of their own instead
      "known_inodes": 800}]

`collisions.json`: files that are known now and whose inode numbers on the host are the same.

    {"format": "fusemap-collisions", "version": 1, "map": "suffix",
     "known_inodes": 812,
     "averted": {"loop": 0, "error": 1, "mixed": 6},     how many numbers, by harm as in `fusemap scan`: of several
                                                         directories, of one and files, of files
     "averted_files": 15,              how many files have them
     "real": {"loop": 0, "error": 0, "mixed": 0},        numbers that were shown for several files
     "real_files": 0,
     "collisions": [                   real ones first, then the most harmful first; at most 100 of each kind
       {"number": 13,                  the inode number on the host; of a real one, the number that was shown
        "real": false, "harm": "mixed",
        "count": 2,                    how many files have it; at most 8 of them are listed
        "files": [{"path": "a/f",      relative to the tree's root; null where it cannot be told, or not to whoever asks
                   "device": "uuid:6b7c...", "inode": 13,
                   "number": 27,       what clients are shown
                   "directory": false}]}]}
     A collision that is real, in the maps raw and qemu, stays one for as long as the tree is shown, also if a file of
     it goes: who saw the number remembers it. Its paths are those under which the files were first seen.

`table.json`: the table of numbers, as `fusemap table show --json` prints it.

Nothing of this costs anything while nobody asks, but for the counts and times of requests. What it takes to count
known files and collisions is told in survey.py: where more than 2000 files are known, the answer may be some moments
old.

Who may read them: collisions.json and the names in it are for those who may see every file, so for root and for who
runs the server. FUSE gives the whole directory to them only; 9P gives others null for each path.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from fusemap.qid import Mapper
from fusemap.table import Table, open_table
from fusemap.table.listing import listing
from fusemap.table.present import base_key
from fusemap.tree.filesystems import Device, bare
from fusemap.tree.live import Tree
from fusemap.tree.places import path_of
from fusemap.tree.shown import Owner, Shown
from fusemap.tree.statistics import Statistics
from fusemap.tree.survey import HARMS, LISTED, Found, Group, Member, Survey, per_device

FILES: Final = ("stats.json", "devices.json", "collisions.json", "table.json")
SHORT: Final = {name.removesuffix(".json"): name for name in FILES}
"""By what else they are found: by a person who types."""

_MEMBERS: Final = 8
_FEW: Final = 500  # devices, or records of a table, that are written out in no time


class Telling:
    """What `tree` tells of itself. `front` is "fuse" or "9p", `shown` what clients are shown in place of numbers.

    `table` is that of the numbers, where there is one. `more` gives what else stats.json has.

    A file's content is made in two steps: `gather` may take long, and may run in a thread; `text` makes the content of
    what it gave, in no time, on the thread that the tree belongs to. `quick` says whether a thread is worth while.
    """

    def __init__(
        self,
        tree: Tree,
        front: str,
        statistics: Statistics,
        shown: Shown | None = None,
        table: Table | None = None,
        more: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._tree = tree
        self._front = front
        self._statistics = statistics
        self._shown = shown
        self._mapper: Mapper = tree.mapper if shown is None else shown.mapper
        self._table = table or open_table("/", "none", self._mapper.mode, self._mapper.k)
        self._more = more
        self._survey = Survey(tree, self._distinct)
        self._began = time.monotonic()

    def quick(self, name: str) -> bool:
        """Whether `gather` takes no noticeable time for this one of FILES."""
        if name == "table.json":
            return self._mapper.used() + self._mapper.full_used() <= _FEW
        if name == "devices.json":
            few = len(self._tree.filesystems.devices()) <= _FEW and self._mapper.full_used() <= _FEW
            return few and self._survey.small
        return self._survey.quick

    def gather(self, name: str) -> Any:
        """What `text` needs for this one of FILES."""
        if name == "table.json":
            return self._table_json()
        if name == "devices.json":
            return self._devices()
        return self._survey.take()

    def text(self, name: str, gathered: Any, names: bool = True) -> bytes:
        """The content of a file, from what `gather` gave for it. `names`: may whoever asks see the names of files?"""
        if name == "stats.json":
            return _json(self._stats(gathered))
        if name == "collisions.json":
            return _json(self._collisions(gathered, names))
        assert isinstance(gathered, bytes)
        return gathered

    # stats.json -------------------------------------------------------------------------------------------------------

    def _stats(self, found: Found) -> dict[str, Any]:
        statistics = self._statistics
        return {
            "format": "fusemap-stats",
            "version": 1,
            "front": self._front,
            "source": os.fsdecode(self._tree.source),
            "map": self._mapper.mode,
            "k": self._mapper.k,
            "pid": os.getpid(),
            "time": time.time(),
            "uptime": time.monotonic() - self._began,
            "operations": statistics.operations(),
            "errors": {str(number): count for number, count in sorted(statistics.errors.items())},
            "bytes_read": statistics.bytes_read,
            "bytes_written": statistics.bytes_written,
            "known_inodes": len(self._tree),
            "descriptors": len(os.listdir("/proc/self/fd")) - 1,  # the listing's own
            "descriptor_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "devices": len(self._tree.filesystems.devices()),
            "collisions_averted": sum(found.numbers.values()),
            "collisions_real": 0 if self._shown is None else sum(self._shown.numbers().values()),
            **self._more(),
        }

    # devices.json -----------------------------------------------------------------------------------------------------

    def _devices(self) -> bytes:
        filesystems = self._tree.filesystems
        points: dict[str, list[str]] = {}
        kinds: dict[str, str] = {}
        for mount in filesystems.mounts():
            if mount.info is not None:
                points.setdefault(mount.info.device, []).append(os.fsdecode(mount.info.point))
                kinds[mount.info.device] = mount.kind
        known = per_device(self._tree.nodes())
        full = Counter(bare(str(full.device)) for full in self._mapper.full())
        entries: dict[str, list[dict[str, Any]]] = {}
        for entry in self._mapper.entries():
            key, _, at = str(entry.device).partition(" at ")
            affix = f"{entry.affix:0{entry.length}b}"
            entries.setdefault(key, []).append(
                {"index": entry.index, "affix": affix, "length": entry.length, "top": entry.top, "at": at}
            )

        def row(device: Device) -> dict[str, Any]:
            return {
                "identity": device.key,
                "lasting": device.identity.lasting,
                "st_dev": f"{device.major}:{device.minor}",
                "kind": kinds.get(device.superblock, ""),
                "mounted": sorted(points.get(device.superblock, [])),
                "entries": entries.get(device.key, []),
                "full_map": full[device.key],
                "known_inodes": known[device.key],
            }

        return _json([row(device) for device in filesystems.devices()])

    # collisions.json --------------------------------------------------------------------------------------------------

    def _collisions(self, found: Found, names: bool) -> dict[str, Any]:
        shown = self._shown
        rows: list[dict[str, Any]] = []
        if shown is not None:
            rows += [_real(*collision, names) for collision in islice(shown.collisions(), LISTED)]
        rows += [self._averted(group, names) for group in found.groups]
        return {
            "format": "fusemap-collisions",
            "version": 1,
            "map": self._mapper.mode,
            "known_inodes": len(self._tree),
            "averted": found.numbers,
            "averted_files": found.files,
            "real": dict.fromkeys(HARMS, 0) if shown is None else shown.numbers(),
            "real_files": 0 if shown is None else shown.files,
            "collisions": rows,
        }

    def _averted(self, group: Group, names: bool) -> dict[str, Any]:
        files = [self._file(member, names) for member in group.members[:_MEMBERS]]
        return {
            "number": group.inode, "real": False, "harm": group.harm, "count": len(group.members), "files": files,
        }  # fmt: skip

    def _file(self, member: Member, names: bool) -> dict[str, Any]:
        node = self._tree.known(member.number) if names else None
        path = None if node is None else path_of(self._tree, node)
        number = member.number if self._shown is None else self._shown.mapper.peek(member.device, member.inode)
        return _row(path, member.device, member.inode, number, member.directory)

    def _distinct(self, members: list[Member]) -> bool:
        if self._shown is None:
            return True
        if self._shown.mode == "raw":
            return False
        numbers = {self._shown.mapper.peek(member.device, member.inode) for member in members}
        return len(numbers) == len(members)

    # table.json -------------------------------------------------------------------------------------------------------

    def _table_json(self) -> bytes:
        points: dict[str, list[str]] = {}
        mounts = [mount.info for mount in self._tree.filesystems.mounts() if mount.info is not None]
        for device in self._tree.filesystems.devices():
            here = [os.fsdecode(info.point) for info in mounts if info.device == device.superblock]
            points.setdefault(base_key(device.key), []).extend(here)
        with self._table.view() as ledger:
            told = listing(self._table, ledger, points)
        return _json(told)


def _real(number: int, harm: str, owners: list[Owner], names: bool) -> dict[str, Any]:
    files = [
        _row(owner.path if names else None, owner.device, owner.inode, number, owner.directory)
        for owner in owners[:_MEMBERS]
    ]
    return {"number": number, "real": True, "harm": harm, "count": len(owners), "files": files}


def _row(path: bytes | None, device: str, inode: int, number: int | None, directory: bool) -> dict[str, Any]:
    shown = None if path is None else os.fsdecode(path)
    return {"path": shown, "device": device, "inode": inode, "number": number, "directory": directory}


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"
