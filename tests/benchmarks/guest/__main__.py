"""9P servers as a Linux guest sees them, in one command: `python -m tests.benchmarks.guest` (as root; --help).

It makes a tree, starts diod and fusemap on it, boots one guest that can mount both and QEMU's own 9pfs, and has it do
the same work with each in turns. The guest's processor is emulated (QEMU's TCG), so that it runs anywhere; a real one
is several times faster, and then the transport and the servers are more of the whole. A time proves nothing by itself
on a machine that others use as well, so the exit status is 0 whatever is found; it is 1 when a result was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import sandbox
from tests.benchmarks.command import count, machine, progress
from tests.benchmarks.guest import ways
from tests.benchmarks.guest.works import WORKS, Shape, build

_CACHES: Final = ("none", "loose", "mmap")
_SIZES: Final = (128 << 10, 512 << 10)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.guest",
        description="Measures QEMU's 9pfs, diod and fusemap inside a Linux guest and compares with the targets.",
    )
    shape = Shape()
    for name, default, meaning in (
        ("files", shape.files, "files to be found"),
        ("small", shape.small, "small files to be read"),
        ("mib", shape.mib, "MiB of sequential reading and writing"),
        ("rounds", 5, "repetitions, of which the median is taken"),
    ):
        top.add_argument(f"--{name}", type=count, default=default, help=f"{meaning} (default {default})")
    keys = [work.key for work in WORKS]
    only = f"measure only these: {', '.join(keys)}"
    top.add_argument("--only", nargs="+", action="extend", choices=keys, metavar="WORK", help=only)
    names = [way.name for way in ways.ALL]
    top.add_argument(
        "--way", nargs="+", action="extend", choices=names, metavar="WAY", help=f"only these: {', '.join(names)}"
    )
    top.add_argument(
        "--cache", nargs="+", choices=_CACHES, default=["none", "loose"], help="the client's caches (none and loose)"
    )
    sizes = "sizes of messages in bytes (131072, the kernel's default, and 524288); all but data takes the first"
    top.add_argument("--msize", nargs="+", type=count, default=_SIZES, metavar="N", help=sizes)
    top.add_argument("--json", metavar="FILE", help="also write everything to FILE as JSON")
    return top


def main() -> int:
    """Runs what the command line asks for; the exit status is 2 where it cannot run."""
    options = parser().parse_args()
    try:
        sandbox.need("gcc", "diod", "qemu-system-x86_64", "cpio", "modprobe", "busybox")
        return sandbox.run(lambda directory: _measure(options, directory))
    except sandbox.Missing as lack:
        print(f"tests.benchmarks.guest: {lack}", file=sys.stderr)
        return 2


def _measure(options: argparse.Namespace, directory: Path) -> int:
    # Here and not above: the guests' harness has a thread, which the sandbox's child would not inherit.
    import pytest

    from tests.benchmarks.guest import rounds

    tell = progress()
    chosen = [way for way in ways.ALL if options.way is None or way.name in options.way]
    cases = rounds.cases([w for w in WORKS if w.key in (options.only or w.key)], options.cache, options.msize)
    try:
        requests, values = _boot(options, directory, chosen, cases, tell)
    except pytest.skip.Exception as lack:
        print(f"tests.benchmarks.guest: {lack}", file=sys.stderr)
        return 2
    except (AssertionError, OSError) as error:
        print(f"tests.benchmarks.guest: {error}", file=sys.stderr)
        return 1
    tell("")
    _tell_found(options, chosen, requests, values)
    return 0


def _boot(options: argparse.Namespace, directory: Path, chosen: Any, cases: Any, tell: Callable[[str], None]) -> Any:
    """What was counted and measured. Raises OSError, and AssertionError when the guest does not do as it should."""
    from tests.benchmarks.guest import rounds
    from tests.guest.machine import Guest, Image

    tree, scratch = directory / "tree", directory / "image"
    shape = Shape(options.files, options.small, options.mib)
    tell("making the tree")
    build(tree, shape)
    scratch.mkdir()
    servers = ways.Servers(directory, tree)
    with servers.all():
        tell("booting")
        with Guest(Image(scratch), directory, "guest", *servers.exports, options=servers.options()) as guest:
            guest.up()
            servers.prepare(guest)
            bench = rounds.Bench(guest, servers, chosen, tree, shape, tell)
            return bench.count(cases), bench.measure(cases, options.rounds)


def _tell_found(options: argparse.Namespace, chosen: Any, requests: Any, values: Any) -> None:
    from tests.benchmarks.guest import report, rounds
    from tests.benchmarks.report import verdicts_table

    verdicts = report.judge(values)
    print(*report.times_table(values, chosen), "", *report.shares_table(values, requests, chosen), sep="\n")
    if verdicts:
        print("", *verdicts_table(verdicts), sep="\n")
    if options.json:
        result: dict[str, Any] = {"machine": machine(), "rounds": options.rounds, "fields": rounds.Value._fields}
        result |= {"shape": Shape(options.files, options.small, options.mib).as_dict()}
        result |= {"values": _named(values), "medians": _named(rounds.medians(values)), "requests": _named(requests)}
        result |= {"targets": [verdict.as_dict() for verdict in verdicts]}
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


def _named(by_case: dict[tuple[str, str], Any]) -> dict[str, Any]:
    """For JSON, whose keys are strings."""
    return {", ".join(case): value for case, value in by_case.items()}


if __name__ == "__main__":
    sys.exit(main())
