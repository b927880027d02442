"""Sessions and processes that lock, and what holds after every test."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from fusemap.p9.locks import FLAGS_BLOCK, Locks, Waiting
from fusemap.p9.messages import Rgetlock, Tgetlock, Tlock

from ...support.process import die_with_parent
from ...support.trees import descriptors

T = TypeVar("T")

LAST = (1 << 63) - 1
HOST = os.fsencode(os.uname().nodename)
SOON = 20.0  # seconds; only a failure takes that long

# A process of the host that does with a file what it is told: one command a line, one answer a line.
HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "r+b")
kinds = {"r": fcntl.LOCK_SH, "w": fcntl.LOCK_EX, "u": fcntl.LOCK_UN}
for line in sys.stdin:
    word, start, length = line.split()
    try:
        fcntl.lockf(file, kinds[word[0]] | (0 if word[1:] or word == "u" else fcntl.LOCK_NB), int(length), int(start))
        print("ok", time.monotonic_ns(), flush=True)
    except OSError as error:
        print("no", error.errno, flush=True)
"""


class HostProcess:
    """Classic POSIX locks, held by another process."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        )
        self.pid = self._process.pid

    def send(self, word: str, start: int = 0, length: int = 0) -> None:
        """`word` is r, w or u, with a letter more where it is to wait."""
        assert self._process.stdin is not None
        print(word, start, length, file=self._process.stdin, flush=True)

    def answer(self) -> tuple[str, int]:
        assert self._process.stdout is not None
        word, number = self._process.stdout.readline().split()
        return word, int(number)

    def __call__(self, word: str, start: int = 0, length: int = 0) -> bool:
        self.send(word, start, length)
        word, number = self.answer()
        assert word == "ok" or number in (errno.EAGAIN, errno.EACCES)
        return word == "ok"

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


class Session:
    """A client's session; its calls are those of a Tlock through one of its fids of one file."""

    def __init__(self, locks: Locks, path: Path, name: str, mode: int = os.O_RDWR) -> None:
        self.locks, self.path, self.name, self.mode = locks, path, name, mode
        self.node = path.stat().st_ino
        self.opened = 0

    def open(self) -> int:
        self.opened += 1
        return os.open(self.path, self.mode | os.O_CLOEXEC)

    def ask(
        self,
        kind: int,
        start: int = 0,
        length: int = 0,
        *,
        process: int = 1,
        fid: int = 1,
        flags: int = 0,
        client: bytes = b"",
        readable: bool = True,
        writable: bool = True,
    ) -> int | Waiting:
        message = Tlock(fid, kind, flags, start, length, process, client or self.name.encode())
        return self.locks.acquire(self.name, fid, self.node, self.open, message, readable=readable, writable=writable)

    def lock(self, kind: int, start: int = 0, length: int = 0, **more: int) -> int:
        answer = self.ask(kind, start, length, **more)  # type: ignore[arg-type]
        assert isinstance(answer, int)
        return answer

    def wait(self, kind: int, start: int = 0, length: int = 0, **more: int) -> Waiting:
        answer = self.ask(kind, start, length, flags=FLAGS_BLOCK, **more)  # type: ignore[arg-type]
        assert isinstance(answer, Waiting)
        return answer

    def test(self, kind: int, start: int = 0, length: int = 0, process: int = 1) -> Rgetlock:
        message = Tgetlock(1, kind, start, length, process, self.name.encode())
        return self.locks.test(self.name, 1, self.node, self.open, message)

    def clunk(self, fid: int = 1) -> None:
        self.locks.release_fid(self.name, fid)

    def leave(self) -> None:
        self.locks.release_session(self.name)


def until(condition: Callable[[], bool], what: str) -> None:
    """For what no event tells of: another thread's state in the kernel."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, f"it does not come: {what}"
        time.sleep(0.001)


def in_kernel(path: Path, count: int = 1) -> None:
    """Waits until so many locks of the file wait in the kernel: /proc/locks shows them with an arrow."""
    inode = f":{path.stat().st_ino} "

    def waiting() -> bool:
        with open("/proc/locks") as file:
            return sum(" -> " in line and inode in line for line in file) == count

    until(waiting, f"{count} locks wait")


class Threads:
    """Runs what waits, each in a thread of its own. One that does not come back fails the test and hangs nothing."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def submit(self, function: Callable[[], T]) -> concurrent.futures.Future[T]:
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            future.set_running_or_notify_cancel()
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()
        return future

    def close(self) -> None:
        for thread in self._threads:
            thread.join(SOON)
            assert not thread.is_alive(), "a thread still waits for its lock"


def interrupter_ended() -> None:
    """Waits until every cancelled thread is back."""
    until(lambda: not [t for t in threading.enumerate() if t.name == "9p-locks"], "the interrupting thread ends")


@contextlib.contextmanager
def checked() -> Iterator[Locks]:
    """Locks that leave neither a descriptor nor a thread nor a table entry behind."""
    before = descriptors()
    locks = Locks()
    try:
        yield locks
    finally:
        locks.close()
        interrupter_ended()
        until(lambda: descriptors() == before, "the descriptors are closed")
    assert locks._waiting == 0
    assert not locks._owners._owners
    assert not locks._owners._clients
    assert not locks._owners._by_node
    assert not locks._unwilling
