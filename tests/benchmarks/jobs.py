"""The work that is timed: each job is one command, run in the root of a tree."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.trees import BIG, SCRATCH, Tree

JOB_SECONDS: Final = 600.0
# Names are made by the child itself: what is measured are the tree's answers, not the starting of programs.
_CHURN: Final = """
import os, sys
names = [f"f{number}" for number in range(int(sys.argv[1]))]
for name in names:
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
for name in names:
    os.unlink(name)
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One job. `key` is its name on the command line, `directory` where it runs, `made` what it leaves behind."""

    key: str
    title: str
    command: Callable[[Tree], list[str]]
    directory: str = "."
    made: str | None = None

    def run(self, tree: Tree, root: Path) -> float:
        """The seconds that it takes in `root`, a view of `tree`. Raises OSError when the command fails."""
        command = self.command(tree)
        start = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=root / self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=JOB_SECONDS,
            check=False,
        )
        seconds = time.perf_counter() - start
        if done.returncode or done.stderr:
            raise OSError(f"{self.title} in {root}: status {done.returncode}, {done.stderr.decode(errors='replace')}")
        if self.made is not None:
            os.unlink(root / self.directory / self.made)
            os.sync()  # so that nobody pays for what another wrote
        return seconds


def _churn(tree: Tree) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _CHURN, str(tree.shape.churn)]


def _tar(tree: Tree) -> list[str]:
    # Through a pipe: tar does not read the files at all when it sees that its archive is /dev/null.
    return ["sh", "-c", 'tar -cf - -T "$1" | cat > /dev/null', "sh", str(tree.names)]


JOBS: Final = (
    Job("inode", "find -printf %i", lambda tree: ["find", ".", "-printf", "%i\n"]),
    Job("size", "find -size", lambda tree: ["find", ".", "-size", "+1000k"]),
    Job("du", "du -s", lambda tree: ["du", "-s"]),
    Job("ls", "ls -lR", lambda tree: ["ls", "-lR"]),
    Job("cat", "cat of small files", lambda tree: ["xargs", "-a", str(tree.names), "cat"]),
    Job("tar", "tar of small files", _tar),
    Job("read", "sequential read", lambda tree: ["dd", f"if={BIG}", "of=/dev/null", "bs=1M", "status=none"]),
    Job(
        "write",
        "sequential write",
        lambda tree: ["dd", "if=/dev/zero", "of=written", "bs=1M", f"count={tree.shape.mib}", "status=none"],
        SCRATCH,
        "written",
    ),
    Job("churn", "create and remove", _churn, SCRATCH),
)
