"""What all connections of a server share: the tree, the security model, locks, places, counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from stat import S_IFDIR
from typing import Any, Final, NamedTuple

from fusemap.host.calls import Stat
from fusemap.p9.fids import Places
from fusemap.p9.locks import Locks
from fusemap.p9.messages import BY_NUMBER
from fusemap.p9.model import Model
from fusemap.qid import QID, Mapper, qid_type, version, version_qemu
from fusemap.table import Table
from fusemap.tree import Node, Tree, statistics
from fusemap.tree.filesystems import bare
from fusemap.tree.places import path_below, path_of
from fusemap.tree.reach import KIND
from fusemap.tree.shown import Shown
from fusemap.tree.telling import Telling

MSIZE: Final = 1 << 20  # the largest that Linux's socket transports use
MIN_MSIZE: Final = 512  # a stat record with names of ordinary length fits
_SECOND: Final = 1_000_000_000


class Peer(NamedTuple):
    """Who is at the other end: for logs, and the user id as which alone he may attach, None for any."""

    name: str
    uid: int | None = None


class Statistics(statistics.Statistics):
    """What was asked and answered since the start. Times are taken of a part of the requests, so they are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = [0] * 256  # by message number
        self.bytes_in = 0
        self.bytes_out = 0
        self.connections = 0  # ever
        self.clients = 0  # now
        self.fids = 0

    def operations(self) -> dict[str, Any]:
        """Counts and times as JSON, by the name of the message."""
        return {
            _name(number): statistics.row_json(self.rows.get(number), count)
            for number, count in enumerate(self.requests)
            if count
        }

    def as_json(self) -> dict[str, Any]:
        """As a JSON object: requests by type, errors by number, bytes, connections and clients, fids."""
        return {"errors": {str(number): count for number, count in sorted(self.errors.items())}, **self.of_9p()}

    def of_9p(self) -> dict[str, Any]:
        """What is counted of 9P alone."""
        return {
            "requests": {_name(number): count for number, count in enumerate(self.requests) if count},
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "connections": self.connections,
            "clients": self.clients,
            "fids": self.fids,
        }


def _name(number: int) -> str:
    """Of a message type; clients send any number."""
    row = BY_NUMBER.get(number)
    return str(number) if row is None else row.__name__


class Export:
    """An exported tree. `shown` numbers what clients see where that is not the node's own number (raw and qemu).

    `table` is that of the numbers, for telling what is in it.
    `msize` is the largest frame in bytes; `trace` is given a line for every message in and out.
    """

    def __init__(
        self,
        tree: Tree,
        model: Model,
        *,
        read_only: bool = False,
        msize: int = MSIZE,
        shown: Mapper | None = None,
        table: Table | None = None,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.tree: Final = tree
        self.table: Final = table
        self.model: Final = model
        self.read_only: Final = read_only
        self.msize: Final = msize
        self.trace: Final = trace
        self.places: Final = Places()
        self.locks: Final = Locks()
        self.statistics: Final = Statistics()
        self.numbering: Final = None if shown is None else Shown(shown)
        model.numbering = self.numbering
        self.telling: Final = Telling(tree, "9p", self.statistics, self.numbering, table, self.statistics.of_9p)
        self.plain: Final = shown is None and not model.maps
        self._qemu_version = shown is not None and shown.mode == "qemu"

    def close(self) -> None:
        """Closes the tree. The sessions are closed before."""
        self.tree.close()

    def qid(self, node: Node, st: Stat) -> QID:
        """The QID of a file of which the client is told `st`. Raises OSError, ENFILE."""
        if self.numbering is None:
            return self.qid_of(node.number, st)
        path = partial(path_of, self.tree, node)
        number = self.numbering.show(node.device.key, node.inode, node.kind == S_IFDIR, path)
        return self.qid_of(number, st)

    def qid_of(self, number: int, st: Stat) -> QID:
        """Like `qid`, where the number is known."""
        if self._qemu_version:
            return QID(qid_type(st.mode), version_qemu(st.mtime_s, st.size), number)
        mtime, ctime = st.mtime_s * _SECOND + st.mtime_ns, st.ctime_s * _SECOND + st.ctime_ns
        return QID(qid_type(st.mode), version(mtime, ctime, st.size), number)

    def entry_number(self, directory: Node, name: bytes, number: int, st: Stat | None) -> int:
        """The number shown for the entry `name` whose own number is `number`. Raises OSError, ENFILE."""
        if self.numbering is None or st is None:
            return number
        key, inode = self.tree.mapper.locate(number)
        if name in (b".", b".."):
            return self.numbering.number(bare(str(key)), inode)
        path = partial(path_below, self.tree, directory, name)
        return self.numbering.show(bare(str(key)), inode, st.mode & KIND == S_IFDIR, path)
