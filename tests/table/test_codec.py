"""Bytes of a table: there and back, and nothing else is taken for one."""

from __future__ import annotations

import contextlib
import json

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from fusemap.qid import FullEntry, Holder
from fusemap.table import codec
from fusemap.table.jsonform import from_json, to_json
from fusemap.table.ledger import Change, Device, Floor, Ledger, Retired

from .shelves import IDENTITY, a_ledger, another, key, state

uuids = st.uuids().map(str)
texts = st.text(st.characters(codec="utf-8"), max_size=40)
keys = st.one_of(
    uuids.map("uuid:{}".format),
    st.builds("btrfs:{}:{}".format, uuids, uuids),
    st.builds("uuid:{} at {}".format, uuids, texts),
    st.builds("{}#2".format, uuids),
    texts.filter(bool),
    st.binary(min_size=1, max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)


@given(names=st.lists(keys, min_size=1, max_size=20, unique=True), label=texts, mode=st.sampled_from(codec.MODES))
def test_a_snapshot_says_what_the_ledger_said(names: list[str], label: str, mode: str) -> None:
    ledger = Ledger(mode, 3, IDENTITY)
    for index, name in enumerate(names, 1):
        ledger.apply(Device(name, label, index * 1000))
        ledger.apply(ledger.entry(index * 3, name, index % 2))
    ledger.apply(FullEntry(1 << 40, names[0], 1 << 63))
    for number, name in enumerate(names):
        ledger.apply(Holder(name, number << 59, 1))
        ledger.apply(Holder(name, 5, (1 << 64) - 1))
        ledger.apply(FullEntry((1 << 41) + number, name, 5, number))
    ledger.apply(Retired(2))
    data = codec.encode_snapshot(ledger, 7)
    snapshot = codec.decode_snapshot(data)
    assert state(snapshot.ledger) == state(ledger)
    assert (snapshot.head.generation, snapshot.head.length, snapshot.moved_to) == (7, len(data), "")


@given(steps=st.lists(st.tuples(keys, st.integers(0, 1)), max_size=30))
def test_changes_one_after_the_other_make_the_same_ledger(steps: list[tuple[str, int]]) -> None:
    one, two = a_ledger(), a_ledger()
    numbers = {name: number for number, name in enumerate(one.devices)}
    for device, full in steps:
        changes: list[Change] = another(one, device)
        if full:
            changes += [Floor(1, one.next_counter() + 10), FullEntry(one.next_counter(), device, one.next_counter())]
        data = codec.encode_changes(changes, numbers)
        one.apply_all(changes)
        assert codec.decode_changes(data, two) == changes
    assert state(one) == state(two)


def test_a_uuid_in_a_key_takes_16_bytes() -> None:
    ledger = Ledger("suffix", 0, IDENTITY)
    empty = len(codec.encode_snapshot(ledger, 1))
    ledger.apply(Device(key(1)))
    assert len(codec.encode_snapshot(ledger, 1)) - empty <= 16 + len("uuid:") + 1 + 6


def test_every_flipped_bit_and_every_truncation_of_a_snapshot_is_damage() -> None:
    data = codec.encode_snapshot(a_ledger(), 3)
    for wrong in wrongs(data):
        with pytest.raises(codec.Damaged):
            codec.decode_snapshot(wrong)


def test_every_flipped_bit_and_every_truncation_of_a_log_piece_is_damage() -> None:
    ledger = a_ledger()
    data = codec.encode_log(3, 0, codec.encode_changes(another(ledger, key(77)), dict.fromkeys(ledger.devices, 0)))
    for wrong in wrongs(data):
        with pytest.raises(codec.Damaged):
            codec.decode_log(wrong)


@given(data=st.binary(max_size=200))
def test_whatever_comes_in_place_of_a_body_is_damage_or_a_ledger(data: bytes) -> None:
    ledger = Ledger("suffix", 0, IDENTITY)
    whole = codec._seal(ledger, 1, 0, data)
    with contextlib.suppress(codec.Damaged):
        codec.decode_snapshot(whole)


@given(data=st.binary(max_size=100))
def test_whatever_comes_in_place_of_changes_is_damage_or_changes(data: bytes) -> None:
    ledger = a_ledger()
    with contextlib.suppress(codec.Damaged):
        codec.decode_changes(data, ledger)


def test_only_what_needs_the_newer_format_is_of_it() -> None:
    """An earlier fusemap reads what it can, and says of the rest that a later one wrote it."""
    plain = Ledger("suffix", 0, bytes(16))
    assert codec.head_of(codec.encode_snapshot(plain, 1)).version == 1
    assert codec.head_of(codec.encode_snapshot(a_ledger(), 1)).version == 2
    assert codec.head_of(codec.encode_moved(a_ledger(), 1, "/var/lib/x")).version == 1


def test_json_says_everything() -> None:
    ledger = a_ledger()
    again = from_json(json.loads(json.dumps(to_json(ledger))))
    assert state(again) == state(ledger)
    assert again.holders == ledger.holders


def test_a_later_version_is_no_damage_but_unknown() -> None:
    data = bytearray(codec.encode_snapshot(a_ledger(), 3))
    data[8] = 3
    data[:4] = codec._CRC.pack(crc32c(bytes(data[4:])))
    with pytest.raises(codec.Unknown, match="version 3"):
        codec.decode_snapshot(bytes(data))


def wrongs(data: bytes) -> list[bytes]:
    flipped = [
        data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :] for at in range(len(data)) for bit in range(8)
    ]
    return flipped + [data[:size] for size in range(len(data))] + [data + b"\0"]
