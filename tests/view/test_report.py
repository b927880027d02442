"""What is said of a census can be read at 80 columns, without colour and without rich, and means the same with them."""

from __future__ import annotations

import importlib.util
import io
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from fusemap.census import Census, take
from fusemap.view import draw
from fusemap.view.blocks import GAP, WIDTH, Grid, cells, fitted, printable, shortened
from fusemap.view.report import report

from ..support import needs
from ..support.stage import Stage


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def census(stage: Stage) -> Iterator[Census]:
    top = stage.tmpfs("tree")
    for name in range(25):
        stage.tmpfs(f"tree/disk-{name}")
        (top / f"disk-{name}" / "dir").mkdir()
        (top / f"disk-{name}" / "file").touch()
    with take(str(top), ("raw", "suffix")) as found:
        found.root = "tree"
        yield found


def drawn(census: Census, stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    draw(report(census), stream)
    return stream.getvalue()


def test_it_fits_80_columns(census: Census) -> None:
    text = drawn(census)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "\x1b" not in text


def test_it_says_what_there_is(census: Census) -> None:
    text = drawn(census)
    for words in (
        "tree", "on 26 devices", "raw: 76 of 76 files share 3 numbers", "suffix: every file has a number of its own",
        "st_dev", "affix", "Budget", "disk-0", "|X", "and 6 more", "shared by directories, 51 in all", "exhibit",
        "find, du", "rsync -H, tar", "EIO", "device  file", "disk-0/dir/", "tmpfs *", "In short",
    ):  # fmt: skip
        assert words in text, words


def test_colour_changes_no_letter(census: Census, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("rich") is None:
        needs.missing("rich is not installed")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = drawn(census, Terminal())
    assert "\x1b[" in coloured
    plain = re.sub("\x1b\\[[0-9;]*m", "", coloured)
    assert plain == drawn(census)


def test_a_terminal_without_rich(census: Census, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert drawn(census, Terminal()) == drawn(census)


def test_names_cannot_do_anything_to_a_terminal() -> None:
    assert printable(b"\x1b]0;x\x07\n\xff") == "\\x1b]0;x\\x07\\n\\xff"
    assert printable("grün\u202e".encode()) == "grün\\u202e"


def test_shortened() -> None:
    for width in range(3, 12):
        assert len(shortened("0123456789", width)) == min(width, 10)


def test_a_table_is_cut_where_it_may_be() -> None:
    grid = Grid(("a", ">b", "c"), [("x" * 50, "9" * 20, "y" * 60), ("x", "1", "y")], {})
    cut = fitted(grid, {2: 10, 0: 5})
    assert [len(cell) for cell in cut.rows[0]] == [WIDTH - 2 * GAP - 30, 20, 10]
    assert cut.rows[1] == grid.rows[1]
    assert fitted(grid, {}) == grid


def test_the_devices_of_any_tree_fit(tmp_path: Path) -> None:
    with take(str(tmp_path), ("raw",)) as found:
        (device,) = found.devices
        found.devices = [
            device._replace(
                key="session:" + "f" * 40, dev=os.makedev(4095, 1048575), place=b"long/" * 20, files=10**7,
                highest=(1 << 64) - 1, entries=device.entries * 999,
            )
        ]  # fmt: skip
        assert max(map(len, drawn(found).splitlines()[2:])) <= WIDTH


def test_the_budget_shows_whose_the_numbers_are(tmp_path: Path) -> None:
    with take(str(tmp_path), ("raw",)) as found:
        assert f"[{'0' * 32}{'.' * 32}]" in drawn(found)
        assert "not here" not in drawn(found)
        found.spent += Fraction(1, 4)  # as by a device in the table that is not mounted now
        text = drawn(found)
        assert f"[{'0' * 32}{'~' * 16}{'.' * 16}]" in text
        assert "75.00% spent, 25.00% left" in text
        assert "not here" in text


def test_wide_letters_are_lined_up(tmp_path: Path) -> None:
    assert [cells("漢字"), cells("e\u0301"), cells("ab")] == [4, 1, 2]
    assert shortened("漢" * 10, 9) == "漢漢~漢漢"
    stream = io.StringIO()
    draw([Grid(("name", "x"), [("漢字漢", "1"), ("abc", "2")], {})], stream)
    assert stream.getvalue().splitlines() == ["name    x", "漢字漢  1", "abc     2"]


def test_names_that_look_alike_are_told_apart() -> None:
    assert printable(b"\x1b") == "\\x1b"
    assert printable(b"\\x1b") == "\\\\x1b"


def test_an_encoding_that_lacks_letters(tmp_path: Path) -> None:
    (tmp_path / "ü").mkdir()
    with take(str(tmp_path), ("raw",)) as found, open(os.devnull, "w", encoding="ascii") as stream:
        found.root = "ü"
        draw(report(found), stream)
