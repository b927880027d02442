"""The codec: one table of bytes and messages for reader and writer, and whatever else a peer may send."""

from __future__ import annotations

import struct
from typing import Any, get_type_hints

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusemap.p9 import messages as m
from fusemap.p9.wire import Dialect, UnknownType, WireError, codec, decode, describe, encode, encode_record
from fusemap.qid import QID

from .vectors import ALL, DIR, HEAD, LINUX, RECORD, TAG, UNIX, UNIX_RECORD, VECTORS, Vector

CASES = [
    pytest.param(vector, dialect, id=f"{type(vector.message).__name__}-{dialect.value.decode()}-{number}")
    for number, vector in enumerate(VECTORS)
    for dialect in vector.dialects
]
each = pytest.mark.parametrize(("vector", "dialect"), CASES)


def tag_of(vector: Vector) -> int:
    return m.NOTAG if isinstance(vector.message, m.Tversion | m.Rversion) else TAG


def plain(message: Any) -> Any:
    """A message whose data is bytes: views compare by what they show, but not in a tuple's repr."""
    return type(message)(*(bytes(field) if isinstance(field, memoryview) else field for field in message))


def sized(frame: bytes) -> bytes:
    """The frame with its true size in front."""
    return struct.pack("<I", len(frame)) + frame[4:]


def same_or_wire_error(frame: bytes, dialect: Dialect) -> None:
    """A reader that accepts bytes has understood all of them: the writer makes the same ones again."""
    try:
        tag, message = decode(frame, dialect)
    except WireError:
        return
    if isinstance(message, m.Tfsync) and len(frame) == 11:
        assert message.datasync == 0
        return
    assert encode(plain(message), tag, dialect) == frame
    one_line(describe(message, tag))


def one_line(text: str) -> None:
    assert text.isascii()
    assert text.isprintable()


# The table ----------------------------------------------------------------------------------------------------------


@each
def test_the_reader_reads_the_table(vector: Vector, dialect: Dialect) -> None:
    for frame in (vector.frame, bytearray(vector.frame), memoryview(vector.frame)):
        tag, message = decode(frame, dialect)
        assert (tag, type(message), plain(message)) == (tag_of(vector), type(vector.message), vector.message)


@each
def test_the_writer_writes_the_table(vector: Vector, dialect: Dialect) -> None:
    assert encode(vector.message, tag_of(vector), dialect).hex() == vector.frame.hex()


@each
def test_a_head_is_the_frame_without_its_data(vector: Vector, dialect: Dialect) -> None:
    of = codec(type(vector.message), dialect)
    assert of.has_data == isinstance(vector.message, m.Rread | m.Twrite | m.Rreaddir)
    if of.has_data:
        assert of.head(vector.message, TAG) + vector.message.data == vector.frame


def test_the_table_has_every_message_in_every_dialect_that_knows_it() -> None:
    covered = {(type(vector.message), dialect) for vector in VECTORS for dialect in vector.dialects}
    old = {m.Topen, m.Ropen, m.Tcreate, m.Rcreate, m.Tstat, m.Rstat, m.Twstat, m.Rwstat, m.Rerror}
    for number, row in m.BY_NUMBER.items():
        known = ALL if number >= 100 and row not in old else ALL[:2] if row in old else LINUX
        assert {dialect for of, dialect in covered if of is row} == set(known), row.__name__
    assert set(m.BY_NUMBER.values()) == set(m.NUMBERS)


def test_requests_are_even_and_answers_follow_them() -> None:
    for number, row in m.BY_NUMBER.items():
        assert m.NUMBERS[row] == number
        assert row.__name__[0] == "TR"[number % 2]
        if number % 2 == 0:
            assert m.BY_NUMBER[number + 1].__name__[1:] == row.__name__[1:]
    assert {number for number in m.BY_NUMBER if number % 2 and number - 1 not in m.BY_NUMBER} == {7, 107}


