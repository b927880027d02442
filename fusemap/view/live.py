"""A live tree as the page's object (fusemap.view.model): what is known of it so far.

The page is the one that shows a census. A mount does not walk its tree, so there is less to show: the files are those
that somebody has asked for, there is no lane and no map of them, and two schemes are compared - the host's own numbers,
which are what any plain export would show, and those that the mount shows.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from fusemap.view.reading import HARMS, Reading

DEVICES: Final = 512
"""Devices that are listed; of all others there is a count."""

_BITS: Final = 64


def live_model(now: Reading) -> dict[str, object]:
    """The whole object, outermost keys in any order."""
    stats = now.stats
    places = {device["identity"]: number for number, device in enumerate(now.devices)}
    schemes = _schemes(now, places)
    colliding = _colliding(schemes)
    return {
        "format": "fusemap-page",
        "version": 1,
        "root": stats["source"],
        "made": None,
        "live": True,
        "shown": stats["map"],
        "names": stats["known_inodes"],
        "files": stats["known_inodes"],
        "vanished": 0,
        "from_table": True,
        "unreadable": {"count": 0, "listed": []},
        "devices": {
            "count": len(now.devices),
            "listed": [
                _device(number, device, stats["source"], {name: own[number] for name, own in colliding if own[number]})
                for number, device in enumerate(now.devices[:DEVICES])
            ],
        },
        "schemes": schemes,
        "lanes": None,
        "budget": _budget(now),
    }


def _schemes(now: Reading, places: Mapping[str, int]) -> list[dict[str, Any]]:
    shown = now.stats["map"]
    collisions = now.collisions["collisions"]
    plain = [one for one in collisions if not one["real"] or shown == "raw"]
    real = [one for one in collisions if one["real"]]
    full = sum(device["full_map"] for device in now.devices)
    raw = _scheme("raw", plain, _sums(now.collisions, ("averted", "real") if shown == "raw" else ("averted",)), places)
    if shown == "raw":
        return [raw]
    own = _scheme(shown, real, _sums(now.collisions, ("real",)), places)
    return [raw, {**own, "full_map": full}]


def _sums(collisions: Mapping[str, Any], keys: Iterable[str]) -> tuple[dict[str, int], int, int]:
    """How many numbers by harm, how many files in all, how many files are known."""
    keys = list(keys)
    numbers = {harm: sum(collisions[key][harm] for key in keys) for harm in HARMS}
    return numbers, sum(collisions[f"{key}_files"] for key in keys), collisions["known_inodes"]


def _scheme(
    name: str, collisions: list[dict[str, Any]], sums: tuple[dict[str, int], int, int], places: Mapping[str, int]
) -> dict[str, Any]:
    numbers, colliding, known = sums
    files = dict.fromkeys(HARMS, 0)
    listed = dict.fromkeys(HARMS, 0)
    pairs = 0
    for one in collisions:
        files[one["harm"]] += one["count"]
        listed[one["harm"]] += 1
        pairs += one["count"] * (one["count"] - 1) // 2
    # Of numbers that are not listed it is known how many there are and how many files have them, together.
    cut = [harm for harm in HARMS if numbers[harm] > listed[harm]]
    left = colliding - sum(files.values())
    if cut and left > 0:
        files[cut[-1]] += left
        pairs += max(0, sum(numbers.values()) - len(collisions))
    return {
        "name": name,
        "mode": True,
        "bits": _BITS,
        "files": files,
        "numbers": numbers,
        "pairs": pairs,
        "expected_pairs": known * (known - 1) / 2 / 2**_BITS,
        "full_map": 0,
        "numberless": 0,
        "ledger": {
            "left_out": max(0, sum(numbers.values()) - len(collisions)),
            "listed": [_collision(one, places) for one in collisions],
        },
        "lanes": None,
        "map": [],
    }


def _collision(one: Mapping[str, Any], places: Mapping[str, int]) -> dict[str, Any]:
    return {
        "number": str(one["number"]),
        "harm": one["harm"],
        "left_out": one["count"] - len(one["files"]),
        "files": [
            {
                "path": "(a file without a path)" if file["path"] is None else file["path"],
                "device": places.get(file["device"], 0),
                "inode": str(file["inode"]),
                "directory": file["directory"],
            }
            for file in one["files"]
        ],
    }


def _colliding(schemes: list[dict[str, Any]]) -> list[tuple[str, Counter[int]]]:
    """How many of the listed colliding files are on each device, by scheme."""
    return [
        (scheme["name"], Counter(file["device"] for one in scheme["ledger"]["listed"] for file in one["files"]))
        for scheme in schemes
    ]


def _device(number: int, device: Mapping[str, Any], source: str, colliding: dict[str, int]) -> dict[str, Any]:
    entries = device["entries"]
    return {
        "number": number,
        "key": device["identity"],
        "lasting": device["lasting"],
        "st_dev": device["st_dev"],
        "kind": device["kind"],
        "path": _place(device["mounted"], source),
        "names": device["known_inodes"],
        "files": device["known_inodes"],
        "highest_inode": None,
        "affixes": [entry["affix"] for entry in entries[:1]],
        "more_affixes": max(0, len(entries) - 1),
        "colliding": colliding,
    }


def _place(mounted: list[str], source: str) -> str:
    """Where a device is, relative to the tree; the tree itself may be a directory anywhere on one."""
    if not mounted:
        return "(not mounted now)"
    place = os.path.relpath(mounted[0], source)
    return "." if place.split("/")[0] == ".." else place


def _budget(now: Reading) -> dict[str, object]:
    lengths = [entry["length"] for device in now.devices for entry in device["entries"]]
    return {
        "affixes": len(lengths),
        "elsewhere": 0,
        "lengths": {str(length): count for length, count in sorted(Counter(lengths).items())},
        "spent": sum(2.0**-length for length in lengths),
    }
