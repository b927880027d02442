"""Byte-range locks: Tlock and Tgetlock on top of the host's own locks.

Who owns a lock is said in the message: a process (proc_id) of a client (client_id) on a connection. Every such owner
gets a descriptor of its own for each file it has locks on, and the locks are the host's open file description locks
(F_OFD_*, fcntl(2)). The kernel then does the rest: it splits and merges ranges, keeps owners apart, and holds our locks
against the classic and the open file description locks of the host's own processes. Classic locks (F_SETLK) would not
do, since all our clients would be one process to them; flock(2) would not, since it knows no ranges and does not meet
the host's fcntl locks.

An owner is one for all its fids of a file, as a process is one for all its descriptors, so that a program which locks
through two of them is not in its own way.

A lock that must be waited for waits in the kernel, in a worker thread of its own, so the answer leaves the moment the
lock is free and whoever holds it need not be ours. A Linux client that is told BLOCKED asks again after 30 seconds.
Two owners can wait for each other, since the kernel looks for such circles only among classic locks; a Tflush ends it.

A waiting thread is called back by a signal. That can arrive just before the thread enters the system call, where it
has no effect; so it is sent again until the thread says that it is back. A thread of ours does that, because the loop
must not wait for it.

The ranges of each owner are kept here too, only to name who is in the way and to know when the last lock is gone. They
may hold more than the kernel for a while (see `Waiting.run`), never less.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import logging
import os
import signal
import threading
from collections.abc import Callable, Hashable
from typing import Final

from fusemap.host import ofd
from fusemap.p9.messages import Rgetlock, Tgetlock, Tlock
from fusemap.p9.owners import Client, Owner, Owners
from fusemap.p9.ranges import Range, splits

__all__ = [
    "BLOCKED",
    "ERROR",
    "FLAGS_BLOCK",
    "FLAGS_RECLAIM",
    "GRACE",
    "MAX_OWNERS",
    "MAX_RANGES",
    "MAX_WAITING",
    "MAX_WAITING_OF_ONE",
    "RDLCK",
    "SUCCESS",
    "UNLCK",
    "WRLCK",
    "Locks",
    "Waiting",
]

log = logging.getLogger(__name__)

# include/net/9p/9p.h in Linux, P9_LOCK_*.
RDLCK: Final = 0
WRLCK: Final = 1
UNLCK: Final = 2
FLAGS_BLOCK: Final = 1
FLAGS_RECLAIM: Final = 2
SUCCESS: Final = 0
BLOCKED: Final = 1
ERROR: Final = 2
GRACE: Final = 3

MAX_WAITING: Final = 256
"""Locks of all sessions that may wait at once; each has a thread."""
MAX_WAITING_OF_ONE: Final = 64
"""Locks of one session that may wait at once."""
MAX_OWNERS: Final = 4096
"""Owners with locks in one session, over all its files; each has a descriptor."""
MAX_RANGES: Final = 1 << 14
"""Ranges that the owners of one session may hold together; the kernel walks a list of those of a file."""
MAX_CLIENT_ID: Final = 1024
"""Bytes of a client_id, which Linux makes of the host's name, at most 64 bytes long."""

_FIRST_PAUSE: Final = 0.001  # seconds between the signals to a thread that does not come back
_LAST_PAUSE: Final = 0.1
_TO_HOST: Final = {RDLCK: fcntl.F_RDLCK, WRLCK: fcntl.F_WRLCK, UNLCK: fcntl.F_UNLCK}
_FROM_HOST: Final = {host: wire for wire, host in _TO_HOST.items()}


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _bounds(start: int, length: int) -> tuple[int, int]:
    """First and last byte. Raises OSError EINVAL when the host's 63 bits do not hold them."""
    end = start + length - 1 if length else ofd.LAST
    if not 0 <= start <= end <= ofd.LAST:
        raise _error(errno.EINVAL)
    return start, end


class _State(enum.Enum):
    NEW = enum.auto()
    RUNNING = enum.auto()
    DONE = enum.auto()


