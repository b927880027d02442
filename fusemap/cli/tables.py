"""What the acts of `fusemap table` share: getting at a table, and writing a file."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Final

from fusemap.errors import DamagedTable, Refused
from fusemap.table import Table, open_table

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def check_state(options: argparse.Namespace) -> None:
    """Raises Refused where --state names no place for a table."""
    kind, _, file = options.state.partition(":")
    if options.state == "none":
        raise Refused("--state none keeps no table")
    if options.state not in ("auto", "xattr") and not (kind == "sqlite" and file):
        raise Refused(f"--state {options.state}: choose auto, xattr, or sqlite:FILE with a file's name")


@contextlib.contextmanager
def opened(options: argparse.Namespace) -> Iterator[Table]:
    """The table of the source, whatever its mode."""
    logging.getLogger().setLevel(logging.ERROR)
    check_state(options)
    try:
        table = open_table(options.source, options.state, None)
        try:
            yield table
        finally:
            table.close()
    except DamagedTable:
        raise
    except OSError as error:
        raise Refused(f"{options.source}: {error.strerror}") from error


def open_source(source: str) -> int:
    """A readable descriptor of the exported directory. Raises Refused."""
    try:
        return os.open(source, _DIRECTORY)
    except OSError as error:
        raise Refused(f"cannot open {source}: {error.strerror}") from error
