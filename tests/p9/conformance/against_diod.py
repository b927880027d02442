"""Runs the suite against Debian's diod.

    python -m tests.p9.conformance.against_diod [pytest's arguments]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...support import process as processes
from ...support.process import die_with_parent
from ...support.stage import Stage, watchdog
from ..conftest import build
from ..served import Diod

HERE = Path(__file__).parent
TOP = HERE.parents[2]


def run(stage: Stage, *arguments: str, seconds: float | None = None) -> tuple[dict[str, str], str]:
    """Runs the suite against diod on a new tree; see `suite`."""
    source = build(stage)
    with Diod(source, stage.path) as server:
        return suite(stage, server.address, source, *arguments, seconds=seconds)


def suite(
    stage: Stage, address: str, source: Path, *arguments: str, seconds: float | None = None
) -> tuple[dict[str, str], str]:
    """What became of each case - "passed", "skipped", "failed" -, and what pytest printed.

    A case is named as in diod.md: module::case, without "test_" and ".py".
    """
    report = stage.path / "report.xml"
    where = ["--server", address, "--export", str(source), f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", str(HERE), "-p", "no:cacheprovider", *where, *arguments]
    environment = {**os.environ, "FUSEMAP_REQUIRE_ALL": "0"}
    output = stage.path / "suite.log"
    with open(output, "wb") as log:
        spawn: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "env": environment}
        process = subprocess.Popen(command, cwd=TOP, preexec_fn=die_with_parent, **spawn)
    watchdog.guard(process.pid)
    try:
        process.wait(seconds)
    finally:
        process.kill()
        process.wait()
        watchdog.release(process.pid)
    return outcomes(report) if report.exists() else {}, output.read_text()


def outcomes(report: Path) -> dict[str, str]:
    """A report of pytest (JUnit's XML) as a table."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.attrib["classname"].rpartition(".")[2].removeprefix("test_")
        name = f"{module}::{case.attrib['name'].removeprefix('test_')}"
        kinds = {child.tag for child in case}
        result = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        if found.get(name) != "failed":  # a case whose clean-up fails is there twice
            found[name] = result
    return found


if __name__ == "__main__":
    processes.private_mounts()
    with tempfile.TemporaryDirectory() as scratch:
        processes.set_environment(scratch)
        one = Stage()
        try:
            results, text = run(one, *sys.argv[1:])
        finally:
            one.close()
    print(text)
    for name, result in results.items():
        if result == "failed":
            print(name)
