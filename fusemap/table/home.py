"""Where the table of an export root lives, and how it moves.

With `auto` and `xattr`, a table begins in the attributes of the root, where that can hold one, and else in a database
whose place follows from the root's identity. It moves from the first to the second, never back, and any process on the
machine that runs as the same user finds out by looking, under the lock of the root, whether the database is there. For
others, and for when the disk travels, the attributes say where the table went, if they can be written at all.

The order of a move: the database holds the whole table before the attributes say so. A process that dies in between
leaves both, and the database, being there, is the table.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from contextlib import AbstractContextManager
from typing import Final

from xxhash import xxh64_hexdigest

from fusemap.errors import DamagedTable, Refused
from fusemap.host.calls import Calls
from fusemap.host.generation import generation
from fusemap.host.identity import identify
from fusemap.host.mountinfo import mount_table
from fusemap.qid import Entry, FullEntry, Mapper, Record
from fusemap.table.ledger import Change, Ledger, Retired
from fusemap.table.shelf import MemoryShelf, NoRoom, flock, reopen
from fusemap.table.sqlite import SqliteShelf, is_there
from fusemap.table.store import Store
from fusemap.table.xattr import NO_ATTRIBUTES, NO_LOCK, XattrShelf

log = logging.getLogger(__name__)

_SYSTEM_PLACE: Final = "/var/lib/fusemap"
_PLAIN: Final = re.compile(r"[^A-Za-z0-9.-]+")


class Home:
    """Where a table may be. This one is the memory of this process: the store `none`."""

    def lock(self) -> AbstractContextManager[None]:
        """A context in which no other process makes or moves the table. Raises OSError."""
        return contextlib.nullcontext()

    def choice(self) -> tuple[str, str]:
        """Kind and place of the store that a new table goes to."""
        return MemoryShelf.kind, MemoryShelf.where

    def find(self, known: Store | None) -> Store | None:
        """The store that has the table now, None where there is none yet; `known` is where it was last time.

        Raises OSError, DamagedTable, Refused.
        """
        return known

    def begin(self, ledger: Ledger) -> Store:
        """Make a new table with this state. Raises OSError."""
        store = Store(MemoryShelf())
        store.create(ledger)
        return store

    def move(self, store: Store, ledger: Ledger, why: OSError) -> Store:
        """Take a table to where there is room, with this state, because `store` has none. Raises OSError."""
        raise why

    def follow(self, store: Store) -> Store:
        """The store to which the table in `store` has moved. Raises OSError, DamagedTable, Refused."""
        return store

    def close(self) -> None:
        """Let go of descriptors; not of the store."""


class DatabaseHome(Home):
    """One database file that the administrator has named: `sqlite:FILE`. `root` (or None) is the readable export root.

    A new database starts from the table that the root has in its attributes, or of which they say where it is: naming a
    file must not renumber.
    """

    def __init__(self, file: str, root: int | None, where: str) -> None:
        self._file = os.path.abspath(file)
        self._root = root
        self._where = where

    def choice(self) -> tuple[str, str]:
        return SqliteShelf.kind, self._file

    def find(self, known: Store | None) -> Store | None:
        return known if known is not None or not is_there(self._file) else _open(self._file)

    def begin(self, ledger: Ledger) -> Store:
        return _fill(self._file, ledger)

    def seed(self) -> Ledger | None:
        """What there is to start from; None where that is nothing, or is damaged: then this file is the way out."""
        if self._root is None:
            return None
        store = Store(XattrShelf(self._root, self._where))
        try:
            with store.lock(shared=True):
                store.load()
            return self._moved(store.moved_to) if store.moved_to else store.ledger
        except (DamagedTable, Refused) as error:
            log.warning("%s does not start from the table that was there: %s", self._file, error)
            return None

    def _moved(self, file: str) -> Ledger | None:
        try:
            if not is_there(file):
                raise Refused(f"the table of {self._where} moved to {file}, which is not there")
            store = _open(file)
        except OSError as error:
            raise Refused(f"the table of {self._where} moved to {file} ({error.strerror})") from error
        store.close()
        return store.ledger

    def close(self) -> None:
        if self._root is not None:
            os.close(self._root)


class RootHome(Home):
    """The export root itself, and the database that belongs to it: `auto` and `xattr`.

    `root` is a readable descriptor of the root, None where this user cannot have one; it is closed by `close`. `file`
    is the database's place.
    """

    def __init__(self, root: int | None, where: str, file: str) -> None:
        self._root = root
        self._where = where
        self._file = file
        self._xattr = XattrShelf(root, where) if root is not None else None
        self._why = "this user may not read it" if self._xattr is None else self._xattr.why_not()

    @property
    def file(self) -> str:
        """The database's place."""
        return self._file

    @property
    def why_not(self) -> str:
        """Why the root cannot hold a table, as the end of a sentence; "" where it seems to be able to."""
        return self._why

    def lock(self) -> AbstractContextManager[None]:
        # Where the root cannot be locked, it has no table either, and the database has a lock of its own.
        if self._root is None or self._why.startswith(NO_LOCK):
            return contextlib.nullcontext()
        return flock(self._root, self._where)

    def choice(self) -> tuple[str, str]:
        if self._why or self._xattr is None:
            return SqliteShelf.kind, self._file
        return self._xattr.kind, self._xattr.where

    def find(self, known: Store | None) -> Store | None:
        if known is not None and known.shelf.kind == SqliteShelf.kind:
            return known
        if is_there(self._file):
            store = self._follow(self._file)
            self._merge(store)
            return store
        if known is not None or self._xattr is None or self._why.startswith(NO_ATTRIBUTES):
            return known
        store = Store(self._xattr)
        store.load()
        if store.moved_to:
            return self.follow(store)
        if store.ledger is not None and self._why.startswith(NO_LOCK):
            return _fill(self._file, store.ledger)  # nobody may add to it where it is
        return store if store.ledger is not None else None

    def follow(self, store: Store) -> Store:
        log.info("the table of %s is in %s", self._where, store.moved_to)
        return self._follow(store.moved_to)

    def begin(self, ledger: Ledger) -> Store:
        if not self._why and self._xattr is not None:
            store = Store(self._xattr)
            try:
                store.load()
                store.create(ledger)
                return store
            except NoRoom as why:
                log.warning(
                    "%s cannot hold the table (%s); it is in %s", self._where, why.strerror, self._file
                )  # fmt: skip
        return _fill(self._file, ledger)

    def move(self, store: Store, ledger: Ledger, why: OSError) -> Store:
        if store.shelf.kind == SqliteShelf.kind:
            raise why
        target = _fill(self._file, ledger)
        log.warning(
            "the table of %s does not fit its attributes any more (%s); it is in %s from now on, with all its records",
            self._where, why.strerror, self._file,
        )  # fmt: skip
        self._say_moved(store)
        return target

    def close(self) -> None:
        if self._root is not None:
            os.close(self._root)

    def _follow(self, file: str) -> Store:
        """The store of the database to which the table moved."""
        if not is_there(file):
            raise Refused(
                f"the table of {self._where} moved to {file}, which is not there: bring that file and {file}-lock "
                f"back, or see what fusemap table repair can save from the attributes"
            )
        return _open(file)

    def _merge(self, store: Store) -> None:
        """Take over what the attributes know and the database does not: others may have added it there meanwhile."""
        if self._xattr is None or self._why.startswith(NO_ATTRIBUTES):
            return
        other = Store(self._xattr)
        other.load()
        if other.ledger is None or other.moved_to:
            return
        with store.lock():
            if store.ledger is None:
                store.create(other.ledger.copy())
            else:
                merged, lost = merge(store.ledger, other.ledger)
                if lost:
                    log.warning(
                        "%d records in the attributes of %s contradict the table in %s and do not count: two users, or "
                        "two machines, had each their own table", lost, self._where, self._file,
                    )  # fmt: skip
                if merged is not None:
                    store.rewrite(merged)
        self._say_moved(other)

    def _say_moved(self, store: Store) -> None:
        try:
            store.leave(self._file)
        except OSError as error:
            log.debug("%s does not say where its table went: %s", self._where, error)


