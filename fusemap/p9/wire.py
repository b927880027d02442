"""Bytes in, messages out, and the other way: the codec that is made from the table in messages.py.

A frame is size[4] type[1] tag[2] body, little-endian, and size counts itself. A message of nothing but integers and
QIDs is one `struct` call; the rest is read by a cursor that knows where the frame ends, so that no count or length that
a peer made up is ever believed further than the bytes that are there. Whatever is wrong with a frame is a `WireError`.

A data field is handed out as a view of the bytes that came in: whoever keeps it longer than those must copy it.
"""

from __future__ import annotations

import enum
import functools
import struct
from collections.abc import Callable
from typing import Any, Final, TypeAlias, get_type_hints

from fusemap.errors import FusemapError
from fusemap.p9.messages import BY_NUMBER, MAX_WALK, NUMBERS, StatRecord
from fusemap.qid import QID

HEADER: Final = struct.Struct("<IBH")
QID_SIZE: Final = 13
_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_QID: Final = struct.Struct("<BIQ")
_QID_FORMAT: Final = "BIQ"
_SHOWN_BYTES: Final = 64

Buffer: TypeAlias = bytes | bytearray | memoryview
Message: TypeAlias = Any
"""One of the named tuples of messages.py."""


class Dialect(enum.Enum):
    """A version of the protocol, by the name it has in Tversion."""

    BASE = b"9P2000"
    UNIX = b"9P2000.u"
    LINUX = b"9P2000.L"


class WireError(FusemapError):
    """The peer's bytes are no message; the sentence says why."""


class UnknownType(WireError):
    """A whole frame of a type that is not in the table."""


