"""The guest of the examples: what anybody can start without root sees the numbers and contents of the tree."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..support.process import attempt
from ..support.stage import Stage
from .machine import BOOTING, Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/guest"
EXAMPLE = EXAMPLES / "boot.sh"
# Stands in for QEMU: says what comes out at the other end of the port
PORT = """\
import re, sys
from tests.p9.client import Client
with Client("unix:" + re.search("path=([^,]*)", " ".join(sys.argv))[1]) as client:
    client.attach()
    print(sys.argv[1], client.read_all(client.open(client.root, "f")))
"""


def surroundings(stage: Stage) -> dict[str, str]:
    """The environment of the examples: this fusemap, and nothing outside the stage."""
    fusemap = stage.path / "fusemap"
    fusemap.write_text(f'#!/bin/sh\nexec {sys.executable} -m fusemap "$@"\n')
    fusemap.chmod(0o755)
    return {
        **os.environ,
        "FUSEMAP": str(fusemap),
        "FUSEMAP_LOG": str(stage.path / "log"),
        "TMPDIR": str(stage.directory("tmp")),
    }


def test_a_guest_on_a_tree(image: Image, stage: Stage) -> None:
    environment = surroundings(stage)
    source = stage.ext4("src")
    (source / "f").write_text("src\n")
    below = stage.ext4("src/below")
    (below / "f").write_text("below\n")
    assert (source / "f").stat().st_ino == (below / "f").stat().st_ino
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


def test_a_port(stage: Stage) -> None:
    """Of serial.sh, with something else in the place of QEMU; test_serial.py has the guest's end."""
    environment = surroundings(stage)
    programs = stage.directory("bin")
    (programs / "qemu-system-x86_64").write_text(f"#!{sys.executable}\n{PORT}")
    (programs / "qemu-system-x86_64").chmod(0o755)
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    (stage.directory("src") / "f").write_text("content")
    done = attempt(EXAMPLES / "serial.sh", stage.path / "src", "-first", env=environment)
    assert (done.returncode, done.stdout) == (0, "-first b'content'\n"), done
    assert os.listdir(stage.path / "tmp") == []
    done = attempt(EXAMPLES / "serial.sh", stage.path / "missing", env=environment)
    assert done.returncode
    assert "missing" in done.stderr
    done = attempt(EXAMPLES / "serial.sh")
    assert done.returncode == 2
    assert "serial.sh SRC OPTIONS" in done.stderr