def merge(ledger: Ledger, other: Ledger) -> tuple[Ledger | None, int]:
    """`ledger` with what `other` has more, None where that is nothing; and how many records contradict it.

    Those are left out. Nothing that `ledger` says changes.
    """
    if (ledger.mode, ledger.k) != (other.mode, other.k):
        return None, len(other.every())
    mapper = Mapper(ledger.mode, ledger.k, ledger.every())
    changes: list[Change] = []
    lost = 0
    for record in other.every():
        if _has(ledger, record):
            continue
        try:
            if isinstance(record, Entry) and record.index in ledger.retired:
                raise ValueError("retired")
            mapper.learn(record)
        except ValueError:
            lost += 1
        else:
            device = other.devices[str(record.device)]
            if device.key not in ledger.devices:
                changes.append(device)
            changes.append(record)
    taken = {change.index for change in changes if isinstance(change, Entry)} | set(ledger.entries)
    changes += [Retired(index) for index in sorted(other.retired - ledger.retired - taken)]
    if not changes:
        return None, lost
    merged = ledger.copy()
    merged.apply_all([*changes, other.floor])
    return merged, lost


def _has(ledger: Ledger, record: Record) -> bool:
    if isinstance(record, Entry):
        return ledger.entries.get(record.index) == record
    if isinstance(record, FullEntry):
        return ledger.full.get(record.counter) == record
    return ledger.holders.get(str(record.device), {}).get(record.inode) == record.generation


