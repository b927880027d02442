"""The conformance suite against our server while it writes down every message.

Then it answers the usual requests in the ordinary way, like the others, and not by the shorter one that the suite meets
when it starts a server itself; and what it writes down is one line for each message.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support.stage import Stage, watchdog
from .conformance.against_diod import suite
from .conftest import build
from .served import Served

SECONDS = 300.0


@pytest.fixture(scope="module")
def traced() -> Iterator[tuple[dict[str, str], str, list[bytes]]]:
    """What became of each case, what pytest printed, and the trace."""
    stage = Stage()
    try:
        with watchdog.limit(SECONDS):
            source, trace = build(stage), stage.path / "trace"
            with Served(source, stage.path, "--trace", str(trace)) as server:
                results, text = suite(stage, server.address, source, "-q", "--tb=short", seconds=SECONDS)
        yield results, text, trace.read_bytes().splitlines()
    finally:
        stage.close()


def test_the_ordinary_way_is_right_too(traced: tuple[dict[str, str], str, list[bytes]]) -> None:
    results, text, _ = traced
    assert [name for name, result in results.items() if result == "failed"] == [], text
    assert list(results.values()).count("passed") > 1000, text


def test_the_trace_is_one_readable_line_for_each_message(traced: tuple[dict[str, str], str, list[bytes]]) -> None:
    _, _, lines = traced
    assert len(lines) > 10_000
    assert all(line.isascii() and line.decode().isprintable() for line in lines)
    said = b"\n".join(lines)
    for name in ("Tversion", "Rversion", "Twalk", "Rwalk", "Tgetattr", "Rgetattr", "Rlerror", "Rerror", "Tstat"):
        assert name.encode() in said
