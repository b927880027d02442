"""Who has byte-range locks: the tables of locks.py, found by owner, session, fid and file. No system call is made here.

An owner is in them as long as it has a lock or waits for one. A fid that never locked costs one look-up when it is
clunked.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, TypeAlias

from fusemap.p9.ranges import Range, find, put

__all__ = ["Client", "Key", "Owner", "Owners"]

Key: TypeAlias = tuple[Hashable, Hashable, bytes, int]
"""Session, node, client_id, proc_id."""


class Client:
    """What one session has: its owners, how many ranges they hold together, how many of its locks wait."""

    def __init__(self) -> None:
        self.owners: set[Owner] = set()
        self.by_fid: dict[Hashable, set[Owner]] = {}
        self.ranges = 0
        self.waiting = 0


class Owner:
    """A process of a client with locks on one file, or waiting for one. `fd` is its own, -1 once it is closed.

    `ranges` says what it holds; `fids`, through which fids it asked; `waiting`, what of it waits.
    """

    def __init__(self, key: Key, fd: int) -> None:
        self.key = key
        self.fd = fd
        self.ranges: list[Range] = []
        self.fids: set[Hashable] = set()
        self.waiting: set[Any] = set()
        self.gone = False  # its fid or session has gone: nothing is locked for it any more


class Owners:
    """All owners of all sessions."""

    def __init__(self) -> None:
        self._owners: dict[Key, Owner] = {}
        self._by_node: dict[Hashable, set[Owner]] = {}
        self._clients: dict[Hashable, Client] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def get(self, key: Key) -> Owner | None:
        """The owner of this name, if it has locks or waits."""
        return self._owners.get(key)

    def client(self, session: Hashable) -> Client | None:
        """What the session has, if anything."""
        return self._clients.get(session)

    def sessions(self) -> list[Hashable]:
        """Those that have owners."""
        return list(self._clients)

    def enter(self, owner: Owner) -> Client:
        """Takes an owner in, whose key nobody has."""
        session, node, _, _ = owner.key
        self._owners[owner.key] = owner
        self._by_node.setdefault(node, set()).add(owner)
        client = self._clients.setdefault(session, Client())
        client.owners.add(owner)
        return client

    def leave(self, owner: Owner) -> None:
        """Takes an owner out; nothing happens the second time."""
        if self._owners.get(owner.key) is not owner:
            return
        session, node, _, _ = owner.key
        del self._owners[owner.key]
        client = self._clients[session]
        client.owners.discard(owner)
        client.ranges -= len(owner.ranges)
        for fid in owner.fids:
            _discard(client.by_fid, fid, owner)
        _discard(self._by_node, node, owner)
        if not client.owners:
            del self._clients[session]

    def use(self, owner: Owner, fid: Hashable) -> None:
        """The owner asked through this fid."""
        owner.fids.add(fid)
        self._clients[owner.key[0]].by_fid.setdefault(fid, set()).add(owner)

    def forget_fid(self, session: Hashable, fid: Hashable) -> Iterable[Owner]:
        """Ends the fid's use; gives the owners that used it."""
        client = self._clients.get(session)
        owners = client.by_fid.pop(fid, set()) if client is not None else set()
        for owner in owners:
            owner.fids.discard(fid)
        return owners

    def note(self, owner: Owner, start: int, end: int, kind: int | None) -> None:
        """The owner locked these bytes, or unlocked them (None)."""
        before = len(owner.ranges)
        put(owner.ranges, start, end, kind)
        self._clients[owner.key[0]].ranges += len(owner.ranges) - before

    def holder(self, node: Hashable, asking: Owner | None, held: Range) -> Owner | None:
        """Who but `asking` has this lock on a file; with several it is one of them."""
        likely = None
        for owner in self._by_node.get(node, ()):
            if owner is not asking:
                found = find(owner.ranges, held[0], held[1])
                if found == held:
                    return owner
                likely = owner if found else likely
        return likely


def _discard(table: dict[Hashable, set[Owner]], key: Hashable, owner: Owner) -> None:
    owners = table.get(key)
    if owners is not None:
        owners.discard(owner)
        if not owners:
            del table[key]
