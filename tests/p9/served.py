"""Servers of 9P in the background: `fusemap serve`, and Debian's diod to compare it with.

Both end with the test that started them, are killed when it takes too long, and die with the test run.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Final

from ..support import needs
from ..support.process import die_with_parent
from ..support.stage import FUSEMAP, watchdog

STARTING: Final = 30.0
ENDING: Final = 20.0


class Process:
    """A server in the foreground. `address` is where it listens, `log` what it wrote to standard error."""

    address: str

    def __init__(self, command: list[str], log: Path, **spawn: Any) -> None:
        self._command, self._log = command, log
        self._checked = 0
        with open(log, "ab") as file:
            spawn = {"preexec_fn": die_with_parent, "cwd": "/", "stdout": subprocess.PIPE, **spawn}
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=file, **spawn)
        watchdog.guard(self.process.pid)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    def log(self) -> str:
        """What the server has said on standard error."""
        return self._log.read_text(errors="replace")

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def close(self) -> None:
        """Ends it as an administrator would. Raises AssertionError if it does not end, or was killed before."""
        ended = not self.alive()
        try:
            self.process.terminate()
            self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(ENDING)
            raise AssertionError(f"{self._command} did not end in {ENDING} s\n{self.log()}") from None
        finally:
            watchdog.release(self.process.pid)
            if self.process.stdout:
                self.process.stdout.close()
        assert not ended, f"{self._command} ended by itself, status {self.process.returncode}\n{self.log()}"


class Served(Process):
    """`fusemap serve` of a directory; it answers when this returns."""

    def __init__(self, source: Path, scratch: Path, *options: str, listen: str = "tcp:127.0.0.1:0") -> None:
        command = [*FUSEMAP, "serve", str(source), "--listen", listen, *options]
        super().__init__(command, scratch / "serve.log")
        try:
            self.address = self._announced(listen)
        except BaseException:
            self.process.kill()
            with contextlib.suppress(AssertionError):
                self.close()
            raise

    def _announced(self, listen: str) -> str:
        """The address in the line "listening on ADDRESS"."""
        assert self.process.stdout is not None
        said, end = b"", time.monotonic() + STARTING
        while b"\n" not in said:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            block = os.read(self.process.stdout.fileno(), 4096) if ready else b""
            assert block, f"{self._command} did not say where it listens\n{said!r}\n{self.log()}"
            said += block
        words = said.decode().split("\n")[0].split()
        assert words[:2] == ["listening", "on"], said
        kind = listen.partition(":")[0]
        return words[2] if words[2].startswith(kind + ":") else f"{kind}:{words[2]}"

    def close(self) -> None:
        """Ends it. Raises AssertionError too when it logged an error, or ended with another status than 0."""
        super().close()
        self.check_log()
        assert self.process.returncode == 0, f"ended with status {self.process.returncode}\n{self.log()}"

    def check_log(self) -> None:
        """Fails when the server logged an exception or an error since the last call."""
        log = self.log()
        new, self._checked = log[self._checked :], len(log)
        lines = [line for line in new.splitlines() if not line.startswith(("INFO", "WARNING", "DEBUG"))]
        assert not lines, "\n".join(["the server logged:", *lines])


class Diod:
    """Debian's diod, a process of its own for each connection, as inetd would start it.

    One that damages its own memory thus harms nobody but the client that made it do so, and a run of many cases says
    the same every time.
    """

    def __init__(self, source: Path, scratch: Path) -> None:
        needs.tools("diod")
        options = ["-f", "-n", "-N", "-L", "stderr", "-c", "/dev/null", "-r", "0", "-w", "0"]
        self._command = ["diod", *options, "-e", str(source)]
        self._scratch, self._log = scratch, scratch / "diod.log"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(scratch / "diod.socket"))
        self._socket.listen(20)
        self.address = f"unix:{scratch / 'diod.socket'}"
        self._children: list[subprocess.Popen[bytes]] = []
        self._thread = threading.Thread(target=self._serve, name="diod")
        self._thread.start()

    def _serve(self) -> None:
        with open(self._log, "ab") as log:
            while True:
                try:
                    connection, _ = self._socket.accept()
                except OSError:
                    return  # it was shut down
                spawn: dict[str, Any] = {"stdin": connection.fileno(), "stdout": log, "stderr": log}
                # It dies of some cases, and insists on leaving a picture of its memory where it was started.
                with connection:
                    child = subprocess.Popen(self._command, cwd=self._scratch, **spawn)
                self._children = [one for one in self._children if one.poll() is None] + [child]

    def __enter__(self) -> Diod:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all of them."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        for child in self._children:
            child.kill()
            child.wait(ENDING)
