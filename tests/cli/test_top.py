"""fusemap top as a user sees it: the report in a pipe, the screen on a terminal, and every way in which it ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
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
from typing import Any

import pytest

from ..support import needs
from ..support.command import fusemap, one_sentence, refused
from ..support.process import ALICE, attempt, children, die_with_parent, wait_exit
from ..support.stage import FUSEMAP, Mounted, Stage, watchdog
from .here import here

SECONDS = 60.0
ROWS, COLUMNS = 24, 80
ALTERNATE, USUAL = b"\x1b[?1049h", b"\x1b[?1049l"
HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One for the whole module: most tests only look."""
    needs.fuse()
    stage = Stage()
    try:
        yield stage
    finally:
        stage.close()


@pytest.fixture(scope="module")
def mounted(stage: Stage) -> Iterator[Mounted]:
    """A mount of two file systems whose inodes are the same, all of them known."""
    top = stage.tmpfs("tree")
    stage.tmpfs("tree/inner")
    for place in (top, top / "inner"):
        for number in range(3):
            (place / f"file{number}").touch()
    (top / os.fsdecode(b"\xff\x1b[31m")).touch()
    (top / "inner/escape").touch()
    (top / "inner/other").touch()  # the directory inner has a number too
    mounted = stage.fusemap(top)
    with held(mounted.path):
        yield mounted


@contextlib.contextmanager
def held(top: Path) -> Iterator[None]:
    """Has every file of a tree looked up, and known for as long: a kernel that is short of memory forgets others."""
    with contextlib.ExitStack() as stack:
        for directory, directories, files in os.walk(top):
            for name in directories + files:
                stack.callback(os.close, os.open(os.path.join(directory, name), os.O_PATH | os.O_NOFOLLOW))
        yield


# A report


