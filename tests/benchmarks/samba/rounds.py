"""Measuring side by side, as tests.benchmarks.rounds does: the shares are of one directory, and take turns.

One smbd serves them, so that whatever Samba does is the same for all. For each work the mount is made anew: the first
run on it is "cold", the same again is "warm". The disk's own caches are warm throughout. For the plain share there is
nothing to be made anew; its two runs are counted alike.

bindfs is there as the measure of what FUSE itself costs: it is written in C and has nothing to do but to pass on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from tests.benchmarks.contenders import BINDFS
from tests.benchmarks.rounds import PHASES, Medians, Seconds
from tests.benchmarks.samba import works
from tests.benchmarks.samba.works import Shape, Work
from tests.samba.smbd import Share, Smbd
from tests.support.process import ROOT
from tests.support.stage import Stage

SHARES: Final = ("plain", "bindfs", "fusemap")


def measure(
    directory: Path,
    shape: Shape,
    chosen: Sequence[Work],
    rounds: int,
    settings: Mapping[str, str],
    tell: Callable[[str], None],
) -> Seconds:
    """Runs the works below `directory`, an empty one, on shares with `settings`.

    Raises AssertionError, ValueError or OSError when one fails.
    """
    os.environ["STATE_DIRECTORY"] = str(directory / "state")
    seconds: Seconds = {work.key: {phase: {name: [] for name in SHARES} for phase in PHASES} for work in chosen}
    stage = Stage()
    try:
        tell("making the tree")
        tree = stage.ext4("tree", 512 + 3 * shape.mib + shape.files // 100)
        works.build(tree, shape)
        mount = stage.directory("mnt")
        bound = stage.directory("bound")
        places = {"plain": tree, "bindfs": bound, "fusemap": mount}
        shares = {name: Share(path, settings=settings) for name, path in places.items()}
        smbd = Smbd(stage, shares, users=[ROOT])
        for turn in range(rounds):
            for step, work in enumerate(chosen):
                first = (turn + step) % len(SHARES)
                for name in (*SHARES[first:], *SHARES[:first]):
                    tell(f"round {turn + 1} of {rounds}: {work.title}, {name}")
                    with _mounted(stage, name, tree, bound):
                        for phase in PHASES:
                            spent = works.run(work, smbd, name, tree, directory / "here")
                            seconds[work.key][phase][name].append(spent)
    finally:
        stage.close()
    return seconds


@contextlib.contextmanager
def _mounted(stage: Stage, name: str, tree: Path, bound: Path) -> Iterator[None]:
    if name == "bindfs":
        with BINDFS.mounted(tree, bound):
            yield
    elif name == "fusemap":
        mounted = stage.fusemap(tree)
        yield
        mounted.close()
    else:
        yield


def medians(seconds: Seconds) -> Medians:
    """The median of the rounds, in the same shape; of the plain share both phases together."""
    found: Medians = {}
    for work, by_phase in seconds.items():
        plain = median(value for phase in PHASES for value in by_phase[phase]["plain"])
        found[work] = {
            phase: {name: plain if name == "plain" else median(by_phase[phase][name]) for name in SHARES}
            for phase in PHASES
        }
    return found
