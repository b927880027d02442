"""`Table`: the allocator behind a Mapper whose numbers last and are shared.

How several processes agree. Records never change, so whoever has one may use it for ever without asking. Only adding
one takes the lock: read what others have added, give it to the mapper, and only if that does not answer the question
already, choose the next index, write it down, wait until it is safe on the disk, and let go. A number is shown to a
client after that, never before; so a process that dies at any moment has shown nothing that is not in the table.

The wait for the disk is left out for records of single files, of which there may be millions. For those of the full
map counters are set aside in blocks, and it is the block that is waited for: a power cut can lose such a file's number,
but not give it to another file. A holder (fusemap.qid.owners) that a power cut loses is forgotten: its inode's number
goes to whichever file is there when it is next seen.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Final, NamedTuple

from fusemap.errors import DamagedTable, Refused
from fusemap.host.identity import boot_id
from fusemap.qid import Allocator, Build, FullEntry, Holder, Learn, Mapper, Record
from fusemap.table.home import Home
from fusemap.table.ledger import Change, Device, Floor, Ledger, is_dead, session_of
from fusemap.table.shelf import NoRoom
from fusemap.table.store import LOG_PIECE, Store

log = logging.getLogger(__name__)

_BLOCK: Final = 4096  # full-map counters set aside at once
_FULL_IN_ATTRIBUTES: Final = 64
_MOST_TEXT: Final = 64  # characters of a label
_SEEN_AT_ONCE: Final = 8000  # bytes of devices whose day is written in one go; fewer where room is scarce
_DAY: Final = 86400
_LAST_DAY: Final = 0xFFFF  # in 2149; a day has 16 bits in a table


class DeviceInfo(NamedTuple):
    """A device of a table, for a listing. `seen` is the day it was last seen, in days since 1970, 0 for unknown.

    `dead` devices were known for a session that is over; they cannot come back.
    """

    key: str
    lasting: bool
    dead: bool
    label: str
    seen: int
    entries: int


class Table(Allocator):
    """The records of one export root. One Table serves one Mapper, one thread at a time; `open_table` makes it.

    `mode` and `k` are those of the Mapper (None: those of the table, whichever they are), `home` is where the table
    lives, `boot` the boot id of now.
    """

    def __init__(self, home: Home, mode: str | None, k: int, boot: str | None = None) -> None:
        super().__init__()
        self._any_kind = mode is None
        self.mode = mode if mode is not None else "suffix"
        self.k = k if mode != "prefix" else 0
        self._home = home
        self._boot = boot_id() if boot is None else boot
        self._thread = threading.Lock()
        self._store: Store | None = None
        self._told = False  # whether the mapper has had everything that was read so far
        self._block = (1, 1)
        self._pending: dict[str, Device] = {}
        self._here: dict[str, str] = {}  # what `seen` was told of, and what to call it
        self._complained = False

    def __repr__(self) -> str:
        return f"<Table {self.state} {self.where}>"

    # What a front end needs -------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Read the table. Raises DamagedTable, OSError, and Refused where it is of another mode or `k`."""
        with _uncollected(), self._locked():
            pass

    def mapper(self, by_generation: bool = False) -> Mapper:
        """A Mapper that knows this table and adds to it. Raises DamagedTable where it contradicts itself."""
        try:
            with _uncollected():
                return Mapper(self.mode, self.k, self.records(), self, by_generation)
        except ValueError as error:
            raise DamagedTable(
                f"the table in {self.where} contradicts itself ({error}); nothing was changed. See what fusemap table "
                f"repair can save, or keep another table with --state"
            ) from error

    def records(self) -> list[Record]:
        """What a Mapper starts from, as of `open` or the latest `allocate`; what comes later goes to its `learn`."""
        self._told = True
        ledger = self._ledger()
        return [] if ledger is None else ledger.records(self._boot)

    def allocate(self, device: Hashable, build: Build, learn: Learn) -> None:
        """Make one record last and pass it to `learn`; see Allocator.allocate, whose order this keeps to.

        `device` (str) is an identity key. Raises MappingExhausted; OSError where the table cannot be written or locked
        or is damaged.
        """
        key = str(device)
        try:
            try:
                record = self._allocate(key, build, learn)
            except BlockingIOError:  # another process has begun the table at the same moment
                record = self._allocate(key, build, learn)
            except Refused as error:  # while this process was using it, the table was made another, or taken away
                raise DamagedTable(str(error)) from error
        except DamagedTable as error:
            if not self._complained:
                self._complained = True
                log.error("%s", error)
            raise
        if record is not None:
            learn(record)

    def note(self, record: Record) -> None:
        """Nothing: the table is the source of all records."""

    def seen(self, device: str, label: str = "") -> None:
        """Note that a device is here today, and what to call it in a listing (cut to 64 characters).

        Written along with the next record, or by `close`, once a day at most.
        """
        device_label, today = label[:_MOST_TEXT], _today()
        with self._thread:
            self._here[device] = label
            ledger = self._ledger()
            known = ledger.devices.get(device) if ledger is not None else None
            if known is None or known.seen < today:
                self._pending[device] = Device(device, device_label or (known.label if known else ""), today)

    def still_here(self) -> None:
        """Note once more, and write down, that all that `seen` was told of is here today.

        For who exports the tree for months: gc would take the devices for gone. Raises nothing.
        """
        for device, label in list(self._here.items()):
            self.seen(device, label)
        self._write_days()

    def close(self) -> None:
        """Write down what `seen` has noted, as far as that is possible, and let go of everything."""
        try:
            self._write_days()
        finally:
            if self._store is not None:
                self._store.close()
            self._home.close()

    def _write_days(self) -> None:
        try:
            with self._locked():
                self._write_seen()
        except (OSError, Refused) as error:  # DamagedTable is an OSError
            log.debug("the day was not written to %s: %s", self.where, error)

    # What a listing and an administrator need -------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Which store holds the table: xattr, sqlite or none; where there is none yet, which one will."""
        return self._store.shelf.kind if self._store is not None else self._home.choice()[0]

    @property
    def where(self) -> str:
        """The place of the table as an administrator would call it."""
        return self._store.shelf.where if self._store is not None else self._home.choice()[1]

    @property
    def exists(self) -> bool:
        """Whether anything was stored yet."""
        return self._ledger() is not None

    def devices(self) -> list[DeviceInfo]:
        """Every device of the table, in the order in which they were first met."""
        ledger = self._ledger()
        if ledger is None:
            return []
        counts = ledger.entry_count()
        return [
            DeviceInfo(
                device.key, session_of(device.key) is None, is_dead(device.key, self._boot),
                device.label, device.seen, counts[device.key],
            )
            for device in ledger.devices.values()
        ]  # fmt: skip

    def ledger(self) -> Ledger:
        """A copy of everything the table says; empty where there is none yet."""
        ledger = self._ledger()
        return self._new_ledger() if ledger is None else ledger.copy()

    @contextlib.contextmanager
    def view(self) -> Iterator[Ledger]:
        """As `ledger`, but no copy: to be looked at and left as it is. Meanwhile nothing is added by this process."""
        with self._thread:
            yield self._ledger() or self._new_ledger()

    def retire(self, keys: Iterable[str]) -> int:
        """Drop devices and retire their indices for good; returns how many that were.

        Only for devices that no process is showing: one that comes back gets other numbers. Errors as for `allocate`.
        """
        with self._locked():
            ledger = self.ledger()
            count = ledger.forget(keys)
            self._replace(ledger)
        return count

    def begin(self, ledger: Ledger) -> None:
        """Make `ledger` the state of a table that is not there yet, and leave one that is as it is. Errors as above."""
        try:
            with self._locked():
                if self._ledger() is None:
                    self._replace(ledger)
        except BlockingIOError:  # another process has begun the table at the same moment
            self.open()

    def replace(self, ledger: Ledger) -> None:
        """Make `ledger` the state of the table; it must hold all that is in the table now. Errors as for `allocate`.

        Raises ValueError where it does not.
        """
        with self._locked():
            now = self._ledger()
            if now is not None:
                missing = [entry for index, entry in now.entries.items() if ledger.entries.get(index) != entry]
                missing_files = [full for counter, full in now.full.items() if ledger.full.get(counter) != full]
                if missing or missing_files or not ledger.holds(now) or not now.retired <= ledger.retired:
                    raise ValueError("records of the table would be lost")
                ledger.apply(now.floor)
            self._replace(ledger)

    # Inside -----------------------------------------------------------------------------------------------------------

    def _ledger(self) -> Ledger | None:
        return self._store.ledger if self._store is not None else None

    def _new_ledger(self) -> Ledger:
        return Ledger(self.mode, self.k, os.urandom(16))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Callable[[], list[Record]]]:
        """The lock, and a way to what others have added since it was last held: the mapper must be told of it."""
        with self._thread, contextlib.ExitStack() as stack:
            stack.enter_context(self._home.lock())
            # Whatever is read from here on, the mapper does not know yet, also where an error comes in between.
            told, self._told = self._told, False
            before = self._store
            store = self._home.find(before)
            new: list[Record] = []
            if store is not None:
                stack.enter_context(store.lock())
                new = store.refresh()
                if store.moved_to:
                    store = self._home.follow(store)
                    stack.enter_context(store.lock())
                    store.refresh()
            self._store = store
            ledger = self._ledger()
            if ledger is None:
                yield list
                return
            self._check_kind(ledger)
            if store is not before or not told:
                yield lambda: ledger.records(self._boot)
            else:
                yield lambda: [record for record in new if not is_dead(str(record.device), self._boot)]

    def _check_kind(self, ledger: Ledger) -> None:
        if self._any_kind:
            self.mode, self.k = ledger.mode, ledger.k
        if (ledger.mode, ledger.k) != (self.mode, self.k):
            raise Refused(
                f"the table in {self.where} is for --map {ledger.mode} -k {ledger.k}, not --map {self.mode} -k "
                f"{self.k}: mount it so, or keep a table beside it with --state sqlite:FILE, or none with --state none"
            )

    def _allocate(self, key: str, build: Build, learn: Learn) -> Record | None:
        with self._locked() as news:
            self._pass_on(news(), learn)
            self._told = True
            ledger = self._ledger() or self._new_ledger()
            record = build(ledger.index_for(key, self._boot), self._next_counter(ledger))
            if record is not None:
                try:
                    self._add(ledger, key, record)
                except NoRoom:
                    raise
                except BaseException:  # it may have been added, and others may have seen it
                    self._told = False
                    raise
            return record

    def _next_counter(self, ledger: Ledger) -> int:
        """The next counter of this process's own block, if it has one, else the first that nobody has."""
        start, end = self._block
        while start < end and start in ledger.full:  # written after all, though an error was reported
            start += 1
        return start if start < end else ledger.next_counter()

    def _pass_on(self, records: list[Record], learn: Learn) -> None:
        try:
            for record in records:
                learn(record)
        except ValueError as error:
            raise DamagedTable(
                f"the table in {self.where} contradicts what it said before ({error}); nothing was changed. Mount "
                f"anew, or see fusemap table repair"
            ) from error

    def _add(self, ledger: Ledger, key: str, record: Record) -> None:
        changes: list[Change] = []
        if key not in ledger.devices:
            met = self._pending.pop(key, None)
            changes.append(met if met is not None else Device(key, "", _today()))
        durable, block = not isinstance(record, Holder), self._block
        if isinstance(record, FullEntry):
            in_database = self._store is not None and self._store.shelf.kind == "sqlite"
            start, end = block
            if in_database and start <= record.counter < end:
                durable = False
            elif in_database:
                end = record.counter + _BLOCK
                changes.append(Floor(1, end))
            block = (record.counter + 1, end)
        changes.append(record)
        self._append(ledger, changes, durable)
        self._block = block

    def _append(self, ledger: Ledger, changes: list[Change], durable: bool) -> None:
        store = self._store
        if store is None or store.ledger is None:
            ledger.apply_all(changes)
            self._begin(ledger)
            return
        try:
            if store.shelf.kind == "xattr" and len(ledger.full) + ledger.holder_count >= _FULL_IN_ATTRIBUTES:
                raise NoRoom(7, "attributes are no place for single files")  # E2BIG
            store.append(changes, durable)
        except NoRoom as why:
            state = ledger.copy()
            state.apply_all(changes)
            self._store = self._home.move(store, state, why)
            store.close()

    def _begin(self, ledger: Ledger) -> None:
        if self._store is None:
            self._store = self._home.begin(ledger)
        else:
            self._store.create(ledger)

    def _replace(self, ledger: Ledger) -> None:
        if self._store is None or self._store.ledger is None:
            self._begin(ledger)
            return
        try:
            self._store.rewrite(ledger)
        except NoRoom as why:
            store = self._store
            self._store = self._home.move(store, ledger, why)
            store.close()

    def _write_seen(self) -> None:
        store, ledger = self._store, self._ledger()
        if store is None or ledger is None:
            return
        days = [device for key, device in self._pending.items() if key in ledger.devices]
        most = LOG_PIECE // 2 if store.shelf.kind == "xattr" else _SEEN_AT_ONCE
        some: list[Device] = []
        size = 0
        for device in days:
            length = len(os.fsencode(device.key + device.label))
            if some and size + length > most:
                store.append(some, durable=False)
                some, size = [], 0
            some.append(device)
            size += length
        if some:
            store.append(some, durable=False)
        for device in days:
            del self._pending[device.key]


def _today() -> int:
    """The day in days since 1970, as far as a table can say it: a clock may be anywhere."""
    return min(max(int(time.time() // _DAY), 0), _LAST_DAY)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """A context without garbage collection: a large table is hundreds of thousands of objects, which all stay.

    Looking through them for garbage, again and again while they become more, takes as long as making them.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
