"""What the commands of all benchmarks share: progress, the machine, and words that must be counts."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from typing import Any


def progress() -> Callable[[str], None]:
    """Shows what is being done, on a terminal only."""
    if not sys.stderr.isatty():
        return lambda _: None

    def show(text: str) -> None:
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    return show


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "kernel": platform.release(),
        "processors": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }


def count(word: str) -> int:
    """A number above 0. Raises ValueError, ArgumentTypeError."""
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
