"""What `fusemap scan` costs beside find, and how much memory ten million files take.

`python -m tests.benchmarks.scan TREE` walks TREE with `find TREE -printf '%D %i %p\\n'` and `fusemap scan TREE` in
turns. `python -m tests.benchmarks.scan --pairs 10000000` makes so many (device, inode) pairs up instead, on four
devices whose inodes overlap as those of real disks do, and takes their census: the time, and the most memory that the
process has had. With --hashed the inodes are hashes of 64 bits, as some file systems' are, so that affixes run out and
nearly all files are for the full map. Both in a process of their own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[2]
DEVICES: Final = 4
_RUN: Final = 100
_SPREAD: Final = 0x9E3779B97F4A7C15


def pairs(count: int, hashed: bool = False) -> dict[str, float]:
    """Take the census of `count` (int) made-up files; seconds to make and to count them, and the peak in MiB."""
    from fusemap.census.collide import find
    from fusemap.census.numbers import SCHEMES, Tops, numbering, upper_halves
    from fusemap.census.spill import Spill

    start = perf_counter()
    with Spill() as spill:
        for run in range(count // _RUN):
            device, first = run % DEVICES, 12 + run // DEVICES * _RUN
            names = [b"", *(b"file-%d" % name for name in range(_RUN - 1))]
            inodes: Sequence[int] = range(first, first + _RUN)
            if hashed:
                inodes = [inode * _SPREAD % 2**64 ^ device for inode in inodes]
            spill.add(device, b"some/where/%d" % run, names, array("Q", inodes), True)
        rows = spill.rows_of()
        made = perf_counter()
        halves, _, _ = upper_halves(rows.chunks(), DEVICES)
        tops = [Tops(f"device {number}", number + 7, 12, some) for number, some in enumerate(halves)]
        colliding, full = 0, 0
        for scheme in SCHEMES:
            found = find(rows, numbering(scheme, tops), DEVICES, scheme == "raw")
            colliding += sum(found.files.values())
            full = max(full, found.own)
            if scheme == "raw":
                for number, collision in enumerate(found.collisions(rows)):
                    if number == 1000:
                        break
                    assert len(collision.members) == DEVICES
            found.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"make": made - start, "count": perf_counter() - made, "MiB": peak, "colliding": colliding, "full map": full}


def beside_find(tree: str, rounds: int) -> dict[str, float]:
    """Walk `tree` with find and with scan in turns; the medians in seconds, and find's share of scan's time."""
    commands = {
        "find": ["find", tree, "-printf", "%D %i %p\n"],
        "scan": [sys.executable, "-m", "fusemap", "scan", tree, "--state", "none"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, command in commands.items():
            start = perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=CHECKOUT)
            seconds[name].append(perf_counter() - start)
    found = {name: median(times[1:]) for name, times in seconds.items()}  # the first round fills the caches
    return {**found, "speed": found["find"] / found["scan"]}


def main() -> None:
    """Print one line."""
    top = argparse.ArgumentParser(prog="python -m tests.benchmarks.scan")
    top.add_argument("tree", nargs="?", metavar="TREE")
    top.add_argument("--pairs", type=int, default=0, metavar="N", help="make up so many files instead")
    top.add_argument("--hashed", action="store_true", help="with inodes of 64 random bits")
    top.add_argument("--rounds", type=int, default=5)
    options = top.parse_args()
    if not options.tree and not options.pairs:
        top.error("name a TREE, or --pairs")
    found = pairs(options.pairs, options.hashed) if options.pairs else beside_find(options.tree, options.rounds)
    print("  ".join(f"{name} {value:.2f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
