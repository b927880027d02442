"""What is wrong with the rows. Nothing is asked of anybody here.

    zero         an id is 0: not an id at all, and the same one for every file
    differs      the columns do not say the same of one file
    duplicate    one number for two files
    two          two numbers for two names of one file, which is no directory
    changed      not the id that was saved

Names of one file (hard links, and what symbolic links lead to) rightly share an id. Which names are of one file is told
by the host's device and inode. Where those were not asked, two names with one id are taken for one file when size,
attributes and the times of birth, writing and change agree. Kernels count those in ticks of some milliseconds, so files
that were made together may pass for one; among more than a few, some do not. A directory that is bound to two places
has a number at each.

Why an id is what it is can often be told by looking at it. Samba makes ids of files that are not on the device of the
share's root like this (vfs_default.c, vfswrap_fs_file_id): the device number in the upper 32 bits, the lower 32 bits of
the inode number below. Device numbers change with the next mount, and of large inode numbers half is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from fusemap.smb.columns import Row

_LOW: Final = (1 << 32) - 1

KINDS: Final = {
    "zero": "id 0",
    "differs": "not the same everywhere",
    "duplicate": "one number for two files",
    "two": "two numbers for one file",
    "changed": "id changed",
}
CAUSES: Final = {
    "device": "hold a device number and the low 32 bits of an inode number, as Samba makes them for files on another "
    "device than the share's root; both change or collide: let the share's path be a fusemap mount, or a directory in "
    "one",
    "host": "are the host's own inode numbers: the share shows the tree itself; let its path be the fusemap mount",
    "zero": "are 0, which Samba's fruit module sends to macOS by default: set fruit:zero_file_id = no in smb.conf",
}


class Wrong(NamedTuple):
    """One thing that is wrong: a kind of KINDS, the files it is about, and a cause of CAUSES where one can be told."""

    kind: str
    paths: tuple[str, ...]
    cause: str | None = None
    was: int | None = None


def judge(rows: Iterable[Row], known: Mapping[str, int] | None = None) -> list[Wrong]:
    """All that is wrong with the rows; `known` are ids of another day by path."""
    rows = list(rows)
    wrong = [found for row in rows if (found := _alone(row)) is not None]
    wrong += _duplicates(rows)
    wrong += _two(rows)
    if known is not None:
        for row in rows:
            number = id_of(row)
            if number is not None and known.get(row.path, number) != number:
                wrong.append(Wrong("changed", (row.path,), cause_of(row, number), known[row.path]))
    return wrong


def id_of(row: Row) -> int | None:
    """The file id that SMB clients know the file by; None for symbolic links, which have none."""
    if row.link:
        return None
    return row.opened if row.opened is not None else row.listed


def cause_of(row: Row, number: int) -> str | None:
    """Why `number` is the id of the row's file and not its st_ino; None where it is, and where nobody knows."""
    if number == 0:
        return "zero"
    if number == row.st_ino:
        return None
    device, low = number >> 32, number & _LOW
    if row.st_dev is not None and row.st_ino is not None and device == row.st_dev & _LOW and low == row.st_ino & _LOW:
        return "device"
    if row.host is not None and number == row.host[1]:
        return "host"
    if row.host is not None and device and low == row.host[1] & _LOW:
        return "device"
    return None


def _alone(row: Row) -> Wrong | None:
    """What is wrong with a row by itself."""
    ids = [number for number in (row.opened, row.listed) if number is not None]
    if 0 in ids:
        return Wrong("zero", (row.path,), "zero")
    due = row.target if row.link else row.st_ino
    own = [number for number in (row.st_ino, row.qid, row.qid_listed) if number is not None]
    groups = [ids if due is None else [due, *ids], own] if row.link else [[*own, *ids]]
    if all(len(set(group)) <= 1 for group in groups):
        return None
    odd = next((number for number in ids if number != due), None)
    return Wrong("differs", (row.path,), None if odd is None else cause_of(row, odd))


def _duplicates(rows: list[Row]) -> Iterator[Wrong]:
    """Numbers that two files have, each pair of files once, whichever column shows it."""
    told: set[tuple[str, str]] = set()
    for column in ("opened", "listed", "st_ino", "qid"):
        first: dict[tuple[int, int | None], list[Row]] = {}
        for row in rows:
            number = getattr(row, column)
            ours = column in ("opened", "listed")
            if not number or (row.link and ours):
                continue
            # Where TREE is no mount of fusemap it may have many devices, and each its own inode numbers.
            files = first.setdefault((number, row.st_dev if column == "st_ino" else None), [])
            if any(_one_file(file, row) for file in files):
                continue
            if files and (files[0].path, row.path) not in told:
                told.add((files[0].path, row.path))
                yield Wrong("duplicate", (files[0].path, row.path), cause_of(row, number) if ours else None)
            files.append(row)


def taken_for_links(rows: Iterable[Row]) -> int:
    """How many names were taken for another name of a file because they look like it, and nobody could tell."""
    seen: set[tuple[int, object]] = set()
    count = 0
    for row in rows:
        if row.host is None and row.opened and not row.link:
            looks = (row.opened, row.stamp)
            count += looks in seen
            seen.add(looks)
    return count


def _one_file(one: Row, other: Row) -> bool:
    """Whether two rows with one number are of one file."""
    if one.host is not None and other.host is not None:
        return one.host == other.host
    return one.stamp is not None and one.stamp == other.stamp


def _two(rows: list[Row]) -> Iterator[Wrong]:
    """Names of one file that have different numbers."""
    first: dict[tuple[str, int], Row] = {}
    for row in rows:
        if row.host is None or row.directory or row.link:
            continue
        other = first.setdefault(row.host, row)
        if any(
            None not in (here, there) and here != there
            for here, there in ((row.opened, other.opened), (row.st_ino, other.st_ino), (row.qid, other.qid))
        ):
            yield Wrong("two", (other.path, row.path))
