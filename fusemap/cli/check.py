"""fusemap check: are the numbers of a mounted tree, or of a share of it, what they should be, and what they were?

This is about trees; check_smb is about shares, with check_report, and check_saved has the numbers of another day.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from fusemap.cli import check_saved, check_smb, streams
from fusemap.errors import Refused

_SHOWN: Final = 20

DESCRIPTION: Final = """\
Walks a mounted tree and looks at the number of every file. Exit 1 when two files have one number, when a directory's
listing (d_ino) and the file itself (st_ino) say different ones, or when a number is not what it was when it was saved.
Hard links of one file share a number; that is right. Files that came or went since are counted, not complained of.

"""


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    verb = verbs.add_parser(
        "check",
        help="verify the numbers of a tree, or of a share of it",
        description=DESCRIPTION + check_smb.DESCRIPTION,
        epilog=check_smb.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("tree", metavar="TREE", nargs="?", help="a mounted tree, or a directory in one")
    which = verb.add_mutually_exclusive_group()
    which.add_argument("--save", metavar="FILE", help="write the numbers to FILE, to compare with later")
    which.add_argument("--against", metavar="FILE", help="compare with the numbers in FILE")
    verb.add_argument("--json", action="store_true", help="print JSON")
    check_smb.add_options(verb)
    verb.set_defaults(run=run)


class Report:
    """What a walk found. Paths are relative to the tree, "." for itself."""

    def __init__(self) -> None:
        self.files = 0
        self.numbers: dict[str, int] = {}
        self.duplicates: list[dict[str, object]] = []
        self.listed_otherwise: list[dict[str, object]] = []
        self.changed: list[dict[str, object]] = []
        self.unreadable: list[str] = []
        self.new = self.gone = 0

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.duplicates or self.listed_otherwise or self.changed)

    def as_json(self) -> dict[str, object]:
        """All of it but the numbers."""
        return {
            "files": self.files,
            "duplicates": self.duplicates,
            "d_ino_differs": self.listed_otherwise,
            "changed": self.changed,
            "new": self.new,
            "gone": self.gone,
            "unreadable": self.unreadable,
        }


class _File(NamedTuple):
    path: str
    kind: int
    links: int
    size: int
    mtime_ns: int


def run(options: argparse.Namespace) -> int:
    """Checks the tree, or the share, and prints what is wrong."""
    check_smb.check_options(options)
    if options.smb is not None:
        return check_smb.run(options)
    known = check_saved.read(options.against) if options.against else None
    report = check(options.tree, known)
    if options.save:
        check_saved.save(options.save, report.numbers)
    with streams.output():
        if options.json:
            print(json.dumps(report.as_json(), indent=2))
        else:
            _print(report, options.tree, known is not None)
    return 0 if report.good else 1


def check(tree: str, known: dict[str, int] | None = None) -> Report:
    """Walk the file system at `tree` and compare with `known` numbers by path. Raises Refused when it cannot begin."""
    report = Report()
    first: dict[int, _File] = {}
    paths: dict[int, int] = {}
    progress = _Progress()
    try:
        for path, st, listed in _walk(tree, report):
            name = os.path.relpath(path, tree)
            report.files += 1
            progress.step(report.files)
            report.numbers[name] = st.st_ino
            if listed is not None and listed != st.st_ino:
                report.listed_otherwise.append({"path": name, "d_ino": listed, "st_ino": st.st_ino})
            file = _File(name, stat.S_IFMT(st.st_mode), st.st_nlink, st.st_size, st.st_mtime_ns)
            other = first.setdefault(st.st_ino, file)
            paths[st.st_ino] = paths.get(st.st_ino, 0) + 1
            # One link more than the file has belongs to another file, however alike they look.
            if other is not file and (not _one_file(other, file) or paths[st.st_ino] > st.st_nlink):
                report.duplicates.append({"number": st.st_ino, "paths": [other.path, name]})
    finally:
        progress.end()
    if known is not None:
        for name, number in report.numbers.items():
            if name not in known:
                report.new += 1
            elif known[name] != number:
                report.changed.append({"path": name, "was": known[name], "is": number})
        report.gone = sum(name not in report.numbers for name in known)
    return report


def _one_file(one: _File, other: _File) -> bool:
    """Whether two paths with one number may be hard links of one file: they agree in all that links share."""
    return one.kind == other.kind != stat.S_IFDIR and one.links > 1 and one[2:] == other[2:]


def _walk(tree: str, report: Report) -> Iterator[tuple[str, os.stat_result, int | None]]:
    """Path, stat and d_ino (None for the tree itself) of everything on the tree's file system, without recursion."""
    try:
        top = os.stat(tree)
    except OSError as error:
        raise Refused(f"{tree}: {error.strerror}") from error
    if not stat.S_ISDIR(top.st_mode):
        raise Refused(f"{tree} is not a directory: name a mounted tree")
    yield tree, top, None
    todo = [tree]
    while todo:
        directory = todo.pop()
        try:
            entries = list(os.scandir(directory))
        except OSError as error:
            report.unreadable.append(f"{os.path.relpath(directory, tree)}: {error.strerror}")
            continue
        for entry in entries:
            try:
                st = os.lstat(entry.path)
            except FileNotFoundError:
                continue  # removed meanwhile
            except OSError as error:
                report.unreadable.append(f"{os.path.relpath(entry.path, tree)}: {error.strerror}")
                continue
            if st.st_dev == top.st_dev:
                yield entry.path, st, entry.inode()
                if stat.S_ISDIR(st.st_mode):
                    todo.append(entry.path)


def _print(report: Report, tree: str, compared: bool) -> None:
    for problem, rows in (
        ("one number for two files", [f"{row['number']}\t{_joined(row['paths'])}" for row in report.duplicates]),
        (
            "listed under another number",
            [f"{row['st_ino']}\t{row['path']}\tlisted as {row['d_ino']}" for row in report.listed_otherwise],
        ),
        ("number changed", [f"{row['is']}\t{row['path']}\twas {row['was']}" for row in report.changed]),
    ):
        for line in rows[:_SHOWN]:
            print(f"{problem}\t{streams.plain(line)}")
        if len(rows) > _SHOWN:
            print(f"{problem}\t... and {len(rows) - _SHOWN} more; --json lists them all")
    for line in report.unreadable:
        streams.complain(line)
    changes = f", {len(report.changed)} changed, {report.new} new, {report.gone} gone" if compared else ""
    wrong = len(report.duplicates) + len(report.listed_otherwise)
    print(f"{tree}: {report.files} files, {wrong} wrong{changes}")


def _joined(paths: object) -> str:
    return "\t".join(str(path) for path in paths) if isinstance(paths, list) else ""


class _Progress:
    """A running count on standard error, where that is a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()

    def step(self, count: int) -> None:
        """`count` files were looked at."""
        if self._terminal and count % 1000 == 0:
            print(f"\r{count} files", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """The count makes room for what comes next."""
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
