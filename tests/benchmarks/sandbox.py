"""A place for measurements from which nothing is left behind, however they end.

Everything that mounts runs in a child with mounts and process numbers of its own. When the child ends or is killed, the
kernel ends every process that it started and takes away its mounts, and with them their loop devices; there is no
clean-up code that could be skipped. Only the temporary directory is for the parent to remove. If even the parent is
killed, the child is too, and a directory without data is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

_CLONE_NEWNS: Final = 0x00020000  # sched.h
_CLONE_NEWPID: Final = 0x20000000
_MS_NOSUID_NODEV_NOEXEC: Final = 2 | 4 | 8  # sys/mount.h
_MS_REC_PRIVATE: Final = 0x4000 | 1 << 18
_PR_SET_PDEATHSIG: Final = 1  # sys/prctl.h
_DETACH_SECONDS: Final = 10.0
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Missing(Exception):
    """This machine cannot run the measurement; the message says what it lacks."""


def need(*programs: str) -> None:
    """Raises Missing unless this is root with a FUSE device, and the programs are there."""
    if os.geteuid() != 0:
        raise Missing("it mounts file systems, so run it as root")
    if not os.path.exists("/dev/fuse"):
        raise Missing("/dev/fuse is missing; load the kernel's fuse module (modprobe fuse)")
    absent = [name for name in programs if shutil.which(name) is None]
    if absent:
        raise Missing(f"install the programs {', '.join(absent)}")


def run(work: Callable[[Path], int]) -> int:
    """Calls `work` with an empty temporary directory, in a private place, and returns its exit status.

    SIGINT, SIGTERM and SIGHUP end it at once with the shell's status for that signal. Raises OSError where the kernel
    does not allow such a place.
    """
    directory = Path(tempfile.mkdtemp(prefix="fusemap-benchmark-"))
    child = 0
    with _stopped_by_signals():
        try:
            child = _start(work, directory)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except _Stopped as stopped:
            return 128 + stopped.number
        finally:
            for number in _STOPS:
                signal.signal(number, signal.SIG_IGN)
            if child:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
            _wait_for_loop_devices(directory)
            shutil.rmtree(directory)


_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stopped(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    def stop(number: int, _: object) -> NoReturn:
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(work: Callable[[Path], int], directory: Path) -> int:
    """Forks the child; its process id here. There it is 1, whose end is the end of all."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open("/proc/self/ns/pid") as own:
        _check(_libc.unshare(_CLONE_NEWPID), "unshare")  # for children from now on
        child = os.fork()
        if child == 0:
            _inside(work, directory)
        _check(_libc.setns(own.fileno(), _CLONE_NEWPID), "setns")
    return child


def _inside(work: Callable[[Path], int], directory: Path) -> NoReturn:
    status = 1
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.setsid()  # the terminal's Ctrl-C is for the parent, which ends us all
        for number in _STOPS:
            signal.signal(number, signal.SIG_DFL)
        _check(_libc.unshare(_CLONE_NEWNS), "unshare")
        _check(_libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None), "mount")
        _check(_libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(_MS_NOSUID_NODEV_NOEXEC), None), "mount")
        status = work(directory)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _wait_for_loop_devices(directory: Path) -> None:
    """Returns when the kernel has let go of our images, which it does just after the last process has ended."""
    end = time.monotonic() + _DETACH_SECONDS
    while time.monotonic() < end:
        if not any(_backing_file(loop).startswith(f"{directory}/") for loop in Path("/sys/block").glob("loop*")):
            return
        time.sleep(0.02)
    print(f"loop devices of {directory} are still busy; see losetup", file=sys.stderr)


def _backing_file(loop: Path) -> str:
    try:
        return (loop / "loop/backing_file").read_text()
    except OSError:  # not in use
        return ""
