"""A report as data: what is said, apart from how it looks. Tests read it, and every way of drawing does."""

from __future__ import annotations

import unicodedata
from typing import Final, NamedTuple, TypeAlias

WIDTH: Final = 80
"""Columns that everything is made to fit, names and paths of the user's own excepted."""
GAP: Final = 2
"""Columns between two cells of a table."""


class Heading(NamedTuple):
    """The beginning of a part."""

    text: str


class Line(NamedTuple):
    """A sentence or a path. `style` is "", "good", "bad", "dim" or "lane"; no meaning is in the style alone."""

    text: str
    style: str = ""


class Grid(NamedTuple):
    """A table. Columns whose title begins with ">" are numbers, flush right. `marks` gives rows a style."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    marks: dict[int, str]


def fitted(grid: Grid, shrinkable: dict[int, int], width: int = WIDTH) -> Grid:
    """The table with its cells cut, where it is wider than `width`: one column after the other, as far as needed.

    `shrinkable` are positions of columns and the width below which they are not cut, the first to be cut first.
    """
    rows, titles = grid.rows, [title.removeprefix(">") for title in grid.columns]
    for column, least in shrinkable.items():
        widths = [max(cells(row[at]) for row in [titles, *rows]) for at in range(len(titles))]
        over = sum(widths) + GAP * (len(widths) - 1) - width
        if over > 0:
            room = max(least, widths[column] - over)
            rows = [(*row[:column], shortened(row[column], room), *row[column + 1 :]) for row in rows]
    return Grid(grid.columns, rows, grid.marks)


Block: TypeAlias = "Heading | Line | Grid"


def printable(name: bytes) -> str:
    """A name of the user's as text for a terminal: what is not UTF-8, or not to be printed, is escaped as in $'...'.

    A name may hold any byte but two: left as they are, some of them would move the cursor or do worse. A backslash
    is doubled, so that no name can look like another.

    >>> printable(b"a" + bytes([255, 27]) + b"b")
    'a\\\\xff\\\\x1bb'
    """
    text = name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def cells(text: str) -> int:
    """How many columns printable text takes up on a terminal: Chinese letters two, accents by themselves none.

    >>> cells("a\\u0301"), cells("\\u6f22")
    (1, 2)
    """
    if text.isascii():
        return len(text)
    return sum(
        2 if unicodedata.east_asian_width(letter) in "WF" else 0 if unicodedata.combining(letter) else 1
        for letter in text
    )


def shortened(text: str, width: int) -> str:
    """Text cut to `width` columns in the middle, where it is longer: both ends of a path or a uuid tell something.

    >>> shortened("uuid:0123456789", 9)
    'uuid~6789'
    """
    if cells(text) <= width:
        return text
    tail = (width - 1) // 2
    end = len(text) - len(_head(text[::-1], tail))
    return f"{_head(text, width - 1 - tail)}~{text[end:]}"


def _head(text: str, width: int) -> str:
    end = min(len(text), width)
    while cells(text[:end]) > width:
        end -= 1
    return text[:end]
