"""How pyfuse3's tasks wait for the next request.

pyfuse3 has every task take a lock and then wait until the FUSE device is readable. With trio's own lock and wait, each
request costs two or three passes of trio's scheduler and a sleep in epoll, and being woken from that sleep is the
dearest part of a small request. Most requests come in bursts in which the next one is there within microseconds, so:

* the lock is taken without a pass when it is free, and when it is given up the next task is made ready but the current
  one may take it again first (nobody starves: there is one kind of work, and whoever gets the lock does it);
* a task that finds no request looks again for a short while before it sleeps - unless calls are under way in worker
  threads, whose results must not wait, or there is only one processor, which the client needs. How long follows from
  how soon requests have come lately, as in the kernel's own polling for virtual machines (virt/kvm/halt_poll.rst);
* every so often a pass is made anyway, so that signals and other tasks have their turn;
* before each pass it says so, and the tree lets go of descriptors that it kept for the burst.

pyfuse3 looks all this up in its module global `trio`, which is how pyfuse3.asyncio puts another event loop there.
tests/benchmarks states what this brings; without it everything works, only slower.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import pyfuse3
import trio

SPIN_SECONDS: Final = 100e-6
REQUESTS_A_PASS: Final = 64


class Gate:
    """Stands in for trio in pyfuse3; one for a session. `at_rest` is called before it may sleep."""

    def __init__(self, at_rest: Callable[[], None]) -> None:
        self._at_rest = at_rest
        self._locked = False
        self._waiting: list[trio.lowlevel.Task] = []
        self._poll: Callable[[int], list[tuple[int, int]]] | None = None
        self._spins = len(os.sched_getaffinity(0)) > 1
        self._spin = SPIN_SECONDS
        self._since_pass = 0
        self.offloaded = 0

    def install(self) -> None:
        """Gives pyfuse3 this gate in place of trio's lock and wait. To be called before pyfuse3.main()."""
        lowlevel = trio.lowlevel
        pyfuse3.trio = SimpleNamespace(  # type: ignore[attr-defined]
            Lock=lambda: self,
            ClosedResourceError=trio.ClosedResourceError,
            open_nursery=trio.open_nursery,
            lowlevel=SimpleNamespace(
                current_task=lowlevel.current_task,
                current_trio_token=lowlevel.current_trio_token,
                notify_closing=lowlevel.notify_closing,
                wait_readable=self.wait_readable,
            ),
        )

    async def __aenter__(self) -> None:
        while self._locked:
            task = trio.lowlevel.current_task()
            self._waiting.append(task)

            def abort(_: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                if task in self._waiting:
                    self._waiting.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        self._locked = True

    async def __aexit__(self, *_: object) -> None:
        self._locked = False
        if self._waiting:
            trio.lowlevel.reschedule(self._waiting.pop())

    async def wait_readable(self, fd: int) -> None:
        """Returns when a request can be read from `fd`, the FUSE device."""
        if self._poll is None:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            self._poll = poll.poll
        poll_now = self._poll
        self._since_pass += 1
        if not self.offloaded and self._since_pass < REQUESTS_A_PASS:
            if poll_now(0):
                return
            if self._spins:
                start = time.perf_counter()
                end = start + self._spin
                while time.perf_counter() < end:
                    if poll_now(0):
                        return
                await self._sleep(fd)
                soon = time.perf_counter() - start < SPIN_SECONDS
                self._spin = SPIN_SECONDS if soon else self._spin / 2
                return
        await self._sleep(fd)

    async def _sleep(self, fd: int) -> None:
        self._since_pass = 0
        self._at_rest()
        await trio.lowlevel.wait_readable(fd)

    async def offload(self, limiter: trio.CapacityLimiter, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a call that may wait on a disk in a worker thread, while other requests are served.

        When everything is ended by force, the thread is left to its disk.
        """
        self.offloaded += 1
        try:
            return await trio.to_thread.run_sync(
                function, *arguments, limiter=limiter, abandon_on_cancel=True
            )
        finally:
            self.offloaded -= 1
