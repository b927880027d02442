"""What the gate of fusemap.fuse.loop brings: fusemap with it and without it, in turns, on the same work.

Run `python -m tests.benchmarks.gate`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from tests.benchmarks import sandbox
from tests.benchmarks.contenders import Contender
from tests.benchmarks.jobs import JOBS
from tests.benchmarks.rounds import Medians, measure, medians
from tests.benchmarks.trees import Shape, build

KEYS: Final = ("inode", "du", "ls", "cat", "read", "churn")


def _serve(*options: str) -> Contender:
    command = [sys.executable, "-m", "tests.benchmarks.serve", *options, "mount", "-f"]
    return Contender(" ".join(options) or "with", lambda source, target: [*command, source, target])


WITH: Final = _serve()
WITHOUT: Final = _serve("--without-gate")


def compare(directory: Path, shape: Shape, rounds: int) -> Medians:
    """The medians of both on a tree built in `directory`, an empty one. Raises OSError."""
    tree = build(directory, shape, lambda _: None)
    jobs = [job for job in JOBS if job.key in KEYS]
    return medians(measure(tree, directory / "mount", jobs, [WITH, WITHOUT], rounds, lambda _: None))


def main() -> int:
    """Prints one line a job and phase."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gate", description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=5000, help="small files on each file system (default 5000)")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of which the median is taken (default 5)")
    options = parser.parse_args()
    shape = Shape(files=options.files, small=min(5000, 2 * options.files), mib=64, churn=min(2000, options.files))

    def work(directory: Path) -> int:
        found = compare(directory, shape, options.rounds)
        print(f"{'seconds':16}{'with':>10}{'without':>10}{'without / with':>16}")
        for job, by_phase in found.items():
            for phase, times in by_phase.items():
                with_gate, without = times[WITH.name], times[WITHOUT.name]
                print(f"{job + ', ' + phase:16}{with_gate:10.3f}{without:10.3f}{without / with_gate:16.2f}")
        return 0

    try:
        sandbox.need("mkfs.ext4", "mkfs.xfs")
        return sandbox.run(work)
    except sandbox.Missing as lack:
        print(f"tests.benchmarks.gate: {lack}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
