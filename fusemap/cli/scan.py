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
    unreadable  [{path, why}]: directories that could not be read, at most 10,000; what is in them is not in the census
    unreadable_more  how many more could not be read
    from_table  whether the suffixes are those of the tree's table
    devices     [{key, lasting, st_dev, kind, path, names, files, highest_inode, affixes, colliding}]: st_dev is
                "major:minor", affixes [{index, bits}] with the bits as a string of 0 and 1, colliding the number of
                files by scheme
    schemes     by name {mode, bits, files, numbers, pairs, expected_pairs, full_map, numberless}: mode says whether
                `fusemap mount --map` has it; files that share a number, and the numbers shared, by harm: loop
                (directory with directory), error (directory with file), mixed (file with file); expected_pairs is the
                birthday estimate for as many files with random numbers of so many bits; full_map is how many files
                have a number from the full map, and numberless for how many that has none left: ENFILE in a mount
    budget      {affixes, full_map, numberless, spent}: those of mode suffix; spent is the Kraft sum, of 1
    collisions  by chosen scheme [{number, harm, files: [{path, device, inode, directory}]}], the most harmful first;
                device is a position in devices. Every collision is there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final, TextIO

from fusemap.cli import extras, pictures, streams
from fusemap.cli.exported import settle
from fusemap.errors import Refused

if TYPE_CHECKING:
    from fusemap.census import Census, Collision
    from fusemap.qid import Mapper

_SCHEMES: Final = ("raw", "prefix", "qemu", "suffix", "xor", "xxh64", "xxh32", "samba")
_MODES: Final = _SCHEMES[:4]
_TICK: Final = 0.1  # seconds
_SOON: Final = 1.0  # before that, nothing is said of the time left
_SMALL: Final = 0.01
_WIDTH: Final = 80

DESCRIPTION: Final = """\
Walks SRC with everything mounted beneath it, mounts nothing and changes nothing, and says which files would have one
number if all of it were shown as one device, and what programs would make of that. What is found is written down in
$TMPDIR or /var/tmp meanwhile, some 100 bytes a file. Exit 1 when a chosen scheme gives two files one number.
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
    verb.add_argument(
        "--state",
        default="auto",
        metavar="STATE",
        help="where the table of numbers is, if there is one, as for mount: auto (default), xattr, sqlite:FILE; none "
        "leaves it out",
    )
    verb.add_argument(
        "--name", action="append", default=[], metavar="PATH=NAME", help="the name of the device at PATH, as for mount"
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    pictures.add_options(verb)
    verb.set_defaults(run=run, log=None)


def run(options: argparse.Namespace) -> int:
    """Takes the census and prints it."""
    extras.need("numpy", "scan", "fusemap scan needs numpy")
    from fusemap.census import take
    from fusemap.view import draw
    from fusemap.view.report import report

    given = options.source
    settle(options)
    pictures.check(options)
    chosen = tuple(dict.fromkeys(options.map or ("raw",)))
    logging.getLogger().setLevel(logging.ERROR)
    progress = Progress()
    try:
        mapper = stored(options.source, options.state)
        with take(
            options.source, _SCHEMES if pictures.wanted(options) else chosen, mapper=mapper, names=options.names,
            progress=progress,
        ) as census:  # fmt: skip
            progress.end()
            census.root = given
            census.chosen = chosen  # pictures show all, lists and the exit status go by these
            with streams.output():
                if options.json:
                    _print_json(census)
                elif not pictures.on_output(options):
                    draw(report(census, _columns(sys.stdout)), sys.stdout)
            if pictures.wanted(options):
                pictures.make(census, options, progress)
            return 1 if census.collides else 0
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Refused(f"{given}: {error.strerror or error}") from error
    finally:
        progress.end()


def stored(source: str, state: str) -> Mapper | None:
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
        "unreadable_more": census.unnamed,
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
                "full_map": scheme.full,
                "numberless": scheme.numberless,
            }
            for name, scheme in census.schemes.items()
        },
        "budget": {
            "affixes": census.entries,
            "full_map": census.full,
            "numberless": census.numberless,
            "spent": float(census.spent),
        },
    }


def _collision(collision: Collision) -> dict[str, object]:
    members = [
        {"path": os.fsdecode(path), "device": device, "inode": inode, "directory": directory}
        for path, device, inode, directory in collision.members
    ]
    return {"number": collision.number, "harm": collision.harm, "files": members}


class Progress:
    """What is done, how fast, and how long it will take, on standard error, where that is a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._began = self._last = time.monotonic()
        self._doing = ""
        self._shown = False

    def __call__(self, doing: str, names: int, devices: int, done: float | None) -> None:
        """`names` were found so far, on so many `devices`; `done` is what part of the work that is, if it is known."""
        if not self._terminal:
            return
        now = time.monotonic()
        what = doing.partition(" ")[0]
        if what != self._doing:
            self._doing, self._began = what, now
        if now - self._last > _TICK:
            self._last, self._shown = now, True
            seconds = now - self._began
            rate = f", {names / seconds:,.0f} a second" if doing == "walking" and seconds else ""
            line = f"{doing}: {_many(names, 'name')}, {_many(devices, 'device')}{rate}{left(seconds, done)}"
            print(f"\r\033[K{line[: _columns(sys.stderr) - 1]}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """The line makes room for what comes next."""
        if self._shown:
            self._shown = False
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def left(seconds: float, done: float | None) -> str:
    """How long the rest of some work will take, of which a part (0 to 1) has taken `seconds`; "" if one cannot tell.

    >>> left(30, 0.25), left(600, 0.25), left(30, None), left(0.5, 0.001)
    (', 90 s left', ', 30 min left', '', '')
    """
    if not done or seconds < _SOON or done < _SMALL:
        return ""
    rest = seconds * (1 - done) / done
    return f", {rest:.0f} s left" if rest < 100 else f", {rest / 60:.0f} min left"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _columns(stream: TextIO) -> int:
    """How many columns a terminal has; 80 where there is none, or it does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or _WIDTH
    except OSError:
        return _WIDTH
