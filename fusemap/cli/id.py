"""fusemap id: which number a file has, and which device and inode are behind it."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from fusemap.cli import streams
from fusemap.cli.mounted import Located, file_of
from fusemap.errors import Refused


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    verb = verbs.add_parser(
        "id",
        help="file -> number",
        description="Prints each file's number on a fusemap mount, the host device and inode behind it, and its path.",
    )
    verb.add_argument("paths", nargs="+", metavar="PATH", help="a file on a fusemap mount")
    verb.add_argument("--json", action="store_true", help="print a JSON list")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what each path is."""
    rows = [_row(path) for path in options.paths]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print(f"{row['number']}\t{row['device']}\t{row['inode']}\t{streams.plain(str(row['path']))}")
    return 0


def _row(path: str) -> dict[str, object]:
    try:
        shown = os.lstat(path).st_ino
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
    found: Located = file_of(path, shown)
    printable = os.fsencode(path).decode("utf-8", "backslashreplace")
    return {"path": printable, "number": shown, "device": found["device"], "inode": found["inode"]}
