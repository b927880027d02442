"""The inside of snapshots and log pieces: devices, entries, files, and the changes that make them. All numbers are
little-endian; "varint" is LEB128, seven bits a byte, lowest first.

    body       devices: varint count, rows of u16 length of key, u16 length of label, u16 day last seen; then all keys
               and labels, without anything between them
               entries: varint count, u8 width of device, u8 width of top, then as many rows of
                   u16 index, u8 length, device number, top
               files of the full map: varint count, rows of u64 counter, u32 device number, u64 inode
               retired indices: varint count, rows of u16
               floor: varint index, varint counter
               in version 2: holders: varint count, rows of u32 device number, u64 inode, u64 generation
               later files: varint count, rows of u64 counter, u32 device number, u64 inode, u64 generation
    change     u8 kind, then device | varint index, u8 length, varint device number, varint top | varint counter,
               varint device number, varint inode | varint index | varint index, varint counter | varint device number,
               varint inode, varint generation | varint counter, varint device number, varint inode, varint generation

Rows have fixed widths because sixty thousand of them must be read in a moment: the struct module takes them apart
without a step of Python for each. A device number counts the devices from 0 in the order of the snapshot and then of
the log. A key is text in which each uuid takes 16 bytes instead of 36: an ext4 directory has room for 4 KB of
attributes, and keys are most of a table.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

from fusemap.qid import Entry, FullEntry, Holder
from fusemap.table.ledger import Change, Device, Floor, Ledger, Retired

VERSION: Final = 1
BY_GENERATION: Final = 2
"""The version of snapshots in which records of files by generation follow; others are of version 1."""

_DEVICE_ROW: Final = struct.Struct("<HHH")
_PLAIN_UUID: Final = len("uuid:") + 1 + 16  # the bytes of the most common kind of key
_INDEX: Final = struct.Struct("<H")
_FULL: Final = struct.Struct("<QIQ")
_HOLDER: Final = struct.Struct("<IQQ")
_LATER: Final = struct.Struct("<QIQQ")
_WIDTHS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_DEVICE, _ENTRY, _FULL_ENTRY, _RETIRED, _FLOOR, _HOLDS, _LATER_FILE = range(1, 8)

Take: TypeAlias = Callable[[Change], None]

_UUID: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[\x01\x02]")
_PACKED: Final = re.compile(rb"\x01(.{16})|\x02(.)", re.DOTALL)


class Damaged(ValueError):
    """These bytes are not what was written; the message says in what way, as the end of a sentence."""


class Cursor:
    """Reads forward through bytes. Every method raises Damaged where they end too early."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self.at >= len(self.data)

    def check_end(self) -> None:
        """Raise Damaged if anything is left."""
        if not self.at_end():
            raise Damaged(f"has {len(self.data) - self.at} bytes too many")

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self.at + size
        if end > len(self.data):
            raise Damaged("ends too early")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """The next number, of up to 64 bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    raise Damaged("has a number that is too large")
                return value
            shift += 7
            if shift > 63:
                raise Damaged("has a number that is too large")

    def rows(self, row: struct.Struct, count: int) -> Iterator[tuple[Any, ...]]:
        """The next `count` rows."""
        return row.iter_unpack(self.take(count * row.size))

    def text(self) -> str:
        """The next key or label."""
        return decode_text(self.take(self.varint()))


def decode_body(
    cursor: Cursor,
    fill: Callable[[list[Device], Iterable[tuple[int, int, int, int]]], None],
    take: Take,
    version: int,
    hold: Callable[[list[str], Iterable[tuple[int, int, int]]], None] | None = None,
) -> None:
    """Take a snapshot's body apart; `fill` is Ledger.fill or does its work, and `take` gets all other changes.

    `hold` is Ledger.hold, or None if `take` should get holders too. Raises Damaged where it ends too early, and
    whatever `fill`, `take` and `hold` raise.
    """
    devices = _decode_devices(cursor)
    keys = [device.key for device in devices]
    count, device_width, top_width = cursor.varint(), cursor.byte(), cursor.byte()
    if device_width not in _WIDTHS or top_width not in _WIDTHS:
        raise Damaged("has rows of an unknown width")
    row = struct.Struct(f"<HB{_WIDTHS[device_width]}{_WIDTHS[top_width]}")
    fill(devices, cursor.rows(row, count))
    for counter, number, inode in cursor.rows(_FULL, cursor.varint()):
        take(FullEntry(counter, keys[number], inode))
    for (index,) in cursor.rows(_INDEX, cursor.varint()):
        take(Retired(index))
    take(Floor(cursor.varint(), cursor.varint()))
    if version == BY_GENERATION:
        rows = cursor.rows(_HOLDER, cursor.varint())
        if hold is not None:
            hold(keys, rows)
        for number, inode, generation in rows:
            take(Holder(keys[number], inode, generation))
        for counter, number, inode, generation in cursor.rows(_LATER, cursor.varint()):
            take(FullEntry(counter, keys[number], inode, generation))


def decode_change(cursor: Cursor, keys: list[str], ledger: Ledger) -> Change:
    """The next change of a log piece; `keys` are the devices by number. Raises Damaged, ValueError, IndexError."""
    kind = cursor.byte()
    if kind == _DEVICE:
        return Device(cursor.text(), cursor.text(), cursor.varint())
    if kind == _ENTRY:
        index, length, number, top = cursor.varint(), cursor.byte(), cursor.varint(), cursor.varint()
        entry = ledger.entry(index, keys[number], top)
        if entry.length != length:
            raise Damaged(f"has {length} bits for index {index}")
        return entry
    if kind == _FULL_ENTRY:
        counter, number, inode = cursor.varint(), cursor.varint(), cursor.varint()
        return FullEntry(counter, keys[number], inode)
    if kind == _HOLDS:
        number, inode, generation = cursor.varint(), cursor.varint(), cursor.varint()
        return Holder(keys[number], inode, generation)
    if kind == _LATER_FILE:
        counter, number, inode, generation = cursor.varint(), cursor.varint(), cursor.varint(), cursor.varint()
        return FullEntry(counter, keys[number], inode, generation)
    if kind == _RETIRED:
        return Retired(cursor.varint())
    if kind == _FLOOR:
        return Floor(cursor.varint(), cursor.varint())
    raise Damaged(f"has a change of unknown kind {kind}")


def decode_text(data: bytes) -> str:
    """The text behind `encode_text`. Raises Damaged where uuids are cut short."""
    if data.isascii():
        text = data.decode()
        if text.isprintable():  # the ordinary case, in which nothing is packed
            return text
    if b"\x01" in data or b"\x02" in data:
        data = _PACKED.sub(_unpack_uuid, data)
    return data.decode("utf-8", "surrogateescape")


def encode_text(text: str) -> bytes:
    """The bytes of a key or label."""
    return _UUID.sub(_pack_uuid, text.encode("utf-8", "surrogateescape"))


def _pack_uuid(match: re.Match[bytes]) -> bytes:
    word = match[0]
    return b"\x02" + word if len(word) == 1 else b"\x01" + bytes.fromhex(word.replace(b"-", b"").decode())


def _unpack_uuid(match: re.Match[bytes]) -> bytes:
    raw = match[1]
    if raw is None:
        return match[2]
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}".encode()


def encode_body(ledger: Ledger) -> bytes:
    """The body of a ledger's snapshot."""
    numbers = {key: number for number, key in enumerate(ledger.devices)}
    entries = sorted(ledger.entries.values(), key=lambda entry: entry.index)
    device_width = _width(len(numbers))
    top_width = _width(max((entry.top for entry in entries), default=0))
    row = struct.Struct(f"<HB{_WIDTHS[device_width]}{_WIDTHS[top_width]}")
    floor = Floor(ledger.next_index(), ledger.next_counter())
    plain = [full for full in ledger.full.values() if full.generation is None]
    return b"".join(
        [
            _varint(len(numbers)),
            *_encode_devices(ledger.devices.values()),
            _varint(len(entries)),
            bytes((device_width, top_width)),
            *(row.pack(entry.index, entry.length, numbers[str(entry.device)], entry.top) for entry in entries),
            _varint(len(plain)),
            *(_FULL.pack(full.counter, numbers[str(full.device)], full.inode) for full in plain),
            _varint(len(ledger.retired)),
            *(struct.pack("<H", index) for index in sorted(ledger.retired)),
            _varint(floor.index),
            _varint(floor.counter),
            *(_encode_files(ledger, numbers) if ledger.holder_count else ()),
        ]
    )


