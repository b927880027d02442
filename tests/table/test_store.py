"""A table on a shelf: whole after every single step, refused when damaged, and cheap to add to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fusemap.errors import DamagedTable, Refused
from fusemap.table import codec
from fusemap.table.shelf import MemoryShelf, NoRoom
from fusemap.table.store import LOG_PIECE, Store

from .shelves import BOOT, Killed, KillingShelf, SmallShelf, a_ledger, another, key, state


def opened(pieces: dict[str, bytes]) -> Store:
    store = Store(MemoryShelf(pieces))
    store.load()
    return store


def grown(pieces: dict[str, bytes], count: int, size: int = 1 << 16) -> Store:
    """A store with `count` more entries than it began with."""
    store = Store(SmallShelf(pieces, size))
    store.load()
    if store.ledger is None:
        store.create(a_ledger())
    ledger = store.ledger
    assert ledger is not None
    for number in range(count):
        store.append(another(ledger, key(1000 + number)))
    return store


@pytest.mark.parametrize("count", [0, 1, 5, 30, 300])
@pytest.mark.parametrize("size", [1100, 1 << 16])
def test_what_was_appended_is_there_again(count: int, size: int) -> None:
    pieces: dict[str, bytes] = {}
    store = grown(pieces, count, size)
    again = opened(pieces)
    assert state(again.ledger) == state(store.ledger)
    assert again.ledger is not None
    assert len(again.ledger.entries) == 4 + count


def test_two_stores_on_one_shelf_see_each_other() -> None:
    pieces: dict[str, bytes] = {}
    stores = [Store(MemoryShelf(pieces)), Store(MemoryShelf(pieces))]
    for store in stores:
        store.load()
    stores[0].create(a_ledger())
    added = []
    for step in range(400):
        store = stores[step % 3 % 2]
        added += store.refresh()
        ledger = store.ledger
        assert ledger is not None
        store.append(another(ledger, key(1000 + step)))
    for store in stores:
        store.refresh()
    assert state(stores[0].ledger) == state(stores[1].ledger) == state(opened(pieces).ledger)
    assert len(added) > 150


def test_a_refresh_returns_exactly_what_others_added() -> None:
    pieces: dict[str, bytes] = {}
    mine = grown(pieces, 0)
    theirs = opened(pieces)
    ledger = theirs.ledger
    assert ledger is not None
    for step in range(200):
        changes = another(ledger, key(500 + step))
        theirs.append(changes)
        assert mine.refresh() == changes[1:], step
        assert mine.refresh() == []


# Kills ----------------------------------------------------------------------------------------------------------------


def steps_of(act: str, pieces: dict[str, bytes], size: int) -> int:
    shelf = KillingShelf(dict(pieces), 0, False)
    shelf.sizes = (size,)
    do(act, shelf)
    return shelf.steps


def do(act: str, shelf: MemoryShelf) -> None:
    store = Store(shelf)
    store.load()
    ledger = store.ledger
    if act == "create":
        store.create(a_ledger())
        return
    assert ledger is not None
    if act == "append":
        store.append(another(ledger, key(4711)))
    elif act == "rewrite":
        more = ledger.copy()
        more.apply_all(another(more, key(4711)))
        store.rewrite(more)
    elif act == "leave":
        store.leave("/elsewhere")


def what(pieces: dict[str, bytes]) -> tuple[object, str]:
    store = opened(pieces)
    return state(store.ledger), store.moved_to


@pytest.mark.parametrize("after", [False, True], ids=["instead", "after"])
@pytest.mark.parametrize("size", [40, 1 << 16], ids=["pieces", "whole"])
@pytest.mark.parametrize("act", ["create", "append", "rewrite", "leave"])
@pytest.mark.parametrize("count", [0, 1, 7, *range(16, 30), 60])
def test_a_kill_at_any_step_leaves_the_table_before_or_after(act: str, size: int, count: int, after: bool) -> None:
    before: dict[str, bytes] = {}
    if act != "create":
        grown(before, count)
    done = dict(before)
    shelf = MemoryShelf(done)
    shelf.sizes = (size,)
    do(act, shelf)
    wanted = (what(before), what(done))
    steps = steps_of(act, before, size)
    assert steps >= 1
    for step in range(1, steps + 1):
        pieces = dict(before)
        dying = KillingShelf(pieces, step, after)
        dying.sizes = (size,)
        with pytest.raises(Killed):
            do(act, dying)
        assert what(pieces) in wanted, f"step {step} of {steps}"
        # And what the next process does with the remains is sound.
        if what(pieces)[0] is not None:
            whole = opened(pieces).ledger
            assert whole is not None
            next_one = grown(pieces, 5, 1100)
            assert state(opened(pieces).ledger) == state(next_one.ledger)
            assert next_one.ledger is not None
            assert set(whole.entries.items()) <= set(next_one.ledger.entries.items())


# Damage ---------------------------------------------------------------------------------------------------------------


def three_pieces() -> dict[str, bytes]:
    """A table with both slots, one of them in several pieces, and a log."""
    pieces: dict[str, bytes] = {}
    store = Store(SmallShelf(pieces, 1100))
    store.load()
    store.create(a_ledger())
    ledger = store.ledger
    assert ledger is not None
    while "b.0" not in pieces or not any(name.startswith("log.") for name in pieces):
        store.append(another(ledger, key(1000 + len(ledger.entries))))
    return pieces


def test_every_flipped_bit_and_every_truncation_is_refused_and_named() -> None:
    whole = three_pieces()
    assert {"a.0", "b.0"} < set(whole)
    for name, data in whole.items():
        for at in range(len(data)):
            for bit in range(8):
                refused({**whole, name: data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]}, name)
        for size in range(len(data)):
            refused({**whole, name: data[:size]}, name)


def refused(pieces: dict[str, bytes], name: str) -> None:
    before = dict(pieces)
    with pytest.raises(DamagedTable, match=rf"piece {re.escape(name)} .*repair.*--state|piece .*{name[0]}") as caught:
        opened(pieces)
    assert "nothing was changed" in str(caught.value)
    assert pieces == before


@pytest.mark.parametrize("kept", [True, False], ids=["older slot there", "older slot gone"])
def test_a_lost_snapshot_or_log_piece_is_refused(kept: bool) -> None:
    pieces: dict[str, bytes] = {}
    store = grown(pieces, 250)
    current = store._slot
    if not kept:
        store._slots.remove("b" if current == "a" else "a")
    logs = sorted(name for name in pieces if name.startswith("log."))
    assert len(logs) > 2
    for name in [f"{current}.0", *logs[:-1]]:
        less = dict(pieces)
        del less[name]
        with pytest.raises(DamagedTable):
            opened(less)


def test_a_process_notices_that_its_table_is_damaged_or_replaced() -> None:
    whole: dict[str, bytes] = {}
    grown(whole, 3)
    for change in ("flip", "gone", "other", "shorter log"):
        pieces = dict(whole)
        store = opened(pieces)
        if change == "flip":
            pieces["a.0"] = pieces["a.0"][:-1] + bytes((pieces["a.0"][-1] ^ 4,))
        elif change == "gone":
            pieces.clear()
        elif change == "other":
            pieces.clear()
            other = a_ledger()
            other.identity = b"x" * 16
            opened(pieces).create(other)
        else:
            generation, position, _payload = codec.decode_log(pieces["log.a.0"])
            ledger = a_ledger()
            pieces["log.a.0"] = codec.encode_log(
                generation, position, codec.encode_changes(another(ledger, key(9)), dict.fromkeys(ledger.devices, 0))
            )
        with pytest.raises(DamagedTable):
            store.refresh()


def test_a_later_format_is_refused_by_that_name() -> None:
    pieces: dict[str, bytes] = {}
    grown(pieces, 0)
    data = bytearray(pieces["a.0"])
    data[8] = 9
    data[:4] = codec._CRC.pack(codec.crc32c(bytes(data[4:])))
    pieces["a.0"] = bytes(data)
    with pytest.raises(Refused, match="version 9"):
        opened(pieces)


def test_a_strange_piece_is_refused() -> None:
    pieces: dict[str, bytes] = {}
    grown(pieces, 2)
    pieces["c.0"] = pieces["a.0"]
    with pytest.raises(DamagedTable, match=r"piece c\.0"):
        opened(pieces)


# Room and cost --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [200, 400, 700, 1000, 1500, 4000])
def test_no_room_is_said_before_anything_is_lost(room: int) -> None:
    pieces: dict[str, bytes] = {}
    store = Store(SmallShelf(pieces, room=room))
    store.load()
    try:
        store.create(a_ledger(1))
    except NoRoom:
        assert not pieces
        return
    count = 0
    ledger = store.ledger
    assert ledger is not None
    while True:
        before = state(ledger)
        try:
            store.append(another(ledger, key(100 + count)))
        except NoRoom:
            break
        count += 1
    assert count < 1000
    assert state(opened(pieces).ledger) == state(store.ledger) == before
    store.leave("/elsewhere")
    assert opened(pieces).moved_to == "/elsewhere"


def test_changes_that_do_not_fit_are_refused_before_they_are_written() -> None:
    pieces: dict[str, bytes] = {}
    store = grown(pieces, 2)
    before = dict(pieces)
    ledger = store.ledger
    assert ledger is not None
    for wrong in (ledger.entry(1, key(9), 0), ledger.entry(20, key(2000), 0), ledger.entry(2, key(1), 1)):
        with pytest.raises(ValueError):
            store.append([wrong])
    assert pieces == before


def test_adding_costs_a_bounded_number_of_bytes_however_large_the_table() -> None:
    cost = []
    for count in (200, 2000):
        pieces: dict[str, bytes] = {}
        store = grown(pieces, count)
        shelf = store.shelf
        assert isinstance(shelf, SmallShelf)
        cost.append(sum(shelf.puts) / count)
        assert sorted(shelf.puts)[count // 2] <= LOG_PIECE + 100
    assert cost[1] < 1.5 * cost[0]


def test_a_session_only_index_replaced_survives_a_snapshot() -> None:
    pieces: dict[str, bytes] = {}
    store = grown(pieces, 0)
    ledger = store.ledger
    assert ledger is not None
    store.append(another(ledger, "session:old:1"))
    index = ledger.index_for("session:" + BOOT + ":1", BOOT)
    assert ledger.entries[index].device == "session:old:1"
    store.append(another(ledger, "session:" + BOOT + ":1"))
    assert ledger.entries[index].device == "session:" + BOOT + ":1"
    assert state(opened(pieces).ledger) == state(ledger)
    store.rewrite()
    assert state(opened(pieces).ledger) == state(ledger)


def test_the_database_is_a_shelf_like_any_other(tmp_path: Path) -> None:
    from fusemap.table.sqlite import SqliteShelf

    store = Store(SqliteShelf(str(tmp_path / "t.sqlite")))
    store.load()
    store.create(a_ledger())
    ledger = store.ledger
    assert ledger is not None
    for step in range(100):
        store.append(another(ledger, key(1000 + step)), durable=step % 10 == 0)
    again = Store(SqliteShelf(str(tmp_path / "t.sqlite")))
    again.load()
    assert state(again.ledger) == state(ledger)
    again.close()
    store.close()
