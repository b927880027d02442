"""The demo shows what it promises, and leaves nothing behind, however it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import needs, process

CHECKOUT = Path(__file__).resolve().parents[2]
DEMO = CHECKOUT / "examples/demo/demo.py"
COMMAND = (sys.executable, str(DEMO), "--offline", "--files", "40")


@pytest.fixture
def machine() -> None:
    """What the demo needs of the machine."""
    needs.fuse()
    for kind in ("ext4", "xfs", "btrfs", "overlay"):
        needs.file_system(kind)
    needs.tools("bindfs", "btrfs", "find", "setpriv", "unshare")


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """An environment in which the demo finds this fusemap and puts its files below `tmp_path`."""
    return {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"}


def test_fusemap_is_right_where_others_are_not(machine: None, place: dict[str, str], tmp_path: Path) -> None:
    done = process.attempt(*COMMAND, env=place, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    # title, then host, bindfs, pyfuse3's example, fusemap
    rows = {words[0]: words[1:] for line in done.stdout.splitlines() if len(words := re.split(r"  +", line)) >= 4}
    host, bindfs, _, fusemap = map(str, rows["files and directories that share a number"])
    assert int(host) > 40
    assert bindfs == host
    assert fusemap == "0"
    assert int(rows["loops that find reports"][1]) > 0
    assert int(rows["loops that find reports"][3]) == 0
    assert rows["names that find gives for a file with two"][0] == "2"
    assert rows["names that find gives for a file with two"][3] == "2"
    assert rows["still answers"] == ["yes", "no", "yes"]
    of_example = done.stdout.split("passthrough.py tree/home mnt")[1]
    wrong = re.search(r"(\d+) read as another file", of_example)
    assert wrong is not None
    assert int(wrong[1]) > 0
    shared = re.findall(r"with --map (\w+): (\d+) files", done.stdout)
    assert {mode for mode, number in shared if number == "0"} == {"prefix"}
    assert_nothing_left(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_is_stopped(
    machine: None, place: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    with started(place) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("$ bindfs"):
                break
        demo.send_signal(number)
        demo.stdout.read()
        status = demo.wait(60)
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    assert_nothing_left(tmp_path)
    if number != signal.SIGKILL:
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words", [["--files"], ["--no-such-option"]])
def test_wrong_usage_is_told(words: list[str]) -> None:
    done = process.attempt(sys.executable, DEMO, *words)
    assert done.returncode == 2
    assert "usage:" in done.stderr


@contextlib.contextmanager
def started(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The running demo; at the end it is gone, with all that it started."""
    before = process.children()
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        try:
            yield demo
        finally:
            demo.kill()
            demo.wait()
            # Those whose parents died are ours now (a subreaper's); they were killed, so waiting for them is enough.
            while orphans := process.children() - before:
                for pid in orphans:
                    process.wait_exit(pid)


def assert_nothing_left(directory: Path) -> None:
    """No mount, no process in `directory`, and, once the kernel has let go of them, no loop device."""
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            assert str(directory) not in os.readlink(entry / "cwd"), (entry / "cmdline").read_text()
    end = time.monotonic() + 10
    while loops(directory) and time.monotonic() < end:
        time.sleep(0.02)  # the kernel gives no sign of it
    assert loops(directory) == []


def loops(directory: Path) -> list[str]:
    """The image files below `directory` that are in use."""
    found = []
    for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            found.append(loop.read_text())
    return [name for name in found if name.startswith(f"{directory}/")]