def default_file(root: int | None, path: str, directory: str | None = None) -> str:
    """The place of the database that belongs to an export root.

    `root` is a readable descriptor of it or None, `path` its path. `directory` is where databases are kept; without it,
    $STATE_DIRECTORY (systemd.exec(5)), for root /var/lib/fusemap, for others $XDG_STATE_HOME/fusemap. The name follows
    from the root's identity and inode, or from the path where there is no lasting identity.
    """
    if directory is None:
        directory = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if not directory and os.geteuid() == 0:
        directory = _SYSTEM_PLACE
    if not directory:
        base = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(base):
            base = os.path.expanduser("~/.local/state")
        directory = os.path.join(base, "fusemap")
    return os.path.join(directory, _file_name(root, path))


def _file_name(root: int | None, path: str) -> str:
    if root is not None:
        calls = Calls()
        st = calls.statx(root, b"")
        mount = calls.mount_id(root)
        kind = next((info.kind for info in mount_table() if info.id == mount), "")
        identity = identify(root, st, kind)
        if identity.lasting:
            # With the generation, since a directory that is made anew may get the inode number of its predecessor.
            with contextlib.suppress(OSError):
                return f"{_PLAIN.sub('-', identity.key)}-{st.ino}-{generation(calls.handle(root, b'')):08x}.sqlite"
            return f"{_PLAIN.sub('-', identity.key)}-{st.ino}.sqlite"
    # Two paths may look alike without their slashes; the hash tells them apart.
    raw = os.fsencode(os.path.realpath(path))
    return f"path-{_PLAIN.sub('-', os.fsdecode(raw)).strip('-')[-100:]}-{xxh64_hexdigest(raw)}.sqlite"


def _database(file: str) -> SqliteShelf:
    try:
        os.makedirs(os.path.dirname(file), mode=0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
        return SqliteShelf(file)
    except DamagedTable:
        raise
    except OSError as error:
        raise OSError(error.errno, f"cannot keep the table in {file} ({error.strerror}); name another place with "
                                   f"--state sqlite:FILE") from error  # fmt: skip


def _open(file: str) -> Store:
    """The store of a database that is there. Raises OSError, DamagedTable, Refused."""
    store = Store(_database(file))
    try:
        with store.lock(shared=True):
            store.load()
    except BaseException:
        store.close()
        raise
    return store


def _fill(file: str, ledger: Ledger) -> Store:
    """The store of a database that holds this state; another process may have begun it. Raises OSError."""
    store = Store(_database(file))
    try:
        with store.lock():
            store.load()
            if store.ledger is None:
                store.create(ledger)
            else:
                raise OSError(errno.EAGAIN, f"another process has just made {file}; try again")
    except BaseException:
        store.close()
        raise
    return store


__all__ = ["DatabaseHome", "Home", "RootHome", "default_file", "merge", "reopen"]
