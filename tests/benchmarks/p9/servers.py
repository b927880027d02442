"""What is compared: diod and fusemap, each serving one tree on the loopback, as its plain command does."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
_RETRY_SECONDS: Final = 0.02


class Running(NamedTuple):
    """A server that answers: its port, its process id, and the name to attach to."""

    port: int
    pid: int
    aname: str


@dataclass(frozen=True, slots=True)
class Server:
    """`command` gives the words that serve a tree on a port of 127.0.0.1 in the foreground."""

    name: str
    command: Callable[[str, int], list[str]]

    @contextlib.contextmanager
    def running(self, tree: Path, log: Path, **options: object) -> Iterator[Running]:
        """A new server of `tree`, whose output goes to `log`; `options` go to Popen.

        Raises OSError when it does not start, and when it has ended before its time.
        """
        port = _free_port()
        with open(log, "wb") as output:
            process = subprocess.Popen(
                self.command(str(tree), port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **options,  # type: ignore[call-overload]
            )
        try:
            self._wait(process, port, log)
            yield Running(port, process.pid, str(tree))
            if process.poll() is not None:
                raise OSError(f"{self.name} ended while it was used: {log.read_text(errors='replace')}")
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wait(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        """Returns when a connection is accepted: diod has no other way to say that it is ready."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise OSError(f"{self.name} does not answer: {log.read_text(errors='replace')}") from None
            time.sleep(_RETRY_SECONDS)


def _diod(tree: str, port: int) -> list[str]:
    # Without a file of configuration, without authentication, as root for whoever asks: what fusemap does as well.
    return ["diod", "-f", "-n", "-c", "/dev/null", "-l", f"127.0.0.1:{port}", "-e", tree]


def _fusemap(tree: str, port: int) -> list[str]:
    return [sys.executable, "-m", "fusemap", "serve", tree, "--listen", f"tcp:127.0.0.1:{port}"]


DIOD: Final = Server("diod", _diod)
FUSEMAP: Final = Server("fusemap", _fusemap)
ALL: Final = (DIOD, FUSEMAP)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def versions() -> dict[str, str]:
    """The first line that each program says of its version."""
    commands = {"diod": ["diod", "--version"], "fusemap": [sys.executable, "-m", "fusemap", "--version"]}
    said = {}
    for name, command in commands.items():
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        said[name] = (done.stdout or done.stderr).split("\n")[0]
    return said
