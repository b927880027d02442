"""Sequences of requests, made by hypothesis and found by the fuzzer before: what must hold is said in harness.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusemap.p9.wire import Dialect

from ...support import needs
from ..test_wire import same_or_wire_error
from .harness import play, play_bytes

CORPUS = Path(__file__).parent / "corpus"
STEPS = 25


class Drawn:
    """Choices that hypothesis makes, and makes simpler when a game fails."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw
        self._steps = 0

    def below(self, count: int) -> int:
        return self._draw(st.integers(0, count - 1))

    def more(self) -> bool:
        self._steps += 1
        return self._steps <= STEPS


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
@given(st.data())
def test_what_must_hold_holds_whatever_is_asked(data: st.DataObject) -> None:
    needs.root()
    play(Drawn(data))


@pytest.mark.parametrize("entry", sorted(CORPUS.glob("session-*")), ids=lambda path: path.name)
def test_games_that_were_found_hold(entry: Path) -> None:
    needs.root()
    play_bytes(entry.read_bytes())


@pytest.mark.parametrize("entry", sorted(CORPUS.glob("frame-*")), ids=lambda path: path.name)
def test_frames_that_were_found_are_refused_or_understood(entry: Path) -> None:
    for dialect in Dialect:
        same_or_wire_error(entry.read_bytes(), dialect)