def _encode_files(ledger: Ledger, numbers: dict[str, int]) -> list[bytes]:
    rows = [_varint(ledger.holder_count)]
    for device, holders in ledger.holders.items():
        number = numbers[device]
        rows += [_HOLDER.pack(number, inode, generation) for inode, generation in holders.items()]
    later = [full for full in ledger.full.values() if full.generation is not None]
    rows.append(_varint(len(later)))
    rows += [_LATER.pack(full.counter, numbers[str(full.device)], full.inode, full.generation) for full in later]
    return rows


def _encode_devices(devices: Iterable[Device]) -> list[bytes]:
    rows: list[bytes] = []
    texts: list[bytes] = []
    for device in devices:
        key, label = encode_text(device.key), encode_text(device.label)
        rows.append(_DEVICE_ROW.pack(len(key), len(label), device.seen))
        texts += (key, label)
    return rows + texts


def _decode_devices(cursor: Cursor) -> list[Device]:
    devices = []
    rows = cursor.take(cursor.varint() * _DEVICE_ROW.size)
    data, at = cursor.data, cursor.at
    new = tuple.__new__
    for key, label, seen in _DEVICE_ROW.iter_unpack(rows):
        middle = at + key
        if key == _PLAIN_UUID and data[at : at + 6] == b"uuid:\x01":
            text = data[at + 6 : middle].hex("-", 2)  # in fours, of which a uuid joins the first two and the last three
            name = f"uuid:{text[:4]}{text[5:29]}{text[30:34]}{text[35:]}"
        else:
            name = decode_text(data[at:middle])
        at = middle + label
        devices.append(new(Device, (name, decode_text(data[middle:at]) if label else "", seen)))
    if at > len(data):
        raise Damaged("ends too early")
    cursor.at = at
    return devices