def test_the_numbers_are_those_of_the_kernel() -> None:
    """include/net/9p/9p.h in Linux, enum p9_msg_t."""
    assert {row.__name__[1:]: number for number, row in m.BY_NUMBER.items() if number % 2 == 0} == {
        "statfs": 8,
        "lopen": 12,
        "lcreate": 14,
        "symlink": 16,
        "mknod": 18,
        "rename": 20,
        "readlink": 22,
        "getattr": 24,
        "setattr": 26,
        "xattrwalk": 30,
        "xattrcreate": 32,
        "readdir": 40,
        "fsync": 50,
        "lock": 52,
        "getlock": 54,
        "link": 70,
        "mkdir": 72,
        "renameat": 74,
        "unlinkat": 76,
        "version": 100,
        "auth": 102,
        "attach": 104,
        "flush": 108,
        "walk": 110,
        "open": 112,
        "create": 114,
        "read": 116,
        "write": 118,
        "clunk": 120,
        "remove": 122,
        "stat": 124,
        "wstat": 126,
    }


@pytest.mark.parametrize(("row", "size"), [(m.Rgetattr, 160), (m.Rstatfs, 67), (m.Tsetattr, 67)])
def test_fixed_frames_are_as_long_as_the_kernel_expects(row: type, size: int) -> None:
    (vector,) = (vector for vector in VECTORS if type(vector.message) is row)
    assert len(vector.frame) == size


@pytest.mark.parametrize(("row", "overhead"), [(m.Rread, 11), (m.Rreaddir, 11), (m.Twrite, 23)])
def test_data_has_the_room_that_clients_reckon_with(row: type, overhead: int) -> None:
    message = row(*(b"" if name == "data" else 0 for name in row._fields))  # type: ignore[attr-defined]
    assert len(encode(message, TAG, Dialect.LINUX)) == overhead


def test_an_fsync_of_old_clients_has_no_datasync() -> None:
    frame = bytes.fromhex(f"0b000000 32 {HEAD} 01020304")
    assert decode(frame, Dialect.LINUX) == (TAG, m.Tfsync(0x04030201, 0))
    for size in (12, 13, 14, 16):
        with pytest.raises(WireError):
            decode(sized(frame + bytes(size - 11)), Dialect.LINUX)


@pytest.mark.parametrize(("dialect", "record", "size"), [(ALL[0], RECORD, 0x35), (UNIX[0], UNIX_RECORD, 0x48)])
def test_a_record_of_a_directory_has_its_size_before_it(dialect: Dialect, record: m.StatRecord, size: int) -> None:
    raw = encode_record(record, dialect)
    assert raw[:2] == bytes((size, 0))
    assert len(raw) == size + 2
    assert raw == encode(m.Rstat(record), TAG, dialect)[9:]


# What is no message -------------------------------------------------------------------------------------------------


@each
def test_every_frame_cut_short_is_refused(vector: Vector, dialect: Dialect) -> None:
    frame = vector.frame
    for length in range(len(frame)):
        with pytest.raises(WireError):
            decode(frame[:length], dialect)
        if length >= 7 and not (isinstance(vector.message, m.Tfsync) and length == 11):
            with pytest.raises(WireError):
                decode(sized(frame[:length]), dialect)


@each
def test_every_frame_with_more_behind_it_is_refused(vector: Vector, dialect: Dialect) -> None:
    for more in (b"\0", bytes(13), bytes(300)):
        with pytest.raises(WireError):
            decode(vector.frame + more, dialect)
        with pytest.raises(WireError):
            decode(sized(vector.frame + more), dialect)


@each
def test_no_length_is_believed(vector: Vector, dialect: Dialect) -> None:
    """Whatever two or four bytes say, the reader understands all bytes or refuses."""
    frame = vector.frame
    for at in range(4, len(frame)):
        for lie in (b"\0\0", b"\1\0", b"\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"):
            if at + len(lie) <= len(frame):
                same_or_wire_error(frame[:at] + lie + frame[at + len(lie) :], dialect)
        for byte in (0, frame[at] - 1 & 0xFF, frame[at] + 1 & 0xFF):
            same_or_wire_error(frame[:at] + bytes((byte,)) + frame[at + 1 :], dialect)


@each
def test_every_length_must_be_true(vector: Vector, dialect: Dialect) -> None:
    """Each length field made one larger or smaller, with the size in front left as it was."""
    for at, width in lengths(vector, dialect):
        true = int.from_bytes(vector.frame[at : at + width], "little")
        for lie in {true - 1, true + 1, 0, (1 << 8 * width) - 1} - {true, -1}:
            frame = vector.frame[:at] + lie.to_bytes(width, "little") + vector.frame[at + width :]
            with pytest.raises(WireError):
                decode(frame, dialect)


