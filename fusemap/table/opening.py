"""`open_table`: which store an export root gets, and what a new table starts from."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

from fusemap.errors import Refused
from fusemap.table import v1
from fusemap.table.home import DatabaseHome, Home, RootHome, default_file
from fusemap.table.ledger import Ledger
from fusemap.table.shelf import reopen
from fusemap.table.table import Table

log = logging.getLogger(__name__)

STATES: Final = ("auto", "xattr", "sqlite:FILE", "none")
"""What `state` may be; FILE stands for a file's name."""

_FILE: Final = "sqlite:"


def open_table(
    root: int | str | os.PathLike[str],
    state: str = "auto",
    mode: str | None = "suffix",
    k: int = 0,
    *,
    device_of: Callable[[int], str | None] | None = None,
    directory: str | None = None,
    boot: str | None = None,
) -> Table:
    """Open the table of an export root, or prepare one that is made with its first record.

    `root` is a path or a descriptor of the directory (O_PATH will do; it stays the caller's), `state` one of STATES,
    `mode` and `k` those of the Mapper; mode None takes the table as it is. `device_of` turns an st_dev (int, in the
    kernel's 64-bit form of makedev(3)) of a device that is mounted now into its identity key, or None; with it, a table
    in the format of QEMU's patches is taken over where there is none of ours. `directory` is where databases go by
    default (see home.default_file), `boot` the boot id to go by instead of this kernel's.

    `auto` takes a table where it is, and puts a new one into the root's attributes where they can hold one, else into a
    database; the log says which and why. `xattr` insists on the attributes for a new table.

    Raises Refused where what was asked for cannot be: another mode or `k` than the table's, an unknown state,
    attributes that cannot be written. DamagedTable where the table is not as it was written. OSError.
    """
    if mode == "raw" or state == "none":
        return _opened(Table(Home(), mode, k, boot))
    path = root if isinstance(root, int) else os.fspath(root)
    fd, where = _readable(path)
    try:
        home = _home(fd, where, state, directory)
    except BaseException:
        if fd is not None:
            os.close(fd)
        raise
    table = _opened(Table(home, mode, k, boot))
    try:
        if not table.exists and mode is not None:  # who takes it as it is must not make one
            _start(table, home, fd, where, device_of)
    except BaseException:
        table.close()
        raise
    if table.exists:
        log.info("the table of %s is in %s", where, "its attributes" if table.state == "xattr" else table.where)
    elif isinstance(home, RootHome) and home.why_not:
        log.info("the table of %s will be in %s, because %s", where, table.where, home.why_not)
    elif isinstance(home, RootHome):
        log.info("the table of %s will be in its attributes, which can hold one", where)
    return table


def _opened(table: Table) -> Table:
    try:
        table.open()
    except BaseException:
        table.close()
        raise
    return table


def _home(fd: int | None, where: str, state: str, directory: str | None) -> Home:
    if state.startswith(_FILE) and state != _FILE:
        return DatabaseHome(state[len(_FILE) :], fd, where)
    if state not in ("auto", "xattr"):
        raise Refused(f"--state {state}: choose auto, xattr, sqlite:FILE with a file's name, or none")
    try:
        home = RootHome(fd, where, default_file(fd, where, directory))
    except TimeoutError as error:
        raise Refused(f"{error.strerror}: find it with lslocks, or take --state none") from error
    if state == "xattr" and home.why_not:
        raise Refused(f"{where} cannot hold the table, because {home.why_not}: take --state auto or sqlite:FILE")
    return home


def _readable(root: int | str) -> tuple[int | None, str]:
    """A readable descriptor of the root (None where this user cannot have one) and its path. Raises Refused."""
    try:
        fd = reopen(root) if isinstance(root, int) else os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return None, os.readlink(f"/proc/self/fd/{root}") if isinstance(root, int) else os.path.realpath(root)
    except OSError as error:
        raise Refused(f"cannot open {root}: {error.strerror}") from error
    return fd, os.readlink(f"/proc/self/fd/{fd}")


def _start(
    table: Table, home: Home, fd: int | None, where: str, device_of: Callable[[int], str | None] | None
) -> None:
    """Give a table that is not there yet what it should start from, if there is anything."""
    if isinstance(home, DatabaseHome):
        seed = home.seed()
        if seed is not None:
            if (seed.mode, seed.k) == (table.mode, table.k):
                log.info("%s starts from the table of %s", table.where, where)
                table.begin(seed)
            return
    if fd is None:
        return
    streams = v1.read(fd, where)
    if streams is None:
        return
    if device_of is None:
        log.warning("%s has a table of QEMU's format, which is not used here", where)
        return
    ledger = Ledger(table.mode, table.k, os.urandom(16))
    report = v1.import_into(ledger, v1.parse(streams, where), device_of, where)
    table.begin(ledger)
    log.info("the table of QEMU's format on %s was taken over: %s", where, report)
