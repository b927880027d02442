"""Once a day, that the devices of an exported tree are still there goes into the table.

It is noted when a device is met and when an export ends. One that goes on for months would otherwise look to
`fusemap table gc` as if its devices had not been seen since, and gc does not find all of them in the mount table: a
btrfs subvolume need not be mounted, and only the exporter knows what the administrator calls a device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

_DAY_SECONDS: Final = 86400.0


async def each_day(note: Callable[[], None]) -> None:
    """Calls `note`, which raises nothing, a day from now and every day, until it is cancelled."""
    while True:
        await trio.sleep(_DAY_SECONDS)
        note()
