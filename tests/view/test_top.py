"""What `fusemap top` says, without a tree or a terminal: rates of two readings, and screens of all sizes."""

from __future__ import annotations

import doctest
import io
from typing import Any

import pytest

import fusemap.view.top
from fusemap.view import draw
from fusemap.view.blocks import Block
from fusemap.view.reading import News, Reading, flow, is_successor, news, told
from fusemap.view.top import as_json, screen

from .readings import collision, device, file, operation, reading


def pair() -> tuple[Reading, Reading]:
    """Two readings of one mount, ten seconds apart."""
    before = reading(operations={"lookup": operation(100, 0.01, 0.002, (16, 90), (32, 10))}, errors={"2": 5})
    now = reading(
        uptime=96.2,
        operations={
            "lookup": operation(300, 0.05, 0.003, (16, 100), (32, 188), (64, 10), (4096, 2)),
            "read": operation(1000, 1.0, 0.5, (1024, 1000)),
            "statfs": {**operation(1), "timed": 0},
        },
        errors={"2": 5, "13": 20},
        bytes_read=10 << 20,
        bytes_written=1 << 10,
    )
    return before, now


def test_what_happened_between_two_readings() -> None:
    before, now = pair()
    what = flow(now, before)
    assert what.seconds == pytest.approx(10)
    assert (what.second, what.errors) == (pytest.approx(120.1), pytest.approx(2))
    assert (what.read, what.written) == (pytest.approx(1 << 20), pytest.approx(102.4))
    assert [rate.name for rate in what.operations] == ["read", "lookup", "statfs"]
    lookup = what.operations[1]
    assert (lookup.second, lookup.mean) == (pytest.approx(20), pytest.approx(0.0002))
    assert (lookup.most, lookup.slowest, lookup.total) == (64e-6, 0.003, 300)
    assert what.operations[2][2:5] == (None, None, None)


def test_the_first_reading_counts_from_the_start() -> None:
    _, now = pair()
    assert flow(now, None).second == pytest.approx(1301 / 96.2)
    assert not is_successor(now, now._replace(stats={**now.stats, "pid": 8}))
    assert not is_successor(*pair())


def test_news_are_told_once() -> None:
    before = reading(devices=[device("uuid:one", "1")], collisions=[collision(7, file("a"), file("b"))])
    now = reading(
        collisions=[
            collision(2, file(".", directory=True, number=5), file("inner", directory=True, number=18), harm="loop"),
            collision(7, file("a"), file("b")),
            collision(9, file(None), file("\udcff\x1b[2J"), count=5, real=True),
        ]
    )
    assert [(one.text, one.bad) for one in news(now, before)] == [
        ("new device uuid:two (ext4) at /srv/tree/inner", False),
        ("COLLISION: number 9 is shown for (a file on uuid:one), \\xff\\x1b[2J and 3 more", True),
        ("averted: inode 2 is ./, inner/; shown as 5, 18", False),
    ]
    assert list(news(now, now)) == []
    assert [one.time for one in news(now, None)] == [None] * 3, "devices are listed anyway"


def test_a_name_from_another_machine_may_be_any_string() -> None:
    said = told(collision(7, file("\ud800\n"), file("b")))
    assert said.isprintable()
    assert "ud800" in said


def lines(blocks: Any) -> list[str]:
    drawn = io.StringIO()
    found: list[Block] = list(blocks)
    draw(found, drawn)
    return drawn.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("height", [24, 30, 60])
@pytest.mark.parametrize("many", [0, 1, 400])
def test_a_screen_fits(width: int, height: int, many: int) -> None:
    """However much there is to tell; every part keeps some lines."""
    now = reading(
        devices=[
            device(f"uuid:6b7c0000-1111-2222-3333-{number:012}", "0" * 20, [f"/srv/tree/{'deep/' * 30}{number}"] * 3)
            for number in range(many)
        ],
        operations={
            f"operation_of_a_long_name_{number}": operation(10**9, 1e6, 1e3, (16, 10**9)) for number in range(30)
        },
    )
    log = [News(0.0, f"averted: {'x' * 300}", False)] * many
    drawn = lines(screen(now, None, log, width=width, height=height, note="q ends this"))
    assert len(drawn) <= height
    assert max(map(len, drawn)) <= width
    for word in ("operations a second", "Operations", "Devices", "News", "q ends this"):
        assert any(word in line for line in drawn)
    assert sum("operation_of" in line for line in drawn) >= 3
    assert sum("averted: x" in line for line in drawn) >= min(many, 3)


def test_a_real_collision_is_said_first_and_in_words() -> None:
    drawn = lines(screen(reading(map="raw", collisions_real=3, collisions_averted=0), None, []))
    assert "3 numbers are shown for several files: this map collides" in drawn


def test_as_json() -> None:
    before, now = pair()
    found: Any = as_json(now, before)
    assert found["operations"]["read"] == {
        "a_second": pytest.approx(100),
        "mean": pytest.approx(1e-3),
        "99_in_100_below": 1024e-6,
    }
    assert found["stats"] == now.stats


def test_examples_in_the_text() -> None:
    assert doctest.testmod(fusemap.view.top).failed == 0
