"""Processes that share a table: as fast as they can, and killed at any system call."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fusemap.table import open_table

from ..support import needs
from ..support.racing import race
from ..support.stage import Stage

SECONDS = 60.0

@pytest.mark.parametrize("state", ["xattr", "sqlite"])
def test_processes_that_add_as_fast_as_they_can_never_disagree(stage: Stage, state: str) -> None:
    """For five seconds; `python -m tests.benchmarks.stress` does it for a minute."""
    name = state if state == "xattr" else f"sqlite:{stage.tmpfs('database')}/t.sqlite"
    found = race(stage.tmpfs("tree"), name, str(stage.directory("state")), 5)
    assert found["least"] > 20, "one of them stood still"
    assert found["devices"] > 200
    assert found["files"] > 200


VICTIM = """
import os, sys
from fusemap.table import open_table
root, state, place = sys.argv[1:4]
table = open_table(root, state, directory=place)
mapper = table.mapper()
for n in range(45):
    os.write(int(sys.argv[4]), f"{n} {mapper.path('uuid:%012x' % n, 5)}\\n".encode())
table.close()
"""


@pytest.mark.parametrize("state", ["xattr", "sqlite"])
def test_a_process_killed_at_any_system_call_has_shown_nothing_that_is_lost(stage: Stage, state: str) -> None:
    needs.tools("strace")
    calls = "fsetxattr,fremovexattr,fsync" if state == "xattr" else "pwrite64,ftruncate,fdatasync,unlink,openat"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
    tree = stage.tmpfs("tree")
    died = finished = 0
    shown: dict[int, int] = {}
    step = 0
    while not finished and step < 400:
        step = step + 1 if state == "xattr" and step < 24 else step + 13 if step else 1
        name = state if state == "xattr" else f"sqlite:{tree}/{step}.sqlite"
        if state == "xattr":
            for attribute in os.listxattr(tree):
                os.removexattr(tree, attribute)
        reader, writer = os.pipe()
        command = [
            "strace", "-f", "-qq", "-o", os.devnull, "-e", f"inject={calls}:signal=KILL:when={step}",
            sys.executable, "-c", VICTIM, str(tree), name, str(stage.directory("state")),
            str(writer),
        ]  # fmt: skip
        try:
            result = subprocess.run(
                command, env=environment, cwd="/", pass_fds=[writer], stderr=subprocess.PIPE, text=True,
            timeout=SECONDS, check=False, )  # fmt: skip
        finally:
            os.close(writer)
            with open(reader, encoding="ascii") as lines:
                shown = dict(tuple(map(int, line.split())) for line in lines)  # type: ignore[misc]
        if "ptrace" in result.stderr and "not permitted" in result.stderr:
            needs.missing("strace may not trace here")
        assert "Traceback" not in result.stderr, result.stderr
        finished += result.returncode == 0
        died += result.returncode != 0
        table = open_table(tree, name, directory=str(stage.directory("state")))
        mapper = table.mapper()
        assert {n: mapper.peek(f"uuid:{n:012x}", 5) for n in shown} == shown, f"killed at call {step}"
        assert mapper.used() - len(shown) in (0, 1), f"killed at call {step}"
        mapper.path("uuid:next", 5)
        table.close()
    assert died > 10
    assert finished == 1
    assert len(shown) == 45
