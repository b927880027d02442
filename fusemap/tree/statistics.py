"""Counts and times of what clients ask, for stats.json (telling.py).

Every request passes here, so a row is a plain list that whoever serves the request adds to by hand: how many took so
many nanoseconds, by powers of two, then the sum, the longest and the count. That costs a fifth of a microsecond, most
of it for reading the clock twice; so where requests are many and all alike, only some are timed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from time import perf_counter_ns as now_ns
from typing import Any, Final

__all__ = ["COUNT", "SLOWEST", "SUM", "Statistics", "now_ns", "row_json"]

SUM: Final = 65
SLOWEST: Final = 66
COUNT: Final = 67
_NANOSECONDS: Final = 1e9


def _row() -> list[int]:
    return [0] * (COUNT + 1)


class Statistics:
    """What a front end has answered since it began. `names` are those that get a row at once.

    `rows` are by the name of the request (9P's: the message's number): item n counts those that took less than 2^n
    nanoseconds and no less than half of that, for n up to 64; item SUM is the nanoseconds of all these, item SLOWEST
    those of the longest, and item COUNT how many there were in all, also such as nobody timed. `errors` counts the
    answers that were an errno.
    """

    def __init__(self, names: Iterable[Hashable] = ()) -> None:
        self.rows: dict[Hashable, list[int]] = {name: _row() for name in names}
        self.errors: Counter[int] = Counter()
        self.bytes_read = 0
        self.bytes_written = 0

    def took(self, name: Hashable, nanoseconds: int) -> None:
        """Notes that a request called `name` took so long."""
        row = self.rows.get(name)
        if row is None:
            row = self.rows[name] = _row()
        row[COUNT] += 1
        row[nanoseconds.bit_length()] += 1
        row[SUM] += nanoseconds
        if nanoseconds > row[SLOWEST]:
            row[SLOWEST] = nanoseconds

    def operations(self) -> dict[str, Any]:
        """The rows as JSON, by name, those that were asked for."""
        return {str(name): row_json(row) for name, row in sorted(self.rows.items(), key=str) if row[COUNT]}


def row_json(row: list[int] | None, count: int | None = None) -> dict[str, Any]:
    """A row as it stands in stats.json, None for one of zeros; `count` in place of its own, if somebody else counts.

    >>> row = _row()
    >>> row[10], row[SUM], row[SLOWEST], row[COUNT] = 2, 1500, 900, 5
    >>> row_json(row)
    {'count': 5, 'timed': 2, 'seconds': 1.5e-06, 'slowest': 9e-07, 'latency': [[1.024, 2]]}
    """
    row = row or _row()
    return {
        "count": row[COUNT] if count is None else count,
        "timed": sum(row[:SUM]),
        "seconds": row[SUM] / _NANOSECONDS,
        "slowest": row[SLOWEST] / _NANOSECONDS,
        "latency": [[(1 << bits) / 1000, number] for bits, number in enumerate(row[:SUM]) if number],
    }
