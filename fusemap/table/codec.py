"""A table in bytes: snapshots of a whole ledger, and log pieces that hold what came after one.

Both carry one CRC-32C over all that follows it, header included, so that a header cannot lie about its body. A
snapshot says how long it is, a log piece which snapshot it continues and as which one. All numbers are little-endian.

    snapshot   u32 crc, "fmap", u8 version, u8 mode, u8 k, u8 flags, u64 generation, 16 bytes identity, u32 length of
               everything, body
    log piece  u32 crc, u64 generation, u16 position, changes

If the flags say "moved", the body is the name of the file where the table went; otherwise see body.py, as for changes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from crc32c import crc32c

from fusemap.table.body import (
    BY_GENERATION,
    VERSION,
    Cursor,
    Damaged,
    decode_body,
    decode_change,
    decode_text,
    encode_body,
    encode_change,
    encode_text,
)
from fusemap.table.ledger import Change, Device, Ledger

__all__ = [
    "HEAD_SIZE",
    "LOG_HEAD_SIZE",
    "MODES",
    "Cursor",
    "Damaged",
    "Head",
    "Snapshot",
    "Unknown",
    "decode_body",
    "decode_changes",
    "decode_log",
    "decode_snapshot",
    "encode_changes",
    "encode_log",
    "encode_moved",
    "encode_snapshot",
    "head_of",
    "parse_snapshot",
]

MAGIC: Final = b"fmap"
MODES: Final = ("prefix", "suffix", "qemu")
"""The modes that have a table; the position is the number that stands for a mode."""

_MOVED: Final = 1
_CRC: Final = struct.Struct("<I")
_HEAD: Final = struct.Struct("<I4sBBBBQ16sI")
_LOG_HEAD: Final = struct.Struct("<IQH")

HEAD_SIZE: Final = _HEAD.size
LOG_HEAD_SIZE: Final = _LOG_HEAD.size


class Unknown(ValueError):
    """These bytes are whole, but of a format that is not known here; the message says which."""


class Head(NamedTuple):
    """What a snapshot's header says; `length` is that of the whole snapshot in bytes."""

    crc: int
    version: int
    mode: int
    k: int
    moved: bool
    generation: int
    identity: bytes
    length: int


class Snapshot(NamedTuple):
    """A snapshot taken apart: its header, and the ledger or the place to which the table moved."""

    head: Head
    ledger: Ledger | None
    moved_to: str


def head_of(data: bytes) -> Head:
    """The header at the beginning of a snapshot; nothing is proved but its kind. Raises Damaged."""
    if len(data) < HEAD_SIZE:
        raise Damaged(f"has {len(data)} bytes, too few for a header")
    crc, magic, version, mode, k, flags, generation, identity, length = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise Damaged("does not begin as a table does")
    return Head(crc, version, mode, k, bool(flags & _MOVED), generation, identity, length)


def encode_snapshot(ledger: Ledger, generation: int) -> bytes:
    """The snapshot of a ledger."""
    return _seal(ledger, generation, 0, encode_body(ledger))


def encode_moved(ledger: Ledger, generation: int, place: str) -> bytes:
    """The snapshot that says: this table is continued at `place` (a file's name)."""
    return _seal(ledger, generation, _MOVED, encode_text(place))


def decode_snapshot(data: bytes) -> Snapshot:
    """Take a whole snapshot apart. Raises Damaged where it is not as it was written, Unknown for a later format."""
    head = head_of(data)
    if len(data) != head.length:
        raise Damaged(f"has {len(data)} bytes and not {head.length}")
    if crc32c(memoryview(data)[_CRC.size :]) != head.crc:
        raise Damaged("has a wrong checksum")
    return parse_snapshot(data)


def parse_snapshot(data: bytes) -> Snapshot:
    """Take a snapshot apart whose checksum is known to be good. Raises Damaged and Unknown."""
    head = head_of(data)
    if head.version not in (VERSION, BY_GENERATION):
        raise Unknown(f"is of version {head.version}, which a later fusemap wrote")
    if head.mode >= len(MODES):
        raise Unknown(f"is of map {head.mode}, which a later fusemap wrote")
    cursor = Cursor(data, HEAD_SIZE)
    if head.moved:
        return Snapshot(head, None, decode_text(cursor.take(len(data) - HEAD_SIZE)))
    ledger = Ledger(MODES[head.mode], head.k, head.identity)
    try:
        decode_body(cursor, ledger.fill, ledger.apply, head.version, ledger.hold)
        cursor.check_end()
    except (ValueError, IndexError) as error:
        raise Damaged(f"contradicts itself: {error}") from error
    return Snapshot(head, ledger, "")


def encode_log(generation: int, position: int, payload: bytes) -> bytes:
    """The log piece with these changes, `position` counted from 0 in its generation."""
    rest = _LOG_HEAD.pack(0, generation, position)[_CRC.size :] + payload
    return _CRC.pack(crc32c(rest)) + rest


def decode_log(data: bytes) -> tuple[int, int, bytes]:
    """Generation, position and changes of a log piece. Raises Damaged."""
    if len(data) < LOG_HEAD_SIZE:
        raise Damaged(f"has {len(data)} bytes, too few for a header")
    crc, generation, position = _LOG_HEAD.unpack_from(data)
    if crc32c(memoryview(data)[_CRC.size :]) != crc:
        raise Damaged("has a wrong checksum")
    return generation, position, data[LOG_HEAD_SIZE:]


def encode_changes(changes: Iterable[Change], numbers: dict[str, int]) -> bytes:
    """The bytes of some changes. `numbers` are the device numbers so far; new devices are added to it."""
    return b"".join(encode_change(change, numbers) for change in changes)


def decode_changes(data: bytes, ledger: Ledger) -> list[Change]:
    """Take changes apart and apply each to `ledger`. Raises Damaged at the first that cannot be."""
    cursor = Cursor(data, 0)
    keys = list(ledger.devices)
    changes: list[Change] = []
    try:
        while not cursor.at_end():
            change = decode_change(cursor, keys, ledger)
            if isinstance(change, Device) and change.key not in ledger.devices:
                keys.append(change.key)
            ledger.apply(change)
            changes.append(change)
    except (ValueError, IndexError) as error:
        raise Damaged(f"contradicts itself: {error}") from error
    return changes


def _seal(ledger: Ledger, generation: int, flags: int, body: bytes) -> bytes:
    mode = MODES.index(ledger.mode)
    version = BY_GENERATION if ledger.holder_count and not flags & _MOVED else VERSION
    head = _HEAD.pack(
        0, MAGIC, version, mode, ledger.k, flags, generation, ledger.identity, HEAD_SIZE + len(body)
    )  # fmt: skip
    rest = head[_CRC.size :] + body
    return _CRC.pack(crc32c(rest)) + rest
