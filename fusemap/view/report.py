"""What is said of a census: whether the tree collides, how the schemes compare, on which devices, and which files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import Final

from fusemap.census import EXHIBITS, HARMS, Census, Device, Lanes
from fusemap.view.blocks import Block, Grid, Heading, Line, fitted, printable, shortened

SHOWN: Final = 20
"""Collisions, devices and unreadable places that are shown; of all others there is a count."""

_HARM: Final = {
    "loop": "between directories: find and du see a loop, kernels mix up trees",
    "error": "between a directory and files: EIO, one of them cannot be used",
    "mixed": "between files: wrong data, and copies that make them hard links",
}
_KIND: Final = {"loop": "directories", "error": "dir + file", "mixed": "files"}
_ABOUT: Final = (
    "chance: the pairs to expect if as many numbers were drawn by lot",
    "raw: what plain exports show; qemu: QEMU's multidevs=remap; suffix: fusemap's",
    "exhibits: device XOR inode, hashes of both, and Samba's file id on such a tree",
)
_MEMBERS: Final = 6


def report(census: Census) -> Iterator[Block]:
    """The whole report, to be drawn from first to last."""
    yield from _summary(census)
    yield from _comparison(census)
    yield from _devices(census)
    yield from _budget(census)
    for scheme in census.chosen:
        if census.schemes[scheme].collides:
            yield from _lanes(census, census.lanes(scheme), scheme)
            yield from _ledger(census, scheme)


def _summary(census: Census) -> Iterator[Block]:
    count = len(census.devices)
    yield Heading(f"{printable(os.fsencode(census.root))}")
    more = f", {census.names} names" if census.names != census.files else ""
    yield Line(f"{census.files} files{more}, on {count} {'device' if count == 1 else 'devices'}")
    for name in census.chosen:
        scheme = census.schemes[name]
        if scheme.collides:
            groups, files = sum(scheme.groups.values()), sum(scheme.files.values())
            yield Line(f"{name}: {files} files share {groups} {'number' if groups == 1 else 'numbers'}", "bad")
        else:
            yield Line(f"{name}: every file has a number of its own", "good")
    if census.vanished:
        yield Line(f"{census.vanished} names were gone before they could be looked at")
    for where in census.unreadable[:SHOWN]:
        yield Line(f"not read: {printable(where.path)}: {where.why}", "bad")
    if len(census.unreadable) > SHOWN:
        yield Line(f"not read: {len(census.unreadable) - SHOWN} more", "bad")


def _comparison(census: Census) -> Iterator[Block]:
    yield Heading("Files that share a number, by what shares it")
    rows: list[tuple[str, ...]] = []
    marks: dict[int, str] = {}
    for name, scheme in census.schemes.items():
        if scheme.collides:
            marks[len(rows)] = "bad"
        label = f"{name} (exhibit)" if name in EXHIBITS else name
        counts = (str(scheme.files[harm]) for harm in HARMS)
        rows.append((label, *counts, str(scheme.pairs), f"{scheme.expected:.2g}"))
    titles = (f">{_KIND[harm]}" for harm in HARMS)
    yield Grid(("scheme", *titles, ">pairs", ">chance"), rows, marks)
    yield from (Line(text, "dim") for text in _ABOUT)


def _devices(census: Census) -> Iterator[Block]:
    yield Heading("Devices")
    rows = [_device(number, device) for number, device in enumerate(islice(census.devices, SHOWN))]
    grid = Grid((">", "identity", "st_dev", "affix", ">files", ">highest inode", "at"), rows, {})
    yield fitted(grid, {6: 10, 1: 10, 3: 7})
    if len(census.devices) > SHOWN:
        yield Line(f"and {len(census.devices) - SHOWN} more; --json lists them all", "dim")
    if any(not device.lasting for device in census.devices):
        yield Line("session: known until it is unmounted; a name given by --name PATH=NAME lasts", "dim")
    if not census.from_table:
        yield Line("affixes are those of a first mount: this tree has no table of suffixes yet", "dim")


def _device(number: int, device: Device) -> tuple[str, ...]:
    kind, _, rest = device.key.partition(":")
    identity = f"{kind}:{shortened(rest, 8)}"
    affix = str(device.entries[0][1]) if device.entries else "-"
    more = f"+{len(device.entries) - 1}" if len(device.entries) > 1 else ""
    dev = f"{os.major(device.dev)}:{os.minor(device.dev)}"
    place = shortened(printable(device.place), 24)
    return (str(number), identity, dev, shortened(affix, 9) + more, str(device.files), str(device.highest), place)


def _budget(census: Census) -> Iterator[Block]:
    yield Heading("Budget of the 64 bits")
    spent = float(census.spent)
    filled = min(40, max(int(spent * 40), 1 if spent else 0))
    yield Line(f"[{'#' * filled}{'.' * (40 - filled)}] {spent:.2%} spent, {1 - spent:.2%} left")
    full = f", {census.full} files in the full map" if census.full else ""
    yield Line(f"{census.entries} of 65535 affixes are used{full}")


def _lanes(census: Census, lanes: Lanes, scheme: str) -> Iterator[Block]:
    yield Heading(f"Where files collide with {scheme}: a lane for each device, inodes from left to right")
    worst = sorted(range(len(census.devices)), key=lambda number: -census.devices[number].colliding[scheme])[:SHOWN]
    for number in sorted(worst):
        device = census.devices[number]
        cells = zip(lanes.files[number].tolist(), lanes.colliding[number].tolist(), strict=True)
        lane = "".join("X" if colliding else "-" if files else " " for files, colliding in cells)
        text = f"{number:>3} {shortened(printable(device.place), 14):14} |{lane}| {device.colliding[scheme]}"
        yield Line(text, "lane")
    if len(census.devices) > SHOWN:
        yield Line(f"and {len(census.devices) - SHOWN} more devices", "dim")
    yield Line(f"X files that collide, - files that do not; inode 0 to {max(d.highest for d in census.devices)}", "dim")


def _ledger(census: Census, scheme: str) -> Iterator[Block]:
    found = census.schemes[scheme]
    yield Heading(f"Collisions of {scheme}, the most harmful first")
    for harm in HARMS:
        if found.groups[harm]:
            yield Line(f"{found.groups[harm]:>9} {_HARM[harm]}")
    for collision in islice(census.collisions(scheme), SHOWN):
        yield Line("")
        yield Line(f"number {collision.number}: {_KIND[collision.harm]}", "bad")
        for member in collision.members[:_MEMBERS]:
            slash = "/" if member.directory else ""
            yield Line(f"    {printable(member.path)}{slash}  (device {member.device}, inode {member.inode})")
        if len(collision.members) > _MEMBERS:
            yield Line(f"    and {len(collision.members) - _MEMBERS} more", "dim")
    rest = sum(found.groups.values()) - SHOWN
    if rest > 0:
        yield Line("")
        yield Line(f"and {rest} more numbers; --json lists them all", "dim")
