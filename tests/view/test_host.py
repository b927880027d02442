"""The server below the live page: HTTP over real sockets, and clients that mean harm or just do not read."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from fusemap.view.host import HEAD_BYTES, Host

GET = b"GET /p%20q?x=1 HTTP/1.1\r\nHost: here\r\nX-Odd:  a \r\n\r\n"
LIMIT = 60.0


async def greets(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what was asked."""
    assert (await receive())["type"] == "http.request"
    said = f"{scope['method']} {scope['path']} {scope['query_string']} {scope['headers']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    """Says no to everybody."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


class Pours:
    """Sends for ever; counts who has left."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.left = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100000, "more_body": True})
        finally:
            self.ended += 1
            self.left.set()


class Waits:
    """Begins an answer, and waits for the client to leave."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.left = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        self.begun.set()
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        self.left.set()


Connect = Any


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[Connect]:
    """A way to connect to a server that serves `app`; at the end it must stop at once, whatever its clients do."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        host = Host(app, **options)
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.run, [listening])
                yield lambda: trio.open_tcp_stream("127.0.0.1", port)
                nursery.cancel_scope.cancel()
    assert not host._open


async def all_of(stream: trio.SocketStream) -> bytes:
    """What comes until the server ends the connection."""
    data = b""
    try:
        async for some in stream:
            data += some
    except trio.BrokenResourceError:
        pass
    return data


async def asked(connect: Connect, *pieces: bytes) -> bytes:
    """The whole answer to a request that is sent in pieces."""
    async with await connect() as stream:
        for piece in pieces:
            try:
                await stream.send_all(piece)
            except trio.BrokenResourceError:
                break
            await trio.sleep(0)
        return await all_of(stream)


async def test_a_request_and_its_answer() -> None:
    async with serving(greets) as connect:
        head, _, body = (await asked(connect, GET)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in head
        assert b"date: " in head
        assert body == b"GET /p q b'x=1' [(b'host', b'here'), (b'x-odd', b'a')]"
        assert (await asked(connect, *(GET[at : at + 1] for at in range(len(GET))))).endswith(b"\r\n\r\n" + body)


async def test_head_has_no_body() -> None:
    async with serving(greets) as connect:
        answer = await asked(connect, GET.replace(b"GET", b"HEAD"))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"content-length: " in answer
        assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n\r\n\r\nnonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no host
        b"GET http://evil/ HTTP/1.1\r\nHost: evil\r\n\r\n",
        b"CONNECT here:1 HTTP/1.1\r\nHost: here:1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nContent-Length: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"GET /" + b"x" * 2 * HEAD_BYTES + b" HTTP/1.1\r\nHost: here\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * HEAD_BYTES + b"\r\n",
    ],
    ids=lambda data: repr(data[:30]),
)
async def test_what_is_no_request_is_refused_and_costs_nobody_else(request_: bytes) -> None:
    async with serving(greets) as connect:
        answer = await asked(connect, request_)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        assert (await asked(connect, GET)).startswith(b"HTTP/1.1 200 ")


async def test_what_follows_a_request_is_nobodys() -> None:
    """A body, a second request, bytes after a request to change to WebSockets."""
    upgrade = GET.replace(b"X-Odd", b"Upgrade: websocket\r\nConnection: Upgrade\r\nX-Odd")
    for more in (
        GET + GET,
        GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 100000\r\n\r\n") + b"x" * 50000,
        GET.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"zzz",
        upgrade + b"x",
    ):
        async with serving(greets) as connect:
            answer = await asked(connect, more)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.count(b"HTTP/1.1") == 1


async def test_who_says_nothing_is_sent_away() -> None:
    async with serving(greets, head_seconds=0.05) as connect:
        assert await asked(connect) == b""
        assert await asked(connect, GET[:-2]) == b""


async def test_who_leaves_before_asking_is_forgotten() -> None:
    async with serving(greets) as connect:
        async with await connect() as stream:
            await stream.send_all(GET[:10])
        async with await connect():
            pass
        assert (await asked(connect, GET)).startswith(b"HTTP/1.1 200 ")


async def test_who_does_not_read_is_cut_off_and_the_others_are_not_kept_waiting() -> None:
    app = Pours()
    async with serving(app, send_seconds=0.2) as connect, await connect() as stream:
        await stream.send_all(GET)
        await app.left.wait()
        assert (app.begun, app.ended) == (1, 1)
        assert (await all_of(stream)).startswith(b"HTTP/1.1 200 ")


async def test_the_server_ends_although_somebody_does_not_read() -> None:
    app = Pours()
    async with serving(app) as connect:
        stream = await connect()
        await stream.send_all(GET)
        while not app.begun:
            await trio.sleep(0.001)
        began = trio.current_time()
    assert trio.current_time() - began < 10  # and not the 20 s that a client has to read
    await stream.aclose()


async def test_the_application_is_told_who_has_left() -> None:
    app = Waits()
    async with serving(app) as connect:
        async with await connect() as stream:
            await stream.send_all(GET)
            await app.begun.wait()
        await app.left.wait()


async def test_strangers_make_room_for_who_comes_later() -> None:
    """The oldest goes who was given nothing; a page that is open stays."""
    app = Waits()
    async with serving(app, connections=3) as connect:
        page = await connect()
        await page.send_all(GET)
        await app.begun.wait()
        strangers = [await connect() for _ in range(20)]
        app.begun = trio.Event()
        other = await connect()
        await other.send_all(GET)
        await app.begun.wait()
        assert b"begun" in await page.receive_some()
        for stranger in strangers[:18]:
            assert await all_of(stranger) == b""
        for stream in (page, other, *strangers):
            await stream.aclose()


async def test_refusals_make_nobody_welcome() -> None:
    """Who was told no is not spared when there are too many."""
    async with serving(refuses, connections=1) as connect:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                stream = await stack.enter_async_context(await connect())
                await stream.send_all(GET)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 404 ")


async def test_when_all_are_welcome_the_next_one_is_sent_away() -> None:
    app = Waits()
    async with serving(app, connections=1) as connect, await connect() as page:
        await page.send_all(GET)
        await app.begun.wait()
        assert await asked(connect, GET) == b""
        assert not app.left.is_set()


@pytest.mark.parametrize("begun", [False, True])
async def test_a_bug_in_the_application_costs_one_request(begun: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError("a bug on purpose")

    with caplog.at_level(logging.ERROR):
        async with serving(breaks) as connect:
            for _ in range(2):
                answer = await asked(connect, GET)
                assert answer.startswith(b"HTTP/1.1 200 " if begun else b"HTTP/1.1 500 ")
                assert not answer.endswith(b"0\r\n\r\n"), "a cut answer must not look whole"
    assert "a bug on purpose" in caplog.text
