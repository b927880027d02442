"""The recipes for 9P: units that systemd takes, and the server that QEMU starts for a guest."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from fusemap.p9.messages import NOFID, NOTAG, Rattach, Rversion, Tattach, Tversion
from fusemap.p9.wire import Dialect, decode, encode

from ..support import needs
from ..support.process import attempt, die_with_parent
from ..support.stage import Stage

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


@pytest.fixture
def fusemap(tmp_path: Path) -> Path:
    """The command as one word, as an installed one would be."""
    path = tmp_path / "fusemap"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m fusemap "$@"\n')
    path.chmod(0o755)
    return path


def test_systemd_takes_the_units(tmp_path: Path, fusemap: Path) -> None:
    needs.tools("systemd-analyze")
    for kind in ("service", "socket"):
        text = (EXAMPLES / f"systemd/fusemap-9p@.{kind}").read_text().replace("/usr/local/bin/fusemap", str(fusemap))
        (tmp_path / f"fusemap-9p@tree.{kind}").write_text(text)
    units = [str(tmp_path / f"fusemap-9p@tree.{kind}") for kind in ("service", "socket")]
    done = attempt("systemd-analyze", "verify", *units, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def server_of(netdev: str) -> list[str]:
    """The command that QEMU runs for a connection: in its options, two commas stand for one."""
    (forward,) = [word for word in re.split("(?<!,),(?!,)", netdev) if word.startswith("guestfwd=")]
    return shlex.split(forward.partition("-cmd:")[2].replace(",,", ","))


def converse(command: list[str]) -> None:
    """Runs it as QEMU does, with one socket for all three descriptors (fork_exec() in libslirp), and talks 9P to it."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=die_with_parent)
        try:
            theirs.close()
            mine.settimeout(30)
            mine.sendall(encode(Tversion(8192, b"9P2000.L"), NOTAG, Dialect.LINUX))
            mine.sendall(encode(Tattach(1, NOFID, b"root", b"", 0), 5, Dialect.LINUX))
            file = mine.makefile("rb")
            for kind in (Rversion, Rattach):
                size = file.read(4)
                frame = size + file.read(int.from_bytes(size, "little") - 4)
                assert isinstance(decode(frame, Dialect.LINUX)[1], kind), frame
            mine.shutdown(socket.SHUT_RDWR)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()


def test_qemus_server(stage: Stage, fusemap: Path) -> None:
    (stage.path / "qemu-system-x86_64").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (stage.path / "qemu-system-x86_64").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{stage.path}:{os.environ['PATH']}",
        "FUSEMAP": str(fusemap),
        "FUSEMAP_LOG": str(stage.path / "log"),
    }
    source = stage.directory("src")
    done = attempt(EXAMPLES / "guest/qemu.sh", source, "-m", "1G", env=environment)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[-2:] == ["-m", "1G"]
    converse(server_of(words[words.index("-netdev") + 1]))
    assert "ended" in (stage.path / "log").read_text()


def test_qemu_without_a_tree() -> None:
    done = attempt(EXAMPLES / "guest/qemu.sh")
    assert done.returncode == 2
    assert "examples/guest/qemu.sh SRC" in done.stderr


def test_libvirts_server(stage: Stage, fusemap: Path) -> None:
    domain = ElementTree.parse(EXAMPLES / "guest/libvirt.xml").getroot()
    words = [argument.attrib["value"] for argument in domain.iter(f"{QEMU}arg")]
    command = server_of(words[words.index("-netdev") + 1])
    places = {
        "/usr/local/bin/fusemap": str(fusemap),
        "/srv/tree": str(stage.directory("src")),
        "/var/log/libvirt/qemu/tree.log": str(stage.path / "log"),
    }
    assert set(places) <= set(command)
    converse([places.get(word, word) for word in command])
