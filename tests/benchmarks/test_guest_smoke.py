"""The comparison inside a guest runs through, with work so small that its times mean nothing, and leaves nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.benchmarks.guest.works import WORKS
from tests.support import needs, process

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = ("--files", "30", "--small", "20", "--mib", "1", "--rounds", "1", "--cache", "none", "--msize", "131072")
WAYS = {"qemu", "diod", "fusemap", "serial"}


def test_every_way_does_every_work(tmp_path: Path) -> None:
    needs.fuse()  # as every benchmark's sandbox does
    needs.tools("gcc", "cpio", "modprobe", "busybox", "qemu-system-x86_64", "diod")
    file = tmp_path / "result.json"
    command = (sys.executable, "-m", "tests.benchmarks.guest", *SMALL, "--json", file)
    done = process.run(*command, env={**os.environ, "TMPDIR": str(tmp_path)}, cwd=CHECKOUT, timeout=110)
    found = json.loads(file.read_text())
    assert set(found["medians"]) == {f"{work.key}, cache=none 128K" for work in WORKS}
    for case, by_way in found["values"].items():
        assert set(by_way) == WAYS
        for way, ((elapsed, guest, *_),) in by_way.items():
            assert 0 < guest <= elapsed, (case, way)
    # The client is the same, so it asks every server the same.
    asked = found["requests"]["find, cache=none 128K"]
    assert {counts["Twalk"] for counts in asked.values()} == {asked["qemu"]["Twalk"]}
    assert asked["serial"] == asked["fusemap"]
    assert asked["fusemap"]["Tgetattr"] >= 30
    assert "of 2 targets reached" in done.stdout
    assert os.listdir(tmp_path) == ["result.json"]


def test_what_it_cannot_measure(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tests.benchmarks.guest")
    done = process.attempt(*command, cwd=CHECKOUT, env={**os.environ, "PATH": str(tmp_path)})
    if os.geteuid() == 0 and os.path.exists("/dev/fuse"):
        assert "qemu-system-x86_64" in done.stderr
    assert (done.returncode, done.stdout) == (2, "")
