"""What must be reached, and the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tests.benchmarks.p9.memory import LIMIT
from tests.benchmarks.p9.rounds import Fids, Medians
from tests.benchmarks.p9.works import WORKS
from tests.benchmarks.report import Verdict

BYTES_A_FID: Final = 1024.0
RATIOS: Final = {
    "getattr": 1.0,
    "walk": 1.0,
    "getattr-32": 2.0,
    "list": 1.0,
    "read-4": 0.8,
    "read-1": 0.8,
    "write-4": 0.8,
    "write-1": 0.8,
}
"""work -> the least that fusemap's rate may be, in terms of diod's"""
_OURS: Final = "fusemap"
_OTHER: Final = "diod"


def judge(found: Medians) -> list[Verdict]:
    """The targets whose work was measured, by the ratio of the medians."""
    verdicts = []
    for work in WORKS:
        rates = {name: value.rate for name, value in found.get(work.key, {}).items()}
        if work.key in RATIOS and {_OURS, _OTHER} <= rates.keys():
            ratio, least = rates[_OURS] / rates[_OTHER], RATIOS[work.key]
            what = f"{work.title}, against {_OTHER}"
            verdicts.append(Verdict(what, f"{ratio:.2f} times its rate", f"{least:.2f} times its rate", ratio >= least))
    one, many = (found.get(key, {}).get(_OURS) for key in ("client", "clients"))
    if one and many:
        ratio = many.rate / one.rate
        what = "8 clients together, against one alone"
        verdicts.append(Verdict(what, f"{ratio:.2f} times its rate", "1.00 times its rate", ratio >= 1))
    return verdicts


def judge_fids(found: Fids) -> list[Verdict]:
    """The targets of a fid's cost, when fusemap's was measured."""
    ours = found.get(_OURS)
    if ours is None:
        return []
    count, size, fds = ours["fids"], ours["bytes_a_fid"], ours["descriptors"]
    memory = f"memory for each of {count:.0f} fids"
    return [
        Verdict(memory, f"{size:.0f} bytes", f"{BYTES_A_FID:.0f} bytes", size <= BYTES_A_FID),
        Verdict(f"descriptors with {count:.0f} fids", f"{fds:.0f}", f"under {LIMIT}", fds < LIMIT),
    ]


def rates_table(found: Medians, names: Sequence[str]) -> Iterator[str]:
    """The medians: a line for each work, with the rates, the last one's over the first's, processor time for a unit."""
    heads = [*names, *["ratio"] * (len(names) > 1), *(f"{name} cpu" for name in names)]
    yield f"{'a second (medians)':58}" + "".join(f"{head:>14}" for head in heads)
    for work in WORKS:
        by_name = found.get(work.key)
        if by_name:
            values = [by_name[name] for name in names]
            cells = [f"{value.rate:,.0f}" for value in values]
            if len(values) > 1:
                cells.append(f"{values[-1].rate / values[0].rate:.2f}")
            cells += [f"{value.micros:.1f} us" for value in values]
            yield f"{work.title + ', ' + work.unit:58}" + "".join(f"{cell:>14}" for cell in cells)


def notes(found: Medians, fids: Fids) -> Iterator[str]:
    """What else there is to say: the msize that each server agreed to, and what a fid costs it."""
    sizes = {name: value.msize for by_name in found.values() for name, value in by_name.items()}
    for name, size in sizes.items():
        yield f"{name} agreed to an msize of {size:.0f}"
    for name, cost in fids.items():
        yield (
            f"{name}: {cost['bytes_a_fid']:.0f} bytes for each of {cost['fids']:.0f} fids, "
            f"{cost['descriptors']:.0f} descriptors"
        )