def encode_change(change: Change, numbers: dict[str, int]) -> bytes:
    """The bytes of a change. `numbers` are the device numbers so far; a new device is added to it."""
    if isinstance(change, Device):
        numbers.setdefault(change.key, len(numbers))
        return bytes((_DEVICE,)) + _encode_device(change)
    if isinstance(change, Entry):
        number = numbers[str(change.device)]
        rest = bytes((change.length,)) + _varint(number) + _varint(change.top)
        return bytes((_ENTRY,)) + _varint(change.index) + rest
    if isinstance(change, FullEntry):
        number = numbers[str(change.device)]
        file = _varint(change.counter) + _varint(number) + _varint(change.inode)
        if change.generation is not None:
            return bytes((_LATER_FILE,)) + file + _varint(change.generation)
        return bytes((_FULL_ENTRY,)) + file
    if isinstance(change, Holder):
        number = numbers[str(change.device)]
        return bytes((_HOLDS,)) + _varint(number) + _varint(change.inode) + _varint(change.generation)
    if isinstance(change, Retired):
        return bytes((_RETIRED,)) + _varint(change.index)
    return bytes((_FLOOR,)) + _varint(change.index) + _varint(change.counter)


def _encode_device(device: Device) -> bytes:
    key, label = encode_text(device.key), encode_text(device.label)
    return _varint(len(key)) + key + _varint(len(label)) + label + _varint(device.seen)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _width(value: int) -> int:
    return next(width for width in _WIDTHS if value < 1 << 8 * width)
