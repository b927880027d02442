"""fusemap scan: would files of this tree collide, which, and what would each way of giving numbers make of it?

Nothing is mounted, and nothing on the tree is changed: where it has a table of numbers, that is read, so that the
numbers of mode suffix are the ones that a mount shows; a table is never made. (Numbers that a mount with --reuse
new-number gives to single files are not looked up.)

By default raw is chosen, since the question is what a plain export would do; `--map suffix` asks for proof that
fusemap's own numbers do not collide. The exit status goes by what was chosen.

With --json, one object is printed. Names and paths are relative to SRC; bytes in them that are not UTF-8 are lone
surrogates, as Python's os.fsencode() takes them. New keys may come; these stay:

    format      "fusemap-scan"; version 1
    root        SRC as it was given
    names       how many names the tree has, itself included; files: how many files (and directories, devices ...)
                those are, where several names of one file (hard links, bind mounts) count once
    vanished    names that were listed, and gone when they were to be looked at
    unreadable  [{path, why}]: directories that could not be read; what is in them is not in the census
    from_table  whether the suffixes are those of the tree's table
    devices     [{key, lasting, st_dev, kind, path, names, files, highest_inode, affixes, colliding}]: st_dev is
                "major:minor", affixes [{index, bits}] with the bits as a string of 0 and 1, colliding the number of
                files by scheme
    schemes     by name {mode, bits, files, numbers, pairs, expected_pairs}: mode says whether `fusemap mount --map`
                has it; files that share a number, and the numbers shared, by harm: loop (directory with directory),
                error (directory with file), mixed (file with file); expected_pairs is the birthday estimate for as
                many files with random numbers of so many bits
    budget      {affixes, full_map, spent}: spent is the Kraft sum of mode suffix, of 1
    collisions  by chosen scheme [{number, harm, files: [{path, device, inode, directory}]}], the most harmful first;
                device is a position in devices. Every collision is there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from fusemap.cli.exported import settle
from fusemap.errors import MappingExhausted, Refused

if TYPE_CHECKING:
    from fusemap.census import Census, Collision
    from fusemap.qid import Mapper

_SCHEMES: Final = ("raw", "prefix", "qemu", "suffix", "xor", "xxh64", "xxh32", "samba")
_MODES: Final = _SCHEMES[:4]

DESCRIPTION: Final = """\
Walks SRC with everything mounted beneath it, mounts nothing and changes nothing, and says which files would have one
number. Exit 1 when a chosen scheme gives two files one number.
"""


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    verb = verbs.add_parser("scan", help="find out whether files of a tree collide", description=DESCRIPTION)
    verb.add_argument("source", metavar="SRC", help="the directory that would be exported")
    verb.add_argument(
        "--map",
        action="append",
        choices=_SCHEMES,
        metavar="MODE",
        help="whose collisions to list, may be repeated: raw (default, the host's own numbers), prefix, qemu, suffix; "
        "or an exhibit: xor, xxh64, xxh32, samba. All are compared in any case",
    )
    verb.add_argument("--state", default="auto", metavar="STATE", help="where the table of numbers is, if there is one")
    verb.add_argument(
        "--name", action="append", default=[], metavar="PATH=NAME", help="the name of the device at PATH, as for mount"
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=run, log=None)


def run(options: argparse.Namespace) -> int:
    """Takes the census and prints it."""
    if importlib.util.find_spec("numpy") is None:
        raise Refused("fusemap scan needs numpy: pip install 'fusemap[scan]'")
    from fusemap.census import take
    from fusemap.view import draw, report

    given = options.source
    settle(options)
    logging.getLogger().setLevel(logging.ERROR)
    progress = _Progress()
    try:
        mapper = _stored(options.source, options.state)
        with take(
            options.source, options.map or ("raw",), mapper=mapper, names=options.names, progress=progress
        ) as census:
            progress.end()
            census.root = given
            if options.json:
                _print_json(census)
            else:
                draw(report(census), sys.stdout)
            return 1 if census.collides else 0
    except (BrokenPipeError, MappingExhausted):
        raise
    except OSError as error:
        raise Refused(f"{given}: {error.strerror or error}") from error
    finally:
        progress.end()


def _stored(source: str, state: str) -> Mapper | None:
    """A mapper with what the tree's table says, that adds to nothing but itself; None where there is no table."""
    from fusemap.qid import Allocator, Mapper
    from fusemap.table import open_table

    if state == "none" or (state.startswith("sqlite:") and not os.path.exists(state.removeprefix("sqlite:"))):
        return None
    if not os.path.isdir(source):
        raise Refused(f"{source} is not a directory that can be read")
    table = open_table(source, state, None)
    try:
        if not table.exists:
            return None
        ledger, records = table.ledger(), table.records()
        return Mapper(table.mode, table.k, records, Allocator(ledger.next_index(), ledger.next_counter()))
    except ValueError as error:
        raise Refused(
            f"the table in {table.where} contradicts itself ({error}): see fusemap table repair, or leave it out with "
            f"--state none"
        ) from error
    finally:
        table.close()


def _print_json(census: Census) -> None:
    """Prints the census, collisions one by one: there can be more of them than memory."""
    write = sys.stdout.write
    write(json.dumps(_head(census), indent=2)[:-2] + ',\n  "collisions": {')
    for number, scheme in enumerate(census.chosen):
        write(f'{"," * (number > 0)}\n    "{scheme}": [')
        for at, collision in enumerate(census.collisions(scheme)):
            write(f"{',' * (at > 0)}\n      {json.dumps(_collision(collision))}")
        write("\n    ]")
    write("\n  }\n}\n")


def _head(census: Census) -> dict[str, object]:
    return {
        "format": "fusemap-scan",
        "version": 1,
        "root": census.root,
        "names": census.names,
        "files": census.files,
        "vanished": census.vanished,
        "unreadable": [{"path": os.fsdecode(path), "why": why} for path, why in census.unreadable],
        "from_table": census.from_table,
        "devices": [
            {
                "key": device.key,
                "lasting": device.lasting,
                "st_dev": f"{os.major(device.dev)}:{os.minor(device.dev)}",
                "kind": device.kind,
                "path": os.fsdecode(device.place),
                "names": device.names,
                "files": device.files,
                "highest_inode": device.highest,
                "affixes": [{"index": index, "bits": str(affix)} for index, affix in device.entries],
                "colliding": device.colliding,
            }
            for device in census.devices
        ],
        "schemes": {
            name: {
                "mode": name in _MODES,
                "bits": scheme.bits,
                "files": scheme.files,
                "numbers": scheme.groups,
                "pairs": scheme.pairs,
                "expected_pairs": scheme.expected,
            }
            for name, scheme in census.schemes.items()
        },
        "budget": {"affixes": census.entries, "full_map": census.full, "spent": float(census.spent)},
    }


def _collision(collision: Collision) -> dict[str, object]:
    members = [
        {"path": os.fsdecode(path), "device": device, "inode": inode, "directory": directory}
        for path, device, inode, directory in collision.members
    ]
    return {"number": collision.number, "harm": collision.harm, "files": members}


class _Progress:
    """What is done and how fast, on standard error, where that is a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._last = 0.0

    def __call__(self, doing: str, names: int, devices: int) -> None:
        """`names` were found so far, on so many `devices`."""
        now = time.monotonic()
        if self._terminal and now - self._last > 0.1:
            self._last = now
            rate = f", {names / max(now - self._began, 0.001):,.0f} a second" if doing == "walking" else ""
            print(f"\r\033[K{doing}: {names:,} names, {devices:,} devices{rate}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """The line makes room for what comes next."""
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
