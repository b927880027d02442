"""Measuring side by side.

Whatever else the machine does comes and goes in minutes, so the contenders take turns within seconds: a round runs each
job once with every contender before the next job, and each round starts with another contender. Before each run the
contender is mounted anew; that run is "cold", the same again is "warm". Cold means that the kernel knows nothing of the
mount: the host's own caches are warm throughout, so no disk is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from tests.benchmarks.contenders import Contender
from tests.benchmarks.jobs import Job
from tests.benchmarks.trees import Tree

PHASES: Final = ("cold", "warm")

Seconds = dict[str, dict[str, dict[str, list[float]]]]
"""job -> phase -> contender -> one value a round"""
Medians = dict[str, dict[str, dict[str, float]]]


def measure(
    tree: Tree,
    target: Path,
    jobs: Sequence[Job],
    contenders: Sequence[Contender],
    rounds: int,
    tell: Callable[[str], None],
) -> Seconds:
    """Runs every job `rounds` times with each contender, mounted on `target`. Raises OSError when one fails."""
    seconds: Seconds = {job.key: {phase: {c.name: [] for c in contenders} for phase in PHASES} for job in jobs}
    for turn in range(rounds):
        for step, job in enumerate(jobs):
            tell(f"round {turn + 1} of {rounds}: {job.title}, warming the host's caches")
            job.run(tree, tree.root)  # whatever has emptied them meanwhile
            first = (turn + step) % len(contenders)
            for contender in (*contenders[first:], *contenders[:first]):
                tell(f"round {turn + 1} of {rounds}: {job.title}, {contender.name}")
                with contender.mounted(tree.root, target) as (root, _):
                    for phase in PHASES:
                        seconds[job.key][phase][contender.name].append(job.run(tree, root))
    return seconds


def medians(seconds: Seconds) -> Medians:
    """The median of the rounds, in the same shape."""
    return {
        job: {phase: {name: median(values) for name, values in by_name.items()} for phase, by_name in by_phase.items()}
        for job, by_phase in seconds.items()
    }


def same_tree(tree: Tree, target: Path, contenders: Sequence[Contender]) -> None:
    """Looks whether every contender shows the whole tree. Raises OSError otherwise: its times would mean nothing."""
    expected = _count(tree.root)
    for contender in contenders:
        with contender.mounted(tree.root, target) as (root, _):
            found = _count(root)
        if found != expected:
            raise OSError(f"{contender.name} shows {found} files and directories, not {expected}")


def _count(root: Path) -> int:
    return sum(1 for _ in root.rglob("*"))
