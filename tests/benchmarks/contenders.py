"""What is compared: the host itself, bindfs, mergerfs and fusemap, each as its plain command mounts it."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNT_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Contender:
    """`command` gives the words that mount a source on a target in the foreground; None is the host itself."""

    name: str
    command: Callable[[str, str], list[str]] | None

    @contextlib.contextmanager
    def mounted(self, source: Path, target: Path, **options: object) -> Iterator[tuple[Path, int]]:
        """Yields the root to work in, newly mounted, so with nothing cached, and the server's process id (0: none).

        `options` go to Popen. Raises OSError when it cannot be mounted or fails while it is used.
        """
        if self.command is None:
            yield source, 0
            return
        target.mkdir(exist_ok=True)
        log = target.with_name(f"{target.name}.log")
        with open(log, "wb") as output:
            server = subprocess.Popen(
                self.command(str(source), str(target)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **options,  # type: ignore[call-overload]
            )
        try:
            _wait_until_mounted(server, target, log)
            yield target, server.pid
            if server.poll() is not None:
                raise OSError(f"{self.name} ended while it was used: {log.read_text(errors='replace')}")
        finally:
            subprocess.run(["umount", "--lazy", str(target)], check=False, stderr=subprocess.DEVNULL)
            try:
                server.wait(MOUNT_SECONDS)  # what it does at its end must not disturb the next one
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _fusemap(source: str, target: str) -> list[str]:
    return [sys.executable, "-m", "fusemap", "mount", "-f", source, target]


HOST: Final = Contender("host", None)
BINDFS: Final = Contender("bindfs", lambda source, target: ["bindfs", "-f", source, target])
MERGERFS: Final = Contender("mergerfs", lambda source, target: ["mergerfs", "-f", source, target])
FUSEMAP: Final = Contender("fusemap", _fusemap)
ALL: Final = (HOST, BINDFS, MERGERFS, FUSEMAP)


def _wait_until_mounted(server: subprocess.Popen[bytes], target: Path, log: Path) -> None:
    end = time.monotonic() + MOUNT_SECONDS
    with open("/proc/self/mountinfo") as table:
        changes = select.poll()
        changes.register(table, select.POLLPRI | select.POLLERR)
        while not os.path.ismount(target):
            if server.poll() is not None or time.monotonic() > end:
                raise OSError(f"{' '.join(map(str, server.args))}: {log.read_text(errors='replace')}")  # type: ignore[arg-type]
            changes.poll(100)
            table.seek(0)
            table.read()
    os.listdir(target)  # answered only by a server that is ready


def versions() -> dict[str, str]:
    """The first line that each program says of its version."""
    commands = {
        "bindfs": ["bindfs", "--version"],
        "mergerfs": ["mergerfs", "--version"],
        "fusemap": [sys.executable, "-m", "fusemap", "--version"],
    }
    said = {}
    for name, command in commands.items():
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        said[name] = (done.stdout or done.stderr).split("\n")[0]
    return said
