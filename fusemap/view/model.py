"""What the page shows, as one JSON object, and `model`, which makes it of a census.

The page (fusemap.view.page) knows nothing else of a tree. It finds the object written into itself, or gets it from a
live source, whose address is then its `data-source`. Pictures for reports (fusemap.view.png) are drawn from it too.

Nothing in it grows with the tree: files are counted in bins, lists are cut, and how much was left out is told beside
each. A million files and thousands of devices come to 3 MB at most, and what the page draws of them is less.

Numbers that may exceed 2^53, which JavaScript would round, are strings of decimal digits: `number`, `inode`,
`highest_inode`, `edges`. Names and paths are relative to the root, except that; bytes in them that are not UTF-8 are
lone surrogates, as in `fusemap scan --json`. They are not made harmless here: the page only ever shows them as text and
escapes what could not be seen. New keys may come; these stay:

    format      "fusemap-page"; version 1
    root        the tree as it was given
    made        when the census was taken, as "2026-11-23T02:00:00Z"; null for a live tree
    live        whether the tree is watched while it is used; then "files" are the ones known so far
    shown       the scheme whose numbers a mount shows, null where nothing is mounted
    names, files, vanished, from_table
                as in `fusemap scan --json`
    unreadable  {count, listed: [{path, why}]}
    devices     {count, listed: [{number, key, lasting, st_dev, kind, path, names, files, highest_inode, affixes,
                more_affixes, colliding}]}: number is the device's position among all, by which files refer to it;
                affixes are strings of 0 and 1, and more_affixes how many others it has; colliding is the number of
                files by scheme. highest_inode may be null
    schemes     [{name, mode, bits, files, numbers, pairs, expected_pairs, full_map, numberless, ledger, lanes, map}],
                in the order in which the page offers them, at least one; all but the last three as in
                `fusemap scan --json`
    ledger      of a scheme: {left_out, listed: [{number, harm, left_out, files: [{path, device, inode, directory}]}]}:
                the most harmful first; how many numbers, and of each how many files, are not listed
    lanes       of a scheme: [[names that collide, one for each column] for each lane], null where none collides
    map         of a scheme: [{names, colliding}], see below; [] where nothing is known
    lanes       null, or {edges, devices, others, names: [[names, one for each column] for each lane]}: edges are the
                inodes at which columns begin, devices the number of the device of each lane. Where others is not 0,
                there is one lane more, for so many other devices together
    budget      {affixes, elsewhere, lengths, spent}: affixes that mode suffix uses, how many of them for devices that
                are not here, how many of the others have each length (by bits as a string), and the Kraft sum, of 1

The map. A number is turned end for end, bit by bit, and the result is a place on a Hilbert curve through the 64-bit
space: then all numbers that end alike lie together. The map has 64 x 64 cells: cell c are the numbers whose lowest 12
bits, turned end for end, are c. Next comes the same for those numbers only that end in two zeros, without these (a
quarter of the space, drawn larger), then in four, and so on: further affixes end in more zeros. Files from a full map
are left out. `names` and `colliding`
are strings with one letter for each cell, along the curve: "0" for none, "1" for 1, "2" for 2 or 3, "3" for 4 to 7, ...
"a" for 512 and so on: the bit length of the count in base 36; zeros at the end are left out.

A live source sends Server-Sent Events (text/event-stream) whose data is JSON on one line, in UTF-8:

    event: progress   {doing, names, devices}: no model yet, a census is being taken; shown as a line
    event: model      the whole object; replaces what there was. After a reconnection it comes again
    event: change     some of the object's outermost keys with new values, which replace the old ones
    event: end        {why}: a sentence; the page keeps what it shows, says so, and does not come back

The page marks what is new since the last one: devices by number, collisions by number and files. A source may leave out
what it does not know: "lanes": null, "map": [], "made": null, "highest_inode": null.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, TypeAlias

from fusemap.census import HARMS, MODES, Census, Collision, Device, Scheme
from fusemap.view import hilbert

NUMBERS: Final = 1000
"""Collisions of a scheme that are listed."""
MEMBERS: Final = 12
"""Files of a collision that are listed."""
LETTERS: Final = 400_000
"""Letters that one scheme's list has as JSON, more or less: a path can have 4,095."""
DEVICES: Final = 2000
"""Devices that are listed."""
AFFIXES: Final = 32
"""Affixes of a device that are listed."""
LANES: Final = 96
"""Devices that have a lane of their own."""
PLACES: Final = 100
"""Places that could not be read and are named."""

_FRAME: Final = 70  # letters of JSON around a path

Json: TypeAlias = "dict[str, Any]"


