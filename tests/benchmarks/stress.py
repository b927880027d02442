"""Two processes that add to one table as fast as they can, for a minute: no number twice, none lost.

    python -m tests.benchmarks.stress [--seconds N] [--processes N] [--state xattr|sqlite]

The ordinary tests do the same for five seconds (tests/table/test_processes.py).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.support.racing import race


def main() -> None:
    """Races, and prints how many numbers were given."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.stress", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--state", choices=("xattr", "sqlite"), default="sqlite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fusemap-stress-") as scratch:
        root = Path(scratch, "tree")
        root.mkdir()
        state = "xattr" if options.state == "xattr" else f"sqlite:{scratch}/t.sqlite"
        found = race(root, state, f"{scratch}/state", options.seconds, options.processes)
    print(f"{found['devices']} devices and {found['files']} files by generation, none twice and none lost")


if __name__ == "__main__":
    main()
