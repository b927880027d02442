"""What `fusemap check --smb` says on a terminal: a table of the columns, and what is wrong with them.

Where numbers are too long for a line, those that are equal to the one before are "=", which is what is to be seen.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from fusemap.cli.check_smb import columns, unshown
from fusemap.smb.columns import Comparison, Row
from fusemap.smb.verdict import CAUSES, KINDS, Wrong, taken_for_links
from fusemap.view.blocks import GAP, WIDTH, Block, Grid, Heading, Line, printable, shortened

SHOWN: Final = 20
"""Files that are shown when all is well, and wrong ones of each kind."""
_NAMED: Final = 5
_PATH: Final = 12  # columns that a path should have at least
_MISSING: Final = "-"


def report(
    options: argparse.Namespace,
    found: Comparison,
    wrong: list[Wrong],
    numbers: Mapping[str, int],
    known: Mapping[str, int] | None,
    mac: str | None,
) -> Iterator[Block]:
    """The whole report, to be drawn from first to last."""
    table = _Table(found)
    yield Heading(f"{options.smb}{' as a Mac sees it' if options.as_mac else ''}")
    yield Line(f"{table.files} {_plural(table.files, 'file')}, {table.about()}")
    if wrong:
        yield from _wrong(table, wrong)
    else:
        yield Heading("Files")
        yield table.grid(table.sample())
        if table.files > SHOWN:
            yield Line(f"and {table.files - SHOWN} more; --json lists them all", "dim")
    yield from table.legend()
    yield Line("")
    yield from _aside(found)
    if known is not None:
        new, gone = len(numbers.keys() - known.keys()), len(known.keys() - numbers.keys())
        changed = sum(each.kind == "changed" for each in wrong)
        yield Line(f"compared with {options.against}: {changed} changed, {new} new, {gone} gone")
    if mac == "zero":
        yield Line("note: to Macs every id is 0: set fruit:zero_file_id = no in smb.conf; --as-mac looks as they do")
    if wrong:
        yield Line(f"{len({path for each in wrong for path in each.paths})} files are not as they should be", "bad")
    else:
        also = ", and the same as then" if known is not None else ""
        yield Line(f"every file has an id of its own, the same in all columns{also}", "good")


def _wrong(table: _Table, wrong: list[Wrong]) -> Iterator[Block]:
    for kind, title in KINDS.items():
        these = [each for each in wrong if each.kind == kind]
        if not these:
            continue
        yield Heading(f"{title}: {len(these)}")
        rows: list[tuple[Row, str]] = []
        for each in islice(these, SHOWN):
            was = "" if each.was is None else f"  (was {each.was})"
            rows += [(table.rows[path], was) for path in each.paths]
        yield table.grid(rows)
        if len(these) > SHOWN:
            yield Line(f"and {len(these) - SHOWN} more; --json lists them all", "dim")
    causes = Counter(cause for cause, _ in {(w.cause, path) for w in wrong for path in w.paths if w.cause})
    for cause, count in causes.most_common():
        yield Line("")
        yield from (Line(text, "bad") for text in _wrapped(f"{count} of these ids {CAUSES[cause]}"))


def _aside(found: Comparison) -> Iterator[Block]:
    """What is neither right nor wrong, and what could not be seen."""
    if found.beneath is None:
        yield Line("host and st_ino were not asked for: name TREE, the mount beneath the share, on its machine")
    elif not found.beneath.mounted:
        yield Line("TREE is no fusemap mount: host and st_ino are what the disks beneath it say")
    links = sum(row.link for row in found.rows())
    if links:
        yield Line(f"{links} symbolic {_plural(links, 'link')}: the share shows what they lead to, and its id")
    alike = taken_for_links(found.rows())
    if alike:
        text = f"{alike} {_plural(alike, 'name')} with the id of another that looks the same, taken for links of it"
        yield from map(Line, _wrapped(f"{text}: TREE would tell"))
    renamed = [(row.path, row.shown) for row in found.rows() if row.shown is not None]
    if renamed:
        names = (f"{_printable(path)} as {_printable(shown)}" for path, shown in renamed)
        text = f"{len(renamed)} {_plural(len(renamed), 'name')} shown otherwise: {_few(names, len(renamed))}"
        yield from map(Line, _wrapped(text))
    missing = list(unshown(found))
    if missing:
        text = f"{len(missing)} not shown by the share: {_few(map(_printable, missing), len(missing))}"
        yield from map(Line, _wrapped(text))
    if found.vanished:
        yield Line(f"{found.vanished} went before they could be looked at")
    for path, why in islice(found.unreadable.items(), SHOWN):
        yield Line(f"not read: {_printable(path)}: {why}", "bad")
    if len(found.unreadable) > SHOWN:
        yield Line(f"not read: {len(found.unreadable) - SHOWN} more", "bad")


class _Table:
    """The rows, and how they are drawn."""

    def __init__(self, found: Comparison) -> None:
        self.rows = {row.path: row for row in sorted(found.rows())}
        self.files = len(self.rows)
        self._columns = list(columns(found))
        self._devices: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        for row in self.rows.values():
            if row.host is not None:
                self._devices.setdefault(row.host[0], len(self._devices))
                self._counts[row.host[0]] += 1

    def about(self) -> str:
        """How many devices and columns there are."""
        count = len(self._devices)
        where = f"on {count} {_plural(count, 'device')}, " if count else ""
        return f"{where}in {len(self._columns)} columns: {', '.join(self._columns)}"

    def sample(self) -> list[tuple[Row, str]]:
        """A few rows, of every device in turn."""
        by_device: dict[str | None, list[Row]] = {}
        for row in self.rows.values():
            by_device.setdefault(row.host[0] if row.host else None, []).append(row)
        rounds = (rows[at] for at in range(SHOWN) for rows in by_device.values() if at < len(rows))
        chosen = {row.path for row in islice(rounds, SHOWN)}
        return [(row, "") for row in self.rows.values() if row.path in chosen]

    def grid(self, rows: Iterable[tuple[Row, str]]) -> Grid:
        """Rows as a table, with a remark behind the path."""
        rows = list(rows)
        grid = self._grid(rows, compact=False)
        widths = [max(len(line[at]) for line in [grid.columns, *grid.rows]) for at in range(len(grid.columns) - 1)]
        if sum(widths) + GAP * len(widths) + _PATH > WIDTH:
            grid = self._grid(rows, compact=True)
        return grid

    def legend(self) -> Iterator[Block]:
        """Which device is which."""
        if self._devices:
            yield Line("")
        for device, number in islice(self._devices.items(), SHOWN):
            count = self._counts[device]
            yield Line(f"device {number}: {shortened(device, 50)}, {count} {_plural(count, 'file')}", "dim")
        if len(self._devices) > SHOWN:
            yield Line(f"and {len(self._devices) - SHOWN} more devices", "dim")

    def _grid(self, rows: Iterable[tuple[Row, str]], compact: bool) -> Grid:
        titles = [f">{name}" for name in self._columns]
        lines = []
        for row, remark in rows:
            path = f"{_printable(row.path)}{'/' if row.directory else '@' if row.link else ''}{remark}"
            lines.append((*self._cells(row, compact), path))
        return Grid((*titles, "path"), lines, {})

    def _cells(self, row: Row, compact: bool) -> Iterator[str]:
        numbers = {"st_ino": row.st_ino, "opened": row.opened, "listed": row.listed, "9p": row.qid}
        before: int | None = None
        for name in self._columns:
            if name == "host":
                yield _MISSING if row.host is None else f"{self._devices[row.host[0]]}:{row.host[1]}"
                continue
            number = numbers[name]
            if number is None:
                yield _MISSING
                continue
            yield "=" if compact and number == before else str(number)
            before = number


def _few(names: Iterable[str], count: int) -> str:
    more = f" and {count - _NAMED} more" if count > _NAMED else ""
    return ", ".join(islice(names, _NAMED)) + more


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _printable(path: str) -> str:
    try:
        return printable(os.fsencode(path))
    except UnicodeEncodeError:  # half a character of the share's UTF-16
        return printable(path.encode("utf-8", "backslashreplace"))


def _wrapped(text: str) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > WIDTH:
            yield line
            line = word
        else:
            line = f"{line} {word}".lstrip()
    yield line
