"""More devices than a test can mount: a walk that only says that it has met them, and all that comes after it as it is.

Some hundred are mounted in earnest, to see that the walk itself has no limit of that kind.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
from array import array
from collections.abc import Mapping
from pathlib import Path

import pytest

from fusemap.census import take
from fusemap.census.spill import Spill
from fusemap.census.walk import Met, Progress, Unreadable
from fusemap.cli.main import main
from fusemap.host.identity import Identity
from fusemap.qid import Allocator, Mapper
from fusemap.view import draw
from fusemap.view.blocks import WIDTH
from fusemap.view.report import report

from ..support.stage import Stage

AFFIXES = 65535


class PretendedWalk:
    """Stands in for `Walk`: on each of `count` devices a directory, inode 2, with files of inodes 12 and 2^20."""

    count = 0

    def __init__(self, root: str, spill: Spill, names: Mapping[str, str] | None = None) -> None:
        self._spill = spill
        self.unreadable: list[Unreadable] = []
        self.unnamed = 0
        self.vanished = 0
        self.devices: list[Met] = []

    def run(self, progress: Progress) -> None:
        for number in range(self.count):
            identity = Identity(f"session:{number}", False)
            place = b"disk-%d" % number if number else b"."
            dev = os.makedev(number >> 8, number & 255)
            self.devices.append(Met(number, identity, identity, dev, place, 2, "tmpfs"))
            self._spill.add(number, place, [b"", b"file", b"far"], array("Q", [2, 12, 1 << 20]), True)
        progress(self._spill.rows, self.count, 1.0)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> type[PretendedWalk]:
    monkeypatch.setattr("fusemap.census.census.Walk", PretendedWalk)
    return PretendedWalk


def test_32000_devices(pretended: type[PretendedWalk], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretended.count = 32000
    assert main(["scan", str(tmp_path), "--json", "--map", "raw", "--map", "suffix"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["devices"]) == 32000
    assert [len(collision["files"]) for collision in found["collisions"]["raw"]] == [32000] * 3
    assert found["collisions"]["suffix"] == []
    assert (found["budget"]["affixes"], found["budget"]["full_map"]) == (32000, 0)
    assert len({affix["bits"] for device in found["devices"] for affix in device["affixes"]}) == 32000


def test_a_report_on_thousands_of_devices(
    pretended: type[PretendedWalk], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretended.count = 3000
    assert main(["scan", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[2:])) <= WIDTH
    for words in (
        "9,000 files, on 3,000 devices", "raw: 9,000 of 9,000 files share 3 numbers", "and 2,980 more",
        "and 2,994 more", "1 number of raw shared by directories, 3,000 in all", "3,000 of 65,535 affixes",
        "every file has a number of its own",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize("left", [0, 4, 100])
def test_more_devices_than_affixes(pretended: type[PretendedWalk], tmp_path: Path, left: int) -> None:
    pretended.count = 200
    # The table has an affix for each device but 100, and the full map numbers for so many files.
    allocator = Allocator(AFFIXES - 99, (1 << 31) - left)
    with take(str(tmp_path), ("suffix",), mapper=Mapper(source=allocator)) as census:
        without = 100 * 3 - left
        assert (census.entries, census.full, census.numberless) == (100, left, without)
        assert not census.collides
        output = io.StringIO()
        draw(report(census), output)
    text = output.getvalue()
    assert max(map(len, text.splitlines()[2:])) <= WIDTH
    assert f"suffix: no number is left for {without} files: ENFILE" in text
    assert ("full map" in text) == (left > 0)


def test_hundreds_of_file_systems_in_earnest(stage: Stage) -> None:
    count = 300
    top = stage.tmpfs("tree", "size=1m")  # taken down with all that is mounted beneath it
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(count):
        place = top / f"{number % 7}" / f"disk-{number}"
        place.mkdir(parents=True)
        assert libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", ctypes.c_ulong(0), b"size=64k") == 0
        (place / "file").touch()
    with take(str(top), ("raw", "suffix")) as census:
        assert len(census.devices) == census.entries == count + 1
        assert census.files == census.names == 1 + 7 + 2 * count
        assert census.schemes["raw"].files == {"loop": count + 1, "error": count + 1, "mixed": 0}
        assert not census.schemes["suffix"].collides
