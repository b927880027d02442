"""Threads for calls that may wait for a disk or a lock.

Of one device only so many threads are waited for, so that a slow disk is waited for by its own users only. What has
come back is told by an eventfd(2) among the descriptors that `Rounds` watches: a hop by trio's threads costs a task,
two limiters and a pass of its scheduler, more than twice what this does (tests/benchmarks/p9, writing one at a time).

Threads are made when there is more to do than threads, and go when they had nothing to do for a while. They do not keep
the process from ending: one that hangs on a dead disk is left to it.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from fusemap.p9.rounds import Rounds

THREADS_A_DEVICE: Final = 16
IDLE_SECONDS: Final = 10.0

Done: TypeAlias = Callable[[Any, Exception | None], None]
"""Is given what a call returned, or what it raised."""


class _Pool:
    """The threads for one device; all but the queue is the loop's thread's alone."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.jobs: queue.SimpleQueue[tuple[Callable[[], Any], Done] | None] = queue.SimpleQueue()
        self.threads: set[threading.Thread] = set()
        self.under_way = 0


class Workers:
    """Runs calls in threads. To be used by the loop's thread."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._pools: dict[str, _Pool] = {}
        self._back: deque[tuple[_Pool, Done | threading.Thread, Any, Exception | None]] = deque()
        self._told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        rounds.watch(self._told, self._turn)

    def start(self, device: str, run: Callable[[], Any], done: Done) -> None:
        """Calls `run` in a thread, and `done`, which raises nothing, on the loop's thread afterwards.

        An empty `device` is for waits that are limited elsewhere and must not wait for each other (locks).
        """
        pool = self._pools.get(device)
        if pool is None:
            pool = self._pools[device] = _Pool(THREADS_A_DEVICE if device else math.inf)
        pool.under_way += 1
        pool.jobs.put((run, done))
        self._staff(pool)

    def close(self) -> None:
        """Ends the threads that have nothing to do, and waits for them; the others are left to what they wait for."""
        self._rounds.unwatch(self._told)
        idle = [pool for pool in self._pools.values() if not pool.under_way]
        for pool in idle:
            for _ in pool.threads:
                pool.jobs.put(None)
        for pool in idle:
            for thread in pool.threads:
                thread.join()
        if len(idle) == len(self._pools):  # otherwise somebody may still write to it
            os.close(self._told)

    def _staff(self, pool: _Pool) -> None:
        if pool.under_way > len(pool.threads) < pool.most:
            thread = threading.Thread(target=self._work, args=(pool,), name="fusemap worker", daemon=True)
            pool.threads.add(thread)
            thread.start()

    def _work(self, pool: _Pool) -> None:
        while True:
            try:
                job = pool.jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                self._tell(pool, threading.current_thread(), None, None)
                return
            if job is None:
                return
            run, done = job
            try:
                result = run()
            except Exception as error:
                self._tell(pool, done, None, error)
            else:
                self._tell(pool, done, result, None)
            del job, run, done  # what they refer to is not kept while this waits

    def _tell(self, pool: _Pool, what: Done | threading.Thread, result: Any, error: Exception | None) -> None:
        self._back.append((pool, what, result, error))
        os.eventfd_write(self._told, 1)

    def _turn(self) -> None:
        os.eventfd_read(self._told)
        while self._back:
            pool, what, result, error = self._back.popleft()
            if isinstance(what, threading.Thread):
                pool.threads.discard(what)
                self._staff(pool)  # a call may have been queued just when it gave up
            else:
                pool.under_way -= 1
                what(result, error)