def test_a_report(mounted: Mounted) -> None:
    done = fusemap("top", mounted.path, "--interval", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.match(rf"{mounted.source}, mounted, map suffix, up 0:0\d:\d\d$", lines[1])
    assert "2 devices" in done.stdout
    assert re.search(r"^(\d+) collisions averted$", done.stdout, re.MULTILINE)
    assert re.search(r"^lookup +\S+ ", done.stdout, re.MULTILINE)
    assert re.search(r"^\S+ +\d+:\d+ +tmpfs +010 ", done.stdout, re.MULTILINE)
    assert re.search(r"averted: inode \d+ is (\./|inner/), (\./|inner/); shown as \d+, \d+$", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout
    assert "\\xff\\x1b[31m" in done.stdout
    assert all(len(line) <= 80 for line in lines[:-12])


def test_from_anywhere_in_the_mount(mounted: Mounted) -> None:
    assert fusemap("top", mounted.path / "inner", "--once", "--interval", "0.1").returncode == 0
    assert here("top", Path(os.path.relpath(mounted.path / "inner")), "--interval", "0.1").returncode == 0


def test_a_link_to_the_mount(mounted: Mounted, stage: Stage) -> None:
    (stage.path / "link").symlink_to(mounted.path)
    assert here("top", stage.path / "link", "--interval", "0.1").returncode == 0


def test_rates_are_those_of_the_interval(mounted: Mounted) -> None:
    """Nobody does anything but the report itself, however much was done before."""
    for _ in range(500):
        (mounted.path / "file0").read_bytes()
    os.statvfs(mounted.path)
    done = fusemap("top", mounted.path, "--json", "--interval", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["format"], found["version"]) == ("fusemap-top", 1)
    assert 0.5 <= found["seconds"] < 30
    assert set(found) == {
        "format", "version", "seconds", "a_second", "operations", "stats", "devices", "collisions",
    }  # fmt: skip
    opened = found["operations"]["open"]
    assert 0 < opened["a_second"] * found["seconds"] < 20
    assert opened["mean"] is None or 0 < opened["mean"] < 60  # not every one is timed
    assert found["stats"]["operations"]["open"]["count"] >= 500
    assert found["operations"]["statfs"] == {"a_second": 0, "mean": None, "99_in_100_below": None}
    assert found["stats"]["known_inodes"] >= 8
    assert len(found["devices"]) == 2
    assert found["collisions"]["averted"]["loop"] == 1


def test_a_9p_server(mounted: Mounted, stage: Stage) -> None:
    address = f"unix:{stage.path}/top.sock"
    server = subprocess.Popen(
        [*FUSEMAP, "serve", mounted.source, "--listen", address, "--state", "none"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=die_with_parent,
    )  # fmt: skip
    watchdog.guard(server.pid)
    try:
        with server:
            assert server.stdout is not None
            assert server.stdout.readline() == f"listening on {address}\n"
            done = fusemap("top", address, "--interval", "0.1")
            assert (done.returncode, done.stderr) == (0, "")
            assert f"{mounted.source}, served by 9P" in done.stdout
            assert "1 client, " in done.stdout
            assert "Tread " in done.stdout
            server.terminate()
            assert server.wait(SECONDS) == 0
        refused(here("top", address), address)
    finally:
        server.kill()
        watchdog.release(server.pid)


# Refusals


@pytest.mark.parametrize("place", ["tree", "tree/inner", "missing", "tree/file0"])
def test_what_is_no_mount(mounted: Mounted, stage: Stage, place: str) -> None:
    refused(here("top", stage.path / place), place)


def test_a_tree_with_such_a_directory_of_its_own(stage: Stage) -> None:
    source = stage.directory("own")
    (source / ".fusemap").mkdir()
    mounted = stage.fusemap(source, "--state", "none", at="own-mnt")
    refused(here("top", mounted.path), ".fusemap of the tree's own")


def test_who_has_mounted_it_may_watch(stage: Stage) -> None:
    mounted = stage.fusemap_as(ALICE, stage.directory("alices"), "--state", "none", at="alices-mnt")
    done = fusemap("top", mounted.path, "--interval", "0.1", user=ALICE)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_user_is_told_that_he_may_not(mounted: Mounted) -> None:
    done = fusemap("top", mounted.path, user=ALICE)
    refused(done, "only by root")
    assert "file0" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["a", "b"], ["--interval", "0", "a"], ["--interval", "x", "a"]], ids=" ".join
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = here("top", *arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_help_teaches() -> None:
    said = here("top", "--help").stdout
    assert all(word in said for word in ("MNT", "--interval", "--once", "--json", "Ctrl-C"))


# A terminal


class Terminal:
    """`fusemap top` on a terminal of its own. `seen` is all that it was sent."""

    def __init__(self, *arguments: str | Path) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self.seen = b""

        def control() -> None:
            die_with_parent()
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [*FUSEMAP, "top", *map(str, arguments)],
            stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, preexec_fn=control,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)},
        )  # fmt: skip
        self._theirs = theirs  # kept, so that what the terminal is like can be asked afterwards
        watchdog.guard(self.process.pid)

    def until(self, wanted: bytes, after: int = 0) -> int:
        """Waits until the text has been shown; where it ends in `seen`."""
        end = time.monotonic() + SECONDS
        while (at := self.seen.find(wanted, after)) < 0:
            assert time.monotonic() < end, f"{wanted!r} was not shown:\n{self.seen[-4000:].decode(errors='replace')}"
            self._read(0.2)
            if self.process.poll() is not None:
                self._read(0)
                assert wanted in self.seen[after:], f"it has ended without showing {wanted!r}: {self.seen!r}"
        return at + len(wanted)

    def _read(self, seconds: float) -> None:
        while select.select([self.ours], [], [], seconds)[0]:
            self.seen += os.read(self.ours, 65536)
            seconds = 0

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def end(self) -> tuple[int, str]:
        """Waits for the end, and sees to it that the terminal is as it was. Exit status and standard error."""
        end = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < end, "it does not end"
            self._read(0.05)
        self._read(0)
        assert termios.tcgetattr(self._theirs) == self.before
        assert self.seen.rfind(USUAL) > self.seen.rfind(ALTERNATE)
        assert self.seen.rfind(SHOWN) > self.seen.rfind(HIDDEN)
        assert self.process.stderr is not None
        return self.process.returncode, self.process.stderr.read().decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(SECONDS)
        watchdog.release(self.process.pid)
        assert self.process.stderr is not None
        self.process.stderr.close()
        os.close(self.ours)
        os.close(self._theirs)


@pytest.fixture
def terminals() -> Iterator[Any]:
    """Makes terminals, which are gone after the test."""
    needs.tools("env")
    made: list[Terminal] = []

    def make(*arguments: str | Path) -> Terminal:
        made.append(Terminal(*arguments, "--interval", "0.1"))
        return made[-1]

    yield make
    for terminal in made:
        terminal.close()


