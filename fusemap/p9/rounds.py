"""Rounds: who of all connections has something to say, and each gets a turn.

With a task that waits for each connection's socket, a small request costs more in the scheduler and in being woken than
in being answered: arming epoll, a pass or two of trio's loop, and a sleep from which the kernel takes tens of
microseconds to wake us. So one task watches them all by one epoll and calls each connection's turn, a plain function.
When nobody has said anything it looks again for a short while before it sleeps, as long as that has been worth it
lately; not while calls are under way in threads, whose results must not wait, nor with one processor, which the client
needs. Everything else (who does not read his replies, who must wait for a disk) is the connections' own tasks', and
passes of the loop are made often enough for those, for signals and for new connections.

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
ROUNDS_A_PASS: Final = 64
SECONDS_A_PASS: Final = 0.005
SECONDS_A_PASS_WITH_WORK: Final = 0.0003  # a finished call waits no longer than this for its reply to be sent


class Rounds:
    """Watches descriptors. `under_way` tells how many calls run in threads."""

    def __init__(self, under_way: Callable[[], int]) -> None:
        self._under_way = under_way
        self._epoll = select.epoll()
        self._turns: dict[int, Callable[[], None]] = {}
        self._spins = len(os.sched_getaffinity(0)) > 1
        self._spin = SPIN_SECONDS

    def watch(self, fd: int, turn: Callable[[], None]) -> None:
        """Calls `turn`, which raises nothing, whenever `fd` can be read or has ended. Raises OSError."""
        self._epoll.register(fd, select.EPOLLIN)
        self._turns[fd] = turn

    def unwatch(self, fd: int) -> None:
        """No more turns for `fd`."""
        if self._turns.pop(fd, None) is not None and not self._epoll.closed:
            self._epoll.unregister(fd)

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
            ready = poll(0)
            if not ready:
                start = now = clock()
                if self._spins and not self._under_way():
                    end = start + self._spin
                    while not ready and now < end:
                        ready = poll(0)
                        now = clock()
                if not ready:
                    await trio.lowlevel.wait_readable(self._epoll)
                    rounds, passed = 0, clock()
                    self._spin = SPIN_SECONDS if passed - start < SPIN_SECONDS else self._spin / 2
                    continue
            for fd, _ in ready:
                turn = turns.get(fd)  # whoever had his turn before may have ended another
                if turn is not None:
                    turn()
            rounds += 1
            seconds = SECONDS_A_PASS_WITH_WORK if self._under_way() else SECONDS_A_PASS
            if rounds >= ROUNDS_A_PASS or clock() - passed > seconds:
                await trio.lowlevel.checkpoint()
                rounds, passed = 0, clock()
