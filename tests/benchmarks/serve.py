"""fusemap's command with what only a measurement needs: `python -m tests.benchmarks.serve [OPTION]... mount -f ...`.

--without-gate  pyfuse3 waits for requests in its own way, with trio's lock and wait
--nodes FD      on SIGUSR1, a line with the number of known nodes is written to descriptor FD
"""

from __future__ import annotations

import os
import signal
import sys

from fusemap.cli.main import main as fusemap
from fusemap.fuse.loop import Gate
from fusemap.tree import Tree


def main(words: list[str]) -> int:
    """Runs fusemap in the foreground; returns its exit status."""
    if words[0] == "--without-gate":
        words.pop(0)
        Gate.install = lambda self: None  # type: ignore[method-assign]
    if words[0] == "--nodes":
        _tell_nodes(int(words[1]))
        del words[:2]
    return fusemap(words)


def _tell_nodes(fd: int) -> None:
    trees: list[Tree] = []
    make = Tree.__init__

    def remember(self: Tree, *args: object) -> None:
        make(self, *args)  # type: ignore[arg-type]
        trees.append(self)

    Tree.__init__ = remember  # type: ignore[method-assign, assignment]
    signal.signal(signal.SIGUSR1, lambda *_: os.write(fd, b"%d\n" % len(trees[0])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
