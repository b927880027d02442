"""That the devices of an export are still there is noted every day."""

from __future__ import annotations

import contextlib
import time

import pytest
import trio
import trio.testing

from fusemap.table import open_table
from fusemap.tree.days import each_day

from ..support.hooks import LATE_DAY
from ..support.stage import Stage


def test_it_is_noted_every_day() -> None:
    noted: list[float] = []

    async def three_days() -> None:
        start = trio.current_time()
        with trio.move_on_after(3.5 * 86400):
            await each_day(lambda: noted.append(trio.current_time() - start))

    trio.run(three_days, clock=trio.testing.MockClock(autojump_threshold=0))
    assert noted == pytest.approx([86400, 2 * 86400, 3 * 86400])


def test_a_mount_does_it(stage: Stage) -> None:
    source = stage.ext4("src")
    (source / "f").touch()
    mounted = stage.fusemap(source, hooks=("tests.support.hooks:short_days",))
    assert (mounted / "f").exists()
    end = time.monotonic() + 30
    days: set[int] = set()
    while LATE_DAY not in days:
        assert time.monotonic() < end, days
        with contextlib.closing(open_table(source)) as table:
            days = {device.seen for device in table.devices()}
    assert days == {LATE_DAY}
