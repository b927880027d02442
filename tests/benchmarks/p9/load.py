"""The load generator, compiled where it is needed: see load.c for what it does and why it is in C."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

SECONDS: Final = 300.0
_SOURCE: Final = Path(__file__).with_name("load.c")


def build(directory: Path) -> Path:
    """The compiled program, below `directory`. Raises CalledProcessError."""
    program = directory / "load"
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(_SOURCE), "-pthread"]
    subprocess.run(command, check=True)
    return program


def run(program: Path, port: int, aname: str, words: Sequence[str], cpus: Collection[int] = ()) -> dict[str, float]:
    """One run to its end, on these processors if any are given: "count", "seconds", "msize".

    Raises OSError on a wrong reply, and when it takes too long.
    """
    command = [str(program), str(port), aname, *words]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{' '.join(words)} takes longer than {SECONDS} s") from None
    if done.returncode:
        raise OSError(f"{' '.join(words)}: status {done.returncode}, {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


class Paused:
    """A run of "fids", which waits twice so that one can look at the server; a context manager that ends it."""

    def __init__(self, program: Path, port: int, aname: str, words: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [str(program), str(port), aname, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._words = words

    def line(self) -> str:
        """What it says when it stops. Raises OSError when it has ended instead."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            _, said = self._process.communicate()
            raise OSError(f"{' '.join(self._words)}: status {self._process.returncode}, {said.strip()}")
        return text

    def go_on(self) -> None:
        """Lets it run to the next stop."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def __enter__(self) -> Paused:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
