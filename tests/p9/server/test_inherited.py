"""One connection that was there before the server: pipes, and a socket as one descriptor."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from fusemap.p9 import connection

from ..doubles import frame
from .echo import SECONDS, Client, Echo, until


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