class Cursor:
    """Reads a frame's body from `at` to `end`; every read past the end raises WireError."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: Buffer, at: int, end: int) -> None:
        self.data, self.at, self.end = data, at, end

    def take(self, size: int) -> int:
        """Passes `size` bytes and gives where they begin."""
        at = self.at
        if size > self.end - at:
            raise WireError(f"{size} bytes are announced and {self.end - at} are left")
        self.at = at + size
        return at

    def u16(self) -> int:
        """An unsigned integer of two bytes."""
        return int(_U16.unpack_from(self.data, self.take(2))[0])

    def u32(self) -> int:
        """An unsigned integer of four bytes."""
        return int(_U32.unpack_from(self.data, self.take(4))[0])

    def string(self) -> bytes:
        """len[2] and that many bytes."""
        at = self.take(self.u16())
        return bytes(self.data[at : self.at])

    def check_end(self) -> None:
        """Raises WireError when bytes are left."""
        if self.at != self.end:
            raise WireError(f"{self.end - self.at} bytes too many")


_Read: TypeAlias = Callable[[Cursor], Any]
_Write: TypeAlias = Callable[[Any], bytes]


class Codec:
    """Reads and writes one message in one dialect.

    Its fields are taken together in runs: a run of integers and QIDs is one struct, everything else stands alone.
    """

    def __init__(self, row: type, dialect: Dialect) -> None:
        self.row: Final = row
        self.number: Final = NUMBERS.get(row, 0)
        names = [name for name, _ in _kinds(row)]
        kinds = [kind for _, kind in _kinds(row)]
        self.absent: Final = tuple(
            row._field_defaults[name]  # type: ignore[attr-defined]
            for name, kind in zip(names, kinds, strict=True)
            if "unix" in kind and dialect is Dialect.BASE
        )
        kinds = kinds[: len(kinds) - len(self.absent)]
        self.has_data: Final = bool(kinds) and kinds[-1][0] == "data"
        self._late = bool(kinds) and "late" in kinds[-1]
        runs = _runs([kind[0] for kind in kinds[: len(kinds) - self._late]])
        runs += [[kinds[-1][0]]] if self._late else []  # by itself, so that the frame can end before it
        self._steps = [_step(run, dialect) for run in runs]
        fixed = all(kind[0] in "BHIQ" or kind[0] == "qid" for kind in kinds) and not self._late
        self._qids = [index for index, kind in enumerate(kinds) if kind[0] == "qid"]
        body = "".join(_QID_FORMAT if kind[0] == "qid" else kind[0] for kind in kinds) if fixed else ""
        self._fixed = struct.Struct("<" + body) if fixed else None
        self._frame = struct.Struct("<IBH" + body)

    def decode(self, data: Buffer, at: int, end: int) -> Message:
        """The message whose body lies in `data` from `at` to `end`. Raises WireError."""
        fixed = self._fixed
        if fixed is not None and not self._qids:
            if end - at != fixed.size:
                raise WireError(f"{self.row.__name__} has {fixed.size} bytes, not {end - at}")
            return tuple.__new__(self.row, fixed.unpack_from(data, at) + self.absent)
        cursor = Cursor(data, at, end)
        try:
            values = self.read(cursor)
            cursor.check_end()
        except WireError as error:
            raise WireError(f"{self.row.__name__}: {error}") from None
        return tuple.__new__(self.row, values)

    def read(self, cursor: Cursor) -> tuple[Any, ...]:
        """The fields at the cursor. Raises WireError."""
        values: list[Any] = []
        for count, read, _ in self._steps:
            if self._late and cursor.at == cursor.end and values:
                values.append(self.row._field_defaults[self.row._fields[-1]])  # type: ignore[attr-defined]
                break
            values += read(cursor) if count else (read(cursor),)
        return (*values, *self.absent)

    def encode(self, message: Message, tag: int) -> bytes:
        """The whole frame. Raises struct.error for a number out of range, ValueError for too long a string."""
        if self._fixed is not None:
            frame = self._frame
            if self._qids or self.absent:
                message = self._flat(message)
            return frame.pack(frame.size, self.number, tag, *message)
        body = self.write(message)
        return HEADER.pack(7 + len(body), self.number, tag) + body

    def head(self, message: Message, tag: int) -> bytes:
        """The frame without the data that ends it, which is sent after it."""
        data = message[-1]
        body = self.write((*message[:-1], b""))[:-4] + _U32.pack(len(data))
        return HEADER.pack(7 + len(body) + len(data), self.number, tag) + body

    def write(self, message: Message) -> bytes:
        """The body, without the header."""
        parts, at = [], 0
        for count, _, write in self._steps:
            parts.append(write(message[at : at + count] if count else message[at]))
            at += count or 1
        return b"".join(parts)

    def _flat(self, message: Message) -> Message:
        if self.absent:
            message = message[: -len(self.absent)]
        for index in self._qids:  # one at most
            return (*message[:index], *message[index], *message[index + 1 :])
        return message


_codecs: Final[dict[tuple[type, Dialect], Codec]] = {}


def codec(row: type, dialect: Dialect) -> Codec:
    """The codec of a class of messages.py."""
    found = _codecs.get((row, dialect))
    if found is None:
        found = _codecs[row, dialect] = Codec(row, dialect)
    return found


def decode(frame: Buffer, dialect: Dialect) -> tuple[int, Message]:
    """Tag and message of one whole frame. Raises WireError."""
    if len(frame) < HEADER.size:
        raise WireError(f"a frame has {HEADER.size} bytes or more, not {len(frame)}")
    size, number, tag = HEADER.unpack_from(frame)
    if size != len(frame):
        raise WireError(f"the frame says it has {size} bytes and has {len(frame)}")
    row = BY_NUMBER.get(number)
    if row is None:
        raise UnknownType(f"there is no message type {number}")
    return tag, codec(row, dialect).decode(frame, HEADER.size, size)


def encode(message: Message, tag: int, dialect: Dialect) -> bytes:
    """The frame of a message. Raises struct.error or ValueError when a field does not fit."""
    return codec(type(message), dialect).encode(message, tag)


def encode_record(record: StatRecord, dialect: Dialect) -> bytes:
    """A stat record with its size[2], as directories of 9P2000 and .u hold it."""
    body = codec(StatRecord, dialect).write(record)
    return _U16.pack(len(body)) + body


def describe(message: Message, tag: int) -> str:
    """One line for a person: name, tag, fields; QIDs as type/version/path."""
    row: type = type(message)
    fields = [f"{name}={_shown(value, kind)}" for (name, kind), value in zip(_kinds(row), message, strict=True)]
    return " ".join((row.__name__, f"tag={tag}", *fields))


@functools.cache
def _kinds(row: type) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The fields of a message by name, each with what its annotation says."""
    hints = get_type_hints(row, include_extras=True)
    return tuple((name, hints[name].__metadata__) for name in row._fields)  # type: ignore[attr-defined]


def _runs(kinds: list[str]) -> list[str | list[str]]:
    """Neighbouring integers and QIDs together as lists, the other fields as they are."""
    runs: list[str | list[str]] = []
    for kind in kinds:
        if kind in ("B", "H", "I", "Q", "qid"):
            if not runs or isinstance(runs[-1], str):
                runs.append([])
            run = runs[-1]
            assert isinstance(run, list)
            run.append(kind)
        else:
            runs.append(kind)
    return runs


