"""What a large table costs at the start: `open_table` and its Mapper beside json.load of the same table.

Sixty thousand devices are nearly as many as there can be. json.load makes objects of the same things in C, on the same
machine in the same state, so the ratio says more than seconds do. Run `python -m tests.benchmarks.startup`.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
from pathlib import Path
from time import perf_counter

from fusemap.table import Device, Ledger, open_table
from fusemap.table.jsonform import to_json

ENTRIES = 60_000
ROUNDS = 5


def measure(entries: int = ENTRIES, rounds: int = ROUNDS) -> dict[str, float]:
    """Return seconds for the table ("table") and for JSON ("json"), and how they compare ("ratio").

    Each is the least of `rounds` rounds, in turns.
    """
    ledger = Ledger("suffix", 0, os.urandom(16))
    for n in range(1, entries + 1):
        key = f"uuid:{n:08x}-0000-4000-8000-{n:012x}"
        ledger.apply(Device(key, f"srv/tree/{n}", 20000))
        ledger.apply(ledger.entry(n, key, 0))
    with tempfile.TemporaryDirectory(prefix="fusemap-startup-") as scratch:
        state = f"sqlite:{scratch}/t.sqlite"
        table = open_table(scratch, state)
        table.replace(ledger)
        table.close()
        text = Path(scratch, "table.json")
        text.write_text(json.dumps(to_json(ledger)))
        del ledger
        seconds = {"table": 1e9, "json": 1e9}
        for _ in range(rounds):
            gc.collect()
            start = perf_counter()
            table = open_table(scratch, state)
            mapper = table.mapper()
            seconds["table"] = min(seconds["table"], perf_counter() - start)
            assert mapper.used() == entries
            table.close()
            del mapper, table
            gc.collect()
            start = perf_counter()
            with open(text) as file:
                loaded = json.load(file)
            seconds["json"] = min(seconds["json"], perf_counter() - start)
            del loaded
    return {**seconds, "ratio": seconds["table"] / seconds["json"]}


def main() -> None:
    """Print one line."""
    found = measure()
    print(
        f"a table of {ENTRIES} entries: {found['table']:.2f} s, json.load {found['json']:.2f} s, "
        f"ratio {found['ratio']:.2f}"
    )


if __name__ == "__main__":
    main()
