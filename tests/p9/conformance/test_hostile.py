"""Frames that no honest client sends. They may cost their own connection, and nobody else's."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from fusemap.p9.messages import Tgetattr, Tlopen, Tread, Twalk
from fusemap.p9.wire import Dialect, encode

from .. import client as clients
from ..answers import Disconnected
from ..client import Client
from .place import Place


@pytest.fixture(autouse=True)
def bystander(place: Place) -> Iterator[None]:
    """A client that wants nothing but its answers, before and after."""
    other = place.connect()
    place.file("bystander", b"content")
    fid = place.open("bystander", client=other)
    yield
    assert other.read(fid) == b"content"
    assert other.getattr(fid).size == 7
    late = place.connect()
    assert late.getattr(late.root).mode >> 12 == 4


def frame(kind: int, body: bytes, size: int | None = None) -> tuple[int, bytes, int | None]:
    return kind, body, size


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


# Type, body, and a size other than the true one
REFUSED: Final[dict[str, tuple[int, bytes, int | None]]] = {
    "unknown-type": frame(200, b""),
    "type-0": frame(0, b""),
    "type-255": frame(255, bytes(100)),
    "Tlerror": frame(6, words(5)),
    "Rlerror": frame(7, words(5)),
    "Rversion": frame(101, words(8192) + b"\x08\x009P2000.L"),
    "Rgetattr": frame(25, bytes(153)),
    "Rread": frame(117, words(4) + b"data"),
    "Terror": frame(106, words(5)),
    "getattr-short": frame(24, words(1)),
    "getattr-empty": frame(24, b""),
    "walk-short": frame(110, words(1)),
    "walk-names-missing": frame(110, words(1, 2) + b"\x02\x00\x01\x00a"),
    "walk-name-cut": frame(110, words(1, 2) + b"\x01\x00\x09\x00abc"),
    "walk-65535-names": frame(110, words(1, 2) + b"\xff\xff"),
    "walk-17-names": frame(110, words(1, 2) + b"\x11\x00" + b"\x01\x00a" * 17),
    "attach-string-beyond": frame(104, words(9, 0xFFFFFFFF) + b"\xff\xffroot"),
    "attach-second-string-beyond": frame(104, words(9, 0xFFFFFFFF) + b"\x04\x00root\x05\x00abc"),
    "attach-without-number": frame(104, words(9, 0xFFFFFFFF) + b"\x04\x00root\x00\x00"),
    "write-count-beyond": frame(118, words(1, 0, 0, 0x7FFFFFFF) + b"x"),
    "mkdir-string-beyond": frame(72, words(1) + b"\x00\x80d" + words(0, 0)),
    "xattrcreate-short": frame(32, words(1) + b"\x01\x00a"),
    "lock-without-client": frame(52, words(1) + b"\x00" + bytes(24)),
    "renameat-half": frame(74, words(1) + b"\x01\x00a" + words(1)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_message_is_refused(place: Place, name: str) -> None:
    place.connect().refuses_frame(*REFUSED[name])


TRAILING: Final[dict[str, tuple[int, bytes]]] = {
    "getattr": (24, words(1, 0x7FF, 0)),
    "clunk": (120, words(1)),
    "walk": (110, words(1, 2) + b"\x00\x00"),
    "statfs": (8, words(1)),
    "lopen": (12, words(1, 0)),
}


@pytest.mark.parametrize("name", TRAILING)
def test_trailing_bytes_are_refused_or_passed_over(place: Place, name: str) -> None:
    kind, body = TRAILING[name]
    client = place.connect()
    tag = client.next_tag()
    client._used[tag] = 1
    client.send_bytes(struct.pack("<IBH", 7 + len(body) + 5, kind, tag) + body + b"extra")
    try:
        client.receive()
        client.wait(client.send(Tgetattr(client.root, 0x7FF)))  # what comes next is read in the right place
    except Disconnected:
        pass


@pytest.mark.parametrize("size", [0, 1, 4, 6])
def test_a_size_below_the_headers(place: Place, size: int) -> None:
    client = place.connect()
    client.refuses_frame(24, words(1, 0x7FF, 0), size)


@pytest.mark.parametrize("size", [1 << 17, 1 << 24, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_size_beyond_the_msize(place: Place, size: int) -> None:
    """The server need not wait for bytes that it would not take."""
    client = place.connect()
    try:
        client.send_bytes(struct.pack("<IBHI", size, 118, 1, 1) + bytes(100_000))
        client._used[1] = 1
        client._lenient = True
        client.receive()
    except Disconnected:
        pass


def test_a_frame_of_nothing_but_its_header(place: Place) -> None:
    place.connect().refuses_frame(108, b"")


@pytest.mark.parametrize("cut", [1, 4, 5, 7, 11, 18])
def test_half_a_frame_and_silence(place: Place, cut: int) -> None:
    """The fixture looks whether others are served meanwhile; then the other half comes."""
    client = place.connect()
    whole = encode(Tgetattr(client.root, 0x7FF), 1, Dialect.LINUX)
    client.send_bytes(whole[:cut])
    other = place.connect()
    assert other.getattr(other.root).valid
    client._used[1] = 1
    client.send_bytes(whole[cut:])
    assert client.wait(1).valid


@pytest.mark.parametrize("cut", [1, 5, 8, 18])
def test_half_a_frame_and_the_end(place: Place, cut: int) -> None:
    client = place.connect()
    client.send_bytes(encode(Tgetattr(client.root, 0x7FF), 1, Dialect.LINUX)[:cut])
    client.close()


def test_one_byte_at_a_time(place: Place) -> None:
    client = place.connect()
    for tag in (1, 2):
        client._used[tag] = 1
        for byte in encode(Tgetattr(client.root, 0x3FFF), tag, Dialect.LINUX):
            client.send_bytes(bytes([byte]))
        assert client.wait(tag).valid


def test_frames_that_are_cut_anywhere(place: Place) -> None:
    client = place.connect()
    tags = range(1, 200)
    client._used.update(dict.fromkeys(tags, 1))
    stream = b"".join(encode(Tgetattr(client.root, 0x7FF), tag, Dialect.LINUX) for tag in tags)
    at = 0
    for step in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233] * 20:
        client.send_bytes(stream[at : at + step])
        at += step
    client.send_bytes(stream[at:])
    assert all(client.wait(tag).valid for tag in tags)


GREETINGS: Final[dict[str, bytes]] = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zeros": bytes(10_000),
    "ones": b"\xff" * 10_000,
    "text": b"hello\n" * 1000,
}


@pytest.mark.parametrize("name", GREETINGS)
def test_another_protocol(place: Place, name: str) -> None:
    client = place.bare()
    try:
        client.send_bytes(GREETINGS[name])
        client.close()
    except Disconnected:
        pass


def test_a_malformed_message_costs_no_fid(place: Place) -> None:
    """Either the connection is dropped, or all is as it was."""
    client = place.connect()
    client.refuses_frame(110, words(client.root, 50) + b"\x01\x00\x09\x00abc")
    try:
        answer = client.ask(Tgetattr(client.root, 0x7FF))
    except Disconnected:
        return
    assert answer.valid
    client.fails(Tgetattr(50, 0x7FF))


def test_a_client_that_does_not_read(place: Place) -> None:
    """It fills the server's and the kernel's buffers; the fixture looks how the others fare."""
    place.file("big", bytes(1 << 20))
    client = place.connect()
    fid = place.open("big", client=client)
    client.socket.settimeout(1)
    read = b"".join(encode(Tread(fid, 0, 65000), tag, Dialect.LINUX) for tag in range(1000))
    sent = 0
    try:
        while sent < 20 * len(read):
            sent += client.socket.send(read)
    except TimeoutError:
        pass  # as it should be: the server stops reading from who does not read
    except OSError:
        return  # or drops the connection
    other = place.connect()
    assert other.getattr(other.root).valid


def test_many_connections(place: Place) -> None:
    opened: list[Client] = []
    try:
        for _ in range(60):
            opened.append(place.connect())
        assert all(client.getattr(client.root).valid for client in opened)
    finally:
        for client in opened:
            client.close()


def test_connections_that_say_nothing(place: Place) -> None:
    for _ in range(40):
        place.bare()


def test_a_client_that_leaves_in_the_middle_of_everything(place: Place) -> None:
    place.file("big", bytes(1 << 20))
    for _ in range(10):
        client = place.connect()
        fid = place.open("big", client=client)
        client.send_all([Tread(fid, 0, 65000), Tgetattr(fid, 0x3FFF), Twalk(fid, client.new_fid(), ())] * 30)
        client.close()


@pytest.mark.parametrize("name", ["names", "fids", "opens"])
def test_a_client_that_takes_all_it_can_get(place: Place, name: str) -> None:
    """A limit is answered with an error, and holds for this client alone."""
    for n in range(3):
        place.file(str(n))
    client = place.connect()
    top = place.walk(client=client)
    ways: dict[str, Callable[[int], list[Any]]] = {
        "names": lambda n: [Twalk(top, 100 + n, (b"n" * 255,) * 16)],
        "fids": lambda n: [Twalk(top, 100 + n, (b"%d" % (n % 3),))],
        "opens": lambda n: [Twalk(top, 100 + n, (b"%d" % (n % 3),)), Tlopen(100 + n, 0)],
    }
    make = ways[name]
    for block in range(10):
        messages = [message for n in range(block * 300, block * 300 + 300) for message in make(n)]
        try:
            tags = client.send_all(messages)
            for tag in tags:
                client.wait(tag, clients.SECONDS)
        except Disconnected:
            return
    assert client.getattr(top).valid


def test_the_host_is_as_it_was(place: Place) -> None:
    """Whatever the frames above said, nothing was made."""
    assert sorted(os.listdir(place.host)) == ["bystander"]
