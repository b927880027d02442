"""Standard streams that are closed, full or not read any more; and files that a command writes whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fusemap.cli import files, streams
from fusemap.errors import Refused

from ..support.command import Daemons, Result, one_sentence, refused
from ..support.process import attempt, run
from ..support.stage import FUSEMAP
from .here import here


def shell(redirection: str, *arguments: str | Path) -> Result:
    """Runs fusemap as the shell does with this redirection."""
    return attempt("sh", "-c", f'exec "$@" {redirection}', "sh", *FUSEMAP, *arguments)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_a_mount_in_the_background_keeps_its_device(daemons: Daemons, source: Path, target: Path, closed: str) -> None:
    """The device would have the number of what is closed, and be lost with it."""
    assert shell(closed, "mount", source, target).returncode == 0
    (pid,) = daemons.pids()
    assert (target / "f").read_text() == "f"
    run("umount", target)
    assert daemons.wait(pid) == 0


def test_nobody_hears_what_is_said(source: Path) -> None:
    pytest.importorskip("numpy")
    done = shell(">&-", "scan", source)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_output_that_is_full(source: Path, monkeypatch: pytest.MonkeyPatch, unbuffered: str) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    refused(shell(">/dev/full", "check", source), "standard output", "No space left")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_went_away(source: Path, monkeypatch: pytest.MonkeyPatch, unbuffered: str) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*FUSEMAP, "check", source], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_what_is_wrong_is_one_line_whatever_the_name(tmp_path: Path) -> None:
    done = here("id", os.fsdecode(os.fsencode(tmp_path) + b"/a\nb\x1b[2J\xff"))
    assert one_sentence(done.stderr)
    assert r"a\nb\x1b[2J\xff: No such file" in done.stderr


def test_half_a_character_is_said_too() -> None:
    assert streams.plain("a\ud800") == r"a\ud800"


class TestFiles:
    """What `check --save`, `scan --html`, `table export -o` and `table repair --write` name."""

    def test_a_new_one(self, tmp_path: Path) -> None:
        files.write(str(tmp_path / "new"), b"all")
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"new": b"all"}

    def test_one_that_is_there_keeps_its_mode(self, tmp_path: Path) -> None:
        file = tmp_path / "old"
        file.write_bytes(b"before")
        file.chmod(0o640)
        files.write(str(file), b"after")
        assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"after", 0o640)

    def test_a_link_to_it_stays(self, tmp_path: Path) -> None:
        (tmp_path / "old").write_bytes(b"before")
        (tmp_path / "link").symlink_to("old")
        files.write(str(tmp_path / "link"), b"after")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "old").read_bytes() == b"after"

    def test_what_is_no_file_is_written_to_and_not_replaced(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        fd = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        try:
            files.write(str(pipe), b"all")
            assert os.read(fd, 10) == b"all"
        finally:
            os.close(fd)
        assert stat.S_ISFIFO(pipe.stat().st_mode)

    def test_a_disk_that_is_full_leaves_it_as_it_was(self, tmp_path: Path) -> None:
        file = tmp_path / "old"
        file.write_bytes(b"before")
        program = (
            "import resource, signal, sys; from fusemap.cli import files; "
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); files.write(sys.argv[1], bytes(100))"
        )
        done = attempt(sys.executable, "-c", program, file)
        assert "Refused: cannot write" in done.stderr
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"before"}

    def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(Refused, match=r"cannot write .*No such file"):
            files.write(str(tmp_path / "none" / "file"), b"")

    def test_numbers_that_are_saved_touch_nothing_beside_them(self, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        tree.mkdir()
        (tmp_path / "ids.new").write_text("mine")
        assert here("check", tree, "--save", tmp_path / "ids").returncode == 0
        assert (tmp_path / "ids.new").read_text() == "mine"
