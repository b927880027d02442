"""What must be reached, and the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tests.benchmarks.guest.rounds import Case, Requests, Values, medians, ratio
from tests.benchmarks.guest.ways import DIOD_WAY, QEMU_WAY, TCP_WAY, Way
from tests.benchmarks.guest.works import WORKS
from tests.benchmarks.report import Verdict

TARGETS: Final = (
    ("find", TCP_WAY, DIOD_WAY, 1.0),
    ("find", TCP_WAY, QEMU_WAY, 2.0),
)
"""work, way, another, and the most that the way's time may be in terms of the other's"""
_TITLES: Final = {work.key: work.title for work in WORKS}


def judge(values: Values) -> list[Verdict]:
    """The targets whose work and ways were measured."""
    verdicts = []
    for key, way, other, most in TARGETS:
        for case, by_way in values.items():
            if case[0] == key and {way.name, other.name} <= by_way.keys():
                found = ratio(values, case, way.name, other.name)
                what = f"{_name(case)}: {way.title}, against {other.title}"
                asked = f"{most:.2f} times its time"
                verdicts.append(Verdict(what, f"{found:.2f} times its time", asked, found <= most))
    return verdicts


def times_table(values: Values, ways: Sequence[Way]) -> Iterator[str]:
    """The medians in seconds, and every other way's time in terms of the first's; a line for each case."""
    heads = [*(way.title for way in ways), *(f"{way.name}/{ways[0].name}" for way in ways[1:])]
    yield f"{'seconds (medians)':40}" + "".join(f"{head:>18}" for head in heads)
    for case, by_way in medians(values).items():
        cells = [f"{by_way[way.name].elapsed:.3f}" for way in ways]
        cells += [f"{ratio(values, case, way.name, ways[0].name):.2f}" for way in ways[1:]]
        yield f"{_name(case):40}" + "".join(f"{cell:>18}" for cell in cells)


def shares_table(values: Values, requests: Requests, ways: Sequence[Way]) -> Iterator[str]:
    """Where the time goes, for each request: elapsed, and the processor time of guest, QEMU and server."""
    heads = ("requests", "elapsed", "guest", "QEMU", "server")
    yield f"{'microseconds a request':60}" + "".join(f"{head:>10}" for head in heads)
    for case, by_way in medians(values).items():
        for way in ways:
            count = sum(requests[case][way.name].values())
            cells = [f"{count}", *(f"{seconds * 1e6 / count:.0f}" for seconds in by_way[way.name])]
            yield f"{_name(case) + ', ' + way.title:60}" + "".join(f"{cell:>10}" for cell in cells)


def _name(case: Case) -> str:
    return f"{_TITLES[case[0]]}, {case[1]}"