def lengths(vector: Vector, dialect: Dialect) -> list[tuple[int, int]]:
    """Where the length fields of a message lie, and their widths: found in the fields, not by the codec."""
    found: list[tuple[int, int]] = []

    def walk(row: type, values: Any, at: int) -> int:
        hints = get_type_hints(row, include_extras=True)
        for name, value in zip(row._fields, values, strict=True):  # type: ignore[attr-defined]
            kind = hints[name].__metadata__
            if "unix" in kind and dialect is Dialect.BASE:
                continue
            if kind[0] in "BHIQ":
                at += struct.calcsize(kind[0])
            elif kind[0] == "qid":
                at += 13
            elif kind[0] == "string":
                found.append((at, 2))
                at += 2 + len(value)
            elif kind[0] == "data":
                found.append((at, 4))
                at += 4 + len(value)
            elif kind[0] == "stat":
                found.extend(((at, 2), (at + 2, 2)))
                at = walk(m.StatRecord, value, at + 4)
            else:
                found.append((at, 2))
                at += 2
                for item in value:
                    if kind[0] == "strings":
                        found.append((at, 2))
                    at += 13 if kind[0] == "qids" else 2 + len(item)
        return at

    end = walk(type(vector.message), vector.message, 7)
    assert end == len(vector.frame)
    return found


def test_a_walk_has_sixteen_names_and_no_more() -> None:
    good = m.Twalk(1, 2, (b"x",) * m.MAX_WALK)
    assert decode(encode(good, TAG, Dialect.LINUX), Dialect.LINUX)[1] == good
    bad = m.Twalk(1, 2, (b"x",) * (m.MAX_WALK + 1))
    with pytest.raises(WireError, match="17 names"):
        decode(encode(bad, TAG, Dialect.LINUX), Dialect.LINUX)


@given(st.integers(0, 255), st.binary(max_size=64))
def test_unknown_types_are_told_apart(number: int, body: bytes) -> None:
    frame = sized(b"\0\0\0\0" + bytes((number,)) + b"\1\2" + body)
    if number not in m.BY_NUMBER:
        with pytest.raises(UnknownType):
            decode(frame, Dialect.LINUX)
    else:
        same_or_wire_error(frame, Dialect.LINUX)


@given(st.binary(max_size=200), st.sampled_from(ALL))
def test_arbitrary_bytes_are_refused_or_understood(raw: bytes, dialect: Dialect) -> None:
    same_or_wire_error(raw, dialect)


@given(st.sampled_from(sorted(m.BY_NUMBER)), st.binary(max_size=200), st.sampled_from(ALL))
def test_arbitrary_bodies_are_refused_or_understood(number: int, body: bytes, dialect: Dialect) -> None:
    same_or_wire_error(sized(b"\0\0\0\0" + bytes((number,)) + b"\1\2" + body), dialect)


@given(st.sampled_from(CASES), st.data())
def test_spoilt_messages_are_refused_or_understood(case: Any, data: st.DataObject) -> None:
    vector, dialect = case.values
    frame = bytearray(vector.frame)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        change = data.draw(st.sampled_from(("set", "cut", "put")))
        if change == "set":
            frame[at] = data.draw(st.integers(0, 255))
        elif change == "cut" and len(frame) > 1:
            del frame[at]
        else:
            frame[at:at] = data.draw(st.binary(max_size=4))
    for raw in (bytes(frame), sized(bytes(frame)) if len(frame) >= 4 else b""):
        same_or_wire_error(raw, dialect)


# Everything that can be said ----------------------------------------------------------------------------------------

qids = st.builds(QID, st.integers(0, 0xFF), st.integers(0, 0xFFFFFFFF), st.integers(0, (1 << 64) - 1))
strings = st.binary(max_size=100)


def values(kind: tuple[str, ...]) -> st.SearchStrategy[Any]:
    """What a field of this kind can hold."""
    return {
        "B": st.integers(0, 0xFF),
        "H": st.integers(0, 0xFFFF),
        "I": st.integers(0, 0xFFFFFFFF),
        "Q": st.integers(0, (1 << 64) - 1),
        "qid": qids,
        "string": strings,
        "strings": st.lists(strings, max_size=m.MAX_WALK).map(tuple),
        "qids": st.lists(qids, max_size=m.MAX_WALK).map(tuple),
        "data": st.binary(max_size=300),
        "stat": st.deferred(lambda: messages(m.StatRecord)),
    }[kind[0]]