class Waiting:
    """A Tlock that must wait: `run` is to be called in a worker thread, once."""

    def __init__(self, locks: Locks, owner: Owner, client: Client, fid: Hashable, wanted: Range) -> None:
        self._locks, self._owner, self._client, self._fid, self._wanted = locks, owner, client, fid, wanted
        self._state = _State.NEW
        self._cancelled = False
        self._thread = 0

    def run(self) -> int:
        """Waits for the lock; gives SUCCESS. Blocks.

        Raises InterruptedError (EINTR) when it was cancelled, or its fid clunked, before the lock was got; OSError for
        what the kernel finds wrong. A lock that was got just before `cancel` came is reported as got: giving it back
        could take ranges along that the owner had before. When the fid or session has gone, the lock goes with it.
        """
        locks, owner = self._locks, self._owner
        start, end, kind = self._wanted
        with locks._mutex:
            if self._state is not _State.NEW:
                raise _error(errno.EINTR)
            self._state = _State.RUNNING
            self._thread = threading.get_ident()
        number = errno.EINTR
        try:
            assert locks._signal is not None
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (locks._signal,))
            while number == errno.EINTR and not self._cancelled:
                number = ofd.wait(owner.fd, _TO_HOST[kind], start, end)
        finally:
            with locks._mutex:
                if not number and not owner.gone:
                    # Another request of this owner can have unlocked the range between the kernel's answer and this
                    # line. Then it is noted although it is free: a descriptor that is kept too long, no lost lock.
                    locks._owners.note(owner, start, end, kind)
                elif not number:
                    number = errno.EINTR
                locks._settle(self)
        if number:
            raise _error(number)
        return SUCCESS

    def cancel(self) -> None:
        """Calls `run` back; to be called in the loop's thread, at any time and as often as one likes. Never blocks."""
        with self._locks._mutex:
            self._locks._cancel(self)


