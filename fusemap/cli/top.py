"""fusemap top: what a tree that is shown does, now.

On a terminal, a screen that is drawn anew until q or Ctrl-C; elsewhere, or with --once, one report over one interval.

With --json one object is printed. New keys may come; these stay:

    format      "fusemap-top"; version 1
    seconds     how long the interval was
    a_second    {operations, errors, read, written}: how many there were a second of each; read and written are bytes
    operations  by name {a_second, mean, 99_in_100_below}: times in seconds, null where none was timed
    stats, devices, collisions
                the files of the tree's hidden directory as they were at the end, see fusemap.tree.telling
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from typing import Any, Final

from fusemap.cli import extras, streams
from fusemap.cli.apart import Apart
from fusemap.cli.readings import Gone, Source, source_of
from fusemap.errors import Refused

DESCRIPTION: Final = """\
Shows what a tree does that fusemap mounts or serves: operations a second and how long they take, known inodes, devices
as they are met, and collisions as they are averted. On a terminal q or Ctrl-C ends it; elsewhere it prints one report.
Exit 1 when the tree is not shown any more. Only root and who has mounted it may watch a mount.
"""


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    verb = verbs.add_parser("top", help="what a mounted tree does now", description=DESCRIPTION)
    verb.add_argument(
        "tree",
        metavar="MNT",
        help="a fusemap mount, or the address of a 9P server (tcp:HOST:PORT, unix:PATH, vsock:CID:PORT)",
    )
    verb.add_argument("--once", action="store_true", help="print one report over one interval, also on a terminal")
    verb.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="SECONDS", help="how long between two readings (default 1)"
    )
    verb.add_argument("--json", action="store_true", help="print one report as JSON")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Watches the tree; returns the exit status."""
    source = source_of(options.tree)
    if source is None:
        raise Refused(f"{options.tree} is not a fusemap mount; mount a tree with fusemap mount first")
    try:
        with contextlib.closing(source):
            return _watch(source, options)
    except Gone as gone:
        print(f"fusemap: {gone}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _watch(source: Source, options: argparse.Namespace) -> int:
    if options.once or options.json or not sys.stdout.isatty():
        return _once(source, options)
    extras.need("rich", "live", "fusemap top needs rich on a terminal", ", or ask with --once")
    from fusemap.cli.screen import Screen, signals_end_it

    with Apart(source) as tree, signals_end_it():
        Screen(tree, options.interval).run()
    return 0


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{word}: a number of seconds from 0.1 to 3600 is meant")
    return seconds


def _once(source: Source, options: argparse.Namespace) -> int:
    from fusemap.view.reading import is_successor, news
    from fusemap.view.terminal import draw
    from fusemap.view.top import as_json, screen

    before = source.read()
    time.sleep(options.interval)
    now = source.read()
    earlier = before if is_successor(now, before) else None
    with streams.output():
        if options.json:
            print(json.dumps(as_json(now, earlier), indent=2))
        else:
            draw(screen(now, earlier, list(news(now, None))), sys.stdout)
    return 0
