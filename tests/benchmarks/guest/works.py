"""The work that is timed: what the guest's shell does in the mount, and the tree that it does it in."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

MANY, SMALL, BIG, WRITTEN = "many", "small", "big", "written"
FILES_A_DIRECTORY: Final = 100
MOST_SLICES: Final = 10
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the work is: `files` to be found, `small` files of 200 to 4,000 bytes to be read, `mib` MiB of data."""

    files: int = 5000
    small: int = 1000
    mib: int = 64

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work, in slices: the guest's sh does each with `script` in the mounted tree, which prints `answer`.
    `bulk` is data, of which the size of the messages decides much; of the others it decides nothing.
    """

    key: str
    title: str
    slices: Callable[[Shape], list[Slice]]
    bulk: bool = False


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of a work, by turns with the other ways, since a machine may be half as fast in the next minute."""

    script: str
    answer: str


def _sliced(top: str, sizes: list[int], script: str, answer: Callable[[list[int]], int]) -> list[Slice]:
    """`script` for the directories of `sizes` files beneath `top`; `answer` follows from the files' sizes."""
    names = [f"{top}/d{number:03}" for number in range(-(-len(sizes) // FILES_A_DIRECTORY))]
    slices = []
    for start in range(min(MOST_SLICES, len(names))):
        numbers = range(start, len(names), MOST_SLICES)
        of_them = [size for number in numbers for size in sizes[number * FILES_A_DIRECTORY :][:FILES_A_DIRECTORY]]
        slices.append(Slice(script.format(" ".join(names[number] for number in numbers)), str(answer(of_them))))
    return slices


def _find(shape: Shape) -> list[Slice]:
    return _sliced(MANY, [1] * shape.files, "find {} -type f -size +0 | wc -l", len)


def _cat(shape: Shape) -> list[Slice]:
    return _sliced(SMALL, _sizes(shape), "for d in {}; do cat $d/*; done | wc -c", sum)


def _read(shape: Shape) -> list[Slice]:
    return [Slice(f"dd if={BIG} of=/dev/null bs=1M 2>&1 | grep out", f"{shape.mib}+0 records out")]


def _write(shape: Shape) -> list[Slice]:
    script = f"dd if=/dev/zero of={WRITTEN} bs=1M count={shape.mib} conv=notrunc 2>&1 | grep out"
    return [Slice(script, f"{shape.mib}+0 records out")]


# busybox's find stats every file, as GNU's does for -size.
WORKS: Final = (
    Work("find", "find, stat of each", _find),
    Work("cat", "cat of small files", _cat),
    Work("read", "reading", _read, True),
    Work("write", "writing", _write, True),
)


def build(root: Path, shape: Shape) -> None:
    """Makes the tree in `root`, a new directory. Raises OSError."""
    _fill(root / MANY, [1] * shape.files)
    _fill(root / SMALL, _sizes(shape))
    block = os.urandom(_MIB)
    with open(root / BIG, "wb", buffering=0) as file:
        for _ in range(shape.mib):
            file.write(block)
    (root / WRITTEN).touch()
    os.sync()


def before(work: Work, root: Path) -> None:
    """What is to be done before a run, and not timed."""
    if work.key == "write":
        os.truncate(root / WRITTEN, 0)


def after(work: Work, root: Path, shape: Shape) -> None:
    """Looks whether what was written is there. Raises OSError."""
    if work.key == "write":
        size = os.stat(root / WRITTEN).st_size
        if size != shape.mib * _MIB:
            raise OSError(f"{shape.mib} MiB were written and {size} bytes are there")
        os.sync()  # so that nobody pays for what another wrote


def _sizes(shape: Shape) -> list[int]:
    return [200 + number * 37 % 3800 for number in range(shape.small)]


def _fill(top: Path, sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        directory = top / f"d{number // FILES_A_DIRECTORY:03}"
        if number % FILES_A_DIRECTORY == 0:
            directory.mkdir(parents=True)
        with open(directory / f"f{number % FILES_A_DIRECTORY:02}", "wb", buffering=0) as file:
            file.write(bytes(size))
