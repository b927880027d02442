"""The whole comparison in one command: `python -m tests.benchmarks` (as root; --help for its options).

It builds an ext4 and an xfs of small files, measures the host itself, bindfs, mergerfs and fusemap side by side, the
time of a number, and the cost of a known inode, and says which targets are reached. A time proves nothing by itself on
a machine that others use as well, so the exit status is 0 whatever is found.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import contenders, known, mapping, report, rounds, sandbox, startup
from tests.benchmarks.command import count, machine, progress
from tests.benchmarks.jobs import JOBS
from tests.benchmarks.trees import Shape, build

_KEYS: Final = (*(job.key for job in JOBS), "mapping", "startup", "known")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measures host, bindfs, mergerfs and fusemap side by side and compares with the targets.",
    )
    shape = Shape()
    for name, default, meaning in (
        ("files", shape.files, "small files on each of two file systems"),
        ("small", shape.small, "of which so many are read"),
        ("mib", shape.mib, "MiB of sequential reading and writing"),
        ("churn", shape.churn, "files to create and remove"),
        ("known", known.COUNT, "inodes to be known"),
        ("rounds", 5, "repetitions, of which the median is taken"),
    ):
        top.add_argument(f"--{name}", type=count, default=default, help=f"{meaning} (default {default})")
    only = f"measure only this, may be repeated: {', '.join(_KEYS)}"
    top.add_argument("--only", action="append", choices=_KEYS, metavar="JOB", help=only)
    top.add_argument("--json", metavar="FILE", help="also write everything to FILE as JSON")
    return top


def main() -> int:
    """Runs what the command line asks for; the exit status is 2 where it cannot run."""
    options = parser().parse_args()
    keys = options.only or list(_KEYS)
    try:
        if any(key not in ("mapping", "startup") for key in keys):
            sandbox.need("bindfs", "mergerfs", "mkfs.ext4", "mkfs.xfs")
            return sandbox.run(lambda directory: _measure(options, keys, directory))
        return _measure(options, keys, Path())
    except sandbox.Missing as lack:
        print(f"tests.benchmarks: {lack}", file=sys.stderr)
        return 2


def _measure(options: argparse.Namespace, keys: list[str], directory: Path) -> int:
    tell = progress()
    result: dict[str, Any] = {"machine": machine()}
    verdicts: list[report.Verdict] = []
    jobs = [job for job in JOBS if job.key in keys]
    names = [contender.name for contender in contenders.ALL]
    if jobs:
        shape = Shape(options.files, min(options.small, 2 * options.files), options.mib, options.churn)
        tree, target = build(directory, shape, tell), directory / "mount"
        rounds.same_tree(tree, target, contenders.ALL)
        seconds = rounds.measure(tree, target, jobs, contenders.ALL, options.rounds, tell)
        found = rounds.medians(seconds)
        result |= {"shape": shape.as_dict(), "rounds": options.rounds, "versions": contenders.versions()}
        result |= {"seconds": seconds, "medians": found}
        verdicts += report.judge(found)
    if "mapping" in keys:
        tell("mapping")
        result["mapping"] = numbers = min((mapping.measure() for _ in range(3)), key=lambda found: found["ratio"])
        verdicts.append(report.judge_mapping(numbers))
    if "startup" in keys:
        tell("startup")
        result["startup"] = start = startup.measure()
        verdicts.append(report.judge_startup(start))
    if "known" in keys:
        result["known"] = many = known.measure(directory, options.known, tell)
        verdicts += report.judge_known(many)
    tell("")
    result["targets"] = [verdict.as_dict() for verdict in verdicts]
    if jobs:
        print(*report.times_table(found, names), sep="\n", end="\n\n")
    print(*report.verdicts_table(verdicts), sep="\n")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
