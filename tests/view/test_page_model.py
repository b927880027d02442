"""The page's object: bounded whatever the tree, and what it leaves out is told."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fusemap.census import HARMS, SCHEMES, Census, Unreadable, take
from fusemap.view import hilbert
from fusemap.view import model as made
from fusemap.view.model import model

from .pretend import Disk, many, pretended


def by_name(found: dict[str, Any]) -> dict[str, Any]:
    return {scheme["name"]: scheme for scheme in found["schemes"]}


@pytest.fixture(scope="module")
def census() -> Any:
    with pretended([Disk(b".", 300), Disk(b"data", 200), Disk(b"far", 100, 1 << 40)]) as found:
        yield found


def test_it_says_what_the_census_says(census: Census) -> None:
    found = model(census)
    assert json.loads(json.dumps(found)) == found
    assert (found["format"], found["version"], found["live"], found["shown"]) == ("fusemap-page", 1, False, None)
    assert (found["files"], found["names"], found["devices"]["count"]) == (600, 600, 3)
    assert list(by_name(found)) == list(SCHEMES)
    for name, scheme in by_name(found).items():
        want = census.schemes[name]
        assert (scheme["files"], scheme["numbers"], scheme["pairs"]) == (want.files, want.groups, want.pairs)
    raw = by_name(found)["raw"]
    assert sum(raw["files"].values()) == 400
    assert [device["path"] for device in found["devices"]["listed"]] == [".", "data", "far"]
    assert [device["colliding"].get("raw", 0) for device in found["devices"]["listed"]] == [200, 200, 0]
    assert found["devices"]["listed"][2]["highest_inode"] == str((1 << 40) + 99)
    assert found["budget"] == {"affixes": 3, "elsewhere": 0, "lengths": {"1": 1, "3": 2}, "spent": 0.75}


def test_the_ledger_has_every_collision_where_there_is_room(census: Census) -> None:
    for name, scheme in by_name(model(census)).items():
        assert scheme["ledger"]["left_out"] == 0
        want = {(str(one.number), one.harm, frozenset(one.members)) for one in census.collisions(name)}
        got = {
            (one["number"], one["harm"], frozenset(
                (os.fsencode(file["path"]), file["device"], int(file["inode"]), file["directory"])
                for file in one["files"]
            )) for one in scheme["ledger"]["listed"]
        }  # fmt: skip
        assert got == want
        harms = [HARMS.index(one["harm"]) for one in scheme["ledger"]["listed"]]
        assert harms == sorted(harms)


def test_the_map_counts_every_number(census: Census) -> None:
    for name, scheme in by_name(model(census)).items():
        counts = Counter(int(number) for numbers in census.numbers(name) for number in numbers)
        cells = Counter[int]()
        hit = set()
        for number, count in counts.items():
            cell = int(f"{number & 4095:012b}"[::-1], 2)
            cells[cell] += count
            if count > 1:
                hit.add(cell)
        (level,) = scheme["map"]
        assert [int(letter, 36) for letter in level["names"].ljust(hilbert.CELLS, "0")] == [
            cells[cell].bit_length() for cell in range(hilbert.CELLS)
        ]
        assert {cell for cell, letter in enumerate(level["colliding"]) if letter != "0"} == hit


def test_lanes_add_up(census: Census) -> None:
    found = model(census)
    lanes = found["lanes"]
    assert lanes["devices"] == [0, 1, 2]
    assert lanes["others"] == 0
    assert [sum(row) for row in lanes["names"]] == [300, 200, 100]
    assert {len(row) for row in lanes["names"]} == {len(lanes["edges"])}
    assert [sum(row) for row in by_name(found)["raw"]["lanes"]] == [200, 200, 0]
    assert by_name(found)["suffix"]["lanes"] is None


def test_a_number_that_all_devices_share_is_cut_and_the_rest_counted() -> None:
    with pretended([Disk(b"%d" % number, 3) for number in range(40)]) as census:
        raw = by_name(model(census))["raw"]
    assert len(raw["ledger"]["listed"]) == 3
    for one in raw["ledger"]["listed"]:
        assert len(one["files"]) == made.MEMBERS
        assert len(one["files"]) + one["left_out"] == 40


def test_thousands_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "DEVICES", 200)
    disks = [*many(900, 20000), Disk(b"zzz", 5000, kind="xfs")]
    with pretended(disks) as census:
        found = model(census)
        raw = census.schemes["raw"]
    assert found["devices"]["count"] == 901
    numbers = [device["number"] for device in found["devices"]["listed"]]
    assert len(numbers) == 200
    assert numbers == sorted(numbers)
    assert 900 in numbers  # not one of the first, but one with a lane
    assert set(found["lanes"]["devices"]) <= set(numbers)
    assert len(found["lanes"]["devices"]) == made.LANES
    assert found["lanes"]["others"] == 901 - made.LANES
    assert sum(map(sum, found["lanes"]["names"])) == found["names"]
    ledger = by_name(found)["raw"]["ledger"]
    assert len(ledger["listed"]) + ledger["left_out"] == sum(raw.groups.values())
    assert {one["harm"] for one in ledger["listed"]} == {harm for harm in HARMS if raw.groups[harm]}
    assert sum(found["budget"]["lengths"].values()) == found["budget"]["affixes"]


def test_long_paths_do_not_make_a_large_page() -> None:
    deep = b"/".join([b"x" * 200] * 19)
    with pretended([Disk(deep + b"/one", 400), Disk(deep + b"/two", 400)]) as census:
        found = model(census)
    ledger = by_name(found)["raw"]["ledger"]
    assert ledger["left_out"] > 0
    assert len(ledger["listed"]) + ledger["left_out"] == 400
    assert len(json.dumps(ledger)) < 1.2 * made.LETTERS


def test_places_that_could_not_be_read_are_counted() -> None:
    places = [Unreadable(b"%03d\xff" % number, "Permission denied") for number in range(250)]
    with pretended([Disk(b".", 3)], places) as census:
        found = model(census)
    assert found["unreadable"]["count"] == 250
    assert len(found["unreadable"]["listed"]) == made.PLACES
    assert found["unreadable"]["listed"][1] == {"path": "001\udcff", "why": "Permission denied"}


def test_shares_are_given_to_every_kind() -> None:
    assert made.shares([0, 0, 7], 1000) == [0, 0, 7]
    assert made.shares([9000, 9000, 9000], 999) == [333, 333, 333]
    assert made.shares([9000, 0, 9000], 1000) == [667, 0, 333]


def test_progress_goes_from_nothing_to_all(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    with take(str(tmp_path), SCHEMES) as census:
        model(census, lambda doing, done: told.append((doing, done)))
    assert [doing for doing, _ in told] == [f"drawing {name}" for name in SCHEMES]
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert all(0 <= done <= 1 for _, done in told)
