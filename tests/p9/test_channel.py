"""The channel never lets the kernel keep quiet about bytes that somebody waits for."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from fusemap.p9.channel import Channel, prepare


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    """A TCP connection: our channel and the peer's socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        channel = prepare(listener.accept()[0])
        try:
            yield channel, peer
        finally:
            channel.close()


def told(channel: Channel, seconds: float) -> bool:
    poll = select.poll()
    poll.register(channel.reader, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


@pytest.mark.parametrize("before", [(1 << 18, 20_000), (1 << 18, 32_767, 5), (1 << 20,), (40_000, 32_768), (5, 90)])
def test_a_short_message_is_told_whatever_was_expected_before(
    pair: tuple[Channel, socket.socket], before: tuple[int, ...]
) -> None:
    channel, peer = pair
    for size in before:
        channel.expect(size)
    channel.expect(0)
    peer.sendall(b"x")
    assert told(channel, 30)
    assert channel.receive(memoryview(bytearray(16))) == 1


def test_the_last_bytes_of_a_long_message_are_told(pair: tuple[Channel, socket.socket]) -> None:
    """Whatever pieces it comes in: each time just as many bytes are expected as are missing."""
    channel, peer = pair
    space = memoryview(bytearray(1 << 20))
    for piece in (1, 999, 8_192, 30_000, 32_767, 32_768, 65_537, 250_000):
        missing = 300_000
        while missing:
            channel.expect(missing)
            sent = min(piece if missing > piece else missing, missing)
            peer.sendall(bytes(sent))
            if sent < min(missing, 1 << 18) and not told(channel, 0):
                peer.sendall(bytes(missing - sent))  # it may wait for all that it was told of, and for no more
                sent = missing
            assert told(channel, 30)
            while sent:
                got = channel.receive(space)
                sent, missing = sent - got, missing - got
                if sent:
                    assert told(channel, 30)
            channel.expect(missing)


def test_the_end_is_told_whatever_is_expected(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    channel.expect(1 << 18)
    peer.sendall(b"x")
    peer.shutdown(socket.SHUT_WR)
    assert told(channel, 30)