class Locks:
    """The byte-range locks of all sessions of an export.

    All methods are for one thread, the loop's; the methods of `Waiting` say where they may be called. None of them
    waits for a lock. Made outside the main thread, it cannot install the signal that ends a wait (unless an earlier one
    has): then nothing waits, and a lock that is not free is BLOCKED.

    Whoever runs `Waiting.run` must have MAX_WAITING threads for it: one that waits for a thread does not wait in the
    kernel's queue.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()  # held against Waiting.run and the interrupting thread
        self._changed = threading.Condition(self._mutex)
        self._owners = Owners()
        self._waiting = 0
        self._unwilling: set[Waiting] = set()  # cancelled, and not back yet
        self._pause = _FIRST_PAUSE
        self._interrupter: threading.Thread | None = None
        self._host = os.fsencode(os.uname().nodename)
        self._signal = ofd.waking_signal()
        if self._signal is None:
            log.warning("9P locks made outside the main thread: a client's lock that must wait is answered BLOCKED")

    def acquire(
        self,
        session: Hashable,
        fid: Hashable,
        node: Hashable,
        open_file: Callable[[], int],
        message: Tlock,
        *,
        readable: bool,
        writable: bool,
    ) -> int | Waiting:
        """Locks or unlocks a range of the file `node`, which `fid` has open.

        `open_file` gives a new descriptor (its own open file description, O_RDWR where possible), which is closed here;
        it is called for an owner's first lock. `readable` and `writable` say how the fid was opened.

        Gives the status for Rlock: SUCCESS, BLOCKED, or ERROR when the session has more locks than it may; or a
        `Waiting` when FLAGS_BLOCK is set and somebody else has the lock. FLAGS_RECLAIM makes no difference, since the
        locks of a server that went are gone and there is no time of grace.

        Raises OSError: EBADF for a read lock without a readable fid or a write lock without a writable one (fcntl(2)),
        EINVAL for an unknown type or flag, a range beyond 2^63 - 1 or a too long client_id, and what opening raises.
        """
        start, end = _bounds(message.start, message.length)
        kind = message.type
        if kind not in _TO_HOST or message.flags & ~(FLAGS_BLOCK | FLAGS_RECLAIM):
            raise _error(errno.EINVAL)
        if len(message.client_id) > MAX_CLIENT_ID:
            raise _error(errno.EINVAL)
        if (kind == RDLCK and not readable) or (kind == WRLCK and not writable):
            raise _error(errno.EBADF)
        key = session, node, bytes(message.client_id), message.proc_id
        with self._mutex:
            client, owner = self._owners.client(session), self._owners.get(key)
            if kind == UNLCK:
                return self._unlock(client, owner, start, end) if client and owner else SUCCESS
            if client is not None:
                full = owner is None and len(client.owners) >= MAX_OWNERS
                if full or client.ranges >= MAX_RANGES:
                    return ERROR
            if owner is None or client is None:
                owner = Owner(key, open_file())
                client = self._owners.enter(owner)
            try:
                if kind == WRLCK:
                    self._make_writable(owner, open_file)
                answer: int | Waiting = BLOCKED
                if ofd.set_now(owner.fd, _TO_HOST[kind], start, end):
                    self._owners.note(owner, start, end, kind)
                    answer = SUCCESS
                elif message.flags & FLAGS_BLOCK and self._may_wait(client):
                    answer = Waiting(self, owner, client, fid, (start, end, kind))
                    owner.waiting.add(answer)
                    client.waiting += 1
                    self._waiting += 1
                if answer != BLOCKED:
                    self._owners.use(owner, fid)
                return answer
            finally:
                self._tidy(owner)

    def test(
        self, session: Hashable, fid: Hashable, node: Hashable, open_file: Callable[[], int], message: Tgetlock
    ) -> Rgetlock:
        """Whether the lock could be had: as `message` with type UNLCK, or the lock that is in its way.

        That is the one that begins first, with proc_id and client_id of its owner when it is a client of ours, else the
        host's process id (0 for an open file description lock, which belongs to none) and the host's name. `length` is
        0 for a lock that reaches to the end of all files.

        Type UNLCK asks for any lock. It is what Linux sends, whatever its caller wants to know (v9fs_file_getlock() in
        fs/9p/vfs_file.c), so a caller who means a read lock is told of read locks too.

        Raises OSError: EINVAL as in `acquire`, and what opening raises.
        """
        start, end = _bounds(message.start, message.length)
        if message.type not in _TO_HOST:
            raise _error(errno.EINVAL)
        wanted = fcntl.F_RDLCK if message.type == RDLCK else fcntl.F_WRLCK
        with self._mutex:
            asking = self._owners.get((session, node, bytes(message.client_id), message.proc_id))
            fd = open_file() if asking is None else asking.fd
            try:
                held = ofd.in_the_way(fd, wanted, start, end)
            finally:
                if asking is None:
                    os.close(fd)
            if held is None:
                return Rgetlock(UNLCK, message.start, message.length, message.proc_id, message.client_id)
            found = held.start, held.end, _FROM_HOST[held.kind]
            holder = self._owners.holder(node, asking, found) if held.descriptor else None
        length = 0 if held.end == ofd.LAST else held.end - held.start + 1
        client_id, process = holder.key[2:] if holder is not None else (self._host, held.pid)
        return Rgetlock(found[2], held.start, length, process, client_id)

    def release_fid(self, session: Hashable, fid: Hashable) -> None:
        """The fid is clunked: what waits through it is cancelled, and owners that used no other fid lose their locks.

        Whoever locks through two fids of a file keeps everything until the second is clunked: a fid is not a descriptor
        of the client's process, and a client that means close(2) sends an unlock.
        """
        with self._mutex:
            for owner in self._owners.forget_fid(session, fid):
                if not owner.fids:
                    self._drop(owner)
                    continue
                for waiting in tuple(owner.waiting):
                    if waiting._fid == fid:
                        self._cancel(waiting)

    def release_session(self, session: Hashable) -> None:
        """The connection is gone: so are its locks, at once, and what waits is cancelled."""
        with self._mutex:
            client = self._owners.client(session)
            for owner in tuple(client.owners) if client is not None else ():
                self._drop(owner)

    def close(self) -> None:
        """Releases every session."""
        for session in self._owners.sessions():
            self.release_session(session)

    # What follows is called with the mutex held.

    def _may_wait(self, client: Client) -> bool:
        room = self._waiting < MAX_WAITING and client.waiting < MAX_WAITING_OF_ONE
        return room and self._signal is not None

    def _unlock(self, client: Client, owner: Owner, start: int, end: int) -> int:
        if client.ranges >= MAX_RANGES and splits(owner.ranges, start, end):
            return ERROR
        if ofd.set_now(owner.fd, fcntl.F_UNLCK, start, end):
            self._owners.note(owner, start, end, None)
        self._tidy(owner)
        return SUCCESS

    def _make_writable(self, owner: Owner, open_file: Callable[[], int]) -> None:
        """Gives the owner a descriptor for write locks where its first one is not: the file's mode can have changed.

        Its old locks are read locks, which the new descriptor can always have beside the old one.
        """
        if fcntl.fcntl(owner.fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY or owner.waiting:
            return
        fd = open_file()
        try:
            for start, end, kind in owner.ranges:
                ofd.set_now(fd, _TO_HOST[kind], start, end)
            fd, owner.fd = owner.fd, fd
        finally:
            os.close(fd)

    def _drop(self, owner: Owner) -> None:
        """The owner's locks go now, even if a thread of it is still on its way back from the kernel."""
        self._owners.leave(owner)
        owner.gone = True
        for waiting in tuple(owner.waiting):
            self._cancel(waiting)
        if owner.waiting:
            with contextlib.suppress(OSError):
                ofd.set_now(owner.fd, fcntl.F_UNLCK, 0, ofd.LAST)
        self._tidy(owner)

    def _tidy(self, owner: Owner) -> None:
        """Closes the descriptor of an owner that has no locks and waits for none."""
        if owner.waiting or (owner.ranges and not owner.gone):
            return
        self._owners.leave(owner)
        if owner.fd >= 0:
            fd, owner.fd = owner.fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)

    def _cancel(self, waiting: Waiting) -> None:
        if waiting._state is _State.DONE or waiting._cancelled:
            return
        waiting._cancelled = True
        if waiting._state is _State.NEW:
            self._settle(waiting)
            return
        self._unwilling.add(waiting)
        self._pause = _FIRST_PAUSE
        self._changed.notify_all()
        if self._interrupter is None:
            interrupter = threading.Thread(target=self._interrupt, name="9p-locks", daemon=True)
            try:
                interrupter.start()
            except RuntimeError as error:  # no thread is to be had, so once must do
                log.warning("a waiting 9P lock may go on waiting: %s", error)
                signal.pthread_kill(waiting._thread, self._signal or 0)
            else:
                self._interrupter = interrupter

    def _settle(self, waiting: Waiting) -> None:
        """Nothing waits any more."""
        waiting._state = _State.DONE
        waiting._owner.waiting.discard(waiting)
        waiting._client.waiting -= 1
        self._waiting -= 1
        self._unwilling.discard(waiting)
        self._changed.notify_all()
        self._tidy(waiting._owner)

    def _interrupt(self) -> None:
        """Signals the threads that were cancelled until each is back; a thread of its own, while there is one."""
        assert self._signal is not None
        with self._mutex:
            while self._unwilling:
                for waiting in self._unwilling:
                    # It cannot have ended: it says so under this mutex first. EAGAIN: enough signals wait for it.
                    with contextlib.suppress(OSError):
                        signal.pthread_kill(waiting._thread, self._signal)
                self._changed.wait(self._pause)
                self._pause = min(2 * self._pause, _LAST_PAUSE)
            self._interrupter = None
