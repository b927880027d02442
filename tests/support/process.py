"""Running things so that nothing outlives the tests and nothing hangs for ever.

* `private_mounts` puts the whole test run into a mount namespace of its own: even if the run is killed, its mounts
  and their loop devices go with it.
* `adopt_orphans` makes the run the parent of daemons whose own parent has left, so that a test can wait for them.
* `call_as` runs a function in a forked child as another user. A child is needed: user ids of a thread cannot be
  changed safely under the interpreter.
* `Watchdog` kills the servers that a test has started when the test takes too long; whatever waits for them then gets
  an error, and the test fails instead of hanging.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from . import needs

T = TypeVar("T")

SECONDS: Final = 120.0
_CLONE_NEWNS: Final = 0x20000
_MS_REC_PRIVATE: Final = 0x4000 | 1 << 18
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc: Final = ctypes.CDLL(None, use_errno=True)


def private_mounts() -> None:
    """Enters a mount namespace of its own; does nothing where that is not permitted."""
    if os.geteuid() == 0 and not _libc.unshare(_CLONE_NEWNS):
        _libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None)


def adopt_orphans() -> None:
    """Makes this process the parent of orphaned descendants (PR_SET_CHILD_SUBREAPER)."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def set_environment(scratch: str) -> None:
    """What programs that the tests start inherit: the package under test, and a place for tables of numbers."""
    os.chmod(scratch, 0o1777)  # ordinary users keep theirs there too
    os.environ["STATE_DIRECTORY"] = scratch
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"


def die_with_parent() -> None:
    """For a child, before it executes a program: SIGKILL when the parent dies."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def run(*command: str | os.PathLike[str], timeout: float = SECONDS, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program, which must exit with 0; its output is kept as text."""
    done = attempt(*command, timeout=timeout, **options)
    assert done.returncode == 0, f"{done.args} -> {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def attempt(
    *command: str | os.PathLike[str], timeout: float = SECONDS, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a program whatever its exit status; its output is kept as text."""
    options = {"env": {**os.environ, "LC_ALL": "C"}, **options}
    return subprocess.run(
        [os.fspath(word) for word in command],
        timeout=timeout,
        check=False,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        stdin=subprocess.DEVNULL,
        **options,
    )


def children() -> set[int]:
    """The process ids of all children of this process, zombies included."""
    found = set()
    for word in os.listdir("/proc"):
        if word.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{word}/stat", "rb") as file:
                if int(file.read().rsplit(b")", 1)[1].split()[1]) == os.getpid():
                    found.add(int(word))
    return found


def reap(pid: int) -> bool:
    """Whether child `pid` has ended; then it is no child any more."""
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def wait_exit(pid: int, timeout: float = SECONDS) -> int:
    """Waits for child `pid`; its exit status, negative for a signal. Raises TimeoutError."""
    fd = os.pidfd_open(pid)
    try:
        if not select.select([fd], [], [], timeout)[0]:
            raise TimeoutError(f"process {pid} is still there after {timeout} s")
    finally:
        os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class User:
    """Who a call is made as."""

    def __init__(self, uid: int, gid: int, groups: Iterable[int] = (), umask: int = 0o022, name: str = "") -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.groups = list(groups)
        self.umask = umask

    def become(self) -> None:
        """Turns this process into the user for good."""
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        os.umask(self.umask)

    def __repr__(self) -> str:
        return self.name or f"User({self.uid}, {self.gid}, {self.groups}, umask={self.umask:#o})"

    def with_umask(self, umask: int) -> User:
        """The same user with another umask."""
        return User(self.uid, self.gid, self.groups, umask, self.name)


TEAM: Final = 62000
ROOT: Final = User(0, 0, name="root")
ALICE: Final = User(61001, 61001, name="alice")
BOB: Final = User(61002, 61002, name="bob")
MEMBER: Final = User(61003, 61003, [TEAM, 62001], name="member")


class Child:
    """A function that runs in a forked child; `result()` waits for what it returns or raises."""

    def __init__(self, function: Callable[[], Any], user: User | None = None) -> None:
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            # The child makes system calls and leaves; it takes no lock that an idle worker thread could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            os.close(reader)
            _be_child(function, user, writer)
        os.close(writer)
        self._reader = reader
        self._answer = b""

    def result(self, timeout: float = SECONDS) -> Any:
        """What the function returned; raises what it raised, TimeoutError after `timeout` seconds."""
        end = time.monotonic() + timeout
        try:
            while True:
                if not select.select([self._reader], [], [], max(0.0, end - time.monotonic()))[0]:
                    os.kill(self.pid, signal.SIGKILL)
                    raise TimeoutError(f"a call in a child took longer than {timeout} s")
                block = os.read(self._reader, 1 << 20)
                if not block:
                    break
                self._answer += block
        finally:
            os.close(self._reader)
        status = wait_exit(self.pid)
        if not self._answer:
            raise RuntimeError(f"a child died without an answer, status {status}")
        good, value, trace = pickle.loads(self._answer)
        if not good:
            if not isinstance(value, OSError):
                value.add_note(trace) if hasattr(value, "add_note") else None
            raise value
        return value

    def kill(self) -> None:
        """Ends the child at once."""
        os.kill(self.pid, signal.SIGKILL)
        os.close(self._reader)
        wait_exit(self.pid)


def call_as(user: User | None, function: Callable[[], T], timeout: float = SECONDS) -> T:
    """The result of `function`, called in a child as `user`; raises what it raised, or TimeoutError."""
    if user is not None and os.geteuid() != 0:
        needs.root()
    return Child(function, user).result(timeout)  # type: ignore[no-any-return]


def _be_child(function: Callable[[], Any], user: User | None, writer: int) -> None:
    status = 1
    try:
        die_with_parent()
        try:
            if user is not None:
                user.become()
            answer: tuple[bool, Any, str] = (True, function(), "")
        except BaseException as error:
            answer = (False, error, traceback.format_exc())
        try:
            data = pickle.dumps(answer)
        except Exception:
            data = pickle.dumps((False, RuntimeError(f"cannot be sent: {answer!r}"), answer[2]))
        while data:
            data = data[os.write(writer, data) :]
        status = 0
    finally:
        os._exit(status)


class Watchdog:
    """Kills the processes entrusted to it when a test is not over in time."""

    def __init__(self) -> None:
        self._pids: set[int] = set()
        self._deadline: float | None = None
        self._changed = threading.Condition()
        self.barked = False
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def guard(self, pid: int) -> None:
        """`pid` is to be killed when time is up."""
        with self._changed:
            self._pids.add(pid)

    def release(self, pid: int) -> None:
        """`pid` has ended."""
        with self._changed:
            self._pids.discard(pid)

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Any:
        """A stretch of code that may take `seconds`."""
        with self._changed:
            self._deadline = time.monotonic() + seconds
            self.barked = False
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._deadline = None

    def _watch(self) -> None:
        with self._changed:
            while True:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is not None and left <= 0:
                    self.barked = True
                    self._deadline = None
                    for pid in self._pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    continue
                self._changed.wait(left)


def words(command: Sequence[str]) -> str:
    """A command as one would type it."""
    return " ".join(command)
