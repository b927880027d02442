"""Blocks on a terminal. rich gives colour where there is a terminal; what is said is the same without it, letter by
letter, so that a report in a file, on a terminal of 80 columns and for eyes that see no red is one report.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from typing import Final, TextIO

from fusemap.view.blocks import GAP, Block, Grid, Heading, Line, cells

_STYLES: Final = {"bad": "bold red", "good": "green", "dim": "dim", "heading": "bold"}
_COLLIDING: Final = r"X(?=[-X ]*\| \d+$)"


def draw(blocks: Iterable[Block], stream: TextIO) -> None:
    """Writes blocks to a text stream, in colour where that is a terminal and rich is installed."""
    lines = ((_encodable(text, stream), style) for block in blocks for text, style in _lines(block))
    if stream.isatty() and importlib.util.find_spec("rich") is not None:
        _draw_rich(lines, stream)
    else:
        for text, _ in lines:
            print(text, file=stream)


def styled(blocks: Iterable[Block], stream: TextIO) -> Iterator[tuple[str, str]]:
    """Blocks as lines fit for `stream`, each with its style as rich names it: for a screen that is drawn repeatedly."""
    return ((_encodable(text, stream), _STYLES.get(style, "")) for block in blocks for text, style in _lines(block))


def _draw_rich(lines: Iterable[tuple[str, str]], stream: TextIO) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    for text, style in lines:
        # A path that is too long for a line is not cut into words: it is to be copied.
        written = Text(text, _STYLES.get(style, ""))
        if style == "lane":
            written.highlight_regex(_COLLIDING, _STYLES["bad"])
        console.print(written, soft_wrap=True)


def _lines(block: Block) -> Iterator[tuple[str, str]]:
    if isinstance(block, Line):
        yield block.text, block.style
    elif isinstance(block, Heading):
        yield "", ""
        yield block.text, "heading"
    else:
        yield from _grid(block)


def _grid(grid: Grid) -> Iterator[tuple[str, str]]:
    right = [title.startswith(">") for title in grid.columns]
    titles = tuple(title.removeprefix(">") for title in grid.columns)
    widths = [max(cells(row[n]) for row in [titles, *grid.rows]) for n in range(len(titles))]
    for number, row in enumerate([titles, *grid.rows], -1):
        words = (
            " " * (width - cells(cell)) + cell if flush else cell + " " * (width - cells(cell))
            for cell, width, flush in zip(row, widths, right, strict=True)
        )
        yield (" " * GAP).join(words).rstrip(), "dim" if number < 0 else grid.marks.get(number, "")


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
