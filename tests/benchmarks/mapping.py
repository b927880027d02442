"""What a number costs: `Mapper.path` beside a plain dictionary's `get((device, inode))`.

The mapper's point is that it need not remember every file; it must not be slow for that. So both are called,
in turns, for the same files, in the same kind of loop, each through a bound method taken beforehand. The
dictionary holds just these files, few enough for the processor's caches, which is the most favourable case
for it: a real one would hold every file ever seen. Run `python -m tests.benchmarks.mapping`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import perf_counter_ns

from fusemap.qid import Mapper

DEVICES: tuple[Hashable, ...] = (64769, 64770, "fs:0b5e9a2c-63a8-4b57-9f31-2f1a4a4f0c11", "subvol:7d1c")
FILES = 1000
ROUNDS = 300


def measure(mode: str = "suffix", rounds: int = ROUNDS) -> dict[str, float]:
    """Return nanoseconds per call ("path", "get", "loop") and how they compare ("ratio", "net_ratio").

    Each is the least of `rounds` rounds of 1000 calls. "path" and "get" include the loop around the calls,
    which takes "loop" when empty; "ratio" is path / get as measured, "net_ratio" the same without the loop.
    """
    mapper = Mapper(mode)
    files = [(DEVICES[n % len(DEVICES)], 256 + 7919 * n) for n in range(FILES)]
    known = {(device, inode): mapper.path(device, inode) for device, inode in files}
    path = get = loop = 1 << 62
    for _ in range(rounds):
        path = min(path, _calls(mapper.path, files))
        get = min(get, _gets(known.get, files))
        loop = min(loop, _loop(files))
    return {
        "path": path / FILES,
        "get": get / FILES,
        "loop": loop / FILES,
        "ratio": path / get,
        "net_ratio": (path - loop) / (get - loop),
    }


def _calls(path: Callable[[Hashable, int], int], files: list[tuple[Hashable, int]]) -> int:
    start = perf_counter_ns()
    for device, inode in files:
        path(device, inode)
    return perf_counter_ns() - start


def _gets(get: Callable[[tuple[Hashable, int]], int | None], files: list[tuple[Hashable, int]]) -> int:
    start = perf_counter_ns()
    for device, inode in files:
        get((device, inode))
    return perf_counter_ns() - start


def _loop(files: list[tuple[Hashable, int]]) -> int:
    start = perf_counter_ns()
    for _device, _inode in files:
        pass
    return perf_counter_ns() - start


def main() -> None:
    """Print one line a mode."""
    for mode in ("raw", "prefix", "qemu", "suffix"):
        found = measure(mode)
        print(
            f"{mode:6}  Mapper.path {found['path']:5.0f} ns  dict.get {found['get']:5.0f} ns  "
            f"ratio {found['ratio']:.2f} (without the loop {found['net_ratio']:.2f})"
        )


if __name__ == "__main__":
    main()
