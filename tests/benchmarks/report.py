"""What must be reached, and the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.jobs import JOBS
from tests.benchmarks.rounds import PHASES, Medians

MAPPING_RATIO: Final = 3.0
STARTUP_SECONDS: Final = 0.5
BYTES_AN_INODE: Final = 700.0
DESCRIPTORS: Final = 1024
_TITLES: Final = {job.key: job.title for job in JOBS}


@dataclass(frozen=True, slots=True)
class Target:
    """fusemap's time over another's, in one job and phase, and the most that it may be."""

    job: str
    phase: str
    other: str
    most: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line: what was looked at, what was found, what is asked."""

    what: str
    found: str
    asked: str
    met: bool

    def as_dict(self) -> dict[str, str | bool]:
        """For JSON."""
        return {"what": self.what, "found": self.found, "asked": self.asked, "met": self.met}


def _targets() -> Iterator[Target]:
    for job in ("du", "ls", "size"):
        yield Target(job, "cold", "bindfs", 1 / 4)
        yield Target(job, "cold", "mergerfs", 1 / 4)
        yield Target(job, "cold", "host", 8)
    for phase in PHASES:
        yield Target("inode", phase, "mergerfs", 2)
        yield Target("cat", phase, "bindfs", 1)
        yield Target("tar", phase, "bindfs", 1)
        yield Target("churn", phase, "bindfs", 1.5)
        yield Target("read", phase, "bindfs", 1)
        yield Target("write", phase, "bindfs", 1)
    yield Target("read", "warm", "mergerfs", 2)


TARGETS: Final = tuple(sorted(_targets(), key=lambda target: list(_TITLES).index(target.job)))


def judge(found: Medians) -> list[Verdict]:
    """The targets whose job was measured, by the ratio of the medians."""
    verdicts = []
    for target in TARGETS:
        times = found.get(target.job, {}).get(target.phase, {})
        if "fusemap" in times and target.other in times:
            ratio = times["fusemap"] / times[target.other]
            verdicts.append(
                Verdict(
                    f"{_TITLES[target.job]}, {target.phase}, against {target.other}",
                    _times(ratio, target.most),
                    _times(target.most, target.most),
                    ratio <= target.most,
                )
            )
    return verdicts


def judge_mapping(found: Mapping[str, float]) -> Verdict:
    """`found` as tests.benchmarks.mapping.measure() gives it."""
    ratio = found["ratio"]
    what = f"Mapper.path, {found['path']:.0f} ns a call, against dict.get"
    return Verdict(what, f"{ratio:.2f} times its time", f"{MAPPING_RATIO:.2f} times its time", ratio <= MAPPING_RATIO)


def judge_startup(found: Mapping[str, float]) -> Verdict:
    """`found` as tests.benchmarks.startup.measure() gives it."""
    what = f"opening a full table, {found['ratio']:.2f} times json.load"
    return Verdict(what, f"{found['table']:.2f} s", f"{STARTUP_SECONDS:.2f} s", found["table"] <= STARTUP_SECONDS)


def judge_known(found: Mapping[str, float]) -> list[Verdict]:
    """`found` as tests.benchmarks.known.measure() gives it."""
    nodes, size, fds = found["nodes"], found["bytes_an_inode"], found["descriptors"]
    memory = f"memory for each of {nodes:.0f} known inodes"
    return [
        Verdict(memory, f"{size:.0f} bytes", f"{BYTES_AN_INODE:.0f} bytes", size <= BYTES_AN_INODE),
        Verdict(f"descriptors at {nodes:.0f} known inodes", f"{fds:.0f}", f"under {DESCRIPTORS}", fds < DESCRIPTORS),
    ]


def times_table(found: Medians, contenders: list[str]) -> Iterator[str]:
    """The medians in seconds, a line for each job and phase."""
    yield f"{'seconds (medians)':32}" + "".join(f"{name:>10}" for name in contenders)
    for job, by_phase in found.items():
        for phase, times in by_phase.items():
            yield f"{_TITLES[job] + ', ' + phase:32}" + "".join(f"{times[name]:10.3f}" for name in contenders)


def verdicts_table(verdicts: list[Verdict]) -> Iterator[str]:
    """What was found beside what is asked, a line for each target."""
    yield f"{'target':60}{'found':>22}{'asked':>22}"
    for verdict in verdicts:
        yield f"{verdict.what:60}{verdict.found:>22}{verdict.asked:>22}  {'pass' if verdict.met else 'MISS'}"
    missed = sum(not verdict.met for verdict in verdicts)
    yield f"{len(verdicts) - missed} of {len(verdicts)} targets reached"


def _times(ratio: float, most: float) -> str:
    """In the way in which the target is put: how many times faster, or how many times the other's time."""
    return f"{1 / ratio:.2f} times faster" if most < 1 else f"{ratio:.2f} times its time"
