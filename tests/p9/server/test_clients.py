"""Bugs, and clients that are silent, flood, talk nonsense or do not read: each costs one connection."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing

from fusemap.p9 import connection, server

from ..doubles import SENT_AT_ONCE, WORKS, EchoSession, frame
from .echo import Echo, lines, until


@pytest.mark.parametrize("kind", [b"x", b"y"])
async def test_a_bug_costs_one_connection(echo: Echo, caplog: pytest.LogCaptureFixture, kind: bytes) -> None:
    await echo.start()
    other, client = await echo.connect(), await echo.connect()
    await other.ask(b"v")
    echo.export.gates[b"open"].set()
    await client.send(frame(kind, b"open"))
    assert await client.ended()
    assert await other.ask(b"e", b"on") == b"on"
    assert await (await echo.connect()).ask(b"e", b"new") == b"new"
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError
    client = await echo.connect()  # again: nobody fills the log with it
    await client.send(frame(kind, b"open"))
    assert await client.ended()
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert [session.closed for session in echo.export.sessions] == [0, 1, 0, 1]


async def test_a_bug_in_making_a_session(
    echo: Echo, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await echo.start()

    def broken(peer: object) -> EchoSession:
        raise ZeroDivisionError("a bug on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(echo.export, "open", broken)
        assert await (await echo.connect()).ended()
    assert await (await echo.connect()).ask(b"e", b"on") == b"on"
    assert lines(caplog, "could not be begun")


async def test_garbage_ends_a_connection_after_the_answers_before_it(
    echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    await echo.start()
    client = await echo.connect()
    await client.send(frame(b"e", b"good"), frame(b"!"), frame(b"e", b"never"))
    assert await client.answer() == (b"e", b"good")
    assert await client.ended()
    assert lines(caplog, "dropped", "that is no frame")
    for _ in range(20):
        client = await echo.connect()
        await client.send(frame(b"!"))
        assert await client.ended()
    assert len(lines(caplog, "dropped")) == 1


async def test_a_silent_client_is_sent_away_and_one_with_a_version_is_not(
    echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    echo.options["patience"] = 0.05
    await echo.start()
    speaking, silent = await echo.connect(), await echo.connect()
    await speaking.ask(b"v")
    started = time.monotonic()
    assert await silent.ended()
    assert time.monotonic() - started < 5
    assert lines(caplog, "dropped", "version")
    assert await speaking.ask(b"e", b"on") == b"on"
    assert [session.closed for session in echo.export.sessions] == [0, 1]


async def test_half_a_message_is_not_a_version(echo: Echo) -> None:
    echo.options["patience"] = 0.05
    await echo.start()
    client = await echo.connect()
    await client.send(frame(b"v", b"xxx")[:-1])
    assert await client.ended()


async def test_root_and_the_servers_user_may_take_their_time(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_VERSION_SECONDS", 0.05)
    await echo.start()
    own = await echo.connect()
    assert await own.ask(b"e", b"in") == b"in"
    monkeypatch.setattr(server, "peer_uid", lambda _: 61001)
    assert await (await echo.connect()).ended()
    assert await own.ask(b"e", b"on") == b"on"


async def test_who_does_not_read_is_not_heard(echo: Echo, no_errors: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNSENT_BYTES", 1 << 20)
    await echo.start()
    client = await echo.connect()
    ask = frame(b"b", (1 << 20).to_bytes(4, "little"))
    await client.send(ask * 4, frame(b"w", b"never begun"))
    session = await echo.session()
    await until(lambda: session.bytes_in >= 36)
    sender = trio.CancelScope()
    sent = 0

    async def flood(nursery: trio.Nursery) -> None:
        nonlocal sent
        with sender:
            while True:
                await client.send(ask * 100)
                sent += 100

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood, nursery)
        other = await echo.connect()
        for _ in range(200):
            assert await other.ask(b"e", b"meanwhile") == b"meanwhile"
        waiting = sum(map(len, session.out))
        heard = session.bytes_in
        for _ in range(200):
            assert await other.ask(b"e", b"meanwhile") == b"meanwhile"
        assert session.bytes_in == heard
        assert waiting <= SENT_AT_ONCE + (1 << 20)
        assert not any(work.begun.is_set() for work in session.works)
        sender.cancel()
    assert session.closed == 0


async def test_replies_do_not_pile_up_for_who_does_not_read(
    echo: Echo, no_errors: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNSENT_BYTES", 1 << 20)
    await echo.start()
    client = await echo.connect()
    count = WORKS - 1
    await client.send(frame(b"r", (1 << 20).to_bytes(4, "little")) * count)
    session = await echo.session()
    await until(lambda: session.works and session.works[-1].session.pending <= count - 2)
    other = await echo.connect()
    for _ in range(100):
        assert await other.ask(b"e", b"meanwhile") == b"meanwhile"
    assert sum(work.begun.is_set() for work in session.works) <= connection.THREADS_A_DEVICE + 2
    for _ in range(count):
        assert await client.answer() == (b"r", bytes(1 << 20))


async def test_a_flooding_client_does_not_hold_up_another(echo: Echo, no_errors: None) -> None:
    await echo.start()
    flooding, good = await echo.connect(), await echo.connect()
    await good.ask(b"v")
    block = frame(b"e", b"x" * 100) * 500
    answered = 0

    async def send() -> None:
        while True:
            await flooding.send(block)

    async def receive() -> None:
        nonlocal answered
        while True:
            answered += len(await flooding.stream.receive_some(1 << 20))  # type: ignore[call-arg]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(receive)
        await until(lambda: answered > 10 * len(block))
        for _ in range(30):
            before = answered
            await good.ask(b"e", b"mine")
            # In the time of one answer the other gets what he could have sent in a few turns, and no more.
            assert answered - before < 40 * len(block)
        nursery.cancel_scope.cancel()
