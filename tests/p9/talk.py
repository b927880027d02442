"""A client of a session that decides by itself when the session's work is run, and in which order.

`Inside` answers one request at a time; here several can be under way, and a work is held until the test lets it run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusemap.p9.export import Export
from fusemap.p9.later import Work
from fusemap.p9.session import Progress
from fusemap.p9.wire import Dialect, decode, encode

from .inside import Inside, exported

Answer = tuple[int, Any]
"""Tag and message."""


class Talk(Inside):
    """A client whose works are kept in `works` until they are run."""

    def __init__(self, export: Export, uid: int = 0, dialect: Dialect = Dialect.LINUX, **options: Any) -> None:
        self.works: list[Work] = []
        super().__init__(export, uid, dialect, **options)

    def feed(self, data: bytes) -> Progress:
        """Gives the session bytes; what its last `advance` said."""
        progress = Progress.HUNGRY
        while data:
            space = self.session.space()
            assert len(space)
            count = min(len(space), len(data))
            space[:count] = data[:count]
            self.session.received(count)
            data = data[count:]
            progress = self.session.advance()
            self.works += self.session.work()
        return progress

    def tell(self, message: Any, tag: int = 1) -> list[Answer]:
        """Sends a request; what is answered at once."""
        self.feed(encode(message, tag, self.dialect))
        return self.answers()

    def answers(self) -> list[Answer]:
        """What the session wants to send, in its order."""
        data = b"".join(bytes(part) for part in self.session.outgoing())
        found = []
        while data:
            size = int.from_bytes(data[:4], "little")
            found.append(decode(data[:size], self.dialect))
            data = data[size:]
        return found

    def run(self, work: Work | None = None) -> list[Answer]:
        """Runs a work that was held, the oldest if none is named; what is answered then."""
        work = work or self.works[0]
        self.works.remove(work)
        run(work)
        return self.answers()

    def close(self) -> None:
        """Ends the connection, and runs what is left, as the server does."""
        self.session.close()
        assert self.session.work() == []
        for work in self.works:
            run(work)
        self.works.clear()
        assert self.session.outgoing() == []
        self.session.tree.rest()


def run(work: Work) -> None:
    """Runs a work to its end on the spot."""
    try:
        result = work.run()
    except Exception as error:
        work.fail(error)
    else:
        work.finish(result)


def entries(data: bytes) -> list[tuple[bytes, int]]:
    """Names and cookies of the entries in Rreaddir."""
    found = []
    while data:
        size = 24 + int.from_bytes(data[22:24], "little")
        found.append((data[24:size], int.from_bytes(data[13:21], "little")))
        data = data[size:]
    return found


@contextmanager
def talking(
    source: Path, dialect: Dialect = Dialect.LINUX, uid: int = 0, *, msize: int = 1 << 17, **options: Any
) -> Iterator[Talk]:
    """A client of a new export of `source`; afterwards nothing that it held may be left."""
    with exported(source, **options) as export, Talk(export, uid, dialect, msize=msize) as talk:
        yield talk


Start = Callable[..., Talk]
"""`Talk` with the fixture's own source."""


def large(path: Path) -> Path:
    """A file that takes long to truncate and to remove, where the fixture `all_is_large` says so."""
    with open(path, "wb") as file:
        file.write(bytes(32768))
        os.fsync(file.fileno())  # so that its blocks are counted
    return path
