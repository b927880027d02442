"""How many connections, and whose."""

from __future__ import annotations

import os
import resource
import socket
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from fusemap.p9 import server

from ...support.process import ALICE, call_as
from ..doubles import frame
from .echo import Client, Echo, lines, until


async def test_too_many_connections(
    echo: Echo, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    await echo.start()
    clients = [await echo.connect() for _ in range(3)]
    for client in clients:
        await client.ask(b"v")
    for _ in range(5):
        assert await (await echo.connect()).ended()
    assert len(lines(caplog, "too many connections")) == 1
    for client in clients:
        assert await client.ask(b"e", b"on") == b"on"
    await clients[0].stream.aclose()
    await until(lambda: echo.export.sessions[0].closed)
    assert await (await echo.connect()).ask(b"v", b"room again") == b"room again"
    assert len(echo.export.sessions) == 4


async def test_hanging_up_makes_no_room_before_the_calls_are_back(
    echo: Echo, no_errors: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_A_PEER", 1)
    await echo.start()
    client = await echo.connect()
    await client.send(frame(b"h", b"deaf"))
    session = await echo.session()
    await until(lambda: session.works)
    await client.stream.aclose()
    await until(lambda: session.closed)
    assert await (await echo.connect()).ended()
    echo.export.gates[b"deaf"].set()
    await until(lambda: session.works[0].settled)
    await trio.testing.wait_all_tasks_blocked()
    assert await (await echo.connect()).ask(b"v", b"room again") == b"room again"


async def test_too_many_connections_of_one_user(
    echo: Echo, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_A_PEER", 2)
    echo.words.append("tcp:127.0.0.1:0")
    await echo.start()
    for _ in range(2):
        await (await echo.connect()).ask(b"v")
    assert await (await echo.connect()).ended()
    async with await trio.open_tcp_stream("127.0.0.1", int(echo.addresses[1].rsplit(":", 1)[1])) as stream:
        assert await Client(stream).ask(b"v", b"another") == b"another"


async def test_no_descriptors_are_left(echo: Echo, caplog: pytest.LogCaptureFixture) -> None:
    await echo.start()
    sockets = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(0)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        for plain in sockets:
            plain.connect(os.fspath(echo.path))
        await until(lambda: lines(caplog, "cannot accept"))
        assert not echo.export.sessions
        used = time.thread_time()
        await trio.sleep(0.3)  # it tries again now and then, not all the time
        assert time.thread_time() - used < 0.1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await until(lambda: len(echo.export.sessions) == 3)
    assert len(lines(caplog, "cannot accept")) == 1
    for plain in sockets:
        plain.close()


@pytest.mark.parametrize("as_himself", [False, True])
async def test_the_user_of_a_unix_socket(echo: Echo, tmp_path: Path, as_himself: bool) -> None:
    echo.options["as_himself"] = as_himself
    await echo.start()
    echo.path.chmod(0o666)
    place = tmp_path
    while os.access(place, os.X_OK) and place != place.parent:  # pytest's directories are closed to others
        place.chmod(place.stat().st_mode | 0o055) if place.stat().st_uid == os.getuid() else None
        place = place.parent

    def knock() -> bytes:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(os.fspath(echo.path))
            plain.sendall(frame(b"v"))
            return plain.recv(100)

    await trio.to_thread.run_sync(lambda: call_as(ALICE, knock))
    await (await echo.connect()).ask(b"v")
    alice, root = (session.peer for session in echo.export.sessions)
    assert alice.uid == (ALICE.uid if as_himself else None)
    assert f"user {ALICE.uid}" in alice.name
    assert root.uid is None
