"""The guest of the examples: what anybody can start without root sees the numbers and contents of the tree."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..support.process import attempt
from ..support.stage import Stage
from .machine import BOOTING, Image

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/guest/boot.sh"


def test_a_guest_on_a_tree(image: Image, stage: Stage) -> None:
    fusemap = stage.path / "fusemap"
    fusemap.write_text(f'#!/bin/sh\nexec {sys.executable} -m fusemap "$@"\n')
    fusemap.chmod(0o755)
    source = stage.ext4("src")
    (source / "f").write_text("src\n")
    below = stage.ext4("src/below")
    (below / "f").write_text("below\n")
    assert (source / "f").stat().st_ino == (below / "f").stat().st_ino
    environment = {
        **os.environ,
        "FUSEMAP": str(fusemap),
        "FUSEMAP_LOG": str(stage.path / "log"),
        "TMPDIR": str(stage.directory("tmp")),
    }
    command = "cat f below/f; stat -c %i f below/f | sort -u | wc -l; echo from a guest > new"
    done = attempt(EXAMPLE, source, command, env=environment, timeout=BOOTING)
    assert done.returncode == 0, done
    assert done.stdout.split()[:3] == ["src", "below", "2"], done  # the kernel says then that it goes
    assert (source / "new").read_text() == "from a guest\n"
    assert os.listdir(stage.path / "tmp") == []


def test_without_a_tree() -> None:
    done = attempt(EXAMPLE)
    assert done.returncode == 2
    assert "boot.sh SRC COMMAND" in done.stderr
