"""fusemap table repair: what can be saved of a damaged table, and saving it."""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime
import json
import os
from collections.abc import Iterator

from fusemap.cli import files, streams
from fusemap.cli.tables import check_state, open_source, opened
from fusemap.errors import DamagedTable, Refused
from fusemap.table.codec import encode_moved
from fusemap.table.home import default_file
from fusemap.table.ledger import Ledger
from fusemap.table.salvage import Salvage, put_back, read_pieces, salvage
from fusemap.table.shelf import NoRoom, flock
from fusemap.table.sqlite import SqliteShelf, is_there
from fusemap.table.store import Store
from fusemap.table.xattr import XattrShelf


def repair(options: argparse.Namespace) -> int:
    """Says what can be saved, and saves it if asked to. Exit 1 while the table is damaged."""
    check_state(options)
    try:
        with opened(options) as table:
            if options.json:
                print(json.dumps({"damaged": [], "where": table.where}, indent=2))
            else:
                print(f"the table in {table.where} is whole; there is nothing to repair")
            return 0
    except (DamagedTable, Refused) as error:
        why = error
    file, fd = _places(options)
    streams.complain(str(why))
    try:
        if file is not None and (is_there(file) or fd is None):
            whole = _whole(file) if fd is not None else None
            if fd is not None and whole is not None:
                return _repair_sign(options, fd, file, whole)
            with _held(file):
                return _repair_database(options, file)
        if fd is None:
            raise Refused(f"{options.source} cannot be opened")
        return _repair_attributes(options, fd)
    finally:
        if fd is not None:
            os.close(fd)


def _places(options: argparse.Namespace) -> tuple[str | None, int | None]:
    """Where a table may be: the database's file, and a descriptor of the directory with the attributes."""
    if options.state.startswith("sqlite:"):
        return os.path.abspath(options.state.removeprefix("sqlite:")), None
    fd = open_source(options.source)
    return default_file(fd, os.path.realpath(options.source)), fd


def _whole(file: str) -> Ledger | None:
    """The table in a database, None where it is none or damaged."""
    with contextlib.suppress(OSError, Refused):
        store = Store(SqliteShelf(file))
        try:
            with store.lock(shared=True):
                store.load()
            return store.ledger
        finally:
            store.close()
    return None


def _repair_sign(options: argparse.Namespace, fd: int, file: str, ledger: Ledger) -> int:
    """The table is in a database and whole, and only the attributes that say so are damaged: let them say it again."""
    where = os.path.realpath(options.source)
    shelf = XattrShelf(fd, where)
    with shelf.lock():
        pieces = read_pieces(shelf)
        note = f"the table in {file} is whole; the attributes of {where}, where it was before, are damaged"
        if options.json:
            said = {"where": where, "damaged": sorted(pieces), "notes": [note], "complete": True,
                    "entries": len(ledger.entries), "devices": list(ledger.devices)}  # fmt: skip
            print(json.dumps(said, indent=2))
        else:
            print(note)
        if not options.write:
            if not options.json:
                print("nothing was changed; --write FILE saves the attributes to FILE and has them say where it is")
            return 1
        _keep(options.write, where, pieces)
        for name in pieces:
            shelf.remove(name)
        shelf.put("a.0", encode_moved(ledger, 1, file))
    print(f"the attributes of {where} say again that the table is in {file}")
    return 0


def _repair_attributes(options: argparse.Namespace, fd: int) -> int:
    where = os.path.realpath(options.source)
    shelf = XattrShelf(fd, where)
    with shelf.lock():
        pieces = read_pieces(shelf)
        found = salvage(pieces)
        if not _report(options, found, where):
            return 1
        _keep(options.write, where, pieces)
        try:
            put_back(shelf, found)
        except NoRoom as error:
            raise Refused(
                f"{where} has no room for the repaired table ({error.strerror}): what was saved is in {options.write}; "
                f"import the table with --state sqlite:FILE"
            ) from error
    print(f"the table in {where} is whole again")
    return 0


def _repair_database(options: argparse.Namespace, file: str) -> int:
    pieces = SqliteShelf.read_damaged(file)
    found = salvage(pieces)
    if not _report(options, found, file) or found.ledger is None:
        return 1
    _keep(options.write, file, pieces)
    # Nothing is erased: the old files stay beside the new one.
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    fresh = f"{file}.repaired"
    for tail in ("", "-wal", "-shm", "-lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh + tail)
    store = Store(SqliteShelf(fresh))
    store.load()
    store.create(found.ledger)
    store.close()
    for tail in ("-wal", "-shm", "", "-lock"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(file + tail, f"{file}.damaged-{stamp}{tail}")
    for tail in ("-lock", ""):
        os.rename(fresh + tail, file + tail)
    print(f"the table in {file} is whole again; the damaged files are {file}.damaged-{stamp}*")
    return 0


@contextlib.contextmanager
def _held(file: str) -> Iterator[None]:
    """The lock of a database as it is, against processes that go on with it in spite of the damage."""
    try:
        fd = os.open(file + "-lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        with flock(fd, file):
            yield
    finally:
        os.close(fd)


def _report(options: argparse.Namespace, found: Salvage, where: str) -> bool:
    """Print what was found; whether to go on and write."""
    ledger = found.ledger
    entries = len(ledger.entries) if ledger is not None else 0
    if options.json:
        print(
            json.dumps(
                {"where": where, "damaged": found.damaged, "notes": found.notes, "complete": found.complete,
                 "entries": entries, "devices": list(ledger.devices) if ledger is not None else []},
                indent=2,
            )
        )  # fmt: skip
    else:
        for note in found.notes:
            print(note)
        every = ", which is all of them" if found.complete and ledger is not None else ""
        print(f"{entries} entries can be saved{every}")
        if ledger is not None and not found.complete:
            print("devices whose entries are lost get new numbers; none of the lost ones is given again")
    if ledger is None:
        raise Refused(
            f"nothing can be saved from {where}: restore it from a backup, or import an exported table with --state "
            f"sqlite:FILE"
        )
    if not options.write and not options.json:
        print("nothing was changed; --write FILE saves the damaged pieces to FILE and puts the repaired table in place")
    return bool(options.write)


def _keep(file: str, where: str, pieces: dict[str, bytes]) -> None:
    """Save the pieces as they are, so that whoever knows better can still do better."""
    data = {name: base64.b64encode(piece).decode() for name, piece in pieces.items()}
    text = json.dumps({"format": "fusemap-pieces", "where": where, "pieces": data}, indent=2) + "\n"
    files.write(file, text.encode())
