"""Open file description locks: byte ranges that belong to a descriptor rather than to the process (fcntl(2), F_OFD_*).

A thread that waits for a lock is called back by a signal whose handler does nothing and was set without SA_RESTART;
the system call then ends with EINTR. Python's own fcntl() would go on waiting after a signal, and so the calls are made
through ctypes, by CDLL rather than PyDLL: other threads run in the meantime.

Ranges are given by their first and last byte, both included; LAST is the end of every file. Kinds are F_RDLCK, F_WRLCK
and F_UNLCK of `fcntl`. An errno is returned rather than raised where the caller must tell several apart.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import threading
from typing import Final, NamedTuple

__all__ = ["LAST", "Held", "in_the_way", "set_now", "wait", "waking_signal"]

LAST: Final = (1 << 63) - 1  # OFFSET_MAX in fs/locks.c, which a length of 0 stands for

_ANSWERS: Final = 16  # how often a lock nearer to the beginning is asked for


class Held(NamedTuple):
    """A lock that another owner has. `descriptor`: it is an open file description lock, so `pid` is 0."""

    kind: int
    start: int
    end: int
    pid: int
    descriptor: bool


class _Flock(ctypes.Structure):
    """struct flock of fcntl(2) with 64-bit offsets; l_pid must be 0 for F_OFD_* (36 to 38 in Linux's fcntl.h)."""

    _fields_ = (
        ("l_type", ctypes.c_short),
        ("l_whence", ctypes.c_short),
        ("l_start", ctypes.c_int64),
        ("l_len", ctypes.c_int64),
        ("l_pid", ctypes.c_int),
    )


_libc: Final = ctypes.CDLL(None, use_errno=True)
_fcntl: Final = _libc.fcntl64 if hasattr(_libc, "fcntl64") else _libc.fcntl
_fcntl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Flock))


def wait(fd: int, kind: int, start: int, end: int) -> int:
    """Locks when the range is free, which can take for ever; gives the errno or 0. Any signal ends it with EINTR."""
    return _call(fd, fcntl.F_OFD_SETLKW, kind, start, end)[0]


def set_now(fd: int, kind: int, start: int, end: int) -> bool:
    """Locks or unlocks; whether it was possible without waiting. Raises OSError."""
    number, _ = _call_now(fd, fcntl.F_OFD_SETLK, kind, start, end)
    if number in (errno.EAGAIN, errno.EACCES):
        return False
    if number:
        raise OSError(number, os.strerror(number))
    return True


def in_the_way(fd: int, kind: int, start: int, end: int) -> Held | None:
    """The lock that begins first among those that keep this one from being had by `fd`. Raises OSError.

    With many owners of locks it can be another than the first.
    """
    found = None
    for _ in range(_ANSWERS):
        number, flock = _call_now(fd, fcntl.F_OFD_GETLK, kind, start, end)
        if number:
            raise OSError(number, os.strerror(number))
        if flock.l_type == fcntl.F_UNLCK:
            break
        found = flock
        if flock.l_start <= start:
            break
        end = flock.l_start - 1  # the kernel answers in the order of owners
    if found is None:
        return None
    last = found.l_start + found.l_len - 1 if found.l_len else LAST
    return Held(found.l_type, found.l_start, last, max(found.l_pid, 0), found.l_pid == -1)


def _call(fd: int, command: int, kind: int, start: int, end: int) -> tuple[int, _Flock]:
    flock = _Flock(kind, os.SEEK_SET, start, 0 if end == LAST else end - start + 1, 0)
    return (ctypes.get_errno() if _fcntl(fd, command, flock) else 0), flock


def _call_now(fd: int, command: int, kind: int, start: int, end: int) -> tuple[int, _Flock]:
    """For the commands that do not wait, and so need not be interrupted."""
    while (answer := _call(fd, command, kind, start, end))[0] == errno.EINTR:
        pass
    return answer


_signal: int | None = None


def waking_signal() -> int | None:
    """The signal that ends `wait` in the thread that it is sent to; None where it cannot be had.

    It is the first real-time signal that nobody uses. Its handler can be installed in the main thread only, and stays:
    without it one signal that comes late would end the process.
    """
    global _signal
    if _signal is None and threading.current_thread() is threading.main_thread():
        for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, lambda number, frame: None)
                _signal = number
                break
    return _signal
