"""A table as JSON, for `fusemap table show --json` and for what a live tree tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusemap.qid.affix import LAST_INDEX
from fusemap.table.ledger import Ledger
from fusemap.table.present import base_key
from fusemap.table.table import Table


def listing(table: Table, ledger: Ledger, points: Mapping[str, list[str]]) -> dict[str, Any]:
    """Everything that `ledger`, of `table`, says, but the files of the full map one by one.

    `points` are the mount points of now by device key.
    """
    return {
        "state": table.state,
        "where": table.where,
        "exists": table.exists,
        "map": ledger.mode,
        "k": ledger.k,
        "devices": [
            {
                "key": device.key, "lasting": device.lasting, "dead": device.dead, "label": device.label,
                "seen": device.seen, "entries": device.entries, "mounted": points.get(base_key(device.key), []),
            }
            for device in table.devices()
        ],
        "entries": [
            {
                "index": entry.index, "device": entry.device, "affix": f"{entry.affix:0{entry.length}b}",
                "length": entry.length, "top": entry.top,
            }
            for entry in sorted(ledger.entries.values(), key=lambda entry: entry.index)
        ],
        "full": len(ledger.full),
        "known_by_generation": ledger.holder_count,
        "reused": reused(ledger),
        "retired": len(ledger.retired),
        "left": left(ledger),
    }  # fmt: skip


def reused(ledger: Ledger) -> int:
    """How often a file got a number of its own because its inode number had been another's."""
    return sum(full.generation is not None for full in ledger.full.values())


def left(ledger: Ledger) -> int:
    """How many affix indices are left."""
    return max(LAST_INDEX + 1 - ledger.next_index(), 0)
