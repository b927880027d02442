"""What a repair brings back, and what it must not invent."""

from __future__ import annotations

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from fusemap.errors import DamagedTable
from fusemap.table import codec
from fusemap.table.ledger import Ledger
from fusemap.table.salvage import MARGIN, correct, put_back, salvage
from fusemap.table.shelf import MemoryShelf
from fusemap.table.store import Store

from .shelves import Killed, KillingShelf, SmallShelf, a_ledger, another, key, state
from .test_store import three_pieces


@given(data=st.binary(min_size=1, max_size=300), bit=st.integers(0, 1 << 20))
def test_one_flipped_bit_is_found(data: bytes, bit: int) -> None:
    whole = crc32c(data).to_bytes(4, "little") + data
    bit %= len(whole) * 8
    wrong = bytearray(whole)
    wrong[bit // 8] ^= 1 << bit % 8
    assert correct(bytes(wrong)) == whole


def test_two_flipped_bits_are_not_mended_by_a_third() -> None:
    data = bytes(range(200))
    whole = crc32c(data).to_bytes(4, "little") + data
    wrong = bytearray(whole)
    wrong[10] ^= 1
    wrong[150] ^= 8
    assert correct(bytes(wrong)) is None


def said(pieces: dict[str, bytes]) -> Ledger:
    store = Store(MemoryShelf(dict(pieces)))
    store.load()
    assert store.ledger is not None
    return store.ledger


def test_a_whole_table_is_saved_whole() -> None:
    pieces = three_pieces()
    found = salvage(pieces)
    assert (state(found.ledger), found.damaged, found.notes, found.complete) == (state(said(pieces)), [], [], True)


def test_every_flipped_bit_is_turned_back() -> None:
    pieces = three_pieces()
    whole = state(said(pieces))
    for name, data in pieces.items():
        for bit in range(0, len(data) * 8, 5):
            wrong = bytearray(data)
            wrong[bit // 8] ^= 1 << bit % 8
            found = salvage({**pieces, name: bytes(wrong)})
            # A flip in the magic number or the length leaves nothing to hold the checksum against.
            assert found.damaged, (name, bit)
            if found.complete:
                assert state(found.ledger) == whole, (name, bit)
            check_sound(found.ledger, said(pieces), found.complete)


@pytest.mark.parametrize("what", ["truncated", "torn"])
def test_what_is_lost_is_never_given_again(what: str) -> None:
    pieces = three_pieces()
    whole = said(pieces)
    for name, data in pieces.items():
        for at in range(0, len(data), 3):
            wrong = data[:at] if what == "truncated" else data[:at] + b"\x55" * 40 + data[at + 40 :]
            if wrong == data:
                continue
            found = salvage({**pieces, name: wrong})
            assert not found.complete
            check_sound(found.ledger, whole, False)


def check_sound(ledger: Ledger | None, whole: Ledger, complete: bool) -> None:
    if ledger is None:
        return
    known = {entry.index for entry in whole.entries.values()} | whole.retired
    assert ledger.index_for("uuid:new", "boot") > max(known)
    if not complete:
        assert ledger.next_index() > MARGIN


def test_a_repair_makes_the_table_whole_and_is_safe_at_every_step() -> None:
    good = three_pieces()
    for name in good:
        wrong = {**good, name: good[name][:-3]}
        found = salvage(wrong)
        assert found.ledger is not None
        counting = KillingShelf(dict(wrong), 0, False)
        put_back(counting, found)
        after = dict(counting.pieces)
        assert state(said(after)) == state(found.ledger)
        for step in range(1, counting.steps + 1):
            for late in (False, True):
                pieces = dict(wrong)
                with pytest.raises(Killed):
                    put_back(KillingShelf(pieces, step, late), found)
                try:
                    assert state(said(pieces)) == state(found.ledger)
                except DamagedTable:
                    again = salvage(pieces)
                    assert again.ledger is not None
                    assert set(found.ledger.entries) <= set(again.ledger.entries) | again.ledger.retired


def test_a_table_goes_on_after_a_repair() -> None:
    pieces = three_pieces()
    name = next(name for name in pieces if name.startswith("log."))
    pieces[name] = pieces[name][:-1]
    shelf = SmallShelf(pieces, 1100)
    put_back(shelf, salvage(pieces))
    store = Store(shelf)
    store.load()
    ledger = store.ledger
    assert ledger is not None
    for number in range(50):
        store.append(another(ledger, key(70_000 + number)))
    assert state(said(pieces)) == state(ledger)


def test_nothing_is_made_of_nothing() -> None:
    for pieces in ({}, {"a.0": b"junk"}, {"a.0": b""}, {"log.a.0": codec.encode_log(1, 0, b"")}):
        assert salvage(dict(pieces)).ledger is None


def test_a_table_that_moved_can_be_taken_from_what_it_left() -> None:
    pieces: dict[str, bytes] = {}
    store = Store(SmallShelf(pieces))
    store.load()
    store.create(a_ledger())
    store.leave("/var/lib/elsewhere.sqlite")
    found = salvage(pieces)
    assert found.ledger is not None
    assert not found.complete
    assert set(found.ledger.entries) == set(a_ledger().entries)
    assert any("/var/lib/elsewhere.sqlite" in note for note in found.notes)
