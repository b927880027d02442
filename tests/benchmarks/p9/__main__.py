"""fusemap serve beside diod in one command: `python -m tests.benchmarks.p9` (as root; --help for its options).

It makes a tree of real files, starts both servers on the loopback, and measures them in turns with a load generator in
C. A time proves nothing by itself on a machine that others use as well, so the exit status is 0 whatever is found; it
is 1 when a server gave a wrong answer or none.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import sandbox
from tests.benchmarks.command import count, machine, progress
from tests.benchmarks.p9 import report, rounds, servers
from tests.benchmarks.p9.works import WORKS, Shape
from tests.benchmarks.report import verdicts_table

_KEYS: Final = (*(work.key for work in WORKS), rounds.FIDS)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.p9",
        description="Measures diod and fusemap serve side by side and compares with the targets.",
    )
    shape = Shape()
    for name, default, meaning in (
        ("files", shape.files, "files in the directory that is read"),
        ("requests", shape.requests, "requests one at a time; other works take more or less in proportion"),
        ("mib", shape.mib, "MiB of sequential reading and writing"),
        ("fids", shape.fids, "fids to hold"),
        ("rounds", 5, "repetitions, of which the median is taken"),
    ):
        top.add_argument(f"--{name}", type=count, default=default, help=f"{meaning} (default {default})")
    only = f"measure only these: {', '.join(_KEYS)}"
    top.add_argument("--only", nargs="+", action="extend", choices=_KEYS, metavar="NAME", help=only)
    names = [server.name for server in servers.ALL]
    top.add_argument("--server", choices=names, help="measure only this one")
    where = "where servers and clients run: on any processor, apart, or all on one (default free)"
    top.add_argument("--place", choices=rounds.PLACES, default="free", help=where)
    top.add_argument("--json", metavar="FILE", help="also write everything to FILE as JSON")
    return top


def main() -> int:
    """Runs what the command line asks for; the exit status is 2 where it cannot run."""
    options = parser().parse_args()
    chosen = [server for server in servers.ALL if options.server in (None, server.name)]
    try:
        sandbox.need("gcc", *(["diod"] if servers.DIOD in chosen else []))
        return sandbox.run(lambda directory: _measure(options, chosen, directory))
    except sandbox.Missing as lack:
        print(f"tests.benchmarks.p9: {lack}", file=sys.stderr)
        return 2


def _measure(options: argparse.Namespace, chosen: list[servers.Server], directory: Path) -> int:
    keys = options.only or _KEYS
    shape = Shape(options.files, options.requests, options.mib, options.fids)
    tell = progress()
    try:
        bench = rounds.Bench(directory, shape, chosen, options.place, tell)
        values = bench.measure([work for work in WORKS if work.key in keys], options.rounds)
        fids = bench.fids(options.rounds) if rounds.FIDS in keys else {}
    except (OSError, ValueError) as error:
        print(f"tests.benchmarks.p9: {error}", file=sys.stderr)
        return 1
    tell("")
    found = rounds.medians(values)
    verdicts = report.judge(found) + report.judge_fids(fids)
    if found:
        print(*report.rates_table(found, [server.name for server in chosen]), sep="\n")
    print(*report.notes(found, fids), sep="\n")
    if verdicts:
        print("", *verdicts_table(verdicts), sep="\n")
    if options.json:
        result: dict[str, Any] = {"machine": machine(), "versions": servers.versions()}
        result |= {"shape": shape.as_dict(), "rounds": options.rounds, "place": options.place}
        result |= {"fields": rounds.Value._fields, "values": values, "medians": found, "fids": fids}
        result |= {"targets": [verdict.as_dict() for verdict in verdicts]}
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
