"""The command line as a user types it, and mounts in the background."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any, TypeAlias

from .process import User, attempt, children, reap, wait_exit
from .stage import FUSEMAP, Stage, detach, watchdog

Result: TypeAlias = "subprocess.CompletedProcess[str]"


def fusemap(*arguments: str | Path, user: User | None = None, **options: Any) -> Result:
    """Runs fusemap to its end."""
    if user is not None:
        options |= {"user": user.uid, "group": user.gid, "extra_groups": user.groups}
    options["env"] = {**os.environ, **options.get("env", {})}
    return attempt(*FUSEMAP, *arguments, **options)


class Daemons:
    """Mounts made in the background: they are children of the test run, which adopts orphans."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._before = children()

    def pids(self) -> set[int]:
        """The processes that were started since and have not ended."""
        return {pid for pid in children() - self._before if not reap(pid)}

    def mount(self, *arguments: str | Path, **options: Any) -> int:
        """Mounts; the daemon's process id."""
        before = self.pids()
        done = fusemap("mount", *arguments, **options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        (pid,) = self.pids() - before
        watchdog.guard(pid)
        return pid

    def wait(self, pid: int) -> int:
        """Waits for a daemon to end; its exit status."""
        status = wait_exit(pid, 20)
        watchdog.release(pid)
        return status

    def close(self) -> None:
        """Ends what is left."""
        detach(self._stage.path / "mnt")
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
            wait_exit(pid)
            watchdog.release(pid)


def one_sentence(text: str) -> bool:
    """Whether a program says what is wrong as fusemap does."""
    return text.startswith("fusemap: ") and text.count("\n") == 1 and text.endswith("\n") and "Traceback" not in text


def refused(done: Result, *words: str) -> None:
    """Exit status 2, and one sentence that says the words; in the foreground there may be a log before it."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = done.stderr.splitlines(keepends=True)
    if "-f" in done.args:
        lines = [line for line in lines if not line.startswith("INFO: ")]
    assert one_sentence("".join(lines)), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
