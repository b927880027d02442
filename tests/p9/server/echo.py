"""A server whose sessions echo, and the other end of a connection to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from fusemap.p9.listen import open_all
from fusemap.p9.server import Server

from ..doubles import EchoExport, EchoSession, frame

SECONDS = 20.0


class Client:
    """The other end of a connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._have = bytearray()

    async def send(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    async def answer(self) -> tuple[bytes, bytes]:
        """Kind and body of the next frame. Raises EOFError at the end, trio.BrokenResourceError when it was lost."""
        with trio.fail_after(SECONDS):
            while len(self._have) < 4 or len(self._have) < int.from_bytes(self._have[:4], "little"):
                data = await self.stream.receive_some(1 << 20)  # type: ignore[call-arg]
                if not data:
                    raise EOFError
                self._have += data
        size = int.from_bytes(self._have[:4], "little")
        found = bytes(self._have[4:5]), bytes(self._have[5:size])
        del self._have[:size]
        return found

    async def ask(self, kind: bytes, body: bytes = b"") -> bytes:
        await self.send(frame(kind, body))
        found, answer = await self.answer()
        assert found == kind
        return answer

    async def ended(self) -> bool:
        """Whether the server ends the connection; fails when it does not or says something before."""
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await self.answer()
        return True


class Echo:
    """A running server."""

    def __init__(self, scratch: Path, nursery: trio.Nursery) -> None:
        self.export = EchoExport()
        self.path = scratch / "socket"
        self.words = [f"unix:{self.path}"]
        self.options: dict[str, Any] = {}
        self.addresses: list[str] = []
        self.over = trio.Event()
        self.server: Server
        self._nursery = nursery
        self._clients: list[trio.abc.Stream] = []

    async def start(self) -> None:
        sources = open_all(self.words)
        self.addresses = [source.address for source in sources]
        make: Any = lambda _, peer: self.export.open(peer)  # noqa: E731
        self.server = Server(self.export, sources, session_of=make, **self.options)  # type: ignore[arg-type]
        ready = trio.Event()
        self._nursery.start_soon(self._run, ready.set)
        await ready.wait()

    async def _run(self, ready: Callable[[], None]) -> None:
        await self.server.run(ready)
        self.over.set()

    async def connect(self) -> Client:
        self._clients.append(await trio.open_unix_socket(self.path))
        return Client(self._clients[-1])

    async def session(self, count: int = 1) -> EchoSession:
        """The latest session, when there are `count`."""
        await until(lambda: len(self.export.sessions) >= count)
        return self.export.sessions[count - 1]

    async def close(self) -> None:
        for gate in list(self.export.gates.values()):
            gate.set()
        for client in self._clients:
            await client.aclose()
        self.server.stop()
        with trio.fail_after(SECONDS):
            await self.over.wait()


async def until(what: Callable[[], Any]) -> Any:
    """Waits until something is so that nobody tells of."""
    with trio.fail_after(SECONDS):
        while not (found := what()):
            await trio.sleep(0.005)
    return found


def lines(caplog: pytest.LogCaptureFixture, *words: str) -> list[str]:
    """The log lines with all these words."""
    found = [record.getMessage() for record in caplog.records]
    return [line for line in found if all(word in line for word in words)]
