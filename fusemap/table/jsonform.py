"""A table as JSON, for reading, for moving by hand, and for going back to.

Everything is there, so that an import makes an equal table. Keys and labels that are no UTF-8 keep their bytes as lone
surrogates, as Python's file names do.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final

from fusemap.errors import Refused
from fusemap.qid import FullEntry, Holder, Mapper
from fusemap.table.codec import MODES, decode_snapshot, encode_snapshot
from fusemap.table.ledger import Device, Floor, Ledger, Retired, session_of

FORMAT: Final = "fusemap-table"
VERSION: Final = 1


def to_json(ledger: Ledger) -> dict[str, object]:
    """A ledger as an object for json.dump."""
    devices = [
        {"key": device.key, "lasting": session_of(device.key) is None, "label": device.label, "seen": device.seen}
        for device in ledger.devices.values()
    ]
    entries = [
        {"index": entry.index, "device": entry.device, "length": entry.length, "top": entry.top}
        for entry in sorted(ledger.entries.values(), key=lambda entry: entry.index)
    ]
    full = [
        {"counter": full.counter, "device": full.device, "inode": full.inode}
        | ({} if full.generation is None else {"generation": full.generation})
        for full in ledger.full.values()
    ]
    holders = [
        {"device": device, "inode": inode, "generation": generation}
        for device, files in ledger.holders.items()
        for inode, generation in files.items()
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": ledger.identity.hex(),
        "map": ledger.mode,
        "k": ledger.k,
        "devices": devices,
        "entries": entries,
        "full": full,
        "holders": holders,
        "retired": sorted(ledger.retired),
        "next": {"index": ledger.next_index(), "counter": ledger.next_counter()},
    }


def from_json(data: object) -> Ledger:
    """The ledger behind `to_json`'s object. Raises Refused where it is something else or contradicts itself."""
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise Refused("this is not a table: fusemap table export makes one")
    if data.get("version") != VERSION:
        raise Refused(f"this table is of version {data.get('version')}, which this fusemap does not know")
    try:
        identity = bytes.fromhex(data["id"])
        if data["map"] not in MODES or len(identity) != 16:
            raise ValueError("map or id are not those of a table")
        ledger = Ledger(data["map"], _number(data["k"]), identity)
        for row in _rows(data["devices"]):
            ledger.apply(Device(_text(row["key"]), _text(row.get("label", "")), _number(row.get("seen", 0))))
        for row in _rows(data["entries"]):
            entry = ledger.entry(_number(row["index"]), _text(row["device"]), _number(row["top"]))
            if row.get("length", entry.length) != entry.length:
                raise ValueError(f"index {entry.index} does not have {row['length']} bits")
            ledger.apply(entry)
        for row in _rows(data.get("holders", [])):
            ledger.apply(Holder(_text(row["device"]), _number(row["inode"]), _number(row["generation"])))
        for row in _rows(data["full"]):
            generation = _number(row["generation"]) if "generation" in row else None
            ledger.apply(FullEntry(_number(row["counter"]), _text(row["device"]), _number(row["inode"]), generation))
        for index in data["retired"]:
            ledger.apply(Retired(_number(index)))
        ledger.apply(Floor(_number(data["next"]["index"]), _number(data["next"]["counter"])))
        _check(ledger)
    except (ValueError, TypeError, LookupError, AttributeError, struct.error) as error:
        raise Refused(f"this table cannot be read ({type(error).__name__}: {error}); export it anew") from error
    return ledger


def _check(ledger: Ledger) -> None:
    """Raise ValueError or struct.error unless the ledger can be stored, read again, and be what numbers are made by."""
    if ledger.mode == "prefix" and ledger.k:
        raise ValueError("map prefix has no k")
    Mapper(ledger.mode, ledger.k, ledger.every())
    decode_snapshot(encode_snapshot(ledger, 1))


def _rows(value: Any) -> Iterable[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
        raise ValueError("a list of objects is missing")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value