def _step(run: str | list[str], dialect: Dialect) -> tuple[int, _Read, _Write]:
    """How many fields are taken at once (0: one by itself), how they are read, how written."""
    if isinstance(run, list):
        if "qid" in run or len(run) == 1:
            return (len(run), *_numbers_one_by_one(run))
        form = struct.Struct("<" + "".join(run))
        return len(run), lambda cursor: form.unpack_from(cursor.data, cursor.take(form.size)), lambda v: form.pack(*v)
    return (0, *_VARIABLE[run](dialect))


def _numbers_one_by_one(run: list[str]) -> tuple[_Read, _Write]:
    forms = [struct.Struct("<" + (_QID_FORMAT if kind == "qid" else kind)) for kind in run]

    def read(cursor: Cursor) -> list[Any]:
        values: list[Any] = []
        for kind, form in zip(run, forms, strict=True):
            found = form.unpack_from(cursor.data, cursor.take(form.size))
            values.append(QID(*found) if kind == "qid" else found[0])
        return values

    def write(values: tuple[Any, ...]) -> bytes:
        return b"".join(
            form.pack(*value) if kind == "qid" else form.pack(value)
            for kind, form, value in zip(run, forms, values, strict=True)
        )

    return read, write


def _string(dialect: Dialect) -> tuple[_Read, _Write]:
    return Cursor.string, _write_string


def _write_string(value: bytes) -> bytes:
    if len(value) > 0xFFFF:
        raise ValueError(f"a string of {len(value)} bytes does not fit the wire")
    return _U16.pack(len(value)) + value


def _strings(dialect: Dialect) -> tuple[_Read, _Write]:
    def read(cursor: Cursor) -> tuple[bytes, ...]:
        count = cursor.u16()
        if count > MAX_WALK:
            raise WireError(f"{count} names in a walk, {MAX_WALK} are allowed")
        return tuple(cursor.string() for _ in range(count))

    return read, lambda names: _U16.pack(len(names)) + b"".join(map(_write_string, names))


def _qids(dialect: Dialect) -> tuple[_Read, _Write]:
    def read(cursor: Cursor) -> tuple[QID, ...]:
        return tuple(QID(*_QID.unpack_from(cursor.data, cursor.take(QID_SIZE))) for _ in range(cursor.u16()))

    return read, lambda qids: _U16.pack(len(qids)) + b"".join(_QID.pack(*qid) for qid in qids)


def _data(dialect: Dialect) -> tuple[_Read, _Write]:
    def read(cursor: Cursor) -> memoryview:
        at = cursor.take(cursor.u32())
        return memoryview(cursor.data)[at : cursor.at]

    return read, lambda data: _U32.pack(len(data)) + bytes(data)


def _stat(dialect: Dialect) -> tuple[_Read, _Write]:
    record = codec(StatRecord, dialect)

    def read(cursor: Cursor) -> StatRecord:
        outer = cursor.u16()
        end = cursor.at + outer
        if end > cursor.end or cursor.u16() != outer - 2:
            raise WireError("the two sizes of a stat record contradict each other or the frame")
        inner = Cursor(cursor.data, cursor.at, end)
        values = record.read(inner)
        inner.check_end()
        cursor.at = end
        return StatRecord(*values)

    def write(value: StatRecord) -> bytes:
        whole = encode_record(value, dialect)
        return _U16.pack(len(whole)) + whole

    return read, write


_VARIABLE: Final[dict[str, Callable[[Dialect], tuple[_Read, _Write]]]] = {
    "string": _string,
    "strings": _strings,
    "qids": _qids,
    "data": _data,
    "stat": _stat,
}


def _shown(value: Any, kind: tuple[str, ...]) -> str:
    if "hex" in kind:
        return f"{value:#x}"
    if "octal" in kind:
        return f"{value:#o}"
    if kind[0] == "qid":
        return str(value)
    if kind[0] == "qids":
        return "[" + " ".join(map(str, value)) + "]"
    if kind[0] == "strings":
        return "[" + " ".join(map(_text, value)) + "]"
    if kind[0] == "stat":
        fields = zip(_kinds(StatRecord), value, strict=True)
        return "{" + " ".join(f"{name}={_shown(field, kind)}" for (name, kind), field in fields) + "}"
    if kind[0] == "data":
        return f"<{len(value)} bytes>"
    return _text(value) if isinstance(value, bytes) else str(value)


def _text(value: bytes) -> str:
    """Quoted, on one line, and not longer than anyone reads: names are the client's, and logs are read in terminals."""
    shown = repr(value[:_SHOWN_BYTES])[1:]
    return shown if len(value) <= _SHOWN_BYTES else f"{shown}+{len(value) - _SHOWN_BYTES}"
