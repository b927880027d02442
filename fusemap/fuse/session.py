"""A mount's life: from the mounted device to the last request, and the ways it ends.

It ends when it is unmounted from outside, or on SIGTERM, SIGINT and SIGHUP, when the mount is taken away first, so that
nobody can start to wait for a server that has stopped. A second signal does not wait for calls that hang on a disk.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import select
import signal
from collections.abc import Callable

import pyfuse3
import trio

from fusemap.fuse.mountpoint import unmount, widen
from fusemap.fuse.operations import Operations
from fusemap.tree.days import each_day

log = logging.getLogger(__name__)

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Requests under way at once: each that waits for a slow disk is one, and beyond that nobody is heard.
_TASKS = 1000


def serve(operations: Operations, device: int, target: str, ready: Callable[[], None]) -> None:
    """Serves the mounted FUSE `device` until it is unmounted or a signal ends it; calls `ready` when it can answer."""
    operations.gate.install()
    pyfuse3.init(operations, f"/dev/fd/{device}", set())
    # Nodes are never garbage in cycles; looking a million of them through again and again only costs time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    try:
        trio.run(_run, operations, target, ready)
    finally:
        with contextlib.suppress(OSError):
            unmount_if_ours(target, device)
        pyfuse3.close(unmount=False)
        operations.close()


def unmount_if_ours(target: str, device: int) -> None:
    """Takes the mount away unless that has happened; a later mount at the same place stays."""
    poll = select.poll()
    poll.register(device, select.POLLIN)
    if any(events & select.POLLERR for _, events in poll.poll(0)):  # fuse_dev_poll(): not connected any more
        return
    unmount(target)


async def _run(operations: Operations, target: str, ready: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, target, nursery.cancel_scope)
        if operations.table is not None:
            nursery.start_soon(each_day, operations.table.still_here)
        with operations.watch:
            widen(target)
            ready()
            await pyfuse3.main(max_tasks=_TASKS)
        nursery.cancel_scope.cancel()


async def _stop_on_signal(
    target: str, everything: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(*_STOPS) as signals:
        task_status.started()
        asked = False
        async for number in signals:
            if asked:
                log.warning("%s again: not waiting for calls under way", signal.Signals(number).name)
                everything.cancel()
                return
            asked = True
            log.info("%s: unmounting %s", signal.Signals(number).name, target)
            await trio.to_thread.run_sync(unmount, target)
            pyfuse3.terminate()
