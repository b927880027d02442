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


@contextlib.contextmanager
def opened(options: argparse.Namespace) -> Iterator[Table]:
    """The table of the source, whatever its mode."""
    logging.getLogger().setLevel(logging.ERROR)
    if options.state == "none":
        raise Refused("--state none keeps no table")
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


def write_text(file: str, text: str) -> None:
    """Write a file, down to the disk. Raises Refused."""
    try:
        with open(file, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise Refused(f"cannot write {file}: {error.strerror}") from error
