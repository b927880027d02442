"""The work that is timed: what the load generator is told to do, and on which tree."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

MANY: Final = "many"
BIG: Final = "big"
WRITTEN: Final = "written"
IN_FLIGHT: Final = 32
READ_AHEAD: Final = 4
CLIENTS: Final = 8
EACH_IN_FLIGHT: Final = 8
_MIB: Final = 1 << 20
_WORDS: Final = _MIB // 8


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the work is: `files` in one directory; `requests` one at a time, the other works by their measure;
    `mib` MiB of sequential data; `fids` in use at once.
    """

    files: int = 10_000
    requests: int = 10_000
    mib: int = 512
    fids: int = 100_000

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work. `key` is its name on the command line; one count of the load generator is `worth` `unit`s."""

    key: str
    title: str
    unit: str
    words: Callable[[Shape], tuple[object, ...]]
    worth: float = 1.0

    def arguments(self, shape: Shape) -> list[str]:
        """What the load generator is told."""
        return [str(word) for word in self.words(shape)]


def _data(kind: str, depth: int) -> Work:
    title = f"sequential {kind}, {depth} in flight" if depth > 1 else f"sequential {kind}, one at a time"
    file = BIG if kind == "read" else WRITTEN
    return Work(f"{kind}-{depth}", title, "MB", lambda shape: (kind, file, shape.mib * _MIB, depth), 1e-6)


WORKS: Final = (
    Work("getattr", "getattr, one at a time", "requests", lambda s: ("getattr", MANY, s.files, s.requests, 1, 1)),
    Work(
        "walk",
        "walk + getattr + clunk, one at a time",
        "requests",
        lambda s: ("walk", MANY, s.files, s.requests // 3 or 1, 1),
        3,
    ),
    Work(
        "getattr-32",
        f"getattr, {IN_FLIGHT} in flight",
        "requests",
        lambda s: ("getattr", MANY, s.files, 10 * s.requests, IN_FLIGHT, 1),
    ),
    Work("readdir", "readdir", "entries", lambda s: ("readdir", MANY, s.files, s.requests // 500 or 1)),
    Work(
        "list",
        f"readdir, walk + getattr + clunk, {IN_FLIGHT} in flight",
        "entries",
        lambda s: ("list", MANY, s.files, s.requests // 5000 or 1, IN_FLIGHT),
    ),
    _data("read", READ_AHEAD),
    _data("read", 1),
    _data("write", READ_AHEAD),
    _data("write", 1),
    Work(
        "client",
        f"getattr, {EACH_IN_FLIGHT} in flight, one client",
        "requests",
        lambda s: ("getattr", MANY, s.files, 8 * s.requests, EACH_IN_FLIGHT, 1),
    ),
    Work(
        "clients",
        f"getattr, {EACH_IN_FLIGHT} in flight, {CLIENTS} clients",
        "requests",
        lambda s: ("getattr", MANY, s.files, s.requests, EACH_IN_FLIGHT, CLIENTS),
    ),
)


def build(root: Path, shape: Shape) -> None:
    """Makes the tree in `root`, a new directory. Raises OSError."""
    (root / MANY).mkdir(parents=True)
    for number in range(shape.files):
        with open(root / MANY / f"file{number:05}", "wb", buffering=0) as file:
            file.write(b"%d\n" % number)
    with open(root / BIG, "wb", buffering=0) as file:
        for number in range(shape.mib):
            file.write(array("Q", range(number * _WORDS, (number + 1) * _WORDS)))
    (root / WRITTEN).touch()
    os.sync()


def before(work: Work, root: Path) -> None:
    """What is to be done before a run, and not timed."""
    if work.key.startswith("write"):
        os.truncate(root / WRITTEN, 0)


def after(work: Work, root: Path, shape: Shape, msize: int) -> None:
    """Looks whether what was written is there. Raises OSError."""
    if not work.key.startswith("write"):
        return
    payload = (msize - 24) & ~7
    size = shape.mib * _MIB
    with open(root / WRITTEN, "rb") as file:
        if os.fstat(file.fileno()).st_size != size:
            raise OSError(f"{size} bytes were written and are not there")
        for start in range(0, size, payload):
            last = min(start + payload, size) - 8
            for at in (start, last):
                if os.pread(file.fileno(), 8, at) != (at // 8).to_bytes(8, "little"):
                    raise OSError(f"what was written at {at} is not there")
    os.sync()  # so that nobody pays for what another wrote
