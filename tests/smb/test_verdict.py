"""What is wrong with rows, on rows that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from fusemap.smb.columns import Row
from fusemap.smb.verdict import CAUSES, KINDS, Wrong, id_of, judge, taken_for_links

DEVICE = 0x2E
STAMP = (1, 2, 3, 4, 32)


def row(path: str, number: int | None = 5, **columns: Any) -> Row:
    """A row whose columns all say the same, but for those that are named."""
    told = dict.fromkeys(("st_ino", "opened", "listed", "qid", "qid_listed"), number)
    return Row(path, **{"host": ("disk", 1000 + (number or 0)), "st_dev": 40, "stamp": STAMP, **told, **columns})


def kinds(*rows: Row, known: dict[str, int] | None = None) -> list[tuple[str, tuple[str, ...], str | None]]:
    return [(wrong.kind, wrong.paths, wrong.cause) for wrong in judge(rows, known)]


def test_what_is_equal_and_unique_is_good() -> None:
    assert kinds(row("a", 5), row("b", 6), row("d", 7, directory=True)) == []


@pytest.mark.parametrize("column", ["st_ino", "opened", "listed", "qid", "qid_listed"])
def test_one_column_that_differs(column: str) -> None:
    assert kinds(row("a", 5, **{column: 9})) == [("differs", ("a",), None)]


@pytest.mark.parametrize("column", ["st_ino", "opened", "listed", "qid", "qid_listed", "host"])
def test_a_column_that_was_not_asked(column: str) -> None:
    assert kinds(row("a", 5, **{column: None}), row("b", 6)) == []


def test_nothing_but_the_ids() -> None:
    nothing = dict.fromkeys(("host", "st_ino", "qid", "qid_listed"))
    one, two = row("a", 5, **nothing), row("b", 5, **nothing)
    assert kinds(one, two) == []  # a hard link, by all that can be seen
    other = two._replace(stamp=(1, 2, 3, 5, 32))
    assert kinds(one, other) == [("duplicate", ("a", "b"), None)]
    assert kinds(one._replace(stamp=None), two._replace(stamp=None)) == [("duplicate", ("a", "b"), None)]


def test_hard_links_share_a_number_and_strangers_do_not() -> None:
    assert kinds(row("a"), row("b"), row("c")) == []
    assert kinds(row("a"), row("b", host=("other", 5))) == [("duplicate", ("a", "b"), None)]
    three = [row("a"), row("b", host=("other", 5)), row("c", host=("third", 5))]
    assert [paths for _, paths, _ in kinds(*three)] == [("a", "b"), ("a", "c")]


@pytest.mark.parametrize("column", ["opened", "listed", "qid"])
def test_a_duplicate_in_one_column_only(column: str) -> None:
    found = kinds(row("a", 5), row("b", 6, **{column: 5}))
    assert ("duplicate", ("a", "b"), None) in found
    assert ("differs", ("b",), None) in found


def test_inodes_of_several_devices_are_not_compared() -> None:
    """Where TREE is no mount of fusemap, st_ino is unique on each device only."""
    assert kinds(row("a", 5, opened=7, listed=7, st_dev=1)) == [("differs", ("a",), None)]
    plain = [row("a", 5, st_dev=1, opened=5, listed=5, qid=None, qid_listed=None)]
    plain.append(row("b", 5, st_dev=DEVICE, host=("x", 5), opened=DEVICE << 32 | 5, qid=None, listed=None))
    assert [kind for kind, _, _ in kinds(*plain)] == ["differs"]
    assert kinds(row("a", host=("x", 5)), row("b", host=("y", 5)))[0][0] == "duplicate"


def test_two_numbers_for_one_file() -> None:
    one, two = row("a", 5, host=("disk", 1)), row("b", 6, host=("disk", 1))
    assert kinds(one, two) == [("two", ("a", "b"), None)]
    assert kinds(one._replace(directory=True), two._replace(directory=True)) == []


def test_symbolic_links_have_the_id_of_what_they_lead_to() -> None:
    link = row("link", 6, link=True, target=5, opened=5, listed=5)
    assert kinds(row("a", 5), link) == []
    assert kinds(row("a", 5), link._replace(opened=6, listed=6)) == [("differs", ("link",), None)]
    assert kinds(row("a", 5), link._replace(qid=5, qid_listed=5))[0] == ("differs", ("link",), None)
    assert kinds(row("a", 5), link._replace(target=None)) == []
    assert kinds(row("a", 5), link._replace(opened=None, listed=None)) == []
    assert id_of(link) is None


def test_zeros_are_told_once() -> None:
    assert kinds(row("a", 5, opened=0, listed=0), row("b", 6, opened=0, listed=0)) == [
        ("zero", ("a",), "zero"),
        ("zero", ("b",), "zero"),
    ]


def test_what_samba_makes_of_another_device() -> None:
    inode = 0x1_0000_0007
    made = DEVICE << 32 | 7
    assert kinds(row("a", inode, st_dev=DEVICE, opened=made, listed=made, qid=None, qid_listed=None)) == [
        ("differs", ("a",), "device")
    ]
    shown = {"opened": made, "listed": made}
    assert kinds(row("a", 25, host=("disk", inode), **shown)) == [("differs", ("a",), "device")]
    assert kinds(row("a", 25, host=("disk", inode + 1), **shown)) == [("differs", ("a",), None)]
    assert kinds(row("a", 25, host=("disk", 12), opened=12, listed=12)) == [("differs", ("a",), "host")]


def test_two_files_whose_ids_lost_their_upper_half() -> None:
    made = DEVICE << 32 | 7
    files = [
        row(name, inode, host=("disk", inode), st_dev=DEVICE, opened=made, listed=made, qid=None, qid_listed=None)
        for name, inode in (("a", 0x1_0000_0007), ("b", 0x2_0000_0007))
    ]
    assert ("duplicate", ("a", "b"), "device") in kinds(*files)


def test_what_has_changed_since() -> None:
    known = {"a": 5, "b": 7, "gone": 8}
    assert judge([row("a", 5), row("b", 6), row("new", 9)], known) == [Wrong("changed", ("b",), None, 7)]
    link = row("b", 6, link=True, target=6)
    assert judge([link], known) == []
    assert judge([row("b", None, listed=6)], known) == [Wrong("changed", ("b",), None, 7)]


def test_every_kind_and_cause_has_words() -> None:
    assert list(KINDS) == ["zero", "differs", "duplicate", "two", "changed"]
    assert set(CAUSES) == {"device", "host", "zero"}


def test_names_that_nobody_can_tell_from_links_are_counted() -> None:
    nothing = dict.fromkeys(("host", "st_ino", "qid", "qid_listed"))
    one, two = row("a", 5, **nothing), row("b", 5, **nothing)
    assert taken_for_links([one, two, two._replace(path="c")]) == 2
    assert taken_for_links([one, two._replace(stamp=None), two._replace(opened=None), row("c", 5), row("d", 5)]) == 0
