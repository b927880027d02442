"""The 9P server: accepts connections, serves each, and ends cleanly.

Clients are strangers to each other. There are only so many connections, of them only so many from one address or user,
and who does not say a version soon goes again, so that nobody keeps the others out. Only root and the server's own user
may take their time on a Unix socket: they could stop the server as well, and a QEMU that connects a guest's serial port
does so long before the guest mounts anything. What one may ask of the server's time and memory is told in
connection.py. Whatever goes wrong in one connection costs that connection.

The end: a signal closes the listeners and every connection, and then calls that are under way in threads are waited
for, since their files must not be closed below them; a second signal does not wait.
"""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Final

import trio

from fusemap.p9.channel import Channel, look, peer_uid, prepare
from fusemap.p9.connection import FIRST_VERSION_SECONDS, Connection, Shared
from fusemap.p9.export import Export, Peer
from fusemap.p9.listen import Inherited, Listener, Source, address_of, close_all
from fusemap.p9.session import Session
from fusemap.tree.days import each_day

log = logging.getLogger(__name__)

CONNECTIONS: Final = 256
CONNECTIONS_A_PEER: Final = 128
ACCEPT_AGAIN_SECONDS: Final = 0.1
_STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# What accept(2) fails with for want of something of ours; anything else is the client's.
_SHORT_OF: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def serve(export: Export, sources: Sequence[Source], ready: Callable[[], None], *, as_himself: bool = False) -> None:
    """Serves until a signal or the end of the last inherited connection; calls `ready` when it can answer.

    With `as_himself`, whoever connects over a Unix socket may attach only as himself, root and the server's own user
    excepted. The sources are closed then; the export is the caller's.
    """
    # Nodes are never garbage in cycles; looking a million of them through again and again only costs time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    trio.run(Server(export, sources, as_himself=as_himself).run, ready)


class Server:
    """Serves what comes from `sources`; `session_of` makes the session of a connection.

    `patience` is how many seconds anybody may take to say a version, FIRST_VERSION_SECONDS for strangers if not given.
    """

    def __init__(
        self,
        export: Export,
        sources: Sequence[Source],
        *,
        as_himself: bool = False,
        session_of: Callable[[Export, Peer], Session] = Session,
        patience: float | None = None,
    ) -> None:
        self._export = export
        self._sources = list(sources)
        self._as_himself = as_himself
        self._session_of = session_of
        self._patience = patience
        self._from: Counter[Hashable] = Counter()
        self._clients = trio.CancelScope()
        self._shared: Shared

    async def run(self, ready: Callable[[], None]) -> None:
        """Serves until a signal comes or nothing is left that could bring a request."""
        async with trio.open_nursery() as everything:
            await everything.start(self._heed_signals, everything.cancel_scope)
            if self._export.table is not None:
                everything.start_soon(each_day, self._export.table.still_here)
            async with trio.open_nursery() as works:
                self._shared = Shared(works, self._export.tree.rest)
                everything.start_soon(self._shared.rounds.run)
                try:
                    with self._clients:
                        async with trio.open_nursery() as clients:
                            for source in self._sources:
                                if isinstance(source, Inherited):
                                    clients.start_soon(self._inherited, source)
                                else:
                                    clients.start_soon(self._accept, source, clients)
                            ready()
                finally:
                    close_all(self._sources)
                if self._shared.under_way:
                    log.info("waiting for %d calls under way", self._shared.under_way)
                await self._shared.until_all_are_back()
            self._shared.workers.close()
            everything.cancel_scope.cancel()

    def stop(self) -> None:
        """Closes the listeners and every connection; `run` returns when no call is under way any more."""
        self._clients.cancel()
        close_all(self._sources)  # now, so that nobody begins to wait for a server that is ending

    async def _heed_signals(
        self, everything: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(*_STOPS, signal.SIGUSR1) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGUSR1:
                    self._log_statistics()
                elif self._clients.cancel_called:
                    log.warning("%s again: not waiting for calls under way", signal.Signals(number).name)
                    everything.cancel()
                else:
                    log.info("%s: closing every connection", signal.Signals(number).name)
                    self.stop()

    def _log_statistics(self) -> None:
        numbers = {"connections": len(self._shared.connections), "calls under way": self._shared.under_way}
        log.info("statistics: %s", json.dumps(numbers | self._export.statistics.as_json()))

    async def _accept(self, listener: Listener, clients: trio.Nursery) -> None:
        seldom = self._shared.seldom
        while True:
            await trio.lowlevel.wait_readable(listener.socket)
            try:
                accepted, address = listener.socket.accept()
            except OSError as error:
                if error.errno in _SHORT_OF:
                    seldom.log(logging.ERROR, "%s: cannot accept: %s", listener.address, error.strerror)
                    await trio.sleep(ACCEPT_AGAIN_SECONDS)
                continue
            try:
                self._admit(accepted, address, listener, clients)
            except Exception as error:
                seldom.log(logging.ERROR, "%s: a connection could not be begun", listener.address, error=error)
                accepted.close()

    def _admit(self, accepted: socket.socket, address: object, listener: Listener, clients: trio.Nursery) -> None:
        """Takes a connection, unless there are too many. Raises whatever the session's making raises."""
        uid = peer_uid(accepted)
        whose: Hashable = uid
        name = f"{listener.address} user {uid}"
        if uid is None and isinstance(address, tuple):
            whose, name = address[0], address_of(accepted.family, address)
        if len(self._shared.connections) >= CONNECTIONS or self._from[whose] >= CONNECTIONS_A_PEER:
            form = "%s: sent away, since there are too many connections"
            self._shared.seldom.log(logging.WARNING, form, name)
            accepted.close()
            return
        channel = prepare(accepted)
        try:
            session = self._session_of(self._export, Peer(name, self._bound_to(uid)))
        except BaseException:
            channel.close()
            raise
        self._from[whose] += 1
        patience = self._patience_with(uid)
        clients.start_soon(self._serve, Connection(session, channel, name, self._shared), whose, patience)

    async def _serve(self, connection: Connection, whose: Hashable, patience: float) -> None:
        try:
            await connection.run(patience)
        finally:
            self._from[whose] -= 1
            if not self._from[whose]:
                del self._from[whose]

    async def _inherited(self, source: Inherited) -> None:
        uid, found = None, look(source.reader)
        if found is not None:
            with found:
                uid = peer_uid(found)
        channel = Channel(source.reader, source.writer)
        session = self._session_of(self._export, Peer(source.address, self._bound_to(uid)))
        # Whoever started us with it may take his time.
        await Connection(session, channel, source.address, self._shared).run(float("inf"))

    def _bound_to(self, uid: int | None) -> int | None:
        return uid if self._as_himself and uid not in (0, os.geteuid()) else None

    def _patience_with(self, uid: int | None) -> float:
        if self._patience is not None:
            return self._patience
        return float("inf") if uid in (0, os.geteuid()) else FIRST_VERSION_SECONDS
