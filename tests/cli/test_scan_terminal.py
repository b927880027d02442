"""fusemap scan at a terminal: progress, Ctrl-C in the middle, and names that would do things to a terminal."""

from __future__ import annotations

import ctypes
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fusemap.cli.scan import Progress, left

from ..support import needs
from ..support.process import die_with_parent
from ..support.stage import FUSEMAP, Stage, watchdog

SECONDS = 60.0
ESCAPE = os.fsdecode(b"\xff\x1b]0;x\x07\x1b[2J")
ESCAPED = r"\xff\x1b]0;x\x07\x1b[2J"


class Session:
    """A program on a terminal of its own, so that Ctrl-C typed there is a signal."""

    def __init__(self, *words: str | Path, columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))

        def begin() -> None:
            die_with_parent()
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        for name in ("NO_COLOR", "COLUMNS"):
            environment.pop(name, None)
        try:
            self._process = subprocess.Popen(
                [*FUSEMAP, *map(str, words)], stdin=slave, stdout=slave, stderr=slave, preexec_fn=begin, env=environment
            )
        finally:
            os.close(slave)
        watchdog.guard(self._process.pid)
        self.text = ""

    def read(self, until: str | None = None) -> str:
        """What was written, until it contains a word, or to the end."""
        deadline = time.monotonic() + SECONDS
        while until is None or until not in self.text:
            assert select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0], self.text
            try:
                block = os.read(self._master, 65536)
            except OSError:  # EIO: nobody has it open any more
                break
            self.text += block.decode(errors="replace")
        return self.text

    def type(self, word: bytes) -> None:
        """Types something."""
        os.write(self._master, word)

    def scratch(self) -> list[str]:
        """The files without names that it has open."""
        found = []
        for fd in os.listdir(f"/proc/{self._process.pid}/fd"):
            name = os.readlink(f"/proc/{self._process.pid}/fd/{fd}")
            if "(deleted)" in name:
                found.append(name)
        return found

    def end(self) -> int:
        """Waits for the program to end; its exit status."""
        self.read()
        return self._process.wait(SECONDS)

    def close(self) -> None:
        """Ends it if it has not ended."""
        self._process.kill()
        self._process.wait(SECONDS)
        watchdog.release(self._process.pid)
        os.close(self._master)


@pytest.fixture
def hung(stage: Stage) -> Iterator[Path]:
    """A tree in which a file system never answers: FUSE without a server, as a network that is gone."""
    needs.fuse()
    tree = stage.directory("tree")
    (tree / "file").touch()
    place = stage.directory("tree/hung")
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % device
        assert libc.mount(b"hung", os.fsencode(place), b"fuse", ctypes.c_ulong(0), options) == 0
        try:
            yield tree
        finally:
            assert libc.umount2(os.fsencode(place), 2) == 0  # MNT_DETACH
    finally:
        os.close(device)


def test_ctrl_c_in_the_middle_of_a_scan(hung: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = stage.directory("scratch")
    monkeypatch.setenv("TMPDIR", str(scratch))
    session = Session("scan", hung)
    try:
        session.read("walking: ")
        assert len(session.scratch()) == 5
        assert os.listdir(scratch) == []
        session.type(b"\x03")
        assert session.end() == 130
    finally:
        session.close()
    assert session.text.endswith("\r\x1b[K")
    assert "Traceback" not in session.text
    assert os.listdir(scratch) == []


def test_sigterm_in_the_middle_of_a_scan(hung: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = stage.directory("scratch")
    monkeypatch.setenv("TMPDIR", str(scratch))
    session = Session("scan", hung)
    try:
        session.read("walking: ")
        os.kill(session._process.pid, signal.SIGTERM)
        assert session.end() == -signal.SIGTERM
    finally:
        session.close()
    assert os.listdir(scratch) == []


def plain(text: str) -> str:
    """What is left when colours and the making of room for progress are taken away."""
    return re.sub("\x1b\\[[0-9;]*m|\r\x1b\\[K", "", text)


@pytest.mark.parametrize("columns", [80, 200])
def test_no_name_reaches_a_terminal_as_it_is(stage: Stage, columns: int) -> None:
    tree = stage.directory(f"tree-{ESCAPE}")
    (tree / ESCAPE).touch()
    (tree / "\u202egpj").touch()
    inner = stage.tmpfs(f"tree-{ESCAPE}/{ESCAPE}-disk")
    (inner / ESCAPE).touch()
    stage.bind(stage.tmpfs("other"), inner / "z").joinpath(ESCAPE).touch()
    session = Session("scan", tree, columns=columns)
    try:
        assert session.end() == 1
    finally:
        session.close()
    text = plain(session.text)
    assert not re.search("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f\u202e]", text)
    assert f"tree-{ESCAPED}\r\n" in text
    assert f"  {ESCAPED}-disk/{ESCAPED}\r\n" in text
    assert max(map(len, text.splitlines()[3:40])) <= columns


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.05, 2.0, 2.05, 10.0, 20.0, 30.0])
    monkeypatch.setattr("fusemap.cli.scan.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    progress = Progress()
    progress("walking", 100, 1, 0.1)  # too early
    progress("walking", 1000000, 32000, 0.1)
    progress("walking", 1000001, 32000, 0.1)  # too soon after the last
    progress("walking", 5000000, 32000, None)
    progress("comparing raw", 5000000, 32000, 0.1)
    progress("comparing qemu", 5000000, 32000, 0.5)
    progress.end()
    progress.end()
    assert terminal.getvalue().split("\r\x1b[K") == [
        "",
        "walking: 1,000,000 names, 32,000 devices, 512,821 a second, 18 s left",
        "walking: 5,000,000 names, 32,000 devices, 502,513 a second",
        "comparing raw: 5,000,000 names, 32,000 devices",
        "comparing qemu: 5,000,000 names, 32,000 devices, 10 s left",
        "",
    ]


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", stream := io.StringIO())
    progress = Progress()
    progress("walking", 100, 1, 0.1)
    progress.end()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "done", "said"),
    [
        (30.0, 0.25, ", 90 s left"), (600.0, 0.25, ", 30 min left"), (30.0, None, ""), (0.5, 0.5, ""), (5.0, 0.001, ""),
        (5.0, 1.0, ", 0 s left"), (5.0, 0.0, ""),
    ],
)  # fmt: skip
def test_the_time_left_is_said_where_it_is_known(seconds: float, done: float | None, said: str) -> None:
    assert left(seconds, done) == said
