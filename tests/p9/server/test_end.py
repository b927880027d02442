"""Signals, statistics, and what is left."""

from __future__ import annotations

import logging
import os
import signal
import threading

import pytest
import trio
import trio.testing

from ..doubles import frame
from .echo import SECONDS, Echo, lines, until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_it_and_nothing_is_left(echo: Echo, number: signal.Signals, no_errors: None) -> None:
    await echo.start()
    client = await echo.connect()
    await client.ask(b"v")
    await client.send(frame(b"w", b"never"))
    session = await echo.session()
    await until(lambda: echo.export.running)
    signal.raise_signal(number)
    with trio.fail_after(SECONDS):
        await echo.over.wait()
    assert await client.ended()
    assert not echo.path.exists()
    assert session.closed == 1
    assert session.works[0].cancelled.is_set()
    assert session.works[0].settled == 1
    assert echo.export.running == 0


async def test_a_call_that_hangs_is_waited_for_until_a_second_signal(
    echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    await echo.start()
    client = await echo.connect()
    await client.send(frame(b"h", b"hanging"))
    session = await echo.session()
    await until(lambda: echo.export.running)
    signal.raise_signal(signal.SIGTERM)
    assert await client.ended()
    with pytest.raises(OSError):
        await trio.open_unix_socket(echo.path)  # nobody starts to wait for a server that is ending
    assert session.closed == 1
    assert not echo.over.is_set()
    signal.raise_signal(signal.SIGTERM)
    with trio.fail_after(SECONDS):
        await echo.over.wait()
    assert session.works[0].settled == 0
    echo.export.gates[b"hanging"].set()
    await until(lambda: not echo.export.running)


async def test_statistics(echo: Echo, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await echo.start()
    await (await echo.connect()).ask(b"v")
    signal.raise_signal(signal.SIGUSR1)
    (line,) = await until(lambda: lines(caplog, "statistics"))
    assert '"connections": 1' in line
    assert '"sessions": 1' in line


async def test_nothing_is_left_in_the_process(echo: Echo, no_errors: None) -> None:
    def state() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    await trio.to_thread.run_sync(lambda: None)  # a thread that is kept for the next call
    before, _ = state()
    await echo.start()
    for _ in range(10):
        client = await echo.connect()
        echo.export.gates[b"x"].set()
        await client.ask(b"w", b"x")
        await client.stream.aclose()
    await echo.close()
    assert state()[0] == before