def messages(row: type) -> st.SearchStrategy[Any]:
    """All messages of a class, with every field of .u."""
    hints = get_type_hints(row, include_extras=True)
    return st.builds(row, *(values(hints[name].__metadata__) for name in row._fields))  # type: ignore[attr-defined]


def in_base(message: Any) -> Any:
    """The message without what 9P2000 has no room for."""
    hints = get_type_hints(type(message), include_extras=True)
    return message._replace(
        **{name: message._field_defaults[name] for name in message._fields if "unix" in hints[name].__metadata__},
        **({"stat": in_base(message.stat)} if "stat" in message._fields else {}),
    )


@pytest.mark.parametrize("row", m.BY_NUMBER.values(), ids=lambda row: row.__name__)
def test_what_is_written_is_read(row: type) -> None:
    @settings(max_examples=40)
    @given(messages(row), st.integers(0, 0xFFFF), st.sampled_from(ALL))
    def check(message: Any, tag: int, dialect: Dialect) -> None:
        frame = encode(message, tag, dialect)
        assert struct.unpack_from("<IBH", frame) == (len(frame), m.NUMBERS[row], tag)
        again_tag, again = decode(frame, dialect)
        assert again_tag == tag
        assert type(again) is row
        assert plain(again) == (in_base(message) if dialect is Dialect.BASE else message)
        one_line(describe(again, tag))

    check()


@pytest.mark.parametrize("row", m.BY_NUMBER.values(), ids=lambda row: row.__name__)
def test_what_does_not_fit_is_not_written(row: type) -> None:
    hints = get_type_hints(row, include_extras=True)
    good = next(vector.message for vector in VECTORS if type(vector.message) is row)
    for name in row._fields:  # type: ignore[attr-defined]
        kind = hints[name].__metadata__[0]
        too_much: list[Any] = []
        if kind in "BHIQ":
            too_much = [-1, 1 << 8 * struct.calcsize(kind)]
        elif kind == "string":
            too_much = [b"x" * 0x10000]
        elif kind == "strings":
            too_much = [(b"x" * 0x10000,), (b"",) * 0x10000]
        elif kind == "qid":
            too_much = [DIR._replace(path=1 << 64), DIR._replace(version=-1)]
        elif kind == "stat":
            too_much = [
                RECORD._replace(name=b"x" * 0x10000),
                RECORD._replace(name=b"x" * 0xFFC0),
                RECORD._replace(dev=-1),
            ]
        for value in too_much:
            with pytest.raises((struct.error, ValueError)):
                encode(good._replace(**{name: value}), TAG, Dialect.UNIX)


# For people ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (m.Tversion(8192, b"9P2000.L"), "Tversion tag=513 msize=8192 version='9P2000.L'"),
        (m.Twalk(1, 2, (b"a b", b"\n\x1b[2J")), r"Twalk tag=513 fid=1 newfid=2 wname=['a b' '\n\x1b[2J']"),
        (m.Rwalk((DIR,)), "Rwalk tag=513 wqid=[d/14131211/2025241152513840661]"),
        (m.Twrite(1, 2, memoryview(b"hello")), "Twrite tag=513 fid=1 offset=2 data=<5 bytes>"),
        (m.Tlopen(1, 0o4002), "Tlopen tag=513 fid=1 flags=0o4002"),
        (m.Tgetattr(1, 0x17FF), "Tgetattr tag=513 fid=1 request_mask=0x17ff"),
        (m.Rreadlink(b"x" * 70), f"Rreadlink tag=513 target='{'x' * 64}'+6"),
        (m.Rflush(), "Rflush tag=513"),
    ],
)
def test_a_trace_reads_well(message: Any, line: str) -> None:
    assert describe(message, TAG) == line


@each
def test_a_trace_is_one_line(vector: Vector, dialect: Dialect) -> None:
    one_line(describe(vector.message, TAG))


@given(st.lists(st.binary(max_size=300), max_size=16).map(tuple))
@example((b"\r\n", "\N{RIGHT-TO-LEFT OVERRIDE}".encode(), b"\x9b31m"))
def test_names_cannot_break_a_trace(names: tuple[bytes, ...]) -> None:
    line = describe(m.Twalk(1, 2, names), TAG)
    one_line(line)
    assert len(line) < 100 + 16 * (64 * 4 + 10)
