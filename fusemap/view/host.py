"""An ASGI server for the live page, under trio: h11 speaks HTTP/1.1, this module moves its bytes and sets the limits.

Why not Hypercorn, the ASGI server that has a worker for trio: every user of the machine can connect to a port of the
loopback, and it has no limit on connections; it shields what it sends from cancelling, so that one client that has
stopped reading keeps Ctrl-C from ending the process (seen with 0.18); and it speaks WebSockets and HTTP/2, which a page
that is only read does not need. h11, by which it speaks HTTP/1.1, is what is needed of it. The application is plain
ASGI, and any such server can host it.

One request a connection. A page makes two, itself and its stream of events, and without a second request there is no
pipelining, no idle connection and no body to be skipped.

Strangers cost little: a request must have come after HEAD_SECONDS, and every piece of an answer must be taken in
SEND_SECONDS. There are only so many connections. When there are too many, the oldest one that has been given nothing
yet is ended in favour of the new one: whoever connects without knowing the token keeps nobody out who does.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Sequence
from email.utils import formatdate
from typing import Final
from urllib.parse import unquote

import h11
import trio

from fusemap.view.app import Application, Message, Scope

log = logging.getLogger(__name__)

CONNECTIONS: Final = 64
HEAD_BYTES: Final = 16384
HEAD_SECONDS: Final = 10.0
SEND_SECONDS: Final = 20.0
LINGER_SECONDS: Final = 1.0
"""How long a client may take to notice the end: closing at once would take the answer from one that still sends."""

_PIECE: Final = 1 << 16
_RECEIVED: Final = 4096
_AGAIN_SECONDS: Final = 0.1


class Host:
    """Serves `app` to whoever connects."""

    def __init__(
        self, app: Application, *, connections: int = CONNECTIONS, head_seconds: float = HEAD_SECONDS,
        send_seconds: float = SEND_SECONDS,
    ) -> None:  # fmt: skip
        self._app = app
        self._limit = connections
        self._head_seconds = head_seconds
        self._send_seconds = send_seconds
        self._open: dict[_Connection, None] = {}  # in the order in which they came

    async def run(self, listening: Sequence[socket.socket]) -> None:
        """Accepts from listening sockets, which are closed at the end, until it is cancelled."""
        async with trio.open_nursery() as nursery:
            for each in listening:
                each.setblocking(False)
                nursery.start_soon(self._accept, trio.SocketListener(trio.socket.from_stdlib_socket(each)), nursery)

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:  # no descriptors, no memory: they come back when somebody goes
                    log.warning("cannot accept: %s", error.strerror)
                    await trio.sleep(_AGAIN_SECONDS)
                    continue
                if len(self._open) >= self._limit and not self._make_room():
                    await trio.aclose_forcefully(stream)
                    continue
                connection = _Connection(stream, self._app, self._send_seconds)
                self._open[connection] = None
                nursery.start_soon(self._serve, connection)

    def _make_room(self) -> bool:
        for connection in self._open:
            if not connection.welcome:
                connection.scope.cancel()
                del self._open[connection]
                return True
        return False

    async def _serve(self, connection: _Connection) -> None:
        try:
            async with connection.stream:
                with connection.scope:
                    await connection.run(self._head_seconds)
        except Exception:
            log.exception("a bug in serving a page")
        finally:
            self._open.pop(connection, None)


class _Connection:
    """One request and its answer. `welcome` once the answer is one of success."""

    def __init__(self, stream: trio.SocketStream, app: Application, send_seconds: float) -> None:
        self.stream: Final = stream
        self.scope: Final = trio.CancelScope()
        self.welcome = False
        self._app = app
        self._send_seconds = send_seconds
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._gone = trio.Event()
        self._asked = False
        self._start: Message | None = None
        self._head = False

    async def run(self, head_seconds: float) -> None:
        """Reads the request, has it answered, and ends the connection."""
        request = None
        try:
            with trio.move_on_after(head_seconds):
                request = await self._request()
        except h11.RemoteProtocolError as error:
            await self._fail(error.error_status_hint)
        if request is not None:
            self._head = request.method == b"HEAD"
            scope = self._scope_of(request)
            if scope is None:
                await self._fail(400)
            else:
                await self._answer(scope)
        await self._linger()

    async def _request(self) -> h11.Request | None:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                return None
            self._http.receive_data(await self._receive())

    async def _receive(self) -> bytes:
        """What the client sends next; empty when it sends no more."""
        try:
            return bytes(await self.stream.receive_some(_RECEIVED))
        except trio.BrokenResourceError:
            return b""

    def _scope_of(self, request: h11.Request) -> Scope | None:
        """The request as ASGI has it; None for a target that is no path."""
        path, _, query = bytes(request.target).partition(b"?")
        if not path.startswith(b"/"):
            return None
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "scheme": "http",
            "path": unquote(path.decode("ascii"), errors="replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(bytes(name), bytes(value)) for name, value in request.headers],
        }

    async def _answer(self, scope: Scope) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._notice_end)
            try:
                await self._app(scope, self._receive_message, self._send_message)
            except Exception:
                log.exception("a bug in answering a request")
            if self._http.our_state is h11.SEND_RESPONSE:
                await self._fail(500)
            nursery.cancel_scope.cancel()

    async def _notice_end(self) -> None:
        """What comes after the request is nobody's; that nothing comes any more is how a client says good-bye."""
        while await self._receive():
            pass
        self._gone.set()

    async def _receive_message(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send_message(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        data = b""
        if self._start is not None:
            self.welcome = self._start["status"] < 300
            data += self._started(self._start["status"], self._start["headers"])
            self._start = None
        if message.get("body") and not self._head:
            data += self._http.send(h11.Data(data=message["body"])) or b""
        if not message.get("more_body"):
            data += self._http.send(h11.EndOfMessage()) or b""
        await self._send(data)

    def _started(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        ours = [(b"date", formatdate(time.time(), usegmt=True).encode()), (b"connection", b"close")]
        return self._http.send(h11.Response(status_code=status, headers=[*headers, *ours])) or b""

    async def _fail(self, status: int) -> None:
        """An answer without a word, where the application has given none."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            head = self._started(status, [(b"content-length", b"0")])
            await self._send(head + (self._http.send(h11.EndOfMessage()) or b""))

    async def _send(self, data: bytes) -> None:
        """Sends, or ends the connection where the client does not take it."""
        for at in range(0, len(data), _PIECE):
            with trio.move_on_after(self._send_seconds) as limit:
                try:
                    await self.stream.send_all(data[at : at + _PIECE])
                except trio.BrokenResourceError:
                    limit.cancel()
                    self.scope.cancel()
            if limit.cancelled_caught or self.scope.cancel_called:
                self.scope.cancel()
                await trio.lowlevel.checkpoint()

    async def _linger(self) -> None:
        with trio.move_on_after(LINGER_SECONDS), contextlib.suppress(trio.BrokenResourceError):
            await self.stream.send_eof()
            while not self._gone.is_set() and await self._receive():
                pass
