"""What `fusemap top` draws: a live tree in one screen, from two readings and what happened before.

The same blocks make the plain report in a pipe and the screen on a terminal. A screen has so many lines: operations and
devices get theirs, the busiest first, and what is left goes to the news, the newest first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from fusemap.view.blocks import Block, Grid, Heading, Line, fitted, shortened
from fusemap.view.reading import News, Rate, Reading, flow, shown

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_FRONTS: Final = {"fuse": "mounted", "9p": "served by 9P"}
_ANY: Final = 1 << 30
_HEAD_LINES: Final = 5
_PARTS: Final = 3
_PART_LINES: Final = 3  # a blank line, a heading, the titles
_LEAST: Final = 3


def screen(
    now: Reading, before: Reading | None, log: Sequence[News], *, width: int = 80, height: int = 0, note: str = ""
) -> Iterator[Block]:
    """A screen of `width` columns and `height` lines (0: as many as it takes); `log` has the newest last.

    `note` is said at the end: what keys there are, or that the tree does not answer.
    """
    room = height - _HEAD_LINES - _PARTS * _PART_LINES - bool(note) if height else _ANY
    operations = min(len(now.stats["operations"]), max(_LEAST, room // 2))
    devices = min(len(now.devices), max(_LEAST, (room - operations) // 2))
    yield from _summary(now, before)
    yield from _operations(now, before, operations, width)
    yield from _devices(now, devices, width)
    yield from _log(log, max(_LEAST, room - operations - devices), width if height else 0)
    if note:
        yield Line(note, "dim")


def _summary(now: Reading, before: Reading | None) -> Iterator[Block]:
    stats, what = now.stats, flow(now, before)
    front = _FRONTS.get(stats["front"], shown(stats["front"]))
    yield Heading(f"{shown(stats['source'])}, {front}, map {shown(stats['map'])}, up {_long(stats['uptime'])}")
    yield Line(
        f"{_count(what.second)} operations a second, {_count(what.errors)} errors, "
        f"{_size(what.read)} read, {_size(what.written)} written"
    )
    clients = f", {_many(stats['clients'], 'client')}, {_many(stats['fids'], 'fid')}" if "clients" in stats else ""
    yield Line(
        f"{_many(stats['known_inodes'], 'inode')} known, {stats['descriptors']} of {stats['descriptor_limit']} "
        f"descriptors, {_many(stats['devices'], 'device')}{clients}"
    )
    averted, real = stats["collisions_averted"], stats["collisions_real"]
    if real:
        yield Line(f"{real} {_numbers(real)} shown for several files: this map collides", "bad")
    yield Line(f"{_many(averted, 'collision')} averted", "good" if averted else "")


def _operations(now: Reading, before: Reading | None, most: int, width: int) -> Iterator[Block]:
    rates = flow(now, before).operations
    rows = [_operation(rate) for rate in rates[:most]]
    yield Heading("Operations")
    columns = ("operation", ">a second", ">mean", ">99 in 100", ">slowest ever", ">total")
    yield fitted(Grid(columns, rows, {}), {0: 8}, width)


def _operation(rate: Rate) -> tuple[str, ...]:
    below = f"< {_short(rate.most)}" if rate.most is not None else "-"
    return (shown(rate.name), _count(rate.second), _short(rate.mean), below, _short(rate.slowest), str(rate.total))


def _devices(now: Reading, most: int, width: int) -> Iterator[Block]:
    devices = sorted(now.devices, key=lambda device: -device["known_inodes"])
    rows = [_device(device) for device in devices[:most]]
    rest = len(devices) - len(rows)
    yield Heading(f"Devices{f' ({rest} more)' if rest else ''}")
    yield fitted(Grid(("identity", "st_dev", "kind", "affix", ">known", "at"), rows, {}), {5: 12, 0: 14, 3: 8}, width)


def _device(device: dict[str, Any]) -> tuple[str, ...]:
    kind, _, rest = shown(device["identity"]).partition(":")
    affixes = [entry["affix"] for entry in device["entries"]]
    affix = (affixes[0] + f" +{len(affixes) - 1}" * (len(affixes) > 1)) if affixes else "-"
    mounted = device["mounted"]
    at = shown(mounted[0]) + f" +{len(mounted) - 1}" * (len(mounted) > 1) if mounted else "-"
    identity = f"{kind}:{shortened(rest, 12)}"
    return (identity, device["st_dev"], shown(device["kind"]) or "-", affix, str(device["known_inodes"]), at)


def _log(log: Sequence[News], most: int, width: int) -> Iterator[Block]:
    yield Heading("News")
    if not log:
        yield Line("nothing yet: no files that are known now share an inode number on the host", "dim")
    newest = list(reversed(log))
    for one in newest[:most]:
        at = "already there" if one.time is None else time.strftime("%H:%M:%S", time.localtime(one.time))
        text = f"{at}  {one.text}"
        yield Line(shortened(text, width) if width else text, "bad" if one.bad else "")


def as_json(now: Reading, before: Reading | None) -> dict[str, object]:
    """What `fusemap top --json` prints; its keys are told in fusemap.cli.top."""
    what = flow(now, before)
    return {
        "format": "fusemap-top",
        "version": 1,
        "seconds": what.seconds,
        "a_second": {"operations": what.second, "errors": what.errors, "read": what.read, "written": what.written},
        "operations": {
            rate.name: {"a_second": rate.second, "mean": rate.mean, "99_in_100_below": rate.most}
            for rate in what.operations
        },
        "stats": now.stats,
        "devices": now.devices,
        "collisions": now.collisions,
    }


def _many(count: int, what: str) -> str:
    """So many of something.

    >>> _many(1, "device"), _many(2, "device")
    ('1 device', '2 devices')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _numbers(count: int) -> str:
    return "number is" if count == 1 else "numbers are"


def _count(value: float) -> str:
    """A rate in four digits or so.

    >>> _count(0.0), _count(0.25), _count(12.3), _count(1234.5)
    ('0', '0.2', '12', '1234')
    """
    return f"{value:.1f}" if 0.05 <= value < 10 else f"{value:.0f}"


def _short(seconds: float | None) -> str:
    """A time such as an operation takes.

    >>> _short(None), _short(16e-6), _short(0.0123), _short(2.5)
    ('-', '16 us', '12.3 ms', '2.5 s')
    """
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _long(seconds: float) -> str:
    """A time such as a process lives.

    >>> _long(61), _long(90061)
    ('0:01:01', '1 d 1:01:01')
    """
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days} d " * bool(days) + f"{hour}:{minute:02}:{second:02}"


def _size(amount: float) -> str:
    """Bytes.

    >>> _size(0), _size(2048), _size(1.5 * 2**30)
    ('0 B', '2.0 KiB', '1.5 GiB')
    """
    for unit in _UNITS:
        if amount < 1024 or unit == _UNITS[-1]:
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
