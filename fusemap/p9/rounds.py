"""Rounds: who of all connections has something to say, and each gets a turn.

With a task that waits for each connection's socket, a small request costs more in the scheduler and in being woken than
in being answered: arming epoll, a pass or two of trio's loop, and a sleep from which the kernel takes tens of
microseconds to wake us. So one task watches them all by one epoll and calls each connection's turn, a plain function.
When nobody has said anything it looks again for a short while before it sleeps, if requests have mostly come
that soon of late; otherwise it would only take the processor that the client needs, such as a virtual machine and
what carries its bytes. Nor does it while calls are under way in threads, whose results must not wait, nor with one
processor. Everything else (who does not read his replies, who must wait for a disk) is the connections' own tasks', and
passes of the loop are made often enough for those, for signals and for new connections.

It sleeps for a moment in its own epoll before it does in trio's: a client such as a virtual machine, which takes half a
millisecond from an answer to its next request, would otherwise cost a pass and an epoll_ctl(2) each time, more than
most requests do. Only where every connection waits for its turn and nothing else: a task of trio's would have to wait
too. When the moment has passed in silence, `rest` is called: the tree lets go of the descriptors that it kept for the
burst, so that an idle server keeps nothing below the tree busy. A moment, since finding a file anew for each request
would cost as much as the rest of it. A timer of trio's for that, during the burst, would cost more still.

tests/benchmarks/p9 states what this brings. fusemap/fuse/loop.py does the same for the FUSE device.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Final

import trio

SPIN_SECONDS: Final = 250e-6
# Requests that came within SPIN_SECONDS count for looking again, each one that did not LATE times against it.
SPIN_AFTER: Final = 2
SOON_AT_MOST: Final = 12
LATE: Final = 2
ROUNDS_A_PASS: Final = 64
SECONDS_A_PASS: Final = 0.005
SECONDS_A_PASS_WITH_WORK: Final = 0.0003  # a finished call waits no longer than this for its reply to be sent
QUIET_SECONDS: Final = 0.002


class Rounds:
    """Watches descriptors.

    `under_way` tells how many calls run in threads, `calm` whether no task waits for anything but a turn or a client
    to come. `rest` is called when nobody has asked for anything for a moment.
    """

    def __init__(self, under_way: Callable[[], int], calm: Callable[[], bool], rest: Callable[[], None]) -> None:
        self._under_way = under_way
        self._calm = calm
        self._rest = rest
        self._asked = True
        self._epoll = select.epoll()
        self._turns: dict[int, Callable[[], None]] = {}
        self._spins = len(os.sched_getaffinity(0)) > 1
        self._soon = 0

    def watch(self, fd: int, turn: Callable[[], None]) -> None:
        """Calls `turn`, which raises nothing, whenever `fd` can be read or has ended. Raises OSError."""
        self._epoll.register(fd, select.EPOLLIN)
        self._turns[fd] = turn

    def unwatch(self, fd: int) -> None:
        """No more turns for `fd`."""
        if self._turns.pop(fd, None) is not None and not self._epoll.closed:
            self._epoll.unregister(fd)

    @property
    def watched(self) -> int:
        """How many descriptors are watched."""
        return len(self._turns)

    def asked(self) -> None:
        """A request has come, or the answer to one has been made."""
        self._asked = True

    async def run(self) -> None:
        """Gives turns until it is cancelled; nobody gets one after that."""
        try:
            await self._run()
        finally:
            self._epoll.close()

    async def _run(self) -> None:
        poll, turns, clock = self._epoll.poll, self._turns, time.perf_counter
        rounds, passed = 0, clock()
        while True:
            start = now = clock()
            if self._spins and self._soon >= SPIN_AFTER and not self._under_way():
                end = start + SPIN_SECONDS
                ready = poll(0)
                while not ready and now < end:
                    ready = poll(0)
                    now = clock()
            else:
                ready = []
            if not ready:
                ready = self._doze()
                if not ready:
                    await self._sleep()
                    rounds, passed = 0, clock()
                if clock() - start < SPIN_SECONDS:
                    self._soon = min(self._soon + 1, SOON_AT_MOST)
                else:
                    self._soon = max(self._soon - LATE, 0)
            for fd, _ in ready:
                turn = turns.get(fd)  # whoever had his turn before may have ended another
                if turn is not None:
                    turn()
            rounds += 1
            seconds = SECONDS_A_PASS_WITH_WORK if self._under_way() else SECONDS_A_PASS
            if rounds >= ROUNDS_A_PASS or clock() - passed > seconds:
                await trio.lowlevel.checkpoint()
                rounds, passed = 0, clock()

    def _doze(self) -> list[tuple[int, int]]:
        """Waits for a moment, where nobody else has to; who has something to say."""
        if not self._calm():
            return self._epoll.poll(0)
        ready = self._epoll.poll(QUIET_SECONDS)
        if not ready:
            self._be_quiet()
        return ready

    async def _sleep(self) -> None:
        """Returns when somebody has something to say, or when nobody has had for a moment."""
        if not self._asked:
            await trio.lowlevel.wait_readable(self._epoll)
            return
        with trio.move_on_after(QUIET_SECONDS) as moment:
            await trio.lowlevel.wait_readable(self._epoll)
        if moment.cancelled_caught:
            self._be_quiet()

    def _be_quiet(self) -> None:
        if self._asked:
            self._asked = False
            self._rest()
