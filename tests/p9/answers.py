"""What the test client makes of answers: errors, entries of directories, stat records; and how it connects."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from fusemap.p9.messages import Rerror, Rlerror, StatRecord
from fusemap.p9.wire import Cursor, Dialect, codec, describe
from fusemap.qid import QID

CONNECTING: Final = 20.0


class ServerError(OSError):
    """The server answered with an error. `errno` is 0 in 9P2000, which has only the text."""


class Disconnected(ConnectionError):
    """The server ended the connection."""


class Wrong(AssertionError):
    """The server broke a rule that holds for every answer."""


class Entry(NamedTuple):
    """One entry of a directory as Treaddir tells it; `kind` is a DT_ constant."""

    qid: QID
    offset: int
    kind: int
    name: bytes


def shown(message: Any) -> str:
    """A message for a person, on one line."""
    return describe(message, 0).replace(" tag=0", "")


def result(answer: Any, message: Any) -> Any:
    """The answer. Raises ServerError if it is an error."""
    if isinstance(answer, Rlerror):
        raise ServerError(answer.ecode, f"{errno_name(answer.ecode)} for {shown(message)}")
    if isinstance(answer, Rerror):
        raise ServerError(answer.errno, f"{answer.ename!r} for {shown(message)}")
    return answer


def entries(data: bytes) -> Iterator[Entry]:
    """What Rreaddir holds: qid[13] offset[8] type[1] name[s]. Raises Wrong when an entry is cut off."""
    at = 0
    while at < len(data):
        if len(data) - at < 24:
            raise Wrong("an entry of the directory is cut off")
        *qid, offset, kind, length = struct.unpack_from("<BIQQBH", data, at)
        at += 24 + length
        if at > len(data):
            raise Wrong("a name of the directory is cut off")
        yield Entry(QID(*qid), offset, kind, data[at - length : at])


def records(data: bytes, dialect: Dialect) -> list[StatRecord]:
    """What Rread of a directory holds in 9P2000 and .u: whole stat records. Raises WireError, Wrong."""
    cursor = Cursor(data, 0, len(data))
    found = []
    while cursor.at < cursor.end:
        end = cursor.u16() + cursor.at
        found.append(StatRecord(*codec(StatRecord, dialect).read(cursor)))
        if cursor.at != end:
            raise Wrong(f"the size of a stat record is wrong by {end - cursor.at}")
    return found


def connect(address: str) -> socket.socket:
    """A connected socket for "tcp:HOST:PORT" or "unix:PATH"."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        plug = socket.socket(socket.AF_UNIX)
        plug.settimeout(CONNECTING)
        try:
            plug.connect(rest)
        except BaseException:
            plug.close()
            raise
        return plug
    if kind != "tcp":
        raise ValueError(f"{address!r} is neither tcp:HOST:PORT nor unix:PATH")
    host, _, port = rest.rpartition(":")
    plug = socket.create_connection((host.strip("[]"), int(port)), CONNECTING)
    plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plug


def errno_name(number: int) -> str:
    """The name of an errno, such as "ENOENT"."""
    return errno.errorcode.get(number, str(number))
