"""What a live tree said at one moment, and what two such readings say together: rates, latencies, news.

The shapes are those of fusemap.tree.telling. Counts there are since the start, so everything that happens a second is a
difference of two readings; what is missing in the earlier one counts from nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from fusemap.view.blocks import printable


class Reading(NamedTuple):
    """The content of stats.json, devices.json and collisions.json."""

    stats: dict[str, Any]
    devices: list[dict[str, Any]]
    collisions: dict[str, Any]


class Rate(NamedTuple):
    """What one operation did between two readings.

    `second` is how many there were a second. Times are in seconds: `mean` exact, `most` a time below which 99 of 100
    were (a limit of the histogram's), `slowest` the slowest since the start; None where none was timed.
    """

    name: str
    second: float
    mean: float | None
    most: float | None
    slowest: float | None
    total: int


class Flow(NamedTuple):
    """All of what happened between two readings, `seconds` apart; operations with the most a second first."""

    seconds: float
    operations: list[Rate]
    second: float
    errors: float
    read: float
    written: float


HARMS: Final = ("loop", "error", "mixed")
"""As in fusemap.census, the worst first: of directories, of one and files, of files."""
LISTED: Final = 500
"""Collisions that are remembered with their files."""

_NONE: Final[dict[str, Any]] = {"count": 0, "timed": 0, "seconds": 0.0, "latency": []}
_MOST: Final = 0.99


def is_successor(now: Reading, before: Reading) -> bool:
    """Whether two readings are of one process, so that the one may be taken from the other."""
    return bool(now.stats["pid"] == before.stats["pid"] and now.stats["uptime"] >= before.stats["uptime"])


def flow(now: Reading, before: Reading | None) -> Flow:
    """What happened since `before`; since the start where that is None."""
    old = {} if before is None else before.stats
    seconds = max(now.stats["uptime"] - old.get("uptime", 0.0), 1e-6)
    earlier = old.get("operations", {})
    rates = [_rate(name, new, earlier.get(name, _NONE), seconds) for name, new in now.stats["operations"].items()]
    rates.sort(key=lambda rate: (-rate.second, -rate.total, rate.name))

    def a_second(key: str) -> float:
        return float((now.stats[key] - old.get(key, 0)) / seconds)

    errors = sum(now.stats["errors"].values()) - sum(old.get("errors", {}).values())
    every = sum(rate.second for rate in rates)
    return Flow(seconds, rates, every, errors / seconds, a_second("bytes_read"), a_second("bytes_written"))


def _rate(name: str, new: dict[str, Any], old: dict[str, Any], seconds: float) -> Rate:
    timed = new["timed"] - old["timed"]
    mean = (new["seconds"] - old["seconds"]) / timed if timed > 0 else None
    slowest = new["slowest"] if new["timed"] else None
    a_second = (new["count"] - old["count"]) / seconds
    return Rate(name, a_second, mean, _below(new["latency"], old["latency"]), slowest, new["count"])


def _below(new: list[list[int]], old: list[list[int]]) -> float | None:
    """The limit in seconds below which 99 of 100 of what was timed since are."""
    earlier = {bucket[0]: bucket[1] for bucket in old}
    counts = [(limit, count - earlier.get(limit, 0)) for limit, count in new]
    wanted = sum(count for _, count in counts) * _MOST
    for limit, count in counts:
        wanted -= count
        if wanted <= 0 and count:
            return limit / 1e6
    return None


class SoFar:
    """All that readings of one tree told, the latest and those before: a kernel forgets files whenever it likes, and
    what was averted for them was averted all the same."""

    def __init__(self) -> None:
        self._last: Reading | None = None
        self._known: dict[str, int] = {}
        self._found: dict[tuple[bool, int], dict[str, Any]] = {}
        self._harms: dict[tuple[bool, int], str] = {}

    def add(self, now: Reading) -> Reading:
        """`now`, with as many known files as there were at most, and with every collision that there was.

        Of very many only the worst are listed; all are counted.
        """
        if self._last is not None and not is_successor(now, self._last):
            for memory in (self._known, self._found, self._harms):
                memory.clear()  # another process, which shows other numbers perhaps
        self._last = now
        for one in now.collisions["collisions"]:
            key = _key(one)
            self._harms[key] = one["harm"]
            old = self._found.get(key)
            self._found[key] = one if old is None or old["count"] <= one["count"] else {**old, "harm": one["harm"]}
        if len(self._found) > LISTED:
            listed = sorted(self._found.items(), key=lambda item: (not item[1]["real"], HARMS.index(item[1]["harm"])))
            self._found = dict(listed[:LISTED])
        for device in now.devices:
            identity = device["identity"]
            self._known[identity] = max(self._known.get(identity, 0), device["known_inodes"])
        known = max(sum(self._known.values()), now.stats["known_inodes"])
        return Reading(
            {**now.stats, "known_inodes": known},
            [{**device, "known_inodes": self._known[device["identity"]]} for device in now.devices],
            {**now.collisions, "known_inodes": known, "collisions": self._listed(), **self._counts(now.collisions)},
        )

    def _listed(self) -> list[dict[str, Any]]:
        return sorted(self._found.values(), key=lambda one: (not one["real"], HARMS.index(one["harm"]), -one["count"]))

    def _counts(self, now: dict[str, Any]) -> dict[str, Any]:
        counts: dict[str, Any] = {}
        for key, real in (("averted", False), ("real", True)):
            seen = Counter(harm for (is_real, _), harm in self._harms.items() if is_real == real)
            counts[key] = {harm: max(now[key][harm], seen[harm]) for harm in HARMS}
            files = sum(one["count"] for one in self._found.values() if one["real"] == real)
            counts[f"{key}_files"] = max(now[f"{key}_files"], files)
        return counts


class News(NamedTuple):
    """Something that was not there before: when (seconds since 1970; None where it was there at first), and what."""

    time: float | None
    text: str
    bad: bool


def news(now: Reading, before: Reading | None) -> Iterator[News]:
    """New devices and collisions since `before`; only the collisions there are, where that is None. Worst ones last."""
    time = None if before is None else now.stats["time"]
    if before is not None:
        known = {device["identity"] for device in before.devices}
        for device in now.devices:
            if device["identity"] not in known:
                yield News(time, f"new device {shown(device['identity'])} {_where(device)}".rstrip(), False)
    old = {} if before is None else {_key(one): one["count"] for one in before.collisions["collisions"]}
    for one in reversed(now.collisions["collisions"]):
        if old.get(_key(one), 0) < one["count"]:
            yield News(time, told(one), one["real"])


def _key(collision: dict[str, Any]) -> tuple[bool, int]:
    return collision["real"], collision["number"]


def told(collision: dict[str, Any]) -> str:
    """A collision in a sentence."""
    files = collision["files"]
    paths = [_path(file) for file in files[:2]]
    rest = collision["count"] - len(paths)
    who = ", ".join(paths) + (f" and {rest} more" if rest else "")
    if collision["real"]:
        return f"COLLISION: number {collision['number']} is shown for {who}"
    apart = ", ".join(str(file["number"]) for file in files[:2])
    return f"averted: inode {collision['number']} is {who}; shown as {apart}{', ...' if rest else ''}"


def _path(file: dict[str, Any]) -> str:
    path = file["path"]
    return f"(a file on {shown(file['device'])})" if path is None else shown(path) + "/" * bool(file["directory"])


def _where(device: dict[str, Any]) -> str:
    kind = f"({shown(device['kind'])})" if device["kind"] else ""
    at = f" at {shown(device['mounted'][0])}" if device["mounted"] else ""
    return f"{kind}{at}".strip()


def shown(text: str) -> str:
    """A name from a reading, fit for a terminal. It may come from another machine, so any string will do."""
    try:
        return printable(os.fsencode(text))
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return printable(text.encode(errors="backslashreplace"))
