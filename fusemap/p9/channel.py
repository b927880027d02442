"""The bytes of one connection, whatever carries them.

A connection is two descriptors that do not block, often the same one: a socket, or a pair of pipes that whoever
started the server keeps the other ends of. readv(2) and writev(2) do for all of them what recv and sendmsg do for
sockets, so there is one kind of channel and no transport that the tests of another do not cover.

Descriptors that were inherited may be shared with other processes, and O_NONBLOCK belongs to what is shared: it is put
back as it was. Standard input and output are not closed but exchanged for /dev/null, so that their numbers are never
given to a file of the tree.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

Buffer: TypeAlias = bytes | memoryview
_MOST_PARTS: Final = 1024  # UIO_MAXIOV, include/uapi/linux/uio.h
_UCRED: Final = struct.Struct("3i")  # unix(7)

# A peer that has vanished without a word (power, network) keeps its locks and files for no longer than this.
_SILENT_SECONDS: Final = 60
_PROBE_SECONDS: Final = 10
_PROBES: Final = 6


_WORTH_A_CALL: Final = 1 << 15
_MOST_EXPECTED: Final = 1 << 18


class Channel:
    """Two descriptors, owned from now on; the same number twice for a socket."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader: Final = reader
        self.writer: Final = writer
        self._fds = {reader, writer}
        self._expected = 1
        self._tcp = socket.socket(fileno=reader) if _is_tcp(reader) else None
        self._blocking = [fd for fd in self._fds if os.get_blocking(fd)]
        for fd in self._blocking:
            os.set_blocking(fd, False)
        # An end that has no FIN of its own to be seen by: see gone().
        self._gone_when = select.POLLERR | select.POLLHUP
        if writer == reader and not _is_unix(reader):
            self._gone_when |= select.POLLRDHUP

    def expect(self, size: int) -> None:
        """So much more of a message is to come, 0 where that is not known.

        TCP need not report a few bytes of it then (SO_RCVLOWAT, socket(7)); its end it reports all the same. A long
        message that is received in small pieces costs a turn, and mostly a wake-up, for each.
        """
        size = min(size, _MOST_EXPECTED) if size >= _WORTH_A_CALL else 1
        if self._tcp is not None and size != self._expected:
            self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            self._expected = size

    def receive(self, space: memoryview) -> int:
        """Puts bytes into `space`; how many, 0 at the end. Raises BlockingIOError when none are there, OSError."""
        return os.readv(self.reader, [space])

    def send(self, parts: Sequence[Buffer]) -> int:
        """Sends what goes at once; how many bytes that was. Raises BlockingIOError when none, OSError."""
        return os.writev(self.writer, parts if len(parts) <= _MOST_PARTS else parts[:_MOST_PARTS])

    def gone(self) -> bool:
        """Whether nobody is there any more to read replies.

        A peer that has only said all it has to say may still wait for them. On pipes and Unix sockets the two can be
        told apart; on the others a peer that has shut down its sending is taken for gone, as it mostly is.
        """
        poll = select.poll()
        poll.register(self.writer, self._gone_when)
        return any(events & self._gone_when for _, events in poll.poll(0))

    def close(self) -> None:
        """Closes both."""
        if self._tcp is not None:
            self._tcp.detach()
        for fd in self._blocking:
            with contextlib.suppress(OSError):
                os.set_blocking(fd, True)
        for fd in self._fds:
            if fd > 2:
                os.close(fd)
            else:
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                os.dup2(null, fd)
                os.close(null)


def prepare(connection: socket.socket) -> Channel:
    """The channel of a socket, set up for short messages that wait for each other; the socket object is used up."""
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    fd = connection.detach()
    return Channel(fd, fd)


def peer_uid(connection: socket.socket) -> int | None:
    """Who connected, where it is a Unix socket (SO_PEERCRED, unix(7)); None for other sockets."""
    if connection.family != socket.AF_UNIX:
        return None
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(found)[1])


def look(fd: int) -> socket.socket | None:
    """A socket object of its own for descriptor `fd`; None when that is something else."""
    return socket.socket(fileno=os.dup(fd)) if stat.S_ISSOCK(os.fstat(fd).st_mode) else None


def _is_unix(fd: int) -> bool:
    found = look(fd)
    if found is None:
        return False
    with found:
        return found.family == socket.AF_UNIX


def _is_tcp(fd: int) -> bool:
    found = look(fd)
    if found is None:
        return False
    with found:
        return found.family in (socket.AF_INET, socket.AF_INET6)
