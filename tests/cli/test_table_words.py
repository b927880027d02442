"""What `fusemap table` and others make of words that cannot be meant so; what reads a table never makes one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fusemap.fuse import mountpoint

from ..support import needs
from ..support.command import Daemons, fusemap, refused
from ..support.process import run
from .here import here


@pytest.fixture
def with_table(daemons: Daemons, source: Path, target: Path) -> Path:
    """A tree that has a table in its attributes."""
    needs.root()
    pid = daemons.mount(source, target)
    assert (target / "f").read_text() == "f"
    run("umount", target)
    assert daemons.wait(pid) == 0
    return source


@pytest.mark.parametrize("verb", [["scan"], ["serve", "--listen", "tcp:127.0.0.1:0"]])
def test_an_empty_source_is_not_the_current_directory(verb: list[str]) -> None:
    """As of a variable that is not set."""
    refused(here(*verb, ""), "SRC is empty")


@pytest.mark.parametrize("foreground", [[], ["-f"]])
def test_a_directory_is_no_database(source: Path, target: Path, tmp_path: Path, foreground: list[str]) -> None:
    needs.fuse()
    (tmp_path / "place").mkdir()
    refused(fusemap("mount", source, target, "--state", f"sqlite:{tmp_path}/place", *foreground), "Is a directory")
    refused(fusemap("mount", source, target, "--state", "sqlite:", *foreground), "a file's name")
    assert os.listdir(tmp_path) == ["place"]


def test_showing_a_table_makes_none(with_table: Path, tmp_path: Path) -> None:
    state = f"sqlite:{tmp_path}/none.db"
    done = here("table", "show", with_table, "--state", state)
    assert (done.returncode, done.stderr) == (1, "")
    refused(here("table", "export", with_table, "--state", state), "no table to export")
    assert os.listdir(tmp_path) == []


def test_a_table_that_contradicts_is_imported_beside(with_table: Path, tmp_path: Path) -> None:
    """As the refusal to import it advises."""
    table = json.loads(here("table", "export", with_table).stdout)
    table["entries"][0]["device"] = table["devices"][0]["key"] = "uuid:another"
    (tmp_path / "table.json").write_text(json.dumps(table))
    refused(here("table", "import", with_table, tmp_path / "table.json"), "--state sqlite:FILE")
    done = here("table", "import", with_table, "--state", f"sqlite:{tmp_path}/new.db", tmp_path / "table.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 entries imported")


def test_words_without_effect_are_refused(with_table: Path, tmp_path: Path) -> None:
    refused(here("table", "export", with_table, "--format", "v1", "-o", tmp_path / "file"), "leave out -o")
    refused(here("table", "import", with_table, tmp_path / "file", "--format", "v1"), "leave out")
    refused(here("table", "repair", with_table, "--state", "none"), "keeps no table")
    refused(here("table", "repair", tmp_path / "none"), "No such file")
    assert here("table", "gc", with_table, "--unseen", "-5").returncode == 2


def test_a_mount_table_that_leaves_out_what_is_around(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a chroot whose root is no mount."""
    monkeypatch.setattr(mountpoint, "mount_table", list)
    mountpoint.check(str(source), str(target))
