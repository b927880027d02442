"""What is sent arrives, over every kind of address."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from ...support import needs
from ..doubles import frame
from .echo import Client, Echo, until


async def test_answers_come_in_order_however_the_bytes_come(echo: Echo, no_errors: None) -> None:
    await echo.start()
    client = await echo.connect()
    assert await client.ask(b"v", b"hello") == b"hello"
    many = [frame(b"e", b"%d" % n) for n in range(1000)]
    await client.send(*many)
    assert [await client.answer() for _ in many] == [(b"e", b"%d" % n) for n in range(1000)]
    for byte in frame(b"e", b"slow"):
        await client.send(bytes([byte]))
    assert await client.answer() == (b"e", b"slow")
    assert await client.ask(b"e", b"x" * 1_000_000) == b"x" * 1_000_000


async def test_an_answer_larger_than_any_socket_buffer_arrives_whole(echo: Echo, no_errors: None) -> None:
    await echo.start()
    client = await echo.connect()
    size = 20_000_003
    await client.send(frame(b"b", size.to_bytes(4, "little")), frame(b"e", b"after"))
    kind, body = await client.answer()
    assert (kind, len(body)) == (b"b", size)
    assert body == (b"abcdefghij" * (size // 10 + 1))[:size]
    assert await client.answer() == (b"e", b"after")


async def test_more_small_answers_than_one_call_can_send(echo: Echo, no_errors: None) -> None:
    """writev(2) takes 1024 parts."""
    await echo.start()
    client = await echo.connect()
    await client.send(*[frame(b"b", (3).to_bytes(4, "little"))] * 5000)
    for _ in range(5000):
        assert await client.answer() == (b"b", b"abc")


@pytest.fixture(params=["tcp:127.0.0.1:0", "tcp:[::1]:0", "tcp:localhost:0"])
def address(request: pytest.FixtureRequest) -> str:
    if "::1" in request.param:
        needs.ipv6()
    return str(request.param)


@pytest.fixture
def vsock() -> None:
    needs.vsock()


async def test_tcp(echo: Echo, address: str, no_errors: None) -> None:
    echo.words = [address]
    await echo.start()
    for found in echo.addresses:
        host, port = found.removeprefix("tcp:").rsplit(":", 1)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as plain:
            plain.connect((host.strip("[]"), int(port)))
            plain.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(plain))
            assert await Client(stream).ask(b"v", b"hello") == b"hello"
            await stream.aclose()


async def test_vsock(vsock: None, echo: Echo, no_errors: None) -> None:
    echo.words = ["vsock:any:0"]
    await echo.start()
    with socket.socket(socket.AF_VSOCK) as plain:
        plain.connect((1, int(echo.addresses[0].rsplit(":", 1)[1])))
        plain.setblocking(False)
        client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(plain)))
        assert await client.ask(b"v", b"hello") == b"hello"
        assert echo.export.sessions[0].peer.name.startswith("vsock:")
        await client.stream.aclose()


async def test_several_addresses_at_once(echo: Echo, tmp_path: Path, no_errors: None) -> None:
    echo.words += [f"unix:{tmp_path}/other", "tcp:127.0.0.1:0"]
    await echo.start()
    clients = [await echo.connect(), Client(await trio.open_unix_socket(tmp_path / "other"))]
    clients.append(Client(await trio.open_tcp_stream("127.0.0.1", int(echo.addresses[2].rsplit(":", 1)[1]))))
    for n, client in enumerate(clients):
        assert await client.ask(b"v", b"%d" % n) == b"%d" % n
    names = {session.peer.name for session in echo.export.sessions}
    assert len(names) == 3
    for client in clients:
        await client.stream.aclose()


async def test_the_server_rests_when_nothing_is_left_to_do(echo: Echo, no_errors: None) -> None:
    await echo.start()
    client = await echo.connect()
    await client.ask(b"v")
    before = echo.export.rests
    await client.ask(b"e")
    await until(lambda: echo.export.rests > before)
