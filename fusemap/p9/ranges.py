"""Byte ranges with a kind each, sorted and apart: a copy of what the kernel keeps about one owner's locks."""

from __future__ import annotations

import bisect
from typing import TypeAlias

__all__ = ["Range", "find", "put", "splits"]

Range: TypeAlias = tuple[int, int, int]
"""First byte, last byte (included), kind."""


def put(ranges: list[Range], start: int, end: int, kind: int | None) -> None:
    """Changes `ranges` as POSIX says of a lock of these bytes, or of an unlock (None): it splits, replaces, merges."""
    first = bisect.bisect_left(ranges, start - 1, key=_last)  # a neighbour of the same kind is merged too
    after = bisect.bisect_right(ranges, end + 1, key=_first)
    new_start, new_end = start, end
    left: list[Range] = []
    right: list[Range] = []
    for old_start, old_end, old_kind in ranges[first:after]:
        if old_kind == kind:
            new_start, new_end = min(new_start, old_start), max(new_end, old_end)
            continue
        if old_start < start:
            left.append((old_start, min(old_end, start - 1), old_kind))
        if old_end > end:
            right.append((max(old_start, end + 1), old_end, old_kind))
    middle = [] if kind is None else [(new_start, new_end, kind)]
    ranges[first:after] = left + middle + right


def splits(ranges: list[Range], start: int, end: int) -> bool:
    """Whether an unlock of these bytes makes two ranges of one."""
    at = bisect.bisect_left(ranges, start, key=_last)
    return at < len(ranges) and ranges[at][0] < start and end < ranges[at][1]


def find(ranges: list[Range], start: int, end: int) -> Range | None:
    """The first range that has one of these bytes."""
    at = bisect.bisect_left(ranges, start, key=_last)
    return ranges[at] if at < len(ranges) and ranges[at][0] <= end else None


def _first(of: Range) -> int:
    return of[0]


def _last(of: Range) -> int:
    return of[1]
