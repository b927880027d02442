"""The comparison of Samba shares runs through, with work so small that its times mean nothing, and leaves nothing."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.samba import rounds
from tests.benchmarks.samba.__main__ import judge, times_table
from tests.benchmarks.samba.works import WORKS
from tests.support import needs, process

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = ("--files", "30", "--small", "10", "--mib", "2", "--rounds", "1", "--set", "ea support=no")


@pytest.fixture
def short() -> Iterator[Path]:
    """A temporary directory whose name leaves room for that of a socket below it (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="f") as name:
        yield Path(name)


def test_the_comparison_measures_everything(short: Path) -> None:
    needs.fuse()
    needs.file_system("ext4")
    needs.tools("bindfs", "smbd", "smbclient", "smbpasswd")
    file = short / "result.json"
    done = process.run(
        *(sys.executable, "-m", "tests.benchmarks.samba", *SMALL, "--json", file),
        env={**os.environ, "TMPDIR": str(short), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
        cwd=CHECKOUT,
        timeout=110,
    )
    found = json.loads(file.read_text())
    assert found["settings"] == {"ea support": "no"}
    assert set(found["medians"]) == {work.key for work in WORKS}
    for by_phase in found["medians"].values():
        for times in by_phase.values():
            assert set(times) == set(rounds.SHARES)
            assert min(times.values()) > 0
    assert f"of {2 * len(WORKS)} targets reached" in done.stdout
    assert os.listdir(short) == ["result.json"]


@pytest.mark.parametrize("words", [["--only", "nothing"], ["--rounds", "0"], ["--set", "ea support"]])
def test_bad_words_are_told(words: list[str]) -> None:
    done = process.attempt(sys.executable, "-m", "tests.benchmarks.samba", *words, cwd=CHECKOUT)
    assert done.returncode == 2
    assert "usage: python -m tests.benchmarks.samba" in done.stderr


def test_verdicts_are_told_from_the_medians() -> None:
    cold = {"plain": [1.0, 9.0], "bindfs": [6.0, 7.0], "fusemap": [4.0, 3.0]}
    warm = {"plain": [2.0], "bindfs": [8.0], "fusemap": [5.0]}
    found = rounds.medians({"list": {"cold": cold, "warm": warm}})
    assert found["list"]["cold"] == {"plain": 2.0, "bindfs": 6.5, "fusemap": 3.5}
    assert found["list"]["warm"] == {"plain": 2.0, "bindfs": 8.0, "fusemap": 5.0}
    assert [(verdict.found, verdict.met) for verdict in judge(found)] == [
        ("1.75 times its time", True),
        ("2.50 times its time", False),
    ]
    (line,) = list(times_table(found))[2:]
    assert line.split()[-5:] == ["2.000", "6.500", "8.000", "3.500", "5.000"]