@pytest.mark.parametrize("way", ["q", "Q", "Ctrl-C", signal.SIGTERM, signal.SIGHUP], ids=str)
def test_it_ends_and_the_terminal_is_as_it_was(mounted: Mounted, terminals: Any, way: str | int) -> None:
    terminal = terminals(mounted.path)
    terminal.until(b"map suffix")
    terminal.until(b"averted: inode")
    terminal.until(b"q ends this")
    if isinstance(way, int):
        os.kill(terminal.process.pid, way)
    else:
        terminal.type(b"\x03" if way == "Ctrl-C" else way.encode())
    assert terminal.end() == (0, "")


def test_what_happens_is_shown_as_it_happens(mounted: Mounted, stage: Stage, terminals: Any) -> None:
    terminal = terminals(mounted.path)
    terminal.until(b"already there")
    assert b"new device" not in terminal.seen
    stage.tmpfs("tree/later")
    (mounted.source / "later/late").touch()
    with held(mounted.path):
        terminal.until(b"averted: inode", terminal.until(b"later", terminal.until(b"new device session:")))
    terminal.type(b"q")
    assert terminal.end() == (0, "")
    lines = [re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", line) for line in re.split(rb"[\r\n]+|\x1b\[H", terminal.seen)]
    assert [line for line in lines if len(line) > COLUMNS] == [], "a line is cut, not wrapped"
    assert b"\x1b[31m" not in terminal.seen.replace(b"\\x1b[31m", b""), "a file's name has coloured the terminal"


def test_the_mount_goes_away(stage: Stage, terminals: Any) -> None:
    for number, unmount in enumerate(("umount", "kill")):
        mounted = stage.fusemap(stage.directory(f"away{number}"), "--state", "none", at=f"away-mnt{number}")
        terminal = terminals(mounted.path)
        terminal.until(b"map suffix")
        if unmount == "umount":
            while attempt("umount", mounted.path).returncode:
                pass  # busy: just then it was being read
            assert mounted.wait() == 0
        else:
            mounted.kill()
        status, said = terminal.end()
        assert status == 1
        assert one_sentence(said)
        assert ("not mounted any more" in said) == (unmount == "umount")
        assert str(mounted.path) in said


def test_a_mount_that_does_not_answer_is_shown_as_such_and_can_be_left(stage: Stage, terminals: Any) -> None:
    mounted = stage.fusemap(stage.directory("stuck"), "--state", "none", at="stuck-mnt")
    before = children()
    terminal = terminals(mounted.path)
    terminal.until(b"map suffix")
    os.kill(mounted.pid, signal.SIGSTOP)
    try:
        terminal.until(b"no answer for")
        terminal.type(b"q")
        assert terminal.end() == (0, "")
    finally:
        os.kill(mounted.pid, signal.SIGCONT)
    for pid in children() - before:  # the one that could not be ended is ours now
        assert wait_exit(pid) == 0


def test_it_can_be_suspended(mounted: Mounted, terminals: Any) -> None:
    """The shell gets the terminal as it was, and top has it again afterwards."""
    terminal = terminals(mounted.path)
    terminal.until(b"map suffix")
    terminal.type(b"\x1a")
    os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOWAIT)
    at = terminal.until(USUAL)
    assert termios.tcgetattr(terminal._theirs) == terminal.before
    os.kill(terminal.process.pid, signal.SIGCONT)
    terminal.until(b"q ends this", terminal.until(ALTERNATE, at))
    terminal.type(b"q")
    assert terminal.end() == (0, "")


def test_nobody_can_press_a_key(mounted: Mounted) -> None:
    """Standard input is something else: it goes on until a signal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*FUSEMAP, "top", mounted.path, "--interval", "0.1"],
        stdin=subprocess.DEVNULL, stdout=theirs, preexec_fn=die_with_parent, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    watchdog.guard(process.pid)
    try:
        seen = b""
        while seen.count(b"q ends this") < 3:
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGTERM)
        assert wait_exit(process.pid) == 0
        process.returncode = 0
    finally:
        if process.returncode is None:
            process.kill()
            process.wait(SECONDS)
        watchdog.release(process.pid)
        os.close(ours)
