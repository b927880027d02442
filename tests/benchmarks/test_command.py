"""The comparison runs through, with work so small that its times mean nothing, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.benchmarks import report, startup
from tests.benchmarks.jobs import JOBS
from tests.support import needs, process

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = ("--files", "150", "--small", "40", "--mib", "2", "--churn", "20", "--known", "2000", "--rounds", "1")


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """An environment in which temporary files go below `tmp_path`."""
    needs.fuse()
    needs.file_system("ext4")
    needs.file_system("xfs")
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    return {**os.environ, "TMPDIR": str(tmp_path), "PATH": path}


def test_the_comparison_measures_everything(place: dict[str, str], tmp_path: Path) -> None:
    needs.tools("bindfs", "mergerfs")
    file = tmp_path / "result.json"
    done = process.run(
        *(sys.executable, "-m", "tests.benchmarks", *SMALL, "--json", file), env=place, cwd=CHECKOUT, timeout=110
    )
    found = json.loads(file.read_text())
    assert set(found["medians"]) == {job.key for job in JOBS}
    for by_phase in found["medians"].values():
        for times in by_phase.values():
            assert set(times) == {"host", "bindfs", "mergerfs", "fusemap"}
            assert min(times.values()) > 0
    assert len(found["targets"]) == len(report.TARGETS) + 4
    assert found["known"]["nodes"] > 0
    assert 100 < found["known"]["bytes_an_inode"] < 10_000
    assert "of 26 targets reached" in done.stdout
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_number_is_measured_without_mounts() -> None:
    done = process.run(sys.executable, "-m", "tests.benchmarks", "--only", "mapping", cwd=CHECKOUT)
    assert "Mapper.path" in done.stdout


def test_a_start_is_measured_without_mounts() -> None:
    found = startup.measure(entries=500, rounds=1)
    assert min(found.values()) > 0
    assert report.judge_startup({"table": 0.1, "json": 0.1, "ratio": 1}).met
    assert not report.judge_startup({"table": 1, "json": 0.1, "ratio": 10}).met


def test_the_gate_is_compared(place: dict[str, str], tmp_path: Path) -> None:
    words = ("-m", "tests.benchmarks.gate", "--files", "100", "--rounds", "1")
    done = process.run(sys.executable, *words, env=place, cwd=CHECKOUT, timeout=110)
    assert "without / with" in done.stdout
    assert os.listdir(tmp_path) == []


def test_verdicts_are_told_from_the_medians() -> None:
    times = {"host": 1.0, "bindfs": 40.0, "mergerfs": 30.0, "fusemap": 8.0}
    verdicts = {verdict.what: verdict for verdict in report.judge({"du": {"cold": times}})}
    assert verdicts["du -s, cold, against bindfs"].met
    assert verdicts["du -s, cold, against bindfs"].found == "5.00 times faster"
    assert not verdicts["du -s, cold, against mergerfs"].met
    assert verdicts["du -s, cold, against host"].met
