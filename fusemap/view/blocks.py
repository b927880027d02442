"""A report as data: what is said, apart from how it looks. Tests read it, and every way of drawing does."""

from __future__ import annotations

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
        widths = [max(len(row[at]) for row in [titles, *rows]) for at in range(len(titles))]
        over = sum(widths) + GAP * (len(widths) - 1) - width
        if over > 0:
            room = max(least, widths[column] - over)
            rows = [(*row[:column], shortened(row[column], room), *row[column + 1 :]) for row in rows]
    return Grid(grid.columns, rows, grid.marks)


Block: TypeAlias = "Heading | Line | Grid"


def printable(name: bytes) -> str:
    """A name of the user's as text for a terminal: what is not UTF-8, or not to be printed, is escaped.

    A name may hold any byte but two: left as they are, some of them would move the cursor or do worse.

    >>> printable(b"a" + bytes([255, 27]) + b"b")
    'a\\\\xff\\\\x1bb'
    """
    text = name.decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def shortened(text: str, width: int) -> str:
    """Text cut to `width` in the middle, where it is longer: both ends of a path or a uuid tell something.

    >>> shortened("uuid:0123456789", 9)
    'uuid~6789'
    """
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return text[: width - 1 - tail] + "~" + text[len(text) - tail :]
