"""Shares side by side - plain, bindfs, fusemap - in one command: `python -m tests.benchmarks.samba` (as root; --help).

A time proves nothing by itself on a machine that others use as well, so the exit status is 0 whatever is found; it is 1
when a client was refused or got wrong data.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import sandbox
from tests.benchmarks.command import count, machine, progress
from tests.benchmarks.report import Verdict, verdicts_table
from tests.benchmarks.rounds import PHASES, Medians
from tests.benchmarks.samba import rounds
from tests.benchmarks.samba.works import WORKS, Shape

RATIO: Final = 2.0
_TITLES: Final = {work.key: work.title for work in WORKS}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.samba",
        description="Measures Samba shares side by side: a plain one, one on bindfs and one on a fusemap mount.",
    )
    shape = Shape()
    for name, default, meaning in (
        ("files", shape.files, "files in the directory that is listed"),
        ("small", shape.small, "small files to copy"),
        ("mib", shape.mib, "MiB of the large file"),
        ("rounds", 5, "repetitions, of which the median is taken"),
    ):
        top.add_argument(f"--{name}", type=count, default=default, help=f"{meaning} (default {default})")
    only = f"measure only these: {', '.join(_TITLES)}"
    top.add_argument("--only", nargs="+", action="extend", choices=list(_TITLES), metavar="NAME", help=only)
    setting = "a setting of both shares, as smb.conf(5) has it, may be repeated: --set 'store dos attributes=no'"
    top.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help=setting)
    top.add_argument("--json", metavar="FILE", help="also write everything to FILE as JSON")
    return top


def main() -> int:
    """Runs what the command line asks for; the exit status is 2 where it cannot run."""
    options = parser().parse_args()
    try:
        sandbox.need("bindfs", "smbd", "smbclient", "smbpasswd", "mkfs.ext4")
        return sandbox.run(lambda directory: _measure(options, directory))
    except sandbox.Missing as lack:
        print(f"tests.benchmarks.samba: {lack}", file=sys.stderr)
        return 2


def _measure(options: argparse.Namespace, directory: Path) -> int:
    tempfile.tempdir = str(directory)
    directory.chmod(0o755)
    shape = Shape(options.files, options.small, options.mib)
    tell = progress()
    chosen = [work for work in WORKS if work.key in (options.only or _TITLES)]
    try:
        seconds = rounds.measure(directory, shape, chosen, options.rounds, dict(options.set), tell)
    except (AssertionError, OSError, ValueError) as error:
        print(f"tests.benchmarks.samba: {error}", file=sys.stderr)
        return 1
    tell("")
    found = rounds.medians(seconds)
    verdicts = judge(found)
    print(*times_table(found), "", *verdicts_table(verdicts), sep="\n")
    if options.json:
        result: dict[str, Any] = {"machine": machine(), "shape": shape.as_dict(), "rounds": options.rounds}
        result |= {"settings": dict(options.set)}
        result |= {"seconds": seconds, "medians": found, "targets": [verdict.as_dict() for verdict in verdicts]}
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


def judge(found: Medians) -> list[Verdict]:
    """fusemap's time over the plain share's, of every work and phase."""
    verdicts = []
    for work, by_phase in found.items():
        for phase, times in by_phase.items():
            ratio = times["fusemap"] / times["plain"]
            what = f"{_TITLES[work]}, {phase}, against a plain share"
            verdicts.append(Verdict(what, f"{ratio:.2f} times its time", f"{RATIO:.2f} times its time", ratio <= RATIO))
    return verdicts


def times_table(found: Medians) -> Iterator[str]:
    """The medians in seconds, a line for each work."""
    yield f"{'seconds (medians)':40}{'plain':>10}{'bindfs':>16}{'bindfs':>16}{'fusemap':>16}{'fusemap':>16}"
    yield f"{'':40}{'':>10}" + f"{'newly mounted':>16}{'again':>16}" * 2
    for work, by_phase in found.items():
        mounts = (by_phase[phase][name] for name in ("bindfs", "fusemap") for phase in PHASES)
        plain = by_phase["warm"]["plain"]
        yield f"{_TITLES[work]:40}{plain:10.3f}" + "".join(f"{seconds:16.3f}" for seconds in mounts)


def _setting(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("must have the form NAME=VALUE")
    return name.strip(), value.strip()


if __name__ == "__main__":
    sys.exit(main())
