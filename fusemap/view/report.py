"""What is said of a census: whether the tree collides, how the schemes compare, on which devices, and which files.

It is written for an administrator who knows find, rsync and du, and has never heard of QIDs: the answer comes first and
last, and what a collision does is said in the words of the tools that stumble over it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from fusemap.census import EXHIBITS, HARMS, Census, Collision, Device, Lanes, Scheme
from fusemap.view.blocks import GAP, WIDTH, Block, Grid, Heading, Line, cells, fitted, printable, shortened

SHOWN: Final = 20
"""Devices and unreadable places that are shown; of all others there is a count."""
LISTED: Final = 7
"""Collisions of each degree of harm that are listed."""
MEMBERS: Final = 6
"""Files of each that are."""

_SCHEMES: Final = {
    "raw": "the host's own: bindfs, plain 9P",
    "prefix": "fusemap --map prefix",
    "qemu": "QEMU's multidevs=remap",
    "suffix": "fusemap",
    "xor": "device XOR inode",
    "xxh64": "a hash of both, 64 bits",
    "xxh32": "a hash of both, 32 bits",
    "samba": "Samba's file id",
}
_SHARED: Final = {
    "loop": "by directories",
    "error": "by a directory and files",
    "mixed": "by files",
}
_HARM: Final = {
    "loop": (
        "find, du, rm -r, chmod -R, grep -r: where one lies inside the other, they report",
        "a loop and leave it out. Kernels that mount the tree (QEMU guests, 9P, FUSE):",
        "ELOOP or EIO, or one directory is shown in the other's place.",
    ),
    "error": (
        "Kernels that mount the tree (QEMU guests, 9P, FUSE): EIO, Input/output error,",
        "for whichever is looked at second.",
    ),
    "mixed": (
        "rsync -H, tar, cp -a: those with several names are taken for hard links of each",
        "other, and one's content replaces the other's; du counts only one.",
        "Kernels that mount the tree: data of one is read, or written, as the other's.",
    ),
}
_IDENTITY: Final = 2  # which column that is
_LEAST: Final = 12
_BAR: Final = 64
_ELSEWHERE: Final = "~"
_MARKS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def report(census: Census, width: int = WIDTH) -> Iterator[Block]:
    """The whole report, to be drawn from first to last. `width` (int) is how many columns there are, 80 or more."""
    yield from _summary(census)
    yield from _comparison(census, width)
    yield from _devices(census, width)
    yield from _budget(census)
    for scheme in census.chosen:
        if census.schemes[scheme].collides:
            yield from _lanes(census, census.lanes(scheme), scheme)
            yield from _ledger(census, census.schemes[scheme])
    yield from _conclusion(census)


def _summary(census: Census) -> Iterator[Block]:
    yield Heading(f"{printable(os.fsencode(census.root))}")
    names = f" with {_many(census.names, 'name')}" if census.names != census.files else ""
    yield Line(f"{_many(census.files, 'file')}{names}, on {_many(len(census.devices), 'device')}")
    for name in census.chosen:
        scheme = census.schemes[name]
        if scheme.collides:
            yield Line(f"{name}: {_sharing(census, scheme)}", "bad")
        else:
            yield Line(f"{name}: every file has a number of its own", "good")
        if scheme.numberless:
            yield Line(f"{name}: no number is left for {_many(scheme.numberless, 'file')}: ENFILE", "bad")
    if census.vanished:
        yield Line(f"{_many(census.vanished, 'name')} disappeared while the tree was walked")
    for where in census.unreadable[:SHOWN]:
        yield Line(f"not read: {printable(where.path)}: {where.why}", "bad")
    if len(census.unreadable) > SHOWN:
        more = len(census.unreadable) + census.unnamed - SHOWN
        listed = f"{len(census.unreadable):,} places" if census.unnamed else "them all"
        yield Line(f"not read: {more:,} more; --json lists {listed}", "bad")
    if census.unreadable:
        yield Line("what is in them is not counted" + (": scan as root" if os.geteuid() else ""), "dim")


def _comparison(census: Census, width: int) -> Iterator[Block]:
    yield Heading("Ways of giving numbers, and how many files would share one")
    rows: list[tuple[str, ...]] = []
    marks: dict[int, str] = {}
    for name, scheme in census.schemes.items():
        if scheme.collides:
            marks[len(rows)] = "bad"
        about = _SCHEMES[name] + (" (exhibit)" if name in EXHIBITS else "")
        counts = (f"{scheme.files[harm]:,}" for harm in HARMS)
        rows.append((name, about, *counts, _short(scheme.pairs), _short(scheme.expected)))
    titles = ("way", "numbers", ">dirs", ">dir+file", ">files", ">pairs", ">chance")
    yield fitted(Grid(titles, rows, marks), {1: 12}, width)
    yield Line("dirs share theirs with directories, dir+file a directory with files, files with", "dim")
    yield Line("files; chance: the pairs to expect if as many numbers were drawn by lot", "dim")


def _devices(census: Census, width: int) -> Iterator[Block]:
    yield Heading("Devices")
    count = len(census.devices)
    bad = next((name for name in census.chosen if census.schemes[name].collides), census.chosen[0])
    some = _worst(census, bad)
    rows = [_device(number, census.devices[number], bad) for number in some]
    marks = {row: "bad" for row, number in enumerate(some) if census.devices[number].colliding[bad]}
    titles = (">", "at", "identity", "st_dev", "affix", ">files", ">clash", ">highest inode")
    taken = sum(max(cells(row[at]) for row in (titles, *rows)) + GAP for at in range(len(titles)) if at != _IDENTITY)
    identities = (_identity(census.devices[number], max(_LEAST, width - taken)) for number in some)
    rows = [(*row[:_IDENTITY], text, *row[_IDENTITY + 1 :]) for row, text in zip(rows, identities, strict=True)]
    grid = fitted(Grid(titles, rows, marks), {1: 10, 4: 8}, width)
    yield fitted(grid, {_IDENTITY: 7, 4: 5, 1: 5}, width)
    if count > len(some):
        yield Line(f"and {count - len(some):,} more; these collide most; --json lists them all", "dim")
    yield Line(f"clash: files that collide with {bad}; affix: how its numbers end with fusemap", "dim")
    if any(not device.lasting for device in census.devices):
        yield Line("* is known until it is unmounted; a name given by --name PATH=NAME lasts", "dim")
    if not census.from_table:
        yield Line("affixes are those of a first mount: this tree has no table of suffixes yet", "dim")


def _worst(census: Census, scheme: str) -> list[int]:
    """The devices to be shown: the tree's own, and those with most colliding files, in their order."""
    devices = census.devices
    order = sorted(range(len(devices)), key=lambda number: (number > 0, -devices[number].colliding[scheme], number))
    return sorted(order[:SHOWN])


