"""What a scan writes down needs room, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
from array import array
from pathlib import Path

import pytest

from fusemap.census import take
from fusemap.census.spill import Spill
from fusemap.errors import Refused

from ..support.stage import Stage
from .made import File, found, spilled

FULL = r"^cannot write down in {} what was found \(No space left on device\): set TMPDIR"


def fill(directory: Path, leave: int) -> None:
    """Leaves so many bytes of a file system."""
    free = os.statvfs(directory)
    (directory / "ballast").write_bytes(bytes(free.f_bavail * free.f_bsize - leave))


def scratch_files() -> set[str]:
    """Open files without a name: where they are."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing itself
            name, deleted, _ = os.readlink(f"/proc/self/fd/{fd}").partition(" (deleted)")
            if deleted:
                found.add(os.path.dirname(name))
    return found


def test_files_are_where_they_are_to_be_and_have_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = scratch_files()
    with Spill() as spill:
        spill.add(0, b"d", [b"n"], array("Q", [7]), False)
        assert scratch_files() - before == {str(tmp_path)}
        assert os.listdir(tmp_path) == []
    assert scratch_files() == before
    monkeypatch.delenv("TMPDIR")
    with Spill():
        assert "/var/tmp" in scratch_files()


@pytest.mark.parametrize("where", ["names", "rows", "end"])
def test_a_full_disk_while_rows_are_written(stage: Stage, where: str) -> None:
    place = stage.tmpfs("small", "size=1m")
    fill(place, 0 if where == "end" else 8192)
    with pytest.raises(Refused, match=FULL.format(place)), Spill(str(place)) as spill:
        for number in range(100000 if where != "end" else 1):
            names = [b"n" * 200] if where == "names" else []
            spill.add(0, b"d", [*names, b"x"], array("Q", [number] * (len(names) + 1)), False)
        assert where == "end"
        spill.rows_of()


def test_a_full_disk_while_collisions_are_kept(stage: Stage) -> None:
    place = stage.tmpfs("small", "size=1m")
    fill(place, 0)
    with Spill() as spill:
        rows = spilled(spill, [File(0, 5), File(1, 5)])
        with pytest.raises(Refused, match=FULL.format(place)):
            found(rows, "raw", 2, directory=str(place))


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(Refused, match=r"nowhere what was found \(No such file or directory\)"):
        take(str(tmp_path))
