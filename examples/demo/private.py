"""A place from which nothing is left behind: mounts and process numbers of one's own.

The command runs as the first process of a pid namespace, in a mount namespace of its own (unshare(1)). When it ends or
is killed, the kernel ends all that it started and takes away all that it mounted, loop devices included. It is killed
when we are (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_UNSHARE: Final = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")
_DETACH_SECONDS: Final = 10.0


def run(command: Sequence[str]) -> int:
    """Runs `command` in a private place; returns its exit status. Whatever is raised meanwhile ends it at once."""
    sys.stdout.flush()
    # A session of its own, so that the terminal's Ctrl-C comes to us alone.
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *_UNSHARE, *command], start_new_session=True)
    try:
        return process.wait()
    finally:
        process.kill()
        process.wait()


def wait_for_loop_devices(directory: Path) -> None:
    """Returns when no loop device has its image below `directory`: the kernel lets go of them a moment later."""
    end = time.monotonic() + _DETACH_SECONDS
    while time.monotonic() < end:
        if not any(_backing_file(loop).startswith(f"{directory}/") for loop in Path("/sys/block").glob("loop*")):
            return
        time.sleep(0.02)
    print(f"demo: loop devices with images in {directory} are still busy; see losetup", file=sys.stderr)


def _backing_file(loop: Path) -> str:
    try:
        return (loop / "loop/backing_file").read_text()
    except OSError:  # not in use
        return ""
