"""Calls that take long: who waits for whom, and what becomes of them."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from fusemap.p9 import connection

from ..doubles import WORKS, frame
from .echo import Echo, until


async def test_a_slow_call_holds_nothing_up(echo: Echo, no_errors: None) -> None:
    await echo.start()
    client = await echo.connect()
    await client.send(frame(b"w", b"slow"), frame(b"e", b"1"))
    assert await client.answer() == (b"e", b"1")
    assert await client.ask(b"e", b"2") == b"2"
    echo.export.gates[b"slow"].set()
    assert await client.answer() == (b"w", b"slow")  # though nothing more was sent


async def test_a_call_that_fails(echo: Echo, no_errors: None) -> None:
    await echo.start()
    client = await echo.connect()
    assert await client.ask(b"f", b"no such thing") == b"no such thing"
    assert await client.ask(b"e", b"on") == b"on"


async def test_threads_are_limited_for_each_device(echo: Echo, no_errors: None) -> None:
    echo.export.limiter = lambda name: name[:1].decode()
    await echo.start()
    client = await echo.connect()
    count = connection.THREADS_A_DEVICE
    await client.send(*(frame(b"w", b"a%d" % n) for n in range(count + 5)))
    await until(lambda: echo.export.running == count)
    other = await echo.connect()
    echo.export.gates[b"b"].set()
    assert await other.ask(b"w", b"b") == b"b", "another device is not waited for"
    for n in range(count + 5):
        echo.export.gates[b"a%d" % n].set()
    assert {await client.answer() for _ in range(count + 5)} == {(b"w", b"a%d" % n) for n in range(count + 5)}
    assert echo.export.most_running <= count + 1


async def test_who_asks_for_much_is_not_served_before_all_others(echo: Echo, no_errors: None) -> None:
    """In the queue for a device there are no more of his works than it has threads."""
    await echo.start()
    greedy, other = await echo.connect(), await echo.connect()
    count = connection.THREADS_A_DEVICE
    await greedy.send(*(frame(b"w", b"%d" % n) for n in range(3 * count)))
    await until(lambda: echo.export.running == count)
    asked = await echo.session(2)
    await other.send(frame(b"w", b"mine"))
    await until(lambda: asked.works)
    echo.export.gates[b"mine"].set()
    works = echo.export.sessions[0].works
    for work in [work for work in works if work.begun.is_set()]:
        echo.export.gates[work.name].set()
    assert await other.answer() == (b"w", b"mine")
    for work in works:
        echo.export.gates[work.name].set()
    for _ in works:
        await greedy.answer()


@pytest.mark.parametrize("left", [0, 1])
async def test_calls_that_come_back_while_nobody_reads(echo: Echo, no_errors: None, left: int) -> None:
    """As many as may be under way, and more to do: that goes on when he reads, though `left` of them still wait."""
    await echo.start()
    client = await echo.connect()
    session = await echo.session()
    size = 3 << 20
    works = [frame(b"w", b"left")] * left + [frame(b"w", b"gate")] * (WORKS - left)
    await client.send(frame(b"b", size.to_bytes(4, "little")), *works, frame(b"e", b"on"))
    await until(lambda: len(session.works) == WORKS)
    echo.export.gates[b"gate"].set()
    await until(lambda: sum(work.settled for work in session.works) == WORKS - left)
    assert len((await client.answer())[1]) == size
    answers = [await client.answer() for _ in range(WORKS - left + 1)]
    assert answers.count((b"w", b"gate")) == WORKS - left
    assert (b"e", b"on") in answers


async def test_calls_without_a_device_do_not_wait_for_each_other(echo: Echo, no_errors: None) -> None:
    echo.export.limiter = lambda name: ""
    await echo.start()
    client = await echo.connect()
    count = connection.THREADS_A_DEVICE + 20
    await client.send(*(frame(b"w", b"%d" % n) for n in range(count)))
    await until(lambda: echo.export.running == count)
    for n in range(count):
        echo.export.gates[b"%d" % n].set()
    for _ in range(count):
        await client.answer()


async def test_who_asks_for_too_much_at_once_is_heard_again_later(echo: Echo, no_errors: None) -> None:
    await echo.start()
    client = await echo.connect()
    count = WORKS + 10
    await client.send(*(frame(b"w", b"%d" % n) for n in range(count)), frame(b"e", b"last"))
    session = await echo.session()
    await until(lambda: len(session.works) == WORKS)
    other = await echo.connect()
    assert await other.ask(b"e", b"meanwhile") == b"meanwhile"
    assert len(session.works) == WORKS
    for n in range(count):
        echo.export.gates[b"%d" % n].set()
    found = [await client.answer() for _ in range(count + 1)]
    assert sorted(found) == sorted([(b"w", b"%d" % n) for n in range(count)] + [(b"e", b"last")])
    assert [work.settled for work in session.works] == [1] * count


async def test_a_busy_client_that_hangs_up_is_noticed(
    echo: Echo, no_errors: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is received from him meanwhile, so the end of his bytes does not tell."""
    monkeypatch.setattr(connection, "GONE_SECONDS", 0.01)
    await echo.start()
    client = await echo.connect()
    await client.send(*[frame(b"w", b"never")] * (WORKS + 1))
    session = await echo.session()
    await until(lambda: len(session.works) == WORKS)
    await client.stream.aclose()
    await until(lambda: session.closed)
    await until(lambda: all(work.settled for work in session.works))
    assert all(work.cancelled.is_set() for work in session.works)
    assert session.closed == 1


async def test_calls_of_a_client_that_is_gone(echo: Echo, no_errors: None) -> None:
    """They are asked to stop; one that cannot is waited for, and each is settled once."""
    await echo.start()
    client = await echo.connect()
    count = connection.THREADS_A_DEVICE
    await client.send(*[frame(b"h", b"deaf")] * count)
    session = await echo.session()
    await until(lambda: echo.export.running == count)
    await client.send(frame(b"w", b"queued"))
    await until(lambda: len(session.works) == count + 1)
    await client.stream.aclose()
    await until(lambda: session.closed)
    assert await (await echo.connect()).ask(b"e", b"on") == b"on"
    assert [work.settled for work in session.works] == [0] * (count + 1)
    echo.export.gates[b"deaf"].set()
    await until(lambda: all(work.settled for work in session.works))
    assert [work.settled for work in session.works] == [1] * (count + 1)
    assert [work.begun.is_set() for work in session.works] == [True] * (count + 1)


async def test_who_has_said_all_still_gets_his_answers(echo: Echo, no_errors: None) -> None:
    await echo.start()
    client = await echo.connect()
    await client.send(frame(b"w", b"slow"), frame(b"e", b"1"))
    stream = client.stream
    assert isinstance(stream, trio.SocketStream)
    await stream.send_eof()
    assert await client.answer() == (b"e", b"1")
    echo.export.gates[b"slow"].set()
    assert await client.answer() == (b"w", b"slow")
    assert await client.ended()
