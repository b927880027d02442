"""A table on a shelf: two slots for snapshots, written in turn, and a log beside the current one.

Pieces by name: `a.0`, `a.1`, ... are the snapshot in slot a, cut to what the shelf takes; likewise b. The current slot
is the one with the higher generation. `log.a.0`, `log.a.1`, ... hold what was added since the snapshot in slot a.

An entry is added by replacing the last log piece with a longer one, or by a new piece when that one is full: one write
of a bounded size, whatever the table's. When the log has grown as long as the snapshot, a new snapshot is written into
the other slot, so every byte is copied about once more: O(1) writes for each entry, amortised.

Why a kill or a power cut leaves the table as it was before a write or after it:

  - a log piece is replaced by one `put`;
  - a snapshot counts from the moment its first piece is there, which is written last; where there are others, the first
    piece of the snapshot that is overwritten goes first. Until then the other slot and its log are untouched;
  - log pieces name their generation, so what is left of an earlier log is not taken for this one's.

Hence no crash makes a damaged piece, and a damaged piece is damage: then nothing is read, written or removed, whichever
slot it is in, because a snapshot cannot tell by itself whether it is the latest. (The older slot is still of use: for a
repair.)
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Final

from fusemap.errors import DamagedTable
from fusemap.qid import Entry, FullEntry, Holder, Record
from fusemap.table import codec
from fusemap.table.ledger import Change, Device, Ledger
from fusemap.table.shelf import NoRoom, Shelf
from fusemap.table.slots import Slots, damaged, other

log = logging.getLogger(__name__)

LOG_PIECE: Final = 1024
"""How long the changes in one log piece may grow, in bytes, before the next one is begun."""

_MOST_AT_ONCE: Final = 16000  # bytes; no more would fit an attribute everywhere
_LEAST_LOG: Final = 512  # bytes; a shorter log is not worth a snapshot
_MOST_PIECES: Final = 1 << 16  # of a log: they are numbered in 16 bits
_NAME: Final = re.compile(r"(?:log\.)?[ab]\.(?:0|[1-9][0-9]{0,5})")


class Store:
    """One table on a shelf, and its ledger as it was when last looked at. Needs the shelf's lock, for every method.

    ledger    the table's state, None where there is no table (yet)
    moved_to  the file where the table is continued, "" if it is here
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.ledger: Ledger | None = None
        self.moved_to = ""
        self._slot = ""
        self._slots = Slots(shelf)
        self._generation = 0
        self._numbers: dict[str, int] = {}
        self._pieces: list[int] = []  # how many bytes of changes each log piece has
        self._tail = b""
        self._sure = False  # whether all of this is what was read last, and not the remains of a read that failed
        self._before: Ledger | None = None
        self._next_snapshot = 0  # log bytes at which to write one

    def lock(self, shared: bool = False) -> AbstractContextManager[None]:
        """The shelf's lock; see Shelf.lock."""
        return self.shelf.lock(shared)

    def load(self) -> None:
        """Read the whole table. Raises DamagedTable and OSError, and Refused for a later format."""
        self._sure = False
        self._load()
        self._sure = True

    def _load(self) -> None:
        names = self.shelf.names()
        strange = sorted(name for name in names if not _NAME.fullmatch(name))
        if strange:
            raise damaged(self.shelf, strange[0], "has a name that no piece of a table has")
        slots = {slot: self._slots.read(slot) for slot in "ab" if f"{slot}.0" in names}
        found = {slot: snapshot for slot, snapshot in slots.items() if snapshot is not None}
        if len({snapshot.head.generation for snapshot in found.values()}) < len(found):
            raise damaged(self.shelf, "b.0", "has the same generation as a.0")
        current = max(found, key=lambda slot: found[slot].head.generation, default="")
        self._check_logs(names, current, found[current].head.generation if current else 0)
        if not current:
            self._reset()
        else:
            self._take(current, found[current])
            if self.ledger is not None:
                self._read_log(0)
            for name in self._log_pieces(names, current, len(self._pieces)):
                if self._log_piece(name)[0] == self._generation:
                    raise damaged(self.shelf, name, "continues a log of which a piece before it is missing")
        self._check_witness()

    def refresh(self) -> list[Record]:
        """Read what other processes added since `load` or `refresh`, and return it. Errors as for `load`.

        Raises DamagedTable as well where something is gone that was there.
        """
        if not self.shelf.changed() and self._sure:
            return []
        # Whatever fails from here on, the next look is at everything.
        sure, self._sure = self._sure, False
        if not sure or self._generation_changed():
            before = self._before if self._before is not None else self.ledger
            # It stays what was there, should this fail in the middle and be tried again.
            self._before = before
            self._load()
            new = self._since(before)
            self._before, self._sure = None, True
            return new
        changes = [] if self.ledger is None or self.moved_to else self._read_log(max(len(self._pieces) - 1, 0))
        self._sure = True
        return [change for change in changes if isinstance(change, (Entry, FullEntry, Holder))]

    def create(self, ledger: Ledger) -> None:
        """Begin a table with this state, where there is none. Raises NoRoom and OSError."""
        self._write(codec.encode_snapshot(ledger, self._generation + 1), ledger, "")

    def append(self, changes: Iterable[Change], durable: bool = True) -> None:
        """Add changes, which must fit. Raises NoRoom and ValueError, and has added nothing then, and other OSErrors.

        After those nobody can tell whether they were added until the table is read again, which `refresh` then does.
        """
        ledger = self.ledger
        if ledger is None:
            raise RuntimeError("there is no table to append to")
        todo = list(changes)
        devices = [change.key for change in todo if isinstance(change, Device)]
        for change in todo:
            ledger.check(change, devices)
        numbers = dict(self._numbers) if devices else self._numbers
        data = codec.encode_changes(todo, numbers)
        if len(data) > _MOST_AT_ONCE:
            raise ValueError(f"{len(todo)} changes are too much at once for a log")
        try:
            self._put_log(data, durable)
        except NoRoom:
            raise
        except BaseException:
            self._sure = False
            raise
        self._numbers = numbers
        ledger.apply_all(todo)
        if sum(self._pieces) >= self._next_snapshot or len(self._pieces) >= _MOST_PIECES // 2:
            self._tidy()

    def _tidy(self) -> None:
        """Write a snapshot in place of the log, if that can be done: what was added is safe in the log as well."""
        try:
            self.rewrite()
        except NoRoom as why:
            # The log may go on for as long as it can; whoever cannot append moves the table.
            self._next_snapshot = 2 * sum(self._pieces)
            log.debug("no room for a snapshot in %s: %s", self.shelf.where, why)
        except OSError as error:
            self._sure = False
            log.warning("the table in %s could not be tidied up: %s", self.shelf.where, error)

    def rewrite(self, ledger: Ledger | None = None) -> None:
        """Write a new snapshot, of `ledger` if it is given. Raises NoRoom and OSError; the table is as before then."""
        state = ledger if ledger is not None else self.ledger
        if state is None:
            raise RuntimeError("there is no table to write")
        self._write(codec.encode_snapshot(state, self._generation + 1), state, "")

    def leave(self, place: str) -> None:
        """Write down that the table is continued at `place`, a file's name. Raises NoRoom and OSError."""
        if self.ledger is None:
            raise RuntimeError("there is no table to leave")
        data = codec.encode_moved(self.ledger, self._generation + 1, place)
        try:
            self._write(data, self.ledger, place)
        except NoRoom:
            # The table is safe at the new place, so its snapshot here, which is longer, may make room.
            self._write(data, self.ledger, place, other(self._slot))

    def rescue(self, ledger: Ledger, slot: str, generation: int) -> None:
        """Write a snapshot into `slot` whatever is there, then remove everything else. Raises NoRoom and OSError.

        For repairs. As long as a damaged piece is left elsewhere the table is refused, so `slot` should not be the only
        one that has one.
        """
        data = codec.encode_snapshot(ledger, generation)
        count = self._slots.write(slot, data, self.shelf.sizes[-1])
        kept = {f"{slot}.{number}" for number in range(count)}
        # What makes the table whole comes last: the slot beside it.
        for name in sorted(self.shelf.names() - kept, key=lambda name: (name[0] == other(slot), name)):
            self.shelf.remove(name)
        self.load()

    def close(self) -> None:
        """Let go of the shelf."""
        self.shelf.close()

    # Reading ----------------------------------------------------------------------------------------------------------

    def _check_logs(self, names: set[str], current: str, generation: int) -> None:
        """A log that belongs to no slot tells that its slot is lost."""
        for slot in "ab":
            name = f"log.{slot}.0"
            if name not in names:
                continue
            of = self._log_piece(name)[0]
            if of > generation or (of == generation and slot != current):
                raise damaged(self.shelf, name, f"continues snapshot {of}, which is not there")

    def _read_log(self, position: int) -> list[Change]:
        """Read the log from a piece on that was read before, or not at all; apply and return what is new."""
        ledger = self.ledger
        assert ledger is not None
        changes: list[Change] = []
        while True:
            name = f"log.{self._slot}.{position}"
            data = self.shelf.get(name)
            known = self._tail if position == len(self._pieces) - 1 else b""
            if data is None:
                if known:
                    raise damaged(self.shelf, name, "is gone")
                break
            try:
                generation, at, payload = codec.decode_log(data)
                if generation < self._generation and not known:
                    break  # left over from an earlier log of this slot
                if generation != self._generation or at != position or not payload.startswith(known):
                    raise codec.Damaged("does not continue what was there")
                new = codec.decode_changes(payload[len(known) :], ledger) if len(payload) > len(known) else []
            except codec.Damaged as error:
                raise damaged(self.shelf, name, str(error)) from error
            changes += new
            if position == len(self._pieces):
                self._pieces.append(0)
            self._pieces[position] = len(payload)
            self._tail = payload
            position += 1
        if len(self._numbers) < len(ledger.devices):
            self._numbers = {key: number for number, key in enumerate(ledger.devices)}
        return changes

    def _log_pieces(self, names: Iterable[str], slot: str, start: int) -> list[str]:
        """The pieces of a slot's log from `start` on."""
        return [name for name in names if name.startswith(f"log.{slot}.") and int(name.rpartition(".")[2]) >= start]

    def _log_piece(self, name: str) -> tuple[int, int, bytes]:
        data = self.shelf.get(name)
        if data is None:
            raise damaged(self.shelf, name, "is gone")
        try:
            return codec.decode_log(data)
        except codec.Damaged as error:
            raise damaged(self.shelf, name, str(error)) from error

    def _generation_changed(self) -> bool:
        """Whether a snapshot was written, or anything else happened, since the last look."""
        if not self._slot:
            return any(self.shelf.get(f"{slot}.0") is not None for slot in "ab")
        if self.shelf.get(f"{self._slot}.0") != self._slots.firsts[self._slot]:
            return True
        spare = other(self._slot)
        data = self.shelf.get(f"{spare}.0")
        if data is None or data == self._slots.firsts.get(spare):
            return False
        try:
            return codec.head_of(data).generation > self._generation
        except codec.Damaged as error:
            raise damaged(self.shelf, f"{spare}.0", str(error)) from error

    def _since(self, before: Ledger | None) -> list[Record]:
        """What the ledger has and `before` had not; raises DamagedTable where it is the other way round."""
        now = self.ledger
        if before is None:
            return [] if now is None else now.every()
        if now is None:
            if self.moved_to:
                return []
            raise damaged(self.shelf, "a.0", "is gone, and with it a table that is in use")
        if now.identity != before.identity:
            raise damaged(self.shelf, f"{self._slot}.0", "holds another table than the one in use")
        lost = now.lost_since(before)
        if lost:
            raise damaged(self.shelf, f"{self._slot}.0", f"has lost {lost}")
        return now.new_since(before)

    def _check_witness(self) -> None:
        witness = self.shelf.witness()
        if witness is not None and witness > (self._generation, sum(self._pieces)):
            raise DamagedTable(
                f"the table in {self.shelf.where} is damaged (it ends at {self._generation}:{sum(self._pieces)} and "
                f"had reached {witness[0]}:{witness[1]}); nothing was changed. Restore it from a backup, or see what "
                f"fusemap table repair can save"
            )

    # Writing ----------------------------------------------------------------------------------------------------------

    def _put_log(self, data: bytes, durable: bool) -> None:
        position = max(len(self._pieces) - 1, 0)
        payload = self._tail + data
        if self._pieces and len(payload) > LOG_PIECE:
            position, payload = position + 1, data
        if position * LOG_PIECE > self.shelf.limit // 2 or position >= _MOST_PIECES:
            raise NoRoom(errno.EFBIG, f"a log of {position} pieces is too long for it")
        name, piece = f"log.{self._slot}.{position}", codec.encode_log(self._generation, position, payload)
        try:
            self.shelf.put(name, piece, durable)
        except NoRoom:
            # The older snapshot is only a spare.
            if not self._slots.remove(other(self._slot)):
                raise
            self.shelf.put(name, piece, durable)
        if position == len(self._pieces):
            self._pieces.append(0)
        self._pieces[position] = len(payload)
        self._tail = payload
        if durable:
            self._testify()

    def _write(self, data: bytes, ledger: Ledger, moved_to: str, beside: str = "") -> None:
        """Write a snapshot into the slot beside the current one (or `beside`), which makes it the table."""
        if len(data) > self.shelf.limit:
            raise NoRoom(errno.EFBIG, f"a table of {len(data)} bytes is too large for it")
        slot = other(beside or self._slot)
        for size in self.shelf.sizes:
            try:
                count = self._slots.write(slot, data, size)
                self._slots.firsts[slot] = data[:size]
                break
            except NoRoom:
                if size == self.shelf.sizes[-1] or len(data) <= self.shelf.sizes[-1]:
                    raise
        # From here on the new snapshot is the table; what follows is sweeping up.
        old_slot, old_pieces = self._slot, len(self._pieces)
        self._slot = slot
        snapshot = codec.parse_snapshot(data) if moved_to else codec.Snapshot(codec.head_of(data), ledger, "")
        self._take(slot, snapshot)
        self._testify()
        for position in range(old_pieces):
            self.shelf.remove(f"log.{old_slot}.{position}")
        for name in self._slots.left_over(slot, count):
            self.shelf.remove(name)

    def _testify(self) -> None:
        try:
            self.shelf.testify(self._generation, sum(self._pieces))
        except OSError as error:  # it may fall behind the table, as in a crash, but never run ahead of it
            log.debug("how far the table in %s goes was not noted: %s", self.shelf.where, error)

    def _reset(self) -> None:
        self.ledger = None
        self.moved_to = ""
        self._slot = ""
        self._slots.firsts = {}
        self._generation = 0
        self._pieces, self._tail, self._numbers = [], b"", {}

    def _take(self, slot: str, snapshot: codec.Snapshot) -> None:
        """Make a snapshot that was read or written the state of this object, with an empty log."""
        self._slot = slot
        self._generation = snapshot.head.generation
        self._next_snapshot = min(max(_LEAST_LOG, snapshot.head.length), self.shelf.limit // 4)
        self.ledger = snapshot.ledger
        self.moved_to = snapshot.moved_to
        self._numbers = {key: number for number, key in enumerate(self.ledger.devices if self.ledger else ())}
        self._pieces, self._tail = [], b""
