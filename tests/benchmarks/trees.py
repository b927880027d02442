"""The trees that are measured: real file systems in sparse images on loop devices."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

FILES_A_DIRECTORY: Final = 100
BIG: Final = "ext4/large/file"
SCRATCH: Final = "ext4/scratch"
_MIB: Final = 1 << 20
# Nothing is left to background threads, which would run while others are measured.
_MAKE: Final = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
}


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the work is: `files` small files on each file system, of which `small` in all are read; `mib` MiB of
    sequential data; `churn` files created and removed.
    """

    files: int = 25_000
    small: int = 5_000
    mib: int = 512
    churn: int = 2_000

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Tree:
    """A built tree: its root, and a file with the names of the small files that are read, relative to the root."""

    root: Path
    names: Path
    shape: Shape


def build(directory: Path, shape: Shape, tell: Callable[[str], None]) -> Tree:
    """Makes an ext4 and an xfs below `directory`/tree, with `shape.files` small files each. Raises OSError."""
    root = directory / "tree"
    names: list[str] = []
    room = 512 * _MIB + shape.files * 16384
    for kind in ("ext4", "xfs"):
        tell(f"making {shape.files} files on {kind}")
        (root / kind).mkdir(parents=True)
        mount_image(directory, kind, room + shape.mib * 3 * _MIB, root / kind)
        names += _fill(root, kind, shape.files)[: shape.small // 2]
    tell(f"making a file of {shape.mib} MiB")
    (root / SCRATCH).mkdir()
    (root / BIG).parent.mkdir()
    block = os.urandom(_MIB)
    with open(root / BIG, "wb") as file:
        for _ in range(shape.mib):
            file.write(block)
    tell("writing to disk")
    os.sync()
    listing = directory / "names"
    listing.write_text("".join(f"{name}\n" for name in names))
    return Tree(root, listing, shape)


def mount_image(directory: Path, kind: str, size: int, target: Path, *options: str) -> None:
    """Mounts a new file system of `size` bytes on `target`; no image file stays. Raises CalledProcessError."""
    image = directory / f"{kind}.img"
    with open(image, "xb") as file:
        file.truncate(size)
    try:
        subprocess.run([*_MAKE[kind], *options, str(image)], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop", str(image), str(target)], check=True)
    finally:
        image.unlink()


def _fill(root: Path, kind: str, count: int) -> list[str]:
    """Small files of 200 to 4,000 bytes; their names relative to `root`."""
    names = []
    for number in range(count):
        directory = f"{kind}/d{number // FILES_A_DIRECTORY:03}"
        if number % FILES_A_DIRECTORY == 0:
            (root / directory).mkdir()
        name = f"{directory}/f{number % FILES_A_DIRECTORY:02}"
        with open(root / name, "wb", buffering=0) as file:
            file.write(b"%s\n" % name.encode() * (10 + number * 37 % 190))
        names.append(name)
    return names
