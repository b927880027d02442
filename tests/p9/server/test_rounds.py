"""What the server does between two requests."""

from __future__ import annotations

import socket
import time

import pytest
import trio

from fusemap.p9 import rounds

from ..doubles import frame
from .echo import Echo, until

ASKED = 20


class Passes(trio.abc.Instrument):
    """Counts the passes of trio's loop."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_client_that_pauses_costs_no_passes_of_the_loop(
    echo: Echo, no_errors: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "QUIET_SECONDS", 0.5)
    monkeypatch.setattr(rounds, "SPIN_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "SECONDS_A_PASS", 60.0)
    await echo.start()
    passes = Passes()
    trio.lowlevel.add_instrument(passes)

    def talk() -> int:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(echo.path))
            before = 0
            for n in range(ASKED + 1):
                client.sendall(frame(b"e", b"x"))
                assert client.recv(100) == frame(b"e", b"x")
                before = before if n else passes.count  # the first is waited for by the loop
                time.sleep(0.002)  # or the next is there before the server looks for it
            return passes.count - before

    assert await trio.to_thread.run_sync(talk) < ASKED / 2
    trio.lowlevel.remove_instrument(passes)


async def test_who_does_not_read_keeps_the_tree_from_no_rest(echo: Echo, no_errors: None) -> None:
    await echo.start()
    client, other = await echo.connect(), await echo.connect()
    await client.send(frame(b"b", (1 << 20).to_bytes(4, "little")) * 4)
    session = await echo.session()
    await until(lambda: session.bytes_in >= 36)
    assert await other.ask(b"e", b"on") == b"on"
    before = echo.export.rests
    assert await other.ask(b"e", b"on") == b"on"
    await until(lambda: echo.export.rests > before)
