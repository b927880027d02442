"""Where a live page's state comes from: a mount that is asked again and again, or a census that is taken once.

A feed writes to a board and knows nothing of browsers, and it finds things out in threads: a mount or a disk that does
not answer keeps a feed waiting, and not the page's server. Tests have feeds of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

import trio

from fusemap.view.board import Board, encoded
from fusemap.view.live import live_model
from fusemap.view.reading import Reading, SoFar

INTERVAL_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 5.0
"""How often a mount is asked when nobody looks: to notice when it is gone."""

Told = Callable[[str, int, int], None]
"""Is told what is being done, of how many names, on how many devices."""


class Feed(Protocol):
    """Feeds a board."""

    async def run(self, board: Board) -> str:
        """Writes to the board until no more can come; returns the sentence that says why."""


class MountFeed:
    """Asks a mount. `read` takes a reading and raises `gone`, whose text is a sentence, when it is not mounted."""

    def __init__(
        self, read: Callable[[], Reading], gone: type[Exception], interval: float = INTERVAL_SECONDS,
        idle: float = IDLE_SECONDS,
    ) -> None:  # fmt: skip
        self._read = read
        self._gone = gone
        self._interval = interval
        self._idle = idle
        self._so_far = SoFar()

    async def run(self, board: Board) -> str:
        """See `Feed`."""
        while True:
            try:
                parts = await trio.to_thread.run_sync(self._parts, abandon_on_cancel=True)
            except self._gone as gone:
                return str(gone)
            board.update(parts)
            await trio.sleep(self._interval)
            if not board.readers:
                with trio.move_on_after(self._idle):
                    await board.watched()

    def _parts(self) -> dict[str, bytes]:
        return {key: encoded(part) for key, part in live_model(self._so_far.add(self._read())).items()}


class CensusFeed:
    """Takes a census: `make` does, and returns the page's object; it runs in a thread and is told of by what it calls.

    Raises what `make` raises.
    """

    def __init__(self, make: Callable[[Told], dict[str, Any]]) -> None:
        self._make = make
        self._stopped = threading.Event()

    async def run(self, board: Board) -> str:
        """See `Feed`: what was found stays, so this never returns."""
        try:
            board.update(await trio.to_thread.run_sync(self._parts, board, abandon_on_cancel=True))
            await trio.sleep_forever()
        finally:
            self._stopped.set()
        raise AssertionError  # sleep_forever() does not return

    def _parts(self, board: Board) -> dict[str, bytes]:
        def told(doing: str, names: int, devices: int, done: float | None = None) -> None:
            if self._stopped.is_set():
                raise Abandoned
            trio.from_thread.run_sync(board.progress, doing, names, devices)

        return {key: encoded(part) for key, part in self._make(told).items()}


class Abandoned(Exception):
    """Nobody waits for the census any more."""