def _device(number: int, device: Device, scheme: str) -> tuple[str, ...]:
    """A row without the identity, which gets what room there is."""
    affix = str(device.entries[0][1]) if device.entries else "full map"
    more = f" +{len(device.entries) - 1:,}" if len(device.entries) > 1 else ""
    return (
        str(number), printable(device.place), "", f"{os.major(device.dev)}:{os.minor(device.dev)}", affix + more,
        f"{device.files:,}", f"{device.colliding[scheme]:,}", str(device.highest),
    )  # fmt: skip


def _identity(device: Device, room: int) -> str:
    """What file system it is; of a long identity both ends."""
    source, _, rest = device.key.partition(":")
    kind = printable(device.kind.encode()) or source
    return f"{kind} {shortened(rest, max(4, room - cells(kind) - 1)) if device.lasting else '*'}"


def _budget(census: Census) -> Iterator[Block]:
    yield Heading("Budget of the 64 bits, with fusemap")
    spent = float(census.spent)
    bar = _shares(census)
    yield Line(f"[{bar}]")
    yield Line(f"{spent:.2%} spent, {1 - spent:.2%} left; {census.entries:,} of 65,535 affixes used")
    if census.full:
        yield Line(f"{_many(census.full, 'file')} in the full map, each with a number of its own")
    if _ELSEWHERE in bar:
        yield Line(f"{_ELSEWHERE} is the share of devices that the table knows and that are not here", "dim")
    yield Line("a device has the numbers that end with its affix: 1 bit half, 3 bits an eighth;", "dim")
    yield Line("affixes get longer and shares smaller, so that 65,535 always fit", "dim")


