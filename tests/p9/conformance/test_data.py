"""Tread and Twrite of files: read(5)."""

from __future__ import annotations

import os

import pytest

from fusemap.p9.messages import Rlerror, Rread, Tread, Twrite

from .numbers import O_APPEND, O_RDONLY, O_RDWR, O_WRONLY
from .place import Place

PATTERN = bytes(range(256)) * 4096  # 1 MiB


def test_a_whole_file(place: Place) -> None:
    place.file("f", b"content")
    assert place.client.read(place.open("f")) == b"content"


@pytest.mark.parametrize(
    ("offset", "count", "wanted"),
    [
        (0, 3, b"con"), (3, 4, b"tent"), (3, 100, b"tent"), (6, 1, b"t"),
        (7, 1, b""), (8, 100, b""), (1 << 40, 9, b""), (0, 0, b""),
    ],
)  # fmt: skip
def test_a_part_of_a_file(place: Place, offset: int, count: int, wanted: bytes) -> None:
    place.file("f", b"content")
    assert place.client.read(place.open("f"), offset, count) == wanted


def test_an_empty_file(place: Place) -> None:
    place.file("f")
    assert place.client.read(place.open("f")) == b""


@pytest.mark.parametrize("count", [1, 4096 - 24, 65536 - 24])
def test_as_much_as_was_asked(place: Place, count: int) -> None:
    place.file("f", PATTERN)
    count = min(count, place.client.msize - 24)
    assert place.client.read(place.open("f"), 100, count) == PATTERN[100 : 100 + count]


@pytest.mark.parametrize("count", [65536 - 11, 65536, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF])
def test_more_than_the_msize(place: Place, count: int) -> None:
    place.file("f", PATTERN)
    answer = place.client.ask(Tread(place.open("f"), 0, count))
    assert isinstance(answer, Rlerror) or (answer.data and answer.data == PATTERN[: len(answer.data)])


@pytest.mark.parametrize("offset", [1 << 63, (1 << 63) - 1, (1 << 64) - 1, (1 << 64) - 100])
def test_reading_at_an_impossible_offset(place: Place, offset: int) -> None:
    place.file("f", b"content")
    fid = place.open("f")
    answer = place.client.ask(Tread(fid, offset, 100))
    assert isinstance(answer, Rlerror) or answer == Rread(b"")
    assert place.client.read(fid) == b"content"


@pytest.mark.parametrize("offset", [1 << 63, (1 << 63) - 1, (1 << 64) - 1])
def test_writing_at_an_impossible_offset(place: Place, offset: int) -> None:
    place.file("f", b"content")
    fid = place.open("f", flags=O_RDWR)
    place.client.fails(Twrite(fid, offset, b"xx"))
    assert (place / "f").read_bytes() == b"content"


def test_writing(place: Place) -> None:
    place.file("f", b"content")
    fid = place.open("f", flags=O_WRONLY)
    assert place.client.write(fid, b"XY", 2) == 2
    assert (place / "f").read_bytes() == b"coXYent"
    assert place.client.write(fid, b"", 2) == 0
    assert place.client.write(fid, b"end", 7) == 3
    assert (place / "f").read_bytes() == b"coXYentend"


def test_writing_a_frame_as_long_as_can_be(place: Place) -> None:
    place.file("f")
    fid = place.open("f", flags=O_RDWR)
    most = place.client.msize - 24  # what Linux sends
    assert place.client.write(fid, PATTERN[:most]) == most
    answer = place.client.ask(Twrite(fid, 0, PATTERN[: most + 1]))  # exactly the msize
    assert isinstance(answer, Rlerror) or answer.count in (most, most + 1)
    assert (place / "f").read_bytes() == PATTERN[: (place / "f").stat().st_size]


