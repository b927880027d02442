"""Pieces as rows of an SQLite database: for tables that attributes cannot hold.

SQLite sees to it that a row is written whole or not at all, also in a power cut, and in WAL mode readers and a writer
do not wait for each other. It does not see damage: a flipped bit in a row is read as if it had been written, a damaged
WAL is silently cut short at the last frame that is good, and a file cut down to nothing is a valid, empty database. The
first is found by the checksum in every piece. Against the others, what has been reached is noted in a second file,
`FILE-lock`: a database that falls behind its own witness is damaged. The witness is written after the commit that it
tells of, and never fsynced, so no crash can bring it in front of the database.

The same second file is the lock, by flock(2). SQLite's own locks would do for a single statement, but a table needs
read and append as one step, and a witness that nobody else is writing. Whoever has the lock looks whether both files
are still those at their place: the lock on a file that a repair, or a hand, has put aside keeps nobody else away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import struct
import urllib.parse
from collections.abc import Iterator
from typing import Final

from crc32c import crc32c

from fusemap.errors import DamagedTable, Refused
from fusemap.host.calls import write_in_place
from fusemap.host.identity import BTRFS, filesystem_magic
from fusemap.table.shelf import NoRoom, Shelf, flock

APPLICATION: Final = 0x666D6170
"""What SQLite's header says of the file's purpose (PRAGMA application_id): "fmap"."""

_WITNESS: Final = struct.Struct("<IQQ")
_BUSY_SECONDS: Final = 30.0
_PIECE: Final = 1 << 20

_SCHEMA: Final = "CREATE TABLE pieces (name TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID"

# Primary result codes (sqlite.org/rescode.html) that are an errno; the others mean damage.
_ERRNO: Final = {
    3: errno.EACCES,  # SQLITE_PERM
    5: errno.ETIMEDOUT,  # SQLITE_BUSY
    6: errno.ETIMEDOUT,  # SQLITE_LOCKED
    10: errno.EIO,  # SQLITE_IOERR
    13: errno.ENOSPC,  # SQLITE_FULL
    14: errno.EACCES,  # SQLITE_CANTOPEN
    23: errno.EACCES,  # SQLITE_AUTH
}


# SQLITE_IOERR_SHORT_READ and SQLITE_IOERR_CORRUPTFS: the file ends where a page should be. SQLITE_READONLY is damage
# too where it was opened for writing a moment before: the header then names a format that SQLite will not write.
_DAMAGE: Final = frozenset({10 | 2 << 8, 10 | 33 << 8})


class SqliteShelf(Shelf):
    """The rows of one database file, which is made, for its owner alone, if it is not there.

    Raises OSError where it cannot be opened for writing, Refused for a file that is something else, DamagedTable.
    """

    kind = "sqlite"
    sizes = (_PIECE,)
    limit = 1 << 40

    def __init__(self, file: str) -> None:
        self.where = self.file = os.path.abspath(file)
        self._version = -1
        if os.path.isdir(self.file):  # before a lock is left beside it
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.file)
        self._lock = _open_regular(self.file + "-lock")
        try:
            with flock(self._lock, self.where):
                database = _open_regular(self.file)
                self._files = {self.file: os.fstat(database), self.file + "-lock": os.fstat(self._lock)}
                os.close(database)
                self._prepare_memory(self._files[self.file].st_mode)
                self._database = self._connect()
        except BaseException:
            os.close(self._lock)
            raise

    def names(self) -> set[str]:
        with self._errors():
            return {str(row[0]) for row in self._database.execute("SELECT name FROM pieces")}

    def get(self, name: str) -> bytes | None:
        with self._errors():
            row = self._database.execute("SELECT data FROM pieces WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        if not isinstance(row[0], bytes):
            raise self._damaged(f"piece {name} is no blob")
        return row[0]

    def put(self, name: str, data: bytes, durable: bool = True) -> None:
        with self._errors():
            # NORMAL writes to the WAL without waiting for the disk; FULL waits, for all that was written before too.
            self._database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._database.execute("INSERT OR REPLACE INTO pieces VALUES (?, ?)", (name, data))

    def remove(self, name: str) -> None:
        with self._errors():
            self._database.execute("DELETE FROM pieces WHERE name = ?", (name,))

    @contextlib.contextmanager
    def lock(self, shared: bool = False) -> Iterator[None]:
        with flock(self._lock, self.where, shared):
            self._check_place()
            yield

    def _check_place(self) -> None:
        """Raise DamagedTable where other processes find other files at this place: they would have other numbers."""
        for file, known in self._files.items():
            try:
                there = os.path.samestat(os.stat(file), known)
            except FileNotFoundError:
                there = False
            if not there:
                raise DamagedTable(
                    f"{file} was removed or replaced while it was in use; nothing was changed. Mount anew for the "
                    f"table that is there now"
                )

    def changed(self) -> bool:
        with self._errors():  # "changes when another connection has committed", sqlite.org/pragma.html
            version = self._database.execute("PRAGMA data_version").fetchone()[0]
        before, self._version = self._version, version
        return bool(version != before)

    def witness(self) -> tuple[int, int] | None:
        data = os.pread(self._lock, _WITNESS.size + 1, 0)
        if not data:
            return None
        if len(data) == _WITNESS.size:
            crc, generation, length = _WITNESS.unpack(data)
            if crc == crc32c(data[4:]):
                return generation, length
        raise DamagedTable(
            f"{self.where}-lock, which says how far the table goes, is damaged; nothing was changed. Restore both "
            f"files from a backup, or see what fusemap table repair can save"
        )

    def testify(self, generation: int, length: int) -> None:
        rest = _WITNESS.pack(0, generation, length)[4:]
        os.pwrite(self._lock, struct.pack("<I", crc32c(rest)) + rest, 0)

    @staticmethod
    def read_damaged(file: str) -> dict[str, bytes]:
        """Every piece of a damaged database that SQLite still gives; none where it gives nothing. Raises OSError."""
        pieces: dict[str, bytes] = {}
        if not os.path.exists(file):
            return pieces
        database = sqlite3.connect(f"file:{urllib.parse.quote(file)}?mode=ro", uri=True)
        database.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            for ascending in ("ASC", "DESC"):  # a broken page in the middle is approached from both sides
                with contextlib.suppress(sqlite3.Error):
                    for name, data in database.execute(f"SELECT name, data FROM pieces ORDER BY name {ascending}"):
                        if isinstance(name, str) and isinstance(data, bytes):
                            pieces[name] = data
        finally:
            database.close()
        return pieces

    def close(self) -> None:
        self._database.close()
        os.close(self._lock)

    def _prepare_memory(self, mode: int) -> None:
        """Make the file that SQLite maps into memory, where btrfs would end this process for it.

        btrfs writes a page to another place, and where a full disk has none, whoever touched the page gets SIGBUS.
        """
        if filesystem_magic(self._lock) == BTRFS:
            with contextlib.suppress(OSError):  # SQLite makes it itself, or another process has
                fd = os.open(self.file + "-shm", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    os.fchmod(fd, stat.S_IMODE(mode))
                    write_in_place(fd)
                finally:
                    os.close(fd)

    def _connect(self) -> sqlite3.Connection:
        with self._errors():
            database = sqlite3.connect(
                self.file, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False
            )  # fmt: skip
            try:
                self._prepare(database)
            except BaseException:
                database.close()
                raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        def ask(pragma: str) -> object:
            return database.execute(f"PRAGMA {pragma}").fetchone()[0]

        tables = database.execute("SELECT name, sql FROM sqlite_master").fetchall()
        if not tables and self.witness() is None:
            # A database of ours is never empty, so this one is new.
            if ask("application_id") not in (0, APPLICATION):
                raise Refused(f"{self.where} is another program's database; name another file")
            ask("journal_mode = WAL")
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(_SCHEMA)
            return
        if ask("application_id") != APPLICATION:
            if self.witness() is None:
                raise Refused(f"{self.where} is another program's database; name another file")
            raise self._damaged("it is no database of fusemap any more")
        if [row for row in tables if not str(row[0]).startswith("sqlite_autoindex")] != [("pieces", _SCHEMA)]:
            raise self._damaged("its table of pieces is not there" if not tables else "its schema has changed")
        verdict = ask("quick_check(1)")
        if verdict != "ok":
            raise self._damaged(str(verdict))
        ask("journal_mode = WAL")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn SQLite's errors into OSError or DamagedTable."""
        try:
            yield
        except sqlite3.Error as error:
            # Before Python 3.11 there is no code; then only damage that SQLite names can be told from the rest.
            code = getattr(error, "sqlite_errorcode", None)
            number = _errno_of_text(error) if code is None else None if code in _DAMAGE else _ERRNO.get(code & 0xFF)
            if number == errno.ENOSPC:
                raise NoRoom(number, os.strerror(number), self.where) from error
            if number is not None:
                raise OSError(number, f"{os.strerror(number)} ({error})", self.where) from error
            raise self._damaged(str(error)) from error
        except UnicodeDecodeError as error:  # a name that is no text any more
            raise self._damaged("a name in it is not text") from error

    def _damaged(self, how: str) -> DamagedTable:
        return DamagedTable(
            f"the table in {self.where} is damaged ({how}); nothing was changed. Restore {self.where} and "
            f"{os.path.basename(self.where)}-lock from a backup, or see what fusemap table repair can save"
        )


def is_there(file: str) -> bool:
    """Whether `file` is, or was, a database of ours: the witness stays when the database is lost."""
    return os.path.exists(file) or os.path.exists(file + "-lock")


def _open_regular(file: str) -> int:
    """Open a file for reading and writing, made for its owner alone if it is not there. Raises OSError, Refused."""
    # SQLite gives its helper files the rights of the database itself, whatever the umask.
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Refused(f"{file} is not a regular file; name a file for the table")
    return fd


def _errno_of_text(error: sqlite3.Error) -> int | None:
    text = str(error)
    for words, number in (
        ("locked", errno.ETIMEDOUT),
        ("full", errno.ENOSPC),
        ("unable to open", errno.EACCES),
        ("disk I/O", errno.EIO),
    ):
        if words in text:
            return number
    return None
