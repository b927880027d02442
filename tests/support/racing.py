"""Processes that add to one table as fast as they can: that nothing is lost and nothing given twice.

    python -m tests.support.racing ROOT STATE PLACE SEED SECONDS

is one of them. It prints "ready", waits for a line, and gives numbers to devices, to files of the full map and to files
by generation until the time is up; then it prints what it gave, as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from fusemap.table import open_table

PATIENCE = 60.0
DEVICES = 40_000
GENERATIONS = 3


def race(root: Path, state: str, place: str, seconds: float, count: int = 2) -> dict[str, int]:
    """Lets `count` processes race, and proves what they gave against each other and the table.

    Returns how many files each had a number for, by kind. Raises AssertionError.
    """
    command = [sys.executable, "-m", "tests.support.racing", str(root), state, place]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))}
    pipe = subprocess.PIPE
    racers = [
        subprocess.Popen([*command, str(seed), str(seconds)], stdin=pipe, stdout=pipe, text=True, env=environment)
        for seed in range(count)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        given = [json.loads(racer.communicate(timeout=seconds + PATIENCE)[0]) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    together: dict[str, int] = {}
    for shown in given:
        for file, number in shown.items():
            assert together.setdefault(file, number) == number, f"{file} has two numbers"
    assert len(set(together.values())) == len(together), "a number was given twice"
    table = open_table(root, state, directory=place)
    mapper = table.mapper(by_generation=True)
    for file, number in together.items():
        device, inode, generation = _file(file)
        known = mapper.peek(device, inode) if generation is None else mapper.peek_of(device, inode, generation)
        assert known == number, f"{file} had {number} and has {known}"
    ledger = table.ledger()
    table.close()
    by_generation = sum(_file(file)[2] is not None for file in together)
    assert ledger.holder_count + sum(full.generation is not None for full in ledger.full.values()) == by_generation
    assert len(ledger.entries) == len({_file(file)[0] for file in together})
    return {"devices": len(ledger.entries), "files": by_generation, "least": min(map(len, given))}


def _file(word: str) -> tuple[str, int, int | None]:
    device, inode, generation = word.split()
    return device, int(inode), None if generation == "-" else int(generation)


def _work(root: str, state: str, place: str, seed: str, seconds: str) -> None:
    table = open_table(root, state, directory=place)
    mapper = table.mapper(by_generation=True)
    print("ready", flush=True)
    sys.stdin.readline()
    end, n, shown = time.monotonic() + float(seconds), 0, {}
    while time.monotonic() < end:
        n += 1
        device = f"uuid:{(n * 7919 + int(seed)) % DEVICES:012x}"
        if n % 2:
            shown[f"{device} 5 -"] = mapper.path(device, 5)
        else:  # the second process sees the same inode numbers with other generations, in another order
            generation = (n // 2 + int(seed)) % GENERATIONS
            device = f"uuid:{(n // 20) % 50:012x}"
            inode = 100 + n // 6
            shown[f"{device} {inode} {generation}"] = mapper.path_of(device, inode, generation)
    print(json.dumps(shown), flush=True)
    table.close()


if __name__ == "__main__":
    _work(*sys.argv[1:])
