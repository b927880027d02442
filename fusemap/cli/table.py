"""fusemap table: looking at, moving and mending the table of numbers that belongs to a tree."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from fusemap.cli import files, streams
from fusemap.cli.repair import repair
from fusemap.cli.tables import open_source, opened
from fusemap.errors import Refused
from fusemap.qid.affix import LAST_INDEX
from fusemap.table import Ledger, Table
from fusemap.table import v1 as v1_format
from fusemap.table.home import merge
from fusemap.table.jsonform import from_json, to_json
from fusemap.table.listing import left, listing, reused
from fusemap.table.present import Present, base_key, device_key_of, present

_DAY: Final = 86400
_OLD_DAYS: Final = 90

DESCRIPTION: Final = """\
The table says which number every device's files get. It lies in attributes of SRC, or in a database where those cannot
hold it; --state names another one, as for fusemap mount.
"""
EPILOG: Final = """\
fusemap table ACT --help tells more of each. v1 is the format of patches for QEMU, "9p: persistency of QID path beyond
reboots": attributes user.virtfs.system.qid*.* of SRC. export writes it, import reads it, and so does a first mount.
"""


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    verb = verbs.add_parser(
        "table", help="show, export, import, clean or repair a table", description=DESCRIPTION, epilog=EPILOG
    )
    acts = verb.add_subparsers(dest="act", metavar="ACT", required=True)

    act = _act(acts, "show", show, "print devices, entries and what is left")
    act.add_argument("--json", action="store_true", help="print JSON")

    act = _act(acts, "export", export, "write the table as JSON, or as attributes in QEMU's format")
    act.add_argument("--format", choices=("json", "v1"), default="json", help="v1 goes to attributes of SRC itself")
    act.add_argument("-o", "--output", metavar="FILE", help="write JSON to FILE instead of standard output (-)")

    act = _act(acts, "import", import_, "add what an exported table says; nothing that is there changes")
    act.add_argument("file", nargs="?", metavar="FILE", help="a table exported as JSON; - is standard input")
    act.add_argument("--format", choices=("json", "v1"), default="json", help="v1 comes from attributes of SRC itself")

    _intermixed(act)

    act = _act(acts, "gc", gc, "drop devices that are gone, and retire their indices for good")
    act.add_argument("--device", action="append", default=[], metavar="KEY", help="this device, as show prints it")
    act.add_argument(
        "--unseen", type=_days, metavar="DAYS", default=_OLD_DAYS,
        help=f"devices that were not seen for so many days (default {_OLD_DAYS}); used where no --device is given",
    )  # fmt: skip
    act.add_argument("--dry-run", action="store_true", help="only print what would go")
    act.add_argument("--json", action="store_true", help="print JSON")

    act = _act(acts, "repair", repair, "see what can be saved of a damaged table, and save it with --write")
    act.add_argument("--write", metavar="FILE", help="save the damaged pieces to FILE, then repair the table")
    act.add_argument("--json", action="store_true", help="print JSON")


def _act(acts: Any, name: str, run: Callable[[argparse.Namespace], int], help: str) -> Any:
    act = acts.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    act.add_argument("source", metavar="SRC", help="the exported directory")
    act.add_argument("--state", default="auto", metavar="STATE", help="auto (default), xattr or sqlite:FILE")
    act.set_defaults(run=run)
    return act


def _intermixed(act: Any) -> None:
    """Options may stand between SRC and FILE, too; argparse by itself takes a FILE behind them for one too many."""
    plain = act.parse_known_args

    def parse(words: list[str], namespace: argparse.Namespace | None = None) -> Any:
        act.parse_known_args = plain
        try:
            return act.parse_known_intermixed_args(words, namespace)
        finally:
            act.parse_known_args = parse

    act.parse_known_args = parse


def show(options: argparse.Namespace) -> int:
    """Prints the table. Exit 1 where there is none."""
    with opened(options) as table:
        found = _present(options.source)
        points: dict[str, list[str]] = {}
        for device in found:
            points.setdefault(device.key, []).append(device.point)
        ledger = table.ledger()
        if options.json:
            print(json.dumps(listing(table, ledger, points), indent=2))
        elif not table.exists:
            print(f"{options.source} has no table yet; it would be in {table.where}")
        else:
            _print(table, ledger, points)
        return 0 if table.exists else 1


def export(options: argparse.Namespace) -> int:
    """Writes the table elsewhere."""
    with opened(options) as table:
        if not table.exists:
            raise Refused(f"{options.source} has no table to export; it gets one when it is mounted")
        ledger = table.ledger()
        if options.format == "v1":
            if options.output is not None:
                raise Refused("--format v1 goes to attributes of SRC itself: leave out -o")
            return _export_v1(options.source, ledger)
        text = json.dumps(to_json(ledger), indent=2) + "\n"
        if options.output in (None, "-"):
            with streams.output():
                sys.stdout.write(text)
        else:
            files.write(options.output, text.encode())
        return 0


def import_(options: argparse.Namespace) -> int:
    """Adds records from elsewhere, all of them or none."""
    if options.format == "v1" and options.file is not None:
        raise Refused(f"--format v1 comes from attributes of SRC itself: leave out {options.file}")
    with opened(options) as table:
        ledger = _imported_v1(options.source, table) if options.format == "v1" else _imported_json(options.file)
        if table.exists:
            now = table.ledger()
            merged, lost = merge(now, ledger)
            if lost:
                raise Refused(
                    f"{lost} records contradict the table in {table.where}, so nothing was imported: export it, and "
                    f"import into another one with --state sqlite:FILE"
                )
            added = 0 if merged is None else len(merged.entries) - len(now.entries)
            if merged is not None:
                try:
                    table.replace(merged)
                except ValueError as error:
                    raise Refused(f"the table in {table.where} has just been changed: import once more") from error
        else:
            added = len(ledger.entries)
            table.mode, table.k = ledger.mode, ledger.k
            table.replace(ledger)
        print(f"{added} entries imported into {table.where}")
        return 0


def gc(options: argparse.Namespace) -> int:
    """Drops devices."""
    with opened(options) as table:
        here = {device.key for device in _present(options.source)}
        devices = {device.key: device for device in table.devices()}
        unknown = [key for key in options.device if key not in devices]
        if unknown:
            raise Refused(f"the table has no device {unknown[0]}: see fusemap table show {options.source}")
        mounted = [key for key in options.device if base_key(key) in here]
        if mounted:
            raise Refused(f"{mounted[0]} is mounted beneath {options.source} now: unmount it first")
        today = int(time.time() // _DAY)
        gone = options.device or [
            key
            for key, device in devices.items()
            if device.dead
            or (device.lasting and base_key(key) not in here and 0 < device.seen <= today - options.unseen)
        ]
        entries = sum(devices[key].entries for key in gone)
        if gone and not options.dry_run:
            table.retire(gone)
        if options.json:
            print(json.dumps({"devices": gone, "entries": entries, "dropped": not options.dry_run}, indent=2))
        else:
            for key in gone:
                print(_printable(f"{key}\t{devices[key].entries} entries\tlast seen {_day(devices[key].seen)}"))
            verb = "would be" if options.dry_run else "were"
            print(f"{len(gone)} devices {verb} dropped, {entries} entries with them")
        return 0


# Showing --------------------------------------------------------------------------------------------------------------


def _print(table: Table, ledger: Ledger, points: dict[str, list[str]]) -> None:
    print(f"{table.where} ({table.state}): map {ledger.mode}, k {ledger.k}")
    rows: dict[str, list[str]] = {}
    for entry in sorted(ledger.entries.values(), key=lambda entry: entry.index):
        line = f"    {entry.index}\t{entry.affix:0{entry.length}b}\t{entry.length} bits\ttop bits {entry.top:#x}"
        rows.setdefault(str(entry.device), []).append(line)
    for device in table.devices():
        where = ", ".join(points.get(base_key(device.key), [])) or "not mounted here"
        kind = "" if device.lasting else "\tof an earlier session" if device.dead else "\tthis session only"
        label = f"\tfirst met as {device.label}" if device.label else ""
        print(_printable(f"{device.key}\t{where}{kind}{label}\tlast seen {_day(device.seen)}"))
        for line in rows.get(device.key, []):
            print(line)
    print(
        f"{len(ledger.entries)} of {LAST_INDEX} entries used, {len(ledger.retired)} retired, {left(ledger)} left; "
        f"{len(ledger.full)} files in the full map"
    )
    if ledger.holder_count:
        print(f"{ledger.holder_count} inode numbers known by generation, {reused(ledger)} times given to another file")


def _days(word: str) -> int:
    if not word.isascii() or not word.isdigit():
        raise argparse.ArgumentTypeError(f"{word}: a number of days is meant")
    return int(word)


def _day(days: int) -> str:
    return datetime.date.fromordinal(datetime.date(1970, 1, 1).toordinal() + days).isoformat() if days else "never"


def _printable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# Export and import ----------------------------------------------------------------------------------------------------


def _export_v1(source: str, ledger: Ledger) -> int:
    devices = _present(source)
    by_key: dict[str, list[int]] = {}
    for device in devices:
        by_key.setdefault(device.key, []).append(device.dev)

    def dev_of(key: str) -> int | None:
        found = set(by_key.get(key, ()))
        return found.pop() if len(found) == 1 else None

    table, report = v1_format.export_from(ledger, dev_of)
    fd = open_source(source)
    try:
        v1_format.write(fd, v1_format.build(table))
    except OSError as error:
        raise Refused(f"{source} cannot hold a table in QEMU's format ({error.strerror}): export it as JSON") from error
    finally:
        os.close(fd)
    print(f"attributes {v1_format.PREFIX}qidp.* of {source}: {report}")
    return 0


def _imported_v1(source: str, table: Table) -> Ledger:
    fd = open_source(source)
    try:
        streams = v1_format.read(fd, source)
    finally:
        os.close(fd)
    if streams is None:
        raise Refused(f"{source} has no table in QEMU's format")
    parsed = v1_format.parse(streams, source)
    if not table.exists:
        table.mode, table.k = ("suffix", parsed.k) if parsed.suffixes else ("prefix", 0)
    ledger = Ledger(table.mode, table.k, os.urandom(16))
    devices = _present(source)
    report = v1_format.import_into(ledger, parsed, lambda dev: device_key_of(devices, dev), source)
    print(f"table in QEMU's format: {report}")
    return ledger


def _imported_json(file: str | None) -> Ledger:
    if file is None:
        raise Refused("name the file to import, or - for standard input")
    try:
        if file == "-":
            return from_json(json.load(sys.stdin))
        with open(file, encoding="utf-8") as stream:
            return from_json(json.load(stream))
    except OSError as error:
        raise Refused(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise Refused(f"{file} is not JSON ({error}): fusemap table export makes what can be imported") from error


# Inside ---------------------------------------------------------------------------------------------------------------


def _present(source: str) -> list[Present]:
    try:
        return present(source)
    except OSError as error:
        raise Refused(f"{source}: {error.strerror}") from error