def _shares(census: Census) -> str:
    """The space of all numbers as a bar: whose each part is."""
    bar, owed = "", 0.0
    for number, device in enumerate(census.devices):
        owed += sum(2.0**-affix.length for _, affix in device.entries) * _BAR
        bar = bar.ljust(min(round(owed), _BAR), _MARKS[number] if number < len(_MARKS) else "+")
    return bar.ljust(min(round(census.spent * _BAR), _BAR), _ELSEWHERE).ljust(_BAR, ".")


def _lanes(census: Census, lanes: Lanes, scheme: str) -> Iterator[Block]:
    yield Heading(f"Where files collide with {scheme}: a lane for each device, inodes from left to right")
    for number in _worst(census, scheme):
        device = census.devices[number]
        counts = zip(lanes.files[number].tolist(), lanes.colliding[number].tolist(), strict=True)
        lane = "".join("X" if colliding else "-" if files else " " for files, colliding in counts)
        place = shortened(printable(device.place), 14)
        yield Line(f"{number:>3} {place}{' ' * (14 - cells(place))} |{lane}| {device.colliding[scheme]:,}", "lane")
    if len(census.devices) > SHOWN:
        yield Line(f"and {len(census.devices) - SHOWN:,} more devices", "dim")
    highest = str(max(device.highest for device in census.devices))
    yield Line(f"{'inode':>19} 0{highest.rjust(len(lanes.edges) - 1)}", "dim")
    yield Line("X files that collide, - files that do not; columns have about as many files each", "dim")


def _ledger(census: Census, found: Scheme) -> Iterator[Block]:
    for harm in HARMS:
        count = found.groups[harm]
        if not count:
            continue
        yield Heading(f"{_many(count, 'number')} of {found.name} shared {_SHARED[harm]}, {found.files[harm]:,} in all")
        yield from (Line(text, "dim") for text in _HARM[harm])
        yield from _collisions(islice(census.collisions(found.name, (harm,)), LISTED), found.name == "raw")
        if count > LISTED:
            yield Line(f"and {_many(count - LISTED, 'number')} more; --json lists them all", "dim")


def _collisions(collisions: Iterator[Collision], plain: bool) -> Iterator[Block]:
    """A table of collisions; where numbers are inodes, these are not told again."""
    rows: list[tuple[str, ...]] = []
    for collision in collisions:
        number = str(collision.number)
        for member in collision.members[:MEMBERS]:
            path = printable(member.path) + "/" * member.directory
            inode = () if plain else (str(member.inode),)
            rows.append((number, str(member.device), *inode, path))
            number = ""
        rest = len(collision.members) - MEMBERS
        if rest > 0:
            rows.append(("", "", *([] if plain else [""]), f"and {rest:,} more"))
    yield Grid((">number", ">device", *(() if plain else (">inode",)), "file"), rows, {})


def _conclusion(census: Census) -> Iterator[Block]:
    """The answer once more: of a long report the end is what one sees first."""
    bad = [census.schemes[name] for name in census.chosen if census.schemes[name].collides]
    yield Heading("In short")
    if not bad:
        alone = ": it is on one device" if len(census.devices) == 1 else ""
        yield Line(f"With {_listed(census.chosen)} nothing in this tree collides{alone}.", "good")
    for scheme in bad:
        own = " (the host's own numbers)" if scheme.name == "raw" else ""
        yield Line(f"With {scheme.name}{own}, {_sharing(census, scheme)}.", "bad")
    if bad and not census.schemes["suffix"].collides and not census.numberless:
        yield Line("With fusemap mount, or fusemap serve, every file has a number of its own.", "good")


def _sharing(census: Census, scheme: Scheme) -> str:
    numbers = _many(sum(scheme.groups.values()), "number")
    return f"{sum(scheme.files.values()):,} of {_many(census.files, 'file')} share {numbers}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _short(count: float) -> str:
    """A number in at most ten letters."""
    return f"{count:,}" if isinstance(count, int) and count < 10**8 else f"{count:.2g}"
