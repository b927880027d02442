"""Measuring side by side, as tests.benchmarks.rounds does: the servers take turns within seconds.

Both servers are started anew for a round. In a round each work is done once with every server before the next work,
and each begins with another server. The one that is not asked sleeps.

Where server and client run decides more than anything else about work that is done one request at a time. To wake a
process on another processor takes tens of microseconds, on a virtual machine most of all, and the scheduler puts the
two together or apart as it likes, for one server so and for the other so. Hence PLACES: "free" is what users get,
"apart" has them wake each other across processors as an idle guest or another host does, and "one" is without all that:
there the rate says what a request costs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from tests.benchmarks.known import processor_seconds
from tests.benchmarks.p9 import load, memory, works
from tests.benchmarks.p9.servers import Running, Server
from tests.benchmarks.p9.works import Shape, Work


class Value(NamedTuple):
    """One run: units a second, the server's processor time for a unit in microseconds, the msize agreed."""

    rate: float
    micros: float
    msize: float


Values = dict[str, dict[str, list[Value]]]
"""work -> server -> one value a round"""
Medians = dict[str, dict[str, Value]]
Fids = dict[str, dict[str, float]]
"""server -> what tests.benchmarks.p9.memory.measure() gives"""

FIDS: Final = "fids"
PLACES: Final = ("free", "apart", "one")


def place(name: str) -> tuple[Collection[int], Collection[int]]:
    """The processors of servers and of clients, none for any. Raises ValueError when there are too few."""
    cpus = sorted(os.sched_getaffinity(0))
    if name == "free":
        return (), ()
    if name == "one":
        return cpus[:1], cpus[:1]
    if len(cpus) < 2:
        raise ValueError("there is only one processor")
    return cpus[:-1], cpus[-1:]


class Bench:
    """A tree, the compiled load generator, and who is measured with them; below `directory`, an empty one."""

    def __init__(
        self,
        directory: Path,
        shape: Shape,
        servers: Sequence[Server],
        where: str = "free",
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Builds the tree. `where` is one of PLACES. Raises OSError, CalledProcessError, ValueError."""
        self.shape, self.servers, self.tell = shape, servers, tell
        self._server_cpus, self._client_cpus = place(where)
        self._directory, self._tree = directory, directory / "tree"
        tell("making the tree")
        self._program = load.build(directory)
        works.build(self._tree, shape)

    def measure(self, chosen: Sequence[Work], rounds: int) -> Values:
        """Times the works in `rounds` rounds. Raises OSError when a server fails, or replies what it must not."""
        values: Values = {work.key: {server.name: [] for server in self.servers} for work in chosen}
        for turn in range(rounds):
            with ExitStack() as stack:
                running = [(each, stack.enter_context(self._running(each))) for each in self.servers]
                for step, work in enumerate(chosen):
                    first = (turn + step) % len(running)
                    for server, place in (*running[first:], *running[:first]):
                        self.tell(f"round {turn + 1} of {rounds}: {work.title}, {server.name}")
                        values[work.key][server.name].append(self._run(work, server, place))
        return values

    def fids(self, rounds: int) -> Fids:
        """The medians of what fids cost each server. Raises OSError."""
        found: dict[str, list[dict[str, float]]] = {server.name: [] for server in self.servers}
        for turn in range(rounds):
            for server in self.servers:
                self.tell(f"round {turn + 1} of {rounds}: {self.shape.fids} fids, {server.name}")
                each = memory.measure(server, self._program, self._tree, self._log(server), self.shape)
                found[server.name].append(each)
        return {name: {key: median(each[key] for each in all_) for key in all_[0]} for name, all_ in found.items()}

    def _running(self, server: Server) -> AbstractContextManager[Running]:
        cpus = self._server_cpus
        settle = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
        return server.running(self._tree, self._log(server), preexec_fn=settle)

    def _run(self, work: Work, server: Server, at: Running) -> Value:
        works.before(work, self._tree)
        spent = processor_seconds(at.pid)
        try:
            done = load.run(self._program, at.port, at.aname, work.arguments(self.shape), self._client_cpus)
        except OSError as error:
            log = self._log(server).read_text(errors="replace")
            raise OSError(f"{error}; {server.name} says:\n{log}") from None
        spent = processor_seconds(at.pid) - spent
        works.after(work, self._tree, self.shape, int(done["msize"]))
        units = done["count"] * work.worth
        return Value(units / done["seconds"], spent * 1e6 / units, done["msize"])

    def _log(self, server: Server) -> Path:
        return self._directory / f"{server.name}.log"


def medians(values: Values) -> Medians:
    """The median of the rounds, in the same shape."""
    return {
        work: {name: Value(*map(median, zip(*all_, strict=True))) for name, all_ in by_name.items()}
        for work, by_name in values.items()
    }
