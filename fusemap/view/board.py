"""What a live page shows now, for any number of browsers that come and go.

Somebody writes to the board (`progress`, `update`, `end`), and each stream of events reads from it at its own pace. The
board keeps what is true now and when each part of it last changed, never a queue: a browser that was slow, or asleep
for an hour, gets one event with the parts that are new to it. So nothing piles up, and nobody waits for anybody.

The parts are the outermost keys of the page's object, the events those of a live source: see fusemap.view.model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Final, NamedTuple

import trio


class Event(NamedTuple):
    """What a stream is to be told: the kind of event, and its data as JSON on one line."""

    kind: str
    data: bytes


def encoded(value: object) -> bytes:
    """JSON in ASCII on one line: names that are not UTF-8 are escaped lone surrogates, as everywhere in fusemap."""
    return json.dumps(value, separators=(",", ":")).encode()


class Board:
    """The newest state of a page. To be used in the thread of the trio loop; `encoded` may be called elsewhere."""

    def __init__(self) -> None:
        self._clock = 0
        self._begun = 0  # when the model was first there: who has seen that gets changes only
        self._parts: dict[str, tuple[int, bytes]] = {}
        self._progress: tuple[int, bytes] | None = None
        self._end: bytes | None = None
        self._changed = trio.Event()
        self._readers = 0
        self._watched = trio.Event()
        self._left = trio.Event()

    @property
    def readers(self) -> int:
        """How many streams are open."""
        return self._readers

    async def watched(self) -> None:
        """Waits until somebody looks: nothing needs to be found out for an empty room."""
        await self._watched.wait()

    async def left(self) -> None:
        """Waits until no stream is open."""
        if self._readers:
            await self._left.wait()

    def progress(self, doing: str, names: int, devices: int) -> None:
        """There is no model yet: `doing` (a verb form) of so many names, on so many devices."""
        self._progress = (self._tick(), encoded({"doing": doing, "names": names, "devices": devices}))

    def update(self, parts: Mapping[str, bytes]) -> bool:
        """Replaces parts of the model, each given as JSON (`encoded`); says whether any of them is another one now.

        The first update is the whole model.
        """
        new = {key: data for key, data in parts.items() if key not in self._parts or self._parts[key][1] != data}
        if new:
            now = self._tick()
            self._begun = self._begun or now
            self._parts.update((key, (now, data)) for key, data in new.items())
        return bool(new)

    def end(self, why: str) -> None:
        """Nothing more will come; `why` is a sentence. Streams end when they have told it."""
        if self._end is None:
            self._end = encoded({"why": why})
            self._tick()

    def reader(self) -> Reader:
        """A stream of its own, which begins with all there is. To be used with `with`."""
        return Reader(self)

    def _tick(self) -> int:
        self._clock += 1
        self._changed.set()
        self._changed = trio.Event()
        return self._clock

    def _news(self, since: int) -> list[Event]:
        news = []
        if self._parts:
            parts = {key: data for key, (changed, data) in self._parts.items() if changed > since}
            if parts:
                whole = b"{%b}" % b",".join(b"%b:%b" % (encoded(key), data) for key, data in parts.items())
                news.append(Event("change" if since >= self._begun else "model", whole))
        elif self._progress is not None and self._progress[0] > since:
            news.append(Event("progress", self._progress[1]))
        if self._end is not None and since < self._clock:
            news.append(Event("end", self._end))
        return news


class Reader:
    """One stream. `ended` once it has been told the end."""

    def __init__(self, board: Board) -> None:
        self._board: Final = board
        self._seen = 0
        self.ended = False

    def __enter__(self) -> Reader:
        self._board._readers += 1
        self._board._watched.set()
        self._board._left = trio.Event()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board._readers -= 1
        if not self._board._readers:
            self._board._watched = trio.Event()
            self._board._left.set()

    async def news(self) -> list[Event]:
        """Waits until there is something that this stream was not told, and returns it."""
        while True:
            found = self._board._news(self._seen)
            if found:
                self._seen = self._board._clock
                self.ended = found[-1].kind == "end"
                return found
            await self._board._changed.wait()
