"""The server with real sockets and pipes, and sessions that echo: what one client does costs nobody else."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from fusemap.p9 import connection, server
from fusemap.p9.listen import open_all
from fusemap.p9.server import Server

from ..support import needs
from ..support.process import ALICE, call_as
from .doubles import SENT_AT_ONCE, WORKS, EchoExport, EchoSession, frame

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


@pytest.fixture
async def echo(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Echo]:
    """A server on a Unix socket, to be started by the test."""
    found = Echo(tmp_path, nursery)
    yield found
    if hasattr(found, "server"):
        await found.close()


@pytest.fixture
def no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing worse than a warning is logged."""
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def lines(caplog: pytest.LogCaptureFixture, *words: str) -> list[str]:
    """The log lines with all these words."""
    found = [record.getMessage() for record in caplog.records]
    return [line for line in found if all(word in line for word in words)]


# Moving bytes ---------------------------------------------------------------------------------------------------------


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


# One connection that was there before ---------------------------------------------------------------------------------


@pytest.fixture
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """The server's end to read, the client's to write, the client's to read, the server's to write."""
    found = (*os.pipe(), *os.pipe())
    ends = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in found}
    yield found
    for fd, end in ends.items():
        with contextlib.suppress(OSError):  # most are closed, and the number may be another's by now
            if os.readlink(f"/proc/self/fd/{fd}") == end:
                os.close(fd)


def _descriptors() -> list[int]:
    found = []
    for word in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(word))
            found.append(int(word))
    return found


async def test_a_pair_of_pipes_is_served_and_ends_the_server(
    echo: Echo, pipes: tuple[int, int, int, int], no_errors: None
) -> None:
    theirs, mine, answers, out = pipes
    other = os.dup(theirs)  # what is not blocking belongs to both
    echo.words = [f"fd:{theirs},{out}"]
    await echo.start()
    requests, replies = trio.lowlevel.FdStream(mine), trio.lowlevel.FdStream(answers)
    client = Client(trio.StapledStream(requests, replies))
    assert await client.ask(b"v", b"hello") == b"hello"
    assert not os.get_blocking(other)
    assert await client.ask(b"b", (300_000).to_bytes(4, "little")) == b"abcdefghij" * 30_000
    await client.send(frame(b"w", b"late"))
    await requests.aclose()  # all is said, and an answer is still to come
    session = echo.export.sessions[0]
    await until(lambda: session.works)
    echo.export.gates[b"late"].set()
    assert await client.answer() == (b"w", b"late")
    with trio.fail_after(SECONDS):
        await echo.over.wait()
    assert await client.ended()
    assert os.get_blocking(other), "what others use as well is left as it was"
    pipe = os.readlink(f"/proc/self/fd/{other}")
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors()].count(pipe) == 1, "it is kept open elsewhere"
    assert session.closed == 1
    os.close(other)
    await replies.aclose()


async def test_nobody_reads_a_pipe_any_more(
    echo: Echo, pipes: tuple[int, int, int, int], no_errors: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "GONE_SECONDS", 0.01)
    theirs, mine, answers, out = pipes
    echo.words = [f"fd:{theirs},{out}"]
    await echo.start()
    os.write(mine, frame(b"v") + frame(b"w", b"never"))
    session = await echo.session()
    await until(lambda: session.works)
    os.close(mine)
    os.close(answers)
    with trio.fail_after(SECONDS):
        await echo.over.wait()
    assert session.works[0].cancelled.is_set()


async def test_a_socket_that_is_given_as_one_descriptor(echo: Echo, no_errors: None) -> None:
    mine, theirs = socket.socketpair()
    fd = theirs.detach()
    echo.words = [f"fd:{fd},{fd}"]
    await echo.start()
    client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(mine)))
    assert await client.ask(b"e", b"x") == b"x"
    await client.stream.aclose()
    with trio.fail_after(SECONDS):
        await echo.over.wait()
    with pytest.raises(OSError):
        os.fstat(fd)


async def test_listeners_outlive_a_connection_that_was_inherited(echo: Echo, no_errors: None) -> None:
    mine, theirs = socket.socketpair()
    fd = theirs.detach()
    echo.words.append(f"fd:{fd},{fd}")
    await echo.start()
    mine.close()
    session = await echo.session()
    await until(lambda: session.closed)
    assert await (await echo.connect()).ask(b"e", b"still there") == b"still there"
    assert not echo.over.is_set()


# Work -----------------------------------------------------------------------------------------------------------------


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


# Bugs and bad clients -------------------------------------------------------------------------------------------------


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


async def test_who_does_not_read_is_not_heard(
    echo: Echo, no_errors: None, monkeypatch: pytest.MonkeyPatch
) -> None:
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


# Limits ---------------------------------------------------------------------------------------------------------------


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


# Who it is ------------------------------------------------------------------------------------------------------------


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


# The end --------------------------------------------------------------------------------------------------------------


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