def test_a_hole(place: Place) -> None:
    place.file("f")
    fid = place.open("f", flags=O_RDWR)
    place.client.write(fid, b"end", 1 << 20)
    assert (place / "f").stat().st_size == (1 << 20) + 3
    assert place.client.read(fid, (1 << 20) - 4, 100) == b"\0\0\0\0end"
    assert (place / "f").stat().st_blocks * 512 < 1 << 19


def test_beyond_four_gibibytes(place: Place) -> None:
    place.file("f", b"begin")
    fid = place.open("f", flags=O_RDWR)
    for power in (31, 32, 33, 40):
        place.client.write(fid, b"%d" % power, 1 << power)
    assert (place / "f").stat().st_size == (1 << 40) + 2
    for power in (31, 32, 33, 40):
        assert place.client.read(fid, 1 << power, 2) == b"%d" % power
    assert place.client.read(fid, 0, 5) == b"begin"


def test_appending(place: Place) -> None:
    place.file("f", b"content")
    fid = place.open("f", flags=O_WRONLY | O_APPEND)
    place.client.write(fid, b"-more", 7)
    (place / "f").write_bytes(b"longer content")
    place.client.write(fid, b"-more", 14)
    assert (place / "f").read_bytes() == b"longer content-more"


def test_a_large_file_both_ways(place: Place) -> None:
    client = place.connect(1 << 20)
    data = b"".join(bytes([n]) * 500_001 for n in range(16))
    place.file("f")
    fid = place.open("f", flags=O_RDWR, client=client)
    client.write_all(fid, data)
    assert (place / "f").read_bytes() == data
    assert client.read_all(fid) == data
    assert client.read_all(fid, min(65_537, client.msize - 24)) == data


def test_many_reads_under_way_keep_their_offsets(place: Place) -> None:
    place.file("f", PATTERN)
    client = place.client
    fid = place.open("f")
    starts = [n * 997 for n in range(300)]
    tags = client.send_all([Tread(fid, start, 1000) for start in starts])
    for tag, start in zip(tags, starts, strict=True):
        assert client.wait(tag).data == PATTERN[start : start + 1000]


def test_two_fids_are_independent(place: Place) -> None:
    place.file("f", b"content")
    one, two = place.open("f", flags=O_RDWR), place.open("f", flags=O_RDONLY)
    place.client.write(one, b"CON")
    assert place.client.read(two) == b"CONtent"
    place.client.clunk(one)
    assert place.client.read(two) == b"CONtent"


def test_what_the_host_writes_is_read(place: Place) -> None:
    place.file("f", b"before")
    fid = place.open("f")
    assert place.client.read(fid) == b"before"
    with open(place / "f", "r+b") as file:
        file.write(b"after!")
    assert place.client.read(fid) == b"after!"
    os.truncate(place / "f", 2)
    assert place.client.read(fid) == b"af"


def test_two_clients_see_each_others_data(place: Place) -> None:
    place.file("f", b"content")
    other = place.connect()
    fid = place.open("f", flags=O_RDWR)
    theirs = place.open("f", flags=O_RDWR, client=other)
    place.client.write(fid, b"one")
    assert other.read(theirs, 0, 3) == b"one"
    other.write(theirs, b"two")
    assert place.client.read(fid, 0, 3) == b"two"


@pytest.mark.parametrize("count", [8, 1000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_write_that_says_more_than_it_brings(place: Place, count: int) -> None:
    place.file("f", b"content")
    client = place.connect()
    fid = place.open("f", flags=O_RDWR, client=client)
    body = fid.to_bytes(4, "little") + bytes(8) + count.to_bytes(4, "little") + b"XXXX"
    client.refuses_frame(118, body)
    assert (place / "f").read_bytes() == b"content"


def test_a_frame_larger_than_the_msize(place: Place) -> None:
    place.file("f", b"content")
    client = place.connect(8192)
    fid = place.open("f", flags=O_RDWR, client=client)
    client.refuses(Twrite(fid, 0, bytes(10_000)))
    assert (place / "f").read_bytes() == b"content"
    assert place.client.qid(place.fid)
