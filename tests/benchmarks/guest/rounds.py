"""Measuring side by side in one boot, as tests.benchmarks.rounds does: the ways take turns within seconds.

Each slice of a work is done in a new mount, so that the guest knows nothing of the tree; the servers and the host's
caches are warm. It ends when the tree is unmounted, since a client that caches has written everything only then.

Where the time goes is told by clocks of the kernel: the processor time of the guest (QEMU's thread of its processor),
of the rest of QEMU (which carries the bytes, and is the server itself in its own 9pfs), and of the server. What is left
of the elapsed time, nobody worked: somebody was being woken up. A first round that is not timed has the guest's kernel
count the requests by their type (its tracepoint 9p_client_req), for every way alike.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from fusemap.p9.messages import NUMBERS
from tests.benchmarks.guest import works
from tests.benchmarks.guest.ways import MOUNTED, Servers, Way
from tests.benchmarks.guest.works import Shape, Slice, Work
from tests.benchmarks.known import processor_seconds
from tests.guest.machine import Guest

RUN_SECONDS: Final = 300.0
_TRACING: Final = "/sys/kernel/tracing"
_TRIGGER: Final = f"{_TRACING}/events/9p/9p_client_req/trigger"
_HISTOGRAM: Final = f"{_TRACING}/events/9p/9p_client_req/hist"
_COUNTED: Final = re.compile(r"\{ type: +(\d+) \} hitcount: +(\d+)")
_NAMES: Final = {number: kind.__name__ for kind, number in NUMBERS.items()}


class Mode(NamedTuple):
    """How the guest mounts."""

    cache: str
    msize: int

    def __str__(self) -> str:
        return f"cache={self.cache} {self.msize >> 10}K"


class Value(NamedTuple):
    """One run in seconds: elapsed; processor time of the guest, of the rest of QEMU, of the server."""

    elapsed: float
    guest: float
    qemu: float
    server: float


Case = tuple[str, str]
"""the keys of a work and of a mode, `str(mode)`"""
Values = dict[Case, dict[str, list[Value]]]
"""case -> way -> one value a round"""
Requests = dict[Case, dict[str, dict[str, int]]]
"""case -> way -> type of request -> how many the guest made"""


def cases(chosen: Sequence[Work], caches: Sequence[str], sizes: Sequence[int]) -> list[tuple[Work, Mode]]:
    """What is measured: data by every size of messages, the rest by the first."""
    return [
        (work, Mode(cache, size))
        for work in chosen
        for cache in caches
        for size in (sizes if work.bulk else sizes[:1])
    ]


class Bench:
    """Measures `ways` in `guest`, which has booted."""

    def __init__(
        self, guest: Guest, servers: Servers, ways: Sequence[Way], tree: Path, shape: Shape, tell: Callable[[str], None]
    ) -> None:
        self._guest, self._servers, self._ways = guest, servers, ways
        self._tree, self._shape, self._tell = tree, shape, tell
        self._processor = _processor(guest.pid)

    def count(self, chosen: Sequence[tuple[Work, Mode]]) -> Requests:
        """Runs each case once with each way, and has the guest count. Raises OSError on a wrong result."""
        self._guest.sh(f"mount -t tracefs tracefs {_TRACING}")
        requests: Requests = {}
        for work, mode in chosen:
            for way in self._ways:
                self._tell(f"counting requests: {work.title}, {mode}, {way.title}")
                self._guest.sh(f"echo hist:keys=type > {_TRIGGER}")
                for some in work.slices(self._shape):
                    self._run(work, some, mode, way)
                said = self._guest.sh(f"cat {_HISTOGRAM}; echo '!hist:keys=type' > {_TRIGGER}")
                found = {_NAMES.get(int(kind), kind): int(count) for kind, count in _COUNTED.findall(said)}
                requests.setdefault((work.key, str(mode)), {})[way.name] = dict(sorted(found.items()))
        return requests

    def measure(self, chosen: Sequence[tuple[Work, Mode]], rounds: int) -> Values:
        """Times the cases in `rounds` rounds. Raises OSError on a wrong result."""
        values: Values = {(work.key, str(mode)): {way.name: [] for way in self._ways} for work, mode in chosen}
        for turn in range(rounds):
            for work, mode in chosen:
                slices = work.slices(self._shape)
                parts: dict[str, list[Value]] = {way.name: [] for way in self._ways}
                for step, some in enumerate(slices):
                    self._tell(f"round {turn + 1} of {rounds}: {work.title}, {mode}, {step + 1} of {len(slices)}")
                    first = (turn + step) % len(self._ways)
                    for way in (*self._ways[first:], *self._ways[:first]):
                        parts[way.name].append(self._run(work, some, mode, way))
                for name, all_ in parts.items():
                    values[work.key, str(mode)][name].append(Value(*map(sum, zip(*all_, strict=True))))
        return values

    def _run(self, work: Work, some: Slice, mode: Mode, way: Way) -> Value:
        works.before(work, self._tree)
        self._servers.mount(self._guest, way, cache=mode.cache, msize=mode.msize)
        spent, begun = self._spent(way), time.monotonic()
        said = self._guest.sh(f"cd {MOUNTED} && {some.script} && cd / && umount {MOUNTED}", RUN_SECONDS)
        elapsed = time.monotonic() - begun
        guest, qemu, server = (now - then for now, then in zip(self._spent(way), spent, strict=True))
        if said.strip() != some.answer:
            raise OSError(f"{way.title}, {work.title}: the guest says {said.strip()}, not {some.answer}")
        works.after(work, self._tree, self._shape)
        return Value(elapsed, guest, qemu - guest, server)

    def _spent(self, way: Way) -> tuple[float, float, float]:
        running = self._servers.running.get(way.server)
        with open(self._processor) as file:
            guest = int(file.read().split()[0]) / 1e9
        return guest, processor_seconds(self._guest.pid), processor_seconds(running.pid) if running else 0.0


def _processor(pid: int) -> str:
    """The times of the thread that is the guest's processor, as QEMU names it with debug-threads=on."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith("CPU 0/"):
            return os.fspath(task / "schedstat")
    raise OSError("QEMU has no thread called CPU 0")


def medians(values: Values) -> dict[Case, dict[str, Value]]:
    """The median of the rounds."""
    return {
        case: {name: Value(*map(median, zip(*all_, strict=True))) for name, all_ in by_way.items()}
        for case, by_way in values.items()
    }


def ratio(values: Values, case: Case, one: str, other: str) -> float:
    """By how much one way takes longer than another: the median of the rounds' own ratios."""
    pairs = zip(values[case][one], values[case][other], strict=True)
    return median(mine.elapsed / theirs.elapsed for mine, theirs in pairs)