def model(census: Census, progress: Callable[[str, float], None] = lambda doing, done: None) -> Json:
    """The object for an open census, of which every scheme must have been chosen when it was taken.

    `progress` is told what is being done, and what part of it is over (0 to 1).

    Raises KeyError where a scheme was not, OSError where the census cannot be read.
    """
    devices = census.devices
    lanes = _Lanes(census)
    lengths = Counter(affix.length for device in devices for _, affix in device.entries)
    levels = hilbert.levels(affix for device in devices for _, affix in device.entries)
    schemes = []
    for at, (name, scheme) in enumerate(census.schemes.items()):
        progress(f"drawing {name}", at / len(census.schemes))
        schemes.append(_scheme(census, name, scheme, lanes, levels))
    return {
        "format": "fusemap-page",
        "version": 1,
        "root": census.root,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "live": False,
        "shown": None,
        "names": census.names,
        "files": census.files,
        "vanished": census.vanished,
        "from_table": census.from_table,
        "unreadable": {
            "count": len(census.unreadable) + census.unnamed,
            "listed": [{"path": os.fsdecode(path), "why": why} for path, why in census.unreadable[:PLACES]],
        },
        "devices": {
            "count": len(devices),
            "listed": [_device(number, devices[number]) for number in _listed(len(devices), lanes.own)],
        },
        "schemes": schemes,
        "lanes": lanes.shared,
        "budget": {
            "affixes": census.entries,
            "elsewhere": census.entries - lengths.total(),
            "lengths": {str(length): lengths[length] for length in sorted(lengths)},
            "spent": float(census.spent),
        },
    }


def shares(counts: list[int], room: int) -> list[int]:
    """How many of each kind are listed where there is room for so many in all: the first kinds first, but some of each.

    >>> shares([5000, 10, 5000], 1000)
    [657, 10, 333]
    """
    least = [min(count, room // len(counts)) for count in counts]
    left = room - sum(least)
    given = []
    for count, some in zip(counts, least, strict=True):
        more = min(count - some, left)
        left -= more
        given.append(some + more)
    return given


def _listed(count: int, needed: list[int]) -> list[int]:
    """The first devices of so many, and those that are `needed`."""
    own = set(needed)
    others = (number for number in range(count) if number not in own)
    return sorted([*needed, *islice(others, max(0, DEVICES - len(needed)))])


def _device(number: int, device: Device) -> Json:
    return {
        "number": number,
        "key": device.key,
        "lasting": device.lasting,
        "st_dev": f"{os.major(device.dev)}:{os.minor(device.dev)}",
        "kind": device.kind,
        "path": os.fsdecode(device.place),
        "names": device.names,
        "files": device.files,
        "highest_inode": str(device.highest),
        "affixes": [str(affix) for _, affix in device.entries[:AFFIXES]],
        "more_affixes": max(0, len(device.entries) - AFFIXES),
        "colliding": {name: count for name, count in device.colliding.items() if count},
    }


def _scheme(census: Census, name: str, scheme: Scheme, lanes: _Lanes, levels: int) -> Json:
    names, colliding = hilbert.Cells(levels), hilbert.Cells(levels)
    for numbers in census.numbers(name):
        names.add(numbers)
    for numbers in census.colliding(name):
        colliding.add(numbers)
    return {
        "name": name,
        "mode": name in MODES,
        "bits": scheme.bits,
        "files": scheme.files,
        "numbers": scheme.groups,
        "pairs": scheme.pairs,
        "expected_pairs": scheme.expected,
        "full_map": scheme.full,
        "numberless": scheme.numberless,
        "ledger": _ledger(census, name, scheme),
        "lanes": lanes.of(name) if scheme.collides else None,
        "map": [
            {"names": some, "colliding": hit}
            for some, hit in zip(names.letters(), colliding.letters(), strict=True)
        ],
    }


def _ledger(census: Census, name: str, scheme: Scheme) -> Json:
    listed: list[Json] = []
    rooms = shares([scheme.groups[harm] for harm in HARMS], NUMBERS)
    for harm, room in zip(HARMS, rooms, strict=True):
        letters = LETTERS * room // max(1, sum(rooms))
        for collision, size in islice(census.begun(name, harm, MEMBERS), room):
            listed.append(_collision(collision, size))
            letters -= sum(_FRAME + len(file["path"]) for file in listed[-1]["files"])
            if letters < 0:
                break
    return {"left_out": sum(scheme.groups.values()) - len(listed), "listed": listed}


def _collision(collision: Collision, size: int) -> Json:
    files = [
        {"path": os.fsdecode(path), "device": device, "inode": str(inode), "directory": directory}
        for path, device, inode, directory in collision.members
    ]
    return {
        "number": str(collision.number),
        "harm": collision.harm,
        "left_out": size - len(files),
        "files": files,
    }


class _Lanes:
    """The lanes of those devices where most collides in any scheme, and one for all others."""

    def __init__(self, census: Census) -> None:
        self._census = census
        devices = census.devices
        worst = sorted(
            range(len(devices)), key=lambda at: (-sum(devices[at].colliding.values()), -devices[at].files, at)
        )
        self.own = sorted(worst[:LANES])
        self._others = sorted(worst[LANES:])
        lanes = census.lanes(next(iter(census.schemes)))
        self.shared: Json = {
            "edges": [str(edge) for edge in lanes.edges],
            "devices": self.own,
            "others": len(self._others),
            "names": self._rows(lanes.files),
        }

    def of(self, scheme: str) -> list[list[int]]:
        """The names that collide in a scheme, by lane and column."""
        return self._rows(self._census.lanes(scheme).colliding)

    def _rows(self, cells: Any) -> list[list[int]]:
        rows: list[list[int]] = cells[self.own].tolist()
        if self._others:
            rows.append(cells[self._others].sum(axis=0).tolist())
        return rows
