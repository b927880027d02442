"""The conformance suite against Debian's diod: what fails must be what conformance/diod.md says, neither less nor more.

A suite that only ever runs against the server it was written for shows nothing; this one is known to find what is wrong
with another.
"""

from __future__ import annotations

import re

import pytest

from ..support import needs
from ..support.stage import Stage, watchdog
from .conformance.against_diod import HERE, run

SECONDS = 400.0
ROW = re.compile(r"^\| (\w+::\w+) \| \S.* \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """What became of each case."""
    needs.tools("diod")
    return once()


def once() -> dict[str, str]:
    stage = Stage()
    try:
        with watchdog.limit(SECONDS):
            results, text = run(stage, "-q", "--tb=line", "--seconds", "5", seconds=SECONDS)
        assert results, text
        return results
    finally:
        stage.close()


def cases(outcomes: dict[str, str], what: str) -> set[str]:
    """Cases of which one form at least came out so."""
    return {name.partition("[")[0] for name, result in outcomes.items() if result == what}


def surprises(outcomes: dict[str, str]) -> set[str]:
    """Cases that fail and are not in diod.md, or are and do not fail."""
    always, sometimes = (set(ROW.findall(part)) for part in (HERE / "diod.md").read_text().split("## Now and then"))
    failed = cases(outcomes, "failed")
    return (failed - always - sometimes) | (always - failed)


def test_what_fails_is_what_is_known(outcomes: dict[str, str]) -> None:
    """What is surprising must be so twice: diod reads memory that it should not, and that differs from run to run."""
    wrong = surprises(outcomes)
    assert not wrong or not wrong & surprises(once())


def test_most_of_it_passes(outcomes: dict[str, str]) -> None:
    """diod is a good server: were the suite wrong about the protocol, more would fail."""
    results = list(outcomes.values())
    assert results.count("passed") > 600
    assert results.count("failed") < results.count("passed") / 3
